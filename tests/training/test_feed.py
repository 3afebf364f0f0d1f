"""Rows of training data: a pure function of (seed, step, row), from every kind of data."""

from __future__ import annotations

import concurrent.futures
import json
import multiprocessing
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor

from wordbrush.data.dataset import BadExample
from wordbrush.data.export import WRITERS, Source, new_folder
from wordbrush.data.faces import FaceDataset
from wordbrush.data.scene_data import SceneChoice, SceneDataset
from wordbrush.errors import RequestError, WorkFailed
from wordbrush.training.cache import TensorCache
from wordbrush.training.data_recipe import data_recipe, read_data_recipe
from wordbrush.training.feed import SKIPPED, Feed, Samples, read_skipped


@pytest.fixture
def pictures(tmp_path: Path) -> Path:
    """Eleven pictures of three shapes."""
    folder = tmp_path / "pictures"
    folder.mkdir()
    draw = np.random.default_rng(0)
    for number in range(11):
        width, height = [(40, 40), (80, 36), (36, 70)][number % 3]
        Image.fromarray(draw.integers(0, 256, (height, width, 3), dtype=np.uint8)).save(folder / f"{number:02}.png")
        (folder / f"{number:02}.txt").write_text(f"tag, one, two, {number}")
    return folder


def recipe(folder: Path, **more: Any) -> dict[str, Any]:
    return {"kind": "folder", "path": str(folder), **more}


CHANGING = {"crop": "random", "flip": 0.5, "captions": {"drop": 0.2, "shuffle": True, "keep": 1}}
BUCKETS = {"buckets": {"side": 32, "step": 8}}


def same(one: Samples, other: Samples) -> bool:
    return (
        torch.equal(one.images, other.images)
        and one.captions == other.captions
        and one.keys == other.keys
        and torch.equal(one.originals, other.originals)
        and torch.equal(one.corners, other.corners)
    )


def joined(parts: list[Samples]) -> Samples:
    return Samples(
        images=torch.cat([part.images for part in parts]),
        captions=[text for part in parts for text in part.captions],
        labels=None,
        keys=[key for part in parts for key in part.keys],
        originals=torch.cat([part.originals for part in parts]),
        corners=torch.cat([part.corners for part in parts]),
    )


def rows_of(values: dict[str, Any], step: int, rows: range) -> Samples:
    """What a worker process does; it opens the data itself."""
    return Feed(data_recipe(values), 3, 4).rows(step, rows)


@pytest.mark.parametrize("shape", [{"size": 24}, BUCKETS])
def test_rows_are_the_same_however_they_are_made(pictures: Path, shape: dict[str, Any]) -> None:
    values = recipe(pictures, **shape, **CHANGING)
    feed = Feed(data_recipe(values), 3, 4)
    steps = [feed.rows(step, range(4)) for step in range(9)]  # beyond the first epoch
    for step in (8, 0, 5):  # in another order, by another feed, in parts
        fresh = Feed(data_recipe(values), 3, 4)
        assert same(joined([fresh.rows(step, range(row, row + 1)) for row in (0, 1, 2, 3)]), steps[step])
        assert same(joined([fresh.rows(step, range(2)), fresh.rows(step, range(2, 4))]), steps[step])
    other = Feed(data_recipe(values), 4, 4)
    assert not all(same(other.rows(step, range(4)), steps[step]) for step in range(9))


def test_rows_are_the_same_from_worker_processes_and_threads(pictures: Path) -> None:
    values = recipe(pictures, size=24, **CHANGING)
    feed = Feed(data_recipe(values), 3, 4)
    whole = [feed.rows(step, range(4)) for step in range(3)]
    with multiprocessing.get_context("spawn").Pool(2) as pool:
        parts = pool.starmap(
            rows_of, [(values, step, range(2 * half, 2 * half + 2)) for step in range(3) for half in (0, 1)]
        )
        assert all(same(joined(parts[2 * step : 2 * step + 2]), whole[step]) for step in range(3))
        sent = pool.apply(feed.rows, (1, range(4)))  # a feed can be sent to a process too
        assert same(sent, whole[1])
    with concurrent.futures.ThreadPoolExecutor(8) as threads:
        found = list(threads.map(lambda step: feed.rows(step % 3, range(4)), range(24)))
    assert all(same(each, whole[step % 3]) for step, each in enumerate(found))


