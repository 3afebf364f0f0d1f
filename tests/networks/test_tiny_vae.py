from dataclasses import replace

import pytest
import torch
from tests.networks.checks import assert_initialise_draws_everything, shake

from wordbrush.networks.tiny_vae import TinyAutoencoder, TinyAutoencoderConfig

CONFIG = TinyAutoencoderConfig(
    encoder_block_out_channels=(8, 8, 8),
    decoder_block_out_channels=(8, 8, 8),
    num_encoder_blocks=(1, 1, 1),
    num_decoder_blocks=(1, 1, 1),
)


def _network(config: TinyAutoencoderConfig = CONFIG) -> TinyAutoencoder:
    network = TinyAutoencoder(config)
    network.initialise(torch.Generator().manual_seed(0))
    shake(network)
    return network.eval()


def _images(*shape: int) -> torch.Tensor:
    return torch.rand(*shape, generator=torch.Generator().manual_seed(1)) * 2 - 1


def test_sizes_go_down_by_the_factor_and_back() -> None:
    network = _network()
    with torch.no_grad():
        latents = network.encode(_images(2, 3, 16, 24))
        assert latents.shape == (2, 4, 4, 6)
        assert network.decode(latents).shape == (2, 3, 16, 24)


def test_latents_far_out_are_bent_back() -> None:
    network = _network()
    with torch.no_grad():
        torch.testing.assert_close(
            network.decode(torch.full((1, 4, 4, 4), 50.0)), network.decode(torch.full((1, 4, 4, 4), 500.0))
        )


def test_scale_and_shift_are_applied_and_undone() -> None:
    plain, scaled = _network(), _network(replace(CONFIG, scaling_factor=0.5, shift_factor=0.25))
    images = _images(1, 3, 16, 16)
    with torch.no_grad():
        latents = plain.encode(images)
        torch.testing.assert_close(scaled.encode(images), (latents - 0.25) * 0.5)
        torch.testing.assert_close(scaled.decode((latents - 0.25) * 0.5), plain.decode(latents), atol=1e-6, rtol=1e-5)


def test_a_size_that_does_not_fit_is_refused_with_the_nearest() -> None:
    with pytest.raises(ValueError, match=r"height=18.*4.*16 and 20"):
        _network().encode(_images(1, 3, 18, 16))


def test_initialise() -> None:
    assert_initialise_draws_everything(lambda: TinyAutoencoder(CONFIG))


def test_a_few_steps_of_training_lower_the_error_and_reach_every_weight() -> None:
    network = TinyAutoencoder(CONFIG)
    network.initialise(torch.Generator().manual_seed(0))
    images = _images(4, 3, 4, 4).repeat_interleave(4, 2).repeat_interleave(4, 3)
    start = [parameter.detach().clone() for parameter in network.parameters()]
    optimiser, losses = torch.optim.Adam(network.parameters(), lr=3e-3), []
    for _ in range(40):
        loss = (network.decode(network.encode(images)) - images).square().mean()
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        losses.append(loss.item())
    assert losses[-1] < 0.6 * losses[0], losses
    still = [name for (name, now), was in zip(network.named_parameters(), start, strict=True) if torch.equal(now, was)]
    assert still == []


def test_a_half_is_a_network_of_its_own() -> None:
    nothing: dict[str, tuple[int, ...]] = {"encoder_block_out_channels": (), "num_encoder_blocks": ()}
    decoder = TinyAutoencoder(replace(CONFIG, **nothing))  # type: ignore[arg-type]
    assert decoder.encoder is None
    assert all(name.startswith("decoder.") for name in decoder.state_dict())
    assert decoder.config.downscale == 4
    assert TinyAutoencoderConfig.from_dict(decoder.config.to_dict()) == decoder.config
    with pytest.raises(ValueError, match="a decoder alone"):
        decoder.encode(_images(1, 3, 16, 16))
    encoder = TinyAutoencoder(replace(CONFIG, decoder_block_out_channels=(), num_decoder_blocks=()))
    with pytest.raises(ValueError, match="an encoder alone"):
        encoder.decode(torch.zeros(1, 4, 4, 4))
    with pytest.raises(ValueError, match="leave nothing"):
        replace(CONFIG, **nothing, decoder_block_out_channels=(), num_decoder_blocks=())  # type: ignore[arg-type]
