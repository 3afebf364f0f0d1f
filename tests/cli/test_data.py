"""`wordbrush data preview`."""

from __future__ import annotations

import json
from pathlib import Path

from PIL import Image

from .conftest import Run


def test_preview_writes_a_sheet_and_says_how_fast(run: Run, tmp_path: Path) -> None:
    sheet = tmp_path / "sheets/scenes.png"
    result = run("data", "preview", "-n", 6, "--split", "test", "--kind", "counting", "-o", sheet, "--json")
    assert result.exit_code == 0, result.output
    content = json.loads(result.stdout)
    assert len(content["scenes"]) == 6
    assert all(len(scene["objects"]) >= 2 for scene in content["scenes"])
    assert content["scenes_per_second_per_core"] > 0
    assert Image.open(sheet).size[0] > 3 * 128
    assert [path.name for path in sheet.parent.iterdir()] == ["scenes.png"]


def test_preview_is_the_same_each_time(run: Run, tmp_path: Path) -> None:
    for name in ("a.png", "b.png"):
        assert run("data", "preview", "-n", 4, "--seed", 3, "-o", tmp_path / name).exit_code == 0
    assert (tmp_path / "a.png").read_bytes() == (tmp_path / "b.png").read_bytes()


def test_preview_names_what_there_is(run: Run, tmp_path: Path) -> None:
    result = run("data", "preview", "--kind", "triple", "-o", tmp_path / "scenes.png")
    assert result.exit_code == 2
    assert "counting" in result.stderr
    assert run("data", "preview", "--split", "validation").exit_code == 2
    assert list(tmp_path.iterdir()) == []
