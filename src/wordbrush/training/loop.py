"""The one training loop. A task says what a step's data and loss are; the loop does everything else.

Every random draw of step k comes from (seed, k) alone, and data too is a function of k. So a run killed at any moment
and started again with the same command goes on exactly as the unbroken run would.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import nullcontext, suppress
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import TypeVar, cast

import torch
from PIL import Image
from torch import Tensor
from torch.distributed.fsdp import FSDPModule
from torch.distributed.tensor import DTensor

from wordbrush.errors import ModelFileError, RequestError, WordbrushError, WorkFailed
from wordbrush.training.checkpoint import fill_module, identity, read_checkpoint, write_checkpoint
from wordbrush.training.distributed import World, is_lost_process
from wordbrush.training.ema import Averages, Snapshots, Weights
from wordbrush.training.loading import Loader
from wordbrush.training.optimiser import OptimiserPair
from wordbrush.training.recipe import Recipe
from wordbrush.training.recompute import recompute_blocks
from wordbrush.training.schedule import learning_rate
from wordbrush.training.sharding import local, whole
from wordbrush.training.task import Batch, Task

R = TypeVar("R")

AUTOCAST = {"bfloat16": torch.bfloat16, "float16": torch.float16}
_ON_ITS_OWN = 1_000_000_007  # added to the seed of what validation draws


@dataclass(frozen=True, kw_only=True)
class Report:
    """What a run says at a step.

    Attributes:
        figures: the means since the last report, `wait` the part of the time that was spent waiting for data.
        validation: the task's figures on held-out data, where it was due.
        samples: the task's captioned pictures, where they were due.
    """

    step: int
    figures: dict[str, float] = field(default_factory=dict)
    validation: dict[str, float] = field(default_factory=dict)
    samples: list[tuple[str, Image.Image]] = field(default_factory=list)


class Trainer:
    """One run of a recipe in a folder: `checkpoint.pt` while it trains, model folders when `export` is called."""

    def __init__(
        self,
        recipe: Recipe,
        task: Task,
        folder: Path,
        *,
        world: World | None = None,
        workers: int = 0,
        compiled: bool = False,
        log: Callable[[str], None] = print,
    ) -> None:
        """`world`: the processes that train together; this one alone, on the CPU, unless given.

        `workers`: processes that make data, if the task can have any. `compiled`: by torch.compile, when first used.

        Raises RequestError when the recipe wants what there is not: an optimiser, a precision, rows for each process.
        """
        self.recipe, self.task, self.folder, self.log, self.workers = recipe, task, folder, log, workers
        self.world = world or World("cpu")
        self.device = self.world.device
        self.parts = self.world.share(recipe.batch, recipe.accumulate)
        sharded = recipe.parallel == "fsdp2" and self.world.size > 1
        check_device(recipe, self.device, sharded=sharded)
        self._place(compiled or recipe.compile)
        self.model = self.world.wrap(task, sharded=sharded)
        # After sharding, which replaces the parameters.
        self.optimiser = OptimiserPair(task.modules, recipe.optimiser, task.rates)
        self.averages = Averages(task.modules, recipe.ema, recipe.ema_lengths)
        self.scaler = torch.amp.GradScaler(self.device.type, enabled=recipe.precision == "float16")
        self.step = 0
        self.seconds = 0.0
        self.asked = False  # whether this process was told to stop
        self.agreed = False  # whether any was: all learn it at the same step
        self.unchecked: tuple[int, Tensor] | None = None  # the last step's number; its loss, norm and wish to stop
        self.on_step: Callable[[int], None] = lambda step: None
        folder.mkdir(parents=True, exist_ok=True)
        if self.checkpoint.exists():
            self._resume()
        elif self.world.main:
            self.snapshots.forget_after(0)  # of a run whose checkpoint was deleted
        self.world.agree_on(self.step, f"processes would go on from different steps of {self.checkpoint}")

    @property
    def checkpoint(self) -> Path:
        return self.folder / "checkpoint.pt"

    @property
    def snapshots(self) -> Snapshots:
        """Of the power-function averages, if the recipe has any."""
        return Snapshots(self.folder / "ema")

    @property
    def averaged(self) -> Weights:
        """The averaged weights, whole. All processes ask at once."""
        return self.averages.whole()

    def _place(self, compiled: bool) -> None:
        """Moves the networks to the device and makes them ready: trained ones to train, frozen ones not to."""
        trained = {id(parameter) for module in self.task.modules.values() for parameter in module.parameters()}
        for module in self.task.frozen.values():
            module.to(self.device).eval()
            for parameter in module.parameters():
                if id(parameter) not in trained:
                    parameter.requires_grad_(False)
        for module in self.task.modules.values():
            module.to(self.device).train()
        networks = self.task.modules | self.task.frozen
        if self.recipe.gradient_checkpointing and not recompute_blocks(networks):
            raise RequestError(
                "gradient_checkpointing: these networks have no repeated blocks to compute again; take it out"
            )
        if compiled:
            for module in networks.values():
                module.compile()

    def _resume(self) -> None:
        state = read_checkpoint(self.checkpoint, self.recipe)
        for name, module in self.task.modules.items():
            fill_module(module, state["modules"][name], self.checkpoint)
        self.averages.load_state_dict(state)
        self.optimiser.load_state_dict(state["optimiser"])
        self.step, self.seconds = state["step"], state["seconds"]
        if "scaler" in state:
            self.scaler.load_state_dict(state["scaler"])
        if self.world.main:
            self.snapshots.forget_after(self.step)
        self.log(f"resumed at step {self.step} of {self.recipe.steps}")

    def save(self) -> None:
        """Writes the checkpoint; all processes call it at once. WorkFailed keeps the previous one."""
        self._check()
        self._check_weights()
        state = {
            "modules": {name: module.state_dict() for name, module in self.task.modules.items()},
            **self.averages.state_dict(),
            "optimiser": self.optimiser.state_dict(),
            "recipe": identity(self.recipe),
            "step": self.step,
            "seconds": self.seconds,
        }
        if self.scaler.is_enabled():
            state["scaler"] = self.scaler.state_dict()
        state = whole(state)
        if self.world.main:
            write_checkpoint(self.checkpoint, state)

    def _keep_powers(self) -> None:
        """Keeps the power-function averages where one of the run's equal parts ends."""
        parts, steps = self.recipe.ema_snapshots, self.recipe.steps
        if self.averages.powers and self.step * parts // steps > (self.step - 1) * parts // steps:
            powers = self.averages.snapshot()
            if self.world.main:
                self.snapshots.add(self.step, powers)

    def _train_step(self, batches: Sequence[Batch]) -> dict[str, Tensor]:
        self.optimiser.set_rate(learning_rate(self.step, self.recipe.steps, self.recipe.optimiser))
        sums: dict[str, Tensor] = {}
        for number, (rows, batch) in enumerate(zip(self.parts, batches, strict=True)):
            last = number + 1 == len(batches)
            with nullcontext() if last else self.world.unsynchronised(self.model):
                figures = self._backward(batch, rows, 1 / len(batches))
            for key, value in figures.items():
                sums[key] = sums[key] + value if key in sums else value
        norm = self._clip()
        self._check()
        votes = torch.stack([sums["loss"].float(), norm.float(), norm.new_full((), float(self.asked)).float()])
        self.unchecked = self.step, self.world.mean(votes)
        self.optimiser.step(self.scaler if self.scaler.is_enabled() else None)
        self.step += 1
        self.averages.update(self.step)
        return sums | {"norm": norm}

    def _backward(self, batch: Batch, rows: range, share: float) -> dict[str, Tensor]:
        """Adds a micro-batch's gradients; its part of the step's figures."""
        batch = {key: value.to(self.device, non_blocking=True) for key, value in batch.items()}
        self._seed(rows.start)
        dtype = AUTOCAST.get(self.recipe.precision)
        with torch.autocast(self.device.type, dtype) if dtype else nullcontext():
            loss, figures = self.model(partial(self.task.loss, batch, self.step))
        part = loss * share if share != 1 else loss
        self.scaler.scale(part).backward()
        said = {"loss": loss} | figures
        return {key: value.detach() * share if share != 1 else value.detach() for key, value in said.items()}

    def _seed(self, row: int) -> None:
        """Dropout and its like draw from torch's own generators: this gives them a step's and a micro-batch's seed."""
        mixed = ((self.recipe.seed * 1_000_003 + self.step) * 1_000_033 + row) % 2**63
        for generator in _generators(self.device):
            generator.manual_seed(mixed)

    def _clip(self) -> Tensor:
        """The norm of the whole gradient, which is then no longer than the recipe's limit."""
        if self.scaler.is_enabled():
            self.optimiser.unscale(self.scaler)
        norm = torch.nn.utils.clip_grad_norm_(self.optimiser.parameters, self.recipe.optimiser.clip)
        return norm.full_tensor() if isinstance(norm, DTensor) else norm

    def _check(self) -> None:
        """Looks at the last step's loss: a step late, since looking waits for the device; but before anything is saved.

        Raises WorkFailed when it is no number.
        """
        if self.unchecked is None:
            return
        step, votes = self.unchecked
        loss, norm, asked = votes.tolist()
        for name, value in (("loss", loss), ("gradient's norm", norm)):
            overflowed = self.scaler.is_enabled() and name != "loss"  # the scaler leaves such steps out
            if not -float("inf") < value < float("inf") and not overflowed:
                raise WorkFailed(
                    f"the {name} became {value} at step {step}; the last checkpoint is kept: lower the rate"
                )
        self.agreed = self.agreed or asked > 0
        self.unchecked = None

    def _check_weights(self) -> None:
        """Looks at what the last step made of the weights, which no loss has shown yet.

        Raises WorkFailed when they are no numbers, or so large that their squares are none.
        """
        norms = torch._foreach_norm([local(parameter.detach()) for parameter in self.optimiser.parameters])
        norm = float(self.world.mean(torch.stack([norm.float() for norm in norms]).norm()))
        if not -float("inf") < norm < float("inf"):
            raise WorkFailed(
                f"the weights' norm became {norm} at step {self.step - 1}; the last checkpoint is kept: lower the rate"
            )

    def run(self, until: float | None = None, stop: threading.Event | None = None) -> Iterator[Report]:
        """Trains to the end, for `until` seconds or until `stop` is set, then saves.

        Yields a report each `log_every` steps, and where validation or samples are due.

        Raises WorkFailed when the loss is no number, a file cannot be written or another process has ended.
        """
        started = time.monotonic()
        generators = _generators(self.device)
        states = [generator.get_state() for generator in generators]
        alone = self.world.size == 1
        means = _Means(self.world)
        loader = Loader(
            self.task,
            range(self.step, self.recipe.steps),
            self.parts,
            workers=self.workers,
            pinned=self.device.type == "cuda",  # only from pinned memory are copies made while the device computes
        )
        try:
            while self.step < self.recipe.steps:
                late = until is not None and time.monotonic() - started >= until
                self.asked = late or (stop is not None and stop.is_set())
                if self.agreed or (alone and self.asked):
                    break
                mark = time.monotonic()
                batches = loader.next(stop if alone else None)
                if batches is None:
                    break
                waited = time.monotonic() - mark
                figures = self._train_step(batches)
                passed = time.monotonic() - mark
                self.seconds += passed
                means.add(figures, waited, passed)
                self.on_step(self.step)
                yield from self._due(means)
            self.save()
        except (RequestError, ModelFileError):  # of data, of pictures to paint: the steps so far are sound
            if alone:  # other processes would not come to save
                with suppress(WorkFailed):
                    self.save()
            raise
        except RuntimeError as error:
            told = _told(error, alone)
            if told is None:
                raise
            raise told from error
        finally:  # who asks to stop does not wait for data that nobody will train on
            loader.close(wait=stop is None or not stop.is_set())
            for generator, state in zip(generators, states, strict=True):
                generator.set_state(state)

    def _due(self, means: _Means) -> Iterator[Report]:
        """What is to be written and said after this step."""
        step, recipe, end = self.step, self.recipe, self.step == self.recipe.steps
        self._keep_powers()  # before the checkpoint: a run that goes on from there has it
        if step % recipe.checkpoint_every == 0:
            self.save()
        figures = means.take() if step % recipe.log_every == 0 or end else {}
        validated = recipe.validate_every and (step % recipe.validate_every == 0 or end)
        sampled = recipe.sample_every and (step % recipe.sample_every == 0 or end)
        if validated or sampled:
            self._check()  # nothing is painted with weights that are no numbers
        validation = self._with_averages(self.task.validate) if validated else {}
        samples = self._with_averages(self.task.samples) if sampled else []
        if figures or validation or samples:
            yield Report(step=step, figures=figures, validation=validation, samples=samples)

    def _with_averages(self, work: Callable[[], R]) -> R:
        """What the task says while its modules hold the averaged weights."""
        self._seed(_ON_ITS_OWN)
        with self.averages.in_place():
            if not isinstance(self.model, FSDPModule):
                return work()
            try:
                return cast(R, self.model(work))
            finally:
                self.model.reshard()


