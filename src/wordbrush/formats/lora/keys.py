"""A LoRA file's keys taken apart: which network, which layer, which tensor of the layer's rule.

    lora_unet_down_blocks_0_attentions_0_proj_in.lora_down.weight       kohya, LyCORIS, OneTrainer
    unet.down_blocks.0.attentions.0.proj_in.lora_A.weight               diffusers with PEFT
    base_model.model.down_blocks.0.attentions.0.proj_in.lora_A.weight   PEFT itself, fal
    unet.mid_block.attentions.0.…attn1.processor.to_q_lora.down.weight  diffusers before PEFT
    diffusion_model.double_blocks.0.img_attn.qkv.lora_A.weight          ComfyUI, AI-Toolkit
    double_blocks.0.processor.qkv_lora1.down.weight                     XLabs
    double_blocks.0.img_attn.norm.query_norm.scale                      Black Forest Labs

Where one layer's name ends and the next begins cannot be told from underscores, so names are not translated here: they
are only offered, with every dot an underscore, to be looked up among the layers that the networks really have.
"""

from __future__ import annotations

import re
from collections.abc import Iterator

DENOISERS = ("unet", "transformer")
"""The names that a model's denoising network can have; a model has one of them."""

TEXT_ENCODERS = ("text_encoder", "text_encoder_2")

# Names of a layer's tensors, as files end their keys. PEFT may put an adapter's name before `.weight`.
_ADAPTER = r"(?:\.[^.]+)?"
_SUFFIXES = {
    r"\.lora_down\.weight": "down",
    r"\.lora_up\.weight": "up",
    r"\.lora_mid\.weight": "mid",
    rf"\.lora_A{_ADAPTER}\.weight": "down",
    rf"\.lora_B{_ADAPTER}\.weight": "up",
    rf"\.lora_B{_ADAPTER}\.bias": "up_bias",
    r"(?:\.lora|\.lora_linear_layer)\.down\.weight": "down",
    r"(?:\.lora|\.lora_linear_layer)\.up\.weight": "up",
    r"_lora\.down\.weight": "down",
    r"_lora\.up\.weight": "up",
    r"(?<=_lora[12])\.down\.weight": "down",
    r"(?<=_lora[12])\.up\.weight": "up",
    rf"\.lora_magnitude_vector(?:{_ADAPTER}\.weight)?": "magnitude",
    r"\.dora_scale": "dora_scale",
    r"(?:\.lora)?\.alpha": "alpha",
    r"\.(hada_(?:w[12]_[ab]|t[12]))": "",  # these are called by one name everywhere
    r"\.(lokr_(?:w[12](?:_[ab])?|t2))": "",
    r"\.(?:diff|w_norm)": "diff",
    r"\.(?:diff_b|b_norm)": "diff_b",
    r"(?<=_norm)\.scale(?:\.set_weight)?": "set",  # Black Forest Labs', and the same as ComfyUI passes it on
}
_SUFFIX = [(re.compile(rf"^(.+?){suffix}$"), part) for suffix, part in _SUFFIXES.items()]

# Longer ones first. `lora_te2` and `lora_te3` are both the second encoder: CLIP bigG to SDXL, T5 to FLUX.
_PREFIXES = (
    ("lora_unet", DENOISERS),
    ("lora_transformer", DENOISERS),
    ("model.diffusion_model", DENOISERS),
    ("diffusion_model", DENOISERS),
    ("unet", DENOISERS),
    ("transformer", DENOISERS),
    ("lora_te1", TEXT_ENCODERS[:1]),
    ("lora_te2", TEXT_ENCODERS[1:]),
    ("lora_te3", TEXT_ENCODERS[1:]),
    ("lora_te", TEXT_ENCODERS[:1]),
    ("text_encoder_2", TEXT_ENCODERS[1:]),
    ("text_encoder", TEXT_ENCODERS[:1]),
    ("text_encoders.clip_l.transformer", TEXT_ENCODERS[:1]),
    ("text_encoders.clip_g.transformer", TEXT_ENCODERS[1:]),
    ("text_encoders.t5xxl.transformer", TEXT_ENCODERS[1:]),
    ("clip_l", TEXT_ENCODERS[:1]),
    ("clip_g", TEXT_ENCODERS[1:]),
    ("t5", TEXT_ENCODERS[1:]),
)
_ANYWHERE = ("base_model.model", "lycoris")
_EVERY = (*DENOISERS, *TEXT_ENCODERS)


def split_key(key: str) -> tuple[str, str] | None:
    """Returns the part of a key that names the layer, and which tensor it is; None for a key that is not a LoRA's."""
    for pattern, part in _SUFFIX:
        if match := pattern.match(key):
            return match[1], part or match[2]
    return None


# What ends the names of adapters that change a model in other ways than by adding to its weights.
_OTHERS = (
    (re.compile(r"\.(?:oft_(?:blocks|diag|R|r|s)|boft_[RsP])(?:\.|$)"), "an OFT LoRA"),
    (re.compile(r"\.(?:ia3_l|on_input)(?:\.|$)"), "an IA3 adapter"),
    (re.compile(r"\.vera_lambda_[bd](?:\.|$)"), "a VeRA adapter"),
)


def other_adapter(key: str) -> str | None:
    """What kind of adapter has a key of this name, of those that are not applied here; None for any other key."""
    return next((kind for pattern, kind in _OTHERS if pattern.search(key)), None)


def candidates(layer: str) -> Iterator[tuple[str, str]]:
    """Every reading of a layer's name, as network and flat name of the layer, the likeliest first.

    A prefix can also be the beginning of a layer's own name (`transformer_blocks.0` has no prefix), so the name is also
    offered whole.
    """
    layer = layer.replace(".processor.", ".").replace(".checkpoint.", ".")
    for prefix in _ANYWHERE:
        layer = _without(layer, prefix) or layer
    for prefix, networks in _PREFIXES:
        rest = _without(layer, prefix)
        if rest is not None:
            yield from ((network, flat(rest)) for network in networks)
    yield from ((network, flat(layer)) for network in _EVERY)


def named_network(layer: str) -> str | None:
    """The network that a layer's prefix names, "unet" for either denoiser; None without a prefix."""
    return next((networks[0] for prefix, networks in _PREFIXES if _without(layer, prefix) is not None), None)


def flat(name: str) -> str:
    """A name with every dot an underscore."""
    return name.replace(".", "_")


def _without(layer: str, prefix: str) -> str | None:
    for separator in "._":
        if layer.startswith(prefix + separator):
            return layer[len(prefix) + 1 :]
    return None
