"""The network that denoises, called as training calls it: a time of its own for every row, and gradients."""

from __future__ import annotations

import torch
from torch import Tensor

from wordbrush.conditioning.conditioning import Conditioning
from wordbrush.networks.flux import FluxTransformer, image_positions, pack_latents, text_positions, unpack_latents
from wordbrush.networks.unet import AddedConditioning, UNet

GUIDANCE = 1.0
"""What a network distilled with guidance is told in training: pictures are as they are, not as guidance makes them."""

_FLUX_TIMESTEPS = 1000.0


def predict(
    network: UNet | FluxTransformer,
    x: Tensor,
    timesteps: Tensor,
    conditioning: Conditioning,
    time_ids: Tensor | None = None,
    guidance: float = GUIDANCE,
) -> Tensor:
    """The network's output (B, C, h, w) in float32.

    Args:
        x: (B, C, h, w), noisy latents.
        timesteps: (B,), in 0…999 for a U-Net, 1000 times the share of noise for a flow.
        conditioning: context (B, L, D), and pooled (B, P) for SDXL and FLUX.
        guidance: what a network that was distilled with guidance is told.
        time_ids: (B, 6), original height and width, crop top and left, target height and width (SDXL).
    """
    if isinstance(network, FluxTransformer):
        return _flux(network, x, timesteps, conditioning, guidance)
    added = None
    if conditioning.pooled is not None and time_ids is not None:
        added = AddedConditioning(text_embeds=conditioning.pooled, time_ids=time_ids)
    x = x.contiguous(memory_format=torch.channels_last)
    out: Tensor = network(x, timesteps, conditioning.context, added=added)
    return out.float()


def _flux(
    network: FluxTransformer, x: Tensor, timesteps: Tensor, conditioning: Conditioning, guidance: float
) -> Tensor:
    assert conditioning.pooled is not None
    height, width = x.shape[2:]
    told = torch.full((len(x),), guidance, device=x.device) if network.config.guidance_embeds else None
    tokens = network(
        pack_latents(x),
        timesteps / _FLUX_TIMESTEPS,
        conditioning.context,
        pooled=conditioning.pooled,
        positions_image=image_positions(height, width),
        positions_text=text_positions(conditioning.context.shape[1]),
        guidance=told,
    )
    return unpack_latents(tokens, height, width).float()
