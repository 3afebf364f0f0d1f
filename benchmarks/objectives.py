"""The training objectives side by side: one small network of pixels, the same data, steps and seed for each.

    python benchmarks/objectives.py --output runs/objectives                 # all of them, 300 steps each
    python benchmarks/objectives.py --only epsilon previous difference --steps 600
    python benchmarks/objectives.py --json

Each variant is recipes/unconditional.yaml with what VARIANTS changes; the recipe as it was run is kept in the variant's
folder, where `wordbrush train` goes on with it and `wordbrush generate -m` paints.

x0 error   mean squared error of the clean estimate, clipped to [-1, 1] as sampling does, on held-out pictures at noise
           levels sigma / alpha: it means the same whatever is predicted and whichever schedule was trained
Fréchet    distance of 64 samples to 256 held-out pictures, of features of the embedded model's CLIP; with so few
           samples it is far from 0 even for perfect ones, alike for all variants

The first line is of no network: the mean of the held-out pictures as the answer, and others of them as samples.
"""

from __future__ import annotations

import argparse
import json
from copy import deepcopy
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
import yaml
from PIL import Image
from torch import Tensor

import wordbrush
from wordbrush.data.pixels import to_images
from wordbrush.diffusion.guidance import clipped
from wordbrush.diffusion.prediction import network_denoiser
from wordbrush.diffusion.process import DiscreteVP
from wordbrush.evaluation.distances import frechet_distance
from wordbrush.formats.clip_files import read_clip
from wordbrush.formats.open import embedded_folder
from wordbrush.networks.unet import with_time_band
from wordbrush.sheets import labelled_grid
from wordbrush.training.data_recipe import data_recipe
from wordbrush.training.feed import Feed
from wordbrush.training.run import train

ROOT = Path(__file__).resolve().parent.parent
LEVELS = (0.1, 0.3, 1.0, 3.0, 10.0)  # sigma / alpha
HELD_OUT, SAMPLES, SHOWN = 256, 64, 8

_COSINE = {"beta_schedule": "squaredcos_cap_v2"}
_FLOW = {"_class_name": "FlowMatchEulerDiscreteScheduler", "num_train_timesteps": 1000, "shift": 1.0}
_STEPS_100 = {"num_train_timesteps": 100, "beta_start": 0.001, "beta_end": 0.2}

# variant -> what it changes in the recipe's `train`; a scheduler with a class of its own replaces the whole table
VARIANTS: dict[str, dict[str, Any]] = {
    "epsilon": {},
    "v": {"scheduler": {"prediction_type": "v_prediction"}},
    "sample": {"scheduler": {"prediction_type": "sample"}},
    "flow": {"scheduler": _FLOW},
    "flow, logit-normal": {"scheduler": _FLOW, "objective": {"times": {"kind": "logit_normal"}}},
    "epsilon, 100 timesteps": {"scheduler": _STEPS_100},
    "previous": {"scheduler": _STEPS_100 | {"prediction_type": "previous_sample"}},
    "difference": {"scheduler": _STEPS_100 | {"prediction_type": "sample_difference"}},
    "previous, min-SNR": {
        "scheduler": _STEPS_100 | {"prediction_type": "previous_sample"}, "objective": {"weighting": "min_snr"},
    },
    "scaled linear": {"scheduler": {"beta_schedule": "scaled_linear", "beta_start": 0.00085, "beta_end": 0.012}},
    "cosine": {"scheduler": _COSINE},
    "sigmoid": {"scheduler": {"beta_schedule": "sigmoid"}},
    "v, cosine, zero SNR": {
        "scheduler": _COSINE | {"prediction_type": "v_prediction", "rescale_betas_zero_snr": True}
    },
    "min-SNR": {"objective": {"weighting": "min_snr", "gamma": 5.0}},
    "P2": {"objective": {"weighting": "p2"}},
    "l1": {"objective": {"loss": "l1"}},
    "huber": {"objective": {"loss": "huber", "delta": 0.3}},
    "pseudo-Huber, by SNR": {"objective": {"loss": "pseudo_huber", "delta_schedule": "snr"}},
    "offset noise": {"objective": {"offset_noise": 0.1}},
    "input perturbation": {"objective": {"input_perturbation": 0.1}},
    "logit-normal": {"objective": {"times": {"kind": "logit_normal", "uniform_part": 0.1}}},
    "not stratified": {"objective": {"times": {"stratified": False}}},
    "time as a band": {"time": "band"},
}  # fmt: skip


def recipe_of(variant: str, steps: int) -> dict[str, Any]:
    """The recipe of a variant, as its YAML file says it."""
    recipe: dict[str, Any] = yaml.safe_load((ROOT / "recipes/unconditional.yaml").read_text(encoding="utf-8"))
    recipe |= {"name": variant, "steps": steps, "validate_every": 0, "sample_every": 0, "trackers": []}
    changes = deepcopy(VARIANTS[variant])
    scheduler = changes.pop("scheduler", {})
    recipe["train"]["scheduler"] = scheduler if "_class_name" in scheduler else recipe["train"]["scheduler"] | scheduler
    recipe["train"] |= changes
    return recipe


