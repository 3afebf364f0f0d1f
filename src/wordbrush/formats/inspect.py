"""What a model folder is, told from its configs and headers; no weights are read."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from wordbrush.errors import ModelFileError
from wordbrush.formats.diffusers_folder import NETWORKS, read_json
from wordbrush.formats.safetensors_file import read_header
from wordbrush.formats.weights import find_weights


def inspect_folder(folder: Path) -> dict[str, Any]:
    """Kind, parts with their parameters and number formats, prediction type and native size, as JSON-ready values.

    Raises:
        ModelFileError: it is not a diffusers folder, or a file of it is damaged.
    """
    if not folder.is_dir():
        raise ModelFileError(f"there is no model folder at {folder}")
    index = read_json(folder / "model_index.json")
    parts = {part: _part(folder / part, stem) for part, (_, stem) in NETWORKS.items() if (folder / part).is_dir()}
    scheduler = read_json(folder / "scheduler" / "scheduler_config.json")
    unet = read_json(folder / "unet" / "config.json")
    vae = read_json(folder / "vae" / "config.json")
    factor = 2 ** (len(vae.get("block_out_channels", [0])) - 1)
    return {
        "path": str(folder),
        "format": "diffusers folder",
        "pipeline": index.get("_class_name"),
        "parameters": sum(part["parameters"] for part in parts.values()),
        "bytes": sum(part["bytes"] for part in parts.values()),
        "prediction_type": scheduler.get("prediction_type", "epsilon"),
        "scheduler": scheduler.get("_class_name"),
        "native_size": (unet.get("sample_size") or 64) * factor,
        "latent_channels": vae.get("latent_channels"),
        "parts": parts,
    }


def _part(folder: Path, stem: str) -> dict[str, Any]:
    tensors = [tensor for path in find_weights(folder, stem) for tensor in read_header(path).tensors.values()]
    return {
        "parameters": sum(tensor.parameters for tensor in tensors),
        "bytes": sum(tensor.bytes for tensor in tensors),
        "dtypes": ", ".join(sorted({tensor.dtype for tensor in tensors})),
        "files": ", ".join(path.name for path in find_weights(folder, stem)),
    }
