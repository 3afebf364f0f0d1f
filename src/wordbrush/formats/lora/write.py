"""Trained LoRAs written as files: in kohya's layout, which the web UIs read, and in PEFT's, which is diffusers' own.

Both mean the same change of every weight. A rank-stabilised LoRA (alpha / √r) is flagged in PEFT's config; kohya's
layout has no flag, so its alpha is √r times as large there.

diffusers opens both, but of a DoRA in kohya's layout it leaves the magnitudes out, with a warning: give it PEFT's.
"""

from __future__ import annotations

import json
import os
from collections import Counter
from collections.abc import Iterable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from wordbrush.errors import RequestError, WorkFailed
from wordbrush.formats.lora.keys import TEXT_ENCODERS
from wordbrush.formats.lora.kohya_layers import kohya_layers
from wordbrush.formats.lora.notes import TrainingNotes, base_of, hashes_of, kohya_metadata, modelspec
from wordbrush.formats.lora.trained import TrainedLayer, TrainedLora
from wordbrush.formats.safetensors_file import write_tensors
from wordbrush.networks.flux import FluxTransformer

PEFT_FILE = "pytorch_lora_weights.safetensors"
"""What diffusers calls the file in a folder."""

# PEFT saves magnitudes without this ending and reads them with or without it. transformers 5, which loads those of text
# encoders itself, leaves out what has not got it, and says so in a table that is easily missed.
_ENDING = ".weight"


def write_kohya(
    path: Path,
    trained: TrainedLora,
    networks: Mapping[str, nn.Module],
    notes: TrainingNotes | None = None,
    *,
    dtype: torch.dtype = torch.float32,
) -> Path:
    """Writes a LoRA in kohya's layout; the file appears whole or not at all. Returns its path.

    Args:
        path: of the file, ending in `.safetensors`.
        trained: what was learnt.
        networks: the networks it was learnt on, by their names in a pipeline; their weights are the originals.
        notes: what the metadata says of the training; none given, the file's name.
        dtype: of the factors; alphas are float32.

    Raises:
        RequestError: the path has another ending, or nothing was trained.
        WorkFailed: a value is not a number, or the file cannot be written.
    """
    notes = notes or TrainingNotes(name=path.stem)
    base = notes.base or base_of(networks)
    _check(path, trained)
    tensors: dict[str, Tensor] = {}
    for name, layer in kohya_layers(trained, networks, base):
        tensors[f"{name}.lora_down.weight"] = _stored(layer.down, dtype)
        tensors[f"{name}.lora_up.weight"] = _stored(layer.up, dtype)
        tensors[f"{name}.alpha"] = torch.tensor(layer.alpha, dtype=torch.float32)
        if layer.magnitude is not None:  # a column, as LyCORIS and ComfyUI have it
            tensors[f"{name}.dora_scale"] = _stored(layer.magnitude.reshape(-1, *(1,) * (layer.up.ndim - 1)), dtype)
    metadata = kohya_metadata(notes, base) | _network_metadata(trained, networks) | modelspec(notes, base, "lora")
    return save(path, tensors, metadata | hashes_of(tensors, metadata))


def write_peft(
    path: Path,
    trained: TrainedLora,
    notes: TrainingNotes | None = None,
    *,
    base: str | None = None,
    dtype: torch.dtype = torch.float32,
) -> Path:
    """Writes a LoRA in PEFT's layout, as diffusers does; the file appears whole or not at all. Returns its path.

    Args:
        path: of the file, ending in `.safetensors`, or of a folder for `pytorch_lora_weights.safetensors`.
        trained: what was learnt.
        notes: what the metadata says of the training, beside PEFT's config.
        base: family of the model, a key of `summary.BASES`, where the notes do not tell.
        dtype: of the factors.

    Raises:
        RequestError: nothing was trained.
        WorkFailed: a value is not a number, or the file cannot be written.
    """
    path = path if path.suffix else path / PEFT_FILE
    _check(path, trained)
    tensors: dict[str, Tensor] = {}
    config: dict[str, Any] = {}
    for network, layers in trained.items():
        for name, layer in layers.items():
            tensors[f"{network}.{name}.lora_A.weight"] = _stored(layer.down, dtype)
            tensors[f"{network}.{name}.lora_B.weight"] = _stored(layer.up, dtype)
            if layer.magnitude is not None:
                shape = (1, -1, *(1,) * (layer.up.ndim - 2)) if layer.up.ndim > 2 else (-1,)
                key = f"{network}.{name}.lora_magnitude_vector{_ENDING if network in TEXT_ENCODERS else ''}"
                tensors[key] = _stored(layer.magnitude.reshape(shape), dtype)
        config |= {f"{network}.{key}": value for key, value in _peft_config(layers).items()}
    metadata = {"lora_adapter_metadata": json.dumps(config, indent=2, sort_keys=True)}
    if notes is not None:
        metadata |= modelspec(notes, notes.base or base, "lora")
    return save(path, tensors, metadata)


