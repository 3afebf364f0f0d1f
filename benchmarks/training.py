"""Pictures trained on in a second, beside diffusers' text-to-image training example, on this machine in one run.

    python benchmarks/training.py                 # the embedded model, on 512 pictures with captions made from scenes
    python benchmarks/training.py --batch 8 --rounds 5 --json

Both sides train the same U-Net from the same folder on the same pictures, with the same batch, precision, optimiser,
clipping and average. Each lives in a process of its own; they take turns, a block of steps each, so that whatever else
the machine does falls on both. Ours runs twice: as theirs does, encoding pictures in every step, and with `cache`,
which encodes each once (a feature that the example has not).

TASK.json, which each process is given: model (folder), data (folder with metadata.jsonl), size, batch, precision, ema,
learning_rate, clip, block (steps between two measurements), threads, cache (folder or null).
A process prints {"name"} when it is ready; then, for each number of steps that it reads from standard input,
{"seconds", "busy", "waited"}: how long they took, the processors' time in it, and how long it waited for data.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

PEER = Path(__file__).parent / "diffusers_training.py"


def make_data(folder: Path, count: int) -> None:
    """Writes scenes as an image folder with captions."""
    from PIL import Image

    from wordbrush.data.scenes import caption, render, sample_scene

    folder.mkdir()
    with (folder / "metadata.jsonl").open("w", encoding="utf-8") as lines:
        for number in range(count):
            scene = sample_scene("train", 0, number)
            Image.fromarray(render(scene)).save(folder / f"{number:05d}.png")
            lines.write(json.dumps({"file_name": f"{number:05d}.png", "text": caption(scene)}) + "\n")


def make_model(folder: Path) -> None:
    """Copies the embedded model in float32, with a scheduler config that both training loops read alike."""
    import wordbrush

    pipe = wordbrush.load(device="cpu", dtype="float32")
    pipe.save(folder)
    place = folder / "scheduler" / "scheduler_config.json"
    known = {"num_train_timesteps", "beta_schedule", "beta_start", "beta_end", "prediction_type"}
    known.add("rescale_betas_zero_snr")
    config = {key: value for key, value in json.loads(place.read_text()).items() if key in known}
    place.write_text(json.dumps({"_class_name": "DDPMScheduler", "clip_sample": False} | config, indent=2))


def recipe_of(task: dict[str, Any]) -> Any:
    """Our recipe for what the example does: the pretrained U-Net trained on, everything else frozen."""
    from wordbrush.training.recipe import Recipe

    model = Path(task["model"])
    network = json.loads((model / "unet" / "config.json").read_text())
    return Recipe.model_validate(
        {
            "name": "benchmark",
            "steps": 1_000_000,
            "batch": task["batch"],
            "precision": task["precision"],
            "ema": task["ema"],
            "log_every": task["block"],
            "checkpoint_every": 1_000_000,
            "trackers": [],
            "optimiser": {
                "learning_rate": task["learning_rate"],
                "betas": [0.9, 0.999],
                "weight_decay": 0.01,
                "warmup": 0,
                "schedule": "constant",
                "clip": task["clip"],
            },
            "train": {
                "task": "diffusion",
                "data": {"kind": "folder", "path": task["data"], "size": task["size"]},
                "conditioning": {
                    "kind": "text",
                    "text_encoder": str(model / "text_encoder"),
                    "tokenizer": str(model / "tokenizer"),
                    "drop": 0.0,
                },
                "network": network,
                "scheduler": json.loads((model / "scheduler" / "scheduler_config.json").read_text()),
                "vae": str(model / "vae"),
                "start": str(model),
                "cache": task["cache"],
            },
        }
    )


def ours(task: dict[str, Any], folder: Path) -> Iterator[float]:
    """Trains for ever; yields after each block of steps the part of the time that it waited for data."""
    import torch

    from wordbrush.runtime.memory import keep_freed_memory
    from wordbrush.training.loop import Trainer
    from wordbrush.training.run import build_task

    keep_freed_memory()  # as the command line does
    recipe = recipe_of(task)
    trained = build_task(recipe, folder, torch.device("cpu"))
    for report in Trainer(recipe, trained, folder, log=lambda line: None).run():
        yield report.figures["wait"]


def work(task_file: Path) -> None:
    """Our side: trains a block for each line of standard input, and prints how long it took."""
    import torch

    task = json.loads(task_file.read_text(encoding="utf-8"))
    torch.set_num_threads(task["threads"])
    print(json.dumps({"name": "wordbrush" + (", latents kept" if task["cache"] else "")}), flush=True)
    with tempfile.TemporaryDirectory() as folder:
        running = ours(task, Path(folder))
        for line in sys.stdin:
            assert int(line) == task["block"]
            started, busy = time.perf_counter(), time.process_time()
            part = next(running)
            seconds, busy = time.perf_counter() - started, time.process_time() - busy
            print(json.dumps({"seconds": seconds, "busy": busy, "waited": part * seconds}), flush=True)


class Side:
    """One process, and what it measured."""

    def __init__(self, command: list[str], task: dict[str, Any], folder: Path) -> None:
        file = folder / f"task-{len(list(folder.glob('task-*')))}.json"
        file.write_text(json.dumps(task), encoding="utf-8")
        self.task = task
        environment = os.environ | {"OMP_NUM_THREADS": str(task["threads"])}
        self.process = subprocess.Popen(
            [sys.executable, *command, str(file)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env=environment,
        )
        self.name = self._read()["name"]
        self.seconds: list[float] = []
        self.busy: list[float] = []
        self.waited: list[float] = []

    def _read(self) -> dict[str, Any]:
        assert self.process.stdout is not None
        for line in self.process.stdout:
            if line.startswith("{"):
                return json.loads(line)
        raise SystemExit(f"a side of the benchmark ended early, with exit code {self.process.wait()}")

    def block(self, *, counted: bool) -> None:
        """Lets it train a block of steps."""
        assert self.process.stdin is not None
        self.process.stdin.write(f"{self.task['block']}\n")
        self.process.stdin.flush()
        measured = self._read()
        if counted:
            self.seconds.append(measured["seconds"])
            self.busy.append(measured["busy"])
            self.waited.append(measured["waited"])

    def result(self) -> dict[str, Any]:
        """Pictures per second: of the median block, and of the slowest and fastest."""
        pictures = self.task["block"] * self.task["batch"]
        rates = sorted(pictures / seconds for seconds in self.seconds)
        return {
            "name": self.name,
            "pictures_per_second": statistics.median(rates),
            "slowest": rates[0],
            "fastest": rates[-1],
            "pictures_per_processor_second": pictures * len(self.busy) / sum(self.busy),
            "waiting": sum(self.waited) / sum(self.seconds),
        }

    def close(self) -> None:
        """Ends the process."""
        assert self.process.stdin is not None
        self.process.stdin.close()
        self.process.wait()


def measure(options: argparse.Namespace, folder: Path) -> dict[str, Any]:
    """Both sides in turn."""
    make_data(folder / "pictures", options.pictures)
    make_model(folder / "model")
    task = {
        "model": str(folder / "model"),
        "data": str(folder / "pictures"),
        "size": 128,
        "batch": options.batch,
        "precision": options.precision,
        "ema": 0.9999,
        "learning_rate": 1e-4,
        "clip": 1.0,
        "block": options.block,
        "threads": options.threads,
        "cache": None,
    }
    own = [str(Path(__file__)), "--work"]
    sides = [
        Side([str(PEER)], task, folder),
        Side(own, task, folder),
        Side(own, task | {"cache": str(folder / "cache")}, folder),
    ]
    epoch = -(-options.pictures // (options.batch * options.block))
    for side in sides:  # warm; and one side fills its cache
        for _ in range(max(1, epoch if side.task["cache"] else 1)):
            side.block(counted=False)
    for number in range(options.rounds):
        for side in sides:
            side.block(counted=True)
        print(f"round {number + 1} of {options.rounds}", file=sys.stderr)
    results = [side.result() for side in sides]
    for side in sides:
        side.close()
    peer, busy = (results[0][key] for key in ("pictures_per_second", "pictures_per_processor_second"))
    return {
        "batch": options.batch,
        "precision": options.precision,
        "threads": options.threads,
        "steps": options.rounds * options.block,
        "sides": [
            result
            | {
                "ratio": result["pictures_per_second"] / peer,
                "processor_ratio": result["pictures_per_processor_second"] / busy,  # holds when the machine is shared
            }
            for result in results
        ],
    }


def main() -> None:
    """Measures and prints."""
    parser = argparse.ArgumentParser(description="Training speed, beside diffusers' example.")
    parser.add_argument("--batch", type=int, default=16)
    parser.add_argument("--block", type=int, default=8, help="steps between two measurements")
    parser.add_argument("--rounds", type=int, default=5, help="blocks of each side that count")
    parser.add_argument("--pictures", type=int, default=256)
    parser.add_argument("--threads", type=int, default=os.cpu_count() or 1)
    parser.add_argument("--precision", choices=("float32", "bfloat16"), default="bfloat16")
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--work", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.work is not None:
        work(options.work)
        return
    with tempfile.TemporaryDirectory() as folder:
        found = measure(options, Path(folder))
    if options.json:
        print(json.dumps(found, indent=2))
        return
    print(f"batch {found['batch']}, {found['precision']}, {found['threads']} threads, {found['steps']} steps each")
    heading = f"{'':24}{'pictures/s':>12}{'slowest':>9}{'fastest':>9}{'ratio':>7}"
    print(heading + f"{'per processor second':>22}{'ratio':>7}{'waiting for data':>18}")
    for side in found["sides"]:
        widths = {"pictures_per_second": 12, "slowest": 9, "fastest": 9}
        rates = "".join(f"{side[key]:{width}.1f}" for key, width in widths.items())
        shared = f"{side['pictures_per_processor_second']:22.1f}{side['processor_ratio']:7.2f}"
        print(f"{side['name']:24}{rates}{side['ratio']:7.2f}{shared}{side['waiting']:18.1%}")


if __name__ == "__main__":
    main()
