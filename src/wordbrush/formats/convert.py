"""A model written in another form: diffusers folder, single file, other number format."""

from __future__ import annotations

import os
from pathlib import Path

import torch

from wordbrush.errors import RequestError, WorkFailed
from wordbrush.formats.diffusers_folder import write_folder
from wordbrush.formats.open import open_model
from wordbrush.formats.parts import ModelParts
from wordbrush.formats.single_file.write import write_single_file
from wordbrush.formats.weight_files import PICKLED, SAFETENSORS
from wordbrush.runtime.policy import DTYPES


def convert_model(
    source: Path,
    target: Path,
    *,
    dtype: str | None = None,
    tokenizer: str | None = None,
    variant: str | None = None,
    force: bool = False,
) -> int:
    """Writes the model at `source` to `target`, a single file if it ends like one, else a diffusers folder.

    Args:
        dtype: a key of `DTYPES`; None keeps every number's format.
        tokenizer, variant: as in `open_model`.
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
    parts = open_model(source, tokenizer=tokenizer, variant=variant)
    kind = None if dtype is None else DTYPES[dtype]
    if kind is not None:
        _check_range(parts, kind)
    if single:
        write_single_file(parts, target, dtype=kind)
        return target.stat().st_size
    write_folder(parts, target, dtype=kind)
    return sum(path.stat().st_size for path in target.rglob("*") if path.is_file())


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
