"""Adapters put beside the layers of networks, and taken off again without a trace."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from wordbrush.errors import RequestError
from wordbrush.formats.lora.keys import flat
from wordbrush.formats.lora.trained import TrainedLayer
from wordbrush.training.adapters.config import AdapterConfig, chosen_layers
from wordbrush.training.adapters.layers import Layer, LowRankAdapter

_MARK = "has_adapters"  # of a network that has some


@dataclass(frozen=True)
class _Place:
    """An adapter and the layer it is beside."""

    network: str
    name: str
    layer: Layer
    adapter: LowRankAdapter


class Adapters(nn.Module):
    """Everything that is trained beside networks that stay as they are; made by `Adapters.inject`.

    It owns the trained parameters and nothing else: the networks are no submodules of it, keep their keys and their
    modules, and are called as always.

    Attributes:
        config: its shape.
    """

    def __init__(self, config: AdapterConfig, networks: Mapping[str, nn.Module], places: list[_Place]) -> None:
        super().__init__()
        self.config = config
        self.networks = nn.ModuleDict({name: nn.ModuleDict() for name in networks})
        for place in places:
            self._of(place.network)[flat(place.name)] = place.adapter
        self._places = places
        self._bases = dict(networks)
        self._required = [p for network in networks.values() for p in network.parameters() if p.requires_grad]
        for network in networks.values():
            network.requires_grad_(False)
            setattr(network, _MARK, True)
        self._hooks: list[RemovableHandle] = [_hooked(place) for place in places]

    @classmethod
    def inject(
        cls,
        networks: dict[str, nn.Module],
        config: AdapterConfig,
        generator: torch.Generator,
        *,
        without: Collection[str] = (),
    ) -> Adapters:
        """Puts an adapter beside every layer that the config names, and sets all weights of the networks not to train.

        Args:
            networks: by their names in a pipeline: "unet" or "transformer", "text_encoder", "text_encoder_2".
            config: the shape.
            generator: draws the first values, on the CPU.
            without: beginnings of layers' names, each after that of its network, that get no adapter all the same, such
                as layers whose output is never used.

        Raises:
            RequestError: the config names no layer of a network, or a grouped convolution.
            ValueError: a network has adapters already.
        """
        for name, network in networks.items():
            if getattr(network, _MARK, False):
                raise ValueError(f"{name} has adapters already; remove them first")
        places = []
        for network_name, name, layer in chosen_layers(networks, config.target, without):
            if isinstance(layer, nn.Conv2d) and (layer.groups != 1 or layer.padding_mode != "zeros"):
                raise RequestError(f"the convolution {network_name}.{name} is grouped; leave it out of the target")
            adapter = LowRankAdapter(
                layer,
                generator,
                rank=config.rank_of(layer),
                alpha=config.alpha_of(layer),
                rooted=config.rank_stabilised,
                dropout=config.dropout,
                dora=config.dora,
            )
            places.append(_Place(network_name, name, layer, adapter))
        return cls(config, networks, places)

    def remove(self) -> None:
        """Takes the adapters off; the networks are what they were. Does nothing the second time."""
        for hook in self._hooks:
            hook.remove()
        for parameter in self._required:
            parameter.requires_grad_(True)
        for network in self._bases.values():
            if hasattr(network, _MARK):
                delattr(network, _MARK)
        self._hooks, self._required, self._bases = [], [], {}

    @contextmanager
    def disabled(self) -> Iterator[None]:
        """Within it, the networks give what they gave before."""
        for place in self._places:
            place.adapter.active = False
        try:
            yield
        finally:
            for place in self._places:
                place.adapter.active = True

    @contextmanager
    def merged(self) -> Iterator[None]:
        """Within it, the networks' own weights have the changes in them, for code that copies weights.

        The originals are kept and put back, bit by bit. A weight of lower precision rounds the sum.
        """
        originals = [(place.layer.weight, place.layer.weight.data) for place in self._places]
        with self.disabled():
            try:
                for place in self._places:
                    weight = place.layer.weight
                    with torch.no_grad():
                        delta = place.adapter.trained().change().delta(weight.data)
                        weight.data = (weight.data.to(delta) + delta).to(weight.dtype)
                yield
            finally:
                for parameter, original in originals:
                    parameter.data = original

    def trained(self, state: Mapping[str, Tensor] | None = None) -> dict[str, dict[str, TrainedLayer]]:
        """What has been learnt, by network and name of the layer in it.

        state: a state dict of this module to take in place of the parameters, such as their running averages.
        """
        found: dict[str, dict[str, TrainedLayer]] = {name: {} for name in self.networks}
        for place in self._places:
            if state is None:
                layer = place.adapter.trained()
            else:
                start = f"networks.{place.network}.{flat(place.name)}."
                names = [name for name, _ in place.adapter.named_parameters()]
                layer = place.adapter.trained_from({name: state[start + name] for name in names})
            found[place.network][place.name] = layer
        return found

    def _of(self, network: str) -> nn.ModuleDict:
        module = self.networks[network]
        assert isinstance(module, nn.ModuleDict)
        return module


def _hooked(place: _Place) -> RemovableHandle:
    adapter = place.adapter

    def hook(layer: nn.Module, inputs: tuple[Tensor, ...], out: Tensor) -> Tensor | None:
        assert isinstance(layer, nn.Linear | nn.Conv2d)
        return adapter(inputs[0], out, layer) if adapter.active else None

    return place.layer.register_forward_hook(hook)
