"""Training CLIP: which caption belongs to which picture (Radford 2021, figure 3)."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from wordbrush.conditioning.tokenizer import ClipTokenizer
from wordbrush.data.pixels import to_images
from wordbrush.data.scenes import caption, render, sample_scene
from wordbrush.data.scenes.scene import SIZE
from wordbrush.errors import RequestError
from wordbrush.formats.clip_files import PICTURE_CONFIG
from wordbrush.metadata import write_whole
from wordbrush.networks.clip import CLIPConfig, CLIPModel, CLIPTextConfig, CLIPVisionConfig
from wordbrush.training.export import write_network
from wordbrush.training.feed import Feed
from wordbrush.training.gathering import first_row, gathered
from wordbrush.training.recipe import Recipe
from wordbrush.training.task import Batch, Task
from wordbrush.training.tasks.recipes import CLIPRecipe


class CLIPSource:
    """Pictures and the tokens of their captions. Holds no network, so it is pickled."""

    def __init__(
        self, recipe: Recipe, train: CLIPRecipe, tokenizer: ClipTokenizer, side: int, folder: Path | None
    ) -> None:
        self.seed, self.count, self.tokenizer = recipe.seed, recipe.batch, tokenizer
        self.feed = None if train.data is None else Feed(train.data, recipe.seed, recipe.batch, folder=folder)
        sizes = [(SIZE, SIZE)] if self.feed is None else self.feed.sizes
        for width, height in sizes:
            if (width, height) != (side, side):
                raise RequestError(
                    f"pictures of {width}x{height} for train.vision.image_size={side}; "
                    + (f"scenes have {SIZE}" if self.feed is None else f"set train.data.size to {side}")
                )

    def __call__(self, step: int, rows: range) -> Batch:
        """`images` (B, 3, S, S) in [-1, 1]; `ids` (B, L)."""
        if self.feed is None:
            scenes = [sample_scene("train", self.seed, step * self.count + row) for row in rows]
            images, captions = to_images(np.stack([render(scene) for scene in scenes])), [caption(s) for s in scenes]
        else:
            samples = self.feed.rows(step, rows)
            images, captions = samples.images, samples.captions
        return {"images": images, "ids": torch.tensor([self.tokenizer.encode(text) for text in captions])}


class CLIPTask(Task):
    """Pictures and captions in; symmetric InfoNCE over the batch out."""

    def __init__(self, recipe: Recipe, train: CLIPRecipe, folder: Path | None = None) -> None:
        """`folder`: where it is noted which pictures were passed over as bad.

        Raises:
            RequestError: the step is cut into micro-batches or has but one row, or pictures have not the size of the
                picture tower.
        """
        super().__init__()
        if recipe.accumulate > 1:
            raise RequestError(
                f"accumulate={recipe.accumulate}: CLIP compares every picture of a step with every caption, which "
                "micro-batches cannot; leave it out, and for larger batches train on more processes"
            )
        if recipe.batch < 2:
            raise RequestError(
                "batch=1: CLIP learns to tell a picture's caption from the others of its step, and one alone teaches "
                "nothing; give at least 2"
            )
        self.recipe, self.train = recipe, train
        self.tokenizer = ClipTokenizer.from_folder(Path(train.tokenizer))
        text = CLIPTextConfig.from_dict(
            {
                **train.text,
                "vocab_size": len(self.tokenizer.vocab),
                "max_position_embeddings": self.tokenizer.max_length,
                "bos_token_id": self.tokenizer.bos_id,
                "eos_token_id": self.tokenizer.eos_id,
                "pad_token_id": self.tokenizer.pad_id,
                "projection_dim": train.projection,
            }
        )
        vision = CLIPVisionConfig.from_dict({**train.vision, "projection_dim": train.projection})
        self.config = CLIPConfig(text_config=text, vision_config=vision, projection_dim=train.projection)
        self.network = CLIPModel(self.config)
        self.network.initialise(torch.Generator().manual_seed(recipe.seed))
        self.modules = {"clip": self.network}
        self.source = self.pictures = CLIPSource(recipe, train, self.tokenizer, vision.image_size, folder)

    def batch(self, step: int, rows: range) -> Batch:
        return self.pictures(step, rows)

    def loss(self, batch: Batch, step: int) -> tuple[Tensor, dict[str, Tensor]]:
        """Each row against all rows of the step, those of other processes too (Radford 2021, figure 3)."""
        text = F.normalize(self.network.text_features(batch["ids"]).float(), dim=1)  # (B, P)
        image = F.normalize(self.network.image_features(batch["images"]).float(), dim=1)  # (B, P)
        scale = self.network.logit_scale.exp().clamp(max=100.0)  # Radford 2021, §2.5
        by_image, by_text = scale * image @ gathered(text).T, scale * text @ gathered(image).T  # (B, processes * B)
        own = torch.arange(len(image), device=image.device) + first_row(image)
        loss = (F.cross_entropy(by_image, own) + F.cross_entropy(by_text, own)) / 2
        return loss, {"retrieval": (by_image.argmax(1) == own).float().mean(), "scale": scale.detach()}

    def export(self, folder: Path, averaged: dict[str, dict[str, Tensor]]) -> None:
        """Writes `clip/`, which transformers' CLIPModel and CLIPImageProcessor open."""
        write_network(
            folder / "clip", self.config.to_dict(), averaged["clip"], dtype=torch.float32, weights_name="model"
        )
        side = self.config.vision_config.image_size
        half = [0.5, 0.5, 0.5]  # of `to_images`
        picture = {
            "image_processor_type": "CLIPImageProcessor",
            "crop_size": {"height": side, "width": side},
            "size": {"shortest_edge": side},
            "image_mean": half,
            "image_std": half,
        }
        write_whole(folder / "clip" / PICTURE_CONFIG, (json.dumps(picture, indent=2) + "\n").encode())
