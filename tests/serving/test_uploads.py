"""Pictures from clients: of the kinds that are read, small enough before they are decoded, and never a path."""

from __future__ import annotations

import base64
import contextlib
import struct
import time
import tracemalloc
import zlib
from collections.abc import Callable
from io import BytesIO
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from PIL import Image, ImageFile, PngImagePlugin

from wordbrush.errors import RequestError
from wordbrush.inputs import InputNoise, InputPicture, MaskBox
from wordbrush.pictures import pixel_hash
from wordbrush.serving.bodies import file_from, input_from, picture_from, request_from
from wordbrush.serving.guard.sniff import read_header
from wordbrush.serving.settings import Settings
from wordbrush.serving.store.files import InputFiles


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    return Settings(data=tmp_path, max_body=4 * 1024**2, max_pixels=1_000_000, max_side=1024)


@pytest.fixture
def server(settings: Settings) -> Any:
    """What `request_from` needs of a server, with real files."""
    return SimpleNamespace(settings=settings, store=SimpleNamespace(inputs=InputFiles(settings.data)))


def noise(mode: str = "RGB", size: tuple[int, int] = (40, 30)) -> Image.Image:
    bands = len(Image.new(mode, (1, 1)).getbands())
    values = np.random.default_rng(0).integers(0, 256, (size[1], size[0], bands), dtype=np.uint8)
    return Image.fromarray(values.squeeze() if bands == 1 else values, mode if bands > 1 else "L").convert(mode)


def encoded(picture: Image.Image, kind: str = "PNG", **how: Any) -> bytes:
    buffer = BytesIO()
    picture.save(buffer, kind, **how)
    return buffer.getvalue()


def text(data: bytes) -> str:
    return base64.b64encode(data).decode()


def chunk(name: bytes, content: bytes) -> bytes:
    return struct.pack(">I", len(content)) + name + content + struct.pack(">I", zlib.crc32(name + content))


def png(width: int, height: int, *chunks: bytes, depth: int = 8, colour: int = 2) -> bytes:
    """A PNG whose header says what it likes."""
    head = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, depth, colour, 0, 0, 0))
    return b"\x89PNG\r\n\x1a\n" + head + b"".join(chunks) + chunk(b"IEND", b"")


def rows(width: int, height: int) -> bytes:
    return chunk(b"IDAT", zlib.compress(b"\0" * (height * (1 + 3 * width)), 9))


@pytest.mark.parametrize("kind", ["PNG", "GIF", "WEBP", "JPEG"])
@pytest.mark.parametrize("way", [lambda data: data, text, lambda data: "data:image/png;base64," + text(data)])
def test_every_kind_comes_in_every_way(kind: str, way: Callable[[bytes], str | bytes], settings: Settings) -> None:
    picture = noise().quantize(16) if kind == "GIF" else noise()
    data = encoded(picture, kind, **({"lossless": True} if kind == "WEBP" else {}))
    assert read_header(data).kind == kind
    got = picture_from(way(data), settings)
    assert got.size == (40, 30)
    if kind != "JPEG":
        assert pixel_hash(got.convert("RGB")) == pixel_hash(picture.convert("RGB"))


@pytest.mark.parametrize("mode", ["1", "L", "LA", "RGB", "RGBA", "P", "CMYK", "I;16"])
def test_modes_come_out_as_png_has_them(mode: str, settings: Settings) -> None:
    if mode == "I;16":
        values = np.random.default_rng(0).integers(0, 65536, (30, 40), dtype=np.uint16)
        got = picture_from(encoded(Image.fromarray(values)), settings)
        assert got.mode == "I;16"
        assert np.array_equal(np.asarray(got), values)
        return
    source = noise("RGB").quantize(8) if mode == "P" else noise("RGB").convert(mode) if mode == "CMYK" else noise(mode)
    got = picture_from(encoded(source, "JPEG" if mode == "CMYK" else "PNG"), settings)
    assert got.mode == {"P": "RGB", "CMYK": "RGB"}.get(mode, mode)
    if mode not in ("CMYK", "P"):
        assert got.tobytes() == source.tobytes()


