"""AutoencoderKL: images to latents and back, the autoencoder of latent diffusion (Rombach 2022, §3.1 and appendix G.1).

The network applies its own scale and shift, so nothing outside this file knows those constants: `encode` gives and
`decode` takes latents of about unit variance. `encode_raw` and `decode_raw` are the bare network, for training it.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import nn

from .attention import attend
from .blocks import Downsample, ResnetBlock, Upsample, draw_parameters, silu, zero
from .config import Dialect, read_fields, require, require_groups

_EPS = 1e-6  # of every GroupNorm in this network
_DOWN, _UP = "DownEncoderBlock2D", "UpDecoderBlock2D"
_LOGVAR_RANGE = (-30.0, 20.0)
_DIALECT = Dialect(
    ignored=frozenset(),
    fixed={"act_fn": ("silu",), "latents_mean": (None,), "latents_std": (None,)},
)


@dataclass(frozen=True, kw_only=True)
class AutoencoderKLConfig:
    """Shape of an AutoencoderKL; field names and defaults are those of diffusers' config.json.

    Attributes:
        block_out_channels: channels per level, finest first; each further level halves height and width.
        layers_per_block: residual blocks per level of the encoder (the decoder has one more).
        sample_size: side in pixels of the training images; says nothing about what the network can take.
        scaling_factor, shift_factor: latents = (encoder output - shift_factor) * scaling_factor.
        force_upcast: float16 overflows in this network, so it must run in float32 or bfloat16.
    """

    in_channels: int = 3
    out_channels: int = 3
    block_out_channels: tuple[int, ...] = (64,)
    layers_per_block: int = 1
    latent_channels: int = 4
    norm_num_groups: int = 32
    sample_size: int = 32
    scaling_factor: float = 0.18215
    shift_factor: float | None = None
    force_upcast: bool = True
    use_quant_conv: bool = True
    use_post_quant_conv: bool = True
    mid_block_add_attention: bool = True

    def __post_init__(self) -> None:
        for name in ("in_channels", "out_channels", "layers_per_block", "latent_channels"):
            require(getattr(self, name) >= 1, f"{name}={getattr(self, name)} must be at least 1")
        require(len(self.block_out_channels) >= 1, "block_out_channels=() needs at least one level")
        require_groups("block_out_channels", self.block_out_channels, self.norm_num_groups)
        require(self.scaling_factor > 0, f"scaling_factor={self.scaling_factor} must be greater than 0")

    @property
    def downscale(self) -> int:
        """Pixels per latent along each side."""
        return 2 ** (len(self.block_out_channels) - 1)

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> AutoencoderKLConfig:
        """Reads a diffusers config.json.

        Raises:
            ValueError: a setting is unknown or not supported.
        """
        own = read_fields(
            cls, {k: v for k, v in values.items() if k not in ("down_block_types", "up_block_types")}, _DIALECT
        )
        for key, supported in (("down_block_types", _DOWN), ("up_block_types", _UP)):
            for kind in values.get(key, ()):
                require(
                    kind == supported, f"AutoencoderKLConfig: {key} holds {kind!r}; only {supported!r} is supported"
                )
        return cls(**own)

    def to_dict(self) -> dict[str, Any]:
        """Returns a config.json that diffusers opens as AutoencoderKL."""
        levels = len(self.block_out_channels)
        values = asdict(self) | {"block_out_channels": list(self.block_out_channels), "act_fn": "silu"}
        return (
            {"_class_name": "AutoencoderKL"}
            | values
            | {"down_block_types": [_DOWN] * levels, "up_block_types": [_UP] * levels}
        )


@dataclass(frozen=True, kw_only=True)
class DiagonalGaussian:
    """An independent normal distribution per element; mean and logvar: (B, C, h, w)."""

    mean: torch.Tensor
    logvar: torch.Tensor

    def sample(self, generator: torch.Generator) -> torch.Tensor:
        """Draws (B, C, h, w); the noise is float32 from the generator's own device, then moved."""
        noise = torch.randn(self.mean.shape, generator=generator, device=generator.device, dtype=torch.float32)
        return self.mean + torch.exp(0.5 * self.logvar) * noise.to(self.mean)

    def mode(self) -> torch.Tensor:
        """Returns the most likely value, which is the mean."""
        return self.mean

    def kl(self) -> torch.Tensor:
        """Returns the divergence from the unit normal in nats, summed per picture: (B,). Kingma 2014, appendix B."""
        return 0.5 * (self.mean.square() + self.logvar.exp() - 1.0 - self.logvar).sum(dim=(1, 2, 3))


