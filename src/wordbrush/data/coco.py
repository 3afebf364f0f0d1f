"""COCO captions (Chen 2015): a folder of pictures and one JSON file with several captions a picture."""

from __future__ import annotations

import json
import random
from pathlib import Path
from typing import Any

from wordbrush.data.dataset import FileDataset, Refusing
from wordbrush.errors import RequestError


class CocoDataset(Refusing, FileDataset):
    """Pictures in the order of their ids; a caption is drawn of each picture's several."""

    def __init__(self, pictures: Path, annotations: Path, *, skip_bad: bool = False) -> None:
        """
        Raises:
            RequestError: the JSON file is not that of COCO captions, or a picture is missing or has no caption.
        """
        super().__init__(skip_bad=skip_bad)
        self.pictures = pictures
        if not pictures.is_dir():
            raise RequestError(f"there is no folder {str(pictures)!r} of COCO's pictures")
        table = _table(annotations)
        captions = _captions(table, annotations)
        self.entries: list[tuple[str, tuple[str, ...]]] = []
        for number, name in sorted(_names(table, annotations).items()):
            told = captions.pop(number, ())
            if not told:
                self.refuse(name, f"the picture {name!r} has no caption in {str(annotations)!r}")
            elif not (pictures / name).is_file():
                self.refuse(name, f"the picture {str(pictures / name)!r}, which has captions, is not there")
            else:
                self.entries.append((name, told))
        if captions:
            stray = min(captions)
            raise RequestError(f"{str(annotations)!r} has captions of the image {stray}, which is not in its images")
        if not self.entries:
            raise RequestError(f"{str(annotations)!r} has no picture that can be used")

    def __len__(self) -> int:
        return len(self.entries)

    def path(self, index: int) -> Path:
        return self.pictures / self.entries[index][0]

    def caption(self, index: int, draw: random.Random | None = None) -> str:
        captions = self.entries[index][1]
        return captions[0] if draw is None else draw.choice(captions)

    def key(self, index: int) -> str:
        return self.entries[index][0]


def _table(file: Path) -> dict[str, Any]:
    try:
        table = json.loads(file.read_bytes())
    except OSError as error:
        raise RequestError(f"the annotations {str(file)!r} cannot be read: {error.strerror}") from error
    except ValueError as error:
        raise RequestError(f"the annotations {str(file)!r} are not JSON: {error}") from error
    if not isinstance(table, dict):
        raise RequestError(f"the annotations {str(file)!r} are no table with images and annotations")
    return table


def _rows(table: dict[str, Any], key: str, file: Path) -> list[dict[str, Any]]:
    rows = table.get(key)
    if not isinstance(rows, list) or not all(isinstance(row, dict) for row in rows):
        raise RequestError(f"the annotations {str(file)!r} have no list {key!r}; captions_*.json of COCO is wanted")
    return rows


def _names(table: dict[str, Any], file: Path) -> dict[int, str]:
    """The pictures' files by their ids."""
    names: dict[int, str] = {}
    for place, row in enumerate(_rows(table, "images", file)):
        number, name = row.get("id"), row.get("file_name")
        if type(number) is not int or not isinstance(name, str):
            raise RequestError(f"images[{place}] of {str(file)!r} lacks an id or a file_name")
        if number in names:
            raise RequestError(f"images[{place}] of {str(file)!r} has the id {number} of {names[number]!r}")
        names[number] = name
    return names


def _captions(table: dict[str, Any], file: Path) -> dict[int, tuple[str, ...]]:
    """The captions by the pictures' ids, in the order of their own."""
    found: dict[int, list[tuple[int, str]]] = {}
    for place, row in enumerate(_rows(table, "annotations", file)):
        number, picture, caption = row.get("id"), row.get("image_id"), row.get("caption")
        if not isinstance(caption, str):
            raise RequestError(f"annotations[{place}] of {str(file)!r} has no caption; COCO's captions_*.json has")
        if type(number) is not int or type(picture) is not int:
            raise RequestError(f"annotations[{place}] of {str(file)!r} lacks an id or an image_id")
        found.setdefault(picture, []).append((number, " ".join(caption.split())))
    return {picture: tuple(text for _, text in sorted(told)) for picture, told in found.items()}
