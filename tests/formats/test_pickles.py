"""Files that torch.save wrote: the same tensors as torch reads, and nothing ever run."""

from __future__ import annotations

import argparse
import collections
import io
import os
import pathlib
import pickle
import shutil
import struct
import subprocess
import tracemalloc
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from wordbrush.errors import ModelFileError
from wordbrush.formats.checkpoint import open_checkpoint
from wordbrush.formats.diffusers_folder import read_folder
from wordbrush.formats.pickles import read_pickled_header, read_pickled_tensors
from wordbrush.formats.weight_files import find_weights, has_variant
from wordbrush.formats.weights import read_weights

LEGACY = {"_use_new_zipfile_serialization": False}
FORMS = pytest.mark.parametrize("form", [{}, LEGACY], ids=["zip", "legacy"])


def tensors() -> dict[str, torch.Tensor]:
    base = torch.arange(24.0).reshape(4, 6)
    return {
        "whole": base,
        "turned": base.T,
        "part": base[1:3, 2:5],
        "row": base[2],
        "half": torch.randn(3, 2, generator=torch.Generator().manual_seed(0)).half(),
        "bfloat16": torch.ones(3, dtype=torch.bfloat16),
        "numbers": torch.arange(5),
        "bytes": torch.arange(5, dtype=torch.uint8),
        "switches": torch.tensor([True, False]),
        "scalar": torch.tensor(2.5, dtype=torch.float64),
        "empty": torch.zeros(0, 3),
        "channels last": torch.randn(2, 3, 4, 5, generator=torch.Generator().manual_seed(1)).to(
            memory_format=torch.channels_last
        ),
        "parameter": torch.nn.Parameter(torch.ones(2)),
    }


def assert_same(found: dict[str, torch.Tensor], wanted: dict[str, torch.Tensor]) -> None:
    assert found.keys() == wanted.keys()
    for name, tensor in wanted.items():
        assert (found[name].dtype, found[name].shape) == (tensor.dtype, tensor.shape), name
        assert torch.equal(found[name], tensor), name


@FORMS
def test_tensors_are_those_that_torch_reads(tmp_path: Path, form: dict[str, bool]) -> None:
    path = tmp_path / "x.pt"
    torch.save(tensors(), path, **form)
    assert_same(read_pickled_tensors(path), torch.load(path, weights_only=True))
    assert_same(read_pickled_tensors(path, ["row", "turned"]), {name: tensors()[name] for name in ("turned", "row")})
    header = read_pickled_header(path)
    assert header.tensors["half"].dtype == "F16"
    assert header.tensors["turned"].shape == (6, 4)
    assert header.tensors["whole"].bytes == 96


@FORMS
def test_the_file_stays_as_it_is_when_a_tensor_changes(tmp_path: Path, form: dict[str, bool]) -> None:
    path = tmp_path / "x.pt"
    torch.save({"a": torch.zeros(5)}, path, **form)
    before = path.read_bytes()
    read_pickled_tensors(path)["a"].add_(1.0)
    assert path.read_bytes() == before


def test_eight_bit_tensors(tmp_path: Path) -> None:
    path = tmp_path / "x.pt"
    values = torch.arange(8.0).to(torch.float8_e4m3fn)
    torch.save({"a": values}, path)
    assert torch.equal(read_pickled_tensors(path)["a"].float(), values.float())
    assert read_pickled_header(path).tensors["a"].dtype == "F8_E4M3"


class ModelCheckpoint:
    """As pytorch-lightning's, whose class old checkpoints have as a key."""

    def __init__(self) -> None:
        self.best = {"score": np.float64(0.5), "at": pathlib.PurePosixPath("runs/1")}


@FORMS
def test_a_training_checkpoint_with_everything_in_it(tmp_path: Path, form: dict[str, bool]) -> None:
    path = tmp_path / "model.ckpt"
    state = collections.OrderedDict(a=torch.ones(2, 3), b=torch.zeros(1).half())
    state._metadata = {"": {"version": 1}}  # type: ignore[attr-defined]
    content = {
        "state_dict": state,
        "global_step": 875000,
        "epoch": np.int64(3),
        "pytorch-lightning_version": "1.4.2",
        "callbacks": {ModelCheckpoint: ModelCheckpoint(), argparse.Namespace: argparse.Namespace(lr=1e-4)},
        "optimizer_states": [{"state": {0: {"exp_avg": torch.ones(7)}}}],
        "names": {"a", "b"},
        "more": (frozenset({1}), b"bytes", bytearray(b"x"), 1 << 80, -1.5, None, True, "ünïcode"),
    }
    content["itself"] = content
    torch.save(content, path, **form)
    assert_same(read_pickled_tensors(path), {"a": torch.ones(2, 3), "b": torch.zeros(1).half()})
    metadata = open_checkpoint(path).header.metadata
    assert (metadata["global_step"], metadata["pytorch-lightning_version"]) == ("875000", "1.4.2")


