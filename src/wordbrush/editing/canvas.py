"""The picture that a run begins from or keeps to, with its mask, and how pixels become a picture again."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from wordbrush.editing.fill import surroundings
from wordbrush.editing.frame import Frame, fitted, padded, working_size
from wordbrush.editing.mask import drawn_mask, feathered, grown, masked_region
from wordbrush.editing.seen import Encode, changing, edit_channels, fill_channels, inpaint_channels
from wordbrush.editing.start import Start, image_tensor, latent_mask, mask_tensor
from wordbrush.errors import RequestError
from wordbrush.inputs import InputPicture
from wordbrush.pictures import as_rgb
from wordbrush.request import GenerationRequest

if TYPE_CHECKING:
    from PIL import Image


@dataclass(frozen=True)
class Canvas:
    """The picture and mask of a filled-in request.

    `picture` is what the result is painted over, in the result's size; `frame` says which part of it the loop works on,
    at the request's width and height. `image` and `mask` are that part, at that size.

    step: what the sides of a picture are multiples of, in the model.
    """

    request: GenerationRequest
    step: int

    @cached_property
    def picture(self) -> Image.Image | None:
        """RGB, before anything is painted: fitted to the request's size or extended; None without an input."""
        if self.request.image is None:
            return None
        given = as_rgb(self.request.image.load(), on_white=self.request.mask != "alpha")
        return padded(self._sized(given), self.request.extend or (0, 0, 0, 0))

    @cached_property
    def picture_mask(self) -> Image.Image | None:
        """8-bit grey of the picture's size: white may change, black is kept; None where all may change."""
        from PIL import Image, ImageChops

        request = self.request
        if request.image is None or (request.mask is None and request.extend is None):
            return None
        given = request.image.load()
        if request.mask is None:
            mask = Image.new("L", given.size, 0)
        else:
            mask = drawn_mask(request.mask, given)
        if request.mask_invert:
            mask = ImageChops.invert(mask)
        mask = self._sized(mask, smooth=True)
        if request.extend is not None:
            left, top, right, bottom = request.extend
            wide = Image.new("L", (mask.width + left + right, mask.height + top + bottom), 255)
            wide.paste(mask, (left, top))
            mask = wide
        return feathered(grown(mask, request.mask_grow or 0), request.mask_blur or 0.0)

    @cached_property
    def frame(self) -> Frame:
        """Which part of the picture is worked on."""
        picture, mask = self.picture, self.picture_mask
        assert picture is not None, "only a request with a picture has a frame"
        if not self.request.only_masked or mask is None:
            return Frame.whole(picture.size, self._size)
        region = masked_region(mask, self.request.only_masked_padding or 0, self._size)
        return Frame.enlarged(region, self._size)

    @cached_property
    def image(self) -> Tensor | None:
        """(1, 3, H, W) in [-1, 1]; None for a run that begins from nothing."""
        return None if self.picture is None else image_tensor(self.frame.worked(self.picture))

    @cached_property
    def mask(self) -> Image.Image | None:
        """8-bit grey: white may change, black is kept; None where all may change."""
        return None if self.picture_mask is None else self.frame.worked(self.picture_mask, smooth=True)

    def start(self, encode: Encode, factor: int, kind: str | None) -> Start | None:
        """How the loop begins from the picture; None for one that begins from noise and holds nothing.

        Args:
            encode: images to latents.
            factor: pixels per latent along each side.
            kind: what the network sees of the picture, as `ModelParts.picture_input`.
        """
        image, mask = self.image, self.mask
        from_noise, holds = kind is not None and self.request.strength == 1.0, kind in (None, "edit")
        if image is None or (from_noise and (mask is None or not holds)):
            return None
        if mask is not None and self.request.mask_fill == "blur":
            image = surroundings(image, mask_tensor(mask))
        clean = encode(image)
        latents = None if mask is None else latent_mask(mask, factor).to(clean)
        return Start(
            clean=clean, mask=latents, fill=self.request.mask_fill, from_noise=from_noise, holds=holds,
        )  # fmt: skip

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

    def finished(self, images: list[Image.Image]) -> list[Image.Image]:
        """Pictures of the working size put in their place; everything that the mask keeps stays, bit for bit."""
        if self.picture is None:
            return images
        return [self._finished(image, self.picture) for image in images]

    def _finished(self, image: Image.Image, picture: Image.Image) -> Image.Image:
        image, frame, mask = self.frame.restored(image), self.frame, self.picture_mask
        if mask is None:
            return image
        result = picture.copy()
        result.paste(image, frame.region[:2], mask.crop(frame.region))
        return result

    def _sized(self, picture: Image.Image, *, smooth: bool = False) -> Image.Image:
        """The input, fitted to the request's size where another one than its own is asked for."""
        request = self.request
        own = request.only_masked or request.extend is not None or working_size(picture.size, self.step) == self._size
        return picture if own else fitted(picture, self._size, smooth=smooth)

    @property
    def _changing(self) -> Tensor:
        """(1, 1, H, W): 1 where the picture may change, else 0."""
        if self.mask is None:
            width, height = self._size
            return torch.ones(1, 1, height, width)
        return changing(mask_tensor(self.mask))

    @property
    def _size(self) -> tuple[int, int]:
        """(width, height) that is worked at."""
        return self.request.width or 0, self.request.height or 0


