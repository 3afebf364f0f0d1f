"""A training run as data: one YAML file says everything that decides the weights."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, Literal, Self

import yaml
from pydantic import Field, ValidationError, model_validator

from wordbrush.errors import RequestError
from wordbrush.training.strict import Strict
from wordbrush.training.tasks.recipes import (
    AssembleRecipe,
    CLIPRecipe,
    DenoiserRecipe,
    ExpanderRecipe,
    InspectorRecipe,
    TokenizerRecipe,
    UpscalerRecipe,
    VAERecipe,
)


class Optimiser(Strict):
    """Linear warm-up, the full rate, and a cosine fall to `final` times it over the last `decay` of the run."""

    kind: Literal["adamw", "muon"] = Field(
        "adamw",
        description="adamw (Loshchilov 2019) or muon (Jordan 2024): hidden matrices orthogonalised, the rest by adamw",
    )
    learning_rate: float = Field(1e-3, gt=0)
    betas: tuple[float, float] = (0.9, 0.99)
    weight_decay: float = Field(0.0, ge=0)
    warmup: int = Field(200, ge=0, description="steps")
    decay: float = Field(1.0, gt=0, le=1, description="part of the run, at its end, over which the rate falls")
    final: float = Field(0.1, ge=0, le=1)
    clip: float = Field(1.0, gt=0, description="largest norm of the whole gradient")


Trained = Annotated[
    VAERecipe | CLIPRecipe | DenoiserRecipe | InspectorRecipe | ExpanderRecipe | UpscalerRecipe,
    Field(discriminator="task"),
]
Built = Annotated[TokenizerRecipe | AssembleRecipe, Field(discriminator="task")]


class Recipe(Strict):
    """Everything that decides the weights of one training run."""

    name: str
    seed: int = 0
    steps: int = Field(ge=1)
    batch: int = Field(ge=1)
    precision: Literal["float32", "bfloat16"] = "bfloat16"
    ema: float = Field(0.999, ge=0, lt=1, description="decay of the running average of the weights; 0 for none")
    checkpoint_every: int = Field(500, ge=1, description="steps")
    optimiser: Optimiser = Field(default_factory=lambda: Optimiser.model_validate({}))
    train: Trained
    result: dict[str, Any] = Field(
        default_factory=dict, description="what a finished run gave: time, hardware, figures; not read"
    )

    @model_validator(mode="after")
    def _window_holds_a_batch(self) -> Self:
        if isinstance(self.train, DenoiserRecipe) and self.train.window < self.batch:
            raise ValueError(f"train.window={self.train.window} is less than batch={self.batch}")
        return self


class BuildRecipe(Strict):
    """A step of making a model that trains nothing."""

    name: str
    build: Built


def read_recipe(path: Path) -> Recipe | BuildRecipe:
    """Reads and checks a recipe. Folders in it are relative to the working directory.

    Raises RequestError naming the file and the key that is wrong.
    """
    try:
        values = yaml.safe_load(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise RequestError(f"the recipe {path} cannot be read: {error.strerror}") from error
    except yaml.YAMLError as error:
        raise RequestError(f"the recipe {path} is not valid YAML: {' '.join(str(error).split())}") from error
    if not isinstance(values, dict):
        raise RequestError(f"the recipe {path} is not a table of keys and values")
    try:
        return (BuildRecipe if "build" in values else Recipe).model_validate(values)
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(str(part) for part in first["loc"]) or "the file"
        raise RequestError(
            f"the recipe {path} is wrong at {where}: {first['msg']} (given: {first['input']!r:.80})"
        ) from error