def test_nothing_but_pixels_is_kept(settings: Settings) -> None:
    info = PngImagePlugin.PngInfo()
    info.add_text("parameters", "a secret")
    exif = Image.Exif()
    exif[0x010E] = "a secret"
    got = picture_from(encoded(noise(), pnginfo=info, exif=exif, icc_profile=b"a secret"), settings)
    assert got.info == {}
    assert b"secret" not in encoded(got)


@pytest.mark.parametrize("orientation", range(1, 9))
def test_lying_pictures_are_turned_as_pillow_turns_them(orientation: int, settings: Settings) -> None:
    from PIL import ImageOps

    exif = Image.Exif()
    exif[0x0112] = orientation
    data = encoded(noise(), exif=exif)
    expected = ImageOps.exif_transpose(Image.open(BytesIO(data)))
    got = picture_from(data, settings)
    assert got.size == expected.size
    assert got.tobytes() == expected.tobytes()


def test_of_an_animation_the_first_frame_is_taken(settings: Settings) -> None:
    frames = [Image.new("RGB", (20, 20), colour) for colour in ("red", "green", "blue")]
    for kind in ("GIF", "WEBP", "PNG"):
        data = encoded(frames[0], kind, save_all=True, append_images=frames[1:], duration=50)
        assert picture_from(data, settings).convert("RGB").getpixel((5, 5))[0] > 200


REFUSED_TEXTS = {
    "http://127.0.0.1:22/": "fetches nothing",
    "https://example.com/a.png": "fetches nothing",
    " HTTP://169.254.169.254/latest/meta-data": "fetches nothing",
    "file:///etc/passwd": "of the kind file:",
    "ftp://example.com/a.png": "of the kind ftp:",
    "gopher://x": "of the kind gopher:",
    "javascript:alert(1)": "of the kind javascript:",
    "C:/Windows/win.ini": "of the kind c:",
    "/etc/passwd": "looks like a path",
    "../../etc/passwd": "looks like a path",
    "~/.ssh/id_rsa": "looks like a path",
    "\\\\host\\share": "looks like a path",
    "data:text/html;base64,PGI+": "of the kind 'text/html'",
    "data:image/svg+xml;base64,PHN2Zy8+": "is not a PNG",
    "data:image/png,abc": "without base64",
    "data:image/png;base64": "without base64",
    "data:": "without base64",
    "": "is empty",
    "    ": "is empty",
    "ab\0cd": "is not base64",
    "ünïcode": "is not base64",
    "\ud800": "is not base64",
    "A": "is not base64",
    "etc/passwd": "is not a PNG, JPEG, WebP or GIF",
}


@pytest.mark.parametrize(("given", "said"), REFUSED_TEXTS.items(), ids=map(repr, REFUSED_TEXTS))
def test_addresses_paths_and_nonsense_are_refused(given: str, said: str, settings: Settings) -> None:
    with pytest.raises(RequestError, match=said):
        picture_from(given, settings)


@pytest.mark.parametrize("kind", ["BMP", "TIFF", "PPM", "TGA", "ICO", "PCX", "PDF", "EPS"])
def test_kinds_that_need_not_be_read_are_not(kind: str, settings: Settings) -> None:
    with pytest.raises(RequestError, match="is not a PNG, JPEG, WebP or GIF"):
        picture_from(encoded(noise(), kind), settings)


def small_gif_of_large_frame() -> bytes:
    data = bytearray(encoded(noise().quantize(4), "GIF"))
    place = data.index(b"\x2c", 13 + (3 << (data[10] & 7) + 1))
    data[place + 5 : place + 9] = struct.pack("<HH", 60000, 60000)
    return bytes(data)


def webp_that_claims(width: int, height: int) -> bytes:
    sizes = (width - 1).to_bytes(3, "little") + (height - 1).to_bytes(3, "little")
    parts = b"VP8X" + struct.pack("<I", 10) + b"\x02\0\0\0" + sizes
    return b"RIFF" + struct.pack("<I", 4 + len(parts)) + b"WEBP" + parts


def jpeg_that_claims(width: int, height: int) -> bytes:
    data = bytearray(encoded(noise(), "JPEG"))
    place = data.index(b"\xff\xc0")
    data[place + 5 : place + 9] = struct.pack(">HH", height, width)
    return bytes(data)


