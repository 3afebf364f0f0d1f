from dataclasses import replace
from typing import Any

import pytest
import torch
from tests.networks.checks import assert_initialise_draws_everything, shake

from wordbrush.networks.flux import (
    FluxConfig,
    FluxTransformer,
    image_positions,
    pack_latents,
    text_positions,
    unpack_latents,
)
from wordbrush.networks.flux_blocks import finite, rotate, rotations

CONFIG = FluxConfig(
    in_channels=8,
    num_layers=1,
    num_single_layers=2,
    attention_head_dim=8,
    num_attention_heads=2,
    joint_attention_dim=12,
    pooled_projection_dim=6,
    axes_dims_rope=(2, 4, 2),
)


def _network(config: FluxConfig = CONFIG) -> FluxTransformer:
    network = FluxTransformer(config)
    network.initialise(torch.Generator().manual_seed(0))
    shake(network, std=0.1)
    return network.eval()


def _inputs(batch: int = 2) -> dict[str, Any]:
    generator = torch.Generator().manual_seed(1)
    return {
        "x": torch.randn(batch, 6, 8, generator=generator),
        "timestep": torch.rand(batch, generator=generator),
        "context": torch.randn(batch, 5, 12, generator=generator),
        "pooled": torch.randn(batch, 6, generator=generator),
        "positions_image": image_positions(4, 6),
        "positions_text": text_positions(5),
    }


def _rows(inputs: dict[str, Any], row: int) -> dict[str, Any]:
    return {key: value if key.startswith("positions") else value[row : row + 1] for key, value in inputs.items()}


def test_a_token_is_a_patch_of_all_channels() -> None:
    latents = torch.arange(2 * 3 * 4 * 6).view(2, 3, 4, 6)
    tokens = pack_latents(latents)
    assert tokens.shape == (2, 6, 12)
    row, column = divmod(4, 3)
    patch = latents[1, :, 2 * row : 2 * row + 2, 2 * column : 2 * column + 2]
    assert torch.equal(tokens[1, 4], patch.flatten())
    assert image_positions(4, 6)[4].tolist() == [0.0, row, column]
    assert torch.equal(unpack_latents(tokens, 4, 6), latents)


def test_sizes_that_cannot_be_packed_are_refused() -> None:
    with pytest.raises(ValueError, match=r"3x4.*both sides must be even"):
        pack_latents(torch.zeros(1, 2, 3, 4))
    with pytest.raises(ValueError, match="4x5"):
        image_positions(4, 5)
    with pytest.raises(ValueError, match=r"6 tokens are not the 2x2 patches of 4x4"):
        unpack_latents(torch.zeros(1, 6, 8), 4, 4)


def test_a_rotation_turns_pairs_by_the_position_and_keeps_lengths() -> None:
    positions = torch.tensor([[0.0, 0, 0], [1, 0, 0], [0, 2, 0]])
    cos, sin = rotations(positions, (2, 4, 2))
    # the second pair of an axis of four turns by position / 10000^(2/4)
    torch.testing.assert_close(cos[2].acos(), torch.tensor([0.0, 2.0, 0.02, 0.0]), atol=1e-4, rtol=1e-4)
    torch.testing.assert_close(sin[1], torch.tensor([0.8414710, 0, 0, 0]), atol=1e-6, rtol=0)
    x = torch.randn(1, 3, 1, 8, generator=torch.Generator().manual_seed(0))
    turned = rotate(x, (cos, sin))
    assert torch.equal(turned[:, 0], x[:, 0])
    torch.testing.assert_close(turned.unflatten(3, (4, 2)).norm(dim=4), x.unflatten(3, (4, 2)).norm(dim=4))


def test_scores_depend_on_the_difference_of_positions_only() -> None:
    generator = torch.Generator().manual_seed(0)
    query, key = (torch.randn(1, 1, 1, 8, generator=generator) for _ in range(2))
    scores = []
    for shift in (0.0, 17.0):
        places = torch.tensor([[0.0, 3, 1], [0, 5, 8]]) + shift
        cos, sin = rotations(places, (2, 4, 2))
        scores.append((rotate(query, (cos[:1], sin[:1])) * rotate(key, (cos[1:], sin[1:]))).sum())
    torch.testing.assert_close(scores[0], scores[1], atol=1e-4, rtol=1e-4)


