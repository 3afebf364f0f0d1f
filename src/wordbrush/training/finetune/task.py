"""The task of every fine-tuning: pictures and captions in, the denoising loss of the model's own kind out."""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager, nullcontext
from dataclasses import fields, replace
from pathlib import Path

import torch
from PIL import Image
from torch import Tensor

from wordbrush.conditioning.conditioning import Conditioning
from wordbrush.diffusion.process import RectifiedFlow
from wordbrush.errors import RequestError
from wordbrush.networks.unet import UNet
from wordbrush.training.cache import TensorCache, Tensors, text_key, weights_hash
from wordbrush.training.data_recipe import DataRecipe, data_recipe
from wordbrush.training.distributed import by_the_main_one
from wordbrush.training.feed import Feed, Rows
from wordbrush.training.finetune.captions import CaptionReader, cut_captions
from wordbrush.training.finetune.export import check_names
from wordbrush.training.finetune.model import open_for_training, set_precision, side_step, vae_of
from wordbrush.training.finetune.predict import predict
from wordbrush.training.finetune.recipes import Finetune, InversionRecipe
from wordbrush.training.finetune.trained import Word, placeholder_of, prepare, trained_networks
from wordbrush.training.objectives import Levels, Noising, draw_times, loss_rows, noised, offset, target_of
from wordbrush.training.recipe import Recipe
from wordbrush.training.task import Batch, Task, normal_rows, row_generator, uniform_rows

_LEVELS = tuple(field.name for field in fields(Levels))
_VALIDATED = (0.1, 0.3, 0.5, 0.7, 0.9)  # times whose loss `validate` measures

# What rows draw beside their noise, by the `purpose` of `normal_rows`; the prior's rows draw the same, further on.
_OFFSET, _PERTURBATION, _POSTERIOR, _TEMPLATE, _PRIOR = 1, 2, 3, 4, 10


