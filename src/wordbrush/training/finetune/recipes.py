"""What a recipe says of a fine-tuning, under `train:`."""

from __future__ import annotations

from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from wordbrush.training.adapters import AdapterConfig
from wordbrush.training.data_recipe import DataRecipe
from wordbrush.training.objectives import Objective
from wordbrush.training.strict import Strict

TEMPLATES = ("a picture of {}", "a photo of {}", "a drawing of {}", "an image of {}", "{}")
"""Captions of pictures without any, for a placeholder (Gal 2022, appendix; in the words of the embedded model)."""


class Prior(Strict):
    """Prior preservation (Ruiz 2023, eq. 2): the model is also trained on pictures of its own, so as not to forget."""

    prompts: tuple[Annotated[str, Field(min_length=1)], ...] = Field(
        (),
        description="what they show: the subject's class, such as 'a dog', or several things in turn; not given: "
        "scenes of all kinds, which are what the embedded model knows",
    )
    pictures: int = Field(96, ge=1, description="painted once, before training, into the run's folder")
    weight: float = Field(1.0, gt=0, description="of their loss beside that of the subject's pictures")
    steps: int | None = Field(None, ge=1, description="of the sampler; not given: the model's own number")
    guidance: float | None = Field(None, ge=0, description="not given: the model's own")


class FinetuneRecipe(Strict):
    """What all ways of fine-tuning have in common.

    What the network predicts and the noise process are the model's own; FLUX is told a guidance of 1.
    """

    model: str | None = Field(None, description="as `wordbrush generate -m` takes it; not given: the embedded model")
    data: DataRecipe
    trigger: str | None = Field(
        None, min_length=1, description="the new word in the captions, noted in the files for those who will use them"
    )
    objective: Objective = Field(default_factory=lambda: Objective.model_validate({}))
    shift: float | None = Field(
        None, gt=0, description="of a flow's times towards noise; not given: the model's, by the size of the picture"
    )
    prediction: Literal["epsilon", "v", "sample", "flow"] | None = Field(
        None, description="what the network predicts, where the model's file says it wrong"
    )
    clip_skip: int | None = Field(None, ge=1, description="which layer of CLIP is read, from the end; SD 1 and 2 only")
    posterior: Literal["sample", "mean"] = Field(
        "sample", description="latents are drawn anew from the autoencoder's distribution each time, or are its mean"
    )
    prior: Prior | None = None
    samples: tuple[str, ...] = Field((), description="prompts painted while training, with `sample_every`")
    validation: DataRecipe | None = Field(
        None, description="pictures held out of training, whose loss is measured with `validate_every`"
    )


class _TrainsText(FinetuneRecipe):
    text_encoder: bool = Field(
        False, description="train CLIP too, both of SDXL's; T5 stays as it is. Without it, its states are computed once"
    )
    text_rate: float = Field(0.5, gt=0, description="factor of the learning rate for text encoders")

    @model_validator(mode="after")
    def _rate_of_something(self) -> Self:
        if "text_rate" in self.said() and not self.text_encoder:
            raise ValueError("text_rate is of a text encoder that is not trained; set text_encoder: true, too")
        return self


class LoraRecipe(_TrainsText):
    """Low-rank adapters beside the layers of a model that stays as it is (Hu 2021)."""

    task: Literal["lora"]
    adapter: AdapterConfig = Field(default_factory=lambda: AdapterConfig.model_validate({}))
    text_adapter: AdapterConfig | None = Field(
        None, description="of text encoders; not given: as `adapter`, on the layers of their kind"
    )

    @model_validator(mode="after")
    def _adapter_of_something(self) -> Self:
        if self.text_adapter is not None and not self.text_encoder:
            raise ValueError("text_adapter is of a text encoder that is not trained; set text_encoder: true, too")
        return self


class DreamBoothRecipe(_TrainsText):
    """A rare word bound to a subject, with the class it belongs to preserved (Ruiz 2023)."""

    task: Literal["dreambooth"]
    prior: Prior
    adapter: AdapterConfig | None = Field(None, description="train a LoRA in place of all weights")


class FullRecipe(_TrainsText):
    """All weights of the network that denoises."""

    task: Literal["full"]


class InversionRecipe(FinetuneRecipe):
    """Textual inversion (Gal 2022): a new word whose vectors are all that is trained."""

    task: Literal["inversion"]
    placeholder: str = Field(
        min_length=1, pattern=r"^\S+$", description="the new word, as captions and prompts will write it"
    )
    initial: str = Field("thing", min_length=1, description="words whose vectors the new ones begin as")
    vectors: int = Field(1, ge=1, le=32, description="token places that the word takes")
    norm: float = Field(
        1.0, gt=0, description="longest a vector may become, in lengths of the vocabulary's longest vector"
    )
    templates: tuple[str, ...] = Field(
        TEMPLATES, min_length=1, description="captions of pictures that have none, {} being the word; drawn in turn"
    )

    @model_validator(mode="after")
    def _templates_hold_the_word(self) -> Self:
        for template in self.templates:
            if "{}" not in template:
                raise ValueError(f"the template {template!r} has no place {{}} for the word")
        return self


Finetune = LoraRecipe | DreamBoothRecipe | InversionRecipe | FullRecipe
"""Any of them."""
