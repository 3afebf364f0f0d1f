"""The web UI's names for samplers, schedules, upscalers and models, and ours for them.

Samplers and upscalers are read without regard to case: by the web UI's label, our own name, or k-diffusion's
("k_euler_a").
"""

from __future__ import annotations

from collections.abc import Iterable

from wordbrush.errors import RequestError
from wordbrush.infotext import SAMPLER_LABELS, SCHEDULE_LABELS, sampler_named, upscaler_label, upscaler_named
from wordbrush.request_fields import FILTERS, LATENT_UPSCALERS, SHIPPED_UPSCALER

NO_UPSCALER = "None"
AUTOMATIC = "automatic"
SAME = ("", "use same sampler", "use same scheduler", "use same checkpoint", "use same choices", "none")
"""Words for "as in the first pass"."""

# The web UI's own name of a schedule, where it is another than ours.
_SCHEDULE_NAMES = {"ddim_uniform": "ddim", "ays": "align_your_steps"}

_MORE_ALIASES = {"euler_a": ("k_euler_ancestral",), "dpm2_a": ("k_dpm_2_a",), "dpm2": ("k_dpm_2",), "pndm": ("plms",)}

DEFAULT_RHO = {"karras": 7.0}


def sampler_aliases(name: str) -> list[str]:
    """Other names of a sampler of ours than its label."""
    return [name, f"k_{name}", *_MORE_ALIASES.get(name, ())]


def schedule_name(name: str) -> str:
    """What the API calls a schedule of ours."""
    return _SCHEDULE_NAMES.get(name, name)


def sampler_and_schedule(label: str, scheduler: str | None) -> tuple[str, str | None]:
    """Our sampler and schedule. None is the model's own schedule for that sampler.

    label: with or without a schedule at its end, as in "DPM++ 2M Karras".
    scheduler: a name or label; None, "" and "automatic" leave it to the label, then to the web UI's rule.

    Raises:
        RequestError: there is no such sampler or schedule.
    """
    aliases = {alias: name for name in SAMPLER_LABELS for alias in sampler_aliases(name)}
    schedules = {given: name for name, given in _SCHEDULE_NAMES.items()}
    asked = (scheduler or AUTOMATIC).strip().lower()
    word = label.strip()
    return sampler_named(aliases.get(word.lower(), word), schedules.get(asked, asked))


def listed_samplers() -> list[tuple[str, str]]:
    """(name, label) of every sampler, in the order of the labels' list."""
    return list(SAMPLER_LABELS.items())


def listed_schedules() -> list[tuple[str, str]]:
    """(name, label) of every schedule, the automatic one first."""
    return [(AUTOMATIC, "Automatic"), *((schedule_name(name), label) for name, label in SCHEDULE_LABELS.items())]


def picture_upscalers(files: Iterable[str]) -> list[str]:
    """What can enlarge pictures, as the API calls it. files: names of the upscalers in the library."""
    return [NO_UPSCALER, *(upscaler_label(name) for name in FILTERS), SHIPPED_UPSCALER, *files]


def latent_modes() -> list[str]:
    """What can enlarge latents between the two loops of hires, as the API calls it."""
    return [upscaler_label(name) for name in LATENT_UPSCALERS]


def hires_upscaler(label: str) -> str:
    """Our name of what enlarges between the loops; "None" only resizes, by Lanczos, as in the web UI."""
    return "lanczos" if label in ("", NO_UPSCALER) else upscaler_named(label)


def picture_upscaler(label: str | None) -> str | None:
    """Our name of what enlarges a picture; None for none. Raises `RequestError` for one that enlarges latents."""
    if label is None or label in ("", NO_UPSCALER):
        return None
    name = upscaler_named(label)
    if name in LATENT_UPSCALERS:
        raise RequestError(f"upscaler {label!r} enlarges latents, not pictures; it is for hr_upscaler alone")
    return name
