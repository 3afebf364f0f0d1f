"""The form of the Edit page and the work that it stands for."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from wordbrush.errors import RequestError
from wordbrush.inputs import InputPicture
from wordbrush.request import GenerationRequest
from wordbrush.serving.work import Generate, Upscale
from wordbrush.studio.form import AUTO, seed_of

if TYPE_CHECKING:
    from PIL import Image

ALL, PART, EXTEND, ENLARGE = "all", "part", "extend", "enlarge"

NAMES = (
    "mode", "prompt", "negative", "model", "strength", "seed", "steps", "painted_at", "fill", "blur", "grow",
    "only_masked", "invert", "left", "top", "right", "bottom", "scale", "upscaler",
)  # fmt: skip
"""The form's fields, in the order in which handlers get their values."""

AS_IT_IS, MODELS_SIZE = "as it is", "model"
"""Values of `painted_at`."""

# A picture with more than so many times the pixels that a model paints by itself is painted at the model's size, unless
# told otherwise: far above its own size a model paints everything twice.
LARGE = 6.0


@dataclass(frozen=True)
class Source:
    """The picture that is edited: in the store, by its hash."""

    sha256: str
    width: int
    height: int

    @property
    def input(self) -> InputPicture:
        """As a request names it."""
        return InputPicture(path=None, sha256=self.sha256)


@dataclass(frozen=True)
class EditForm:
    """The form's values.

    Attributes:
        values: by the names of `NAMES`.
        own_size: (width, height) that the model paints by itself, where that is known.
    """

    values: Mapping[str, Any]
    own_size: tuple[int, int] | None = None

    @classmethod
    def of_values(cls, values: Sequence[Any], own_size: tuple[int, int] | None = None) -> EditForm:
        """values: of `NAMES`."""
        return cls(dict(zip(NAMES, values, strict=True)), own_size)

    @property
    def mode(self) -> str:
        """One of ALL, PART, EXTEND, ENLARGE."""
        return str(self.values["mode"])

    def work(self, source: Source, mask: Image.Image | None) -> Generate | Upscale:
        """What is asked of the server.

        mask: of the source's size, white where it may change; read for PART only.

        Raises:
            RequestError: a value does not fit, or there is nothing to do.
        """
        if self.mode == ENLARGE:
            return Upscale(
                images=(source.input,), scale=float(self.values["scale"]), upscaler=self.values["upscaler"] or None
            )
        fields = self._common(source)
        if self.mode == ALL:
            fields |= {"strength": self._strength} | self._painted(source)
        elif self.mode == PART:
            fields |= {"strength": self._strength} | self._part(source, mask)
        else:
            fields |= self._extended()
        return Generate(request=GenerationRequest.from_dict(fields))

    def _common(self, source: Source) -> dict[str, Any]:
        values = self.values
        prompt = str(values["prompt"] or "")
        if not prompt.strip():
            raise RequestError("there is no prompt; say what the picture shall show")
        fields = {
            "prompt": prompt,
            "negative_prompt": str(values["negative"] or ""),
            "model": values["model"] or None,
            "seed": seed_of(values["seed"]),
            "steps": steps_of(values["steps"]),
            "image": source.input,
        }
        return {name: value for name, value in fields.items() if value is not None}

    @property
    def _strength(self) -> float:
        return float(self.values["strength"])

    def _painted(self, source: Source) -> dict[str, int]:
        """At which size, where that is not the picture's own."""
        if self.values["painted_at"] == AS_IT_IS or self.own_size is None:
            return {}
        factor = math.sqrt(math.prod(self.own_size) / (source.width * source.height))
        if self.values["painted_at"] == AUTO and factor**2 * LARGE > 1:
            return {}
        width, height = (max(8, round(side * factor / 8) * 8) for side in (source.width, source.height))
        return {"width": width, "height": height}

    def _part(self, source: Source, mask: Image.Image | None) -> dict[str, Any]:
        if mask is None or mask.getbbox() is None:
            raise RequestError("nothing is marked; paint over what shall change")
        if mask.size != (source.width, source.height):
            raise RequestError("the mask belongs to another picture; paint it again")
        fields: dict[str, Any] = {
            "mask": mask,
            "mask_invert": bool(self.values["invert"]),
            "mask_grow": _whole(self.values["grow"], "grow"),
            "mask_blur": float(self.values["blur"] or 0),
        }
        if self.values["fill"]:
            fields["mask_fill"] = self.values["fill"]
        return fields | ({"only_masked": True} if self.values["only_masked"] else self._painted_whole(source))

    def _painted_whole(self, source: Source) -> dict[str, Any]:
        """A large picture of which only a part changes: the part is worked on at the model's size, and put back."""
        return {"only_masked": True} if self._painted(source) else {}

    def _extended(self) -> dict[str, Any]:
        sides = tuple(_whole(self.values[name], name) for name in ("left", "top", "right", "bottom"))
        if not any(sides):
            raise RequestError("all four sides are 0; say by how many pixels the picture shall grow")
        return {"extend": sides, "mask_blur": float(self.values["blur"] or 0)}


def steps_of(value: Any) -> int | None:
    """Steps from a form's text; None, the model's own, of an empty one. Raises `RequestError`."""
    text = str(value if value is not None else "").strip()
    if not text:
        return None
    if not text.isdigit() or len(text) > 4:
        raise RequestError(f"steps={text[:20]!r} does not fit: give a whole number from 1, or leave it empty")
    return int(text)


def _whole(value: Any, name: str) -> int:
    if float(value or 0) != int(value or 0):
        raise RequestError(f"{name}={value} does not fit: a whole number of pixels is wanted")
    return int(value or 0)
