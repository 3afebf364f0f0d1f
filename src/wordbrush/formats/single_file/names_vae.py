"""The autoencoder in the names of the original code (Rombach 2022; FLUX.1 too)."""

from __future__ import annotations

from typing import TYPE_CHECKING

from wordbrush.formats.single_file.keymap import CONVOLUTION, Link, Names, replaced
from wordbrush.formats.single_file.tiny_vae import tiny_names
from wordbrush.networks.tiny_vae import TinyAutoencoderConfig

if TYPE_CHECKING:
    from wordbrush.networks.vae import AutoencoderKLConfig

_RESNET = {"norm1": "norm1", "conv1": "conv1", "norm2": "norm2", "conv2": "conv2", "conv_shortcut": "nin_shortcut"}
_PROJECTIONS = {"to_q": "q", "to_k": "k", "to_v": "v", "to_out.0": "proj_out"}
_OLD_PROJECTIONS = {"to_q": "query", "to_k": "key", "to_v": "value", "to_out.0": "proj_attn"}


def vae_names(config: AutoencoderKLConfig | TinyAutoencoderConfig) -> Names:
    """Ours -> the original code's, which counts levels from the finest in the decoder as well."""
    if isinstance(config, TinyAutoencoderConfig):
        return tiny_names(config)
    resnets: dict[str, str] = {}
    others = {"quant_conv": "quant_conv", "post_quant_conv": "post_quant_conv"}
    links: list[Link] = []
    for half in ("encoder", "decoder"):
        for end, original in (("conv_in", "conv_in"), ("conv_out", "conv_out"), ("conv_norm_out", "norm_out")):
            others[f"{half}.{end}"] = f"{half}.{original}"
        for index in (0, 1):
            resnets[f"{half}.mid_block.resnets.{index}"] = f"{half}.mid.block_{index + 1}"
        if config.mid_block_add_attention:
            attention, original = f"{half}.mid_block.attentions.0", f"{half}.mid.attn_1"
            others[f"{attention}.group_norm"] = f"{original}.norm"
            for ours, theirs in _PROJECTIONS.items():
                others[f"{attention}.{ours}"] = f"{original}.{theirs}"
                links.append(Link(f"{original}.{theirs}.weight", (f"{attention}.{ours}.weight",), CONVOLUTION))
    last = len(config.block_out_channels) - 1
    for level in range(last + 1):
        down, up = f"encoder.down_blocks.{level}", f"decoder.up_blocks.{last - level}"
        for layer in range(config.layers_per_block + 1):
            resnets[f"{down}.resnets.{layer}"] = f"encoder.down.{level}.block.{layer}"
            resnets[f"{up}.resnets.{layer}"] = f"decoder.up.{level}.block.{layer}"
        others[f"{down}.downsamplers.0.conv"] = f"encoder.down.{level}.downsample.conv"
        others[f"{up}.upsamplers.0.conv"] = f"decoder.up.{level}.upsample.conv"
    return Names({**others, **replaced(resnets, _RESNET)}, tuple(links))


def old_vae_names(config: AutoencoderKLConfig) -> Names:
    """Ours -> those of a file that diffusers wrote before 2023, when its attention had other names."""
    modules, links = {"": ""}, []
    for half in ("encoder", "decoder") if config.mid_block_add_attention else ():
        attention = f"{half}.mid_block.attentions.0"
        for ours, theirs in _OLD_PROJECTIONS.items():
            modules[f"{attention}.{ours}"] = f"{attention}.{theirs}"
            links.append(Link(f"{attention}.{theirs}.weight", (f"{attention}.{ours}.weight",), CONVOLUTION))
    return Names(modules, tuple(links))
