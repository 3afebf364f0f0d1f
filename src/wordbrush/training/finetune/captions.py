"""Captions to token ids, and ids to what the network is conditioned on, with gradients.

Generation reads prompts, with weights, chunks and embeddings by name (`conditioning/`); training reads captions, which
are plain sentences: what a tokenizer gives for a whole caption, cut at the encoder's length. What both make of the same
plain text is the same, which the tests hold.
"""

from __future__ import annotations

import random
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Protocol, cast

import torch
from torch import Tensor

from wordbrush.conditioning.conditioning import Conditioning
from wordbrush.conditioning.flux import DEV_LENGTH, SCHNELL_LENGTH
from wordbrush.conditioning.tokenizer import ClipTokenizer
from wordbrush.errors import RequestError
from wordbrush.formats.parts import ModelParts
from wordbrush.networks.clip import CLIPTextModel, CLIPTextOutput

if TYPE_CHECKING:
    from wordbrush.training.feed import Feed

_LOOKED_AT = 1000  # captions whose length is looked at, before training

ENCODERS = ("text_encoder", "text_encoder_2")


class _Pieces(Protocol):
    """What the tokenizers of CLIP and T5 have in common here."""

    @property
    def id(self) -> int: ...


@dataclass(frozen=True, kw_only=True)
class Placeholder:
    """A word that stands for learnt vectors (Gal 2022).

    Attributes:
        word: as captions and prompts write it.
        vectors: how many token places it takes.
    """

    word: str
    vectors: int

    def split(self, text: str) -> list[str]:
        """The text around every place of the word, in order: one part more than there are places.

        The word must stand alone: letters, digits, "-" and "_" beside it make it another.
        """
        return re.split(rf"(?<![\w-]){re.escape(self.word)}(?![\w-])", text, flags=re.IGNORECASE)


