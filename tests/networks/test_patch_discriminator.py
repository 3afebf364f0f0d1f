"""The patch discriminator: an independent forward pass, what a patch sees, and that pictures do not see each other."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from wordbrush.networks.patch_discriminator import PatchDiscriminator, PatchDiscriminatorConfig


def network(**settings: int) -> PatchDiscriminator:
    made = PatchDiscriminator(PatchDiscriminatorConfig(**{"channels": 8, "group_channels": 4, **settings}))
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for value in made.state_dict().values():
            value.copy_(torch.randn(value.shape, generator=generator) * 0.2)
    return made


def by_hand(w: dict[str, Tensor], x: Tensor) -> Tensor:
    """Isola 2017, appendix 6.1.2 (C64-C128-C256-C512) at an eighth of the width, from the state dict alone."""
    x = F.leaky_relu(F.conv2d(x, w["main.0.weight"], w["main.0.bias"], stride=2, padding=1), 0.2)
    for at, stride in ((2, 2), (5, 2), (8, 1)):
        x = F.conv2d(x, w[f"main.{at}.weight"], stride=stride, padding=1)
        groups = x.unflatten(1, (-1, 4))
        mean = groups.mean((2, 3, 4), keepdim=True)
        std = (groups.var((2, 3, 4), keepdim=True, unbiased=False) + 1e-5).sqrt()
        gain, bias = (w[f"main.{at + 1}.{name}"][:, None, None] for name in ("weight", "bias"))
        x = F.leaky_relu(((groups - mean) / std).flatten(1, 2) * gain + bias, 0.2)
    return F.conv2d(x, w["main.11.weight"], w["main.11.bias"], padding=1)


def test_forward_pass_by_hand() -> None:
    own = network()
    images = torch.randn(2, 3, 64, 48, generator=torch.Generator().manual_seed(0))
    out = own(images)
    assert out.shape == (2, 1, 6, 4)
    assert torch.allclose(out, by_hand(own.state_dict(), images), atol=1e-5)
    assert [tuple(m.weight.shape[:2]) for m in own.main if isinstance(m, torch.nn.Conv2d)] == [
        (8, 3), (16, 8), (32, 16), (64, 32), (1, 64)
    ]  # fmt: skip


@pytest.mark.parametrize(("layers", "patch"), [(1, 16), (2, 34), (3, 70)])
def test_patches_are_as_wide_as_the_paper_says(layers: int, patch: int) -> None:
    """Isola 2017, appendix 6.1.2. Normalisation sees the whole picture, so it is left out here."""
    own = network(layers=layers)
    convolutions = torch.nn.Sequential(*(m for m in own.main if isinstance(m, torch.nn.Conv2d)))
    images = torch.zeros(1, 3, 160, 160, requires_grad=True)
    out = convolutions(images)
    out[0, 0, out.shape[2] // 2, out.shape[3] // 2].backward()
    assert images.grad is not None
    touched = images.grad.abs().sum((0, 1)).nonzero()
    assert (touched.amax(0) - touched.amin(0) + 1).tolist() == [patch, patch]


def test_pictures_are_judged_one_by_one() -> None:
    own = network()
    images = torch.randn(3, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    assert torch.allclose(own(images)[1:2], own(images[1:2]), atol=1e-6)


def test_initialise_and_config() -> None:
    own = PatchDiscriminator(PatchDiscriminatorConfig(channels=32))
    own.initialise(torch.Generator().manual_seed(0))
    assert own.main[5].weight.std().item() == pytest.approx(0.02, rel=0.05)
    assert PatchDiscriminatorConfig.from_dict(own.config.to_dict()) == own.config
    with pytest.raises(ValueError, match="layers=0"):
        PatchDiscriminatorConfig(layers=0)
