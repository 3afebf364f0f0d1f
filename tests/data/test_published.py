"""Data sets in the layouts they are published in: IDX, CIFAR, CelebA, COCO, all written here byte by byte."""

from __future__ import annotations

import gzip
import json
import pickle
import random
import struct
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from wordbrush.data.celeba import PHRASES, CelebADataset, FaceCaptions
from wordbrush.data.cifar import open_cifar
from wordbrush.data.coco import CocoDataset
from wordbrush.data.dataset import BadExample
from wordbrush.data.export_cifar import python2_pickle, write_cifar10
from wordbrush.data.idx import open_idx
from wordbrush.errors import RequestError

RANDOM = np.random.default_rng(0)
GREY = RANDOM.integers(0, 256, (7, 28, 28), dtype=np.uint8)
COLOURS = RANDOM.integers(0, 256, (10, 32, 32, 3), dtype=np.uint8)
TEN = ["airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck"]


# ------------------------------------------------------------------------------------------------------------- IDX


def images(pixels: np.ndarray = GREY) -> bytes:
    return struct.pack(">IIII", 2051, *pixels.shape) + pixels.tobytes()


def labels(numbers: list[int]) -> bytes:
    return struct.pack(">II", 2049, len(numbers)) + bytes(numbers)


def mnist(
    folder: Path, *, packed: bool = False, joint: str = "-", numbers: tuple[int, ...] = (3, 1, 4, 1, 5, 9, 2)
) -> Path:
    for start, count in (("train", 7), ("t10k", 3)):
        for name, content in (
            (f"{start}-images{joint}idx3-ubyte", images(GREY[:count])),
            (f"{start}-labels{joint}idx1-ubyte", labels(list(numbers[:count]))),
        ):
            path = folder / (f"{name}.gz" if packed else name)
            path.write_bytes(gzip.compress(content) if packed else content)
    return folder


@pytest.mark.parametrize(("packed", "joint"), [(True, "-"), (False, "-"), (False, ".")])
def test_idx_files(tmp_path: Path, packed: bool, joint: str) -> None:
    data = open_idx(mnist(tmp_path, packed=packed, joint=joint), "train", template="a handwritten {}")
    assert len(data) == 7
    assert data.common_size == (28, 28) == data.size(0)
    example = data.read(5)
    assert (example.image == GREY[5][..., None]).all()
    assert example.image.shape == (28, 28, 3)
    assert (example.label, example.caption) == (9, "a handwritten 9")
    assert data.labels == tuple("0123456789")
    assert data.digest(0) != data.digest(1)
    assert len(open_idx(tmp_path, "test")) == 3


def test_idx_classes_have_names(tmp_path: Path) -> None:
    fashion = ["top", "trouser", "pullover", "dress", "coat", "sandal", "shirt", "sneaker", "bag", "ankle_boot"]
    assert open_idx(mnist(tmp_path), "train", fashion).caption(5) == "ankle boot"
    with pytest.raises(RequestError, match="picture 2 is of class 4, but the 4 classes are numbered from 0 to 3"):
        open_idx(tmp_path, "train", fashion[:4])


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("images-idx3", images()[:-1], "is cut short: 7x28x28 numbers take 5488 bytes, and there are 5487"),
        ("images-idx3", images() + b"x", "is too long"),
        ("images-idx3", labels([1] * 7), "has the magic number 2049; that of pictures is 2051"),
        ("labels-idx1", images(), "has the magic number 2051; that of labels is 2049"),
        ("labels-idx1", labels([1, 2]), "has 7 pictures, but 'train-labels-idx1-ubyte' has 2 labels"),
        ("images-idx3", b"PK\x03\x04", "does not begin with an IDX file's two zeros but with 50 4b 03 04"),
        ("images-idx3", b"", "but with nothing"),
        ("images-idx3", images()[:9], "ends within its header"),
        ("images-idx3", struct.pack(">BBBBIII", 0, 0, 13, 3, 1, 1, 1) + b"1234", "has the magic number 3331"),
        ("images-idx3", gzip.compress(images())[:-30], "cannot be unpacked"),
        ("images-idx3", images(GREY[:0]), "has 0 pictures, but"),
    ],
)
def test_bad_idx_files_are_named(tmp_path: Path, name: str, content: bytes, message: str) -> None:
    (mnist(tmp_path) / f"train-{name}-ubyte").write_bytes(content)
    with pytest.raises(RequestError, match=message):
        open_idx(tmp_path, "train")


