"""LPIPS: an independent forward pass, a distance by hand, and the layouts that its weights are published in.

Distance and gradient were equal to those of the lpips package 0.1.4 on its own learnt weights (it needs torchvision,
so it is not among what the tests install).
"""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from safetensors.torch import save_file
from torch import Tensor

from wordbrush.errors import ModelFileError
from wordbrush.formats.lpips_files import read_lpips
from wordbrush.networks.lpips import unit

WIDTHS = [64, 64, "M", 128, 128, "M", 256, 256, 256, "M", 512, 512, 512, "M", 512, 512, 512, "M"]


@pytest.fixture(scope="module")
def published() -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """A VGG16 with torchvision's names, classifier and all but its size, and LPIPS' learnt weights, all random."""
    generator = torch.Generator().manual_seed(0)
    vgg, before, at = {}, 3, 0
    for width in WIDTHS:
        if width != "M":
            assert isinstance(width, int)
            vgg[f"features.{at}.weight"] = torch.randn(width, before, 3, 3, generator=generator) * (9 * before) ** -0.5
            vgg[f"features.{at}.bias"] = torch.randn(width, generator=generator) * 0.1
            before, at = width, at + 1  # its rectifier
        at += 1
    vgg["classifier.0.weight"] = torch.zeros(3, 4)
    lins = {
        f"lin{k}.model.1.weight": torch.rand(1, width, 1, 1, generator=generator)
        for k, width in enumerate((64, 128, 256, 512, 512))
    }
    return vgg, lins


def by_hand(vgg: dict[str, Tensor], lins: dict[str, Tensor], one: Tensor, other: Tensor) -> Tensor:
    """Zhang 2018, eq. 1, in float64."""

    def stages(x: Tensor) -> list[Tensor]:
        mean, std = torch.tensor([-0.030, -0.088, -0.188]), torch.tensor([0.458, 0.448, 0.450])
        x = ((x - mean[:, None, None]) / std[:, None, None]).double()
        found, at = [], 0
        for width in WIDTHS:
            if width == "M":
                found.append(x)
                x = F.max_pool2d(x, 2)
                at += 1
            else:
                x = F.conv2d(x, vgg[f"features.{at}.weight"].double(), vgg[f"features.{at}.bias"].double(), padding=1)
                x = x.clamp(min=0)
                at += 2
        return found

    total = torch.zeros(len(one), dtype=torch.float64)
    for k, (a, b) in enumerate(zip(stages(one), stages(other), strict=True)):
        a, b = F.normalize(a, dim=1), F.normalize(b, dim=1)
        weight = lins[f"lin{k}.model.1.weight"].double().flatten()
        for row in range(len(one)):
            total[row] += torch.einsum("c,chw->hw", weight, (a[row] - b[row]) ** 2).mean()
    return total


def test_published_files_give_the_distance_of_an_independent_pass(
    published: tuple[dict[str, Tensor], dict[str, Tensor]], tmp_path: Path
) -> None:
    vgg, lins = published
    torch.save(vgg, tmp_path / "vgg16.pth")
    save_file(lins, tmp_path / "vgg.safetensors")
    network = read_lpips((tmp_path / "vgg16.pth", tmp_path / "vgg.safetensors"))
    generator = torch.Generator().manual_seed(1)
    one = torch.rand(2, 3, 32, 40, generator=generator) * 2 - 1
    other = (one + 0.3 * torch.randn(one.shape, generator=generator)).clamp(-1, 1)
    assert torch.allclose(network(one, other).double(), by_hand(vgg, lins, one, other), rtol=1e-4)
    assert network(one, one).tolist() == [0.0, 0.0]
    sliced = {}  # a whole LPIPS' own state dict: five slices of VGG16, numbered through
    for name, value in vgg.items():
        if name.startswith("features."):
            part = 1 + sum(int(name.split(".")[1]) > end for end in (3, 8, 15, 22))
            sliced[f"net.slice{part}.{name.removeprefix('features.')}"] = value
    extra = {f"lins.{k}.model.1.weight": value for k, value in enumerate(lins.values())}
    extra |= {"scaling_layer.shift": torch.zeros(1, 3, 1, 1), "scaling_layer.scale": torch.ones(1, 3, 1, 1)}
    torch.save(sliced | lins | extra, tmp_path / "whole.pth")
    assert torch.equal(read_lpips((tmp_path / "whole.pth",))(one, other), network(one, other))


def test_gradient_is_a_number_where_every_channel_is_shut() -> None:
    features = torch.zeros(1, 3, 2, 2, requires_grad=True)
    unit(features).sum().backward()
    assert features.grad is not None
    assert torch.isfinite(features.grad).all()
    assert unit(torch.tensor([3.0, 4.0]).view(1, 2, 1, 1)).flatten().tolist() == pytest.approx([0.6, 0.8])


def test_what_is_lacking_is_named(published: tuple[dict[str, Tensor], dict[str, Tensor]], tmp_path: Path) -> None:
    vgg, lins = published
    save_file(vgg, tmp_path / "vgg16.safetensors")
    with pytest.raises(ModelFileError, match="lacks LPIPS' learnt weights"):
        read_lpips((tmp_path / "vgg16.safetensors",))
    save_file(lins, tmp_path / "lins.safetensors")
    with pytest.raises(ModelFileError, match="lacks torchvision's VGG16"):
        read_lpips((tmp_path / "lins.safetensors",))
    with pytest.raises(ModelFileError, match=r"no file .*gone\.pth"):
        read_lpips((tmp_path / "gone.pth",))
    lins = lins | {"lin1.model.1.weight": torch.zeros(1, 192, 1, 1)}  # AlexNet's
    save_file(lins, tmp_path / "alex.safetensors")
    with pytest.raises(ModelFileError, match="192 channels, VGG16 has 128"):
        read_lpips((tmp_path / "vgg16.safetensors", tmp_path / "alex.safetensors"))
