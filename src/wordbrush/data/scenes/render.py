"""Drawing scenes: background, sprites, style, in NumPy on one core; `wordbrush data preview` says how fast."""

from __future__ import annotations

from functools import lru_cache

import numpy as np
from PIL import Image

from wordbrush.data.scenes.glyphs import sprite
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
def background(name: str, pattern: str | None, size: int) -> np.ndarray:
    """(size, size, 3) uint8: a plain or patterned ground; the pattern's second tone is a shade of the first."""
    base = np.array(BACKGROUND_RGB[name], np.float32)
    tone = base * 0.82 if base.mean() > 60 else base + 60
    ground = np.broadcast_to(base, (size, size, 3)).copy()
    rows, columns = np.mgrid[0:size, 0:size]
    if pattern == "striped":
        ground[((rows + columns) // 8) % 2 == 0] = tone
    elif pattern == "polka dot":
        ground[((rows % 16 - 7.5) ** 2 + (columns % 16 - 7.5) ** 2) < 16] = tone
    elif pattern == "checkered":
        ground[((rows // 16) + (columns // 16)) % 2 == 0] = tone
    picture = ground.astype(np.uint8)
    picture.flags.writeable = False
    return picture


def box(item: SceneObject) -> tuple[int, int, int, int]:
    """Left, top, right, bottom of the drawn thing in pixels: its outline, centred in its cell."""
    height, width = sprite(item.kind.emoji, item.size, item.colour).shape[:2]
    left, top = item.x + (item.size - width) // 2, item.y + (item.size - height) // 2
    return left, top, left + width, top + height


def render(scene: Scene) -> np.ndarray:
    """The picture, (size, size, 3) uint8."""
    if scene.style == "sketch":
        canvas = np.full((scene.size, scene.size, 3), 255, np.float32)
    else:
        canvas = background(scene.background, scene.pattern, scene.size).astype(np.float32)
    for item in scene.objects:
        left, top, right, bottom = box(item)
        drawn = sprite(item.kind.emoji, item.size, item.colour)
        alpha = drawn[..., 3:]
        colour = 20 * alpha if scene.style == "silhouette" else 255 * drawn[..., :3]
        region = canvas[top:bottom, left:right]
        region *= 1 - alpha
        region += colour
    if scene.style == "sketch":
        canvas = _sketch(canvas)
    elif scene.style == "sepia":
        canvas = (canvas @ np.array([0.299, 0.587, 0.114], np.float32))[..., None] * np.array(
            [1.0, 0.86, 0.66], np.float32
        )
    picture = np.clip(canvas + 0.5, 0, 255).astype(np.uint8)
    if scene.style == "pixel art":
        small = Image.fromarray(picture).resize((scene.size // 4,) * 2, Image.Resampling.BOX)
        picture = np.asarray(small.resize((scene.size,) * 2, Image.Resampling.NEAREST))
    return picture


def _sketch(canvas: np.ndarray) -> np.ndarray:
    """Pencil lines where brightness changes, on cream paper."""
    gray = canvas @ np.array([0.299, 0.587, 0.114], np.float32)
    dx = np.abs(np.diff(gray, axis=1, append=gray[:, -1:]))
    dy = np.abs(np.diff(gray, axis=0, append=gray[-1:]))
    ink = np.clip((dx + dy) / 70, 0, 1)[..., None]
    return np.array([250, 246, 236], np.float32) * (1 - ink) + np.array([50, 50, 60], np.float32) * ink
