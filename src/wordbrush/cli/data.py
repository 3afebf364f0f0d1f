"""`wordbrush data`: look at what models are trained on."""

from __future__ import annotations

import io
import time
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from wordbrush.cli import console
from wordbrush.cli.options import AsJson
from wordbrush.cli.subject import EXAMPLE as SUBJECT_EXAMPLE
from wordbrush.cli.subject import subject
from wordbrush.errors import RequestError

if TYPE_CHECKING:
    from PIL import Image

Data = Annotated[
    Path, typer.Argument(metavar="RECIPE_OR_FOLDER", help="A recipe, a table of data in YAML, a folder, or shards.")
]
# Ten things that are told apart at 28 by 28 pixels.
TEN = "dog,cat,car,airplane,tree,apple,banana,fish,house,umbrella"


def preview(
    data: Annotated[
        Path | None,
        typer.Argument(
            metavar="[RECIPE_OR_FOLDER]",
            help="Pictures as a run gets them, cut and captioned, of a recipe, a folder or shards.",
            show_default="scenes",
        ),
    ] = None,
    output: Annotated[
        Path | None, typer.Option("--output", "-o", help="The PNG to write.", show_default="scenes.png or data.png")
    ] = None,
    split: Annotated[
        Literal["train", "test"] | None,
        typer.Option("--split", help="Of scenes: test ones ask for what training never shows.", show_default="train"),
    ] = None,
    seed: Annotated[int, typer.Option("--seed", help="Which sequence.")] = 0,
    count: Annotated[int, typer.Option("--count", "-n", min=1, max=400, help="How many pictures.")] = 24,
    kind: Annotated[
        str | None, typer.Option("--kind", help="One sort of scene only, such as counting.", show_default="all")
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Writes a labelled contact sheet of scenes, or of the data that a recipe trains on, and says how fast they are."""
    if data is None:
        _preview_scenes(output or Path("scenes.png"), split or "train", seed, count, kind, as_json)
        return
    if split is not None or kind is not None:
        raise RequestError("--split and --kind are of scenes; what is read of other data their recipe says")
    _preview_data(data, output or Path("data.png"), seed, count, as_json)


def _preview_data(data: Path, output: Path, seed: int, count: int, as_json: bool) -> None:
    from PIL import Image

    from wordbrush.data.pixels import to_pixels
    from wordbrush.training.data_recipe import read_data_recipe
    from wordbrush.training.feed import Feed

    recipe = read_data_recipe(data)
    if recipe.size is None and recipe.buckets is None and data.suffix not in (".yaml", ".yml"):
        recipe = recipe.model_copy(update={"size": 128})
    feed = Feed(recipe, seed, 1)
    started = time.perf_counter()
    rows = [feed.rows(step, range(1)) for step in range(count)]
    speed = count / (time.perf_counter() - started)
    pictures = [Image.fromarray(to_pixels(row.images)[0]) for row in rows]
    texts = [row.captions[0] or row.keys[0] for row in rows]
    _write_sheet(output, pictures, texts)
    if as_json:
        found = [
            {
                "key": row.keys[0],
                "caption": row.captions[0],
                "label": None if row.labels is None else int(row.labels[0]),
                "size": list(picture.size),
            }
            for row, picture in zip(rows, pictures, strict=True)
        ]
        console.json_result({"sheet": str(output), "pictures_per_second": round(speed, 1), "pictures": found})
        return
    console.result(f"{output}: {count} pictures; {speed:.0f} pictures per second on one core")


def _write_sheet(output: Path, pictures: Sequence[Image.Image], texts: Sequence[str]) -> None:
    from wordbrush.metadata import write_whole
    from wordbrush.sheets import contact_sheet

    buffer = io.BytesIO()
    contact_sheet(pictures, texts).save(buffer, "PNG")
    write_whole(output, buffer.getvalue())


def _preview_scenes(
    output: Path, split: Literal["train", "test"], seed: int, count: int, kind: str | None, as_json: bool
) -> None:
    from PIL import Image

    from wordbrush.data.scenes import box, caption, render, sample_scene

    try:
        scenes = [sample_scene(split, seed, index, kind) for index in range(count)]
    except ValueError as error:
        raise RequestError(str(error)) from error
    pictures = [render(scene) for scene in scenes]  # also fills the cache of sprites
    started, timed = time.perf_counter(), 0
    while time.perf_counter() - started < 1.0:
        render(sample_scene(split, seed, count + timed, kind))
        timed += 1
    speed = timed / (time.perf_counter() - started)
    texts = [caption(scene) for scene in scenes]
    _write_sheet(output, [Image.fromarray(picture) for picture in pictures], texts)
    if as_json:
        rows = [
            {
                "caption": text,
                "objects": [
                    {"name": item.kind.noun, "colour": item.colour, "box": box(item)} for item in scene.objects
                ],
                "background": scene.background,
                "pattern": scene.pattern,
                "style": scene.style,
                "relation": scene.relation,
            }
            for text, scene in zip(texts, scenes, strict=True)
        ]
        console.json_result({"sheet": str(output), "scenes_per_second_per_core": round(speed), "scenes": rows})
        return
    console.result(f"{output}: {count} scenes; {speed:.0f} scenes per second on one core")


def check(
    data: Data,
    multiple: Annotated[
        int, typer.Option("--multiple", min=1, help="What sides must be multiples of: 8 for the usual autoencoders.")
    ] = 1,
    as_json: AsJson = False,
) -> None:
    """Reads all data that a run would: counts, sizes, buckets, captions, speed. Bad files are named: exit code 2."""
    from contextlib import ExitStack

    from wordbrush.training.data_check import check_data
    from wordbrush.training.data_recipe import read_data_recipe

    recipe = read_data_recipe(data)
    with ExitStack() as stack:
        bar: list[console.Advance] = []

        def advance(total: int) -> None:
            if not bar:
                bar.append(stack.enter_context(console.progress(f"reading {total} pictures", total)))
            bar[0]()

        report = check_data(recipe, multiple=multiple, advance=advance)
    if as_json:
        console.json_result(report.to_dict())
    else:
        for line in report.lines():
            console.result(line)
    if report.bad:
        raise typer.Exit(2)


def export(
    layout: Annotated[
        Literal["folder", "webdataset", "idx", "cifar10", "celeba", "coco"],
        typer.Option("--format", help="The layout, as it is published; celeba is of the faces among the emoji."),
    ],
    output: Annotated[Path, typer.Option("--output", "-o", help="A new folder.")],
    count: Annotated[
        int, typer.Option("--count", "-n", min=1, help="Pictures; layouts with test ones get a fifth more.")
    ] = 1000,
    seed: Annotated[int, typer.Option("--seed", help="Which sequence.")] = 0,
    things: Annotated[
        str | None,
        typer.Option(
            "--things",
            metavar="NOUN,NOUN",
            help="Single things as classes, in place of scenes with captions.",
            show_default="ten for idx and cifar10",
        ),
    ] = None,
) -> None:
    """Writes scenes as files in the layout of a published data set, so that its recipes can be tried without it."""
    from wordbrush.data.export import BOTH_SPLITS, WRITERS, Source, new_folder
    from wordbrush.data.faces import FaceDataset
    from wordbrush.data.scene_data import SceneChoice, SceneDataset

    if layout == "celeba":
        if things is not None:
            raise RequestError("--things are classes of scenes; celeba is of faces")
        source = Source(train=FaceDataset(count, seed), test=FaceDataset(count, seed + 1), count=count)
    else:
        named = things or (TEN if layout in ("idx", "cifar10") else "")
        nouns = tuple(noun.strip() for noun in named.split(",") if noun.strip())
        if layout == "cifar10" and count < 5:
            raise RequestError("cifar10 has five batches: give at least 5 pictures")
        if layout == "idx" and len(nouns) > 256:
            raise RequestError(f"the labels of idx are bytes: at most 256 classes, not {len(nouns)}")
        train, test = (SceneChoice(split=split, seed=seed, things=nouns) for split in ("train", "test"))
        source = Source(train=SceneDataset(train), test=SceneDataset(test), count=count)
    total = count + (source.tests if layout in BOTH_SPLITS else 0)
    with new_folder(output) as folder, console.progress(f"writing {total} pictures", total) as advance:
        WRITERS[layout](folder, source, advance)
    console.result(f"{output}: {total} pictures as {layout}")


def register(app: typer.Typer) -> None:
    """Adds the command group."""
    group = console.command_group(app, "data", "Look at what models are trained on, check it, and write some.")
    group.command(epilog="Example: wordbrush data preview --split test -n 24 -o scenes.png")(preview)
    group.command(epilog=SUBJECT_EXAMPLE)(subject)
    group.command(epilog="Example: wordbrush data check my/pictures")(check)
    group.command(epilog="Example: wordbrush data export --format webdataset -n 2000 -o shards")(export)
