"""The tokenizer: shapes, special tokens, files, and what is refused."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from wordbrush.conditioning.tokenizer import ClipTokenizer, SpecialTokens
from wordbrush.errors import ModelFileError


@pytest.fixture
def folder(tiny_tokenizer_files: Path, tmp_path: Path) -> Path:
    """A folder of its own, to be damaged."""
    return Path(shutil.copytree(tiny_tokenizer_files, tmp_path / "tokenizer"))


def test_every_text_becomes_max_length_ids(folder: Path) -> None:
    (folder / "tokenizer_config.json").write_text('{"model_max_length": 10}')
    tokenizer = ClipTokenizer.from_folder(folder)
    for text in ("", "a fox", "a fox " * 50, "狐🦊"):
        ids = tokenizer.encode(text)
        assert len(ids) == 10
        assert ids[0] == tokenizer.bos_id
        assert tokenizer.eos_id in ids[1:]
    assert tokenizer.encode("")[1:] == [tokenizer.eos_id] + [tokenizer.pad_id] * 8
    assert tokenizer.encode("a fox " * 50)[-1] == tokenizer.eos_id


def test_pieces_know_their_word_and_place(folder: Path) -> None:
    text = "A  zebra's 🦊"
    pieces = ClipTokenizer.from_folder(folder).pieces(text)
    words: dict[int, str] = {}
    for piece in pieces:
        words[piece.word] = words.get(piece.word, "") + piece.text
    assert list(words.values())[:3] == ["a</w>", "zebra</w>", "'s</w>"]
    assert {text[piece.start : piece.end].strip() for piece in pieces if piece.word == 3} == {"🦊"}


def test_length_defaults_to_clips_where_a_file_says_no_limit(folder: Path) -> None:
    assert ClipTokenizer.from_folder(folder).max_length == 77
    (folder / "tokenizer_config.json").write_text('{"model_max_length": 1000000000000000019884624838656}')
    assert ClipTokenizer.from_folder(folder).max_length == 77


def test_the_padding_token_may_be_another(folder: Path) -> None:
    (folder / "special_tokens_map.json").write_text('{"pad_token": {"content": "!"}}')
    tokenizer = ClipTokenizer.from_folder(folder)
    assert tokenizer.encode("a")[-1] == tokenizer.vocab["!"]


def test_files_open_again_as_the_same_tokenizer(folder: Path, tmp_path: Path) -> None:
    tokenizer = ClipTokenizer.from_folder(folder)
    for name, text in tokenizer.files().items():
        (tmp_path / name).write_text(text, encoding="utf-8")
    again = ClipTokenizer.from_folder(tmp_path)
    assert (again.vocab, again.merges, again.special, again.max_length) == (
        tokenizer.vocab, tokenizer.merges, tokenizer.special, tokenizer.max_length,
    )  # fmt: skip


@pytest.mark.parametrize(
    ("name", "content", "words"),
    [
        ("vocab.json", None, "tokenizer.json is missing"),
        ("vocab.json", "{", "vocab.json cannot be read"),
        ("vocab.json", "[]", "does not hold a JSON object"),
        ("vocab.json", '{"a": "b"}', "whole number"),
        ("vocab.json", '{"a": 1}', "bos token"),
        ("merges.txt", None, "merges.txt is missing"),
        ("merges.txt", "a b c\n", "'a b c'"),
        ("merges.txt", "狐 狸\n", "do not fit"),
    ],
)
def test_damaged_files_are_named(folder: Path, name: str, content: str | None, words: str) -> None:
    if content is None:
        (folder / name).unlink()
    else:
        (folder / name).write_text(content, encoding="utf-8")
    with pytest.raises(ModelFileError, match=words):
        ClipTokenizer.from_folder(folder)


def test_a_length_without_room_for_a_word_is_refused(folder: Path) -> None:
    vocab = json.loads((folder / "vocab.json").read_text(encoding="utf-8"))
    with pytest.raises(ModelFileError, match="model_max_length=2"):
        ClipTokenizer(vocab, [], special=SpecialTokens(), max_length=2)
