"""`wordbrush generate`: sentences to pictures."""

from __future__ import annotations

import sys
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from io import BytesIO
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from wordbrush.cli import console, options
from wordbrush.cli.output import Output
from wordbrush.errors import RequestError, WordbrushError
from wordbrush.request import GenerationRequest
from wordbrush.request_fields import Lora

if TYPE_CHECKING:
    from PIL import Image

    from wordbrush.editing.plots import Grid
    from wordbrush.pipeline import Pipeline

Prompt = Annotated[
    str | None, typer.Argument(metavar="PROMPT", help="What to paint; - reads prompts from standard input, one a line.")
]
Prompts = Annotated[
    str | None,
    typer.Option("--prompts", metavar="FILE", help="Read prompts from a file (- is standard input), one a line."),
]
Count = Annotated[int, typer.Option("--count", "-n", help="Pictures for each prompt.")]
Target = Annotated[str, typer.Option("--output", "-o", help="A .png file, or a folder, which is made.")]
Matrix = Annotated[
    bool, typer.Option("--matrix", help="Paint every choice of the parts of PROMPT: a fox|pixel art|on blue.")
]
Sheet = Annotated[bool, typer.Option(help="With 2 to 400 pictures, also write them all on one.")]


# More pictures than this are neither kept in memory nor put on one sheet.
LARGEST_SHEET = 400

# So many prompts that were written out are said; all of them are in the pictures.
MOST_SHOWN = 8


@dataclass
class Painted:
    """What has been finished so far; the images only where a contact sheet can show them all."""

    files: list[Path] = field(default_factory=list)
    images: list[Image.Image] = field(default_factory=list)


def register(app: typer.Typer) -> None:
    """Adds the command."""
    example = 'wordbrush generate "a fox on a blue background" -n 4 --seed 7 -o out/'
    app.command(epilog=f"Example: {example}")(generate)


def generate(
    prompt: Prompt = None,
    prompts: Prompts = None,
    output: Target = "out",
    count: Count = 1,
    negative: options.Negative = "",
    seed: options.Seed = None,
    steps: options.Steps = None,
    guidance: options.Guidance = None,
    true_guidance: options.TrueGuidance = None,
    guidance_rescale: options.GuidanceRescale = None,
    guidance_interval: options.GuidanceInterval = None,
    sampler: options.Sampler = None,
    schedule: options.Schedule = None,
    timesteps: options.Timesteps = None,
    size: options.Size = None,
    hires: options.HiresScale = None,
    hires_upscaler: options.HiresUpscaler = None,
    hires_steps: options.HiresSteps = None,
    hires_strength: options.HiresStrength = None,
    upscale: options.Upscale = None,
    upscaler: options.Upscaler = None,
    lora: options.Loras = None,
    clip_skip: options.ClipSkip = None,
    emphasis: options.Emphasis = "original",
    variation_seed: options.VariationSeed = None,
    variation_strength: options.VariationStrength = None,
    blend_prompt: options.BlendPrompt = None,
    blend: options.Blend = None,
    clip_guidance: options.ClipGuidance = None,
    clip: options.Clip = None,
    preset: options.Preset = None,
    style: options.Styles = None,
    expand: options.Expand = None,
    expander: options.Expander = None,
    expand_with: options.ExpandWith = None,
    matrix: Matrix = False,
    model: options.Model = None,
    vae: options.Vae = None,
    text_encoder: options.TextEncoders = None,
    tokenizer: options.Tokenizer = None,
    variant: options.Variant = None,
    prediction: options.Prediction = None,
    device: options.Device = "auto",
    dtype: options.Dtype = "auto",
    offload: options.Offload = "auto",
    sheet: Sheet = True,
    as_json: options.AsJson = False,
) -> None:
    """Paint pictures from sentences.

    Every picture carries its full request; `wordbrush replay` paints it again.
    """
    texts = read_prompts(prompt, prompts)
    width, height = options.size(size)
    request = GenerationRequest(
        prompt=texts[0] if len(texts) == 1 else texts,
        negative_prompt=negative,
        count=count,
        seed=seed,
        steps=steps,
        guidance=guidance,
        true_guidance=true_guidance,
        guidance_rescale=guidance_rescale,
        guidance_interval=options.interval(guidance_interval),
        sampler=sampler,
        schedule=schedule,
        timesteps=options.timesteps(timesteps),
        width=width,
        height=height,
        hires=options.hires(hires, hires_upscaler, hires_steps, hires_strength),
        upscale=upscale,
        upscaler=upscaler,
        loras=tuple(Lora.parse(text) for text in lora or ()),
        clip_skip=clip_skip,
        emphasis=emphasis,
        variation_seed=variation_seed,
        variation_strength=variation_strength,
        blend_prompt=blend_prompt,
        blend=blend,
        clip_guidance=clip_guidance,
        clip=clip,
        preset=preset,
        styles=tuple(style or ()),
        expand=options.expansion(expand, expander, expand_with),
    )
    place = Output.parse(output)
    place.check()
    grids = matrix_of(request) if matrix else []
    pipe = open_pipeline(
        model, device, dtype, vae=vae, text_encoders=text_encoder, tokenizer=tokenizer, variant=variant,
        prediction=prediction, offload=offload,
    )  # fmt: skip
    if grids:
        from wordbrush.cli.plot import on_grids

        on_grids(grids, place, lambda _: pipe, as_json=as_json)
    else:
        run(pipe, request, place, sheet=sheet, as_json=as_json)


