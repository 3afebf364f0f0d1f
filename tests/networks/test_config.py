import json
from typing import Any

import pytest

from wordbrush.networks.clip_config import CLIPConfig, CLIPTextConfig, CLIPVisionConfig
from wordbrush.networks.flux_config import FluxConfig
from wordbrush.networks.t5_config import T5Config
from wordbrush.networks.tiny_vae import TinyAutoencoderConfig
from wordbrush.networks.unet_config import UNetConfig
from wordbrush.networks.vae import AutoencoderKLConfig

XL = {
    "block_out_channels": (320, 640, 1280),
    "down_block_types": ("DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"),
    "up_block_types": ("CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"),
    "attention_head_dim": (5, 10, 20),
    "transformer_layers_per_block": (1, 2, 10),
    "use_linear_projection": True,
    "addition_embed_type": "text_time",
    "addition_time_embed_dim": 256,
    "projection_class_embeddings_input_dim": 2816,
}
CONFIGS = [
    UNetConfig(sample_size=64, cross_attention_dim=768),
    UNetConfig(cross_attention_dim=2048, **XL),
    AutoencoderKLConfig(block_out_channels=(32, 64), latent_channels=16, shift_factor=0.1, scaling_factor=0.36),
    CLIPTextConfig(hidden_size=64, num_attention_heads=4, eos_token_id=2, hidden_act="gelu"),
    CLIPVisionConfig(image_size=64, patch_size=16),
    CLIPConfig(text_config=CLIPTextConfig(vocab_size=99), projection_dim=32),
    FluxConfig(num_layers=2, guidance_embeds=True, axes_dims_rope=(32, 48, 48), out_channels=16),
    T5Config(d_model=24, relative_attention_num_buckets=8),
    TinyAutoencoderConfig(latent_channels=16, scaling_factor=0.5, shift_factor=0.25),
]


@pytest.mark.parametrize("config", CONFIGS, ids=lambda config: type(config).__name__)
def test_a_config_survives_its_json_file(config: Any) -> None:
    assert type(config).from_dict(json.loads(json.dumps(config.to_dict()))) == config


@pytest.mark.parametrize("config", CONFIGS, ids=lambda config: type(config).__name__)
def test_an_unknown_setting_is_refused_by_name(config: Any) -> None:
    with pytest.raises(ValueError, match="colour_of_the_sky"):
        type(config).from_dict(config.to_dict() | {"colour_of_the_sky": "blue"})


@pytest.mark.parametrize(
    ("kind", "values", "said"),
    [
        (UNetConfig, {"resnet_time_scale_shift": "scale_shift"}, "resnet_time_scale_shift='scale_shift'.*'default'"),
        (UNetConfig, {"mid_block_type": None}, "mid_block_type=None"),
        (UNetConfig, {"class_embed_type": "timestep"}, "class_embed_type='timestep'"),
        (UNetConfig, {"cross_attention_dim": [768, 1024]}, r"cross_attention_dim=\(768, 1024\)"),
        (UNetConfig, {"down_block_types": ["DownBlock2D"]}, "1 blocks for 4 levels"),
        (UNetConfig, {"up_block_types": ["SkipUpBlock2D"] * 4}, "'SkipUpBlock2D'.*CrossAttnUpBlock2D"),
        (UNetConfig, {"attention_head_dim": [5, 10]}, "2 entries for 4 levels"),
        (UNetConfig, {"attention_head_dim": 7}, "320 channels.*7 heads"),
        (UNetConfig, {"block_out_channels": [320, 650, 1280, 1280]}, "650 channels.*norm_num_groups=32.*640 and 672"),
        (UNetConfig, {"layers_per_block": 0}, "layers_per_block=0"),
        (UNetConfig, {"addition_embed_type": "image"}, "addition_embed_type='image'"),
        (UNetConfig, {"addition_embed_type": "text_time"}, "needs addition_time_embed_dim"),
        (AutoencoderKLConfig, {"act_fn": "relu"}, "act_fn='relu'.*'silu'"),
        (AutoencoderKLConfig, {"down_block_types": ["AttnDownEncoderBlock2D"]}, "AttnDownEncoderBlock2D"),
        (AutoencoderKLConfig, {"block_out_channels": [20]}, "20 channels.*nearest that fit: 32"),
        (AutoencoderKLConfig, {"scaling_factor": 0.0}, "scaling_factor=0.0"),
        (AutoencoderKLConfig, {"latents_mean": [0.0]}, "latents_mean"),
        (CLIPTextConfig, {"hidden_act": "relu"}, "hidden_act='relu'.*quick_gelu, gelu"),
        (CLIPTextConfig, {"hidden_size": 100}, "hidden_size=100.*num_attention_heads=8"),
        (CLIPTextConfig, {"eos_token_id": [1, 2]}, "eos_token_id"),
        (CLIPVisionConfig, {"image_size": 100}, "image_size=100.*patch_size=32"),
        (CLIPConfig, {"text_config": {"hidden_act": "relu"}}, "hidden_act='relu'"),
        (FluxConfig, {"axes_dims_rope": [16, 56, 55]}, "axes_dims_rope=.*even"),
        (FluxConfig, {"attention_head_dim": 64}, r"axes_dims_rope=\(16, 56, 56\).*attention_head_dim=64"),
        (FluxConfig, {"patch_size": 2}, "patch_size=2.*supported: 1"),
        (FluxConfig, {"out_channels": 0}, "out_channels=0"),
        (T5Config, {}, "feed_forward_proj='relu'.*'gated-gelu'"),
        (T5Config, {"feed_forward_proj": "gated-silu"}, "feed_forward_proj='gated-silu'"),
        (T5Config, {"feed_forward_proj": "gated-gelu", "relative_attention_num_buckets": 6}, "num_buckets=6"),
        (T5Config, {"feed_forward_proj": "gated-gelu", "relative_attention_max_distance": 8}, "max_distance=8"),
        (TinyAutoencoderConfig, {"act_fn": "silu"}, "act_fn='silu'.*'relu'"),
        (TinyAutoencoderConfig, {"num_encoder_blocks": [1, 3]}, r"num_encoder_blocks=\(1, 3\)"),
        (TinyAutoencoderConfig, {"decoder_block_out_channels": [64, 64, 64, 32]}, "the same for every level"),
    ],
)
def test_what_cannot_be_built_is_refused_with_its_numbers(kind: Any, values: dict[str, Any], said: str) -> None:
    with pytest.raises(ValueError, match=said):
        kind.from_dict(values)


