"""How much memory and time a run will take: measured on a few rows and a few steps, and reckoned up from there."""

from __future__ import annotations

import time
import weakref
from collections.abc import Callable, Iterable, Mapping
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from wordbrush.training.loop import AUTOCAST, Trainer
from wordbrush.training.recipe import Recipe
from wordbrush.training.task import Task

_WARM = 2  # steps that are not timed: their data were made before
_TIMED = 6
_LONGEST = 20.0  # seconds of timed steps after which enough is known


@dataclass(frozen=True, kw_only=True)
class Memory:
    """Bytes of one process on its device, or in memory where that is a CPU.

    Attributes:
        weights: of all networks, trained and frozen.
        gradients, optimiser, averages: of what is trained; computed.
        step: what a micro-batch holds at its peak besides: measured on 1 and on 2 rows, and reckoned up.
        available: what the device has in all; None where that is not known.
    """

    weights: int
    gradients: int
    optimiser: int
    averages: int
    step: int
    available: int | None

    @property
    def total(self) -> int:
        return self.weights + self.gradients + self.optimiser + self.averages + self.step


@dataclass(frozen=True, kw_only=True)
class Timing:
    """Seconds, as measured on this machine at this moment.

    Attributes:
        step: of one step of the whole batch, data and all.
        total: of the run, without validation, samples and checkpoints.
        waiting: part of the time in which the networks waited for data.
        steps: how many were timed.
    """

    step: float
    total: float
    waiting: float
    steps: int


def memory_of(trainer: Trainer, *, step: int) -> Memory:
    """What training takes. `step`: which one's loss is computed, since some have more to compute than others."""
    task = trainer.task
    trained = [p for module in task.modules.values() for p in module.parameters() if p.requires_grad]
    micro = len(trainer.parts[0])
    peaks = [_peak(trainer, rows, step) for rows in ((1, 1, 2) if micro > 1 else (1, 1))][1:]  # the first warms up
    peak = peaks[0] + (peaks[1] - peaks[0]) * (micro - 1) if micro > 1 else peaks[0]
    return Memory(
        weights=_bytes(_tensors([*task.modules.values(), *task.frozen.values()])),
        gradients=_bytes(trained),
        optimiser=_of_optimiser(trainer.recipe, trainer),
        averages=_bytes(tree_leaves(trainer.averages.state_dict())),
        step=peak,
        available=available(trainer.device),
    )


def time_of(make: Callable[[Recipe], Trainer], recipe: Recipe, phases: Iterable[tuple[int, float]]) -> Timing:
    """Times some real steps.

    Args:
        make: a trainer of a recipe, at step 0.
        phases: step and part of the run: steps from there on take as long as that part of all steps.
    """
    step = total = waited = 0.0
    count = 0
    for first, share in phases:
        seconds, waiting, timed = _timed(make, recipe, first)
        step, count, total = step + share * seconds, count + timed, total + share * recipe.steps * seconds
        waited += share * seconds * waiting
    return Timing(step=step, total=total, waiting=waited / step if step else 0.0, steps=count)


def available(device: torch.device) -> int | None:
    """The memory of a device, in bytes; None where it cannot be told."""
    if device.type == "cuda":
        return int(torch.cuda.get_device_properties(device).total_memory)
    if device.type != "cpu":
        return None
    try:
        for line in Path("/proc/meminfo").read_text().splitlines():
            if line.startswith("MemTotal:"):
                return int(line.split()[1]) * 1024
    except OSError:
        pass
    return None


class Peak(TorchDispatchMode):
    """Counts the bytes of tensors that are made within, and are still held: `highest` is the most at one time."""

    def __init__(self) -> None:
        super().__init__()
        self.held = self.highest = 0
        self._live: dict[int, weakref.ref[Any]] = {}

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        out = func(*args, **(kwargs or {}))
        given = {id(leaf.untyped_storage()) for leaf in tree_leaves((args, kwargs)) if isinstance(leaf, Tensor)}
        for leaf in tree_leaves(out):
            if isinstance(leaf, Tensor):
                storage = leaf.untyped_storage()
                if id(storage) not in given and id(storage) not in self._live:  # not a view, nor written in place
                    self._add(storage)
        return out

    def _add(self, storage: torch.UntypedStorage) -> None:
        key, size = id(storage), storage.nbytes()

        def gone(_: object) -> None:
            self.held -= size
            self._live.pop(key, None)

        self._live[key] = weakref.ref(storage, gone)
        self.held += size
        self.highest = max(self.highest, self.held)


