"""Writing trained networks and models as diffusers-format folders."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from wordbrush.formats.safetensors_file import write_tensors
from wordbrush.metadata import write_whole


def write_network(
    folder: Path,
    config: dict[str, Any],
    weights: dict[str, Tensor],
    *,
    dtype: torch.dtype,
    weights_name: str = "diffusion_pytorch_model",
) -> None:
    """Writes `config.json` and `<weights_name>.safetensors`; each appears whole or not at all."""
    folder.mkdir(parents=True, exist_ok=True)
    tensors = {key: value.to(dtype) if value.is_floating_point() else value for key, value in weights.items()}
    partial = folder / f".{weights_name}.partial"
    write_tensors(partial, tensors)
    os.replace(partial, folder / f"{weights_name}.safetensors")
    write_whole(folder / "config.json", (json.dumps(config, indent=2) + "\n").encode())


def put_in_place(made: Path, target: Path) -> None:
    """Moves the pieces of a finished folder into another, each in place of what has its name there; other files stay.

    The JSON files come last: who finds a new model_index.json finds the parts it names.
    """
    for piece in sorted(made.iterdir(), key=lambda piece: (piece.suffix == ".json", piece.name)):
        old = target / piece.name
        if old.is_dir():
            shutil.rmtree(old)
        os.replace(piece, old)
