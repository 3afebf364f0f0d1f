"""The weights of one network: read from one file or several, put into a module strictly."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any, TypeVar

import torch
from torch import nn
from torch.overrides import TorchFunctionMode

from wordbrush.errors import ModelFileError, RequestError
from wordbrush.formats.pickles import read_pickled_tensors
from wordbrush.formats.safetensors_file import read_tensors
from wordbrush.formats.weight_files import PICKLED, find_weights
from wordbrush.runtime.policy import Runtime

__all__ = ["FP8", "build", "fill", "find_weights", "listed", "read_weights", "without_weights"]

FP8 = (torch.float8_e4m3fn, torch.float8_e5m2)
"""Number formats that are stored only: networks hold them as bfloat16, which has each of their numbers exactly."""

M = TypeVar("M", bound=nn.Module)


def read_weights(files: Iterable[Path]) -> dict[str, torch.Tensor]:
    """The tensors of all files together, memory-mapped.

    Raises:
        ModelFileError: a file is damaged, or two of them hold the same name.
    """
    tensors: dict[str, torch.Tensor] = {}
    for path in files:
        read = read_pickled_tensors if path.suffix.lower() in PICKLED else read_tensors
        for name, tensor in read(path).items():
            if name in tensors:
                raise ModelFileError(f"{path} holds {name} a second time; the shards do not belong together")
            tensors[name] = tensor
    return tensors


# What networks make their tensors by.
_MAKERS = (
    torch.empty, torch.zeros, torch.ones, torch.full, torch.rand, torch.randn, torch.arange, torch.linspace,
    torch.tensor,
)  # fmt: skip


class _Hollow(TorchFunctionMode):
    """Puts what is made on the meta device, and leaves out `torch.nn.init`: there is nothing to draw for.

    On the meta device drawing loads torch's compiler, which is 1.3 of the 2.7 seconds of processor time that opening a
    model took; `torch.device` as a second mode beside this one would take another 0.02.
    """

    def __torch_function__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        kwargs = kwargs or {}
        if func in _MAKERS:
            return func(*args, **{**kwargs, "device": "meta"})
        if getattr(func, "__module__", None) == "torch.nn.init":
            return args[0] if args else kwargs["tensor"]
        return func(*args, **kwargs)


def without_weights(make: Callable[[], M]) -> M:
    """Makes a network whose tensors have shapes and no content, to be filled by `fill`."""
    with _Hollow():
        return make()


def build(
    make: Callable[[], M], tensors: dict[str, torch.Tensor], source: Path, runtime: Runtime | None = None
) -> M:
    """Makes a network around tensors, as `fill` does, without ever filling it with random numbers first.

    Raises:
        ModelFileError: a tensor is missing, unexpected or of another shape, or holds values that are not numbers.
    """
    network = without_weights(make)
    wanted = network.state_dict()
    for problem, names in (
        ("lacks", [name for name in wanted if name not in tensors]),
        ("holds unexpected", [name for name in tensors if name not in wanted]),
    ):
        if names:
            raise ModelFileError(f"{source} {problem} {listed(names)}; it does not belong to this config.json")
    for name, tensor in tensors.items():
        if tensor.shape != wanted[name].shape:
            raise ModelFileError(
                f"{source}: {name} has shape {list(tensor.shape)}, its config.json asks for {list(wanted[name].shape)}"
            )
    return fill(network, tensors, source, runtime)


def fill(network: M, tensors: dict[str, torch.Tensor], source: Path, runtime: Runtime | None = None) -> M:
    """Gives a network made by `without_weights` its tensors, which must fit it and are taken out of the dict.

    Args:
        runtime: where the network will run. If that is a CPU, each tensor gets its number format as soon as it is
            checked, and its pages of the file are given back before many others are read. None leaves them as stored,
            those in 8 bits as bfloat16.

    Raises:
        ModelFileError: a tensor holds values that are not numbers.
        RequestError: a tensor holds numbers that are too large for the number format.
    """
    own = runtime.suiting(network) if runtime is not None and runtime.device.type == "cpu" else None
    packed = own is not None and own.packs(network)
    placed = {}
    for name in sorted(tensors, key=lambda name: tensors[name].data_ptr()):  # page after page
        tensor = tensors.pop(name)
        tensor = tensor.to(torch.bfloat16) if tensor.dtype in FP8 else tensor
        placed[name] = tensor if own is None else own.placed(tensor, packed=packed)
        if not _is_finite(placed[name]):  # which the tensor then is not either, unless it is too large
            if not _is_finite(tensor):
                raise ModelFileError(
                    f"{source} is damaged: {name} holds values that are not numbers; get the file again from its source"
                )
            kind = str(placed[name].dtype).removeprefix("torch.")
            raise RequestError(f"{source}: {name} holds numbers too large for {kind}; load it with dtype='float32'")
    _assign(network, placed)
    return network


def _assign(network: nn.Module, tensors: dict[str, torch.Tensor]) -> None:
    """What `load_state_dict(assign=True)` does, in a fifth of its time: that is a twentieth of opening a model.

    Networks have parameters alone, no buffers, and who fills them has looked at names and shapes.
    """
    modules = dict(network.named_modules())
    for name, tensor in tensors.items():
        path, _, own = name.rpartition(".")
        module = modules[path]
        setattr(module, own, nn.Parameter(tensor, requires_grad=getattr(module, own).requires_grad))
    if hollow := [name for name, weight in network.named_parameters() if weight.is_meta]:
        raise ValueError(f"the network's {listed(hollow)} got no tensor")


def listed(names: list[str]) -> str:
    """The first three names, and how many more there are."""
    more = f" and {len(names) - 3} more" if len(names) > 3 else ""
    return ", ".join(names[:3]) + more


def _is_finite(tensor: torch.Tensor) -> bool:
    """Whether no element is infinite or not a number. One pass: a tenth of the time of casting the tensor."""
    if tensor.numel() == 0 or not tensor.is_floating_point():
        return True
    if math.isfinite(tensor.sum().item()):  # any such element would show in the sum
        return True
    low, high = torch.aminmax(tensor)  # a large sum alone proves nothing; a NaN anywhere is the result of this
    return math.isfinite(low.item()) and math.isfinite(high.item())
