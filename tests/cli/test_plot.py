"""`wordbrush plot` and `generate --matrix`: sheets whose sides say what differs, pictures that carry their requests."""

from __future__ import annotations

import json
from pathlib import Path

from PIL import Image

from wordbrush.metadata import read_metadata

from .conftest import Run


def test_a_plot_into_a_folder(run: Run, tiny_v_folder: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    axes = ("--x", "guidance=1,4", "--y", "steps=1-3:2", "--z", "sampler=euler,ddim")
    result = run("plot", "a fox", *axes, "--seed", 7, "-m", tiny_v_folder, "-o", out, "--json")
    assert result.exit_code == 0, result.output
    found = json.loads(result.stdout)
    assert found["count"] == 8
    requests = [read_metadata(path).request for path in found["pictures"]]
    assert [(one.sampler, one.steps, one.guidance) for one in requests] == [
        (sampler, steps, guidance) for sampler in ("euler", "ddim") for steps in (1, 3) for guidance in (1, 4)
    ]
    assert {one.seed for one in requests} == {7}
    sheet = Image.open(found["plot"])
    assert sheet.width > 2 * 128
    assert sheet.height > 4 * 128


def test_a_plot_of_models_into_a_file(run: Run, tiny_v_folder: Path, tiny_sd_folder: Path, tmp_path: Path) -> None:
    file = tmp_path / "plot.png"
    models = f"model={tiny_v_folder},{tiny_sd_folder}"
    result = run("plot", "a fox", "--x", models, "--steps", 1, "--seed", 1, "-o", file)
    assert result.exit_code == 0, result.output
    assert [path.name for path in tmp_path.iterdir()] == ["plot.png"]


def test_a_prompt_matrix(run: Run, tiny_v_folder: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    options = ("--matrix", "--steps", 1, "--seed", 3, "-m", tiny_v_folder, "-o", out)
    result = run("generate", "a fox|red|{two|two}", *options)
    assert result.exit_code == 0, result.output
    texts = sorted(read_metadata(path).request.prompts[0] for path in out.glob("a-fox*.png"))
    assert texts == ["a fox", "a fox, red", "a fox, red, two", "a fox, two"]
    assert (out / "plot.png").is_file()


def test_wrong_axes_and_matrices_are_said(run: Run, tmp_path: Path) -> None:
    result = run("plot", "a fox", "--x", "colour=1", "-o", tmp_path)
    assert result.exit_code == 2
    assert "a name of seed" in result.stderr
    result = run("generate", "a fox", "--matrix", "-o", tmp_path)
    assert result.exit_code == 2
    assert "has no parts" in result.stderr
