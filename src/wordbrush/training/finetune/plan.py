"""From what a user asks for to a whole recipe: what suits a family of models is filled in here."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from pydantic import ValidationError

from wordbrush.errors import RequestError
from wordbrush.formats.inspect import inspect_model
from wordbrush.formats.open import locate_model
from wordbrush.training.data_recipe import data_recipe
from wordbrush.training.finetune.model import FAMILIES, not_trained
from wordbrush.training.open_data import open_dataset
from wordbrush.training.recipe import Recipe

Way = Literal["lora", "dreambooth", "inversion", "full"]


@dataclass(frozen=True, kw_only=True)
class Preset:
    """What suits a family and a way of training a handful of pictures.

    Attributes:
        batch: pictures of a step.
        ema: of the weights' running average; 0 for none.
    """

    steps: int
    batch: int
    rate: float
    ema: float = 0.0


# Published models: rates of kohya's and diffusers' guides. The embedded one: measured, see docs/finetuning.md.
PRESETS: dict[str, dict[Way, Preset]] = {
    "scenes": {
        "lora": Preset(steps=1000, batch=4, rate=2e-3, ema=0.99),
        "dreambooth": Preset(steps=500, batch=4, rate=3e-4, ema=0.99),
        "inversion": Preset(steps=400, batch=4, rate=2e-2),
        "full": Preset(steps=500, batch=4, rate=3e-4, ema=0.99),
    },
    "sd1": {
        "lora": Preset(steps=1500, batch=2, rate=1e-4),
        "dreambooth": Preset(steps=800, batch=1, rate=5e-6),
        "inversion": Preset(steps=2000, batch=4, rate=2e-3),
        "full": Preset(steps=2000, batch=4, rate=1e-5, ema=0.999),
    },
    "sdxl": {
        "lora": Preset(steps=1500, batch=1, rate=1e-4),
        "dreambooth": Preset(steps=800, batch=1, rate=2e-6),
        "inversion": Preset(steps=2000, batch=2, rate=1e-3),
        "full": Preset(steps=2000, batch=2, rate=4e-6, ema=0.999),
    },
    "flux": {
        "lora": Preset(steps=1500, batch=1, rate=1e-4),
        "dreambooth": Preset(steps=1000, batch=1, rate=1e-5),
        "inversion": Preset(steps=0, batch=0, rate=0.0),  # refused by the task, in words
        "full": Preset(steps=2000, batch=1, rate=1e-5),
    },
}
PRESETS["sd2"] = PRESETS["sd1"]


@dataclass(frozen=True, kw_only=True)
class Asked:
    """What a user said; None where nothing.

    Attributes:
        name: of the result's files.
        caption: of every picture, in place of any that there are.
        class_prompts: what class pictures show.
        class_pictures: how many are painted; 0 for none.
    """

    pictures: Path
    name: str
    model: str | None = None
    caption: str | None = None
    trigger: str | None = None
    size: int | None = None
    buckets: bool = False
    flip: bool = False
    steps: int | None = None
    batch: int | None = None
    rate: float | None = None
    seed: int = 0
    precision: str | None = None
    class_prompts: tuple[str, ...] = ()
    class_pictures: int | None = None
    prior_weight: float = 1.0
    samples: tuple[str, ...] = ()
    checkpointing: bool = False


def family_of(model: str | None) -> tuple[str, int]:
    """A key of `PRESETS`, and the side of the model's pictures in pixels; from its headers and configs alone.

    Raises:
        ModelFileError: there is no such model here. One on the hub is fetched first: `wordbrush models pull`.
        RequestError: it is of a kind that is not fine-tuned here.
    """
    place = locate_model(model, fetch=True)
    content = inspect_model(place)
    family, side = content.get("family"), content.get("native_size")
    if family not in FAMILIES:
        raise RequestError(not_trained(str(model), str(family)))
    if place.is_dir() and (place / "words.json").exists():
        return "scenes", int(side or 128)
    known = "flux" if family.startswith("flux") else family
    return known, int(side or {"sd1": 512, "sd2": 768}.get(known, 1024))


def plan(way: Way, asked: Asked, own: dict[str, Any]) -> Recipe:
    """The whole recipe.

    own: what belongs to the way alone, as a recipe has it under `train`.

    Raises:
        RequestError: pictures without captions, a value out of range, a model that cannot be trained.
        ModelFileError: there is no such model here.
    """
    family, side = family_of(asked.model)
    preset = PRESETS[family][way]
    steps, batch = asked.steps or preset.steps or 1, asked.batch or preset.batch or 1
    train: dict[str, Any] = {"task": way}
    if asked.model is not None:
        train["model"] = asked.model
    if asked.trigger is not None and way != "inversion":
        train["trigger"] = asked.trigger
    train["data"] = _data(way, asked, asked.size or side, own)
    prior = _prior(way, asked, family)
    if prior is not None:
        train["prior"] = prior
    if family == "flux":
        train["objective"] = {"times": {"kind": "logit_normal"}}
    if "adapter" in own:  # a small model learns shapes where it draws them, in its convolutions
        own = own | {"adapter": {"target": "conv" if family == "scenes" else "linear"} | own["adapter"]}
    if asked.samples:
        train["samples"] = list(asked.samples)
    rate = preset.rate if asked.rate is None else asked.rate
    values = {
        "name": asked.name,
        "seed": asked.seed,
        "steps": steps,
        "batch": batch,
        "precision": asked.precision or "bfloat16",
        "ema": preset.ema,
        "checkpoint_every": max(50, steps // 5),
        "sample_every": max(1, steps // 5) if asked.samples else 0,
        "gradient_checkpointing": asked.checkpointing,
        "optimiser": {"learning_rate": rate, "warmup": min(50, steps // 10), "final": 0.05},
        "train": train | own,
    }
    try:
        return Recipe.model_validate(values)
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(str(part) for part in first["loc"])
        raise RequestError(f"{where}: {first['msg']} (given: {first['input']!r:.80})") from error


def _data(way: Way, asked: Asked, side: int, own: dict[str, Any]) -> dict[str, Any]:
    """The table of the pictures, once it is sure that each has a caption."""
    data: dict[str, Any] = {"kind": "folder", "path": str(asked.pictures)}
    if asked.buckets:
        data["buckets"] = {"side": side, "step": 16 if side < 256 else 64}
    else:
        data["size"] = side
    if asked.flip:
        data["flip"] = 0.5
    caption = asked.caption
    if way == "inversion":
        word = own["placeholder"]
        if caption is None or word.lower() not in caption.lower():
            if caption is not None:
                raise RequestError(f"--caption {caption!r} does not hold the new word {word!r}")
            return data | {"text": "none"}  # the recipe's templates are the captions
        return data | {"caption": caption}
    found = open_dataset(data_recipe({"kind": "folder", "path": asked.pictures, "caption": caption}, "pictures"))
    captions = [found.caption(index) for index in range(len(found))]
    if not any(captions) or (asked.trigger is None and not all(captions)):
        if asked.trigger is None:
            raise RequestError(
                f"{asked.pictures} has pictures without a caption; give --caption 'a picture of a zorb', a --trigger "
                "word, or a .txt beside each picture"
            )
        return data | {"caption": f"a picture of {asked.trigger}"}
    if caption is not None:
        data["caption"] = caption
    if asked.trigger is not None and not all(asked.trigger.lower() in text.lower() for text in captions):
        data["captions"] = {"trigger": asked.trigger}
    return data


def _prior(way: Way, asked: Asked, family: str) -> dict[str, Any] | None:
    """The table of class pictures: asked for, or on the embedded model, whose world is known, scenes of all kinds."""
    if way == "inversion":
        if asked.class_prompts or asked.class_pictures:
            raise RequestError("textual inversion leaves the model as it is: class pictures have nothing to keep")
        return None
    prompts, count = asked.class_prompts, asked.class_pictures
    if prompts and count == 0:
        raise RequestError("--class-pictures 0 and a --class-prompt contradict each other; leave one of them out")
    if not prompts and (family != "scenes" or count == 0):
        if count:
            raise RequestError(f"--class-pictures {count} of what? give --class-prompt, such as 'a photo of a dog'")
        if way == "dreambooth":
            raise RequestError("dreambooth needs a --class-prompt: what the subject is one of, as 'a photo of a dog'")
        return None
    table: dict[str, Any] = {"pictures": count or (100 if prompts else 96), "weight": asked.prior_weight}
    return table | ({"prompts": list(prompts)} if prompts else {})