class FinetuneTask(Task):
    """Trains a model that exists, in the way that its recipe names."""

    def __init__(
        self,
        recipe: Recipe,
        train: Finetune,
        folder: Path,
        device: torch.device | None = None,
        *,
        stop: threading.Event | None = None,
        log: Callable[[str], None] | None = None,
    ) -> None:
        """
        Args:
            folder: where pictures that are painted first, and cached latents, are kept.
            device: where pictures and texts are encoded; the CPU unless given.
            stop: set, ends the painting of class pictures: Stopped is raised.
            log: is told how far that is.
        """
        super().__init__()
        check_names(recipe, train)
        self.recipe, self.train = recipe, train
        self.device = device or torch.device("cpu")
        self.parts = parts = open_for_training(train.model, prediction=train.prediction)
        self.reader = CaptionReader(parts, placeholder=placeholder_of(train), clip_skip=train.clip_skip)
        self.folder = folder
        self.feeds = {"": self._feed(train.data, recipe.seed)}
        if train.prior is not None:  # before the networks take their places: painting needs room there, too
            from wordbrush.training.finetune.prior import PriorPainter, with_prompts

            place, size = folder / "class", self.usual_size
            painter = PriorPainter(with_prompts(train.prior, parts), train, place, size, recipe.seed)
            by_the_main_one(lambda: painter(self.device, stop, log))
            data = data_recipe({"kind": "folder", "path": place, "text": "txt", "size": size}, "prior")
            self.feeds["prior_"] = self._feed(data, recipe.seed + 1)
        set_precision(parts, set(trained_networks(train, parts)), recipe.precision)
        for network in parts.networks.values():
            network.to(self.device)
        self.modules, self.rates = prepare(train, parts, self.reader, torch.Generator().manual_seed(recipe.seed))
        self.frozen = {name: network for name, network in parts.networks.items() if name not in self.modules}
        # states of frozen encoders that no new word enters never change
        self.texts_change = isinstance(train, InversionRecipe) or train.text_encoder
        self.notes = cut_captions(self.reader, self.feeds[""])
        self.held_out = None if train.validation is None else self._feed(train.validation, recipe.seed + 2)
        self._noisings: dict[float | None, Noising] = {}
        self._latents = TensorCache(folder / "cache", weights_hash([vae_of(parts)], repr(vae_of(parts).config)))
        self._texts: TensorCache | None = None
        if not self.texts_change:
            encoders = [parts.networks[name] for name in self.reader.encoders]
            self._texts = TensorCache(folder / "cache", weights_hash(encoders, parts.family, str(train.clip_skip)))

    # ------------------------------------------------------------------------------------------------- data

    def _feed(self, data: DataRecipe, seed: int) -> Feed:
        denoiser = self.parts.denoiser
        levels = len(denoiser.config.block_out_channels) if isinstance(denoiser, UNet) else None
        step = side_step(vae_of(self.parts).config.downscale, levels)
        return Feed(data, seed, self.recipe.batch, multiple=step, folder=self.folder)

    @property
    def usual_size(self) -> tuple[int, int]:
        """Width and height of class pictures and samples: those of the subject's, or the bucket nearest to a square."""
        return min(self.feeds[""].sizes, key=lambda size: (max(size) / min(size), -min(size)))

    def batch(self, step: int, rows: range) -> Batch:
        batch: Batch = {}
        for purpose, (name, feed) in enumerate(self.feeds.items()):
            part = self._part(feed, step, rows, purpose * _PRIOR)
            batch |= {name + key: value for key, value in part.items()}
        return batch

    def _part(self, feed: Feed, step: int, rows: range, purpose: int) -> Batch:
        """The rows of one feed: latents, text, levels and noise."""
        seed, objective = self.recipe.seed, self.train.objective
        told, moments = feed.encoded(step, rows, self._latents, self._encode)
        latents = moments["mean"]
        shape = latents.shape[1:]
        if self.train.posterior == "sample":
            drawn = normal_rows(seed, step, rows, shape, purpose=purpose + _POSTERIOR)
            latents = latents + torch.exp(0.5 * moments["logvar"]) * drawn
        eps = normal_rows(seed, step, rows, shape, purpose=purpose)
        if objective.offset_noise:
            shift = normal_rows(seed, step, rows, (shape[0], 1, 1), purpose=purpose + _OFFSET)
            eps = offset(eps, shift, objective.offset_noise)
        part: Batch = {"latents": latents, "eps": eps}
        if objective.input_perturbation:
            drawn = normal_rows(seed, step, rows, shape, purpose=purpose + _PERTURBATION)
            part["perturbation"] = objective.input_perturbation * drawn
        times = draw_times(objective.times, self.recipe.batch, row_generator(seed + 7_919 * purpose, step))
        levels = self._noising(shape).at(times).rows(rows)
        part |= {name: getattr(levels, name) for name in _LEVELS}
        part |= self._told(told.captions, step, rows)
        if self.parts.family.startswith("sdxl"):
            part["time_ids"] = self._numbers_of(told, shape)
        return part

    @torch.no_grad()
    def _encode(self, image: Tensor) -> Tensors:
        """The distribution of the scaled latents of (1, 3, H, W)."""
        found = vae_of(self.parts).encode(image.to(self.device))
        return {"mean": found.mean, "logvar": found.logvar}

    def _numbers_of(self, told: Rows, shape: torch.Size) -> Tensor:
        """(B, 6): original height and width, crop top and left, target height and width (Podell 2023, §2.2)."""
        factor = vae_of(self.parts).config.downscale
        target = torch.tensor([factor * side for side in shape[1:]]).expand(len(told.captions), 2)
        return torch.cat([told.originals, told.corners, target], dim=1).float()

    def _told(self, captions: list[str], step: int, rows: range) -> Batch:
        """The text that the network is told: its states, or the ids that become them."""
        if isinstance(self.train, InversionRecipe):
            drawn = uniform_rows(self.recipe.seed, step, rows, purpose=_TEMPLATE).tolist()
            captions = [self._worded(text, draw) for text, draw in zip(captions, drawn, strict=True)]
        return self.reader.read(captions) if self.texts_change else self._states(captions)

    def _worded(self, caption: str, draw: float) -> str:
        """A caption with the placeholder in it."""
        assert isinstance(self.train, InversionRecipe)
        assert self.reader.placeholder is not None
        if not caption:
            templates = self.train.templates
            return templates[int(draw * len(templates))].replace("{}", self.train.placeholder)
        if len(self.reader.placeholder.split(caption)) == 1:
            raise RequestError(
                f"the caption {caption!r} does not hold the placeholder {self.train.placeholder!r}, whose vectors are "
                "all that is trained; put it there, or leave the captions out (data.text: none)"
            )
        return caption

    def _states(self, captions: list[str]) -> Batch:
        """The states of texts whose encoders do not change, each computed once."""
        assert self._texts is not None
        keys = [text_key(caption) for caption in captions]
        rows = self._texts.through(keys, lambda number: self._state(captions[number]))
        return {name: torch.cat([row[name] for row in rows]) for name in rows[0]}

    @torch.no_grad()
    def _state(self, caption: str) -> Tensors:
        ids = {key: value.to(self.device) for key, value in self.reader.read([caption]).items()}
        found = self.reader.condition(ids)
        return {"context": found.context} | ({} if found.pooled is None else {"pooled": found.pooled})

    def _noising(self, shape: torch.Size) -> Noising:
        """The noise process at this size of latents (C, h, w): FLUX dev's is shifted by it (Esser 2024, §5.3.2)."""
        sampling = self.parts.scheduler
        shift = None
        if isinstance(sampling.noise, RectifiedFlow):
            shift = self.train.shift
            if shift is None and sampling.dynamic_shift is not None:
                shift = sampling.dynamic_shift.shift(shape[1] * shape[2] // 4)
        elif self.train.shift is not None:
            raise RequestError(f"shift={self.train.shift:g} has a meaning for flows (FLUX) only; leave it out")
        if shift not in self._noisings:
            if shift is not None:
                noise = RectifiedFlow(shift=shift, num_train_timesteps=sampling.noise.num_train_timesteps)
                sampling = replace(sampling, noise=noise, dynamic_shift=None)
            self._noisings[shift] = Noising(sampling)
        return self._noisings[shift]

    # ------------------------------------------------------------------------------------------------- loss

    def loss(self, batch: Batch, step: int) -> tuple[Tensor, dict[str, Tensor]]:
        del step
        own = {key: value for key, value in batch.items() if not key.startswith("prior_")}
        if self.train.prior is None:
            return self.rows_loss(own).mean(), {}
        prior = {key.removeprefix("prior_"): value for key, value in batch.items() if key.startswith("prior_")}
        count = len(own["latents"])
        if own["latents"].shape == prior["latents"].shape and own.keys() == prior.keys():
            rows = self.rows_loss({key: torch.cat([own[key], prior[key]]) for key in own})
            subject, kept = rows[:count].mean(), rows[count:].mean()
        else:
            subject, kept = self.rows_loss(own).mean(), self.rows_loss(prior).mean()
        figures = {"subject": subject.detach(), "prior": kept.detach()}
        return subject + self.train.prior.weight * kept, figures

    def rows_loss(self, part: Mapping[str, Tensor]) -> Tensor:
        """(B,) the loss of every row."""
        levels = Levels(**{name: part[name] for name in _LEVELS})
        x0, eps = part["latents"], part["eps"]
        alpha, sigma = (value.to(x0).view(-1, 1, 1, 1) for value in (levels.alpha, levels.sigma))
        x = noised(x0, eps, alpha, sigma, part.get("perturbation"))
        output = predict(
            self.parts.denoiser, self.entering(x), levels.timesteps.to(x.device), self.conditioning(part),
            part.get("time_ids"),
        )  # fmt: skip
        prediction = self.parts.scheduler.prediction
        return loss_rows(self.train.objective, prediction, output, target_of(prediction, x0, eps, levels), levels)

    def entering(self, x: Tensor) -> Tensor:
        """x in the number format of a denoiser whose weights are kept in another than float32."""
        return x.to(next(self.parts.denoiser.parameters()).dtype)

    def conditioning(self, part: Mapping[str, Tensor]) -> Conditioning:
        """What the rows are conditioned on: states computed before, or of the encoders as they are now."""
        if "context" in part:
            found = Conditioning(context=part["context"], pooled=part.get("pooled"))
        else:
            word = self.modules.get("word")
            found = self.reader.condition(part, word.vectors() if isinstance(word, Word) else None)
        dtype = next(self.parts.denoiser.parameters()).dtype
        pooled = None if found.pooled is None else found.pooled.to(dtype)
        return Conditioning(context=found.context.to(dtype), pooled=pooled)

    # ----------------------------------------------------------------------------------------- looking at it

    @torch.no_grad()
    def validate(self) -> dict[str, float]:
        """The loss of held-out pictures at five times, from the same noise each time."""
        if self.held_out is None:
            return {}
        rows = range(min(self.recipe.batch, len(self.held_out.dataset)))
        part = self._part(self.held_out, 0, rows, 2 * _PRIOR)
        noising = self._noising(part["latents"].shape[1:])
        figures: dict[str, float] = {}
        for time in _VALIDATED:
            levels = noising.at(torch.full((len(rows),), time, dtype=torch.float64))
            moved = part | {name: getattr(levels, name) for name in _LEVELS}
            with self._numbers():
                found = self.rows_loss({key: value.to(self.device) for key, value in moved.items()})
            figures[f"loss at t={time:g}"] = float(found.mean())
        return figures | {"held-out loss": sum(figures.values()) / len(figures)}

    def _numbers(self) -> AbstractContextManager[object]:
        dtype = {"bfloat16": torch.bfloat16, "float16": torch.float16}.get(self.recipe.precision)
        return nullcontext() if dtype is None else torch.autocast(self.device.type, dtype)

    def samples(self) -> list[tuple[str, Image.Image]]:
        from wordbrush.training.finetune.painting import paint

        with self._numbers():
            return [(prompt, paint(self, prompt, number)) for number, prompt in enumerate(self.train.samples)]

    def export(self, folder: Path, averaged: dict[str, dict[str, Tensor]]) -> None:
        from wordbrush.training.finetune.export import export

        export(self, folder, averaged)
