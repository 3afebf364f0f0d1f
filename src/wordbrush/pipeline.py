"""One prompt to pixels: a request is filled in, conditioned, sampled and decoded. Read `Pipeline.steps` first."""

from __future__ import annotations

import logging
import secrets
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from wordbrush.conditioning.text import TextConditioner
from wordbrush.diffusion.guidance import Guidance, batched_pair, classifier_free
from wordbrush.diffusion.noise import NoiseSource
from wordbrush.diffusion.prediction import Denoiser, network_denoiser
from wordbrush.diffusion.samplers import SAMPLERS, Step
from wordbrush.diffusion.plan import TimePlan
from wordbrush.editing.start import held_outside, image_tensor, latent_mask, mask_picture, steps_to_run
from wordbrush.errors import RequestError, WorkFailed
from wordbrush.formats.diffusers_folder import weights_hash, write_folder
from wordbrush.formats.open import open_model
from wordbrush.formats.parts import ModelParts
from wordbrush.request import GenerationRequest
from wordbrush.runtime.batching import batched_network
from wordbrush.runtime.policy import Runtime

if TYPE_CHECKING:
    from PIL import Image

logger = logging.getLogger("wordbrush")


@dataclass(frozen=True, kw_only=True)
class GenerationResult:
    """Pictures, and how they came about.

    Attributes:
        images: RGB pictures, in the order of the request's prompts and counts.
        request: the full request, every default filled in.
        latents: (B, C, h, w) float32 on the CPU, before decoding.
        notes: what a user should know, one sentence each: words that were cut, or that the model has never seen.
    """

    images: list[Image.Image]
    request: GenerationRequest
    latents: Tensor
    notes: tuple[str, ...] = ()


def load(
    path: str | Path | None = None,
    *,
    device: str | torch.device = "auto",
    dtype: str | torch.dtype = "auto",
    revision: str | None = None,
) -> Pipeline:
    """Opens a model: the embedded one, a diffusers folder, or a hub id such as "owner/name" (which is downloaded).

    Args:
        device: "auto", "cpu", "cuda", "mps".
        dtype: "auto", "float32", "bfloat16", "float16"; auto is the fastest that the device does well.
        revision: a branch, tag or commit of a hub model.

    Raises:
        ModelFileError: there is no such model, or a file of it is damaged.
        RequestError: the device or dtype is unknown or not to be had here.
    """
    runtime = Runtime.choose(device, dtype)
    return Pipeline(open_model(path, revision=revision), runtime)


