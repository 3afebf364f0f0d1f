"""Sample pictures while training: the sampler of the model, on the network as it is at that moment."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from PIL import Image
from torch import Tensor

from wordbrush.conditioning.conditioning import Conditioning
from wordbrush.diffusion.noise import NoiseSource
from wordbrush.diffusion.prediction import network_denoiser
from wordbrush.editing.canvas import picture_of
from wordbrush.training.finetune.model import vae_of
from wordbrush.training.finetune.predict import predict

if TYPE_CHECKING:
    from wordbrush.training.finetune.task import FinetuneTask

_STEPS = 20


@torch.no_grad()
def paint(task: FinetuneTask, prompt: str, seed: int) -> Image.Image:
    """A picture of a prompt in the size that the task trains in, with the model's own sampler and guidance.

    It shows how training goes. Only captions are understood, without the prompt language; what is painted afterwards
    with the finished files is what counts.
    """
    parts, vae = task.parts, vae_of(task.parts)
    width, height = task.usual_size
    latent = (vae.config.latent_channels, height // vae.config.downscale, width // vae.config.downscale)
    defaults = parts.defaults
    plan = parts.scheduler.plan(
        defaults.steps or _STEPS, sampler=defaults.sampler, schedule=defaults.schedule,
        tokens=latent[1] * latent[2] // 4,
    )  # fmt: skip
    scale = defaults.guidance or 1.0
    prompts = [prompt] if parts.tells_guidance or scale == 1.0 else [prompt, ""]
    ids = {key: value.to(task.device) for key, value in task.reader.read(prompts).items()}
    told = task.conditioning(ids)
    if len(prompts) > 1 and parts.zero_negative and told.pooled is not None:
        told.context[1], told.pooled[1] = 0.0, 0.0
    numbers = torch.tensor([[height, width, 0, 0, height, width]], dtype=torch.float32, device=task.device)
    time_ids = numbers.expand(len(prompts), 6) if parts.family.startswith("sdxl") else None

    def network(x: Tensor, timestep: float) -> Tensor:
        return _guided(task, x, timestep, told, time_ids, scale)

    denoiser = network_denoiser(network, plan.process, parts.scheduler.prediction, plan.timestep)
    noise = NoiseSource.for_batch(seed, 1, latent)
    x = noise().to(task.device) * plan.start_scale
    for step in plan.sampler(denoiser, x, plan.times, plan.process, noise):
        x = step.x
    return picture_of(vae.decode(x.float()).float().clamp(-1, 1)[0])


def _guided(
    task: FinetuneTask, x: Tensor, timestep: float, told: Conditioning, time_ids: Tensor | None, scale: float
) -> Tensor:
    """The network's output for one picture, with classifier-free guidance where there is an empty prompt beside."""
    rows = len(told.context)
    times = torch.full((rows,), float(timestep), device=x.device)
    rows_of_x = task.entering(x.repeat(rows, 1, 1, 1))
    out = predict(task.parts.denoiser, rows_of_x, times, told, time_ids, guidance=scale)
    if rows == 1:
        return out
    return out[1:] + scale * (out[:1] - out[1:])


