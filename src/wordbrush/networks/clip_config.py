"""The shapes of CLIP's towers, and their config.json as transformers writes it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

from .config import TRANSFORMERS_IGNORED, Dialect, read_fields, require

ACTIVATIONS = ("quick_gelu", "gelu")

_TEXT_DIALECT = Dialect(ignored=TRANSFORMERS_IGNORED, fixed={})
_VISION_DIALECT = Dialect(ignored=TRANSFORMERS_IGNORED | {"bos_token_id", "eos_token_id", "pad_token_id"}, fixed={})
_MODEL_DIALECT = Dialect(ignored=TRANSFORMERS_IGNORED | {"text_config_dict", "vision_config_dict"}, fixed={})


@dataclass(frozen=True, kw_only=True)
class CLIPTextConfig:
    """Shape of a CLIP text tower; field names and defaults are those of transformers' config.json.

    Attributes:
        hidden_act: "quick_gelu" (OpenAI's weights) or "gelu" (OpenCLIP's).
        projection_dim: length of the projected embedding, for models with a projection.
        bos_token_id, eos_token_id, pad_token_id: of the tokenizer; eos_token_id also says where to pool: at its first
            occurrence, or, if it is 2 (files before 2023), at the highest id in the sequence.
    """

    vocab_size: int = 49408
    hidden_size: int = 512
    intermediate_size: int = 2048
    projection_dim: int = 512
    num_hidden_layers: int = 12
    num_attention_heads: int = 8
    max_position_embeddings: int = 77
    hidden_act: str = "quick_gelu"
    layer_norm_eps: float = 1e-5
    bos_token_id: int | None = 49406
    eos_token_id: int = 49407
    pad_token_id: int | None = 1

    def __post_init__(self) -> None:
        _require_transformer(self)
        for name in ("vocab_size", "max_position_embeddings"):
            require(getattr(self, name) >= 1, f"{name}={getattr(self, name)} must be at least 1")
        require(isinstance(self.eos_token_id, int), f"eos_token_id={self.eos_token_id!r} must be a single integer")

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> CLIPTextConfig:
        """Reads a transformers config.json.

        Raises:
            ValueError: a setting is unknown or not supported.
        """
        return cls(**read_fields(cls, values, _TEXT_DIALECT))

    def to_dict(self) -> dict[str, Any]:
        """Returns a config.json that transformers opens."""
        return {"model_type": "clip_text_model"} | asdict(self)


@dataclass(frozen=True, kw_only=True)
class CLIPVisionConfig:
    """Shape of a CLIP image tower; field names and defaults are those of transformers' config.json.

    Attributes:
        image_size: side of the square pictures it takes, in pixels.
        patch_size: side of a patch, in pixels; must divide image_size.
    """

    hidden_size: int = 768
    intermediate_size: int = 3072
    projection_dim: int = 512
    num_hidden_layers: int = 12
    num_attention_heads: int = 12
    num_channels: int = 3
    image_size: int = 224
    patch_size: int = 32
    hidden_act: str = "quick_gelu"
    layer_norm_eps: float = 1e-5

    def __post_init__(self) -> None:
        _require_transformer(self)
        require(self.num_channels >= 1, f"num_channels={self.num_channels} must be at least 1")
        require(
            self.patch_size >= 1 and self.image_size >= self.patch_size and self.image_size % self.patch_size == 0,
            f"image_size={self.image_size} is not a multiple of patch_size={self.patch_size}",
        )

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> CLIPVisionConfig:
        """Reads a transformers config.json.

        Raises:
            ValueError: a setting is unknown or not supported.
        """
        return cls(**read_fields(cls, values, _VISION_DIALECT))

    def to_dict(self) -> dict[str, Any]:
        """Returns a config.json that transformers opens."""
        return {"model_type": "clip_vision_model"} | asdict(self)


@dataclass(frozen=True, kw_only=True)
class CLIPConfig:
    """Both towers and the space they share.

    Attributes:
        projection_dim: length of the shared embedding.
        logit_scale_init_value: starting value of the log temperature; ln(1/0.07) in Radford 2021, §2.5.
    """

    text_config: CLIPTextConfig = field(default_factory=CLIPTextConfig)
    vision_config: CLIPVisionConfig = field(default_factory=CLIPVisionConfig)
    projection_dim: int = 512
    logit_scale_init_value: float = 2.6592

    def __post_init__(self) -> None:
        require(self.projection_dim >= 1, f"projection_dim={self.projection_dim} must be at least 1")

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> CLIPConfig:
        """Reads a transformers config.json; if an old file gives a tower twice, `*_config_dict` is the one that counts.

        Raises:
            ValueError: a setting is unknown or not supported.
        """
        own = read_fields(cls, values, _MODEL_DIALECT)
        text = values.get("text_config_dict") or values.get("text_config") or {}
        vision = values.get("vision_config_dict") or values.get("vision_config") or {}
        own["text_config"] = CLIPTextConfig.from_dict(text)
        own["vision_config"] = CLIPVisionConfig.from_dict(vision)
        return cls(**own)

    def to_dict(self) -> dict[str, Any]:
        """Returns a config.json that transformers opens as CLIPModel."""
        return {
            "architectures": ["CLIPModel"],
            "model_type": "clip",
            "projection_dim": self.projection_dim,
            "logit_scale_init_value": self.logit_scale_init_value,
            "text_config": self.text_config.to_dict(),
            "vision_config": self.vision_config.to_dict(),
        }


def _require_transformer(config: CLIPTextConfig | CLIPVisionConfig) -> None:
    for name in ("hidden_size", "intermediate_size", "projection_dim", "num_hidden_layers", "num_attention_heads"):
        require(getattr(config, name) >= 1, f"{name}={getattr(config, name)} must be at least 1")
    require(
        config.hidden_size % config.num_attention_heads == 0,
        f"hidden_size={config.hidden_size} is not a multiple of num_attention_heads={config.num_attention_heads}",
    )
    require(
        config.hidden_act in ACTIVATIONS,
        f"hidden_act={config.hidden_act!r} is not supported; supported: {', '.join(ACTIVATIONS)}",
    )
