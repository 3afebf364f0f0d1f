"""What a single file does not say: the configs of the published models, in the form of their config.json files.

The shape of a network is read off its tensors (`shapes.py`); from here come the settings that leave no trace in a shape
(scale of the latents, activation, heads) and the schedulers. The numbers are meant to be those of the diffusers folders
that the models' authors published, which were not at hand to compare with. Nothing is ever fetched.
"""

from __future__ import annotations

from typing import Any

Config = dict[str, Any]

_SD_DOWN = ["CrossAttnDownBlock2D"] * 3 + ["DownBlock2D"]
_SD_UP = ["UpBlock2D"] + ["CrossAttnUpBlock2D"] * 3

UNETS: dict[str, Config] = {
    "sd1": {
        "sample_size": 64,
        "in_channels": 4,
        "out_channels": 4,
        "down_block_types": _SD_DOWN,
        "up_block_types": _SD_UP,
        "block_out_channels": [320, 640, 1280, 1280],
        "layers_per_block": 2,
        "cross_attention_dim": 768,
        "transformer_layers_per_block": 1,
        "attention_head_dim": 8,
        "use_linear_projection": False,
    },
    "sd2": {
        "sample_size": 96,
        "in_channels": 4,
        "out_channels": 4,
        "down_block_types": _SD_DOWN,
        "up_block_types": _SD_UP,
        "block_out_channels": [320, 640, 1280, 1280],
        "layers_per_block": 2,
        "cross_attention_dim": 1024,
        "transformer_layers_per_block": 1,
        "attention_head_dim": [5, 10, 20, 20],
        "use_linear_projection": True,
    },
    "sdxl": {
        "sample_size": 128,
        "in_channels": 4,
        "out_channels": 4,
        "down_block_types": ["DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"],
        "up_block_types": ["CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"],
        "block_out_channels": [320, 640, 1280],
        "layers_per_block": 2,
        "cross_attention_dim": 2048,
        "transformer_layers_per_block": [1, 2, 10],
        "attention_head_dim": [5, 10, 20],
        "use_linear_projection": True,
        "addition_embed_type": "text_time",
        "addition_time_embed_dim": 256,
        "projection_class_embeddings_input_dim": 2816,
    },
    "sdxl-refiner": {
        "sample_size": 128,
        "in_channels": 4,
        "out_channels": 4,
        "down_block_types": ["DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D", "DownBlock2D"],
        "up_block_types": ["UpBlock2D", "CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"],
        "block_out_channels": [384, 768, 1536, 1536],
        "layers_per_block": 2,
        "cross_attention_dim": 1280,
        "transformer_layers_per_block": 4,
        "attention_head_dim": [6, 12, 24, 24],
        "use_linear_projection": True,
        "addition_embed_type": "text_time",
        "addition_time_embed_dim": 256,
        "projection_class_embeddings_input_dim": 2560,
    },
}

_FLUX: Config = {
    "in_channels": 64,
    "out_channels": None,
    "num_layers": 19,
    "num_single_layers": 38,
    "attention_head_dim": 128,
    "num_attention_heads": 24,
    "joint_attention_dim": 4096,
    "pooled_projection_dim": 768,
    "guidance_embeds": True,
    "axes_dims_rope": [16, 56, 56],
}
TRANSFORMERS: dict[str, Config] = {"flux-dev": _FLUX, "flux-schnell": _FLUX | {"guidance_embeds": False}}

_VAE: Config = {
    "in_channels": 3,
    "out_channels": 3,
    "block_out_channels": [128, 256, 512, 512],
    "layers_per_block": 2,
    "latent_channels": 4,
    "norm_num_groups": 32,
    "sample_size": 512,
    "scaling_factor": 0.18215,
    "shift_factor": None,
    "use_quant_conv": True,
    "use_post_quant_conv": True,
    "mid_block_add_attention": True,
}
_XL_VAE = _VAE | {"sample_size": 1024, "scaling_factor": 0.13025, "force_upcast": True}
_FLUX_VAE = _VAE | {
    "latent_channels": 16,
    "sample_size": 1024,
    "scaling_factor": 0.3611,
    "shift_factor": 0.1159,
    "use_quant_conv": False,
    "use_post_quant_conv": False,
    "force_upcast": True,
}
VAES: dict[str, Config] = {
    "sd1": _VAE,
    "sd2": _VAE | {"sample_size": 768},
    "sdxl": _XL_VAE,
    "sdxl-refiner": _XL_VAE,
    "flux-dev": _FLUX_VAE,
    "flux-schnell": _FLUX_VAE,
}

