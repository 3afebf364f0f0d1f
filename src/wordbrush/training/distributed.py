"""The processes of a run: one alone, or those that torchrun started, on accelerate."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

import torch
from torch import Tensor, nn
from torch.distributed.fsdp import FSDPModule

from wordbrush.errors import RequestError, WordbrushError
from wordbrush.runtime.policy import Runtime
from wordbrush.training.rendezvous import join
from wordbrush.training.sharding import shard
from wordbrush.training.task import Stopped, Task

if TYPE_CHECKING:
    from accelerate import Accelerator

R = TypeVar("R")

INSTALL = "training needs accelerate: pip install 'wordbrush[train]'"
_LAST_WORK = 0.1  # seconds
_PATIENCE = timedelta(hours=2)  # that processes wait for one another: the main one may be writing or painting samples


class Trained(nn.Module):
    """All that a task trains as one module, whose forward is any work done with it: as a rule the task's loss.

    So DDP and FSDP2, which act when a forward begins and ends, need not know what a task does with its networks.
    """

    def __init__(self, modules: dict[str, nn.Module]) -> None:
        super().__init__()
        self.networks = nn.ModuleDict(modules)

    def forward(self, work: Callable[[], R]) -> R:
        return work()


class World:
    """The processes of one run.

    Attributes:
        device: this process' own.
        rank, size: its number, from 0, and how many there are.
        main: whether it is the one that logs, writes and exports.
    """

    def __init__(
        self, device: str | torch.device = "auto", *, trackers: Sequence[str] = (), logs: Path | None = None
    ) -> None:
        """Joins the processes that the environment names; alone where it names none.

        `trackers` log into `logs`, once `start_trackers` is called.

        Raises RequestError when there is no such device or tracker, or there are more processes than GPUs.
        """
        try:
            from accelerate import Accelerator
            from accelerate.utils import InitProcessGroupKwargs
        except ImportError as error:
            raise RequestError(INSTALL) from error
        chosen = Runtime.choose(device).device
        beside = int(os.environ.get("LOCAL_WORLD_SIZE", "1"))
        if chosen.type == "cuda" and beside > torch.cuda.device_count():
            raise RequestError(
                f"{beside} processes share this machine's {torch.cuda.device_count()} GPUs; give torchrun "
                f"--nproc-per-node {torch.cuda.device_count()}, or the command --device cpu"
            )
        _check_trackers(trackers)
        _forget_other_runs(cpu=chosen.type == "cpu")
        join("gloo" if chosen.type == "cpu" else "nccl", _PATIENCE)
        self.accelerator: Accelerator = Accelerator(
            cpu=chosen.type == "cpu",
            mixed_precision="no",  # the loop itself says what is computed in which precision
            log_with=list(trackers) or None,
            project_dir=logs,
            kwargs_handlers=[InitProcessGroupKwargs(timeout=_PATIENCE)],
        )
        self.rank, self.size = self.accelerator.process_index, self.accelerator.num_processes
        self.local_size = beside
        self.main = self.accelerator.is_main_process
        self.device = self.accelerator.device if self.size > 1 else chosen

    def share(self, batch: int, accumulate: int) -> list[range]:
        """The rows of a step that this process does, micro-batch by micro-batch.

        Raises RequestError naming the nearest batches that can be shared out evenly.
        """
        parts = self.size * accumulate
        if batch % parts:
            low, high = batch // parts * parts, (batch // parts + 1) * parts
            nearest = f"{low} and {high}" if low else f"{high}"
            raise RequestError(
                f"batch={batch} cannot be shared out evenly among {self.size} processes with {accumulate} "
                f"micro-batches each; the nearest that can: {nearest}"
            )
        each = batch // parts
        starts = range(self.rank * accumulate * each, (self.rank + 1) * accumulate * each, each)
        return [range(start, start + each) for start in starts]

    def wrap(self, task: Task, *, sharded: bool) -> nn.Module:
        """The task's loss as a module whose gradients are the mean over all processes."""
        model: nn.Module = Trained(task.modules)
        if self.size == 1 or not any(parameter.requires_grad for parameter in model.parameters()):
            return model
        if sharded:
            shard(model, self.device, self.size)
            return model
        from accelerate.utils import DistributedDataParallelKwargs

        self.accelerator.ddp_handler = DistributedDataParallelKwargs(find_unused_parameters=task.takes_turns)
        return self.accelerator.prepare_model(model)

    @contextmanager
    def unsynchronised(self, model: nn.Module) -> Iterator[None]:
        """Within, gradients are added up in this process alone."""
        if isinstance(model, FSDPModule):
            model.set_requires_gradient_sync(False)
            try:
                yield
            finally:
                model.set_requires_gradient_sync(True)
        else:
            with self.accelerator.no_sync(model):
                yield

    def mean(self, values: Tensor) -> Tensor:
        """The mean over all processes, which call it at once."""
        return self.accelerator.reduce(values, "mean") if self.size > 1 else values

    def agree_on(self, value: int, what: str) -> None:
        """Raises RequestError when this number is not the same everywhere."""
        if self.size == 1:
            return
        values = self.accelerator.gather(torch.tensor([value], device=self.device)).tolist()
        if len(set(values)) > 1:
            raise RequestError(f"{what}: {', '.join(map(str, values))}; every machine must see the same run folder")

    def wait(self) -> None:
        """Until every process is here."""
        if self.size > 1:
            self.accelerator.wait_for_everyone()

    def end_trackers(self) -> None:
        """Has them write what they hold, after a failure: what fails now does not hide it."""
        for tracker in self.accelerator.trackers:
            with suppress(Exception):
                tracker.finish()

    def close(self) -> None:
        """Ends the trackers, and this process' part in the others' work."""
        if self.size > 1:
            # Gloo's thread needs the GIL to let go of the last work it did, and who destroys its group holds the GIL
            # while that thread ends: seen to hang for ever with torch 2.13. Here it gets the time, and the GIL.
            time.sleep(_LAST_WORK)
        self.accelerator.end_training()
        if self.size > 1 and torch.distributed.is_initialized():
            torch.distributed.destroy_process_group()


