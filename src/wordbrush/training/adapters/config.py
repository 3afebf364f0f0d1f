"""The shape of adapters: the settings of a recipe, and which layers of a network they name."""

from __future__ import annotations

import re
from collections.abc import Collection, Iterator, Mapping
from typing import Literal

from pydantic import Field
from torch import nn

from wordbrush.errors import RequestError
from wordbrush.training.strict import Strict

Kind = Literal["attention", "feed_forward", "linear", "conv"]

# Each kind of target holds those before it. The first is what diffusers' examples train, the third what kohya's scripts
# do, the last what these do with `conv_dim`. Names are those of diffusers' and transformers' networks.
_LAYERS: dict[Kind, str] = {
    "attention": r"(attn\d?|self_attn|SelfAttention)\.(to_[qkv]|to_out\.0|add_[qkv]_proj|to_add_out|[qkv]_proj|out_proj"
    r"|[qkvo])",
    "feed_forward": r"(ff|ff_context)\.net\.(0\.proj|2)|mlp\.fc[12]|DenseReluDense\.w(i_[01]|o)"
    r"|single_transformer_blocks\.\d+\.proj_(mlp|out)",
    "linear": r"attentions\.\d+\.proj_(in|out)|transformer_blocks\.\d+\.norm\w*\.linear",
    "conv": r"resnets\.\d+\.(conv1|conv2|conv_shortcut|time_emb_proj)|(down|up)samplers\.\d+\.conv",
}


class AdapterConfig(Strict):
    """Low-rank adapters (Hu 2021), and what has been found since to make them learn better."""

    rank: int = Field(8, ge=1, description="of linear layers and 1×1 convolutions")
    alpha: float | None = Field(
        None, gt=0, description="the change is multiplied by alpha / rank; none given, it is the rank"
    )
    conv_rank: int | None = Field(None, ge=1, description="of larger convolutions; none given, it is `rank`")
    conv_alpha: float | None = Field(
        None, gt=0, description="of larger convolutions; none given, in proportion to their rank"
    )
    dropout: float = Field(0.0, ge=0, lt=1, description="part of an adapter's input set to zero while it trains")
    rank_stabilised: bool = Field(
        False, description="multiply by alpha / √rank, so that high ranks learn too (Kalajdzievski 2023)"
    )
    dora: bool = Field(False, description="learn the length of every row of a weight apart (Liu 2024, DoRA)")
    target: Kind | tuple[str, ...] = Field(
        "linear",
        description="attention; feed_forward: those of attention too; linear: all layers of the transformers; "
        "conv: the residual blocks and changes of size too; or a list of layers' names or their ends, with * for "
        "anything",
    )

    def rank_of(self, layer: nn.Linear | nn.Conv2d) -> int:
        """The rank of a layer's adapter."""
        return self.conv_rank if _wide(layer) and self.conv_rank is not None else self.rank

    def alpha_of(self, layer: nn.Linear | nn.Conv2d) -> float:
        """The alpha of a layer's adapter."""
        alpha = self.alpha if self.alpha is not None else float(self.rank)
        if not _wide(layer):
            return alpha
        return self.conv_alpha if self.conv_alpha is not None else alpha * self.rank_of(layer) / self.rank


def chosen_layers(
    networks: Mapping[str, nn.Module], target: Kind | tuple[str, ...], without: Collection[str] = ()
) -> Iterator[tuple[str, str, nn.Linear | nn.Conv2d]]:
    """The layers that a target names: network, name, layer.

    Args:
        networks: by name.
        target: as in `AdapterConfig`.
        without: beginnings of names, each after that of its network, that are left out all the same:
            "text_encoder.text_model.encoder.layers.11".

    Raises:
        RequestError: a network has no layer that is named, or a name has no layer.
    """
    tests = {target: _of_kind(target)} if isinstance(target, str) else {given: _of_name(given) for given in target}
    used: set[tuple[str, str]] = set()
    for network, module in networks.items():
        for name, layer in module.named_modules():
            full = f"{network}.{name}"
            if not isinstance(layer, nn.Linear | nn.Conv2d) or any(f"{full}.".startswith(f"{s}.") for s in without):
                continue
            fitting = [given for given, test in tests.items() if test.fullmatch(full)]
            used.update((network, given) for given in fitting)
            if fitting:
                yield network, name, layer
    if isinstance(target, str):
        if lacking := [network for network in networks if (network, target) not in used]:
            raise RequestError(f"{lacking[0]} has no layer of the target {target!r}; give a list of its layers' names")
    elif unused := [given for given in target if given not in {name for _, name in used}]:
        raise RequestError(
            f"no layer of {' or '.join(networks)} is named {unused[0]!r}; give a layer's name or its end, such as "
            "'attn2.to_k', with * for anything"
        )


def _of_kind(kind: Kind) -> re.Pattern[str]:
    kinds = list(_LAYERS)
    ends = "|".join(_LAYERS[one] for one in kinds[: kinds.index(kind) + 1])
    return re.compile(rf"(?:.*\.)?(?:{ends})")


def _of_name(given: str) -> re.Pattern[str]:
    return re.compile(r"(?:.*\.)?" + re.escape(given).replace(r"\*", ".*"))


def _wide(layer: nn.Linear | nn.Conv2d) -> bool:
    return isinstance(layer, nn.Conv2d) and layer.kernel_size != (1, 1)