def test_keys_that_do_not_change_the_network_are_ignored() -> None:
    assert UNetConfig.from_dict({"_class_name": "UNet2DConditionModel", "dropout": 0.1}) == UNetConfig()
    assert UNetConfig.from_dict({"use_ema_warmup": False, "optimization_step": 9}) == UNetConfig()
    assert CLIPTextConfig.from_dict({"torch_dtype": "float16", "initializer_range": 0.5}) == CLIPTextConfig()


def test_in_old_clip_files_the_second_tower_config_counts() -> None:
    config = CLIPConfig.from_dict({"text_config": {"vocab_size": 5}, "text_config_dict": {"vocab_size": 7}})
    assert config.text_config.vocab_size == 7


def test_files_from_before_today_s_settings_mean_what_they_meant() -> None:
    unet = {
        "_class_name": "UNet2DConditionModel", "_diffusers_version": "0.2.2", "act_fn": "silu",
        "attention_head_dim": 8, "block_out_channels": [320, 640, 1280, 1280], "center_input_sample": False,
        "cross_attention_dim": 768, "down_block_types": [*["CrossAttnDownBlock2D"] * 3, "DownBlock2D"],
        "downsample_padding": 1, "flip_sin_to_cos": True, "freq_shift": 0, "in_channels": 4, "layers_per_block": 2,
        "mid_block_scale_factor": 1, "norm_eps": 1e-05, "norm_num_groups": 32, "out_channels": 4, "sample_size": 64,
        "up_block_types": ["UpBlock2D", *["CrossAttnUpBlock2D"] * 3],
    }  # fmt: skip
    assert UNetConfig.from_dict(unet) == UNetConfig(sample_size=64, cross_attention_dim=768)
    vae = {
        "_class_name": "AutoencoderKL", "_diffusers_version": "0.2.2", "act_fn": "silu",
        "block_out_channels": [128, 256, 512, 512], "down_block_types": ["DownEncoderBlock2D"] * 4, "in_channels": 3,
        "latent_channels": 4, "layers_per_block": 2, "out_channels": 3, "sample_size": 512,
        "up_block_types": ["UpDecoderBlock2D"] * 4,
    }  # fmt: skip
    old = AutoencoderKLConfig.from_dict(vae)
    assert (old.scaling_factor, old.norm_num_groups, old.use_quant_conv, old.shift_factor) == (0.18215, 32, True, None)
    flux = {
        "_class_name": "FluxTransformer2DModel", "_diffusers_version": "0.30.0.dev0", "attention_head_dim": 128,
        "guidance_embeds": True, "in_channels": 64, "joint_attention_dim": 4096, "num_attention_heads": 24,
        "num_layers": 19, "num_single_layers": 38, "patch_size": 1, "pooled_projection_dim": 768,
    }  # fmt: skip
    assert FluxConfig.from_dict(flux) == FluxConfig(guidance_embeds=True)
    t5 = {
        "architectures": ["T5EncoderModel"], "d_ff": 10240, "d_kv": 64, "d_model": 4096, "decoder_start_token_id": 0,
        "dropout_rate": 0.1, "eos_token_id": 1, "feed_forward_proj": "gated-gelu", "initializer_factor": 1.0,
        "is_encoder_decoder": True, "layer_norm_epsilon": 1e-06, "model_type": "t5", "num_decoder_layers": 24,
        "num_heads": 64, "num_layers": 24, "output_past": True, "pad_token_id": 0,
        "relative_attention_num_buckets": 32, "tie_word_embeddings": False, "use_cache": True, "vocab_size": 32128,
    }  # fmt: skip
    assert T5Config.from_dict(t5) == T5Config(d_model=4096, d_ff=10240, num_layers=24, num_heads=64)
