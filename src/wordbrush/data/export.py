"""Pictures written in the layouts that data sets are published in, so that recipes for those can be tried on scenes.

folder      000000.png ... and metadata.jsonl; of classes, a subfolder each
webdataset  data-000000.tar ...: 000000.png, .txt and, of classes, .cls
idx         MNIST's four files, grey, 28 by 28
cifar10     cifar-10-batches-py's six batches and batches.meta, 32 by 32
coco        pictures/ and captions.json, five captions a picture
celeba      img_align_celeba/ and its two lists, of faces with attributes
"""

from __future__ import annotations

import contextlib
import gzip
import io
import json
import os
import random
import secrets
import shutil
import tarfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image

from wordbrush.data.celeba import PHRASES
from wordbrush.data.dataset import Dataset
from wordbrush.data.export_cifar import write_cifar10
from wordbrush.data.faces import FaceDataset
from wordbrush.errors import RequestError, WorkFailed

_SHARD = 1000
_CAPTIONS = 5


@dataclass(frozen=True, kw_only=True)
class Source:
    """What is exported: so many pictures of `train`, and a fifth as many of `test` where the layout has both."""

    train: Dataset
    test: Dataset
    count: int

    @property
    def tests(self) -> int:
        return max(1, self.count // 5)


@contextlib.contextmanager
def new_folder(folder: Path) -> Iterator[Path]:
    """A folder that gets its name when all in it is written, and is gone if that fails.

    Raises:
        RequestError: the folder exists and is not empty, or is the working folder.
        WorkFailed: it cannot be written.
    """
    if not folder.name:
        raise RequestError("a data set is written to a new folder, not to the one that you are in; name one")
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise RequestError(f"{str(folder)!r} is there already and not empty; name a new folder")
    partial = folder.with_name(f".{folder.name}-{secrets.token_hex(4)}.part")
    try:
        partial.mkdir(parents=True)
        yield partial
        if folder.exists():
            folder.rmdir()
        os.replace(partial, folder)
    except OSError as error:
        raise WorkFailed(f"{str(folder)!r} cannot be written: {error.strerror or error}") from error
    finally:
        shutil.rmtree(partial, ignore_errors=True)


def write_folder(folder: Path, source: Source, advance: Callable[[], None]) -> None:
    """Hugging Face's imagefolder."""
    data = source.train
    lines = []
    for index in range(source.count):
        label = data.label(index)
        name = f"{index:06}.png"
        if data.labels is not None and label is not None:
            name = f"{data.labels[label].replace(' ', '_')}/{name}"
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).write_bytes(_png(data.image(index)))
        lines.append(json.dumps({"file_name": name, "text": data.caption(index)}, ensure_ascii=False))
        advance()
    if data.labels is None:
        (folder / "metadata.jsonl").write_text("\n".join(lines) + "\n", encoding="utf-8")


def write_webdataset(folder: Path, source: Source, advance: Callable[[], None]) -> None:
    """Shards of a thousand examples."""
    data = source.train
    for first in range(0, source.count, _SHARD):
        with tarfile.open(folder / f"data-{first // _SHARD:06}.tar", "w", format=tarfile.USTAR_FORMAT) as shard:
            for index in range(first, min(first + _SHARD, source.count)):
                members = {"png": _png(data.image(index)), "txt": data.caption(index).encode()}
                label = data.label(index)
                if label is not None:
                    members["cls"] = str(label).encode()
                for extension, content in members.items():
                    member = tarfile.TarInfo(f"{index:06}.{extension}")
                    member.size, member.mode = len(content), 0o444
                    shard.addfile(member, io.BytesIO(content))
                advance()


def write_idx(folder: Path, source: Source, advance: Callable[[], None]) -> None:
    """MNIST's files, packed as they are published."""
    for start, data, count in (("train", source.train, source.count), ("t10k", source.test, source.tests)):
        pictures = [np.asarray(Image.fromarray(small_picture(data, index, 28)).convert("L")) for index in range(count)]
        numbers = [data.label(index) for index in range(count)]
        images = _idx(np.stack(pictures))
        labels = _idx(np.array(numbers, np.uint8))
        for name, content in ((f"{start}-images-idx3-ubyte", images), (f"{start}-labels-idx1-ubyte", labels)):
            (folder / f"{name}.gz").write_bytes(gzip.compress(content, mtime=0))
        for _ in range(count):
            advance()


