"""Our networks against diffusers' and transformers', on tiny random weights in float32, through the shipped configs.

The reference is built from our `to_dict()` (so the config files we write are proven too), its random weights are loaded
with strict=True (so the keys are), and the outputs must agree to 1e-5 of their size.
"""

from pathlib import Path
from typing import Any

import pytest
import torch
from tests.parity.comparing import assert_near, open_with_transformers, randn, randomise, write

from wordbrush.networks.clip import (
    CLIPConfig,
    CLIPModel,
    CLIPTextConfig,
    CLIPTextModel,
    CLIPVisionConfig,
    CLIPVisionModel,
)
from wordbrush.networks.time_embedding import sinusoids
from wordbrush.networks.tiny_vae import TinyAutoencoder, TinyAutoencoderConfig
from wordbrush.networks.unet import AddedConditioning, UNet, UNetConfig, guidance_embedding
from wordbrush.networks.vae import AutoencoderKL, AutoencoderKLConfig

diffusers = pytest.importorskip("diffusers")
transformers = pytest.importorskip("transformers")

ATTEND = ("CrossAttnDownBlock2D", "CrossAttnUpBlock2D")
PLAIN = ("DownBlock2D", "UpBlock2D")


def _unet_config(attending: tuple[bool, ...], **settings: Any) -> UNetConfig:
    kinds = [ATTEND if yes else PLAIN for yes in attending]
    return UNetConfig(
        **{
            "block_out_channels": (8, 16, 24, 24)[: len(attending)],
            "down_block_types": tuple(kind[0] for kind in kinds),
            "up_block_types": tuple(kind[1] for kind in reversed(kinds)),
            "attention_head_dim": 2,
            "cross_attention_dim": 12,
            "norm_num_groups": 4,
            **settings,
        }
    )


UNETS = {
    "sd1": _unet_config((True, True, False)),
    "sd2": _unet_config((True, True, False), use_linear_projection=True, attention_head_dim=(1, 2, 4)),
    "sdxl": _unet_config(
        (False, True, True),
        use_linear_projection=True,
        attention_head_dim=(1, 2, 4),
        transformer_layers_per_block=(1, 2, 3),
        addition_embed_type="text_time",
        addition_time_embed_dim=4,
        projection_class_embeddings_input_dim=10 + 6 * 4,
    ),
    "sdxl refiner": _unet_config(
        (False, True, True, False),
        use_linear_projection=True,
        attention_head_dim=(2, 4, 6, 6),
        transformer_layers_per_block=2,
        addition_embed_type="text_time",
        addition_time_embed_dim=4,
        projection_class_embeddings_input_dim=10 + 5 * 4,
    ),
    "inpainting": _unet_config((True, True, False), in_channels=9),
    "instruct-pix2pix": _unet_config((True, True, False), in_channels=8),
    "lcm": _unet_config((True, False), time_cond_proj_dim=10),
    "small": _unet_config((True, True), layers_per_block=1, sample_size=16),
    "uneven": _unet_config((True, True, True), layers_per_block=(1, 2, 1)),
}


def _unet_extras(config: UNetConfig) -> tuple[dict[str, Any], dict[str, Any]]:
    """The further conditioning a config needs, in our words and in diffusers'."""
    if config.addition_embed_type is not None:
        numbers = ((config.projection_class_embeddings_input_dim or 0) - 10) // (config.addition_time_embed_dim or 1)
        text, ids = randn(2, 10, seed=4), torch.tensor([[64.0, 48, 0, 8, 6, 64], [9, 9, 1, 2, 3, 4]])[:, :numbers]
        return {"added": AddedConditioning(text_embeds=text, time_ids=ids)}, {
            "added_cond_kwargs": {"text_embeds": text, "time_ids": ids}
        }
    if config.time_cond_proj_dim is not None:
        guidance = guidance_embedding(torch.tensor([2.0, 8.5]), config.time_cond_proj_dim)
        return {"guidance": guidance}, {"timestep_cond": guidance}
    return {}, {}


