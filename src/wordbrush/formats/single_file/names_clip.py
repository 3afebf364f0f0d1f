"""CLIP's text tower in the names of OpenCLIP, which Stable Diffusion 2 and XL use for their larger encoder.

The first CLIP (Stable Diffusion 1, XL's smaller encoder, FLUX) has transformers' names in every file: our own.
"""

from __future__ import annotations

from wordbrush.formats.single_file.keymap import STACKED, TRANSPOSED, Link, Names
from wordbrush.networks.clip_config import CLIPTextConfig

_LAYER = {
    "layer_norm1": "ln_1",
    "layer_norm2": "ln_2",
    "mlp.fc1": "mlp.c_fc",
    "mlp.fc2": "mlp.c_proj",
    "self_attn.out_proj": "attn.out_proj",
}


def open_clip_names(config: CLIPTextConfig, *, projection: bool) -> Names:
    """Ours -> OpenCLIP's, which stacks query, key and value, and multiplies by the projection from the other side."""
    modules = {
        "text_model.embeddings.token_embedding": "token_embedding",
        "text_model.embeddings.position_embedding.weight": "positional_embedding",
        "text_model.final_layer_norm": "ln_final",
    }
    links = [Link("text_projection", ("text_projection.weight",), TRANSPOSED)] if projection else []
    for index in range(config.num_hidden_layers):
        own, original = f"text_model.encoder.layers.{index}", f"transformer.resblocks.{index}"
        modules |= {f"{own}.{ours}": f"{original}.{theirs}" for ours, theirs in _LAYER.items()}
        for kind in ("weight", "bias"):
            stack = tuple(f"{own}.self_attn.{name}_proj.{kind}" for name in "qkv")
            links.append(Link(f"{original}.attn.in_proj_{kind}", stack, STACKED))
    return Names(modules, tuple(links))
