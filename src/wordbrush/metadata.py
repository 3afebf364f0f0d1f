"""PNG files that carry the request which painted them, written whole or not at all.

A file has two text chunks: `parameters`, which the tools of this field read, and `wordbrush`, a JSON object with the
full request, the version and the hash of the model's weights, from which `wordbrush replay` paints the picture again.
"""

from __future__ import annotations

import contextlib
import json
import os
import secrets
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, fields
from io import BytesIO
from pathlib import Path
from typing import TYPE_CHECKING

from wordbrush.errors import RequestError, WorkFailed
from wordbrush.infotext import read_infotext
from wordbrush.pictures import open_picture
from wordbrush.request import GenerationRequest

if TYPE_CHECKING:
    from PIL import Image

CHUNK = "wordbrush"


@dataclass(frozen=True, kw_only=True)
class Origin:
    """What decides a picture's pixels beside its request; None where it is not known.

    Attributes:
        version: of Wordbrush.
        model_hash: first ten hex digits of the SHA-256 over the model's file, or over the weight files of the network
            that denoises in a folder.
        dtype: the number format the networks ran in, which decides the last bits.
        lora_hashes: "name: hash, name: hash …", the web UI's hashes of the LoRAs.
    """

    version: str | None = None
    model_hash: str | None = None
    dtype: str | None = None
    lora_hashes: str | None = None


@dataclass(frozen=True, kw_only=True)
class PictureMetadata:
    """What a saved picture says of itself.

    Attributes:
        ignored: settings of another program that have no meaning here.
    """

    request: GenerationRequest
    origin: Origin = Origin()
    ignored: dict[str, str] | None = None


def png_bytes(image: Image.Image, metadata: PictureMetadata) -> bytes:
    """The PNG file of a picture and its metadata."""
    from PIL.PngImagePlugin import PngInfo

    extras = {
        "Model hash": metadata.origin.model_hash,
        "Lora hashes": metadata.origin.lora_hashes,
        "Version": None if metadata.origin.version is None else f"wordbrush {metadata.origin.version}",
    }
    infotext = metadata.request.to_infotext({key: value for key, value in extras.items() if value is not None})
    record = {**asdict(metadata.origin), "request": metadata.request.to_dict()}
    info = PngInfo()
    info.add_text("parameters", infotext)
    info.add_text(CHUNK, json.dumps(record, ensure_ascii=True))
    buffer = BytesIO()
    image.save(buffer, format="PNG", pnginfo=info)
    return buffer.getvalue()


def read_metadata(path: str | Path) -> PictureMetadata:
    """The request inside a picture file; see `metadata_of`. Raises `RequestError`."""
    texts = {str(key): value for key, value in open_picture(path).info.items() if isinstance(value, str)}
    return metadata_of(texts, str(path))


def metadata_of(texts: Mapping[str, str], name: str) -> PictureMetadata:
    """The request inside a picture's text chunks: our own record when there is one, else the `parameters` text.

    name: how messages name the picture.

    Raises:
        RequestError: there is neither, or it is damaged.
    """
    if CHUNK in texts:
        return _own_record(name, texts[CHUNK])
    if "parameters" in texts:
        understood = read_infotext(texts["parameters"])
        hashes = {key: understood.provenance.get(key) for key in ("Model hash", "Lora hashes")}
        origin = Origin(model_hash=hashes["Model hash"], lora_hashes=hashes["Lora hashes"])
        request = GenerationRequest.from_dict(understood.fields)
        return PictureMetadata(request=request, origin=origin, ignored=understood.ignored)
    raise RequestError(f"{name!r} carries no request; only pictures saved with their settings can be replayed")


def _own_record(name: str, text: str) -> PictureMetadata:
    try:
        record = json.loads(text)
        request = record["request"]
        origin = {field.name: record.get(field.name) for field in fields(Origin)}
        if not isinstance(request, dict) or not all(isinstance(value, str | None) for value in origin.values()):
            raise ValueError("a field has the wrong type")
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise RequestError(f"the request inside {name!r} is damaged: {error}") from error
    return PictureMetadata(request=GenerationRequest.from_dict(request), origin=Origin(**origin))


def write_whole(path: Path, data: bytes) -> Path:
    """Writes a file so that it appears complete or not at all, replacing one of that name. Raises `WorkFailed`."""
    return _write(path, data, os.replace)


def write_new(path: Path, data: bytes) -> Path:
    """Like `write_whole`, but an existing file is left alone and a number is added to the name.

    Returns the path that was written.
    """
    candidate, number = path, 1
    while True:
        try:
            return _write(candidate, data, _link)
        except FileExistsError:
            number += 1
            candidate = path.with_name(f"{path.stem}-{number}{path.suffix}")


def _write(path: Path, data: bytes, settle: Callable[[Path, Path], None]) -> Path:
    temporary = path.with_name(f".wordbrush-{secrets.token_hex(8)}.part")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with temporary.open("xb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        settle(temporary, path)
        return path
    except FileExistsError:
        if settle is _link and path.exists() and path.parent.is_dir():
            raise
        raise WorkFailed(f"cannot write {str(path)!r}: a file stands where a folder is needed") from None
    except OSError as error:
        raise WorkFailed(f"cannot write {str(path)!r}: {error.strerror or error}") from error
    finally:
        with contextlib.suppress(OSError):
            temporary.unlink()


def _link(temporary: Path, path: Path) -> None:
    """Gives the finished file its name unless that name is taken (`FileExistsError`)."""
    try:
        os.link(temporary, path)
    except FileExistsError:
        raise
    except OSError:  # a file system without hard links: the check and the rename are then two steps
        if path.exists():
            raise FileExistsError(str(path)) from None
        os.replace(temporary, path)
