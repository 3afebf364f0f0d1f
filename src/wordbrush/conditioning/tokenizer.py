"""CLIP's tokenizer: byte-pair encoding of lower-cased words (Sennrich 2016; Radford 2021, §2.4).

A word's last piece carries the mark `</w>`. Every text becomes exactly `max_length` ids: a start token, at most
`max_length - 2` pieces, an end token, and padding.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tokenizers import AddedToken, Encoding, Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers

from wordbrush.errors import ModelFileError
from wordbrush.formats.json_file import read_json

WORD_END = "</w>"

# What counts as one word: English contractions, a run of letters, a single digit, a run of anything else but spaces.
WORDS = r"<\|startoftext\|>|<\|endoftext\|>|'s|'t|'re|'ve|'m|'ll|'d|[\p{L}]+|[\p{N}]|[^\s\p{L}\p{N}]+"

# Some files state "no limit" as an enormous number; CLIP's own limit then holds.
_CLIP_LENGTH = 77


@dataclass(frozen=True, kw_only=True)
class Piece:
    """One byte-pair piece of a text.

    Attributes:
        id: its number in the vocabulary.
        text: its spelling there; `</w>` ends a word.
        word: the index of the word it belongs to, counted over the text.
        start, end: where the piece's characters lie in the text.
    """

    id: int
    text: str
    word: int
    start: int
    end: int


@dataclass(frozen=True, kw_only=True)
class SpecialTokens:
    """The tokens with a role, as spelt in the vocabulary."""

    bos: str = "<|startoftext|>"
    eos: str = "<|endoftext|>"
    pad: str = "<|endoftext|>"
    unk: str = "<|endoftext|>"


class ClipTokenizer:
    """Text to token ids, the same ids as transformers' CLIPTokenizer for the same files.

    Args:
        vocab: piece -> id.
        merges: pairs of pieces that become one, most important first.
        special: the start, end, padding and unknown token.
        max_length: how many ids every text becomes.

    Raises:
        ModelFileError: a special token is not in the vocabulary, or a merge names pieces that are not.
    """

    def __init__(
        self, vocab: Mapping[str, int], merges: list[tuple[str, str]], *, special: SpecialTokens, max_length: int
    ) -> None:
        for role in ("bos", "eos", "pad", "unk"):
            token = getattr(special, role)
            if token not in vocab:
                raise ModelFileError(
                    f"the tokenizer's {role} token {token!r} is not in its vocabulary of {len(vocab)} pieces"
                )
        if max_length < 3:
            raise ModelFileError(f"model_max_length={max_length} leaves no room for a word; at least 3 is needed")
        self.vocab = dict(vocab)
        self.merges = list(merges)
        self.special = special
        self.max_length = max_length
        self.bos_id, self.eos_id, self.pad_id = (vocab[token] for token in (special.bos, special.eos, special.pad))
        try:
            self._backend = _byte_pair_encoder(self.vocab, self.merges, special)
        except Exception as error:  # the library raises nothing more special for a bad merge list
            raise ModelFileError(f"the tokenizer's merges do not fit its vocabulary: {error}") from error

    @classmethod
    def from_folder(cls, folder: Path) -> ClipTokenizer:
        """Reads `vocab.json` and `merges.txt`, or else `tokenizer.json`, with `tokenizer_config.json` beside it.

        Raises:
            ModelFileError: a file is missing or is not what it should be.
        """
        config = read_json(folder / "tokenizer_config.json") if (folder / "tokenizer_config.json").exists() else {}
        if (folder / "special_tokens_map.json").exists():
            config = read_json(folder / "special_tokens_map.json") | config
        if (folder / "vocab.json").exists():
            vocab, merges = read_json(folder / "vocab.json"), read_merges(folder / "merges.txt")
        else:
            vocab, merges = read_backend_file(folder / "tokenizer.json")
        if not all(isinstance(index, int) for index in vocab.values()):
            raise ModelFileError(f"the vocabulary in {folder} does not give every piece a whole number")
        default = SpecialTokens()
        special = SpecialTokens(
            bos=_token(config, "bos_token", default.bos),
            eos=_token(config, "eos_token", default.eos),
            pad=_token(config, "pad_token", default.pad),
            unk=_token(config, "unk_token", default.unk),
        )
        length = config.get("model_max_length", _CLIP_LENGTH)
        if not isinstance(length, int) or length > 1_000_000:
            length = _CLIP_LENGTH
        return cls(vocab, merges, special=special, max_length=length)

    def files(self) -> dict[str, str]:
        """The files of a tokenizer folder, name -> text, which transformers opens as CLIPTokenizer."""
        special = {f"{role}_token": getattr(self.special, role) for role in ("bos", "eos", "pad", "unk")}
        config = {
            "tokenizer_class": "CLIPTokenizer",
            "model_max_length": self.max_length,
            "do_lower_case": True,
            **special,
        }
        merges = "".join(f"{first} {second}\n" for first, second in self.merges)
        return {
            "vocab.json": json.dumps(self.vocab, ensure_ascii=False),
            "merges.txt": "#version: 0.2\n" + merges,
            "tokenizer_config.json": json.dumps(config, indent=2) + "\n",
            "special_tokens_map.json": json.dumps(special, indent=2) + "\n",
        }

    def pieces(self, text: str) -> list[Piece]:
        """Every piece of a text of any length, without start, end and padding."""
        encoding: Encoding = self._backend.encode(text, add_special_tokens=False)
        rows = zip(encoding.ids, encoding.tokens, encoding.word_ids, encoding.offsets, strict=True)
        return [
            # A special token typed into the text belongs to no word of the library's; it gets the number -1.
            Piece(id=index, text=token, word=-1 if word is None else word, start=start, end=end)
            for index, token, word, (start, end) in rows
        ]

    def encode(self, text: str) -> list[int]:
        """Exactly `max_length` ids; pieces past `max_length - 2` are cut."""
        return self.framed(self._backend.encode(text, add_special_tokens=False).ids[: self.max_length - 2])

    def framed(self, ids: Sequence[int]) -> list[int]:
        """At most `max_length - 2` ids, as exactly `max_length`: start, the ids, end, padding."""
        framed = [self.bos_id, *ids, self.eos_id]
        return framed + [self.pad_id] * (self.max_length - len(framed))


def _byte_pair_encoder(vocab: dict[str, int], merges: list[tuple[str, str]], special: SpecialTokens) -> Tokenizer:
    backend = Tokenizer(models.BPE(vocab=vocab, merges=merges, end_of_word_suffix=WORD_END, unk_token=special.unk))
    backend.normalizer = normalizers.Sequence(
        [normalizers.NFC(), normalizers.Replace(Regex(r"\s+"), " "), normalizers.Lowercase()]
    )
    # invert + removed: keep what the pattern matches and drop the spaces between
    words = pre_tokenizers.Split(Regex(WORDS), behavior="removed", invert=True)
    backend.pre_tokenizer = pre_tokenizers.Sequence([words, pre_tokenizers.ByteLevel(add_prefix_space=False)])
    backend.decoder = decoders.ByteLevel()
    named = dict.fromkeys((special.bos, special.eos, special.pad, special.unk))
    backend.add_special_tokens([AddedToken(token, normalized=False, special=True) for token in named])
    return backend


def read_merges(path: Path) -> list[tuple[str, str]]:
    """The pairs of a `merges.txt`, most important first. Raises `ModelFileError`."""
    try:
        lines = path.read_text(encoding="utf-8").split("\n")
    except FileNotFoundError as error:
        raise ModelFileError(f"the tokenizer file {path} is missing; copy its folder again") from error
    except (OSError, ValueError) as error:
        raise ModelFileError(f"the tokenizer file {path} cannot be read: {error}; copy it again") from error
    pairs = [tuple(line.split()) for line in lines if line.strip() and not line.startswith("#version")]
    for pair in pairs:
        if len(pair) != 2:
            line = " ".join(pair)[:40]
            raise ModelFileError(f"{path} holds the line {line!r}, which is not a pair of pieces; copy it again")
    return pairs  # type: ignore[return-value]


def read_backend_file(path: Path) -> tuple[dict[str, int], list[tuple[str, str]]]:
    """Vocabulary and merges from the single-file form that newer tools write. Raises `ModelFileError`."""
    content = read_json(path)
    try:
        model = content["model"]
        merges = [tuple(pair.split(" ")) if isinstance(pair, str) else tuple(pair) for pair in model["merges"]]
        if model["type"] != "BPE" or any(len(pair) != 2 for pair in merges):
            raise ValueError("it is not a byte-pair encoding")
        added = {token["content"]: token["id"] for token in content.get("added_tokens", [])}
        return {**model["vocab"], **added}, merges  # type: ignore[return-value]  # the lengths were checked
    except (KeyError, TypeError, ValueError) as error:
        raise ModelFileError(f"the tokenizer file {path} is no byte-pair tokenizer: {error}; copy it again") from error


def _token(config: Mapping[str, Any], name: str, default: str) -> str:
    """A special token, which files give as a text or as an object with its text in `content`."""
    value = config.get(name, default)
    if isinstance(value, dict):
        value = value.get("content")
    return value if isinstance(value, str) else default