def held_out(batch: int) -> Tensor:
    """(HELD_OUT, 3, 32, 32) in [-1, 1], others in each batch."""
    recipe = yaml.safe_load((ROOT / "recipes/unconditional.yaml").read_text(encoding="utf-8"))
    feed = Feed(data_recipe(recipe["train"]["validation"]), 0, HELD_OUT)
    return feed.rows(batch, range(HELD_OUT)).images


def no_network(images: Tensor, real: np.ndarray) -> dict[str, Any]:
    """The figures without a network: the mean picture as the answer, and other held-out pictures as samples."""
    error = float(F.mse_loss(images.mean(0, keepdim=True).expand_as(images), images))
    others = held_out(1)[:SAMPLES]
    return {
        "variant": "none",
        "x0_error": {f"{level:g}": error for level in LEVELS},
        "frechet": frechet_distance(features(others), real),
    }


@torch.no_grad()
def x0_errors(pipe: wordbrush.Pipeline, images: Tensor) -> dict[str, float]:
    """The error of clean estimates at each noise level; the same noise for every model."""
    unet, process = pipe.parts.unet, pipe.parts.scheduler.process
    assert unet is not None
    context = torch.zeros(1, 1, unet.config.cross_attention_dim)
    band = unet.config.in_channels - images.shape[1]

    def network(x: Tensor, timestep: float) -> Tensor:
        told = torch.tensor([timestep])
        if band:
            x, told = with_time_band(x, told)
        return unet(x, told, context)

    denoiser = clipped(network_denoiser(network, process, pipe.parts.scheduler.prediction), 1.0)
    eps = torch.randn(images.shape, generator=torch.Generator().manual_seed(0))
    found = {}
    for level in LEVELS:
        t = process.time_of_lambda(-float(np.log(level)))
        if isinstance(process, DiscreteVP):  # a timestep that was trained
            t = max(1, round(t * process.num_train_timesteps)) / process.num_train_timesteps
        x = process.alpha(t) * images + process.sigma(t) * eps
        found[f"{level:g}"] = float(F.mse_loss(denoiser(x, t), images))
    return found


@torch.no_grad()
def features(images: Tensor) -> np.ndarray:
    """(B, P) of pictures (B, 3, H, W) in [-1, 1], by the embedded model's CLIP."""
    files = read_clip(embedded_folder() / "clip")
    side = files.model.config.vision_config.image_size
    large = F.interpolate(images, size=(side, side), mode="bilinear", antialias=True)
    mean, std = (torch.tensor(numbers).view(1, 3, 1, 1) for numbers in (files.mean, files.std))
    parts = [files.model.image_features(part) for part in (((large + 1) / 2 - mean) / std).split(32)]
    return F.normalize(torch.cat(parts), dim=1).numpy()


def measured(
    variant: str, folder: Path, steps: int, images: Tensor, real: np.ndarray
) -> tuple[dict[str, Any], list[Image.Image]]:
    """Trains a variant, or goes on with it, and measures it; `real`: the features of the held-out pictures."""
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / "recipe.yaml"
    path.write_text(yaml.safe_dump(recipe_of(variant, steps), sort_keys=False), encoding="utf-8")
    train(path, folder / "run", log=lambda line: None)
    errors = x0_errors(wordbrush.load(folder / "run", dtype="float32"), images)
    pipe = wordbrush.load(folder / "run", dtype="bfloat16")
    pictures = [image for start in range(0, SAMPLES, 16) for image in pipe([""] * 16, seed=start, steps=50).images]
    samples = to_images(np.stack([np.asarray(picture) for picture in pictures]))
    row = {
        "variant": variant,
        "x0_error": errors,
        "frechet": frechet_distance(features(samples), real),
    }
    return row, pictures[:SHOWN]


def line_of(row: dict[str, Any]) -> str:
    """A row of the table."""
    errors = "  ".join(f"{error:.4f}" for error in row["x0_error"].values())
    return f"{row['variant']:24s}  {'':23s} {errors}  {row['frechet']:.3f}"


def main() -> None:
    """Trains, measures and prints."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--output", type=Path, default=Path("runs/objectives"))
    parser.add_argument("--steps", type=int, default=300)
    parser.add_argument("--only", nargs="+", choices=list(VARIANTS), default=list(VARIANTS), metavar="VARIANT")
    parser.add_argument("--json", action="store_true", help="print the table as JSON")
    options = parser.parse_args()
    images = held_out(0)
    real = features(images)
    rows, shown = [no_network(images, real)], []
    if not options.json:
        print(f"{'variant':24s}  x0 error at sigma/alpha {'  '.join(f'{level:<6g}' for level in LEVELS)}  Fréchet")
        print(line_of(rows[0]), flush=True)
    for variant in options.only:
        name = variant.replace(", ", "-").replace(" ", "-")
        row, pictures = measured(variant, options.output / name, options.steps, images, real)
        rows.append(row)
        shown.append(pictures)
        if not options.json:
            print(line_of(row), flush=True)
    sheet = labelled_grid(shown, [str(number) for number in range(SHOWN)], list(options.only))
    sheet.save(options.output / "objectives.png")
    (options.output / "objectives.json").write_text(json.dumps(rows, indent=2) + "\n", encoding="utf-8")
    if options.json:
        print(json.dumps(rows, indent=2))


if __name__ == "__main__":
    main()