class SpatialAttention(nn.Module):
    """Self-attention with one head over all positions of a feature map, around a shortcut."""

    def __init__(self, channels: int, *, groups: int) -> None:
        super().__init__()
        self.group_norm = nn.GroupNorm(groups, channels, eps=_EPS)
        self.to_q = nn.Linear(channels, channels)
        self.to_k = nn.Linear(channels, channels)
        self.to_v = nn.Linear(channels, channels)
        self.to_out = nn.ModuleList([nn.Linear(channels, channels)])  # the key is `to_out.0`

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """x: (B, C, h, w). Returns the same shape."""
        tokens = self.group_norm(x).permute(0, 2, 3, 1).flatten(1, 2)  # (B, h*w, C), a view when channels_last
        tokens = attend(self.to_q(tokens), self.to_k(tokens), self.to_v(tokens), heads=1)
        out = self.to_out[0](tokens).unflatten(1, x.shape[2:]).permute(0, 3, 1, 2)  # (B, C, h, w)
        return x + out


class MidBlock(nn.Module):
    """Residual block, attention (if any), residual block at the coarsest level."""

    def __init__(self, channels: int, *, groups: int, attention: bool) -> None:
        super().__init__()
        self.resnets = nn.ModuleList(ResnetBlock(channels, channels, groups=groups, eps=_EPS) for _ in range(2))
        self.attentions = nn.ModuleList([SpatialAttention(channels, groups=groups)] if attention else [])

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.resnets[0](x)
        for attention in self.attentions:
            x = attention(x)
        return self.resnets[1](x)


class Level(nn.Module):
    """The residual blocks of one level and, unless it is the last, the change of size to the next."""

    def __init__(self, channels: tuple[int, int], depth: int, *, groups: int, resize: str | None) -> None:
        super().__init__()
        start, end = channels
        self.resnets = nn.ModuleList(
            ResnetBlock(start if i == 0 else end, end, groups=groups, eps=_EPS) for i in range(depth)
        )
        self.downsamplers = nn.ModuleList([Downsample(end, symmetric=False)] if resize == "down" else [])
        self.upsamplers = nn.ModuleList([Upsample(end)] if resize == "up" else [])

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        for part in (*self.resnets, *self.downsamplers, *self.upsamplers):
            x = part(x)
        return x


