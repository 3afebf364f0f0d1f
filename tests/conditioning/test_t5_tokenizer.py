"""T5's tokenizer: lengths, special tokens, both kinds of file, and what is refused."""

from __future__ import annotations

import json
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from tests.conditioning import spiece

from wordbrush.conditioning.sentencepiece_model import read_sentencepiece
from wordbrush.conditioning.t5_tokenizer import T5Tokenizer
from wordbrush.errors import ModelFileError

RULES = spiece.compile_rules(spiece.RULES)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "spiece.model").write_bytes(spiece.model(rules=RULES))
    return tmp_path


@pytest.fixture
def json_folder(folder: Path) -> Path:
    """The same tokenizer as a tokenizer.json."""
    for name, text in T5Tokenizer.from_folder(folder).files().items():
        (folder / name).write_text(text, encoding="utf-8")
    (folder / "spiece.model").unlink()
    return folder


def _texts(tokenizer: T5Tokenizer, text: str) -> list[str]:
    return [piece.text for piece in tokenizer.pieces(text)]


def test_the_file_says_its_pieces_and_rules(folder: Path) -> None:
    model = read_sentencepiece(folder / "spiece.model")
    assert [text for text, _ in model.pieces] == [text for text, _, _ in spiece.PIECES]
    assert [score for _, score in model.pieces] == pytest.approx([score for _, score, _ in spiece.PIECES])
    assert model.kinds == tuple(kind for _, _, kind in spiece.PIECES)
    assert model.charsmap == RULES


def test_every_text_becomes_as_many_ids_as_asked_for(folder: Path) -> None:
    tokenizer = T5Tokenizer.from_folder(folder)
    assert (tokenizer.pad_id, tokenizer.eos_id) == (0, 1)
    assert tokenizer.encode("", 4) == [1, 0, 0, 0]
    assert tokenizer.encode("the fox", 5) == [5, 6, 1, 0, 0]
    assert tokenizer.encode("the fox on a blue ground", 4) == [5, 6, 7, 1]
    assert tokenizer.encode("the fox", 1) == [1]
    with pytest.raises(ValueError, match="max_length=0"):
        tokenizer.encode("the fox", 0)


def test_the_most_likely_cut_wins(folder: Path) -> None:
    tokenizer = T5Tokenizer.from_folder(folder)
    assert _texts(tokenizer, "a background") == ["▁a", "▁back", "ground"]
    assert _texts(tokenizer, "cats") == ["▁cat", "s"]
    assert _texts(tokenizer, "seas") == ["▁", "s", "e", "a", "s"]


def test_characters_are_normalised_before(folder: Path) -> None:
    tokenizer = T5Tokenizer.from_folder(folder)
    assert _texts(tokenizer, "\tﬁ½\u00a0\u200bＡ e\u0301\n") == ["▁fi", "1", "⁄2", "▁", "A", "▁", "é"]


def test_what_no_piece_covers_is_unknown_and_marks_in_the_text_are_whole(folder: Path) -> None:
    tokenizer = T5Tokenizer.from_folder(folder)
    assert tokenizer.encode("狐 fox", 5) == [3, 2, 6, 1, 0]
    last = len(spiece.PIECES) + 99
    assert tokenizer.encode("<extra_id_0><extra_id_99></s>", 4) == [last, last - 99, 1, 1]
    assert "<wide>" in _texts(tokenizer, "fox<wide>cat")


def test_a_piece_knows_its_word_and_place(folder: Path) -> None:
    text = "blue background</s>"
    pieces = T5Tokenizer.from_folder(folder).pieces(text)
    assert [text[piece.start : piece.end].strip() for piece in pieces] == ["blue", "back", "ground", "</s>"]
    assert [piece.word for piece in pieces] == [0, 1, 1, 2]


def test_the_number_of_sentinels_is_the_configs(folder: Path) -> None:
    (folder / "tokenizer_config.json").write_text('{"extra_ids": 3}')
    assert len(T5Tokenizer.from_folder(folder).vocab) == len(spiece.PIECES) + 3


