"""`wordbrush upscale`, `generate --upscale` and `--hires`, `evaluate upscaler`: files, metadata, replay, errors."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from PIL import Image
from PIL.PngImagePlugin import PngInfo

from wordbrush.metadata import read_metadata

from .conftest import Run


@pytest.fixture
def small(run: Run, tiny_v_folder: Path, tmp_path: Path) -> Path:
    result = run("generate", "a fox", "--seed", 4, "-m", tiny_v_folder, "-o", tmp_path / "small.png")
    assert result.exit_code == 0, result.output
    return tmp_path / "small.png"


def test_generate_and_upscale_give_the_same_picture_with_the_same_request(
    run: Run, tiny_v_folder: Path, small: Path, tmp_path: Path
) -> None:
    once, twice = tmp_path / "once.png", tmp_path / "twice.png"
    result = run("generate", "a fox", "--seed", 4, "-m", tiny_v_folder, "--upscale", 4, "-o", once)
    assert result.exit_code == 0, result.output
    result = run("upscale", small, "--scale", 4, "-o", twice)
    assert result.exit_code == 0, result.output
    assert Image.open(once).size == (128, 128)
    assert Image.open(once).tobytes() == Image.open(twice).tobytes()
    assert read_metadata(once) == read_metadata(twice)
    assert "Postprocess upscale by: 4, Postprocess upscaler: srresnet" in Image.open(twice).info["parameters"]


def test_an_enlarged_picture_and_a_hires_one_can_be_replayed(
    run: Run, tiny_v_folder: Path, small: Path, tmp_path: Path
) -> None:
    flags = ("--hires", 1.5, "--hires-steps", 2, "--hires-strength", 0.6, "--hires-upscaler", "lanczos")
    hires = tmp_path / "hires.png"
    result = run("generate", "a fox", "--seed", 4, "-m", tiny_v_folder, *flags, "-o", hires)
    assert result.exit_code == 0, result.output
    assert Image.open(hires).size == (48, 48)
    assert run("upscale", small, "--scale", 2, "--upscaler", "bicubic", "-o", tmp_path / "large.png").exit_code == 0
    for name in ("hires.png", "large.png"):
        result = run("replay", tmp_path / name, "-o", tmp_path / "again.png")
        assert result.exit_code == 0, result.output
        assert "identical to" in result.stderr


def test_what_other_programs_wrote_stays(run: Run, tmp_path: Path) -> None:
    info = PngInfo()
    info.add_text("parameters", "a fox\nSteps: 20, Sampler: Euler a, CFG scale: 7, Seed: 1")
    info.add_text("Author", "somebody")
    picture = Image.new("RGBA", (8, 6), (10, 200, 30, 100))
    picture.save(tmp_path / "x.png", pnginfo=info, dpi=(300, 300))
    result = run("upscale", tmp_path / "x.png", "--scale", 2.5, "--upscaler", "nearest", "-o", tmp_path / "out")
    assert result.exit_code == 0, result.output
    large = Image.open(tmp_path / "out" / "x-x2.5.png")
    assert (large.mode, large.size, large.getpixel((0, 0))) == ("RGBA", (20, 15), (10, 200, 30, 100))
    assert large.info["Author"] == "somebody"
    assert round(large.info["dpi"][0]) == 300
    wanted = "Seed: 1, Postprocess upscale by: 2.5, Postprocess upscaler: Nearest"
    assert large.info["parameters"].endswith(wanted)


def test_several_pictures_go_into_a_folder_and_none_is_replaced(run: Run, tmp_path: Path) -> None:
    for name, size in (("a.jpg", (9, 7)), ("b.webp", (3, 5))):
        Image.new("RGB", size, "red").save(tmp_path / name)
    sources = (tmp_path / "a.jpg", tmp_path / "b.webp")
    for _ in range(2):
        result = run("upscale", *sources, "--scale", 2, "--upscaler", "lanczos", "-o", tmp_path / "out", "--json")
        assert result.exit_code == 0, result.output
    names = [Path(name).name for name in json.loads(result.stdout)["pictures"]]
    assert names == ["a-x2-2.png", "b-x2-2.png"]
    assert Image.open(tmp_path / "out" / "a-x2.png").size == (18, 14)


def test_enlarged_once_more_keeps_its_first_request(run: Run, small: Path, tmp_path: Path) -> None:
    once, twice = tmp_path / "once.png", tmp_path / "twice.png"
    for source, target in ((small, once), (once, twice)):
        assert run("upscale", source, "--scale", 2, "--upscaler", "lanczos", "-o", target).exit_code == 0
    assert read_metadata(twice) == read_metadata(once)
    assert Image.open(twice).size == (128, 128)
    assert Image.open(twice).info["parameters"].count("Postprocess upscale by: 2") == 2


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("nothing.png",), "nothing.png"), (("x.png", "--scale", 1), "upscale=1"),
        (("x.png", "--upscaler", "nix"), "'nix'"),
        (("x.png", "x.png", "-o", "y.png"), "give a folder"), (("x.png", "--upscaler", "latent"), "for hires alone"),
        (("x.png", "-o", "y.jpg"), "saved as PNG"),
    ],
)  # fmt: skip
def test_wrong_words(
    run: Run, words: tuple[object, ...], message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    Image.new("RGB", (4, 4)).save("x.png")
    result = run("upscale", *words)
    assert result.exit_code == 2
    assert message in result.stderr
    assert sorted(path.name for path in tmp_path.iterdir()) == ["x.png"]


def test_flags_of_hires_need_hires(run: Run, tiny_v_folder: Path) -> None:
    result = run("generate", "a fox", "-m", tiny_v_folder, "--hires-steps", 3)
    assert result.exit_code == 2
    assert "--hires-steps has no effect without --hires" in result.stderr


def test_the_shipped_upscalers_are_two_decibels_better_than_bicubic(run: Run) -> None:
    result = run("evaluate", "upscaler", "-n", 6, "--json")
    assert result.exit_code == 0, result.output
    found = json.loads(result.stdout)["results"]
    assert [each["scale"] for each in found] == [2, 4]
    assert all(each["gain"] > 2.0 for each in found)


def test_a_filter_is_measured_too(run: Run) -> None:
    result = run("evaluate", "upscaler", "--upscaler", "bicubic", "--scale", 3, "-n", 1)
    assert result.exit_code == 0, result.output
    assert "+0.00" in result.stdout
