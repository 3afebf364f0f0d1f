"""The config of a U-Net, read off the names and shapes of its tensors."""

from __future__ import annotations

import re
from collections import defaultdict
from dataclasses import dataclass, field

from wordbrush.formats.single_file.configs import Config
from wordbrush.formats.single_file.shapes import Shapes, UnknownShape, counted, dimensions

PRUNED = (
    "a U-Net from which layers were removed (as in SSD-1B, Segmind Vega or Tiny SD), and this version runs only whole "
    "ones; use the model it was made from"
)

_ORIGINAL = re.compile(r"(input|middle|output)_blocks?\.(\d{1,4})\.(?:(\d)\.)?(?:transformer_blocks\.(\d{1,4})\.)?")
_DIFFUSERS = re.compile(
    r"(down|mid|up)_blocks?\.(?:(\d{1,4})\.)?(resnets|attentions|downsamplers|upsamplers)\.(\d{1,4})\."
    r"(?:transformer_blocks\.(\d{1,4})\.)?"
)


@dataclass
class _Level:
    """What one level holds, on the way down or up."""

    channels: int = 0
    depths: list[int] = field(default_factory=list)
    """Transformer layers after each residual block."""


def unet_config(shapes: Shapes, *, original: bool) -> Config:
    """The config.json of a U-Net but for what its shapes do not tell (`sample_size`, the normalisation's groups).

    Args:
        shapes: the names in the file, without the prefix of the part.
        original: whether the names are those of the original code, else diffusers'.

    Raises:
        UnknownShape: it is not a whole U-Net of Stable Diffusion.
    """
    down, middle, up = _original_levels(shapes) if original else _diffusers_levels(shapes)
    _check_symmetry(down, middle, up)
    ends = ("input_blocks.0.0", "out.2") if original else ("conv_in", "conv_out")
    conv_in, conv_out = (dimensions(shapes, f"{end}.weight", 4) for end in ends)
    attends = [any(level.depths) for level in down]
    context = dimensions(shapes, _first(shapes, "attn2.to_k.weight"), 2)[1]
    linear = len(shapes[_first(shapes, "proj_in.weight")]) == 2
    channels = [level.channels for level in down]
    depths = [level.depths[0] for level in down[:-1]] + [middle]
    layers = [len(level.depths) for level in down]
    config: Config = {
        "in_channels": conv_in[1],
        "out_channels": conv_out[0],
        "down_block_types": ["CrossAttnDownBlock2D" if yes else "DownBlock2D" for yes in attends],
        "up_block_types": ["CrossAttnUpBlock2D" if yes else "UpBlock2D" for yes in reversed(attends)],
        "block_out_channels": channels,
        "layers_per_block": _one_if_equal(layers),
        "cross_attention_dim": context,
        "transformer_layers_per_block": middle if {*depths} <= {0, middle} else [depth or 1 for depth in depths],
        # the first Stable Diffusion has 8 heads at every level; those after it, heads of 64 numbers
        "attention_head_dim": [max(1, count // 64) for count in channels] if linear else 8,
        "use_linear_projection": linear,
    }
    added = "label_emb.0.0.weight" if original else "add_embedding.linear_1.weight"
    if added in shapes:
        config |= {
            "addition_embed_type": "text_time",
            "addition_time_embed_dim": 256,
            "projection_class_embeddings_input_dim": dimensions(shapes, added, 2)[1],
        }
    guidance = "time_embed.cond_proj.weight" if original else "time_embedding.cond_proj.weight"
    if guidance in shapes:
        config["time_cond_proj_dim"] = dimensions(shapes, guidance, 2)[1]
    return config


def _original_levels(shapes: Shapes) -> tuple[list[_Level], int, list[_Level]]:
    depths: dict[tuple[str, int], set[int]] = defaultdict(set)
    blocks: dict[str, set[int]] = {"input": set(), "middle": set(), "output": set()}
    for name in shapes:
        if found := _ORIGINAL.match(name):
            kind, number, _, layer = found.groups()
            blocks[kind].add(int(number))
            if layer is not None:
                depths[kind, int(number)].add(int(layer))
    down, up = [_Level()], [_Level()]
    for number in range(1, counted("input_blocks", blocks["input"])):
        if f"input_blocks.{number}.0.op.weight" in shapes:
            down.append(_Level())
            continue
        down[-1].channels = dimensions(shapes, f"input_blocks.{number}.0.out_layers.3.weight", 4)[0]
        down[-1].depths.append(len(depths["input", number]))
    for number in range(counted("output_blocks", blocks["output"])):
        up[-1].channels = dimensions(shapes, f"output_blocks.{number}.0.out_layers.3.weight", 4)[0]
        up[-1].depths.append(len(depths["output", number]))
        if any(f"output_blocks.{number}.{piece}.conv.weight" in shapes for piece in (1, 2)):
            up.append(_Level())
    return down, len(depths["middle", 1]), up


def _diffusers_levels(shapes: Shapes) -> tuple[list[_Level], int, list[_Level]]:
    depths: dict[tuple[str, int, int], set[int]] = defaultdict(set)
    resnets: dict[tuple[str, int], set[int]] = defaultdict(set)
    for name in shapes:
        if found := _DIFFUSERS.match(name):
            half, level, kind, number, layer = found.groups()
            place = (half, int(level or 0))
            if kind == "resnets":
                resnets[place].add(int(number))
            if layer is not None:
                depths[*place, int(number)].add(int(layer))
    halves: dict[str, list[_Level]] = {}
    for half in ("down", "up"):
        halves[half] = []
        for level in range(counted(f"{half}_blocks", {level for found, level in resnets if found == half})):
            count = counted(f"{half}_blocks.{level}.resnets", resnets[half, level])
            channels = dimensions(shapes, f"{half}_blocks.{level}.resnets.0.conv2.weight", 4)[0]
            halves[half].append(_Level(channels, [len(depths[half, level, i]) for i in range(count)]))
    return halves["down"], len(depths["mid", 0, 0]), halves["up"]


def _check_symmetry(down: list[_Level], middle: int, up: list[_Level]) -> None:
    """Every level goes up with one residual block more than down, and with the same transformers after each."""
    if not down or not all(level.depths for level in (*down, *up)):
        raise UnknownShape("a U-Net some of whose blocks are missing; copy the file again")
    mirrored = [level.depths + level.depths[:1] for level in reversed(down)]
    whole = (
        middle > 0
        and [level.depths for level in up] == mirrored
        and all(len(set(level.depths)) == 1 for level in down)
        and [level.channels for level in up] == [level.channels for level in reversed(down)]
        and down[-1].depths[0] in (0, middle)
    )
    if not whole:
        raise UnknownShape(PRUNED)


def _first(shapes: Shapes, ending: str) -> str:
    """The first tensor whose name ends so; one that attends to the text is part of every U-Net of these models."""
    found = next((name for name in shapes if name.endswith(ending)), None)
    if found is None:
        raise UnknownShape(PRUNED)
    return found


def _one_if_equal(values: list[int]) -> int | list[int]:
    return values[0] if len(set(values)) == 1 else values
