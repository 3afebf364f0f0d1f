"""One CLIP text encoder: chunks to hidden states, with weights applied."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from wordbrush.conditioning.conditioning import TextOptions
from wordbrush.conditioning.embeddings import EmbeddingTable
from wordbrush.conditioning.prompt.chunks import Chunk
from wordbrush.conditioning.reading import Reader
from wordbrush.conditioning.tokenizer import ClipTokenizer
from wordbrush.errors import RequestError
from wordbrush.networks.clip import CLIPTextModel, CLIPTextOutput

_NO_MEAN = 1e-5
"""A mean this small beside the deviation is rounding; those of trained encoders are a thousand times larger."""


@dataclass(frozen=True, kw_only=True)
class ClipStates:
    """What the encoder makes of one chunk, or of the chunks of one text.

    Attributes:
        hidden: (1, L, D), with weights applied.
        pooled: (1, D), of the first chunk: its end token after the last layer and the norm; weights do not change it.
        projected: (1, P), `pooled` projected; None for an encoder without projection.
    """

    hidden: Tensor
    pooled: Tensor
    projected: Tensor | None


class ClipText:
    """A tokenizer and the CLIP text encoder it belongs to.

    Every chunk goes through the encoder alone, so that its states do not depend on what is encoded beside it.

    Args:
        embeddings: those that texts may name.
        role: what the encoder is called there, "text_encoder" or "text_encoder_2".
        norm: whether the final layer norm follows the layer that is read.
    """

    def __init__(
        self, tokenizer: ClipTokenizer, encoder: CLIPTextModel, embeddings: EmbeddingTable, *, role: str, norm: bool
    ) -> None:
        self.encoder = encoder
        self.reader = Reader(tokenizer, embeddings)
        self.role = role
        self._norm = norm
        self._embeddings = embeddings

    def chunks(self, texts: Sequence[str], options: TextOptions, length: int | None) -> list[tuple[Chunk, ...]]:
        """The chunks of every text, as many for each: the last ones empty where a text needs fewer.

        length: how many tokens the chunks of a text have together at least, with start, end and padding.
        """
        read = [self.reader.read(text, options).chunks for text in texts]
        chunk_length = self.reader.tokenizer.max_length
        most = max([len(chunks) for chunks in read] + ([] if length is None else [-(-length // chunk_length)]))
        return [chunks + ((),) * (most - len(chunks)) for chunks in read]

    def encode(self, chunks: Sequence[Sequence[Chunk]], layer: int, options: TextOptions) -> list[ClipStates]:
        """The states of every text, from its chunks.

        layer: counted from the end; 1 is the last.

        Raises:
            RequestError: the encoder has not so many layers.
        """
        depth = self.encoder.config.num_hidden_layers
        if layer > depth:
            raise RequestError(f"clip_skip={layer} is more than the {depth} layers of the model's {self.role}")
        different = dict.fromkeys(chunk for text in chunks for chunk in text)
        states = {chunk: self._states(chunk, layer, options) for chunk in different}
        return [
            replace(states[text[0]], hidden=torch.cat([states[chunk].hidden for chunk in text], dim=1))
            for text in chunks
        ]

    def _states(self, chunk: Chunk, layer: int, options: TextOptions) -> ClipStates:
        out = self._forward(chunk)
        hidden = out.hidden_states[-layer]
        if self._norm:
            hidden = out.last_hidden_state if layer == 1 else self.encoder.text_model.final_layer_norm(hidden)
        if options.emphasis in ("original", "no norm"):
            weights = [1.0, *(token.weight for token in chunk)]
            hidden = emphasised(hidden, weights, restore_mean=options.emphasis == "original")
        return ClipStates(hidden=hidden, pooled=out.pooled, projected=out.text_embeds)

    def _forward(self, chunk: Chunk) -> CLIPTextOutput:
        device = next(self.encoder.parameters()).device
        ids = torch.tensor([self.reader.tokenizer.framed([token.id for token in chunk])], device=device)  # (1, L)
        if all(token.vector is None for token in chunk):
            return self.encoder(ids)
        tokens = self.encoder.text_model.embeddings.token_embedding(ids)  # (1, L, D)
        for place, token in enumerate(chunk, start=1):
            if token.vector is not None:
                tokens[0, place] = self._embeddings.vectors(token.text, self.role)[token.vector].to(tokens)
        return self.encoder(ids, tokens)


def emphasised(hidden: Tensor, weights: Sequence[float], *, restore_mean: bool) -> Tensor:
    """Multiplies every position's state with its weight.

    hidden: (1, L, D).
    weights: of the first positions; the others have 1.
    restore_mean: whether to scale everything so that the mean over all positions and channels is what it was. That
        keeps large weights from breaking pictures, as A1111 found; it has no deeper reason. Of states without a mean,
        as an untrained layer norm makes them, the quotient would be noise, and they are only multiplied.
    """
    if all(weight == 1.0 for weight in weights):
        return hidden
    factors = torch.ones(hidden.shape[1], dtype=torch.float64)
    factors[: len(weights)] = torch.tensor(weights, dtype=torch.float64)
    plain = hidden.to(torch.promote_types(hidden.dtype, torch.float32))
    result = plain * factors.to(plain)[None, :, None]
    mean = plain.mean()
    if restore_mean and mean.abs() > _NO_MEAN * plain.std():
        result = result * (mean / result.mean())
    return result.to(hidden.dtype)
