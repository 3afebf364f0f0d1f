"""Softmax attention, softmax(q kᵀ / √d) v (Vaswani 2017, eq. 1), the fastest exact way for the sequence at hand."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F

# On a CPU the fused kernel loses to two plain matrix products when there are few keys (in bfloat16 by two to five times
# in training, whose backward pass is slow) or when one head is very wide (the VAE's).
PLAIN_MAX_KEYS = 256
PLAIN_MIN_HEAD_DIM = 256
# A plain product over many keys is cut into pieces of queries, so that its weights take at most this many elements.
PLAIN_MAX_WEIGHTS = 2**25


def split_heads(x: torch.Tensor, heads: int) -> torch.Tensor:
    """Views x: (B, L, heads * d) as (B, heads, L, d)."""
    return x.unflatten(2, (heads, -1)).transpose(1, 2)


def attend(
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    heads: int,
    *,
    mask: torch.Tensor | None = None,
    causal: bool = False,
    scale: float | None = None,
) -> torch.Tensor:
    """Multi-head attention.

    Args:
        query: (B, L, heads * d).
        key, value: (B or 1, S, heads * d); one row serves the whole batch.
        heads: number of heads.
        mask: broadcastable to (B, heads, L, S), added to the scores before the softmax.
        causal: position i sees keys 0..i only (L must equal S); not together with `mask`.
        scale: what the scores are multiplied by before the mask is added; None is 1 / √d.

    Returns:
        (B, L, heads * d).
    """
    q, k, v = (split_heads(x, heads) for x in (query, key, value))  # (B, heads, L or S, d)
    plain = q.device.type == "cpu" and (k.shape[2] <= PLAIN_MAX_KEYS or q.shape[3] >= PLAIN_MIN_HEAD_DIM)
    if plain:
        if causal:
            mask = torch.full((q.shape[2], k.shape[2]), -math.inf, dtype=q.dtype, device=q.device).triu(1)
        out = _plain(q, k, v, mask, q.shape[3] ** -0.5 if scale is None else scale)
    else:
        out = F.scaled_dot_product_attention(q, k, v, attn_mask=mask, is_causal=causal, scale=scale)
    return out.transpose(1, 2).flatten(2)


def attention_weights(
    query: torch.Tensor, key: torch.Tensor, heads: int, *, scale: float | None = None
) -> torch.Tensor:
    """Where `attend` looks: softmax(q kᵀ · scale), (B, heads, L, S) in float32; each row of it sums to 1.

    query: (B, L, heads * d); key: (B or 1, S, heads * d); scale: None is 1 / √d.
    """
    q, k = (split_heads(x, heads).float() for x in (query, key))
    return F.softmax(q * (q.shape[3] ** -0.5 if scale is None else scale) @ k.transpose(2, 3), dim=-1)


def _plain(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, mask: torch.Tensor | None, scale: float) -> torch.Tensor:
    q = q * scale
    k = k.transpose(2, 3)  # (B, heads, d, S)
    rows = max(1, PLAIN_MAX_WEIGHTS // (q.shape[0] * q.shape[1] * k.shape[3]))
    if mask is not None or rows >= q.shape[2]:
        scores = q @ k  # (B, heads, L, S)
        if mask is not None:
            scores = scores + mask
        return F.softmax(scores, dim=-1) @ v
    return torch.cat([F.softmax(piece @ k, dim=-1) @ v for piece in q.split(rows, dim=2)], dim=2)
