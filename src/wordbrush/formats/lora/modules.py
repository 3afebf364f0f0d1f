"""The layers of a network under every name that LoRA files have for them."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass

from torch import nn

from wordbrush.formats.lora.keys import flat
from wordbrush.formats.single_file.keymap import STACKED, SWAPPED, KeyMap, Link, Names
from wordbrush.formats.single_file.names_flux import flux_names
from wordbrush.formats.single_file.names_unet import unet_names
from wordbrush.networks.clip import CLIPTextModel
from wordbrush.networks.flux import FluxTransformer
from wordbrush.networks.unet import UNet

# Layers that take the latents: a model that is shown a picture too has one with more input channels than the model it
# came from, whose LoRAs leave those alone.
INPUT_LAYERS = frozenset({"conv_in", "x_embedder"})

# What diffusers called the projections of CLIP before PEFT, and XLabs those of FLUX.
_OLD_CLIP = {"q_proj": "to_q", "k_proj": "to_k", "v_proj": "to_v", "out_proj": "to_out"}
_XLABS = (
    (r"(double_blocks\.\d+)\.img_attn\.(qkv|proj)", r"\1.\2_lora1"),
    (r"(double_blocks\.\d+)\.txt_attn\.(qkv|proj)", r"\1.\2_lora2"),
    (r"(single_blocks\.\d+)\.linear1", r"\1.qkv"),  # of its four parts, the first three
    (r"(single_blocks\.\d+)\.linear2", r"\1.proj"),
)


@dataclass(frozen=True)
class Part:
    """A layer of ours, or half of it.

    Attributes:
        module: its name in the network.
        half: 0 or 1, which half of its rows; None for all.
    """

    module: str
    half: int | None = None


Target = tuple[Part, ...]
"""What one layer of a LoRA changes: our layers whose rows, one below the other, are the layer it was trained on."""


def targets(network: nn.Module) -> dict[str, Target]:
    """Every layer that a LoRA can change, by its flat names."""
    found: dict[str, Target] = {}
    for name, target in _named(network):
        before = found.setdefault(flat(name), target)
        assert before == target, f"{name} names two layers of {type(network).__name__}"
    return found


def _named(network: nn.Module) -> Iterator[tuple[str, Target]]:
    layers = [name.removesuffix(".weight") for name, _ in network.named_parameters() if name.endswith(".weight")]
    for name in layers:
        yield name, (Part(name),)
        if name.endswith(".to_out.0"):
            yield name.removesuffix(".0"), (Part(name),)
    if isinstance(network, UNet):
        yield from _originals(network, unet_names(network.config))
    elif isinstance(network, FluxTransformer):
        for name, target in _originals(network, flux_names(network.config)):
            yield name, target
            yield from _flux_dialects(name, target)
    elif isinstance(network, CLIPTextModel):
        for name in layers:
            bare = name.removeprefix("text_model.")
            yield bare, (Part(name),)  # transformers 5 has no such prefix
            head, _, last = name.rpartition(".")
            if last in _OLD_CLIP:
                yield f"{head}.{_OLD_CLIP[last]}", (Part(name),)


def _originals(network: nn.Module, names: Names) -> Iterator[tuple[str, Target]]:
    """The layers by their names in original files."""
    shapes = {name: tuple(tensor.shape) for name, tensor in network.state_dict().items()}
    for link in KeyMap(names, shapes).links.values():
        if all(own.endswith(".weight") for own in link.own):
            yield link.original.rpartition(".")[0], _target(link)


def _target(link: Link) -> Target:
    modules = [own.removesuffix(".weight") for own in link.own]
    if link.form == SWAPPED:
        return (Part(modules[0], 1), Part(modules[0], 0))
    assert len(modules) == 1 or link.form == STACKED
    return tuple(Part(module) for module in modules)


def _flux_dialects(name: str, target: Target) -> Iterator[tuple[str, Target]]:
    if len({part.module for part in target}) > 1:  # OneTrainer's newer files number the parts of a stack
        yield from ((f"{name}.{index}", (part,)) for index, part in enumerate(target))
    if name == "img_in":
        yield "img_in.proj", target
    for pattern, replacement in _XLABS:
        if re.fullmatch(pattern, name):
            yield re.sub(pattern, replacement, name), target[:3]
