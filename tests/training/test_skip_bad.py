"""`train --skip-bad`: bad pictures are passed over and listed, and the run is no other one for it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from safetensors.torch import load_file

from wordbrush.data.export import WRITERS, Source, new_folder
from wordbrush.data.scene_data import SceneChoice, SceneDataset
from wordbrush.errors import RequestError
from wordbrush.training.run import RunOptions, train

NETWORK = {
    "latent_channels": 4, "block_out_channels": [16, 16], "layers_per_block": 1, "norm_num_groups": 1,
    "mid_block_add_attention": False, "use_quant_conv": False, "use_post_quant_conv": False,
}  # fmt: skip


@pytest.fixture
def recipe(tmp_path: Path) -> Path:
    """A VAE on eight scenes, one of which is cut short."""
    data = SceneDataset(SceneChoice())
    with new_folder(tmp_path / "data") as folder:
        WRITERS["folder"](folder, Source(train=data, test=data, count=8), lambda: None)
    bad = tmp_path / "data/000005.png"
    bad.write_bytes(bad.read_bytes()[:400])
    files = {"kind": "folder", "path": str(tmp_path / "data"), "size": 16}
    values: dict[str, Any] = {
        "name": "tiny", "steps": 4, "batch": 3, "precision": "float32", "trackers": [],
        "train": {"task": "vae", "network": NETWORK, "data": files},
    }  # fmt: skip
    path = tmp_path / "tiny.yaml"
    path.write_text(yaml.safe_dump(values))
    return path


def test_bad_pictures_are_passed_over_and_listed(recipe: Path, tmp_path: Path) -> None:
    with pytest.raises(RequestError, match=r"000005\.png' cannot be read as a picture"):
        train(recipe, tmp_path / "run", log=lambda _: None)
    lines: list[str] = []
    for name in ("run", "other"):  # the first goes on where it stopped
        train(recipe, tmp_path / name, RunOptions(device="cpu", skip_bad=True), log=lines.append)
    assert any("passed over because they cannot be used: 1;" in line for line in lines)
    (line,) = (tmp_path / "other/skipped.jsonl").read_text().splitlines()
    assert json.loads(line)["key"] == "000005.png"
    weights = [load_file(tmp_path / name / "vae/diffusion_pytorch_model.safetensors") for name in ("run", "other")]
    assert all(torch.equal(weights[0][key], weights[1][key]) for key in weights[0])


def test_recipes_without_files_have_nothing_to_skip(recipe: Path, tmp_path: Path) -> None:
    values = yaml.safe_load(recipe.read_text())
    values["train"] = {"task": "vae", "network": NETWORK, "crop": 32}
    recipe.write_text(yaml.safe_dump(values))
    with pytest.raises(RequestError, match="--skip-bad is for recipes that name their data"):
        train(recipe, tmp_path / "run", RunOptions(skip_bad=True), log=lambda _: None)
