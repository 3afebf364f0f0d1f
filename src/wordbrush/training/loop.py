"""The one training loop. A task says what a step's data and loss are; the loop does everything else.

Every random draw of step k comes from (seed, k) alone, and data too is a function of k. So a run killed at any moment
and started again with the same command goes on exactly as the unbroken run would.
"""

from __future__ import annotations

import math
import os
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor, wait
from contextlib import nullcontext, suppress
from pathlib import Path
from typing import Any

import torch
from pydantic import ValidationError
from torch import Tensor

from wordbrush.errors import ModelFileError, RequestError, WorkFailed
from wordbrush.training.optimiser import OptimiserPair
from wordbrush.training.recipe import Optimiser, Recipe
from wordbrush.training.task import Batch, Task


def learning_rate(step: int, steps: int, optimiser: Optimiser) -> float:
    """Linear warm-up, the full rate, then a half cosine down to `final` times it."""
    if step < optimiser.warmup:
        return optimiser.learning_rate * (step + 1) / optimiser.warmup
    start = max(optimiser.warmup, steps * (1 - optimiser.decay))
    part = min(max(0.0, (step - start) / max(1.0, steps - start)), 1.0)
    return optimiser.learning_rate * (optimiser.final + (1 - optimiser.final) * 0.5 * (1 + math.cos(math.pi * part)))


