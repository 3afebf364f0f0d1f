"""GPT-2's tokenizer: learnt, written, read again, and refused where its files are wrong."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from wordbrush.conditioning.gpt2_tokenizer import END_OF_TEXT, GPT2Tokenizer
from wordbrush.errors import ModelFileError
from wordbrush.formats.gpt2_folder import read_gpt2
from wordbrush.formats.library import embedded_folder

TEXTS = ["a fox on a blue background", "two foxes"] * 5


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for name, text in GPT2Tokenizer.learnt(TEXTS, 290).files(lower_case=True).items():
        (tmp_path / name).write_text(text, encoding="utf-8")
    return tmp_path


def test_a_learnt_vocabulary_spells_every_text(folder: Path) -> None:
    tokenizer = GPT2Tokenizer.from_folder(folder)
    assert len(tokenizer.vocab) <= 290
    assert sorted(tokenizer.vocab.values()) == list(range(len(tokenizer.vocab)))
    assert len(tokenizer.encode(" background")) < len(" background")
    for text in ("a fox", "  Ünïcode 狐\n", ""):
        assert tokenizer.decode(tokenizer.encode(text)) == text
    assert tokenizer.encode(f"a{END_OF_TEXT}")[-1] == tokenizer.end_id
    assert json.loads((folder / "tokenizer_config.json").read_text())["do_lower_case"] is True


def test_the_single_file_form_is_the_same(folder: Path, tmp_path_factory: pytest.TempPathFactory) -> None:
    tokenizer, place = GPT2Tokenizer.from_folder(folder), tmp_path_factory.mktemp("one")
    model = {"type": "BPE", "vocab": tokenizer.vocab, "merges": [" ".join(pair) for pair in tokenizer.merges]}
    (place / "tokenizer.json").write_text(json.dumps({"model": model, "added_tokens": []}))
    assert GPT2Tokenizer.from_folder(place).encode(TEXTS[0]) == tokenizer.encode(TEXTS[0])


@pytest.mark.parametrize(
    ("name", "text", "words"),
    [
        ("vocab.json", "{", "cannot be read"),
        ("vocab.json", '{"a": "b"}', "whole number"),
        ("vocab.json", '{"a": 1}', "has no <|endoftext|>"),
        ("merges.txt", "a b c\n", "not a pair"),
        ("merges.txt", "狐 狐\n", "do not fit"),
    ],
)
def test_files_that_are_wrong(folder: Path, name: str, text: str, words: str) -> None:
    (folder / name).write_text(text, encoding="utf-8")
    with pytest.raises(ModelFileError) as caught:
        GPT2Tokenizer.from_folder(folder)
    assert words in str(caught.value)


def test_models_that_are_none(tmp_path: Path) -> None:
    own = embedded_folder().with_name("scenes-expander")
    for path in own.iterdir():
        (tmp_path / path.name).write_bytes(path.read_bytes())
    config = json.loads((own / "config.json").read_text())
    for change, words in (
        ({"model_type": "llama"}, "of the kind 'llama'"),
        ({"n_head": 7}, "not a multiple of n_head=7"),
        ({"scale_attn_by_inverse_layer_idx": True}, "scale_attn_by_inverse_layer_idx=True is not supported"),
        ({"n_layer": 2}, "holds unexpected"),
        ({"vocab_size": 1500, "eos_token_id": 3}, "has shape"),
    ):
        (tmp_path / "config.json").write_text(json.dumps(config | change))
        with pytest.raises(ModelFileError) as caught:
            read_gpt2(tmp_path)
        assert words in str(caught.value)
