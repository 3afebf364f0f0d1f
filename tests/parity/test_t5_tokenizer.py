"""The same ids as transformers' T5Tokenizer, for the same files."""

from __future__ import annotations

import importlib
import json
import random
from collections.abc import Iterator
from pathlib import Path

import pytest
import transformers
from tests.conditioning import spiece
from transformers.utils import sentencepiece_model_pb2_new

from wordbrush.conditioning.t5_tokenizer import T5Tokenizer

TEXTS = (
    "", "a fox", "the FOX on  a\tblue\nbackground", "cat's, 3 cats", "été e\u0301té ﬁn ½ Ａ…", "狐狸 and 🦊👩‍🚀",
    "  lead", "trail  ", "\u00a0nbsp\u2003em\u200b", "▁mark ▁▁", "fox" * 40, "a <extra_id_3> fox", "</s>a",
    "<pad> <unk>x", "a <wide> cat", "<extra_id_0><extra_id_99>",
)  # fmt: skip


@pytest.fixture(scope="module", params=["spiece", "saved", "ours", "flags"])
def folder(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A spiece.model; what transformers saved of it; what we saved; and added tokens that swallow spaces."""
    place = tmp_path_factory.mktemp("t5")
    (place / "spiece.model").write_bytes(spiece.model(rules=spiece.compile_rules(spiece.RULES)))
    if request.param == "saved":
        transformers.T5Tokenizer.from_pretrained(place).save_pretrained(place)
    elif request.param in ("ours", "flags"):
        for name, text in T5Tokenizer.from_folder(place).files().items():
            (place / name).write_text(text, encoding="utf-8")
    if request.param == "flags":
        path = place / "tokenizer_config.json"
        content = json.loads(path.read_text(encoding="utf-8"))
        token = {"content": "<extra_id_3>", "lstrip": True, "rstrip": True, "normalized": False, "special": True}
        content["added_tokens_decoder"] = {str(len(spiece.PIECES) + 96): token | {"single_word": False}}
        path.write_text(json.dumps(content), encoding="utf-8")
    if request.param != "spiece":
        (place / "spiece.model").unlink()
    return place


@pytest.fixture(scope="module", autouse=True)
def _without_the_library() -> Iterator[None]:
    """transformers asks for the sentencepiece package before it reads the file, and then reads it without."""
    reading = importlib.import_module("transformers.convert_slow_tokenizer")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(reading, "requires_backends", lambda *_: None)
        yield


def _reference_ids(tokenizer: transformers.T5Tokenizer, text: str, length: int) -> list[int]:
    return list(tokenizer(text, padding="max_length", truncation=True, max_length=length).input_ids)


def test_the_file_of_the_tests_is_a_true_one() -> None:
    message = sentencepiece_model_pb2_new.ModelProto()
    message.ParseFromString(spiece.model(rules=b"rules"))
    assert [(piece.piece, piece.type) for piece in message.pieces] == [(text, kind) for text, _, kind in spiece.PIECES]
    assert [piece.score for piece in message.pieces] == pytest.approx([score for _, score, _ in spiece.PIECES])
    assert (message.trainer_spec.model_type, message.trainer_spec.unk_id) == (1, 2)
    assert message.normalizer_spec.precompiled_charsmap == b"rules"


def test_same_ids(folder: Path) -> None:
    ours, theirs = T5Tokenizer.from_folder(folder), transformers.T5Tokenizer.from_pretrained(folder)
    draw = random.Random(0)
    alphabet = "aabcdefoxgrn ,.'-éß狐🦊\t\u00a0ﬁ½Ａ…▁"
    texts = [*TEXTS, *("".join(draw.choices(alphabet, k=draw.randrange(60))) for _ in range(200))]
    for text in texts:
        assert ours.encode(text, 24) == _reference_ids(theirs, text, 24), text
