"""A model written in another form: diffusers folder, single file, other number format."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import torch

from wordbrush.errors import RequestError, WorkFailed
from wordbrush.formats.diffusers_folder import write_folder
from wordbrush.formats.open import open_model
from wordbrush.formats.parts import ModelParts
from wordbrush.formats.single_file.read import holds_scales
from wordbrush.formats.single_file.write import dialects, write_single_file
from wordbrush.formats.weight_files import PICKLED, SAFETENSORS
from wordbrush.runtime.policy import DTYPES


@dataclass(frozen=True, kw_only=True)
class Opening:
    """How the model to be converted is opened: each field as in `open_model`."""

    variant: str | None = None
    vae: str | Path | None = None
    text_encoders: Sequence[str | Path] = ()
    tokenizer: str | Path | None = None
    prediction: str | None = None


def convert_model(
    source: Path, target: Path, *, dtype: str | None = None, opening: Opening | None = None, force: bool = False
) -> int:
    """Writes the model at `source` to `target`, a single file if it ends like one, else a diffusers folder.

    Args:
        dtype: a key of `DTYPES`; None keeps every number's format.
        opening: what the source lacks, or what takes the place of what it has; it goes into the target.
        force: whether something at `target` is replaced.

    Returns:
        How many bytes were written.

    Raises:
        RequestError: `target` is there already, or is not a form that is written.
        ModelFileError: the source cannot be opened.
        WorkFailed: the target cannot be written, or the weights do not fit the number format.
    """
    if target.suffix.lower() in PICKLED:
        raise RequestError(f"{target}: pickles are only read; give a name that ends in .safetensors, or a folder")
    there = os.path.exists(target)
    if there and not force:
        raise RequestError(f"{target} is there already; --force replaces it")
    if there and target.resolve() == source.resolve():
        raise RequestError(f"{target} is the model itself; give another name")
    if os.path.isfile(target / "model_index.json") and target.resolve() in source.resolve().parents:
        raise RequestError(f"{source} lies in {target} and would be replaced with it; give another name")
    single = target.suffix.lower() in SAFETENSORS
    if single and os.path.isdir(target):
        raise RequestError(f"{target} is a folder; give the name of a file")
    parts = open_model(source, **asdict(opening or Opening()))
    if dtype is None and source.is_file():
        _check_scales(source, dialects(parts.family) if single else {})
    kind = None if dtype is None else DTYPES[dtype]
    if kind is not None:
        _check_range(parts, kind)
    if single:
        write_single_file(parts, target, dtype=kind)
        return target.stat().st_size
    write_folder(parts, target, dtype=kind)
    return sum(path.stat().st_size for path in target.rglob("*") if path.is_file())


def _check_scales(source: Path, written: Mapping[str, str]) -> None:
    """Raises `RequestError` if 8-bit weights have scales for which there is no place in what is written."""
    if holds_scales(source, other_than=written):
        file = "" if written else "a .safetensors file as the target, which keeps them, or "
        raise RequestError(
            f"{source} holds 8-bit weights with scales, which would be lost as they are; give {file}--dtype bfloat16"
        )


def _check_range(parts: ModelParts, dtype: torch.dtype) -> None:
    """Raises `WorkFailed` if a weight is too large for the number format."""
    largest = torch.finfo(dtype).max
    for part, network in parts.networks.items():
        for name, tensor in network.state_dict().items():
            if torch.finfo(tensor.dtype).max > largest and tensor.abs().max() > largest:
                raise WorkFailed(
                    f"{part}.{name} of {parts.name} holds numbers up to {tensor.abs().max().item():.3g}, and "
                    f"{str(dtype).removeprefix('torch.')} ends at {largest:.3g}; bfloat16 has room for them"
                )
