"""Joining trained parts into one model folder that Wordbrush and diffusers open."""

from __future__ import annotations

import json
import os
import shutil
import tempfile
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file

from wordbrush.errors import RequestError
from wordbrush.formats.clip_files import PICTURE_CONFIG
from wordbrush.formats.diffusers_folder import model_index
from wordbrush.training.export import put_in_place, write_network
from wordbrush.training.tasks.recipes import AssembleRecipe

_CLASSES = {
    "text_encoder": "CLIPTextModel",
    "tokenizer": "CLIPTokenizer",
    "unet": "UNet2DConditionModel",
    "vae": "AutoencoderKL",
}
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
        if not source.is_dir():
            raise RequestError(f"the part {part!r} is missing: {source} does not exist; run its recipe first")
    target.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=target.parent, prefix=".assemble-") as scratch:
        made = Path(scratch)
        for part in ("unet", "text_encoder", "vae", "clip"):
            weights = next(sources[part].glob("*.safetensors"))
            config = json.loads((sources[part] / "config.json").read_text())
            write_network(
                made / part, config, load_file(weights), dtype=_DTYPES[recipe.dtype], weights_name=weights.stem
            )
        picture = sources["clip"] / PICTURE_CONFIG
        if picture.exists():
            shutil.copyfile(picture, made / "clip" / PICTURE_CONFIG)
        shutil.copytree(sources["scheduler"], made / "scheduler")
        shutil.copytree(sources["tokenizer"], made / "tokenizer")
        os.replace(made / "tokenizer/words.json", made / "words.json")
        scheduler = json.loads((made / "scheduler/scheduler_config.json").read_text())
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


def _write_json(path: Path, values: dict[str, Any]) -> None:
    path.write_text(json.dumps(values, indent=2, sort_keys=True) + "\n", encoding="utf-8")
