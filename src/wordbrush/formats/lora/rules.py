"""How the tensors of a LoRA become a change of one weight: the formulas, whatever the file called the tensors.

    LowRank      ΔW = up · down                  LoRA (Hu 2021, §4.1); `mid` between them for convolutions (LoCon, CP)
    Hadamard     ΔW = (a1 · b1) ∘ (a2 · b2)      LoHa (Hyeon-Woo 2022, FedPara, §2.2), its cores `t` for convolutions
    Kronecker    ΔW = w1 ⊗ w2                    LoKr (Yeh 2024, LyCORIS), each side whole or factored
    Difference   ΔW itself                       full weights, biases and norms
    Replacement  ΔW = V − W                      weights to be set to V (the norms of FLUX control LoRAs)

Each is then multiplied by alpha / rank and by the strength of its use. DoRA (Liu 2024, §4.1) sets the length of every
row or column of W + ΔW to a learnt magnitude.

A weight is (out, in) or (out, in, kh, kw). A change may hold a 1×1 convolution for a linear layer and the other way
round. Everything is computed in float32 at least.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, fields, is_dataclass
from math import prod
from typing import Protocol

import torch
import torch.nn.functional as F
from torch import Tensor


class Rule(Protocol):
    """What makes ΔW from factors."""

    @property
    def rows(self) -> int:
        """Of ΔW seen as a matrix (out, in · kh · kw)."""

    @property
    def columns(self) -> int:
        """Of ΔW seen as a matrix (out, in · kh · kw)."""

    @property
    def rank(self) -> int | None:
        """What alpha is divided by; None for a rule that ignores alpha."""

    def matrix(self, like: Tensor) -> Tensor:
        """Returns ΔW as (rows, columns), on the device and in the precision of `like`."""


@dataclass(frozen=True, eq=False)
class LowRank:
    """down: (r, in) or (r, in, kh, kw); up: (out, r) or (out, r, 1, 1); mid: (r, r, kh, kw), down and up then 1×1."""

    down: Tensor
    up: Tensor
    mid: Tensor | None = None

    def __post_init__(self) -> None:
        ranks = {self.up[0].numel(), self.down.shape[0]}
        if self.mid is not None:
            ranks |= set(self.mid.shape[:2])
        _same_rank(ranks)
        if self.mid is not None and self.down[0].numel() != self.down.shape[1]:
            raise ValueError(f"its mid {list(self.mid.shape)} needs a 1×1 down, not {list(self.down.shape)}")

    @property
    def rows(self) -> int:
        return self.up.shape[0]

    @property
    def columns(self) -> int:
        kernel = 1 if self.mid is None else prod(self.mid.shape[2:])
        return self.down[0].numel() * kernel

    @property
    def rank(self) -> int:
        return self.down.shape[0]

    def matrix(self, like: Tensor) -> Tensor:
        up, down = self.up.to(like).flatten(1), self.down.to(like).flatten(1)
        if self.mid is None:
            return up @ down
        return _through(self.mid.to(like), up, down.mT)


@dataclass(frozen=True, eq=False)
class Hadamard:
    """a: (out, r) and b: (r, in · kh · kw), two of each; with cores t: (r, r, kh, kw), a is (r, out) and b (r, in)."""

    a: tuple[Tensor, Tensor]
    b: tuple[Tensor, Tensor]
    t: tuple[Tensor, Tensor] | None = None

    def __post_init__(self) -> None:
        for half, (a, b) in enumerate(zip(self.a, self.b, strict=True)):
            _check_factors(a, b, None if self.t is None else self.t[half])
        if len({self._size(i) for i in range(2)}) == 2:
            raise ValueError(f"its halves are of sizes {self._size(0)} and {self._size(1)}")

    def _size(self, half: int) -> tuple[int, int]:
        a, b = self.a[half], self.b[half]
        if self.t is None:
            return a.shape[0], b[0].numel()
        return a.shape[1], b.shape[1] * prod(self.t[half].shape[2:])

    @property
    def rows(self) -> int:
        return self._size(0)[0]

    @property
    def columns(self) -> int:
        return self._size(0)[1]

    @property
    def rank(self) -> int:
        return self.b[0].shape[0]

    def matrix(self, like: Tensor) -> Tensor:
        return self._half(0, like) * self._half(1, like)

    def _half(self, half: int, like: Tensor) -> Tensor:
        a, b = self.a[half].to(like), self.b[half].to(like)
        if self.t is None:
            return a.flatten(1) @ b.flatten(1)
        return _through(self.t[half].to(like), a.mT, b.mT)


@dataclass(frozen=True, eq=False)
class Product:
    """One side of a Kronecker product: a: (m, r) and b: (r, n) or (r, n, kh, kw); with a core t: (r, r, kh, kw), a is
    (r, m) and b (r, n)."""

    a: Tensor
    b: Tensor
    t: Tensor | None = None

    def __post_init__(self) -> None:
        _check_factors(self.a, self.b, self.t)

    @property
    def shape(self) -> tuple[int, ...]:
        if self.t is None:
            return (self.a.shape[0], *self.b.shape[1:])
        return (self.a.shape[1], self.b.shape[1], *self.t.shape[2:])

    def to(self, like: Tensor) -> Tensor:
        a, b = self.a.to(like), self.b.to(like)
        flat = a.flatten(1) @ b.flatten(1) if self.t is None else _through(self.t.to(like), a.mT, b.mT)
        return flat.reshape(self.shape)


@dataclass(frozen=True, eq=False)
class Kronecker:
    """w1: (a, b); w2: (c, d) or (c, d, kh, kw); ΔW is (a · c, b · d[, kh, kw])."""

    w1: Tensor | Product
    w2: Tensor | Product

    def __post_init__(self) -> None:
        if len(self.w1.shape) != 2:
            raise ValueError(f"its w1 {list(self.w1.shape)} is not a matrix")

    @property
    def rows(self) -> int:
        return self.w1.shape[0] * self.w2.shape[0]

    @property
    def columns(self) -> int:
        return self.w1.shape[1] * prod(self.w2.shape[1:])

    @property
    def rank(self) -> int | None:
        factored = next((side for side in (self.w2, self.w1) if isinstance(side, Product)), None)
        return None if factored is None else factored.b.shape[0]  # whole on both sides, LyCORIS does not scale it

    def matrix(self, like: Tensor) -> Tensor:
        w1, w2 = self.w1.to(like), self.w2.to(like)
        w1 = w1.reshape(*w1.shape, *(1 for _ in w2.shape[2:]))
        return torch.kron(w1, w2.contiguous()).flatten(1)


@dataclass(frozen=True, eq=False)
class Difference:
    """diff: of the weight's own shape."""

    rank = None
    diff: Tensor

    @property
    def rows(self) -> int:
        return self.diff.shape[0]

    @property
    def columns(self) -> int:
        return self.diff[0].numel()

    def matrix(self, like: Tensor) -> Tensor:
        return self.diff.to(like).reshape(self.rows, self.columns)