# eos_token_id is what the published files say; 2 stands for "pool at the highest id", which is the end token
_CLIP_L: Config = {
    "vocab_size": 49408,
    "hidden_size": 768,
    "intermediate_size": 3072,
    "projection_dim": 768,
    "num_hidden_layers": 12,
    "num_attention_heads": 12,
    "max_position_embeddings": 77,
    "hidden_act": "quick_gelu",
    "layer_norm_eps": 1e-5,
    "bos_token_id": 0,
    "eos_token_id": 2,
    "pad_token_id": 1,
}
_OPEN_CLIP_H = _CLIP_L | {
    "hidden_size": 1024,
    "intermediate_size": 4096,
    "projection_dim": 512,
    "num_hidden_layers": 23,
    "num_attention_heads": 16,
    "hidden_act": "gelu",
}
_OPEN_CLIP_BIGG = _CLIP_L | {
    "hidden_size": 1280,
    "intermediate_size": 5120,
    "projection_dim": 1280,
    "num_hidden_layers": 32,
    "num_attention_heads": 20,
    "hidden_act": "gelu",
}
_T5_XXL: Config = {
    "vocab_size": 32128,
    "d_model": 4096,
    "d_kv": 64,
    "d_ff": 10240,
    "num_layers": 24,
    "num_heads": 64,
    "relative_attention_num_buckets": 32,
    "relative_attention_max_distance": 128,
    "layer_norm_epsilon": 1e-6,
    "feed_forward_proj": "gated-gelu",
}

# family -> part -> config
TEXT_ENCODERS: dict[str, dict[str, Config]] = {
    "sd1": {"text_encoder": _CLIP_L},
    "sd2": {"text_encoder": _OPEN_CLIP_H},
    "sdxl": {"text_encoder": _CLIP_L, "text_encoder_2": _OPEN_CLIP_BIGG},
    "sdxl-refiner": {"text_encoder_2": _OPEN_CLIP_BIGG},
    "flux-dev": {"text_encoder": _CLIP_L, "text_encoder_2": _T5_XXL},
    "flux-schnell": {"text_encoder": _CLIP_L, "text_encoder_2": _T5_XXL},
}

_BETAS: Config = {
    "num_train_timesteps": 1000,
    "beta_schedule": "scaled_linear",
    "beta_start": 0.00085,
    "beta_end": 0.012,
    "trained_betas": None,
    "clip_sample": False,
    "set_alpha_to_one": False,
    "steps_offset": 1,
}
_EULER = _BETAS | {"_class_name": "EulerDiscreteScheduler", "timestep_spacing": "leading"}
_SCHEDULERS: dict[str, Config] = {
    "sd1": _BETAS | {"_class_name": "PNDMScheduler", "skip_prk_steps": True},
    "sd2": _BETAS | {"_class_name": "DDIMScheduler"},
    "sdxl": _EULER,
    "sdxl-refiner": _EULER,
    "flux-dev": {
        "_class_name": "FlowMatchEulerDiscreteScheduler",
        "num_train_timesteps": 1000,
        "shift": 3.0,
        "use_dynamic_shifting": True,
        "base_shift": 0.5,
        "max_shift": 1.15,
        "base_image_seq_len": 256,
        "max_image_seq_len": 4096,
    },
    "flux-schnell": {
        "_class_name": "FlowMatchEulerDiscreteScheduler",
        "num_train_timesteps": 1000,
        "shift": 1.0,
        "use_dynamic_shifting": False,
    },
}
_LCM = _BETAS | {"_class_name": "LCMScheduler", "set_alpha_to_one": True, "original_inference_steps": 50}
_EDIT = _BETAS | {"_class_name": "EulerAncestralDiscreteScheduler"}
_TYPES = {"epsilon": "epsilon", "v": "v_prediction", "sample": "sample"}


def scheduler_config(family: str, *, variant: str, prediction: str, zero_terminal_snr: bool) -> Config:
    """The scheduler_config.json of a model.

    Args:
        variant: one of `detect.VARIANTS`.
        prediction: "epsilon", "v" or "sample"; of a flow, "flow".
    """
    if prediction == "flow":
        return dict(_SCHEDULERS[family])
    config = {"lcm": _LCM, "instruct-pix2pix": _EDIT}.get(variant, _SCHEDULERS[family])
    if zero_terminal_snr:
        # such a model must begin at pure noise, which only trailing steps reach (Lin 2023, §3)
        name = "EulerDiscreteScheduler" if family.startswith("sdxl") else "DDIMScheduler"
        config = config | {"_class_name": name, "rescale_betas_zero_snr": True, "timestep_spacing": "trailing"}
        config.pop("skip_prk_steps", None)
    return config | {"prediction_type": _TYPES[prediction]}


def latents_side(family: str, *, variant: str, prediction: str | None) -> int:
    """The side of the latents a family was trained on, in latents.

    Stable Diffusion 2 was trained at 768 pixels to predict v, at 512 to predict noise.
    """
    if family == "sd2" and (prediction != "v" or variant != "base"):
        return 64
    return int(UNETS[family]["sample_size"]) if family in UNETS else 128
