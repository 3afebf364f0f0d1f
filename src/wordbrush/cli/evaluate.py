"""`wordbrush evaluate`: how good a model is."""

from __future__ import annotations

import io
import json
from pathlib import Path
from typing import Annotated

import typer

from wordbrush.cli import console, options
from wordbrush.cli.evaluate_finetune import EXAMPLE as FINETUNE_EXAMPLE
from wordbrush.cli.evaluate_finetune import finetune
from wordbrush.errors import RequestError

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
    group.command(epilog="Example: wordbrush evaluate steering --count 2 --clip-guidance 3")(steering)
    group.command(epilog="Example: wordbrush evaluate upscaler --count 50")(upscaler)
    group.command(epilog=FINETUNE_EXAMPLE)(finetune)


def composition(
    model: options.Model = None,
    count: PerTask = None,
    output: Folder = None,
    steps: options.Steps = None,
    guidance: options.Guidance = None,
    guidance_rescale: options.GuidanceRescale = None,
    guidance_interval: options.GuidanceInterval = None,
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
    settings = GenerationRequest(
        prompt="", steps=steps, guidance=guidance, guidance_rescale=guidance_rescale,
        guidance_interval=options.interval(guidance_interval), sampler=sampler, schedule=schedule,
    )  # fmt: skip
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


def steering(
    model: options.Model = None,
    count: Annotated[int, typer.Option("--count", "-n", metavar="N", help="Prompts for each of the six tasks.")] = 6,
    clip_guidance: Annotated[float, typer.Option("--clip-guidance", help="How strongly to steer.")] = 3.0,
    clip: options.Clip = None,
    steps: options.Steps = None,
    guidance: options.Guidance = None,
    sampler: options.Sampler = None,
    schedule: options.Schedule = None,
    device: options.Device = "auto",
    dtype: options.Dtype = "auto",
    as_json: options.AsJson = False,
) -> None:
    """Does CLIP guidance work? Similarity of picture and prompt in CLIP, and composition, without it and with it."""
    from dataclasses import asdict

    from wordbrush.cli.generate import open_pipeline
    from wordbrush.evaluation.composition import composition_request
    from wordbrush.evaluation.inspector import TrainedInspector
    from wordbrush.evaluation.prompts import composition_prompts
    from wordbrush.evaluation.steering import measure_steering, table
    from wordbrush.request import GenerationRequest

    if not clip_guidance > 0:
        raise RequestError(f"--clip-guidance {clip_guidance:g} steers nothing; give more than 0")
    prompts = composition_prompts(count)
    settings = GenerationRequest(
        prompt="", steps=steps, guidance=guidance, sampler=sampler, schedule=schedule, clip_guidance=clip_guidance,
        clip=clip,
    )  # fmt: skip
    inspector = TrainedInspector.load()
    pipe = open_pipeline(model, device, dtype)
    request = pipe.fill(composition_request(prompts, settings))
    calls = 2 * -(-request.pictures // pipe.batch_size(request)) * pipe.step_count(request)
    with console.progress(f"painting {request.pictures} pictures twice", calls) as advance:
        result = measure_steering(pipe, inspector, prompts, request, advance)
    if as_json:
        console.json_result(asdict(result))
    else:
        console.result(table(result))


def upscaler(
    name: Annotated[
        str, typer.Option("--upscaler", metavar="NAME", help="A name, file or folder.", show_default="the shipped ones")
    ] = "srresnet",
    scale: Annotated[
        list[int] | None, typer.Option("--scale", help="Repeatable.", min=2, max=8, show_default="2 and 4")
    ] = None,
    count: Annotated[int, typer.Option("--count", "-n", metavar="N", help="Scenes.", min=1)] = 200,
    device: options.Device = "auto",
    dtype: options.Dtype = "auto",
    as_json: options.AsJson = False,
) -> None:
    """How close does an upscaler come? PSNR on scenes of the test split, beside that of bicubic interpolation."""
    from dataclasses import asdict

    from wordbrush.editing.upscale import UpscalerShelf
    from wordbrush.evaluation.upscaling import measure
    from wordbrush.runtime.policy import Runtime

    tested = UpscalerShelf(Runtime.choose(device, dtype)).named(name)
    scales = scale or [2, 4]
    with console.progress(f"enlarging {len(scales) * count} scenes", len(scales) * count) as advance:
        found = [measure(tested, each, count, advance) for each in scales]
    if as_json:
        console.json_result({"upscaler": name, "results": [asdict(each) | {"gain": each.gain} for each in found]})
        return
    heading = ("scale", "scenes", "bicubic dB", f"{name} dB", "gain dB", "nearer than bicubic")
    rows = [
        (f"x{each.scale}", str(each.scenes), f"{each.bicubic:.2f}", f"{each.upscaler:.2f}", f"{each.gain:+.2f}",
         f"{each.won:.1%}")
        for each in found
    ]  # fmt: skip
    for line in console.table(heading, rows):
        console.result(line)
