"""A two-way map between the tensors of an original file and those of one of our networks.

Most tensors only change their name. Some original files hold several of ours stacked (query, key and value in one
matrix), transposed, as a 1×1 convolution, or with their halves in the other order; none of that changes a bit.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import Tensor

Shape = tuple[int, ...]

SAME, STACKED, TRANSPOSED, CONVOLUTION, SWAPPED = "same", "stacked", "transposed", "convolution", "swapped"


@dataclass(frozen=True)
class Link:
    """One tensor of the file and what it is in the network.

    Attributes:
        original: its name in the file, without the prefix of the part.
        own: the network's tensors that it holds; more than one if form is STACKED, along the first dimension.
        form: SAME; STACKED; TRANSPOSED, a matrix; CONVOLUTION, a matrix that the file holds with two more dimensions of
            size 1; SWAPPED, the second half of the rows comes first.
    """

    original: str
    own: tuple[str, ...]
    form: str = SAME


@dataclass(frozen=True)
class Names:
    """How the names of one part of a model are spelt in one layout.

    Attributes:
        modules: a name of ours, or the first part of several -> the same in the file.
        links: the tensors that change more than their name.
    """

    modules: Mapping[str, str]
    links: tuple[Link, ...] = ()


class KeyMap:
    """A bijection between the tensors of a file and those of a network.

    Args:
        names: the spelling of the layout.
        shapes: every tensor of the network -> its shape.
    """

    def __init__(self, names: Names, shapes: Mapping[str, Shape]) -> None:
        linked = {own for link in names.links for own in link.own}
        renamed = [Link(_translated(own, names.modules), (own,)) for own in shapes if own not in linked]
        self.links = {link.original: link for link in (*renamed, *names.links)}
        self.shapes = shapes
        assert len(self.links) == len(renamed) + len(names.links), "two tensors of ours have one name in the file"
        assert linked <= set(shapes), f"the network has no {sorted(linked - set(shapes))[:3]}"

    def original_shapes(self) -> dict[str, Shape]:
        """The name and shape of every tensor that a file with this network holds."""
        return {name: self._original_shape(link) for name, link in self.links.items()}

    def fits(self, original: str, shape: Shape) -> bool:
        """Whether a tensor of that name and shape can be read: 1×1 convolutions may also be stored as matrices."""
        wanted = self._original_shape(self.links[original])
        return shape == wanted or (
            _without_ones(shape) == _without_ones(wanted)
            and self.links[original].form == CONVOLUTION
            and len(shape) in (2, 3, 4)
        )

    def to_own(self, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """The network's tensors from the file's; every name must be in the map. What can be is a view, not a copy."""
        return {name: part for original, tensor in tensors.items() for name, part in self._split(original, tensor)}

    def to_original(self, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """The file's tensors from the network's; all of them must be there."""
        return {name: self.original(name, tensors) for name in self.links}

    def original(self, name: str, tensors: Mapping[str, Tensor]) -> Tensor:
        """One of the file's tensors from the network's."""
        link = self.links[name]
        return _joined(link.form, [tensors[own] for own in link.own])

    def _split(self, original: str, tensor: Tensor) -> Iterable[tuple[str, Tensor]]:
        link = self.links[original]
        if link.form == STACKED:
            rows = [self.shapes[own][0] for own in link.own]
            return zip(link.own, tensor.split(rows), strict=True)
        if link.form == TRANSPOSED:
            tensor = tensor.T
        elif link.form == CONVOLUTION:
            tensor = tensor.reshape(self.shapes[link.own[0]])
        elif link.form == SWAPPED:
            tensor = _swapped(tensor)
        return [(link.own[0], tensor)]

    def _original_shape(self, link: Link) -> Shape:
        shape = self.shapes[link.own[0]]
        if link.form == STACKED:
            return (sum(self.shapes[own][0] for own in link.own), *shape[1:])
        if link.form == CONVOLUTION:
            return (*shape, 1, 1)
        return shape[::-1] if link.form == TRANSPOSED else shape


SAME_NAMES = Names({"": ""})
"""The spelling of a file that uses our own names: diffusers' and transformers'."""


def replaced(modules: Mapping[str, str], changes: Mapping[str, str]) -> dict[str, str]:
    """Every module of `modules` with every ending of `changes` (ours -> the file's)."""
    return {f"{own}.{ours}": f"{file}.{theirs}" for own, file in modules.items() for ours, theirs in changes.items()}


def _translated(own: str, modules: Mapping[str, str]) -> str:
    """The longest known beginning of a name decides."""
    head = own
    while head not in modules:
        if not head:
            raise KeyError(f"no name in the file is known for {own}")
        head = head.rpartition(".")[0]
    return modules[head] + own.removeprefix(head)


def _joined(form: str, tensors: list[Tensor]) -> Tensor:
    import torch

    first = tensors[0]
    if form == STACKED:
        return torch.cat(tensors)
    if form == TRANSPOSED:
        return first.T
    if form == CONVOLUTION:
        return first[:, :, None, None]
    return _swapped(first) if form == SWAPPED else first


def _swapped(tensor: Tensor) -> Tensor:
    return tensor.roll(len(tensor) // 2, 0)


def _without_ones(shape: Shape) -> Shape:
    """The shape of a matrix that may be stored as a 1×1 convolution."""
    return shape[:2] if math.prod(shape[2:]) == 1 else shape
