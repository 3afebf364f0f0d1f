"""Which parameters a fine-tuning trains: adapters, the vectors of a word, or whole networks."""

from __future__ import annotations

from typing import cast

import torch
from torch import Tensor, nn

from wordbrush.errors import RequestError
from wordbrush.formats.parts import ModelParts
from wordbrush.networks.clip import CLIPTextModel
from wordbrush.training.adapters import AdapterConfig, Adapters
from wordbrush.training.finetune.captions import CaptionReader, Placeholder
from wordbrush.training.finetune.recipes import (
    DreamBoothRecipe,
    Finetune,
    FullRecipe,
    InversionRecipe,
    LoraRecipe,
)

DENOISER_LORA, TEXT_LORA, WORD = "lora", "text_lora", "word"
"""The names of the trained modules that are no whole networks."""


def denoiser_name(parts: ModelParts) -> str:
    """What model_index.json calls the network that denoises."""
    return "unet" if parts.unet is not None else "transformer"


def adapter_of(train: Finetune) -> AdapterConfig | None:
    """The shape of the LoRA that a recipe trains; None where it trains none."""
    return train.adapter if isinstance(train, LoraRecipe | DreamBoothRecipe) else None


def clips_of(parts: ModelParts) -> dict[str, nn.Module]:
    """The CLIP text encoders of a model: what is trained where a recipe trains text encoders."""
    networks = {"text_encoder": parts.text_encoder, "text_encoder_2": parts.text_encoder_2}
    return {name: network for name, network in networks.items() if isinstance(network, CLIPTextModel)}


def trained_networks(train: Finetune, parts: ModelParts) -> dict[str, nn.Module]:
    """The networks whose own weights a recipe trains, by name."""
    if isinstance(train, InversionRecipe) or adapter_of(train) is not None:
        return {}
    assert isinstance(train, DreamBoothRecipe | FullRecipe)
    found: dict[str, nn.Module] = {denoiser_name(parts): parts.denoiser}
    return found | (clips_of(parts) if train.text_encoder else {})


def unread_layers(parts: ModelParts, clip_skip: int) -> list[str]:
    """Beginnings of the names of text layers whose output nothing reads, so that no gradient ever reaches them.

    SDXL reads the layer before the last of both encoders, and the last one only of the second, pooled.
    """
    encoder = cast(CLIPTextModel, parts.text_encoder)
    depth = encoder.config.num_hidden_layers
    if parts.family.startswith("sdxl"):
        return [f"text_encoder.text_model.encoder.layers.{depth - 1}", "text_encoder.text_model.final_layer_norm"]
    return [f"text_encoder.text_model.encoder.layers.{layer}" for layer in range(depth - clip_skip + 1, depth)]


def prepare(
    train: Finetune, parts: ModelParts, reader: CaptionReader, generator: torch.Generator
) -> tuple[dict[str, nn.Module], dict[str, float]]:
    """Makes what a recipe trains, on or beside the model's networks; all else of them stays frozen.

    Returns the modules by name, and factors of the learning rate.

    Raises:
        RequestError: the recipe asks for what the model does not have.
    """
    if isinstance(train, InversionRecipe):
        return {WORD: Word(train, parts, reader)}, {}
    rates = dict.fromkeys((*clips_of(parts), TEXT_LORA), train.text_rate) if train.text_encoder else {}
    unread = unread_layers(parts, reader.clip_skip)
    config = adapter_of(train)
    if config is None:
        modules = trained_networks(train, parts)
        for module in modules.values():
            module.requires_grad_(True)
        for name, module in modules.items():
            for key, parameter in module.named_parameters():
                if any(f"{name}.{key}".startswith(f"{start}.") for start in unread):
                    parameter.requires_grad_(False)
        return modules, {name: rate for name, rate in rates.items() if name in modules}
    found: dict[str, nn.Module] = {
        DENOISER_LORA: Adapters.inject({denoiser_name(parts): parts.denoiser}, config, generator)
    }
    if train.text_encoder:
        found[TEXT_LORA] = Adapters.inject(clips_of(parts), _text_adapter(train, config), generator, without=unread)
    return found, {name: rate for name, rate in rates.items() if name in found}


def _text_adapter(train: Finetune, config: AdapterConfig) -> AdapterConfig:
    if isinstance(train, LoraRecipe) and train.text_adapter is not None:
        return train.text_adapter
    # a text encoder has neither convolutions nor the names of a list made for the denoiser
    return config.model_copy(update={"target": "attention" if config.target == "attention" else "feed_forward"})


class Word(nn.Module):
    """The vectors of a placeholder, for every CLIP of a model; as named parameters `text_encoder`, `text_encoder_2`.

    They begin as the embeddings of `initial`'s tokens, and are read no longer than the recipe allows: vectors that grow
    without bound drown the other words of a prompt (Gal 2022, §5.3).
    """

    def __init__(self, train: InversionRecipe, parts: ModelParts, reader: CaptionReader) -> None:
        super().__init__()
        self.longest: dict[str, float] = {}
        for name, encoder in clips_of(parts).items():
            embedding = cast(CLIPTextModel, encoder).text_model.embeddings.token_embedding
            known = embedding.weight.detach().float()  # (V, D)
            tokenizer = parts.tokenizer if name == "text_encoder" else parts.tokenizer_2
            assert tokenizer is not None
            ids = [piece.id for piece in tokenizer.pieces(train.initial)]
            if not ids:
                raise RequestError(f"initial={train.initial!r} has no letters; give a word, such as 'toy'")
            chosen = [ids[place % len(ids)] for place in range(train.vectors)]
            self.longest[name] = train.norm * float(known.norm(dim=1).max())
            self.register_parameter(name, nn.Parameter(self._distinct(known[chosen].clone(), known)))
        _check_new(train.placeholder, reader)

    @staticmethod
    def _distinct(vectors: Tensor, known: Tensor) -> Tensor:
        """Moves repeated vectors apart a little: equal ones would go on to get nearly equal gradients."""
        spread = 0.1 * float(known.std())
        for place in range(1, len(vectors)):
            same = (vectors[:place] == vectors[place]).all(dim=1)
            if same.any():
                generator = torch.Generator().manual_seed(place)
                vectors[place] += spread * torch.randn(vectors.shape[1], generator=generator)
        return vectors

    def vectors(self) -> dict[str, Tensor]:
        """Encoder -> (n, D), none longer than the longest allowed, with gradients."""
        return {name: _shortened(parameter, self.longest[name]) for name, parameter in self.named_parameters()}

    def vectors_from(self, state: dict[str, Tensor]) -> dict[str, Tensor]:
        """As `vectors`, of other values of the parameters."""
        return {name: _shortened(state[name].float(), limit) for name, limit in self.longest.items()}


def _shortened(vectors: Tensor, longest: float) -> Tensor:
    lengths = vectors.norm(dim=1, keepdim=True)
    return vectors * (longest / lengths).clamp(max=1.0)


def _check_new(word: str, reader: CaptionReader) -> None:
    """Raises RequestError for a placeholder that a tokenizer knows as one word already."""
    if reader.known(word):
        raise RequestError(
            f"the placeholder {word!r} is a word that the model knows; give a new one, such as 'my-{word}'"
        )


def placeholder_of(train: Finetune) -> Placeholder | None:
    """The word whose vectors a recipe trains."""
    if not isinstance(train, InversionRecipe):
        return None
    return Placeholder(word=train.placeholder, vectors=train.vectors)
