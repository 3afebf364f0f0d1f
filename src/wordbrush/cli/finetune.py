"""`wordbrush finetune`: teach a model something new from a folder of pictures; the same command again resumes."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from wordbrush.cli import console, options
from wordbrush.cli.train import stoppable
from wordbrush.errors import ModelFileError, RequestError

if TYPE_CHECKING:
    from wordbrush.training.finetune.plan import Asked, Way
    from wordbrush.training.recipe import Recipe

Pictures = Annotated[Path, typer.Argument(help="A folder of pictures; a .txt beside a picture is its caption.")]
Output = Annotated[
    Path, typer.Option("--output", "-o", metavar="FOLDER", help="For the result, the checkpoint and recipe.yaml.")
]
Caption = Annotated[
    str | None,
    typer.Option("--caption", help="What every picture shows: 'a picture of a zorb'.", show_default="theirs"),
]
Trigger = Annotated[
    str | None, typer.Option("--trigger", metavar="WORD", help="A new word, put before captions that lack it.")
]
Name = Annotated[str | None, typer.Option("--name", help="Of the result's files.", show_default="the folder's")]
Steps = Annotated[int | None, typer.Option("--steps", min=1, help="Of training.", show_default="by the model")]
Batch = Annotated[int | None, typer.Option("--batch", min=1, help="Pictures a step.", show_default="by the model")]
Rate = Annotated[float | None, typer.Option("--rate", min=0.0, help="Learning rate.", show_default="by the model")]
Size = Annotated[int | None, typer.Option("--size", min=8, help="Side in pixels.", show_default="the model's")]
Buckets = Annotated[
    bool, typer.Option("--buckets", help="Keep the pictures' shapes, in sizes of about that area, in place of squares.")
]
Flip = Annotated[bool, typer.Option("--flip", help="Mirror half of the pictures.")]
Seed = Annotated[int, typer.Option("--seed", help="Of the noise and the order of pictures.")]
Precision = Annotated[
    Literal["float32", "bfloat16", "float16"] | None,
    typer.Option("--precision", help="Of the sums.", show_default="what the device is fast in"),
]
ClassPrompts = Annotated[
    list[str] | None,
    typer.Option(
        "--class-prompt", help="What the model is to keep: pictures of it are painted first; repeatable.",
        show_default="scenes, on the embedded model",
    ),
]
ClassPictures = Annotated[
    int | None,
    typer.Option("--class-pictures", min=0, help="How many of those; 0: none.", show_default="96 or 100"),
]
PriorWeight = Annotated[float, typer.Option("--prior-weight", min=0.0, help="Of their loss.")]
TextEncoder = Annotated[
    bool, typer.Option("--text-encoder/--no-text-encoder", help="Train CLIP as well, at half the rate.")
]
Rank = Annotated[int, typer.Option("--rank", min=1, help="Of the low-rank changes.")]
Alpha = Annotated[
    float | None, typer.Option("--alpha", min=0.0, help="They count alpha/rank.", show_default="the rank")
]
Target = Annotated[
    Literal["attention", "feed_forward", "linear", "conv"] | None,
    typer.Option(
        "--target", help="Layers that learn; each choice has those before it too.",
        show_default="linear; conv on the embedded model",
    ),
]
Dropout = Annotated[float, typer.Option("--dropout", min=0.0, max=0.99, help="Of the adapters' input.")]
Dora = Annotated[bool, typer.Option("--dora", help="Learn the lengths of weights apart (DoRA).")]
RankStabilised = Annotated[bool, typer.Option("--rank-stabilised", help="alpha/√rank, for high ranks (rsLoRA).")]
Samples = Annotated[
    list[str] | None, typer.Option("--sample", metavar="PROMPT", help="Painted five times on the way; repeatable.")
]
Checkpointing = Annotated[
    bool, typer.Option("--gradient-checkpointing", help="Less memory for more time: for large models on one GPU.")
]
Minutes = Annotated[
    float | None,
    typer.Option("--minutes", min=0.0, help="Stop after this long; the same command goes on.", show_default="no limit"),
]
Plan = Annotated[
    bool, typer.Option("--plan", help="Write recipe.yaml and stop, to change it and `wordbrush train` it.")
]

LORA_EXAMPLE = "Example: wordbrush finetune lora zorb --trigger zorb -o runs/zorb"
DREAMBOOTH_EXAMPLE = "Example: wordbrush finetune dreambooth zorb --trigger zorb -o runs/zorb"
INVERSION_EXAMPLE = "Example: wordbrush finetune inversion zorb --word zorb-toy -o runs/zorb"
FULL_EXAMPLE = "Example: wordbrush finetune full zorb --trigger zorb -o runs/zorb"


def lora(
    pictures: Pictures,
    output: Output,
    model: options.Model = None,
    caption: Caption = None,
    trigger: Trigger = None,
    name: Name = None,
    rank: Rank = 16,
    alpha: Alpha = None,
    target: Target = None,
    dropout: Dropout = 0.0,
    dora: Dora = False,
    rank_stabilised: RankStabilised = False,
    text_encoder: TextEncoder = False,
    steps: Steps = None,
    batch: Batch = None,
    rate: Rate = None,
    size: Size = None,
    buckets: Buckets = False,
    flip: Flip = False,
    class_prompt: ClassPrompts = None,
    class_pictures: ClassPictures = None,
    prior_weight: PriorWeight = 1.0,
    sample: Samples = None,
    seed: Seed = 0,
    precision: Precision = None,
    gradient_checkpointing: Checkpointing = False,
    minutes: Minutes = None,
    device: options.Device = "auto",
    plan: Plan = False,
) -> None:
    """Trains a LoRA: a small file that any tool puts onto the model, at any strength.

    Five to twenty pictures are enough; for some to try with: wordbrush data subject zorb -o zorb. Kohya's and PEFT's
    layouts are written both.
    """
    adapter = _adapter(rank, alpha, target, dropout, dora=dora, rank_stabilised=rank_stabilised)
    asked = _asked(locals())
    _carry_out("lora", asked, {"adapter": adapter, "text_encoder": text_encoder}, output, minutes, device, plan)


def dreambooth(
    pictures: Pictures,
    output: Output,
    model: options.Model = None,
    caption: Caption = None,
    trigger: Trigger = None,
    name: Name = None,
    class_prompt: ClassPrompts = None,
    class_pictures: ClassPictures = None,
    prior_weight: PriorWeight = 1.0,
    as_lora: Annotated[bool, typer.Option("--lora", help="Train a LoRA in place of all weights.")] = False,
    rank: Rank = 16,
    target: Target = None,
    text_encoder: TextEncoder = False,
    steps: Steps = None,
    batch: Batch = None,
    rate: Rate = None,
    size: Size = None,
    buckets: Buckets = False,
    flip: Flip = False,
    sample: Samples = None,
    seed: Seed = 0,
    precision: Precision = None,
    gradient_checkpointing: Checkpointing = False,
    minutes: Minutes = None,
    device: options.Device = "auto",
    plan: Plan = False,
) -> None:
    """Binds a rare word to a subject, and keeps the class that it belongs to (DreamBooth, with prior preservation).

    The model paints pictures of the class before training. The result is a whole model, or a LoRA.
    """
    own: dict[str, Any] = {"text_encoder": text_encoder}
    if as_lora:
        own["adapter"] = _adapter(rank, None, target, 0.0, dora=False, rank_stabilised=False)
    _carry_out("dreambooth", _asked(locals()), own, output, minutes, device, plan)


def inversion(
    pictures: Pictures,
    output: Output,
    word: Annotated[str, typer.Option("--word", help="The new word, as prompts will write it.")],
    model: options.Model = None,
    initial: Annotated[str, typer.Option("--initial", help="Known words that its vectors begin as.")] = "robot",
    vectors: Annotated[int, typer.Option("--vectors", min=1, max=32, help="Token places that it takes.")] = 4,
    caption: Caption = None,
    name: Name = None,
    steps: Steps = None,
    batch: Batch = None,
    rate: Rate = None,
    size: Size = None,
    buckets: Buckets = False,
    flip: Flip = False,
    sample: Samples = None,
    seed: Seed = 0,
    precision: Precision = None,
    gradient_checkpointing: Checkpointing = False,
    minutes: Minutes = None,
    device: options.Device = "auto",
    plan: Plan = False,
) -> None:
    """Learns the vectors of a new word, and nothing else (textual inversion): a file of a few kilobytes.

    Written as diffusers and as the web UIs read it. It cannot teach what the model could not paint.
    """
    own = {"placeholder": word, "initial": initial, "vectors": vectors}
    _carry_out("inversion", _asked(locals()), own, output, minutes, device, plan)


def full(
    pictures: Pictures,
    output: Output,
    model: options.Model = None,
    caption: Caption = None,
    trigger: Trigger = None,
    name: Name = None,
    text_encoder: TextEncoder = False,
    steps: Steps = None,
    batch: Batch = None,
    rate: Rate = None,
    size: Size = None,
    buckets: Buckets = False,
    flip: Flip = False,
    class_prompt: ClassPrompts = None,
    class_pictures: ClassPictures = None,
    prior_weight: PriorWeight = 1.0,
    sample: Samples = None,
    seed: Seed = 0,
    precision: Precision = None,
    gradient_checkpointing: Checkpointing = False,
    minutes: Minutes = None,
    device: options.Device = "auto",
    plan: Plan = False,
) -> None:
    """Trains all weights of the network that denoises; the result is a model folder that diffusers opens, too."""
    _carry_out("full", _asked(locals()), {"text_encoder": text_encoder}, output, minutes, device, plan)


def _adapter(
    rank: int, alpha: float | None, target: str | None, dropout: float, *, dora: bool, rank_stabilised: bool
) -> dict[str, Any]:
    """The recipe's table, without what it would say by default."""
    given = {"rank": rank, "alpha": alpha, "target": target}
    given |= {"dropout": dropout or None, "dora": dora or None, "rank_stabilised": rank_stabilised or None}
    return {key: value for key, value in given.items() if value is not None}


