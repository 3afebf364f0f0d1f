"""Models larger than a GPU's memory: their weights wait on the CPU and go to the GPU when they are used.

none    all weights are on the GPU
model   whole networks take turns, if they do not fit together: text encoders, the network that denoises, the VAE
layer   blocks take turns: as many as fit stay from step to step, the others are copied at every step

A network's weights are never changed on the GPU, so that nothing is ever copied back.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from wordbrush.errors import RequestError
from wordbrush.runtime.policy import Runtime

CHOICES = ("auto", "none", "model", "layer")

# What painting needs beside the weights: about two gigabytes for a picture of a million pixels in 16 bits.
WORKING_BYTES = 2 << 30

# A block of more bytes than this takes its turns in parts.
BLOCK_BYTES = 256 << 20

# Networks whose layers are also used one by one, without calling the network or its blocks, and which are small.
_UNDIVIDED = ("vae",)


@dataclass(frozen=True, kw_only=True)
class Plan:
    """Which weights are on the GPU, and when.

    Attributes:
        kind: "none", "model" or "layer".
        budget: how many bytes of weights may be there at one time; None is all.
        note: the choice and its reason, in a sentence; None where there is nothing to choose.
    """

    kind: str
    budget: int | None
    note: str | None


def free_memory(device: torch.device) -> int | None:
    """Bytes that a GPU has free; None where that is no limit of its own, or not known."""
    return torch.cuda.mem_get_info(device)[0] if device.type == "cuda" else None


def plan_offload(networks: Mapping[str, int], largest_block: int, free: int | None, wanted: str = "auto") -> Plan:
    """Chooses, or does as it is told.

    Args:
        networks: bytes of the weights of each, in the number format they run in.
        largest_block: bytes of the largest part that takes turns as one when blocks do.
        free: what `free_memory` says.
        wanted: one of `CHOICES`.

    Raises:
        RequestError: `wanted` is unknown, has no meaning here, or is more than the GPU has room for.
    """
    if wanted not in CHOICES:
        raise RequestError(f"offload={wanted!r} is unknown; there are {', '.join(map(repr, CHOICES))}")
    total, largest = sum(networks.values()), max(networks.values())
    if free is None:
        if wanted in ("model", "layer"):
            raise RequestError(f"offload={wanted!r} has a meaning only for device='cuda', where memory is short")
        return Plan(kind="none", budget=None, note=None)
    budget = max(free - WORKING_BYTES, 0)
    has = f"the GPU has {_gigabytes(free)} free, {_gigabytes(WORKING_BYTES)} of it for painting"
    kind = wanted
    if wanted == "auto":
        kind = "none" if total <= budget else "model" if largest <= budget else "layer"
    needed = {"none": total, "model": largest, "layer": largest_block}[kind]
    if needed > budget and wanted != "none":  # who insists may try
        smaller = "use offload='layer'" if kind == "model" else "use device='cpu'"
        raise RequestError(f"{has}, and offload={kind!r} needs {_gigabytes(needed)} for weights; {smaller}")
    if kind == "none":
        return Plan(kind=kind, budget=None, note=f"all {_gigabytes(total)} of weights stay on the GPU: {has}")
    what = "whole networks" if kind == "model" else "blocks"
    note = f"{what} take turns on the GPU, {_gigabytes(total)} of weights in all: {has}"
    return Plan(kind=kind, budget=budget, note=note)


class Offload:
    """Brings weights to a device when a module that has them is called, and takes others away for them.

    Where there is no room, what was used last goes first: at the next step it will be the last again, while what was
    used first will be needed soon.

    Args:
        networks: on the CPU, in the number format they run in. They get hooks, and their tensors change places.
        device: where they run.
        budget: bytes of weights on the device at one time; a single block may be more.
        divided: whether blocks take turns, or whole networks.

    Attributes:
        moved: how many bytes have been brought to the device.
    """

    def __init__(self, networks: Mapping[str, nn.Module], device: torch.device, budget: int, *, divided: bool) -> None:
        self.device, self.budget, self.moved = device, budget, 0
        self._there: list[_Block] = []  # in the order of their last use
        for name, network in networks.items():
            network.register_forward_pre_hook(self._bring_inputs, with_kwargs=True)
            for modules in groups(name, network, divided=divided):
                block = _Block(modules)
                for module in modules:
                    module.register_forward_pre_hook(self._hook(block), with_kwargs=True)

    @classmethod
    def of(cls, networks: Mapping[str, nn.Module], runtime: Runtime, plan: Plan) -> Offload | None:
        """As planned, for networks that are on the CPU if the plan has a budget; None if everything stays."""
        if plan.budget is None:
            return None
        return cls(networks, runtime.device, plan.budget, divided=plan.kind == "layer")

    @property
    def held(self) -> int:
        """Bytes of weights on the device."""
        return sum(block.bytes for block in self._there)

    def clear(self) -> None:
        """Takes all weights away from the device, so that they may be changed."""
        for block in self._there:
            block.leave()
        self._there = []

    def _hook(self, block: _Block) -> Any:
        def bring(module: nn.Module, values: tuple[Any, ...], named: dict[str, Any]) -> tuple[Any, Any]:
            self._bring(block)
            return self._bring_inputs(module, values, named)

        return bring

    def _bring_inputs(self, _module: nn.Module, values: tuple[Any, ...], named: dict[str, Any]) -> tuple[Any, Any]:
        """Who made the inputs may have looked where the weights were."""

        def here(value: Any) -> Any:
            return value.to(self.device) if isinstance(value, Tensor) else value

        return tuple(map(here, values)), {name: here(value) for name, value in named.items()}

    def _bring(self, block: _Block) -> None:
        if self._there and self._there[-1] is block:
            return
        if block in self._there:
            self._there.remove(block)
        else:
            while self._there and self.held + block.bytes > self.budget:
                self._there.pop().leave()
            block.come(self.device)
            self.moved += block.bytes
        self._there.append(block)


class _Block:
    """Modules whose tensors change places together."""

    def __init__(self, modules: list[nn.Module]) -> None:
        self._modules = modules
        self._waiting: list[tuple[Tensor, Tensor]] = []  # a parameter or buffer, and its content on the CPU
        self.bytes = sum(tensor.nbytes for tensor in self._tensors())

    def come(self, device: torch.device) -> None:
        """Copies the tensors' content there."""
        for tensor in self._tensors():
            self._waiting.append((tensor, tensor.data))
            tensor.data = tensor.data.to(device, copy=True)

    def leave(self) -> None:
        """Makes them what they were."""
        for tensor, content in self._waiting:
            tensor.data = content
        self._waiting = []

    def _tensors(self) -> Iterator[Tensor]:
        for module in self._modules:
            yield from own_tensors(module)