def test_an_epoch_has_every_picture_once(pictures: Path) -> None:
    feed = Feed(data_recipe(recipe(pictures, size=16)), 0, 4)
    keys = [key for step in range(11) for key in feed.rows(step, range(4)).keys]
    for epoch in range(4):
        assert sorted(keys[11 * epoch : 11 * epoch + 11]) == [f"{number:02}.png" for number in range(11)]
    assert keys[:11] != keys[11:22]
    assert feed.epoch_steps == 3


def test_a_step_is_of_one_bucket_and_an_epoch_leaves_nothing_out(pictures: Path) -> None:
    feed = Feed(data_recipe(recipe(pictures, **BUCKETS)), 0, 3)
    assert feed.epoch_steps == 2 + 2 + 1
    for epoch in range(2):
        seen: Counter[str] = Counter()
        for step in range(feed.epoch_steps):
            samples = feed.rows(epoch * feed.epoch_steps + step, range(3))
            assert samples.images.shape[-1:-3:-1] in feed.sizes
            seen.update(samples.keys)
        assert len(seen) == 11
        assert sum(seen.values()) == 15
        assert max(seen.values()) == 2


def test_pixels_and_conditioning(pictures: Path) -> None:
    feed = Feed(data_recipe(recipe(pictures, size=[20, 36], flip=1)), 0, 1)
    for step in range(11):
        samples = feed.rows(step, range(1))
        picture = np.asarray(Image.open(pictures / samples.keys[0]))
        height, width = picture.shape[:2]
        assert samples.originals.tolist() == [[height, width]]
        if height == 36:
            expected = picture[:, 30:50][:, ::-1]
            assert torch.equal(samples.images[0], torch.from_numpy(expected.copy()).permute(2, 0, 1) / 127.5 - 1)
            assert samples.corners.tolist() == [[0, 30]]
        assert samples.images.dtype == torch.float32
        assert samples.images.abs().max() <= 1


def test_a_size_that_the_autoencoder_cannot_divide_is_refused(pictures: Path) -> None:
    with pytest.raises(RequestError, match=r"the width 100 is not a multiple of 8.*nearest that fit are 96 and 104"):
        Feed(data_recipe(recipe(pictures, size=100)), 0, 1, multiple=8)
    with pytest.raises(RequestError, match=r"the height 4 .* the nearest that fit are 8"):
        Feed(data_recipe(recipe(pictures, size=[8, 4])), 0, 1, multiple=8)
    with pytest.raises(RequestError, match=r"buckets\.step=12 is not a multiple of 8.*is 16"):
        Feed(data_recipe(recipe(pictures, buckets={"side": 64, "step": 12})), 0, 1, multiple=8)
    with pytest.raises(RequestError, match=r"data\.size is missing"):
        Feed(data_recipe(recipe(pictures)), 0, 1)
    with pytest.raises(RequestError, match=r"data\.buckets: no sides"):
        Feed(data_recipe(recipe(pictures, buckets={"side": 64, "least": 65, "most": 70})), 0, 1)


# ------------------------------------------------------------------------------------------------------- bad pictures


def spoil(pictures: Path, *numbers: int) -> None:
    for number in numbers:
        path = pictures / f"{number:02}.png"
        path.write_bytes(path.read_bytes()[:300])


def read_all(values: dict[str, Any]) -> list[Samples]:
    feed = Feed(data_recipe(values), 0, 4)
    return [feed.rows(step, range(4)) for step in range(8)]