def many_scans() -> bytes:
    data = encoded(noise(), "JPEG", progressive=True)
    start = data.rindex(b"\xff\xda")
    return data[:start] + data[start:-2] * 1000 + data[-2:]


BOMBS: dict[str, Callable[[], bytes]] = {
    "PNG of 4 billion pixels": lambda: png(65535, 65535, rows(10, 10)),
    "PNG of 2**31 - 1 on a side": lambda: png(2**31 - 1, 2**31 - 1),
    "PNG one pixel high": lambda: png(900_000, 1, rows(900_000, 1)),
    "PNG that unpacks to 300 MB": lambda: png(10_000, 10_000, rows(10_000, 10_000)),
    "PNG of nothing": lambda: png(0, 0),
    "PNG with a text that unpacks to 100 MB": lambda: png(
        8, 8, chunk(b"zTXt", b"a\0\0" + zlib.compress(b"a" * 10**8, 9)), rows(8, 8)
    ),
    "PNG with such an international text": lambda: png(
        8, 8, chunk(b"iTXt", b"a\0\1\0\0\0" + zlib.compress(b"a" * 10**8, 9)), rows(8, 8)
    ),
    "PNG of 300 000 chunks": lambda: png(8, 8, chunk(b"abCd", b"") * 300_000, rows(8, 8)),
    "WebP of 268 million pixels": lambda: webp_that_claims(16383, 16383),
    "WebP of 2**48 pixels": lambda: webp_that_claims(2**24, 2**24),
    "JPEG of 4 billion pixels": lambda: jpeg_that_claims(65535, 65535),
    "JPEG of 1000 scans": many_scans,
    "JPEG of 900 000 segments": lambda: b"\xff\xd8" + b"\xff\xe5\0\2" * 900_000 + encoded(noise(), "JPEG")[2:],
    "JPEG of 3 million fill bytes": lambda: b"\xff\xd8" + b"\xff" * 3_000_000 + encoded(noise(), "JPEG")[2:],
    "GIF of a frame larger than its screen": small_gif_of_large_frame,
    "GIF with a comment of 15 000 blocks": lambda: (
        b"GIF89a" + struct.pack("<HHBBB", 8, 8, 0, 0, 0) + b"\x21\xfe" + (b"\xff" + b"a" * 255) * 15_000 + b"\0\x3b"
    ),
    "GIF of 3 million blocks": lambda: b"GIF89a" + struct.pack("<HHBBB", 8, 8, 0, 0, 0) + b"\x21\xfe\0" * 1_000_000,
}


