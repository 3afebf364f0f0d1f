"""The `parameters` text that the AUTOMATIC1111 web UI and its relatives write into pictures, read and written.

    a fox on a blue background
    Negative prompt: blurry
    Steps: 20, Sampler: DPM++ 2M, Schedule type: Karras, CFG scale: 5, Seed: 7, Size: 128x128, Model: scenes-128

Reading keeps what has a meaning here and lists the rest, so that nothing is dropped without a word.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from wordbrush.errors import RequestError
from wordbrush.request_fields import FILTERS, LATENT_UPSCALERS

SAMPLER_LABELS = {
    "ddpm": "DDPM",
    "ddim": "DDIM",
    "pndm": "PLMS",
    "euler": "Euler",
    "euler_a": "Euler a",
    "heun": "Heun",
    "dpm2": "DPM2",
    "dpm2_a": "DPM2 a",
    "lms": "LMS",
    "dpmpp_2s_a": "DPM++ 2S a",
    "dpmpp_2m": "DPM++ 2M",
    "dpmpp_sde": "DPM++ SDE",
    "dpmpp_2m_sde": "DPM++ 2M SDE",
    "dpmpp_3m_sde": "DPM++ 3M SDE",
    "unipc": "UniPC",
    "deis": "DEIS",
    "lcm": "LCM",
}

SCHEDULE_LABELS = {
    "normal": "Normal",
    "ddim_uniform": "DDIM",
    "sgm_uniform": "SGM Uniform",
    "simple": "Simple",
    "karras": "Karras",
    "exponential": "Exponential",
    "beta": "Beta",
    "ays": "Align Your Steps",
}

# The web UI's words for what lies under a mask; what it was is not said.
MASKED_CONTENT = {"blur": "fill", "noise": "latent noise", "empty": "latent nothing"}

EMPHASIS_LABELS = {"original": "Original", "no norm": "No norm", "ignore": "Ignore", "none": "None"}

# What the web UI's "Automatic" schedule stands for with each sampler; the others take the model's own.
_AUTOMATIC = {
    **dict.fromkeys(("dpmpp_2m", "dpmpp_sde", "dpmpp_2s_a", "dpm2", "dpm2_a"), "karras"),
    **dict.fromkeys(("dpmpp_2m_sde", "dpmpp_3m_sde"), "exponential"),
}

# `key: value` with the value in JSON quotes when it holds a comma, a colon or a line break.
# Nothing is looked at again and again: spaces only from where they begin, and of a text without a colon no more than a
# key is long. Texts come from strangers, and this would take hours for a megabyte of one letter.
_PAIR = re.compile(r'(?:(?<!\s)\s++)?+(\w[\w \-/]{1,100}+):\s*("(?:\\.|[^\\"])+"|[^,]*)(?:,|$)')

_LONGEST_LINE = 100_000  # a line of pairs has some hundreds of characters, a longer one is none

# Upscalers that are no files, which the web UI writes with a capital.
_CAPITALISED = (*FILTERS, *LATENT_UPSCALERS)

# Keys that say where a picture came from and decide no pixel.
_PROVENANCE = {
    "Model hash", "Version", "User", "Lora hashes", "TI hashes", "VAE hash", "Preset", "Styles", "Negative Template",
}  # fmt: skip


@dataclass(frozen=True)
class Infotext:
    """A `parameters` text understood.

    Attributes:
        fields: of a `GenerationRequest`, by name.
        ignored: the keys and values that have no meaning here.
        provenance: those that say where the picture came from and decide no pixel.
    """

    fields: dict[str, Any]
    ignored: dict[str, str]
    provenance: dict[str, str]


def write_infotext(fields: Mapping[str, Any], extras: Mapping[str, str]) -> str:
    """The text for the fields of a filled-in request for one picture. None is left out; `extras` come last.

    LoRAs, as (name, strength in the denoising network, strength in the text encoders), become tags of the prompt.
    """
    width, height, interval = fields["width"], fields["height"], fields["guidance_interval"]
    hires, told = fields["hires"], fields["true_guidance"]  # with it, `guidance` is what the network is told
    pairs: dict[str, Any] = {
        "Steps": fields["steps"],
        "Sampler": SAMPLER_LABELS.get(fields["sampler"]),
        "Schedule type": SCHEDULE_LABELS.get(fields["schedule"]),
        "CFG scale": fields["guidance"] if told is None else told,
        "Distilled CFG Scale": None if told is None else fields["guidance"],
        "Image CFG scale": fields["image_guidance"],
        "Seed": fields["seed"],
        "Size": None if width is None or height is None else f"{width}x{height}",
        "Model": fields["model"],
        "VAE": fields["vae"],
        "Denoising strength": fields["strength"] if hires is None else hires.strength,
        "Hires upscale": None if hires is None else hires.scale,
        "Hires steps": None if hires is None else hires.steps,
        "Hires upscaler": None if hires is None else upscaler_label(hires.upscaler),
        "Mask blur": fields["mask_blur"],
        "Mask grow": fields["mask_grow"],
        "Mask mode": "Inpaint not masked" if fields["mask_invert"] else None,
        "Masked content": MASKED_CONTENT.get(fields["mask_fill"]),
        "Inpaint area": "Only masked" if fields["only_masked"] else None,
        "Masked area padding": fields["only_masked_padding"],
        "Extend": None if fields["extend"] is None else " ".join(map(str, fields["extend"])),
        "Clip skip": fields["clip_skip"],
        "Emphasis": None if fields["emphasis"] == "original" else EMPHASIS_LABELS[fields["emphasis"]],
        "CFG rescale": fields["guidance_rescale"] or None,
        "CFG interval": None if interval is None else f"{_number(interval[0])} to {_number(interval[1])}",
        "Timesteps": None if fields["timesteps"] is None else " ".join(map(str, fields["timesteps"])),
        "Variation seed": fields["variation_seed"],
        "Variation seed strength": fields["variation_strength"],
        "Blend prompt": fields["blend_prompt"],
        "Blend": fields["blend"],
        "CLIP guidance": fields["clip_guidance"],
        "CLIP model": fields["clip"],
        "Preset": fields["preset"],
        "Styles": ", ".join(fields["styles"]) or None,
        "Template": None if fields["written"] == fields["prompt"] else fields["written"],
        "Postprocess upscale by": fields["upscale"],
        "Postprocess upscaler": None if fields["upscaler"] is None else upscaler_label(fields["upscaler"]),
        **extras,
    }
    line = ", ".join(f"{key}: {_quoted(value)}" for key, value in pairs.items() if value is not None)
    negative = f"\nNegative prompt: {fields['negative_prompt']}" if fields["negative_prompt"] else ""
    tags = "".join(f" <lora:{name}:{_number(text)}:{_number(unet)}>" for name, unet, text in fields["loras"])
    return f"{fields['prompt']}{tags}{negative}\n{line}".strip()


def read_infotext(text: str) -> Infotext:
    """Understands a `parameters` text of any program that writes this form.

    Raises `RequestError` when a value that matters here cannot be understood.
    """
    prompt, negative, pairs = split_infotext(text)
    fields: dict[str, Any] = {"prompt": prompt, "negative_prompt": negative}
    readers: dict[str, tuple[str, Callable[[str], Any]]] = {
        "Steps": ("steps", int),
        "CFG scale": ("true_guidance" if "Distilled CFG Scale" in pairs else "guidance", float),
        "Distilled CFG Scale": ("guidance", float),
        "Image CFG scale": ("image_guidance", float),
        "Seed": ("seed", int),
        "Model": ("model", str),
        "VAE": ("vae", str),
        "Clip skip": ("clip_skip", int),
        "Emphasis": ("emphasis", _emphasis),
        "CFG rescale": ("guidance_rescale", float),
        "CFG interval": ("guidance_interval", lambda value: tuple(map(float, value.split(" to ")))),
        "Timesteps": ("timesteps", lambda value: tuple(map(int, value.split()))),
        "Variation seed": ("variation_seed", int),
        "Variation seed strength": ("variation_strength", float),
        "Blend prompt": ("blend_prompt", str),
        "Blend": ("blend", float),
        "CLIP guidance": ("clip_guidance", float),
        "CLIP model": ("clip", str),
        "Template": ("written", str),
        "Postprocess upscale by": ("upscale", float),
        "Postprocess upscaler": ("upscaler", upscaler_named),
    }
    for key, (name, read) in readers.items():
        if key in pairs:
            try:
                fields[name] = read(pairs.pop(key))
            except ValueError as error:
                raise RequestError(f"the picture's text has no valid {key!r}: {error}") from error
    if "Size" in pairs:
        fields["width"], fields["height"] = _size(pairs.pop("Size"))
    if "Sampler" in pairs:
        schedule = pairs.pop("Schedule type", "Automatic")
        fields["sampler"], fields["schedule"] = sampler_named(pairs.pop("Sampler"), schedule)
    if "timesteps" in fields:
        fields.pop("schedule", None)
    if "Hires upscale" in pairs:
        fields["hires"] = _hires(pairs)
    if any(sign in text for text in (prompt, negative) for sign in ("{", "}", "__")):
        fields.setdefault("written", prompt)  # these are the words of a picture, of which nothing is drawn again
    provenance = {key: pairs.pop(key) for key in sorted(_PROVENANCE & pairs.keys())}
    return Infotext(fields=fields, ignored=pairs, provenance=provenance)


def split_infotext(text: str) -> tuple[str, str, dict[str, str]]:
    """Prompt, negative prompt, and the pairs of the last line (which counts only when it holds at least three)."""
    lines = text.strip().split("\n")
    found = _PAIR.findall(lines[-1]) if len(lines[-1]) <= _LONGEST_LINE else []
    pairs = {key.strip(): _unquoted(value) for key, value in found}
    if len(pairs) < 3:
        pairs = {}
    else:
        lines.pop()
    start = next((i for i, line in enumerate(lines) if line.startswith("Negative prompt:")), len(lines))
    negative = "\n".join(lines[start:]).removeprefix("Negative prompt:")
    return "\n".join(lines[:start]).strip(), negative.strip(), pairs


def _size(value: str) -> tuple[int, int]:
    match = re.fullmatch(r"(\d+)x(\d+)", value)
    if match is None:
        raise RequestError(f"the picture's text has Size: {value!r}, which is not WIDTHxHEIGHT")
    return int(match[1]), int(match[2])


def _hires(pairs: dict[str, str]) -> dict[str, Any]:
    """The second loop that the pairs, which are taken out, speak of; 0 steps are as many as the first loop's."""
    found: dict[str, Any] = {}
    readers: dict[str, tuple[str, Callable[[str], Any]]] = {
        "Hires upscale": ("scale", float),
        "Hires upscaler": ("upscaler", upscaler_named),
        "Hires steps": ("steps", lambda value: int(value) or None),
        "Denoising strength": ("strength", float),
    }
    for key, (name, read) in readers.items():
        if key in pairs:
            try:
                found[name] = read(pairs.pop(key))
            except ValueError as error:
                raise RequestError(f"the picture's text has no valid {key!r}: {error}") from error
    return found


