"""`wordbrush travel`: films from prompts and pictures, and again from films."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from PIL import Image

from wordbrush import Pipeline
from wordbrush.metadata import read_metadata

from .conftest import Run

FLAGS = ("--steps", 2, "--frames", 3)


@pytest.fixture
def film(run: Run, tiny_v_folder: Path, tmp_path: Path) -> Path:
    flags = (*FLAGS, "--seed", "4,9", "-m", tiny_v_folder, "--pictures", tmp_path / "frames", "-o", tmp_path / "a.gif")
    result = run("travel", "a fox", "a red car", *flags)
    assert result.exit_code == 0, result.output
    return tmp_path / "a.gif"


def test_a_film_is_painted_and_repeated_from_itself(run: Run, film: Path, tmp_path: Path) -> None:
    with Image.open(film) as picture:
        assert picture.n_frames == 3  # type: ignore[attr-defined]
    again = run("travel", film, "-o", tmp_path / "b.gif")
    assert again.exit_code == 0, again.output
    assert (tmp_path / "b.gif").read_bytes() == film.read_bytes()


def test_every_frame_can_be_replayed_alone(run: Run, film: Path, tmp_path: Path) -> None:
    frame = film.parent / "frames" / "frame-0002.png"
    request = read_metadata(frame).request
    assert (request.seed, request.variation_seed, request.blend_prompt) == (4, 9, "a red car")
    result = run("replay", frame, "-o", tmp_path / "again.png", "--json")
    assert result.exit_code == 0, result.output
    assert json.loads(result.stdout)["identical"] is True


def test_from_one_saved_picture_to_another(run: Run, tiny_v_folder: Path, tmp_path: Path) -> None:
    for name, seed in (("one", 1), ("two", 2)):
        flags = ("--seed", seed, "--steps", 2, "-m", tiny_v_folder, "-o", tmp_path / f"{name}.png")
        assert run("generate", "a fox", *flags).exit_code == 0
    flags = ("--frames", 3, "--ending", "pingpong", "-o", tmp_path / "c.webp", "--json")
    result = run("travel", tmp_path / "one.png", tmp_path / "two.png", *flags)
    assert result.exit_code == 0, result.output
    content = json.loads(result.stdout)
    assert (content["frames"], [stop["seed"] for stop in content["travel"]["stops"]]) == (4, [1, 2])


def test_stops_that_differ_otherwise_are_refused(run: Run, tiny_v_folder: Path, tmp_path: Path) -> None:
    for name, steps in (("one", 2), ("two", 3)):
        flags = ("--seed", 1, "--steps", steps, "-m", tiny_v_folder, "-o", tmp_path / f"{name}.png")
        assert run("generate", "a fox", *flags).exit_code == 0
    result = run("travel", tmp_path / "one.png", tmp_path / "two.png", "-o", tmp_path / "c.gif")
    assert (result.exit_code, "steps=3" in result.stderr) == (2, True)
    assert not (tmp_path / "c.gif").exists()


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("a fox", "a car", "-o", "x.avi"), ".mp4"),
        (("a fox", "-o", "x.gif"), "at least two stops"),
        (("a fox", "nothing.jpg", "-o", "x.gif"), "no file 'nothing.jpg'"),
        (("a fox", "plain.jpg", "-o", "x.gif"), "'plain.jpg' carries no request"),
        (("plain.jpg", "nothing.gif", "-o", "x.gif"), "carries no request"),
        (("a fox", "a car", "--seed", "a,b", "-o", "x.gif"), "whole numbers"),
        (("a fox", "a car", "--seed", "1,2,3", "-o", "x.gif"), "2 prompts with 3 seeds"),
    ],
)
def test_wrong_requests_end_with_a_sentence(
    run: Run,
    tiny_v_folder: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    arguments: tuple[str, ...],
    words: str,
) -> None:
    monkeypatch.chdir(tmp_path)
    Image.new("RGB", (8, 8)).save("plain.jpg")
    result = run("travel", *arguments, "-m", tiny_v_folder)
    assert result.exit_code == 2, result.output
    assert words in result.stderr


def test_stopping_leaves_nothing_half_written(
    run: Run, tiny_v_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    finished = 0

    def stop_at_the_second(*_: object) -> object:
        nonlocal finished
        finished += 1
        if finished == 2:
            raise KeyboardInterrupt
        return finish(*_)  # type: ignore[arg-type]

    finish = Pipeline.finish
    monkeypatch.setattr(Pipeline, "finish", stop_at_the_second)
    result = run("travel", "a fox", "a red car", *FLAGS, "--seed", 4, "-m", tiny_v_folder, "-o", tmp_path / "a.gif")
    assert result.exit_code == 130
    assert list(tmp_path.iterdir()) == []
