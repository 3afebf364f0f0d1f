"""The part of a recipe under `train:` that trains a diffusion model on any data."""

from __future__ import annotations

from typing import Annotated, Any, Literal, Self

from pydantic import AfterValidator, Field, model_validator

from wordbrush.training.data_recipe import DataRecipe
from wordbrush.training.objectives import Objective
from wordbrush.training.strict import Strict
from wordbrush.training.tasks.scheduler_keys import checked_scheduler

Part = Annotated[float, Field(ge=0, le=1)]


class Unconditional(Strict):
    """Nothing is told: the model paints what the data look like."""

    kind: Literal["none"] = "none"


class ByClass(Strict):
    """The number of the picture's class, embedded beside time (Dhariwal & Nichol 2021)."""

    kind: Literal["class"]
    drop: Part = Field(0.1, description="part of the classes replaced by the null class, for guidance")


class ByText(Strict):
    """The hidden states of a CLIP text encoder, by cross-attention (Rombach 2022)."""

    kind: Literal["text"]
    text_encoder: str = Field(description="folder of a CLIPTextModel, or of a whole CLIP")
    tokenizer: str = Field(description="folder of its tokenizer")
    train: bool = Field(False, description="train the text encoder together with the network")
    rate: float = Field(1.0, gt=0, description="factor of the learning rate of a trained text encoder")
    drop: Part = Field(0.1, description="part of the captions emptied, for guidance (Ho & Salimans 2022)")


class ByEmbedding(Strict):
    """CLIP's embedding of the whole text or picture, frozen (Ramesh 2022). Prompts are texts either way."""

    kind: Literal["embedding"]
    clip: str = Field(description="folder of a CLIP with both towers")
    tokenizer: str | None = Field(None, description="folder of its tokenizer, where the CLIP's folder has none")
    of: Literal["text", "image"] = Field("text", description="what is embedded in training: caption or picture")
    into: Literal["token", "time"] = Field(
        "token", description="the one token that is attended to, or projected and added to the time embedding"
    )
    drop: Part = Field(0.1, description="part of the embeddings zeroed, for guidance")


Conditioning = Annotated[Unconditional | ByClass | ByText | ByEmbedding, Field(discriminator="kind")]


Scheduler = Annotated[dict[str, Any], AfterValidator(checked_scheduler)]
"""diffusers' scheduler_config.json in a recipe."""


class DiffusionRecipe(Strict):
    """A diffusion model of pixels or latents; `scheduler` says the noise process and what is predicted."""

    task: Literal["diffusion"]
    data: DataRecipe
    conditioning: Conditioning = Field(default_factory=Unconditional)
    network: dict[str, Any] = Field(
        description="config.json of a UNet2DConditionModel; channels, sample_size, cross_attention_dim and classes are "
        "filled in from the rest of the recipe where it leaves them out"
    )
    scheduler: Scheduler = Field(description="diffusers' scheduler_config.json of the finished model")
    objective: Objective = Field(default_factory=lambda: Objective.model_validate({}))
    time: Literal["embedding", "band"] = Field(
        "embedding", description="how the network is told the timestep: embedded, or as one more band of the picture"
    )
    vae: str | None = Field(None, description="folder of an autoencoder, for a model of latents; none: of pixels")
    cache: str | None = Field(
        None, description="folder where latents are kept once they are made; none: pictures are encoded at each step"
    )
    start: str | None = Field(None, description="model folder whose U-Net this run goes on from, in place of nothing")
    validation: DataRecipe | None = Field(None, description="held-out data: the loss at each noise level is logged")
    validation_rows: int = Field(128, ge=1)
    validation_levels: int = Field(8, ge=1, description="noise levels, spread evenly over time")
    samples: tuple[str, ...] = Field(
        (), description="prompts of the sample sheets; none: some classes, captions or empty prompts"
    )
    defaults: dict[str, Any] = Field(
        default_factory=dict, description="wordbrush.json: what the model wants where a request is silent"
    )

    @model_validator(mode="after")
    def _fits_itself(self) -> Self:
        if self.cache is not None and self.vae is None:
            raise ValueError("cache keeps latents, and a model of pixels has none; give vae, or leave out cache")
        return self
