"""Scenes: what is in a picture, decided before anything is drawn. A scene is a pure function of (split, seed, index).

Combinations are split by hash: a tenth of all object-object, object-background, object-colour and object-style pairs
is *held out*. Training scenes never contain a held-out pair. In a test scene every object-object pair is held out, and
so is, for at least one of its things, the pair with its colour, its background and its style: no training picture
showed such a combination.
"""

from __future__ import annotations

import hashlib
import random
from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import lru_cache
from itertools import combinations
from typing import Literal

from wordbrush.data.scenes.glyphs import COLOURS
from wordbrush.data.scenes.objects import ObjectType, object_types

Split = Literal["train", "test"]
SIZE = 128
GRID = 8  # positions are multiples of this: the scene's grid is the latent grid of an f8 codec
BACKGROUNDS = ("white", "black", "gray", "red", "orange", "yellow", "green", "blue", "purple", "pink", "brown")
PATTERNS = ("striped", "polka dot", "checkered")
STYLES = ("pixel art", "sketch", "silhouette", "sepia")
KINDS = ("single", "colour", "two", "position", "binding", "counting", "several")
_KIND_WEIGHTS = (14, 10, 16, 22, 18, 14, 6)
_HELD_OUT = 0.10
_SIZES = {1: (56, 64, 72, 80, 88, 96), 2: (48, 56, 56, 64), 3: (40, 48, 48, 56), 4: (40, 48, 48, 56)}
SMALL, BIG = 40, 88


@dataclass(frozen=True, kw_only=True)
class SceneObject:
    """One thing in the picture. `x`, `y`: top-left corner of its size x size cell, in pixels."""

    kind: ObjectType
    size: int
    x: int = 0
    y: int = 0
    colour: str | None = None  # None: the glyph's own colours
    stated_size: str | None = None  # "small" or "big" when the caption may say so

    @property
    def centre(self) -> tuple[float, float]:
        return self.x + self.size / 2, self.y + self.size / 2


@dataclass(frozen=True, kw_only=True)
class Scene:
    """Everything that decides the picture and every caption that is true of it."""

    split: Split
    seed: int
    index: int
    kind: str
    objects: tuple[SceneObject, ...]
    background: str
    pattern: str | None
    style: str | None
    relation: str | None  # of objects[0] to objects[1]: "left of", "right of", "above", "below"
    size: int = SIZE


@lru_cache(maxsize=200_000)
def held_out(*pair: str) -> bool:
    """Whether an unordered pair is held out: two nouns, or a noun and "colour:red", "background:red" and the like."""
    digest = hashlib.blake2b("|".join(sorted(pair)).encode(), digest_size=4).digest()
    return int.from_bytes(digest, "little") < _HELD_OUT * 2**32


def pairs(scene: Scene) -> Iterator[tuple[str, str]]:
    """Every pair in the scene that the split speaks of."""
    nouns = sorted({item.kind.noun for item in scene.objects})
    yield from combinations(nouns, 2)
    for noun in nouns:
        yield noun, f"background:{scene.background}"
        if scene.style:
            yield noun, f"style:{scene.style}"
    for noun, colour in sorted({(item.kind.noun, item.colour) for item in scene.objects if item.colour}):
        yield noun, f"colour:{colour}"


def allowed(scene: Scene) -> bool:
    """Train: no held-out pair. Test: all object pairs held out; colour, ground and style with at least one thing."""
    if scene.split == "train":
        return not any(held_out(*pair) for pair in pairs(scene))
    by_kind: dict[str, list[bool]] = {}
    for first, second in pairs(scene):
        by_kind.setdefault(second.partition(":")[0] if ":" in second else "objects", []).append(held_out(first, second))
    strict = all(by_kind.get("objects", [True])) and any(by_kind.get("colour", [True]))
    # a plain white ground is what a picture has when its caption names none: nothing is asked, so nothing is held out
    ground = scene.background == "white" or any(by_kind["background"])
    return strict and ground and any(by_kind.get("style", [True]))


