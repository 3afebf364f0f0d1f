"""A tiny autoencoder in strips gives what it gives whole, and the codec uses strips where pictures are large."""

from __future__ import annotations

import pytest
import torch

from wordbrush.networks.tiny_vae import TinyAutoencoder, TinyAutoencoderConfig
from wordbrush.runtime import codec as codecs
from wordbrush.runtime import tiny_strips
from wordbrush.runtime.codec import Codec
from wordbrush.runtime.policy import Runtime
from wordbrush.runtime.tiny_strips import TinyStrips


def tiny(blocks: tuple[int, ...]) -> TinyAutoencoder:
    widths = (6,) * len(blocks)
    network = TinyAutoencoder(
        TinyAutoencoderConfig(
            encoder_block_out_channels=widths,
            decoder_block_out_channels=widths,
            num_encoder_blocks=blocks,
            num_decoder_blocks=blocks[::-1],
        )
    )
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.copy_(torch.randn(parameter.shape, generator=generator) * 0.2)
    return network.eval()


@pytest.mark.parametrize("blocks", [(1, 3, 3, 3), (1, 2), (1,)])
@torch.inference_mode()
def test_strips_are_the_whole(monkeypatch: pytest.MonkeyPatch, blocks: tuple[int, ...]) -> None:
    network, generator = tiny(blocks), torch.Generator().manual_seed(1)
    factor = network.config.downscale
    latents = torch.randn(1, 4, 67, 5, generator=generator)
    images = torch.rand(1, 3, 67 * factor, 5 * factor, generator=generator) * 2 - 1
    for rows in (1, 16, 67):
        monkeypatch.setattr(tiny_strips, "STRIP_LATENTS", rows * 5)
        for found, whole in (
            (TinyStrips(network).decode(latents), network.decode(latents)),
            (TinyStrips(network).encode(images), network.encode(images)),
        ):
            assert found.shape == whole.shape
            torch.testing.assert_close(found, whole, atol=1e-5 * whole.abs().max().item(), rtol=0)


def test_the_reach_is_no_smaller_than_what_matters() -> None:
    network = tiny((1, 1, 1))
    latents = torch.zeros(1, 4, 41, 3, requires_grad=True)
    network.decode(latents)[:, :, 80:84].sum().backward()  # the pixels of one row of latents, the 20th
    assert latents.grad is not None
    seen = latents.grad.abs().sum(dim=(0, 1, 3)).nonzero().flatten()
    assert 20 - int(seen.min()) <= network.config.reach
    assert int(seen.max()) - 20 <= network.config.reach


def test_the_codec_takes_large_pictures_in_strips(monkeypatch: pytest.MonkeyPatch) -> None:
    network = tiny((1, 1))
    codec = Codec(network, Runtime.choose("cpu", "float32"))
    images = torch.rand(2, 3, 64, 8, generator=torch.Generator().manual_seed(1)) * 2 - 1
    latents = codec.encode(images)
    decoded = codec.decode(latents)
    monkeypatch.setattr(codecs, "in_strips", lambda height, width: True)
    monkeypatch.setattr(tiny_strips, "STRIP_LATENTS", 16)
    torch.testing.assert_close(codec.encode(images), latents, atol=1e-5, rtol=0)
    torch.testing.assert_close(codec.decode(latents), decoded, atol=1e-5, rtol=0)
    assert torch.equal(codec.encode(images, scaled=False), codec.encode(images))
