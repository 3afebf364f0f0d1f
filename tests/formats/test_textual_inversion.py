"""Embeddings in every layout, as their trainers write them."""

import base64
import json
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image, PngImagePlugin
from safetensors.torch import save_file
from torch import Tensor

from wordbrush.errors import ModelFileError
from wordbrush.formats.textual_inversion import TextualInversion, read_embedding

VECTORS = torch.randn(3, 8, generator=torch.Generator().manual_seed(0))


def _a1111(vectors: Any) -> dict[str, Any]:
    return {
        "string_to_token": {"*": 265}, "string_to_param": {"*": vectors}, "name": "old name", "step": 500,
        "sd_checkpoint": None, "sd_checkpoint_name": None,
    }  # fmt: skip


def _assert_is(embedding: TextualInversion, expected: Tensor, encoder: str = "text_encoder") -> None:
    assert set(embedding.vectors) == {encoder}
    assert embedding.vectors[encoder].dtype == torch.float32
    assert torch.equal(embedding.vectors[encoder], expected)


@pytest.mark.parametrize("legacy", [False, True])
@pytest.mark.parametrize("ending", [".pt", ".bin"])
def test_a1111(ending: str, legacy: bool, tmp_path: Path) -> None:
    path = tmp_path / f"style{ending}"
    torch.save(_a1111(VECTORS.clone().requires_grad_()), path, _use_new_zipfile_serialization=not legacy)
    embedding = read_embedding(path)
    _assert_is(embedding, VECTORS)
    assert (embedding.name, embedding.path) == ("style", path)
    assert not embedding.vectors["text_encoder"].requires_grad
    assert read_embedding(path, "other").name == "other"


@pytest.mark.parametrize("legacy", [False, True])
def test_the_first_ones_of_2022(legacy: bool, tmp_path: Path) -> None:
    """The method's authors kept the vectors in a ParameterDict."""
    kept = torch.nn.ParameterDict({"*": torch.nn.Parameter(VECTORS)})
    path = tmp_path / "a.pt"
    torch.save({"string_to_token": {"*": torch.tensor(265)}, "string_to_param": kept}, path,
               _use_new_zipfile_serialization=not legacy)  # fmt: skip
    _assert_is(read_embedding(path), VECTORS)


def test_diffusers(tmp_path: Path) -> None:
    torch.save({"<cat-toy>": VECTORS[0]}, tmp_path / "learned_embeds.bin")
    _assert_is(read_embedding(tmp_path / "learned_embeds.bin"), VECTORS[:1])
    save_file({"<cat-toy>": VECTORS.half()}, tmp_path / "learned_embeds.safetensors")
    _assert_is(read_embedding(tmp_path / "learned_embeds.safetensors"), VECTORS.half().float())
    second = torch.ones(2, 1280)
    save_file({"<cat-toy>": second}, tmp_path / "learned_embeds_2.safetensors")
    _assert_is(read_embedding(tmp_path / "learned_embeds_2.safetensors"), second, "text_encoder_2")


def test_kohya(tmp_path: Path) -> None:
    save_file({"emb_params": VECTORS}, tmp_path / "a.safetensors")
    _assert_is(read_embedding(tmp_path / "a.safetensors"), VECTORS)


def test_stable_diffusion_xl(tmp_path: Path) -> None:
    save_file({"clip_l": VECTORS, "clip_g": torch.ones(3, 10)}, tmp_path / "a.safetensors")
    embedding = read_embedding(tmp_path / "a.safetensors")
    assert torch.equal(embedding.vectors["text_encoder"], VECTORS)
    assert torch.equal(embedding.vectors["text_encoder_2"], torch.ones(3, 10))


def test_two_sets_of_vectors_for_one_encoder_are_refused(tmp_path: Path) -> None:
    save_file({"clip_g": VECTORS, "t5xxl": VECTORS + 1}, tmp_path / "a.safetensors")
    with pytest.raises(ModelFileError, match=r"a\.safetensors holds .* one text encoder twice \(clip_g, t5xxl\); get"):
        read_embedding(tmp_path / "a.safetensors")


class _Encoder(json.JSONEncoder):
    def default(self, value: Any) -> Any:
        return {"TORCHTENSOR": value.tolist()} if isinstance(value, Tensor) else super().default(value)


