"""A run's state as one file, whole at every moment, from and for any number of processes."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any, cast

import torch
from torch import Tensor, nn

from wordbrush.errors import ModelFileError, RequestError, WorkFailed
from wordbrush.training.recipe import Recipe
from wordbrush.training.sharding import fill

# What a task's table says of looking on and of the finished model, which decides no weights.
_BESIDE = frozenset({"samples", "validation", "validation_rows", "cache", "defaults"})

# What a checkpoint has for certain.
_HELD: dict[str, type | tuple[type, ...]] = {
    "modules": dict, "averaged": dict, "optimiser": dict, "recipe": dict, "step": int, "seconds": (int, float),
}  # fmt: skip


def identity(recipe: Recipe) -> dict[str, Any]:
    """What of a recipe a run cannot change on the way; its length, rates, averaging and processes it can."""
    return {
        "train": recipe.train.model_dump(mode="json"),
        "seed": recipe.seed,
        "batch": recipe.batch,
        "optimiser": recipe.optimiser.kind,
        "ema_lengths": list(recipe.ema_lengths),
    }


def read_checkpoint(path: Path, recipe: Recipe) -> dict[str, Any]:
    """The saved state, on the CPU, mapped from the file.

    Raises:
        ModelFileError: the file is damaged, or another program's.
        RequestError: a recipe made it that this one cannot go on from.
    """
    try:
        state: Any = torch.load(path, weights_only=True, mmap=True, map_location="cpu")
    except Exception as error:  # torch reports a damaged archive with several unrelated types
        raise ModelFileError(f"{path} is damaged ({error}); delete it to start afresh") from error
    if not _is_ours(state):
        raise ModelFileError(f"{path} is not a checkpoint of Wordbrush; use another folder")
    changed = _changed(recipe, state["recipe"])
    if changed:
        raise RequestError(
            f"{path} was made by a recipe with another {' and '.join(changed)}; "
            "use another folder, or delete the checkpoint to start afresh"
        )
    if state["step"] > recipe.steps:
        raise RequestError(
            f"{path} is of step {state['step']}, which the recipe's steps: {recipe.steps} never reach; give it "
            f"{state['step']} or more, use another folder, or delete the checkpoint to start afresh"
        )
    return cast(dict[str, Any], state)


def _is_ours(state: Any) -> bool:
    return (
        isinstance(state, dict)
        and all(isinstance(state.get(key), kind) for key, kind in _HELD.items())
        and isinstance(state["recipe"].get("train"), dict)
    )


def fill_module(module: nn.Module, saved: Mapping[str, Tensor], path: Path) -> None:
    """Brings a module, sharded or not, to the saved weights. ModelFileError when they are another network's."""
    own = module.state_dict()
    if own.keys() != saved.keys():
        other = min(own.keys() ^ saved.keys())
        raise ModelFileError(f"{path} is of another network: only one has {other}; delete it to start afresh")
    for key, value in own.items():
        fill(value, saved[key])


def _changed(recipe: Recipe, made_by: Mapping[str, Any]) -> list[str]:
    """The keys of the recipe whose values are not those of the checkpoint; what it did not know yet had none."""
    own, before = identity(recipe), {"ema_lengths": []} | dict(made_by)
    now, then = own.pop("train"), before.pop("train")
    said = recipe.train.model_dump(mode="json", exclude_defaults=True)
    found = [key for key, value in own.items() if before.get(key) != value]
    return found + [
        f"train.{key}"
        for key in now
        if key not in _BESIDE and not _same({key: now[key]}, said, {k: v for k, v in then.items() if k == key})
    ]


def _same(now: Mapping[str, Any], said: Mapping[str, Any], then: Mapping[str, Any]) -> bool:
    """Whether a table's values are those of the checkpoint; one that it did not know has to be the default.

    `said`: the values of `now` that are not the defaults.
    """
    if not then.keys() <= now.keys():
        return False
    for key, value in now.items():
        if key not in then:
            if key in said:
                return False
        elif isinstance(value, dict) and isinstance(then[key], dict):
            inner = said.get(key)
            if not _same(value, inner if isinstance(inner, dict) else {}, then[key]):
                return False
        elif value != then[key]:
            return False
    return True


def write_checkpoint(path: Path, state: Mapping[str, Any]) -> None:
    """Writes the state beside the old file, then takes its place: a kill or a full disk leaves the old one.

    Raises WorkFailed when it could not be written.
    """
    partial = path.with_suffix(".partial")
    try:
        torch.save(state, partial)
        with partial.open("rb") as file:
            os.fsync(file.fileno())
        os.replace(partial, path)
        _sync_folder(path.parent)
    except (OSError, RuntimeError) as error:
        partial.unlink(missing_ok=True)
        raise WorkFailed(f"the checkpoint {path} could not be written ({error}); the previous one is kept") from error


def _sync_folder(folder: Path) -> None:
    """The new name is on the disk too: without this a power cut may bring the old file back, or none."""
    if os.name == "nt":
        return  # folders cannot be opened there
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
