"""The shape of a T5 v1.1 encoder, and its config.json as transformers writes it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

from .config import TRANSFORMERS_IGNORED, Dialect, read_fields, require

_FEED_FORWARD = "gated-gelu"
# The decoder, the heads of other tasks and training say nothing about what the encoder computes; `dense_act_fn` and
# `is_gated_act` follow from feed_forward_proj, whatever a file says.
_DIALECT = Dialect(
    ignored=TRANSFORMERS_IGNORED
    | {
        "bos_token_id", "classifier_dropout", "dense_act_fn", "dropout_rate", "eos_token_id", "gradient_checkpointing",
        "is_gated_act", "n_positions", "num_decoder_layers", "output_past", "pad_token_id", "scale_decoder_outputs",
        "use_cache",
    },
    fixed={"feed_forward_proj": (_FEED_FORWARD,)},
)  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class T5Config:
    """Shape of a T5 v1.1 encoder; field names and defaults are those of transformers' config.json.

    Attributes:
        d_model: width of the token embeddings and of the output.
        d_kv: width of one attention head; heads * d_kv need not be d_model.
        d_ff: inner width of the feed-forward layers.
        relative_attention_num_buckets: how many distances between tokens are told apart, both directions together.
        relative_attention_max_distance: tokens further apart than this share a bucket.
    """

    vocab_size: int = 32128
    d_model: int = 512
    d_kv: int = 64
    d_ff: int = 2048
    num_layers: int = 6
    num_heads: int = 8
    relative_attention_num_buckets: int = 32
    relative_attention_max_distance: int = 128
    layer_norm_epsilon: float = 1e-6

    def __post_init__(self) -> None:
        for name in ("vocab_size", "d_model", "d_kv", "d_ff", "num_layers", "num_heads"):
            require(getattr(self, name) >= 1, f"{name}={getattr(self, name)} must be at least 1")
        buckets, distance = self.relative_attention_num_buckets, self.relative_attention_max_distance
        require(buckets >= 4 and buckets % 4 == 0, f"relative_attention_num_buckets={buckets} must be a multiple of 4")
        require(
            distance > buckets // 4,
            f"relative_attention_max_distance={distance} must be more than a quarter of "
            f"relative_attention_num_buckets={buckets}",
        )

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> T5Config:
        """Reads a transformers config.json.

        Raises:
            ValueError: a setting is unknown or not supported, such as the ReLU of the first T5.
        """
        given = values.get("feed_forward_proj", "relu")  # what transformers takes a file to mean that does not say
        return cls(**read_fields(cls, {**values, "feed_forward_proj": given}, _DIALECT))

    def to_dict(self) -> dict[str, Any]:
        """Returns a config.json that transformers opens as T5EncoderModel."""
        return {
            "architectures": ["T5EncoderModel"],
            "model_type": "t5",
            "feed_forward_proj": _FEED_FORWARD,
            "is_encoder_decoder": False,
            "tie_word_embeddings": False,
        } | asdict(self)
