"""A LoRA as training leaves it, before it is written in one layout or another."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from torch import Tensor

from wordbrush.formats.lora.rules import Change, LowRank


@dataclass(frozen=True, kw_only=True, eq=False)
class TrainedLayer:
    """What was learnt of one layer of a network.

    Attributes:
        down: (r, in), or (r, in, kh, kw) of a convolution.
        up: (out, r), or (out, r, 1, 1).
        alpha: what the change is multiplied by, before the rank divides it.
        rooted: the root of the rank divides alpha (Kalajdzievski 2023, rsLoRA), not the rank.
        magnitude: DoRA's lengths, (out,); None without DoRA.
    """

    down: Tensor
    up: Tensor
    alpha: float
    rooted: bool = False
    magnitude: Tensor | None = None

    @property
    def rank(self) -> int:
        """r."""
        return self.down.shape[0]

    @property
    def scale(self) -> float:
        """What up · down is multiplied by."""
        return scale_of(self.alpha, self.rank, rooted=self.rooted)

    def change(self) -> Change:
        """The change of the layer's weight, by the formulas by which files are applied."""
        return Change(rule=LowRank(self.down, self.up), scale=self.scale, magnitude=self.magnitude)


TrainedLora = Mapping[str, Mapping[str, TrainedLayer]]
"""What was learnt: name of the network ("unet", "transformer", "text_encoder", …) -> name of the layer in it."""


def scale_of(alpha: float, rank: int, *, rooted: bool) -> float:
    """alpha / r (Hu 2021, §4.1), or alpha / √r (Kalajdzievski 2023, eq. 5)."""
    return alpha / (rank**0.5 if rooted else rank)
