"""Joining trained parts into one model folder that Wordbrush and diffusers open."""

from __future__ import annotations

import json
import os
import shutil
import tempfile
from collections.abc import Mapping
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
# Files that a finished part has beside those of every network, config.json and weights.
_FILES = {"scheduler": ("scheduler_config.json",), "tokenizer": ("vocab.json", "words.json")}
_DTYPES = {"float16": torch.float16, "bfloat16": torch.bfloat16, "float32": torch.float32}


def assemble(recipe: AssembleRecipe, target: Path) -> Path:
    """Writes the model folder `target`, whole or not at all; files there that are not the model's (its card) stay.

    Raises:
        RequestError: a part has not been trained yet.
    """
    sources = {
        "unet": Path(recipe.denoiser) / "unet",
        "text_encoder": Path(recipe.denoiser) / "text_encoder",
        "scheduler": Path(recipe.denoiser) / "scheduler",
        "vae": Path(recipe.vae),
        "clip": Path(recipe.clip),
        "tokenizer": Path(recipe.tokenizer),
    }
    for part, source in sources.items():
        _check_whole(part, source)
    configs = {part: read_json(sources[part] / "config.json") for part in _NETWORKS}
    scheduler = read_json(sources["scheduler"] / "scheduler_config.json")
    _check_defaults(recipe, configs, scheduler)
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


def _check_whole(part: str, source: Path) -> None:
    """Raises RequestError for a part that has not been trained, or not to its end."""
    if not source.is_dir():
        raise RequestError(f"the part {part!r} is missing: {source} does not exist; run its recipe first")
    for wanted in _FILES.get(part, ("config.json", "*.safetensors")):
        if not any(source.glob(wanted)):
            raise RequestError(f"the part {part!r} is not whole: {source} has no {wanted}; run its recipe first")


def _check_defaults(recipe: AssembleRecipe, configs: Mapping[str, Any], scheduler: dict[str, Any]) -> None:
    """Raises RequestError for defaults that the finished model's reader would refuse."""
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


def _write_json(path: Path, values: dict[str, Any]) -> None:
    path.write_text(json.dumps(values, indent=2, sort_keys=True) + "\n", encoding="utf-8")
