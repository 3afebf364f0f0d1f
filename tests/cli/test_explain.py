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


def test_only_a_png_file_will_do(run: Run, tmp_path: Path) -> None:
    result = run("explain", "a fox", "-o", tmp_path)
    assert result.exit_code == 2
    assert ".png" in result.stderr
