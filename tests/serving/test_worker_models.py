"""The models of a worker: counted in bytes, given up when there is no room, and really gone."""

from __future__ import annotations

import gc
import weakref
from pathlib import Path

import pytest
import torch
from tests.serving.worker_parts import library
from torch import nn

import wordbrush
from wordbrush.serving.catalogue import Catalogue
from wordbrush.serving.workers.models import Models, release_memory, used_bytes
from wordbrush.serving.workers.weights import weigh

MB = 1_000_000


def test_every_tensor_counts_once_wherever_it_hangs() -> None:
    layer = nn.Linear(100, 50)
    own = 4 * (100 * 50 + 50)
    assert weigh(layer) == own
    shared = {"a": layer, "b": [layer.weight, layer.weight.T], "c": lambda: layer}
    assert weigh(shared, layer) == own
    assert weigh(shared, torch.zeros(10, dtype=torch.float16)) == own + 20
    assert weigh("text", 3, None, weigh) == 0


def test_a_model_counts_with_the_copies_that_run_it() -> None:
    pipe = wordbrush.load(dtype="float32")
    parts = weigh(pipe.parts)
    stored = sum(p.nbytes for network in pipe.parts.networks.values() for p in network.parameters())
    assert stored <= parts < 1.1 * stored
    pipe("a fox", steps=1)
    unet = sum(p.nbytes for p in pipe.parts.denoiser.parameters())
    assert weigh(pipe) > parts + 0.5 * unet, "what denoises runs as a packed copy"


@pytest.fixture
def names(tmp_path: Path, tiny_v_folder: Path, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    names = ["one", "two", "three"]
    monkeypatch.setenv("WORDBRUSH_MODELS", str(library(tmp_path / "models", tiny_v_folder, *names)))
    return names


def test_the_one_used_least_lately_is_given_up_and_gone(names: list[str]) -> None:
    models = Models("cpu", "float32", 10 << 30)
    size = weigh(models.pipeline("one", None))
    models = Models("cpu", "float32", int(2.5 * size))
    first = weakref.ref(models.pipeline("one", None))
    second = weakref.ref(models.pipeline("two", None))
    assert models.pipeline("one", None) is first()
    models.pipeline("three", None)
    assert list(models.sizes) == ["one", "three"]
    assert second() is None, "its memory is free"
    assert sum(models.sizes.values()) <= models.most_bytes
    models.drop_others()
    assert list(models.sizes) == ["three"]
    models.drop()
    assert models.sizes == {}
    assert first() is None


def test_room_is_made_before_a_model_is_opened(names: list[str]) -> None:
    size = weigh(Models("cpu", "float32", 10 << 30).pipeline("one", None))
    seen: list[list[str]] = []
    models = Models("cpu", "float32", int(2.5 * size), lambda name: seen.append(list(models.sizes)) or 2 * size)
    models.pipeline("one", None)
    models.pipeline("two", None)
    assert seen == [[], ["one"]]
    assert list(models.sizes) == ["two"], "three times its size would not have fitted beside the first"


def test_one_model_is_kept_whatever_its_size(names: list[str]) -> None:
    models = Models("cpu", "float32", 0)
    for name in names:
        models.pipeline(name, None)
        models.settle()
        assert list(models.sizes) == [name]


@pytest.mark.slow
def test_memory_is_flat_over_many_switches() -> None:
    """Opened, painted with and given up again and again, as when requests for several models take turns."""
    models = Models("cpu", "float32", 10 << 30)
    taken = []
    for number in range(12):
        models.drop()
        pipe = models.pipeline("scenes-128", None)
        pipe("a fox", steps=1, seed=number)
        models.settle()
        del pipe
        gc.collect()
        release_memory()
        taken.append(used_bytes(torch.device("cpu")))
    assert max(taken[4:]) - min(taken[4:]) < 30 * MB, [round(one / MB) for one in taken]


def test_names_are_those_of_the_catalogue(names: list[str]) -> None:
    catalogue = Catalogue()
    assert [one.name for one in catalogue.models] == ["scenes-128", "one", "three", "two"]
    assert catalogue.own_size("one") == (32, 32)
    assert catalogue.own_size(None) == (128, 128)
    assert catalogue.defaults_of("one")["steps"] == 4
