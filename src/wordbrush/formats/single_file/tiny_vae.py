"""Tiny autoencoders (TAESD and its siblings) in files: where one is, what it is, and how its tensors are called.

    diffusers  encoder.layers.N, decoder.layers.N
    ComfyUI    taesd_encoder.N, taesd_decoder.N in one file; vae_scale and vae_shift beside them are the large VAE's
    original   N, one file for the encoder and one for the decoder (taesd_encoder.pth, taesd_decoder.pth)

The original decoder counts the bending of its input as layer 0; diffusers begins one later.
"""

from __future__ import annotations

import re
from itertools import pairwise
from typing import TYPE_CHECKING

from wordbrush.formats.single_file.configs import Config
from wordbrush.formats.single_file.keymap import Names
from wordbrush.formats.single_file.shapes import Shapes, UnknownShape, dimensions

if TYPE_CHECKING:
    from wordbrush.networks.tiny_vae import TinyAutoencoderConfig

TINY = "AutoencoderTiny"
"""The class that the config of one names."""

BESIDE = ("vae_scale", "vae_shift")
"""What ComfyUI keeps beside one: scale and shift of the large VAE, which latents here have already."""

HALVES = ("encoder", "decoder")
_FIRST = {"encoder": 0, "decoder": 1}  # the first layer with weights, in the original count
_PREFIXES = ("first_stage_model.", "vae.", "")


def tiny_place(shapes: Shapes) -> tuple[str, bool] | None:
    """The prefix of the tiny autoencoder in a file, and whether its names are the original ones; None without one.

    The prefix of a half that is alone ends where its numbers begin.
    """
    for prefix in _PREFIXES:
        if any(f"{prefix}{half}.layers.0.weight" in shapes for half in HALVES):
            return prefix, False
        halves = [half for half in HALVES if f"{prefix}taesd_{half}.{_FIRST[half]}.weight" in shapes]
        if halves:
            return (prefix if len(halves) == 2 else f"{prefix}taesd_{halves[0]}."), True
    bare = "3.conv.0.weight" in shapes and ("0.weight" in shapes) != ("1.weight" in shapes)
    return ("", True) if bare else None


def tiny_config(shapes: Shapes, *, original: bool) -> Config:
    """The config.json of a tiny autoencoder; a half that is not there has no levels.

    Args:
        shapes: its tensors, without the prefix.
        original: whether the names are the original ones.

    Raises:
        UnknownShape: a half is not whole, or has levels of unlike width.
    """
    config: Config = {"_class_name": TINY}
    latents = set()
    for half in HALVES:
        own = _half(shapes, half, original=original)
        config[f"{half}_block_out_channels"] = config[f"num_{half}_blocks"] = []
        if not own:
            continue
        blocks, first, last = _levels(own, half)
        config[f"num_{half}_blocks"] = blocks
        config[f"{half}_block_out_channels"] = config["block_out_channels"] = [first[0]] * len(blocks)
        config["in_channels" if half == "encoder" else "out_channels"] = (first[1], last[0])[half == "decoder"]
        latents.add((last[0], first[1])[half == "decoder"])
    if len(latents) != 1:
        raise UnknownShape(f"a tiny autoencoder whose halves have {sorted(latents)} latent channels; get another copy")
    return config | {"latent_channels": latents.pop()}


def _half(shapes: Shapes, half: str, *, original: bool) -> Shapes:
    """The tensors of a half by the number of the layer, as the file counts."""
    start = f"{half}.layers."
    if original:
        start = f"taesd_{half}."
        if not any(name.startswith("taesd_") for name in shapes):
            start = ""
            if f"{_FIRST[half]}.weight" not in shapes:
                return {}
    own = {name.removeprefix(start): shape for name, shape in shapes.items() if name.startswith(start)}
    return {name: shape for name, shape in own.items() if re.match(r"\d{1,3}\.", name)}


def _levels(layers: Shapes, half: str) -> tuple[list[int], tuple[int, ...], tuple[int, ...]]:
    """How many blocks each level has, and the shapes of the first and last convolution."""
    plain = sorted(int(name.partition(".")[0]) for name in layers if re.fullmatch(r"\d+\.weight", name))
    blocks = {int(name.partition(".")[0]) for name in layers if name.endswith(".conv.0.weight")}
    if len(plain) < 2:
        raise UnknownShape(f"a tiny autoencoder without the first or last layer of its {half}; copy the file again")
    shapes = [dimensions(layers, f"{index}.weight", 4) for index in plain]
    if any(shape[0] != shapes[0][0] for shape in shapes[:-1]):
        raise UnknownShape("a tiny autoencoder with levels of unlike width; this version runs TAESD, TAESDXL and TAEF1")
    counts = [sum(a < block < b for block in blocks) for a, b in pairwise(plain)]
    return counts, shapes[0], shapes[-1]


def tiny_names(config: TinyAutoencoderConfig) -> Names:
    """Ours -> the original ones: with `taesd_encoder.` and `taesd_decoder.` before them unless one half is all."""
    has = {half: len(getattr(config, f"num_{half}_blocks")) for half in HALVES}
    modules = {}
    for half in (half for half in HALVES if has[half]):
        start = f"taesd_{half}." if all(has.values()) else ""
        # no half has more layers than this: one for each block, and at most three besides for each level
        for index in range(3 * has[half] + 2 + sum(getattr(config, f"num_{half}_blocks"))):
            modules[f"{half}.layers.{index}"] = f"{start}{index + _FIRST[half]}"
    return Names(modules)
