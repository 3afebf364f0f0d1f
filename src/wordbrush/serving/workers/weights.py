"""How many bytes of numbers hang on something: the weights of a model with every copy that was made to run it fast."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from types import FunctionType, MethodType, ModuleType
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

# Objects of these packages are looked into; others, such as tokenizers' own, hold no weights.
_OURS = ("wordbrush", "torch.nn", "functools")


def weigh(*roots: object) -> int:
    """The bytes of all tensors and arrays that can be reached; memory that several share counts once.

    What oneDNN has packed counts by its numbers: how it lies in memory is not told.
    """
    found: dict[tuple[str, int], int] = {}
    seen: set[int] = set()
    rest: list[Any] = list(roots)
    while rest:
        one = rest.pop()
        if id(one) in seen:
            continue
        seen.add(id(one))
        if isinstance(one, Tensor):
            found.setdefault(*_weight(one))
        elif isinstance(one, np.ndarray):
            found.setdefault(("array", id(one)), one.nbytes)
        else:
            rest.extend(_parts(one))
    return sum(found.values())


def _weight(tensor: Tensor) -> tuple[tuple[str, int], int]:
    """What tells its memory from other memory, and its bytes."""
    if tensor.layout == torch.strided:
        storage = tensor.untyped_storage()
        return (str(tensor.device), storage.data_ptr()), storage.nbytes()
    return ("packed", id(tensor)), tensor.numel() * tensor.element_size()


def _parts(one: Any) -> list[Any]:
    if isinstance(one, str | bytes | int | float | type | ModuleType | None):
        return []
    if isinstance(one, Mapping) and type(one).__module__ in ("builtins", "collections", "torch.nn.modules.container"):
        return list(one.values())
    if isinstance(one, list | tuple | set | frozenset):
        return list(one)
    if isinstance(one, partial):
        return [one.func, *one.args, *one.keywords.values()]
    if isinstance(one, MethodType):
        return [one.__self__]
    if isinstance(one, FunctionType):
        return [cell.cell_contents for cell in one.__closure__ or () if _filled(cell)]
    if isinstance(one, nn.Module) or type(one).__module__.startswith(_OURS):
        slots = [getattr(one, name, None) for kind in type(one).__mro__ for name in _slots(kind)]
        return [*getattr(one, "__dict__", {}).values(), *slots]
    return []


def _slots(kind: type) -> tuple[str, ...]:
    named = kind.__dict__.get("__slots__", ())
    return (named,) if isinstance(named, str) else tuple(named)


def _filled(cell: Any) -> bool:
    try:
        return cell.cell_contents is not None
    except ValueError:  # not yet
        return False