@pytest.mark.parametrize("name", UNETS)
@pytest.mark.parametrize(("height", "width"), [(16, 8), (9, 7), (18, 16)])
def test_unet(name: str, height: int, width: int) -> None:
    config = UNETS[name]
    theirs = diffusers.UNet2DConditionModel.from_config(config.to_dict()).eval()
    assert UNetConfig.from_dict(dict(theirs.config)) == config
    randomise(theirs)
    ours = UNet(config)
    ours.load_state_dict(theirs.state_dict(), strict=True)
    x, timestep, context = (
        randn(2, config.in_channels, height, width),
        torch.tensor([3.0, 801.5]),
        randn(2, 5, 12, seed=2),
    )
    our_extras, their_extras = _unet_extras(config)
    with torch.no_grad():
        expected = theirs(x, timestep, context, **their_extras).sample
        assert_near(ours(x, timestep, context, **our_extras), expected)
        last = x.to(memory_format=torch.channels_last)
        assert_near(ours(last, timestep, ours.prepare_context(context), **our_extras), expected)


def test_guidance_embedding() -> None:
    pipeline = diffusers.LatentConsistencyModelPipeline
    scale = torch.tensor([1.0, 7.5])
    expected = pipeline.get_guidance_scale_embedding(None, scale - 1.0, embedding_dim=16)
    torch.testing.assert_close(guidance_embedding(scale, 16), expected)


@pytest.mark.parametrize(
    "settings",
    [
        {},
        {"latent_channels": 16, "use_quant_conv": False, "use_post_quant_conv": False, "shift_factor": 0.1},
        {"mid_block_add_attention": False, "layers_per_block": 1, "latent_channels": 8},
        {"block_out_channels": (8,), "in_channels": 1, "out_channels": 1},
    ],
    ids=["sd", "sd3", "plain middle", "one level"],
)
def test_vae(settings: dict[str, Any]) -> None:
    defaults: dict[str, Any] = {"block_out_channels": (8, 16, 24), "layers_per_block": 2, "norm_num_groups": 4}
    config = AutoencoderKLConfig(**{**defaults, **settings})
    theirs = diffusers.AutoencoderKL.from_config(config.to_dict()).eval()
    assert AutoencoderKLConfig.from_dict(dict(theirs.config)) == config
    randomise(theirs)
    ours = AutoencoderKL(config)
    ours.load_state_dict(theirs.state_dict(), strict=True)
    images = randn(2, config.in_channels, 32, 24)
    with torch.no_grad():
        expected, raw = theirs.encode(images).latent_dist, ours.encode_raw(images)
        assert_near(raw.mean, expected.mean)
        assert_near(raw.logvar, expected.logvar)
        assert_near(ours.decode_raw(expected.mean), theirs.decode(expected.mean).sample)


@pytest.mark.parametrize(
    "settings",
    [{}, {"latent_channels": 16}, {"num_encoder_blocks": (2, 1), "num_decoder_blocks": (1, 2)}],
    ids=["taesd", "taef1", "two levels"],
)
def test_tiny_vae(settings: dict[str, Any]) -> None:
    levels = len(settings.get("num_encoder_blocks", (1, 3, 3, 3)))
    widths = {"encoder_block_out_channels": (6,) * levels, "decoder_block_out_channels": (8,) * levels}
    config = TinyAutoencoderConfig(**widths, **settings)
    theirs = diffusers.AutoencoderTiny.from_config(config.to_dict()).eval()
    assert TinyAutoencoderConfig.from_dict(dict(theirs.config)) == config
    randomise(theirs)
    ours = TinyAutoencoder(config)
    ours.load_state_dict(theirs.state_dict(), strict=True)
    images, latents = randn(2, 3, 32, 24), 4 * randn(2, config.latent_channels, 3, 4)
    with torch.no_grad():
        assert_near(ours.encode(images), theirs.encode(images).latents)
        assert_near(ours.decode(latents), theirs.decode(latents).sample)


