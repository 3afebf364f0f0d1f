"""One prompt to pixels: a request is filled in, conditioned, sampled and decoded. `Pipeline.begin` is the heart."""

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
from wordbrush.diffusion.plan import TimePlan
from wordbrush.diffusion.prediction import Denoiser, network_denoiser
from wordbrush.diffusion.samplers import SAMPLERS, Step
from wordbrush.editing.start import held_outside, image_tensor, latent_mask, mask_picture, steps_to_run
from wordbrush.errors import RequestError, WorkFailed
from wordbrush.formats.diffusers_folder import weights_hash, write_folder
from wordbrush.formats.open import open_model
from wordbrush.formats.parts import ModelParts
from wordbrush.metadata import Origin
from wordbrush.request import GenerationRequest
from wordbrush.runtime.batching import batched_network, rows_per_call
from wordbrush.runtime.packed_unet import fastest_unet
from wordbrush.runtime.packed_vae import fastest_decoder
from wordbrush.runtime.policy import Runtime

if TYPE_CHECKING:
    from PIL import Image

logger = logging.getLogger("wordbrush")


def load(
    path: str | Path | None = None,
    *,
    device: str | torch.device = "auto",
    dtype: str | torch.dtype = "auto",
    revision: str | None = None,
) -> Pipeline:
    """Opens a model: the embedded one, a diffusers folder, or a hub id such as "owner/name" (which is downloaded).

    Args:
        path: None is the embedded model.
        device: "auto", "cpu", "cuda", "mps".
        dtype: "auto", "float32", "bfloat16", "float16"; auto is the fastest that the device does well.
        revision: a branch, tag or commit of a hub model.

    Raises:
        ModelFileError: there is no such model, or a file of it is damaged.
        RequestError: the device or dtype is unknown or not to be had here.
    """
    runtime = Runtime.choose(device, dtype)
    return Pipeline(open_model(path, revision=revision), runtime)


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


@dataclass(frozen=True, kw_only=True)
class Run:
    """A loop about to begin; iterate over it once.

    Attributes:
        x: (B, C, h, w) float32 at times[0].
        times: falling; one more than there are steps.
        plan: what the network is told at each time.
    """

    x: Tensor
    times: tuple[float, ...]
    plan: TimePlan
    walk: Iterator[Step]

    def __iter__(self) -> Iterator[Step]:
        while True:
            with torch.inference_mode():  # not while the consumer looks at the step
                step = next(self.walk, None)
            if step is None:
                return
            yield step


