"""Which files in a folder hold a network's weights."""

from __future__ import annotations

import json
from pathlib import Path

from wordbrush.errors import ModelFileError

SAFETENSORS = (".safetensors", ".sft")
"""Endings of .safetensors files; the shorter is ComfyUI's."""

PICKLED = (".ckpt", ".pt", ".pth", ".bin")
"""Endings of files that torch.save wrote."""


def find_weights(folder: Path, stem: str, variant: str | None = None) -> list[Path]:
    """The files that hold a network's weights: `stem.safetensors`, its shards, or else the same as `.bin`.

    Args:
        variant: which of several forms of the same weights, such as "fp16" in `stem.fp16.safetensors`; None is the
            plain form, or the fp16 variant where that is all there is.

    Raises:
        ModelFileError: there are none, or none of that variant.
    """
    for infix in ("", ".fp16") if variant is None else (f".{variant}",):
        form = _form(folder, stem, infix)
        if form is not None:
            return _shards(form) if form.suffix == ".json" else [form]
    others = sorted(path.name for ending in ("bin", "safetensors") for path in folder.glob(f"*.{ending}"))
    found = f"; it holds {', '.join(others)}" if others else "; copy the folder again"
    wanted = stem if variant is None else f"{stem}.{variant}"
    raise ModelFileError(f"there is no {wanted}.safetensors in {folder}{found}")


def has_variant(folder: Path, stem: str, variant: str) -> bool:
    """Whether a network's weights are there in this form."""
    return _form(folder, stem, f".{variant}") is not None


def _form(folder: Path, stem: str, infix: str) -> Path | None:
    """The file of weights, or the index of their shards, of one form; None when there is neither."""
    for name, ending in ((stem, "safetensors"), (_PICKLED_STEMS.get(stem, stem), "bin")):
        # the index of shards puts the variant after `index`
        for path in (folder / f"{name}{infix}.{ending}", folder / f"{name}.{ending}.index{infix}.json"):
            if path.exists():
                return path
    return None


# transformers calls its networks `model` as safetensors and `pytorch_model` as .bin
_PICKLED_STEMS = {"model": "pytorch_model"}


def _shards(index: Path) -> list[Path]:
    try:
        names = sorted(set(json.loads(index.read_text(encoding="utf-8"))["weight_map"].values()))
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise ModelFileError(f"the shard index {index} cannot be read: {error}; get the file again") from error
    for name in names:
        if not isinstance(name, str) or Path(name).name != name:
            raise ModelFileError(f"the shard index {index} names {name!r}, which is not a file beside it")
        if not (index.parent / name).exists():
            raise ModelFileError(f"the shard {name} that {index} names is missing; copy the folder again")
    if not names:
        raise ModelFileError(f"the shard index {index} names no files")
    return [index.parent / name for name in names]
