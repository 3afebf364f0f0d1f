"""A tiny autoencoder in a large one's latent space, for previews: TAESD and its siblings (Boer Bohan 2023).

It was distilled from a KL-VAE and gives and takes the latents that the denoiser works on, so its scale is 1 and its
shift 0 in all known files. State-dict keys are those of diffusers' AutoencoderTiny. Its halves are also shared one by
one: then the other has no levels in the config, and is None.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import nn

from .blocks import draw_parameters
from .config import Dialect, read_fields, require
from .pixels import Pixels
from .vae import AutoencoderKL

_LIMIT = 3.0  # latents further from zero than this are bent back before decoding
_DIALECT = Dialect(
    # latent_magnitude and latent_shift are for storing latents as 8-bit pictures; block_out_channels is the decoder's.
    ignored=frozenset({"block_out_channels", "force_upcast", "latent_magnitude", "latent_shift"}),
    fixed={"act_fn": ("relu",), "upsample_fn": ("nearest",), "upsampling_scaling_factor": (2,)},
)


@dataclass(frozen=True, kw_only=True)
class TinyAutoencoderConfig:
    """Shape of a tiny autoencoder; field names and defaults are those of diffusers' config.json.

    Attributes:
        encoder_block_out_channels, decoder_block_out_channels: channels per level, all the same within each.
        num_encoder_blocks: residual blocks per level, finest first; each further level halves height and width.
        num_decoder_blocks: the same on the way back, coarsest first. Of a half that is not there, these are empty.
        scaling_factor, shift_factor: latents = (encoder output - shift_factor) * scaling_factor.
    """

    in_channels: int = 3
    out_channels: int = 3
    encoder_block_out_channels: tuple[int, ...] = (64, 64, 64, 64)
    decoder_block_out_channels: tuple[int, ...] = (64, 64, 64, 64)
    latent_channels: int = 4
    num_encoder_blocks: tuple[int, ...] = (1, 3, 3, 3)
    num_decoder_blocks: tuple[int, ...] = (3, 3, 3, 1)
    scaling_factor: float = 1.0
    shift_factor: float = 0.0

    def __post_init__(self) -> None:
        for name in ("in_channels", "out_channels", "latent_channels"):
            require(getattr(self, name) >= 1, f"{name}={getattr(self, name)} must be at least 1")
        for part in ("encoder", "decoder"):
            widths, blocks = getattr(self, f"{part}_block_out_channels"), getattr(self, f"num_{part}_blocks")
            require(
                len(widths) == len(blocks),
                f"{part}_block_out_channels={widths} and num_{part}_blocks={blocks} must name the same levels",
            )
            require(
                not widths or (len(set(widths)) == 1 and widths[0] >= 1),
                f"{part}_block_out_channels={widths} must hold one number, the same for every level",
            )
        levels = {len(blocks) for blocks in (self.num_encoder_blocks, self.num_decoder_blocks) if blocks}
        require(bool(levels), "num_encoder_blocks=() and num_decoder_blocks=() leave nothing; give one of them levels")
        require(
            len(levels) == 1,
            f"num_encoder_blocks={self.num_encoder_blocks} and num_decoder_blocks={self.num_decoder_blocks} must be "
            "of one length, so that a decoded picture has the size it had",
        )
        require(self.scaling_factor > 0, f"scaling_factor={self.scaling_factor} must be greater than 0")

    @property
    def downscale(self) -> int:
        """Pixels per latent along each side."""
        return 2 ** (len(self.num_decoder_blocks or self.num_encoder_blocks) - 1)

    @property
    def reach(self) -> int:
        """How many latents away along a side a pixel may lie and still matter to a latent, or the other way round."""
        pixels = 0
        for blocks in (self.num_encoder_blocks, self.num_decoder_blocks[::-1]):  # finest first
            own = 1
            for level, count in enumerate(blocks):
                own += (3 * count + 2) * 2**level  # a pixel a 3×3 convolution; those between levels and at the end too
            pixels = max(pixels, own)
        return -(-pixels // self.downscale)

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> TinyAutoencoderConfig:
        """Reads a diffusers config.json.

        Raises:
            ValueError: a setting is unknown or not supported.
        """
        return cls(**read_fields(cls, values, _DIALECT))

    def to_dict(self) -> dict[str, Any]:
        """Returns a config.json that diffusers opens as AutoencoderTiny."""
        own = {key: list(value) if isinstance(value, tuple) else value for key, value in asdict(self).items()}
        return {"_class_name": "AutoencoderTiny"} | own | {key: options[0] for key, options in _DIALECT.fixed.items()}


class Block(nn.Module):
    """Three 3×3 convolutions around a shortcut, without normalisation; the keys are `conv.0`, `conv.2` and `conv.4`."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.conv = nn.Sequential(
            nn.Conv2d(width, width, 3, padding=1),
            nn.ReLU(),
            nn.Conv2d(width, width, 3, padding=1),
            nn.ReLU(),
            nn.Conv2d(width, width, 3, padding=1),
        )

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return F.relu(self.conv(x) + x)