class _Means:
    """The means of figures over steps, and over processes when they are taken."""

    def __init__(self, world: World) -> None:
        self.world = world
        self._clear()

    def _clear(self) -> None:
        self.sums: dict[str, Tensor] = {}
        self.counts: dict[str, int] = {}
        self.waited = self.passed = 0.0

    def add(self, figures: Mapping[str, Tensor], waited: float, passed: float) -> None:
        for key, value in figures.items():
            self.sums[key] = self.sums[key] + value.float() if key in self.sums else value.float()
            self.counts[key] = self.counts.get(key, 0) + 1
        self.waited += waited
        self.passed += passed

    def take(self) -> dict[str, float]:
        """The means, `wait` the part of the time that passed waiting for data; what comes next begins anew."""
        if not self.sums:
            return {}
        device = self.world.device
        values = [self.sums[key].to(device) / count for key, count in self.counts.items()]
        values.append(torch.tensor(self.waited / max(self.passed, 1e-9), device=device))
        means = self.world.mean(torch.stack(values)).tolist()
        keys = [*self.counts, "wait"]
        self._clear()
        return dict(zip(keys, means, strict=True))


def _generators(device: torch.device) -> list[torch.Generator]:
    """Torch's own, from which dropout and its like draw."""
    if device.type != "cuda":
        return [torch.default_generator]
    return [torch.default_generator, torch.cuda.default_generators[device.index or 0]]


