"""Presets: named values for the fields of a request that are not given, in YAML files, fitted to the model.

Presets lie in the user's `presets` folder, a file each, and some ship with Wordbrush; one of the user's takes the place
of a shipped one of the same name. Importing this module does not load torch, so that the server can list them.
"""

from __future__ import annotations

import difflib
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from wordbrush.errors import RequestError
from wordbrush.formats.user_folders import config_folder, shipped_folder
from wordbrush.request import GenerationRequest

if TYPE_CHECKING:
    from wordbrush.conditioning.writing import PromptWriter
    from wordbrush.formats.parts import ModelParts

# What is about one picture, or about the preset itself, is no business of a preset.
_NOT_SETTABLE = {
    "prompt", "model", "seed", "count", "timesteps", "image", "mask", "mask_invert", "extend", "latents",
    "variation_seed", "blend_prompt", "blend", "preset", "preset_set", "written",
}  # fmt: skip

# A model made for so few steps was distilled to do without guidance and with its own sampler.
_FEW_STEPS = 8

# Sides in pixels: models trained below the first are tiny, and no preset asks for more than the second.
_TINY, _LARGEST = 256, 1536

# Enough for latents that were interpolated to become sharp again, and too little for another composition.
_SECOND_LOOP = 0.55


@dataclass(frozen=True, kw_only=True)
class Preset:
    """A preset as its file has it.

    Attributes:
        about: one line for lists.
        size: sides as multiples of the model's own; None leaves them.
        fields: of a request, by name.
    """

    name: str
    about: str = ""
    size: float | None = None
    fields: Mapping[str, Any] = field(default_factory=dict)


def preset_files() -> dict[str, Path]:
    """Name -> file: the user's, then the shipped ones whose names they do not have."""
    found: dict[str, Path] = {}
    for folder in (config_folder() / "presets", shipped_folder()):
        for path in sorted(folder.glob("*.yaml")):
            found.setdefault(path.stem, path)
    return dict(sorted(found.items()))


def read_preset(path: Path) -> Preset:
    """Raises `RequestError` naming the file and what is wrong in it."""
    import yaml  # not needed by pictures without a preset

    try:
        values = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise RequestError(f"the preset {path} cannot be read: {' '.join(str(error).split())}") from error
    return _preset(path.stem, values, f"the preset {path}")


def preset_named(name: str) -> Preset:
    """Raises `RequestError` when there is none of the name, or its file is wrong."""
    files = preset_files()
    if name not in files:
        close = difflib.get_close_matches(name, files, n=1)
        hint = f"did you mean {close[0]}? " if close else ""
        raise RequestError(f"there is no preset {name!r}; {hint}there are {', '.join(files)}")
    return read_preset(files[name])


def worded(parts: ModelParts, writer: PromptWriter, request: GenerationRequest) -> GenerationRequest:
    """The request with a seed, its preset's values, and its prompts written out. A second time changes nothing.

    Raises:
        RequestError: a preset, style or wildcard does not exist, or a prompt cannot be read.
    """
    from wordbrush.editing.setup import with_seed

    return writer.written(with_preset(parts, with_seed(request), expands=writer.expander is not None))


def with_preset(parts: ModelParts, request: GenerationRequest, *, expands: bool) -> GenerationRequest:
    """The request with what its preset says where it is silent; one whose preset has had its say stays as it is.

    expands: whether the model comes with an expander.
    """
    if request.preset is None or request.preset_set is not None:
        return request
    values = fitted(parts, preset_named(request.preset), request, expands=expands)
    neutral = {name: info.get_default(call_default_factory=True) for name, info in _request_fields().items()}
    silent = {name: value for name, value in values.items() if getattr(request, name) == neutral[name]}
    given = {name: getattr(request, name) for name in request.model_fields_set}
    return GenerationRequest(**{**given, **silent, "preset_set": tuple(sorted(silent))})


