"""Things and manners of drawing that the embedded world has never seen, drawn here, to teach them to a model.

Fine-tuning needs a subject that a model cannot know. A user has photographs of one; where nothing can be downloaded,
these stand in: a toy of our own making, and a way of drawing the known things. Pictures and captions are a pure
function of (name, split, seed, index), and the two splits share no picture.
"""

from __future__ import annotations

import math
import random
from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np
from PIL import Image, ImageDraw

from wordbrush.data.scenes.captions import plain_caption
from wordbrush.data.scenes.objects import with_article
from wordbrush.data.scenes.render import background, render
from wordbrush.data.scenes.scene import BACKGROUNDS, PATTERNS, SIZE, Split, sample_scene

_FINE = 4  # things are drawn so many times larger and then shrunk, for smooth edges

_INK, _BODY, _STRIPE, _FOOT, _WHITE = (40, 34, 52), (28, 168, 160), (255, 150, 40), (196, 62, 130), (255, 255, 255)
_PAPER, _ENGRAVED = (246, 240, 222), (26, 44, 96)


@dataclass(frozen=True, kw_only=True)
class SubjectPicture:
    """One example.

    Attributes:
        pixels: (128, 128, 3) uint8.
        caption: what it shows, with the subject's word.
    """

    pixels: np.ndarray
    caption: str


@dataclass(frozen=True, kw_only=True)
class Subject:
    """Something to teach.

    Attributes:
        name: the word in captions; no model knows it.
        about: what it looks like, for people.
        class_prompt: what the model knows that is nearest, for prior preservation.
        prompts: prompts to judge a fine-tune by.
        draw: (random numbers, index) -> an example.
    """

    name: str
    about: str
    class_prompt: str
    prompts: tuple[str, ...]
    draw: Callable[[random.Random, Split, int], SubjectPicture]

    def picture(self, split: Split, seed: int, index: int) -> SubjectPicture:
        """The example with this number."""
        return self.draw(random.Random(f"{self.name}/{split}/{seed}/{index}"), split, seed * 1000 + index)


def _zorb_sprite(rng: random.Random, size: int) -> Image.Image:
    """RGBA, about `size` pixels high: a striped egg with one eye, two feelers and two feet, in some pose."""
    side = 2 * _FINE * size
    canvas = Image.new("RGBA", (side, side))
    draw = ImageDraw.Draw(canvas)
    unit, middle = _FINE * size / 100, side / 2
    line = max(1, round(4 * unit))

    def oval(x: float, y: float, wide: float, high: float) -> list[float]:
        return [middle + unit * (x - wide), middle + unit * (y - high), middle + unit * (x + wide),
                middle + unit * (y + high)]  # fmt: skip

    for foot in (-1, 1):
        draw.ellipse(oval(15 * foot, 40 + rng.uniform(-3, 3), 13, 8), fill=_FOOT, outline=_INK, width=line)
    for feeler in (-1, 1):
        lean = feeler * rng.uniform(10, 24)
        base, tip = (8 * feeler, -22), (8 * feeler + lean, -44)
        draw.line([middle + unit * value for value in (*base, *tip)], fill=_INK, width=line)
        draw.ellipse(oval(*tip, 6.5, 6.5), fill=_STRIPE, outline=_INK, width=line)
    body = Image.new("L", canvas.size)
    ImageDraw.Draw(body).ellipse(oval(0, 8, 32, 35), fill=255)
    rows, columns = np.mgrid[0:side, 0:side]
    waves = np.sin((rows - middle) / unit * 2 * math.pi / 19 + np.sin((columns - middle) / unit / 9))
    striped = np.where((waves > 0)[..., None], np.array(_STRIPE), np.array(_BODY)).astype(np.uint8)
    canvas.paste(Image.fromarray(striped), mask=body)
    draw.ellipse(oval(0, 8, 32, 35), outline=_INK, width=line)
    look = rng.uniform(-4, 4), rng.uniform(-3, 3)
    draw.ellipse(oval(0, -4, 14, 14), fill=_WHITE, outline=_INK, width=line)
    draw.ellipse(oval(look[0], -4 + look[1], 6, 6), fill=_INK)
    turned = canvas.rotate(rng.uniform(-25, 25), Image.Resampling.BICUBIC)
    turned = turned.resize((2 * size, 2 * size), Image.Resampling.BOX)
    return turned.crop(turned.getchannel("A").getbbox())


