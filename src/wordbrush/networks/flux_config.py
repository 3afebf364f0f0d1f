"""The shape of a FLUX.1 transformer, and its config.json as diffusers writes it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

from .config import Dialect, read_fields, require

# Patches are packed outside the network, so that it sees one token per patch.
_DIALECT = Dialect(ignored=frozenset(), fixed={"patch_size": (1,)})


@dataclass(frozen=True, kw_only=True)
class FluxConfig:
    """Shape of a FLUX.1 transformer; field names and defaults are those of diffusers' config.json.

    Attributes:
        in_channels: numbers per token: a packed 2×2 patch of 16 latent channels is 64. Pictures and masks concatenated
            to it make more: 128 with a depth map or edges, 384 for filling in.
        out_channels: numbers per token of the prediction; None is in_channels.
        num_layers: blocks with separate weights for picture and text.
        num_single_layers: blocks after them, with the same weights for both.
        attention_head_dim, num_attention_heads: their product is the width of the network.
        joint_attention_dim: width D of the text context (B, L, D).
        pooled_projection_dim: length of the pooled text embedding.
        guidance_embeds: whether the network takes a guidance scale (dev, distilled with guidance) or not (schnell).
        axes_dims_rope: how many of the numbers of a head are rotated by each of a token's three positions.
    """

    in_channels: int = 64
    out_channels: int | None = None
    num_layers: int = 19
    num_single_layers: int = 38
    attention_head_dim: int = 128
    num_attention_heads: int = 24
    joint_attention_dim: int = 4096
    pooled_projection_dim: int = 768
    guidance_embeds: bool = False
    axes_dims_rope: tuple[int, ...] = (16, 56, 56)

    def __post_init__(self) -> None:
        numbers = ("in_channels", "attention_head_dim", "num_attention_heads", "joint_attention_dim")
        for name in (*numbers, "pooled_projection_dim"):
            require(getattr(self, name) >= 1, f"{name}={getattr(self, name)} must be at least 1")
        for name in ("num_layers", "num_single_layers"):
            require(getattr(self, name) >= 0, f"{name}={getattr(self, name)} must not be negative")
        require(
            self.out_channels is None or self.out_channels >= 1, f"out_channels={self.out_channels} must be at least 1"
        )
        require(
            all(axis >= 2 and axis % 2 == 0 for axis in self.axes_dims_rope),
            f"axes_dims_rope={self.axes_dims_rope} must hold even numbers, since pairs are rotated",
        )
        require(
            sum(self.axes_dims_rope) == self.attention_head_dim,
            f"axes_dims_rope={self.axes_dims_rope} must add up to attention_head_dim={self.attention_head_dim}",
        )

    @property
    def width(self) -> int:
        """Numbers per token inside the network."""
        return self.num_attention_heads * self.attention_head_dim

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> FluxConfig:
        """Reads a diffusers config.json.

        Raises:
            ValueError: a setting is unknown or not supported.
        """
        return cls(**read_fields(cls, values, _DIALECT))

    def to_dict(self) -> dict[str, Any]:
        """Returns a config.json that diffusers opens as FluxTransformer2DModel."""
        own = asdict(self) | {"axes_dims_rope": list(self.axes_dims_rope)}
        return {"_class_name": "FluxTransformer2DModel", "patch_size": 1} | own
