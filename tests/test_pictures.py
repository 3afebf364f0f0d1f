"""Picture files of every kind that people have, and those that are broken."""

from __future__ import annotations

import contextlib
import random
import struct
import zlib
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageCms

from wordbrush.errors import RequestError
from wordbrush.pictures import alpha_of, as_grey, as_rgb, open_picture, pixel_hash

PIXELS = np.random.default_rng(0).integers(0, 256, (12, 20, 3), dtype=np.uint8)
COLOURS = Image.fromarray(PIXELS)
SMOOTH = COLOURS.resize((4, 3)).resize((64, 48), Image.Resampling.BICUBIC)


def saved(folder: Path, name: str, picture: Image.Image, **options: object) -> Path:
    picture.save(folder / name, **options)  # type: ignore[arg-type]
    return folder / name


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("a.png", {}),
        ("a.webp", {"lossless": True}),
        ("a.tiff", {}),
        ("a.bmp", {}),
        ("a.ppm", {}),
        ("a.tga", {}),
        ("a.jp2", {"irreversible": False}),
    ],
)
def test_lossless_files_are_read_to_the_bit(tmp_path: Path, name: str, options: dict[str, object]) -> None:
    picture = open_picture(saved(tmp_path, name, COLOURS, **options))
    assert np.array_equal(np.asarray(as_rgb(picture)), PIXELS)
    assert pixel_hash(picture) == pixel_hash(COLOURS)


@pytest.mark.parametrize("name", ["a.jpg", "a.webp", "a.avif"])
def test_lossy_files_are_read(tmp_path: Path, name: str) -> None:
    picture = as_rgb(open_picture(saved(tmp_path, name, SMOOTH, quality=95)))
    assert np.abs(np.asarray(picture, dtype=int) - np.asarray(SMOOTH, dtype=int)).mean() < 5


@pytest.mark.parametrize("name", ["a.gif", "a.webp", "a.png"])
def test_of_several_frames_the_first_is_taken(tmp_path: Path, name: str) -> None:
    frames = [Image.new("RGB", (8, 8), colour) for colour in ("red", "blue")]
    options = {"lossless": True} if name == "a.webp" else {}
    path = saved(tmp_path, name, frames[0], save_all=True, append_images=frames[1:], **options)
    assert as_rgb(open_picture(path)).getpixel((3, 3)) == (255, 0, 0)


def test_sixteen_bits_are_rounded_to_eight(tmp_path: Path) -> None:
    values = np.array([[0, 257, 32768, 65535]], dtype=np.uint16)
    for name in ("a.png", "a.tiff"):
        picture = open_picture(saved(tmp_path, name, Image.fromarray(values)))
        assert np.asarray(as_grey(picture)).tolist() == [[0, 1, 128, 255]]
        assert np.asarray(as_rgb(picture))[0, :, 1].tolist() == [0, 1, 128, 255]


def test_numbers_without_a_white_are_refused(tmp_path: Path) -> None:
    picture = open_picture(saved(tmp_path, "a.tiff", Image.new("F", (4, 4))))
    for read in (as_rgb, as_grey):
        with pytest.raises(RequestError, match="8 or 16 bits"):
            read(picture)


def test_inks_become_colours(tmp_path: Path) -> None:
    inks = Image.new("CMYK", (8, 8), (0, 255, 255, 0))
    picture = open_picture(saved(tmp_path, "a.jpg", inks, quality=95))
    red, green, blue = as_rgb(picture).getpixel((4, 4))  # type: ignore[misc]
    assert red > 240
    assert max(green, blue) < 15
    srgb = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    picture.info["icc_profile"] = srgb  # of the wrong kind: as good as none
    assert as_rgb(picture).getpixel((4, 4)) == (red, green, blue)


MODES = ["RGBA", "LA", "P", "PA", "L", "1", "CMYK", "YCbCr", "LAB", "HSV", "I;16", "I", "La", "RGBa"]


@pytest.mark.parametrize("mode", MODES)
def test_every_mode_is_read(mode: str) -> None:
    picture = Image.new(mode, (8, 6))
    assert (as_rgb(picture).mode, as_rgb(picture).size) == ("RGB", (8, 6))
    assert (as_grey(picture).mode, as_grey(picture).size) == ("L", (8, 6))
    assert len(pixel_hash(picture)) == 64


