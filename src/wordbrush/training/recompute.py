"""Gradient checkpointing: blocks forget what they computed, and compute it again on the way back (Chen 2016)."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from functools import partial

from torch import nn
from torch.utils.checkpoint import checkpoint

_LAYERS = 3  # with weights of their own: fewer are not worth a block


def blocks(module: nn.Module) -> list[nn.Module]:
    """The repeated parts of a network: the smallest members of its lists that have several layers."""
    return list(_blocks(module))


def _blocks(module: nn.Module) -> Iterator[nn.Module]:
    for child in module.children():
        inner = list(_blocks(child))
        yield from inner
        listed = isinstance(module, nn.ModuleList | nn.Sequential)
        if listed and not inner and not isinstance(child, nn.ModuleList) and _layers(child) >= _LAYERS:
            yield child


def _layers(module: nn.Module) -> int:
    return sum(any(True for _ in part.parameters(recurse=False)) for part in module.modules())


def recompute_blocks(modules: Mapping[str, nn.Module]) -> int:
    """Makes every block of the networks one that is computed again; says how many there are.

    Dropout draws the same numbers the second time. Weights keep their names.
    """
    found = [block for module in modules.values() for block in blocks(module)]
    for block in found:
        block.forward = partial(checkpoint, block.forward, use_reentrant=False)
    return len(found)