def test_tensors_deeper_down_are_named_by_their_path(tmp_path: Path) -> None:
    path = tmp_path / "embedding.pt"
    content = {"string_to_param": {"*": torch.ones(2, 4)}, "name": "cat", "list": [torch.zeros(1)], 3: torch.ones(1)}
    torch.save(content, path)
    assert list(read_pickled_tensors(path)) == ["string_to_param.*", "list.0", "3"]
    torch.save(torch.ones(2), path)
    assert torch.equal(read_pickled_tensors(path)[""], torch.ones(2))


class Call:
    """Makes pickles that call a function when they are opened."""

    def __init__(self, function: Any, *arguments: Any) -> None:
        self.function, self.arguments = function, arguments

    def __reduce__(self) -> tuple[Any, Any]:
        return self.function, self.arguments


ATTACKS: dict[str, Callable[[str], Any]] = {
    "os.system": lambda flag: Call(os.system, f"touch {flag}"),
    "eval": lambda flag: Call(eval, f"open({flag!r}, 'w')"),
    "exec": lambda flag: Call(exec, f"open({flag!r}, 'w')"),
    "open": lambda flag: Call(open, flag, "w"),
    "subprocess": lambda flag: Call(subprocess.Popen, ["touch", flag]),
    "os.getenv": lambda flag: Call(os.getenv, "HOME"),
    "getattr": lambda flag: Call(getattr, "a", "upper"),
    "import": lambda flag: Call(__import__, "antigravity"),
    "pickle in a pickle": lambda flag: Call(pickle.loads, pickle.dumps(Call(os.system, f"touch {flag}"))),
}


@FORMS
@pytest.mark.parametrize("attack", ATTACKS)
def test_code_is_refused_and_not_run(tmp_path: Path, attack: str, form: dict[str, bool]) -> None:
    flag, path = tmp_path / "flag", tmp_path / "evil.ckpt"
    bad = ATTACKS[attack](str(flag))
    torch.save({"state_dict": {"a": torch.ones(1)}, "x": bad}, path, **form)
    for read in (read_pickled_tensors, read_pickled_header, open_checkpoint):
        with pytest.raises(ModelFileError, match=r"evil\.ckpt is refused: .* it would run \w+\.\w+; get"):
            read(path)
    assert not flag.exists()


def as_zip(path: Path, pickled: bytes, data: bytes = b"", **options: Any) -> Path:
    """A file in torch's zip form with any pickle."""
    with zipfile.ZipFile(path, "w", **options) as archive:
        archive.writestr("archive/data.pkl", pickled)
        archive.writestr("archive/data/0", data)
    return path


@pytest.mark.parametrize(
    "pickled",
    [
        b"cos\nsystem\n(S'touch flag'\ntR.",
        b"(S'touch flag'\nios\nsystem\n.",
        b"(cos\nsystem\nS'touch flag'\no.",
        b"\x80\x04\x8c\x05posix\x8c\x06system\x93\x8c\x0atouch flag\x85R.",
        b"\x80\x04\x8c\x02os\x8c\x06system\x93\x8c\x0atouch flag\x85\x81.",
        b"c__builtin__\neval\n(S'1'\ntR.",
        b"cos\nsystem\n.",
    ],
)
def test_every_instruction_that_can_call_is_refused(
    tmp_path: Path, pickled: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ModelFileError, match="is refused"):
        read_pickled_tensors(as_zip(tmp_path / "x.pt", pickled))
    assert not (tmp_path / "flag").exists()


def test_functions_of_other_packages_are_named_and_not_called(tmp_path: Path) -> None:
    """Not in the standard library, so not refused: it becomes nothing, whatever it is."""
    path = as_zip(tmp_path / "x.pt", b"(dS'a'\ncnumpy.testing._private.utils\nrunstring\n(S'1/0'\n(dtRs.")
    assert read_pickled_tensors(path) == {}


def tensor_pickle(size: int, offset: int, shape: str, stride: str) -> bytes:
    def items(text: str) -> bytes:
        return b"".join(f"I{number}\n".encode() for number in text.split())

    head = f"(S'storage'\nctorch\nFloatStorage\nS'0'\nS'cpu'\nI{size}\ntQI{offset}\n".encode()
    return (
        b"ctorch._utils\n_rebuild_tensor_v2\n(" + head + b"(" + items(shape) + b"t(" + items(stride) + b"tI00\nNtR."
    )


