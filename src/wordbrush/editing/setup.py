"""A request completed for a model: which size, which times, and nothing that the model has no use for."""

from __future__ import annotations

import secrets
from collections.abc import Sequence
from typing import Any

from wordbrush.diffusion.plan import TimePlan
from wordbrush.editing.canvas import with_picture
from wordbrush.editing.start import steps_to_run
from wordbrush.errors import RequestError
from wordbrush.formats.parts import ModelParts
from wordbrush.networks.tiny_vae import TinyAutoencoder
from wordbrush.request import GenerationRequest


def filled_for(parts: ModelParts, request: GenerationRequest) -> GenerationRequest:
    """The full request: the model's defaults, a seed and names put in. Filling twice changes nothing.

    Raises:
        RequestError: the request was made for another model, or asks for what this one cannot paint.
    """
    for what, wanted, held in (("model", request.model, parts.name), ("VAE", request.vae, parts.vae_name)):
        if wanted is not None and wanted != held:
            raise RequestError(f"the request is for {what} {wanted!r}, this pipeline holds {held or 'its own'!r}")
    _refuse_meaningless(parts, request)
    if request.variation_strength is not None and request.variation_seed is None:
        request = request.model_copy(update={"variation_seed": secrets.randbelow(2**32)})
    changed: dict[str, Any] = {}
    if request.sampler not in (None, parts.defaults.sampler):  # another sampler may want another spacing
        changed["schedule"] = parts.scheduler.default_schedule(request.sampler)
    if request.image is not None:
        strength = parts.defaults.strength if request.strength is None else request.strength
        pure_noise = parts.picture_input is not None and strength == 1.0
        request = with_picture(request, side_step(parts), pure_noise=pure_noise)
    defaults = parts.defaults.model_copy(update=changed)
    request = with_seed(request)
    filled = request.filled(defaults, seed=request.seed or 0, model=parts.name, vae=parts.vae_name)
    loop_times(parts, filled)
    return filled


def with_seed(request: GenerationRequest) -> GenerationRequest:
    """The request with a seed: its own, or one that is drawn."""
    return request if request.seed is not None else request.model_copy(update={"seed": secrets.randbelow(2**32)})


def picture_seeds(request: GenerationRequest, given: Sequence[int] | None) -> tuple[int, ...]:
    """The seed of each picture of a filled-in request: its own, or those given for pictures of several requests.

    Raises:
        RequestError: there are more or fewer than pictures.
    """
    if given is None:
        return tuple((request.seed or 0) + index for index in range(request.pictures))
    if len(given) != request.pictures:
        raise RequestError(f"{len(given)} seeds are given for {request.pictures} pictures; give one for each")
    return tuple(given)


def _refuse_meaningless(parts: ModelParts, request: GenerationRequest) -> None:
    for name, has, why in (
        ("true_guidance", parts.tells_guidance, "is told no guidance; give guidance, which is classifier-free"),
        ("image_guidance", parts.picture_input == "edit", "does not edit pictures"),
        ("clip_skip", parts.unet is not None, "reads no hidden states of CLIP"),
    ):
        if getattr(request, name) is not None and not has:
            raise RequestError(f"{name}={getattr(request, name)} has no meaning for {parts.name!r}, which {why}")
    sees_a_picture = request.image is not None or parts.picture_input is not None
    if sees_a_picture and isinstance(parts.vae, TinyAutoencoder) and parts.vae.encoder is None:
        held = parts.vae_name or f"of {parts.name}"
        raise RequestError(
            f"the VAE {held} is a decoder alone, which makes no latents of a picture; put its encoder beside it "
            "(taesd_encoder beside taesd_decoder), or give another VAE"
        )


def side_step(parts: ModelParts) -> int:
    """What the sides of a picture are multiples of: a latent, or in FLUX a patch of two by two."""
    return parts.vae.config.downscale * (1 if parts.transformer is None else 2)


def latent_size(parts: ModelParts, request: GenerationRequest) -> tuple[int, int]:
    """(h, w) of the latents of a filled-in request. Raises `RequestError` when a side is no whole number of them."""
    step, factor = side_step(parts), parts.vae.config.downscale
    width, height = request.width or 0, request.height or 0
    for name, side in (("width", width), ("height", height)):
        if side % step or side == 0:
            near = f"{side // step * step} and {(side // step + 1) * step}" if side > step else str(step)
            raise RequestError(f"{name}={side} is not a multiple of {step}; the nearest that fit are {near}")
    return height // factor, width // factor


def loop_times(parts: ModelParts, request: GenerationRequest) -> tuple[TimePlan, tuple[float, ...]]:
    """The plan of a filled-in request, and its times: all of the plan's, or with a picture the last ones of `strength`.

    Raises:
        RequestError: the model has no such sampler, schedule, steps or size.
    """
    height, width = latent_size(parts, request)
    try:
        plan = parts.scheduler.plan(
            steps=None if request.timesteps else request.steps,
            sampler=request.sampler,
            schedule=request.schedule,
            timesteps=request.timesteps,
            tokens=height * width // 4,
        )
    except ValueError as error:
        raise RequestError(str(error)) from error
    times = plan.times
    if request.image is not None:
        flow = parts.transformer is not None
        times = times[-(steps_to_run(len(times) - 1, request.strength or 0.0, rounds_up=flow) + 1) :]
    return plan, times
