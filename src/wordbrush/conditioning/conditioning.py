"""What the text became, as one object, and what every text conditioner can do."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

from torch import Tensor

from wordbrush.conditioning.prompt.syntax import EMPHASES
from wordbrush.conditioning.report import PromptReport, TokenRow
from wordbrush.errors import RequestError


@dataclass(frozen=True, kw_only=True)
class Conditioning:
    """What a denoiser is conditioned on, one row a text.

    Attributes:
        context: (B, L, D), the hidden states that cross-attention or the joint transformer reads.
        pooled: (B, P), the text as one vector, where the model wants that (SDXL, FLUX); else None.
    """

    context: Tensor
    pooled: Tensor | None = None


@dataclass(frozen=True, kw_only=True)
class TextOptions:
    """How texts are read.

    Attributes:
        clip_skip: which layer of CLIP is read, counted from the end as A1111 does: 1 is the last layer, 2 the one
            before it. None is the model's own choice.
        emphasis: how weights act: "original" multiplies hidden states and then restores their mean; "no norm" only
            multiplies; "ignore" reads the syntax and drops the weights; "none" takes the syntax for plain text.
        comma_backtrack: when a chunk is full, the text after a comma among its last so many tokens moves to the next
            chunk; 0 never moves text.

    Raises:
        RequestError: a value is out of range or unknown.
    """

    clip_skip: int | None = None
    emphasis: str = "original"
    comma_backtrack: int = 20

    def __post_init__(self) -> None:
        if self.clip_skip is not None and self.clip_skip < 1:
            raise RequestError(f"clip_skip={self.clip_skip} must be at least 1, which is the last layer")
        if self.emphasis not in EMPHASES:
            raise RequestError(f"emphasis={self.emphasis!r} is not known; known: {', '.join(EMPHASES)}")
        if self.comma_backtrack < 0:
            raise RequestError(f"comma_backtrack={self.comma_backtrack} must be 0, which is off, or more")


PLAIN = TextOptions()


class Conditioner(Protocol):
    """Texts to conditioning. Every text is encoded alone, so its rows do not depend on the texts beside it.

    A text here is what `PromptProgram` gives for one step: weights, BREAK and embeddings are still in it, while
    schedules, AND and LoRA tags are gone.
    """

    def encode(self, texts: Sequence[str], options: TextOptions = PLAIN, *, length: int | None = None) -> Conditioning:
        """One row a text.

        Args:
            length: how long the contexts shall be at least; shorter ones are padded with empty chunks. None is the
                longest that these texts need. Texts encoded to one `length` have the same bits in any company.
        """
        ...

    def encode_negative(
        self, texts: Sequence[str], options: TextOptions = PLAIN, *, length: int | None = None
    ) -> Conditioning:
        """As `encode`, for negative prompts: some models want zeros, not an encoded empty text, for no prompt."""
        ...

    def length(self, text: str, options: TextOptions = PLAIN) -> int:
        """How long a context (L) this text alone needs."""
        ...

    def report(self, text: str, options: TextOptions = PLAIN) -> PromptReport:
        """What the model can and cannot read of the text."""
        ...

    def table(self, text: str, options: TextOptions = PLAIN) -> list[TokenRow]:
        """Every token of the sequence that the encoder reads."""
        ...
