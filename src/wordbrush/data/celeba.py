"""CelebA (Liu 2015): aligned pictures of faces and forty yes-or-no attributes, put into words.

img_align_celeba/000001.jpg ...
list_attr_celeba.txt       the number of pictures; the attributes' names; a line a picture of 1 and -1
list_eval_partition.txt    a line a picture: 0 train, 1 valid, 2 test
"""

from __future__ import annotations

import random
from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np

from wordbrush.data.dataset import FileDataset, Refusing
from wordbrush.errors import RequestError

# In the order in which captions tell them: who it is, the face, the hair, what is worn, the picture.
PHRASES: dict[str, str] = {
    "Male": "male", "Young": "young", "Attractive": "attractive", "Chubby": "chubby", "Pale_Skin": "pale skin",
    "Oval_Face": "oval face", "High_Cheekbones": "high cheekbones", "Rosy_Cheeks": "rosy cheeks",
    "Double_Chin": "double chin", "Smiling": "smiling", "Mouth_Slightly_Open": "mouth slightly open",
    "Big_Lips": "big lips", "Big_Nose": "big nose", "Pointy_Nose": "pointy nose", "Narrow_Eyes": "narrow eyes",
    "Bags_Under_Eyes": "bags under the eyes", "Arched_Eyebrows": "arched eyebrows", "Bushy_Eyebrows": "bushy eyebrows",
    "No_Beard": "no beard", "5_o_Clock_Shadow": "five o'clock shadow", "Goatee": "goatee", "Mustache": "mustache",
    "Sideburns": "sideburns", "Bald": "bald", "Receding_Hairline": "receding hairline", "Bangs": "bangs",
    "Black_Hair": "black hair", "Blond_Hair": "blond hair", "Brown_Hair": "brown hair", "Gray_Hair": "gray hair",
    "Straight_Hair": "straight hair", "Wavy_Hair": "wavy hair", "Heavy_Makeup": "wearing heavy makeup",
    "Wearing_Lipstick": "wearing lipstick", "Wearing_Earrings": "wearing earrings",
    "Wearing_Necklace": "wearing necklace", "Wearing_Necktie": "wearing necktie", "Wearing_Hat": "wearing hat",
    "Eyeglasses": "wearing eyeglasses", "Blurry": "blurry",
}  # fmt: skip
# What three of them say by their absence.
_ABSENT = {"Male": "female", "Young": "old", "No_Beard": "beard"}

Split = Literal["train", "valid", "test", "all"]
_PARTS = {"train": "0", "valid": "1", "test": "2"}


@dataclass(frozen=True, kw_only=True)
class FaceCaptions:
    """How attributes become words.

    Attributes:
        start: how captions begin.
        tell: part of the attributes that a caption tells.
        absent: tell too what the absence of three attributes says: female, old, beard.
    """

    start: str = "Photo of a person"
    tell: float = 1.0
    absent: bool = False

    def worded(self, attributes: Collection[str], draw: random.Random | None) -> str:
        """ "Photo of a person, young, smiling, wearing hat": the attributes of a face, in the order of `PHRASES`."""
        phrases = [
            phrase if name in attributes else _ABSENT[name]
            for name, phrase in PHRASES.items()
            if name in attributes or (self.absent and name in _ABSENT)
        ]
        if draw is not None and self.tell < 1:
            phrases = [phrase for phrase in phrases if draw.random() < self.tell]
        return ", ".join([self.start, *phrases])


class CelebADataset(Refusing, FileDataset):
    """Faces with captions, in the order of list_attr_celeba.txt."""

    def __init__(
        self, folder: Path, split: Split = "train", captions: FaceCaptions | None = None, *, skip_bad: bool = False
    ) -> None:
        """
        Raises:
            RequestError: one of the files is missing or damaged, or a picture is not there.
        """
        super().__init__(skip_bad=skip_bad)
        self.captions = captions or FaceCaptions()
        self.pictures = folder / "img_align_celeba"
        if not folder.is_dir():
            raise RequestError(f"there is no folder {str(folder)!r} of CelebA's files")
        if not self.pictures.is_dir():
            raise RequestError(f"{str(folder)!r} is not CelebA: it has no folder img_align_celeba of pictures")
        nested = self.pictures / "img_align_celeba"  # as one popular archive unpacks
        self.pictures = nested if nested.is_dir() else self.pictures
        self.attributes, self.names, self.values = _attributes(folder / "list_attr_celeba.txt")
        if split != "all":
            parts = _partition(folder / "list_eval_partition.txt")
            missing = next((name for name in self.names if name not in parts), None)
            if missing is not None:
                raise RequestError(f"list_eval_partition.txt of {str(folder)!r} does not have the picture {missing!r}")
            self._keep([parts[name] == _PARTS[split] for name in self.names])
        there = [(self.pictures / name).is_file() for name in self.names]
        for name, is_there in zip(self.names, there, strict=True):
            if not is_there:
                where = str(self.pictures / name)
                self.refuse(name, f"the picture {where!r}, which list_attr_celeba.txt has, is not there")
        self._keep(there)
        if not self.names:
            raise RequestError(f"{str(folder)!r} has no pictures of the split {split!r}")

    def _keep(self, chosen: list[bool]) -> None:
        self.names = [name for name, keep in zip(self.names, chosen, strict=True) if keep]
        self.values = self.values[np.array(chosen, bool)]

    def __len__(self) -> int:
        return len(self.names)

    def path(self, index: int) -> Path:
        return self.pictures / self.names[index]

    def caption(self, index: int, draw: random.Random | None = None) -> str:
        return self.captions.worded({self.attributes[place] for place in np.flatnonzero(self.values[index])}, draw)

    def key(self, index: int) -> str:
        return self.names[index]


def _lines(file: Path) -> list[str]:
    try:
        return file.read_text(encoding="utf-8-sig").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "it is not text"
        raise RequestError(f"CelebA's file {str(file)!r} cannot be read: {reason}") from error


def _attributes(file: Path) -> tuple[list[str], list[str], np.ndarray]:
    """Names of the attributes, of the pictures, and (pictures, attributes) of whether they have them."""
    lines = [line for line in _lines(file) if line.strip()]
    if len(lines) < 2 or not lines[0].strip().isdecimal():
        raise RequestError(f"{str(file)!r} does not begin with a number of pictures and the attributes' names")
    attributes = lines[1].split()
    unknown = [name for name in attributes if name not in PHRASES]
    if unknown:
        raise RequestError(f"{str(file)!r} has the attribute {unknown[0]!r}, which is none of CelebA's forty")
    if len(lines) - 2 != int(lines[0]):
        raise RequestError(f"{str(file)!r} says it has {lines[0].strip()} pictures, but has {len(lines) - 2}")
    names: list[str] = []
    values = np.empty((len(lines) - 2, len(attributes)), bool)
    for row, line in enumerate(lines[2:]):
        name, *numbers = line.split()
        if len(numbers) != len(attributes) or not set(numbers) <= {"1", "-1", "0"}:
            raise RequestError(f"line {row + 3} of {str(file)!r} does not have {len(attributes)} numbers 1 or -1")
        names.append(name)
        values[row] = [number == "1" for number in numbers]
    return attributes, names, values


def _partition(file: Path) -> dict[str, str]:
    parts: dict[str, str] = {}
    for number, line in enumerate(_lines(file), 1):
        if line.strip():
            words = line.split()
            if len(words) != 2 or words[1] not in _PARTS.values():
                raise RequestError(f"line {number} of {str(file)!r} is not a picture's name and 0, 1 or 2")
            parts[words[0]] = words[1]
    return parts