def _peak(trainer: Trainer, rows: int, step: int) -> int:
    """Bytes that a forward and a backward pass of so many rows hold at most, the rows among them, gradients not.

    These are there before and so are not counted: else few rows would be measured where gradients, not rows, are most.
    """
    device = trainer.device
    batch = {key: value.to(device) for key, value in trainer.task.batch(0, range(rows)).items()}
    dtype = AUTOCAST.get(trainer.recipe.precision)
    for parameter in trainer.optimiser.parameters:
        parameter.grad = torch.zeros_like(parameter)
    with Peak() as peak:
        with torch.autocast(device.type, dtype) if dtype else nullcontext():
            loss, figures = trainer.task.loss(batch, step)
        loss.backward()
        del loss, figures
    for parameter in trainer.optimiser.parameters:
        parameter.grad = None
    return peak.highest + _bytes(batch.values())


def _of_optimiser(recipe: Recipe, trainer: Trainer) -> int:
    """AdamW keeps two numbers for each weight, Muon one; in float32, or 8 bits."""
    by_muon = sum(parameter.numel() for parameter, _ in trainer.optimiser.pairs)
    by_adam = sum(parameter.numel() for parameter in trainer.optimiser.parameters) - by_muon
    return 4 * by_muon + (2 if recipe.optimiser.kind == "adamw8bit" else 8) * by_adam


def _timed(make: Callable[[Recipe], Trainer], recipe: Recipe, first: int) -> tuple[float, float, int]:
    """Seconds of a step from `first` on, the part of it spent waiting for data, and how many steps were timed."""
    trainer = make(short(recipe, first))
    trainer.step = first
    marks: list[float] = []
    trainer.on_step = lambda step: marks.append(time.monotonic())
    waiting = [report.figures["wait"] for report in trainer.run(until=_LONGEST)]
    timed = len(marks) - _WARM
    if timed < 1:  # one or two steps took all the time there was
        return (marks[-1] - marks[0]) / max(1, len(marks) - 1) if len(marks) > 1 else _LONGEST, 0.0, len(marks)
    return (marks[-1] - marks[_WARM - 1]) / timed, sum(waiting[_WARM:]) / timed, timed


def short(recipe: Recipe, first: int) -> Recipe:
    """The recipe cut off a few steps after `first`, with nothing beside the training."""
    changes = {
        "steps": first + _WARM + _TIMED,
        "log_every": 1,
        "checkpoint_every": first + _WARM + _TIMED + 1,
        "validate_every": 0,
        "sample_every": 0,
        "ema_snapshots": 1,
        "trackers": (),
    }
    return recipe.model_copy(update=changes)


def parameters(task: Task) -> dict[str, tuple[int, int]]:
    """How many numbers each network has: those that are trained, and those that are not."""
    found = {}
    for name, module in (task.modules | task.frozen).items():
        own = [(p.numel(), p.requires_grad and name in task.modules) for p in module.parameters()]
        found[name] = (sum(n for n, on in own if on), sum(n for n, on in own if not on))
    return found


def _tensors(modules: Iterable[nn.Module]) -> list[Tensor]:
    """All weights and buffers, each once, though networks may share some."""
    return [tensor for module in modules for tensor in (*module.parameters(), *module.buffers())]


def _bytes(values: Iterable[Any]) -> int:
    """Bytes of the storages of all tensors among them, each once."""
    storages = {
        value.untyped_storage().data_ptr(): value.untyped_storage().nbytes()
        for value in values
        if isinstance(value, Tensor)
    }
    return sum(storages.values())
