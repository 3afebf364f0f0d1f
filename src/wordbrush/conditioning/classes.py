"""Prompts for models that know classes, or nothing at all, in place of words."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from wordbrush.conditioning.conditioning import PLAIN, Conditioning, TextOptions
from wordbrush.conditioning.report import PromptReport, TokenRow
from wordbrush.errors import RequestError
from wordbrush.networks.unet import UNet

# How many class names a message lists.
_LISTED = 12


class ClassConditioner:
    """A prompt is the name or the number of a class; an empty one is the null class that guidance starts from.

    Args:
        unet: what is told; of its config, the last of `num_class_embeds` is the null class.
        labels: the names of the other classes.
    """

    def __init__(self, unet: UNet, labels: Sequence[str]) -> None:
        self.unet, self.labels = unet, tuple(labels)
        self._numbers = {str(number): number for number in range(len(self.labels))}
        self._numbers |= {label.casefold(): number for number, label in enumerate(self.labels)}  # names win

    def encode(self, texts: Sequence[str], options: TextOptions = PLAIN, *, length: int | None = None) -> Conditioning:
        """One row a text: context (B, 1, D) of zeros, pooled (B, num_class_embeds), 1 at the class and else 0.

        Raises:
            RequestError: a text is no class of the model, or layers of CLIP are to be skipped.
        """
        _refuse_layers(options)
        del length
        like = self.unet.conv_in.weight
        pooled = torch.zeros(len(texts), len(self.labels) + 1, device=like.device, dtype=like.dtype)
        for row, text in enumerate(texts):
            pooled[row, self.number(text)] = 1.0
        return Conditioning(context=empty_context(self.unet, len(texts)), pooled=pooled)

    def encode_negative(
        self, texts: Sequence[str], options: TextOptions = PLAIN, *, length: int | None = None
    ) -> Conditioning:
        """As `encode`: guidance may lead away from another class, too."""
        return self.encode(texts, options, length=length)

    def number(self, text: str) -> int:
        """The number of the class that a text names; that after the last is the null class."""
        name = text.strip().casefold()
        if not name:
            return len(self.labels)
        if name not in self._numbers:
            shown = ", ".join(self.labels[:_LISTED]) + (", …" if len(self.labels) > _LISTED else "")
            raise RequestError(
                f"{text.strip()!r} is no class of this model; a prompt is one of its {len(self.labels)} classes "
                f"({shown}) or its number, 0 to {len(self.labels) - 1}"
            )
        return self._numbers[name]

    def length(self, text: str, options: TextOptions = PLAIN) -> int:
        """Always 1."""
        return 1

    def report(self, text: str, options: TextOptions = PLAIN) -> PromptReport:
        """A class is one piece. Raises `RequestError` where the text is none."""
        known = self.number(text) < len(self.labels)
        return PromptReport(pieces=int(known), limit=1)

    def table(self, text: str, options: TextOptions = PLAIN) -> list[TokenRow]:
        """The one row of a class; of an empty prompt, the null class."""
        number = self.number(text)
        if number == len(self.labels):
            return [TokenRow(position=0, id=number, text="no class", word="", role="padding")]
        name = self.labels[number]
        return [TokenRow(position=0, id=number, text=name, word=text.strip(), role="piece", seen=True, number=0)]


class NoConditioner:
    """For models that paint without a prompt: only the empty one is taken."""

    def __init__(self, unet: UNet) -> None:
        self.unet = unet

    def encode(self, texts: Sequence[str], options: TextOptions = PLAIN, *, length: int | None = None) -> Conditioning:
        """One row a text: context (B, 1, D) of zeros. Raises `RequestError` where a text is not empty."""
        _refuse_layers(options)
        del length
        for text in texts:
            self._refuse(text)
        return Conditioning(context=empty_context(self.unet, len(texts)))

    def encode_negative(
        self, texts: Sequence[str], options: TextOptions = PLAIN, *, length: int | None = None
    ) -> Conditioning:
        """As `encode`."""
        return self.encode(texts, options, length=length)

    def length(self, text: str, options: TextOptions = PLAIN) -> int:
        """Always 1."""
        return 1

    def report(self, text: str, options: TextOptions = PLAIN) -> PromptReport:
        """Nothing to tell. Raises `RequestError` where the text is not empty."""
        self._refuse(text)
        return PromptReport(pieces=0, limit=0)

    def table(self, text: str, options: TextOptions = PLAIN) -> list[TokenRow]:
        """No row."""
        self._refuse(text)
        return []

    def _refuse(self, text: str) -> None:
        if text.strip():
            raise RequestError(f"this model was trained without words and paints without a prompt; leave out {text!r}")


def _refuse_layers(options: TextOptions) -> None:
    if options.clip_skip not in (None, 1):
        raise RequestError(f"clip_skip={options.clip_skip} means nothing to a model without CLIP; leave it out")


def empty_context(unet: UNet, rows: int) -> Tensor:
    """(rows, 1, D) zeros: what a network with cross-attention reads where there is no text."""
    like = unet.conv_in.weight
    return torch.zeros(rows, 1, unet.config.cross_attention_dim, device=like.device, dtype=like.dtype)
