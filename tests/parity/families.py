"""Tiny random models of every family in diffusers' own folders, shaped after the rules of their families.

Heads, groups and activations are where the published models have them, so that a file in an original layout, which does
not state them, means the same network.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import diffusers
import torch
import transformers

LENGTH = 24
"""Tokens that the CLIP encoders read at a time."""
WIDTH = 64
"""Of a CLIP encoder: one head."""

_BETAS: dict[str, Any] = {
    "beta_start": 0.00085, "beta_end": 0.012, "beta_schedule": "scaled_linear", "num_train_timesteps": 1000,
    "trained_betas": None, "clip_sample": False, "set_alpha_to_one": False, "skip_prk_steps": True, "steps_offset": 1,
}  # fmt: skip
_FLOW = {"_class_name": "FlowMatchEulerDiscreteScheduler", "num_train_timesteps": 1000}
_SHIFTS = {"base_shift": 0.5, "max_shift": 1.15, "base_image_seq_len": 256, "max_image_seq_len": 4096}
# What the published models say of their sampling; what diffusers writes itself would spell out every default besides.
PUBLISHED: dict[str, dict[str, Any]] = {
    "sd1": _BETAS | {"_class_name": "PNDMScheduler"},
    "sd2-v": _BETAS | {"_class_name": "DDIMScheduler", "prediction_type": "v_prediction"},
    "inpaint": _BETAS | {"_class_name": "PNDMScheduler"},
    "edit": _BETAS | {"_class_name": "EulerAncestralDiscreteScheduler", "prediction_type": "epsilon"},
    "lcm": _BETAS | {"_class_name": "LCMScheduler", "set_alpha_to_one": True, "original_inference_steps": 50},
    "sdxl": _BETAS | {"_class_name": "EulerDiscreteScheduler", "timestep_spacing": "leading"},
    "flux-dev": _FLOW | {"shift": 3.0, "use_dynamic_shifting": True} | _SHIFTS,
    "flux-schnell": _FLOW | {"shift": 1.0, "use_dynamic_shifting": False} | _SHIFTS,
}
_SAME = {"sdxl-inpaint": "sdxl", "sdxl-refiner": "sdxl", "flux-fill": "flux-dev"}
_PLAIN_UNET = {
    "sample_size": 8, "layers_per_block": 1, "block_out_channels": (32, 64),
    "down_block_types": ("CrossAttnDownBlock2D", "DownBlock2D"),
    "up_block_types": ("UpBlock2D", "CrossAttnUpBlock2D"),
}  # fmt: skip
_SD1_UNET = _PLAIN_UNET | {"cross_attention_dim": WIDTH, "attention_head_dim": 8}
_XL_UNET = _PLAIN_UNET | {
    "down_block_types": ("DownBlock2D", "CrossAttnDownBlock2D"), "up_block_types": ("CrossAttnUpBlock2D", "UpBlock2D"),
    "use_linear_projection": True, "attention_head_dim": (1, 1), "transformer_layers_per_block": (1, 2),
    "addition_embed_type": "text_time", "addition_time_embed_dim": 8,
}  # fmt: skip


class Maker:
    """Builds folders, each once; the same bits every time."""

    def __init__(self, root: Path, tokenizer_files: Path, t5_tokenizer: Path) -> None:
        self.root, self.files, self.t5_tokenizer = root, tokenizer_files, t5_tokenizer
        self.vocabulary = json.loads((tokenizer_files / "vocab.json").read_text(encoding="utf-8"))

    def __call__(self, name: str) -> Path:
        """The folder of that model."""
        folder = self.root / name
        if not folder.exists():
            with torch.random.fork_rng():
                torch.manual_seed(sum(map(ord, name)))
                pipeline = FAMILIES[name](self)
            livelier(pipeline)
            pipeline.save_pretrained(folder)
            published(folder, PUBLISHED[_SAME.get(name, name)])
        return folder

    def clip(self, *, act: str = "quick_gelu", projection: bool = False) -> Any:
        config = transformers.CLIPTextConfig(
            vocab_size=len(self.vocabulary), hidden_size=WIDTH, intermediate_size=2 * WIDTH, num_hidden_layers=3,
            num_attention_heads=1, max_position_embeddings=LENGTH, projection_dim=WIDTH, hidden_act=act,
            bos_token_id=self.vocabulary["<|startoftext|>"], eos_token_id=self.vocabulary["<|endoftext|>"],
            pad_token_id=self.vocabulary["<|endoftext|>"],
        )  # fmt: skip
        return (transformers.CLIPTextModelWithProjection if projection else transformers.CLIPTextModel)(config)

    def tokenizer(self, pad: str = "<|endoftext|>") -> Any:
        merges = (self.files / "merges.txt").read_text(encoding="utf-8").splitlines()[1:]
        pairs = [tuple(line.split()) for line in merges]
        return transformers.CLIPTokenizer(
            vocab=self.vocabulary, merges=pairs, model_max_length=LENGTH, pad_token=pad
        )


def livelier(pipeline: Any) -> None:
    """Spreads the decoder's pictures over the range of colours."""
    with torch.no_grad():
        pipeline.vae.decoder.conv_out.weight.mul_(4.0)


