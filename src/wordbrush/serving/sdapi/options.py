"""Options: what a caller has set once for all of its requests. They are the caller's own, never the server's.

A few decide something here; the others are kept and given back, for clients that set what they know. A setting of one
request alone (`override_settings`) goes before them.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from wordbrush.errors import RequestError
from wordbrush.infotext import EMPHASIS_LABELS
from wordbrush.serving.sdapi.fields import plain
from wordbrush.serving.sdapi.refused import refuse_options

MODEL, VAE, CLIP_SKIP, EMPHASIS = "sd_model_checkpoint", "sd_vae", "CLIP_stop_at_last_layers", "emphasis"
FORMAT, QUALITY, LOSSLESS = "samples_format", "jpeg_quality", "webp_lossless"

FORMATS = {"png": "PNG", "jpg": "JPEG", "jpeg": "JPEG", "webp": "WEBP"}
"""samples_format -> Pillow's name of it."""

DEFAULTS: dict[str, Any] = {
    VAE: "Automatic",
    CLIP_SKIP: 1,
    EMPHASIS: "Original",
    FORMAT: "png",
    QUALITY: 80,
    LOSSLESS: False,
    "eta_noise_seed_delta": 0,
    "randn_source": "CPU",
    "enable_pnginfo": True,
    "face_restoration": False,
    "live_previews_enable": True,
}
"""What an option is that nobody has set; the model is the one that ships."""

MOST_OPTIONS, LONGEST = 500, 100_000

_OWN_VAE = ("", "automatic", "none")


def checked_options(given: Mapping[str, Any]) -> None:
    """Raises `RequestError` for an option whose value means nothing, or cannot be kept."""
    if len(given) > MOST_OPTIONS:
        raise RequestError(f"{len(given)} options were sent; at most {MOST_OPTIONS} are kept")
    try:
        plain(given)
    except ValueError as error:
        raise RequestError(f"the options do not fit: {error}") from error
    if sum(len(name) + len(str(value)) for name, value in given.items()) > LONGEST:
        raise RequestError(f"the options are too long; at most {LONGEST} characters are kept")
    refuse_options(given)
    for name in (MODEL, VAE, EMPHASIS, FORMAT):
        if given.get(name) is not None and not isinstance(given[name], str):
            raise RequestError(f"the option {name}={str(given[name])[:40]!r} is not a text")
    form = given.get(FORMAT)
    if form is not None and form.lower() not in FORMATS:
        raise RequestError(f"the option {FORMAT}={form!r} is not known here; there are {', '.join(FORMATS)}")
    _number(given, CLIP_SKIP, 1, 12)
    _number(given, QUALITY, 1, 100)
    emphasis = given.get(EMPHASIS)
    if emphasis is not None and _emphasis(emphasis) is None:
        names = ", ".join(EMPHASIS_LABELS.values())
        raise RequestError(f"the option {EMPHASIS}={emphasis!r} is not known here; there are {names}")


def request_fields(options: Mapping[str, Any]) -> dict[str, Any]:
    """What checked options say of a `GenerationRequest`, by its names; silent about what is the model's own."""
    fields: dict[str, Any] = {}
    if options.get(MODEL):
        fields["model"] = options[MODEL]
    vae = options.get(VAE)
    if vae is not None:
        fields["vae"] = None if vae.lower() in _OWN_VAE else vae
    skip = options.get(CLIP_SKIP)
    if skip is not None:  # the web UI's 1 is what the model was trained with
        fields["clip_skip"] = int(skip) if skip > 1 else None
    emphasis = options.get(EMPHASIS)
    if emphasis is not None:
        fields["emphasis"] = _emphasis(emphasis)
    return fields


def without_effect(options: Mapping[str, Any]) -> list[str]:
    """The names of options that decide nothing here."""
    return sorted(set(options) - set(DEFAULTS) - {MODEL, "sd_checkpoint_hash"})


def _emphasis(label: str) -> str | None:
    return {shown.lower(): name for name, shown in EMPHASIS_LABELS.items()}.get(label.lower())


def _number(given: Mapping[str, Any], name: str, low: int, high: int) -> None:
    value = given.get(name)
    if value is None:
        return
    if isinstance(value, bool) or not isinstance(value, int | float) or value != value or not low <= value <= high:
        raise RequestError(f"the option {name}={str(value)[:40]} is not a number from {low} to {high}")