class Encoder(nn.Module):
    """Images (B, 3, H, W) in [-1, 1] to latents (B, C, H/f, W/f)."""

    def __init__(self, config: TinyAutoencoderConfig) -> None:
        super().__init__()
        width = config.encoder_block_out_channels[0]
        layers: list[nn.Module] = []
        for level, blocks in enumerate(config.num_encoder_blocks):
            if level == 0:
                layers.append(nn.Conv2d(config.in_channels, width, 3, padding=1))
            else:
                layers.append(nn.Conv2d(width, width, 3, stride=2, padding=1, bias=False))
            layers += [Block(width) for _ in range(blocks)]
        layers.append(nn.Conv2d(width, config.latent_channels, 3, padding=1))
        self.layers = nn.Sequential(*layers)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return self.layers((images + 1) / 2)  # the layers know pictures in [0, 1]


class Decoder(nn.Module):
    """Latents (B, C, h, w) to images (B, 3, h*f, w*f), about [-1, 1]."""

    def __init__(self, config: TinyAutoencoderConfig) -> None:
        super().__init__()
        width, last = config.decoder_block_out_channels[0], len(config.num_decoder_blocks) - 1
        layers: list[nn.Module] = [nn.Conv2d(config.latent_channels, width, 3, padding=1), nn.ReLU()]
        for level, blocks in enumerate(config.num_decoder_blocks):
            layers += [Block(width) for _ in range(blocks)]
            if level < last:
                layers += [nn.Upsample(scale_factor=2), nn.Conv2d(width, width, 3, padding=1, bias=False)]
        layers.append(nn.Conv2d(width, config.out_channels, 3, padding=1))
        self.layers = nn.Sequential(*layers)

    def forward(self, latents: torch.Tensor) -> torch.Tensor:
        return self.layers(torch.tanh(latents / _LIMIT) * _LIMIT) * 2 - 1


class TinyAutoencoder(nn.Module):
    """The autoencoder; it has no distribution, so encoding gives the latents themselves."""

    def __init__(self, config: TinyAutoencoderConfig) -> None:
        super().__init__()
        self.config = config
        self.encoder = Encoder(config) if config.num_encoder_blocks else None
        self.decoder = Decoder(config) if config.num_decoder_blocks else None

    def encode(self, images: torch.Tensor) -> torch.Tensor:
        """Returns the scaled latents (B, C, H/f, W/f) of images (B, 3, H, W) in [-1, 1].

        Raises:
            ValueError: height or width is not a multiple of f = `config.downscale`, or this is a decoder alone.
        """
        if self.encoder is None:
            raise ValueError("num_encoder_blocks=() leaves a decoder alone, which encodes nothing")
        step = self.config.downscale
        for name, size in (("height", images.shape[2]), ("width", images.shape[3])):
            low = size // step * step
            require(
                size % step == 0 and size > 0,
                f"{name}={size} is not a multiple of {step}; the nearest that fit are {low} and {low + step}",
            )
        return (self.encoder(images) - self.config.shift_factor) * self.config.scaling_factor

    def decode(self, latents: torch.Tensor) -> torch.Tensor:
        """Returns images (B, 3, h*f, w*f), about [-1, 1] but not clipped, for scaled latents (B, C, h, w).

        Raises:
            ValueError: this is an encoder alone.
        """
        if self.decoder is None:
            raise ValueError("num_decoder_blocks=() leaves an encoder alone, which decodes nothing")
        return self.decoder(latents / self.config.scaling_factor + self.config.shift_factor)

    def initialise(self, generator: torch.Generator) -> None:
        """Re-draws every parameter as `draw_parameters` does."""
        draw_parameters(self, generator)


Autoencoder = AutoencoderKL | TinyAutoencoder | Pixels
"""What turns pictures into the latents of a model, and back."""
