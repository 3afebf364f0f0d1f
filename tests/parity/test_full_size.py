"""Stable Diffusion 1.5 at its real size, with random weights in float32, against diffusers.

The two networks share one set of tensors, so that 3.4 GB of weights are in memory once.
"""

from __future__ import annotations

import pytest
import torch
from tests.parity.comparing import randn
from torch import Tensor, nn

from wordbrush.formats.single_file.configs import UNETS, VAES
from wordbrush.formats.weights import without_weights
from wordbrush.networks.unet import UNet, UNetConfig
from wordbrush.networks.vae import AutoencoderKL, AutoencoderKLConfig
from wordbrush.runtime.packed_unet import PackedUNet
from wordbrush.runtime.packing import can_pack

pytestmark = pytest.mark.slow

LARGEST_ERROR = 1e-4
"""Relative: of the largest difference to the largest value, and of the one root mean square to the other."""


def weights_of(network: nn.Module) -> dict[str, Tensor]:
    """Random ones of a size that keeps every layer's output about as large as its input."""
    generator = torch.Generator().manual_seed(0)
    weights = {}
    for name, parameter in network.state_dict().items():
        noise = torch.randn(parameter.shape, generator=generator)
        if parameter.ndim > 1:
            weights[name] = noise.mul_(parameter[0].numel() ** -0.5)
        else:
            weights[name] = noise.mul_(0.1).add_(1.0 if name.endswith("weight") else 0.0)
    return weights


def filled(network: nn.Module, weights: dict[str, Tensor]) -> nn.Module:
    network.load_state_dict(weights, strict=True, assign=True)
    return network.requires_grad_(False).eval()


def assert_close(found: Tensor, wanted: Tensor) -> None:
    assert wanted.std() > 0.1
    error = (found - wanted).double()
    largest = (error.abs().max() / wanted.abs().max()).item()
    root_mean_square = (error.square().mean().sqrt() / wanted.double().square().mean().sqrt()).item()
    print(f"largest error {largest:.1e}, root mean square {root_mean_square:.1e}, relative")
    assert largest < LARGEST_ERROR
    assert root_mean_square < LARGEST_ERROR


@torch.inference_mode()
def test_unet() -> None:
    import diffusers

    config = UNetConfig.from_dict(UNETS["sd1"])
    ours = without_weights(lambda: UNet(config))
    weights = weights_of(ours)
    assert sum(weight.numel() for weight in weights.values()) == 859_520_964
    with torch.device("meta"):
        theirs = diffusers.UNet2DConditionModel.from_config(config.to_dict())
    filled(ours, weights)
    filled(theirs, weights)
    x, context = randn(1, 4, 64, 64), randn(1, 77, 768, seed=2)
    wanted = theirs(x, torch.tensor([601]), encoder_hidden_states=context).sample
    assert_close(ours(x, torch.tensor([601.0]), context), wanted)
    if can_pack(torch.device("cpu"), torch.float32):
        del theirs, weights
        packed = PackedUNet(ours, take=True)
        x = x.contiguous(memory_format=torch.channels_last)
        assert_close(packed(x, 601.0, packed.prepare_context(context)), wanted)


@torch.inference_mode()
def test_vae() -> None:
    import diffusers

    config = AutoencoderKLConfig.from_dict(VAES["sd1"])
    ours = without_weights(lambda: AutoencoderKL(config))
    weights = weights_of(ours)
    assert sum(weight.numel() for weight in weights.values()) == 83_653_863
    with torch.device("meta"):
        theirs = diffusers.AutoencoderKL.from_config(config.to_dict())
    filled(ours, weights)
    filled(theirs, weights)
    latents, images = randn(1, 4, 32, 32), randn(1, 3, 256, 256, seed=2)
    assert_close(ours.decode_raw(latents), theirs.decode(latents).sample)
    assert_close(ours.encode_raw(images).mean, theirs.encode(images).latent_dist.mean)
