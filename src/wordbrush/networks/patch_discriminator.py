"""A patch discriminator: says of each patch of a picture whether it is real (Isola 2017, §3.2.2, appendix 6.1.2)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import Tensor, nn

from .config import Dialect, read_fields, require, require_groups

_SLOPE = 0.2  # of the leaky rectifiers
_WIDEST = 8  # times `channels`: layers further on grow no more


@dataclass(frozen=True, kw_only=True)
class PatchDiscriminatorConfig:
    """Shape of a patch discriminator.

    Attributes:
        in_channels: of the pictures.
        channels: of the first layer; each further one has twice as many, up to eight times.
        layers: strided layers. With 3, the usual number, a patch is 70 pixels wide; with 2 34, with 1 16.
        group_channels: channels that are normalised together, within one picture.
    """

    in_channels: int = 3
    channels: int = 64
    layers: int = 3
    group_channels: int = 16

    def __post_init__(self) -> None:
        for name in ("in_channels", "channels", "layers", "group_channels"):
            require(getattr(self, name) >= 1, f"{name}={getattr(self, name)} must be at least 1")
        require_groups("channels", (self.channels,), max(1, self.channels // self.group_channels))

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> PatchDiscriminatorConfig:
        """Reads a config.json. Raises ValueError for a setting that is unknown or wrong."""
        return cls(**read_fields(cls, values, Dialect(ignored=frozenset({"architectures"}), fixed={})))

    def to_dict(self) -> dict[str, Any]:
        """Returns a config.json."""
        return {"architectures": ["PatchDiscriminator"]} | asdict(self)


class PatchDiscriminator(nn.Module):
    """Pictures (B, 3, H, W) in [-1, 1] to logits (B, 1, h, w), one for each patch; higher is more real.

    Where Isola has batch normalisation, this has group normalisation: what it says of a picture does not depend on the
    pictures beside it, so a step is the same whether one process does it or many. Keys are those of the network that
    pix2pix and VQGAN train, `main.0` and so on, whose normalisation layers lie at the same places.
    """

    def __init__(self, config: PatchDiscriminatorConfig) -> None:
        super().__init__()
        self.config = config
        before = config.channels
        parts: list[nn.Module] = [nn.Conv2d(config.in_channels, before, 4, stride=2, padding=1), nn.LeakyReLU(_SLOPE)]
        for layer in range(1, config.layers + 1):
            width = config.channels * min(2**layer, _WIDEST)
            stride = 2 if layer < config.layers else 1
            parts += [
                nn.Conv2d(before, width, 4, stride=stride, padding=1, bias=False),  # the normalisation has the bias
                nn.GroupNorm(max(1, width // config.group_channels), width),
                nn.LeakyReLU(_SLOPE),
            ]
            before = width
        parts.append(nn.Conv2d(before, 1, 4, padding=1))
        self.main = nn.Sequential(*parts)

    def forward(self, images: Tensor) -> Tensor:
        """images: (B, 3, H, W) in [-1, 1]. Returns (B, 1, h, w); h is about H / 2^layers - 2."""
        return self.main(images)

    @torch.no_grad()
    def initialise(self, generator: torch.Generator) -> None:
        """Re-draws every parameter: weights of spread 0.02, as in Isola 2017, appendix 6.2."""
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                module.weight.normal_(std=0.02, generator=generator)
                if module.bias is not None:
                    module.bias.zero_()
            elif isinstance(module, nn.GroupNorm):
                module.weight.fill_(1.0)
                module.bias.zero_()