def test_files_open_again_as_the_same_tokenizer(folder: Path, tmp_path_factory: pytest.TempPathFactory) -> None:
    tokenizer, place = T5Tokenizer.from_folder(folder), tmp_path_factory.mktemp("again")
    for name, text in tokenizer.files().items():
        (place / name).write_text(text, encoding="utf-8")
    again = T5Tokenizer.from_folder(place)
    assert again.files() == tokenizer.files()
    assert again.encode("the ﬁ<extra_id_7>", 9) == tokenizer.encode("the ﬁ<extra_id_7>", 9)


def test_a_folder_without_files_says_what_it_lacks(tmp_path: Path) -> None:
    with pytest.raises(ModelFileError, match=r"neither tokenizer\.json nor spiece\.model"):
        T5Tokenizer.from_folder(tmp_path)


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"", "0 unknown pieces"),
        (spiece.model()[:100], "damaged"),
        (b"\xff" * 20, "longer than ten bytes"),
        (spiece.model()[:-1], "bytes before its end"),
        (b"\x0b", "wire type 3"),
        (spiece.field(1, 7), "does not have the type"),
        (spiece.field(1, spiece.field(1, b"\xff\xfe")), "damaged"),
        (spiece.model(algorithm=2), "unigram"),
        (spiece.model(spiece.PIECES[1:]), "'<pad>' is not among"),
        (spiece.model([*spiece.PIECES, ("", -1.0, 1)]), "piece 52 is ''"),
        (spiece.model([*spiece.PIECES, ("ü", float("nan"), 1)]), "score nan"),
        (spiece.model(rules=RULES[:-1]), "length"),
        (spiece.model(rules=RULES[:4000]), "length"),
        (spiece.model(rules=RULES[:6] + b"\xff\xff" + RULES[8:]), "character rules"),
    ],
)
def test_a_damaged_sentencepiece_file_is_named(folder: Path, content: bytes, words: str) -> None:
    (folder / "spiece.model").write_bytes(content)
    with pytest.raises(ModelFileError, match=f"spiece.model.*{words}"):
        T5Tokenizer.from_folder(folder)


def test_a_file_with_any_bytes_changed_opens_or_is_refused(folder: Path) -> None:
    draw, whole = random.Random(0), spiece.model(rules=spiece.compile_rules({"ﬁ": "fi", "½": "1⁄2"}))
    refused = 0
    for _ in range(300):
        content = bytearray(whole)
        for _ in range(draw.choice((1, 3, 100))):
            content[draw.randrange(len(content))] = draw.randrange(256)
        (folder / "spiece.model").write_bytes(content[: draw.choice((len(content), draw.randrange(len(content))))])
        try:
            tokenizer = T5Tokenizer.from_folder(folder)
        except ModelFileError:
            refused += 1
        else:
            assert len(tokenizer.encode("the ﬁ ½ on a 狐 background", 9)) == 9
    assert 100 < refused < 300


def _set(**values: Any) -> Callable[[dict[str, Any]], None]:
    return lambda content: content["model"].update(values)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda content: content.pop("model"), "not a T5 tokenizer"),
        (_set(type="BPE"), "its model is a BPE"),
        (_set(vocab=[]), "where 3 was expected"),
        (_set(vocab={"a": 1}), "not a T5 tokenizer"),
        (_set(unk_id=None), "not a T5 tokenizer"),
        (_set(unk_id=10_000), "cannot be used"),
        (lambda content: content.update(normalizer={"type": "Precompiled", "precompiled_charsmap": "§"}), "not a T5"),
        (lambda content: content.update(normalizer={"type": "Precompiled", "precompiled_charsmap": "AAAA"}), "length"),
        (lambda content: content["added_tokens"].append({"id": 9, "content": "<new>"}), "id 9, where"),
    ],
)
def test_a_damaged_json_file_is_named(json_folder: Path, change: Callable[[dict[str, Any]], None], words: str) -> None:
    path = json_folder / "tokenizer.json"
    content = json.loads(path.read_text(encoding="utf-8"))
    change(content)
    path.write_text(json.dumps(content), encoding="utf-8")
    with pytest.raises(ModelFileError, match=f"tokenizer.json.*({words})"):
        T5Tokenizer.from_folder(json_folder)