@pytest.mark.parametrize("name", BOMBS)
def test_bombs_are_refused_before_they_unpack(name: str, settings: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    data = BOMBS[name]()
    picture_from(encoded(noise()), settings)  # what Pillow loads once is not the bomb's
    decoded: list[Any] = []
    monkeypatch.setattr(ImageFile.ImageFile, "load", decoded.append)
    tracemalloc.start()
    began = time.process_time()
    try:
        with pytest.raises(RequestError) as caught:
            picture_from(data, settings)
        most = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert "\n" not in str(caught.value)
    assert time.process_time() - began < 1.5
    assert most < len(data) + 12 * 1024**2
    assert decoded == []


@pytest.mark.parametrize("kind", ["PNG", "GIF", "WEBP", "JPEG"])
def test_cut_off_and_damaged_files_are_one_sentence(kind: str, settings: Settings) -> None:
    data = encoded(noise().quantize(16) if kind == "GIF" else noise(), kind)
    generator = np.random.default_rng(1)
    for length in {*range(40), *generator.integers(0, len(data), 60).tolist()}:
        _read_or_refuse(data[:length], settings)
    for _ in range(300):
        damaged = bytearray(data)
        for place in generator.integers(0, len(data), generator.integers(1, 12)):
            damaged[place] = generator.integers(0, 256)
        _read_or_refuse(bytes(damaged), settings)


def _read_or_refuse(data: bytes, settings: Settings) -> None:
    """A whole picture, or a refusal; any other exception fails the test."""
    with contextlib.suppress(RequestError):
        picture = picture_from(data, settings)
        assert picture.width * picture.height <= settings.max_pixels


def test_files_that_are_too_long_are_refused_before_they_are_unpacked(settings: Settings) -> None:
    with pytest.raises(RequestError, match="has 5000004 bytes; at most 4194304"):
        file_from(b"\x89PNG" + b"\0" * 5_000_000, settings)
    with pytest.raises(RequestError, match="at most 4194304 bytes"):
        file_from(text(b"\0" * 5_000_000), settings)


def test_base64_of_mail_and_of_addresses_is_read(settings: Settings) -> None:
    data = encoded(noise())
    assert file_from(base64.encodebytes(data).decode(), settings) == data
    assert file_from(base64.urlsafe_b64encode(data).decode().rstrip("="), settings) == data


def test_a_request_holds_hashes_alone(server: Any) -> None:
    picture, mask = noise(), noise("L")
    fields = {"prompt": "a fox", "image": text(encoded(picture)), "mask": text(encoded(mask)), "strength": 0.5}
    request = request_from(fields, server)
    assert request.image == InputPicture(path=None, sha256=pixel_hash(picture))
    assert request.mask == InputPicture(path=None, sha256=pixel_hash(mask))
    assert server.store.inputs.image(pixel_hash(picture)).tobytes() == picture.tobytes()
    again = request_from({"prompt": "a fox", "image": {"sha256": pixel_hash(picture)}}, server)
    assert again.image is not None
    assert again.image.sha256 == pixel_hash(picture)
    box = request_from({"prompt": "a", "image": text(encoded(picture)), "mask": [1, 2, 3, 4]}, server)
    assert box.mask == MaskBox(1, 2, 3, 4)


@pytest.mark.parametrize("field", ["image", "mask"])
@pytest.mark.parametrize(
    "value",
    [
        "secret.png", "./secret.png", {"path": "secret.png"}, {"path": "secret.png", "sha256": "0" * 64},
        {"sha256": "../" * 21 + "a"}, {"sha256": "A" * 64}, {"sha256": 7}, {"sha256": None}, {}, {"sha256": "0" * 64},
        {"sha256": "0" * 63 + "\n"}, 7, True, ["secret.png"], [], {"url": "http://127.0.0.1"}, "__SECRET__",
        "file://__SECRET__",
    ],
)  # fmt: skip
def test_no_path_reaches_the_file_system(
    field: str, value: Any, server: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    secret = tmp_path / "elsewhere" / "secret.png"
    secret.parent.mkdir()
    noise().save(secret)
    monkeypatch.chdir(secret.parent)
    opened: list[Any] = []
    monkeypatch.setattr("wordbrush.inputs.open_picture", lambda path: opened.append(path) or noise())
    if isinstance(value, str):
        value = value.replace("__SECRET__", str(secret))
    fields = {"prompt": "a fox", "image": text(encoded(noise())), field: value}
    with pytest.raises(RequestError):
        request_from(fields, server)
    assert opened == []


def test_an_input_picture_object_with_a_path_is_no_way_in(server: Any, tmp_path: Path) -> None:
    noise().save(tmp_path / "secret.png")
    with pytest.raises(RequestError, match="cannot be named"):
        input_from(InputPicture(path=str(tmp_path / "secret.png"), sha256=None), server)
    taken = InputPicture(path=str(tmp_path / "secret.png"), sha256=None, picture=noise())
    assert input_from(taken, server).path is None


@pytest.mark.parametrize(
    "shape",
    [[1, 1, 10**9, 10**9], [1, 4, 4096, 4097], [10**400, 1, 1, 1], [1.0, 1, 1, 1], [True, 1, 1, 1], "x", None, [-1, 1]],
)
def test_noise_that_unpacks_to_too_much_is_refused(shape: Any, server: Any) -> None:
    bomb = base64.b64encode(zlib.compress(b"\0" * 10**7)).decode()
    tracemalloc.start()
    try:
        with pytest.raises(RequestError, match="latents"):
            request_from({"prompt": "a", "latents": {"shape": shape, "float32": bomb}}, server)
        assert tracemalloc.get_traced_memory()[1] < 2 * 1024**2
    finally:
        tracemalloc.stop()


def test_noise_of_a_usual_size_is_taken(server: Any) -> None:
    given = InputNoise.parse(np.ones((1, 4, 16, 16), np.float32))
    assert request_from({"prompt": "a", "latents": given.to_json()}, server).latents == given
