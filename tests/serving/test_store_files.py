"""Picture files: content-addressed, atomic, and no path from outside."""

from __future__ import annotations

import hashlib
import os
import threading
import time
from io import BytesIO
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from wordbrush.errors import RequestError, WorkFailed
from wordbrush.pictures import pixel_hash
from wordbrush.serving.store import InputFiles, PictureFiles

NO_HASHES = [
    "",
    "../" * 20,
    "a" * 63,
    "a" * 65,
    "A" * 64,
    "g" * 64,
    "a" * 63 + "\n",
    "a" * 64 + "\n",
    "/etc/passwd",
    "a" * 62 + "..",
    "١" * 64,
]


def picture(mode: str = "RGB", seed: int = 0) -> Image.Image:
    values = np.random.default_rng(seed).integers(0, 256, (12, 10, 4), dtype=np.uint8)
    return Image.fromarray(values, "RGBA").convert(mode)


def png(image: Image.Image) -> bytes:
    buffer = BytesIO()
    image.save(buffer, format="PNG")
    return buffer.getvalue()


def test_a_picture_is_kept_by_its_file_hash_and_found_by_its_pixels(tmp_path: Path) -> None:
    files, inputs = PictureFiles(tmp_path), InputFiles(tmp_path)
    data = png(picture())
    sha256 = files.add(data)
    assert sha256 == hashlib.sha256(data).hexdigest()
    assert files.read(sha256) == data
    for name in (sha256, pixel_hash(picture())):
        assert inputs.has(name)
        assert inputs.image(name).tobytes() == picture().tobytes()
    assert files.add(data) == sha256
    assert [name for name, _ in files.all()] == [sha256]


@pytest.mark.parametrize("mode", ["1", "L", "LA", "P", "RGB", "RGBA", "CMYK", "YCbCr", "HSV", "La", "RGBa"])
def test_an_input_gives_back_what_its_hash_says(tmp_path: Path, mode: str) -> None:
    image = picture("LA").convert("La") if mode == "La" else picture("RGBA").convert(mode)
    inputs = InputFiles(tmp_path)
    found = inputs.put(image)
    assert found.path is None
    assert found.sha256 is not None
    back = inputs.image(found.sha256)
    assert pixel_hash(back) == found.sha256
    assert back.size == image.size
    if mode in ("1", "L", "LA", "P", "RGB", "RGBA"):
        assert found.sha256 == pixel_hash(image)
    assert inputs.put(image) == found


@pytest.mark.parametrize("mode", ["I", "I;16", "I;16B"])
def test_an_input_of_sixteen_bits_keeps_them(tmp_path: Path, mode: str) -> None:
    values = np.arange(64, dtype=np.uint16).reshape(8, 8) * 1023
    image = Image.fromarray(values.astype(np.int32)).convert("I") if mode == "I" else Image.fromarray(values)
    if mode == "I;16B":
        image = Image.frombytes("I;16B", (8, 8), values.astype(">u2").tobytes())
    inputs = InputFiles(tmp_path)
    sha256 = inputs.put(image).sha256
    assert sha256 is not None
    back = inputs.image(sha256)
    assert pixel_hash(back) == sha256
    assert np.array_equal(np.asarray(back).astype(np.int64), values)


def test_an_input_of_floats_is_refused(tmp_path: Path) -> None:
    with pytest.raises(RequestError, match="floating-point"):
        InputFiles(tmp_path).put(Image.new("F", (4, 4)))


def test_an_inputs_file_says_nothing_but_its_pixels(tmp_path: Path) -> None:
    image = picture()
    image.info = {"comment": "secret", "exif": b"Exif\0\0secret", "icc_profile": b"secret"}
    inputs = InputFiles(tmp_path)
    sha256 = inputs.put(image).sha256
    path = inputs.path(sha256 or "")
    assert path is not None
    assert b"secret" not in path.read_bytes()


@pytest.mark.parametrize("name", NO_HASHES)
def test_nothing_but_a_hash_becomes_a_path(tmp_path: Path, name: str) -> None:
    files, inputs = PictureFiles(tmp_path), InputFiles(tmp_path)
    assert files.path(name) is None
    assert files.place(name) is None
    assert not inputs.has(name)
    assert not files.remove(name)
    assert files.pixels(name) is None
    for call in (files.read, inputs.image):
        with pytest.raises(RequestError, match="no picture with the sha256"):
            call(name)


@given(name=st.text("0aAfg./\\\n\0", min_size=60, max_size=66))
def test_no_text_becomes_a_path(name: str) -> None:
    assert PictureFiles("/nowhere").place(name) is None or (len(name) == 64 and set(name) <= set("0123456789abcdef"))


def test_a_full_or_forbidden_disk_is_one_sentence(tmp_path: Path) -> None:
    (tmp_path / "pictures").write_text("a file where the folder should be")
    with pytest.raises(WorkFailed, match="cannot write"):
        PictureFiles(tmp_path).add(png(picture()))


def test_a_fresh_file_is_not_removed(tmp_path: Path) -> None:
    files = PictureFiles(tmp_path)
    sha256 = files.add(png(picture()))
    assert not files.remove(sha256, older_than=time.time() - 60)
    assert files.path(sha256) is not None
    os.utime(files.path(sha256) or "", (0, 0))
    assert files.remove(sha256, older_than=time.time() - 60)
    assert files.path(sha256) is None
    assert not files.remove(sha256)


def test_a_file_that_is_written_while_it_is_removed_is_there(tmp_path: Path) -> None:
    """A job may paint the very picture that is being deleted; what `add` returned is never lost to an older delete."""
    files = PictureFiles(tmp_path)
    data = png(picture())
    sha256 = files.add(data)
    begun = time.time() - 2
    stop = threading.Event()

    def delete() -> None:
        while not stop.is_set():
            files.remove(sha256, older_than=begun)

    thread = threading.Thread(target=delete)
    thread.start()
    try:
        for _ in range(100):
            files.add(data)
    finally:
        stop.set()
        thread.join()
    assert files.read(sha256) == data
    assert not list(files.folder.glob("*/.removed-*"))


def test_what_killed_writers_left_is_removed_after_a_while(tmp_path: Path) -> None:
    files = PictureFiles(tmp_path)
    sha256 = files.add(png(picture()))
    rest = files.folder / sha256[:2] / ".wordbrush-1234.part"
    rest.write_bytes(b"half")
    files.remove_rests(3600)
    assert rest.exists()
    os.utime(rest, (0, 0))
    files.remove_rests(3600)
    assert not rest.exists()
    assert files.path(sha256) is not None
