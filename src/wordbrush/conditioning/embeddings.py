"""Textual-inversion embeddings by name (Gal 2022): which ones a text names, and their vectors for each encoder."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from functools import cached_property

from torch import Tensor

from wordbrush.errors import RequestError

Embeddings = Mapping[str, Mapping[str, Tensor]]
"""Name -> encoder ("text_encoder", "text_encoder_2") -> vectors (n, D). Values may be read from disk when asked for."""

_EXPLICIT = re.compile(r"\bembedding:\s*")
_EXTENSION = re.compile(r"\.(?:safetensors|sft|pt|bin|png|webp)\b", re.IGNORECASE)
_UNKNOWN_NAME = re.compile(r"[^\s,]*")


class EmbeddingTable:
    """Embeddings by name, checked against a model's encoders when they are first used.

    Args:
        embeddings: those to be had.
        widths: encoder -> length of its token embeddings; an embedding must fit them all.
        longest: how many vectors fit into a chunk.
    """

    def __init__(self, embeddings: Embeddings, widths: Mapping[str, int], longest: int) -> None:
        self._embeddings = embeddings
        self._widths = dict(widths)
        self._longest = longest
        self._loaded: dict[str, Mapping[str, Tensor]] = {}
        self._unfit: dict[str, str] = {}  # name -> why

    @cached_property
    def names(self) -> tuple[str, ...]:
        """Of all that are to be had; folders are searched for them only when a text is read."""
        return tuple(self._embeddings)

    def unfit(self, name: str) -> str | None:
        """Why this model cannot use the embedding; None when it can.

        Raises:
            ModelFileError: its file is damaged.
        """
        if name not in self._loaded and name not in self._unfit:
            vectors = self._embeddings[name]
            reason = self._reason(vectors)
            if reason is None:
                self._loaded[name] = vectors
            else:
                self._unfit[name] = reason
        return self._unfit.get(name)

    def vectors(self, name: str, encoder: str) -> Tensor:
        """(n, D) of an embedding that fits."""
        return self._loaded[name][encoder]

    def count(self, name: str) -> int:
        """How many positions an embedding that fits takes."""
        return len(self.vectors(name, next(iter(self._widths))))

    def split(self, text: str) -> Iterator[tuple[str, str | None]]:
        """Cuts a text at every `embedding:name`. Yields (text before, name), and at last (the rest, None).

        The name may have its file's extension; among several that fit, the longest counts.

        Raises:
            RequestError: there is no such embedding, or it does not fit the model.
        """
        start = 0
        while (match := _EXPLICIT.search(text, start)) is not None:
            name, end = self._name_at(text, match.end())
            reason = self.unfit(name)
            if reason is not None:
                raise RequestError(f"embedding:{name} cannot be used: {reason}")
            yield text[start : match.start()], name
            start = end
        yield text[start:], None

    def _name_at(self, text: str, start: int) -> tuple[str, int]:
        """The known name that stands at `start`, and where it ends."""
        for name in sorted(self.names, key=len, reverse=True):
            end = start + len(name)
            if text[start:end].lower() != name.lower():
                continue
            extension = _EXTENSION.match(text, end)
            end = end if extension is None else extension.end()
            if end == len(text) or not (text[end].isalnum() or text[end] in "_-"):
                return name, end
        given = _UNKNOWN_NAME.match(text, start)
        known = ", ".join(sorted(self.names)[:8]) or "none"
        raise RequestError(f"there is no embedding {given.group() if given else ''!r}; known: {known}")

    def _reason(self, vectors: Mapping[str, Tensor]) -> str | None:
        """Why vectors do not fit the encoders; None when they do."""
        shapes = {encoder: tuple(vectors[encoder].shape) for encoder in self._widths if encoder in vectors}
        for encoder, width in self._widths.items():
            if encoder not in shapes:
                return f"it has no vectors for the model's {encoder}, so it belongs to another kind of model"
            if len(shapes[encoder]) != 2 or shapes[encoder][1] != width:
                return f"its vectors for {encoder} have shape {shapes[encoder]}, this model needs (n, {width})"
        if len(vectors) > len(shapes) and "text_encoder_2" not in self._widths:
            return "it was made for a model with two text encoders, this one has one"
        counts = {shape[0] for shape in shapes.values()}
        if len(counts) != 1:
            return f"it has different numbers of vectors for the encoders, {shapes}"
        if not 1 <= min(counts) <= self._longest:
            return f"it has {min(counts)} vectors, this model takes 1 to {self._longest} in a chunk"
        return None
