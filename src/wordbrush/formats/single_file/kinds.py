"""Files that are not models of ours, told by the names of their tensors: LoRAs, embeddings, upscalers, other families.

What each is called, and what to do when one of them is given in the place of a model.
"""

from __future__ import annotations

from collections.abc import Mapping, Set
from dataclasses import dataclass

Shape = tuple[int, ...]


@dataclass(frozen=True)
class Kind:
    """What a file is.

    Attributes:
        name: for programs: "lora", "embedding", "vae", "other model" …
        what: for people, to stand after "is".
        remedy: what to do instead of opening it as a model.
    """

    name: str
    what: str
    remedy: str


_UNUSED = "this version has no use for it; open a Stable Diffusion 1, 2, XL or FLUX.1 model"

LORA = Kind("lora", "a LoRA, which changes a model but is none", "open a model and give this file as its LoRA")
EMBEDDING = Kind("embedding", "an embedding (textual inversion), not a model", "open a model and name it in the prompt")
VAE = Kind("vae", "an autoencoder (VAE) alone, without a model", "open a model and give this file as its VAE")
TINY_VAE = Kind(
    "vae", "a tiny autoencoder (TAESD) alone, without a model", "open a model and give this file as its VAE"
)
TEXT_ENCODER = Kind(
    "text encoder", "a text encoder alone, without a model", "open a model and give this file as its text encoder"
)
UNKNOWN = Kind("unknown", "no model, LoRA or embedding that is known here", "look up where it came from, and what for")

# Parts of names that no other kind of file has.
_LORA_MARKS = (
    ".lora_down.", ".lora_up.", ".lora_A.", ".lora_B.", ".lora.down.", ".lora.up.", "_lora.down.", "_lora.up.",
    ".lora_mid.", ".lora_linear_layer.", ".hada_w1_a", ".lokr_w1", ".lokr_w2", ".dora_scale", ".oft_blocks",
)  # fmt: skip
_EMBEDDING_NAMES = (
    {"emb_params"},
    {"clip_l"},
    {"clip_g"},
    {"clip_l", "clip_g"},
)

# A beginning of names -> what the file is, for use beside a model.
_BESIDE: tuple[tuple[str, str, str], ...] = (
    ("control_model.", "controlnet", "a ControlNet"),
    ("controlnet_cond_embedding.", "controlnet", "a ControlNet"),
    ("controlnet_x_embedder.", "controlnet", "a ControlNet for FLUX"),
    ("input_hint_block.", "controlnet", "a ControlNet"),
    ("lllite_unet", "controlnet", "a ControlNet-LLLite"),
    ("adapter.body.", "adapter", "a T2I-Adapter"),
    ("adapter.conv_in.", "adapter", "a T2I-Adapter"),
    ("ip_adapter.", "adapter", "an IP-Adapter"),
    ("image_proj.", "adapter", "an IP-Adapter"),
    ("redux_up.", "adapter", "a FLUX Redux adapter"),
    ("vision_model.", "image encoder", "a CLIP image encoder"),
    ("visual.", "image encoder", "an OpenCLIP image encoder"),
    ("conv_first.", "upscaler", "an upscaler (ESRGAN or a relative)"),
    ("params_ema.", "upscaler", "an upscaler (ESRGAN or a relative)"),
    ("params.", "upscaler", "an upscaler (ESRGAN or a relative)"),
    ("model.1.sub.0.RDB1.", "upscaler", "an upscaler (ESRGAN)"),
    ("model.1.sub.0.", "upscaler", "an upscaler (ESRGAN)"),
    ("down_blocks.0.motion_modules.", "adapter", "a motion module (AnimateDiff)"),
)

# A name without the prefix of the network that denoises -> the model of another family that has it.
_OTHER_FAMILIES: dict[str, str] = {
    "joint_blocks.0.context_block.adaLN_modulation.1.weight": "a Stable Diffusion 3 model",
    "distilled_guidance_layer.in_proj.weight": "a Chroma model",
    "double_stream_modulation_img.lin.weight": "a FLUX.2 model",
    "txt_in.individual_token_refiner.blocks.0.adaLN_modulation.1.weight": "a HunyuanVideo model",
    "clip_txt_mapper.weight": "a Stable Cascade model",
    "down_blocks.1.0.channelwise.0.weight": "a Stable Cascade model",
    "double_layers.0.attn.w1q.weight": "an AuraFlow model",
    "patchify_proj.weight": "an LTX-Video model",
    "head.modulation": "a Wan video model",
    "cap_embedder.0.weight": "a Lumina or Z-Image model",
    "txt_in.text_norm.weight": "a Qwen-Image model",
    "txt_norm.weight": "a Qwen-Image model",
    "t_embedder.mlp.0.weight": "a diffusion transformer of another family",
    "label_emb.weight": "a model with classes, such as the Stable Diffusion x4 upscaler",
}
_OTHER_MARKS: dict[str, str] = {
    "edm_mean": "a Playground v2.5 model",
    "edm_vpred.sigma_max": "a CosXL model",
    "embedder.model.ln_final.weight": "a Stable UnCLIP model",
    "embedder.model.visual.proj": "a Stable UnCLIP model",
    "depth_model.model.pretrained.model.cls_token": "a Stable Diffusion 2 depth model",
}


def other_model(names: Set[str], denoiser: Set[str]) -> Kind | None:
    """The model of a family that is not run here, if it is one.

    Args:
        names: of all tensors.
        denoiser: the same without the prefix of the network that denoises.
    """
    if any(name.startswith("control_model.") for name in names):
        return Kind("controlnet", "a ControlNet", _UNUSED)
    what = next((what for name, what in _OTHER_MARKS.items() if name in names), None) or next(
        (what for name, what in _OTHER_FAMILIES.items() if name in denoiser), None
    )
    return None if what is None else Kind("other model", what, _UNUSED)


def not_a_model(shapes: Mapping[str, Shape]) -> Kind:
    """What a file is that holds no network that denoises, no autoencoder and no text encoder."""
    if any(mark in name for name in shapes for mark in _LORA_MARKS):
        return LORA
    if is_embedding(shapes):
        return EMBEDDING
    for start, name, what in _BESIDE:
        if any(key.startswith(start) for key in shapes):
            return Kind(name, what, _UNUSED)
    return UNKNOWN


def is_embedding(shapes: Mapping[str, Shape]) -> bool:
    """Whether a file is a textual inversion: known names, or one matrix as wide as a text encoder's tokens."""
    names = set(shapes)
    if any(name.startswith("string_to_param") for name in names) or names in _EMBEDDING_NAMES:
        return True
    widths = (768, 1024, 1280, 2048)
    return 1 <= len(names) <= 2 and all(
        len(shape) in (1, 2) and shape[-1] in widths and "." not in name for name, shape in shapes.items()
    )
