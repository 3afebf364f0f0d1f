"""Training a diffusion model on any data: of pixels or latents; told nothing, classes, texts or CLIP embeddings."""

from __future__ import annotations

import tempfile
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from PIL import Image
from torch import Tensor, nn

from wordbrush.conditioning.of_model import conditioner_of
from wordbrush.conditioning.prompt.program import PromptProgram
from wordbrush.diffusion.plan import SamplingConfig
from wordbrush.diffusion.scheduler_config import read_scheduler_config
from wordbrush.errors import RequestError
from wordbrush.formats.defaults import usual_defaults
from wordbrush.formats.diffusers_folder import write_folder
from wordbrush.formats.diffusers_folder.networks import read_network
from wordbrush.formats.json_file import read_json
from wordbrush.formats.parts import ModelParts
from wordbrush.networks.pixels import Pixels
from wordbrush.networks.tiny_vae import Autoencoder
from wordbrush.networks.unet import UNet, UNetConfig
from wordbrush.networks.vae import AutoencoderKL
from wordbrush.pipeline import Pipeline
from wordbrush.request_fields import ModelDefaults
from wordbrush.runtime.policy import Runtime
from wordbrush.training.cache import TensorCache, weights_hash
from wordbrush.training.data_recipe import DataRecipe
from wordbrush.training.export import put_in_place
from wordbrush.training.feed import Feed, Rows
from wordbrush.training.recipe import Recipe
from wordbrush.training.sharding import whole
from wordbrush.training.task import Batch, Task, normal_rows, uniform_rows
from wordbrush.training.tasks.conditioning import Reader, Teller, teller_of
from wordbrush.training.tasks.denoising import (
    DROPPED,
    Draws,
    denoising_rows,
    held_out_levels,
    levels_batch,
    losses_by_level,
)
from wordbrush.training.tasks.diffusion_recipe import DiffusionRecipe

# Settings of a U-Net that is told something beside time and context: what it is told decides them.
_TOLD = {"num_class_embeds", "class_embed_type", "projection_class_embeddings_input_dim", "addition_embed_type"}
# How many pictures a sample sheet has where the recipe names no prompts.
_SAMPLES = 8


@dataclass(frozen=True, kw_only=True)
class _HeldOut:
    """Held-out rows, all in one step, and what their loss is: the objective's, without weights."""

    feed: Feed
    draws: Draws
    reader: Reader


