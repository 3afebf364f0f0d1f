"""FLUX.1, a rectified-flow transformer over packed latents (Black Forest Labs 2024; Esser 2024).

The network predicts the velocity from data to noise. State-dict keys are those of diffusers' FluxTransformer2DModel.
"""

from __future__ import annotations

import torch
from torch import nn

from .blocks import draw_parameters, silu, zero
from .flux_blocks import DoubleBlock, Modulation, SingleBlock, modulated, rotations
from .flux_config import FluxConfig
from .time_embedding import TimestepEmbedding, sinusoids

__all__ = ["FluxConfig", "FluxTransformer", "image_positions", "pack_latents", "text_positions", "unpack_latents"]

_SINUSOIDS = 256  # length of an embedded time or guidance scale, before its two layers
_TIME_SCALE = 1000.0  # the network was trained on times and scales a thousand times as large


def pack_latents(latents: torch.Tensor) -> torch.Tensor:
    """Makes one token of every 2×2 patch: (B, C, h, w) to (B, h/2 * w/2, 4C), row by row.

    Raises:
        ValueError: h or w is odd.
    """
    height, width = latents.shape[2:]
    _require_even(height, width)
    patches = latents.unflatten(3, (width // 2, 2)).unflatten(2, (height // 2, 2))  # (B, C, h/2, 2, w/2, 2)
    return patches.permute(0, 2, 4, 1, 3, 5).flatten(3).flatten(1, 2)


def unpack_latents(tokens: torch.Tensor, height: int, width: int) -> torch.Tensor:
    """The way back: (B, h/2 * w/2, 4C) to (B, C, h, w), for h = height and w = width in latents.

    Raises:
        ValueError: h or w is odd, or there are more or fewer tokens than that size has.
    """
    _require_even(height, width)
    if tokens.shape[1] != height // 2 * (width // 2):
        raise ValueError(f"{tokens.shape[1]} tokens are not the {height // 2}x{width // 2} patches of {height}x{width}")
    patches = tokens.unflatten(2, (-1, 2, 2)).unflatten(1, (height // 2, width // 2))  # (B, h/2, w/2, C, 2, 2)
    return patches.permute(0, 3, 1, 4, 2, 5).flatten(4).flatten(2, 3)


def image_positions(height: int, width: int) -> torch.Tensor:
    """Positions of the packed latents of height × width: (h/2 * w/2, 3) float32, zero, row and column of the patch.

    Raises:
        ValueError: height or width is odd.
    """
    _require_even(height, width)
    rows, columns = torch.arange(height // 2), torch.arange(width // 2)
    row, column = torch.meshgrid(rows, columns, indexing="ij")
    return torch.stack([torch.zeros_like(row), row, column], dim=2).flatten(0, 1).float()


def text_positions(length: int) -> torch.Tensor:
    """Positions of text tokens, which are all zero: (length, 3) float32."""
    return torch.zeros(length, 3)


def _require_even(height: int, width: int) -> None:
    if height % 2 or width % 2:
        raise ValueError(f"latents of {height}x{width} cannot be cut into 2x2 patches; both sides must be even")


class ConditionEmbedding(nn.Module):
    """The sum of embedded time, pooled text and, if the network takes one, guidance scale."""

    def __init__(self, config: FluxConfig) -> None:
        super().__init__()
        self.timestep_embedder = TimestepEmbedding(_SINUSOIDS, config.width)
        self.guidance_embedder = TimestepEmbedding(_SINUSOIDS, config.width) if config.guidance_embeds else None
        self.text_embedder = TimestepEmbedding(config.pooled_projection_dim, config.width)

    def forward(self, timestep: torch.Tensor, pooled: torch.Tensor, guidance: torch.Tensor | None) -> torch.Tensor:
        """timestep, guidance: (B or 1,); pooled: (B or 1, P). Returns (B or 1, D)."""
        out = self.timestep_embedder(sinusoids(_TIME_SCALE * timestep.float(), _SINUSOIDS))
        if self.guidance_embedder is not None and guidance is not None:
            out = out + self.guidance_embedder(sinusoids(_TIME_SCALE * guidance.float(), _SINUSOIDS))
        return out + self.text_embedder(pooled)


class FluxTransformer(nn.Module):
    """The network; call it with packed noisy latents, times and text."""

    def __init__(self, config: FluxConfig) -> None:
        super().__init__()
        self.config = config
        heads, head_dim, width = config.num_attention_heads, config.attention_head_dim, config.width
        self.time_text_embed = ConditionEmbedding(config)
        self.context_embedder = nn.Linear(config.joint_attention_dim, width)
        self.x_embedder = nn.Linear(config.in_channels, width)
        self.transformer_blocks = nn.ModuleList(DoubleBlock(heads, head_dim) for _ in range(config.num_layers))
        self.single_transformer_blocks = nn.ModuleList(
            SingleBlock(heads, head_dim) for _ in range(config.num_single_layers)
        )
        self.norm_out = Modulation(width, 2)
        self.proj_out = nn.Linear(width, config.out_channels or config.in_channels)

    def forward(
        self,
        x: torch.Tensor,
        timestep: torch.Tensor,
        context: torch.Tensor,
        *,
        pooled: torch.Tensor,
        positions_image: torch.Tensor,
        positions_text: torch.Tensor,
        guidance: torch.Tensor | None = None,
    ) -> torch.Tensor:
        """Returns the prediction, (B, N, out_channels).

        Args:
            x: (B, N, in_channels), packed noisy latents (and what is concatenated to them).
            timestep: (B,) or (1,), in [0, 1]; 1 is noise.
            context: (B, L, D) text embeddings.
            pooled: (B, P) pooled text embedding.
            positions_image: (N, 3) from `image_positions`.
            positions_text: (L, 3) from `text_positions`.
            guidance: (B,) or (1,), the guidance scale, for a config with guidance_embeds only.

        Raises:
            ValueError: an input does not fit the config.
        """
        self._check(x, context, pooled, guidance)
        for name, positions, tokens in (("image", positions_image, x), ("text", positions_text, context)):
            if positions.shape != (tokens.shape[1], len(self.config.axes_dims_rope)):
                raise ValueError(
                    f"positions_{name} has shape {tuple(positions.shape)}; {tokens.shape[1]} tokens need "
                    f"({tokens.shape[1]}, {len(self.config.axes_dims_rope)})"
                )
        condition = silu(self.time_text_embed(timestep, pooled, guidance)).to(x.dtype)  # (B or 1, D)
        positions = torch.cat([positions_text, positions_image]).to(x.device)
        rotation = rotations(positions, self.config.axes_dims_rope)  # the text first
        x, text = self.x_embedder(x), self.context_embedder(context)
        for block in self.transformer_blocks:
            x, text = block(x, text, condition, rotation)
        joined = torch.cat([text, x], dim=1)  # (B, L + N, D)
        for block in self.single_transformer_blocks:
            joined = block(joined, condition, rotation)
        scale, shift = self.norm_out(condition)  # in this layer the scale comes first
        return self.proj_out(modulated(joined[:, text.shape[1] :], shift, scale))

    def _check(
        self, x: torch.Tensor, context: torch.Tensor, pooled: torch.Tensor, guidance: torch.Tensor | None
    ) -> None:
        config = self.config
        for name, tensor, shape, width in (
            ("x", x, "B, N", config.in_channels),
            ("context", context, "B, L", config.joint_attention_dim),
            ("pooled", pooled, "B", config.pooled_projection_dim),
        ):
            if tensor.ndim != shape.count(",") + 2 or tensor.shape[-1] != width:
                raise ValueError(f"{name} has shape {tuple(tensor.shape)}; this network takes ({shape}, {width})")
        if (guidance is None) == config.guidance_embeds:
            need = "needs" if guidance is None else "takes no"
            raise ValueError(f"a network with guidance_embeds={config.guidance_embeds} {need} `guidance`")

    @torch.no_grad()
    def initialise(self, generator: torch.Generator) -> None:
        """Re-draws every parameter for training from scratch.

        Every block starts as its shortcut and the output as zero (Peebles 2023, adaLN-Zero); all else is drawn as in
        `draw_parameters`.
        """
        draw_parameters(self, generator)
        for module in self.modules():
            if isinstance(module, nn.RMSNorm):
                module.weight.fill_(1.0)
            elif isinstance(module, Modulation):
                zero(module.linear)
        zero(self.proj_out)
