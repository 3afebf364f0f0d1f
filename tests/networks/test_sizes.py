"""Every architecture at full size, without memory: its number of parameters, checked by tests/parity/test_sizes.py."""

from collections.abc import Callable
from dataclasses import replace
from typing import Any, NamedTuple

import pytest
from tests.networks.checks import count_parameters, without_memory
from tests.networks.test_config import XL
from torch import nn

from wordbrush.networks.clip import CLIPTextConfig, CLIPTextModel
from wordbrush.networks.flux import FluxConfig, FluxTransformer
from wordbrush.networks.t5 import T5Config, T5Encoder
from wordbrush.networks.tiny_vae import TinyAutoencoder, TinyAutoencoderConfig
from wordbrush.networks.unet import UNet, UNetConfig
from wordbrush.networks.vae import AutoencoderKL, AutoencoderKLConfig


class Size(NamedTuple):
    """A network of ours, its config, and how many parameters the network in circulation has."""

    network: Callable[[Any], nn.Module]
    config: Any
    count: int


SD1 = UNetConfig(sample_size=64, cross_attention_dim=768)
SD2 = UNetConfig(
    sample_size=96, cross_attention_dim=1024, attention_head_dim=(5, 10, 20, 20), use_linear_projection=True
)
SDXL = UNetConfig(sample_size=128, cross_attention_dim=2048, **XL)
REFINER = UNetConfig(
    sample_size=128,
    block_out_channels=(384, 768, 1536, 1536),
    down_block_types=("DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D", "DownBlock2D"),
    up_block_types=("UpBlock2D", "CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"),
    attention_head_dim=(6, 12, 24, 24),
    cross_attention_dim=1280,
    transformer_layers_per_block=4,
    use_linear_projection=True,
    addition_embed_type="text_time",
    addition_time_embed_dim=256,
    projection_class_embeddings_input_dim=1280 + 5 * 256,
)
KL = AutoencoderKLConfig(block_out_channels=(128, 256, 512, 512), layers_per_block=2, sample_size=512)
FLUX_KL = replace(
    KL,
    latent_channels=16,
    scaling_factor=0.3611,
    shift_factor=0.1159,
    use_quant_conv=False,
    use_post_quant_conv=False,
)
DEV = FluxConfig(guidance_embeds=True)
CLIP_L = CLIPTextConfig(
    hidden_size=768, intermediate_size=3072, num_attention_heads=12, projection_dim=768, eos_token_id=2
)
OPEN_CLIP_H = CLIPTextConfig(
    hidden_size=1024,
    intermediate_size=4096,
    num_hidden_layers=23,  # of 24: Stable Diffusion 2 reads the last but one, so its folders leave the last out
    num_attention_heads=16,
    hidden_act="gelu",
    eos_token_id=2,
)
OPEN_CLIP_G = CLIPTextConfig(
    hidden_size=1280,
    intermediate_size=5120,
    num_hidden_layers=32,
    num_attention_heads=20,
    hidden_act="gelu",
    projection_dim=1280,
    eos_token_id=2,
)
T5_XXL = T5Config(d_model=4096, d_ff=10240, num_layers=24, num_heads=64)


def _projecting(config: CLIPTextConfig) -> CLIPTextModel:
    return CLIPTextModel(config, projection=True)


SIZES = {
    "SD 1.5 U-Net": Size(UNet, SD1, 859_520_964),
    "SD 1.5 inpainting U-Net": Size(UNet, replace(SD1, in_channels=9), 859_535_364),
    "SD 1.5 instruct-pix2pix U-Net": Size(UNet, replace(SD1, in_channels=8), 859_532_484),
    "SD 1.5 LCM U-Net": Size(UNet, replace(SD1, time_cond_proj_dim=256), 859_602_884),
    "SD 2 U-Net": Size(UNet, SD2, 865_910_724),
    "SD 2 inpainting U-Net": Size(UNet, replace(SD2, in_channels=9), 865_925_124),
    "SDXL U-Net": Size(UNet, SDXL, 2_567_463_684),
    "SDXL inpainting U-Net": Size(UNet, replace(SDXL, in_channels=9), 2_567_478_084),
    "SDXL LCM U-Net": Size(UNet, replace(SDXL, time_cond_proj_dim=256), 2_567_545_604),
    "SDXL refiner U-Net": Size(UNet, REFINER, 2_259_526_660),
    "FLUX.1-dev": Size(FluxTransformer, DEV, 11_901_408_320),
    "FLUX.1-schnell": Size(FluxTransformer, FluxConfig(), 11_891_178_560),
    "FLUX.1-Fill-dev": Size(FluxTransformer, replace(DEV, in_channels=384, out_channels=64), 11_902_391_360),
    "FLUX.1-Depth-dev": Size(FluxTransformer, replace(DEV, in_channels=128, out_channels=64), 11_901_604_928),
    "SD VAE": Size(AutoencoderKL, KL, 83_653_863),
    "FLUX VAE": Size(AutoencoderKL, FLUX_KL, 83_819_683),
    "TAESD": Size(TinyAutoencoder, TinyAutoencoderConfig(), 2_445_063),
    "TAEF1": Size(TinyAutoencoder, TinyAutoencoderConfig(latent_channels=16), 2_458_899),
    "CLIP-L text": Size(CLIPTextModel, CLIP_L, 123_060_480),
    "CLIP-L text, projecting": Size(_projecting, CLIP_L, 123_650_304),
    "OpenCLIP-H text of SD 2": Size(CLIPTextModel, OPEN_CLIP_H, 340_387_840),
    "OpenCLIP-bigG text, projecting": Size(_projecting, OPEN_CLIP_G, 694_659_840),
    "T5 v1.1 XXL encoder": Size(T5Encoder, T5_XXL, 4_762_310_656),
}


@pytest.mark.parametrize("name", SIZES)
def test_a_network_in_circulation_has_its_number_of_parameters(name: str) -> None:
    network, config, count = SIZES[name]
    assert count_parameters(without_memory(lambda: network(config))) == count