def fitted(parts: ModelParts, preset: Preset, request: GenerationRequest, *, expands: bool) -> dict[str, Any]:
    """The fields that a preset sets for this model and request.

    A size is reached in the way that the model can (`_sized`), and left alone where a picture, starting noise or the
    user decides it. Guidance, its rescale and the negative prompt are for models with classifier-free guidance; one
    that was distilled for few steps keeps its sampler, too, and takes no more steps than its own. A prompt is expanded
    if there is something to expand it with.
    """
    size, values = preset.size, dict(preset.fields)
    unguided = parts.tells_guidance or parts.defaults.guidance <= 1
    unfit = set()
    if unguided and parts.defaults.steps <= _FEW_STEPS:
        unfit |= {"sampler", "schedule"}
        values["steps"] = min(values.get("steps", parts.defaults.steps), parts.defaults.steps)
    if unguided:
        unfit |= {"guidance", "guidance_rescale", "guidance_interval", "negative_prompt"}
    if not parts.tells_guidance:
        unfit |= {"true_guidance"}
    if parts.picture_input != "edit":
        unfit |= {"image_guidance"}
    if request.image is None:
        unfit |= {"strength"}
    if request.timesteps is not None:
        unfit |= {"steps", "schedule"}
    expand = values.get("expand")
    if isinstance(expand, Mapping | bool) and not expands and not (isinstance(expand, Mapping) and "model" in expand):
        unfit |= {"expand"}
    if size is not None:
        values.update({name: value for name, value in _sized(parts, request, size).items() if name not in values})
    checked = GenerationRequest(prompt="", **{name: value for name, value in values.items() if name not in unfit})
    return {name: getattr(checked, name) for name in values if name not in unfit}


def _sized(parts: ModelParts, request: GenerationRequest, size: float) -> dict[str, Any]:
    """The fields that give pictures of about `size` times the model's own, in the way that this model can.

    Smaller ones it paints so, but for one whose own are tiny, which then leaves things out. Larger ones it would fill
    with repetitions. So it paints its own size, and a second loop enlarges that; a tiny one's second loop repeats
    things too, and an upscaler does it.
    """
    from wordbrush.editing.setup import side_step

    deciding = ("image", "latents", "width", "height", "hires", "upscale", "timesteps")
    if any(getattr(request, name) is not None for name in deciding) or size == 1:
        return {}
    own, step = {name: getattr(parts.defaults, name) for name in ("width", "height")}, side_step(parts)
    tiny = min(own.values()) < _TINY
    if size < 1:
        factor = max(size, _TINY / min(own.values()))
        return {} if tiny else {name: max(1, round(side * factor / step)) * step for name, side in own.items()}
    size = min(size, max(1.0, _LARGEST / max(own.values())))
    if size == 1:
        return {}
    return {"upscale": size} if tiny else {"hires": {"scale": size, "strength": _SECOND_LOOP}}


def _preset(name: str, values: Any, where: str) -> Preset:
    if not isinstance(values, Mapping):
        raise RequestError(f"{where} is not a table of keys and values")
    fields = {key: value for key, value in values.items() if key not in ("about", "size")}
    settable = sorted(set(_request_fields()) - _NOT_SETTABLE)
    unknown = sorted(map(str, set(fields) - set(settable)))
    if unknown:
        raise RequestError(f"{where} sets {unknown[0]!r}; a preset can set about, size, {', '.join(settable)}")
    size = values.get("size")
    if size is not None and (isinstance(size, bool) or not isinstance(size, int | float) or not 0 < size <= 8):
        raise RequestError(f"{where} has size={size!r}; a multiple of the model's own size is wanted, such as 1.5")
    try:
        GenerationRequest(prompt="", **fields)
    except RequestError as error:
        if "has no meaning without" not in str(error):
            raise RequestError(f"{where} is wrong: {error}") from error
    return Preset(name=name, about=str(values.get("about", "")), size=size, fields=fields)


def _request_fields() -> Mapping[str, Any]:
    return GenerationRequest.model_fields
