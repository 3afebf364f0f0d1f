"""A model of every family as a folder and as a file: the same bits, the same picture. Small, random networks."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from PIL import Image
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from scripts.random_checkpoint import FAMILIES, random_parts

import wordbrush
from wordbrush.errors import RequestError
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


def as_bytes(path: Path) -> dict[str, tuple[torch.dtype, bytes]]:
    """The number format and the bytes of every tensor in a file."""
    return {
        name: (tensor.dtype, tensor.contiguous().flatten().view(torch.uint8).numpy().tobytes())
        for name, tensor in load_file(path).items()
    }


@pytest.fixture
def in_8_bits(tmp_path: Path) -> Path:
    """A FLUX model in one file, the matrices of its transformer and T5 in 8 bits."""
    path = tmp_path / "eight.safetensors"
    write_folder(random_parts("flux-dev", tiny=True, dtype=torch.float32), tmp_path / "first")
    convert_model(tmp_path / "first", path, dtype="bfloat16")
    tensors = load_file(path)
    with safe_open(path, "pt") as file:
        metadata = file.metadata()
    for name, tensor in tensors.items():
        if tensor.ndim == 2 and ("diffusion_model." in name or "t5xxl." in name):
            tensors[name] = tensor.to(torch.float8_e4m3fn if "single_blocks" not in name else torch.float8_e5m2)
    save_file(tensors, path, metadata=metadata)
    return path


def test_8_bits_stay_what_they_are(tmp_path: Path, in_8_bits: Path) -> None:
    folder, back, wide = tmp_path / "folder", tmp_path / "back.safetensors", tmp_path / "wide"
    convert_model(in_8_bits, folder)
    convert_model(folder, back)
    assert as_bytes(back) == as_bytes(in_8_bits)
    stored = load_file(folder / "transformer" / "diffusion_pytorch_model.safetensors")
    assert stored["transformer_blocks.0.attn.to_q.weight"].dtype is torch.float8_e4m3fn
    convert_model(in_8_bits, wide, dtype="bfloat16")
    assert {tensor.dtype for path in wide.rglob("*.safetensors") for tensor in load_file(path).values()} == {
        torch.bfloat16
    }
    assert len({paint(place, "flux-dev", "base") for place in (in_8_bits, folder, back, wide)}) == 1


def test_8_bits_with_scales_stay_in_a_file_and_are_not_lost_in_a_folder(tmp_path: Path, in_8_bits: Path) -> None:
    scaled, again, wide = tmp_path / "scaled.safetensors", tmp_path / "again.safetensors", tmp_path / "wide"
    tensors = load_file(in_8_bits)
    with safe_open(in_8_bits, "pt") as file:
        metadata = file.metadata()
    for prefix in ("model.diffusion_model.", "text_encoders.t5xxl.transformer."):
        for name in [name for name in tensors if name.startswith(prefix) and tensors[name].itemsize == 1]:
            tensors[name.removesuffix("weight") + "scale_weight"] = torch.tensor(0.3)
        tensors[f"{prefix}scaled_fp8"] = torch.zeros(2, dtype=torch.float8_e4m3fn)
    tensors["model.diffusion_model.double_blocks.0.img_attn.qkv.scale_input"] = torch.tensor(2.0)
    save_file(tensors, scaled, metadata=metadata)
    convert_model(scaled, again)
    assert as_bytes(again) == as_bytes(scaled)
    with pytest.raises(RequestError, match=r"weights with scales, .* give a \.safetensors .* or --dtype bfloat16"):
        convert_model(scaled, wide)
    assert not wide.exists()
    convert_model(scaled, wide, dtype="bfloat16")
    assert len({paint(place, "flux-dev", "base") for place in (scaled, again, wide)}) == 1
