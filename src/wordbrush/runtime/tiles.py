"""A picture through an upscaler in tiles that overlap: any size, in the memory that one tile needs."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import numpy as np
import torch
from torch import Tensor

from wordbrush.errors import WorkFailed

# Sides of a tile in pixels of the large picture: 64 feature maps of it are 256 MB in float32.
LARGE_SIDE = 1024

# Pixels of the small picture that a tile has beyond what it is for. Networks that see no further give the very pixels
# that they give for the whole; what deeper ones see further off has no weight that 8 bits would show.
MOST_MARGIN = 32


def enlarge_in_tiles(
    pixels: np.ndarray, scale: int, reach: int, network: Callable[[Tensor], Tensor], *, large_side: int = LARGE_SIDE
) -> np.ndarray:
    """(H, W, 3) uint8 to (scale*H, scale*W, 3) uint8.

    Args:
        reach: how many pixels away a pixel of the small picture has a say.
        network: (1, 3, h, w) in [0, 1] to (1, 3, scale*h, scale*w) in about [0, 1].
        large_side: of the tiles, in pixels of the result.

    Raises:
        WorkFailed: the network gave numbers that are not finite.
    """
    height, width = pixels.shape[:2]
    result = np.empty((scale * height, scale * width, 3), np.uint8)
    margin = min(reach, MOST_MARGIN)
    side = max(large_side // scale, 4 * margin, 1)
    for top, bottom, above, below in _spans(height, side, margin):
        for left, right, before, after in _spans(width, side, margin):
            tile = torch.from_numpy(pixels[above:below, before:after].copy())
            large = network(tile.permute(2, 0, 1)[None].float() / 255.0)[0]  # (3, scale*h, scale*w)
            if not torch.isfinite(large).all():
                raise WorkFailed("the upscaler gave numbers that are not finite; use dtype='float32'")
            own = large[
                :, (top - above) * scale : (bottom - above) * scale, (left - before) * scale : (right - before) * scale
            ]
            levels = (own.float() * 255.0).round().clamp(0, 255).to(torch.uint8)
            result[top * scale : bottom * scale, left * scale : right * scale] = levels.permute(1, 2, 0).cpu().numpy()
    return result


def _spans(length: int, side: int, margin: int) -> Iterator[tuple[int, int, int, int]]:
    """(start, stop, first, last) along one axis: the pixels that a tile is for, and those that it sees."""
    if length <= side:
        yield 0, length, 0, length
        return
    core = side - 2 * margin
    for start in range(0, length, core):
        stop = min(start + core, length)
        yield start, stop, max(0, start - margin), min(length, stop + margin)
