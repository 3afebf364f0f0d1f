"""CLIP: a text tower and an image tower whose outputs are compared by cosine (Radford 2021).

The text tower alone is the text encoder of Stable Diffusion 1 (CLIP-L), 2 (OpenCLIP-H) and XL (CLIP-L, OpenCLIP-bigG).
State-dict keys are those of the files in circulation: `text_model.…`, `vision_model.…`, `text_projection`,
`visual_projection`, `logit_scale`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import nn

from .attention import attend
from .clip_config import CLIPConfig, CLIPTextConfig, CLIPVisionConfig

__all__ = [
    "CLIPConfig",
    "CLIPModel",
    "CLIPOutput",
    "CLIPTextConfig",
    "CLIPTextModel",
    "CLIPTextOutput",
    "CLIPVisionConfig",
    "CLIPVisionModel",
    "CLIPVisionOutput",
]

# Before 2023 the files said eos_token_id = 2, which is not the end token of any CLIP vocabulary; the end token was
# found as the highest id in the sequence. Files with that value still mean that rule.
_LEGACY_EOS = 2


@dataclass(frozen=True, kw_only=True)
class CLIPTextOutput:
    """What the text tower makes of (B, L) token ids.

    Attributes:
        last_hidden_state: (B, L, D), after the final layer norm.
        hidden_states: the token embeddings and the output of every layer, each (B, L, D), before the final layer norm.
        pooled: (B, D), the last hidden state at the end token.
        text_embeds: (B, P), `pooled` projected; None for a model without projection.
    """

    last_hidden_state: torch.Tensor
    hidden_states: tuple[torch.Tensor, ...]
    pooled: torch.Tensor
    text_embeds: torch.Tensor | None = None


@dataclass(frozen=True, kw_only=True)
class CLIPVisionOutput:
    """What the image tower makes of (B, 3, S, S) images.

    Attributes:
        last_hidden_state: (B, 1 + patches, D); the class token first.
        hidden_states: the input of the first layer and the output of every layer, each as `last_hidden_state`.
        pooled: (B, D), the class token after the last layer norm.
        image_embeds: (B, P), `pooled` projected; None for a model without projection.
    """

    last_hidden_state: torch.Tensor
    hidden_states: tuple[torch.Tensor, ...]
    pooled: torch.Tensor
    image_embeds: torch.Tensor | None = None


@dataclass(frozen=True, kw_only=True)
class CLIPOutput:
    """Captions against pictures: unit-length embeddings (T, P) and (I, P), and their scaled cosines (I, T)."""

    text_embeds: torch.Tensor
    image_embeds: torch.Tensor
    logits_per_image: torch.Tensor


class Attention(nn.Module):
    """Multi-head self-attention with biased projections."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.k_proj = nn.Linear(width, width)
        self.v_proj = nn.Linear(width, width)
        self.q_proj = nn.Linear(width, width)
        self.out_proj = nn.Linear(width, width)

    def forward(self, x: torch.Tensor, *, causal: bool) -> torch.Tensor:
        return self.out_proj(attend(self.q_proj(x), self.k_proj(x), self.v_proj(x), self.heads, causal=causal))


class MLP(nn.Module):
    """Two linear layers around the activation."""

    def __init__(self, width: int, inner: int, activation: str) -> None:
        super().__init__()
        self.activation = activation
        self.fc1 = nn.Linear(width, inner)
        self.fc2 = nn.Linear(inner, width)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.fc1(x)
        # quick_gelu is the sigmoid approximation of Hendrycks 2016, §2, which OpenAI's weights were trained with.
        x = x * torch.sigmoid(1.702 * x) if self.activation == "quick_gelu" else F.gelu(x)
        return self.fc2(x)


