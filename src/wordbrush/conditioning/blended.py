"""Between two prompts: what the network is told, on the straight line from one text's embeddings to another's."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from wordbrush.conditioning.conditioning import PLAIN, Conditioner, Conditioning, TextOptions
from wordbrush.conditioning.prompt.blending import blendable
from wordbrush.conditioning.report import PromptReport, TokenRow
from wordbrush.request import GenerationRequest


class BlendedConditioner:
    """A conditioner whose prompts are moved towards another text; negative prompts stay.

    Args:
        base: encodes both.
        text: the other text.
        share: 0 is the prompt, 1 the other text.
    """

    def __init__(self, base: Conditioner, text: str, share: float) -> None:
        self.base, self.text, self.share = base, text, share

    def encode(self, texts: Sequence[str], options: TextOptions = PLAIN, *, length: int | None = None) -> Conditioning:
        """As `Conditioner.encode`."""
        least = max([self.length(text, options) for text in texts] + ([] if length is None else [length]))
        first = self.base.encode(texts, options, length=least)
        other = self.base.encode([self.text], options, length=least)
        pooled = None
        if first.pooled is not None and other.pooled is not None:
            pooled = self._between(first.pooled, other.pooled)
        return Conditioning(context=self._between(first.context, other.context), pooled=pooled)

    def _between(self, first: Tensor, other: Tensor) -> Tensor:
        if self.share in (0.0, 1.0):  # the very bits of that text
            return other.expand_as(first).contiguous() if self.share else first
        return torch.lerp(first, other.expand_as(first), self.share)

    def encode_negative(
        self, texts: Sequence[str], options: TextOptions = PLAIN, *, length: int | None = None
    ) -> Conditioning:
        """As `Conditioner.encode_negative`."""
        return self.base.encode_negative(texts, options, length=length)

    def length(self, text: str, options: TextOptions = PLAIN) -> int:
        """How long a context the text and the other need."""
        return max(self.base.length(text, options), self.base.length(self.text, options))

    def report(self, text: str, options: TextOptions = PLAIN) -> PromptReport:
        """Of the prompt."""
        return self.base.report(text, options)

    def table(self, text: str, options: TextOptions = PLAIN) -> list[TokenRow]:
        """Of the prompt."""
        return self.base.table(text, options)


def blended(base: Conditioner, request: GenerationRequest) -> Conditioner:
    """The conditioner for a request's prompts: blended with its `blend_prompt` where it has one, else `base`.

    Raises:
        RequestError: as `blendable`.
    """
    if request.blend_prompt is None or request.blend is None:
        return base
    return BlendedConditioner(base, blendable(request.prompts, request.blend_prompt), request.blend)