class DiffusionRows:
    """The rows of a step with their noise, without any network's help: worker processes can have it."""

    def __init__(self, feed: Feed, draws: Draws, teller: Teller, shape: tuple[int, int]) -> None:
        """shape: channels of what is noised, and pixels per number of it along each side."""
        self.feed, self.draws, self.shape = feed, draws, shape
        self.drop, self.reader = teller.drop, teller.reader

    def __call__(self, step: int, rows: range) -> Batch:
        found = self.feed.rows(step, rows)
        return {"images": found.images} | self.beside(step, rows, found, found.images.shape[2:])

    def beside(self, step: int, rows: range, known: Rows, size: torch.Size) -> Batch:
        """What a batch has beside the pictures, whose height and width are `size`."""
        channels, factor = self.shape
        dropped = uniform_rows(self.draws.seed, step, rows, purpose=DROPPED) < self.drop
        drawn = self.draws(step, rows, (channels, size[0] // factor, size[1] // factor))
        return drawn | self.reader(known, dropped)


class DiffusionTask(Task):
    """Noisy pixels or latents in; out what the scheduler config says that the network predicts."""

    def __init__(self, recipe: Recipe, train: DiffusionRecipe, folder: Path) -> None:
        """`folder`: the run's own.

        Raises:
            RequestError: the recipe does not fit itself or its data.
            ModelFileError: a model folder that it names is not as it should be.
        """
        super().__init__()
        self.recipe, self.train = recipe, train
        self.vae = _autoencoder(train.vae)
        self.feed = Feed(train.data, recipe.seed, recipe.batch, multiple=self.vae.config.downscale, folder=folder)
        self.teller = teller_of(train.conditioning, self.feed.labels)
        try:
            self.sampling = read_scheduler_config(train.scheduler)
        except (ValueError, TypeError) as error:
            raise RequestError(f"train.scheduler: {error}") from error
        if train.scheduler.get("rescale_betas_zero_snr") and self.sampling.prediction == "epsilon":
            raise RequestError(
                "train.scheduler: with rescale_betas_zero_snr the last timestep is pure noise, of which epsilon says "
                "nothing (Lin 2024); give prediction_type: v_prediction or sample"
            )
        self.draws = Draws(train.objective, self.sampling, seed=recipe.seed, batch=recipe.batch)
        self.config = self._config()
        self.network = UNet(self.config)
        if train.start is None:
            self.network.initialise(torch.Generator().manual_seed(recipe.seed))
        else:
            self._start_from(Path(train.start) / "unet")
        self.network.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        self.modules = {"unet": self.network, **self.teller.modules}
        self.frozen = dict(self.teller.frozen)
        self.rates = dict(self.teller.rates)
        shape = (self.vae.config.latent_channels, self.vae.config.downscale)
        self.rows = DiffusionRows(self.feed, self.draws, self.teller, shape)
        self.cache: TensorCache | None = None
        if isinstance(self.vae, AutoencoderKL):
            self.frozen["vae"] = self.vae
            if train.cache is not None:
                encoders = [self.vae, *(self.teller.frozen.values() if self.teller.sees else ())]
                self.cache = TensorCache(Path(train.cache), weights_hash(encoders, repr(self.vae.config)))
        self.source = self.rows if self.cache is None else None
        # Not where they are first needed: what is wrong with these would be found hours later.
        self.defaults = self._defaults()
        self.held_out = None if train.validation is None else self._held_out(train.validation)
        self._check_samples()

    def _config(self) -> UNetConfig:
        """The U-Net's config, with what follows from the rest of the recipe filled in."""
        channels = self.vae.config.latent_channels
        width, height = self.feed.sizes[0]
        follows = {
            "in_channels": channels + (self.train.time == "band"),
            "out_channels": channels,
            **self.teller.network,
        }
        chosen = {name for name, value in self.train.network.items() if value is not None}
        for name in sorted(_TOLD & chosen - follows.keys()):
            raise RequestError(
                f"train.network.{name}: with conditioning.kind: {self.train.conditioning.kind} nothing is told that "
                "way; leave it out"
            )
        for name, value in follows.items():
            given = self.train.network.get(name, value)
            if given != value and not (name == "cross_attention_dim" and not self._attends()):
                raise RequestError(f"train.network.{name} is {given}, but the rest of the recipe makes it {value}")
        sample = max(width, height) // self.vae.config.downscale
        try:
            return UNetConfig.from_dict({"sample_size": sample} | follows | self.train.network)
        except (ValueError, TypeError) as error:
            raise RequestError(f"train.network: {error}") from error

    def _attends(self) -> bool:
        """Whether the context says anything, and so has a width of its own."""
        return self.teller.family in ("sd1", "sd2") or (
            self.teller.family == "embedding" and "class_embed_type" not in self.teller.network
        )

    def _start_from(self, place: Path) -> None:
        found = read_network(place, "UNet2DConditionModel")
        assert isinstance(found, UNet)
        if found.config != self.config:
            raise RequestError(f"the recipe's network is not that of {place}; copy its config.json into the recipe")
        self.network.load_state_dict(found.float().state_dict())

    def batch(self, step: int, rows: range) -> Batch:
        """Pictures, or latents from the cache; with levels, noise and what the network is told."""
        if self.cache is None:
            return self.rows(step, rows)
        known, made = self.feed.encoded(step, rows, self.cache, self._encode)
        size = torch.Size(side * self.vae.config.downscale for side in made["latents"].shape[2:])
        return made | self.rows.beside(step, rows, known, size)

    @torch.no_grad()
    def _encode(self, images: Tensor) -> dict[str, Tensor]:
        """What is kept of a picture, (1, 3, H, W) in [-1, 1]."""
        assert isinstance(self.vae, AutoencoderKL)
        images = images.to(next(self.vae.parameters()).device)
        made = {"latents": self.vae.encode(images).mode().float()}
        if self.teller.sees:
            made["seen"] = self.teller.view(images).float()
        return made

    def loss(self, batch: Batch, step: int) -> tuple[Tensor, dict[str, Tensor]]:
        return self._losses(batch, self.draws).mean(), {}

    def _losses(self, batch: Batch, draws: Draws) -> Tensor:
        """(B,) losses."""
        if "latents" in batch:
            x0 = batch["latents"]
        else:
            with torch.no_grad():
                images = batch["images"]
                vae = self.vae
                x0 = vae.encode(images).mode().float() if isinstance(vae, AutoencoderKL) else images
                if self.teller.sees:
                    batch = batch | {"seen": self.teller.view(images)}
        told = self.teller.told(batch, self.config.cross_attention_dim)
        return denoising_rows(self.network, draws, x0, batch, told)

    def _held_out(self, data: DataRecipe) -> _HeldOut:
        plain = self.train.objective.model_copy(update={"weighting": "constant", "gamma": None})
        draws = Draws(plain, self.sampling, seed=self.recipe.seed, batch=self.train.validation_rows)
        try:
            feed = Feed(data, self.recipe.seed, draws.batch, multiple=self.vae.config.downscale)
            return _HeldOut(feed=feed, draws=draws, reader=self.teller.reader_of(feed.labels))
        except RequestError as error:
            raise RequestError(f"train.validation: {error}") from error

    def _check_samples(self) -> None:
        """Raises RequestError for a prompt that the finished model will refuse."""
        if not self.train.samples:
            return
        conditioner = conditioner_of(self._parts(self.network, self.teller.modules))
        try:
            for prompt in self.train.samples:
                for text in PromptProgram.parse(prompt).texts(self.defaults.steps):
                    conditioner.report(text)
        except RequestError as error:
            raise RequestError(f"train.samples: {error}") from error

    def validate(self) -> dict[str, float]:
        """The loss without weights on held-out rows, and at each noise level; the same rows and noise every time."""
        if self.held_out is None:
            return {}
        feed, draws, reader = self.held_out.feed, self.held_out.draws, self.held_out.reader
        device, (channels, factor) = next(self.network.parameters()).device, self.rows.shape

        def rows(part: range) -> tuple[Tensor, Tensor]:
            known = feed.rows(0, part)
            height, width = known.images.shape[2:]
            levels, times = held_out_levels(draws, self.train.validation_levels, part)
            batch = {"images": known.images, **levels_batch(levels)}
            batch["eps"] = normal_rows(self.recipe.seed, 0, part, (channels, height // factor, width // factor))
            batch |= reader(known, torch.zeros(len(part), dtype=torch.bool))
            with torch.no_grad():
                return times, self._losses({key: value.to(device) for key, value in batch.items()}, draws)

        return losses_by_level(rows, draws.batch, self.recipe.batch)

    def samples(self) -> list[tuple[str, Image.Image]]:
        """Pictures as `wordbrush generate` will paint them, of the same noise every time."""
        prompts = list(self.train.samples)
        if not prompts:
            known = self.feed.rows(0, range(min(_SAMPLES, self.recipe.batch)))
            prompts = self.teller.prompts(known.captions)
        texts = {name: whole(module.state_dict()) for name, module in self.modules.items()}
        device = next(self.network.parameters()).device
        pipe = Pipeline(self.parts(texts), Runtime.choose(device, "float32"), offload="none")
        images = pipe(prompts, seed=self.recipe.seed).images
        return list(zip(prompts, images, strict=True))

    def export(self, folder: Path, averaged: dict[str, dict[str, Tensor]]) -> None:
        """Writes a whole model into the run's folder, which `wordbrush generate -m FOLDER` paints with."""
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=folder, prefix=".model-") as scratch:
            made = Path(scratch) / "model"
            write_folder(self.parts(averaged), made, dtype=torch.float32)
            put_in_place(made, folder)

    def parts(self, weights: dict[str, dict[str, Tensor]]) -> ModelParts:
        """The model with these weights, in networks of its own; whole ones, by module name."""
        network = UNet(self.config)
        network.load_state_dict(weights["unet"])
        texts: dict[str, nn.Module] = {}
        for name, module in self.teller.modules.items():
            texts[name] = type(module)(module.config)
            texts[name].load_state_dict(weights[name])
        return self._parts(network, texts)

    def _parts(self, network: UNet, texts: dict[str, nn.Module]) -> ModelParts:
        """The model of these networks."""
        return ModelParts(
            family=self.teller.family,
            unet=network,
            vae=self.vae,
            **self.teller.parts(texts),
            scheduler=self._bounded(),
            scheduler_json=self.train.scheduler,
            defaults=self.defaults,
            name=self.recipe.name,
        )

    def _bounded(self) -> SamplingConfig:
        """How the model is sampled, as a reader of its folder will find it.

        Clean estimates have bounds only if they are pixels; and StableDiffusionPipeline, which a model of latents and
        texts is opened with, has its timesteps one higher than a scheduler that does not say so.
        """
        if isinstance(self.vae, Pixels):
            return self.sampling
        offset = 1 if self.teller.family in ("sd1", "sd2") else self.sampling.steps_offset
        return replace(self.sampling, clip_x0=None, steps_offset=offset)

    def _defaults(self) -> ModelDefaults:
        networks, timesteps = {"unet": self.network, "vae": self.vae}, self.sampling.noise.num_train_timesteps
        size = self.feed.sizes[0] if self.train.data.buckets is None else ()
        try:
            usual = usual_defaults(self.teller.family, networks, self.sampling).model_dump()
            usual |= dict(zip(("width", "height"), size, strict=False))
            found = ModelDefaults(**{**usual, **self.train.defaults})
        except RequestError as error:
            raise RequestError(f"train.defaults: {error}") from error
        try:  # the number of tokens decides where the times of some flows lie, not whether there are such
            self._bounded().plan(found.steps, sampler=found.sampler, schedule=found.schedule, tokens=1)
        except ValueError as error:
            raise RequestError(
                f"train.defaults: {error}; a model of {timesteps} timesteps wants fewer steps, or another schedule"
            ) from error
        return found


def _autoencoder(folder: str | None) -> Autoencoder:
    if folder is None:
        return Pixels()
    place = Path(folder)
    kind = read_json(place / "config.json").get("_class_name", "AutoencoderKL")
    if kind != "AutoencoderKL":
        raise RequestError(f"train.vae={folder!r} is a {kind}; an AutoencoderKL is wanted")
    found = read_network(place, "AutoencoderKL")
    assert isinstance(found, AutoencoderKL)
    return found.float().eval().requires_grad_(False)