def test_a_hand_written_tensor(tmp_path: Path) -> None:
    data = struct.pack("<6f", *range(6))
    path = as_zip(tmp_path / "x.pt", tensor_pickle(6, 1, "2 2", "2 1"), data)
    assert torch.equal(read_pickled_tensors(path)[""], torch.tensor([[1.0, 2.0], [3.0, 4.0]]))


@pytest.mark.parametrize(
    ("pickled", "words"),
    [
        (tensor_pickle(6, 0, "7", "1"), "lies beyond its storage"),
        (tensor_pickle(6, 5, "2", "1"), "lies beyond its storage"),
        (tensor_pickle(600000000, 0, "600000000", "1"), "lies beyond its storage"),
        (tensor_pickle(6, 0, "1000000 1000000", "0 0"), "lies beyond its storage"),
        (tensor_pickle(6, -1, "2", "1"), "damaged"),
        (tensor_pickle(6, 0, "2", "1 1"), "damaged"),
        (tensor_pickle(6, 0, "99999999999999999999", "1"), "damaged"),
        (b"", "damaged|no end"),
        (b"garbage", "damaged"),
        (b"\x80\x02}q\x00", "damaged"),
        (b"\x80\x02X\xff\xff\xff\x7fabc", "damaged"),
        (b"\x80\x04\x8d\xff\xff\xff\xff\xff\xff\xff\x7fabc", "damaged"),
        (b"\x80\x02]r\xff\xff\xff\x7f.", None),
        (b"t.", "damaged|mark"),
        (b"h\x05.", "damaged"),
        (b"}]]s.", "damaged"),
        (b"\x82\x01.", "instruction EXT1"),
        (b"P1\n.", "instruction PERSID"),
        (b"I" + b"9" * 5000 + b"\n.", "damaged"),
        (pickle.dumps({"step": 10**6000}), "a number of 19932 bits"),
        (b"ctorch\nSize\n(" + b"K\x01" * 17 + b"t\x85R.", "damaged"),
        (b"}(" + b")" + b"2\x86" * 60 + b"K\x01u.", None),
    ],
)
def test_damaged_pickles(tmp_path: Path, pickled: bytes, words: str | None) -> None:
    path = as_zip(tmp_path / "x.pt", pickled, bytes(24))
    if words is None:
        assert read_pickled_tensors(path) == {}
        return
    with pytest.raises(ModelFileError, match=words) as caught:
        read_pickled_tensors(path)
    assert str(path) in str(caught.value)


def test_a_few_bytes_do_not_become_many(tmp_path: Path) -> None:
    """A hundred dicts of ten thousand entries, each made by a call that names the same list in three bytes."""
    pairs = b"".join(b"J" + struct.pack("<i", number) + b"N\x86" for number in range(10_000))
    calls = b"ccollections\nOrderedDict\nh\x00\x85Ra" * 100
    path = as_zip(tmp_path / "x.pt", b"\x80\x02]q\x00(" + pairs + b"e0]" + calls + b".")
    tracemalloc.start()
    try:
        assert read_pickled_tensors(path) == {}
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak < 20_000_000  # each dict by itself takes 0.6 MB


def test_one_tensor_by_many_names_is_refused(tmp_path: Path) -> None:
    one = tensor_pickle(6, 0, "2", "1")[:-1] + b"q\x000"
    for count, refused in ((50_000, False), (300_000, True)):
        path = as_zip(tmp_path / "x.pt", b"\x80\x02" + one + b"](" + b"h\x00" * count + b"e.", bytes(24))
        if refused:
            with pytest.raises(ModelFileError, match=r"x\.pt .* it names more than 100000 tensors; get it again"):
                read_pickled_header(path)
        else:
            assert len(read_pickled_header(path).tensors) == count


def test_what_lies_too_deep_or_under_too_long_a_name_is_left_out(tmp_path: Path) -> None:
    one = tensor_pickle(6, 0, "2", "1")[:-1]
    for depth, count in ((32, 1), (33, 0), (100_000, 0)):
        path = as_zip(tmp_path / "x.pt", b"\x80\x02" + b"]" * depth + one + b"a" * depth + b".", bytes(24))
        assert len(read_pickled_header(path).tensors) == count
    torch.save({"a" * 1000: torch.ones(1), "b" * 1001: torch.ones(1)}, tmp_path / "y.pt")
    assert list(read_pickled_header(tmp_path / "y.pt").tensors) == ["a" * 1000]


def test_a_description_larger_than_any_is_refused(tmp_path: Path) -> None:
    for form in ({}, LEGACY):
        torch.save({"a": torch.ones(1), "text": "x" * (17 << 20)}, tmp_path / "x.pt", **form)
        with pytest.raises(ModelFileError, match=r"larger than any description of tensors; get it again"):
            read_pickled_header(tmp_path / "x.pt")