def matrix_of(request: GenerationRequest) -> list[Grid]:
    """The grid of a prompt matrix. Raises `RequestError` when the prompt is none."""
    from wordbrush.editing.plots import matrix
    from wordbrush.editing.setup import with_seed

    return [matrix(with_seed(request))]


def open_pipeline(
    model: str | None,
    device: str,
    dtype: str,
    *,
    vae: str | None = None,
    text_encoders: Sequence[str] | None = None,
    tokenizer: str | None = None,
    variant: str | None = None,
    prediction: str | None = None,
    offload: str = "auto",
) -> Pipeline:
    """Loads a model for a command of its own process, whose memory it may keep; says what a GPU holds of it."""
    from wordbrush.pipeline import load
    from wordbrush.runtime.memory import keep_freed_memory

    keep_freed_memory()
    pipe = load(
        model, device=device, dtype=dtype, vae=vae, text_encoders=tuple(text_encoders or ()), tokenizer=tokenizer,
        variant=variant, prediction=prediction, offload=offload,
    )  # fmt: skip
    if pipe.placement is not None:
        console.note(pipe.placement)
    return pipe


def run(pipe: Pipeline, request: GenerationRequest, place: Output, *, sheet: bool, as_json: bool) -> None:
    """Paints a request in batches, saves each picture as soon as its batch is decoded, and says what was made."""
    started = time.monotonic()
    request = pipe.fill(request)
    notes = pipe.notes(request)
    for text in (*_became(request), *notes):
        console.note(text)
    painted = Painted()
    try:
        paint(pipe, request, place, painted)
        whole = _write_sheet(painted, request, place) if sheet and len(painted.images) > 1 else None
    except KeyboardInterrupt:
        console.error(f"interrupted; {_finished(painted, request, place)}")
        raise typer.Exit(130) from None
    except WordbrushError:
        if painted.files:
            console.note(_finished(painted, request, place))
        raise
    if pipe.codec.note is not None:
        notes.append(pipe.codec.note)
        console.note(pipe.codec.note)
    seconds = time.monotonic() - started
    if as_json:
        console.json_result(_summary(pipe, request, painted, whole, notes, seconds))
        return
    for file in painted.files:
        console.result(str(file))
    if whole is not None:
        console.result(f"all together: {whole}")
    typer.echo(f"{_pictures(len(painted.files))} in {console.duration(seconds)}", err=True)


