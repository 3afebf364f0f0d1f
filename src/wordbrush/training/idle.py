"""What of a recipe will do nothing."""

from __future__ import annotations

from collections.abc import Iterator

from wordbrush.training.recipe import Recipe
from wordbrush.training.tasks.diffusion_recipe import DiffusionRecipe


def idle(recipe: Recipe) -> Iterator[str]:
    """A sentence each, of validation and samples: those never looked at, and those asked for where there are none."""
    train, fields = recipe.train, type(recipe.train).model_fields
    held_out, prompts = getattr(train, "validation", None), getattr(train, "samples", ())
    if held_out is not None and not recipe.validate_every:
        yield "train.validation is never looked at, since validate_every is 0"
    if held_out is None and recipe.validate_every:
        why = "the recipe has no train.validation" if "validation" in fields else f"the task {train.task} has none"
        yield f"nothing is validated every {recipe.validate_every} steps, since {why}"
    if prompts and not recipe.sample_every:
        yield "train.samples are never painted, since sample_every is 0"
    if recipe.sample_every and not prompts and not isinstance(train, DiffusionRecipe):  # which finds prompts itself
        why = "the recipe has no train.samples" if "samples" in fields else f"the task {train.task} has none"
        yield f"no samples are painted every {recipe.sample_every} steps, since {why}"
