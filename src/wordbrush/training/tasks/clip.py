"""Training CLIP on scenes: which caption belongs to which picture (Radford 2021, figure 3)."""

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
from wordbrush.formats.clip_files import PICTURE_CONFIG
from wordbrush.metadata import write_whole
from wordbrush.networks.clip import CLIPConfig, CLIPModel, CLIPTextConfig, CLIPVisionConfig
from wordbrush.training.export import write_network
from wordbrush.training.recipe import Recipe
from wordbrush.training.task import Batch, Task
from wordbrush.training.tasks.recipes import CLIPRecipe


class CLIPTask(Task):
    """Pictures and captions in; symmetric InfoNCE over the batch out."""

    def __init__(self, recipe: Recipe, train: CLIPRecipe) -> None:
        super().__init__()
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

    def batch(self, step: int, rows: range) -> Batch:
        first = step * self.recipe.batch
        scenes = [sample_scene("train", self.recipe.seed, first + row) for row in rows]
        ids = torch.tensor([self.tokenizer.encode(caption(scene)) for scene in scenes])
        return {"images": to_images(np.stack([render(scene) for scene in scenes])), "ids": ids}

    def loss(self, batch: Batch, step: int) -> tuple[Tensor, dict[str, Tensor]]:
        text = F.normalize(self.network.text_features(batch["ids"]).float(), dim=1)  # (B, P)
        image = F.normalize(self.network.image_features(batch["images"]).float(), dim=1)  # (B, P)
        scale = self.network.logit_scale.exp().clamp(max=100.0)  # Radford 2021, §2.5
        logits = scale * image @ text.T  # (B, B)
        own = torch.arange(len(logits), device=logits.device)
        loss = (F.cross_entropy(logits, own) + F.cross_entropy(logits.T, own)) / 2
        return loss, {"retrieval": (logits.argmax(1) == own).float().mean(), "scale": scale.detach()}

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