def test_a_missing_idx_file_is_named(tmp_path: Path) -> None:
    (mnist(tmp_path) / "t10k-labels-idx1-ubyte").unlink()
    with pytest.raises(RequestError, match="has no t10k-labels-idx1-ubyte"):
        open_idx(tmp_path, "test")
    with pytest.raises(RequestError, match="no folder"):
        open_idx(tmp_path / "nowhere", "test")


# ----------------------------------------------------------------------------------------------------------- CIFAR


def planes(pixels: np.ndarray) -> np.ndarray:
    return pixels.transpose(0, 3, 1, 2).reshape(len(pixels), -1)


def cifar10(folder: Path, protocol: int) -> Path:
    """As Python 3 programs write it again: the layout is the same, the pickles are of the protocol given."""
    folder.mkdir()
    for number in range(5):
        part = slice(2 * number, 2 * number + 2)
        table: dict[str, Any] = {"batch_label": "x", "labels": [number, 9 - number], "data": planes(COLOURS[part])}
        (folder / f"data_batch_{number + 1}").write_bytes(pickle.dumps(table, protocol))
    (folder / "test_batch").write_bytes(pickle.dumps({"labels": [1], "data": planes(COLOURS[:1])}, protocol))
    (folder / "batches.meta").write_bytes(pickle.dumps({"label_names": TEN}, protocol))
    return folder


@pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
def test_cifar10_pickles_of_every_protocol(tmp_path: Path, protocol: int) -> None:
    data = open_cifar(cifar10(tmp_path / "c", protocol), "train", template="a {}")
    assert len(data) == 10
    assert all((data.image(index) == COLOURS[index]).all() for index in range(10))
    assert [data.label(index) for index in range(4)] == [0, 9, 1, 8]
    assert data.labels == tuple(TEN)
    assert data.caption(1) == "a truck"
    assert len(open_cifar(tmp_path / "c", "test")) == 1


def test_what_python_2_wrote_is_read_by_us_and_by_pickle(tmp_path: Path) -> None:
    batches = {f"data_batch_{n + 1}": (COLOURS[2 * n : 2 * n + 2], [n, n]) for n in range(5)}
    write_cifar10(tmp_path, {**batches, "test_batch": (COLOURS[:1], [3])}, TEN)
    data = open_cifar(tmp_path, "train")
    assert all((data.image(index) == COLOURS[index]).all() for index in range(10))
    with (tmp_path / "data_batch_2").open("rb") as file:
        theirs = pickle.load(file, encoding="bytes")  # noqa: S301  our own file, opened as CIFAR's page says
    assert (theirs[b"data"] == planes(COLOURS[2:4])).all()
    assert theirs[b"labels"] == [1, 1]
    assert theirs[b"batch_label"] == b"training batch 2 of 5"
    with (tmp_path / "batches.meta").open("rb") as file:
        assert pickle.load(file, encoding="bytes")[b"label_names"] == [name.encode() for name in TEN]  # noqa: S301


def test_cifar100_pickles(tmp_path: Path) -> None:
    for name in ("train", "test"):
        table = {"fine_labels": [5, 2], "coarse_labels": [1, 0], "data": planes(COLOURS[:2])}
        (tmp_path / name).write_bytes(python2_pickle(table))
    meta = {"fine_label_names": [f"f{n}" for n in range(6)], "coarse_label_names": ["fish", "aquatic_mammals"]}
    (tmp_path / "meta").write_bytes(python2_pickle(meta))
    fine, coarse = open_cifar(tmp_path, "train"), open_cifar(tmp_path, "test", coarse=True)
    assert [fine.caption(0), coarse.caption(0), coarse.caption(1)] == ["f5", "aquatic mammals", "fish"]


