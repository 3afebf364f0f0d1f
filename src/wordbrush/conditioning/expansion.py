"""Prompt expansion: a language model goes on where the user stopped.

Each next token is drawn from what the network finds likely, as sharpened and cut by the options, in the order that
transformers has: repetition, temperature, top-k, top-p. All random numbers come from one `random.Random`.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from functools import cached_property
from pathlib import Path

import torch
from torch import Tensor

from wordbrush.formats.gpt2_folder import LanguageModel, read_gpt2
from wordbrush.networks.gpt2 import KeyValues
from wordbrush.request_fields import Expansion

# The prompt language and the templates would read these as syntax, and a new line would end an infotext's prompt.
_SYNTAX = set("()[]{}<>|\\\n\r\ufffd")


class Expander:
    """A language model that continues prompts."""

    def __init__(self, model: LanguageModel) -> None:
        self.model = model

    @classmethod
    def from_folder(cls, folder: Path) -> Expander:
        """Raises `ModelFileError` when there is no GPT-2 in the folder."""
        return cls(read_gpt2(folder))

    @torch.inference_mode()
    def addition(self, text: str, options: Expansion, rng: random.Random) -> str:
        """What comes after the text, which begins a new word or with a comma or the like; never nothing, unless the
        text leaves no room.

        Args:
            text: plain words, without prompt syntax. Of a long one, the network reads the end.
            options: how tokens are drawn, and how many at most.
        """
        network, tokenizer = self.model.network, self.model.tokenizer
        text = text.rstrip().lower() if self.model.lower_case else text.rstrip()
        positions = network.config.n_positions
        ids = tokenizer.encode(text)[-max(1, positions - options.tokens) :] or [tokenizer.end_id]
        seen: KeyValues | None = None
        new = torch.tensor([ids])
        added: list[int] = []
        for _ in range(min(options.tokens, positions - len(ids))):
            logits, seen = network(new, seen)
            banned = self._syntax if added else self._no_beginning if text else self._no_first_word
            scores = logits[0, -1].double().masked_fill(banned, -torch.inf)
            scores = scored(scores, [*ids, *added], options)
            if not torch.isfinite(scores).any():  # every token that is left repeats something
                break
            token = draw(scores, rng)
            if token == tokenizer.end_id:
                break
            added.append(token)
            new = torch.tensor([[token]])
        return tokenizer.decode(added).rstrip(" ,")

    @cached_property
    def _spellings(self) -> list[str]:
        """What each token of the network spells; tokens that the tokenizer does not have spell �."""
        size, known = self.model.network.config.vocab_size, set(self.model.tokenizer.vocab.values())
        return [self.model.tokenizer.decode([index]) if index in known else "\ufffd" for index in range(size)]

    @cached_property
    def _syntax(self) -> Tensor:
        """(V,) true where a token must not be drawn: it spells syntax, or only part of a character."""
        end = self.model.tokenizer.end_id
        found = [index != end and bool(_SYNTAX & set(text)) for index, text in enumerate(self._spellings)]
        return torch.tensor(found)

    @cached_property
    def _no_beginning(self) -> Tensor:
        """(V,) true also where a token would go on with the user's last word, or add nothing."""
        return self._syntax | torch.tensor([not text.strip() or text[0].isalnum() for text in self._spellings])

    @cached_property
    def _no_first_word(self) -> Tensor:
        """(V,) the same where nothing was written."""
        return self._syntax | torch.tensor([not text.strip() for text in self._spellings])


def scored(logits: Tensor, before: Sequence[int], options: Expansion) -> Tensor:
    """Logits (V,) as the options want them: tokens that are out become -inf.

    before: the tokens so far, the user's too.
    """
    if options.repetition != 1.0:  # Keskar 2019, §4.1: a positive logit is divided, a negative one multiplied
        used = torch.tensor(sorted(set(before)))
        logits = logits.clone()
        logits[used] = torch.where(
            logits[used] < 0, logits[used] * options.repetition, logits[used] / options.repetition
        )
    if options.no_repeat:
        logits = logits.clone()
        logits[_repeating(before, options.no_repeat)] = -torch.inf
    if options.temperature == 0:  # the likeliest alone
        return logits.masked_fill(logits < logits.max(), -torch.inf)
    logits = logits / options.temperature
    if options.top_k:
        least = logits.topk(min(options.top_k, len(logits))).values[-1]
        logits = logits.masked_fill(logits < least, -torch.inf)
    if options.top_p < 1.0:  # Holtzman 2020, §3.1: the fewest tokens that together have this probability
        probabilities, order = logits.softmax(0).sort(descending=True)
        beyond = probabilities.cumsum(0) - probabilities >= options.top_p
        logits = logits.masked_fill(beyond[order.argsort()], -torch.inf)
    return logits


def draw(logits: Tensor, rng: random.Random) -> int:
    """A token, by inverting the cumulative distribution at one random number."""
    cumulative = logits.double().softmax(0).cumsum(0)
    place = torch.tensor(rng.random() * cumulative[-1].item(), dtype=torch.float64)
    found = int(torch.searchsorted(cumulative, place, right=True))
    return min(found, int(torch.isfinite(logits).nonzero()[-1]))


def _repeating(before: Sequence[int], size: int) -> list[int]:
    """The tokens that would end a run of `size` tokens that is there already (Paulus 2018, §2.5)."""
    if len(before) < size:
        return []
    last = tuple(before[len(before) - size + 1 :])
    starts = range(len(before) - size + 1)
    return [before[start + size - 1] for start in starts if tuple(before[start : start + size - 1]) == last]
