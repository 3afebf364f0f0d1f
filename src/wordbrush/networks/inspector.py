"""The inspector: a small detector that says what is where in a picture of a scene, in which colour, on which ground.

One question per cell of a 16x16 grid, as in anchor-free detectors (Zhou 2019, "Objects as points"; Tian 2019, "FCOS"):
is the middle of a thing here, and if so, of what kind and colour, and which box is it? It knows nothing of the
generator.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .config import Dialect, read_fields, require, require_groups

_STEM = 4  # pixels along each side of a cell of the stem
_MEAN_SIDE = 48.0  # pixels: boxes are read as logarithms relative to this
_FEW = 0.01  # first guess for the part of cells that hold a thing's middle


@dataclass(frozen=True, kw_only=True)
class InspectorConfig:
    """Shape and vocabulary of an inspector.

    Attributes:
        kinds, colours, backgrounds: the names of the classes, in the order of the outputs.
        size: sides of the pictures in pixels.
        widths: channels at 1/4, 1/8 and 1/16 of the picture's side.
        depths: residual blocks at each of them.
        neck: channels of the map at 1/8 that the answers are read from.
        group_channels: channels that are normalised together.
    """

    kinds: tuple[str, ...]
    colours: tuple[str, ...]
    backgrounds: tuple[str, ...]
    size: int = 128
    widths: tuple[int, ...] = (64, 128, 192)
    depths: tuple[int, ...] = (1, 1, 2)
    neck: int = 128
    group_channels: int = 32

    def __post_init__(self) -> None:
        for name in ("kinds", "colours", "backgrounds"):
            require(len(getattr(self, name)) > 0, f"{name}={getattr(self, name)!r} must name at least one class")
        require(self.size > 0 and self.size % 16 == 0, f"size={self.size} must be a multiple of 16")
        require(len(self.widths) == 3, f"widths={self.widths} must be three numbers, for 1/4, 1/8 and 1/16 of the side")
        require(
            len(self.depths) == 3 and min(self.depths) >= 0, f"depths={self.depths} must be three numbers from 0 up"
        )
        for width in (*self.widths, self.neck):
            require_groups("widths and neck", (width,), max(1, width // self.group_channels))

    @property
    def cell(self) -> int:
        """Pixels along each side of a cell of the answers' grid."""
        return 2 * _STEM

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> InspectorConfig:
        """Reads a config.json. Raises ValueError for a setting that is unknown or wrong."""
        return cls(**read_fields(cls, values, Dialect(ignored=frozenset({"architectures"}), fixed={})))

    def to_dict(self) -> dict[str, Any]:
        """Returns a config.json."""
        return {"architectures": ["Inspector"]} | asdict(self)


class Features(NamedTuple):
    """What the trunk sees: `cells` (B, h, w, N) on the answers' grid, `embedding` (B, C) of the whole picture."""

    cells: Tensor
    embedding: Tensor


class Answers(NamedTuple):
    """Answers about rows of features. `kind` (..., K), `colour` (..., M): logits.

    `box` (..., 4): centre x and y from the cell's middle, in cells; logarithms of width and height over 48 pixels.
    """

    kind: Tensor
    colour: Tensor
    box: Tensor


