"""The encoder of T5 v1.1, which reads the prompt for FLUX (Raffel 2020; version 1.1 after Shazeer 2020, GLU variants).

State-dict keys are those of transformers' T5EncoderModel: `shared.weight`, `encoder.block.N.layer.0.SelfAttention.…`,
`encoder.block.N.layer.1.DenseReluDense.…`. Run it in float32 or bfloat16: in float16 the largest of these encoders, the
one FLUX uses, overflows in its feed-forward layers and gives NaN.
"""

from __future__ import annotations

import math
from collections.abc import Mapping

import torch
import torch.nn.functional as F
from torch import nn

from .attention import attend
from .t5_config import T5Config

__all__ = ["T5Config", "T5Encoder", "encoder_state", "relative_buckets"]

_EMBEDDINGS = "shared.weight"
_EMBEDDINGS_AGAIN = "encoder.embed_tokens.weight"


def encoder_state(tensors: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Returns what `T5Encoder` loads out of any file that holds a T5 encoder.

    The token embeddings are one table with two names. Files hold either name or both; this network has `shared.weight`.
    A file of the whole T5 also holds the decoder and its output layer, which are left out.
    """
    state = {key: value for key, value in tensors.items() if not key.startswith(("decoder.", "lm_head."))}
    again = state.pop(_EMBEDDINGS_AGAIN, None)
    if again is not None:
        state.setdefault(_EMBEDDINGS, again)
    return state


def relative_buckets(length: int, buckets: int, max_distance: int, device: torch.device | None = None) -> torch.Tensor:
    """Sorts the distance from every token to every other into buckets (Raffel 2020, §2.1).

    Half of the buckets are for keys after the query. In each half, the first half of the buckets hold one distance
    each and the others grow logarithmically up to `max_distance`; the last holds everything beyond.

    Returns:
        (L, L) integers in [0, buckets), query by key.
    """
    places = torch.arange(length, device=device)
    offset = places[None, :] - places[:, None]  # of the key, seen from the query
    distance, half = offset.abs(), buckets // 2
    exact = half // 2
    growth = torch.log(distance.clamp(min=1).float() / exact) / math.log(max_distance / exact)
    far = (exact + (growth * (half - exact)).long()).clamp(max=half - 1)
    return (offset > 0) * half + torch.where(distance < exact, distance, far)


class SelfAttention(nn.Module):
    """Multi-head self-attention; the scores are not scaled, and one layer of a stack knows the position bias of all."""

    def __init__(self, config: T5Config, *, biased: bool) -> None:
        super().__init__()
        width, inner = config.d_model, config.num_heads * config.d_kv
        self.heads = config.num_heads
        self.buckets = (config.relative_attention_num_buckets, config.relative_attention_max_distance)
        self.q = nn.Linear(width, inner, bias=False)
        self.k = nn.Linear(width, inner, bias=False)
        self.v = nn.Linear(width, inner, bias=False)
        self.o = nn.Linear(inner, width, bias=False)
        if biased:
            self.relative_attention_bias = nn.Embedding(config.relative_attention_num_buckets, config.num_heads)

    def position_bias(self, length: int) -> torch.Tensor:
        """What is added to the scores of L tokens, (1, heads, L, L); only for the layer that was made `biased`."""
        table = self.relative_attention_bias
        return table(relative_buckets(length, *self.buckets, table.weight.device)).permute(2, 0, 1)[None]

    def forward(self, x: torch.Tensor, bias: torch.Tensor) -> torch.Tensor:
        return self.o(attend(self.q(x), self.k(x), self.v(x), self.heads, mask=bias, scale=1.0))


class GatedFeedForward(nn.Module):
    """Linear layer gated by the GELU of another, in its tanh approximation, and back."""

    def __init__(self, config: T5Config) -> None:
        super().__init__()
        self.wi_0 = nn.Linear(config.d_model, config.d_ff, bias=False)
        self.wi_1 = nn.Linear(config.d_model, config.d_ff, bias=False)
        self.wo = nn.Linear(config.d_ff, config.d_model, bias=False)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.wo(F.gelu(self.wi_0(x), approximate="tanh") * self.wi_1(x))


class AttentionLayer(nn.Module):
    """Self-attention, normalised before, around a shortcut."""

    def __init__(self, config: T5Config, *, biased: bool) -> None:
        super().__init__()
        self.SelfAttention = SelfAttention(config, biased=biased)
        self.layer_norm = nn.RMSNorm(config.d_model, eps=config.layer_norm_epsilon)

    def forward(self, x: torch.Tensor, bias: torch.Tensor) -> torch.Tensor:
        return x + self.SelfAttention(self.layer_norm(x), bias)


class FeedForwardLayer(nn.Module):
    """Feed-forward, normalised before, around a shortcut; the attribute is the reference's, though nothing is ReLU."""

    def __init__(self, config: T5Config) -> None:
        super().__init__()
        self.DenseReluDense = GatedFeedForward(config)
        self.layer_norm = nn.RMSNorm(config.d_model, eps=config.layer_norm_epsilon)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x + self.DenseReluDense(self.layer_norm(x))


class Block(nn.Module):
    """One layer of the transformer: attention, then feed-forward."""

    def __init__(self, config: T5Config, *, biased: bool) -> None:
        super().__init__()
        self.layer = nn.ModuleList([AttentionLayer(config, biased=biased), FeedForwardLayer(config)])

    def forward(self, x: torch.Tensor, bias: torch.Tensor) -> torch.Tensor:
        return self.layer[1](self.layer[0](x, bias))


class Stack(nn.Module):
    """All blocks and the last norm. The first block holds the position bias that every block adds."""

    def __init__(self, config: T5Config) -> None:
        super().__init__()
        self.block = nn.ModuleList(Block(config, biased=i == 0) for i in range(config.num_layers))
        self.final_layer_norm = nn.RMSNorm(config.d_model, eps=config.layer_norm_epsilon)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        first = next(module for module in self.modules() if isinstance(module, SelfAttention))
        bias = first.position_bias(x.shape[1]).to(x.device)  # (1, heads, L, L)
        for block in self.block:
            x = block(x, bias)
        return self.final_layer_norm(x)


class T5Encoder(nn.Module):
    """A text encoder without a limit on length; padding is seen like any token, as FLUX was trained."""

    def __init__(self, config: T5Config) -> None:
        super().__init__()
        self.config = config
        self.shared = nn.Embedding(config.vocab_size, config.d_model)
        self.encoder = Stack(config)

    def forward(self, ids: torch.Tensor) -> torch.Tensor:
        """ids: (B, L) integers. Returns (B, L, D), D = `config.d_model`, after the last norm."""
        return self.encoder(self.shared(ids))

    @torch.no_grad()
    def initialise(self, generator: torch.Generator) -> None:
        """Re-draws every parameter as Mesh TensorFlow does; queries also carry the scale that the scores lack."""
        config = self.config
        inner = config.num_heads * config.d_kv
        stds = {
            "shared": 1.0,
            "q": (config.d_model * config.d_kv) ** -0.5,
            "o": inner**-0.5,
            "wo": config.d_ff**-0.5,
        }
        for name, module in self.named_modules():
            if isinstance(module, nn.RMSNorm):
                module.weight.fill_(1.0)
            elif isinstance(module, nn.Linear | nn.Embedding):
                module.weight.normal_(std=stds.get(name.rpartition(".")[2], config.d_model**-0.5), generator=generator)
