"""Faces of the glyph pack with CelebA's attributes: what recipes for CelebA are tried on where there is no CelebA.

A face on a plain ground, 178 by 218 like an aligned picture, is a pure function of (seed, number).
"""

from __future__ import annotations

import random
from functools import cache

import numpy as np
from PIL import Image, ImageFilter

from wordbrush.data.celeba import FaceCaptions
from wordbrush.data.dataset import Dataset
from wordbrush.data.scenes.glyphs import glyph, glyph_names
from wordbrush.data.scenes.render import BACKGROUND_RGB

WIDTH, HEIGHT = 178, 218
_BLURRED = 0.06

# What the pictures show; the smileys have neither age nor sex.
FACES: dict[str, str] = {
    "grinning face": "Smiling Mouth_Slightly_Open",
    "grinning face with big eyes": "Smiling Mouth_Slightly_Open",
    "beaming face with smiling eyes": "Smiling Mouth_Slightly_Open Narrow_Eyes",
    "slightly smiling face": "Smiling",
    "smiling face with smiling eyes": "Smiling Rosy_Cheeks Narrow_Eyes",
    "smiling face": "Smiling Rosy_Cheeks Arched_Eyebrows",
    "smiling face with sunglasses": "Smiling Eyeglasses",
    "nerd face": "Smiling Mouth_Slightly_Open Eyeglasses",
    "disguised face": "Eyeglasses Mustache Bushy_Eyebrows Big_Nose",
    "cowboy hat face": "Smiling Mouth_Slightly_Open Wearing_Hat",
    "partying face": "Wearing_Hat Rosy_Cheeks",
    "flushed face": "Rosy_Cheeks Arched_Eyebrows",
    "face with open mouth": "Mouth_Slightly_Open",
    "hushed face": "Mouth_Slightly_Open Arched_Eyebrows",
    "frowning face": "",
    "neutral face": "",
    "angry face": "Bushy_Eyebrows",
    "unamused face": "Narrow_Eyes",
    "boy": "Male Young Smiling Brown_Hair Straight_Hair Bangs",
    "girl": "Young Smiling Brown_Hair Straight_Hair",
    "child": "Young Smiling Brown_Hair Straight_Hair Bangs",
    "man": "Male Smiling Brown_Hair Straight_Hair",
    "woman": "Smiling Brown_Hair Straight_Hair",
    "person": "Smiling Brown_Hair Wavy_Hair",
    "person: blond hair": "Smiling Blond_Hair Wavy_Hair",
    "person: beard": "Male Smiling Brown_Hair Wavy_Hair",
    "person frowning": "Brown_Hair Wavy_Hair Arched_Eyebrows",
    "person in tuxedo": "Smiling Brown_Hair Wavy_Hair Wearing_Necktie",
    "old man": "Male Smiling Gray_Hair Receding_Hairline",
    "old woman": "Smiling Gray_Hair Straight_Hair",
    "older person": "Smiling Gray_Hair Wavy_Hair",
    "baby": "Young Smiling Bald Chubby",
    "police officer": "Smiling Brown_Hair Wearing_Hat",
    "construction worker": "Smiling Brown_Hair Wearing_Hat",
    "person with skullcap": "Smiling Brown_Hair Wearing_Hat",
    "Mrs. Claus": "Smiling Gray_Hair Eyeglasses Wearing_Hat",
    "Santa Claus": "Male Smiling Gray_Hair Mustache Wearing_Hat",
}
_BEARDED = {"person: beard", "Santa Claus"}


@cache
def _emoji() -> dict[str, str]:
    return {str(entry["name"]): emoji for emoji, entry in glyph_names().items()}


class FaceDataset(Dataset):
    """So many faces, captioned as CelebA's are."""

    def __init__(self, count: int, seed: int = 0) -> None:
        self.count, self.seed = count, seed
        self.captions = FaceCaptions()

    def __len__(self) -> int:
        return self.count

    @property
    def common_size(self) -> tuple[int, int]:
        return WIDTH, HEIGHT

    def _drawn(self, index: int) -> tuple[random.Random, str, bool]:
        """The face's random numbers, its name, and whether it is blurred."""
        draw = random.Random(f"face/{self.seed}/{index}")
        return draw, draw.choice(tuple(FACES)), draw.random() < _BLURRED

    def attributes(self, index: int) -> set[str]:
        """Those of CelebA's attributes that the face has."""
        _, name, blurred = self._drawn(index)
        found = set(FACES[name].split()) | ({"Blurry"} if blurred else set())
        return found if name in _BEARDED else found | {"No_Beard"}

    def image(self, index: int) -> np.ndarray:
        draw, name, blurred = self._drawn(index)
        face = glyph(_emoji()[name])
        side = draw.randint(110, 150)
        scale = side / max(face.size)
        face = face.resize((round(face.width * scale), round(face.height * scale)), Image.Resampling.LANCZOS)
        if draw.random() < 0.5:
            face = face.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
        ground = draw.choice([colour for name, colour in BACKGROUND_RGB.items() if name != "yellow"])
        picture = Image.new("RGB", (WIDTH, HEIGHT), ground)
        left = (WIDTH - face.width) // 2 + draw.randint(-8, 8)
        top = (HEIGHT - face.height) // 2 + draw.randint(-14, 14)
        picture.paste(face, (left, top), face)
        return np.asarray(picture.filter(ImageFilter.GaussianBlur(4)) if blurred else picture)

    def caption(self, index: int, draw: random.Random | None = None) -> str:
        return self.captions.worded(self.attributes(index), draw)

    def key(self, index: int) -> str:
        return f"face/{self.seed}/{index}"

    def digest(self, index: int) -> str:
        return self.key(index)

    def size(self, index: int) -> tuple[int, int]:
        return WIDTH, HEIGHT
