"""Pictures to latents and back in a number format that can hold them."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from wordbrush.networks.vae import AutoencoderKL, AutoencoderKLConfig
from wordbrush.runtime.codec import Codec
from wordbrush.runtime.policy import Runtime

CONFIG = AutoencoderKLConfig(
    block_out_channels=(32, 32), norm_num_groups=8, latent_channels=4, layers_per_block=1, force_upcast=False
)


def vae(config: AutoencoderKLConfig = CONFIG) -> AutoencoderKL:
    network = AutoencoderKL(config)
    network.initialise(torch.Generator().manual_seed(0))
    return network


def test_a_vae_that_overflows_by_its_own_account_does_not_run_in_float16() -> None:
    half = Runtime.choose("cpu", "float16")
    careful = Codec(vae(replace(CONFIG, force_upcast=True)), half)
    assert {parameter.dtype for parameter in careful.vae.parameters()} == {torch.float32}
    assert {parameter.dtype for parameter in Codec(vae(), half).vae.parameters()} == {torch.float16}


@pytest.mark.parametrize("factor", [10.0, 3e5])
def test_a_picture_that_overflows_is_decoded_again_in_float32(factor: float) -> None:
    network = vae()
    with torch.no_grad():
        network.decoder.conv_out.weight.mul_(factor)
    latents = torch.randn(2, 4, 4, 4, generator=torch.Generator().manual_seed(1))
    expected = Codec(vae_like(network), Runtime.choose("cpu", "float32")).decode(latents)
    codec = Codec(network, Runtime.choose("cpu", "float16"))
    found = codec.decode(latents)
    assert found.dtype == torch.float32
    torch.testing.assert_close(found, expected, atol=0.01 * float(expected.abs().max()), rtol=0.01)
    if expected.abs().max() > 65504:  # where float16 ends
        assert factor > 10.0
        assert codec.note == "the VAE overflowed in float16, so pictures are decoded in float32"
        torch.testing.assert_close(codec.decode(latents), found, atol=0, rtol=0)
    else:
        assert factor == 10.0
        assert codec.note is None


def vae_like(network: AutoencoderKL) -> AutoencoderKL:
    copy = AutoencoderKL(network.config)
    copy.load_state_dict(network.state_dict())
    return copy


def test_latents_are_scaled_or_not() -> None:
    codec = Codec(vae(), Runtime.choose("cpu", "float32"))
    images = torch.rand(1, 3, 8, 8, generator=torch.Generator().manual_seed(1)) * 2 - 1
    scaled, raw = codec.encode(images), codec.encode(images, scaled=False)
    torch.testing.assert_close(scaled, raw * CONFIG.scaling_factor)
