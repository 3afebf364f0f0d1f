"""The picture that a run begins from or keeps to, with its mask, and how pixels become a picture again."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from wordbrush.editing.seen import Encode, changing, edit_channels, fill_channels, inpaint_channels
from wordbrush.editing.start import image_tensor, mask_picture
from wordbrush.errors import RequestError
from wordbrush.request import GenerationRequest

if TYPE_CHECKING:
    from PIL import Image


@dataclass(frozen=True)
class Canvas:
    """The picture and mask of a filled-in request, at its size."""

    request: GenerationRequest

    @cached_property
    def image(self) -> Tensor | None:
        """(1, 3, H, W) in [-1, 1]; None for a run that begins from nothing."""
        if self.request.image is None:
            return None
        return image_tensor(self.request.image.load(), *self._size)

    @cached_property
    def mask(self) -> Image.Image | None:
        """8-bit grey: white may change, black is kept; None where all may change."""
        if self.request.mask is None:
            return None
        return mask_picture(self.request.mask.load(), *self._size)

    def seen(self, kind: str | None, encode: Encode, encode_raw: Encode, *, packed: bool) -> Tensor | None:
        """The channels that a network of this kind sees beside the latents, (1, C', h, w); None if it sees none.

        Args:
            kind: as `ModelParts.picture_input`.
            encode, encode_raw: images to latents, scaled and not.
            packed: whether the network is FLUX, which sees the mask in pixels.

        Raises:
            RequestError: the model edits pictures, and there is none.
        """
        if kind is None:
            return None
        image, mask = self.image, self._changing
        if kind == "edit":
            if image is None:
                raise RequestError("this model changes a picture as the prompt says; give image as well")
            return edit_channels(image, encode_raw)
        if image is None:  # nothing is kept of nothing
            width, height = self._size
            image, mask = torch.zeros(1, 3, height, width), torch.ones(1, 1, height, width)
        return (fill_channels if packed else inpaint_channels)(image, mask, encode)

    def kept(self, images: list[Image.Image]) -> list[Image.Image]:
        """The pictures with everything that the mask keeps put back, bit for bit."""
        if self.image is None or self.mask is None:
            return images
        from PIL import Image

        original = picture_of(self.image[0])
        return [Image.composite(image, original, self.mask) for image in images]

    @property
    def _changing(self) -> Tensor:
        """(1, 1, H, W): 1 where the picture may change, else 0."""
        if self.mask is None:
            width, height = self._size
            return torch.ones(1, 1, height, width)
        import numpy as np

        return changing(torch.from_numpy(np.asarray(self.mask).copy())[None, None].float() / 255.0)

    @property
    def _size(self) -> tuple[int, int]:
        """(width, height)."""
        return self.request.width or 0, self.request.height or 0


def picture_of(image: Tensor) -> Image.Image:
    """An RGB picture of (3, H, W) in [-1, 1]: clipped, and rounded to the nearest of 256 levels."""
    from PIL import Image

    pixels = ((image.float() + 1.0) * 127.5).round().clamp(0, 255).to(torch.uint8)
    return Image.fromarray(pixels.permute(1, 2, 0).contiguous().cpu().numpy())
