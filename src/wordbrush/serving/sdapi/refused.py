"""What the web UI can do and this server cannot: refused in one sentence when it is switched on, never passed over.

Clients send every field with its default; the defaults pass.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from wordbrush.errors import RequestError
from wordbrush.serving.sdapi.fields import Body

_ANCESTRAL = ("euler_a", "dpm2_a", "dpmpp_2s_a", "dpmpp_sde", "dpmpp_2m_sde", "dpmpp_3m_sde", "ddpm", "lcm")
"""Samplers that add noise; their eta is 1."""

_NOT_HERE: dict[str, tuple[Callable[[Any], bool], str]] = {
    "restore_faces": (lambda value: not value, "no network that restores faces is here"),
    "tiling": (lambda value: not value, "pictures that tile are not painted here"),
    "refiner_checkpoint": (
        lambda value: value in ("", "None"),
        "a run does not change its model on the way; refine in a second request, by img2img with that model",
    ),
    "seed_resize_from_h": (lambda value: value <= 0, "noise is not resized here; leave it at -1"),
    "seed_resize_from_w": (lambda value: value <= 0, "noise is not resized here; leave it at -1"),
    "s_min_uncond": (lambda value: value == 0, "every step is guided here; leave it at 0"),
    "s_churn": (lambda value: value == 0, "samplers do not churn here; leave it at 0"),
    "s_noise": (lambda value: value == 1, "a sampler's noise has unit variance here; leave it at 1"),
    "firstpass_image": (lambda value: value == "", "the first pass is always painted; leave it out"),
    "initial_noise_multiplier": (lambda value: value == 1, "noise has unit variance here; leave it at 1"),
    "latent_mask": (lambda value: value == "", "give the mask as mask"),
    "gfpgan_visibility": (lambda value: value == 0, "no network that restores faces is here; leave it at 0"),
    "codeformer_visibility": (lambda value: value == 0, "no network that restores faces is here; leave it at 0"),
}

_OPTIONS_NOT_HERE: dict[str, tuple[Callable[[Any], bool], str]] = {
    "eta_noise_seed_delta": (lambda value: value in (0, None), "each picture's noise follows its seed; leave it at 0"),
    "face_restoration": (lambda value: not value, "no network that restores faces is here"),
    "tiling": (lambda value: not value, "pictures that tile are not painted here"),
}


def refuse_what_is_not_here(body: Body) -> None:
    """Raises `RequestError` for the first field that asks for what cannot be done."""
    for name, (harmless, why) in _NOT_HERE.items():
        value = getattr(body, name, None)
        if value is not None and not harmless(value):
            raise RequestError(f"{name}={_short(value)} cannot be done: {why}")


def refuse_options(options: Mapping[str, Any]) -> None:
    """Raises `RequestError` for the first option that asks for what cannot be done."""
    for name, (harmless, why) in _OPTIONS_NOT_HERE.items():
        if name in options and not harmless(options[name]):
            raise RequestError(f"the option {name}={_short(options[name])} cannot be kept: {why}")


def refuse_scripts(script_name: str | None, always_on: Mapping[str, Any]) -> None:
    """Raises `RequestError` when a script or extension is asked for: there are none."""
    if script_name and script_name != "None":
        raise RequestError(f"script {script_name[:60]!r} is not found; this server runs no scripts")
    for name in always_on:
        raise RequestError(f"always-on script {name[:60]!r} is not found; this server has no extensions")


def refuse_eta(eta: float | None, sampler: str | None) -> None:
    """Raises `RequestError` for an eta that the sampler does not have here.

    1 always passes, for clients send it with every sampler, and 0 with those that add no noise.
    """
    if eta is None or eta == 1 or (eta == 0 and sampler not in _ANCESTRAL):
        return
    raise RequestError(
        f"eta={eta:g} cannot be done: samplers keep their own eta here; choose a sampler by what it adds"
    )


def _short(value: Any) -> str:
    shown = repr(value)
    return shown if len(shown) <= 40 else f"{shown[:37]}..."