def test_transparency_is_white_in_pictures_black_in_masks_or_what_lies_beneath() -> None:
    picture = Image.new("RGBA", (2, 2), (255, 0, 0, 0))
    assert as_rgb(picture).getpixel((0, 0)) == (255, 255, 255)
    assert as_rgb(picture, on_white=False).getpixel((0, 0)) == (255, 0, 0)
    assert as_grey(picture).getpixel((0, 0)) == 0
    alpha = alpha_of(picture)
    assert alpha is not None
    assert alpha.getpixel((0, 0)) == 0
    assert alpha_of(COLOURS) is None


def test_a_palette_may_have_a_transparent_colour(tmp_path: Path) -> None:
    picture = Image.new("P", (4, 4), 0)
    picture.putpalette([255, 0, 0, 0, 0, 255])
    picture.putpixel((1, 1), 1)
    opened = open_picture(saved(tmp_path, "a.png", picture, transparency=1))
    assert as_rgb(opened).getpixel((1, 1)) == (255, 255, 255)
    assert as_rgb(opened).getpixel((0, 0)) == (255, 0, 0)
    opened = open_picture(saved(tmp_path, "b.png", picture))
    assert as_rgb(opened).getpixel((1, 1)) == (0, 0, 255)


def test_the_hash_is_of_what_is_seen() -> None:
    first, second = Image.new("P", (4, 4)), Image.new("P", (4, 4))
    first.putpalette([255, 0, 0])
    second.putpalette([0, 255, 0])
    assert pixel_hash(first) != pixel_hash(second)
    assert pixel_hash(first) == pixel_hash(Image.new("RGB", (4, 4), "red"))


def test_exif_turns_the_picture(tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6  # a quarter turn
    for name in ("a.png", "a.jpg", "a.webp"):
        picture = open_picture(saved(tmp_path, name, SMOOTH, exif=exif))
        assert picture.size == (48, 64), name
        assert not picture.getexif().get(0x0112), "it is not turned again"


def bomb() -> bytes:
    """A PNG that says it is 50000 x 50000."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    head = struct.pack(">IIBBBBB", 50_000, 50_000, 1, 0, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + chunk(b"IDAT", zlib.compress(b"")) + chunk(b"IEND", b"")


@pytest.mark.parametrize("side", [50_000, 10_000])
def test_a_decompression_bomb_is_refused_unopened(tmp_path: Path, side: int) -> None:
    data = bomb()
    if side == 10_000:  # of those that Pillow itself only warns of
        head = struct.pack(">IIBBBBB", side, side, 1, 0, 0, 0, 0)
        data = data.replace(data[12:33], b"IHDR" + head + struct.pack(">I", zlib.crc32(b"IHDR" + head)))
    (tmp_path / "bomb.png").write_bytes(data)
    with pytest.raises(RequestError, match=r"bomb\.png' is refused: it unpacks to more than 89 million pixels"):
        open_picture(tmp_path / "bomb.png")


@pytest.mark.parametrize("name", ["a.png", "a.jpg", "a.webp", "a.avif", "a.tiff", "a.bmp"])
def test_a_file_that_is_cut_off_is_refused(tmp_path: Path, name: str) -> None:
    path = saved(tmp_path, name, SMOOTH)
    data = path.read_bytes()
    for length in (0, 5, len(data) // 3, len(data) * 2 // 3):
        path.write_bytes(data[:length])
        with pytest.raises(RequestError, match=rf"{name}' cannot be read as a picture") as caught:
            open_picture(path)
        assert "\n" not in str(caught.value)


@pytest.mark.parametrize("name", ["a.png", "a.jpg", "a.webp", "a.avif", "a.gif", "a.tiff", "a.bmp", "a.jp2", "a.tga"])
def test_a_damaged_file_is_read_or_refused_and_nothing_else(tmp_path: Path, name: str) -> None:
    whole, draw = saved(tmp_path, name, SMOOTH).read_bytes(), random.Random(name)
    refused = 0
    for _ in range(60):
        data = bytearray(whole)
        for _ in range(draw.randint(1, 6)):
            data[draw.randrange(min(len(data), draw.choice((40, 400, 10**6))))] = draw.randrange(256)
        (tmp_path / name).write_bytes(data)
        with contextlib.suppress(RequestError):
            as_rgb(open_picture(tmp_path / name))
            continue
        refused += 1
    assert refused > 0, "or nothing was damaged"


def test_what_is_no_picture_is_refused(tmp_path: Path) -> None:
    (tmp_path / "text.png").write_text("no picture")
    (tmp_path / "program.png").write_text("%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\nshowpage\n")
    for name, words in (("text.png", "no whole PNG"), ("program.png", "no whole PNG"), ("none.png", "no file")):
        with pytest.raises(RequestError, match=words):
            open_picture(tmp_path / name)
