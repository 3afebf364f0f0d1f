"""A model of every family as a folder and as a file: the same bits, the same picture. Small, random networks."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from PIL import Image
from safetensors.torch import load_file
from scripts.random_checkpoint import FAMILIES, random_parts

import wordbrush
from wordbrush.formats.convert import convert_model
from wordbrush.formats.diffusers_folder import write_folder
from wordbrush.formats.inspect import inspect_model

MODELS = [*((family, "base") for family in FAMILIES), ("sd1", "inpaint"), ("sd1", "instruct-pix2pix"), ("sdxl", "lcm")]


def paint(model: Path, family: str, variant: str) -> bytes:
    """The pixels of one picture; models that see a picture get one."""
    seen = variant in ("inpaint", "instruct-pix2pix") or family == "sdxl-refiner"
    image = Image.linear_gradient("L").resize((64, 64)).convert("RGB") if seen else None
    mask = Image.new("L", (64, 64), 255) if variant == "inpaint" else None
    pipe = wordbrush.load(model, dtype="float32")
    result = pipe("a fox", seed=3, steps=4, width=64, height=64, image=image, mask=mask)
    return result.images[0].tobytes()


@pytest.mark.parametrize(("family", "variant"), MODELS)
def test_there_and_back(tmp_path: Path, family: str, variant: str) -> None:
    folder, file, back = tmp_path / "folder", tmp_path / "file.safetensors", tmp_path / "back"
    write_folder(random_parts(family, variant=variant, tiny=True, dtype=torch.float32), folder)
    convert_model(folder, file)
    convert_model(file, back)
    for path in folder.rglob("*.safetensors"):
        first, last = load_file(path), load_file(back / path.relative_to(folder))
        assert first.keys() == last.keys()
        assert all(torch.equal(first[name], last[name]) for name in first)
    told = [inspect_model(place) for place in (folder, file)]
    for key in ("family", "variant", "prediction_type", "native_size", "parameters", "dtypes", "latent_channels"):
        assert told[0][key] == told[1][key], key
    assert (told[0]["family"], told[0]["variant"]) == (family, variant)
    pictures = {paint(place, family, variant) for place in (folder, file)}
    assert len(pictures) == 1
    assert len(set(pictures.pop())) > 50
