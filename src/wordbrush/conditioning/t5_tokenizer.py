"""T5's tokenizer: the most likely way to cut a text into pieces (Kudo 2018, unigram language model).

A piece that begins a word carries the mark `▁`. Every text becomes exactly as many ids as asked for: its pieces, an end
token, and padding.
"""

from __future__ import annotations

import base64
import json
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from tokenizers import AddedToken, Tokenizer, decoders, models, normalizers, pre_tokenizers, processors

from wordbrush.conditioning.sentencepiece_model import (
    CONTROL,
    UNKNOWN,
    USER_DEFINED,
    check_charsmap,
    check_scores,
    read_sentencepiece,
)
from wordbrush.conditioning.tokenizer import Piece
from wordbrush.errors import ModelFileError
from wordbrush.formats.json_file import read_json

WORD_START = "▁"
EOS, PAD, UNK = _NAMED = "</s>", "<pad>", "<unk>"

# spiece.model leaves these pieces out, which stand for gaps in T5's training texts; the highest number comes first.
_SENTINEL = "<extra_id_{}>"
_SENTINELS = 100
_MAX_LENGTH = 512  # T5's training length, which files state though the network has no limit


class T5Tokenizer:
    """Text to token ids, the same ids as transformers' T5Tokenizer for the same files.

    Args:
        pieces: every piece and its score, in the order of their ids.
        unk_id: the id for what no piece covers.
        charsmap: SentencePiece's compiled rules that normalise characters; empty for none.
        added: tokens that a text is cut at before anything else; each must be a piece, or continue the row of ids.

    Raises:
        ModelFileError: the pieces lack an end or padding token, or they or the rules are damaged.
    """

    def __init__(
        self, pieces: Sequence[tuple[str, float]], *, unk_id: int, charsmap: bytes, added: Sequence[AddedToken] = ()
    ) -> None:
        try:
            self._backend = _unigram(tuple(pieces), unk_id, charsmap, added)
        except Exception as error:  # the library raises nothing more special for a bad vocabulary
            raise ModelFileError(f"the T5 tokenizer cannot be used: {error}") from error
        self.vocab: dict[str, int] = self._backend.get_vocab()
        self.eos_id, self.pad_id = self.vocab[EOS], self.vocab[PAD]

    @classmethod
    def from_folder(cls, folder: Path) -> T5Tokenizer:
        """Reads `tokenizer.json`, or else `spiece.model`, with `tokenizer_config.json` beside it.

        Raises:
            ModelFileError: a file is missing or is not what it should be.
        """
        config = read_json(folder / "tokenizer_config.json") if (folder / "tokenizer_config.json").exists() else {}
        if (folder / "tokenizer.json").exists():
            path = folder / "tokenizer.json"
            parts = _from_backend_file(path, config)
        elif (folder / "spiece.model").exists():
            path = folder / "spiece.model"
            parts = _from_sentencepiece(path, config)
        else:
            raise ModelFileError(
                f"{folder} holds neither tokenizer.json nor spiece.model; copy T5's tokenizer folder there"
            )
        try:
            return cls(**parts)
        except ModelFileError as error:
            raise ModelFileError(f"{path}: {error}; copy T5's tokenizer folder again") from error

    def files(self) -> dict[str, str]:
        """The files of a tokenizer folder, name -> text, which transformers opens as T5Tokenizer."""
        config = {
            "tokenizer_class": "T5Tokenizer",
            "model_max_length": _MAX_LENGTH,
            "eos_token": EOS,
            "pad_token": PAD,
            "unk_token": UNK,
            "extra_ids": sum(piece not in _NAMED and _is_special(piece) for piece in self.vocab),
        }
        return {
            "tokenizer.json": self._backend.to_str(pretty=True),
            "tokenizer_config.json": json.dumps(config, indent=2) + "\n",
        }

    def pieces(self, text: str) -> list[Piece]:
        """Every piece of a text of any length, without end and padding."""
        encoding = self._backend.encode(text, add_special_tokens=False)
        rows = zip(encoding.ids, encoding.tokens, encoding.word_ids, encoding.offsets, strict=True)
        return [
            # a token of no word of the library's gets the number -1
            Piece(id=index, text=token, word=-1 if word is None else word, start=start, end=end)
            for index, token, word, (start, end) in rows
        ]

    def encode(self, text: str, max_length: int) -> list[int]:
        """Exactly `max_length` ids; pieces past `max_length - 1` are cut.

        Raises:
            ValueError: max_length leaves no room for the end token.
        """
        if max_length < 1:
            raise ValueError(f"max_length={max_length} leaves no room for the end token; at least 1 is needed")
        inner = self._backend.encode(text, add_special_tokens=False).ids[: max_length - 1]
        return [*inner, self.eos_id] + [self.pad_id] * (max_length - 1 - len(inner))