@pytest.mark.parametrize("shape", [{"size": 16}, BUCKETS])
def test_bad_pictures_stop_or_are_replaced_alike(pictures: Path, tmp_path: Path, shape: dict[str, Any]) -> None:
    spoil(pictures, 3, 4, 6)
    (pictures / "05.txt").unlink()
    with pytest.raises(BadExample, match=r"05\.png' has no caption file"):
        Feed(data_recipe(recipe(pictures, **shape)), 0, 4)
    (pictures / "05.txt").write_text("five")
    with pytest.raises(BadExample, match=r"0[346]\.png' cannot be read"):
        read_all(recipe(pictures, **shape))
    (pictures / "05.txt").unlink()
    values = recipe(pictures, **shape, **CHANGING, skip_bad=True)
    feed = Feed(data_recipe(values), 0, 4, folder=tmp_path / "run")
    whole = [feed.rows(step, range(4)) for step in range(8)]
    assert set(feed.skipped()) == {"03.png", "04.png", "05.png", "06.png"}
    assert not {key for samples in whole for key in samples.keys} & set(feed.skipped())
    other = Feed(data_recipe(values), 0, 4, folder=tmp_path / "run")
    for step in (7, 2, 0):
        assert same(joined([other.rows(step, range(2)), other.rows(step, range(2, 4))]), whole[step])
    lines = [json.loads(line) for line in (tmp_path / "run" / SKIPPED).read_text().splitlines()]
    assert {"key", "reason"} == set(lines[0])
    (tmp_path / "run" / SKIPPED).open("a").write('{"key": "cut')
    assert list(read_skipped(tmp_path / "run")) == ["03.png", "04.png", "05.png", "06.png"]


def test_data_of_which_nothing_can_be_read_end_the_work(pictures: Path) -> None:
    spoil(pictures, *range(11))
    feed = Feed(data_recipe(recipe(pictures, size=16, skip_bad=True)), 0, 4)
    with pytest.raises(WorkFailed, match="100 pictures in a row cannot be used, the last because the picture"):
        feed.rows(0, range(4))


def test_skip_bad_is_no_part_of_what_a_run_is(pictures: Path) -> None:
    with_it, without = (data_recipe(recipe(pictures, size=16, skip_bad=skip)) for skip in (True, False))
    assert with_it.model_dump() == without.model_dump()


# ------------------------------------------------------------------------------------------------------------- latents


def encode(images: Tensor) -> dict[str, Tensor]:
    assert images.shape[0] == 1
    pooled = torch.nn.functional.avg_pool2d(images, 8)
    return {"mean": pooled, "logvar": pooled.abs().neg()}


def no_encode(images: Tensor) -> dict[str, Tensor]:
    raise AssertionError("it should have been in the cache")


def test_cached_rows_are_the_rows(pictures: Path, tmp_path: Path) -> None:
    values = recipe(pictures, **BUCKETS, flip=0.5, captions={"shuffle": True})
    cache = TensorCache(tmp_path / "cache", "a" * 64)
    feed = Feed(data_recipe(values), 0, 3)
    for turn in (encode, encode, no_encode):  # every cut is in by the second epoch at the latest
        for step in range(0 if turn is no_encode else 4 * feed.epoch_steps):
            samples = feed.rows(step, range(3))
            rows, tensors = feed.encoded(step, range(3), cache, turn)
            expected = torch.cat([encode(image[None])["mean"] for image in samples.images])
            assert torch.equal(tensors["mean"], expected)
            assert rows.captions == samples.captions
            assert torch.equal(rows.corners, samples.corners)
            assert torch.equal(rows.originals, samples.originals)
    rows, again = feed.encoded(0, range(3), cache, no_encode)
    assert set(again) == {"mean", "logvar"}


def test_a_changed_picture_is_encoded_again(pictures: Path, tmp_path: Path) -> None:
    cache = TensorCache(tmp_path / "cache", "a" * 64)
    feed = Feed(data_recipe(recipe(pictures, size=16)), 0, 11)
    _, before = feed.encoded(0, range(11), cache, encode)
    place = feed.places(0, range(1))[0]
    Image.new("RGB", (40, 40), "red").save(pictures / feed.dataset.key(place.index))
    _, after = feed.encoded(0, range(11), cache, encode)
    changed = [not torch.equal(a, b) for a, b in zip(before["mean"], after["mean"], strict=True)]
    assert changed == [True] + [False] * 10
    _, other_cut = Feed(data_recipe(recipe(pictures, size=16, flip=1)), 0, 11).encoded(0, range(11), cache, encode)
    assert not torch.equal(other_cut["mean"], after["mean"])
    _, other_model = feed.encoded(0, range(11), TensorCache(tmp_path / "cache", "b" * 64), lambda x: {"mean": x * 0})
    assert (other_model["mean"] == 0).all()