class Layer(nn.Module):
    """One pre-norm transformer layer."""

    def __init__(self, config: CLIPTextConfig | CLIPVisionConfig) -> None:
        super().__init__()
        width, eps = config.hidden_size, config.layer_norm_eps
        self.self_attn = Attention(width, config.num_attention_heads)
        self.layer_norm1 = nn.LayerNorm(width, eps=eps)
        self.mlp = MLP(width, config.intermediate_size, config.hidden_act)
        self.layer_norm2 = nn.LayerNorm(width, eps=eps)

    def forward(self, x: torch.Tensor, *, causal: bool) -> torch.Tensor:
        x = x + self.self_attn(self.layer_norm1(x), causal=causal)
        return x + self.mlp(self.layer_norm2(x))

    def initialise(self, generator: torch.Generator, *, depth: int) -> None:
        """Draws the weights as OpenAI's CLIP does: residual outputs shrink with depth (Radford 2019, §2.3)."""
        attention, mlp = self.self_attn, self.mlp
        width = attention.out_proj.in_features
        for linear in (attention.q_proj, attention.k_proj, attention.v_proj):
            _draw(linear, width**-0.5, generator)
        _draw(mlp.fc1, (2 * width) ** -0.5, generator)
        for linear in (attention.out_proj, mlp.fc2):
            _draw(linear, width**-0.5 * (2 * depth) ** -0.5, generator)
        for norm in (self.layer_norm1, self.layer_norm2):
            _reset_norm(norm)


class Transformer(nn.Module):
    """The stack of layers; the attribute `layers` is part of the reference's keys."""

    def __init__(self, config: CLIPTextConfig | CLIPVisionConfig) -> None:
        super().__init__()
        self.layers = nn.ModuleList(Layer(config) for _ in range(config.num_hidden_layers))

    def forward(self, x: torch.Tensor, *, causal: bool) -> tuple[torch.Tensor, ...]:
        """x: (B, L, D). Returns x and the output of every layer."""
        states = [x]
        for layer in self.layers:
            states.append(layer(states[-1], causal=causal))
        return tuple(states)

    def initialise(self, generator: torch.Generator) -> None:
        for layer in self.modules():
            if isinstance(layer, Layer):
                layer.initialise(generator, depth=len(self.layers))


class TextEmbeddings(nn.Module):
    """Token plus position embeddings."""

    def __init__(self, config: CLIPTextConfig) -> None:
        super().__init__()
        self.token_embedding = nn.Embedding(config.vocab_size, config.hidden_size)
        self.position_embedding = nn.Embedding(config.max_position_embeddings, config.hidden_size)

    def forward(self, ids: torch.Tensor, tokens: torch.Tensor | None = None) -> torch.Tensor:
        length, limit = ids.shape[1], self.position_embedding.num_embeddings
        if length > limit:
            raise ValueError(f"the sequence has {length} tokens; this text encoder takes at most {limit}")
        tokens = self.token_embedding(ids) if tokens is None else tokens
        return tokens + self.position_embedding.weight[:length]  # (B, L, D)


class TextTower(nn.Module):
    """Causal transformer over token ids."""

    def __init__(self, config: CLIPTextConfig) -> None:
        super().__init__()
        self.eos_token_id = config.eos_token_id
        self.embeddings = TextEmbeddings(config)
        self.encoder = Transformer(config)
        self.final_layer_norm = nn.LayerNorm(config.hidden_size, eps=config.layer_norm_eps)

    def forward(self, ids: torch.Tensor, tokens: torch.Tensor | None = None) -> CLIPTextOutput:
        states = self.encoder(self.embeddings(ids, tokens), causal=True)
        last = self.final_layer_norm(states[-1])  # (B, L, D)
        marks = ids if self.eos_token_id == _LEGACY_EOS else (ids == self.eos_token_id).int()
        pooled = last[torch.arange(len(ids), device=ids.device), marks.argmax(dim=1)]  # (B, D), at the first end token
        return CLIPTextOutput(last_hidden_state=last, hidden_states=states, pooled=pooled)

    @torch.no_grad()
    def initialise(self, generator: torch.Generator) -> None:
        self.embeddings.token_embedding.weight.normal_(std=0.02, generator=generator)
        self.embeddings.position_embedding.weight.normal_(std=0.01, generator=generator)
        self.encoder.initialise(generator)
        _reset_norm(self.final_layer_norm)