def published(folder: Path, scheduler: dict[str, Any]) -> None:
    """Gives a folder that scheduler."""
    (folder / "scheduler" / "scheduler_config.json").write_text(json.dumps(scheduler), encoding="utf-8")
    index = json.loads((folder / "model_index.json").read_text(encoding="utf-8"))
    index["scheduler"] = ["diffusers", scheduler["_class_name"]]
    (folder / "model_index.json").write_text(json.dumps(index), encoding="utf-8")


def vae(latent_channels: int = 4, **options: Any) -> Any:
    return diffusers.AutoencoderKL(
        block_out_channels=(32, 32, 64), down_block_types=("DownEncoderBlock2D",) * 3,
        up_block_types=("UpDecoderBlock2D",) * 3, latent_channels=latent_channels, layers_per_block=1, **options,
    )  # fmt: skip


def _sd(maker: Maker, kind: Any, unet: dict[str, Any], act: str = "quick_gelu") -> Any:
    return kind(
        unet=diffusers.UNet2DConditionModel(**unet), vae=vae(), text_encoder=maker.clip(act=act),
        tokenizer=maker.tokenizer(), scheduler=diffusers.LCMScheduler(), safety_checker=None, feature_extractor=None,
        requires_safety_checker=False,
    )  # fmt: skip


def _xl(maker: Maker, kind: Any, unet: dict[str, Any], **options: Any) -> Any:
    return kind(
        unet=diffusers.UNet2DConditionModel(**unet), vae=vae(scaling_factor=0.13025), text_encoder=maker.clip(),
        text_encoder_2=maker.clip(act="gelu", projection=True), tokenizer=maker.tokenizer(),
        tokenizer_2=maker.tokenizer(pad="!"), scheduler=diffusers.EulerDiscreteScheduler(), **options,
    )  # fmt: skip


def _refiner(maker: Maker) -> Any:
    unet = _XL_UNET | {"cross_attention_dim": WIDTH, "projection_class_embeddings_input_dim": WIDTH + 5 * 8}
    pipeline = _xl(
        maker, diffusers.StableDiffusionXLImg2ImgPipeline, unet, requires_aesthetics_score=True,
        force_zeros_for_empty_prompt=False,
    )  # fmt: skip
    pipeline.register_modules(text_encoder=None, tokenizer=None)
    return pipeline


def _flux(maker: Maker, *, dev: bool, kind: Any = diffusers.FluxPipeline, channels: int = 16) -> Any:
    transformer = diffusers.FluxTransformer2DModel(
        in_channels=channels, out_channels=16, num_layers=1, num_single_layers=2, attention_head_dim=16,
        num_attention_heads=2, joint_attention_dim=32, pooled_projection_dim=WIDTH, guidance_embeds=dev,
        axes_dims_rope=(4, 6, 6),
    )  # fmt: skip
    tokenizer = transformers.T5TokenizerFast.from_pretrained(maker.t5_tokenizer)
    t5 = transformers.T5EncoderModel(
        transformers.T5Config(
            vocab_size=len(tokenizer), d_model=32, d_kv=16, d_ff=64, num_layers=2, num_heads=2,
            feed_forward_proj="gated-gelu", is_encoder_decoder=False,
        )
    )  # fmt: skip
    return kind(
        transformer=transformer,
        vae=vae(scaling_factor=0.3611, shift_factor=0.1159, use_quant_conv=False, use_post_quant_conv=False),
        text_encoder=maker.clip(), text_encoder_2=t5, tokenizer=maker.tokenizer(), tokenizer_2=tokenizer,
        scheduler=diffusers.FlowMatchEulerDiscreteScheduler(),
    )  # fmt: skip


_SD2_UNET = _PLAIN_UNET | {
    "cross_attention_dim": WIDTH, "use_linear_projection": True, "attention_head_dim": (1, 2),
    "block_out_channels": (64, 128),
}  # fmt: skip
_XL_BASE = _XL_UNET | {"cross_attention_dim": 2 * WIDTH, "projection_class_embeddings_input_dim": WIDTH + 6 * 8}

FAMILIES: dict[str, Callable[[Maker], Any]] = {
    "sd1": lambda maker: _sd(maker, diffusers.StableDiffusionPipeline, _SD1_UNET),
    "sd2-v": lambda maker: _sd(maker, diffusers.StableDiffusionPipeline, _SD2_UNET, act="gelu"),
    "inpaint": lambda maker: _sd(maker, diffusers.StableDiffusionInpaintPipeline, _SD1_UNET | {"in_channels": 9}),
    "edit": lambda maker: _sd(maker, diffusers.StableDiffusionInstructPix2PixPipeline, _SD1_UNET | {"in_channels": 8}),
    "lcm": lambda maker: _sd(maker, diffusers.LatentConsistencyModelPipeline, _SD1_UNET | {"time_cond_proj_dim": 32}),
    "sdxl": lambda maker: _xl(maker, diffusers.StableDiffusionXLPipeline, _XL_BASE),
    "sdxl-inpaint": lambda maker: _xl(maker, diffusers.StableDiffusionXLInpaintPipeline, _XL_BASE | {"in_channels": 9}),
    "sdxl-refiner": _refiner,
    "flux-dev": lambda maker: _flux(maker, dev=True),
    "flux-schnell": lambda maker: _flux(maker, dev=False),
    "flux-fill": lambda maker: _flux(maker, dev=True, kind=diffusers.FluxFillPipeline, channels=4 * (4 + 4 + 16)),
}