def by_the_main_one(work: Callable[[], None]) -> None:
    """The main process does what leaves files for all; the others wait for it, and fail as it does."""
    if not torch.distributed.is_initialized():
        work()
        return
    outcome: list[Exception | None] = [None]
    if torch.distributed.get_rank() == 0:
        try:
            work()
        except (WordbrushError, Stopped) as error:  # after any other this process dies, and torchrun ends them all
            outcome = [error]
    torch.distributed.broadcast_object_list(outcome, src=0)
    if outcome[0] is not None:
        raise outcome[0]


def leads() -> bool:
    """Whether this process is the main one of those that torchrun started, or alone."""
    return os.environ.get("RANK", "0") == "0"


def _check_trackers(names: Sequence[str]) -> None:
    if not names:
        return
    from accelerate.tracking import LOGGER_TYPE_TO_CLASS, get_available_trackers

    known = sorted(LOGGER_TYPE_TO_CLASS)
    for name in names:
        if name not in known:
            raise RequestError(f"there is no tracker {name!r}; there are {', '.join(known)}")
        if name not in [str(tracker) for tracker in get_available_trackers()]:
            raise RequestError(f"the tracker {name} is not installed: pip install {name}, or take it out of `trackers`")


def _forget_other_runs(*, cpu: bool) -> None:
    """accelerate keeps the first run's device for the whole Python process; alone, the next run may have another."""
    from accelerate.state import AcceleratorState, GradientState, PartialState

    if not PartialState._shared_state:
        return
    state = PartialState()
    if state.num_processes == 1 and (state.device.type == "cpu") != cpu:
        AcceleratorState._reset_state(reset_partial_state=True)
        GradientState._reset_state()


def is_lost_process(error: RuntimeError) -> bool:
    """Whether an error says that the other side of a connection is gone."""
    text = str(error).lower()
    return isinstance(error, torch.distributed.DistError) or any(word in text for word in ("gloo", "nccl", "peer"))
