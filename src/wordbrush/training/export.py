"""Writing trained networks as diffusers-format folders."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor


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
    tensors = {
        key: (value.to(dtype) if value.is_floating_point() else value).contiguous() for key, value in weights.items()
    }
    partial = folder / f".{weights_name}.partial"
    save_file(tensors, partial, metadata={"format": "pt"})
    os.replace(partial, folder / f"{weights_name}.safetensors")
    partial = folder / ".config.partial"
    partial.write_text(json.dumps(config, indent=2) + "\n", encoding="utf-8")
    os.replace(partial, folder / "config.json")
