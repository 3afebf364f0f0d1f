"""Training the inspector on rendered scenes: what is where, in which colour, on which ground.

A judge must know what can be asked for: unlike the generator, it is shown every colour on every thing that comes in
colours, held-out pairs too. Its scenes are still those of the training split, from a seed of its own.

It is to judge painted pictures, which are softer than renders and not quite on their grid. So what it is shown is
moved, shrunk, softened, compressed, tinted and made noisy, never so far that a name or a colour would change.
"""

from __future__ import annotations

import io
import random
from dataclasses import replace
from functools import cache
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor

from wordbrush.data.pixels import to_images
from wordbrush.data.scenes import ObjectType, Scene, box, object_types, render, sample_scene
from wordbrush.data.scenes.glyphs import COLOURS, sprite
from wordbrush.data.scenes.objects import object_index
from wordbrush.data.scenes.render import BACKGROUND_RGB
from wordbrush.data.scenes.scene import SIZE
from wordbrush.networks.inspector import Inspector, InspectorConfig
from wordbrush.training.export import write_network
from wordbrush.training.recipe import Recipe
from wordbrush.training.task import Batch, Task, row_generator
from wordbrush.training.tasks.recipes import InspectorRecipe

OWN = "own"  # the colour of a thing that was not recoloured
HERE, NEAR = 6.0, 12.0  # pixels: cells within HERE of a thing's middle are to say so, those up to NEAR are not asked
_SHIFT = 4  # pixels that each thing is moved off the grid, at most
_SHRINK = 0.86
_COLOURLESS = ("sketch", "sepia", "silhouette")  # styles that hide a thing's colour ...
_GROUNDLESS = ("sketch", "sepia")  # ... and that of the ground
_PLAIN = 0.7  # part of such pictures that is shown in plain colours instead: prompts ask for no style
_REPAINTED = 0.5  # part of the things that come in colours which is given a new one


@cache
def natural_colour(kind: ObjectType) -> str | None:
    """The colour name that a thing has anyway: an SUV painted red looks repainted, a rose painted red does not.

    It is the nearest painted colour, if that is less than half as far as this colour is from the next one.
    """
    if not kind.colourable:
        return None
    looks = {colour: sprite(kind.emoji, 48, colour) for colour in COLOURS}
    own = sprite(kind.emoji, 48)
    distance = {colour: float(np.abs(look - own).sum()) for colour, look in looks.items()}
    nearest = min(distance, key=lambda colour: distance[colour])
    spacing = min(float(np.abs(looks[nearest] - look).sum()) for colour, look in looks.items() if colour != nearest)
    return nearest if distance[nearest] < 0.5 * spacing else None


def vocabulary() -> dict[str, tuple[str, ...]]:
    """The inspector's classes: the fields of its config that name them."""
    return {
        "kinds": tuple(kind.noun for kind in object_types()),
        "colours": (*COLOURS, OWN),
        "backgrounds": tuple(BACKGROUND_RGB),
    }


def repainted(scene: Scene, rng: random.Random) -> Scene:
    """The scene with some of the things that come in colours in any other; most styles that hide colours taken off."""
    if scene.style in _COLOURLESS:
        if rng.random() >= _PLAIN:
            return scene
        scene = replace(scene, style=None)
    nouns = dict.fromkeys(item.kind.noun for item in scene.objects if item.kind.colourable)
    new = {noun: rng.choice(tuple(COLOURS)) for noun in nouns if rng.random() < _REPAINTED}
    objects = (replace(item, colour=new.get(item.kind.noun, item.colour)) for item in scene.objects)
    return replace(scene, objects=tuple(objects))


def moved(scene: Scene, rng: random.Random) -> Scene:
    """The scene with every thing a few pixels elsewhere, within the frame."""
    objects = []
    for item in scene.objects:
        x, y = (min(max(0, place + rng.randint(-_SHIFT, _SHIFT)), scene.size - item.size) for place in (item.x, item.y))
        objects.append(replace(item, x=x, y=y))
    return replace(scene, objects=tuple(objects))


