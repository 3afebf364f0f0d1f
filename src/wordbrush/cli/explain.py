"""`wordbrush explain`: how a picture comes about, as a film strip and a token table."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from io import BytesIO
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from wordbrush.cli import console, options
from wordbrush.cli.generate import open_pipeline
from wordbrush.errors import RequestError
from wordbrush.request import GenerationRequest

if TYPE_CHECKING:
    from PIL import Image

    from wordbrush.cli.output import Output
    from wordbrush.conditioning.report import TokenRow
    from wordbrush.evaluation.explaining import Explained

Prompt = Annotated[str, typer.Argument(help="What to paint.")]
Target = Annotated[str, typer.Option("--output", "-o", help="A .png file for the film strip.")]
Columns = Annotated[int, typer.Option("--columns", min=2, help="How many moments the strip shows.")]
Words = Annotated[
    str | None,
    typer.Option("--words", metavar="FILE", help="Also write where each word acts in the picture, to this .png file."),
]


def register(app: typer.Typer) -> None:
    """Adds the command."""
    example = 'wordbrush explain "a fox on a blue background" --seed 7 -o explain.png --words words.png'
    app.command(epilog=f"Example: {example}")(explain)


def explain(
    prompt: Prompt,
    output: Target = "explain.png",
    columns: Columns = 8,
    words: Words = None,
    negative: options.Negative = "",
    seed: options.Seed = None,
    steps: options.Steps = None,
    guidance: options.Guidance = None,
    sampler: options.Sampler = None,
    schedule: options.Schedule = None,
    size: options.Size = None,
    model: options.Model = None,
    device: options.Device = "auto",
    dtype: options.Dtype = "auto",
    as_json: options.AsJson = False,
) -> None:
    """Show how a picture comes about: what the model reads, and the way from noise to picture.

    A prompt that changes on the way has a table for each of its texts.

    The strip shows x at some timesteps, decoded, and below it the clean picture that the network then predicted.
    --words shows, for every word of the prompt, which parts of the picture looked at it: the cross-attention of the
    network, averaged over its heads, layers and steps.
    """
    from wordbrush.evaluation.explaining import explain as explained_by

    places = [_png(output, "-o")] + ([] if words is None else [_png(words, "--words")])
    width, height = options.size(size)
    request = GenerationRequest(
        prompt=prompt, negative_prompt=negative, seed=seed, steps=steps, guidance=guidance, sampler=sampler,
        schedule=schedule, width=width, height=height,
    )  # fmt: skip
    for place in places:
        place.check()
    pipe = open_pipeline(model, device, dtype)
    request = pipe.fill(request)
    with console.progress("painting 1 picture", pipe.step_count(request)) as advance:
        found = explained_by(pipe, request, columns, lambda _: advance())
    files = [_write(place, sheet) for place, sheet in zip(places, _sheets(found), strict=False)]
    if as_json:
        content = found.output() | {"file": str(files[0]), "request": found.request.to_dict()}
        console.json_result(content | ({} if words is None else {"words_file": str(files[1])}))
        return
    for text in found.notes:
        console.note(text)
    for reading in found.readings:
        for line in [repr(reading.text)] * (len(found.readings) > 1) + token_lines(reading.table):
            console.result(line)
        if reading.report.chunks > 1:
            told = reading.report
            console.result(f"{told.pieces} pieces, read in {told.chunks} chunks of {told.limit}")
    for file in files:
        console.result(str(file))


def _png(output: str, flag: str) -> Output:
    from wordbrush.cli.output import Output

    place = Output.parse(output)
    if place.file is None:
        raise RequestError(f"{flag} {output!r} is not a .png file")
    return place


def _sheets(found: Explained) -> Iterator[Image.Image]:
    """The film strip; then, made only if it is asked for, where each word acts."""
    from wordbrush.sheets import contact_sheet, film_strip

    yield film_strip(found.frames)
    if not found.words:
        raise RequestError("--words has nothing to show: this model reads no words, or the prompt has none")
    labels = ["the picture", *(word.word for word in found.words)]
    yield contact_sheet([found.picture, *(word.overlay for word in found.words)], labels)


def _write(place: Output, sheet: Image.Image) -> Path:
    from wordbrush.metadata import write_whole

    assert place.file is not None
    buffer = BytesIO()
    sheet.save(buffer, format="PNG")
    return write_whole(place.file, buffer.getvalue())


def token_lines(table: Sequence[TokenRow]) -> list[str]:
    """The token table as text in columns; weights are one of them if the prompt has any."""
    said = {True: "yes", False: "never", None: ""}
    rows: list[tuple[str, ...]] = [("position", "id", "piece", "word", "weight", "seen in training")]
    for row in table:
        place = "cut" if row.position is None else str(row.position)
        index = "" if row.id is None else str(row.id)
        rows.append((place, index, row.text, row.word or f"({row.role})", f"{row.weight:.4g}", said[row.seen]))
    if all(row.weight == 1.0 for row in table):
        rows = [(*row[:4], row[5]) for row in rows]
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    return ["  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows]
