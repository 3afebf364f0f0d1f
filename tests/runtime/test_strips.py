"""The VAE in strips gives what the whole network gives, from a fraction of the memory."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

import wordbrush
from wordbrush.data.pixels import to_images
from wordbrush.data.scenes import sample_scene
from wordbrush.data.scenes.render import render
from wordbrush.networks.vae import AutoencoderKL, AutoencoderKLConfig
from wordbrush.runtime import strips
from wordbrush.runtime.codec import Codec
from wordbrush.runtime.packed_vae import PackedDecoder, fastest_decoder
from wordbrush.runtime.packing import can_pack
from wordbrush.runtime.policy import Runtime
from wordbrush.runtime.strips import StripDecoder, StripEncoder

CPU = torch.device("cpu")
WIDTHS = (16, 32, 32)  # a channel change on the way up and on the way down, and a level without


def vae_of(
    dtype: torch.dtype = torch.float32, *, widths: tuple[int, ...] = WIDTHS, **settings: Any
) -> AutoencoderKL:
    """A VAE whose every layer has an effect, its normalisation's scales and shifts too."""
    config = AutoencoderKLConfig(block_out_channels=widths, norm_num_groups=8, layers_per_block=1, **settings)
    vae = AutoencoderKL(config)
    generator = torch.Generator().manual_seed(3)
    for parameter in vae.parameters():
        with torch.no_grad():
            noise = torch.randn(parameter.shape, generator=generator)
            parameter.copy_(noise * parameter[0].numel() ** -0.5 if parameter.ndim > 1 else 1 + 0.3 * noise)
    return Runtime(device=CPU, dtype=dtype).place(vae)


def drawn(*shape: int) -> Tensor:
    # uneven brightness: what is normalised over a strip alone comes out otherwise
    noise = torch.randn(shape, generator=torch.Generator().manual_seed(5))
    return noise * torch.linspace(0.2, 2, shape[2])[:, None] + torch.linspace(-1, 1, shape[2])[:, None]


@pytest.fixture(autouse=True)
def thin_strips(monkeypatch: pytest.MonkeyPatch) -> None:
    """Strips of two to some rows, so that small maps have many."""
    monkeypatch.setattr(strips, "STRIP_POSITIONS", 120)


@pytest.mark.parametrize("kept", [0, 1 << 31], ids=["computed when needed", "kept"])
@pytest.mark.parametrize("packed", [False, True], ids=["plain", "packed"])
@pytest.mark.parametrize(("height", "width"), [(6, 10), (17, 5), (1, 3)])
@torch.inference_mode()
def test_decoding(monkeypatch: pytest.MonkeyPatch, kept: int, packed: bool, height: int, width: int) -> None:
    if packed and not can_pack(CPU, torch.float32):
        pytest.skip("this build of torch cannot pack")
    monkeypatch.setattr(strips, "KEPT_BYTES", kept)
    vae = vae_of(scaling_factor=0.7, shift_factor=0.2)
    latents = drawn(1, 4, height, width)
    wanted = vae.decode(latents)
    found = StripDecoder(PackedDecoder(vae) if packed else vae).decode(latents)
    assert found.shape == wanted.shape
    torch.testing.assert_close(found, wanted, atol=2e-5, rtol=1e-4)


@torch.inference_mode()
def test_other_shapes_of_network() -> None:
    for settings in ({"use_post_quant_conv": False, "mid_block_add_attention": False}, {"widths": (32,)}):
        vae = vae_of(**settings)
        latents = drawn(1, 4, 9, 8)
        torch.testing.assert_close(StripDecoder(vae).decode(latents), vae.decode(latents), atol=2e-5, rtol=1e-4)


@pytest.mark.parametrize(("height", "width"), [(24, 40), (68, 20), (4, 12)])
@torch.inference_mode()
def test_encoding(height: int, width: int) -> None:
    for vae in (vae_of(), vae_of(use_quant_conv=False)):
        images = drawn(1, 3, height, width)
        found, wanted = StripEncoder(vae).encode_raw(images), vae.encode_raw(images)
        torch.testing.assert_close(found.mean, wanted.mean, atol=2e-5, rtol=1e-4)
        torch.testing.assert_close(found.logvar, wanted.logvar, atol=2e-5, rtol=1e-4)