class Encoder(nn.Module):
    """Images (B, 3, H, W) to the parameters of a Gaussian (B, 2 * latent_channels, H/f, W/f)."""

    def __init__(self, config: AutoencoderKLConfig) -> None:
        super().__init__()
        widths, groups = config.block_out_channels, config.norm_num_groups
        last = len(widths) - 1
        self.conv_in = nn.Conv2d(config.in_channels, widths[0], 3, padding=1)
        self.down_blocks = nn.ModuleList(
            Level(pair, config.layers_per_block, groups=groups, resize="down" if i < last else None)
            for i, pair in enumerate(zip((widths[0], *widths), widths, strict=False))
        )
        self.mid_block = MidBlock(widths[-1], groups=groups, attention=config.mid_block_add_attention)
        self.conv_norm_out = nn.GroupNorm(groups, widths[-1], eps=_EPS)
        self.conv_out = nn.Conv2d(widths[-1], 2 * config.latent_channels, 3, padding=1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.conv_in(x)
        for level in self.down_blocks:
            x = level(x)
        return self.conv_out(silu(self.conv_norm_out(self.mid_block(x))))


class Decoder(nn.Module):
    """Latents (B, latent_channels, h, w) to images (B, 3, h*f, w*f)."""

    def __init__(self, config: AutoencoderKLConfig) -> None:
        super().__init__()
        widths, groups = config.block_out_channels[::-1], config.norm_num_groups
        last = len(widths) - 1
        self.conv_in = nn.Conv2d(config.latent_channels, widths[0], 3, padding=1)
        self.mid_block = MidBlock(widths[0], groups=groups, attention=config.mid_block_add_attention)
        self.up_blocks = nn.ModuleList(
            Level(pair, config.layers_per_block + 1, groups=groups, resize="up" if i < last else None)
            for i, pair in enumerate(zip((widths[0], *widths), widths, strict=False))
        )
        self.conv_norm_out = nn.GroupNorm(groups, widths[-1], eps=_EPS)
        self.conv_out = nn.Conv2d(widths[-1], config.out_channels, 3, padding=1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.conv_out(self.features(x))

    def features(self, x: torch.Tensor) -> torch.Tensor:
        """What the last convolution makes the images from: (B, C, h*f, w*f)."""
        x = self.mid_block(self.conv_in(x))
        for level in self.up_blocks:
            x = level(x)
        return silu(self.conv_norm_out(x))


class AutoencoderKL(nn.Module):
    """The autoencoder; state-dict keys are those of diffusers' AutoencoderKL."""

    def __init__(self, config: AutoencoderKLConfig) -> None:
        super().__init__()
        self.config = config
        latent = config.latent_channels
        self.encoder = Encoder(config)
        self.decoder = Decoder(config)
        self.quant_conv = nn.Conv2d(2 * latent, 2 * latent, 1) if config.use_quant_conv else None
        self.post_quant_conv = nn.Conv2d(latent, latent, 1) if config.use_post_quant_conv else None

    def encode(self, images: torch.Tensor) -> DiagonalGaussian:
        """Returns the distribution of the scaled latents (B, C, H/f, W/f) of images (B, 3, H, W) in [-1, 1].

        Raises:
            ValueError: height or width is not a multiple of f = `config.downscale`.
        """
        return self.scaled(self.encode_raw(images))

    def decode(self, latents: torch.Tensor) -> torch.Tensor:
        """Returns images (B, 3, h*f, w*f), about [-1, 1] but not clipped, for scaled latents (B, C, h, w)."""
        return self.decode_raw(latents / self.config.scaling_factor + (self.config.shift_factor or 0.0))

    def encode_raw(self, images: torch.Tensor) -> DiagonalGaussian:
        """As `encode`, before scale and shift."""
        step = self.config.downscale
        for name, size in (("height", images.shape[2]), ("width", images.shape[3])):
            low = size // step * step
            require(
                size % step == 0 and size > 0,
                f"{name}={size} is not a multiple of {step}; the nearest that fit are {low} and {low + step}",
            )
        return self.distribution(self.encoder(images))

    def distribution(self, moments: torch.Tensor) -> DiagonalGaussian:
        """The rest of `encode_raw`, for what the encoder gave, (B, 2C, h, w)."""
        if self.quant_conv is not None:
            moments = self.quant_conv(moments)
        mean, logvar = moments.chunk(2, dim=1)
        return DiagonalGaussian(mean=mean, logvar=logvar.clamp(*_LOGVAR_RANGE))

    def scaled(self, raw: DiagonalGaussian) -> DiagonalGaussian:
        """The rest of `encode`, for what `encode_raw` gave."""
        config = self.config
        mean = (raw.mean - (config.shift_factor or 0.0)) * config.scaling_factor
        return DiagonalGaussian(mean=mean, logvar=raw.logvar + 2.0 * math.log(config.scaling_factor))

    def decode_raw(self, latents: torch.Tensor) -> torch.Tensor:
        """As `decode`, for latents before scale and shift."""
        return self.decoder(latents if self.post_quant_conv is None else self.post_quant_conv(latents))

    def initialise(self, generator: torch.Generator) -> None:
        """Re-draws every parameter: residual and attention branches start at zero, all else as in `draw_parameters`."""
        draw_parameters(self, generator)
        for module in self.modules():
            if isinstance(module, SpatialAttention):
                zero(module.to_out[0])