def _clip_config(activation: str, eos: int) -> CLIPConfig:
    shared: dict[str, Any] = {
        "hidden_size": 16,
        "intermediate_size": 32,
        "num_hidden_layers": 3,
        "num_attention_heads": 2,
        "projection_dim": 6,
        "hidden_act": activation,
    }
    tokens = {"vocab_size": 50, "max_position_embeddings": 7, "bos_token_id": 0, "eos_token_id": eos}
    return CLIPConfig(
        text_config=CLIPTextConfig(**shared, **tokens),
        vision_config=CLIPVisionConfig(**shared, image_size=8, patch_size=4),
        projection_dim=6,
    )


@pytest.mark.parametrize(("activation", "eos"), [("quick_gelu", 2), ("gelu", 48)])
def test_clip(activation: str, eos: int, tmp_path: Path) -> None:
    config = _clip_config(activation, eos)
    ours = CLIPModel(config)
    randomise(ours)
    theirs = open_with_transformers(transformers.CLIPModel, write(tmp_path, config.to_dict(), ours))
    assert CLIPConfig.from_dict(theirs.config.to_dict()) == config
    ids, images = torch.randint(3, 48, (4, 7), generator=torch.Generator().manual_seed(0)), randn(3, 3, 8, 8)
    for row, place in enumerate((3, 5, 6, 0)):
        ids[row, place] = 48
    with torch.no_grad():
        expected, got = theirs(input_ids=ids, pixel_values=images), ours(ids, images)
    assert_near(got.logits_per_image, expected.logits_per_image)
    assert_near(got.text_embeds, expected.text_embeds)
    assert_near(got.image_embeds, expected.image_embeds)


@pytest.mark.parametrize("projection", [False, True])
def test_clip_text_encoder(projection: bool, tmp_path: Path) -> None:
    config = _clip_config("gelu", 48).text_config
    ours = CLIPTextModel(config, projection=projection)
    randomise(ours)
    kind = transformers.CLIPTextModelWithProjection if projection else transformers.CLIPTextModel
    theirs = open_with_transformers(kind, write(tmp_path, ours.to_dict(), ours))
    assert CLIPTextConfig.from_dict(theirs.config.to_dict()) == config
    ids = torch.tensor([[1, 5, 7, 48, 48, 48, 48], [4, 3, 2, 1, 9, 8, 48]])
    with torch.no_grad():
        expected, got = theirs(ids, output_hidden_states=True), ours(ids)
    assert_near(got.last_hidden_state, expected.last_hidden_state)
    for mine, its in zip(got.hidden_states, expected.hidden_states, strict=True):
        assert_near(mine, its)
    if projection:
        assert got.text_embeds is not None
        assert_near(got.text_embeds, expected.text_embeds)
    else:
        assert_near(got.pooled, expected.pooler_output)


@pytest.mark.parametrize("projection", [False, True])
def test_clip_image_encoder(projection: bool, tmp_path: Path) -> None:
    config = _clip_config("quick_gelu", 48).vision_config
    ours = CLIPVisionModel(config, projection=projection)
    randomise(ours)
    kind = transformers.CLIPVisionModelWithProjection if projection else transformers.CLIPVisionModel
    theirs = open_with_transformers(kind, write(tmp_path, config.to_dict(), ours))
    assert CLIPVisionConfig.from_dict(theirs.config.to_dict()) == config
    with torch.no_grad():
        expected, got = theirs(randn(2, 3, 8, 8)), ours(randn(2, 3, 8, 8))
    assert_near(got.last_hidden_state, expected.last_hidden_state)
    if projection:
        assert got.image_embeds is not None
        assert_near(got.image_embeds, expected.image_embeds)
    else:
        assert_near(got.pooled, expected.pooler_output)


@pytest.mark.parametrize("size", [96, 256, 320])
def test_sinusoids_have_the_same_bits(size: int) -> None:
    times = torch.tensor([999.0, 749.25, 1.0, 0.0, 1024.0])
    embed = diffusers.models.embeddings.get_timestep_embedding
    assert torch.equal(sinusoids(times, size), embed(times, size, flip_sin_to_cos=True, downscale_freq_shift=0))