def test_pictures_of_a_batch_do_not_mix() -> None:
    network, inputs = _network(), _inputs(3)
    with torch.no_grad():
        alone = torch.cat([network(**_rows(inputs, row)) for row in range(3)])
        torch.testing.assert_close(network(**inputs), alone, atol=1e-6, rtol=1e-5)


def test_one_time_serves_the_whole_batch_and_guidance_is_felt() -> None:
    network, inputs = _network(replace(CONFIG, guidance_embeds=True)), _inputs()
    with torch.no_grad():
        whole = network(**inputs | {"timestep": torch.tensor([0.3, 0.3]), "guidance": torch.tensor([3.5, 3.5])})
        one = network(**inputs | {"timestep": torch.tensor([0.3]), "guidance": torch.tensor([3.5])})
        other = network(**inputs | {"timestep": torch.tensor([0.3]), "guidance": torch.tensor([1.0])})
    torch.testing.assert_close(one, whole)
    assert not torch.allclose(other, whole, atol=1e-3)


def test_bfloat16_goes_all_the_way() -> None:
    network, inputs = _network(), _inputs()
    with torch.no_grad():
        exact = network(**inputs)
        low_inputs = {key: inputs[key].bfloat16() for key in ("x", "context", "pooled")}
        low = network.bfloat16()(**inputs | low_inputs)
    assert low.dtype == torch.bfloat16
    assert (low.float() - exact).std() < 0.05 * exact.std()


def test_float16_tokens_that_overflow_come_back() -> None:
    tokens = torch.tensor([70000.0, -70000.0, 1.0])
    assert finite(tokens.half()).tolist() == [65504.0, -65504.0, 1.0]
    assert torch.equal(finite(tokens), tokens)


def test_it_starts_at_zero_and_training_reaches_every_weight() -> None:
    network, inputs = FluxTransformer(replace(CONFIG, guidance_embeds=True)), _inputs(4)
    inputs["guidance"] = torch.tensor([1.0, 2, 3, 4])
    network.initialise(torch.Generator().manual_seed(0))
    assert torch.equal(network(**inputs), torch.zeros_like(inputs["x"]))
    start = [parameter.detach().clone() for parameter in network.parameters()]
    optimiser, losses = torch.optim.Adam(network.parameters(), lr=3e-3), []
    for _ in range(25):
        loss = (network(**inputs) - inputs["x"].roll(1, dims=0)).square().mean()
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        losses.append(loss.item())
    assert losses[-1] < 0.9 * losses[0], losses
    still = [name for (name, now), was in zip(network.named_parameters(), start, strict=True) if torch.equal(now, was)]
    assert still == []


def test_initialise() -> None:
    assert_initialise_draws_everything(lambda: FluxTransformer(replace(CONFIG, guidance_embeds=True)))


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"x": torch.zeros(2, 6, 9)}, r"x has shape \(2, 6, 9\); this network takes \(B, N, 8\)"),
        ({"context": torch.zeros(2, 12)}, r"context has shape \(2, 12\).*\(B, L, 12\)"),
        ({"pooled": torch.zeros(2, 5)}, r"pooled has shape \(2, 5\).*\(B, 6\)"),
        ({"guidance": torch.ones(2)}, "guidance_embeds=False takes no `guidance`"),
        ({"positions_image": image_positions(4, 4)}, r"positions_image has shape \(4, 3\); 6 tokens need \(6, 3\)"),
        ({"positions_text": text_positions(6)}, r"positions_text has shape \(6, 3\); 5 tokens need \(5, 3\)"),
    ],
)
def test_inputs_that_do_not_fit_are_refused(change: dict[str, Any], said: str) -> None:
    with pytest.raises(ValueError, match=said):
        _network()(**_inputs() | change)


def test_a_guided_network_needs_its_scale() -> None:
    with pytest.raises(ValueError, match="needs `guidance`"):
        _network(replace(CONFIG, guidance_embeds=True))(**_inputs())
