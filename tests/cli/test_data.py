"""`wordbrush data`: previews, checks, exports."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
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


@pytest.fixture
def folder(run: Run, tmp_path: Path) -> Path:
    result = run("data", "export", "--format", "folder", "-n", 6, "-o", tmp_path / "six")
    assert result.exit_code == 0, result.output
    return tmp_path / "six"


def test_a_folder_is_checked(run: Run, folder: Path) -> None:
    result = run("data", "check", folder, "--json")
    assert result.exit_code == 0, result.output
    content = json.loads(result.stdout)
    assert (content["pictures"], content["sizes"], content["bad"]) == (6, {"128x128": 6}, {})
    assert content["uncaptioned"] == 0
    result = run("data", "check", folder)
    assert "6 pictures of one size: 128x128 (6)" in result.stdout
    assert "0 bad" in result.stdout


def test_bad_data_are_counted_and_named(run: Run, folder: Path, tmp_path: Path) -> None:
    (folder / "000002.png").write_bytes(b"no picture")
    Image.new("RGB", (64, 200)).save(folder / "extra.png")
    recipe = tmp_path / "data.yaml"
    recipe.write_text(f"{{kind: folder, path: {folder}, buckets: {{side: 64, step: 16}}}}")
    result = run("data", "check", recipe)
    assert result.exit_code == 2
    assert "2 bad:" in result.stdout
    assert "000002.png' cannot be read as a picture" in result.stdout
    assert "extra.png' has no line in metadata.jsonl" in result.stdout
    assert "cut to 64x64 (5)" in result.stdout
    recipe.write_text(f"{{kind: folder, path: {folder}, size: 100}}")
    result = run("data", "check", recipe, "--multiple", 8)
    assert result.exit_code == 2
    assert "the nearest that fit are 96 and 104" in result.stderr


def test_endless_scenes_are_checked_by_a_thousand(run: Run, tmp_path: Path) -> None:
    recipe = tmp_path / "data.yaml"
    recipe.write_text("{kind: scenes, things: [dog, cat], size: 16}")
    content = json.loads(run("data", "check", recipe, "--json").stdout)
    assert content["labels"] == {"dog": 500, "cat": 500}
    assert content["prepared"] == {"16x16": 1000}


def test_prepared_pictures_are_shown(run: Run, folder: Path, tmp_path: Path) -> None:
    recipe = tmp_path / "data.yaml"
    recipe.write_text(f"{{kind: folder, path: {folder}, size: [96, 64], flip: 1}}")
    result = run("data", "preview", recipe, "-n", 3, "-o", tmp_path / "a.png", "--json")
    assert result.exit_code == 0, result.output
    content = json.loads(result.stdout)
    assert [picture["size"] for picture in content["pictures"]] == [[96, 64]] * 3
    assert all(picture["caption"] for picture in content["pictures"])
    assert run("data", "preview", folder, "-n", 2, "-o", tmp_path / "b.png").exit_code == 0
    assert Image.open(tmp_path / "b.png").width > 2 * 128
    assert run("data", "preview", folder, "--split", "test", "-o", tmp_path / "c.png").exit_code == 2


@pytest.mark.parametrize(
    ("layout", "files"),
    [
        ("webdataset", ["data-000000.tar"]),
        ("idx", [f"{part}-{what}-ubyte.gz" for part in ("t10k", "train") for what in ("images-idx3", "labels-idx1")]),
        ("cifar10", ["batches.meta", *(f"data_batch_{number}" for number in range(1, 6)), "test_batch"]),
        ("celeba", ["img_align_celeba", "list_attr_celeba.txt", "list_eval_partition.txt"]),
        ("coco", ["captions.json", "pictures"]),
    ],
)
def test_scenes_are_written_in_published_layouts(run: Run, tmp_path: Path, layout: str, files: list[str]) -> None:
    result = run("data", "export", "--format", layout, "-n", 10, "-o", tmp_path / "out")
    assert result.exit_code == 0, result.output
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == files
    assert [path.name for path in tmp_path.iterdir()] == ["out"]


def test_what_cannot_be_exported_is_refused(run: Run, folder: Path, tmp_path: Path) -> None:
    for arguments, message in (
        (("folder", "-o", folder), "not empty"),
        (("celeba", "--things", "dog", "-o", tmp_path / "x"), "celeba is of faces"),
        (("cifar10", "-n", 3, "-o", tmp_path / "x"), "at least 5"),
        (("idx", "--things", "zorb", "-o", tmp_path / "x"), "'zorb' is none of the"),
    ):
        result = run("data", "export", "--format", *arguments)
        assert result.exit_code == 2
        assert message in result.stderr
    assert not (tmp_path / "x").exists()