def save(path: Path, tensors: Mapping[str, Tensor], metadata: Mapping[str, str]) -> Path:
    """Writes tensors that were trained; the file appears whole or not at all.

    Raises:
        WorkFailed: a value is not a number, or the file cannot be written.
    """
    for name, tensor in tensors.items():
        if not tensor.isfinite().all():
            raise WorkFailed(f"{path.name} was not written: its {name} holds values that are not numbers")
    partial = path.with_name(f".{path.name}.{os.getpid()}.part")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        write_tensors(partial, tensors, metadata)
        with partial.open("r+b") as file:
            os.fsync(file.fileno())
        os.replace(partial, path)
    except OSError as error:
        raise WorkFailed(f"cannot write {str(path)!r}: {error.strerror or error}") from error
    finally:
        with suppress(OSError):
            partial.unlink()
    return path


def _stored(tensor: Tensor, dtype: torch.dtype) -> Tensor:
    return tensor.detach().to("cpu", dtype).contiguous()


def _check(path: Path, trained: TrainedLora) -> None:
    if path.suffix != ".safetensors":
        raise RequestError(f"a LoRA is written as a .safetensors file, not as {path.name!r}")
    if not any(trained.values()):
        raise RequestError("no layer was trained, so there is no LoRA to write")


def _most(values: Iterable[Any]) -> Any:
    """The most frequent value, the first of several."""
    return Counter(values).most_common(1)[0][0]


def _peft_config(layers: Mapping[str, TrainedLayer]) -> dict[str, Any]:
    """PEFT's LoraConfig of one network: the commonest rank and alpha, and the exceptions by the layers' names."""
    # transformers 5 has no `text_model.` in a text encoder's names, and PEFT takes the end of a name for all of it
    names = {name.removeprefix("text_model."): layer for name, layer in layers.items()}
    rank, alpha = _most(layer.rank for layer in names.values()), _most(layer.alpha for layer in names.values())
    return {
        "peft_type": "LORA",
        "r": rank,
        "lora_alpha": _whole(alpha),
        "rank_pattern": {name: layer.rank for name, layer in names.items() if layer.rank != rank},
        "alpha_pattern": {name: _whole(layer.alpha) for name, layer in names.items() if layer.alpha != alpha},
        "use_rslora": any(layer.rooted for layer in names.values()),
        "use_dora": any(layer.magnitude is not None for layer in names.values()),
        "target_modules": sorted(names),
        "lora_dropout": 0.0,
        "bias": "none",
    }


def _network_metadata(trained: TrainedLora, networks: Mapping[str, nn.Module]) -> dict[str, str]:
    """kohya's entries on the adapter's shape: `ss_network_module` names what trains such a file on."""
    layers = [layer for learnt in trained.values() for layer in learnt.values()]
    plain = [layer for layer in layers if layer.down[0].numel() == layer.down.shape[1]]
    wide = [layer for layer in layers if layer.down[0].numel() != layer.down.shape[1]]
    first = plain or wide
    arguments: dict[str, object] = {}
    if wide:
        arguments |= {"conv_dim": _most(layer.rank for layer in wide), "conv_alpha": _most(map(_alpha, wide))}
    module = "networks.lora"
    if any(layer.magnitude is not None for layer in layers):
        module = "lycoris.kohya"
        arguments |= {"algo": "lora", "dora_wd": True, "wd_on_output": True}
    elif any(isinstance(networks[name], FluxTransformer) for name in trained):
        module = "networks.lora_flux"
    return {
        "ss_network_module": module,
        "ss_network_dim": str(_most(layer.rank for layer in first)),
        "ss_network_alpha": str(_most(map(_alpha, first))),
        "ss_network_args": json.dumps({name: str(value) for name, value in arguments.items()}),
    }


def _alpha(layer: TrainedLayer) -> float:
    """Alpha as kohya's layout has it."""
    return _whole(layer.scale * layer.rank)


def _whole(value: float) -> float:
    return int(value) if value == int(value) else value
