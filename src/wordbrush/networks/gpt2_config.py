"""The shape of a GPT-2, and its config.json as transformers writes it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

from .config import TRANSFORMERS_IGNORED, Dialect, read_fields, require

# The tokens are the tokenizer's business; `n_ctx` repeats n_positions; the summary head classifies texts. The names of
# GPT-2 have no scaled or reordered attention but through the two switches that are refused below.
_DIALECT = Dialect(
    ignored=TRANSFORMERS_IGNORED
    | {
        "attn_pdrop", "bos_token_id", "embd_pdrop", "gradient_checkpointing", "n_ctx", "pad_token_id", "resid_pdrop",
        "summary_activation", "summary_first_dropout", "summary_proj_to_labels", "summary_type", "summary_use_proj",
        "reorder_and_upcast_attn", "use_cache",
    },
    fixed={"scale_attn_by_inverse_layer_idx": (False,), "scale_attn_weights": (True,)},
)  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class GPT2Config:
    """Shape of a GPT-2; field names and defaults are those of transformers' config.json.

    Attributes:
        n_positions: tokens that it can see at once.
        n_inner: width inside the feed-forward layers; None is four times n_embd.
        activation_function: "gelu_new" (the tanh form, of the released weights), "gelu" or "relu".
        eos_token_id: the token that ends a text (in GPT-2 the one that begins it, too).
    """

    vocab_size: int = 50257
    n_positions: int = 1024
    n_embd: int = 768
    n_layer: int = 12
    n_head: int = 12
    n_inner: int | None = None
    activation_function: str = "gelu_new"
    layer_norm_epsilon: float = 1e-5
    eos_token_id: int = 50256

    def __post_init__(self) -> None:
        for name in ("vocab_size", "n_positions", "n_embd", "n_layer", "n_head"):
            require(getattr(self, name) >= 1, f"{name}={getattr(self, name)} must be at least 1")
        require(self.n_embd % self.n_head == 0, f"n_embd={self.n_embd} is not a multiple of n_head={self.n_head}")
        require(
            self.activation_function in ("gelu_new", "gelu", "relu"),
            f"activation_function={self.activation_function!r} is not supported; supported: gelu_new, gelu, relu",
        )
        require(
            isinstance(self.eos_token_id, int) and 0 <= self.eos_token_id < self.vocab_size,
            f"eos_token_id={self.eos_token_id!r} is not a token of a vocabulary of {self.vocab_size}",
        )

    @property
    def inner(self) -> int:
        """Width inside the feed-forward layers."""
        return 4 * self.n_embd if self.n_inner is None else self.n_inner

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> GPT2Config:
        """Reads a transformers config.json.

        Raises:
            ValueError: a setting is unknown or not supported.
        """
        return cls(**read_fields(cls, values, _DIALECT))

    def to_dict(self) -> dict[str, Any]:
        """Returns a config.json that transformers opens."""
        named = {"model_type": "gpt2", "architectures": ["GPT2LMHeadModel"], "bos_token_id": self.eos_token_id}
        return named | asdict(self)
