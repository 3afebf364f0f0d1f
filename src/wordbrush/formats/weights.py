"""The weights of one network: found in a folder, read from one file or several, put into a module strictly."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any, TypeVar

import torch
from torch import nn
from torch.overrides import TorchFunctionMode

from wordbrush.errors import ModelFileError
from wordbrush.formats.safetensors_file import read_tensors

M = TypeVar("M", bound=nn.Module)


def find_weights(folder: Path, stem: str) -> list[Path]:
    """The files that hold a network's weights: `stem.safetensors`, its shards, or else their fp16 variant.

    Raises:
        ModelFileError: there are none.
    """
    for variant in ("", ".fp16"):
        whole = folder / f"{stem}{variant}.safetensors"
        if whole.exists():
            return [whole]
        # the index of shards puts the variant after `index`
        index = folder / f"{stem}.safetensors.index{variant}.json"
        if index.exists():
            return _shards(index)
    others = sorted(path.name for path in folder.glob("*.bin")) + sorted(
        path.name for path in folder.glob("*.safetensors")
    )
    found = f"; it holds {', '.join(others)}" if others else ""
    raise ModelFileError(f"there is no {stem}.safetensors in {folder}{found}")


def _shards(index: Path) -> list[Path]:
    try:
        names = sorted(set(json.loads(index.read_text(encoding="utf-8"))["weight_map"].values()))
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise ModelFileError(f"the shard index {index} cannot be read: {error}") from error
    for name in names:
        if not isinstance(name, str) or Path(name).name != name:
            raise ModelFileError(f"the shard index {index} names {name!r}, which is not a file beside it")
        if not (index.parent / name).exists():
            raise ModelFileError(f"the shard {name} that {index} names is missing; copy the folder again")
    if not names:
        raise ModelFileError(f"the shard index {index} names no files")
    return [index.parent / name for name in names]


def read_weights(files: Iterable[Path]) -> dict[str, torch.Tensor]:
    """The tensors of all files together. Raises `ModelFileError` when two files hold the same name."""
    tensors: dict[str, torch.Tensor] = {}
    for path in files:
        for name, tensor in read_tensors(path).items():
            if name in tensors:
                raise ModelFileError(f"{path} holds {name} a second time; the shards do not belong together")
            tensors[name] = tensor
    return tensors


class _NoDrawing(TorchFunctionMode):
    """Leaves out `torch.nn.init`: there is nothing to draw for, and on the meta device drawing loads torch's compiler.

    That is 1.3 of the 2.7 seconds of processor time that opening a model took.
    """

    def __torch_function__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        kwargs = kwargs or {}
        if getattr(func, "__module__", None) == "torch.nn.init":
            return args[0] if args else kwargs["tensor"]
        return func(*args, **kwargs)


def build(make: Callable[[], M], tensors: dict[str, torch.Tensor], source: Path) -> M:
    """Makes a network around tensors, without ever filling it with random numbers first.

    Raises:
        ModelFileError: a tensor is missing, unexpected or of another shape.
    """
    with torch.device("meta"), _NoDrawing():
        network = make()
    wanted = network.state_dict()
    for problem, names in (
        ("lacks", [name for name in wanted if name not in tensors]),
        ("holds unexpected", [name for name in tensors if name not in wanted]),
    ):
        if names:
            more = f" and {len(names) - 3} more" if len(names) > 3 else ""
            raise ModelFileError(
                f"{source} {problem} {', '.join(names[:3])}{more}; it does not belong to this config.json"
            )
    for name, tensor in tensors.items():
        if tensor.shape != wanted[name].shape:
            raise ModelFileError(
                f"{source}: {name} has shape {list(tensor.shape)}, its config.json asks for {list(wanted[name].shape)}"
            )
    network.load_state_dict(tensors, strict=True, assign=True)
    return network
