"""What a model's name means."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import huggingface_hub
import pytest

from wordbrush.errors import ModelFileError, RequestError
from wordbrush.formats.open import embedded_folder, open_model


def test_a_folder_is_opened_under_the_name_it_was_given(tiny_v_folder: Path) -> None:
    assert open_model(tiny_v_folder).name == str(tiny_v_folder)


def test_the_embedded_model_lies_in_the_package() -> None:
    assert embedded_folder().parts[-3:] == ("wordbrush", "models", "scenes-128")


def test_a_single_file_is_opened_as_one(tmp_path: Path) -> None:
    (tmp_path / "x.safetensors").write_bytes(b"garbage")
    with pytest.raises(ModelFileError, match=r"x\.safetensors is not a safetensors file"):
        open_model(tmp_path / "x.safetensors")


def test_nothing_of_that_name() -> None:
    with pytest.raises(ModelFileError, match="'nowhere'"):
        open_model("nowhere")


def test_a_hub_id_is_downloaded_and_only_then(tiny_v_folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[dict[str, Any]] = []

    def download(name: str, **options: Any) -> str:
        asked.append({"name": name, **options})
        return str(tiny_v_folder)

    monkeypatch.setattr(huggingface_hub, "snapshot_download", download)
    open_model(tiny_v_folder)
    assert asked == []
    assert open_model("owner/name", revision="v2").name == "owner/name"
    assert (asked[0]["name"], asked[0]["revision"]) == ("owner/name", "v2")
    assert not any("bin" in pattern for pattern in asked[0]["allow_patterns"])


def test_a_hub_that_cannot_be_reached_is_one_sentence(monkeypatch: pytest.MonkeyPatch) -> None:
    def unreachable(*_: object, **__: object) -> str:
        raise OSError("no route\nto host")

    monkeypatch.setattr(huggingface_hub, "snapshot_download", unreachable)
    with pytest.raises(ModelFileError, match=r"'owner/name'.*no route$"):
        open_model("owner/name")


def test_a_revision_needs_a_hub_id(tiny_v_folder: Path) -> None:
    with pytest.raises(RequestError, match="'main'"):
        open_model(tiny_v_folder, revision="main")
