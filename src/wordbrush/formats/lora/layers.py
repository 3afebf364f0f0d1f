"""The tensors of one layer of a LoRA file, put together to the change they stand for."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from wordbrush.formats.lora.rules import Change, Difference, Hadamard, Kronecker, LowRank, Product, Replacement, Rule


@dataclass(frozen=True, kw_only=True)
class AdapterConfig:
    """How PEFT says alpha: once for all layers, with exceptions by (the end of) a layer's name.

    Attributes:
        rank, alpha: of every layer without a pattern.
        rank_pattern, alpha_pattern: the exceptions, by the end of a name from a dot on.
        rooted: divide alpha by the root of the rank (Kalajdzievski 2023, rsLoRA).
    """

    rank: float
    alpha: float
    rank_pattern: Mapping[str, float]
    alpha_pattern: Mapping[str, float]
    rooted: bool = False

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> AdapterConfig:
        """Reads PEFT's config, of a LoRA or of a LoHa or LoKr, which calls alpha plainly so.

        Raises:
            ValueError: a value is missing or of the wrong kind, or a pattern is more than the end of a name.
        """
        rank = values.get("r", 8)
        alpha = values.get("lora_alpha", values.get("alpha", 8))
        patterns = [values.get(name) or {} for name in ("rank_pattern", "alpha_pattern")]
        if not all(isinstance(pattern, dict) for pattern in patterns):
            raise ValueError("a pattern is not a table")
        for number in (rank, alpha, *(number for pattern in patterns for number in pattern.values())):
            if isinstance(number, bool) or not isinstance(number, int | float) or not 0 < number < math.inf:
                raise ValueError(f"{number!r} is neither a rank nor an alpha")
        rooted = bool(values.get("use_rslora"))
        ranks, alphas = map(_by_end, patterns)
        return cls(rank=rank, alpha=alpha, rank_pattern=ranks, alpha_pattern=alphas, rooted=rooted)

    def scale(self, layer: str) -> float:
        """What ΔW of this layer is multiplied by."""
        rank = _exception(self.rank_pattern, layer, self.rank)
        return _exception(self.alpha_pattern, layer, self.alpha) / (math.sqrt(rank) if self.rooted else rank)


def _by_end(pattern: Mapping[str, float]) -> dict[str, float]:
    # PEFT runs these as regular expressions, of which one from a file may take for ever. What is written into files are
    # plain ends of names, at most anchored or with the dots escaped; the first that fits counts.
    ends: dict[str, float] = {}
    for text, value in pattern.items():
        end = text.removeprefix("^").removesuffix("$").replace(r"\.", ".")
        if not re.fullmatch(r"[\w.-]+", end):
            raise ValueError(f"its pattern {text[:60]!r} is not the end of a layer's name")
        ends.setdefault(end, value)
    return ends


def _exception(ends: Mapping[str, float], layer: str, otherwise: float) -> float:
    for end, value in ends.items():
        if layer == end or layer.endswith(f".{end}"):
            return value
    return otherwise


def make_change(parts: Mapping[str, Tensor], adapter_scale: float | None) -> Change:
    """Puts the tensors of one layer, named as by `keys.split_key`, together.

    Args:
        parts: the tensors.
        adapter_scale: what PEFT's config says ΔW is multiplied by; None without one.

    Raises:
        ValueError: they do not belong together.
    """
    rule = _rule(parts)
    scale = _scale(rule, parts.get("alpha"), adapter_scale)
    if rule is None and not parts.keys() & {"diff_b"}:
        raise ValueError(f"it has {' and '.join(sorted(parts))} alone")
    magnitude = parts.get("dora_scale")
    if magnitude is not None and magnitude.ndim == 0:
        raise ValueError("its dora_scale is a single number")
    if magnitude is None and "magnitude" in parts:
        magnitude = parts["magnitude"].flatten()  # PEFT's are of rows; those of a convolution are stored (1, out, 1, 1)
    bias = parts.get("diff_b")
    if "up_bias" in parts:
        bias = parts["up_bias"].float() * scale
    if isinstance(rule, Difference | Replacement):
        scale = 1.0
    return Change(rule=rule, scale=scale, magnitude=magnitude, bias=bias)


def _rule(parts: Mapping[str, Tensor]) -> Rule | None:
    makers = [make for names, make in _MAKERS if any(name.startswith(names) for name in parts if name != "diff_b")]
    if len(makers) > 1:
        raise ValueError("it has tensors of more than one kind of rule")
    return makers[0](parts) if makers else None


def _low_rank(parts: Mapping[str, Tensor]) -> LowRank:
    _need(parts, "down", "up")
    return LowRank(_matrix(parts["down"]), _matrix(parts["up"]), _core(parts, "mid"))


def _hadamard(parts: Mapping[str, Tensor]) -> Hadamard:
    _need(parts, "hada_w1_a", "hada_w1_b", "hada_w2_a", "hada_w2_b")
    a, b = ((_matrix(parts[f"hada_w1_{side}"]), _matrix(parts[f"hada_w2_{side}"])) for side in "ab")
    first, second = _core(parts, "hada_t1"), _core(parts, "hada_t2")
    if first is None and second is None:
        return Hadamard(a, b)
    if first is None or second is None:
        raise ValueError("one of its cores hada_t1 and hada_t2 is missing")
    return Hadamard(a, b, (first, second))


def _kronecker(parts: Mapping[str, Tensor]) -> Kronecker:
    return Kronecker(_side(parts, "lokr_w1", None), _side(parts, "lokr_w2", _core(parts, "lokr_t2")))


def _side(parts: Mapping[str, Tensor], name: str, core: Tensor | None) -> Tensor | Product:
    if name in parts:
        return _matrix(parts[name])
    _need(parts, f"{name}_a", f"{name}_b")
    return Product(_matrix(parts[f"{name}_a"]), _matrix(parts[f"{name}_b"]), core)


def _difference(parts: Mapping[str, Tensor]) -> Difference:
    if parts["diff"].ndim == 0 or parts["diff"].numel() == 0:
        raise ValueError(f"its diff has shape {list(parts['diff'].shape)}")
    return Difference(parts["diff"])


def _replacement(parts: Mapping[str, Tensor]) -> Replacement:
    if parts["set"].ndim == 0 or parts["set"].numel() == 0:
        raise ValueError(f"its scale has shape {list(parts['set'].shape)}")
    return Replacement(parts["set"])


_MAKERS: tuple[tuple[tuple[str, ...], Callable[[Mapping[str, Tensor]], Rule]], ...] = (
    (("down", "up", "mid"), _low_rank),
    (("hada_",), _hadamard),
    (("lokr_",), _kronecker),
    (("diff",), _difference),
    (("set",), _replacement),
)
"""How the names of a rule's tensors begin, and what puts them together."""


