"""Losses that compare rows across processes: two gloo processes have the loss and gradients of one with all rows."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, distributed

from wordbrush.errors import RequestError
from wordbrush.formats.open import locate_model
from wordbrush.training.gathering import averaged, first_row, gathered
from wordbrush.training.recipe import Recipe
from wordbrush.training.run import build_task
from wordbrush.training.task import Task

TOWER = {"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2}
NETWORK = {
    "latent_channels": 4, "block_out_channels": [16, 16], "layers_per_block": 1, "norm_num_groups": 1,
    "mid_block_add_attention": False, "use_quant_conv": False, "use_post_quant_conv": False,
}  # fmt: skip
TRAINED: dict[str, dict[str, Any]] = {
    "clip": {
        "task": "clip", "tokenizer": str(locate_model(None) / "tokenizer"), "projection": 8, "text": TOWER,
        "vision": TOWER | {"image_size": 128, "patch_size": 32},
    },
    "vae": {"task": "vae", "network": NETWORK, "crop": 32, "adversary": {"channels": 16}, "half_scale_every": 0},
}  # fmt: skip
BATCH = 6


def recipe(name: str, **changes: Any) -> Recipe:
    values = {"name": name, "seed": 3, "steps": 4, "batch": BATCH, "train": TRAINED[name]}
    return Recipe.model_validate(values | changes)


def measured(task: Task, rows: range) -> dict[str, Tensor]:
    loss, figures = task.loss(task.batch(1, rows), 1)
    loss.backward()
    found = {"loss": loss.detach()} | {key: value.detach() for key, value in figures.items()}
    for module in task.modules.values():
        found |= {key: parameter.grad for key, parameter in module.named_parameters() if parameter.grad is not None}
    return found


def one_of_two(rank: int, folder: str) -> None:
    torch.set_num_threads(1)
    distributed.init_process_group("gloo", init_method=f"file://{folder}/meet", rank=rank, world_size=2)
    try:
        rows = range(rank * BATCH // 2, (rank + 1) * BATCH // 2)
        found = {}
        for name in TRAINED:
            task = build_task(recipe(name), Path(folder))
            for key, value in measured(task, rows).items():
                total = value.clone()
                distributed.all_reduce(total)  # as data-parallel training averages gradients
                found[f"{name}/{key}"] = total / 2
        numbers = torch.full((2, 1), float(rank), requires_grad=True)
        weighed = gathered(numbers) * torch.arange(4.0)[:, None] * (rank + 1)
        weighed.sum().backward()
        found |= {"gathered": gathered(numbers).detach(), "own": averaged(numbers).flatten()}
        found[f"gradient {rank}"] = numbers.grad.flatten()  # type: ignore[union-attr]
        found["first"] = torch.tensor(first_row(numbers))
        torch.save(found, f"{folder}/{rank}.pt")
    finally:
        distributed.destroy_process_group()


def test_two_processes_are_as_one(tmp_path: Path) -> None:
    torch.multiprocessing.spawn(one_of_two, (str(tmp_path),), nprocs=2)  # type: ignore[no-untyped-call]
    both = [torch.load(tmp_path / f"{rank}.pt") for rank in range(2)]
    for name in TRAINED:
        alone = measured(build_task(recipe(name), tmp_path), range(BATCH))
        for key, value in alone.items():
            got = both[0][f"{name}/{key}"]
            assert torch.allclose(got, value, rtol=2e-4, atol=2e-6), (name, key, (got - value).abs().max())
    assert both[0]["gathered"].flatten().tolist() == both[1]["gathered"].flatten().tolist() == [0, 0, 1, 1]
    # row k counts k in the one's loss and 2k in the other's
    assert both[0]["gradient 0"].tolist() == [0, 3]
    assert both[1]["gradient 1"].tolist() == [6, 9]
    assert [part["first"].item() for part in both] == [0, 2]
    assert both[0]["own"].tolist() == [0.5, 0.5]


def test_alone_nothing_is_gathered() -> None:
    rows = torch.ones(2, 3)
    assert gathered(rows) is rows
    assert first_row(rows) == 0
    assert torch.equal(averaged(rows), rows)


def test_clip_refuses_micro_batches(tmp_path: Path) -> None:
    with pytest.raises(RequestError, match="accumulate=2: CLIP compares every picture of a step with every caption"):
        build_task(recipe("clip", accumulate=2), tmp_path)
    with pytest.raises(RequestError, match=r"batch=1: CLIP learns to tell .*; give at least 2"):
        build_task(recipe("clip", batch=1), tmp_path)


def test_clip_trains_on_captioned_pictures_of_its_size(tmp_path: Path) -> None:
    data = {"kind": "scenes", "count": 10, "size": 64}
    trained = TRAINED["clip"] | {"data": data, "vision": TOWER | {"image_size": 64, "patch_size": 32}}
    task = build_task(recipe("clip", train=trained), tmp_path)
    batch = task.batch(0, range(BATCH))
    assert batch["images"].shape == (BATCH, 3, 64, 64)
    assert batch["ids"].shape[0] == BATCH
    assert torch.isfinite(task.loss(batch, 0)[0])
    with pytest.raises(RequestError, match=r"64x64 for train\.vision\.image_size=128; set train\.data\.size to 128"):
        build_task(recipe("clip", train=TRAINED["clip"] | {"data": data}), tmp_path)
    small = TRAINED["clip"] | {"vision": TOWER | {"image_size": 64, "patch_size": 32}}
    with pytest.raises(RequestError, match="scenes have 128"):
        build_task(recipe("clip", train=small), tmp_path)
