"""Running averages of the weights: by a fixed decay, and by power functions whose length is chosen afterwards.

A power-function average weighs the weights of step τ, seen from step t, by (γ + 1) τ^γ / t^(γ + 1): its width is a
constant part of the run so far. Snapshots of two of them span averages of other widths, which a least-squares fit finds
when training is over (Karras 2024, "Analyzing and Improving the Training Dynamics of Diffusion Models", §3).
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from wordbrush.errors import ModelFileError, RequestError, WorkFailed
from wordbrush.training.sharding import fill, local, whole

Weights = dict[str, dict[str, Tensor]]  # by module name, then by key of its state


def width_of(gamma: float) -> float:
    """The standard deviation σ_rel of a power function's weights, the run's length being 1 (Karras 2024, §3.1)."""
    return (gamma + 1) ** 0.5 / ((gamma + 2) * (gamma + 3) ** 0.5)


def gamma_of(width: float) -> float:
    """The exponent of a power function of this width σ_rel, in (0, 0.2887): `width_of` the other way round.

    Squared, that is γ³ + 7γ² + (16 - σ⁻²)γ + (12 - σ⁻²) = 0, whose largest root it is.
    """
    if not 0 < width < width_of(0.0):
        longest = width_of(0.0)
        raise RequestError(f"an average of length {width} does not exist; lengths lie between 0 and {longest:.4f}")
    inverse = width**-2
    roots = np.roots([1.0, 7.0, 16 - inverse, 12 - inverse])
    return float(roots.real.max())


def power_decay(step: int, gamma: float) -> float:
    """β of step t ≥ 1: average ← β average + (1 - β) weights (Karras 2024, §3.1)."""
    return float((1 - 1 / step) ** (gamma + 1))


def overlap(step: float, gamma: float, other_step: float, other_gamma: float) -> float:
    """∫ p(τ) q(τ) dτ of two power functions p, q that end at these steps (Karras 2024, appendix C.2).

    With s the earlier step: (γ + 1)(γ' + 1) s^(γ + γ' + 1) / ((γ + γ' + 1) t^(γ + 1) t'^(γ' + 1)).
    """
    earlier = min(step, other_step)
    one, other = gamma + 1, other_gamma + 1
    logarithm = (one + other_gamma) * np.log(earlier) - one * np.log(step) - other * np.log(other_step)
    return float(one * other / (one + other_gamma) * np.exp(logarithm))


def combination(profiles: Sequence[tuple[int, float]], step: int, gamma: float) -> np.ndarray:
    """(N,) factors of N snapshots (step, γ) whose sum is nearest to the power function γ that ends at `step`.

    Least squares over the weights' profiles (Karras 2024, §3.2): A x = b of all overlaps.
    """
    matrix = np.array([[overlap(*one, *other) for other in profiles] for one in profiles])
    wanted = np.array([overlap(*one, step, gamma) for one in profiles])
    return np.linalg.lstsq(matrix, wanted, rcond=None)[0]


class Averages:
    """The running averages of a run's modules, kept beside them; what is not trained is shared with them."""

    def __init__(self, modules: Mapping[str, nn.Module], decay: float, lengths: Sequence[float] = ()) -> None:
        """`decay`: of the plain average (0: the weights themselves); `lengths`: widths of power-function averages."""
        self.modules, self.decay = modules, decay
        self.gammas = {length: gamma_of(length) for length in lengths}
        self.plain = self._copied()
        self.powers = {length: self._copied() for length in lengths}
        own = _floating({name: module.state_dict() for name, module in modules.items()})
        tracks = [_floating(track) for track in (self.plain, *self.powers.values())]
        moving = [number for number, value in enumerate(own) if tracks[0][number].data_ptr() != value.data_ptr()]
        self._own = [own[number] for number in moving]
        self._tracks = [[track[number] for number in moving] for track in tracks]
        self._counts = [
            (weights[name][key], value)
            for weights in (self.plain, *self.powers.values())
            for name, module in modules.items()
            for key, value in module.state_dict().items()
            if not value.is_floating_point()
        ]

    def _copied(self) -> Weights:
        copied: Weights = {}
        for name, module in self.modules.items():
            still = _still(module)
            copied[name] = {k: v if k in still else v.detach().clone() for k, v in module.state_dict().items()}
        return copied

    def update(self, step: int) -> None:
        """Takes in the weights after `step` steps."""
        shares = [1 - min(self.decay, (1 + step) / (10 + step))]
        shares += [1 - power_decay(step, gamma) for gamma in self.gammas.values()]
        for track, share in zip(self._tracks, shares, strict=True):
            torch._foreach_lerp_(track, self._own, share)
        for target, count in self._counts:
            target.copy_(count)

    def whole(self) -> Weights:
        """The plain average as files hold it. All processes call it at once."""
        return whole(self.plain)

    def snapshot(self) -> dict[float, Weights]:
        """What is trained of the power-function averages, whole, by their lengths. All processes call it at once."""
        still = {name: _still(module) for name, module in self.modules.items()}
        return whole(
            {
                length: {name: {k: v for k, v in w.items() if k not in still[name]} for name, w in track.items()}
                for length, track in self.powers.items()
            }
        )

    def state_dict(self) -> dict[str, Any]:
        return {"averaged": self.plain, "powers": self.powers}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        powers: Mapping[float, Weights] = state.get("powers", {})
        for track, saved in ((self.plain, state["averaged"]), *((t, powers[k]) for k, t in self.powers.items())):
            for name, values in track.items():
                for key, value in values.items():
                    fill(value, saved[name][key])

    @contextmanager
    def in_place(self) -> Iterator[None]:
        """Within, the modules hold the plain average and are in evaluation mode, and no gradients are kept."""
        kept = [value.clone() for value in self._own]
        training = [part for module in self.modules.values() for part in module.modules() if part.training]
        for module in self.modules.values():
            module.eval()
        try:
            with torch.no_grad():
                torch._foreach_copy_(self._own, self._tracks[0])
                yield
        finally:
            with torch.no_grad():
                torch._foreach_copy_(self._own, kept)
            for part in training:
                part.training = True


def _still(module: nn.Module) -> set[str]:
    """The keys of the parameters that are not trained."""
    return {key for key, p in module.named_parameters(remove_duplicate=False) if not p.requires_grad}


def _floating(weights: Weights) -> list[Tensor]:
    """This process' parts of all floating-point tensors, in order."""
    return [local(v) for values in weights.values() for v in values.values() if v.is_floating_point()]


class Snapshots:
    """The power-function averages of a run at several of its steps, as files in one folder."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def steps(self) -> dict[int, Path]:
        """The files by step."""
        return {int(path.stem): path for path in sorted(self.folder.glob("*.pt"))}

    def add(self, step: int, powers: Mapping[float, Weights]) -> None:
        """Writes a file; WorkFailed when it cannot be written."""
        path = self.folder / f"{step:09d}.pt"
        partial = path.with_suffix(".partial")
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            torch.save(dict(powers), partial)
            os.replace(partial, path)
        except (OSError, RuntimeError) as error:
            partial.unlink(missing_ok=True)
            raise WorkFailed(f"{path} could not be written ({error}); the last checkpoint is kept") from error

    def forget_after(self, step: int) -> None:
        """Deletes what a run that goes on from this step is about to make again."""
        for number, path in self.steps().items():
            if number > step:
                path.unlink()

    def average(self, length: float, like: Weights) -> Weights:
        """Weights averaged with the power function of this width, seen from the last snapshot.

        `like`: the plain average, which says what there is; what is not floating-point is taken from it.

        Raises RequestError when there are no snapshots or no such length, ModelFileError when one is damaged.
        """
        gamma = gamma_of(length)
        files = self.steps()
        if not files:
            raise RequestError(
                f"{self.folder.parent} holds no power-function averages; its recipe wants `ema_lengths: [0.05, 0.1]`"
            )
        profiles: list[tuple[int, float]] = []
        saved: list[Weights] = []
        for step, path in files.items():
            for width, weights in _opened(path).items():
                profiles.append((step, gamma_of(width)))
                saved.append(weights)
        factors = combination(profiles, max(files), gamma)
        return {
            name: {
                key: value
                if not value.is_floating_point() or key not in saved[0][name]
                else _combined([weights[name][key] for weights in saved], factors).to(value.dtype)
                for key, value in values.items()
            }
            for name, values in like.items()
        }


def _opened(path: Path) -> dict[float, Weights]:
    try:
        opened: dict[float, Weights] = torch.load(path, weights_only=True, mmap=True, map_location="cpu")
    except Exception as error:  # torch reports a damaged archive with several unrelated types
        raise ModelFileError(f"{path} is damaged ({error}); delete it to do without it") from error
    return opened


def _combined(tensors: Sequence[Tensor], factors: np.ndarray) -> Tensor:
    total = torch.zeros_like(tensors[0], dtype=torch.float64)
    for tensor, factor in zip(tensors, factors.tolist(), strict=True):
        total += factor * tensor
    return total
