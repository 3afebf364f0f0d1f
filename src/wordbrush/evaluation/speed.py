"""How fast a model paints on this machine, and how fast a peer does the same work on the same weights.

A peer is a script (benchmarks/diffusers_peer.py is one) run in a process of its own, so that nothing of it is imported
here and neither side can slow the other down.
"""

from __future__ import annotations

import json
import os
import platform
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import torch

from wordbrush.diffusion.noise import NoiseSource
from wordbrush.errors import RequestError, WorkFailed
from wordbrush.pipeline import Pipeline
from wordbrush.request import GenerationRequest

PROMPT = "a fox on a blue background"
SLOWEST_PEER = 1800.0  # seconds

Say = Callable[[str], None]


@dataclass(frozen=True, kw_only=True)
class Task:
    """What is painted.

    Attributes:
        pictures: of the batch.
        repeats: of a single picture; the median counts.
        cold: whether to start processes from nothing too.
        steps, guidance: None for the model's own.
    """

    prompt: str = PROMPT
    seed: int = 1
    pictures: int = 16
    repeats: int = 7
    cold: bool = True
    steps: int | None = None
    guidance: float | None = None

    def __post_init__(self) -> None:
        for name in ("pictures", "repeats"):
            if getattr(self, name) < 1:
                raise RequestError(f"{name}={getattr(self, name)} must be at least 1")
        if self.steps is not None and self.steps < 2:
            raise RequestError(f"steps={self.steps} is too few to time the steps between; at least 2 are needed")


@dataclass(frozen=True, kw_only=True)
class Machine:
    """Where it was measured. `load` is the number of busy threads just before, None where the system does not say."""

    processor: str
    cores: int
    threads: int
    torch: str
    python: str
    system: str
    load: float | None


@dataclass(frozen=True, kw_only=True)
class Figures:
    """Seconds; None where it was not measured.

    Attributes:
        cold: from starting a process to the picture on disk, for a peer to the picture in memory.
        single: one warm picture, prompt to pixels.
        batch: all pictures in one call.
        step: from the end of one step to the end of the next, one picture with guidance.
        difference: largest and mean distance of a single picture from ours, in levels of 256.
    """

    name: str
    dtype: str
    single: float
    batch: float
    step: float
    cold: float | None = None
    difference: tuple[int, float] | None = None


@dataclass(frozen=True, kw_only=True)
class Speed:
    """Everything measured: ours first among `figures`."""

    machine: Machine
    request: GenerationRequest
    pictures: int
    figures: tuple[Figures, ...]
    problems: tuple[str, ...] = field(default=())

    def as_json(self) -> dict[str, Any]:
        """All of it, with the ratios that the table prints."""
        ours = self.figures[0]
        return {
            "machine": asdict(self.machine),
            "request": self.request.model_dump(mode="json", exclude_none=True),
            "pictures": self.pictures,
            "figures": [asdict(figures) for figures in self.figures],
            "batch_gain": ours.single * self.pictures / ours.batch,
            "times_as_fast_per_step": {f"{peer.name} {peer.dtype}": peer.step / ours.step for peer in self.figures[1:]},
            "problems": list(self.problems),
        }


def measure(pipe: Pipeline, task: Task, peers: Mapping[Path, tuple[str, ...]], say: Say) -> Speed:
    """Measures ours, then every peer script in each of its number formats.

    say: told what is being measured.

    Raises:
        RequestError: a peer is asked for a model that is not a folder on this machine.
    """
    config = pipe.parts.scheduler
    wanted = GenerationRequest(
        prompt=task.prompt,
        seed=task.seed,
        count=task.pictures,
        steps=task.steps,
        guidance=task.guidance,
        sampler=config.sampler,
        schedule=config.default_schedule(),  # what the scheduler file says: peers know no other
    )
    request = pipe.fill(wanted)
    machine = _machine()
    say("wordbrush, warm")
    ours, pixels = _ours(pipe, request, task)
    figures, problems = [ours], []
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        if task.cold:
            say("wordbrush, cold")
            figures[0] = Figures(**asdict(ours) | {"cold": _cold(pipe, request.part(0, 1), folder)})
        for script, dtypes in peers.items():
            for dtype in dtypes:
                say(f"{script.stem}, {dtype}")
                try:
                    figures.append(_peer(script, dtype, (pipe, request, task), pixels, folder))
                except WorkFailed as error:
                    problems.append(str(error))
    return Speed(
        machine=machine, request=request, pictures=task.pictures, figures=tuple(figures), problems=tuple(problems)
    )