def compressed(picture: np.ndarray, quality: int) -> np.ndarray:
    """The (h, w, 3) uint8 picture as it comes back from a JPEG file."""
    buffer = io.BytesIO()
    Image.fromarray(picture).save(buffer, "JPEG", quality=quality)
    return np.asarray(Image.open(buffer))


def shrunk(images: Tensor, boxes: Tensor, owners: Tensor, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """About half of the pictures smaller on a larger ground, and their boxes with them.

    Args:
        images: (B, 3, S, S).
        boxes: (P, 4) left, top, right, bottom in pixels.
        owners: (P,) the picture that each box is in.
    """
    count, half = len(images), images.shape[-1] / 2
    scale = 1 - (1 - _SHRINK) * (torch.rand(count, generator=generator) * 2 - 1).clamp(min=0)  # (B,)
    slack = half / scale - half  # how far the frame may move with everything still in it
    shift = (torch.rand(count, 2, generator=generator) * 2 - 1) * slack[:, None]  # (B, 2) pixels of the input
    theta = torch.zeros(count, 2, 3)
    theta[:, 0, 0] = theta[:, 1, 1] = 1 / scale
    theta[:, :, 2] = shift / half
    grid = F.affine_grid(theta, list(images.shape), align_corners=False)
    shown = F.grid_sample(images, grid, padding_mode="border", align_corners=False)
    offset = shift[owners].repeat(1, 2)
    return shown, (boxes - half - offset) * scale[owners, None] + half


def weathered(images: Tensor, generator: torch.Generator) -> Tensor:
    """Softened, tinted and made noisy, each picture by its own draw; (B, 3, S, S) in [-1, 1] in and out."""

    def draw(*shape: int) -> Tensor:
        return torch.rand(len(images), *shape, generator=generator)

    soft = F.interpolate(F.avg_pool2d(images, 2), scale_factor=2.0, mode="bilinear", align_corners=False)
    images = torch.lerp(images, soft, (draw(1, 1, 1) * 1.8 - 0.9).clamp(min=0))
    images = images * (0.94 + 0.10 * draw(1, 1, 1)) + 0.08 * (draw(3, 1, 1) - 0.5)
    cloud = torch.randn(len(images), 3, SIZE // 8, SIZE // 8, generator=generator) * 0.06 * draw(1, 1, 1)
    images = images + F.interpolate(cloud, size=images.shape[-2:], mode="bilinear", align_corners=False)
    grain = torch.randn(images.shape, generator=generator) * (0.12 * draw(1, 1, 1) - 0.04).clamp(min=0)
    return (images + grain).clamp(-1, 1)


def assign(boxes: Tensor, owners: Tensor, count: int, side: int) -> tuple[Tensor, Tensor, Tensor]:
    """Which cells are to say what.

    Args:
        boxes, owners: (P, 4), (P,) as in `shrunk`, of `count` pictures; `side`: cells along each side.

    Returns:
        presence (count, side, side): 1 at the middle of a thing, -1 near it (not asked), else 0; and for each cell with
        a 1, its number in the flattened presence (Q,) and the box it belongs to (Q,).
    """
    middles = (torch.arange(side) + 0.5) * (SIZE / side)
    centre = (boxes[:, :2] + boxes[:, 2:]) / 2
    across = (middles - centre[:, :1]).abs()  # (P, side)
    down = (middles - centre[:, 1:]).abs()  # (P, side)
    distance = torch.maximum(down[:, :, None], across[:, None, :])  # (P, side, side)
    presence = torch.zeros(count, side, side, dtype=torch.int8)
    nearest = torch.full((count, side, side), float("inf"))
    holder = torch.full((count, side, side), -1)
    for number, owner in enumerate(owners.tolist()):
        closer = distance[number] < nearest[owner]
        nearest[owner][closer] = distance[number][closer]
        holder[owner][closer] = number
    presence[nearest <= NEAR] = -1
    presence[nearest <= HERE] = 1
    cells = (presence.flatten() == 1).nonzero()[:, 0]
    return presence, cells, holder.flatten()[cells]


class InspectorTask(Task):
    """Scenes in; presence, kind, colour, box and ground out."""

    def __init__(self, recipe: Recipe, train: InspectorRecipe) -> None:
        super().__init__()
        self.recipe, self.train = recipe, train
        self.config = InspectorConfig.from_dict({**vocabulary(), **train.network})
        self.network = Inspector(self.config)
        self.network.initialise(torch.Generator().manual_seed(recipe.seed))
        self.network.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        self.modules = {"inspector": self.network}
        self.number_of = {name: number for number, name in enumerate(self.config.colours)}

    def batch(self, step: int, rows: range) -> Batch:
        first = step * self.recipe.batch
        scenes, pictures = [], []
        for row in rows:
            rng = random.Random(f"inspector/{self.recipe.seed}/{step}/{row}")
            scenes.append(moved(repainted(sample_scene("train", self.recipe.seed, first + row), rng), rng))
            picture = render(scenes[-1])
            pictures.append(compressed(picture, rng.randint(40, 90)) if rng.random() < 0.15 else picture)
        # what the pictures are put through is drawn for all rows of one call: it need not be the same in another split
        generator = row_generator(self.recipe.seed, step, rows.start)
        things = [(owner, scene, item) for owner, scene in enumerate(scenes) for item in scene.objects]
        owners = torch.tensor([owner for owner, _, _ in things])
        boxes = torch.tensor([box(item) for _, _, item in things], dtype=torch.float32)
        images, boxes = shrunk(to_images(np.stack(pictures)), boxes, owners, generator)
        presence, cells, holders = assign(boxes, owners, len(scenes), self.config.size // self.config.cell)
        kinds = torch.tensor([object_index()[item.kind.noun] for _, _, item in things])
        colours = torch.tensor([
            -1 if scene.style in _COLOURLESS else self.number_of[item.colour or natural_colour(item.kind) or OWN]
            for _, scene, item in things
        ])  # fmt: skip
        grounds = [
            -1 if scene.style in _GROUNDLESS else self.config.backgrounds.index(scene.background) for scene in scenes
        ]
        return {
            "images": weathered(images, generator).contiguous(memory_format=torch.channels_last),
            "presence": presence,
            "cells": cells,
            "kinds": kinds[holders],
            "colours": colours[holders],
            "boxes": boxes[holders],
            "backgrounds": torch.tensor(grounds),
        }

    def loss(self, batch: Batch, step: int) -> tuple[Tensor, dict[str, Tensor]]:
        network, cells = self.network, batch["cells"]
        features = network.features(batch["images"])
        logits = network.presence(features.cells).float()
        asked = batch["presence"] >= 0
        presence = F.binary_cross_entropy_with_logits(logits[asked], batch["presence"][asked].float(), reduction="sum")
        presence = presence / max(1, len(cells))
        answers = network.answers(features.cells.flatten(0, 2)[cells])
        kind = F.cross_entropy(answers.kind.float(), batch["kinds"])
        colour = _cross_entropy(answers.colour.float(), batch["colours"])
        side = self.config.size // self.config.cell
        wanted = network.raw_boxes(batch["boxes"], cells // side % side, cells % side)
        place = F.l1_loss(answers.box.float(), wanted)
        ground = _cross_entropy(network.background(features.embedding).float(), batch["backgrounds"])
        figures = {
            "presence": presence.detach(),
            "named": (answers.kind.argmax(1) == batch["kinds"]).float().mean(),
            "colour": colour.detach(),
            "place": place.detach(),
            "ground": ground.detach(),
        }
        return presence + kind + colour + place + 0.5 * ground, figures

    def export(self, folder: Path, averaged: dict[str, dict[str, Tensor]]) -> None:
        """Writes `inspector/` in float16, as it is shipped."""
        write_network(
            folder / "inspector",
            self.config.to_dict(),
            averaged["inspector"],
            dtype=torch.float16,
            weights_name="model",
        )


def _cross_entropy(logits: Tensor, labels: Tensor) -> Tensor:
    """The mean over rows with a label (-1: none); zero when no row has one."""
    known = labels >= 0
    return F.cross_entropy(logits[known], labels[known], reduction="sum") / known.sum().clamp(min=1)
