"""Saved pictures: what they carry, and that they appear whole or not at all."""

from __future__ import annotations

import errno
import os
from pathlib import Path

import pytest
from PIL import Image
from PIL.PngImagePlugin import PngInfo

from wordbrush import metadata as module
from wordbrush.errors import RequestError, WorkFailed
from wordbrush.metadata import Origin, PictureMetadata, png_bytes, read_metadata, write_new, write_whole
from wordbrush.request import GenerationRequest

REQUEST = GenerationRequest(
    prompt="a 🦊 and a 狐", negative_prompt="é", model="m", seed=3, steps=2, guidance=2.0, sampler="ddim",
    schedule="normal", width=8, height=8,
)  # fmt: skip
METADATA = PictureMetadata(request=REQUEST, origin=Origin(version="1.2", model_hash="0123456789", dtype="float32"))


def test_a_saved_picture_carries_its_request_and_the_web_uis_text(tmp_path: Path) -> None:
    picture = Image.effect_noise((8, 8), 80).convert("RGB")
    path = write_whole(tmp_path / "a.png", png_bytes(picture, METADATA))
    assert read_metadata(path) == METADATA
    with Image.open(path) as saved:
        assert saved.tobytes() == picture.tobytes()
        text = saved.info["parameters"]
    assert text.startswith("a 🦊 and a 狐\nNegative prompt: é\nSteps: 2, Sampler: DDIM")
    assert "Model hash: 0123456789" in text


def test_another_programs_picture_is_read_by_its_text(tmp_path: Path) -> None:
    info = PngInfo()
    info.add_text("parameters", "a cat\nSteps: 4, Sampler: Euler, Seed: 9, Clip skip: 2, ENSD: 31337")
    Image.new("RGB", (8, 8)).save(tmp_path / "a.png", pnginfo=info)
    found = read_metadata(tmp_path / "a.png")
    assert (found.request.prompt, found.request.seed, found.request.sampler) == ("a cat", 9, "euler")
    assert found.request.clip_skip == 2
    assert found.ignored == {"ENSD": "31337"}


def test_files_that_cannot_be_replayed_are_refused(tmp_path: Path) -> None:
    with pytest.raises(RequestError, match="no file"):
        read_metadata(tmp_path / "none.png")
    (tmp_path / "text.png").write_text("no picture")
    with pytest.raises(RequestError, match="cannot be read"):
        read_metadata(tmp_path / "text.png")
    Image.new("RGB", (8, 8)).save(tmp_path / "plain.png")
    with pytest.raises(RequestError, match="carries no request"):
        read_metadata(tmp_path / "plain.png")
    whole = png_bytes(Image.effect_noise((64, 64), 80).convert("RGB"), METADATA)
    (tmp_path / "cut.png").write_bytes(whole[: len(whole) // 2])
    with pytest.raises(RequestError, match="cannot be read"):
        read_metadata(tmp_path / "cut.png")


@pytest.mark.parametrize("record", ["", "[]", "{}", '{"request": 3}', '{"request": {"prompt": "a", "steps": 0}}'])
def test_a_damaged_record_is_refused(tmp_path: Path, record: str) -> None:
    info = PngInfo()
    info.add_text("wordbrush", record)
    Image.new("RGB", (8, 8)).save(tmp_path / "a.png", pnginfo=info)
    with pytest.raises(RequestError):
        read_metadata(tmp_path / "a.png")


def test_write_new_never_replaces(tmp_path: Path) -> None:
    paths = [write_new(tmp_path / "a.png", bytes([number])) for number in range(3)]
    assert [path.name for path in paths] == ["a.png", "a-2.png", "a-3.png"]
    assert [path.read_bytes() for path in paths] == [b"\0", b"\1", b"\2"]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a-2.png", "a-3.png", "a.png"]


def test_write_new_without_hard_links(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def unsupported(*_: object) -> None:
        raise PermissionError(errno.EPERM, "no links here")

    monkeypatch.setattr(os, "link", unsupported)
    assert [write_new(tmp_path / "a.png", b"x").name for _ in range(2)] == ["a.png", "a-2.png"]


@pytest.mark.parametrize("writer", [write_whole, write_new])
def test_a_full_disk_leaves_nothing_behind(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, writer: object) -> None:
    (tmp_path / "a.png").write_bytes(b"before")

    def full(_: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(module.os, "fsync", full)
    with pytest.raises(WorkFailed, match="No space left on device"):
        writer(tmp_path / "a.png", b"after")  # type: ignore[operator]
    assert [path.name for path in tmp_path.iterdir()] == ["a.png"]
    assert (tmp_path / "a.png").read_bytes() == b"before"


def test_interrupted_writing_leaves_nothing_behind(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupted(_: int) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(module.os, "fsync", interrupted)
    with pytest.raises(KeyboardInterrupt):
        write_whole(tmp_path / "a.png", b"x")
    assert list(tmp_path.iterdir()) == []


def test_a_file_in_the_place_of_a_folder_is_named(tmp_path: Path) -> None:
    (tmp_path / "out").write_text("a file")
    for writer in (write_whole, write_new):
        with pytest.raises(WorkFailed, match="out"):
            writer(tmp_path / "out" / "a.png", b"x")


def test_files_get_the_usual_permissions(tmp_path: Path) -> None:
    (tmp_path / "usual").write_bytes(b"")
    path = write_whole(tmp_path / "a.png", b"x")
    assert path.stat().st_mode == (tmp_path / "usual").stat().st_mode