class ResidualBlock(nn.Module):
    """Two normalised 3x3 convolutions around a shortcut, activation first (He 2016, "Identity mappings")."""

    def __init__(self, channels: int, group_channels: int) -> None:
        super().__init__()
        groups = max(1, channels // group_channels)
        self.norm1 = nn.GroupNorm(groups, channels)
        self.conv1 = nn.Conv2d(channels, channels, 3, padding=1, bias=False)
        self.norm2 = nn.GroupNorm(groups, channels)
        self.conv2 = nn.Conv2d(channels, channels, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        h = self.conv1(F.relu(self.norm1(x)))
        return x + self.conv2(F.relu(self.norm2(h)))  # (B, C, h, w)


class Inspector(nn.Module):
    """Pictures (B, 3, S, S) in [-1, 1] to answers: `features` runs the trunk, the other methods read from it."""

    def __init__(self, config: InspectorConfig) -> None:
        super().__init__()
        self.config = config
        fine, middle, coarse = config.widths
        per_group = config.group_channels
        self.conv_in = nn.Conv2d(3 * _STEM**2, fine, 3, padding=1)
        self.fine = nn.Sequential(*(ResidualBlock(fine, per_group) for _ in range(config.depths[0])))
        self.down_middle = nn.Conv2d(fine, middle, 3, stride=2, padding=1)
        self.middle = nn.Sequential(*(ResidualBlock(middle, per_group) for _ in range(config.depths[1])))
        self.down_coarse = nn.Conv2d(middle, coarse, 3, stride=2, padding=1)
        self.coarse = nn.Sequential(*(ResidualBlock(coarse, per_group) for _ in range(config.depths[2])))
        self.norm_coarse = nn.GroupNorm(max(1, coarse // per_group), coarse)
        self.from_middle = nn.Conv2d(middle, config.neck, 1)
        self.from_coarse = nn.Conv2d(coarse, config.neck, 1)
        self.neck = ResidualBlock(config.neck, per_group)
        self.norm_neck = nn.GroupNorm(max(1, config.neck // per_group), config.neck)
        self.presence_head = nn.Linear(config.neck, 1)
        self.kind_head = nn.Linear(config.neck, len(config.kinds))
        self.colour_head = nn.Linear(config.neck, len(config.colours))
        self.box_head = nn.Linear(config.neck, 4)
        self.background_head = nn.Linear(coarse, len(config.backgrounds))

    def features(self, images: Tensor) -> Features:
        """images: (B, 3, S, S) in [-1, 1].

        Raises:
            ValueError: the pictures have another size than the config's.
        """
        if images.shape[1:] != (3, self.config.size, self.config.size):
            side = self.config.size
            raise ValueError(f"pictures of shape {tuple(images.shape)} given; wanted is (B, 3, {side}, {side})")
        x = F.pixel_unshuffle(images, _STEM).contiguous(memory_format=torch.channels_last)  # (B, 48, S/4, S/4)
        middle = self.middle(self.down_middle(self.fine(self.conv_in(x))))  # (B, C, S/8, S/8)
        coarse = F.relu(self.norm_coarse(self.coarse(self.down_coarse(middle))))  # (B, C', S/16, S/16)
        spread = F.interpolate(self.from_coarse(coarse), scale_factor=2.0)  # (B, N, S/8, S/8)
        joined = self.from_middle(middle) + spread
        cells = F.relu(self.norm_neck(self.neck(joined)))
        return Features(cells.permute(0, 2, 3, 1), coarse.mean(dim=(2, 3)))

    def presence(self, cells: Tensor) -> Tensor:
        """Logits (...) that the middle of a thing lies in a cell, from its features (..., N)."""
        return self.presence_head(cells)[..., 0]

    def answers(self, cells: Tensor) -> Answers:
        """What the thing in a cell is, from features (..., N) of any selection of cells."""
        return Answers(self.kind_head(cells), self.colour_head(cells), self.box_head(cells))

    def background(self, embedding: Tensor) -> Tensor:
        """Logits (B, G) of the ground's colour, from the embedding (B, C)."""
        return self.background_head(embedding)

    def boxes(self, raw: Tensor, rows: Tensor, columns: Tensor) -> Tensor:
        """Left, top, right, bottom in pixels (P, 4), of raw boxes (P, 4) read in cells (P,), (P,)."""
        centre = (torch.stack([columns, rows], dim=1) + 0.5 + raw[:, :2].float()) * self.config.cell
        half = raw[:, 2:].float().exp() * _MEAN_SIDE / 2
        return torch.cat([centre - half, centre + half], dim=1)

    def raw_boxes(self, boxes: Tensor, rows: Tensor, columns: Tensor) -> Tensor:
        """The inverse of `boxes`: what `box_head` should say."""
        centre, sides = (boxes[:, :2] + boxes[:, 2:]) / 2, boxes[:, 2:] - boxes[:, :2]
        offset = centre / self.config.cell - 0.5 - torch.stack([columns, rows], dim=1)
        return torch.cat([offset, (sides / _MEAN_SIDE).log()], dim=1)

    @torch.no_grad()
    def initialise(self, generator: torch.Generator) -> None:
        """Re-draws every parameter: He 2015, residual branches at zero, and few cells expected to hold a thing."""
        for module in self.modules():
            if isinstance(module, nn.Conv2d | nn.Linear):
                fan_in = module.weight[0].numel()
                gain = 2.0 if isinstance(module, nn.Conv2d) else 1.0
                module.weight.normal_(std=math.sqrt(gain / fan_in), generator=generator)
                if module.bias is not None:
                    module.bias.zero_()
            elif isinstance(module, nn.GroupNorm):
                module.weight.fill_(1.0)
                module.bias.zero_()
        for module in self.modules():
            if isinstance(module, ResidualBlock):
                module.conv2.weight.zero_()
        self.box_head.weight.zero_()
        self.presence_head.weight.zero_()
        self.presence_head.bias.fill_(math.log(_FEW / (1 - _FEW)))  # Lin 2017, "Focal loss", section 4.1