def _choose_objects(kind: str, rng: random.Random) -> list[SceneObject]:
    everything = object_types()
    colourable = [item for item in everything if item.colourable]
    colours = tuple(COLOURS)

    def thing(size: int = 0, coloured: bool = False) -> SceneObject:
        if coloured:
            return SceneObject(kind=rng.choice(colourable), size=size, colour=rng.choice(colours))
        return SceneObject(kind=rng.choice(everything), size=size)

    if kind in ("single", "colour"):
        return [thing(coloured=kind == "colour")]
    if kind in ("two", "position", "binding"):
        first = thing(coloured=kind == "binding")
        second = thing(coloured=kind == "binding")
        while second.kind == first.kind or (first.colour and second.colour == first.colour):
            second = thing(coloured=kind == "binding")
        return [first, second]
    if kind == "counting":
        return [thing(coloured=rng.random() < 0.2)] * rng.choice((2, 3, 3, 4, 4))
    chosen: list[SceneObject] = []
    if rng.random() < 0.5:  # two or three of one thing and one of another
        chosen = [thing()] * rng.choice((2, 3))
    total = max(len(chosen) + 1, rng.choice((3, 3, 4)))
    while len(chosen) < total:
        extra = thing(coloured=rng.random() < 0.2)
        if extra.kind not in {item.kind for item in chosen}:
            chosen.append(extra)
    return chosen


def _sized(objects: list[SceneObject], rng: random.Random) -> list[SceneObject]:
    """Sizes by how many there are; now and then the smallness or bigness is what the picture is about."""
    count = len(objects)
    if count <= 2 and rng.random() < 0.15:
        words = rng.choice((("small",), ("big",))) if count == 1 else rng.choice((("small", "big"), ("big", "small")))
        sizes = {"small": SMALL, "big": BIG if count == 1 else 72}
        return [replace(item, size=sizes[word], stated_size=word) for item, word in zip(objects, words, strict=True)]
    common = rng.choice(_SIZES[count])
    alike = objects[0].kind == objects[-1].kind
    return [replace(item, size=common if alike else rng.choice(_SIZES[count])) for item in objects]


def _overlap(a: SceneObject, b: SceneObject) -> bool:
    return a.x < b.x + b.size and b.x < a.x + a.size and a.y < b.y + b.size and b.y < a.y + a.size


def holds(relation: str, a: SceneObject, b: SceneObject) -> bool:
    """Whether `a` is left of, right of, above or below `b`: clear of it along that axis, which is also the main one."""
    dx, dy = b.centre[0] - a.centre[0], b.centre[1] - a.centre[1]
    gap = (a.size + b.size) / 2
    along = {"left of": dx, "right of": -dx, "above": dy, "below": -dy}[relation]
    across = dy if relation in ("left of", "right of") else dx
    return along >= gap and abs(across) <= 0.75 * along


def _place(objects: list[SceneObject], relation: str | None, rng: random.Random) -> tuple[SceneObject, ...] | None:
    """Random places on the grid without overlap, keeping the relation; None when a few hundred tries find none."""
    for _ in range(60):
        placed: list[SceneObject] = []
        for item in objects:
            for _ in range(12):
                x, y = (GRID * rng.randint(0, (SIZE - item.size) // GRID) for _ in range(2))
                candidate = replace(item, x=x, y=y)
                if any(_overlap(candidate, other) for other in placed):
                    continue
                if relation and len(placed) == 1 and not holds(relation, placed[0], candidate):
                    continue
                placed.append(candidate)
                break
            else:
                break
        if len(placed) == len(objects):
            return tuple(placed)
    return None


def sample_scene(split: Split, seed: int, index: int, kind: str | None = None) -> Scene:
    """The scene with this number. `kind` (one of `KINDS`) asks for one sort of scene; None mixes them as for training.

    Raises ValueError for an unknown split or kind.
    """
    if split not in ("train", "test"):
        raise ValueError(f"split={split!r} is unknown; there are 'train' and 'test'")
    if kind is not None and kind not in KINDS:
        raise ValueError(f"kind={kind!r} is unknown; there are {', '.join(KINDS)}")
    rng = random.Random(f"{split}/{seed}/{index}/{kind or 'any'}")
    chosen = kind or rng.choices(KINDS, _KIND_WEIGHTS)[0]
    while True:
        relation = None
        if chosen == "position" or (chosen in ("two", "binding") and kind is None and rng.random() < 0.3):
            relation = rng.choice(("left of", "right of", "above", "below"))
        placed = _place(_sized(_choose_objects(chosen, rng), rng), relation, rng)
        if placed is None:
            continue
        scene = Scene(
            split=split,
            seed=seed,
            index=index,
            kind=chosen,
            objects=placed,
            background="white" if rng.random() < 0.35 else rng.choice(BACKGROUNDS[1:]),
            pattern=rng.choice(PATTERNS) if rng.random() < 0.15 else None,
            style=rng.choice(STYLES) if kind is None and rng.random() < 0.12 else None,
            relation=relation,
        )
        if scene.style in ("sketch", "sepia", "silhouette") and any(item.colour for item in placed):
            scene = replace(scene, objects=tuple(replace(item, colour=None) for item in placed))
        if scene.style == "silhouette" and scene.background == "black":
            continue  # black on black is no picture of anything
        if allowed(scene):
            return scene
