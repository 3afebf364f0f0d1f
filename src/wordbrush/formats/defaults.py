"""What a request means to a model that says nothing of its own: the defaults of diffusers' pipeline for its family."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from wordbrush.diffusion.plan import SamplingConfig
from wordbrush.request_fields import ModelDefaults

# steps and guidance
_USUAL = {
    "sd1": (50, 7.5),
    "sd2": (50, 7.5),
    "sdxl": (50, 5.0),
    "sdxl-refiner": (50, 5.0),
    "flux-dev": (28, 3.5),
    "flux-schnell": (4, 1.0),
    "class": (50, 4.0),
    "embedding": (50, 5.0),
    "unconditional": (50, 1.0),
}


def usual_defaults(family: str, networks: Mapping[str, Any], scheduler: SamplingConfig) -> ModelDefaults:
    """The defaults of a model of that family.

    Args:
        family: one of `FAMILIES`.
        networks: by their names in model_index.json; only the configs of `unet`, `transformer` and `vae` are read.
    """
    vae, unet = networks["vae"].config, networks.get("unet")
    steps, guidance = _USUAL[family]
    side = 128 * vae.downscale if unet is None else (unet.config.sample_size or 64) * vae.downscale
    fields: dict[str, Any] = {
        "steps": steps,
        "guidance": guidance,
        "sampler": scheduler.sampler,
        "schedule": scheduler.default_schedule(),
        "width": side,
        "height": side,
    }
    if family == "sdxl-refiner":
        fields["strength"] = 0.3
    if unet is not None:
        beside = unet.config.in_channels - vae.latent_channels
        if beside == 1:
            beside = 0  # time, as a band of the picture
        if beside > 0:  # it sees the picture besides, and so may start from pure noise
            fields["strength"] = 1.0
        if beside == vae.latent_channels:
            fields |= {"steps": 100, "image_guidance": 1.5}
        if unet.config.time_cond_proj_dim is not None:
            fields |= {"steps": 4, "guidance": 8.5, "true_guidance": 1.0}
        return ModelDefaults(**fields)
    transformer = networks["transformer"].config
    if transformer.guidance_embeds:
        fields["true_guidance"] = 1.0
    if transformer.in_channels > 4 * vae.latent_channels:
        fields |= {"strength": 1.0, "steps": 50, "guidance": 30.0}
    return ModelDefaults(**fields)