class Trainer:
    """One run of a recipe in a folder: `checkpoint.pt` while it trains, model folders when `export` is called."""

    def __init__(
        self,
        recipe: Recipe,
        task: Task,
        folder: Path,
        *,
        device: torch.device | None = None,
        compiled: bool = False,
        log: Callable[[str], None] = print,
    ) -> None:
        """`device`: where the networks live; the CPU unless given. `compiled`: by torch.compile, when first used."""
        self.recipe, self.task, self.folder, self.log = recipe, task, folder, log
        self.device = device or torch.device("cpu")
        for module in task.modules.values():
            module.to(self.device)
            if compiled:
                module.compile()
        self.step = 0
        self.unchecked: tuple[int, Tensor, Tensor] | None = None  # the last step's number, loss and norm
        self.seconds = 0.0
        self.optimiser = OptimiserPair(task.modules, recipe.optimiser)
        self.averaged = {
            name: {k: v.detach().clone() for k, v in m.state_dict().items()} for name, m in task.modules.items()
        }
        folder.mkdir(parents=True, exist_ok=True)
        if self.checkpoint.exists():
            self._resume()

    @property
    def checkpoint(self) -> Path:
        return self.folder / "checkpoint.pt"

    def _resume(self) -> None:
        try:
            state: dict[str, Any] = torch.load(self.checkpoint, weights_only=True, mmap=True, map_location="cpu")
        except Exception as error:  # torch reports a damaged archive with several unrelated types
            raise ModelFileError(f"{self.checkpoint} is damaged ({error}); delete it to start afresh") from error
        changed = self._changed(state.get("recipe", self._identity()))
        if changed:
            raise RequestError(
                f"{self.checkpoint} was made by a recipe with another {' and '.join(changed)}; "
                "use another folder, or delete the checkpoint to start afresh"
            )
        for name, module in self.task.modules.items():
            module.load_state_dict(state["modules"][name])
            for key, value in self.averaged[name].items():
                value.copy_(state["averaged"][name][key])
        self.optimiser.load_state_dict(state["optimiser"])
        self.step, self.seconds = state["step"], state["seconds"]
        self.log(f"resumed at step {self.step} of {self.recipe.steps}")

    def _changed(self, made_by: Mapping[str, Any]) -> list[str]:
        """The keys of the recipe whose values are not those of the checkpoint; what it did not know yet had none."""
        own, before = self._identity(), dict(made_by)
        with suppress(ValidationError):
            before["train"] = type(self.recipe.train).model_validate(before["train"]).model_dump(mode="json")
        now, then = own.pop("train"), before.pop("train")
        found = [key for key, value in own.items() if before.get(key) != value]
        return found + [f"train.{key}" for key, value in now.items() if then.get(key) != value]

    def _identity(self) -> dict[str, Any]:
        """What of a recipe a run cannot change on the way; its length, rates and averaging it can."""
        return {
            "train": self.recipe.train.model_dump(mode="json"),
            "seed": self.recipe.seed,
            "batch": self.recipe.batch,
            "optimiser": self.recipe.optimiser.kind,
        }

    def save(self) -> None:
        """Writes the checkpoint beside the old one, then takes its place: a full disk leaves the old one."""
        self._check()
        state = {
            "modules": {name: module.state_dict() for name, module in self.task.modules.items()},
            "averaged": self.averaged,
            "optimiser": self.optimiser.state_dict(),
            "recipe": self._identity(),
            "step": self.step,
            "seconds": self.seconds,
        }
        partial = self.checkpoint.with_suffix(".partial")
        try:
            torch.save(state, partial)
            with partial.open("rb") as file:
                os.fsync(file.fileno())
            os.replace(partial, self.checkpoint)
        except (OSError, RuntimeError) as error:
            partial.unlink(missing_ok=True)
            raise WorkFailed(
                f"the checkpoint {self.checkpoint} could not be written ({error}); the previous one is kept"
            ) from error

    def _average(self) -> None:
        decay = min(self.recipe.ema, (1 + self.step) / (10 + self.step))
        for name, module in self.task.modules.items():
            own, average = module.state_dict(), self.averaged[name]
            floating = [key for key, value in own.items() if value.is_floating_point()]
            torch._foreach_lerp_([average[k] for k in floating], [own[k] for k in floating], 1 - decay)

    def _train_step(self, batch: Batch) -> dict[str, Tensor]:
        rate = learning_rate(self.step, self.recipe.steps, self.recipe.optimiser)
        self.optimiser.set_rate(rate)
        bf16 = self.recipe.precision == "bfloat16"
        batch = {key: value.to(self.device, non_blocking=True) for key, value in batch.items()}
        with torch.autocast(self.device.type, torch.bfloat16) if bf16 else nullcontext():
            loss, figures = self.task.loss(batch, self.step)
        loss.backward()
        norm = torch.nn.utils.clip_grad_norm_(self.optimiser.parameters, self.recipe.optimiser.clip)
        self._check()
        self.unchecked = self.step, loss.detach(), norm
        self.optimiser.step()
        self.step += 1
        self._average()
        return {"loss": loss.detach(), "norm": norm, **figures}

    def _check(self) -> None:
        """Looks at the last step's loss: a step late, since looking waits for the device; but before anything is saved.

        Raises WorkFailed when it is no number.
        """
        if self.unchecked is None:
            return
        step, loss, norm = self.unchecked
        for name, value in (("loss", loss), ("gradient's norm", norm)):
            if not torch.isfinite(value):
                raise WorkFailed(
                    f"the {name} became {value.item()} at step {step}; the last checkpoint is kept: lower the rate"
                )
        self.unchecked = None

    def _batch(self, step: int) -> Batch:
        batch = self.task.batch(step, range(self.recipe.batch))
        if self.device.type == "cuda":  # only from pinned memory are copies made while the device computes
            return {key: value.pin_memory() for key, value in batch.items()}
        return batch

    def run(
        self, until: float | None = None, stop: threading.Event | None = None
    ) -> Iterator[tuple[int, dict[str, float]]]:
        """Trains to the end, for `until` seconds or until `stop` is set, then saves.

        Yields (step, mean figures) each 50 steps.
        """
        started = time.monotonic()
        sums: dict[str, Tensor] = {}
        count = 0
        loader = ThreadPoolExecutor(1)
        try:
            coming = [loader.submit(self._batch, step) for step in range(self.step, self.recipe.steps)[:2]]
            while coming and not (until is not None and time.monotonic() - started >= until):
                mark = time.monotonic()
                if not _arrived(coming[0], stop):
                    break
                batch = coming.pop(0).result()
                if self.step + 2 < self.recipe.steps:
                    coming.append(loader.submit(self._batch, self.step + 2))
                waited = time.monotonic() - mark
                figures = self._train_step(batch) | {"wait": torch.tensor(waited)}
                self.seconds += time.monotonic() - mark
                count += 1
                for key, value in figures.items():
                    sums[key] = sums.get(key, torch.zeros(())) + value.float()
                if self.step % self.recipe.checkpoint_every == 0:
                    self.save()
                if self.step % 50 == 0 or self.step == self.recipe.steps:
                    yield self.step, {key: (value / count).item() for key, value in sums.items()}
                    sums, count = {}, 0
            self.save()
        finally:  # who asks to stop does not wait for data that nobody will train on
            loader.shutdown(wait=stop is None or not stop.is_set(), cancel_futures=True)


def _arrived(coming: Future[Batch], stop: threading.Event | None) -> bool:
    """Waits for the data; False as soon as `stop` is set."""
    while stop is not None and not stop.is_set():
        if wait((coming,), timeout=0.1).done:
            return True
    return stop is None