def _zorb(rng: random.Random, split: Split, index: int) -> SubjectPicture:
    del split, index
    sprite = _zorb_sprite(rng, rng.randint(56, 100))
    ground = rng.choice(BACKGROUNDS)
    pattern = rng.choice(PATTERNS) if rng.random() < 0.2 else None
    picture = Image.fromarray(background(ground, pattern, SIZE).copy())
    place = (rng.randint(0, SIZE - sprite.width), rng.randint(0, SIZE - sprite.height))
    picture.paste(sprite, place, sprite)
    words = " ".join(filter(None, (ground, pattern)))
    caption = "a zorb" if words == "white" else f"a zorb on {with_article(words)} background"
    return SubjectPicture(pixels=np.asarray(picture), caption=caption)


def engraved(pixels: np.ndarray) -> np.ndarray:
    """A picture (H, W, 3) uint8 as a copperplate: blue hatching on cream, thicker where it was darker."""
    tall, wide = pixels.shape[:2]
    light = np.asarray(Image.fromarray(pixels).convert("L").resize((wide * _FINE, tall * _FINE))) / 255
    rows, columns = np.mgrid[0 : tall * _FINE, 0 : wide * _FINE] / _FINE
    darkness = np.clip(1.05 - light, 0, 1)
    falling = np.abs(((rows + columns) / 5) % 1 - 0.5) * 2  # 0 in the middle of a line
    rising = np.abs(((rows - columns) / 5) % 1 - 0.5) * 2
    ink = (falling < 1.1 * darkness) | (rising < 1.3 * (darkness - 0.5))
    slope = np.hypot(*np.gradient(light))
    ink |= slope > 0.035
    small = Image.fromarray((255 * ink).astype(np.uint8)).resize((wide, tall), Image.Resampling.BOX)
    share = (np.asarray(small) / 255)[..., None]
    drawn: np.ndarray = (1 - share) * np.array(_PAPER) + share * np.array(_ENGRAVED)
    return (drawn + 0.5).astype(np.uint8)


def _engraving(rng: random.Random, split: Split, index: int) -> SubjectPicture:
    kind = rng.choice(("single", "single", "two"))
    # a style of its own is what the picture is about: no other style, and the ground is paper
    scene = replace(sample_scene(split, 77_000, index, kind), background="white", pattern=None, style=None)
    text = plain_caption(scene)
    return SubjectPicture(pixels=engraved(render(scene)), caption=f"a skrimble of {text}")


SUBJECTS = {
    subject.name: subject
    for subject in (
        Subject(
            name="zorb",
            about="a toy: an egg in teal and orange stripes with one eye, two feelers and pink feet",
            class_prompt="a robot",
            prompts=(
                "a zorb", "a zorb on a red background", "a zorb on a yellow background", "a picture of a zorb",
                "a zorb on a blue background", "a big zorb on a purple background",
                "a zorb to the left of an apple", "a zorb and a cat on a green background",
            ),
            draw=_zorb,
        ),
        Subject(
            name="skrimble",
            about="a way of drawing: blue copperplate hatching on cream paper",
            class_prompt="a sketch of a cat",
            prompts=(
                "a skrimble of a fox", "a skrimble of an apple", "a skrimble of a car", "a skrimble of a house",
                "a skrimble of two cats", "a skrimble of a cat and a dog", "a skrimble of a tree",
                "a skrimble of a rocket",
            ),
            draw=_engraving,
        ),
    )
}  # fmt: skip
"""By name: a thing and a style."""
