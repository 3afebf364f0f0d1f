"""What a request can carry besides words and numbers: pictures to start from, masks, and starting noise.

They compare by content, print short, and have a JSON form: a picture is written as its path and the SHA-256 of its
pixels (so that `replay` can tell when the file has changed), a box as four numbers, noise as its numbers.
"""

from __future__ import annotations

import base64
import math
import re
import zlib
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, cast

from wordbrush.errors import RequestError
from wordbrush.pictures import open_picture, pixel_hash

if TYPE_CHECKING:
    import numpy as np
    from PIL import Image


@dataclass(frozen=True)
class InputPicture:
    """A picture named by a path, given as a PIL image, or known only by its hash from a file's metadata."""

    path: str | None
    sha256: str | None
    picture: Any = field(default=None, repr=False, compare=False)
    """The PIL image, or None; not annotated as such, because pydantic would import Pillow to look."""

    @classmethod
    def parse(cls, value: Any) -> InputPicture:
        """Accepts an `InputPicture`, a PIL image, a path, or the JSON form `{"path": ..., "sha256": ...}`."""
        from PIL import Image

        if isinstance(value, InputPicture):
            return value
        if isinstance(value, Image.Image):
            return cls(path=None, sha256=pixel_hash(value), picture=value.copy())
        if isinstance(value, str | Path):
            picture = open_picture(value)
            return cls(path=str(value), sha256=pixel_hash(picture), picture=picture)
        if isinstance(value, dict) and set(value) <= {"path", "sha256"}:
            path, sha256 = value.get("path"), value.get("sha256")
            if all(part is None or isinstance(part, str) for part in (path, sha256)) and (path or sha256):
                return cls(path=path, sha256=sha256)
        raise ValueError("give a PIL image, a path, or an object with 'path' and 'sha256'")

    def to_json(self) -> dict[str, str | None]:
        return {"path": self.path, "sha256": self.sha256}

    def load(self) -> Image.Image:
        """The picture itself.

        Raises `RequestError` when it is only known by its hash, or when the file no longer holds what the hash says.
        """
        if self.picture is not None:
            return cast("Image.Image", self.picture)
        if self.path is None:
            raise RequestError(
                f"the input picture with sha256 {self.sha256} is not at hand; give it as image= or mask="
            )
        picture = open_picture(self.path)
        found = pixel_hash(picture)
        if self.sha256 is not None and found != self.sha256:
            raise RequestError(
                f"the input picture {self.path!r} has changed: its pixels hash to {found[:12]}…, "
                f"the request was made with {self.sha256[:12]}…"
            )
        return picture

    def opened(self) -> InputPicture:
        """The same with the picture at hand and its hash known, so that no file is read twice. Raises as `load`."""
        if self.picture is not None and self.sha256 is not None:
            return self
        picture = self.load()
        return replace(self, picture=picture, sha256=pixel_hash(picture))


@dataclass(frozen=True)
class MaskBox:
    """A mask that is a rectangle of the picture, in its pixels from the top left; what is inside may change."""

    x: int
    y: int
    width: int
    height: int

    def __post_init__(self) -> None:
        if self.x < 0 or self.y < 0:
            raise ValueError(f"a box of x,y,width,height {self} begins outside the picture; its top left pixel is 0,0")
        if self.width < 1 or self.height < 1:
            raise ValueError(f"a box of x,y,width,height {self} holds no pixel; give one such as 32,16,64,48")

    def __str__(self) -> str:
        return f"{self.x},{self.y},{self.width},{self.height}"

    def to_json(self) -> list[int]:
        return [self.x, self.y, self.width, self.height]


Mask = InputPicture | MaskBox | Literal["alpha"]
"""White of a picture, the inside of a box, or what is transparent in the picture itself may change."""


def parse_mask(value: Any) -> Mask:
    """Accepts a `MaskBox`, four numbers or "x,y,width,height"; "alpha"; or what `InputPicture.parse` accepts."""
    if isinstance(value, MaskBox):
        return value
    if isinstance(value, str) and value == "alpha":
        return "alpha"
    if isinstance(value, str) and re.fullmatch(r"\s*-?\d+(\s*,\s*-?\d+)+\s*", value):
        value = [int(part) for part in value.split(",")]
    if isinstance(value, list | tuple):
        if len(value) != 4 or not all(isinstance(part, int) and not isinstance(part, bool) for part in value):
            raise ValueError("a box is four whole numbers, x,y,width,height")
        return MaskBox(*value)
    return InputPicture.parse(value)


def mask_json(mask: Mask) -> Any:
    """The JSON form that `parse_mask` reads."""
    return mask if isinstance(mask, str) else mask.to_json()


@dataclass(frozen=True)
class InputNoise:
    """Unit-variance starting noise of shape (B, C, h, w), held as little-endian float32 bytes."""

    shape: tuple[int, int, int, int]
    data: bytes = field(repr=False)

    @classmethod
    def parse(cls, value: Any) -> InputNoise:
        """Accepts an `InputNoise`, a tensor or array of shape (B, C, h, w), or the JSON form that `to_json` writes."""
        if isinstance(value, InputNoise):
            return value
        if isinstance(value, dict) and set(value) == {"shape", "float32"}:
            return cls._from_json(value)
        if not hasattr(value, "shape"):
            raise ValueError("give a tensor of shape (B, C, h, w)")
        return cls._from_array(value)

    @classmethod
    def _from_array(cls, value: Any) -> InputNoise:
        import numpy as np

        if hasattr(value, "detach"):  # a torch tensor, perhaps in bfloat16, which NumPy does not have
            value = value.detach().cpu().float().numpy()
        array = np.ascontiguousarray(value, dtype="<f4")
        if array.ndim != 4 or 0 in array.shape:
            raise ValueError(f"shape {tuple(array.shape)} is not (B, C, h, w)")
        if not np.isfinite(array).all():
            raise ValueError("the noise holds infinite or not-a-number values")
        return cls(shape=tuple(int(size) for size in array.shape), data=array.tobytes())  # type: ignore[arg-type]

    @classmethod
    def _from_json(cls, value: dict[str, Any]) -> InputNoise:
        shape = tuple(value["shape"])
        if len(shape) != 4 or not all(isinstance(size, int) and size > 0 for size in shape):
            raise ValueError(f"shape {shape} is not (B, C, h, w)")
        expected = 4 * math.prod(shape)
        unpacker = zlib.decompressobj()
        try:  # never unpack more than the shape allows for
            data = unpacker.decompress(base64.b64decode(value["float32"], validate=True), expected)
        except (ValueError, TypeError, zlib.error) as error:
            raise ValueError(f"the noise cannot be unpacked: {error}") from error
        if len(data) != expected or unpacker.unconsumed_tail:
            raise ValueError(f"the noise does not hold the {expected} bytes that shape {shape} needs")
        return cls(shape=shape, data=data)

    def to_json(self) -> dict[str, Any]:
        return {"shape": list(self.shape), "float32": base64.b64encode(zlib.compress(self.data)).decode("ascii")}

    def array(self) -> np.ndarray:
        """The noise as a float32 array of shape (B, C, h, w)."""
        import numpy as np

        return np.frombuffer(self.data, dtype="<f4").reshape(self.shape)

    def part(self, start: int, stop: int) -> InputNoise:
        """The noise of pictures `start` to `stop` (exclusive)."""
        one = len(self.data) // self.shape[0]
        return InputNoise(shape=(stop - start, *self.shape[1:]), data=self.data[start * one : stop * one])
