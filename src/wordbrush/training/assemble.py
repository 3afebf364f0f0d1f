"""Joining trained parts into one model folder that Wordbrush and diffusers open."""

from __future__ import annotations

import json
import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import torch

from wordbrush.diffusion.scheduler_config import read_scheduler_config
from wordbrush.errors import ModelFileError, RequestError
from wordbrush.formats.clip_files import PICTURE_CONFIG
from wordbrush.formats.defaults import usual_defaults
from wordbrush.formats.diffusers_folder import model_index
from wordbrush.formats.json_file import read_json
from wordbrush.formats.weights import read_weights
from wordbrush.networks.unet import UNetConfig
from wordbrush.networks.vae import AutoencoderKLConfig
from wordbrush.request_fields import ModelDefaults
from wordbrush.training.export import put_in_place, write_network
from wordbrush.training.tasks.recipes import AssembleRecipe

_CLASSES = {
    "text_encoder": "CLIPTextModel",
    "tokenizer": "CLIPTokenizer",
    "unet": "UNet2DConditionModel",
    "vae": "AutoencoderKL",
}
_NETWORKS = ("unet", "text_encoder", "vae", "clip")
# Files that a finished part has, by its key in the recipe.
_NETWORK = ("config.json", "*.safetensors")
_FILES = {
    "denoiser": (
        *(f"{part}/{file}" for part in ("unet", "text_encoder") for file in _NETWORK),
        "scheduler/scheduler_config.json",
    ),
    "vae": _NETWORK,
    "clip": _NETWORK,
    "tokenizer": ("vocab.json", "merges.txt", "words.json"),
}
_DTYPES = {"float16": torch.float16, "bfloat16": torch.bfloat16, "float32": torch.float32}


def assemble(recipe: AssembleRecipe, target: Path) -> Path:
    """Writes the model folder `target`, whole or not at all; files there that are not the model's (its card) stay.

    Raises:
        RequestError: a part has not been trained yet, or the finished model would refuse its defaults.
        ModelFileError: the parts do not go together.
    """
    for fault in missing_parts(recipe):
        raise RequestError(fault)
    configs, scheduler = read_parts(recipe)
    sources = _sources(recipe)
    target.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=target.parent, prefix=".assemble-") as scratch:
        made = Path(scratch)
        for part, config in configs.items():
            weights = next(sources[part].glob("*.safetensors"))
            write_network(
                made / part, config, read_weights([weights]), dtype=_DTYPES[recipe.dtype], weights_name=weights.stem
            )
        picture = sources["clip"] / PICTURE_CONFIG
        if picture.exists():
            shutil.copyfile(picture, made / "clip" / PICTURE_CONFIG)
        shutil.copytree(sources["scheduler"], made / "scheduler")
        shutil.copytree(sources["tokenizer"], made / "tokenizer")
        os.replace(made / "tokenizer/words.json", made / "words.json")
        index = model_index(
            "StableDiffusionPipeline",
            _CLASSES | {"scheduler": scheduler["_class_name"]},
            absent=("feature_extractor", "image_encoder", "safety_checker"),
            options={"requires_safety_checker": False},
        )
        _write_json(made / "model_index.json", index)
        _write_json(made / "wordbrush.json", {"defaults": dict(recipe.defaults)})
        target.mkdir(exist_ok=True)
        put_in_place(made, target)
    return target


def missing_parts(recipe: AssembleRecipe) -> Iterator[str]:
    """What has not been trained, or not to its end, a sentence each."""
    for key, files in _FILES.items():
        place = Path(getattr(recipe, key))
        if not place.is_dir():
            yield f"build.{key}: there is no folder {place}; run the recipe that makes it first"
        elif missing := [wanted for wanted in files if not any(place.glob(wanted))]:
            yield f"build.{key}: {place} has no {', '.join(missing)}; run the recipe that makes it first"


def _sources(recipe: AssembleRecipe) -> dict[str, Path]:
    return {
        "unet": Path(recipe.denoiser) / "unet",
        "text_encoder": Path(recipe.denoiser) / "text_encoder",
        "scheduler": Path(recipe.denoiser) / "scheduler",
        "vae": Path(recipe.vae),
        "clip": Path(recipe.clip),
        "tokenizer": Path(recipe.tokenizer),
    }


def read_parts(recipe: AssembleRecipe) -> tuple[dict[str, Any], dict[str, Any]]:
    """The configs of the networks, by part, and of the scheduler, of a recipe none of whose parts is missing.

    Raises RequestError for defaults that the finished model's reader would refuse, ModelFileError for parts that do not
    go together.
    """
    sources = _sources(recipe)
    configs = {part: read_json(sources[part] / "config.json") for part in _NETWORKS}
    scheduler = read_json(sources["scheduler"] / "scheduler_config.json")
    try:
        sampling = read_scheduler_config(scheduler)
        networks = {
            "unet": SimpleNamespace(config=UNetConfig.from_dict(configs["unet"])),
            "vae": SimpleNamespace(config=AutoencoderKLConfig.from_dict(configs["vae"])),
        }
    except (ValueError, TypeError) as error:
        raise ModelFileError(f"the parts in {recipe.denoiser} and {recipe.vae} do not fit: {error}") from error
    try:
        ModelDefaults(**{**usual_defaults("sd1", networks, sampling).model_dump(), **recipe.defaults})
    except RequestError as error:
        raise RequestError(f"build.defaults: {error}") from error
    return configs, scheduler


def _write_json(path: Path, values: dict[str, Any]) -> None:
    path.write_text(json.dumps(values, indent=2, sort_keys=True) + "\n", encoding="utf-8")
