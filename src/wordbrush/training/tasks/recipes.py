"""What each task needs to know: the part of a recipe under `train:`, or `build:` where nothing is trained."""

from __future__ import annotations

from typing import Annotated, Any, Literal, Self

from pydantic import AfterValidator, BeforeValidator, Field, model_validator

from wordbrush.training.data_recipe import DataRecipe
from wordbrush.training.objectives import Objective
from wordbrush.training.strict import Strict
from wordbrush.training.tasks.diffusion_recipe import Scheduler


class PerceptualRecipe(Strict):
    """How different pictures look to a network that was trained for something else (Zhang 2018)."""

    weight: float = Field(1.0, gt=0)
    clip: str = Field("scenes-128", description="a model, or a folder, with a CLIP whose picture tower looks at them")
    lpips: tuple[str, ...] = Field(
        (), description="files with torchvision's VGG16 and LPIPS' learnt weights, in place of a CLIP"
    )

    @model_validator(mode="after")
    def _one_network(self) -> Self:
        if self.lpips and "clip" in self.said():
            raise ValueError("give clip or lpips, not both")
        return self


class AdversaryRecipe(Strict):
    """A patch discriminator that the decoder learns to deceive (Isola 2017; Esser 2021, section 3.1)."""

    weight: float = Field(0.5, gt=0, description="what the adaptive weight of Esser 2021, eq. 7, is multiplied by")
    start: int = Field(0, ge=0, description="the step from which it takes part and is trained")
    rate: float = Field(1.0, gt=0, description="its learning rate, as a multiple of the autoencoder's")
    channels: int = Field(64, ge=1, description="of its first layer")
    layers: int = Field(3, ge=1, description="strided layers: with 1, 2, 3 a patch is 16, 34, 70 pixels wide")


class VAERecipe(Strict):
    """A KL autoencoder on crops of scenes, or other pictures: L1 + edges + KL (Rombach 2022, §3.1).

    Beside these, if wished, a perceptual loss and a patch discriminator, as there.
    """

    task: Literal["vae"]
    network: dict[str, Any]
    data: DataRecipe | None = Field(None, description="pictures to train on; crops of scenes unless given")
    crop: int = Field(64, ge=32, description="sides of the crops of scenes")
    kl: float = Field(1e-3, ge=0, description="weight of the mean divergence per latent, in nats")
    edges: float = Field(1.0, ge=0, description="weight of the L1 distance of neighbouring-pixel differences")
    half_scale_every: int = Field(
        4,
        ge=0,
        description="each n-th step decodes latents pooled to half size against the picture at half size "
        "(scale equivariance, Kouzelis 2025): keeps latents smooth; 0 never",
    )
    decoder_of: str | None = Field(
        None,
        description="folder of a trained autoencoder: only its decoder is trained on, its latents stay what they are",
    )
    latent_noise: float = Field(
        0.0,
        ge=0,
        description="largest spread of noise added to latents of unit variance, since a denoiser's are never exact",
    )
    perceptual: PerceptualRecipe | None = None
    adversary: AdversaryRecipe | None = None

    @model_validator(mode="after")
    def _crops_are_of_scenes(self) -> Self:
        if self.data is not None and "crop" in self.said():
            raise ValueError("crop is the side of crops of scenes; with data, its size, fit and crop say what is seen")
        return self


class CLIPRecipe(Strict):
    """Contrastive language-image pre-training (Radford 2021) on scenes, or other captioned pictures."""

    task: Literal["clip"]
    data: DataRecipe | None = Field(None, description="captioned pictures to train on; scenes unless given")
    text: dict[str, Any]
    vision: dict[str, Any]
    tokenizer: str
    projection: int = 192


Kind = Literal["single", "colour", "two", "position", "binding", "counting", "several"]


def _shares(kinds: dict[Kind, float]) -> dict[Kind, float]:
    if sum(kinds.values()) > 1 + 1e-9:
        raise ValueError(f"shares of scenes that add up to {sum(kinds.values()):g}; at most 1 is wanted")
    return kinds


_USUAL_TIMES = {"kind": "logit_normal", "uniform_part": 0.2}


def _with_usual_times(objective: Any) -> Any:
    """An objective's table with the times that latents of scenes are trained at, where it does not say others."""
    return {"times": _USUAL_TIMES} | objective if isinstance(objective, dict) else objective


class DenoiserRecipe(Strict):
    """Text-conditional latent diffusion (Rombach 2022); `scheduler` says the noise process and what is predicted."""

    task: Literal["denoiser"]
    network: dict[str, Any]
    scheduler: Scheduler = Field(description="diffusers' scheduler_config.json of the finished model")
    vae: str = Field(description="folder of the trained autoencoder")
    tokenizer: str = Field(description="folder of the tokenizer")
    clip: str = Field(description="folder of the CLIP whose text tower the text encoder starts from")
    start: str | None = Field(
        None, description="model folder whose U-Net and text encoder this run goes on from, instead of from nothing"
    )
    train_text: bool = Field(True, description="train the text encoder together with the U-Net")
    drop_caption: float = Field(
        0.1, ge=0, le=1, description="part of captions emptied, for guidance (Ho & Salimans 2022)"
    )
    objective: Annotated[Objective, BeforeValidator(_with_usual_times)] = Field(
        default_factory=lambda: Objective.model_validate(_with_usual_times({})),
        description="as of the task diffusion, but that times are logit-normal, a fifth of them uniform, unless given",
    )
    kinds: Annotated[dict[Kind, Annotated[float, Field(ge=0, le=1)]], AfterValidator(_shares)] = Field(
        default_factory=dict, description="part of the scenes that is of a kind for certain; the rest is the usual mix"
    )
    window: int = Field(20_000, ge=1, description="scenes encoded at a time")
    passes: int = Field(4, ge=1, description="how often each window is trained on, with new captions each time")


class InspectorRecipe(Strict):
    """The detector that judges pictures; it shares nothing with the generator."""

    task: Literal["inspector"]
    network: dict[str, Any] = Field(default_factory=dict)


class ExpanderRecipe(Strict):
    """A small GPT-2 on captions of scenes, which continues what a user begins (Radford 2019)."""

    task: Literal["expander"]
    network: dict[str, Any]
    vocabulary: int = Field(1600, ge=300, description="byte-pair pieces, all bytes and the end of a text included")
    vocabulary_captions: int = Field(20_000, ge=1, description="captions that the pieces are learnt from")


class UpscalerRecipe(Strict):
    """Super-resolution of scenes by an SRResNet (Ledig 2017), by L1 alone."""

    task: Literal["upscaler"]
    network: dict[str, Any]
    crop: int = Field(24, ge=8, le=32, description="sides of the small crops, in pixels")
    degraded: float = Field(
        0.25, ge=0, le=1, description="part of the crops made small less cleanly: other filters, blur, noise"
    )


class TokenizerRecipe(Strict):
    """A byte-pair vocabulary learnt from captions; no network."""

    task: Literal["tokenizer"]
    captions: int = Field(40_000, ge=1)
    size: int = Field(2220, ge=600, description="pieces at most: 512 of bytes, 2 marks, the rest learnt")
    max_length: int = Field(32, ge=8, description="tokens of a prompt, start and end included")


class AssembleRecipe(Strict):
    """One model folder out of trained parts."""

    task: Literal["assemble"]
    denoiser: str = Field(description="folder of the denoiser run")
    vae: str
    clip: str
    tokenizer: str
    dtype: Literal["float32", "bfloat16", "float16"] = "float16"
    defaults: dict[str, Any] = Field(
        default_factory=dict, description="wordbrush.json: what the model wants where a request is silent"
    )
