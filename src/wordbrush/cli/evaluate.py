"""`wordbrush evaluate`: how good a model is."""

from __future__ import annotations

import io
import json
from pathlib import Path
from typing import Annotated

import typer

from wordbrush.cli import console, options

Folder = Annotated[
    Path | None, typer.Option("--output", "-o", metavar="FOLDER", help="Write composition.json and failures.png there.")
]
PerTask = Annotated[
    int | None,
    typer.Option("--count", "-n", metavar="N", help="Prompts for each of the six tasks.", show_default="110"),
]
InspectorFolder = Annotated[
    Path | None,
    typer.Option("--inspector", metavar="FOLDER", help="Another inspector.", show_default="the shipped one"),
]


def register(app: typer.Typer) -> None:
    """Adds the command group."""
    group = console.command_group(app, "evaluate", "Measure how good a model is.")
    group.command(epilog="Example: wordbrush evaluate composition --count 10 -o out/")(composition)


def composition(
    model: options.Model = None,
    count: PerTask = None,
    output: Folder = None,
    steps: options.Steps = None,
    guidance: options.Guidance = None,
    sampler: options.Sampler = None,
    schedule: options.Schedule = None,
    inspector: InspectorFolder = None,
    device: options.Device = "auto",
    dtype: options.Dtype = "auto",
    as_json: options.AsJson = False,
) -> None:
    """Does a model paint what the sentence says? GenEval's six tasks on combinations that were never trained on.

    Pictures are judged by a detector trained apart from the model; its own accuracy is printed first. Fréchet distance,
    the autoencoder's PSNR and CLIP retrieval follow.
    """
    from wordbrush.cli.generate import open_pipeline
    from wordbrush.cli.output import Output
    from wordbrush.evaluation import report
    from wordbrush.evaluation.composition import composition_request, measure
    from wordbrush.evaluation.inspector import TrainedInspector
    from wordbrush.evaluation.prompts import PER_TASK, composition_prompts
    from wordbrush.metadata import write_whole
    from wordbrush.request import GenerationRequest

    prompts = composition_prompts(PER_TASK if count is None else count)
    settings = GenerationRequest(prompt="", steps=steps, guidance=guidance, sampler=sampler, schedule=schedule)
    if output is not None:
        Output(folder=output, file=None).check()
    judge = TrainedInspector.load() if inspector is None else TrainedInspector.load(inspector)
    pipe = open_pipeline(model, device, dtype)
    request = pipe.fill(composition_request(prompts, settings))
    calls = -(-request.pictures // pipe.batch_size(request)) * pipe.step_count(request)
    with console.progress(f"painting {request.pictures} pictures", calls) as advance:
        result = measure(pipe, judge, prompts, request, advance)
    content = report.as_json(result)
    if output is not None:
        write_whole(output / "composition.json", json.dumps(content, ensure_ascii=False, indent=2).encode() + b"\n")
        sheet = report.failure_sheet(result)
        if sheet is not None:
            buffer = io.BytesIO()
            sheet.save(buffer, format="PNG")
            write_whole(output / "failures.png", buffer.getvalue())
    if as_json:
        console.json_result(content)
    else:
        console.result(report.table(result))
        if output is not None:
            console.result(
                f"written: {output / 'composition.json'}" + ("" if sheet is None else f", {output / 'failures.png'}")
            )
