"""The same ids as transformers' CLIPTokenizer, for the same files."""

from __future__ import annotations

import random
from pathlib import Path

import pytest
from transformers import CLIPTokenizer

from wordbrush.conditioning.tokenizer import ClipTokenizer

TEXTS = (
    "", "a fox", "A FOX on  a\tblue\nbackground", "it's we're I'll don't", "3 cats, 12 dogs; 100%", "été İstanbul",
    "狐狸 and 🦊👩‍🚀", "e\u0301 NFC", "<|startoftext|> a <|endoftext|>", "zebra" * 40, "a fox " * 60, "  ", "...!?",
    "x" * 500, "straße",
    "\u00a0nbsp\u2003em", "Ω≈ç√ ﬁ", "snake_case-and-more",
)  # fmt: skip


@pytest.fixture(scope="module", params=["files", "saved"])
def pair(
    request: pytest.FixtureRequest, tiny_tokenizer_files: Path, tiny_sd_folder: Path
) -> tuple[ClipTokenizer, CLIPTokenizer]:
    """Ours and theirs, from vocab.json and merges.txt, and from what transformers itself saved."""
    if request.param == "saved":
        folder = tiny_sd_folder / "tokenizer"
        return ClipTokenizer.from_folder(folder), CLIPTokenizer.from_pretrained(folder)
    return ClipTokenizer.from_folder(tiny_tokenizer_files), CLIPTokenizer.from_pretrained(
        tiny_tokenizer_files, model_max_length=77
    )


def reference_ids(tokenizer: CLIPTokenizer, text: str, length: int) -> list[int]:
    return list(tokenizer(text, padding="max_length", truncation=True, max_length=length).input_ids)


@pytest.mark.parametrize("text", TEXTS)
def test_same_ids(pair: tuple[ClipTokenizer, CLIPTokenizer], text: str) -> None:
    ours, theirs = pair
    assert ours.encode(text) == reference_ids(theirs, text, ours.max_length)


def test_same_ids_for_random_texts(pair: tuple[ClipTokenizer, CLIPTokenizer]) -> None:
    ours, theirs = pair
    draw = random.Random(0)
    alphabet = "abcdefoxgrn ABC'123,.!?éß狐🦊\t-_"
    for _ in range(200):
        text = "".join(draw.choices(alphabet, k=draw.randrange(60)))
        assert ours.encode(text) == reference_ids(theirs, text, ours.max_length), text


def test_our_files_open_in_transformers(pair: tuple[ClipTokenizer, CLIPTokenizer], tmp_path: Path) -> None:
    ours = pair[0]
    for name, text in ours.files().items():
        (tmp_path / name).write_text(text, encoding="utf-8")
    again = CLIPTokenizer.from_pretrained(tmp_path)
    assert again.model_max_length == ours.max_length
    for text in TEXTS:
        assert reference_ids(again, text, ours.max_length) == ours.encode(text)
