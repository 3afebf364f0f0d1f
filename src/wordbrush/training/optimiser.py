"""Optimisers: AdamW for everything, or Muon for the hidden weight matrices and AdamW for the rest."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from wordbrush.training.muon import Muon
from wordbrush.training.recipe import Optimiser

# First and last layers, embeddings and gains are not hidden matrices: orthogonal updates harm them (Jordan 2024).
_NOT_HIDDEN = ("embedding", "conv_in", "conv_out", "logit_scale", "projection", "head")


def _as_matrix(weight: Tensor) -> Tensor:
    """(out, in * k * k) sharing memory with a linear or convolution weight, whichever its memory format."""
    if weight.ndim == 4 and weight.is_contiguous(memory_format=torch.channels_last):
        return weight.permute(0, 2, 3, 1).flatten(1)
    return weight.flatten(1)


class OptimiserPair:
    """AdamW and, if the recipe says so, Muon, stepped as one.

    Muon's updates are as large as AdamW's (Liu 2025, "Muon is scalable", eq. 4): one learning rate serves both.
    """

    def __init__(self, modules: Mapping[str, nn.Module], recipe: Optimiser) -> None:
        named = [
            (f"{name}.{key}", p)
            for name, module in modules.items()
            for key, p in module.named_parameters()
            if p.requires_grad
        ]
        self.parameters = [parameter for _, parameter in named]
        hidden = [
            p
            for key, p in named
            if recipe.kind == "muon" and p.ndim in (2, 4) and not any(word in key for word in _NOT_HIDDEN)
        ]
        chosen = {id(p) for p in hidden}
        rest = [p for p in self.parameters if id(p) not in chosen]
        groups: list[dict[str, Any]] = [
            {"params": [p for p in rest if p.ndim >= 2], "weight_decay": recipe.weight_decay},
            {"params": [p for p in rest if p.ndim < 2], "weight_decay": 0.0},
        ]
        self.adamw = torch.optim.AdamW(groups, lr=recipe.learning_rate, betas=recipe.betas, fused=True)
        self.pairs = [(p, nn.Parameter(_as_matrix(p.detach()))) for p in hidden]
        self.muon = (
            Muon([matrix for _, matrix in self.pairs], lr=recipe.learning_rate, weight_decay=recipe.weight_decay)
            if self.pairs
            else None
        )

    def set_rate(self, rate: float) -> None:
        for optimiser in filter(None, (self.adamw, self.muon)):
            for group in optimiser.param_groups:
                group["lr"] = rate

    def step(self) -> None:
        """Updates every parameter from its gradient, then forgets the gradients."""
        self.adamw.step()
        if self.muon is not None:
            for parameter, matrix in self.pairs:
                matrix.grad = None if parameter.grad is None else _as_matrix(parameter.grad)
            self.muon.step()
        for parameter in self.parameters:
            parameter.grad = None

    def state_dict(self) -> dict[str, Any]:
        return {"adamw": self.adamw.state_dict()} | ({"muon": self.muon.state_dict()} if self.muon else {})

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.adamw.load_state_dict(state["adamw"])
        if self.muon is not None:
            self.muon.load_state_dict(state["muon"])
