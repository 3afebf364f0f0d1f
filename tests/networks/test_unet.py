from dataclasses import replace
from typing import Any

import pytest
import torch
from tests.networks.checks import assert_initialise_draws_everything, shake

from wordbrush.networks.unet import AddedConditioning, UNet, UNetConfig, guidance_embedding, sinusoids

CONFIG = UNetConfig(
    block_out_channels=(8, 16, 16),
    down_block_types=("CrossAttnDownBlock2D", "CrossAttnDownBlock2D", "DownBlock2D"),
    up_block_types=("UpBlock2D", "CrossAttnUpBlock2D", "CrossAttnUpBlock2D"),
    layers_per_block=(1, 2, 1),
    transformer_layers_per_block=(1, 2, 1),
    attention_head_dim=2,
    cross_attention_dim=12,
    norm_num_groups=4,
)


def _network(config: UNetConfig = CONFIG) -> UNet:
    network = UNet(config)
    network.initialise(torch.Generator().manual_seed(0))
    shake(network)
    return network.eval()


def _inputs(batch: int = 2, height: int = 8, width: int = 8) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(1)
    x = torch.randn(batch, 4, height, width, generator=generator)
    return x, torch.rand(batch, generator=generator) * 999, torch.randn(batch, 5, 12, generator=generator)


def test_a_prepared_context_gives_the_same_and_follows_its_rows() -> None:
    network, (x, timestep, context) = _network(), _inputs()
    with torch.no_grad():
        expected = network(x, timestep, context)
        prepared = network.prepare_context(context)
        assert torch.equal(network(x, timestep, prepared), expected)
        swapped = network(x.flip(0), timestep.flip(0), prepared.rows(torch.tensor([1, 0])))
        torch.testing.assert_close(swapped.flip(0), expected, atol=1e-6, rtol=1e-5)
        one = network(x, timestep, network.prepare_context(context[:1]))
        torch.testing.assert_close(one[0], expected[0], atol=1e-6, rtol=1e-5)
        assert not torch.allclose(one[1], expected[1], atol=1e-4)


def test_one_timestep_serves_the_whole_batch() -> None:
    network, (x, _, context) = _network(), _inputs()
    with torch.no_grad():
        whole = network(x, torch.tensor([7, 7]), context)
        torch.testing.assert_close(network(x, torch.tensor([7]), context), whole)
        assert not torch.allclose(network(x, torch.tensor([700]), context), whole, atol=1e-4)


@pytest.mark.parametrize(("height", "width"), [(8, 8), (9, 7), (5, 12)])
def test_any_size_comes_back_at_its_size(height: int, width: int) -> None:
    x, timestep, context = _inputs(1, height, width)
    with torch.no_grad():
        assert _network()(x, timestep, context).shape == (1, 4, height, width)


def test_pictures_of_a_batch_do_not_mix() -> None:
    network, (x, timestep, context) = _network(), _inputs(3)
    with torch.no_grad():
        together = network(x, timestep, context)
        alone = torch.cat([network(x[i : i + 1], timestep[i : i + 1], context[i : i + 1]) for i in range(3)])
    torch.testing.assert_close(together, alone, atol=1e-6, rtol=1e-5)


def test_recording_gradients_changes_no_number_and_no_input() -> None:
    network, inputs = _network(), _inputs()
    kept = [value.clone() for value in inputs]
    with torch.no_grad():
        without = network(*inputs)
    assert torch.equal(network(*inputs), without)
    assert all(torch.equal(a, b) for a, b in zip(inputs, kept, strict=True))


def test_channels_last_and_bfloat16_go_all_the_way() -> None:
    network, (x, timestep, context) = _network(), _inputs()
    with torch.no_grad():
        exact = network(x, timestep, context)
        network = network.bfloat16().to(memory_format=torch.channels_last)
        low = network(x.bfloat16().to(memory_format=torch.channels_last), timestep, context.bfloat16())
    assert low.dtype == torch.bfloat16
    assert low.is_contiguous(memory_format=torch.channels_last)
    assert (low.float() - exact).std() < 0.03 * exact.std()


def test_it_starts_at_zero_and_training_reaches_every_weight() -> None:
    network, (x, timestep, context) = UNet(CONFIG), _inputs(4)
    network.initialise(torch.Generator().manual_seed(0))
    assert torch.equal(network(x, timestep, context), torch.zeros_like(x))
    start = [parameter.detach().clone() for parameter in network.parameters()]
    optimiser, losses = torch.optim.Adam(network.parameters(), lr=3e-3), []
    for _ in range(25):
        loss = (network(x, timestep, context) - x.roll(1, dims=0)).square().mean()
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        losses.append(loss.item())
    assert losses[-1] < 0.7 * losses[0], losses
    still = [name for (name, now), was in zip(network.named_parameters(), start, strict=True) if torch.equal(now, was)]
    assert still == []


def test_initialise() -> None:
    assert_initialise_draws_everything(lambda: UNet(CONFIG))


def test_sinusoids_begin_with_the_cosines() -> None:
    embedded = sinusoids(torch.tensor([0.0, 1.0]), 4)
    expected = [[1.0, 1.0, 0.0, 0.0], [0.5403023, 0.99995, 0.8414710, 0.0099998]]
    torch.testing.assert_close(embedded, torch.tensor(expected), atol=1e-6, rtol=1e-5)


def test_inputs_that_do_not_fit_are_refused() -> None:
    network, (x, timestep, context) = _network(), _inputs()
    with pytest.raises(ValueError, match=r"\(2, 3, 8, 8\).*\(B, 4, h, w\)"):
        network(x[:, :3], timestep, context)
    with pytest.raises(ValueError, match=r"\(2, 5, 11\).*\(B, L, 12\)"):
        network(x, timestep, context[..., :11])
    with pytest.raises(ValueError, match="takes no `added`"):
        network(x, timestep, context, added=AddedConditioning(text_embeds=x[:, 0], time_ids=timestep[:, None]))
    with pytest.raises(ValueError, match="takes no `guidance`"):
        network(x, timestep, context, guidance=guidance_embedding(torch.ones(2), 8))


def test_what_a_config_needs_must_be_given() -> None:
    x, timestep, context = _inputs()
    sizes: dict[str, Any] = {
        "addition_embed_type": "text_time",
        "addition_time_embed_dim": 4,
        "projection_class_embeddings_input_dim": 30,
    }
    network = _network(replace(CONFIG, **sizes))
    with pytest.raises(ValueError, match="needs `added`"):
        network(x, timestep, context)
    with pytest.raises(ValueError, match=r"text_embeds of 5 and 6 time_ids make 29 numbers.*30"):
        network(
            x, timestep, context, added=AddedConditioning(text_embeds=torch.zeros(2, 5), time_ids=torch.zeros(2, 6))
        )
    network = _network(replace(CONFIG, time_cond_proj_dim=8))
    with pytest.raises(ValueError, match="needs `guidance`"):
        network(x, timestep, context)
