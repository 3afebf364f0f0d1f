"""Safetensors files: read, written, and every damage named before anything is read."""

from __future__ import annotations

import json
import struct
from pathlib import Path

import pytest
import torch

from wordbrush.errors import ModelFileError
from wordbrush.formats.checkpoint import open_checkpoint
from wordbrush.formats.safetensors_file import read_header, read_tensors, write_tensors

TENSORS = {"a": torch.arange(6.0).reshape(2, 3), "b": torch.ones(4, dtype=torch.bfloat16)}


def raw(header: object, data: bytes = b"", length: int | None = None) -> bytes:
    """A file's bytes from its header and data."""
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    return struct.pack("<Q", len(text) if length is None else length) + text + data


def test_reads_what_it_wrote(tmp_path: Path) -> None:
    path = tmp_path / "x.safetensors"
    write_tensors(path, TENSORS | {"transposed": TENSORS["a"].T})
    header = read_header(path)
    assert header.metadata == {"format": "pt"}
    assert (header.tensors["a"].dtype, header.tensors["a"].shape, header.tensors["a"].bytes) == ("F32", (2, 3), 24)
    assert header.tensors["b"].parameters == 4
    read = read_tensors(path)
    assert torch.equal(read["a"], TENSORS["a"])
    assert torch.equal(read["transposed"], TENSORS["a"].T)
    assert read["b"].dtype is torch.bfloat16


ONE = {"a": {"dtype": "F32", "shape": [2], "data_offsets": [0, 8]}}
TWO = {**ONE, "b": {"dtype": "F32", "shape": [1], "data_offsets": [4, 8]}}


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"", "is empty; get it again"),
        (b"<!DOCTYPE html><html>", "is a web page, not a model"),
        (b"GGUF\x03\0\0\0\0\0", "is a GGUF file"),
        (b"\x10\0\0", "not a safetensors file"),
        (b"PK\x03\x04" + bytes(100), "pickled checkpoint"),
        (b"\x80\x02}q\x00" + bytes(100), "pickled checkpoint"),
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:abc\n", "git lfs pull"),
        (raw(ONE, bytes(8), length=2**62), "not a safetensors file"),
        (raw(ONE)[:20], "cut short"),
        (raw(ONE, bytes(7)), "cut short: its tensors need 8 bytes, 7 are there"),
        (raw(ONE, bytes(9)), "1 bytes follow"),
        (raw(TWO, bytes(8)), "overlap"),
        (raw(b"not json"), "not a safetensors file"),
        (raw(b"[1, 2]"), "not a safetensors file"),
        (raw(b"{1, 2]"), "cannot be understood"),
        (raw(b'{"a":' * 5000), "cannot be understood"),
        (raw(b"{}", length=0), "not a safetensors file"),
        (raw({"a": 3}), "cannot be understood"),
        (raw({"a": {"dtype": "F32", "shape": [2], "data_offsets": [0]}}), "cannot be understood"),
        (raw({"a": {"dtype": "X9", "shape": [2], "data_offsets": [0, 8]}}, bytes(8)), "X9"),
        (raw({"a": {"dtype": "F32", "shape": [-2], "data_offsets": [0, 8]}}, bytes(8)), "whole number"),
        (raw({"a": {"dtype": "F32", "shape": ["2"], "data_offsets": [0, 8]}}, bytes(8)), "whole number"),
        (raw({"a": {"dtype": "F32", "shape": [3], "data_offsets": [0, 8]}}, bytes(8)), "cannot fill 8 bytes"),
    ],
)
def test_damage_is_named(tmp_path: Path, content: bytes, words: str) -> None:
    path = tmp_path / "x.safetensors"
    path.write_bytes(content)
    with pytest.raises(ModelFileError, match=words) as caught:
        read_tensors(path)
    assert str(path) in str(caught.value)


@pytest.mark.parametrize("length", [0x280, 0x380, 0x480, 0x580])
def test_a_header_as_long_as_a_pickle_begins_is_no_pickle(tmp_path: Path, length: int) -> None:
    path = tmp_path / "x.safetensors"
    write_tensors(path, TENSORS, {"note": ""})
    missing = length - int.from_bytes(path.read_bytes()[:8], "little")
    write_tensors(path, TENSORS, {"note": "x" * missing})
    assert path.read_bytes()[:2] == bytes([0x80, length >> 8])
    checkpoint = open_checkpoint(path)
    assert not checkpoint.pickled
    assert set(checkpoint.header.tensors) == set(TENSORS)


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(ModelFileError, match=r"none\.safetensors is missing"):
        read_header(tmp_path / "none.safetensors")


def test_every_cut_and_flipped_header_byte_is_an_error_or_a_file(tmp_path: Path) -> None:
    path = tmp_path / "x.safetensors"
    write_tensors(path, TENSORS)
    whole = path.read_bytes()
    for length in range(0, len(whole), 7):
        path.write_bytes(whole[:length])
        with pytest.raises(ModelFileError):
            read_tensors(path)
    for place in range(8 + struct.unpack("<Q", whole[:8])[0]):
        path.write_bytes(whole[:place] + bytes([whole[place] ^ 0x15]) + whole[place + 1 :])
        try:
            read_tensors(path)
        except ModelFileError:
            continue
