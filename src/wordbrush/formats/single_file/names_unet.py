"""The U-Net in the names of the original code (Rombach 2022; SDXL's is the same): numbered blocks, without levels.

`input_blocks.0` is the first convolution. Then every residual block, with its transformer beside it, and every change
of size is a block of its own; `output_blocks` go back up, a change of size being the last piece of a block.
"""

from __future__ import annotations

from wordbrush.formats.single_file.keymap import Names, replaced
from wordbrush.networks.unet_config import UNetConfig

_ENDS = {
    "conv_in": "input_blocks.0.0",
    "time_embedding.linear_1": "time_embed.0",
    "time_embedding.linear_2": "time_embed.2",
    "time_embedding.cond_proj": "time_embed.cond_proj",
    "add_embedding.linear_1": "label_emb.0.0",
    "add_embedding.linear_2": "label_emb.0.2",
    "conv_norm_out": "out.0",
    "conv_out": "out.2",
}
_RESNET = {
    "norm1": "in_layers.0",
    "conv1": "in_layers.2",
    "time_emb_proj": "emb_layers.1",
    "norm2": "out_layers.0",
    "conv2": "out_layers.3",
    "conv_shortcut": "skip_connection",
}


def unet_names(config: UNetConfig) -> Names:
    """Ours -> the original code's, for a U-Net of any shape."""
    resnets = {"mid_block.resnets.0": "middle_block.0", "mid_block.resnets.1": "middle_block.2"}
    others = {**_ENDS, "mid_block.attentions.0": "middle_block.1"}
    if config.class_embed_type is not None:
        others |= {f"class_embedding.{layer}": _ENDS[f"add_embedding.{layer}"] for layer in ("linear_1", "linear_2")}
    elif config.num_class_embeds is not None:
        others["class_embedding"] = "label_emb"
    last = len(config.block_out_channels) - 1
    number = 1
    for level, layers in enumerate(config.layers):
        down = f"down_blocks.{level}"
        for layer in range(layers):
            resnets[f"{down}.resnets.{layer}"] = f"input_blocks.{number}.0"
            others[f"{down}.attentions.{layer}"] = f"input_blocks.{number}.1"
            number += 1
        if level < last:
            others[f"{down}.downsamplers.0.conv"] = f"input_blocks.{number}.0.op"
            number += 1
    number = 0
    for level, layers in enumerate(reversed(config.layers)):
        up = f"up_blocks.{level}"
        for layer in range(layers + 1):
            resnets[f"{up}.resnets.{layer}"] = f"output_blocks.{number}.0"
            others[f"{up}.attentions.{layer}"] = f"output_blocks.{number}.1"
            number += 1
        if level < last:
            piece = 2 if config.up_block_types[level].startswith("CrossAttn") else 1
            others[f"{up}.upsamplers.0.conv"] = f"output_blocks.{number - 1}.{piece}.conv"
    return Names({**others, **replaced(resnets, _RESNET)})
