"""Which layers of a model the layers of a LoRA file are, and the error when not all of them are found."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from torch import nn

from wordbrush.errors import ModelFileError
from wordbrush.formats.lora.keys import DENOISERS, TEXT_ENCODERS, candidates, named_network
from wordbrush.formats.lora.modules import INPUT_LAYERS, Target, targets
from wordbrush.formats.lora.notes import base_of
from wordbrush.formats.lora.read import LoraFile
from wordbrush.formats.lora.rules import Change
from wordbrush.formats.lora.summary import BASES
from wordbrush.networks.flux import FluxTransformer

NETWORKS = (*DENOISERS, *TEXT_ENCODERS)
"""The networks of a model that LoRAs can change."""

_ENCODER_NAMES = {"text_encoder": "text encoder", "text_encoder_2": "second text encoder"}
_NAMED = 3  # how many of many keys an error names unless the base is another


@dataclass(frozen=True, kw_only=True)
class Fitted:
    """A layer of a LoRA and the layers of a network that it changes.

    Attributes:
        layer: its name in the file.
        keys: its tensors, by their names in the file.
        network: "unet", "transformer", "text_encoder" or "text_encoder_2".
        target: the layers.
        change: what happens to them.
    """

    layer: str
    keys: tuple[str, ...]
    network: str
    target: Target
    change: Change


class Model:
    """The networks of a model, with their layers under every name that LoRAs have for them."""

    def __init__(self, networks: Mapping[str, nn.Module]) -> None:
        self.networks = {name: networks[name] for name in NETWORKS if name in networks}
        self._targets = {name: targets(network) for name, network in self.networks.items()}

    @property
    def base(self) -> str | None:
        """The family it is of, a key of `summary.BASES`; None when its sizes are of no family."""
        return base_of(self.networks)

    def find(self, layer: str) -> tuple[str, Target] | None:
        """The network and its layers that a LoRA's file calls by this name."""
        for network, name in candidates(layer):
            if network in self.networks and name in self._targets[network]:
                return network, self._targets[network][name]
        return None

    def misfit(self, network: str, target: Target, change: Change) -> str | None:
        """Why a change cannot be made to these layers; None when it can."""
        layers = [self.networks[network].get_submodule(module) for module in dict.fromkeys(p.module for p in target)]
        weights = [layer.get_parameter("weight") for layer in layers]
        rows = sum(len(weight) for weight in weights)
        if change.bias is not None and any(getattr(layer, "bias", None) is None for layer in layers):
            return "it changes the bias of a layer that has none"
        if change.bias is not None and change.bias.numel() != rows:
            return f"it changes {change.bias.numel()} biases, the layer has {rows}"
        return change.misfit((rows, *weights[0].shape[1:]), pads=target[0].module in INPUT_LAYERS)


def fit(file: LoraFile, model: Model) -> list[Fitted]:
    """Finds the place of every layer of a file.

    Raises:
        ModelFileError: a key has no place, a layer is of another size, or one layer is changed twice.
    """
    found: dict[tuple[str, Target], Fitted] = {}
    _refuse_control(file, model)
    lost = list(file.strangers)
    misfits = []
    for layer, change in file.changes.items():
        place = model.find(layer)
        if place is None:
            lost += file.keys[layer]
            continue
        fitted = Fitted(layer=layer, keys=file.keys[layer], network=place[0], target=place[1], change=change)
        if problem := model.misfit(*place, change):
            misfits.append(f"{layer}: {problem}")
        elif place not in found:
            found[place] = fitted
        else:
            found[place] = _once(file, found[place], fitted)
    if lost or misfits:
        raise ModelFileError(_misfit(file, model, lost, misfits))
    return list(found.values())


def _refuse_control(file: LoraFile, model: Model) -> None:
    """Raises `ModelFileError` for a LoRA that makes FLUX.1 see a second picture, beside the one it paints."""
    transformer = model.networks.get("transformer")
    if not isinstance(transformer, FluxTransformer):
        return
    painted, taken = transformer.proj_out.out_features, transformer.x_embedder.in_features
    for layer, change in file.changes.items():
        place = model.find(layer)
        if place is None or change.rule is None or place[1][0].module not in INPUT_LAYERS:
            continue
        if change.rule.columns == 2 * painted != taken:
            raise ModelFileError(
                f"{file.path} is a control LoRA: it widens {layer} from {painted} to {change.rule.columns} channels "
                "for a depth map or edges, so it needs a FLUX.1 control checkpoint, which this version does not run"
            )


def _once(file: LoraFile, first: Fitted, second: Fitted) -> Fitted:
    """Some files say everything in two dialects; what is said twice counts once."""
    if not first.change.equals(second.change):
        raise ModelFileError(
            f"{file.path} changes one layer in two ways, as {first.layer} and as {second.layer}: it was put together "
            "from several LoRAs; use those"
        )
    return replace(first, keys=first.keys + second.keys)


def _misfit(file: LoraFile, model: Model, lost: list[str], misfits: list[str]) -> str:
    total = sum(len(keys) for keys in file.keys.values()) + len(file.strangers)
    made_for, base = file.summary.base, model.base
    problems = []
    if made_for is not None and made_for != base:  # which says it all, so it comes first and with few examples
        other = "" if base is None else f", this model is {BASES[base]}"
        problems.append(f"it was made for {BASES[made_for]}{other}")
    named = 1 if problems else _NAMED
    if lost:
        problems.append(f"matched {total - len(lost)} of {total} keys, no place for {_some(lost, named)}")
    if misfits:
        problems.append(f"{len(misfits)} of {len(file.changes)} layers are of another size, {_some(misfits, named)}")
    missing = {name for layer in file.changes if (name := named_network(layer)) in _ENCODER_NAMES} - set(model.networks)
    problems += [f"this model has no {_ENCODER_NAMES[name]}" for name in sorted(missing)]
    return f"the LoRA {file.path} does not fit this model: {'; '.join(problems)}; use a LoRA made for this model"


def _some(names: Sequence[str], most: int) -> str:
    more = f" and {len(names) - most} more" if len(names) > most else ""
    return ", ".join(names[:most]) + more
