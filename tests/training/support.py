"""A task of plain numbers, for tests of the loop: quick, and in the importable place that worker processes want."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from PIL import Image
from safetensors.torch import save_file
from torch import Tensor, nn

from wordbrush.data.dataset import BadExample
from wordbrush.training.recipe import Recipe
from wordbrush.training.task import Batch, Task, normal_rows

NETWORK = {
    "latent_channels": 4, "block_out_channels": [16, 16], "layers_per_block": 1, "norm_num_groups": 1,
    "mid_block_add_attention": False, "use_quant_conv": False, "use_post_quant_conv": False,
}  # fmt: skip
VALUES: dict[str, Any] = {
    "name": "tiny", "seed": 5, "steps": 12, "batch": 8, "precision": "float32", "checkpoint_every": 4, "log_every": 4,
    "ema": 0.9, "trackers": [], "optimiser": {"learning_rate": 0.01, "warmup": 2},
    "train": {"task": "vae", "crop": 32, "network": NETWORK, "half_scale_every": 3},
}  # fmt: skip


def recipe(**changes: Any) -> Recipe:
    """The small recipe, changed."""
    return Recipe.model_validate(VALUES | changes)


class Block(nn.Module):
    """What is computed again: three layers with dropout between them."""

    def __init__(self, width: int, dropout: float) -> None:
        super().__init__()
        self.norm, self.one, self.two = nn.LayerNorm(width), nn.Linear(width, 2 * width), nn.Linear(2 * width, width)
        self.dropout = nn.Dropout(dropout)

    def forward(self, x: Tensor) -> Tensor:
        return x + self.two(self.dropout(torch.tanh(self.one(self.norm(x)))))


class Network(nn.Module):
    """Blocks in a list, then one layer."""

    def __init__(self, width: int, dropout: float) -> None:
        super().__init__()
        self.blocks = nn.ModuleList(Block(width, dropout) for _ in range(2))
        self.last = nn.Linear(width, 1)

    def forward(self, x: Tensor) -> Tensor:
        for block in self.blocks:
            x = block(x)
        return self.last(x)


class Rows:
    """Numbers in rows; the source that worker processes use. One step's cannot be read, another's ends the process."""

    def __init__(self, seed: int, width: int, fails_at: int | None = None, bad_at: int | None = None) -> None:
        self.seed, self.width, self.fails_at, self.bad_at = seed, width, fails_at, bad_at

    def __call__(self, step: int, rows: range) -> Batch:
        if step == self.bad_at:
            raise BadExample("7.png", "the picture 7.png cannot be read")
        if step == self.fails_at:
            import os

            os._exit(1)
        return {"x": normal_rows(self.seed, step, rows, (self.width,))}


class Numbers(Task):
    """Learns the sine of a row's sum."""

    def __init__(self, of: Recipe, *, width: int = 8, dropout: float = 0.0, **failing: int) -> None:
        super().__init__()
        with torch.random.fork_rng(devices=[]):
            torch.default_generator.manual_seed(of.seed)
            self.network = Network(width, dropout)
            self.gain = nn.Linear(1, 1)
        self.modules = {"net": self.network, "gain": self.gain}
        self.source = Rows(of.seed, width, **failing)
        self.takes_turns = of.name == "turns"  # `gain` has no part in every other step
        self.seen: list[tuple[int, range]] = []
        self.validated = 0

    def batch(self, step: int, rows: range) -> Batch:
        self.seen.append((step, rows))
        return self.source(step, rows)  # type: ignore[misc]

    def loss(self, batch: Batch, step: int) -> tuple[Tensor, dict[str, Tensor]]:
        x = batch["x"]
        found = self.network(x)
        if not (self.takes_turns and step % 2):
            found = self.gain(found)
        error = found - torch.sin(x.sum(1, keepdim=True))
        return error.square().mean(), {"error": error.abs().mean()}

    def validate(self) -> dict[str, float]:
        self.validated += 1
        assert not self.network.training
        x = torch.ones(4, self.network.last.in_features)
        torch.rand(3)  # what is drawn here changes nothing that comes after
        return {"easy": self.gain(self.network(x)).mean().item(), "hard": 2.0}

    def samples(self) -> list[tuple[str, Image.Image]]:
        return [("red", Image.new("RGB", (16, 16), "red")), ("blue", Image.new("RGB", (16, 16), "blue"))]

    def export(self, folder: Path, averaged: dict[str, dict[str, Tensor]]) -> None:
        save_file({key: value.contiguous() for key, value in averaged["net"].items()}, folder / "net.safetensors")