@dataclass(frozen=True, eq=False)
class Replacement:
    """value: of the weight's own shape; what it becomes at strength 1, and at others is that part of the way to."""

    rank = None
    value: Tensor

    @property
    def rows(self) -> int:
        return self.value.shape[0]

    @property
    def columns(self) -> int:
        return self.value[0].numel()

    def matrix(self, like: Tensor) -> Tensor:
        """The value itself; `Change.delta`, which knows W, takes W from it."""
        return self.value.to(like).reshape(self.rows, self.columns)


@dataclass(frozen=True, kw_only=True, eq=False)
class Change:
    """What a LoRA does to one layer at strength 1.

    Attributes:
        rule: of the weight; None when only the bias changes.
        scale: what the rule's ΔW is multiplied by.
        magnitude: DoRA's lengths, (out, 1, …) for rows or (1, in, 1, …) for columns; None without DoRA.
        bias: ΔB, (out,), scale and all; None when the bias stays.
    """

    rule: Rule | None
    scale: float = 1.0
    magnitude: Tensor | None = None
    bias: Tensor | None = None

    def misfit(self, shape: Sequence[int], *, pads: bool) -> str | None:
        """Why this cannot change a weight of that shape; None when it can. `pads` is as in `delta`."""
        if self.rule is None:
            return None
        rows, columns = self.rule.rows, self.rule.columns
        missing = prod(shape[1:]) - columns
        if rows != shape[0] or missing < 0 or (missing and not (pads and missing % prod(shape[2:]) == 0)):
            return f"it makes {rows} × {columns} numbers, the layer has {shape[0]} × {prod(shape[1:])}"
        known = (*shape[:1], columns // prod(shape[2:]), *shape[2:]) if len(shape) > 1 else shape
        if self.magnitude is not None and _magnitude_axis(self.magnitude, known) is None:
            return f"its {self.magnitude.numel()} magnitudes fit neither side of {rows} × {columns} numbers"
        return None

    def delta(self, weight: Tensor, *, pads: bool = False) -> Tensor:
        """Returns ΔW in the shape of `weight` (as it is without any LoRA), on its device, in float32 at least.

        Args:
            weight: W; its values matter to DoRA only.
            pads: whether further input channels, which the LoRA does not know, are left alone.

        Raises:
            ValueError: the rule makes another shape.
        """
        if self.rule is None or (problem := self.misfit(weight.shape, pads=pads)):
            raise ValueError(problem if self.rule else "it changes no weight")
        like = torch.empty(0, dtype=torch.promote_types(weight.dtype, torch.float32), device=weight.device)
        matrix = self.rule.matrix(like)
        change = (matrix if self.scale == 1 else matrix * self.scale).reshape(len(weight), -1, *weight.shape[2:])
        if isinstance(self.rule, Replacement):
            change = change - weight.to(like).reshape(change.shape)
        if self.magnitude is not None:  # learnt of the channels it knows
            change = _decomposed(weight[:, : change.shape[1]].to(like), change, self.magnitude.to(like))
        if weight.ndim > 1 and (missing := weight.shape[1] - change.shape[1]):
            change = F.pad(change, (0, 0) * (weight.ndim - 2) + (0, missing))
        return change.reshape(weight.shape)

    def equals(self, other: Change) -> bool:
        """Whether both are the same rule with the same numbers."""
        mine, theirs = list(self.tensors()), list(other.tensors())
        return (
            type(self.rule) is type(other.rule)
            and self.scale == other.scale
            and len(mine) == len(theirs)
            and all(torch.equal(a, b) for a, b in zip(mine, theirs, strict=True))
        )

    def tensors(self) -> Iterator[Tensor]:
        """Every tensor that it is made of."""
        return _tensors(self)


def _decomposed(weight: Tensor, change: Tensor, magnitude: Tensor) -> Tensor:
    """The change that gives each row (or column) of weight + change the length `magnitude`; the kernel counts along."""
    merged = weight + change
    kept = _magnitude_axis(magnitude, weight.shape)
    others = [axis for axis in range(weight.ndim) if axis != kept]
    length = torch.linalg.vector_norm(merged, dim=others, keepdim=True)
    # A row of zeros has no direction: it stays zero.
    return merged * torch.where(length > 0, magnitude.reshape(length.shape) / length, 0) - weight


def _magnitude_axis(magnitude: Tensor, shape: Sequence[int]) -> int | None:
    """The axis of a weight of which each place has its own length; 0 unless the magnitudes are stored as (1, in, …)."""
    if len(shape) < 2:
        return None
    if magnitude.shape[0] == magnitude.numel() == shape[0]:
        return 0
    return 1 if magnitude.numel() == shape[1] else None


def _tensors(value: object) -> Iterator[Tensor]:
    if isinstance(value, Tensor):
        yield value
    elif isinstance(value, tuple):
        for one in value:
            yield from _tensors(one)
    elif is_dataclass(value):
        for field in fields(value):
            yield from _tensors(getattr(value, field.name))


def _through(core: Tensor, up: Tensor, down: Tensor) -> Tensor:
    """core: (r, r', kh, kw), up: (out, r), down: (in, r'). Returns (out, in · kh · kw)."""
    return torch.einsum("rs...,or,is->oi...", core, up, down).flatten(1)


def _check_factors(a: Tensor, b: Tensor, core: Tensor | None) -> None:
    if core is None:
        _same_rank({b.shape[0], a[0].numel()})
    elif a.ndim == b.ndim == 2:
        _same_rank({b.shape[0], a.shape[0], *core.shape[:2]})
    else:
        raise ValueError(f"its factors {list(a.shape)} and {list(b.shape)} beside a core are not matrices")


def _same_rank(ranks: set[int]) -> None:
    if len(ranks) != 1:
        raise ValueError(f"its factors are of ranks {' and '.join(map(str, sorted(ranks)))}")
