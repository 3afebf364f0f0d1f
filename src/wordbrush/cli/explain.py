"""`wordbrush explain`: how a picture comes about, as a film strip and a token table."""

from __future__ import annotations

from dataclasses import asdict
from io import BytesIO
from typing import TYPE_CHECKING, Annotated

import typer

from wordbrush.cli import console, options
from wordbrush.cli.generate import open_pipeline
from wordbrush.errors import RequestError
from wordbrush.request import GenerationRequest

if TYPE_CHECKING:
    from wordbrush.conditioning.report import TokenRow
    from wordbrush.pipeline import Pipeline
    from wordbrush.sheets import Frame

Prompt = Annotated[str, typer.Argument(help="What to paint.")]
Target = Annotated[str, typer.Option("--output", "-o", help="A .png file for the film strip.")]
Columns = Annotated[int, typer.Option("--columns", min=2, help="How many moments the strip shows.")]


def register(app: typer.Typer) -> None:
    """Adds the command."""
    app.command(epilog='Example: wordbrush explain "a fox on a blue background" --seed 7 -o explain.png')(explain)


def explain(
    prompt: Prompt,
    output: Target = "explain.png",
    columns: Columns = 8,
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
    """
    from wordbrush.cli.output import Output
    from wordbrush.conditioning.prompt.program import PromptProgram
    from wordbrush.metadata import write_whole
    from wordbrush.sheets import film_strip

    place = Output.parse(output)
    if place.file is None:
        raise RequestError(f"-o {output!r} is not a .png file")
    width, height = options.size(size)
    request = GenerationRequest(
        prompt=prompt, negative_prompt=negative, seed=seed, steps=steps, guidance=guidance, sampler=sampler,
        schedule=schedule, width=width, height=height,
    )  # fmt: skip
    place.check()
    pipe = open_pipeline(model, device, dtype)
    request = pipe.fill(request)
    texts = PromptProgram.parse(prompt).texts(pipe.step_count(request))
    notes, tables = pipe.notes(request), {text: pipe.conditioner.table(text) for text in texts}
    reports = {text: pipe.conditioner.report(text) for text in texts}
    buffer = BytesIO()
    film_strip(_frames(pipe, request, columns)).save(buffer, format="PNG")
    file = write_whole(place.file, buffer.getvalue())
    if as_json:
        rows = [{"prompt": text} | asdict(row) for text, table in tables.items() for row in table]
        told = [{"prompt": text} | asdict(report) for text, report in reports.items()]
        fields = request.to_dict()
        console.json_result({"file": str(file), "tokens": rows, "reports": told, "notes": notes, "request": fields})
        return
    for text in notes:
        console.note(text)
    for text, table in tables.items():
        for line in [repr(text)] * (len(tables) > 1) + token_lines(table):
            console.result(line)
        if reports[text].chunks > 1:
            found = reports[text]
            console.result(f"{found.pieces} pieces, read in {found.chunks} chunks of {found.limit}")
    console.result(str(file))


def _frames(pipe: Pipeline, request: GenerationRequest, columns: int) -> list[Frame]:
    """The start, moments evenly chosen, and the picture; each shows x and the x0 that was predicted from it."""
    from wordbrush.sheets import Frame

    run = pipe.begin(request)
    total = len(run.times) - 1
    shown = {round(index * (total - 1) / max(columns - 2, 1)) for index in range(columns - 1)}
    frames, x, t = [], run.x, run.times[0]
    with console.progress("painting 1 picture", total) as advance:
        for step in run:
            if step.index in shown:
                label = f"timestep {run.plan.timestep(t):.0f}"
                frames.append(Frame(label=label, noisy=pipe.decode(x)[0], clean=pipe.decode(step.x0)[0]))
            x, t = step.x, step.t
            advance()
    return [*frames, Frame(label="the picture", noisy=pipe.finish(request, x)[0], clean=None)]


def token_lines(table: list[TokenRow]) -> list[str]:
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
