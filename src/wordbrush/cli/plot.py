"""`wordbrush plot`: one prompt under many settings, on a labelled sheet."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from io import BytesIO
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from wordbrush.cli import console, options
from wordbrush.cli.generate import open_pipeline
from wordbrush.cli.output import Output
from wordbrush.cli.singly import notes_of, paint_singly
from wordbrush.request import GenerationRequest
from wordbrush.request_fields import Lora

if TYPE_CHECKING:
    from PIL import Image

    from wordbrush.editing.plots import Grid
    from wordbrush.pipeline import Pipeline

AXIS = "NAME=VALUES"


def register(app: typer.Typer) -> None:
    """Adds the command."""
    example = 'wordbrush plot "a fox on a blue background" --x guidance=1,4,8 --y steps=5-20:5 -o plot.png'
    app.command(epilog=f"Example: {example}")(plot)


def plot(
    prompt: Annotated[str, typer.Argument(metavar="PROMPT", help="What to paint.")],
    x: Annotated[str, typer.Option("--x", metavar=AXIS, help="Along the columns: guidance=1,4,8 or steps=5-20:5.")],
    y: Annotated[str | None, typer.Option("--y", metavar=AXIS, help="Along the rows.")] = None,
    z: Annotated[str | None, typer.Option("--z", metavar=AXIS, help="A grid for each: sampler=euler,ddim.")] = None,
    output: Annotated[
        str, typer.Option("--output", "-o", help="A .png file for the sheet, or a folder for all pictures and it.")
    ] = "out",
    negative: options.Negative = "",
    seed: options.Seed = None,
    steps: options.Steps = None,
    guidance: options.Guidance = None,
    guidance_rescale: options.GuidanceRescale = None,
    sampler: options.Sampler = None,
    schedule: options.Schedule = None,
    size: options.Size = None,
    lora: options.Loras = None,
    preset: options.Preset = None,
    style: options.Styles = None,
    expand: options.Expand = None,
    model: options.Model = None,
    device: options.Device = "auto",
    dtype: options.Dtype = "auto",
    as_json: options.AsJson = False,
) -> None:
    """Paint one prompt under many settings, all with one seed, on a sheet whose sides say what differs.

    An axis may be any number or name of a request, and also size, style, lora, model, and replace=fox,cat, which puts
    each text in the place of the first.
    """
    from wordbrush.editing.plots import Axis, plotted
    from wordbrush.editing.setup import with_seed

    width, height = options.size(size)
    request = with_seed(
        GenerationRequest(
            prompt=prompt, negative_prompt=negative, seed=seed, steps=steps, guidance=guidance,
            guidance_rescale=guidance_rescale, sampler=sampler, schedule=schedule, width=width, height=height,
            loras=tuple(Lora.parse(text) for text in lora or ()), preset=preset, styles=tuple(style or ()),
            expand=expand,
        )
    )  # fmt: skip
    across, down, deep = (None if text is None else Axis.parse(text) for text in (x, y, z))
    assert across is not None
    grids = plotted(request, across, down, deep)
    place = Output.parse(output)
    place.check()
    on_grids(grids, place, lambda named: open_pipeline(named or model, device, dtype), as_json=as_json)


def on_grids(grids: Sequence[Grid], place: Output, opened: Callable[[str | None], Pipeline], *, as_json: bool) -> None:
    """Paints the grids' requests and writes the sheet; into a folder, the pictures as well.

    opened: the pipeline of a model's name; None is the one that a request without a model is for.
    """
    from wordbrush.sheets import labelled_grid, stacked

    cells = [request for grid in grids for row in grid.requests for request in row]
    images: dict[int, Image.Image] = {}
    files: dict[int, Path] = {}
    # model after model, so that only one is open at a time
    for name in dict.fromkeys(request.model for request in cells):
        mine = {index: request for index, request in enumerate(cells) if request.model == name}
        unbound = {index: request.model_copy(update={"model": None}) for index, request in mine.items()}
        _paint(opened(name), unbound, place, images, files)
    flat = iter(images[index] for index in range(len(cells)))
    sheets = [
        labelled_grid([[next(flat) for _ in row] for row in grid.requests], grid.columns, grid.rows, grid.title)
        for grid in grids
    ]
    buffer = BytesIO()
    stacked(sheets).save(buffer, format="PNG")
    sheet = place.write_plot(buffer.getvalue())
    if as_json:
        listed = [str(files[index]) for index in sorted(files)]
        console.json_result({"plot": str(sheet), "pictures": listed, "count": len(cells)})
    else:
        console.result(str(sheet))


def _paint(
    pipe: Pipeline, requests: dict[int, GenerationRequest], place: Output, images: dict[int, Image.Image],
    files: dict[int, Path],
) -> None:  # fmt: skip
    from wordbrush.metadata import PictureMetadata, png_bytes

    filled = {index: pipe.fill(request) for index, request in requests.items()}
    for note in notes_of(pipe, list(filled.values())):
        console.note(note)
    painted = paint_singly(pipe, list(filled.values()), f"painting {len(filled)} pictures")
    for index, (request, image) in zip(filled, painted, strict=True):
        images[index] = image
        if place.file is None:
            data = png_bytes(image, PictureMetadata(request=request, origin=pipe.origin_of(request)))
            files[index] = place.write_picture(data, request.prompts[0], request.seed or 0, index + 1, len(requests))
