"""How far a flow is shifted towards noise: by a number of its own, or by the size of the picture (FLUX)."""

from __future__ import annotations

import math
from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True)
class DynamicShift:
    """A shift that grows with the picture, for a larger one needs more noise to hide it (Esser 2024, section 5.3.2).

    mu runs in a straight line from `base_shift` at `base_tokens` to `max_shift` at `max_tokens`, and on beyond; FLUX
    has a token for every 16 x 16 pixels, so that 1024 x 1024 has 4096.
    """

    base_shift: float = 0.5
    max_shift: float = 1.15
    base_tokens: int = 256
    max_tokens: int = 4096
    exponential: bool = True
    """Whether the shift is exp(mu), as in FLUX, rather than mu itself."""

    def __post_init__(self) -> None:
        if self.base_tokens == self.max_tokens:
            raise ValueError(f"a dynamic shift needs two different lengths, not {self.base_tokens} tokens twice")

    def mu(self, tokens: int) -> float:
        """The straight line."""
        slope = (self.max_shift - self.base_shift) / (self.max_tokens - self.base_tokens)
        return self.base_shift + slope * (tokens - self.base_tokens)

    def shift(self, tokens: int) -> float:
        """The shift of a picture of that many tokens, as `RectifiedFlow` takes it; raises ValueError for none or 0."""
        if tokens < 1:
            raise ValueError(f"tokens={tokens} is no picture; give the number of image tokens, such as 4096")
        shift = math.exp(self.mu(tokens)) if self.exponential else self.mu(tokens)
        if not shift > 0.0:
            raise ValueError(f"a picture of {tokens} tokens would have the shift {shift}, which must be greater than 0")
        return shift