def test_binary_versions(tmp_path: Path) -> None:
    ten, hundred = tmp_path / "ten", tmp_path / "hundred"
    ten.mkdir()
    hundred.mkdir()
    rows = planes(COLOURS)
    for number in range(5):
        part = rows[2 * number : 2 * number + 2]
        (ten / f"data_batch_{number + 1}.bin").write_bytes(b"".join(bytes([number]) + row.tobytes() for row in part))
    (ten / "test_batch.bin").write_bytes(b"\x07" + rows[3].tobytes())
    (ten / "batches.meta.txt").write_text("\n".join(TEN) + "\n\n")
    data = open_cifar(ten, "train")
    assert [data.label(index) for index in range(10)] == [0, 0, 1, 1, 2, 2, 3, 3, 4, 4]
    assert all((data.image(index) == COLOURS[index]).all() for index in range(10))
    assert open_cifar(ten, "test").caption(0) == "horse"
    for name in ("train", "test"):
        (hundred / f"{name}.bin").write_bytes(b"\x01\x02" + rows[0].tobytes())
    (hundred / "fine_label_names.txt").write_text("a\nb\nc\n")
    (hundred / "coarse_label_names.txt").write_text("x\ny\n")
    assert open_cifar(hundred, "train").caption(0) == "c"
    assert open_cifar(hundred, "train", coarse=True).caption(0) == "y"
    (ten / "data_batch_3.bin").write_bytes(b"123")
    with pytest.raises(RequestError, match=r"data_batch_3\.bin' has 3 bytes, which is no number of records of 3073"):
        open_cifar(ten, "train")


class _Harmful:
    def __reduce__(self) -> tuple[Any, ...]:
        import os

        return os.mkdir, ("harmed",)


def test_pickles_are_never_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    folder = cifar10(tmp_path / "c", 2)
    (folder / "data_batch_3").write_bytes(pickle.dumps({"labels": _Harmful(), "data": planes(COLOURS[:2])}))
    with pytest.raises(
        RequestError, match=r"data_batch_3' is refused: opened as a pickle it would run (posix|nt)\.mkdir"
    ):
        open_cifar(folder, "train")
    assert not (tmp_path / "harmed").exists()


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ({"labels": [1, 1], "data": planes(COLOURS[:2]).astype(np.float32)}, "an array of f4 numbers"),
        ({"labels": [1], "data": planes(COLOURS[:2])}, "has 2 pictures, but 1 labels"),
        ({"labels": [1, 1], "data": planes(COLOURS[:2])[:, :-1]}, "not rows of 3072 bytes"),
        ({"labels": [1, 11], "data": planes(COLOURS[:2])}, "picture 5 is of class 11, but the 10 classes"),
        ({"data": planes(COLOURS[:2])}, "has no list 'labels'"),
        ([1], "holds no table"),
    ],
)
def test_bad_batches_are_named(tmp_path: Path, content: Any, message: str) -> None:
    folder = cifar10(tmp_path / "c", 2)
    (folder / "data_batch_3").write_bytes(pickle.dumps(content, 2))
    with pytest.raises(RequestError, match=message):
        open_cifar(folder, "train")


def test_damaged_and_missing_batches_are_named(tmp_path: Path) -> None:
    folder = cifar10(tmp_path / "c", 2)
    with pytest.raises(RequestError, match="is CIFAR-10, which has no coarse classes"):
        open_cifar(folder, "train", coarse=True)
    whole = (folder / "data_batch_3").read_bytes()
    for length in (0, 1, 10, 200, len(whole) - 1):
        (folder / "data_batch_3").write_bytes(whole[:length])
        with pytest.raises(RequestError, match="data_batch_3"):
            open_cifar(folder, "train")
    (folder / "data_batch_3").unlink()
    with pytest.raises(RequestError, match=r"lacks the file .*data_batch_3"):
        open_cifar(folder, "train")
    with pytest.raises(RequestError, match=r"is not cifar-10-batches-py, .*: it has no batches\.meta"):
        open_cifar(tmp_path, "train")