def _idx(array: np.ndarray) -> bytes:
    head = bytes([0, 0, 8, array.ndim]) + b"".join(side.to_bytes(4, "big") for side in array.shape)
    return head + array.tobytes()


def write_cifar(folder: Path, source: Source, advance: Callable[[], None]) -> None:
    """The Python version of CIFAR-10."""
    data = source.train
    assert data.labels is not None

    def batch(data: Dataset, indices: range) -> tuple[np.ndarray, list[int]]:
        pictures = np.stack([small_picture(data, index, 32) for index in indices])
        for _ in indices:
            advance()
        return pictures, [data.label(index) or 0 for index in indices]

    edges = [source.count * part // 5 for part in range(6)]
    batches = {f"data_batch_{part + 1}": batch(data, range(edges[part], edges[part + 1])) for part in range(5)}
    batches["test_batch"] = batch(source.test, range(source.tests))
    write_cifar10(folder, batches, data.labels)


def write_coco(folder: Path, source: Source, advance: Callable[[], None]) -> None:
    """COCO captions with pictures in JPEG."""
    images, annotations = [], []
    (folder / "pictures").mkdir()
    for index in range(source.count):
        picture, number = source.train.image(index), index + 1
        name = f"{number:012}.jpg"
        Image.fromarray(picture).save(folder / "pictures" / name, quality=95)
        images.append({"id": number, "file_name": name, "height": picture.shape[0], "width": picture.shape[1]})
        for saying in range(_CAPTIONS):
            draw = random.Random(f"coco/{index}/{saying}")
            text = source.train.caption(index, draw)
            annotations.append({"id": index * _CAPTIONS + saying + 1, "image_id": number, "caption": text})
        advance()
    table = {"info": {"description": "written by Wordbrush"}, "images": images, "annotations": annotations}
    (folder / "captions.json").write_text(json.dumps(table, ensure_ascii=False), encoding="utf-8")


def write_celeba(folder: Path, source: Source, advance: Callable[[], None]) -> None:
    """CelebA's layout: `train` and `test` are faces."""
    assert isinstance(source.train, FaceDataset)
    assert isinstance(source.test, FaceDataset)
    names = sorted(PHRASES)
    (folder / "img_align_celeba").mkdir()
    listed, parts = [], []
    rows = [(source.train, index, 0) for index in range(source.count)]
    rows += [(source.test, index, 1 + index % 2) for index in range(source.tests)]
    for number, (data, index, part) in enumerate(rows, 1):
        name = f"{number:06}.jpg"
        Image.fromarray(data.image(index)).save(folder / "img_align_celeba" / name, quality=92)
        found = data.attributes(index)
        listed.append(f"{name} " + " ".join(" 1" if attribute in found else "-1" for attribute in names))
        parts.append(f"{name} {part}")
        advance()
    (folder / "list_attr_celeba.txt").write_text("\n".join([str(len(rows)), " ".join(names), *listed]) + "\n")
    (folder / "list_eval_partition.txt").write_text("\n".join(parts) + "\n")


WRITERS: dict[str, Callable[[Path, Source, Callable[[], None]], None]] = {
    "folder": write_folder,
    "webdataset": write_webdataset,
    "idx": write_idx,
    "cifar10": write_cifar,
    "celeba": write_celeba,
    "coco": write_coco,
}
BOTH_SPLITS = ("idx", "cifar10", "celeba")
"""The layouts with test pictures beside the training ones."""


def small_picture(data: Dataset, index: int, side: int) -> np.ndarray:
    """(side, side, 3) uint8: a picture made smaller."""
    picture = Image.fromarray(data.image(index))
    return np.asarray(picture.resize((side, side), Image.Resampling.LANCZOS, reducing_gap=3.0))


def _png(picture: np.ndarray) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(picture).save(buffer, "PNG", compress_level=3)
    return buffer.getvalue()