class Pipeline:
    """A model ready to paint. Call it for pictures; iterate over `steps` to watch."""

    def __init__(self, parts: ModelParts, runtime: Runtime) -> None:
        self.parts = parts
        self.runtime = runtime
        self.unet = runtime.place(parts.unet)
        self.vae = runtime.place(parts.vae)
        self.conditioner = TextConditioner(
            parts.tokenizer, runtime.place(parts.text_encoder), known_words=parts.known_words
        )

    def __call__(  # noqa: PLR0913  the public contract; each keyword is a field of the request
        self,
        prompt: str | Sequence[str] | GenerationRequest,
        *,
        negative_prompt: str = "",
        seed: int | None = None,
        count: int = 1,
        steps: int | None = None,
        guidance: float | None = None,
        guidance_rescale: float | None = None,
        guidance_interval: tuple[float, float] | None = None,
        sampler: str | None = None,
        schedule: str | None = None,
        timesteps: Sequence[int] | None = None,
        width: int | None = None,
        height: int | None = None,
        image: Any = None,
        strength: float = 0.7,
        mask: Any = None,
        latents: Any = None,
    ) -> GenerationResult:
        """Paints. See `GenerationRequest` for the keywords; None means the model's own default.

        Raises:
            RequestError: the request does not fit itself or the model.
            WorkFailed: the network gave numbers that are not finite.
        """
        options = dict(
            negative_prompt=negative_prompt, seed=seed, count=count, steps=steps, guidance=guidance,
            guidance_rescale=guidance_rescale, guidance_interval=guidance_interval, sampler=sampler, schedule=schedule,
            timesteps=timesteps, width=width, height=height, image=image, strength=strength, mask=mask, latents=latents,
        )  # fmt: skip
        request = self.fill(_as_request(prompt, options))
        notes = self.notes(request)
        for note in notes:
            logger.warning(note)
        for step in self.steps(request):
            latents = step.x
        return GenerationResult(
            images=self.finish(request, latents), request=request, latents=latents.cpu(), notes=tuple(notes)
        )

    def steps(self, request: GenerationRequest) -> Iterator[Step]:
        """The loop itself: yields a `Step` after each; stopping the iteration stops the work.

        Raises `RequestError` at once, not at the first step.
        """
        request = self.fill(request)
        config, size = self.parts.scheduler, self._latent_size(request)
        plan = config.plan(
            steps=None if request.timesteps else request.steps,
            sampler=request.sampler,
            schedule=request.schedule,
            timesteps=request.timesteps,
        )
        noise = NoiseSource.for_batch(request.seed or 0, request.pictures, (self.vae.config.latent_channels, *size))
        first = noise() if request.latents is None else self._given_noise(request, size)
        first = first.to(self.runtime.device)
        times, x = plan.times, first * plan.start_scale
        denoiser = self._denoiser(request, plan, size)
        if request.image is not None:
            clean = self._encoded_image(request)  # (1, C, h, w)
            times = times[-(steps_to_run(len(times) - 1, request.strength) + 1) :]
            x = config.process.alpha(times[0]) * clean + config.process.sigma(times[0]) * first
            if request.mask is not None:
                mask = mask_picture(request.mask.load(), *_size(request))
                held = latent_mask(mask, self.vae.config.downscale).to(self.runtime.device)
                denoiser = held_outside(denoiser, clean, held)
        walk = SAMPLERS[request.sampler or ""](denoiser, x, times, config.process, noise)
        return _without_gradients(walk)

    def finish(self, request: GenerationRequest, latents: Tensor) -> list[Image.Image]:
        """The pictures of a filled-in request whose last step gave these latents (B, C, h, w)."""
        if not torch.isfinite(latents).all():
            raise WorkFailed(
                f"the network gave numbers that are not finite in {self.runtime.dtype_name}; load it with dtype='float32'"
            )
        images = self.decode(latents)
        if request.image is None or request.mask is None:
            return images
        from PIL import Image

        original = _picture(image_tensor(request.image.load(), *_size(request))[0])
        mask = mask_picture(request.mask.load(), *_size(request))
        return [Image.composite(image, original, mask) for image in images]  # black keeps the original's bits

    @torch.inference_mode()
    def decode(self, latents: Tensor) -> list[Image.Image]:
        """Pictures of latents (B, C, h, w), of a finished loop or of any step on the way.

        One at a time: larger batches are no faster here, and a picture's bits then cannot depend on its neighbours.
        """
        one = (row[None].to(self.runtime.device, self.runtime.dtype) for row in latents)
        return [_picture(self.vae.decode(row)[0]) for row in one]

    def fill(self, request: GenerationRequest) -> GenerationRequest:
        """The full request: defaults, seed and model put in, and checked against the model. Filling twice changes nothing.

        Raises:
            RequestError: the request was made for another model, or asks for a size that this one cannot paint.
        """
        if request.model is not None and request.model != self.parts.name:
            raise RequestError(f"the request is for model {request.model!r}, this pipeline holds {self.parts.name!r}")
        defaults = self.parts.defaults
        if request.sampler is not None and request.schedule is None and request.timesteps is None:
            if request.sampler != defaults.sampler:  # another sampler may want another spacing
                schedule = self.parts.scheduler.default_schedule(request.sampler)
                defaults = defaults.model_copy(update={"schedule": schedule})
        if request.image is not None:
            width, height = self._fitting(request.image.load().size)
            defaults = defaults.model_copy(update={"width": width, "height": height})
        seed = secrets.randbelow(2**32) if request.seed is None else request.seed
        filled = request.filled(defaults, seed=seed, model=self.parts.name)
        self._latent_size(filled)
        return filled

    def notes(self, request: GenerationRequest) -> list[str]:
        """What a user should know of the request's words, one sentence each, none twice."""
        texts = dict.fromkeys(request.prompts)
        said = {sentence: None for text in texts for sentence in self.conditioner.report(text).sentences()}
        for sentence in self.conditioner.report(request.negative_prompt).sentences():
            said[f"negative prompt: {sentence}"] = None
        return list(said)

    def save(self, folder: str | Path) -> None:
        """Writes a diffusers-format folder, whole or not at all; diffusers' StableDiffusionPipeline opens it."""
        write_folder(self.parts, Path(folder))

    @cached_property
    def weights_hash(self) -> str | None:
        """First ten hex digits of the SHA-256 over the U-Net's weight files; None for a model never stored."""
        return weights_hash(self.parts)

    def _denoiser(self, request: GenerationRequest, plan: TimePlan, size: tuple[int, int]) -> Denoiser:
        """The network as a guided function of (x, t): each distinct prompt is encoded once, both halves run together."""
        config = self.parts.scheduler
        texts = list(dict.fromkeys([*request.prompts, request.negative_prompt]))
        positive = [texts.index(prompt) for prompt in request.prompts]
        negative = [texts.index(request.negative_prompt)] * len(positive)
        with torch.inference_mode():
            context = self.unet.prepare_context(self.conditioner.encode(texts))

        def denoiser_of(rows: list[int]) -> Denoiser:
            network = batched_network(self.unet, context, rows, size, self.runtime)
            return network_denoiser(network, config.process, config.prediction, plan.timestep)

        guidance = Guidance(
            scale=1.0 if request.guidance is None else request.guidance,
            rescale=request.guidance_rescale or 0.0,
            interval=request.guidance_interval or (0.0, 1.0),
        )
        both = batched_pair(denoiser_of(positive + negative))
        return classifier_free(denoiser_of(positive), both, guidance, config.process, config.prediction)

    def _encoded_image(self, request: GenerationRequest) -> Tensor:
        """The request's picture as clean latents (1, C, h, w) float32."""
        assert request.image is not None
        pixels = image_tensor(request.image.load(), *_size(request))
        with torch.inference_mode():
            return self.vae.encode(pixels.to(self.runtime.device, self.runtime.dtype)).mode().float()

    def _given_noise(self, request: GenerationRequest, size: tuple[int, int]) -> Tensor:
        assert request.latents is not None
        wanted = (request.pictures, self.vae.config.latent_channels, *size)
        if request.latents.shape != wanted:
            raise RequestError(f"latents have shape {request.latents.shape}, this model and request need {wanted}")
        return torch.from_numpy(request.latents.array().copy())

    def _latent_size(self, request: GenerationRequest) -> tuple[int, int]:
        """(h, w) of the latents; the picture's sides must be multiples that every level of the networks can halve."""
        step = self._side_step()
        for name, side in (("width", request.width), ("height", request.height)):
            assert side is not None
            if side % step:
                low = side // step * step
                near = f"{low} and {low + step}" if low else str(step)
                raise RequestError(f"{name}={side} is not a multiple of {step}; the nearest that fit are {near}")
        factor = self.vae.config.downscale
        return (request.height or 0) // factor, (request.width or 0) // factor

    def _side_step(self) -> int:
        """The VAE's factor, as in diffusers: the U-Net's own levels round up and are cut back where sides are odd."""
        return self.vae.config.downscale

    def _fitting(self, size: tuple[int, int]) -> tuple[int, int]:
        """The largest size within (width, height) that the model can paint."""
        step = self._side_step()
        return max(step, size[0] // step * step), max(step, size[1] // step * step)


def _as_request(prompt: str | Sequence[str] | GenerationRequest, options: dict[str, Any]) -> GenerationRequest:
    if not isinstance(prompt, GenerationRequest):
        return GenerationRequest(prompt=prompt if isinstance(prompt, str) else tuple(prompt), **options)
    blank = GenerationRequest(prompt="")
    given = [name for name, value in options.items() if value is not None and value is not getattr(blank, name)]
    given = [name for name in given if options[name] != getattr(blank, name)]
    if given:
        raise RequestError(f"{', '.join(given)} given beside a whole request; put them into the request")
    return prompt


def _size(request: GenerationRequest) -> tuple[int, int]:
    return request.width or 0, request.height or 0


def _without_gradients(walk: Iterator[Step]) -> Iterator[Step]:
    """The same steps; inference mode is on only while one is computed, not while the consumer looks at it."""
    while True:
        with torch.inference_mode():
            step = next(walk, None)
        if step is None:
            return
        yield step


def _picture(image: Tensor) -> Image.Image:
    """An RGB picture of (3, H, W) in [-1, 1]: clipped, and rounded to the nearest of 256 levels."""
    from PIL import Image

    pixels = ((image.float() + 1.0) * 127.5).round().clamp(0, 255).to(torch.uint8)
    return Image.fromarray(pixels.permute(1, 2, 0).contiguous().cpu().numpy())
