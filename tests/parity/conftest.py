"""Tiny models of every family, made by diffusers once for all parity tests."""

from __future__ import annotations

from pathlib import Path

import pytest
from tests.conditioning import spiece
from tests.parity.families import Maker

from wordbrush.conditioning.t5_tokenizer import T5Tokenizer


@pytest.fixture(scope="session")
def tiny_t5_tokenizer(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a small tokenizer of T5's kind."""
    return write_t5_tokenizer(tmp_path_factory.mktemp("t5"))


def write_t5_tokenizer(folder: Path) -> Path:
    """Fills the folder of `tiny_t5_tokenizer`."""
    (folder / "spiece.model").write_bytes(spiece.model(rules=spiece.compile_rules(spiece.RULES)))
    for name, text in T5Tokenizer.from_folder(folder).files().items():
        (folder / name).write_text(text, encoding="utf-8")
    (folder / "spiece.model").unlink()
    return folder


@pytest.fixture(scope="session")
def make_family(
    tmp_path_factory: pytest.TempPathFactory, tiny_tokenizer_files: Path, tiny_t5_tokenizer: Path
) -> Maker:
    """Name of a family -> its folder."""
    return Maker(tmp_path_factory.mktemp("families"), tiny_tokenizer_files, tiny_t5_tokenizer)