def test_the_codec_cuts_large_pictures_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(strips, "WHOLE_PIXELS", 24 * 40)
    vae = vae_of(scaling_factor=0.7, shift_factor=0.2)
    codec = Codec(vae, Runtime(device=CPU, dtype=torch.float32))
    seen: list[tuple[int, ...]] = []
    monkeypatch.setattr(strips.FeatureMap, "of", _noting(strips.FeatureMap.of, seen))
    for height, cut in ((24, 0), (28, 2)):
        images = drawn(2, 3, height, 40)
        with torch.inference_mode():
            wanted = vae.encode(images).mean
        torch.testing.assert_close(codec.encode(images), wanted, atol=2e-5, rtol=1e-4)
        torch.testing.assert_close(codec.encode(images, scaled=False), wanted / 0.7 + 0.2, atol=2e-5, rtol=1e-4)
        assert len(seen) == 2 * cut
        with torch.inference_mode():
            decoded = vae.decode(wanted)
        torch.testing.assert_close(codec.decode(wanted), decoded, atol=2e-5, rtol=1e-4)
        assert len(seen) == 3 * cut


def _noting(make: Callable[[Tensor], Any], seen: list[tuple[int, ...]]) -> Callable[[Tensor], Any]:
    def noted(tensor: Tensor) -> Any:
        seen.append(tuple(tensor.shape))
        return make(tensor)

    return noted


@torch.inference_mode()
def test_in_bfloat16() -> None:
    """Rounding is that of the number format: strips are no farther from float32 than the whole network is."""
    latents = drawn(1, 4, 20, 12)
    exact = vae_of().decode(latents)
    vae = vae_of(torch.bfloat16)
    decoder = PackedDecoder(vae) if can_pack(CPU, torch.bfloat16) else vae
    whole = (decoder.decode(latents.bfloat16()).float() - exact).abs().mean()
    found = (StripDecoder(decoder).decode(latents.bfloat16()).float() - exact).abs().mean()
    assert found < 1.2 * whole


def test_tiles_alone_would_show() -> None:
    """What this is for: halves that are decoded each for itself differ from the whole by far more."""
    vae, latents = vae_of(), drawn(1, 4, 20, 12)
    with torch.inference_mode():
        whole, upper = vae.decode(latents), vae.decode(latents[:, :, :10])
    assert (whole[:, :, :20] - upper[:, :, :20]).abs().max() > 0.05


def test_a_picture_that_a_gpu_has_no_room_for_is_decoded_in_strips(monkeypatch: pytest.MonkeyPatch) -> None:
    vae, latents = vae_of(), drawn(2, 4, 9, 8)
    with torch.inference_mode():
        wanted = vae.decode(latents)
    codec = Codec(vae, Runtime(device=CPU, dtype=torch.float32))
    codec._decoder = vae
    asked = []

    def full(latents: Tensor) -> Tensor:
        asked.append(latents)
        raise torch.OutOfMemoryError("CUDA out of memory")

    monkeypatch.setattr(vae, "decode", full)
    torch.testing.assert_close(codec.decode(latents), wanted, atol=2e-5, rtol=1e-4)
    assert codec.note == "the GPU has no room to decode pictures whole, so they are decoded in strips"
    assert len(asked) == 1  # not tried again


@pytest.mark.parametrize("dtype", ["float32", "auto"])
@torch.inference_mode()
def test_a_trained_vae_on_real_pictures(dtype: str) -> None:
    """The embedded model's, there and back: no step of 255 farther off than two."""
    codec = wordbrush.load(dtype=dtype).codec
    scenes = [[render(sample_scene("train", 0, 2 * row + column)) for column in range(2)] for row in range(2)]
    picture = np.concatenate([np.concatenate(row, axis=1) for row in scenes])
    images = to_images(picture[None]).to(codec.runtime.dtype)
    whole = codec.vae.encode(images).mean
    decoder = fastest_decoder(codec.vae, codec.runtime)
    in_strips = codec.vae.scaled(StripEncoder(codec.vae).encode_raw(images)).mean
    assert (in_strips - whole).abs().max() < 0.02 * whole.abs().max()
    apart = StripDecoder(decoder).decode(whole) - decoder.decode(whole)
    assert 127.5 * apart.abs().max() <= (2.0 if dtype == "auto" else 0.01)


def test_strips_cover_every_row_once() -> None:
    for height, width in ((7, 3), (64, 64), (2048, 2048), (1, 1)):
        found = [row for start, stop in strips.strips(height, width) for row in range(start, stop)]
        assert found == list(range(height))
