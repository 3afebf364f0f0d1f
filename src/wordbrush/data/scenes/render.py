"""Drawing scenes: background, sprites, style, in NumPy on one core; `wordbrush data preview` says how fast."""

from __future__ import annotations

from dataclasses import replace
from functools import lru_cache

import numpy as np
from PIL import Image

from wordbrush.data.scenes.glyphs import Sprite, draw_sprite, sprite
from wordbrush.data.scenes.scene import Scene, SceneObject

BACKGROUND_RGB: dict[str, tuple[int, int, int]] = {
    "white": (255, 255, 255),
    "black": (24, 24, 28),
    "gray": (150, 152, 156),
    "red": (214, 72, 72),
    "orange": (250, 168, 88),
    "yellow": (250, 226, 120),
    "green": (120, 196, 120),
    "blue": (112, 168, 236),
    "purple": (168, 128, 212),
    "pink": (250, 184, 208),
    "brown": (156, 112, 80),
}


@lru_cache(maxsize=256)
def background(name: str, pattern: str | None, size: int, scale: float = 1.0) -> np.ndarray:
    """(size, size, 3) uint8: a plain or patterned ground; the pattern's second tone is a shade of the first.

    scale: of the pattern, whose stripes and squares are 8 and 16 pixels wide at 1.
    """
    base = np.array(BACKGROUND_RGB[name], np.float32)
    tone = base * 0.82 if base.mean() > 60 else base + 60
    ground = np.broadcast_to(base, (size, size, 3)).copy()
    rows, columns = (np.mgrid[0:size, 0:size] + 0.5) / scale - 0.5  # the middles of pixels
    if pattern == "striped":
        ground[(np.floor(rows + columns + 1e-6) // 8) % 2 == 0] = tone
    elif pattern == "polka dot":
        ground[((rows % 16 - 7.5) ** 2 + (columns % 16 - 7.5) ** 2) < 16] = tone
    elif pattern == "checkered":
        ground[((rows + 0.5) // 16 + (columns + 0.5) // 16) % 2 == 0] = tone
    picture = ground.astype(np.uint8)
    picture.flags.writeable = False
    return picture


def box(item: SceneObject) -> tuple[int, int, int, int]:
    """Left, top, right, bottom of the drawn thing in pixels: its outline, centred in its cell."""
    return _box(item, sprite(item.kind.emoji, item.size, item.colour))


def _box(item: SceneObject, drawn: Sprite) -> tuple[int, int, int, int]:
    height, width = drawn.shape[:2]
    left, top = item.x + (item.size - width) // 2, item.y + (item.size - height) // 2
    return left, top, left + width, top + height


def render(scene: Scene, scale: float = 1.0) -> np.ndarray:
    """The picture, (size, size, 3) uint8.

    scale: how much larger than usual the scene is (see `enlarged`), for its patterns and pencil lines.
    """
    if scene.style == "sketch":
        canvas = np.full((scene.size, scene.size, 3), 255, np.float32)
    else:
        canvas = background(scene.background, scene.pattern, scene.size, scale).astype(np.float32)
    # sizes of enlarged scenes are many and their sprites large, so those are not kept
    draw = sprite if scale == 1.0 else draw_sprite
    for item in scene.objects:
        drawn = draw(item.kind.emoji, item.size, item.colour)
        left, top, right, bottom = _box(item, drawn)
        alpha = drawn[..., 3:]
        colour = 20 * alpha if scene.style == "silhouette" else 255 * drawn[..., :3]
        region = canvas[top:bottom, left:right]
        region *= 1 - alpha
        region += colour
    if scene.style == "sketch":
        canvas = _sketch(canvas, max(1, round(scale)))
    elif scene.style == "sepia":
        canvas = (canvas @ np.array([0.299, 0.587, 0.114], np.float32))[..., None] * np.array(
            [1.0, 0.86, 0.66], np.float32
        )
    picture = np.clip(canvas + 0.5, 0, 255).astype(np.uint8)
    if scene.style == "pixel art":
        blocks = max(1, round(scene.size / (4 * scale)))
        small = Image.fromarray(picture).resize((blocks,) * 2, Image.Resampling.BOX)
        picture = np.asarray(small.resize((scene.size,) * 2, Image.Resampling.NEAREST))
    return picture


def enlarged(scene: Scene, largest: int, multiple: int = 1) -> tuple[Scene, float]:
    """The scene with its largest thing `largest` pixels long, sides multiples of `multiple`; and how much larger it is.

    The glyphs of the pack are 128 pixels long: up to there what is drawn has detail that the usual scene lacks.
    """
    scale = largest / max(item.size for item in scene.objects)
    objects = tuple(
        replace(item, size=round(item.size * scale), x=round(item.x * scale), y=round(item.y * scale))
        for item in scene.objects
    )
    fitting = max(max(item.x, item.y) + item.size for item in objects)
    side = max(round(scene.size * scale / multiple), -(-fitting // multiple)) * multiple
    return replace(scene, objects=objects, size=side), scale


def _sketch(canvas: np.ndarray, line: int) -> np.ndarray:
    """Pencil lines, `line` pixels wide, where brightness changes, on cream paper."""
    gray = canvas @ np.array([0.299, 0.587, 0.114], np.float32)
    dx = np.abs(np.pad(gray, ((0, 0), (0, line)), "edge")[:, line:] - gray)
    dy = np.abs(np.pad(gray, ((0, line), (0, 0)), "edge")[line:] - gray)
    ink = np.clip((dx + dy) / 70, 0, 1)[..., None]
    return np.array([250, 246, 236], np.float32) * (1 - ink) + np.array([50, 50, 60], np.float32) * ink
