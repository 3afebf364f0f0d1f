"""Training an upscaler on scenes: drawn large, made small, and drawn large again by the network."""

from __future__ import annotations

import random
from pathlib import Path

import numpy as np
import torch
from PIL import Image, ImageFilter
from torch import Tensor

from wordbrush.data.pixels import to_images
from wordbrush.data.scenes import enlarged, render, sample_scene
from wordbrush.data.scenes.glyphs import GLYPH
from wordbrush.networks.srresnet import SRResNet, SRResNetConfig
from wordbrush.training.export import write_network
from wordbrush.training.recipe import Recipe
from wordbrush.training.task import Batch, Task
from wordbrush.training.tasks.recipes import UpscalerRecipe

_SMALLEST = 96  # of a scene's largest thing, drawn large
_CROPS = 4  # of each scene


def reduced(large: Image.Image, factor: int) -> Image.Image:
    """The picture made smaller by antialiased bicubic interpolation, as super-resolution is measured by.

    large: its sides are multiples of the factor.
    """
    return large.resize((large.width // factor, large.height // factor), Image.Resampling.BICUBIC)


def pairs_of_scene(recipe: Recipe, train: UpscalerRecipe, index: int) -> list[tuple[np.ndarray, np.ndarray]]:
    """Crops of a training scene: (crop, crop, 3) small, and what they look like `scale` times as large; uint8."""
    factor, rng = int(train.network.get("scale", 4)), random.Random(f"upscaler/{recipe.seed}/{index}")
    scene, scale = enlarged(sample_scene("train", recipe.seed, index), rng.randint(_SMALLEST, GLYPH), factor)
    large = Image.fromarray(render(scene, scale))
    clean = reduced(large, factor)
    found = []
    for number in range(_CROPS):
        small = clean
        if rng.random() < train.degraded:
            small = _degraded(large, factor, rng)
        thing = scene.objects[number % len(scene.objects)]
        x, y = (
            min(max(0, rng.randint(start - train.crop * factor // 2, start + thing.size) // factor), side - train.crop)
            for start, side in ((thing.x, small.width), (thing.y, small.height))
        )
        here = small.crop((x, y, x + train.crop, y + train.crop))
        wide, left, top = factor * train.crop, factor * x, factor * y
        found.append((np.asarray(here), np.asarray(large.crop((left, top, left + wide, top + wide)))))
    return found


def _degraded(large: Image.Image, factor: int, rng: random.Random) -> Image.Image:
    """Made small in another way, a little soft and noisy, as what an autoencoder gives is."""
    way = rng.choice((Image.Resampling.BICUBIC, Image.Resampling.BOX, Image.Resampling.LANCZOS))
    small = large.resize((large.width // factor, large.height // factor), way)
    soft = np.asarray(small.filter(ImageFilter.GaussianBlur(rng.uniform(0.0, 0.8))), np.float32)
    noise = np.random.default_rng(rng.getrandbits(32)).normal(0.0, rng.uniform(0.0, 5.0), soft.shape)
    return Image.fromarray(np.clip(soft + noise + 0.5, 0, 255).astype(np.uint8))


class UpscalerTask(Task):
    """Small crops in, large crops out: the L1 distance, with which training gets further than with L2 (Lim 2017)."""

    def __init__(self, recipe: Recipe, train: UpscalerRecipe) -> None:
        super().__init__()
        self.recipe, self.train = recipe, train
        self.config = SRResNetConfig.from_dict(train.network)
        self.network = SRResNet(self.config)
        self.network.initialise(torch.Generator().manual_seed(recipe.seed))
        self.network.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        self.modules = {"upscaler": self.network}

    def batch(self, step: int, rows: range) -> Batch:
        first = step * -(-self.recipe.batch // _CROPS)
        needed = range(rows.start // _CROPS, -(-rows.stop // _CROPS))
        pairs = [pair for scene in needed for pair in pairs_of_scene(self.recipe, self.train, first + scene)]
        pairs = pairs[rows.start - needed.start * _CROPS :][: len(rows)]
        small, large = (np.stack(pictures) for pictures in zip(*pairs, strict=True))
        return {"small": to_images(small), "large": to_images(large)}

    def loss(self, batch: Batch, step: int) -> tuple[Tensor, dict[str, Tensor]]:
        difference = self.network(batch["small"]).float() - batch["large"]
        psnr = 10.0 * torch.log10(4.0 / difference.detach().square().mean().clamp(min=1e-9))
        return difference.abs().mean(), {"psnr": psnr}

    def export(self, folder: Path, averaged: dict[str, dict[str, Tensor]]) -> None:
        """Writes `upscaler/`."""
        write_network(
            folder / "upscaler", self.config.to_dict(), averaged["upscaler"], dtype=torch.float16, weights_name="model"
        )
