"""Nothing but names of the catalogue gets through."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from safetensors.numpy import save_file
from tests.serving.worker_parts import library

from wordbrush import RequestError
from wordbrush.request import GenerationRequest
from wordbrush.serving.catalogue import Catalogue
from wordbrush.serving.work import Describe, Explain, Generate, Upscale


@pytest.fixture
def catalogue(tmp_path: Path, tiny_v_folder: Path, monkeypatch: pytest.MonkeyPatch) -> Catalogue:
    import numpy as np

    folder = library(tmp_path / "models", tiny_v_folder, "tiny", "sub/twin", "twin")
    (folder / "loras").mkdir()
    save_file({"x": np.zeros(1, np.float32)}, folder / "loras" / "Fur.safetensors")
    monkeypatch.setenv("WORDBRUSH_MODELS", str(folder))
    return Catalogue()


def request(**fields: Any) -> Generate:
    return Generate(request=GenerationRequest.from_dict({"prompt": "a fox", "seed": 1, **fields}))


def test_names_are_written_as_they_are_here(catalogue: Catalogue) -> None:
    assert catalogue.checked(request()).request.model == "scenes-128"
    checked = catalogue.checked(request(model="TINY", loras=["fur.safetensors:0.5"], upscale=2, upscaler="Lanczos"))
    assert isinstance(checked, Generate)
    assert checked.request.model == "tiny"
    assert checked.request.loras[0].name == "Fur"
    assert checked.request.upscaler == "lanczos"
    assert catalogue.checked(checked) == checked
    title = catalogue.models[0].title
    assert title.startswith("scenes-128 [")
    assert catalogue.model(title).name == "scenes-128"


def test_what_has_its_name_twice_is_named_by_its_folder(catalogue: Catalogue) -> None:
    assert [one.name for one in catalogue.models] == ["scenes-128", "sub/twin", "tiny", "twin"]
    assert catalogue.model("twin").name == "twin"


@pytest.mark.parametrize(
    "fields",
    [
        {"model": "/etc"}, {"model": "../models/tiny"}, {"model": "owner/name"}, {"model": "https://example.org/x"},
        {"model": "absent"}, {"vae": "tiny"}, {"loras": ["/tmp/x.safetensors"]}, {"prompt": "a <lora:absent:1> fox"},
        {"prompt": ["a fox", "a <lora:../Fur:1> fox"]}, {"upscale": 2, "upscaler": "/x.pth"},
        {"hires": {"upscaler": "/x.pth"}}, {"clip_guidance": 1, "clip": "/tmp"}, {"expand": {"model": "/tmp"}},
        {"model": "tiny [0123456789]"},
    ],
    ids=str,
)  # fmt: skip
def test_anything_else_is_refused(catalogue: Catalogue, tmp_path: Path, fields: dict[str, Any]) -> None:
    for kind in (Generate, Explain):
        with pytest.raises(RequestError) as refused:
            catalogue.checked(kind(request=request(**fields).request))
        assert str(tmp_path) not in str(refused.value), "a message never says where files lie"


def test_a_path_that_exists_is_no_name(catalogue: Catalogue, tiny_v_folder: Path) -> None:
    with pytest.raises(RequestError, match="there is no model"):
        catalogue.checked(request(model=str(tiny_v_folder)))


def test_other_work_is_looked_at_too(catalogue: Catalogue) -> None:
    image = {"sha256": "ab" * 32}
    assert catalogue.checked(Upscale(images=(image,), scale=2)).upscaler == "srresnet"
    with pytest.raises(RequestError, match="there is no upscaler"):
        catalogue.checked(Upscale(images=(image,), scale=2, upscaler="/x.pth"))
    assert catalogue.checked(Describe(image=image)).model == "scenes-128"
    with pytest.raises(RequestError, match="brings no CLIP"):
        catalogue.checked(Describe(image=image, model="tiny"))


def test_what_is_drawn_is_left_to_the_worker(catalogue: Catalogue) -> None:
    drawn = request(prompt="a fox <lora:{Fur|absent}:1>")
    assert catalogue.checked(drawn)
    written = drawn.request.model_copy(update={"prompt": "a fox <lora:absent:1>", "written": drawn.request.prompt})
    with pytest.raises(RequestError, match="no LoRA 'absent'"):
        catalogue.refuse_unknown_loras(written)


def test_a_new_model_is_found(catalogue: Catalogue, tmp_path: Path, tiny_v_folder: Path) -> None:
    with pytest.raises(RequestError):
        catalogue.model("fresh")
    library(tmp_path / "models", tiny_v_folder, "fresh")
    catalogue.refresh()
    assert catalogue.model("fresh").about["kind"] == "checkpoint"
    assert "path" not in catalogue.model("fresh").about


def test_the_server_side_loads_no_torch() -> None:
    code = (
        "import sys, wordbrush.serving.catalogue as c, wordbrush.serving.workers.dispatcher, "
        "wordbrush.serving.workers.batching; k = c.Catalogue(); k.own_size(None), k.models[0].title, k.upscalers; "
        "assert 'torch' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