def test_bad_pictures_are_replaced_in_cached_rows_too(pictures: Path, tmp_path: Path) -> None:
    spoil(pictures, 1, 2)
    feed = Feed(data_recipe(recipe(pictures, size=16, skip_bad=True)), 0, 11)
    rows, tensors = feed.encoded(0, range(11), TensorCache(tmp_path / "c", "a" * 64), encode)
    assert rows.keys == feed.rows(0, range(11)).keys
    assert len(tensors["mean"]) == 11


# ------------------------------------------------------------------------------------------------------- kinds of data


def export(layout: str, folder: Path, things: tuple[str, ...] = ()) -> Path:
    train, test = (SceneDataset(SceneChoice(split=split, things=things)) for split in ("train", "test"))
    source: Source = Source(train=train, test=test, count=12)
    if layout == "celeba":
        source = Source(train=FaceDataset(12), test=FaceDataset(12, 1), count=12)
    with new_folder(folder) as partial:
        WRITERS[layout](partial, source, lambda: None)
    return folder


KINDS: dict[str, dict[str, Any]] = {
    "folder": {"kind": "folder", "path": "{}", "size": 32},
    "webdataset": {"kind": "webdataset", "shards": "{}/data-*.tar", "size": 32},
    "idx": {"kind": "idx", "path": "{}"},
    "cifar10": {"kind": "cifar", "path": "{}", "template": "a {}"},
    "celeba": {"kind": "celeba", "path": "{}", "size": 32, "tell": 0.8},
    "coco": {"kind": "coco", "pictures": "{}/pictures", "annotations": "{}/captions.json", "size": 32},
}


@pytest.mark.parametrize("layout", KINDS)
def test_what_is_exported_can_be_trained_on(layout: str, tmp_path: Path) -> None:
    classes = layout in ("idx", "cifar10")
    folder = export(layout, tmp_path / "data", ("dog", "cat", "car") if classes else ())
    values = {key: value.replace("{}", str(folder)) if key in ("path", "shards", "pictures", "annotations") else value
              for key, value in KINDS[layout].items()}  # fmt: skip
    feed = Feed(data_recipe(values), 1, 4)
    epoch = [feed.rows(step, range(4)) for step in range(3)]
    assert len({key for samples in epoch for key in samples.keys}) == 12
    samples = epoch[0]
    side = {"idx": 28, "cifar10": 32}.get(layout, 32)
    assert samples.images.shape == (4, 3, side, side)
    assert samples.images.std() > 0.1
    assert all(samples.captions)
    if classes:
        assert feed.labels is not None
        assert len(feed.labels) == 3
        assert samples.labels is not None
        assert samples.labels.dtype == torch.int64
        assert Counter(label for each in epoch for label in each.labels.tolist()) == {0: 4, 1: 4, 2: 4}
    if layout == "celeba":
        assert all(text.startswith("Photo of a person") for text in samples.captions)


def test_exported_scenes_are_the_scenes(tmp_path: Path) -> None:
    folder = export("folder", tmp_path / "data")
    feed = Feed(data_recipe(recipe(folder, size=128)), 0, 12)
    scenes = SceneDataset(SceneChoice())
    samples = feed.rows(0, range(12))
    for image, caption, key in zip(samples.images, samples.captions, samples.keys, strict=True):
        number = int(key.removesuffix(".png"))
        assert caption == scenes.caption(number)
        assert torch.equal(image, torch.from_numpy(scenes.image(number).copy()).permute(2, 0, 1) / 127.5 - 1)
    with pytest.raises(RequestError, match="not empty"), new_folder(folder):
        pass


