"""A model's parts, however they were stored."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from torch import nn

from wordbrush.conditioning.tokenizer import ClipTokenizer
from wordbrush.diffusion.plan import SamplingConfig
from wordbrush.networks.clip import CLIPTextModel
from wordbrush.networks.pixels import Pixels
from wordbrush.networks.tiny_vae import Autoencoder
from wordbrush.networks.unet import UNet
from wordbrush.request_fields import ModelDefaults

if TYPE_CHECKING:  # only FLUX has these
    from wordbrush.conditioning.t5_tokenizer import T5Tokenizer
    from wordbrush.networks.flux import FluxTransformer
    from wordbrush.networks.t5 import T5Encoder

FAMILIES = ("sd1", "sd2", "sdxl", "sdxl-refiner", "flux-dev", "flux-schnell")
"""How text reaches the network, and so which parts a model has. Inpainting, editing and distilled models are of the
family they were made from; the configs of their networks tell them apart."""

OWN_FAMILIES = ("class", "embedding", "unconditional")
"""Of models that this package trains: they know classes, CLIP's embedding of a whole text as one vector, or nothing."""

NETWORKS = ("unet", "transformer", "vae", "text_encoder", "text_encoder_2")
"""The parts that are networks, by the names of model_index.json."""


@dataclass(frozen=True, kw_only=True)
class ModelParts:
    """Networks, tokenizers and settings of one text-to-image model; a part that its family does not have is None.

    Attributes:
        family: one of `FAMILIES` or `OWN_FAMILIES`.
        unet, transformer: the network that denoises; a model has one of the two.
        text_encoder: CLIP; None in the refiner of Stable Diffusion XL.
        text_encoder_2: the second CLIP of Stable Diffusion XL (the refiner's only one), or the T5 of FLUX.
        tokenizer, tokenizer_2: of `text_encoder` and `text_encoder_2`.
        scheduler: the noise process and the model's own way to be sampled.
        defaults: what the model wants where a request is silent.
        name: what requests and metadata call the model.
        zero_negative: an empty negative prompt is read as all zeros (Stable Diffusion XL, not its refiner).
        known_words: lower-case words it was trained with; None when it does not say.
        source: the folder or file it was read from; None for a model never stored.
        variant: which of several forms of the weights in `source` was read, such as "fp16".
        labels: the names of the classes, of a model that knows classes.
        vae_name: what requests and metadata call a VAE that took the place of the model's own.
        scheduler_json: the scheduler_config.json it came with, to be written back as it was.
        notes: what a user should know of how it was read, one sentence each.
    """

    family: str
    unet: UNet | None = None
    transformer: FluxTransformer | None = None
    vae: Autoencoder
    text_encoder: CLIPTextModel | None = None
    text_encoder_2: CLIPTextModel | T5Encoder | None = None
    tokenizer: ClipTokenizer | None = None
    tokenizer_2: ClipTokenizer | T5Tokenizer | None = None
    scheduler: SamplingConfig
    defaults: ModelDefaults
    name: str
    zero_negative: bool = False
    known_words: frozenset[str] | None = None
    source: Path | None = None
    variant: str | None = None
    labels: tuple[str, ...] | None = None
    vae_name: str | None = None
    scheduler_json: Mapping[str, Any] | None = None
    notes: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        known = (*FAMILIES, *OWN_FAMILIES)
        if self.family not in known:
            raise ValueError(f"family={self.family!r} is unknown; there are {', '.join(known)}")
        if (self.unet is None) == (self.transformer is None):
            raise ValueError("a model has either a unet or a transformer")

    @property
    def denoiser(self) -> UNet | FluxTransformer:
        """The network that denoises."""
        found = self.transformer if self.unet is None else self.unet
        assert found is not None
        return found

    @property
    def networks(self) -> dict[str, nn.Module]:
        """The networks that the model has, by their names in model_index.json; a model of pixels has no `vae`."""
        found = {name: getattr(self, name) for name in NETWORKS}
        return {name: network for name, network in found.items() if not isinstance(network, Pixels | None)}

    @property
    def picture_input(self) -> str | None:
        """What the network sees of a picture, joined to the latents' channels.

        None: nothing; "edit": the picture's latents (instruct-pix2pix); "inpaint": a mask and the latents of what it
        leaves of the picture.
        """
        latents = self.vae.config.latent_channels
        if self.transformer is not None:  # FLUX sees the mask in pixels, a channel for each of a latent's pixels
            beside = self.transformer.config.in_channels // 4 - latents
            return "inpaint" if beside == latents + self.vae.config.downscale**2 else None
        assert self.unet is not None
        return {latents: "edit", latents + 1: "inpaint"}.get(self.unet.config.in_channels - latents)

    @property
    def tells_guidance(self) -> bool:
        """Whether the network was distilled with guidance, and is told its scale (FLUX.1 dev, LCM)."""
        if self.transformer is not None:
            return self.transformer.config.guidance_embeds
        assert self.unet is not None
        return self.unet.config.time_cond_proj_dim is not None
