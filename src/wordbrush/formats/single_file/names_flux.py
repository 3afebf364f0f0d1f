"""The FLUX.1 transformer in the names of its authors (black-forest-labs/flux, `model.py` and `modules/layers.py`)."""

from __future__ import annotations

from wordbrush.formats.single_file.keymap import STACKED, SWAPPED, Link, Names
from wordbrush.networks.flux_config import FluxConfig

_ENDS = {
    "x_embedder": "img_in",
    "context_embedder": "txt_in",
    "time_text_embed.timestep_embedder": "time_in",
    "time_text_embed.guidance_embedder": "guidance_in",
    "time_text_embed.text_embedder": "vector_in",
    "proj_out": "final_layer.linear",
}
_DOUBLE = {
    "norm1.linear": "img_mod.lin",
    "norm1_context.linear": "txt_mod.lin",
    "ff.net.0.proj": "img_mlp.0",
    "ff.net.2": "img_mlp.2",
    "ff_context.net.0.proj": "txt_mlp.0",
    "ff_context.net.2": "txt_mlp.2",
    "attn.to_out.0": "img_attn.proj",
    "attn.to_add_out": "txt_attn.proj",
    "attn.norm_q.weight": "img_attn.norm.query_norm.scale",
    "attn.norm_k.weight": "img_attn.norm.key_norm.scale",
    "attn.norm_added_q.weight": "txt_attn.norm.query_norm.scale",
    "attn.norm_added_k.weight": "txt_attn.norm.key_norm.scale",
}
_DOUBLE_STACKS = {
    "img_attn.qkv": ("attn.to_q", "attn.to_k", "attn.to_v"),
    "txt_attn.qkv": ("attn.add_q_proj", "attn.add_k_proj", "attn.add_v_proj"),
}
_SINGLE = {
    "norm.linear": "modulation.lin",
    "proj_out": "linear2",
    "attn.norm_q.weight": "norm.query_norm.scale",
    "attn.norm_k.weight": "norm.key_norm.scale",
}
_SINGLE_STACKS = {"linear1": ("attn.to_q", "attn.to_k", "attn.to_v", "proj_mlp")}


def flux_names(config: FluxConfig) -> Names:
    """Ours -> the authors', which stack query, key, value, and in single blocks the feed-forward layer's way in.

    The last normalisation's linear layer gives shift, then scale in the authors' file; in ours scale comes first.
    """
    modules = dict(_ENDS)
    for embedder in ("time_in", "guidance_in", "vector_in"):
        own = next(ours for ours, theirs in _ENDS.items() if theirs == embedder)
        modules |= {f"{own}.linear_1": f"{embedder}.in_layer", f"{own}.linear_2": f"{embedder}.out_layer"}
    links = [
        Link(f"final_layer.adaLN_modulation.1.{kind}", (f"norm_out.linear.{kind}",), SWAPPED)
        for kind in ("weight", "bias")
    ]
    for own, original, count, renamed, stacks in (
        ("transformer_blocks", "double_blocks", config.num_layers, _DOUBLE, _DOUBLE_STACKS),
        ("single_transformer_blocks", "single_blocks", config.num_single_layers, _SINGLE, _SINGLE_STACKS),
    ):
        for index in range(count):
            modules |= {f"{own}.{index}.{ours}": f"{original}.{index}.{theirs}" for ours, theirs in renamed.items()}
            for stack, parts in stacks.items():
                for kind in ("weight", "bias"):
                    names = tuple(f"{own}.{index}.{part}.{kind}" for part in parts)
                    links.append(Link(f"{original}.{index}.{stack}.{kind}", names, STACKED))
    return Names(modules, tuple(links))
