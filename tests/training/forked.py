"""Training in real processes that start at once: everything is imported here, then each run is a fork of this process.

    python -m tests.training.forked kills FOLDER        # SIGKILL at random moments, writing slowed down
    python -m tests.training.forked together FOLDER     # 1, 2 and 4 processes on gloo

Prints one JSON object that `test_processes.py` looks at.
"""

from __future__ import annotations

import json
import os
import random
import signal
import socket
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import accelerate  # noqa: F401  so that no fork must
import torch
import torch._dynamo
from tests.training.support import Numbers, recipe

from wordbrush.errors import WordbrushError
from wordbrush.training.distributed import World
from wordbrush.training.loop import Trainer
from wordbrush.training.recipe import Recipe


def forked(work: Callable[[], object], environment: dict[str, str] | None = None) -> int:
    """The id of a new process that does this work and ends: with 1 after an error of ours, which it notes, or any."""
    child = os.fork()
    if child:
        return child
    try:
        os.environ.update(environment or {})
        work()
    except WordbrushError as error:
        print(f"rank {os.environ.get('RANK')}: {error}", file=sys.stderr, flush=True)
        os._exit(1)
    except BaseException as error:  # noqa: BLE001  a fork must never go on as its parent
        print(repr(error), file=sys.stderr, flush=True)
        os._exit(2)
    os._exit(0)


def ended(child: int) -> int:
    """Waits; 0, the exit code, or minus the signal."""
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


def differing(one: Path, other: Path) -> list[str]:
    """The tensors of two checkpoints that are not the same bit by bit."""
    states = [torch.load(folder / "checkpoint.pt", weights_only=True) for folder in (one, other)]
    flat = [dict(_flat(state)) for state in states]
    return [key for key, value in flat[0].items() if not torch.equal(value, flat[1][key])]


def _flat(value: Any, name: str = "") -> list[tuple[str, torch.Tensor]]:
    if isinstance(value, torch.Tensor):
        return [(name, value)]
    items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    return [pair for key, item in items for pair in _flat(item, f"{name}/{key}")]


def kills(folder: Path) -> dict[str, Any]:
    """A run killed many times, at random and in the middle of its checkpoints, beside one that was not."""
    of = recipe(steps=60, checkpoint_every=6, ema_lengths=[0.1], ema_snapshots=10)
    save = torch.save

    def slowly(state: object, path: Path) -> None:
        save(state, path)
        data = path.read_bytes()
        with path.open("wb") as file:
            for start in range(0, len(data), len(data) // 4):
                file.write(data[start : start + len(data) // 4])
                file.flush()
                time.sleep(0.003)

    def run(where: str, pause: float = 0.0) -> None:
        trainer = Trainer(of, Numbers(of, dropout=0.3), folder / where, log=lambda _: None)
        trainer.on_step = lambda step: time.sleep(pause)
        list(trainer.run())

    assert ended(forked(lambda: run("straight"))) == 0
    torch.save = slowly
    rng, found = random.Random(0), {"random": 0, "writing": 0}
    partial = folder / "broken/checkpoint.partial"
    for number in range(10):
        child = forked(lambda: run("broken", pause=0.03))  # so slow that no fast machine finishes before it is killed
        time.sleep(rng.uniform(0.02, 0.4))
        until = time.monotonic() + 2.0
        while number % 2 and not partial.exists() and time.monotonic() < until:
            time.sleep(0.0005)
        os.kill(child, signal.SIGKILL)
        if ended(child) == -signal.SIGKILL:
            found["writing" if partial.exists() else "random"] += 1
    assert ended(forked(lambda: run("broken"))) == 0
    left = sorted(path.name for path in (folder / "broken").iterdir())
    return {"kills": found, "differing": differing(folder / "straight", folder / "broken"), "left": left}


def together(
    count: int, of: Recipe, folder: Path, *, stop_at: int | None = None, dies_at: int | None = None
) -> list[int]:
    """One run on so many processes; each writes its losses and which rows it did. Their exit codes.

    `stop_at`: the step after which all leave off, as if killed. `dies_at`: the step after which the last is killed.
    """
    with socket.socket() as free:
        free.bind(("localhost", 0))
        port = free.getsockname()[1]

    def work() -> None:
        world = World("cpu")
        task = Numbers(of)
        run = Trainer(of, task, folder, world=world, log=lambda _: None)
        losses = {}

        def after(step: int) -> None:
            if step == dies_at and world.rank == count - 1:
                os.kill(os.getpid(), signal.SIGKILL)

        run.on_step = after
        for report in run.run():
            losses[report.step] = report.figures.get("loss")
            if report.step == stop_at:
                break
        averaged = run.averaged
        if world.main and stop_at is None:
            task.export(folder, averaged)
        seen = [(step, list(rows)) for step, rows in task.seen]
        (folder / f"rank-{world.rank}.json").write_text(json.dumps({"losses": losses, "seen": seen}))
        world.wait()
        world.close()

    common = {"MASTER_ADDR": "localhost", "MASTER_PORT": str(port), "LOCAL_WORLD_SIZE": str(count)}
    environments = [
        common | {"WORLD_SIZE": str(count), "RANK": str(rank), "LOCAL_RANK": str(rank)} if count > 1 else {}
        for rank in range(count)
    ]
    return [ended(child) for child in [forked(work, environment) for environment in environments]]


def runs(folder: Path) -> dict[str, Any]:
    """The runs of `test_processes.py`; their exit codes by name."""
    of, sharded = recipe(log_every=1, validate_every=5), recipe(log_every=1, validate_every=5, parallel="fsdp2")
    codes: dict[str, Any] = {}
    for name, count, made_by in (("1", 1, of), ("2", 2, of), ("4", 4, of), ("2-fsdp2", 2, sharded)):
        codes[name] = together(count, made_by, folder / name)
    accumulated = recipe(log_every=1, accumulate=2)
    codes["2-accumulated"] = together(2, accumulated, folder / "2-accumulated")
    codes["2-accumulated-fsdp2"] = together(
        2, accumulated.model_copy(update={"parallel": "fsdp2"}), folder / "2-accumulated-fsdp2"
    )
    for name, counts, plans in (
        ("2-then-1", (2, 1), (of, of)), ("1-then-2", (1, 2), (of, of)), ("fsdp2-then-1", (2, 1), (sharded, of)),
        ("1-then-fsdp2", (1, 2), (of, sharded)),
    ):  # fmt: skip
        first = together(counts[0], plans[0], folder / name, stop_at=9)  # the checkpoint is that of step 8
        codes[name] = first + together(counts[1], plans[1], folder / name)
    turns = of.model_copy(update={"name": "turns"})
    codes["turns"] = together(1, turns, folder / "turns") + together(2, turns, folder / "turns-2")
    codes["killed"] = together(2, of, folder / "killed", dies_at=6)
    codes["uneven"] = together(3, of, folder / "uneven")
    return codes


if __name__ == "__main__":
    torch.set_num_threads(1)
    print(json.dumps({"kills": kills, "together": runs}[sys.argv[1]](Path(sys.argv[2]))))