def paint(pipe: Pipeline, request: GenerationRequest, place: Output, painted: Painted) -> None:
    """Adds to `painted` batch by batch."""
    from wordbrush.metadata import PictureMetadata, png_bytes

    total = request.pictures
    batches = pipe.batches(request, pipe.batch_size(request))
    with console.progress(f"painting {_pictures(total)}", len(batches) * pipe.step_count(request)) as advance:
        for start, stop in batches:
            part = request.part(start, stop)
            for step in pipe.steps(part):
                latents = step.x
                advance()
            for index, image in enumerate(pipe.finish(part, latents)):
                single = part.part(index, index + 1)
                data = png_bytes(image, PictureMetadata(request=single, origin=pipe.origin_of(single)))
                with console.uninterrupted():
                    file = place.write_picture(data, single.prompts[0], single.seed or 0, start + index + 1, total)
                    painted.files.append(file)
                if total <= LARGEST_SHEET:
                    painted.images.append(image)


def read_prompts(argument: str | None, source: str | None) -> tuple[str, ...]:
    """The prompts of the argument, or of a file or standard input, one a line; empty lines are skipped.

    Raises:
        RequestError: there are none, or two sources are named.
    """
    if argument is None and source is None:
        raise RequestError("give a prompt, or --prompts FILE, or - to read prompts from standard input")
    if argument is not None and source is not None:
        raise RequestError("give either a prompt or --prompts, not both")
    if source is None and argument != "-":
        return (argument or "",)
    name = source or "-"
    try:
        data = sys.stdin.buffer.read() if name == "-" else Path(name).read_bytes()
        lines = data.decode("utf-8-sig").splitlines()
    except OSError as error:
        raise RequestError(f"the prompts in {name!r} cannot be read: {error.strerror or error}") from error
    except UnicodeDecodeError as error:
        raise RequestError(f"the prompts in {name!r} are not UTF-8 text: {error}") from error
    texts = tuple(line.strip() for line in lines if line.strip())
    if not texts:
        raise RequestError(f"there is no prompt in {'standard input' if name == '-' else repr(name)}")
    return texts


def _became(request: GenerationRequest) -> list[str]:
    """The prompts of a filled-in request that are not what was written, or the first few of them."""
    if request.written is None:
        return []
    found = [f"the prompt became: {text}" for text in dict.fromkeys(request.prompts)]
    return found if len(found) <= MOST_SHOWN else [*found[:MOST_SHOWN], f"and {len(found) - MOST_SHOWN} more"]


def _write_sheet(painted: Painted, request: GenerationRequest, place: Output) -> Path:
    from wordbrush.sheets import contact_sheet

    one_prompt = len(set(request.prompts)) == 1
    seeds = range(request.seed or 0, (request.seed or 0) + request.pictures)
    labels = [f"seed {seed}" if one_prompt else prompt for prompt, seed in zip(request.prompts, seeds, strict=True)]
    buffer = BytesIO()
    contact_sheet(painted.images, labels).save(buffer, format="PNG")
    return place.write_sheet(buffer.getvalue())


def _summary(
    pipe: Pipeline, request: GenerationRequest, painted: Painted, sheet: Path | None, notes: list[str], seconds: float
) -> dict[str, Any]:
    pictures = [
        {"file": str(file), "prompt": prompt, "seed": (request.seed or 0) + index}
        for index, (file, prompt) in enumerate(zip(painted.files, request.prompts, strict=True))
    ]
    return {
        "pictures": pictures,
        "contact_sheet": None if sheet is None else str(sheet),
        "notes": notes,
        "seconds": round(seconds, 3),
        **asdict(pipe.origin),
        "request": request.to_dict(),
    }


def _pictures(number: int) -> str:
    return "1 picture" if number == 1 else f"{number} pictures"


def _finished(painted: Painted, request: GenerationRequest, place: Output) -> str:
    done = len(painted.files)
    if done == 0:
        return f"none of {_pictures(request.pictures)} was finished"
    return f"{done} of {_pictures(request.pictures)} {'is' if done == 1 else 'are'} finished, in {place.folder}"
