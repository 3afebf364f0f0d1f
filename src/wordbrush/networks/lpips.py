"""LPIPS: how different two pictures look, by the features of an image network (Zhang 2018, "The unreasonable ...").

The network is VGG16 (Simonyan 2015) up to its last rectifier. State-dict keys: `features.{n}` as in torchvision's
VGG16, `lins.{k}` for the learnt weights of the channels of stage k.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

STAGES: tuple[tuple[int, ...], ...] = ((64, 64), (128, 128), (256, 256, 256), (512, 512, 512), (512, 512, 512))
"""Channels of VGG16's convolutions; pictures are halved between the stages."""

# ImageNet's mean and deviation per channel, for pictures in [-1, 1], rounded as the published weights were trained.
_SHIFT, _SCALE = (-0.030, -0.088, -0.188), (0.458, 0.448, 0.450)
_EPS = 1e-10


def unit(features: Tensor) -> Tensor:
    """Features (B, C, ...) scaled to length 1 over the channels, in float32; zero stays zero."""
    features = features.float()
    # the root of a sum that is never 0, so that its gradient is a number where a rectifier shut every channel
    return features / (features.square().sum(1, keepdim=True) + _EPS**2).sqrt()


class VGG16Features(nn.Module):
    """The convolutions of VGG16, numbered as torchvision numbers them."""

    def __init__(self) -> None:
        super().__init__()
        parts: list[nn.Module] = []
        self.ends: list[int] = []  # the rectifiers whose output is compared
        before = 3
        for stage in STAGES:
            if parts:
                parts.append(nn.MaxPool2d(2))
            for width in stage:
                parts += [nn.Conv2d(before, width, 3, padding=1), nn.ReLU()]
                before = width
            self.ends.append(len(parts) - 1)
        self.features = nn.Sequential(*parts)

    def forward(self, x: Tensor) -> list[Tensor]:
        """x: (B, 3, H, W), normalised. Returns a map (B, C, h, w) per stage, the first of full size."""
        found = []
        for number, part in enumerate(self.features):
            x = part(x)
            if number in self.ends:
                found.append(x)
        return found


class LPIPS(nn.Module):
    """The distance of pairs of pictures: 0 for equal ones, and about 1 for such as have nothing in common."""

    def __init__(self) -> None:
        super().__init__()
        self.vgg = VGG16Features()
        self.lins = nn.ModuleList(nn.Conv2d(stage[-1], 1, 1, bias=False) for stage in STAGES)

    def forward(self, one: Tensor, other: Tensor) -> Tensor:
        """one, other: (B, 3, H, W) in [-1, 1], sides of at least 16. Returns (B,) float32. Zhang 2018, eq. 1."""
        total = torch.zeros(len(one), device=one.device)
        pairs = zip(self._features(one), self._features(other), strict=True)
        for (a, b), lin in zip(pairs, self.lins, strict=True):
            apart = (unit(a) - unit(b)).square()  # (B, C, h, w)
            weight = lin.weight[0].float()  # type: ignore[index]  # (C, 1, 1)
            total = total + (apart * weight).sum(1).mean(dim=(1, 2))
        return total

    def _features(self, images: Tensor) -> list[Tensor]:
        shift, scale = (images.new_tensor(values).view(1, 3, 1, 1) for values in (_SHIFT, _SCALE))
        return self.vgg((images - shift) / scale)
