"""A training run as data: one YAML file says everything that decides the weights."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any, Literal, Self

from pydantic import Field, ValidationError, model_validator

from wordbrush.errors import RequestError
from wordbrush.training.finetune.recipes import DreamBoothRecipe, FullRecipe, InversionRecipe, LoraRecipe
from wordbrush.training.mistakes import mistakes
from wordbrush.training.strict import Strict
from wordbrush.training.tasks.diffusion_recipe import DiffusionRecipe
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
from wordbrush.training.yaml_file import read_yaml


class Optimiser(Strict):
    """Linear warm-up, the full rate, and a fall to `final` times it over the last `decay` of the run."""

    kind: Literal["adamw", "adamw8bit", "muon"] = Field(
        "adamw",
        description="adamw (Loshchilov 2019), its 8-bit form (Dettmers 2022; bitsandbytes, on CUDA), or muon "
        "(Jordan 2024): hidden matrices orthogonalised, the rest by adamw",
    )
    schedule: Literal["cosine", "linear", "constant"] = Field(
        "cosine", description="how the rate falls; constant: not at all, and `decay` and `final` may not be given"
    )
    learning_rate: float = Field(1e-3, gt=0)
    betas: tuple[Annotated[float, Field(ge=0, lt=1)], Annotated[float, Field(ge=0, lt=1)]] = (0.9, 0.99)
    weight_decay: float = Field(0.0, ge=0)
    warmup: int = Field(200, ge=0, description="steps")
    decay: float = Field(1.0, gt=0, le=1, description="part of the run, at its end, over which the rate falls")
    final: float = Field(0.1, ge=0, le=1)
    clip: float = Field(1.0, gt=0, description="largest norm of the whole gradient")

    @model_validator(mode="after")
    def _constant_does_not_fall(self) -> Self:
        idle = sorted({"decay", "final"} & self.said())
        if self.schedule == "constant" and idle:
            raise ValueError(f"a constant rate does not fall: leave out {' and '.join(idle)}")
        return self


Trained = Annotated[
    VAERecipe
    | CLIPRecipe
    | DenoiserRecipe
    | InspectorRecipe
    | ExpanderRecipe
    | UpscalerRecipe
    | DiffusionRecipe
    | LoraRecipe
    | DreamBoothRecipe
    | InversionRecipe
    | FullRecipe,
    Field(discriminator="task"),
]
Built = Annotated[TokenizerRecipe | AssembleRecipe, Field(discriminator="task")]


class Recipe(Strict):
    """Everything that decides the weights of one training run."""

    name: str
    seed: int = 0
    steps: int = Field(ge=1)
    batch: int = Field(ge=1, description="rows of a step, over all processes and micro-batches together")
    accumulate: int = Field(1, ge=1, description="micro-batches of a step, whose gradients are added up")
    precision: Literal["float32", "bfloat16", "float16"] = Field(
        "bfloat16", description="of the sums, by autocast; weights stay float32. float16 on CUDA, with a scaled loss"
    )
    gradient_checkpointing: bool = Field(
        False, description="compute the networks' blocks again on the way back rather than keep what they computed"
    )
    compile: bool = Field(False, description="compile the networks, as --compile does")
    parallel: Literal["ddp", "fsdp2"] = Field(
        "ddp", description="where several processes train: whole networks in each, or a part of every weight in each"
    )
    ema: float = Field(0.999, ge=0, lt=1, description="decay of the running average of the weights; 0 for none")
    ema_lengths: tuple[Annotated[float, Field(gt=0, lt=0.289)], ...] = Field(
        (),
        description="relative widths of power-function averages (Karras 2024, EDM2) kept besides, as a rule 0.05 and "
        "0.1: `--ema-length` then exports the average of any length afterwards",
    )
    ema_snapshots: int = Field(32, ge=1, description="times in a run that the power-function averages are kept")
    checkpoint_every: int = Field(500, ge=1, description="steps")
    log_every: int = Field(50, ge=1, description="steps")
    validate_every: int = Field(0, ge=0, description="steps; 0 never")
    sample_every: int = Field(0, ge=0, description="steps between sheets of sample pictures; 0 never")
    trackers: tuple[str, ...] = Field(("tensorboard",), description="accelerate's names: tensorboard, wandb, mlflow …")
    optimiser: Optimiser = Field(default_factory=lambda: Optimiser.model_validate({}))
    train: Trained
    result: dict[str, Any] = Field(
        default_factory=dict, description="what a finished run gave: time, hardware, figures; not read"
    )

    @model_validator(mode="after")
    def _snapshots_are_of_something(self) -> Self:
        if "ema_snapshots" in self.said() and not self.ema_lengths:
            raise ValueError("ema_snapshots are of power-function averages; give ema_lengths too, or leave it out")
        return self

    @model_validator(mode="after")
    def _window_holds_a_batch(self) -> Self:
        if isinstance(self.train, DenoiserRecipe) and self.train.window < self.batch:
            raise ValueError(f"train.window={self.train.window} is less than batch={self.batch}")
        return self


class RecipeError(RequestError):
    """A recipe whose keys or values are wrong; `mistakes` says each."""

    def __init__(self, path: Path, mistakes: Sequence[str]) -> None:
        more = f" (and {len(mistakes) - 1} more: `wordbrush train --check` lists them)" if len(mistakes) > 1 else ""
        super().__init__(f"the recipe {path} is wrong: {mistakes[0]}{more}")
        self.mistakes = tuple(mistakes)


class BuildRecipe(Strict):
    """A step of making a model that trains nothing."""

    name: str
    build: Built


def read_recipe(path: Path) -> Recipe | BuildRecipe:
    """Reads and checks a recipe. Folders in it are relative to the working directory.

    Raises RequestError naming the file; RecipeError, which is one, also the keys that are wrong.
    """
    values = read_yaml(path)
    if not isinstance(values, dict):
        raise RequestError(f"the recipe {path} is not a table of keys and values")
    model = BuildRecipe if "build" in values else Recipe
    try:
        return model.model_validate(values)
    except ValidationError as error:
        raise RecipeError(path, mistakes(model, error)) from error
