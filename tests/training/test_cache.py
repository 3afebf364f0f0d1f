"""Tensors kept on disk: never stale, never half, whoever writes and whenever they are killed."""

from __future__ import annotations

import multiprocessing
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from wordbrush.errors import WorkFailed
from wordbrush.training.cache import TensorCache, text_key, weights_hash


def value(number: int) -> dict[str, Tensor]:
    """What SDXL wants of a text: tensors of several kinds."""
    return {
        "hidden": torch.full((1, 7, 20), float(number)),
        "pooled": torch.arange(8).float().mul(number)[None].to(torch.bfloat16),
        "ids": torch.tensor([[number, 2]]),
    }


def equal(one: dict[str, Tensor] | None, other: dict[str, Tensor]) -> bool:
    return one is not None and one.keys() == other.keys() and all(torch.equal(one[key], other[key]) for key in one)


def test_what_is_put_comes_back_to_the_bit(tmp_path: Path) -> None:
    cache, key = TensorCache(tmp_path, "m" * 64), text_key("a cat")
    assert cache.get(key) is None
    assert equal(cache.put(key, value(3)), value(3))
    found = TensorCache(tmp_path, "m" * 64).get(key)
    assert equal(found, value(3))
    assert {name: tensor.dtype for name, tensor in (found or {}).items()} == {
        "hidden": torch.float32, "pooled": torch.bfloat16, "ids": torch.int64,
    }  # fmt: skip
    assert [path.name for path in tmp_path.rglob("*.*")] == [f"{key}.safetensors"]


def test_views_are_kept_whole_and_apart(tmp_path: Path) -> None:
    cache, whole = TensorCache(tmp_path, "m"), torch.randn(4, 6)
    cache.put("aa", {"a": whole.T[1:3], "b": whole[:2]})
    assert equal(cache.get("aa"), {"a": whole.T[1:3], "b": whole[:2]})


def test_only_what_is_missing_is_computed_each_alone(tmp_path: Path) -> None:
    cache, asked = TensorCache(tmp_path, "m"), []

    def compute(number: int) -> dict[str, Tensor]:
        asked.append(number)
        return value(number)

    keys = [text_key(text) for text in "abcb"]
    first = cache.through(keys, compute)
    assert asked == [0, 1, 2]  # the second b is there by then
    assert equal(first[3], value(1))
    again = cache.through(reversed(keys), compute)
    assert asked == [0, 1, 2]
    assert all(equal(a, b) for a, b in zip(again, reversed(first), strict=True))


def test_keys_are_of_the_texts_and_models_of_the_weights() -> None:
    keys = {text_key("ab", "c"), text_key("a", "bc"), text_key("abc"), text_key("ab", "c", "")}
    assert len(keys) == 4
    network = nn.Linear(3, 2)
    first = weights_hash([network])
    assert weights_hash([network]) == first
    hashes = {first, weights_hash([network], "clip_skip 2"), weights_hash([network, nn.Linear(1, 1)])}
    hashes |= {weights_hash([network.to(torch.bfloat16)]), weights_hash([nn.Linear(2, 3)]), weights_hash([])}
    with torch.no_grad():
        network.weight[0, 0] += 1
    assert len(hashes | {weights_hash([network])}) == 7


def test_another_model_has_other_values(tmp_path: Path) -> None:
    one, other = TensorCache(tmp_path, "a" * 64), TensorCache(tmp_path, "b" * 64)
    one.put("key", value(1))
    assert other.get("key") is None
    same_start = TensorCache(tmp_path, "a" * 16 + "c" * 48)  # the folder's name is the same
    assert same_start.get("key") is None


def test_a_damaged_file_counts_as_missing(tmp_path: Path) -> None:
    cache = TensorCache(tmp_path, "m")
    cache.put("key", value(1))
    path = cache.path("key")
    whole = path.read_bytes()
    for content in (b"", whole[:20], whole[:-1], b"\0" * len(whole)):
        path.write_bytes(content)
        assert cache.get("key") is None
    cache.put("key", value(2))
    assert equal(cache.get("key"), value(2))
    path.rename(cache.path("kex"))
    assert cache.get("kex") is None  # it says which key it is of


def test_a_cache_that_cannot_be_written_says_so(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(WorkFailed, match=r"the cache .* cannot be written"):
        TensorCache(tmp_path / "file", "m").put("key", value(1))


def fill(folder: Path, start: int) -> int:
    cache = TensorCache(folder, "m")
    wrong = 0
    for step in range(60):
        number = (start + step) % 20
        found = cache.get(f"{number:04}")
        wrong += found is not None and not equal(found, value(number))
        cache.put(f"{number:04}", value(number))
    return wrong


def test_processes_share_a_cache(tmp_path: Path) -> None:
    with multiprocessing.get_context("spawn").Pool(2) as pool:
        assert pool.starmap(fill, [(tmp_path, start) for start in (0, 5)]) == [0, 0]
    assert len(list(tmp_path.rglob("*.safetensors"))) == 20
    assert not list(tmp_path.rglob("*.part"))


WRITER = """
import sys, torch
from pathlib import Path
from wordbrush.training.cache import TensorCache
cache, number = TensorCache(Path(sys.argv[1]), "m"), 0
print("ready", flush=True)
while True:
    cache.put(f"{number % 7:04}", {"x": torch.full((50_000,), float(number % 7))})
    number += 1
"""


def test_a_killed_writer_leaves_only_whole_values(tmp_path: Path) -> None:
    for wait in (0.0, 0.04):
        process = subprocess.Popen([sys.executable, "-c", WRITER, str(tmp_path)], stdout=subprocess.PIPE)
        assert process.stdout is not None
        process.stdout.readline()
        time.sleep(wait)
        os.kill(process.pid, signal.SIGKILL)
        process.wait()
        process.stdout.close()
        cache = TensorCache(tmp_path, "m")
        for number in range(7):
            path = cache.path(f"{number:04}")
            assert not path.exists() or equal(cache.get(f"{number:04}"), {"x": torch.full((50_000,), float(number))})
