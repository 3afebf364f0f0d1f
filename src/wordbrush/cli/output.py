"""Where pictures go, and what they are called."""

from __future__ import annotations

import re
import tempfile
from dataclasses import dataclass
from pathlib import Path

from wordbrush.errors import RequestError, WorkFailed
from wordbrush.metadata import write_new, write_whole

# Endings that say a file was meant; with any other, `-o` names a folder.
_PICTURE_ENDINGS = {".jpg", ".jpeg", ".webp", ".avif", ".gif", ".bmp", ".tif", ".tiff"}
_SLUG_LENGTH = 60


@dataclass(frozen=True)
class Output:
    """The value of `-o`: a `.png` file, which is replaced if it exists, or a folder, where nothing is ever replaced."""

    folder: Path
    file: Path | None

    @classmethod
    def parse(cls, text: str) -> Output:
        """Raises `RequestError` for a picture format that cannot carry a request."""
        path = Path(text).expanduser()
        if path.suffix.lower() == ".png" and not path.is_dir():
            return cls(folder=path.parent, file=path)
        if path.suffix.lower() in _PICTURE_ENDINGS and not path.is_dir():
            raise RequestError(f"-o {text!r}: pictures are saved as PNG; give a name that ends in .png, or a folder")
        return cls(folder=path, file=None)

    def check(self) -> None:
        """Writes a byte in the folder, so that one that cannot be written fails before the painting.

        A folder that is not there yet is made with the first picture; the byte goes where it will be made.

        Raises:
            WorkFailed: it cannot be written.
        """
        try:
            place = self.folder
            while not (place.exists() or place.is_symlink()):
                place = place.parent
            with tempfile.NamedTemporaryFile(dir=place, prefix=".wordbrush-", suffix=".part") as file:
                file.write(b"\0")
        except OSError as error:
            raise WorkFailed(f"cannot write to the folder {str(self.folder)!r}: {error.strerror or error}") from error

    def write_picture(self, data: bytes, prompt: str, seed: int, number: int, total: int) -> Path:
        """Saves picture `number` (from 1) of `total`; returns where."""
        if self.file is None:
            return write_new(self.folder / f"{slug(prompt)}-{seed}.png", data)
        name = self.file if total == 1 else self.file.with_name(f"{self.file.stem}-{number}{self.file.suffix}")
        return write_whole(name, data)

    def write_sheet(self, data: bytes) -> Path:
        """Saves the contact sheet; returns where."""
        if self.file is None:
            return write_new(self.folder / "contact-sheet.png", data)
        return write_whole(self.file.with_name(f"{self.file.stem}-sheet{self.file.suffix}"), data)

    def write_plot(self, data: bytes) -> Path:
        """Saves a sheet that is the result itself; returns where."""
        return write_new(self.folder / "plot.png", data) if self.file is None else write_whole(self.file, data)


def slug(prompt: str) -> str:
    """The prompt as a file name: letters and digits of any script, joined by hyphens, at most 60 characters."""
    words = re.sub(r"[\W_]+", "-", prompt.lower()).strip("-")
    short = words[:_SLUG_LENGTH].encode("utf-8")[:180].decode("utf-8", errors="ignore")
    return short.rstrip("-") or "picture"
