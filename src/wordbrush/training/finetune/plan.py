"""From what a user asks for to a whole recipe: what suits a family of models is filled in here."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, NamedTuple

from pydantic import ValidationError

from wordbrush.data.dataset import BadExample
from wordbrush.errors import RequestError
from wordbrush.formats.checkpoint import open_checkpoint
from wordbrush.formats.inspect import inspect_model
from wordbrush.formats.json_file import read_json
from wordbrush.formats.open import locate_model
from wordbrush.formats.single_file.detect import detect
from wordbrush.training.data_check import check_data
from wordbrush.training.data_recipe import data_recipe
from wordbrush.training.finetune.export import check_names
from wordbrush.training.finetune.model import FAMILIES, not_trained, side_step
from wordbrush.training.finetune.recipes import FinetuneRecipe
from wordbrush.training.mistakes import mistakes
from wordbrush.training.open_data import open_dataset
from wordbrush.training.recipe import Recipe

Way = Literal["lora", "dreambooth", "inversion", "full"]

_LOOKED_AT = 50  # pictures that are read before class pictures are painted, which takes long


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


class Base(NamedTuple):
    """What a plan has to know of the model that is trained.

    Attributes:
        family: a key of `PRESETS`.
        side: of its pictures, in pixels.
        step: what sides must be multiples of, as far as its headers and configs say it.
    """

    family: str
    side: int
    step: int


def base_of(model: str | None) -> Base:
    """From a model's headers and configs alone.

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
        return Base("scenes", int(side or 128), _step(place))
    known = "flux" if family.startswith("flux") else family
    return Base(known, int(side or {"sd1": 512, "sd2": 768}.get(known, 1024)), _step(place))


def _step(place: Path) -> int:
    if place.is_dir():
        files = {part: place / part / "config.json" for part in ("unet", "vae")}
        configs: dict[str, Any] = {part: read_json(file) for part, file in files.items() if file.exists()}
    else:
        configs = {part: found.config for part, found in detect(open_checkpoint(place).header).components.items()}
    levels = {part: len(config.get("block_out_channels", ())) for part, config in configs.items()}
    return side_step(2 ** (levels["vae"] - 1), levels.get("unet")) if levels.get("vae") else 1


def plan(way: Way, asked: Asked, own: dict[str, Any]) -> Recipe:
    """The whole recipe.

    own: what belongs to the way alone, as a recipe has it under `train`.

    Raises:
        RequestError: pictures without captions or that cannot be read, a value out of range, a name that cannot be a
            file's, a model that cannot be trained.
        ModelFileError: there is no such model here.
    """
    family, side, step = base_of(asked.model)
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
        recipe = Recipe.model_validate(values)
    except ValidationError as error:
        raise RequestError("; ".join(mistakes(Recipe, error))) from error
    _check(recipe, step)
    return recipe


def _check(recipe: Recipe, step: int) -> None:
    """Refuses what the run would refuse only once class pictures are painted, or a `--plan` not at all."""
    train = recipe.train
    assert isinstance(train, FinetuneRecipe)
    check_names(recipe, train)
    bad = list(check_data(train.data, multiple=step, limit=_LOOKED_AT).bad.values())
    if bad:
        more = f" (and {len(bad) - 1} more)" if len(bad) > 1 else ""
        raise RequestError(f"{bad[0]}{more}; mend it, or take it out of the folder")


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
    try:
        found = open_dataset(data_recipe({"kind": "folder", "path": asked.pictures, "caption": caption}, "pictures"))
    except BadExample as error:
        empty = "" if asked.trigger is None else ", or an empty one for which the trigger stands in,"
        raise RequestError(f"{error}; give every picture a caption{empty} or --caption for all of them") from error
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
    if way == "dreambooth" and count == 0:
        raise RequestError(
            "--class-pictures 0: dreambooth keeps the class by pictures of it; give another number, with a "
            "--class-prompt such as 'a photo of a dog', or train without any by `wordbrush finetune full`"
        )
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