def check_possible(recipe: Recipe, folder: Path, world: World) -> None:
    """As `Trainer` does, before a task begins with work that takes long: can these processes do it, and in this folder?

    Raises RequestError, ModelFileError.
    """
    world.share(recipe.batch, recipe.accumulate)
    check_device(recipe, world.device, sharded=recipe.parallel == "fsdp2" and world.size > 1)
    if (folder / "checkpoint.pt").exists():
        read_checkpoint(folder / "checkpoint.pt", recipe)


def check_device(recipe: Recipe, device: torch.device, *, sharded: bool) -> None:
    """Raises RequestError for what cannot be done on this device, or with sharded weights."""
    if recipe.precision == "float16" and device.type != "cuda":
        raise RequestError(f"precision: float16 trains on CUDA only, not on {device.type}; use bfloat16 or float32")
    if sharded and recipe.optimiser.kind != "adamw":
        raise RequestError(
            f"optimiser.kind: {recipe.optimiser.kind} needs whole matrices, of which parallel: fsdp2 leaves each "
            "process a part; use adamw, or parallel: ddp"
        )
    if sharded and recipe.precision == "float16":
        raise RequestError("parallel: fsdp2 trains in bfloat16 or float32; float16 wants parallel: ddp")


def _told(error: RuntimeError, alone: bool) -> WordbrushError | None:
    """What a failure within torch means, where it is not the program's own."""
    if isinstance(error, WordbrushError):
        return None
    line = (str(error).strip() or type(error).__name__).splitlines()[0][:200]
    if type(error).__module__.startswith(("torch._inductor", "torch._dynamo")):
        return RequestError(
            f"torch.compile cannot make these networks here ({line}); it wants a C++ compiler on a CPU and Triton on a "
            "GPU: install that, or train without --compile and `compile: true`"
        )
    if not alone and is_lost_process(error):
        return WorkFailed(
            f"another process of this run has ended, or cannot be reached ({line}); the last checkpoint is kept: the "
            "same command goes on from there"
        )
    return None
