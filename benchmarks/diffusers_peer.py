"""diffusers, measured for `wordbrush bench`: its StableDiffusionPipeline as a newcomer would use it.

    python benchmarks/diffusers_peer.py --model FOLDER --task TASK.json --dtype float32

TASK.json holds prompt, negative_prompt, steps, guidance, width, height, repeats, threads, and noise: one list of unit
noise of shape (pictures, channels, h, w), flat, with its shape under noise_shape. With "cold": true one picture is
painted and nothing is repeated.

The last line of the output is a JSON object:

    name            of the peer, with its version
    step            seconds from the end of one step to the end of the next, median
    single          seconds for one warm picture, prompt to pixels, median
    batch           seconds for all pictures in one call, prompt to pixels
    pixels          the first picture, (H, W, 3) values 0 to 255, flat
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import time
import warnings
from itertools import pairwise
from pathlib import Path
from typing import Any

os.environ.setdefault("HF_HUB_OFFLINE", "1")
warnings.simplefilter("ignore")

import diffusers  # noqa: E402
import numpy as np  # noqa: E402
import torch  # noqa: E402
import transformers  # noqa: E402
from diffusers import StableDiffusionPipeline  # noqa: E402


class Paint:
    """One call of the pipeline after another, all alike."""

    def __init__(self, pipeline: StableDiffusionPipeline, task: dict[str, Any]) -> None:
        self.pipeline = pipeline
        shape, dtype = task["noise_shape"], pipeline.unet.dtype
        self.noise = torch.tensor(task["noise"], dtype=torch.float32).reshape(shape).to(dtype)
        self.task = task

    def __call__(self, pictures: int, marks: list[float] | None = None) -> np.ndarray:
        """Paints; `marks` receives the clock at the end of every step. Returns (pictures, H, W, 3) in [0, 1]."""

        def mark(_pipeline: Any, _step: int, _timestep: Any, values: dict[str, Any]) -> dict[str, Any]:
            if marks is not None:
                marks.append(time.perf_counter())
            return values

        task = self.task
        return self.pipeline(
            [task["prompt"]] * pictures,
            negative_prompt=[task["negative_prompt"]] * pictures,
            num_inference_steps=task["steps"],
            guidance_scale=task["guidance"],
            width=task["width"],
            height=task["height"],
            latents=self.noise[:pictures],
            output_type="np",
            callback_on_step_end=mark,
        ).images


def main() -> None:
    """Measures and prints."""
    parser = argparse.ArgumentParser(description="Measure diffusers for `wordbrush bench`.")
    parser.add_argument("--model", required=True)
    parser.add_argument("--task", required=True, type=Path)
    parser.add_argument("--dtype", choices=("float32", "bfloat16", "float16"), default="float32")
    options = parser.parse_args()
    task = json.loads(options.task.read_text(encoding="utf-8"))
    diffusers.logging.set_verbosity_error()
    transformers.logging.set_verbosity_error()
    diffusers.logging.disable_progress_bar()
    if task["threads"] is not None:
        torch.set_num_threads(task["threads"])
    pipeline = StableDiffusionPipeline.from_pretrained(options.model, torch_dtype=getattr(torch, options.dtype))
    pipeline.set_progress_bar_config(disable=True)
    paint = Paint(pipeline, task)
    result: dict[str, Any] = {"name": f"diffusers {diffusers.__version__}"}
    picture = paint(1)[0]
    if not task.get("cold"):
        pauses: list[float] = []
        singles: list[float] = []
        for _ in range(task["repeats"]):
            marks: list[float] = []
            started = time.perf_counter()
            paint(1, marks)
            singles.append(time.perf_counter() - started)
            pauses += [after - before for before, after in pairwise(marks)]
        pictures = len(paint.noise)
        batches: list[float] = []
        for _ in range(max(2, task["repeats"] // 2)):
            started = time.perf_counter()
            paint(pictures)
            batches.append(time.perf_counter() - started)
        result |= {
            "step": statistics.median(pauses),
            "single": statistics.median(singles),
            "batch": min(batches),
        }
    result["pixels"] = (picture * 255).round().astype(int).flatten().tolist()
    print(json.dumps(result))


if __name__ == "__main__":
    main()
