"""The text-conditional U-Net of Stable Diffusion 1, 2 and XL (Rombach 2022; Podell 2023).

The network predicts noise, velocity or the clean latents, whichever it was trained for; this file does not know which.
State-dict keys are those of diffusers' UNet2DConditionModel.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import nn

from .blocks import draw_parameters, silu, zero
from .time_embedding import TimestepEmbedding, sinusoids
from .unet_blocks import DownBlock, KeyValue, LevelShape, MidBlock, Transformer, TransformerLayer, UpBlock
from .unet_config import UNetConfig

__all__ = [
    "AddedConditioning",
    "PreparedContext",
    "UNet",
    "UNetConfig",
    "guidance_embedding",
    "sinusoids",
    "with_time_band",
]


@dataclass(frozen=True, kw_only=True)
class PreparedContext:
    """The keys and values of every cross-attention, in the order the layers run; each tensor (B or 1, L, C)."""

    pairs: tuple[KeyValue, ...]

    def rows(self, index: torch.Tensor) -> PreparedContext:
        """Returns the context whose row i is row `index[i]` of this one; index: (B',) integers."""
        return PreparedContext(pairs=tuple((key[index], value[index]) for key, value in self.pairs))


@dataclass(frozen=True, kw_only=True)
class AddedConditioning:
    """What Stable Diffusion XL adds to the time embedding.

    Attributes:
        text_embeds: (B, P), the pooled, projected text embedding.
        time_ids: numbers in pixels: original height and width, crop top and left, then for the base model target height
            and width, (B, 6), and for the refiner the aesthetic score that is asked for, (B, 5).
    """

    text_embeds: torch.Tensor
    time_ids: torch.Tensor


def guidance_embedding(scale: torch.Tensor, size: int) -> torch.Tensor:
    """Embeds guidance scales for a network distilled with them (Luo 2023, LCM, §4.2).

    scale: (B,), 1 is no guidance. Returns (B, size) in float32, to pass as `guidance`; size is the config's
    time_cond_proj_dim and must be even.
    """
    half = size // 2
    frequencies = torch.exp(
        -math.log(10_000.0) / (half - 1) * torch.arange(half, dtype=torch.float32, device=scale.device)
    )
    angles = 1000.0 * (scale.float()[:, None] - 1.0) * frequencies
    return torch.cat([angles.sin(), angles.cos()], dim=1)


def with_time_band(x: torch.Tensor, timestep: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Time as one more band of the picture, in place of its embedding: what a network so trained is called with.

    x: (B, C, h, w); timestep: (B,) or (1,). Returns (B, C + 1, h, w), the last channel timestep / 1000 throughout, and
    zeros to pass as timesteps.
    """
    band = (timestep.to(x.dtype) / 1000.0).view(-1, 1, 1, 1).expand(len(x), 1, *x.shape[2:])
    return torch.cat([x, band], dim=1), torch.zeros_like(timestep)


class UNet(nn.Module):
    """The network; call it with noisy latents, timesteps, and text or classes or both."""

    def __init__(self, config: UNetConfig) -> None:
        super().__init__()
        self.config = config
        widths, layers = config.block_out_channels, config.layers
        levels, time_channels = len(widths), 4 * widths[0]
        self.conv_in = nn.Conv2d(config.in_channels, widths[0], 3, padding=1)
        self.time_embedding = TimestepEmbedding(widths[0], time_channels, config.time_cond_proj_dim)
        if config.addition_embed_type == "text_time":
            self.add_embedding = TimestepEmbedding(config.projection_class_embeddings_input_dim or 0, time_channels)
        if config.class_embed_type == "projection":
            vector = config.projection_class_embeddings_input_dim or 0
            self.class_embedding: nn.Module | None = TimestepEmbedding(vector, time_channels)
        elif config.num_class_embeds is not None:
            self.class_embedding = nn.Embedding(config.num_class_embeds, time_channels)
        else:
            self.class_embedding = None
        down = [_shape(config, level, config.down_block_types[level]) for level in range(levels)]
        self.down_blocks = nn.ModuleList(
            DownBlock(down[i], widths[max(i - 1, 0)], layers[i], last=i == levels - 1) for i in range(levels)
        )
        self.mid_block = MidBlock(down[-1])
        self.up_blocks = nn.ModuleList()
        for i in reversed(range(levels)):
            # One map per residual block of this level, and the one that entered it: from the finer level, or conv_in.
            skips = [widths[i]] * layers[i] + [widths[max(i - 1, 0)]]
            shape = _shape(config, i, config.up_block_types[levels - 1 - i])
            self.up_blocks.append(UpBlock(shape, widths[min(i + 1, levels - 1)], skips, last=i == 0))
        self.conv_norm_out = nn.GroupNorm(config.norm_num_groups, widths[0], eps=config.norm_eps)
        self.conv_out = nn.Conv2d(widths[0], config.out_channels, 3, padding=1)
        for index, layer in enumerate(self.transformer_layers()):
            layer.index = index

    def forward(
        self,
        x: torch.Tensor,
        timestep: torch.Tensor,
        context: torch.Tensor | PreparedContext,
        *,
        added: AddedConditioning | None = None,
        guidance: torch.Tensor | None = None,
        labels: torch.Tensor | None = None,
    ) -> torch.Tensor:
        """Returns the prediction, (B, out_channels, h, w).

        Args:
            x: (B, in_channels, h, w), noisy latents (and what is concatenated to them).
            timestep: (B,) or (1,), in [0, 999], whole or not.
            context: (B, L, D) text embeddings, or what `prepare_context` made of them; one row serves the whole batch.
            added: needed by a config with addition_embed_type, refused by others.
            guidance: (B, time_cond_proj_dim) from `guidance_embedding`, for a config with time_cond_proj_dim only.
            labels: for a config with classes only: (B,) numbers of classes, or (B, num_class_embeds) shares of each, 1
                for one and 0 for the others; or the (B, P) vectors of class_embed_type "projection".

        Raises:
            ValueError: an input does not fit the config.
        """
        config = self.config
        if x.ndim != 4 or x.shape[1] != config.in_channels:
            raise ValueError(f"x has shape {tuple(x.shape)}; this network takes (B, {config.in_channels}, h, w)")
        if not isinstance(context, PreparedContext):
            context = self.prepare_context(context)
        time = self._embed_time(timestep, added, guidance)
        if (labels is None) != (config.label_width is None):
            need = "needs" if labels is None else "takes no"
            raise ValueError(f"a network with label_width={config.label_width} {need} `labels`")
        if labels is not None:
            time = time + self._embed_labels(labels).to(time.dtype)
        time = silu(time).to(x.dtype)  # (B or 1, T)
        x = self.conv_in(x)
        skips = [x]
        for down in self.down_blocks:
            skips += down(skips[-1], time, context.pairs)
        x = self.mid_block(skips[-1], time, context.pairs)
        for up in self.up_blocks:
            x = up(x, time, context.pairs, skips)
        return self.conv_out(silu(self.conv_norm_out(x)))

    def prepare_context(self, context: torch.Tensor) -> PreparedContext:
        """Computes the keys and values of every cross-attention; do it once per prompt, not once per step.

        context: (B, L, D), D = `config.cross_attention_dim`.

        Raises:
            ValueError: the context has another width.
        """
        if context.ndim != 3 or context.shape[2] != self.config.cross_attention_dim:
            width = self.config.cross_attention_dim
            raise ValueError(f"context has shape {tuple(context.shape)}; this network takes (B, L, {width})")
        return PreparedContext(pairs=tuple(layer.attn2.keys_values(context) for layer in self.transformer_layers()))

    def initialise(self, generator: torch.Generator) -> None:
        """Re-draws every parameter for training from scratch.

        Every residual block and transformer starts as its shortcut and the output as zero (Ho 2020; Dhariwal 2021); all
        else is drawn as in `draw_parameters`.
        """
        draw_parameters(self, generator)
        for module in self.modules():
            if isinstance(module, Transformer):
                zero(module.proj_out)
        zero(self.conv_out)

    def transformer_layers(self) -> list[TransformerLayer]:
        """Every layer with self- and cross-attention, in the order they run."""
        parts = [*self.down_blocks, self.mid_block, *self.up_blocks]  # in the order they run
        return [module for part in parts for module in part.modules() if isinstance(module, TransformerLayer)]

    def _embed_labels(self, labels: torch.Tensor) -> torch.Tensor:
        assert self.class_embedding is not None
        width = self.config.label_width
        if labels.ndim == 2 and labels.shape[1] != width:
            raise ValueError(f"labels have shape {tuple(labels.shape)}; this network takes (B, {width})")
        if labels.ndim == 2 and isinstance(self.class_embedding, nn.Embedding):
            return labels.to(self.class_embedding.weight.dtype) @ self.class_embedding.weight
        return self.class_embedding(labels)

    def _embed_time(
        self, timestep: torch.Tensor, added: AddedConditioning | None, guidance: torch.Tensor | None
    ) -> torch.Tensor:
        config = self.config
        if (guidance is None) != (config.time_cond_proj_dim is None):
            need = "needs" if guidance is None else "takes no"
            raise ValueError(f"a network with time_cond_proj_dim={config.time_cond_proj_dim} {need} `guidance`")
        time = self.time_embedding(sinusoids(timestep, config.block_out_channels[0]), guidance)  # (B, T)
        if (added is None) != (config.addition_embed_type is None):
            need = "needs" if added is None else "takes no"
            raise ValueError(f"a network with addition_embed_type={config.addition_embed_type!r} {need} `added`")
        if added is None:
            return time
        size = config.addition_time_embed_dim or 0
        sizes = sinusoids(added.time_ids.flatten(), size).view(len(added.text_embeds), -1)  # (B, 5 or 6 * size)
        joined = torch.cat([added.text_embeds, sizes.to(added.text_embeds.dtype)], dim=1)
        if joined.shape[1] != config.projection_class_embeddings_input_dim:
            raise ValueError(
                f"text_embeds of {added.text_embeds.shape[1]} and {added.time_ids.shape[1]} time_ids make "
                f"{joined.shape[1]} numbers; this network takes {config.projection_class_embeddings_input_dim}"
            )
        return time + self.add_embedding(joined)


def _shape(config: UNetConfig, level: int, kind: str) -> LevelShape:
    return LevelShape(
        channels=config.block_out_channels[level],
        time_channels=4 * config.block_out_channels[0],
        context_channels=config.cross_attention_dim,
        heads=config.heads[level],
        depth=config.depths[level],
        attends=kind.startswith("CrossAttn"),
        linear=config.use_linear_projection,
        groups=config.norm_num_groups,
        eps=config.norm_eps,
    )
