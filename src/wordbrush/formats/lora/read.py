"""A LoRA file read into layers, whatever tool wrote it."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from torch import Tensor

from wordbrush.errors import ModelFileError
from wordbrush.formats import hashes
from wordbrush.formats.lora.keys import other_adapter, split_key
from wordbrush.formats.lora.layers import AdapterConfig, make_change
from wordbrush.formats.lora.rules import Change
from wordbrush.formats.lora.summary import LoraSummary, summarise
from wordbrush.formats.safetensors_file import read_header, read_tensors
from wordbrush.formats.textual_inversion import TextualInversion, from_tensors
from wordbrush.formats.weight_files import SAFETENSORS

# What diffusers and PEFT call the file in a folder of their own.
_FOLDER_FILES = ("pytorch_lora_weights.safetensors", "adapter_model.safetensors")
_BUNDLED = "bundle_emb."  # before the embeddings that OneTrainer trained along


@dataclass(frozen=True, kw_only=True, eq=False)
class LoraFile:
    """A LoRA of any dialect.

    Attributes:
        path: the file.
        changes: the layers by the names in the file, and what happens to them at strength 1.
        keys: the tensors of every layer, by the names in the file.
        strangers: tensors that belong to no kind of LoRA known here.
        embeddings: textual inversions trained along and kept in the same file, by their words.
        metadata: what the file says of itself: `ss_…` (kohya), `modelspec.…`, `sshs_model_hash` and others.
        summary: what it is.
    """

    path: Path
    changes: Mapping[str, Change]
    keys: Mapping[str, tuple[str, ...]]
    strangers: tuple[str, ...]
    embeddings: Mapping[str, TextualInversion]
    metadata: Mapping[str, str]
    summary: LoraSummary

    @property
    def name(self) -> str:
        """What prompts call it: the file's name without its ending."""
        return self.path.stem

    @property
    def triggers(self) -> frozenset[str]:
        """The lower-case words that it says it was taught."""
        return frozenset(self.metadata.get("modelspec.trigger_phrase", "").lower().split())

    @cached_property
    def hash(self) -> str:
        """The WebUI's hash of a LoRA, 12 hex digits, as `Lora hashes` lists it; the first time, reads the file."""
        return hashes.lora_hash(self.path)


def read_lora(path: Path) -> LoraFile:
    """Reads a LoRA from a .safetensors file, a pickle (never executed), or a folder that diffusers or PEFT wrote.

    Tensors of a .safetensors file are memory-mapped: only their header is read until they are used.

    Raises:
        ModelFileError: the file is missing or damaged, is not a LoRA, or the tensors of a layer do not fit each other.
    """
    path = _file_in(path)
    if path.suffix.lower() in SAFETENSORS:
        metadata, tensors = read_header(path).metadata, read_tensors(path)
    else:
        from wordbrush.formats.pickles import read_pickled_tensors

        metadata, tensors = {}, read_pickled_tensors(path)
    layers: dict[str, dict[str, str]] = {}
    strangers: list[str] = []
    bundled: dict[str, dict[str, Tensor]] = {}
    for key in tensors:
        split = split_key(key)
        if key.startswith(_BUNDLED):
            word, _, name = key.removeprefix(_BUNDLED).partition(".")
            bundled.setdefault(word, {})[name] = tensors[key]
        elif split is None:
            strangers.append(key)
        elif split[1] in layers.setdefault(split[0], {}):
            raise ModelFileError(f"{path} holds {key} a second time as {layers[split[0]][split[1]]}; get another copy")
        else:
            layers[split[0]][split[1]] = key
    if not any(part != "alpha" for parts in layers.values() for part in parts):
        _refuse_others(path, strangers)
    if not layers:
        raise ModelFileError(f"{path} is not a LoRA: {_first(tensors)} is not a name that LoRA files use")
    configs = _adapter_configs(path, metadata)
    return LoraFile(
        path=path,
        changes={layer: _change(path, layer, parts, tensors, configs) for layer, parts in layers.items()},
        keys={layer: tuple(parts.values()) for layer, parts in layers.items()},
        strangers=tuple(strangers),
        embeddings={word: from_tensors(path, word, vectors) for word, vectors in bundled.items()},
        metadata=metadata,
        summary=summarise({key: tuple(tensor.shape) for key, tensor in tensors.items()}, metadata),
    )


def _file_in(path: Path) -> Path:
    if not path.is_dir():
        return path
    for name in _FOLDER_FILES:
        if (path / name).exists():
            return path / name
    raise ModelFileError(f"the folder {path} holds no LoRA: neither {' nor '.join(_FOLDER_FILES)} is in it")


def _refuse_others(path: Path, strangers: Iterable[str]) -> None:
    """Raises `ModelFileError` for an adapter of a kind that is not applied here, though it is also called a LoRA."""
    other = next((kind for key in strangers if (kind := other_adapter(key)) is not None), None)
    if other is not None:
        raise ModelFileError(f"{path} is {other}, which this version does not apply; use a LoRA, LoHa or LoKr")


def _first(tensors: Mapping[str, Tensor]) -> str:
    return next(iter(tensors), "an empty file")


def _change(
    path: Path,
    layer: str,
    parts: Mapping[str, str],
    tensors: Mapping[str, Tensor],
    configs: Mapping[str, AdapterConfig],
) -> Change:
    component, _, rest = layer.partition(".")
    config, name = (configs[component], rest) if component in configs else (configs.get(""), layer)
    name = name.removeprefix("base_model.model.")
    try:
        scale = None if config is None else config.scale(name)
        return make_change({part: tensors[key] for part, key in parts.items()}, scale)
    except ValueError as error:
        raise ModelFileError(f"{path} is damaged: of its layer {layer}, {error}; get the file again") from error


def _adapter_configs(path: Path, metadata: Mapping[str, str]) -> dict[str, AdapterConfig]:
    """PEFT's configs by component: those that diffusers keeps in the metadata, or the one ("") beside PEFT's file."""
    text, source = metadata.get("lora_adapter_metadata"), f"the metadata of {path}"
    beside = path.with_name("adapter_config.json")
    if text is None and path.stem == "adapter_model" and beside.exists():
        source = str(beside)
        try:
            text = beside.read_text(encoding="utf-8")
        except (OSError, UnicodeDecodeError) as error:
            raise ModelFileError(f"{beside} cannot be read: {error}") from error
    if text is None:
        return {}
    try:
        values = json.loads(text)
        tables: dict[str, dict[str, Any]] = {}
        for key, value in values.items():
            component, _, field = key.rpartition(".")
            tables.setdefault(component, {})[field] = value
        return {component: AdapterConfig.from_dict(table) for component, table in tables.items()}
    except (ValueError, AttributeError, RecursionError) as error:
        raise ModelFileError(f"{source} cannot be understood as a PEFT config: {error}; get the file again") from error
