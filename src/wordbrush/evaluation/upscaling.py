"""`wordbrush evaluate upscaler`: held-out scenes made small and enlarged again, against bicubic interpolation.

Scenes of the test split are drawn so large that their largest thing is 128 pixels long, which is all the detail that
there is of it; antialiased bicubic reduction makes them small. PSNR is over all RGB values of a picture, in dB.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from PIL import Image

from wordbrush.data.scenes import enlarged, render, sample_scene
from wordbrush.data.scenes.glyphs import GLYPH
from wordbrush.editing.upscale import Upscaler
from wordbrush.evaluation.distances import psnr

SEED = 20
COUNT = 200


@dataclass(frozen=True, kw_only=True)
class Enlargement:
    """Mean PSNR over the scenes, in dB.

    Attributes:
        won: part of the scenes that the upscaler comes nearer to than bicubic interpolation does.
    """

    scale: int
    scenes: int
    bicubic: float
    upscaler: float
    won: float

    @property
    def gain(self) -> float:
        """dB over bicubic interpolation."""
        return self.upscaler - self.bicubic


def held_out_picture(index: int, scale: int) -> Image.Image:
    """A scene of the test split, drawn large; its sides are multiples of the scale."""
    scene, larger = enlarged(sample_scene("test", SEED, index), GLYPH, scale)
    return Image.fromarray(render(scene, larger))


def measure(upscaler: Upscaler, scale: int, count: int, advance: Callable[[], None]) -> Enlargement:
    """Enlarges `count` held-out scenes `scale` times; `advance` is called after each."""
    ours, theirs = [], []
    for index in range(count):
        large = held_out_picture(index, scale)
        small = large.resize((large.width // scale, large.height // scale), Image.Resampling.BICUBIC)
        bicubic = small.resize(large.size, Image.Resampling.BICUBIC)
        truth = np.asarray(large)
        theirs.append(psnr(truth, np.asarray(bicubic)))
        ours.append(psnr(truth, np.asarray(upscaler.enlarge(small, float(scale)))))
        advance()
    won = float(np.mean(np.array(ours) > np.array(theirs)))
    return Enlargement(
        scale=scale, scenes=count, bicubic=float(np.mean(theirs)), upscaler=float(np.mean(ours)), won=won
    )
