"""FLUX's transformer and T5 encoder against diffusers' and transformers', as `test_networks.py` does for the others."""

from pathlib import Path
from typing import Any

import pytest
import torch
from tests.parity.comparing import assert_near, open_with_transformers, randn, randomise, write

from wordbrush.networks.flux import (
    FluxConfig,
    FluxTransformer,
    image_positions,
    pack_latents,
    text_positions,
    unpack_latents,
)
from wordbrush.networks.t5 import T5Config, T5Encoder, encoder_state

diffusers = pytest.importorskip("diffusers")
transformers = pytest.importorskip("transformers")

FLUX: dict[str, Any] = {
    "in_channels": 8,
    "num_layers": 2,
    "num_single_layers": 3,
    "attention_head_dim": 16,
    "num_attention_heads": 2,
    "joint_attention_dim": 12,
    "pooled_projection_dim": 10,
    "axes_dims_rope": (4, 6, 6),
}


@pytest.mark.parametrize(
    "settings",
    [{"guidance_embeds": True}, {}, {"guidance_embeds": True, "in_channels": 20, "out_channels": 8}],
    ids=["dev", "schnell", "fill"],
)
@pytest.mark.parametrize(("height", "width"), [(8, 6), (36, 40)])  # few tokens, and more than one kernel takes
def test_transformer(settings: dict[str, Any], height: int, width: int) -> None:
    config = FluxConfig(**{**FLUX, **settings})
    theirs = diffusers.FluxTransformer2DModel.from_config(config.to_dict()).eval()
    assert FluxConfig.from_dict(dict(theirs.config)) == config
    randomise(theirs)
    ours = FluxTransformer(config)
    ours.load_state_dict(theirs.state_dict(), strict=True)
    places, words = image_positions(height, width), text_positions(7)
    x, context, pooled = randn(2, len(places), config.in_channels), randn(2, 7, 12, seed=2), randn(2, 10, seed=3)
    times = torch.tensor([0.98, 0.125])
    guidance = torch.tensor([3.5, 1.0]) if config.guidance_embeds else None
    with torch.no_grad():
        expected = theirs(
            x, encoder_hidden_states=context, pooled_projections=pooled, timestep=times, img_ids=places, txt_ids=words,
            guidance=guidance,
        ).sample  # fmt: skip
        got = ours(x, times, context, pooled=pooled, positions_image=places, positions_text=words, guidance=guidance)
    assert_near(got, expected)


def test_packing_and_positions_are_those_of_the_pipeline() -> None:
    pipeline, latents = diffusers.FluxPipeline, randn(2, 3, 6, 8)
    packed = pack_latents(latents)
    assert torch.equal(packed, pipeline._pack_latents(latents, 2, 3, 6, 8))
    assert torch.equal(unpack_latents(packed, 6, 8), pipeline._unpack_latents(packed, 48, 64, 8))
    theirs = pipeline._prepare_latent_image_ids(2, 3, 4, torch.device("cpu"), torch.float32)
    assert torch.equal(image_positions(6, 8), theirs)


@pytest.mark.parametrize(
    ("settings", "length"),
    [
        ({}, 5),
        ({}, 300),  # beyond the last bucket, and more keys than one kernel takes
        ({"relative_attention_num_buckets": 8, "relative_attention_max_distance": 11, "d_kv": 5}, 40),
    ],
    ids=["short", "long", "other buckets"],
)
def test_t5(settings: dict[str, Any], length: int, tmp_path: Path) -> None:
    shape = {"vocab_size": 50, "d_model": 16, "d_kv": 8, "d_ff": 24, "num_layers": 3, "num_heads": 2}
    config = T5Config(**{**shape, **settings})
    ours = T5Encoder(config)
    randomise(ours)
    theirs = open_with_transformers(transformers.T5EncoderModel, write(tmp_path, config.to_dict(), ours))
    assert T5Config.from_dict(theirs.config.to_dict()) == config
    again = T5Encoder(config)
    again.load_state_dict(encoder_state(theirs.state_dict()), strict=True)
    ids = torch.randint(0, 50, (2, length), generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        assert_near(again(ids), theirs(ids).last_hidden_state)
        assert torch.equal(again(ids), ours(ids))
