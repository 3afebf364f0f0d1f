"""`wordbrush upscale`: picture files made larger."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Annotated

import typer

from wordbrush.cli import console, options
from wordbrush.cli.generate import Target
from wordbrush.errors import RequestError

Sources = Annotated[list[str], typer.Argument(metavar="PICTURE...", help="Picture files.")]
Scale = Annotated[float, typer.Option("--scale", help="How many times larger: more than 1, at most 8.")]


def register(app: typer.Typer) -> None:
    """Adds the command."""
    app.command(epilog="Example: wordbrush upscale fox.png --scale 4 -o fox-large.png")(upscale)


def upscale(
    pictures: Sources,
    output: Target = "out",
    scale: Scale = 4.0,
    upscaler: options.Upscaler = None,
    device: options.Device = "auto",
    dtype: Annotated[
        str, typer.Option("--dtype", help="Number format.", show_default="the one it was painted in")
    ] = "auto",
    as_json: options.AsJson = False,
) -> None:
    """Make pictures larger. What they say of themselves stays in them; one that Wordbrush painted can be replayed."""
    from wordbrush.cli.output import Output
    from wordbrush.editing.upscale import UpscalerShelf, find_upscaler
    from wordbrush.editing.upscaled_file import painted_dtype, upscaled_png
    from wordbrush.metadata import write_new, write_whole
    from wordbrush.pictures import open_picture
    from wordbrush.request import GenerationRequest
    from wordbrush.request_fields import SHIPPED_UPSCALER
    from wordbrush.runtime.policy import Runtime

    checked = GenerationRequest(prompt="", upscale=scale, upscaler=upscaler or SHIPPED_UPSCALER)
    name = checked.upscaler or SHIPPED_UPSCALER
    find_upscaler(name)
    place = Output.parse(output)
    if place.file is not None and len(pictures) > 1:
        raise RequestError(f"-o {output!r} is one file for {len(pictures)} pictures; give a folder")
    opened = {source: open_picture(source) for source in pictures} if len(pictures) == 1 else {}
    place.check()
    started, shelves, files = time.monotonic(), dict[str, UpscalerShelf](), list[Path]()
    with console.progress(f"enlarging {len(pictures)} pictures", len(pictures)) as advance:
        for source in pictures:
            picture = opened.get(source) or open_picture(source)
            chosen = (painted_dtype(picture) or dtype) if dtype == "auto" else dtype
            if chosen not in shelves:
                shelves[chosen] = UpscalerShelf(Runtime.choose(device, chosen))
            large = shelves[chosen].named(name).enlarge(picture, scale)
            data = upscaled_png(picture, large, scale, name)
            file = place.folder / f"{Path(source).stem}-x{scale:g}.png"
            files.append(write_new(file, data) if place.file is None else write_whole(place.file, data))
            advance()
    seconds = time.monotonic() - started
    if as_json:
        console.json_result({"pictures": [str(file) for file in files], "upscaler": name, "seconds": round(seconds, 3)})
        return
    for file in files:
        console.result(str(file))
    typer.echo(f"{len(files)} {'picture' if len(files) == 1 else 'pictures'} in {console.duration(seconds)}", err=True)
