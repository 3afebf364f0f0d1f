"""`wordbrush edit`, and `wordbrush replay` of what it made."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from wordbrush.cli.edit import sides
from wordbrush.errors import RequestError
from wordbrush.metadata import read_metadata

from .conftest import Run


@pytest.fixture
def scene(tmp_path: Path) -> Path:
    pixels = np.random.default_rng(0).integers(0, 256, (30, 37, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(tmp_path / "scene.png")
    return tmp_path / "scene.png"


@pytest.fixture
def mask(tmp_path: Path) -> Path:
    drawn = Image.new("L", (37, 30))
    drawn.paste(255, (8, 8, 24, 20))
    drawn.save(tmp_path / "mask.webp", lossless=True)
    return tmp_path / "mask.webp"


@pytest.fixture
def edited(run: Run, tiny_v_folder: Path, scene: Path, mask: Path, tmp_path: Path) -> Path:
    flags = ("--mask", mask, "--mask-blur", 1, "--mask-fill", "noise", "--seed", 4, "--steps", 2, "--strength", 0.9)
    result = run("edit", scene, "a fox", *flags, "-m", tiny_v_folder, "-o", tmp_path / "edited.png")
    assert result.exit_code == 0, result.output
    return tmp_path / "edited.png"


def test_every_flag_reaches_the_request(run: Run, tiny_v_folder: Path, scene: Path, tmp_path: Path) -> None:
    flags = (
        "--mask", "4,5,6,7", "--mask-grow", -1, "--mask-blur", 0.5, "--mask-invert", "--mask-fill", "blur",
        "--only-masked", "--only-masked-padding", 8, "--extend", "1,2,3,4", "--strength", 0.8, "-n", 2,
        "--negative", "a car", "--seed", 3, "--steps", 4, "--guidance", 2.5, "--guidance-interval", "0.25,1",
        "--sampler", "euler_a", "--schedule", "karras", "--size", "40x24", "--no-sheet", "--json",
    )  # fmt: skip
    result = run("edit", scene, "a fox", "-m", tiny_v_folder, "-o", tmp_path / "out", *flags)
    assert result.exit_code == 0, result.output
    request = json.loads(result.stdout)["request"]
    assert request.pop("image")["path"] == str(scene)
    assert request == {
        "prompt": "a fox", "negative_prompt": "a car", "model": str(tiny_v_folder), "seed": 3, "count": 2, "steps": 4,
        "guidance": 2.5, "guidance_rescale": 0.0, "guidance_interval": [0.25, 1.0], "sampler": "euler_a",
        "schedule": "karras", "width": 40, "height": 24, "strength": 0.8, "mask": [4, 5, 6, 7], "mask_grow": -1,
        "mask_blur": 0.5, "mask_invert": True, "mask_fill": "blur", "only_masked": True, "only_masked_padding": 8,
        "extend": [1, 2, 3, 4],
    }  # fmt: skip
    assert Image.open(tmp_path / "out" / "a-fox-4.png").size == (37 + 4, 30 + 6)


def test_an_edit_keeps_what_is_outside_and_carries_its_inputs(edited: Path, scene: Path, mask: Path) -> None:
    before, after = np.asarray(Image.open(scene)), np.asarray(Image.open(edited))
    changed = (before != after).any(axis=2)
    assert changed[10:18, 10:22].mean() > 0.9
    assert not changed[:, 32:].any()
    request = read_metadata(edited).request
    for given, path in ((request.image, scene), (request.mask, mask)):
        assert given.to_json()["path"] == str(path)  # type: ignore[union-attr]
        assert len(given.to_json()["sha256"]) == 64  # type: ignore[union-attr]


@pytest.mark.parametrize("extend", ["8", "0,0,16,0"])
def test_pictures_are_extended(run: Run, tiny_v_folder: Path, scene: Path, tmp_path: Path, extend: str) -> None:
    flags = ("--extend", extend, "--steps", 2, "-m", tiny_v_folder, "-o", tmp_path / "wide.png")
    assert run("edit", scene, "a fox", *flags).exit_code == 0
    left, top, right, bottom = sides(extend) or (0, 0, 0, 0)
    assert Image.open(tmp_path / "wide.png").size == (37 + left + right, 30 + top + bottom)


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        (("--strength", "1.5"), "strength=1.5 does not fit"),
        (("--mask", "none.png"), "no file 'none.png'"),
        (("--mask", "alpha"), "transparency"),
        (("--mask", "0,0,99,9"), "reaches beyond the picture, which is 37x30"),
        (("--mask-blur", "3"), "give mask as well"),
        (("--extend", "1,2"), "not LEFT,TOP,RIGHT,BOTTOM"),
        (("--extend", "0"), "adds no pixel"),
        (("--image-guidance", "2"), "does not edit pictures"),
    ],
)
def test_what_does_not_fit_is_said_in_one_sentence(
    run: Run, tiny_v_folder: Path, scene: Path, tmp_path: Path, flags: tuple[str, ...], words: str
) -> None:
    result = run("edit", scene, "a fox", *flags, "-m", tiny_v_folder, "-o", tmp_path / "out")
    assert result.exit_code == 2, result.output
    assert words in " ".join(result.stderr.split())
    assert not (tmp_path / "out").exists()


def test_sides_refuses_what_it_cannot_read() -> None:
    assert sides("3") == (3, 3, 3, 3)
    assert sides(None) is None
    with pytest.raises(RequestError, match="1,x"):
        sides("1,x")


def test_replay_repeats_an_edit(run: Run, edited: Path, tmp_path: Path) -> None:
    result = run("replay", edited, "-o", tmp_path / "again.png")
    assert result.exit_code == 0, result.output
    assert "identical to" in result.stderr
    assert read_metadata(tmp_path / "again.png") == read_metadata(edited)


def test_replay_is_told_where_the_inputs_are_now(run: Run, edited: Path, scene: Path, mask: Path) -> None:
    folder = edited.parent / "elsewhere"
    folder.mkdir()
    Image.open(scene).save(folder / "moved.tiff")  # another format, the same pixels
    scene.unlink()
    mask.rename(folder / "moved.webp")
    result = run("replay", edited)
    assert result.exit_code == 2
    for words in (f"the request's image was '{scene}', which is not here", "where it is with --mask"):
        assert words in " ".join(result.stderr.split())
    result = run("replay", edited, "--image", folder / "moved.tiff", "--mask", folder / "moved.webp")
    assert result.exit_code == 0, result.output
    assert "identical to" in result.stderr


def test_replay_looks_beside_the_picture(run: Run, edited: Path, scene: Path, mask: Path, tmp_path: Path) -> None:
    folder = tmp_path / "together"
    folder.mkdir()
    for path in (edited, scene, mask):
        shutil.move(path, folder)
    result = run("replay", folder / edited.name)
    assert result.exit_code == 0, result.output
    assert "identical to" in result.stderr


def test_replay_says_which_input_differs(run: Run, edited: Path, scene: Path, mask: Path) -> None:
    changed = Image.open(mask).convert("L")
    changed.putpixel((0, 0), 255)
    changed.save(mask, lossless=True)
    result = run("replay", edited)
    assert result.exit_code == 2
    assert f"the mask differs: the pixels of '{mask}' hash to" in " ".join(result.stderr.split())
    assert "the image differs" not in result.stderr
    Image.new("RGB", (37, 30)).save(scene)
    result = run("replay", edited)
    assert "the image differs" in result.stderr
    assert "the mask differs" in result.stderr


def test_replay_refuses_inputs_that_nobody_asked_for(
    run: Run, tiny_v_folder: Path, scene: Path, tmp_path: Path
) -> None:
    flags: tuple[Any, ...] = ("--steps", 1, "-m", tiny_v_folder, "-o", tmp_path / "x.png")
    assert run("edit", scene, "a fox", "--mask", "4,4,16,16", "--strength", 1, *flags).exit_code == 0
    result = run("replay", tmp_path / "x.png", "--mask", scene)
    assert result.exit_code == 2
    assert "was made with mask=4,4,16,16, which is no file" in " ".join(result.stderr.split())
