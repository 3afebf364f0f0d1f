"""LoRAs, embeddings and files to be inspected, damaged at random: read, or refused in one sentence; nothing else."""

from __future__ import annotations

import base64
import json
import random
import time
from collections.abc import Callable, Iterator
from io import BytesIO
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image, PngImagePlugin
from tests.formats.lora_files import kohya
from tests.formats.mutants import Base, flipped, mutants, no_more_memory_than, shapes_of, sound_header
from tests.formats.single_files import tiny_unet
from torch import Tensor

from wordbrush.errors import ModelFileError
from wordbrush.formats.inspect import inspect_model
from wordbrush.formats.lora.read import read_lora
from wordbrush.formats.textual_inversion import read_embedding

MUTANTS = 600
LAYER = {"down_blocks.0.attentions.0.proj_in": (8, 8), "mid_block.resnets.0.conv1": (12, 12, 3, 3)}


def _all_rules() -> dict[str, Tensor]:
    """A LoRA with a layer of each kind."""
    tensors = kohya("lora_unet", LAYER)
    halves = {"w1_a": (8, 2), "w1_b": (2, 8), "w2_a": (8, 2), "w2_b": (2, 8)}
    tensors |= {f"lora_unet_hada.hada_{name}": torch.ones(shape) for name, shape in halves.items()}
    tensors |= {"lora_unet_kron.lokr_w1": torch.ones(2, 2), "lora_unet_kron.lokr_w2": torch.ones(4, 4)}
    tensors |= {"lora_unet_dora.lora_down.weight": torch.ones(2, 8), "lora_unet_dora.lora_up.weight": torch.ones(8, 2)}
    tensors |= {"lora_unet_dora.dora_scale": torch.ones(8, 1), "bundle_emb.ink.clip_l": torch.ones(2, 16)}
    return tensors


def _bases(reader: str) -> list[Base]:
    """Sound files for a reader."""
    peft = json.dumps({"unet.r": 4, "unet.lora_alpha": 2, "unet.alpha_pattern": {"a": 1}, "unet.use_rslora": True})
    loras = [
        sound_header(shapes_of(_all_rules()), {"ss_network_dim": "2", "ss_tag_frequency": '{"a": {"fox": 3}}'}),
        sound_header({"unet.a.lora_A.weight": [2, 8], "unet.a.lora_B.weight": [8, 2]}, {"lora_adapter_metadata": peft}),
    ]
    embeddings = [
        sound_header({"emb_params": [2, 768]}),
        sound_header({"clip_l": [2, 768], "clip_g": [2, 1280]}),
        sound_header({"<cat>": [768]}),
    ]
    if reader == "read_lora":
        return loras
    if reader == "read_embedding":
        return embeddings
    own = json.dumps({"configs": {"unet": {"attention_head_dim": 4}}, "defaults": {"steps": 3}})
    metadata = {"wordbrush": own, "modelspec.title": "a", "ss_seed": "1"}
    unet = sound_header(shapes_of(tiny_unet("sd1").state_dict()), metadata)
    taesd = {"1.weight": [8, 4, 3, 3], "1.bias": [8], "3.conv.0.weight": [8, 8, 3, 3], "4.weight": [3, 8, 3, 3]}
    return [unet, *loras, *embeddings, sound_header(taesd, {"license": "MIT"})]


READERS: dict[str, Callable[[Path], Any]] = {
    "read_lora": read_lora, "read_embedding": read_embedding, "inspect_model": inspect_model,
}  # fmt: skip


def _outcome(read: Callable[[Path], Any], path: Path) -> str:
    """Whether a file is read or refused; anything but a ModelFileError fails the test."""
    began = time.process_time()
    try:
        _use(read(path))
        return "read"
    except ModelFileError as error:
        text = str(error)
    finally:
        assert time.process_time() - began < 5.0
    assert str(path) in text
    assert "\n" not in text
    assert len(text) < 1500
    return "refused"


def _use(found: Any) -> None:
    """Looks at what was read: it must be whole."""
    if isinstance(found, dict):
        json.dumps(found)
        assert found["kind"]
    for tensor in getattr(found, "vectors", {}).values():
        assert tensor.isfinite().all()
    for change in getattr(found, "changes", {}).values():
        assert change is not None


@pytest.mark.parametrize("reader", READERS)
def test_damaged_headers(tmp_path: Path, reader: str) -> None:
    path, dice, outcomes = tmp_path / "mutant.safetensors", random.Random(20261126), {"read": 0, "refused": 0}
    for number, (start, total) in enumerate(mutants(_bases(reader), MUTANTS, dice, largest=2**20)):
        with path.open("wb") as file:
            file.write(start)
            file.truncate(total)  # a hole, which reads as zeros
        # an embedding is made float32, four bytes for two of the file
        limit = 40 * len(start) + 4 * total + 4_000_000 if number % 8 == 0 else None
        with no_more_memory_than(limit):
            outcomes[_outcome(READERS[reader], path)] += 1
    assert min(outcomes.values()) > 15, outcomes


def _pickles() -> Iterator[tuple[str, bytes]]:
    """Sound pickles: an A1111 embedding, and a LoRA, in both forms of torch.save."""
    embedding = {"string_to_token": {"*": 265}, "string_to_param": {"*": torch.ones(2, 8)}, "name": "a", "step": 5}
    for content, kind in ((embedding, "embedding"), (kohya("lora_unet", LAYER), "lora")):
        for zipped in (True, False):
            buffer = BytesIO()
            torch.save(content, buffer, _use_new_zipfile_serialization=zipped)
            yield kind, buffer.getvalue()


@pytest.mark.parametrize("reader", READERS)
def test_damaged_pickles(tmp_path: Path, reader: str) -> None:
    path, dice, outcomes = tmp_path / "mutant.pt", random.Random(20261127), {"read": 0, "refused": 0}
    wanted = {"read_lora": ("lora",), "read_embedding": ("embedding",)}.get(reader, ("lora", "embedding"))
    sound = [data for kind, data in _pickles() if kind in wanted]
    for number in range(240):
        whole = sound[number % len(sound)]
        path.write_bytes(flipped(whole, dice, within=(0, 700) if number % 4 < 2 else None))
        with no_more_memory_than(2_000_000 if number % 8 == 0 else None):
            outcomes[_outcome(READERS[reader], path)] += 1
    assert min(outcomes.values()) > 10, outcomes


@pytest.mark.parametrize("reader", ["read_embedding", "inspect_model"])
def test_damaged_pictures(tmp_path: Path, reader: str) -> None:
    path, dice, outcomes = tmp_path / "mutant.png", random.Random(20261128), {"read": 0, "refused": 0}
    values = {"string_to_param": {"*": {"TORCHTENSOR": torch.ones(2, 8).tolist()}}, "name": "a"}
    about, buffer = PngImagePlugin.PngInfo(), BytesIO()
    about.add_text("sd-ti-embedding", base64.b64encode(json.dumps(values).encode()).decode())
    Image.new("RGB", (8, 8), "red").save(buffer, "PNG", pnginfo=about)
    for _ in range(300):
        path.write_bytes(flipped(buffer.getvalue(), dice))
        outcomes[_outcome(READERS[reader], path)] += 1
    assert outcomes["refused"] > 30, outcomes
