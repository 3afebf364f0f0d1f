"""`wordbrush data`: look at what models are trained on."""

from __future__ import annotations

import io
import time
from pathlib import Path
from typing import Annotated, Literal

import typer

from wordbrush.cli import console
from wordbrush.cli.options import AsJson
from wordbrush.errors import RequestError


def preview(
    output: Annotated[Path, typer.Option("--output", "-o", help="The PNG to write.")] = Path("scenes.png"),
    split: Annotated[
        Literal["train", "test"], typer.Option("--split", help="Test scenes ask for what training never shows.")
    ] = "train",
    seed: Annotated[int, typer.Option("--seed", help="Which sequence of scenes.")] = 0,
    count: Annotated[int, typer.Option("--count", "-n", min=1, max=400, help="How many scenes.")] = 24,
    kind: Annotated[
        str | None, typer.Option("--kind", help="One sort of scene only, such as counting.", show_default="all")
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Writes a labelled contact sheet of scenes, and says how fast they are drawn."""
    from PIL import Image

    from wordbrush.data.scenes import box, caption, render, sample_scene
    from wordbrush.metadata import write_whole
    from wordbrush.sheets import contact_sheet

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
    buffer = io.BytesIO()
    contact_sheet([Image.fromarray(picture) for picture in pictures], texts).save(buffer, "PNG")
    write_whole(output, buffer.getvalue())
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


def register(app: typer.Typer) -> None:
    """Adds the command group."""
    group = console.command_group(app, "data", "Look at what models are trained on.")
    group.command(epilog="Example: wordbrush data preview --split test -n 24 -o scenes.png")(preview)
