"""Optimisers: AdamW for everything, or Muon for the hidden weight matrices and AdamW for the rest."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from wordbrush.errors import RequestError
from wordbrush.training.muon import Muon
from wordbrush.training.recipe import Optimiser
from wordbrush.training.sharding import parted

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

    def __init__(
        self, modules: Mapping[str, nn.Module], recipe: Optimiser, rates: Mapping[str, float] | None = None
    ) -> None:
        """`rates`: factors of the learning rate by module name.

        Raises RequestError when a rate is for no module, or the optimiser is not to be had here.
        """
        rates = rates or {}
        if unknown := sorted(rates.keys() - modules.keys()):
            raise RequestError(f"a rate is given for {unknown[0]!r}; the modules are {', '.join(modules)}")
        named = [
            (f"{name}.{key}", p, rates.get(name, 1.0))
            for name, module in modules.items()
            for key, p in module.named_parameters()
            if p.requires_grad
        ]
        self.parameters = [parameter for _, parameter, _ in named]
        hidden = [
            (p, rate)
            for key, p, rate in named
            if recipe.kind == "muon" and p.ndim in (2, 4) and not any(word in key for word in _NOT_HIDDEN)
        ]
        chosen = {id(p) for p, _ in hidden}
        rest = [(p, rate) for _, p, rate in named if id(p) not in chosen]
        groups: list[dict[str, Any]] = []
        self.factors: list[float] = []  # by group: not in the groups, which checkpoints replace
        for factor in dict.fromkeys(rate for _, _, rate in named) or [1.0]:
            own = [p for p, rate in rest if rate == factor]
            groups.append({"params": [p for p in own if p.ndim >= 2], "weight_decay": recipe.weight_decay})
            groups.append({"params": [p for p in own if p.ndim < 2], "weight_decay": 0.0})
            self.factors += [factor, factor]
        self.adamw = _adamw(groups, recipe)
        self.pairs = [(p, nn.Parameter(_as_matrix(p.detach()))) for p, _ in hidden]
        factors = list(dict.fromkeys(rate for _, rate in hidden))
        self.muon = _muon([rate for _, rate in hidden], [matrix for _, matrix in self.pairs], factors, recipe)
        self.muon_factors = factors

    def set_rate(self, rate: float) -> None:
        """The learning rate of the next steps, times each module's factor."""
        for optimiser, factors in ((self.adamw, self.factors), (self.muon, self.muon_factors)):
            if optimiser is not None:
                for group, factor in zip(optimiser.param_groups, factors, strict=True):
                    group["lr"] = rate * factor

    def _take_gradients(self) -> None:
        for parameter, matrix in self.pairs:
            matrix.grad = None if parameter.grad is None else _as_matrix(parameter.grad)

    def unscale(self, scaler: torch.amp.GradScaler) -> None:
        """Brings gradients of a scaled loss back to size."""
        scaler.unscale_(self.adamw)
        if self.muon is not None:
            self._take_gradients()
            scaler.unscale_(self.muon)  # the matrices share memory with the gradients

    def step(self, scaler: torch.amp.GradScaler | None = None) -> None:
        """Updates every parameter from its gradient, then forgets them; a scaler leaves out steps that overflowed."""
        self._take_gradients()
        for optimiser in filter(None, (self.adamw, self.muon)):
            if scaler is None:
                optimiser.step()
            else:
                scaler.step(optimiser)
        if scaler is not None:
            scaler.update()
        for parameter in self.parameters:
            parameter.grad = None

    def state_dict(self) -> dict[str, Any]:
        return {"adamw": self.adamw.state_dict()} | ({"muon": self.muon.state_dict()} if self.muon else {})

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Takes in a state of whole tensors; sharded parameters get their parts of it."""
        self.adamw.load_state_dict(_parted(state["adamw"], self.adamw))
        if self.muon is not None:
            self.muon.load_state_dict(state["muon"] | {"param_groups": _groups(state["muon"], self.muon)})


def _adamw(groups: list[dict[str, Any]], recipe: Optimiser) -> torch.optim.Optimizer:
    if recipe.kind != "adamw8bit":
        return torch.optim.AdamW(groups, lr=recipe.learning_rate, betas=recipe.betas, fused=True)
    if not torch.cuda.is_available():
        raise RequestError("optimiser.kind: adamw8bit runs on CUDA, which this machine has not; use adamw")
    try:
        from bitsandbytes.optim import AdamW8bit
    except ImportError as error:
        raise RequestError("optimiser.kind: adamw8bit needs bitsandbytes: pip install bitsandbytes") from error
    optimiser: torch.optim.Optimizer = AdamW8bit(groups, lr=recipe.learning_rate, betas=recipe.betas)
    return optimiser


def _muon(rates: list[float], matrices: list[nn.Parameter], factors: list[float], recipe: Optimiser) -> Muon | None:
    """One group for each factor of the rate; None where there are no matrices."""
    if not matrices:
        return None
    groups = [
        {"params": [matrix for matrix, rate in zip(matrices, rates, strict=True) if rate == factor]}
        for factor in factors
    ]
    return Muon(groups, lr=recipe.learning_rate, weight_decay=recipe.weight_decay)


def _groups(state: Mapping[str, Any], optimiser: torch.optim.Optimizer) -> list[dict[str, Any]]:
    """The saved groups' parameters, with the rates, betas and decays of the recipe, which a run may change."""
    return [
        own | {"params": saved["params"]}
        for own, saved in zip(optimiser.param_groups, state["param_groups"], strict=True)
    ]


def _parted(state: Mapping[str, Any], optimiser: torch.optim.Optimizer) -> dict[str, Any]:
    """A whole optimiser state with what belongs to sharded parameters sharded as they are."""
    parameters = [parameter for group in optimiser.param_groups for parameter in group["params"]]
    return {
        "param_groups": _groups(state, optimiser),
        "state": {
            number: {
                key: parted(value, parameters[number])
                if isinstance(value, Tensor) and value.shape == parameters[number].shape
                else value
                for key, value in values.items()
            }
            for number, values in state["state"].items()
        },
    }
