import json
from typing import Any

import pytest

from wordbrush.networks.clip_config import CLIPConfig, CLIPTextConfig, CLIPVisionConfig
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
    ],
)
def test_what_cannot_be_built_is_refused_with_its_numbers(kind: Any, values: dict[str, Any], said: str) -> None:
    with pytest.raises(ValueError, match=said):
        kind.from_dict(values)


def test_keys_that_do_not_change_the_network_are_ignored() -> None:
    assert UNetConfig.from_dict({"_class_name": "UNet2DConditionModel", "dropout": 0.1}) == UNetConfig()
    assert CLIPTextConfig.from_dict({"torch_dtype": "float16", "initializer_range": 0.5}) == CLIPTextConfig()


def test_in_old_clip_files_the_second_tower_config_counts() -> None:
    config = CLIPConfig.from_dict({"text_config": {"vocab_size": 5}, "text_config_dict": {"vocab_size": 7}})
    assert config.text_config.vocab_size == 7
