"""Scenes as a data set: without end or a fixed number of them, captioned, or as single things with labels."""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from wordbrush.data.dataset import Dataset
from wordbrush.data.scenes import Scene, SceneObject, caption, object_types, render, sample_scene
from wordbrush.data.scenes.objects import object_index
from wordbrush.data.scenes.scene import BACKGROUNDS, GRID, SIZE, Split, held_out
from wordbrush.errors import RequestError

# As good as endless: a thousand pictures a second for thirty thousand years.
_ENDLESS = 2**50

# Drawing changed: what was cached of earlier pictures is of other ones.
_VERSION = 1


@dataclass(frozen=True, kw_only=True)
class SceneChoice:
    """Which scenes. `count`: None is without end; `kind`: one of `scenes.scene.KINDS`; `things`: nouns, as classes."""

    split: Split = "train"
    seed: int = 0
    count: int | None = None
    kind: str | None = None
    things: tuple[str, ...] = ()


class SceneDataset(Dataset):
    """Scene number i is the i-th of its split and seed."""

    def __init__(self, choice: SceneChoice) -> None:
        """Raises RequestError: one of the things is not in the world of scenes."""
        unknown = [noun for noun in choice.things if noun not in object_index()]
        if unknown:
            there = len(object_index())
            raise RequestError(f"{unknown[0]!r} is none of the {there} things of scenes, such as dog or car")
        self.choice = choice
        self.labels = choice.things or None

    def __len__(self) -> int:
        return self.choice.count or _ENDLESS

    @property
    def common_size(self) -> tuple[int, int]:
        return SIZE, SIZE

    def scene(self, index: int) -> Scene:
        """What is in picture number `index`."""
        if self.choice.things:
            noun = self.choice.things[index % len(self.choice.things)]
            return thing_scene(noun, self.choice.split, self.choice.seed, index)
        return sample_scene(self.choice.split, self.choice.seed, index, self.choice.kind)

    def image(self, index: int) -> np.ndarray:
        return render(self.scene(index))

    def caption(self, index: int, draw: random.Random | None = None) -> str:
        return caption(self.scene(index), draw)

    def label(self, index: int) -> int | None:
        return index % len(self.choice.things) if self.choice.things else None

    def key(self, index: int) -> str:
        kind = self.choice.kind or "any"
        what = f"thing/{self.choice.things[index % len(self.choice.things)]}" if self.choice.things else kind
        return f"scene/{self.choice.split}/{self.choice.seed}/{what}/{index}"

    def digest(self, index: int) -> str:
        return f"v{_VERSION}/{self.key(index)}"

    def size(self, index: int) -> tuple[int, int]:
        return SIZE, SIZE

    def order(self, seed: int, epoch: int) -> Sequence[int] | np.ndarray:
        """Endless scenes come in turn, each new; a number of them is shuffled."""
        return range(_ENDLESS) if self.choice.count is None else super().order(seed, epoch)


def thing_scene(noun: str, split: Split, seed: int, index: int) -> Scene:
    """One thing of any size at any place on any ground: what classes are learnt from. Pairs held out stay so."""
    kind = object_types()[object_index()[noun]]
    draw = random.Random(f"thing/{noun}/{split}/{seed}/{index}")
    while True:
        size = draw.choice((56, 64, 72, 80, 88, 96))
        x, y = (GRID * draw.randint(0, (SIZE - size) // GRID) for _ in range(2))
        ground = "white" if draw.random() < 0.35 else draw.choice(BACKGROUNDS[1:])
        if ground == "white" or held_out(noun, f"background:{ground}") == (split == "test"):
            break
    thing = SceneObject(kind=kind, size=size, x=x, y=y)
    return Scene(
        split=split,
        seed=seed,
        index=index,
        kind="single",
        objects=(thing,),
        background=ground,
        pattern=None,
        style=None,
        relation=None,
    )
