"""What lies under a mask when the loop begins: the picture, its surroundings blurred into it, noise, nothing."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor

from wordbrush.diffusion.noise import Noise


def surroundings(image: Tensor, mask: Tensor) -> Tensor:
    """The picture with what the mask changes replaced by a smooth continuation of the rest, (1, 3, H, W).

    The rest is averaged over squares of 2, 4, 8 … pixels; each unknown pixel is taken from the finest average that
    knows something of it, and coarse averages are interpolated on the way back (a push-pull pyramid).

    Args:
        image: (1, 3, H, W).
        mask: (1, 1, H, W) in [0, 1]; where it is soft the two are mixed.
    """
    return image + mask * (_continued(image, (mask == 0).float()) - image)


def latents_under(kind: str | None, clean: Tensor, mask: Tensor, noise: Noise) -> Tensor:
    """The clean latents with what the mask changes replaced, (B or 1, C, h, w).

    Args:
        kind: "noise", "empty" (zeros), or another, which leaves them.
        clean: (1, C, h, w).
        mask: (1, 1, h, w), 1 where they may change.
    """
    if kind == "noise":
        return (1.0 - mask) * clean + mask * noise().to(clean)
    return (1.0 - mask) * clean if kind == "empty" else clean


def _continued(image: Tensor, known: Tensor) -> Tensor:
    """image: (1, 3, H, W); known: (1, 1, H, W), 0 where a pixel is not known, else how much counts for it."""
    if known.min() > 0 or max(image.shape[2:]) == 1:
        return image
    weight = F.avg_pool2d(known, 2, ceil_mode=True)
    coarse = F.avg_pool2d(image * known, 2, ceil_mode=True) / weight.clamp_min(1e-6)
    coarse = _continued(coarse, (weight > 0).float())
    wide = F.interpolate(coarse, size=image.shape[2:], mode="bilinear", align_corners=False)
    return known * image + (1.0 - known) * wide