def _ours(pipe: Pipeline, request: GenerationRequest, task: Task) -> tuple[Figures, np.ndarray]:
    one = request.part(0, 1)
    image = pipe(one).images[0]  # the first call fills caches
    singles, steps = [], []
    for _ in range(task.repeats):
        started = time.perf_counter()
        marks = []
        for step in pipe.steps(one):
            latents = step.x
            _wait(pipe)
            marks.append(time.perf_counter())
        pipe.finish(one, latents)
        singles.append(time.perf_counter() - started)
        steps += [after - before for before, after in pairwise(marks)]
    batches = []
    for _ in range(max(2, task.repeats // 2)):
        started = time.perf_counter()
        pipe(request)
        batches.append(time.perf_counter() - started)
    figures = Figures(
        name="wordbrush",
        dtype=pipe.runtime.dtype_name,
        single=statistics.median(singles),
        batch=min(batches),
        step=statistics.median(steps),
    )
    return figures, np.asarray(image)


def _wait(pipe: Pipeline) -> None:
    if pipe.runtime.device.type == "cuda":
        torch.cuda.synchronize(pipe.runtime.device)


def _cold(pipe: Pipeline, request: GenerationRequest, folder: Path) -> float:
    """Seconds of `wordbrush generate` in a new process, after one that warms the file cache."""
    command = [sys.executable, "-m", "wordbrush", "generate", request.prompts[0], "--seed", str(request.seed)]
    command += [
        "--steps",
        str(request.steps),
        "--guidance",
        str(request.guidance),
        "--output",
        str(folder / "cold.png"),
    ]
    command += ["--device", str(pipe.runtime.device), "--dtype", pipe.runtime.dtype_name]
    if pipe.parts.source is not None:
        command += ["--model", str(pipe.parts.source)]
    seconds = 0.0
    for _ in range(2):
        started = time.perf_counter()
        _run(command)
        seconds = time.perf_counter() - started
    return seconds


def _peer(
    script: Path, dtype: str, ours: tuple[Pipeline, GenerationRequest, Task], pixels: np.ndarray, folder: Path
) -> Figures:
    pipe, request, task = ours
    if pipe.parts.source is None:
        raise RequestError("a peer opens the model by itself, so it needs a model folder; use --no-peer")
    size = request.height // pipe.vae.config.downscale, request.width // pipe.vae.config.downscale  # type: ignore[operator]
    noise = NoiseSource.for_batch(task.seed, task.pictures, (pipe.vae.config.latent_channels, *size))()
    content = {
        "prompt": task.prompt, "negative_prompt": request.negative_prompt, "steps": request.steps,
        "guidance": request.guidance, "width": request.width, "height": request.height, "repeats": task.repeats,
        "threads": torch.get_num_threads(), "noise": noise.flatten().tolist(), "noise_shape": list(noise.shape),
    }  # fmt: skip
    path = folder / "task.json"
    command = [sys.executable, str(script), "--model", str(pipe.parts.source), "--task", str(path), "--dtype", dtype]
    path.write_text(json.dumps(content), encoding="utf-8")
    found = _answer(script, _run(command))
    cold = None
    if task.cold:
        path.write_text(json.dumps(content | {"cold": True}), encoding="utf-8")
        started = time.perf_counter()
        _run(command)
        cold = time.perf_counter() - started
    try:
        theirs = np.asarray(found["pixels"], dtype=np.int64).reshape(pixels.shape)
        distance = np.abs(theirs - pixels.astype(np.int64))
        return Figures(
            name=str(found["name"]),
            dtype=dtype,
            single=float(found["single"]),
            batch=float(found["batch"]),
            step=float(found["step"]),
            cold=cold,
            difference=(int(distance.max()), float(distance.mean())),
        )
    except (KeyError, TypeError, ValueError) as error:
        raise WorkFailed(f"{script.name} ({dtype}) printed a result without {error}") from error


def _answer(script: Path, output: str) -> dict[str, Any]:
    try:
        found = json.loads(output.strip().splitlines()[-1])
    except (ValueError, IndexError) as error:
        raise WorkFailed(f"{script.name} did not print a JSON object as its last line") from error
    if not isinstance(found, dict):
        raise WorkFailed(f"{script.name} did not print a JSON object as its last line")
    return found


def _run(command: list[str]) -> str:
    """Runs a Python program that can import this package; returns its standard output."""
    import wordbrush

    home = str(Path(wordbrush.__file__).parents[1])
    paths = os.pathsep.join(filter(None, (home, os.environ.get("PYTHONPATH"))))
    try:
        done = subprocess.run(
            command, capture_output=True, text=True, env={**os.environ, "PYTHONPATH": paths}, timeout=SLOWEST_PEER
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        raise WorkFailed(f"{Path(command[1]).name} could not be run: {error}") from error
    if done.returncode != 0:
        last = (done.stderr.strip().splitlines() or ["it said nothing"])[-1]
        raise WorkFailed(f"{Path(command[1]).name} ended with exit code {done.returncode}: {last}")
    return done.stdout


def _machine() -> Machine:
    load = None
    if hasattr(os, "getloadavg"):
        load = os.getloadavg()[0]
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return Machine(
        processor=_processor(),
        cores=cores,
        threads=torch.get_num_threads(),
        torch=torch.__version__,
        python=platform.python_version(),
        system=f"{platform.system()} {platform.machine()}",
        load=load,
    )


def _processor() -> str:
    """The processor's name, and what bfloat16 needs if it is there."""
    name = platform.processor() or platform.machine()
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        lines = []
    for line in lines:
        if line.startswith("model name"):
            name = line.partition(":")[2].strip()
            break
    abilities = torch.cpu.get_capabilities()
    units = [unit for unit in ("amx_bf16", "avx512_bf16", "avx512_f", "avx2") if abilities.get(unit)]
    return f"{name} ({units[0]})" if units else name
