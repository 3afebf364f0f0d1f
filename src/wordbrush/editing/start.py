"""Image-to-image and masked blending: where the loop starts, and what is held fixed."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
import torch.nn.functional as F
from torch import Tensor

from wordbrush.diffusion.noise import Noise
from wordbrush.diffusion.prediction import Denoiser
from wordbrush.editing.fill import latents_under
from wordbrush.errors import RequestError

if TYPE_CHECKING:
    from PIL import Image


def steps_to_run(steps: int, strength: float, *, rounds_up: bool = False) -> int:
    """How many of the last steps image-to-image runs, by diffusers' rule: steps * strength, rounded down.

    rounds_up: as diffusers does for FLUX.1.

    Raises:
        RequestError: it is none.
    """
    run = steps - int(max(steps - steps * strength, 0)) if rounds_up else int(steps * strength)
    if run < 1:
        raise RequestError(f"strength={strength} of {steps} steps is no step at all; give at least {1 / steps:.3g}")
    return run


def image_tensor(picture: Image.Image) -> Tensor:
    """An RGB picture as (1, 3, H, W) in [-1, 1]."""
    import numpy as np

    pixels = torch.from_numpy(np.asarray(picture).copy())  # (H, W, 3)
    return (pixels.permute(2, 0, 1)[None].float() / 127.5) - 1.0


def mask_tensor(mask: Image.Image) -> Tensor:
    """An 8-bit grey picture as (1, 1, H, W) in [0, 1]."""
    import numpy as np

    return torch.from_numpy(np.asarray(mask).copy())[None, None].float() / 255.0


@dataclass(frozen=True, kw_only=True)
class Start:
    """A loop that begins from a picture, and what of it is held fixed.

    Attributes:
        clean: (1, C, h, w), the picture's latents.
        mask: (1, 1, h, w), how much of each latent may change; None where all may.
        fill: as `mask_fill` of a request.
        from_noise: the loop begins from pure noise all the same; the network sees the picture besides.
        holds: whether what the mask keeps is held in every step. Inpainting networks see it, so theirs is not.
    """

    clean: Tensor
    mask: Tensor | None
    fill: str | None
    from_noise: bool
    holds: bool

    @classmethod
    def on(cls, clean: Tensor) -> Start:
        """On latents (B, C, h, w), all of which may change."""
        return cls(clean=clean, mask=None, fill=None, from_noise=False, holds=False)

    def noised(self, first: Tensor, noise: Noise, at: tuple[float, float], pure: Tensor) -> Tensor:
        """x at the loop's first time, (B, C, h, w).

        Args:
            first: unit noise, (B, C, h, w).
            noise: where more of it comes from.
            at: (alpha, sigma) at that time.
            pure: what a loop that begins from noise begins from.
        """
        if self.from_noise:
            return pure
        clean = self.clean if self.mask is None else latents_under(self.fill, self.clean, self.mask, noise)
        return at[0] * clean + at[1] * first

    def held(self, denoiser: Denoiser) -> Denoiser:
        """The denoiser, knowing what the mask keeps."""
        return held_outside(denoiser, self.clean, self.mask) if self.holds and self.mask is not None else denoiser


def latent_mask(mask: Image.Image, factor: int) -> Tensor:
    """(1, 1, h, w) in [0, 1]: how much of each latent may change; any changing pixel lets its whole latent change."""
    return F.max_pool2d(mask_tensor(mask), factor)


def held_outside(denoiser: Denoiser, kept: Tensor, mask: Tensor) -> Denoiser:
    """A denoiser that knows the clean latents where mask is 0: every estimate is blended with them there.

    kept: (B or 1, C, h, w) clean latents; mask: (1, 1, h, w), 1 where the estimate counts.
    """

    def blended(x: Tensor, t: float) -> Tensor:
        return mask * denoiser(x, t) + (1.0 - mask) * kept

    return blended
