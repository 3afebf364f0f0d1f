"""LoRAs put onto the weights of networks, and taken off again without a trace.

The weights that a LoRA changes are computed anew from the originals and put in their place; the originals are kept and
put back. Nothing is ever subtracted, so any sequence of attaching and detaching ends at the same bits.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from types import TracebackType

import torch
from torch import Tensor, nn

from wordbrush.errors import ModelFileError, RequestError
from wordbrush.formats.lora.fit import Fitted, Model, fit
from wordbrush.formats.lora.keys import DENOISERS
from wordbrush.formats.lora.modules import INPUT_LAYERS, Part
from wordbrush.formats.lora.read import LoraFile

_MARK = "attached_loras"  # of a network that has some


@dataclass(frozen=True)
class LoraUse:
    """A LoRA and how strongly it acts: 1 as trained, 0 not at all, negative against what it learnt.

    Attributes:
        file: the LoRA.
        unet: strength in the network that denoises, U-Net or transformer.
        text: strength in the text encoders.
    """

    file: LoraFile
    unet: float = 1.0
    text: float = 1.0


@dataclass(frozen=True, kw_only=True)
class Match:
    """How much of a file found its place. `str()` gives "matched n of n keys"."""

    file: LoraFile
    matched: int
    total: int

    def __str__(self) -> str:
        return f"matched {self.matched} of {self.total} keys"


class Attached:
    """LoRAs on networks; made by `attach`. As a context manager, it detaches at the end.

    Attributes:
        matched: how much of each file found its place, in the order of their uses.
    """

    def __init__(self, matched: tuple[Match, ...], networks: Sequence[nn.Module], weights: list[_Weight]) -> None:
        self.matched = matched
        self._networks = networks
        self._originals = [(weight.parameter, weight.parameter.data) for weight in weights]
        for weight in weights:
            weight.parameter.data = weight.changed
        for network in networks:
            setattr(network, _MARK, self)

    def detach(self) -> None:
        """Puts the original weights back, bit by bit. Does nothing the second time."""
        for parameter, original in self._originals:
            parameter.data = original.to(parameter)  # the network may have moved to another device meanwhile
        for network in self._networks:
            delattr(network, _MARK)
        self._originals, self._networks = [], []

    def __enter__(self) -> Attached:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.detach()


@dataclass(frozen=True)
class _Weight:
    parameter: nn.Parameter
    changed: Tensor


@dataclass(frozen=True)
class _Effect:
    """A change of one layer of a LoRA, as it meets the layers of a network."""

    file: LoraFile
    fitted: Fitted
    strength: float


@torch.no_grad()
def attach(networks: Mapping[str, nn.Module], uses: Sequence[LoraUse]) -> Attached:
    """Adds LoRAs to the weights of a model.

    A weight becomes W + Σ strength · ΔW, every ΔW computed from the original W in float32 (float64 for such a network)
    and the sum rounded once to the network's own precision. DoRA's ΔW is the whole way from W to its decomposed weight.
    Change strengths by detaching and attaching again.

    Args:
        networks: "unet" or "transformer", "text_encoder", "text_encoder_2", whichever the model has. Other names are
            left alone.
        uses: the LoRAs and their strengths; one file may be used twice.

    Raises:
        ModelFileError: a file does not fit the model in every key, or holds numbers that are not finite.
        RequestError: the strengths bring a weight out of the range of the network's precision.
        ValueError: a network has LoRAs attached already.

    After an error, nothing is attached.
    """
    model = Model(networks)
    for name, network in model.networks.items():
        if hasattr(network, _MARK):
            raise ValueError(f"{name} has LoRAs attached already; detach them first")
    matched, effects = [], []
    for use in uses:
        found = fit(use.file, model)
        matched.append(_match(use.file, found))
        for one in found:
            strength = use.unet if one.network in DENOISERS else use.text
            if strength != 0:
                effects.append(_Effect(use.file, one, strength))
    weights = list(_weights(model.networks, effects))
    return Attached(tuple(matched), list(model.networks.values()), weights)


def match(networks: Mapping[str, nn.Module], uses: Sequence[LoraUse]) -> tuple[Match, ...]:
    """How much of each file would find its place; the networks stay as they are. As `attach` otherwise.

    Raises:
        ModelFileError: a file does not fit the model in every key.
    """
    model = Model(networks)
    return tuple(_match(use.file, fit(use.file, model)) for use in uses)


def _match(file: LoraFile, found: Sequence[Fitted]) -> Match:
    total = sum(len(keys) for keys in file.keys.values())
    return Match(file=file, matched=sum(len(one.keys) for one in found), total=total)


def _weights(networks: Mapping[str, nn.Module], effects: Sequence[_Effect]) -> Iterator[_Weight]:
    """Every changed parameter, one network layer after the other."""
    by_layer: dict[tuple[str, str], list[_Effect]] = {}
    for effect in effects:
        for module in dict.fromkeys(part.module for part in effect.fitted.target):
            by_layer.setdefault((effect.fitted.network, module), []).append(effect)
    pieces: dict[int, dict[Part, tuple[Tensor | None, Tensor | None]]] = {}
    for (name, module), here in by_layer.items():
        network = networks[name]
        layer = network.get_submodule(module)
        sums: dict[str, Tensor] = {}
        for effect in here:
            if id(effect) not in pieces:
                pieces[id(effect)] = _pieces(network, effect)
            for part in effect.fitted.target:
                if part.module == module:
                    for kind, piece in zip(("weight", "bias"), pieces[id(effect)].pop(part), strict=True):
                        if piece is not None:
                            _add(sums, kind, getattr(layer, kind), part, piece, effect.strength)
            if not pieces[id(effect)]:
                del pieces[id(effect)]
        for kind, total in sums.items():
            parameter = getattr(layer, kind)
            changed = total.to(parameter)
            if not changed.isfinite().all():
                raise _not_finite(here, parameter, f"{module}.{kind}")
            yield _Weight(parameter, changed)


def _pieces(network: nn.Module, effect: _Effect) -> dict[Part, tuple[Tensor | None, Tensor | None]]:
    """ΔW and ΔB of every part of the layer that a change was made for."""
    target, change = effect.fitted.target, effect.fitted.change
    weights = [_rows(network.get_parameter(f"{part.module}.weight").data, part) for part in target]
    sizes = [len(weight) for weight in weights]
    none: list[Tensor | None] = [None] * len(target)
    of_weights, of_biases = none, none
    if change.rule is not None:
        whole = weights[0] if len(weights) == 1 else torch.cat(weights)
        pads = target[0].module in INPUT_LAYERS
        of_weights = [*change.delta(whole, pads=pads).split(sizes)]
    if change.bias is not None:
        bias = change.bias.to(device=weights[0].device, dtype=torch.promote_types(weights[0].dtype, torch.float32))
        of_biases = [*bias.flatten().split(sizes)]
    return dict(zip(target, zip(of_weights, of_biases, strict=True), strict=True))


def _add(
    sums: dict[str, Tensor], kind: str, parameter: nn.Parameter, part: Part, piece: Tensor, strength: float
) -> None:
    if kind not in sums:
        sums[kind] = parameter.data.to(piece.dtype, copy=True)
    _rows(sums[kind], part).add_(piece, alpha=strength)


def _rows(weight: Tensor, part: Part) -> Tensor:
    return weight if part.half is None else weight.chunk(2)[part.half]


def _not_finite(effects: Sequence[_Effect], parameter: Tensor, name: str) -> ModelFileError | RequestError:
    for effect in effects:
        if not all(tensor.isfinite().all() for tensor in effect.fitted.change.tensors()):
            return ModelFileError(
                f"{effect.file.path} is damaged: its layer {effect.fitted.layer} holds values that are not numbers; "
                "get the file again"
            )
    strengths = ", ".join(f"{effect.file.name} at {effect.strength:g}" for effect in effects)
    return RequestError(f"{strengths} bring {name} out of the range of {parameter.dtype}; use smaller strengths")