def upscaler_label(name: str) -> str:
    """What the web UI calls an upscaler: filters and latent modes with a capital, files by their name."""
    return name[0].upper() + name[1:] if name in _CAPITALISED else name


def upscaler_named(label: str) -> str:
    """The name of what the web UI calls so."""
    return label.lower() if label.lower() in _CAPITALISED else label


def _emphasis(label: str) -> str:
    return {shown: name for name, shown in EMPHASIS_LABELS.items()}.get(label, label)


def sampler_named(label: str, schedule_label: str) -> tuple[str, str | None]:
    """Sampler and schedule names from their labels; before web UI 1.9 the schedule was the sampler's last word.

    Raises `RequestError` for one that is not known here.
    """
    schedules = {shown.lower(): name for name, shown in SCHEDULE_LABELS.items()}
    schedules |= {name: name for name in SCHEDULE_LABELS} | {"uniform": "normal", "discrete": "normal"}
    samplers = {shown.lower(): name for name, shown in SAMPLER_LABELS.items()} | {name: name for name in SAMPLER_LABELS}
    words, last = label.lower().strip(), schedule_label.lower().strip()
    if words not in samplers:
        for shown, name in schedules.items():
            stem = words.removesuffix(f" {shown}")
            if stem != words and stem in samplers:
                return samplers[stem], name
        raise RequestError(f"the sampler {label!r} is not known here; there are {', '.join(SAMPLER_LABELS.values())}")
    sampler = samplers[words]
    if last in ("automatic", ""):
        return sampler, _AUTOMATIC.get(sampler)
    if last not in schedules:
        raise RequestError(f"the schedule {schedule_label!r} is not known here; there are {', '.join(schedules)}")
    return sampler, schedules[last]


def _number(value: float) -> str:
    """The shortest text that reads back as the same number, without a trailing `.0`."""
    return repr(float(value)).removesuffix(".0")


def _quoted(value: Any) -> str:
    text = _number(value) if isinstance(value, float) else str(value)
    if any(mark in text for mark in ',:\n"'):
        return json.dumps(text, ensure_ascii=False)
    return text


def _unquoted(value: str) -> str:
    if len(value) >= 2 and value[0] == value[-1] == '"':
        try:
            return str(json.loads(value))
        except ValueError:
            return value
    return value.strip()