def test_endless_scenes_are_new_and_counted_ones_come_again() -> None:
    endless = Feed(data_recipe({"kind": "scenes"}), 0, 3)
    assert endless.rows(10**6, range(3)).keys == [f"scene/train/0/any/{3 * 10**6 + row}" for row in range(3)]
    counted = Feed(data_recipe({"kind": "scenes", "count": 3, "size": 32}), 0, 3)
    first, second = counted.rows(0, range(3)), counted.rows(7, range(3))
    assert sorted(first.keys) == sorted(second.keys)
    assert sorted(first.captions) != sorted(second.captions)  # worded anew
    things = Feed(data_recipe({"kind": "scenes", "things": ["dog", "cat"], "split": "test", "count": 8}), 0, 8)
    samples = things.rows(0, range(8))
    assert samples.labels is not None
    assert sorted(samples.labels.tolist()) == [0] * 4 + [1] * 4
    assert all(things.labels[label] in key for label, key in zip(samples.labels.tolist(), samples.keys, strict=True))  # type: ignore[index]
    with pytest.raises(RequestError, match="'zorb' is none of the"):
        Feed(data_recipe({"kind": "scenes", "things": ["zorb"]}), 0, 1)


def test_a_mix_repeats_its_parts(pictures: Path, tmp_path: Path) -> None:
    few = tmp_path / "few"
    few.mkdir()
    Image.new("RGB", (20, 20)).save(few / "own.png")
    parts = [{"kind": "folder", "path": str(few), "caption": "sks"}, recipe(pictures)]
    feed = Feed(data_recipe({"kind": "mix", "parts": parts, "repeats": [4, 1], "size": 16}), 0, 5)
    keys = Counter(key for step in range(3) for key in feed.rows(step, range(5)).keys)
    assert keys["0/own.png"] == 4
    assert len(keys) == 12
    assert feed.dataset.caption(0) == "sks"
    for wrong, message in (
        ({"repeats": [1]}, "1 repeats for 2 parts"),
        ({"parts": [{**parts[0], "size": 8}]}, r"parts\.0 has size: say that of the whole mix"),
        ({"parts": [{"kind": "scenes"}]}, "is endless"),
    ):
        with pytest.raises(RequestError, match=message):
            data_recipe({"kind": "mix", "parts": parts, "size": 16, **wrong})


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"kind": "folders", "path": "x"}, "folders"),
        ({"kind": "folder", "path": "x", "flipp": 0.5}, "flipp.*did you mean flip"),
        ({"kind": "folder"}, "path"),
        ({"kind": "folder", "path": "x", "size": 8, "buckets": {"side": 64}}, "give size or buckets, not both"),
        ({"kind": "folder", "path": "x", "captions": {"keep": 1}}, "keep says which tags stay"),
        ({"kind": "folder", "path": "x", "flip": 2}, "flip"),
        ({"kind": "scenes", "scene": "single", "things": ["dog"]}, "give scene or things"),
    ],
)
def test_wrong_recipes_name_the_key(values: dict[str, Any], message: str) -> None:
    with pytest.raises(RequestError, match=message):
        data_recipe(values)


def test_recipes_of_data_from_files(pictures: Path, tmp_path: Path) -> None:
    assert read_data_recipe(pictures).kind == "folder"
    assert read_data_recipe(tmp_path / "a-{00..01}.tar").kind == "webdataset"
    file = tmp_path / "r.yaml"
    file.write_text("kind: idx\npath: x")
    assert read_data_recipe(file).kind == "idx"
    file.write_text("train:\n  task: vae\n  data: {kind: cifar, path: x, sizes: 3}")
    with pytest.raises(RequestError, match=r"r\.yaml.*train\.data.*sizes"):
        read_data_recipe(file)
    for text, message in (("a: 1", "says nothing of pictures"), ("{", "not valid YAML"), ("[1]", "says nothing")):
        file.write_text(text)
        with pytest.raises(RequestError, match=message):
            read_data_recipe(file)
    with pytest.raises(RequestError, match="cannot be read"):
        read_data_recipe(tmp_path / "none.yaml")


def test_classes_are_exported_as_subfolders(tmp_path: Path) -> None:
    folder = export("folder", tmp_path / "classes", ("dog", "cat"))
    feed = Feed(data_recipe(recipe(folder, size=32, template="a {}")), 0, 12)
    assert feed.labels == ("cat", "dog")
    assert Counter(feed.rows(0, range(12)).captions) == {"a cat": 6, "a dog": 6}