def picture_of(image: Tensor) -> Image.Image:
    """An RGB picture of (3, H, W) in [-1, 1]: clipped, and rounded to the nearest of 256 levels."""
    from PIL import Image

    pixels = ((image.float() + 1.0) * 127.5).round().clamp(0, 255).to(torch.uint8)
    return Image.fromarray(pixels.permute(1, 2, 0).contiguous().cpu().numpy())


def with_picture(request: GenerationRequest, step: int, *, pure_noise: bool) -> GenerationRequest:
    """A request with an input, with all that this decides filled in but what the model's own defaults are for.

    pure_noise: the model sees the picture, and begins from noise all the same.

    Raises:
        RequestError: the picture or mask cannot be read, they do not fit each other, or the size does not fit both.
    """
    assert request.image is not None
    changed: dict[str, object] = {"image": request.image.opened()}
    if isinstance(request.mask, InputPicture):
        changed["mask"] = request.mask.opened()
    if request.mask is not None:
        drawn_mask(request.mask, request.image.load())  # it fits, or says why not
    if pure_noise and request.mask_fill is not None:
        raise RequestError(
            f"mask_fill={request.mask_fill!r} has no effect at strength 1 on a model that sees the picture besides; "
            "leave it out, or give a lower strength"
        )
    if request.extend is not None:
        changed["strength"] = 1.0 if request.strength is None else request.strength
        changed["mask_fill"] = request.mask_fill or (None if pure_noise else "blur")
    if request.only_masked:
        changed["only_masked_padding"] = 32 if request.only_masked_padding is None else request.only_masked_padding
    else:
        changed["width"], changed["height"] = _worked_size(request, step)
    completed = request.model_copy(update=changed)
    _refuse_keeping_all(completed, step)
    return completed


def _refuse_keeping_all(request: GenerationRequest, step: int) -> None:
    """Raises `RequestError` where the mask, as it is used, has no white: the result would be the input."""
    mask = Canvas(request, step).picture_mask
    if mask is None or mask.getbbox() is not None:
        return
    used = [name for name in ("mask_invert", "mask_grow", "mask_blur") if getattr(request, name)]
    after = f" after {' and '.join(used)}" if used else ""
    raise RequestError(f"the mask keeps the whole picture{after}, so nothing would change; give one with some white")


def _worked_size(request: GenerationRequest, step: int) -> tuple[int, int]:
    """(width, height) of a request with an input that is worked on as a whole."""
    assert request.image is not None
    size, asked = request.image.load().size, (request.width, request.height)
    if request.extend is not None:
        left, top, right, bottom = request.extend
        whole = working_size((size[0] + left + right, size[1] + top + bottom), step)
        if any(side not in (None, own) for side, own in zip(asked, whole, strict=True)):
            raise RequestError("extend decides the picture's size; leave width and height out, or scale the picture")
        return whole
    width, height = asked
    if width is not None and height is not None:
        return width, height
    if width is not None:
        return width, max(round(size[1] * width / size[0] / step), 1) * step
    if height is not None:
        return max(round(size[0] * height / size[1] / step), 1) * step, height
    return working_size(size, step)
