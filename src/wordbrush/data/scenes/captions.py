"""Sentences about scenes: varied in wording, always true of the picture."""

from __future__ import annotations

import random
from collections import Counter

from wordbrush.data.scenes.objects import with_article
from wordbrush.data.scenes.scene import SIZE, Scene, SceneObject

NUMBERS = {2: "two", 3: "three", 4: "four"}
_RELATIONS = {
    "left of": ("to the left of", "left of", "on the left of"),
    "right of": ("to the right of", "right of", "on the right of"),
    "above": ("above", "over", "on top of"),
    "below": ("below", "under", "beneath"),
}
_OPPOSITE = {"left of": "right of", "right of": "left of", "above": "below", "below": "above"}
_PREFIXES = ("", "", "", "", "a picture of ", "a photo of ", "a drawing of ", "an image of ")
_ONE = ("there is ", "here is ")  # only before a lone thing


def describe(item: SceneObject, count: int, rng: random.Random | None = None) -> str:
    """ "a big red car", "three cats". Without an rng the plainest wording: no synonym, no size."""
    noun = item.kind.noun
    if rng is not None and count == 1 and item.kind.synonyms and rng.random() < 0.35:
        noun = rng.choice(item.kind.synonyms)
    words = [item.kind.plural if count > 1 else noun]
    if item.colour:
        words.insert(0, item.colour)
    if rng is not None and item.stated_size and rng.random() < 0.8:
        big = item.stated_size == "big"
        words.insert(0, rng.choice(("big", "large", "huge") if big else ("small", "little", "tiny")))
    phrase = " ".join(words)
    return f"{NUMBERS[count]} {phrase}" if count > 1 else with_article(phrase)


def _where(item: SceneObject) -> str | None:
    """The place of a lone thing in the frame, when it is clearly there."""
    if item.size > SIZE / 2:
        return None  # it is nearly everywhere
    x, y = (value / SIZE for value in item.centre)
    row = "top" if y < 0.40 else "bottom" if y > 0.60 else ""
    column = "left" if x < 0.40 else "right" if x > 0.60 else ""
    if row and column:
        return f"in the {row} {column} corner"
    if column:
        return f"on the {column}"
    if row:
        return f"at the {row}"
    return "in the middle" if abs(x - 0.5) < 0.07 and abs(y - 0.5) < 0.07 else None


def _joined(phrases: list[str], rng: random.Random) -> str:
    if len(phrases) == 1:
        return phrases[0]
    rng.shuffle(phrases)
    last = rng.choice((" and ", " and ", " with ")) if len(phrases) == 2 else rng.choice((" and ", ", "))
    return ", ".join(phrases[:-1]) + last + phrases[-1]


def _things(scene: Scene, rng: random.Random) -> str:
    objects = scene.objects
    if scene.relation and rng.random() < 0.9:
        first, second, relation = objects[0], objects[1], scene.relation
        if rng.random() < 0.5:
            first, second, relation = second, first, _OPPOSITE[relation]
        a, b = describe(first, 1, rng), describe(second, 1, rng)
        if relation in ("left of", "right of") and rng.random() < 0.15:
            side, other = ("left", "right") if relation == "left of" else ("right", "left")
            return f"{a} on the {side} and {b} on the {other}"
        return f"{a} {rng.choice(_RELATIONS[relation])} {b}"
    counts = Counter((item.kind.noun, item.colour) for item in objects)
    shown: dict[tuple[str, str | None], SceneObject] = {}
    for item in objects:
        shown.setdefault((item.kind.noun, item.colour), item)
    text = _joined([describe(item, counts[key], rng) for key, item in shown.items()], rng)
    if len(objects) == 1 and rng.random() < 0.3:
        place = _where(objects[0])
        text = f"{text} {place}" if place else text
    return text


def _ground(scene: Scene, rng: random.Random) -> str | None:
    """The background's words, or None when nothing may or need be said about it."""
    if scene.style in ("sketch", "sepia"):
        return None  # its colour cannot be seen
    if scene.background == "white" and scene.pattern is None and rng.random() < 0.75:
        return None  # the default ground: mostly unsaid
    pattern = ""
    if scene.pattern and rng.random() < 0.8:
        pattern = {"polka dot": "polka dot", "striped": rng.choice(("striped", "stripy")), "checkered": "checkered"}[
            scene.pattern
        ]
    return f"{with_article(' '.join(filter(None, (scene.background, pattern))))} background"


def caption(scene: Scene, rng: random.Random | None = None) -> str:
    """One true sentence. The wording is drawn from `rng`; None draws it from the scene's own number."""
    rng = rng or random.Random(f"caption/{scene.split}/{scene.seed}/{scene.index}")
    text = _things(scene, rng)
    ground = _ground(scene, rng)
    if scene.style:
        name = {"sketch": "pencil sketch" if rng.random() < 0.3 else "sketch", "sepia": "sepia picture"}.get(
            scene.style, scene.style
        )
        article = name if scene.style == "pixel art" else with_article(name)
        text = f"{article} of {text}" if rng.random() < 0.6 else f"{text}, {name}"
    else:
        text = rng.choice(_PREFIXES if len(scene.objects) > 1 else _PREFIXES + _ONE) + text
    if ground is None:
        return text
    wording = rng.random()
    if wording < 0.75:
        return f"{text} on {ground}"
    if wording < 0.9:
        return f"{text}, {ground.split(' ', 1)[1]}"
    return f"on {ground}, {text}"


def plain_caption(scene: Scene) -> str:
    """The evaluation's wording: one fixed form per kind of scene, like GenEval's "a photo of ..."."""
    objects = scene.objects
    if scene.relation:
        between = {"left of": "to the left of", "right of": "to the right of"}.get(scene.relation, scene.relation)
        text = f"{describe(objects[0], 1)} {between} {describe(objects[1], 1)}"
    elif len({item.kind.noun for item in objects}) == 1:
        text = describe(objects[0], len(objects))
    else:
        text = " and ".join(describe(item, 1) for item in objects)
    if scene.background != "white":
        text += f" on {with_article(scene.background)} background"
    return text
