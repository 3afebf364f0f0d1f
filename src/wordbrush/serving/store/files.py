"""Picture files, named by what is in them and written whole or not at all.

    pictures/ab/abcdef….png   finished pictures, by the SHA-256 of the file
    inputs/ab/abcdef….png     pictures that clients gave, by the SHA-256 of their pixels

Nothing but 64 hex digits ever becomes part of a path. Neither class needs the database, so that workers use them too.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import re
import secrets
import time
from collections.abc import Iterator
from io import BytesIO
from pathlib import Path
from typing import TYPE_CHECKING

from wordbrush.errors import RequestError
from wordbrush.inputs import InputPicture
from wordbrush.metadata import write_whole
from wordbrush.pictures import as_rgb, open_picture, pixel_hash, unpack_picture

if TYPE_CHECKING:
    from PIL import Image

_HASH = re.compile(r"[0-9a-f]{64}")

# What a PNG gives back just as it was; palettes and what is transparent by a colour are spelled out before.
_KEPT_MODES = ("1", "L", "LA", "RGB", "RGBA", "I;16")


class _Folder:
    """Files by hash, in 256 folders."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def place(self, sha256: str) -> Path | None:
        """Where a file of that hash is, or would be; None for what is no hash."""
        if not isinstance(sha256, str) or _HASH.fullmatch(sha256) is None:
            return None
        return self.folder / sha256[:2] / f"{sha256}.png"

    def path(self, sha256: str) -> Path | None:
        """The file of that hash, if there is one."""
        place = self.place(sha256)
        return place if place is not None and place.is_file() else None

    def all(self) -> Iterator[tuple[str, os.stat_result]]:
        """Every file's hash, size and time."""
        with contextlib.suppress(FileNotFoundError):
            for part in sorted(self.folder.iterdir()):
                if not part.is_dir():
                    continue
                for entry in os.scandir(part):
                    name, kind = os.path.splitext(entry.name)
                    if kind == ".png" and _HASH.fullmatch(name):
                        with contextlib.suppress(FileNotFoundError):
                            yield name, entry.stat()

    def remove(self, sha256: str, *, older_than: float | None = None) -> bool:
        """Deletes a file, but not one that was written at `older_than` (seconds since 1970) or later.

        It is moved aside before its time is read, so that one which is written at this very moment is never lost.
        Returns whether it was deleted.
        """
        place = self.place(sha256)
        if place is None:
            return False
        aside = place.with_name(f".removed-{secrets.token_hex(8)}")
        try:
            os.rename(place, aside)
            if older_than is not None and aside.stat().st_mtime >= older_than:
                os.replace(aside, place)  # over what may have come meanwhile: it has the same content
                return False
            aside.unlink()
        except FileNotFoundError:
            return False
        return True

    def remove_rests(self, seconds: float) -> None:
        """Deletes what writers that were killed left behind, if it is older than `seconds`."""
        limit = time.time() - seconds
        for part in self.folder.glob("*/.*"):
            with contextlib.suppress(OSError):
                if part.stat().st_mtime < limit:
                    part.unlink()


class PictureFiles(_Folder):
    """Finished pictures.

    Args:
        data_folder: the server's data folder (`settings.data`).
    """

    def __init__(self, data_folder: Path | str) -> None:
        super().__init__(Path(data_folder) / "pictures")
        self._inputs = _Folder(Path(data_folder) / "inputs")

    def add(self, png: bytes) -> str:
        """Keeps a PNG file and returns its SHA-256; one that is there already is written again, so that it is fresh.

        It can be asked for as an input by the SHA-256 of its pixels as well. Raises `WorkFailed` when the disk is full.
        """
        sha256 = hashlib.sha256(png).hexdigest()
        place = self.place(sha256)
        assert place is not None
        write_whole(place, png)
        self._link(place, png)
        return sha256

    def read(self, sha256: str) -> bytes:
        """The PNG file. Raises `RequestError` when there is none of that hash."""
        path = self.path(sha256)
        if path is None:
            raise RequestError(f"there is no picture with the sha256 {sha256[:64]!r}")
        return path.read_bytes()

    def pixels(self, sha256: str) -> str | None:
        """The SHA-256 of a picture's pixels, its second name; None when it is not there."""
        with contextlib.suppress(RequestError):
            path = self.path(sha256)
            return None if path is None else pixel_hash(open_picture(path))
        return None

    def _link(self, path: Path, png: bytes) -> None:
        """Gives the file its second name, by its pixels."""
        second = self._inputs.place(pixel_hash(unpack_picture(png, "the picture")))
        assert second is not None
        second.parent.mkdir(parents=True, exist_ok=True)
        try:
            os.link(path, second)
        except FileExistsError:
            return
        except OSError:  # a file system without hard links, or the file is being looked at by `remove`
            write_whole(second, png)


class InputFiles(_Folder):
    """Pictures that clients gave to start from.

    Args:
        data_folder: the server's data folder (`settings.data`).
    """

    def __init__(self, data_folder: Path | str) -> None:
        super().__init__(Path(data_folder) / "inputs")
        self._pictures = _Folder(Path(data_folder) / "pictures")

    def put(self, image: Image.Image) -> InputPicture:
        """Keeps a picture, its pixels alone, and returns what a request names it by.

        Raises:
            RequestError: its pixels cannot be kept in a PNG (floating point).
            WorkFailed: the disk is full.
        """
        kept = _keepable(image)
        sha256 = pixel_hash(kept)
        place = self.place(sha256)
        assert place is not None
        try:
            os.utime(place)  # there already; it counts as new, so that it is not swept before the job is in
        except FileNotFoundError:
            buffer = BytesIO()
            kept.save(buffer, format="PNG", compress_level=3)
            write_whole(place, buffer.getvalue())
        return InputPicture(path=None, sha256=sha256)

    def has(self, sha256: str) -> bool:
        """Whether there is an input picture of that pixel hash, or a finished picture of that file or pixel hash.

        An input counts as new from then on, so that it is not swept before the job that asks for it is in.
        """
        place = self.place(sha256)
        if place is None:
            return False
        with contextlib.suppress(OSError):
            os.utime(place)
        return place.is_file() or self._pictures.path(sha256) is not None

    def image(self, sha256: str) -> Image.Image:
        """The picture. Raises `RequestError` when there is none of that hash."""
        for folder in (self, self._pictures):
            path = folder.path(sha256)
            if path is not None:
                return open_picture(path)
        raise RequestError(f"there is no picture with the sha256 {sha256[:64]!r}; send the picture itself")


def _keepable(image: Image.Image) -> Image.Image:
    """The same picture in a mode that PNG keeps, without what else its file said."""
    if image.mode in ("P", "PA") or (image.mode in ("RGB", "L", "1") and "transparency" in image.info):
        image = image.convert("RGBA" if image.has_transparency_data else "RGB")
    elif image.mode in ("I", "I;16B", "I;16L", "I;16N"):
        from PIL import Image

        image = Image.frombytes("I;16", image.size, _sixteen_bits(image))
    elif image.mode == "La":  # Pillow knows no other way
        image = image.convert("LA")
    elif image.mode not in _KEPT_MODES:
        image = image.convert("RGBA") if image.has_transparency_data else as_rgb(image)
    kept = image.copy()
    kept.info = {}
    return kept


def _sixteen_bits(image: Image.Image) -> bytes:
    import numpy as np

    return np.asarray(image).astype(np.int64).clip(0, 65535).astype("<u2").tobytes()