class CaptionReader:
    """The text side of a model in training.

    Args:
        parts: the model.
        placeholder: a word whose vectors are learnt; its places are marked beside the ids.
        clip_skip: which layer of CLIP is read, counted from the end; None is the family's own. SD1 and 2 only.

    Raises:
        RequestError: clip_skip or a placeholder, where the model knows none.
    """

    def __init__(
        self, parts: ModelParts, *, placeholder: Placeholder | None = None, clip_skip: int | None = None
    ) -> None:
        self.parts, self.placeholder = parts, placeholder
        self.flux = parts.family.startswith("flux")
        self.two = parts.text_encoder_2 is not None
        if clip_skip is not None and self.two:
            raise RequestError(f"clip_skip={clip_skip} has a meaning for Stable Diffusion 1 and 2 only; leave it out")
        depth = cast(CLIPTextModel, parts.text_encoder).config.num_hidden_layers
        if clip_skip is not None and not 1 <= clip_skip <= depth:
            raise RequestError(f"clip_skip={clip_skip} must be 1, the last layer, to {depth}, the first")
        if placeholder is not None and self.flux:
            raise RequestError("FLUX knows no embeddings, so a textual inversion of it would have no use; train a LoRA")
        self.clip_skip = clip_skip or 1

    @property
    def encoders(self) -> tuple[str, ...]:
        """The names of the model's text encoders."""
        return ENCODERS if self.two else ENCODERS[:1]

    def read(self, captions: Sequence[str]) -> dict[str, Tensor]:
        """Token ids "ids" (B, L), and "ids_2" for a second encoder.

        With a placeholder also "learnt" and "learnt_2" (B, L): which of its vectors takes a place, -1 where none does.
        """
        found: dict[str, Tensor] = {}
        for number, name in enumerate(self.encoders):
            suffix = "" if number == 0 else "_2"
            rows = [self._ids(name, caption) for caption in captions]
            found[f"ids{suffix}"] = torch.tensor([ids for ids, _ in rows])
            if self.placeholder is not None:
                found[f"learnt{suffix}"] = torch.tensor([learnt for _, learnt in rows])
        return found

    def known(self, word: str) -> bool:
        """Whether a word is one token of the first encoder's vocabulary."""
        tokenizer = self.parts.tokenizer
        assert tokenizer is not None
        return len(tokenizer.pieces(word)) == 1

    def is_cut(self, caption: str) -> bool:
        """Whether a caption is longer than what reads it; of FLUX that is T5: its CLIP gives no more than a summary."""
        if self.flux:
            return len(self._pieces("text_encoder_2", caption)[0]) > self.length - 1
        return len(self._pieces("text_encoder", caption)[0]) > self.clip_room

    @property
    def clip_room(self) -> int:
        """How many tokens CLIP reads beside start and end."""
        return self._clip_tokenizer("text_encoder").max_length - 2

    def _ids(self, name: str, caption: str) -> tuple[list[int], list[int]]:
        ids, learnt = self._pieces(name, caption)
        if self.flux and name == "text_encoder_2":
            tokenizer, size = self.parts.tokenizer_2, self.length
            assert tokenizer is not None
            ids = [*ids[: size - 1], tokenizer.eos_id]
            return ids + [tokenizer.pad_id] * (size - len(ids)), [-1] * size
        tokenizer = self._clip_tokenizer(name)
        room = tokenizer.max_length - 2
        framed = tokenizer.framed(ids[:room])
        marks = [-1, *learnt[:room]]
        return framed, marks + [-1] * (len(framed) - len(marks))

    def _pieces(self, name: str, caption: str) -> tuple[list[int], list[int]]:
        """Ids without start and end, and beside them the number of the learnt vector, or -1."""
        tokenizer = self.parts.tokenizer if name == "text_encoder" else self.parts.tokenizer_2
        assert tokenizer is not None
        texts = [caption] if self.placeholder is None else self.placeholder.split(caption)
        ids: list[int] = []
        learnt: list[int] = []
        for number, text in enumerate(texts):
            if number and self.placeholder is not None:
                ids += [0] * self.placeholder.vectors  # whose own embedding is not used
                learnt += range(self.placeholder.vectors)
            pieces = [piece.id for piece in cast("Sequence[_Pieces]", tokenizer.pieces(text))]
            ids += pieces
            learnt += [-1] * len(pieces)
        return ids, learnt

    def _clip_tokenizer(self, name: str) -> ClipTokenizer:
        return cast(ClipTokenizer, self.parts.tokenizer if name == "text_encoder" else self.parts.tokenizer_2)

    @property
    def length(self) -> int:
        """How many tokens T5 reads (FLUX)."""
        return SCHNELL_LENGTH if self.parts.family == "flux-schnell" else DEV_LENGTH

    def condition(self, batch: Mapping[str, Tensor], vectors: Mapping[str, Tensor] | None = None) -> Conditioning:
        """What the network is conditioned on, one row a caption; gradients flow to encoders and vectors that want them.

        Args:
            batch: what `read` gave, on the encoders' device.
            vectors: encoder -> (n, D), those of the placeholder.
        """
        first = cast(CLIPTextModel, self.parts.text_encoder)
        states = _clip(first, batch["ids"], batch.get("learnt"), (vectors or {}).get("text_encoder"))
        if not self.two:
            if self.clip_skip == 1:
                return Conditioning(context=states.last_hidden_state)
            norm = first.text_model.final_layer_norm
            return Conditioning(context=norm(states.hidden_states[-self.clip_skip]))
        if self.flux:
            assert self.parts.text_encoder_2 is not None
            return Conditioning(context=self.parts.text_encoder_2(batch["ids_2"]), pooled=states.pooled)
        second = cast(CLIPTextModel, self.parts.text_encoder_2)
        others = _clip(second, batch["ids_2"], batch.get("learnt_2"), (vectors or {}).get("text_encoder_2"))
        # SDXL reads the layer before the last of both, without the final norm (Podell 2023, §2.1)
        context = torch.cat([states.hidden_states[-2], others.hidden_states[-2]], dim=2)
        return Conditioning(context=context, pooled=others.text_embeds)


def cut_captions(reader: CaptionReader, feed: Feed) -> list[str]:
    """A sentence on captions that are longer than the encoder takes, where there are any; a thousand are looked at."""
    count = len(feed.dataset)
    looked = range(0, count, -(-count // _LOOKED_AT))
    rules = replace(feed.rules, drop=0.0, drop_tags=0.0)
    draw = random.Random(0)
    cut = sum(reader.is_cut(rules.applied(feed.dataset.caption(index, draw), draw)) for index in looked)
    if not cut:
        return []
    room = reader.length - 1 if reader.flux else reader.clip_room
    return [f"{cut} of {len(looked)} captions are longer than the {room} tokens that the model reads, and are cut"]


def _clip(encoder: CLIPTextModel, ids: Tensor, learnt: Tensor | None, vectors: Tensor | None) -> CLIPTextOutput:
    """The encoder's states, with learnt vectors in the places that `learnt` (B, L) marks."""
    if learnt is None or vectors is None:
        found: CLIPTextOutput = encoder(ids)
        return found
    own = encoder.text_model.embeddings.token_embedding(ids)  # (B, L, D)
    placed = vectors.to(own.dtype)[learnt.clamp(min=0)]
    out: CLIPTextOutput = encoder(ids, torch.where((learnt >= 0)[..., None], placed, own))
    return out
