"""LPIPS' weights as they are published: torchvision's VGG16, and beside it the learnt weights of the channels."""

from __future__ import annotations

import re
from pathlib import Path

import torch

from wordbrush.errors import ModelFileError
from wordbrush.formats.weights import build, read_weights
from wordbrush.networks.lpips import LPIPS, STAGES

# what torchvision's file holds besides the convolutions, and what a whole LPIPS' file holds besides weights
_IGNORED = re.compile(r"classifier\.|scaling_layer\.|lins\.")
_LIN = re.compile(r"lin(\d)\.model\.\d\.weight")
_SLICE = re.compile(r"net\.slice\d\.(\d+\.(?:weight|bias))")


def read_lpips(files: tuple[Path, ...]) -> LPIPS:
    """An LPIPS from one file or several, .safetensors or written by torch.save (read as data, never run).

    Either torchvision's VGG16 (`features.0.weight`, ...) and the learnt weights (`lin0.model.1.weight`, ...), or a
    whole saved LPIPS of kind vgg (`net.slice1.0.weight`, ..., `lin0.model.1.weight`, ...).

    Raises:
        ModelFileError: a file is damaged, or they do not make a whole LPIPS on VGG16 together.
    """
    for path in files:
        if not path.is_file():
            raise ModelFileError(f"there is no file {path}; LPIPS needs VGG16's weights and its own learnt ones")
    found = {name: tensor.float() for name, tensor in map(_own, read_weights(files).items()) if name is not None}
    named = ", ".join(str(path) for path in files)
    for wanted, what in (
        ("vgg.features.0.weight", "torchvision's VGG16 weights (features.0.weight and so on)"),
        ("lins.0.weight", "LPIPS' learnt weights for VGG16 (lin0.model.1.weight and so on)"),
    ):
        if wanted not in found:
            raise ModelFileError(f"{named} lacks {what}; name that file too")
    for stage, widths in enumerate(STAGES):
        lin = found.get(f"lins.{stage}.weight")
        if lin is not None and lin.shape[1:2] != widths[-1:]:
            raise ModelFileError(
                f"{named}: stage {stage} has learnt weights for {lin.shape[1]} channels, VGG16 has {widths[-1]}; "
                "they belong to another network"
            )
    return build(LPIPS, found, files[0]).eval().requires_grad_(False)


def _own(entry: tuple[str, torch.Tensor]) -> tuple[str | None, torch.Tensor]:
    """The name in our network of a tensor in a file; None for what it does not need."""
    name, tensor = entry
    if lin := _LIN.fullmatch(name):
        return f"lins.{lin[1]}.weight", tensor
    if slice_ := _SLICE.fullmatch(name):
        return f"vgg.features.{slice_[1]}", tensor
    return (None if _IGNORED.match(name) else f"vgg.{name}"), tensor
