"""What survives: a run killed again and again beside one never interrupted, and one run shared by 1, 2 and 4 processes.

    python benchmarks/resilience.py kills                 # SIGKILL at random steps and in the middle of checkpoints
    python benchmarks/resilience.py kills --workers 1     # with processes that make the data
    python benchmarks/resilience.py processes             # the losses of 1, 2 and 4 processes, DDP and FSDP2, on gloo

Each run is the command itself, `wordbrush train`, in processes of its own, on a small autoencoder of scenes. `kills`
compares the finished runs bit by bit: weights, averages, optimiser, exported file. `processes` prints the loss of each
step as each run logged it, and the largest difference from one process alone, relative to the loss.
Both exit with 1 where something differs that should not.
"""

from __future__ import annotations

import argparse
import csv
import os
import random
import re
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import yaml

NETWORK = {
    "latent_channels": 4, "block_out_channels": [16, 16], "layers_per_block": 1, "norm_num_groups": 1,
    "mid_block_add_attention": False, "use_quant_conv": False, "use_post_quant_conv": False,
}  # fmt: skip
RECIPE: dict[str, Any] = {
    "name": "resilience", "seed": 5, "steps": 60, "batch": 8, "precision": "float32", "checkpoint_every": 2,
    "log_every": 1, "ema": 0.95, "ema_lengths": [0.05, 0.1], "ema_snapshots": 6, "trackers": [],
    "optimiser": {"learning_rate": 0.003, "warmup": 5},
    "train": {"task": "vae", "crop": 32, "network": NETWORK, "half_scale_every": 3},
}  # fmt: skip
TOLERANCE = 1e-3  # of the loss: sums in another order, and what training makes of that


def write_recipe(path: Path, **changes: Any) -> Path:
    """The small recipe, changed."""
    path.write_text(yaml.safe_dump(RECIPE | changes), encoding="utf-8")
    return path


def command(
    recipe: Path, folder: Path, *, processes: int = 1, launch: Sequence[str] = (), workers: int = 0
) -> list[str]:
    """`wordbrush train`, alone or under torchrun."""
    words = ["-m", "wordbrush", "train", str(recipe), "-o", str(folder), "--device", "cpu", "--workers", str(workers)]
    if processes == 1:
        return [sys.executable, *words]
    torchrun = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", str(processes), *launch]
    return [sys.executable, *torchrun, *words]


def start(words: Sequence[str]) -> subprocess.Popen[str]:
    """The command in a process whose standard error can be read; one thread each, so that processes share the cores."""
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    return subprocess.Popen(
        words, stderr=subprocess.PIPE, stdout=subprocess.DEVNULL, text=True, env=environment, start_new_session=True
    )


def finish(words: Sequence[str]) -> str:
    """Runs the command to its end; what it said. Raises RuntimeError with that when it fails."""
    process = start(words)
    said = process.communicate()[1]
    if process.returncode:
        raise RuntimeError(f"{' '.join(words)} ended with {process.returncode}:\n{said}")
    return said


@dataclass(frozen=True, kw_only=True)
class Kill:
    """One SIGKILL: when, and what it left behind."""

    step: int
    writing: bool
    kept: int


def kill_at(words: Sequence[str], folder: Path, step: int, *, writing: bool) -> Kill | None:
    """Starts the command and kills it after a step, or in the middle of the next checkpoint; None if it ended first."""
    process = start(words)
    assert process.stderr is not None
    seen, partial = 0, folder / "checkpoint.partial"
    for line in process.stderr:
        if found := re.search(r": step (\d+)/", line):
            seen = int(found[1])
            if seen >= step:
                break
    while writing and process.poll() is None and not (partial.exists() and partial.stat().st_size):
        time.sleep(0.0002)
    caught = writing and partial.exists()
    process.kill()
    process.communicate()
    if process.returncode == 0:
        return None
    kept = torch.load(folder / "checkpoint.pt", weights_only=True)["step"] if (folder / "checkpoint.pt").exists() else 0
    return Kill(step=seen, writing=caught and partial.exists(), kept=kept)


def tensors(value: Any, name: str = "") -> Iterator[tuple[str, torch.Tensor]]:
    """Every tensor in nested tables and lists, with where it is."""
    if isinstance(value, torch.Tensor):
        yield name, value
    elif isinstance(value, dict):
        for key, item in value.items():
            yield from tensors(item, f"{name}/{key}")
    elif isinstance(value, list | tuple):
        for number, item in enumerate(value):
            yield from tensors(item, f"{name}/{number}")


