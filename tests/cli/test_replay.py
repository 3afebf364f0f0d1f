"""`wordbrush replay`: identical pixels, and a clear word when they cannot be."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
from PIL import Image
from PIL.PngImagePlugin import PngInfo

from wordbrush.metadata import read_metadata

from .conftest import Run


@pytest.fixture
def painted(run: Run, tiny_v_folder: Path, tmp_path: Path) -> Path:
    """The second of three pictures of a batch."""
    flags = ("-n", 3, "--seed", 4, "--sampler", "euler_a", "-m", tiny_v_folder, "--no-sheet", "-o", tmp_path / "out")
    assert run("generate", "a fox", *flags).exit_code == 0
    return tmp_path / "out" / "a-fox-5.png"


def test_paints_identical_pixels(run: Run, painted: Path, tmp_path: Path) -> None:
    result = run("replay", painted, "-o", tmp_path / "again.png")
    assert result.exit_code == 0, result.output
    assert "identical to" in result.stderr
    assert Image.open(tmp_path / "again.png").tobytes() == Image.open(painted).tobytes()
    assert read_metadata(tmp_path / "again.png") == read_metadata(painted)


def test_by_default_writes_beside_and_replaces_nothing(run: Run, painted: Path) -> None:
    for _ in range(2):
        assert run("replay", painted).exit_code == 0
    assert (painted.parent / "a-fox-5-replay.png").exists()
    assert (painted.parent / "a-fox-5-replay-2.png").exists()


def test_says_by_how_much_a_changed_picture_differs(run: Run, painted: Path, tmp_path: Path) -> None:
    with Image.open(painted) as picture:
        info = PngInfo()
        info.add_text("wordbrush", picture.info["wordbrush"])
        changed = picture.copy()
    red, green, blue = changed.getpixel((0, 0))
    changed.putpixel((0, 0), ((red + 9) % 256, green, blue))
    changed.save(tmp_path / "changed.png", pnginfo=info)
    result = run("replay", tmp_path / "changed.png", "-o", tmp_path / "again.png", "--json")
    assert result.exit_code == 0, result.output
    content = json.loads(result.stdout)
    assert content["identical"] is False
    assert "0.1% of the pixels differ" in content["verdict"]
    result = run("replay", tmp_path / "changed.png", "-o", tmp_path / "changed.png")  # in its own place
    assert "not identical" in result.stderr


def test_the_number_format_of_the_picture_is_used(run: Run, tiny_v_folder: Path, tmp_path: Path) -> None:
    flags = ("--seed", 1, "-m", tiny_v_folder, "--dtype", "float32", "-o", tmp_path / "x.png")
    assert run("generate", "a fox", *flags).exit_code == 0
    content = json.loads(run("replay", tmp_path / "x.png", "--json").stdout)
    assert (content["identical"], content["dtype"]) == (True, "float32")


def test_another_model_is_noticed(run: Run, painted: Path, tiny_v_folder: Path, tmp_path: Path) -> None:
    other = Path(shutil.copytree(tiny_v_folder, tmp_path / "other"))
    weights = other / "unet/diffusion_pytorch_model.safetensors"
    data = bytearray(weights.read_bytes())
    data[-1] ^= 1
    weights.write_bytes(data)
    result = run("replay", painted, "-m", other, "-o", tmp_path / "again.png")
    assert result.exit_code == 0, result.output
    assert "the model's weights: " in result.stderr


def test_pictures_of_the_web_ui_are_painted_here(run: Run, tiny_v_folder: Path, tmp_path: Path) -> None:
    info = PngInfo()
    text = f'a fox\nSteps: 2, Sampler: Euler a, Seed: 9, Size: 32x32, ENSD: 31337, Model: "{tiny_v_folder}"'
    info.add_text("parameters", text)
    Image.new("RGB", (64, 64)).save(tmp_path / "theirs.png", pnginfo=info)
    result = run("replay", tmp_path / "theirs.png", "-o", tmp_path / "ours.png")
    assert result.exit_code == 0, result.output
    assert "ENSD" in result.stderr
    assert "another size" in result.stderr
    assert read_metadata(tmp_path / "ours.png").request.sampler == "euler_a"


def test_what_cannot_be_replayed_is_refused(run: Run, painted: Path, tmp_path: Path) -> None:
    Image.new("RGB", (8, 8)).save(tmp_path / "plain.png")
    for arguments, words in (
        ((tmp_path / "plain.png",), "carries no request"),
        ((tmp_path / "none.png",), "no file"),
        ((painted, "-o", tmp_path), "is not a .png file"),
    ):
        result = run("replay", *arguments)
        assert result.exit_code == 2
        assert words in result.stderr
