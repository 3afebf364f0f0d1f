"""A model's parts, however they were stored."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from wordbrush.conditioning.tokenizer import ClipTokenizer
from wordbrush.diffusion.plan import SamplingConfig
from wordbrush.networks.clip import CLIPTextModel
from wordbrush.networks.unet import UNet
from wordbrush.networks.vae import AutoencoderKL
from wordbrush.request import ModelDefaults


@dataclass(frozen=True, kw_only=True)
class ModelParts:
    """Networks, tokenizer and settings of one text-to-image model.

    Attributes:
        name: what requests and metadata call the model.
        scheduler: the noise process and the model's own way to be sampled.
        defaults: what the model wants where a request is silent.
        known_words: lower-case words it was trained with; None when it does not say.
        source: the folder it was read from; None for a model never stored.
        scheduler_json: the scheduler_config.json it came with, to be written back as it was.
    """

    unet: UNet
    vae: AutoencoderKL
    text_encoder: CLIPTextModel
    tokenizer: ClipTokenizer
    scheduler: SamplingConfig
    defaults: ModelDefaults
    name: str
    known_words: frozenset[str] | None = None
    source: Path | None = None
    scheduler_json: Mapping[str, Any] | None = None
