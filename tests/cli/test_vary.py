"""`wordbrush vary`: by noise, by image strength, by inversion."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from PIL import Image

from wordbrush.metadata import read_metadata

from .conftest import Run


@pytest.fixture
def painted(run: Run, tiny_v_folder: Path, tmp_path: Path) -> Path:
    flags = ("--seed", 4, "--steps", 2, "-m", tiny_v_folder, "-o", tmp_path / "fox.png")
    assert run("generate", "a fox", *flags).exit_code == 0
    return tmp_path / "fox.png"


@pytest.mark.parametrize("way", ["noise", "image", "inversion"])
def test_variations_carry_requests_that_replay(run: Run, painted: Path, tmp_path: Path, way: str) -> None:
    flags = ("--by", way, "-n", 2, "--seed", 30, "-o", tmp_path / "out", "--json")
    result = run("vary", painted, *flags)
    assert result.exit_code == 0, result.output
    content = json.loads(result.stdout)
    first, second = (Path(picture["file"]) for picture in content["pictures"])
    assert Image.open(first).tobytes() != Image.open(second).tobytes()
    request = read_metadata(second).request
    if way == "image":
        assert (request.seed, request.strength) == (31, 0.5)
    else:
        assert (request.variation_seed, request.latents is not None) == (31, way == "inversion")
    again = json.loads(run("replay", second, "-o", tmp_path / "again.png", "--json").stdout)
    assert again["identical"] is True


def test_amount_0_is_the_picture_itself(run: Run, painted: Path, tmp_path: Path) -> None:
    result = run("vary", painted, "--amount", 0, "-n", 1, "-o", tmp_path / "same.png")
    assert result.exit_code == 0, result.output
    assert Image.open(tmp_path / "same.png").tobytes() == Image.open(painted).tobytes()


def test_a_picture_without_a_request_varies_by_image(run: Run, tiny_v_folder: Path, tmp_path: Path) -> None:
    Image.new("RGB", (32, 32), "red").save(tmp_path / "plain.png")
    flags = ("-n", 1, "-m", tiny_v_folder, "--seed", 1, "--steps", 2, "-o", tmp_path / "x.png")
    assert run("vary", tmp_path / "plain.png", "a red car", *flags).exit_code == 0
    for arguments, words in (((), "give a PROMPT"), (("a car", "--by", "noise"), "does not say from which noise")):
        result = run("vary", tmp_path / "plain.png", *arguments, *flags)
        assert (result.exit_code, words in result.stderr) == (2, True), result.output


@pytest.mark.parametrize(
    ("flags", "words"),
    [(("--by", "luck"), "luck"), (("--amount", 2), "outside 0 to 1"), (("--was", "a fox"), "--was has no effect")],
)
def test_wrong_requests_end_with_a_sentence(run: Run, painted: Path, flags: tuple[object, ...], words: str) -> None:
    result = run("vary", painted, *flags)
    assert (result.exit_code, words in result.stderr) == (2, True), result.output
