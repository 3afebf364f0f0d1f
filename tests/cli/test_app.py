"""The command line as a whole."""

from __future__ import annotations

import re
import subprocess
import sys

import pytest
from typer.main import get_command

import wordbrush
from wordbrush.cli import app as module
from wordbrush.errors import RequestError, WorkFailed

from .conftest import Run


def test_version_and_help(run: Run) -> None:
    assert run("--version").stdout == f"wordbrush {wordbrush.__version__}\n"
    assert "generate" in run("--help").stdout
    assert run().exit_code == 2
    assert run("wobble").exit_code == 2


def commands() -> list[tuple[str, ...]]:
    """Every command's words, those of groups in groups too."""

    def below(command: object, words: tuple[str, ...]) -> list[tuple[str, ...]]:
        inner = getattr(command, "commands", None)
        return [words] if inner is None else [one for name in inner for one in below(inner[name], (*words, name))]

    return below(get_command(module.make_app()), ())


@pytest.mark.parametrize("words", commands(), ids=" ".join)
def test_every_help_shows_an_example_of_that_command(run: Run, words: tuple[str, ...]) -> None:
    result = run(*words, "--help")
    assert result.exit_code == 0
    text = " ".join(result.stdout.split())
    assert re.search(rf"Example: wordbrush {' '.join(words)}\b", text), text


@pytest.mark.parametrize(
    ("error", "code", "words"),
    [
        (RequestError("wrong"), 2, "error: wrong"),
        (WorkFailed("failed"), 1, "error: failed"),
        (MemoryError(), 1, "not enough memory"),
        (PermissionError(13, "Permission denied", "there"), 1, "error: there cannot be used: Permission denied"),
        (OSError(28, "No space left on device"), 1, "the output cannot be used: No space left on device"),
        (KeyboardInterrupt(), 130, "interrupted"),
    ],
)
def test_errors_become_exit_codes(
    run: Run, monkeypatch: pytest.MonkeyPatch, error: BaseException, code: int, words: str
) -> None:
    def fails(*_: object) -> None:
        raise error

    monkeypatch.setattr("wordbrush.formats.inspect.inspect_folder", fails)
    result = run("models", "inspect")
    assert result.exit_code == code
    assert words in result.stderr


def test_python_m_wordbrush_is_the_same_command() -> None:
    command = [sys.executable, "-m", "wordbrush", "--version"]
    output = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    assert output.startswith("wordbrush ")
