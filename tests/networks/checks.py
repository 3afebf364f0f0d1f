"""What every network here must satisfy."""

from collections.abc import Callable
from typing import Any, TypeVar

import torch
from torch import nn
from torch.overrides import TorchFunctionMode

M = TypeVar("M", bound=nn.Module)


def assert_initialise_draws_everything(build: Callable[[], nn.Module]) -> None:
    """Same generator, same weights; no weight keeps its old value; the global generator is not touched."""
    first, second = build(), build()
    with torch.no_grad():
        for parameter in first.parameters():
            parameter.fill_(float("nan"))
    before = torch.get_rng_state()
    first.initialise(torch.Generator().manual_seed(5))
    second.initialise(torch.Generator().manual_seed(5))
    assert torch.equal(torch.get_rng_state(), before)
    for name, value in first.state_dict().items():
        assert torch.isfinite(value).all(), f"{name} was not drawn"
        assert torch.equal(value, second.state_dict()[name]), f"{name} does not follow from the seed"
    second.initialise(torch.Generator().manual_seed(6))
    pairs = [(value, second.state_dict()[name]) for name, value in first.state_dict().items()]
    assert any(not torch.equal(a, b) for a, b in pairs)


def shake(network: nn.Module, seed: int = 0, std: float = 0.05) -> None:
    """Adds noise to every parameter, so that no branch is closed by a zero."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.add_(torch.randn(parameter.shape, generator=generator), alpha=std)


def count_parameters(network: nn.Module) -> int:
    return sum(parameter.numel() for parameter in network.parameters())


class _WithoutDrawing(TorchFunctionMode):
    """Leaves out `torch.nn.init`, which on the meta device loads torch's compiler and does nothing else."""

    def __torch_function__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        kwargs = kwargs or {}
        if getattr(func, "__module__", None) == "torch.nn.init":
            return args[0] if args else kwargs["tensor"]
        return func(*args, **kwargs)


def without_memory(make: Callable[[], M]) -> M:
    """A network of any size whose weights have shapes and no numbers."""
    with torch.device("meta"), _WithoutDrawing():
        return make()
