"""The configs of autoencoder, text encoders and FLUX transformer, read off the names and shapes of their tensors."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping

from wordbrush.formats.single_file.configs import Config

Shape = tuple[int, ...]
Shapes = Mapping[str, Shape]


class UnknownShape(Exception):
    """The tensors do not make a network of ours; the message, an apposition, says what they make."""


def dimensions(shapes: Shapes, name: str, count: int) -> Shape:
    """The shape of a tensor that must be there and have so many dimensions.

    Raises:
        UnknownShape: it is not so.
    """
    found = shapes.get(name)
    if found is None:
        raise UnknownShape(f"a network without {name}; copy the file again")
    if len(found) != count or 0 in found:
        raise UnknownShape(f"a network whose {name} has the shape {list(found)}, with which it cannot be run")
    return found


def counted(what: str, numbers: Iterable[str | int]) -> int:
    """How many there are; they must be 0, 1, 2 … without a gap.

    Raises:
        UnknownShape: there are none, or one is left out.
    """
    found = {int(number) for number in numbers}
    if not found or max(found) != len(found) - 1:
        raise UnknownShape(f"a network some of whose {what} are missing; copy the file again")
    return len(found)


def vae_config(shapes: Shapes, *, original: bool) -> Config:
    """The config.json of an AutoencoderKL but for what its shapes do not tell (scale of the latents, groups).

    Raises:
        UnknownShape: it is not a whole AutoencoderKL.
    """
    level = r"encoder\.down\.(\d{1,3})\.block\." if original else r"encoder\.down_blocks\.(\d{1,3})\.resnets\."
    pattern = re.compile(level + r"(\d{1,3})\.conv2\.weight$")
    found = [match.groups() for match in map(pattern.match, shapes) if match]
    levels = counted("encoder levels", (number for number, _ in found))
    layers = {counted("encoder blocks", (block for number, block in found if int(number) == i)) for i in range(levels)}
    if len(layers) != 1:
        raise UnknownShape("an autoencoder with levels of unlike numbers of blocks, which this version cannot run")
    place = "encoder.down.{}.block.0.conv2.weight" if original else "encoder.down_blocks.{}.resnets.0.conv2.weight"
    attention = "encoder.mid.attn_1." if original else "encoder.mid_block.attentions.0."
    return {
        "in_channels": dimensions(shapes, "encoder.conv_in.weight", 4)[1],
        "out_channels": dimensions(shapes, "decoder.conv_out.weight", 4)[0],
        "block_out_channels": [dimensions(shapes, place.format(i), 4)[0] for i in range(levels)],
        "layers_per_block": layers.pop(),
        "latent_channels": dimensions(shapes, "decoder.conv_in.weight", 4)[1],
        "use_quant_conv": "quant_conv.weight" in shapes,
        "use_post_quant_conv": "post_quant_conv.weight" in shapes,
        "mid_block_add_attention": any(name.startswith(attention) for name in shapes),
    }


def clip_config(shapes: Shapes, *, open_clip: bool) -> Config:
    """The config.json of a CLIP text tower but for what its shapes do not tell (activation, special tokens).

    Heads have 64 numbers, as in every CLIP that these models use.

    Args:
        open_clip: whether the names are OpenCLIP's, else transformers'.

    Raises:
        UnknownShape: it is not a whole text tower.
    """
    if open_clip:
        layer, inner = r"transformer\.resblocks\.(\d{1,3})\.", "transformer.resblocks.0.mlp.c_fc.weight"
        tokens, positions = "token_embedding.weight", "positional_embedding"
    else:
        layer, inner = r"text_model\.encoder\.layers\.(\d{1,3})\.", "text_model.encoder.layers.0.mlp.fc1.weight"
        tokens = "text_model.embeddings.token_embedding.weight"
        positions = "text_model.embeddings.position_embedding.weight"
    vocabulary, width = dimensions(shapes, tokens, 2)
    config: Config = {
        "vocab_size": vocabulary,
        "hidden_size": width,
        "intermediate_size": dimensions(shapes, inner, 2)[0],
        "num_hidden_layers": counted("layers", (match[1] for match in map(re.compile(layer).match, shapes) if match)),
        "num_attention_heads": max(1, width // 64),
        "max_position_embeddings": dimensions(shapes, positions, 2)[0],
    }
    projections = (("text_projection", 1), ("text_projection.weight", 0))  # the first is transposed
    for name, side in projections:
        if name in shapes:
            config["projection_dim"] = dimensions(shapes, name, 2)[side]
    return config


def t5_config(shapes: Shapes) -> Config:
    """The config.json of a T5 v1.1 encoder.

    Raises:
        UnknownShape: it is not a whole T5 v1.1 encoder.
    """
    layer = re.compile(r"encoder\.block\.(\d{1,3})\.")
    vocabulary, width = dimensions(shapes, "shared.weight", 2)
    first = "encoder.block.0.layer"
    if f"{first}.1.DenseReluDense.wi.weight" in shapes:
        raise UnknownShape("a T5 of the first version, and this version runs the encoder of T5 v1.1, which FLUX uses")
    buckets, heads = dimensions(shapes, f"{first}.0.SelfAttention.relative_attention_bias.weight", 2)
    return {
        "vocab_size": vocabulary,
        "d_model": width,
        "d_kv": dimensions(shapes, f"{first}.0.SelfAttention.q.weight", 2)[0] // heads,
        "d_ff": dimensions(shapes, f"{first}.1.DenseReluDense.wi_0.weight", 2)[0],
        "num_layers": counted("layers", (match[1] for match in map(layer.match, shapes) if match)),
        "num_heads": heads,
        "relative_attention_num_buckets": buckets,
    }


def flux_config(shapes: Shapes, *, original: bool) -> Config:
    """The config.json of a FLUX.1 transformer.

    Raises:
        UnknownShape: it is not a whole FLUX.1 transformer.
    """
    names = _FLUX_ORIGINAL if original else _FLUX_DIFFUSERS
    width, channels = dimensions(shapes, names["in"], 2)
    head = dimensions(shapes, names["norm"], 1)[0]
    if width % head:
        raise UnknownShape(f"a transformer {width} wide, which heads of {head} do not divide; copy the file again")
    blocks = []
    for kind in ("double", "single"):
        pattern = re.compile(rf"{names[kind]}\.(\d{{1,3}})\.")
        blocks.append(counted(names[kind], (match[1] for match in map(pattern.match, shapes) if match)))
    out = dimensions(shapes, names["out"], 2)[0]
    return {
        "in_channels": channels,
        "out_channels": None if out == channels else out,
        "num_layers": blocks[0],
        "num_single_layers": blocks[1],
        "attention_head_dim": head,
        "num_attention_heads": width // head,
        "joint_attention_dim": dimensions(shapes, names["context"], 2)[1],
        "pooled_projection_dim": dimensions(shapes, names["pooled"], 2)[1],
        "guidance_embeds": names["guidance"] in shapes,
        "axes_dims_rope": _axes(head),
    }


_FLUX_ORIGINAL = {
    "in": "img_in.weight",
    "context": "txt_in.weight",
    "pooled": "vector_in.in_layer.weight",
    "guidance": "guidance_in.in_layer.weight",
    "norm": "double_blocks.0.img_attn.norm.key_norm.scale",
    "double": "double_blocks",
    "single": "single_blocks",
    "out": "final_layer.linear.weight",
}
_FLUX_DIFFUSERS = {
    "in": "x_embedder.weight",
    "context": "context_embedder.weight",
    "pooled": "time_text_embed.text_embedder.linear_1.weight",
    "guidance": "time_text_embed.guidance_embedder.linear_1.weight",
    "norm": "transformer_blocks.0.attn.norm_k.weight",
    "double": "transformer_blocks",
    "single": "single_transformer_blocks",
    "out": "proj_out.weight",
}


def _axes(head: int) -> list[int]:
    """How many numbers of a head turn with each position: an eighth with the first, the rest shared by row and column.

    That is 16, 56, 56 for the 128 of FLUX.1; each must be even.
    """
    for first in range(2, head, 2):
        if first * 8 >= head and (head - first) % 4 == 0:
            return [first, (head - first) // 2, (head - first) // 2]
    raise UnknownShape(f"a transformer with heads of {head} numbers, which three positions cannot share")