def differences(one: Path, other: Path) -> tuple[int, list[str]]:
    """How many tensors and files two finished runs have, and which of them are not the same bit by bit."""
    states = [dict(tensors(torch.load(run / "checkpoint.pt", weights_only=True))) for run in (one, other)]
    found = [name for name, value in states[0].items() if not torch.equal(value, states[1][name])]
    files = [path.relative_to(one) for path in one.rglob("*.safetensors")]
    found += [str(path) for path in files if (one / path).read_bytes() != (other / path).read_bytes()]
    for path in (one / "ema").glob("*.pt"):
        powers = [dict(tensors(torch.load(run / "ema" / path.name, weights_only=True))) for run in (one, other)]
        found += [f"{path.name}{name}" for name, value in powers[0].items() if not torch.equal(value, powers[1][name])]
        files.append(path.relative_to(one))
    return len(states[0]) + len(files), found


def compare_killed(folder: Path, *, kills: int, workers: int, seed: int, **changes: Any) -> list[str]:
    """Prints what kills left behind and whether the end is the same; what differs."""
    recipe = write_recipe(folder / "recipe.yaml", **changes)
    steps = {**RECIPE, **changes}["steps"]
    straight, broken = folder / "straight", folder / "broken"
    finish(command(recipe, straight, workers=workers))
    rng = random.Random(seed)
    targets = sorted(rng.sample(range(1, steps - 2), kills))
    for number, target in enumerate(targets):
        kill = kill_at(command(recipe, broken, workers=workers), broken, target, writing=number % 2 == 1)
        if kill is None:
            print(f"kill {number + 1}: it had ended")
            continue
        where = "in the middle of a checkpoint" if kill.writing else "between checkpoints"
        print(f"kill {number + 1}: after step {kill.step}, {where}; the checkpoint kept is that of step {kill.kept}")
    finish(command(recipe, broken, workers=workers))
    count, found = differences(straight, broken)
    print(f"{count} tensors and files of the finished runs compared: {len(found)} differ {' '.join(found[:5])}")
    return found


def losses(folder: Path) -> dict[int, float]:
    """The loss by step, as logged."""
    with (folder / "curve.csv").open(newline="", encoding="utf-8") as file:
        return {int(row["step"]): float(row["loss"]) for row in csv.DictReader(file)}


def compare_processes(folder: Path, *, counts: Sequence[int], **changes: Any) -> float:
    """Prints the losses of runs on several numbers of processes; the largest relative difference from one alone."""
    runs: dict[str, dict[int, float]] = {}
    for count in (1, *counts):
        for parallel in ("ddp", "fsdp2") if count > 1 else ("ddp",):
            name = f"{count} {parallel}" if count > 1 else "1"
            recipe = write_recipe(folder / f"{name}.yaml", parallel=parallel, **changes)
            begun = time.monotonic()
            finish(command(recipe, folder / name, processes=count))
            runs[name] = losses(folder / name)
            print(f"{name:>8}: {time.monotonic() - begun:.0f} s, start and export included", flush=True)
    print("step " + "".join(f"{name:>11}" for name in runs))
    alone = runs["1"]
    shown = [step for step in alone if step in (1, 2, 5) or step % 10 == 0]
    for step in shown:
        print(f"{step:4} " + "".join(f"{run[step]:11.5f}" for run in runs.values()))
    worst = max(abs(run[step] - loss) / loss for run in runs.values() for step, loss in alone.items())
    print(f"largest difference from one process, over all {len(alone)} steps: {worst:.1e} of the loss")
    return worst


def main() -> None:
    """Compares and prints."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=("kills", "processes"))
    parser.add_argument("--kills", type=int, default=6)
    parser.add_argument("--workers", type=int, default=0)
    parser.add_argument("--seed", type=int, default=0, help="of when it is killed")
    parser.add_argument("--counts", type=int, nargs="+", default=(2, 4))
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        if options.what == "kills":
            differ = bool(
                compare_killed(Path(folder), kills=options.kills, workers=options.workers, seed=options.seed)
            )
        else:
            differ = compare_processes(Path(folder), counts=options.counts) > TOLERANCE
    sys.exit(int(differ))


if __name__ == "__main__":
    main()