def _unigram(
    pieces: tuple[tuple[str, float], ...], unk_id: int, charsmap: bytes, added: Sequence[AddedToken]
) -> Tokenizer:
    check_scores(pieces)
    for token in (EOS, PAD):
        if all(token != piece for piece, _ in pieces):
            raise ValueError(f"the token {token!r} is not among its {len(pieces)} pieces")
    backend = Tokenizer(models.Unigram(list(pieces), unk_id=unk_id, byte_fallback=False))
    if charsmap:
        check_charsmap(charsmap)
        backend.normalizer = normalizers.Precompiled(charsmap)
    backend.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.WhitespaceSplit(), pre_tokenizers.Metaspace(replacement=WORD_START, prepend_scheme="always")]
    )
    backend.decoder = decoders.Metaspace(replacement=WORD_START, prepend_scheme="always")
    backend.add_tokens(list(added))
    end = backend.token_to_id(EOS)
    backend.post_processor = processors.TemplateProcessing(single=f"$A {EOS}", special_tokens=[(EOS, end)])
    return backend


def _from_sentencepiece(path: Path, config: Mapping[str, Any]) -> dict[str, Any]:
    """The constructor's arguments from a spiece.model."""
    model = read_sentencepiece(path)
    if model.kinds.count(UNKNOWN) != 1:
        raise ModelFileError(
            f"the tokenizer file {path} has {model.kinds.count(UNKNOWN)} unknown pieces in place of one"
        )
    count = config.get("extra_ids", _SENTINELS)
    if not isinstance(count, int) or not 0 <= count <= 10_000:
        raise ModelFileError(
            f"{path.parent / 'tokenizer_config.json'} has extra_ids={count!r}, which is no number of pieces"
        )
    sentinels = [_SENTINEL.format(number) for number in reversed(range(count))]
    named = [(piece, kind) for (piece, _), kind in zip(model.pieces, model.kinds, strict=True)]
    special = [piece for piece, kind in named if kind in (CONTROL, UNKNOWN)]
    unbroken = [piece for piece, kind in named if kind == USER_DEFINED]
    return {
        "pieces": [*model.pieces, *((piece, 0.0) for piece in sentinels)],
        "unk_id": model.kinds.index(UNKNOWN),
        "charsmap": model.charsmap,
        "added": [AddedToken(piece, normalized=False, special=True) for piece in [*special, *sentinels]]
        + [AddedToken(piece, normalized=False, special=False) for piece in unbroken],
    }


def _from_backend_file(path: Path, config: Mapping[str, Any]) -> dict[str, Any]:
    """The constructor's arguments from the single-file form that newer tools write."""
    content = read_json(path)
    try:
        model = content["model"]
        if model["type"] != "Unigram":
            raise ValueError(f"its model is a {model['type']}")
        pieces = [(str(piece), float(score)) for piece, score in model["vocab"]]
        ids = {piece: index for index, (piece, _) in enumerate(pieces)}
        added = {ids[piece]: {"content": piece, "special": True} for piece in ids if _is_special(piece)}
        if "added_tokens_decoder" in config:  # where both files list them, this list counts
            added |= {int(index): token for index, token in config["added_tokens_decoder"].items()}
        else:
            added |= {int(token["id"]): token for token in content.get("added_tokens") or ()}
        for index in sorted(added):
            token = str(added[index]["content"])
            if ids.setdefault(token, len(ids)) != index:
                raise ValueError(f"the added token {token!r} has the id {index}, where {ids[token]} was expected")
        return {
            "pieces": pieces,
            "unk_id": int(model["unk_id"]),
            "charsmap": _charsmap(content.get("normalizer")),
            "added": [_added_token(added[index]) for index in sorted(added)],
        }
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise ModelFileError(f"the tokenizer file {path} is not a T5 tokenizer: {error}") from error


def _charsmap(normalizer: Mapping[str, Any] | None) -> bytes:
    """The compiled rules in a normaliser, which may be a row of several."""
    for part in (normalizer or {}).get("normalizers", [normalizer]):
        if part is not None and part["type"] == "Precompiled":
            return base64.b64decode(part["precompiled_charsmap"], validate=True)
    return b""


def _is_special(piece: str) -> bool:
    return piece in _NAMED or re.fullmatch(r"<extra_id_\d+>", piece) is not None


def _added_token(token: Mapping[str, Any]) -> AddedToken:
    flags = ("single_word", "lstrip", "rstrip", "normalized", "special")
    return AddedToken(str(token["content"]), **{flag: bool(token.get(flag, False)) for flag in flags})
