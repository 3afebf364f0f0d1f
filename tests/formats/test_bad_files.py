"""Damaged and foreign files: one sentence that names the file, the fault and the remedy."""

from __future__ import annotations

import os
import re
import shutil
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from tests.formats.single_files import lora, rewritten, tiny_clip, tiny_parts
from torch import Tensor

from wordbrush.errors import ModelFileError
from wordbrush.formats.checkpoint import open_checkpoint
from wordbrush.formats.open import open_model
from wordbrush.formats.safetensors_file import write_tensors
from wordbrush.formats.single_file.write import write_single_file

UNET = "model.diffusion_model."


@pytest.fixture(scope="module")
def whole(tiny_tokenizer_files: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("whole")
    write_single_file(tiny_parts("sd1", tiny_tokenizer_files, folder), folder / "model.safetensors")
    return folder / "model.safetensors"


@pytest.fixture
def path(whole: Path, tmp_path: Path) -> Path:
    """A model's file, to be damaged."""
    return Path(shutil.copyfile(whole, tmp_path / "model.safetensors"))


def message_of(path: Path, **options: Any) -> str:
    """The sentence that opening the file gives."""
    with pytest.raises(ModelFileError) as caught:
        open_model(path, **options)
    text = str(caught.value)
    assert str(path) in text
    assert "\n" not in text
    assert len(text) < 600
    return text.replace(str(path), "FILE")


def _vae(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    start = "first_stage_model."
    return {name.removeprefix(start): tensor for name, tensor in tensors.items() if name.startswith(start)}


def _changed(name: str, change: Callable[[Tensor], Tensor]) -> Callable[[dict[str, Tensor]], None]:
    def edit(tensors: dict[str, Tensor]) -> None:
        tensors[name] = change(tensors[name].clone())

    return edit


def _spoiled(value: float) -> Callable[[Tensor], Tensor]:
    def spoil(tensor: Tensor) -> Tensor:
        tensor.view(-1)[tensor.numel() // 2] = value
        return tensor

    return spoil


def _without(*names: str) -> Callable[[dict[str, Tensor]], dict[str, Tensor]]:
    return lambda tensors: {name: tensor for name, tensor in tensors.items() if not name.startswith(names)}


CASES: dict[str, tuple[Callable[[dict[str, Tensor]], Any], str]] = {
    "a tensor is missing": (
        _without(f"{UNET}input_blocks.1.0.in_layers.0.weight"),
        r"FILE lacks model\.diffusion_model\.input_blocks\.1\.0\.in_layers\.0\.weight; .* get it again",
    ),
    "many are missing": (_without(f"{UNET}input_blocks.1.0.in_"), r"FILE lacks .* and 1 more; it is damaged or cut"),
    "one too many": (
        lambda tensors: tensors | {f"{UNET}extra.weight": torch.ones(1)},
        r"FILE holds unexpected model\.diffusion_model\.extra\.weight; .* get it in its original form",
    ),
    "a stranger": (lambda tensors: tensors | {"stranger": torch.ones(1)}, r"FILE holds unexpected stranger; "),
    "a wrong shape": (
        _changed(f"{UNET}out.0.weight", lambda tensor: tensor[:-1]),
        r"FILE: model\.diffusion_model\.out\.0\.weight has shape \[31\].* ask for \[32\]; .* get another",
    ),
    "a NaN": (
        _changed(f"{UNET}middle_block.1.proj_in.weight", _spoiled(float("nan"))),
        r"FILE is damaged: mid_block\.attentions\.0\.proj_in\.weight holds values that are not numbers; get the file",
    ),
    "an infinity": (
        _changed("first_stage_model.decoder.conv_in.bias", _spoiled(float("inf"))),
        r"FILE is damaged: decoder\.conv_in\.bias holds values that are not numbers",
    ),
    "no autoencoder": (_without("first_stage_model."), r"FILE holds no autoencoder; give one beside it"),
    "no text encoder": (_without("cond_stage_model."), r"FILE holds no text encoder CLIP-L; give beside it"),
    "half a text encoder": (
        _without("cond_stage_model.transformer.text_model.embeddings.token"),
        r"FILE is a network without text_model\.embeddings\.token_embedding\.weight; copy the file again",
    ),
    "a LoRA": (lambda _: lora(), r"FILE is a LoRA, which changes a model but is none; open a model and give this"),
    "an embedding": (lambda _: {"emb_params": torch.ones(2, 768)}, r"FILE is an embedding .*; open a model"),
    "a VAE": (_vae, r"FILE is an autoencoder \(VAE\) alone, without a model; open a model and give this file as its"),
    "a text encoder": (
        lambda _: dict(tiny_clip(40).state_dict()),
        r"FILE is a text encoder alone, without a model; open a model and give",
    ),
    "an upscaler": (lambda _: {"conv_first.weight": torch.ones(4, 3, 3, 3)}, r"FILE is an upscaler .*; this version"),
    "a pruned model": (_without(f"{UNET}middle_block.1."), r"FILE is a U-Net from which layers were removed .*; use"),
    "another family": (
        lambda tensors: {f"{UNET}joint_blocks.0.context_block.adaLN_modulation.1.weight": torch.ones(1)},
        r"FILE is a Stable Diffusion 3 model; this version has no use for it; open",
    ),
    "nothing": (lambda _: {}, r"FILE is no model, LoRA or embedding that is known here; look up"),
    "4-bit weights": (
        lambda tensors: tensors | {f"{UNET}out.2.weight.absmax": torch.ones(1)},
        r"FILE is quantised in a form that this version does not run .*; get it in float16, bfloat16 or fp8",
    ),
    "whole numbers": (
        _changed(f"{UNET}out.2.weight", lambda tensor: tensor.to(torch.int8)),
        r"FILE is quantised in a form .* does not run \(model\.diffusion_model\.out\.2\.weight holds int8\); get",
    ),
}


@pytest.mark.parametrize("case", CASES)
def test_wrong_contents(path: Path, case: str) -> None:
    change, words = CASES[case]
    rewritten(path, change, keep_metadata=True)
    assert re.match(words, message_of(path)), message_of(path)


def test_parts_that_do_not_belong_together(path: Path, tmp_path: Path) -> None:
    other = tmp_path / "clip.safetensors"
    write_tensors(other, tiny_clip(600, hidden_size=48).state_dict())
    rewritten(path, _without("cond_stage_model."), keep_metadata=True)
    assert "the U-Net reads 32 numbers a token, the text encoder gives 48" in message_of(path, text_encoders=[other])


def test_something_else_in_the_place_of_a_part(path: Path, tmp_path: Path) -> None:
    other = tmp_path / "other.safetensors"
    write_tensors(other, lora())
    with pytest.raises(ModelFileError, match=r"other\.safetensors is a LoRA.*; it holds no autoencoder"):
        open_model(path, vae=other)
    with pytest.raises(ModelFileError, match=r"there is no VAE 'nowhere'"):
        open_model(path, vae="nowhere")


def test_cut_and_foreign_files(path: Path) -> None:
    content = path.read_bytes()
    for length in (0, 4, 8, 9, 500, len(content) // 2, len(content) - 1):
        path.write_bytes(content[:length])
        assert re.match(r"FILE is (empty|not a safetensors file|cut short).*(again|came from)", message_of(path))
    for start, words in (
        (b"GGUF\x03\0\0\0", r"FILE is a GGUF file, .*; get a \.safetensors file"),
        (b"version https://git-lfs.github.com/spec/v1\n", r"FILE is a Git LFS pointer, not a model; .* `git lfs pull`"),
        (b"<!DOCTYPE html><html>", r"FILE is a web page, not a model; download it again"),
        (b"\x89PNG\r\n\x1a\n", r"FILE is a picture, not a model"),
        (struct.pack("<Q", 1 << 40) + b"{", r"FILE is not a safetensors file"),
        (b"PK\x03\x04" + bytes(50), r"FILE cannot be read as a torch checkpoint"),
    ):
        path.write_bytes(start + content[50:])
        assert re.match(words, message_of(path)), message_of(path)


def test_a_pickle_that_is_none(tmp_path: Path) -> None:
    path = tmp_path / "x.ckpt"
    path.write_bytes(b"garbage, garbage")
    assert message_of(path) == "FILE is not a file that torch.save wrote; get it again from where it came from"


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="a system without pipes that have names")
def test_a_pipe_is_not_waited_for(tmp_path: Path) -> None:
    path = tmp_path / "x.safetensors"
    os.mkfifo(path)
    with pytest.raises(ModelFileError, match=r"x\.safetensors is a device or a pipe; name a file"):
        open_checkpoint(path)


@pytest.mark.skipif(not Path("/proc/self/maps").exists(), reason="only Linux tells what is mapped")
def test_nothing_stays_in_memory_after_an_error(path: Path) -> None:
    rewritten(path, _changed("first_stage_model.decoder.conv_in.bias", _spoiled(float("nan"))), keep_metadata=True)

    def maps() -> int:
        return sum(str(path) in line for line in Path("/proc/self/maps").read_text().splitlines())

    with pytest.raises(ModelFileError):
        open_model(path)
    assert maps() == 0


def test_a_huge_header_of_small_things_is_read_in_its_size(tmp_path: Path) -> None:
    path = tmp_path / "x.safetensors"
    text = b'{"a":{"dtype":"F32","shape":[' + b"1," * 400_000 + b'1],"data_offsets":[0,4]}}'
    path.write_bytes(struct.pack("<Q", len(text)) + text + bytes(4))
    assert "larger than any file" in message_of(path)
    text = b'{"a":{"dtype":"F32","shape":[' + b"999999999999999999," * 20_000 + b'0],"data_offsets":[0,0]}}'
    path.write_bytes(struct.pack("<Q", len(text)) + text)
    assert "larger than any file" in message_of(path)
