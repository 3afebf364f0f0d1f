"""The bodies of requests, by the web UI's names. None, or left out, is always "the model's own" or "off".

Fields that are not known here are read, and said to be without effect in the answer's notes: clients of the web UI's
many relatives send some. What is known and cannot be done is refused when it is switched on; see `refused.py`.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Annotated, Any

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, WithJsonSchema, model_validator

from wordbrush.serving.limits import LONGEST

_DEEPEST = 32


def plain(value: Any, depth: int = 0) -> Any:
    """The JSON value, if every JSON can hold it: Python's reader takes numbers and texts that are none.

    Raises `ValueError` for a number that is not finite, a text that is not valid Unicode, and nesting beyond reason.
    """
    if depth > _DEEPEST:
        raise ValueError(f"it is nested more than {_DEEPEST} deep")
    if isinstance(value, str):
        if not value.isascii() and any("\ud800" <= character <= "\udfff" for character in value):
            raise ValueError("a text holds characters that are not valid Unicode text")
    elif isinstance(value, float):
        if not math.isfinite(value):
            raise ValueError("a number is not finite")
    elif isinstance(value, Mapping):
        for key, inner in value.items():
            plain(key)
            plain(inner, depth + 1)
    elif isinstance(value, list):
        for inner in value:
            plain(inner, depth + 1)
    return value


class Body(BaseModel):
    """A JSON object of which more is read than is known."""

    model_config = ConfigDict(extra="allow", protected_namespaces=())

    @model_validator(mode="before")
    @classmethod
    def _plain(cls, value: Any) -> Any:
        return plain(value)

    @property
    def unknown(self) -> list[str]:
        """Names of the fields that mean nothing here."""
        return sorted(self.__pydantic_extra__ or {})


def _number(value: Any) -> Any:
    if isinstance(value, bool | str):
        raise ValueError("a number is wanted")
    return value


def _flag(value: Any) -> Any:
    if not isinstance(value, bool) and value not in (0, 1):
        raise ValueError("true or false is wanted")
    return bool(value)


Whole = Annotated[int, BeforeValidator(_number), Field(ge=-(2**63), le=2**63 - 1)]
Real = Annotated[float, BeforeValidator(_number), Field(allow_inf_nan=False)]
Flag = Annotated[bool, BeforeValidator(_flag), WithJsonSchema({"anyOf": [{"type": "boolean"}, {"enum": [0, 1]}]})]


def _listed(value: Any) -> Any:
    return [] if value is None else value


_NULL = {"type": "null"}

Names = Annotated[
    list[str],
    BeforeValidator(_listed),
    WithJsonSchema({"anyOf": [{"type": "array", "items": {"type": "string"}}, _NULL]}),
]
Options = Annotated[
    dict[str, Any],
    BeforeValidator(lambda value: {} if value is None else value),
    WithJsonSchema({"anyOf": [{"type": "object", "additionalProperties": True}, _NULL]}),
]


class Painting(Body):
    """What txt2img and img2img have in common."""

    prompt: str | None = None
    negative_prompt: str | None = None
    styles: Names = []
    seed: Whole | None = Field(default=None, description="-1 or absent draws one.")
    subseed: Whole | None = Field(default=None, description="-1 or absent draws one.")
    subseed_strength: Real | None = Field(default=None, description="0 to 1: how far towards the subseed's noise.")
    seed_resize_from_h: Whole | None = None
    seed_resize_from_w: Whole | None = None
    sampler_name: str | None = Field(
        default=None, max_length=200, description='A label such as "DPM++ 2M", or "DPM++ 2M Karras".'
    )
    sampler_index: str | None = Field(default=None, max_length=200, description="The old name of sampler_name.")
    scheduler: str | None = Field(
        default=None, max_length=200, description='Absent or "automatic": as fits the sampler.'
    )
    batch_size: Whole | None = Field(default=None, ge=1, description="Pictures at once; 1 if absent.")
    n_iter: Whole | None = Field(default=None, ge=1, description="So often; 1 if absent.")
    steps: Whole | None = Field(default=None, description="The model's own number if absent.")
    cfg_scale: Real | None = Field(default=None, description="The model's own if absent.")
    distilled_cfg_scale: Real | None = Field(default=None, description="Of models that are told their guidance.")
    width: Whole | None = Field(default=None, description="The model's own if absent.")
    height: Whole | None = Field(default=None, description="The model's own if absent.")
    restore_faces: Flag | None = None
    tiling: Flag | None = None
    do_not_save_samples: Flag | None = None
    do_not_save_grid: Flag | None = None
    eta: Real | None = None
    denoising_strength: Real | None = None
    s_min_uncond: Real | None = None
    s_churn: Real | None = None
    s_tmax: Real | None = None
    s_tmin: Real | None = None
    s_noise: Real | None = None
    override_settings: Options = Field(default={}, description="Options for this request alone.")
    override_settings_restore_afterwards: Flag | None = None
    refiner_checkpoint: str | None = None
    refiner_switch_at: Real | None = None
    disable_extra_networks: Flag | None = None
    firstpass_image: str | None = None
    comments: dict[str, Any] | None = None
    force_task_id: str | None = Field(default=None, max_length=200, description="A name to ask for progress by.")
    script_name: str | None = None
    script_args: list[Any] | None = None
    alwayson_scripts: Options = {}
    send_images: Flag | None = Field(default=None, description="False: the answer holds no pictures; they are kept.")
    save_images: Flag | None = Field(default=None, description="Pictures are always kept.")
    infotext: str | None = Field(
        default=None, max_length=LONGEST, description="A picture's text, for the fields that are not given."
    )


class Txt2Img(Painting):
    """The body of txt2img."""

    enable_hr: Flag | None = None
    firstphase_width: Whole | None = Field(default=None, ge=0)
    firstphase_height: Whole | None = Field(default=None, ge=0)
    hr_scale: Real | None = None
    hr_upscaler: str | None = None
    hr_second_pass_steps: Whole | None = Field(default=None, description="0: as many as steps.")
    hr_resize_x: Whole | None = Field(default=None, ge=0)
    hr_resize_y: Whole | None = Field(default=None, ge=0)
    hr_checkpoint_name: str | None = None
    hr_sampler_name: str | None = None
    hr_scheduler: str | None = None
    hr_prompt: str | None = None
    hr_negative_prompt: str | None = None


class Img2Img(Painting):
    """The body of img2img."""

    init_images: list[str] | None = Field(default=None, max_length=64, description="Base64, or data URLs.")
    resize_mode: Whole | None = Field(
        default=None, ge=0, le=3, description="0 squash, 1 cut, 2 fill up, 3 squash latents (of the same size only)."
    )
    image_cfg_scale: Real | None = None
    mask: str | None = Field(default=None, description="White (or, of a transparent picture, opaque) may change.")
    mask_blur: Whole | None = Field(default=None, ge=0)
    mask_blur_x: Whole | None = Field(default=None, ge=0)
    mask_blur_y: Whole | None = Field(default=None, ge=0)
    mask_round: Flag | None = Field(default=None, description="True if absent: a mask has no greys.")
    inpainting_fill: Whole | None = Field(
        default=None, ge=0, le=3, description="0 (if absent) surroundings, 1 original, 2 noise, 3 nothing."
    )
    inpaint_full_res: Flag | None = Field(default=None, description="True if absent: only the masked part is painted.")
    inpaint_full_res_padding: Whole | None = Field(default=None, ge=0)
    inpainting_mask_invert: Flag | None = None
    initial_noise_multiplier: Real | None = None
    latent_mask: str | None = None
    include_init_images: Flag | None = None


class Extras(Body):
    """What extra-single-image and extra-batch-images have in common."""

    resize_mode: Whole | None = Field(default=None, ge=0, le=1, description="0 by upscaling_resize, 1 to a size.")
    show_extras_results: Flag | None = None
    gfpgan_visibility: Real | None = None
    codeformer_visibility: Real | None = None
    codeformer_weight: Real | None = None
    upscaling_resize: Real | None = Field(default=None, description="1 to 8; 2 if absent.")
    upscaling_resize_w: Whole | None = None
    upscaling_resize_h: Whole | None = None
    upscaling_crop: Flag | None = Field(default=None, description="True if absent.")
    upscaler_1: str | None = None
    upscaler_2: str | None = None
    extras_upscaler_2_visibility: Real | None = Field(default=None, ge=0, le=1)
    upscale_first: Flag | None = None


class ExtraSingle(Extras):
    """The body of extra-single-image."""

    image: str


class NamedPicture(Body):
    """A picture of a batch."""

    data: str
    name: str = ""


class ExtraBatch(Extras):
    """The body of extra-batch-images."""

    imageList: list[NamedPicture] = Field(min_length=1, max_length=64)


class PngInfo(Body):
    """The body of png-info."""

    image: str


class Interrogate(Body):
    """The body of interrogate."""

    image: str
    model: str = "clip"


class TaskProgress(Body):
    """The body of /internal/progress."""

    id_task: str | None = Field(default=None, max_length=200)
    id_live_preview: Whole | None = -1
    live_preview: Flag | None = True
