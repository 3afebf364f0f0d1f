"""One prompt to pixels: a request is filled in, conditioned, sampled and decoded. `Pipeline.begin` is the heart."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cached_property, partial
from itertools import groupby
from pathlib import Path
from typing import TYPE_CHECKING, Any, Unpack

import torch
from torch import Tensor

from wordbrush.conditioning.blended import blended
from wordbrush.conditioning.conditioning import Conditioner, TextOptions
from wordbrush.conditioning.notes import sentences_of
from wordbrush.conditioning.of_model import conditioner_of, taught_by, time_ids
from wordbrush.conditioning.prompted import Bound, Prompted, StepCounter, Texts, TextScales
from wordbrush.conditioning.writing import PromptWriter
from wordbrush.diffusion.guidance import Guidance
from wordbrush.diffusion.noise import NoiseSource
from wordbrush.diffusion.plan import TimePlan
from wordbrush.diffusion.samplers import Step
from wordbrush.editing.canvas import Canvas, picture_of
from wordbrush.editing.clip_guidance import ClipGuide, ClipShelf, guided_by
from wordbrush.editing.hires import (
    Enlarging,
    in_two_stages,
    largest_latents,
    second_pass,
    second_times,
    step_count,
    with_enlarging,
)
from wordbrush.editing.presets import worded
from wordbrush.editing.run import Run
from wordbrush.editing.setup import filled_for, latent_size, loop_times, picture_seeds, side_step
from wordbrush.editing.start import Start
from wordbrush.editing.upscale import UpscalerShelf
from wordbrush.editing.variations import varied
from wordbrush.errors import RequestError, WorkFailed
from wordbrush.formats.adapted import Adapted, Uses
from wordbrush.formats.by_name import LoraShelf, NamedEmbeddings, loras_in
from wordbrush.formats.diffusers_folder import weights_hash, write_folder
from wordbrush.formats.gpt2_folder import expander_folder
from wordbrush.formats.open import open_model
from wordbrush.formats.parts import ModelParts
from wordbrush.formats.single_file.configs import VAES
from wordbrush.metadata import Origin
from wordbrush.networks.tiny_vae import Autoencoder, TinyAutoencoder
from wordbrush.request import GenerationRequest, RequestFields
from wordbrush.request_fields import SHIPPED_UPSCALER
from wordbrush.runtime.batching import Constants, rows_per_call
from wordbrush.runtime.codec import Codec
from wordbrush.runtime.offload import Offload, plan_for
from wordbrush.runtime.policy import Runtime

if TYPE_CHECKING:
    from PIL import Image

logger = logging.getLogger("wordbrush")


def load(  # noqa: PLR0913  the public contract: what is asked about a model when it is opened
    path: str | Path | None = None,
    *,
    device: str | torch.device = "auto",
    dtype: str | torch.dtype = "auto",
    revision: str | None = None,
    variant: str | None = None,
    vae: str | Path | None = None,
    text_encoders: Sequence[str | Path] = (),
    tokenizer: str | Path | None = None,
    prediction: str | None = None,
    offload: str = "auto",
) -> Pipeline:
    """Opens a model: the embedded one, a file, a diffusers folder, a name in the library, or a hub id "owner/name".

    Args:
        path: None is the embedded model; a hub id that is not in the cache is downloaded.
        device: "auto", "cpu", "cuda", "mps".
        dtype: "auto", "float32", "bfloat16", "float16"; auto is the fastest that the device does well.
        revision: a branch, tag or commit of a hub model.
        variant: which of several forms of the same weights in a folder, such as "fp16".
        vae: a file, folder or name of a VAE in place of the model's own.
        text_encoders: files, folders or names of the text encoders that a single file lacks.
        tokenizer: a folder with the tokenizer (or tokenizers, in `tokenizer` and `tokenizer_2`), for a file without.
        prediction: what the network predicts, "epsilon", "v", "sample" or "flow", where the file does not say it right.
        offload: which weights wait on the CPU while a GPU does without them: "none", "layer", "model", which is whole
            networks; "auto" decides by the memory that is free.

    Raises:
        ModelFileError: there is no such model, or a file of it is damaged.
        RequestError: the device or dtype is unknown or not to be had here, or the model does not fit the GPU.
    """
    runtime = Runtime.choose(device, dtype)
    parts = open_model(
        path, revision=revision, variant=variant, vae=vae, text_encoders=text_encoders, tokenizer=tokenizer,
        prediction=prediction, runtime=runtime,
    )  # fmt: skip
    return Pipeline(parts, runtime, offload)


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


class Pipeline:
    """A model ready to paint. Call it for pictures; iterate over `steps` to watch."""

    def __init__(self, parts: ModelParts, runtime: Runtime, offload: str = "auto") -> None:
        """Moves the parts' networks to the runtime's device and dtype, in place; where it pays, runs copies of them.

        offload: as in `load`; what was chosen is said in `placement`.
        """
        plan = plan_for(parts.networks, runtime, offload)
        self.parts = parts
        self.runtime = runtime = replace(runtime, offloaded=plan.budget is not None)
        self.placement = plan.note
        self.codec = Codec(parts.vae, runtime)
        for name, network in parts.networks.items():
            if name != "vae":
                runtime.place(network)
        self.adapted = Adapted(parts.networks, parts.denoiser, runtime, Offload.of(parts.networks, runtime, plan))
        self.conditioner = conditioner_of(parts, NamedEmbeddings())
        self._shelf = LoraShelf()
        self._writer = PromptWriter(parts.name, expander_folder(parts.source))
        self._upscalers = UpscalerShelf(runtime)
        self._clips = ClipShelf(parts)

    @property
    def vae(self) -> Autoencoder:
        """The autoencoder, where the codec runs it."""
        return self.codec.vae

    def __call__(
        self, prompt: str | Sequence[str] | GenerationRequest, **fields: Unpack[RequestFields]
    ) -> GenerationResult:
        """Paints. The keywords are the fields of `GenerationRequest`; None means the model's own default.

        Raises:
            RequestError: the request does not fit itself or the model.
            ModelFileError: a LoRA or embedding that it names is not there, or does not fit the model.
            WorkFailed: the network gave numbers that are not finite.
        """
        request = self.fill(_as_request(prompt, dict(fields)))
        notes = self.notes(request)
        images, latents = [], []
        for start, stop in self.batches(request, request.pictures):
            part = request.part(start, stop)
            for step in self.steps(part):
                final = step.x
            images += self.finish(part, final)
            latents.append(final.cpu().clone())
        if self.codec.note is not None:
            notes.append(self.codec.note)
        for note in notes:
            logger.warning(note)
        return GenerationResult(images=images, request=request, latents=torch.cat(latents), notes=tuple(notes))

    def steps(self, request: GenerationRequest, seeds: Sequence[int] | None = None) -> Iterator[Step]:
        """The loop itself: yields after each step. Stopping the iteration stops the work.

        seeds: of each picture, in place of the request's seed + index (see `editing.joined`).

        Raises:
            RequestError: at once, not at the first step: the request does not fit itself or the model.
        """
        return iter(self.begin(request, seeds))

    def begin(self, request: GenerationRequest, seeds: Sequence[int] | None = None) -> Run:
        """Sets the loop up: noise, times, guided denoiser; with a picture, part-way, and held where a mask is black."""
        request = self.fill(request)
        own = picture_seeds(request, seeds)
        self._upscalers.read_for(request)
        run = self._begin(request, own, *loop_times(self.parts, request))
        if request.hires is None:
            return run
        return replace(run, walk=in_two_stages(run.walk, partial(self._second_stage, request, own)))

    def _second_stage(self, request: GenerationRequest, seeds: Sequence[int], latents: Tensor) -> Iterator[Step]:
        """The second loop of high-resolution fix, on the first one's latents (B, C, h, w)."""
        second = second_pass(self.parts, request)
        enlarging = Enlarging(self.codec, self._upscalers, latent_size(self.parts, second))
        start = Start.on(enlarging(request, latents))
        return self._begin(second, seeds, *second_times(self.parts, request), start).walk

    def _begin(
        self,
        request: GenerationRequest,
        seeds: Sequence[int],
        plan: TimePlan,
        times: tuple[float, ...],
        start: Start | None = None,
    ) -> Run:
        """seeds: of each picture; start: in place of the request's own picture."""
        process, device = plan.process, self.runtime.device
        canvas, size = Canvas(request, side_step(self.parts)), latent_size(self.parts, request)
        noise = NoiseSource(seeds, (self.codec.latent_channels, *size))
        first = noise() if request.latents is None else self._given_noise(request, size)
        first = varied(first, request, seeds).to(device)
        counter = StepCounter(steps=len(times) - 1)
        prompted = self._prompted(request, plan, canvas, counter)
        denoiser = prompted.denoiser()
        if request.clip_guidance:
            denoiser = guided_by(self.clip_guide(request.clip), denoiser, request, seeds, process)
        x, clean = first * plan.start_scale, None
        start = start or canvas.start(self.codec.encode, self.codec.downscale, self.parts.picture_input)
        if start is not None:
            clean = start.clean
            x = start.noised(first, noise, (process.alpha(times[0]), process.sigma(times[0])), pure=x)
            denoiser = start.held(denoiser)
        walk = counter.counted(plan.sampler(denoiser, x, times, process, noise))
        return Run(
            x=x, times=times, plan=plan, prompted=prompted, denoiser=denoiser, clean=clean, counter=counter,
            walk=walk, release=lambda: self.adapted.use(()),
        )  # fmt: skip

    def finish(self, request: GenerationRequest, latents: Tensor) -> list[Image.Image]:
        """The pictures of a filled-in request whose last step gave these latents (B, C, h, w).

        Raises:
            WorkFailed: the latents are not finite.
        """
        if not torch.isfinite(latents).all():
            dtype = self.runtime.dtype_name
            raise WorkFailed(f"the network gave numbers that are not finite in {dtype}; load it with dtype='float32'")
        pictures = Canvas(request, side_step(self.parts)).finished(self.decode(latents))
        if request.upscale is None:
            return pictures
        upscaler = self._upscalers.named(request.upscaler or SHIPPED_UPSCALER)
        return [upscaler.enlarge(picture, request.upscale) for picture in pictures]

    def decode(self, latents: Tensor) -> list[Image.Image]:
        """Pictures of latents (B, C, h, w), of a finished loop or of any step on the way."""
        return [picture_of(image) for image in self.codec.decode(latents)]

    def fill(self, request: GenerationRequest) -> GenerationRequest:
        """The full request: defaults, seed and model put in, checked against the model. Filling twice changes nothing.

        Raises:
            RequestError: the request was made for another model, or asks for what this one cannot paint.
        """
        return with_enlarging(self.parts, filled_for(self.parts, worded(self.parts, self._writer, request)))

    def notes(self, request: GenerationRequest) -> list[str]:
        """What a user should know of the model, and of a filled-in request's LoRAs and words; no sentence twice."""
        loras, words = dict[str, None](), dict[str, None]()
        steps, options = self.step_count(request), _text_options(request)
        for start, stop in self.batches(request, request.pictures):
            part = request.part(start, stop)
            uses = self._uses(part)
            loras |= {f"LoRA {match.file.name}: {match}": None for match in self.adapted.match(uses)}
            words |= dict.fromkeys(sentences_of(self._conditioner(uses), part, steps, options))
        return list(dict.fromkeys(self.parts.notes) | loras | words)

    def save(self, folder: str | Path) -> None:
        """Writes a diffusers-format folder, whole or not at all; the pipeline class of the model's family opens it."""
        self.adapted.restore()
        write_folder(self.parts, Path(folder))

    def step_count(self, request: GenerationRequest) -> int:
        """How many steps the loop of a filled-in request takes; both loops, where it has two."""
        return step_count(self.parts, request)

    def batch_size(self, request: GenerationRequest) -> int:
        """How many pictures of a filled-in request are worth painting at once: more are no faster each."""
        return max(1, rows_per_call(*largest_latents(self.parts, request), self.runtime.device) // 2)

    def batches(self, request: GenerationRequest, most: int) -> list[tuple[int, int]]:
        """(start, stop) of at most so many pictures each, all those of a batch with the same LoRAs."""
        found, stop = list[tuple[int, int]](), 0
        for _, alike in groupby(request.prompts, key=loras_in):
            start, stop = stop, stop + len(list(alike))
            found += [(begin, min(begin + most, stop)) for begin in range(start, stop, most)]
        return found

    def clip_guide(self, name: str | None) -> ClipGuide:
        """What steers by CLIP; name as a request's `clip`. Raises `RequestError`, `ModelFileError`."""
        return self._clips.guide(name, self.codec.vae, self.runtime.device)

    @cached_property
    def origin(self) -> Origin:
        """What decides a picture beside its request, for its metadata."""
        import wordbrush

        version, dtype = str(wordbrush.__version__), self.runtime.dtype_name
        return Origin(version=version, model_hash=weights_hash(self.parts), dtype=dtype)

    def origin_of(self, request: GenerationRequest) -> Origin:
        """`origin`, with the hashes of the LoRAs of a filled-in request."""
        uses = self._uses(request)
        if not uses:
            return self.origin
        return replace(self.origin, lora_hashes=", ".join(f"{use.file.name}: {use.file.hash}" for use in uses))

    def _prompted(
        self, request: GenerationRequest, plan: TimePlan, canvas: Canvas, counter: StepCounter
    ) -> Prompted:
        """The network, with the request's LoRAs, and the prompts that it follows."""
        parts, told = self.parts, self.parts.tells_guidance
        encode_raw = partial(self.codec.encode, scaled=False)
        if isinstance(parts.vae, TinyAutoencoder):  # its latents have the scale of the large VAE already
            encode_raw = partial(_unscaled, self.codec, VAES[parts.family]["scaling_factor"])
        beside = canvas.seen(parts.picture_input, self.codec.encode, encode_raw, packed=parts.unet is None)
        uses = self._uses(request)
        bound = Bound(
            runner=self.adapted.runner(uses),
            runtime=self.runtime,
            size=latent_size(self.parts, request),
            plan=plan,
            sampling=parts.scheduler,
            constants=Constants(beside=beside, guidance=request.guidance if told else None),
            time_ids=time_ids(parts, request.width or 0, request.height or 0),
        )
        guidance = Guidance(
            scale=(request.true_guidance if told else request.guidance) or 0.0,
            rescale=request.guidance_rescale or 0.0,
            interval=request.guidance_interval or (0.0, 1.0),
        )
        scales = TextScales(guidance=guidance, image=1.0 if request.image_guidance is None else request.image_guidance)
        texts = Texts(blended(self._conditioner(uses), request), bound, _text_options(request))
        return Prompted(bound, texts, request.prompts, request.negative_prompt, scales, counter)

    def conditioner_for(self, request: GenerationRequest) -> Conditioner:
        """What reads the prompts of a request: the model's own, unless a LoRA of the request brings words with it."""
        return self._conditioner(self._uses(request))

    def _uses(self, request: GenerationRequest) -> Uses:
        """The LoRAs of a request whose pictures all have the same ones."""
        asked = {loras_in(prompt) for prompt in request.prompts}
        if len(asked) > 1:
            raise RequestError("the prompts ask for different LoRAs, which one loop cannot have; paint them in turn")
        return self._shelf.uses((*request.loras, *asked.pop()))

    def _conditioner(self, uses: Uses) -> Conditioner:
        """The model's own, unless a LoRA brings words with it."""
        return taught_by([use.file for use in uses], self.parts) or self.conditioner

    def _given_noise(self, request: GenerationRequest, size: tuple[int, int]) -> Tensor:
        assert request.latents is not None
        wanted = (request.pictures, self.codec.latent_channels, *size)
        if request.latents.shape != wanted:
            raise RequestError(f"latents have shape {request.latents.shape}, this model and request need {wanted}")
        return torch.from_numpy(request.latents.array().copy())


def _unscaled(codec: Codec, scale: float, images: Tensor) -> Tensor:
    """Latents as the large VAE of a model's family gives them, from a codec that only knows them scaled."""
    return codec.encode(images) / scale


def _as_request(prompt: str | Sequence[str] | GenerationRequest, fields: dict[str, Any]) -> GenerationRequest:
    if not isinstance(prompt, GenerationRequest):
        return GenerationRequest.from_dict({"prompt": prompt} | fields)
    if fields:
        raise RequestError(f"{', '.join(fields)} given beside a whole request; put it into the request")
    return prompt


def _text_options(request: GenerationRequest) -> TextOptions:
    return TextOptions(clip_skip=request.clip_skip, emphasis=request.emphasis)
