"""`wordbrush explain`: the film strip and the token table."""

from __future__ import annotations

import json
from pathlib import Path

from PIL import Image

from .conftest import Run


def test_writes_a_strip_and_prints_the_table(run: Run, tiny_v_folder: Path, tmp_path: Path) -> None:
    path = tmp_path / "x.png"
    result = run("explain", "a zebra", "--seed", 1, "--steps", 10, "-m", tiny_v_folder, "-o", path)
    assert result.exit_code == 0, result.output
    lines = result.stdout.splitlines()
    assert lines[0].split() == ["position", "id", "piece", "word", "seen", "in", "training"]
    assert any("a</w>" in line and line.endswith("yes") for line in lines)
    assert any("zebra" in line and line.endswith("never") for line in lines)
    assert "'zebra'" in result.stderr
    strip = Image.open(path)
    assert 8 * 128 < strip.width < 8 * 160


def test_columns_choose_the_moments(run: Run, tiny_v_folder: Path, tmp_path: Path) -> None:
    widths = []
    for columns, steps in ((2, 10), (5, 10), (8, 3)):
        path = tmp_path / f"{columns}.png"
        flags = ("--steps", steps, "--columns", columns, "-m", tiny_v_folder, "-o", path)
        assert run("explain", "a fox", *flags).exit_code == 0
        widths.append(round(Image.open(path).width / 136))
    assert widths == [2, 5, 4], "no more columns than there are steps, and the picture"


def test_json(run: Run, tiny_v_folder: Path, tmp_path: Path) -> None:
    result = run("explain", "a fox", "--json", "-m", tiny_v_folder, "-o", tmp_path / "x.png")
    content = json.loads(result.stdout)
    assert [row["role"] for row in content["tokens"]] == ["start", "piece", "piece", "end", "padding"]
    assert content["request"]["prompt"] == "a fox"
    (report,) = content["reports"]
    assert (report["prompt"], report["pieces"], report["chunks"]) == ("a fox", 2, 1)


def test_a_long_prompt_has_several_chunks(run: Run, tiny_v_folder: Path, tmp_path: Path) -> None:
    result = run("explain", "a fox " * 15, "--steps", 2, "-m", tiny_v_folder, "-o", tmp_path / "x.png")
    assert result.exit_code == 0, result.output
    assert "30 pieces, read in 2 chunks of 22" in result.stdout.splitlines()


def test_weights_and_texts_that_change_on_the_way(run: Run, tiny_v_folder: Path, tmp_path: Path) -> None:
    prompt = "a (fox:1.25) [red:blue:2] AND green"
    result = run("explain", prompt, "--steps", 4, "-m", tiny_v_folder, "-o", tmp_path / "x.png")
    assert result.exit_code == 0, result.output
    lines = [line.split() for line in result.stdout.splitlines()]
    assert [line for line in lines if line[0].startswith(("'a", "' g"))] == [
        ["'a", "(fox:1.25)", "red", "'"], ["'a", "(fox:1.25)", "blue", "'"],
    ]  # fmt: skip
    assert lines[1][4] == "weight"
    assert sum("1.25" in line for line in lines) == 2
    content = json.loads(run("explain", prompt, "--json", "-m", tiny_v_folder, "-o", tmp_path / "y.png").stdout)
    assert {row["prompt"].strip() for row in content["tokens"]} == {"a (fox:1.25) red", "a (fox:1.25) blue", "green"}


def test_only_a_png_file_will_do(run: Run, tmp_path: Path) -> None:
    result = run("explain", "a fox", "-o", tmp_path)
    assert result.exit_code == 2
    assert ".png" in result.stderr


def test_where_each_word_acts_is_a_sheet_of_its_own(run: Run, tiny_v_folder: Path, tmp_path: Path) -> None:
    strip, words = tmp_path / "strip.png", tmp_path / "words.png"
    result = run("explain", "a fox", "--steps", 2, "-m", tiny_v_folder, "-o", strip, "--words", words, "--json")
    assert result.exit_code == 0, result.output
    content = json.loads(result.stdout)
    assert content["words_file"] == str(words)
    assert [word["word"] for word in content["words"]] == ["a", "fox"]
    assert Image.open(words).width > 128
    assert strip.exists()
    result = run("explain", "", "--steps", 2, "-m", tiny_v_folder, "-o", strip, "--words", words)
    assert result.exit_code == 2
    assert "--words has nothing to show" in result.stderr
    assert run("explain", "a fox", "-o", strip, "--words", tmp_path).exit_code == 2