# ---------------------------------------------------------------------------------------------------------- CelebA


def celeba(folder: Path, told: dict[str, set[str]]) -> Path:
    names = sorted(PHRASES)
    (folder / "img_align_celeba").mkdir(parents=True)
    lines = [str(len(told)), " ".join(names) + " "]
    for number, (name, found) in enumerate(told.items()):
        Image.fromarray(np.full((218, 178, 3), number, np.uint8)).save(folder / "img_align_celeba" / name)
        lines.append(f"{name} " + " ".join("1".rjust(2) if each in found else "-1" for each in names))
    (folder / "list_attr_celeba.txt").write_text("\n".join(lines) + "\n")
    parts = [f"{name} {number % 3}" for number, name in enumerate(told)]
    (folder / "list_eval_partition.txt").write_text("\n".join(parts) + "\n")
    return folder


FACES = {
    "000001.jpg": {"Smiling", "Wearing_Hat"},
    "000002.jpg": {"Male", "5_o_Clock_Shadow", "Blurry", "Eyeglasses"},
    "000003.jpg": set(),
    "000004.jpg": set(PHRASES),
}


def test_attributes_become_a_caption(tmp_path: Path) -> None:
    assert len(PHRASES) == 40
    data = CelebADataset(celeba(tmp_path, FACES), "all")
    assert data.caption(0) == "Photo of a person, smiling, wearing hat"
    assert data.caption(1) == "Photo of a person, male, five o'clock shadow, wearing eyeglasses, blurry"
    assert data.caption(2) == "Photo of a person"
    assert data.caption(3).count(",") == 40
    assert data.size(0) == (178, 218)
    assert data.image(3).shape == (218, 178, 3)
    told = CelebADataset(tmp_path, "all", FaceCaptions(start="A face", absent=True))
    assert told.caption(0) == "A face, female, old, smiling, beard, wearing hat"


def test_a_part_of_the_attributes_is_told(tmp_path: Path) -> None:
    data = CelebADataset(celeba(tmp_path, FACES), "all", FaceCaptions(tell=0.5))
    whole = data.caption(3).split(", ")
    counts = []
    for seed in range(30):
        told = data.caption(3, random.Random(seed)).split(", ")
        assert told == [phrase for phrase in whole if phrase in told]  # the order stays
        counts.append(len(told) - 1)
    assert 15 < np.mean(counts) < 25
    assert data.caption(3, random.Random(1)) == data.caption(3, random.Random(1))


def test_splits(tmp_path: Path) -> None:
    celeba(tmp_path, FACES)
    keys = {
        split: [data.key(index) for index in range(len(data))]
        for split in ("train", "valid", "test")
        for data in [CelebADataset(tmp_path, split)]
    }
    assert keys == {"train": ["000001.jpg", "000004.jpg"], "valid": ["000002.jpg"], "test": ["000003.jpg"]}


@pytest.mark.parametrize(
    ("file", "old", "new", "message"),
    [
        ("list_attr_celeba.txt", "4\n", "5\n", "says it has 5 pictures, but has 4"),
        (
            "list_attr_celeba.txt",
            " Smiling ",
            " Grinning ",
            "has the attribute 'Grinning', which is none of CelebA's forty",
        ),
        ("list_attr_celeba.txt", "000002.jpg ", "000002.jpg 7 ", "line 4 of .* does not have 40 numbers 1 or -1"),
        ("list_attr_celeba.txt", "4\n", "", "does not begin with a number of pictures"),
        (
            "list_eval_partition.txt",
            "000003.jpg 2",
            "000003.jpg 9",
            "line 3 of .* is not a picture's name and 0, 1 or 2",
        ),
        ("list_eval_partition.txt", "000003.jpg 2\n", "", r"does not have the picture '000003\.jpg'"),
    ],
)
def test_bad_lists_are_named(tmp_path: Path, file: str, old: str, new: str, message: str) -> None:
    celeba(tmp_path, FACES)
    text = (tmp_path / file).read_text()
    assert old in text
    (tmp_path / file).write_text(text.replace(old, new, 1))
    with pytest.raises(RequestError, match=message):
        CelebADataset(tmp_path, "train")


