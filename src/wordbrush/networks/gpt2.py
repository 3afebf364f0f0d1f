"""GPT-2: a causal transformer that says which token comes next (Radford 2019).

State-dict keys are those of transformers' GPT2Model: `wte`, `wpe`, `h.N.ln_1`, `h.N.attn.c_attn`, … `ln_f`; the output
layer is the table of token embeddings again. Weights of linear layers are stored here as torch has them, (out, in); the
files in circulation have them the other way round, which `gpt2_state` puts right.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import nn

from .attention import split_heads
from .gpt2_config import GPT2Config

__all__ = ["GPT2", "GPT2Config", "KeyValues", "gpt2_file_state", "gpt2_state"]

# The layers that OpenAI wrote as a convolution of width one, whose weights files hold as (in, out).
_CONV1D = ("attn.c_attn.weight", "attn.c_proj.weight", "mlp.c_fc.weight", "mlp.c_proj.weight")


@dataclass(frozen=True, kw_only=True)
class KeyValues:
    """What the layers need of the tokens already seen: for each layer its keys and values, (B, heads, S, d) each."""

    layers: tuple[tuple[torch.Tensor, torch.Tensor], ...]

    @property
    def length(self) -> int:
        """How many tokens have been seen."""
        return self.layers[0][0].shape[2]


class Attention(nn.Module):
    """Multi-head causal self-attention over new tokens and those seen before."""

    def __init__(self, config: GPT2Config) -> None:
        super().__init__()
        self.heads = config.n_head
        self.c_attn = nn.Linear(config.n_embd, 3 * config.n_embd)
        self.c_proj = nn.Linear(config.n_embd, config.n_embd)

    def forward(
        self, x: torch.Tensor, seen: tuple[torch.Tensor, torch.Tensor] | None
    ) -> tuple[torch.Tensor, tuple[torch.Tensor, torch.Tensor]]:
        """x: (B, L, D). Returns (B, L, D), and keys and values of all S + L tokens."""
        q, k, v = (split_heads(part, self.heads) for part in self.c_attn(x).chunk(3, dim=2))  # (B, heads, L, d)
        if seen is not None:
            k, v = torch.cat([seen[0], k], dim=2), torch.cat([seen[1], v], dim=2)
        new, total = q.shape[2], k.shape[2]
        mask = torch.full((new, total), -math.inf, dtype=q.dtype, device=q.device).triu(total - new + 1)
        scores = q @ k.transpose(2, 3) * q.shape[3] ** -0.5 + mask
        out = F.softmax(scores, dim=-1, dtype=torch.float32).to(v.dtype) @ v
        return self.c_proj(out.transpose(1, 2).flatten(2)), (k, v)


class MLP(nn.Module):
    """Two linear layers around the activation."""

    def __init__(self, config: GPT2Config) -> None:
        super().__init__()
        self.activation = config.activation_function
        self.c_fc = nn.Linear(config.n_embd, config.inner)
        self.c_proj = nn.Linear(config.inner, config.n_embd)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.c_fc(x)
        if self.activation == "relu":
            return self.c_proj(F.relu(x))
        # gelu_new is the tanh form of Hendrycks 2016, §2
        return self.c_proj(F.gelu(x, approximate="tanh" if self.activation == "gelu_new" else "none"))


class Block(nn.Module):
    """One pre-norm transformer layer (Radford 2019, §2.3)."""

    def __init__(self, config: GPT2Config) -> None:
        super().__init__()
        self.ln_1 = nn.LayerNorm(config.n_embd, eps=config.layer_norm_epsilon)
        self.attn = Attention(config)
        self.ln_2 = nn.LayerNorm(config.n_embd, eps=config.layer_norm_epsilon)
        self.mlp = MLP(config)

    def forward(
        self, x: torch.Tensor, seen: tuple[torch.Tensor, torch.Tensor] | None
    ) -> tuple[torch.Tensor, tuple[torch.Tensor, torch.Tensor]]:
        attended, seen = self.attn(self.ln_1(x), seen)
        x = x + attended
        return x + self.mlp(self.ln_2(x)), seen


class GPT2(nn.Module):
    """The language model: token ids to the logits of the token after each."""

    def __init__(self, config: GPT2Config) -> None:
        super().__init__()
        self.config = config
        self.wte = nn.Embedding(config.vocab_size, config.n_embd)
        self.wpe = nn.Embedding(config.n_positions, config.n_embd)
        self.h = nn.ModuleList(Block(config) for _ in range(config.n_layer))
        self.ln_f = nn.LayerNorm(config.n_embd, eps=config.layer_norm_epsilon)

    def forward(self, ids: torch.Tensor, seen: KeyValues | None = None) -> tuple[torch.Tensor, KeyValues]:
        """Goes on from what was seen.

        Args:
            ids: (B, L), the new tokens.
            seen: what an earlier call returned for the tokens before them; None where there are none.

        Returns:
            Logits (B, L, vocab_size) in float32, and what was seen with the new tokens in it.

        Raises:
            ValueError: there are more tokens than positions.
        """
        before = 0 if seen is None else seen.length
        total = before + ids.shape[1]
        if total > self.config.n_positions:
            raise ValueError(f"the text has {total} tokens; this language model takes {self.config.n_positions}")
        x = self.wte(ids) + self.wpe.weight[before:total]  # (B, L, D)
        layers = []
        for number, block in enumerate(self.h):
            x, kept = block(x, None if seen is None else seen.layers[number])
            layers.append(kept)
        logits = F.linear(self.ln_f(x), self.wte.weight)  # (B, L, V)
        return logits.float(), KeyValues(layers=tuple(layers))

    @torch.no_grad()
    def initialise(self, generator: torch.Generator) -> None:
        """Draws the weights: residual outputs shrink with depth (Radford 2019, §2.3)."""
        for name, parameter in self.named_parameters():
            if name.endswith("bias"):
                parameter.zero_()
            elif ".ln_" in f".{name}":
                parameter.fill_(1.0)
            else:
                residual = name.endswith("c_proj.weight")
                parameter.normal_(
                    std=0.02 * ((2 * self.config.n_layer) ** -0.5 if residual else 1), generator=generator
                )


def gpt2_state(tensors: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Returns what `GPT2` loads out of any file that holds a GPT-2.

    Files may have a `transformer.` before every name, buffers of the causal mask, and the output layer, which is the
    token embeddings a second time. Linear weights are turned to (out, in).

    Raises:
        ValueError: the output layer is another one than the token embeddings.
    """
    state: dict[str, torch.Tensor] = {}
    for key, tensor in tensors.items():
        name = key.removeprefix("transformer.")
        if name.endswith((".attn.bias", ".attn.masked_bias")):
            continue
        state[name] = tensor.t() if name.endswith(_CONV1D) else tensor
    head = state.pop("lm_head.weight", None)
    if head is not None and "wte.weight" in state and not torch.equal(head, state["wte.weight"]):
        raise ValueError("its output layer differs from its token embeddings; they must be one table")
    if head is not None:
        state.setdefault("wte.weight", head)
    return state


def gpt2_file_state(state: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """The tensors of a `GPT2` as transformers' GPT2LMHeadModel stores them: the other way round."""
    return {
        f"transformer.{name}": (tensor.t() if name.endswith(_CONV1D) else tensor).contiguous()
        for name, tensor in state.items()
    }
