"""Scenes: pure functions of their number, true captions, honest splits."""

from __future__ import annotations

import json
import random
import re
import zipfile
from collections import Counter
from importlib import resources

import numpy as np
import pytest

from wordbrush.data.scenes import box, caption, object_types, plain_caption, render, sample_scene
from wordbrush.data.scenes.captions import NUMBERS
from wordbrush.data.scenes.glyphs import COLOURS, glyph_names, sprite
from wordbrush.data.scenes.objects import pluralise, with_article
from wordbrush.data.scenes.render import BACKGROUND_RGB
from wordbrush.data.scenes.scene import BACKGROUNDS, GRID, KINDS, SIZE, holds, pairs
from wordbrush.data.scenes.scene import held_out as is_held_out

SCENES = [sample_scene("train", 7, index) for index in range(400)]


def test_a_scene_is_a_function_of_its_number_whatever_came_before() -> None:
    again = sample_scene("train", 7, 123)
    sample_scene("test", 0, 5)
    assert sample_scene("train", 7, 123) == again == SCENES[123]
    assert caption(again) == caption(SCENES[123])
    assert np.array_equal(render(again), render(SCENES[123]))
    assert sample_scene("train", 8, 123) != again


def test_pack_has_every_taught_object_and_all_named_glyphs() -> None:
    types = object_types()
    assert len(types) >= 300
    assert len({kind.noun for kind in types}) == len({kind.emoji for kind in types}) == len(types)
    names = glyph_names()
    assert len(names) >= 1300
    assert all(kind.emoji in names for kind in types)
    archive = resources.files("wordbrush.data.scenes").joinpath("glyphs.zip")
    with archive.open("rb") as file, zipfile.ZipFile(file) as pack:
        assert set(json.loads(pack.read("names.json"))) == set(names)


def test_synonyms_are_cldr_words_of_that_emoji_and_of_no_other_taught_one() -> None:
    nouns = {kind.noun for kind in object_types()}
    seen: Counter[str] = Counter()
    for kind in object_types():
        entry = glyph_names()[kind.emoji]
        known = " | ".join([str(entry["name"]), *map(str, entry["keywords"])]).lower()  # type: ignore[call-overload]
        for word in kind.synonyms:
            assert word in known, (kind.noun, word)
            assert word not in nouns
            seen[word] += 1
    assert max(seen.values()) == 1


def test_words() -> None:
    assert [pluralise(word) for word in ("cat", "box", "berry", "monkey", "peach")] == [
        "cats",
        "boxes",
        "berries",
        "monkeys",
        "peaches",
    ]
    assert [with_article(word) for word in ("apple", "unicorn", "suv", "ufo", "dog")] == [
        "an apple", "a unicorn", "an suv", "a ufo", "a dog",
    ]  # fmt: skip


def test_objects_lie_on_the_grid_inside_the_frame_without_touching() -> None:
    for scene in SCENES:
        assert 1 <= len(scene.objects) <= 4
        for item in scene.objects:
            assert item.x % GRID == item.y % GRID == 0
            assert item.x >= 0
            assert item.x + item.size <= SIZE
            assert item.y >= 0
            assert item.y + item.size <= SIZE
        boxes = [box(item) for item in scene.objects]
        for number, (left, top, right, bottom) in enumerate(boxes):
            for other in boxes[number + 1 :]:
                assert right <= other[0] or other[2] <= left or bottom <= other[1] or other[3] <= top


def test_training_never_shows_a_held_out_pair_and_test_always_asks_for_one() -> None:
    for scene in SCENES:
        assert not any(is_held_out(*pair) for pair in pairs(scene))
    share = np.mean([is_held_out(a.noun, b.noun) for a in object_types()[:60] for b in object_types()[:60] if a != b])
    assert 0.07 < share < 0.13
    for index in range(120):
        scene = sample_scene("test", 3, index)
        nouns = {item.kind.noun for item in scene.objects}
        between = [pair for pair in pairs(scene) if set(pair) <= nouns]
        assert all(is_held_out(*pair) for pair in between)
        if scene.background != "white":
            assert any(is_held_out(noun, f"background:{scene.background}") for noun in nouns)
        if scene.style:
            assert any(is_held_out(noun, f"style:{scene.style}") for noun in nouns)


def test_the_drawn_box_is_where_the_pixels_are() -> None:
    for scene in SCENES[:80]:
        if scene.style or scene.pattern:
            continue
        ground = np.array(BACKGROUND_RGB[scene.background])
        outside = np.ones((SIZE, SIZE), bool)
        for item in scene.objects:
            left, top, right, bottom = box(item)
            outside[top:bottom, left:right] = False
        assert np.array_equal(render(scene)[outside], np.broadcast_to(ground, (outside.sum(), 3)))


@pytest.mark.parametrize("colour", sorted(COLOURS))
def test_recoloured_things_have_that_hue(colour: str) -> None:
    car = sprite("🚗", 96, colour)
    solid = car[car[..., 3] > 0.99][:, :3]
    red, green, blue = solid.mean(0)
    warm = {
        "red": red > 1.5 * blue,
        "orange": red > green > blue,
        "yellow": min(red, green) > blue,
        "pink": red > green,
    }
    cold = {
        "green": green > red,
        "blue": blue > red,
        "purple": blue > green,
        "gray": max(red, green, blue) - min(red, green, blue) < 0.1,
    }
    assert {**warm, **cold}[colour]


@pytest.mark.parametrize("wording", range(3))
def test_captions_claim_nothing_untrue(wording: int) -> None:
    for scene in SCENES:
        text = caption(scene, random.Random(wording))
        nouns = Counter(item.kind for item in scene.objects)
        for kind, count in nouns.items():
            names = (
                [kind.plural]
                if count > 1 and len({i.colour for i in scene.objects if i.kind == kind}) == 1
                else [kind.noun, *kind.synonyms]
            )
            assert any(name in text for name in names), (text, kind.noun)
        for number, word in NUMBERS.items():
            if re.search(rf"\b{word}\b", text):
                assert number in nouns.values(), text
        stated = re.search(rf"({'|'.join(BACKGROUNDS)})( striped| stripy| polka dot| checkered)? background", text)
        if stated:
            assert stated.group(1) == scene.background
            assert scene.style not in ("sketch", "sepia")
        if scene.relation is None:
            assert not re.search(r"\b(left of|right of|above|below|under|beneath)\b", text)
        assert not text.startswith(
            ("there is two", "there is three", "there is four", "here is two", "here is three", "here is four")
        )


def test_relations_in_captions_hold_in_the_picture() -> None:
    for index in range(60):
        scene = sample_scene("train", 11, index, kind="position")
        assert scene.relation is not None
        assert holds(scene.relation, *scene.objects)
        first, second = scene.objects
        text = plain_caption(scene)
        assert text.index(first.kind.noun) < text.rindex(second.kind.noun)


def test_wrong_names_are_refused() -> None:
    with pytest.raises(ValueError, match="'train' and 'test'"):
        sample_scene("validation", 0, 0)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match=KINDS[0]):
        sample_scene("train", 0, 0, kind="triple")
