"""Training the prompt expander: a small GPT-2 that continues the beginning of a caption to a whole one."""

from __future__ import annotations

import random
import re
from pathlib import Path
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from wordbrush.conditioning.gpt2_tokenizer import GPT2Tokenizer
from wordbrush.data.scenes import caption, sample_scene
from wordbrush.metadata import write_whole
from wordbrush.networks.gpt2 import GPT2, GPT2Config, gpt2_file_state
from wordbrush.training.export import write_network
from wordbrush.training.recipe import Recipe
from wordbrush.training.task import Batch, Task
from wordbrush.training.tasks.recipes import ExpanderRecipe

# "a fox, pixel art on a blue background": the scenes' own captions seldom go on after the ground
_COMMA_GROUND = re.compile(r"(.+)(, [^,]+)( on an? [^,]+ background)")

_NOT_COUNTED = -100  # a target that the loss leaves out


def continued_caption(index: int, seed: int, split: Literal["train", "test"] = "train") -> str:
    """Caption number `index`; in half of those with a comma before their ground, what follows it is moved to the end.

    That is a style, or more things. People add them last, and an expander must have seen captions that go on after the
    ground.
    """
    text = caption(sample_scene(split, seed, index))
    match = _COMMA_GROUND.fullmatch(text)
    if match is None or random.Random(f"style last/{seed}/{index}").random() < 0.5:
        return text
    things, more, ground = match.groups()
    return f"{things}{ground}{more}"


class ExpanderTask(Task):
    """Captions in; how surprising each next piece is out (Radford 2018, eq. 1)."""

    def __init__(self, recipe: Recipe, train: ExpanderRecipe, folder: Path) -> None:
        """Learns the vocabulary once, and keeps it in `folder`."""
        super().__init__()
        self.recipe, self.train = recipe, train
        self.tokenizer = self._vocabulary(folder / "expander")
        self.config = GPT2Config.from_dict(
            {
                **train.network,
                "vocab_size": len(self.tokenizer.vocab),
                "eos_token_id": self.tokenizer.end_id,
            }
        )
        self.network = GPT2(self.config)
        self.network.initialise(torch.Generator().manual_seed(recipe.seed))
        self.modules = {"expander": self.network}

    def _vocabulary(self, folder: Path) -> GPT2Tokenizer:
        if not (folder / "merges.txt").exists():
            texts = [continued_caption(index, self.recipe.seed) for index in range(self.train.vocabulary_captions)]
            for name, text in GPT2Tokenizer.learnt(texts, self.train.vocabulary).files(lower_case=True).items():
                write_whole(folder / name, text.encode())
        return GPT2Tokenizer.from_folder(folder)

    def batch(self, step: int, rows: range) -> Batch:
        first = step * self.recipe.batch
        return {"ids": self.rows(range(first + rows.start, first + rows.stop))}

    def rows(self, indices: range, split: Literal["train", "test"] = "train") -> Tensor:
        """Captions as (B, L) ids, each ended and then filled with -100. Every eighth begins with an end, too: that is
        what an expander reads when nothing was written.
        """
        end, most = self.tokenizer.end_id, self.config.n_positions + 1
        rows = [self.tokenizer.encode(continued_caption(index, self.recipe.seed, split)) for index in indices]
        rows = [[end] * (index % 8 == 0) + row + [end] for index, row in zip(indices, rows, strict=True)]
        length = min(most, max(map(len, rows)))
        return torch.tensor([(row + [_NOT_COUNTED] * length)[:length] for row in rows])

    def loss(self, batch: Batch, step: int) -> tuple[Tensor, dict[str, Tensor]]:
        ids = batch["ids"]
        seen, wanted = ids[:, :-1].clamp(min=0), ids[:, 1:]
        logits, _ = self.network(seen)  # (B, L - 1, V)
        loss = F.cross_entropy(logits.flatten(0, 1), wanted.flatten(), ignore_index=_NOT_COUNTED)
        return loss, {"perplexity": loss.detach().exp()}

    def export(self, folder: Path, averaged: dict[str, dict[str, Tensor]]) -> None:
        """Writes `expander/`, which transformers' GPT2LMHeadModel opens."""
        weights = gpt2_file_state(averaged["expander"])
        write_network(folder / "expander", self.config.to_dict(), weights, dtype=torch.float16, weights_name="model")