def test_missing_faces_are_named_or_skipped(tmp_path: Path) -> None:
    (celeba(tmp_path, FACES) / "img_align_celeba/000004.jpg").unlink()
    with pytest.raises(BadExample, match=r"000004\.jpg', which list_attr_celeba\.txt has, is not there"):
        CelebADataset(tmp_path, "train")
    data = CelebADataset(tmp_path, "train", skip_bad=True)
    assert (len(data), [key for key, _ in data.bad]) == (1, ["000004.jpg"])
    with pytest.raises(RequestError, match="is not CelebA"):
        CelebADataset(tmp_path / "img_align_celeba")


# ------------------------------------------------------------------------------------------------------------ COCO


def coco(folder: Path) -> tuple[Path, Path]:
    (folder / "train2017").mkdir()
    images, annotations = [], []
    for number in (9, 25, 3):
        name = f"{number:012}.jpg"
        Image.fromarray(np.full((40, 50 + number, 3), number, np.uint8)).save(folder / "train2017" / name)
        images.append({"license": 1, "file_name": name, "height": 40, "width": 50 + number, "id": number})
        annotations += [
            {"image_id": number, "id": 100 * number + k, "caption": f"Picture {number}\n saying {k}. "}
            for k in (2, 0, 1)
        ]
    table = {"info": {}, "licenses": [], "images": images, "annotations": annotations}
    (folder / "captions_train2017.json").write_text(json.dumps(table))
    return folder / "train2017", folder / "captions_train2017.json"


def test_coco_has_several_captions_a_picture(tmp_path: Path) -> None:
    data = CocoDataset(*coco(tmp_path))
    assert [data.key(index) for index in range(3)] == [f"{number:012}.jpg" for number in (3, 9, 25)]
    assert data.size(1) == (59, 40)
    assert data.caption(1) == "Picture 9 saying 0."
    drawn = {data.caption(1, random.Random(seed)) for seed in range(40)}
    assert drawn == {f"Picture 9 saying {k}." for k in range(3)}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda table: table.pop("annotations"), "have no list 'annotations'"),
        (lambda table: table["annotations"][0].pop("caption"), r"annotations\[0\] of .* has no caption"),
        (lambda table: table["annotations"][1].update(image_id="9"), r"annotations\[1\] of .* lacks an id"),
        (lambda table: table["images"][2].update(id=9), r"images\[2\] of .* has the id 9 of '000000000009\.jpg'"),
        (lambda table: table["images"].pop(), "has captions of the image 3, which is not in its images"),
        (lambda table: table["images"][0].pop("file_name"), r"images\[0\] of .* lacks an id or a file_name"),
        (
            lambda table: table["images"][0].update(file_name="gone.jpg"),
            r"gone\.jpg', which has captions, is not there",
        ),
    ],
)
def test_bad_annotations_are_named(tmp_path: Path, change: Any, message: str) -> None:
    pictures, annotations = coco(tmp_path)
    table = json.loads(annotations.read_text())
    change(table)
    annotations.write_text(json.dumps(table))
    with pytest.raises(RequestError, match=message):
        CocoDataset(pictures, annotations)


def test_pictures_without_captions_are_skipped_if_asked(tmp_path: Path) -> None:
    pictures, annotations = coco(tmp_path)
    table = json.loads(annotations.read_text())
    table["annotations"] = table["annotations"][:6]
    annotations.write_text(json.dumps(table))
    with pytest.raises(BadExample, match="has no caption in"):
        CocoDataset(pictures, annotations)
    assert len(CocoDataset(pictures, annotations, skip_bad=True)) == 2
    annotations.write_text("{")
    with pytest.raises(RequestError, match="are not JSON"):
        CocoDataset(pictures, annotations)
