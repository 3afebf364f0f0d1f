"""Image-to-image and masked blending: where the loop starts, and what is held fixed."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
import torch.nn.functional as F
from torch import Tensor

from wordbrush.diffusion.prediction import Denoiser
from wordbrush.errors import RequestError

if TYPE_CHECKING:
    from PIL import Image


def steps_to_run(steps: int, strength: float) -> int:
    """How many of the last steps image-to-image runs: min(int(steps * strength), steps), diffusers' rule.

    Raises:
        RequestError: it is none.
    """
    run = min(int(steps * strength), steps)
    if run < 1:
        raise RequestError(f"strength={strength} of {steps} steps is no step at all; give at least {1 / steps:.3g}")
    return run


def image_tensor(picture: Image.Image, width: int, height: int) -> Tensor:
    """A picture at the given size as (1, 3, H, W) in [-1, 1]; transparency becomes white."""
    import numpy as np
    from PIL import Image

    if "A" in picture.getbands() or "transparency" in picture.info:
        rgba = picture.convert("RGBA")
        picture = Image.alpha_composite(Image.new("RGBA", rgba.size, "white"), rgba)
    picture = picture.convert("RGB")
    if picture.size != (width, height):
        picture = picture.resize((width, height), Image.Resampling.LANCZOS)
    pixels = torch.from_numpy(np.asarray(picture).copy())  # (H, W, 3)
    return (pixels.permute(2, 0, 1)[None].float() / 127.5) - 1.0


def mask_picture(mask: Image.Image, width: int, height: int) -> Image.Image:
    """The mask as 8-bit grey of the given size: white may change, black is kept."""
    from PIL import Image

    grey = mask.convert("L")
    return grey if grey.size == (width, height) else grey.resize((width, height), Image.Resampling.BILINEAR)


def latent_mask(mask: Image.Image, factor: int) -> Tensor:
    """(1, 1, h, w) in [0, 1]: how much of each latent may change; any changing pixel lets its whole latent change."""
    import numpy as np

    grey = torch.from_numpy(np.asarray(mask).copy())[None, None].float() / 255.0  # (1, 1, H, W)
    return F.max_pool2d(grey, factor)


def held_outside(denoiser: Denoiser, kept: Tensor, mask: Tensor) -> Denoiser:
    """A denoiser that knows the clean latents where mask is 0: every estimate is blended with them there.

    kept: (B or 1, C, h, w) clean latents; mask: (1, 1, h, w), 1 where the estimate counts.
    """

    def blended(x: Tensor, t: float) -> Tensor:
        return mask * denoiser(x, t) + (1.0 - mask) * kept

    return blended