class Pipeline:
    """A model ready to paint. Call it for pictures; iterate over `steps` to watch."""

    def __init__(self, parts: ModelParts, runtime: Runtime) -> None:
        """Moves the parts' networks to the runtime's device and dtype, in place; where it pays, runs copies of them."""
        self.parts = parts
        self.runtime = runtime
        self.unet = fastest_unet(runtime.place(parts.unet), runtime)
        self.vae = runtime.place(parts.vae)
        self.decoder = fastest_decoder(self.vae, runtime)
        encoder = runtime.place(parts.text_encoder)
        self.conditioner = TextConditioner(parts.tokenizer, encoder, known_words=parts.known_words)

    def __call__(  # noqa: PLR0913  the public contract: each keyword is a field of the request
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
        """Paints. The keywords are the fields of `GenerationRequest`; None means the model's own default.

        Raises:
            RequestError: the request does not fit itself or the model.
            WorkFailed: the network gave numbers that are not finite.
        """
        options = {
            "negative_prompt": negative_prompt, "seed": seed, "count": count, "steps": steps, "guidance": guidance,
            "guidance_rescale": guidance_rescale, "guidance_interval": guidance_interval, "sampler": sampler,
            "schedule": schedule, "timesteps": timesteps, "width": width, "height": height, "image": image,
            "strength": strength, "mask": mask, "latents": latents,
        }  # fmt: skip
        request = self.fill(_as_request(prompt, options))
        notes = self.notes(request)
        for note in notes:
            logger.warning(note)
        for step in self.steps(request):
            final = step.x
        images = self.finish(request, final)
        return GenerationResult(images=images, request=request, latents=final.cpu().clone(), notes=tuple(notes))

    def steps(self, request: GenerationRequest) -> Iterator[Step]:
        """The loop itself: yields after each step. Stopping the iteration stops the work.

        Raises:
            RequestError: at once, not at the first step: the request does not fit itself or the model.
        """
        return iter(self.begin(request))

    def begin(self, request: GenerationRequest) -> Run:
        """Sets the loop up: noise, times, guided denoiser; with a picture, part-way, and held where a mask is black."""
        request = self.fill(request)
        plan, times = self._times(request)
        process, device = self.parts.scheduler.process, self.runtime.device
        size = self._latent_size(request)
        noise = NoiseSource.for_batch(request.seed or 0, request.pictures, (self.vae.config.latent_channels, *size))
        first = (noise() if request.latents is None else self._given_noise(request, size)).to(device)
        denoiser = self._denoiser(request, plan, size)
        x = first * plan.start_scale
        if request.image is not None:
            clean = self._encoded(image_tensor(request.image.load(), *_sides(request)))  # (1, C, h, w)
            x = process.alpha(times[0]) * clean + process.sigma(times[0]) * first
            if request.mask is not None:
                mask = mask_picture(request.mask.load(), *_sides(request))
                denoiser = held_outside(denoiser, clean, latent_mask(mask, self.vae.config.downscale).to(device))
        walk = SAMPLERS[request.sampler or ""](denoiser, x, times, process, noise)
        return Run(x=x, times=times, plan=plan, walk=walk)

    def finish(self, request: GenerationRequest, latents: Tensor) -> list[Image.Image]:
        """The pictures of a filled-in request whose last step gave these latents (B, C, h, w).

        Raises:
            WorkFailed: the latents are not finite.
        """
        if not torch.isfinite(latents).all():
            dtype = self.runtime.dtype_name
            raise WorkFailed(f"the network gave numbers that are not finite in {dtype}; load it with dtype='float32'")
        images = self.decode(latents)
        if request.image is None or request.mask is None:
            return images
        from PIL import Image

        original = _picture(image_tensor(request.image.load(), *_sides(request))[0])
        mask = mask_picture(request.mask.load(), *_sides(request))
        return [Image.composite(image, original, mask) for image in images]  # black keeps the original's bits

    @torch.inference_mode()
    def decode(self, latents: Tensor) -> list[Image.Image]:
        """Pictures of latents (B, C, h, w), of a finished loop or of any step on the way.

        One at a time: larger batches are no faster here, and a picture's bits then cannot depend on its neighbours.
        """
        rows = (row[None].to(self.runtime.device, self.runtime.dtype) for row in latents)
        return [_picture(self.decoder.decode(row)[0]) for row in rows]

    def fill(self, request: GenerationRequest) -> GenerationRequest:
        """The full request: defaults, seed and model put in, checked against the model. Filling twice changes nothing.

        Raises:
            RequestError: the request was made for another model, or asks for what this one cannot paint.
        """
        if request.model is not None and request.model != self.parts.name:
            raise RequestError(f"the request is for model {request.model!r}, this pipeline holds {self.parts.name!r}")
        changed: dict[str, Any] = {}
        if request.sampler not in (None, self.parts.defaults.sampler):  # another sampler may want another spacing
            changed["schedule"] = self.parts.scheduler.default_schedule(request.sampler)
        if request.image is not None:
            step = self.vae.config.downscale
            changed["width"], changed["height"] = (max(side // step, 1) * step for side in request.image.load().size)
        seed = secrets.randbelow(2**32) if request.seed is None else request.seed
        defaults = self.parts.defaults.model_copy(update=changed)
        filled = request.filled(defaults, seed=seed, model=self.parts.name)
        self._latent_size(filled)
        self._times(filled)
        return filled

    def notes(self, request: GenerationRequest) -> list[str]:
        """What a user should know of the request's words, one sentence each, none twice."""
        texts = dict.fromkeys(request.prompts)
        said = {sentence: None for text in texts for sentence in self.conditioner.report(text).sentences()}
        for sentence in self.conditioner.report(request.negative_prompt).sentences():
            said[f"in the negative prompt, {sentence}"] = None
        return list(said)

    def save(self, folder: str | Path) -> None:
        """Writes a diffusers-format folder, whole or not at all; diffusers' StableDiffusionPipeline opens it."""
        write_folder(self.parts, Path(folder))

    def step_count(self, request: GenerationRequest) -> int:
        """How many steps the loop of a filled-in request takes."""
        return len(self._times(request)[1]) - 1

    def batch_size(self, request: GenerationRequest) -> int:
        """How many pictures of a filled-in request are worth painting at once: more are no faster each."""
        return max(1, rows_per_call(*self._latent_size(request), self.runtime.device) // 2)

    @cached_property
    def origin(self) -> Origin:
        """What decides a picture beside its request, for its metadata."""
        import wordbrush

        version, dtype = str(wordbrush.__version__), self.runtime.dtype_name
        return Origin(version=version, model_hash=weights_hash(self.parts), dtype=dtype)

    def _times(self, request: GenerationRequest) -> tuple[TimePlan, tuple[float, ...]]:
        """The plan of a run, and its times: all of the plan's, or with a picture the last ones, as `strength` says."""
        try:
            plan = self.parts.scheduler.plan(
                steps=None if request.timesteps else request.steps,
                sampler=request.sampler,
                schedule=request.schedule,
                timesteps=request.timesteps,
            )
        except ValueError as error:
            raise RequestError(str(error)) from error
        times = plan.times
        if request.image is not None:
            times = times[-(steps_to_run(len(times) - 1, request.strength) + 1) :]
        return plan, times

    def _denoiser(self, request: GenerationRequest, plan: TimePlan, size: tuple[int, int]) -> Denoiser:
        """The network as a guided function of (x, t); each prompt is encoded once, both halves run together."""
        config = self.parts.scheduler
        texts = list(dict.fromkeys([*request.prompts, request.negative_prompt]))
        positive = [texts.index(prompt) for prompt in request.prompts]
        negative = [texts.index(request.negative_prompt)] * len(positive)
        with torch.inference_mode():
            context = self.unet.prepare_context(self.conditioner.encode(texts))

        def denoiser_of(rows: list[int], copies: int = 1) -> Denoiser:
            network = batched_network(self.unet, context, rows, size, self.runtime, copies=copies)
            return network_denoiser(network, config.process, config.prediction, plan.timestep)

        guidance = Guidance(
            scale=1.0 if request.guidance is None else request.guidance,
            rescale=request.guidance_rescale or 0.0,
            interval=request.guidance_interval or (0.0, 1.0),
        )
        both = batched_pair(denoiser_of(positive + negative, copies=2))
        return classifier_free(denoiser_of(positive), both, guidance, config.process, config.prediction)

    @torch.inference_mode()
    def _encoded(self, images: Tensor) -> Tensor:
        """Images (1, 3, H, W) in [-1, 1] as their most likely clean latents (1, C, h, w) float32."""
        return self.vae.encode(images.to(self.runtime.device, self.runtime.dtype)).mode().float()

    def _given_noise(self, request: GenerationRequest, size: tuple[int, int]) -> Tensor:
        assert request.latents is not None
        wanted = (request.pictures, self.vae.config.latent_channels, *size)
        if request.latents.shape != wanted:
            raise RequestError(f"latents have shape {request.latents.shape}, this model and request need {wanted}")
        return torch.from_numpy(request.latents.array().copy())

    def _latent_size(self, request: GenerationRequest) -> tuple[int, int]:
        """(h, w) of the latents of a filled-in request."""
        step = self.vae.config.downscale
        for name, side in zip(("width", "height"), _sides(request), strict=True):
            if side % step or side == 0:
                near = f"{side // step * step} and {(side // step + 1) * step}" if side > step else str(step)
                raise RequestError(f"{name}={side} is not a multiple of {step}; the nearest that fit are {near}")
        width, height = _sides(request)
        return height // step, width // step


def _as_request(prompt: str | Sequence[str] | GenerationRequest, options: dict[str, Any]) -> GenerationRequest:
    if not isinstance(prompt, GenerationRequest):
        return GenerationRequest.from_dict(options | {"prompt": prompt})
    blank = GenerationRequest(prompt="")
    given = [
        name for name, value in options.items() if value is not getattr(blank, name) and value != getattr(blank, name)
    ]
    if given:
        raise RequestError(f"{', '.join(given)} given beside a whole request; put it into the request")
    return prompt


def _sides(request: GenerationRequest) -> tuple[int, int]:
    """(width, height) of a filled-in request."""
    return request.width or 0, request.height or 0


def _picture(image: Tensor) -> Image.Image:
    """An RGB picture of (3, H, W) in [-1, 1]: clipped, and rounded to the nearest of 256 levels."""
    from PIL import Image

    pixels = ((image.float() + 1.0) * 127.5).round().clamp(0, 255).to(torch.uint8)
    return Image.fromarray(pixels.permute(1, 2, 0).contiguous().cpu().numpy())