def test_damaged_zips(tmp_path: Path) -> None:
    path = tmp_path / "x.pt"
    with pytest.raises(ModelFileError, match=r"is compressed; pack it again without compression$"):
        read_pickled_tensors(as_zip(path, b"}.", compression=zipfile.ZIP_DEFLATED))
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("code/x.py", "1")
    with pytest.raises(ModelFileError, match=r"has no data\.pkl"):
        read_pickled_tensors(path)
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("archive/data.pkl", b"}.")
        archive.writestr("archive/byteorder", "big")
    with pytest.raises(ModelFileError, match="byte order"):
        read_pickled_tensors(path)
    torch.save({"a": torch.ones(1000)}, path)
    whole = path.read_bytes()
    for length in (3, 100, len(whole) // 2, len(whole) - 30):
        path.write_bytes(whole[:length])
        with pytest.raises(ModelFileError, match=r"x\.pt .*(cut short|not a file that)"):
            read_pickled_tensors(path)


def test_damaged_legacy_files(tmp_path: Path) -> None:
    path = tmp_path / "x.pt"
    torch.save({"a": torch.ones(100)}, path, **LEGACY)
    whole = path.read_bytes()
    for length in (2, 40, len(whole) - 401, len(whole) - 1):
        path.write_bytes(whole[:length])
        with pytest.raises(ModelFileError, match=r"x\.pt"):
            read_pickled_tensors(path)
    path.write_bytes(pickle.dumps({"a": 1}))
    with pytest.raises(ModelFileError, match=r"none that torch\.save wrote"):
        read_pickled_tensors(path)
    path.write_bytes(b"hello")
    with pytest.raises(ModelFileError, match=r"not a file that torch\.save wrote"):
        read_pickled_tensors(path)
    with pytest.raises(ModelFileError, match="is missing"):
        read_pickled_tensors(tmp_path / "none.pt")


def _bin(folder: Path, part: str, stem: str, name: str) -> None:
    source = folder / part / f"{stem}.safetensors"
    torch.save(read_weights([source]), folder / part / name)
    source.unlink()


def test_a_folder_of_bin_files(tiny_sd_folder: Path, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(tiny_sd_folder, tmp_path / "model"))
    wanted = read_folder(tiny_sd_folder)
    _bin(folder, "unet", "diffusion_pytorch_model", "diffusion_pytorch_model.bin")
    _bin(folder, "vae", "diffusion_pytorch_model", "diffusion_pytorch_model.fp16.bin")
    _bin(folder, "text_encoder", "model", "pytorch_model.bin")
    found = read_folder(folder)
    for part, network in wanted.networks.items():
        assert_same(dict(found.networks[part].state_dict()), dict(network.state_dict()))


@pytest.mark.parametrize(
    ("files", "variant", "found"),
    [
        (["s.safetensors", "s.fp16.safetensors", "s.bin"], None, ["s.safetensors"]),
        (["s.safetensors", "s.fp16.safetensors", "s.bin"], "fp16", ["s.fp16.safetensors"]),
        (["s.bin", "s.fp16.safetensors"], None, ["s.bin"]),
        (["s.fp16.bin", "s.safetensors"], "fp16", ["s.fp16.bin"]),
        (["s.fp16.bin"], None, ["s.fp16.bin"]),
        (["s.ema.safetensors", "s.safetensors"], "ema", ["s.ema.safetensors"]),
        (["s.bin.index.json", "a.bin", "b.bin"], None, ["a.bin", "b.bin"]),
        (["s.safetensors.index.fp16.json", "a.bin", "b.bin", "s.safetensors"], "fp16", ["a.bin", "b.bin"]),
    ],
)
def test_which_files_hold_the_weights(tmp_path: Path, files: list[str], variant: str | None, found: list[str]) -> None:
    for file in files:
        (tmp_path / file).write_text('{"weight_map": {"x": "b.bin", "y": "a.bin"}}')
    assert [path.name for path in find_weights(tmp_path, "s", variant)] == found
    with pytest.raises(ModelFileError, match=r"there is no s\.other\.safetensors in .*; it holds|s\.other"):
        find_weights(tmp_path, "s", "other")
    assert has_variant(tmp_path, "s", variant or "none") == (variant is not None)
    assert not has_variant(tmp_path, "s", "other")


def test_a_pickle_of_the_second_protocol_by_python_2(tmp_path: Path) -> None:
    buffer = io.BytesIO()
    pickle.dump(collections.OrderedDict(a=1), buffer, protocol=0)
    path = as_zip(tmp_path / "x.pt", buffer.getvalue())
    assert read_pickled_header(path).metadata == {"a": "1"}