def own_tensors(module: nn.Module) -> Iterator[Tensor]:
    """Those of a module that are not of its submodules."""
    yield from module.parameters(recurse=False)
    yield from module.buffers(recurse=False)


def groups(name: str, network: nn.Module, *, divided: bool) -> Iterator[list[nn.Module]]:
    """The modules of a network that take turns together; every module that has weights is in one of the groups.

    A module whose submodules have none themselves is not divided: it may use their weights without calling them.
    """
    children = list(network.children())
    size = sum(tensor.nbytes for tensor in (*network.parameters(), *network.buffers()))
    leaves = not any(list(child.children()) for child in children)
    if not divided or name in _UNDIVIDED or size <= BLOCK_BYTES or leaves:
        yield list(network.modules())
        return
    assert not list(own_tensors(network)), f"{type(network).__name__} has weights beside those of its blocks"
    for child in children:
        yield from groups(name, child, divided=divided)


def plan_for(networks: Mapping[str, nn.Module], runtime: Runtime, wanted: str) -> Plan:
    """`plan_offload` for these networks on the runtime's device, by what that has free now."""
    free = free_memory(runtime.device)
    if free is None:  # then no size decides anything
        return plan_offload(dict.fromkeys(networks, 0), 0, None, wanted)
    sizes, largest = {}, 0
    for name, network in networks.items():
        itemsize = runtime.suiting(network).dtype.itemsize
        sizes[name] = itemsize * sum(parameter.numel() for parameter in network.parameters())
        for modules in groups(name, network, divided=True):
            numbers = sum(tensor.numel() for module in modules for tensor in own_tensors(module))
            largest = max(largest, itemsize * numbers)
    return plan_offload(sizes, largest, free, wanted)


def _gigabytes(size: int) -> str:
    return f"{size / 1e9:.1f} GB"
