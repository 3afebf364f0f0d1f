"""Prompts to embeddings with the two text encoders of FLUX.1: T5 for every word, CLIP-L for the whole prompt."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import count

import torch
from torch import Tensor

from wordbrush.conditioning.clip import ClipText, emphasised
from wordbrush.conditioning.conditioning import PLAIN, Conditioning, TextOptions
from wordbrush.conditioning.embeddings import EmbeddingTable
from wordbrush.conditioning.prompt import syntax
from wordbrush.conditioning.prompt.chunks import Chunk, Token
from wordbrush.conditioning.report import PromptReport, TokenRow, spellings
from wordbrush.conditioning.t5_tokenizer import EOS, PAD, T5Tokenizer
from wordbrush.conditioning.tokenizer import ClipTokenizer
from wordbrush.errors import RequestError
from wordbrush.networks.clip import CLIPTextModel
from wordbrush.networks.t5 import T5Encoder

DEV_LENGTH, SCHNELL_LENGTH = 512, 256
"""How many T5 tokens, with the end token, FLUX.1 dev and schnell were trained with."""


class FluxConditioner:
    """Turns prompts into T5's hidden states, always the same number of them, and CLIP-L's pooled vector.

    The prompt language is that of the other models, where it has a meaning. Weights multiply T5's states, as they do
    CLIP's, but their mean is not restored: it is near zero there, so that the quotient would be noise. CLIP's vector is
    that of the first 75 pieces, without weights. BREAK parts words and nothing else, since there are no chunks. There
    are no embeddings, and no layer to skip.

    Args:
        tokenizer, text_encoder: CLIP-L.
        tokenizer_2, text_encoder_2: T5.
        max_length: how many T5 tokens a prompt becomes, the end token included; words beyond are cut, and reported.
    """

    def __init__(
        self,
        *,
        tokenizer: ClipTokenizer,
        text_encoder: CLIPTextModel,
        tokenizer_2: T5Tokenizer,
        text_encoder_2: T5Encoder,
        max_length: int = DEV_LENGTH,
    ) -> None:
        self.tokenizer = tokenizer_2
        self.encoder = text_encoder_2
        self.max_length = max_length
        none = EmbeddingTable({}, {"text_encoder": text_encoder.config.hidden_size}, tokenizer.max_length - 2)
        self._clip = ClipText(tokenizer, text_encoder, none, role="text_encoder", norm=True)

    @torch.inference_mode()
    def encode(self, texts: Sequence[str], options: TextOptions = PLAIN, *, length: int | None = None) -> Conditioning:
        """One row a text: context (len(texts), max_length, D), pooled (len(texts), P).

        Every text goes through both encoders alone.

        Raises:
            RequestError: a weight is out of range, an embedding is asked for, or layers of CLIP are to be skipped.
        """
        if options.clip_skip not in (None, 1):
            raise RequestError(f"clip_skip={options.clip_skip} means nothing to this model; leave it out")
        size = self.max_length if length is None else max(length, self.max_length)
        context = torch.cat([self._context(text, options, size) for text in texts])
        states = self._clip.encode([[self._start(text, options)] for text in texts], 1, options)
        return Conditioning(context=context, pooled=torch.cat([state.pooled for state in states]))

    def encode_negative(
        self, texts: Sequence[str], options: TextOptions = PLAIN, *, length: int | None = None
    ) -> Conditioning:
        """As `encode`: an empty negative prompt is a text like any other."""
        return self.encode(texts, options, length=length)

    def length(self, text: str, options: TextOptions = PLAIN) -> int:
        """How long every context is."""
        return self.max_length

    def report(self, text: str, options: TextOptions = PLAIN) -> PromptReport:
        """What T5 can and cannot read of the text."""
        tokens, limit = self._tokens(text, options), self.max_length - 1
        weights = {token.index: (token.word, token.weight) for token in tokens if token.weight != 1.0}
        return PromptReport(
            pieces=len(tokens),
            limit=limit,
            cut=tuple({token.index: token.word for token in tokens[limit:]}.values()),
            weights=tuple(weights.values()),
        )

    def table(self, text: str, options: TextOptions = PLAIN) -> list[TokenRow]:
        """Every token of the sequence that T5 reads, then the pieces that were cut. Padding is one row."""
        tokens, limit = self._tokens(text, options), self.max_length - 1
        end = min(len(tokens), limit)
        rows = [_row(token, place) for place, token in enumerate(tokens[:limit])]
        rows.append(TokenRow(position=end, id=self.tokenizer.eos_id, text=EOS, word="", role="end"))
        if end < limit:
            padding = TokenRow(
                position=end + 1, id=self.tokenizer.pad_id, text=f"{PAD} × {limit - end}", word="", role="padding",
                positions=limit - end,
            )  # fmt: skip
            rows.append(padding)
        return [*rows, *(_row(token, None) for token in tokens[limit:])]

    def _start(self, text: str, options: TextOptions) -> Chunk:
        """As much of the text as CLIP reads at once, whatever breaks are in it."""
        pieces = [token for chunk in self._clip.reader.read(text, options).chunks for token in chunk]
        return tuple(pieces[: self._clip.reader.size])

    def _context(self, text: str, options: TextOptions, size: int) -> Tensor:
        """(1, size, D), with weights applied."""
        tokens = self._tokens(text, options)[: self.max_length - 1]
        ids = [*(token.id for token in tokens), self.tokenizer.eos_id]
        ids += [self.tokenizer.pad_id] * (size - len(ids))
        hidden = self.encoder(torch.tensor([ids], device=next(self.encoder.parameters()).device))
        if options.emphasis in ("original", "no norm"):
            hidden = emphasised(hidden, [token.weight for token in tokens], restore_mean=False)
        return hidden

    def _tokens(self, text: str, options: TextOptions) -> list[Token]:
        """Every piece of the text, without end and padding."""
        sections = syntax.literal(text) if options.emphasis == "none" else syntax.parse(text)
        numbers, tokens = count(), list[Token]()
        for run in (run for section in sections for run in section):
            pieces = self.tokenizer.pieces(run.text)
            written, index = spellings(run.text, pieces), dict[int, int]()
            for piece in pieces:
                if piece.word not in index:
                    index[piece.word] = next(numbers)
                word = written[piece.word]
                tokens.append(
                    Token(id=piece.id, text=piece.text, word=word, index=index[piece.word], weight=run.weight)
                )
        return tokens


def _row(token: Token, position: int | None) -> TokenRow:
    role = "cut" if position is None else "piece"
    return TokenRow(
        position=position, id=token.id, text=token.text, word=token.word, role=role, weight=token.weight,
        number=token.index, positions=int(position is not None),
    )  # fmt: skip