def _mask(count: int) -> list[int]:
    numbers, state = [], 0
    for _ in range(count):
        state = (1664525 * state + 1013904223) % 2**32
        numbers.append(state % 255)
    return numbers


def _picture_with_pixels(data: bytes, height: int = 64) -> Image.Image:
    """Writes A1111's blocks, one byte at a time: low halves left, high halves right, a black column between."""
    packed = zlib.compress(data, 9)
    width = -(-len(packed) // (3 * height))
    mask = _mask(3 * height * width)
    filled = [packed[i % len(packed)] for i in range(3 * height * width)]
    noise = np.random.default_rng(0).integers(1, 16, 3 * height * width) << 4  # of the pattern that decorates a block
    blocks = []
    for shift in (0, 4):
        values = [noise[i] | ((byte >> shift & 15) ^ (mask[i] & 15)) for i, byte in enumerate(filled)]
        blocks.append(np.array(values, dtype=np.uint8).reshape(height, width, 3))
    picture = np.full((height, 20, 3), 200, dtype=np.uint8)
    black = np.zeros((height, 1, 3), dtype=np.uint8)
    return Image.fromarray(np.concatenate([blocks[0], black, picture, black, blocks[1]], axis=1))


def test_pictures(tmp_path: Path) -> None:
    assert _mask(14) == [253, 242, 127, 44, 157, 27, 239, 133, 38, 79, 167, 4, 177, 95]  # as A1111's own test has it
    data = json.dumps(_a1111(VECTORS), cls=_Encoder).encode()
    info = PngImagePlugin.PngInfo()
    info.add_text("sd-ti-embedding", base64.b64encode(data).decode())
    Image.new("RGB", (4, 4)).save(tmp_path / "text.png", pnginfo=info)
    _assert_is(read_embedding(tmp_path / "text.png"), VECTORS)
    _picture_with_pixels(data).save(tmp_path / "pixels.png")
    _assert_is(read_embedding(tmp_path / "pixels.png"), VECTORS)
    _picture_with_pixels(data).save(tmp_path / "pixels.webp", lossless=True)
    _assert_is(read_embedding(tmp_path / "pixels.webp"), VECTORS)


def test_pictures_without_an_embedding(tmp_path: Path) -> None:
    generator = np.random.default_rng(0)
    data = json.dumps(_a1111(VECTORS), cls=_Encoder).encode()
    broken = np.asarray(_picture_with_pixels(data)).copy()
    broken[5:9, :4] ^= 5
    pictures = {
        "black": np.zeros((8, 8, 3), dtype=np.uint8),
        "noise": generator.integers(1, 255, (32, 32, 3), dtype=np.uint8),
        "gaps": np.tile(np.array([7, 0, 9, 0, 7], dtype=np.uint8)[None, :, None], (8, 1, 3)),
        "broken": broken,
        "other": np.asarray(_picture_with_pixels(b'{"a": 1}')),
    }
    for name, pixels in pictures.items():
        Image.fromarray(pixels).save(tmp_path / f"{name}.png")
        with pytest.raises(ModelFileError, match="no embedding can be read"):
            read_embedding(tmp_path / f"{name}.png")
    (tmp_path / "text.png").write_text("no picture")
    with pytest.raises(ModelFileError, match="cannot be read"):
        read_embedding(tmp_path / "text.png")
    with pytest.raises(ModelFileError, match="is missing"):
        read_embedding(tmp_path / "none.png")


@pytest.mark.parametrize(
    ("tensors", "message"),
    [
        ({"a": torch.ones(2, 8), "b": torch.ones(2, 8)}, r"not an embedding: it holds a, b \(2 tensors\)"),
        ({"conv": torch.ones(2, 8, 3, 3)}, "not an embedding: its tensor has shape"),
        ({"ids": torch.ones(2, 8, dtype=torch.int64)}, "not an embedding"),
        ({"emb_params": torch.full((2, 8), torch.nan)}, "not numbers"),
        ({}, "holds nothing"),
    ],
)
def test_files_that_are_no_embeddings(tensors: dict[str, Tensor], message: str, tmp_path: Path) -> None:
    save_file(tensors, tmp_path / "a.safetensors")
    with pytest.raises(ModelFileError, match=message):
        read_embedding(tmp_path / "a.safetensors")
