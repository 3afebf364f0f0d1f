"""Where in the picture each piece of text acts: what the attention from picture to text looks at (Tang 2023, DAAM).

The weights of every layer are averaged over its heads and summed over the calls that are watched. The map of some
positions of the text is the mean over these, over the calls and over all layers, each brought to the picture's size.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

Watch = Callable[[int, Tensor], None]
"""(number of the layer, in the order they run; where it looks, (B, N, L) in float32, the mean over its heads)."""


class TextAttention:
    """Sums of what was watched; pass `watch` to `Runner.watched`. Of a batch, the first row is kept."""

    def __init__(self) -> None:
        self._sums: dict[int, Tensor] = {}
        self._calls: dict[int, int] = {}

    def watch(self, layer: int, weights: Tensor) -> None:
        """Adds what one layer looked at: (B, N, L)."""
        row = weights[0].cpu()
        self._sums[layer] = self._sums[layer] + row if layer in self._sums else row
        self._calls[layer] = self._calls.get(layer, 0) + 1

    @property
    def empty(self) -> bool:
        """Whether nothing was watched: a network without text, say."""
        return not self._sums

    def heat(self, positions: Sequence[int], latents: tuple[int, int], size: tuple[int, int]) -> Tensor:
        """How strongly each pixel looks at some positions of the text, the mean over them: (H, W) float32, 0 to 1.

        Args:
            positions: at least one.
            latents: (h, w) of the latents that the network saw.
            size: (H, W) of the map; layers are brought to it by bicubic interpolation.

        Raises:
            ValueError: nothing was watched, or a layer has as many positions as no level of those latents.
        """
        if self.empty:
            raise ValueError("nothing was watched, so there is no map")
        whole = torch.zeros(size)
        for layer, total in self._sums.items():
            mean = total[:, list(positions)].mean(dim=1) / self._calls[layer]  # (N,)
            small = mean.view(1, 1, *level_of(len(mean), latents))
            whole += F.interpolate(small, size, mode="bicubic", align_corners=False)[0, 0]
        return (whole / len(self._sums)).clamp(0.0, 1.0)  # bicubic goes a little beyond


def level_of(positions: int, latents: tuple[int, int]) -> tuple[int, int]:
    """The (h, w) of a feature map with so many positions, halved (rounding up) from the latents' as often as it takes.

    Raises:
        ValueError: no level has so many.
    """
    height, width = latents
    while height * width > positions:
        height, width = -(-height // 2), -(-width // 2)
    if height * width != positions:
        raise ValueError(f"no level of {latents[0]}x{latents[1]} latents has {positions} positions")
    return height, width