def _scale(rule: Rule | None, alpha: Tensor | None, adapter_scale: float | None) -> float:
    if alpha is not None and alpha.numel() != 1:
        raise ValueError(f"its alpha is {alpha.numel()} numbers")
    value = 0.0 if alpha is None else float(alpha)
    if not math.isfinite(value):
        raise ValueError(f"its alpha is {value}")
    if value == 0:  # trainers write alpha = rank so, or leave it out
        return 1.0 if adapter_scale is None else adapter_scale
    return 1.0 if rule is None or rule.rank is None else value / rule.rank


def _need(parts: Mapping[str, Tensor], *names: str) -> None:
    missing = [name for name in names if name not in parts]
    if missing:
        raise ValueError(f"its {' and '.join(missing)} {'is' if len(missing) == 1 else 'are'} missing")


def _core(parts: Mapping[str, Tensor], name: str) -> Tensor | None:
    core = parts.get(name)
    if core is not None and (core.ndim != 4 or core.numel() == 0):
        raise ValueError(f"its {name} has shape {list(core.shape)}")
    return core


def _matrix(tensor: Tensor) -> Tensor:
    if tensor.ndim < 2 or tensor.numel() == 0:
        raise ValueError(f"a factor has shape {list(tensor.shape)}")
    return tensor