class VisionEmbeddings(nn.Module):
    """Class token and patches, each with its position embedding."""

    def __init__(self, config: CLIPVisionConfig) -> None:
        super().__init__()
        self.size = config.image_size
        self.class_embedding = nn.Parameter(torch.zeros(config.hidden_size))
        self.patch_embedding = nn.Conv2d(
            config.num_channels, config.hidden_size, config.patch_size, stride=config.patch_size, bias=False
        )
        self.position_embedding = nn.Embedding((config.image_size // config.patch_size) ** 2 + 1, config.hidden_size)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        height, width = images.shape[2:]
        if (height, width) != (self.size, self.size):
            raise ValueError(
                f"images are {width}x{height}; this image tower takes {self.size}x{self.size}, so resize them first"
            )
        patches = self.patch_embedding(images).flatten(2).transpose(1, 2)  # (B, patches, D)
        first = self.class_embedding.expand(len(images), 1, -1)
        return torch.cat([first, patches], dim=1) + self.position_embedding.weight


class VisionTower(nn.Module):
    """Transformer over image patches (Dosovitskiy 2021)."""

    def __init__(self, config: CLIPVisionConfig) -> None:
        super().__init__()
        self.embeddings = VisionEmbeddings(config)
        self.pre_layrnorm = nn.LayerNorm(config.hidden_size, eps=config.layer_norm_eps)  # the reference's spelling
        self.encoder = Transformer(config)
        self.post_layernorm = nn.LayerNorm(config.hidden_size, eps=config.layer_norm_eps)

    def forward(self, images: torch.Tensor) -> CLIPVisionOutput:
        states = self.encoder(self.pre_layrnorm(self.embeddings(images)), causal=False)
        return CLIPVisionOutput(
            last_hidden_state=states[-1], hidden_states=states, pooled=self.post_layernorm(states[-1][:, 0])
        )

    @torch.no_grad()
    def initialise(self, generator: torch.Generator) -> None:
        width = len(self.embeddings.class_embedding)
        self.embeddings.class_embedding.normal_(std=width**-0.5, generator=generator)
        self.embeddings.position_embedding.weight.normal_(std=width**-0.5, generator=generator)
        patch = self.embeddings.patch_embedding.weight
        patch.normal_(std=patch[0].numel() ** -0.5, generator=generator)
        self.encoder.initialise(generator)
        _reset_norm(self.pre_layrnorm)
        _reset_norm(self.post_layernorm)


class CLIPTextModel(nn.Module):
    """A text encoder: ids (B, L) to `CLIPTextOutput`.

    Args:
        projection: also project the pooled state (transformers' CLIPTextModelWithProjection).
    """

    def __init__(self, config: CLIPTextConfig, *, projection: bool = False) -> None:
        super().__init__()
        self.config = config
        self.text_model = TextTower(config)
        self.text_projection = nn.Linear(config.hidden_size, config.projection_dim, bias=False) if projection else None

    def forward(self, ids: torch.Tensor, tokens: torch.Tensor | None = None) -> CLIPTextOutput:
        """Reads a text.

        Args:
            ids: (B, L) integers, L at most `config.max_position_embeddings`.
            tokens: (B, L, D) in place of the embeddings of the ids, without positions, for learnt vectors that no id
                stands for (Gal 2022); `ids` then only says where the end is.

        Raises:
            ValueError: the sequence is too long.
        """
        out: CLIPTextOutput = self.text_model(ids, tokens)
        if self.text_projection is None:
            return out
        return CLIPTextOutput(
            last_hidden_state=out.last_hidden_state,
            hidden_states=out.hidden_states,
            pooled=out.pooled,
            text_embeds=self.text_projection(out.pooled),
        )

    def to_dict(self) -> dict[str, Any]:
        """Returns a config.json that transformers opens, naming the class with or without projection."""
        name = "CLIPTextModel" if self.text_projection is None else "CLIPTextModelWithProjection"
        return {"architectures": [name]} | self.config.to_dict()

    def initialise(self, generator: torch.Generator) -> None:
        """Re-draws every parameter as OpenAI's CLIP does."""
        self.text_model.initialise(generator)
        if self.text_projection is not None:
            _draw(self.text_projection, self.config.hidden_size**-0.5, generator)


class CLIPVisionModel(nn.Module):
    """An image encoder: images (B, 3, S, S), normalised with CLIP's mean and deviation, to `CLIPVisionOutput`.

    Args:
        projection: also project the pooled state (transformers' CLIPVisionModelWithProjection).
    """

    def __init__(self, config: CLIPVisionConfig, *, projection: bool = False) -> None:
        super().__init__()
        self.config = config
        self.vision_model = VisionTower(config)
        self.visual_projection = (
            nn.Linear(config.hidden_size, config.projection_dim, bias=False) if projection else None
        )

    def forward(self, images: torch.Tensor) -> CLIPVisionOutput:
        """images: (B, 3, S, S), S = `config.image_size`.

        Raises:
            ValueError: the images have another size.
        """
        out: CLIPVisionOutput = self.vision_model(images)
        if self.visual_projection is None:
            return out
        return CLIPVisionOutput(
            last_hidden_state=out.last_hidden_state,
            hidden_states=out.hidden_states,
            pooled=out.pooled,
            image_embeds=self.visual_projection(out.pooled),
        )

    def initialise(self, generator: torch.Generator) -> None:
        """Re-draws every parameter as OpenAI's CLIP does its text tower."""
        self.vision_model.initialise(generator)
        if self.visual_projection is not None:
            _draw(self.visual_projection, self.config.hidden_size**-0.5, generator)


class CLIPModel(nn.Module):
    """Both towers, their projections into one space, and the learnt temperature."""

    def __init__(self, config: CLIPConfig) -> None:
        super().__init__()
        self.config = config
        text, vision = config.text_config, config.vision_config
        self.text_model = TextTower(text)
        self.vision_model = VisionTower(vision)
        self.visual_projection = nn.Linear(vision.hidden_size, config.projection_dim, bias=False)
        self.text_projection = nn.Linear(text.hidden_size, config.projection_dim, bias=False)
        self.logit_scale = nn.Parameter(torch.tensor(config.logit_scale_init_value))

    def text_features(self, ids: torch.Tensor) -> torch.Tensor:
        """ids: (B, L). Returns projected embeddings (B, P), not normalised."""
        return self.text_projection(self.text_model(ids).pooled)

    def image_features(self, images: torch.Tensor) -> torch.Tensor:
        """images: (B, 3, S, S), normalised with CLIP's mean and deviation. Returns (B, P), not normalised."""
        return self.visual_projection(self.vision_model(images).pooled)

    def forward(self, ids: torch.Tensor, images: torch.Tensor) -> CLIPOutput:
        """Compares every caption with every picture; `logits_per_image` are the logits of Radford 2021, figure 3."""
        text = F.normalize(self.text_features(ids), dim=1)  # (T, P)
        image = F.normalize(self.image_features(images), dim=1)  # (I, P)
        return CLIPOutput(
            text_embeds=text, image_embeds=image, logits_per_image=self.logit_scale.exp() * image @ text.T
        )

    def text_encoder_state(self) -> Mapping[str, torch.Tensor]:
        """Returns the part of the state dict that a `CLIPTextModel` without projection loads."""
        return {key: value for key, value in self.state_dict().items() if key.startswith("text_model.")}

    @torch.no_grad()
    def initialise(self, generator: torch.Generator) -> None:
        """Re-draws every parameter as OpenAI's CLIP does."""
        self.text_model.initialise(generator)
        self.vision_model.initialise(generator)
        _draw(self.text_projection, self.text_projection.in_features**-0.5, generator)
        _draw(self.visual_projection, self.visual_projection.in_features**-0.5, generator)
        self.logit_scale.fill_(self.config.logit_scale_init_value)


@torch.no_grad()
def _draw(linear: nn.Linear, std: float, generator: torch.Generator) -> None:
    linear.weight.normal_(std=std, generator=generator)
    if linear.bias is not None:
        linear.bias.zero_()


@torch.no_grad()
def _reset_norm(norm: nn.LayerNorm) -> None:
    norm.weight.fill_(1.0)
    norm.bias.zero_()
