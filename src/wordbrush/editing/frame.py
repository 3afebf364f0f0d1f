"""Which part of a picture the loop works on, at which size, and the way back; nothing is ever squashed."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from PIL import Image

Size = tuple[int, int]
"""(width, height) in pixels."""


@dataclass(frozen=True, kw_only=True)
class Frame:
    """A region of a picture, scaled by one factor to lie in the top left of the working size, which its edge fills up.

    Attributes:
        region: (left, top, right, bottom).
        scaled: of the region when it is worked on.
        working: no smaller than `scaled`.
    """

    region: tuple[int, int, int, int]
    scaled: Size
    working: Size

    @classmethod
    def whole(cls, size: Size, working: Size) -> Frame:
        """All of a picture at its own size."""
        return cls(region=(0, 0, *size), scaled=size, working=working)

    @classmethod
    def enlarged(cls, region: tuple[int, int, int, int], working: Size) -> Frame:
        """A region as large as the working size lets it be."""
        width, height = region[2] - region[0], region[3] - region[1]
        if width * working[1] >= height * working[0]:
            scaled = working[0], max(1, round(height * working[0] / width))
        else:
            scaled = max(1, round(width * working[1] / height)), working[1]
        return cls(region=region, scaled=scaled, working=working)

    def worked(self, picture: Image.Image, *, smooth: bool = False) -> Image.Image:
        """The region at the working size. smooth: without ringing at edges, for masks."""
        from PIL import Image

        part = picture.crop(self.region)
        if part.size != self.scaled:
            kind = Image.Resampling.BILINEAR if smooth else Image.Resampling.LANCZOS
            part = part.resize(self.scaled, kind)
        right, bottom = self.working[0] - self.scaled[0], self.working[1] - self.scaled[1]
        return padded(part, (0, 0, right, bottom))

    def restored(self, picture: Image.Image) -> Image.Image:
        """What the loop made, at the size of the region."""
        from PIL import Image

        part = picture.crop((0, 0, *self.scaled))
        size = self.region[2] - self.region[0], self.region[3] - self.region[1]
        return part if part.size == size else part.resize(size, Image.Resampling.LANCZOS)


def working_size(size: Size, step: int) -> Size:
    """The smallest size, of sides that are multiples of `step` and at least 8, that holds a picture of that size."""
    width, height = (max(-(-side // step), -(-8 // step)) * step for side in size)
    return width, height


def padded(picture: Image.Image, sides: tuple[int, int, int, int]) -> Image.Image:
    """The picture with its edge repeated by (left, top, right, bottom) pixels."""
    import numpy as np
    from PIL import Image

    if not any(sides):
        return picture
    left, top, right, bottom = sides
    pixels = np.asarray(picture)
    widths = [(top, bottom), (left, right), *[(0, 0)] * (pixels.ndim - 2)]
    return Image.fromarray(np.pad(pixels, widths, mode="edge"))


def fitted(picture: Image.Image, size: Size, *, smooth: bool = False) -> Image.Image:
    """The picture scaled by one factor to cover the size, what then stands over cut off evenly."""
    from PIL import Image, ImageOps

    if picture.size == size:
        return picture
    return ImageOps.fit(picture, size, Image.Resampling.BILINEAR if smooth else Image.Resampling.LANCZOS)