def _asked(given: dict[str, Any]) -> Asked:
    """The options that all ways share, of a command's own."""
    from wordbrush.training.finetune.plan import Asked

    return Asked(
        pictures=given["pictures"],
        name=given["name"] or given["output"].absolute().name,
        model=given["model"],
        caption=given["caption"],
        trigger=given.get("trigger"),
        size=given["size"],
        buckets=given["buckets"],
        flip=given["flip"],
        steps=given["steps"],
        batch=given["batch"],
        rate=given["rate"],
        seed=given["seed"],
        precision=given["precision"] or _fast_precision(given["device"]),
        class_prompts=tuple(given.get("class_prompt") or ()),
        class_pictures=given.get("class_pictures"),
        prior_weight=given.get("prior_weight", 1.0),
        samples=tuple(given["sample"] or ()),
        checkpointing=given["gradient_checkpointing"],
    )


def _fast_precision(device: str) -> str:
    """What the device multiplies fast, as a recipe names it; float16 needs a scaled loss, which only CUDA has here."""
    from wordbrush.runtime.policy import Runtime

    runtime = Runtime.choose(device)
    half_elsewhere = runtime.dtype_name == "float16" and runtime.device.type != "cuda"
    return "float32" if half_elsewhere else runtime.dtype_name


def _carry_out(
    way: Way,
    asked: Asked,
    own: dict[str, Any],
    output: Path,
    minutes: float | None,
    device: str,
    only_plan: bool,
) -> None:
    from wordbrush.training.finetune.plan import plan
    from wordbrush.training.run import RunOptions, check_folder, run_recipe

    check_folder(output)
    recipe = plan(way, asked, own)
    path = output / "recipe.yaml"
    fresh = not path.exists()
    if fresh:
        _write(recipe, path)
    else:
        _check_same(recipe, path)
    if only_plan:
        console.result(str(path))
        return
    chosen = RunOptions(device=device, until=None if minutes is None else 60 * minutes)
    try:
        stoppable(
            lambda stop: run_recipe(recipe, output, chosen, stop=stop, log=lambda line: typer.echo(line, err=True))
        )
    except (RequestError, ModelFileError):
        if fresh and not (output / "checkpoint.pt").exists():  # it would stand in the way of other flags
            path.unlink(missing_ok=True)
        raise


def _check_same(recipe: Recipe, path: Path) -> None:
    """Raises RequestError for a recipe that somebody has changed, or made with other flags: that one stays."""
    from wordbrush.training.recipe import read_recipe

    if read_recipe(path) != recipe:
        raise RequestError(
            f"{path} is there already and says something else than these flags; train it with `wordbrush train {path} "
            f"-o {path.parent}`, give --output another folder, or delete it"
        )


def _write(recipe: Recipe, path: Path) -> None:
    import yaml

    from wordbrush.metadata import write_whole

    values = recipe.model_dump(mode="json", exclude_defaults=True)
    text = yaml.safe_dump(values, sort_keys=False, allow_unicode=True)
    write_whole(path, f"# wordbrush train {path} -o {path.parent}\n{text}".encode())


def register(app: typer.Typer) -> None:
    """Adds the command group."""
    group = console.command_group(app, "finetune", "Teach a model something new from a folder of pictures.")
    group.command(epilog=LORA_EXAMPLE)(lora)
    group.command(epilog=DREAMBOOTH_EXAMPLE)(dreambooth)
    group.command(epilog=INVERSION_EXAMPLE)(inversion)
    group.command(epilog=FULL_EXAMPLE)(full)
