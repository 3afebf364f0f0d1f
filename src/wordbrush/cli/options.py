"""The options that commands share, as types for their signatures, and texts into values."""

from __future__ import annotations

import re
from typing import Annotated

import typer

from wordbrush.errors import RequestError
from wordbrush.request_fields import EMPHASIS_NAMES, SAMPLER_NAMES, SCHEDULE_NAMES, Expansion, Hires

Model = Annotated[
    str | None,
    typer.Option(
        "--model", "-m", help="A file, a diffusers folder, a library name or a hub id.",
        show_default="the embedded model",
    ),
]
Vae = Annotated[str | None, typer.Option("--vae", metavar="NAME", help="A VAE in place of the model's own.")]
TextEncoders = Annotated[
    list[str] | None,
    typer.Option("--text-encoder", metavar="NAME", help="A text encoder that a single-file model lacks; repeatable."),
]
Tokenizer = Annotated[
    str | None, typer.Option("--tokenizer", metavar="FOLDER", help="The tokenizer of a single-file model.")
]
Variant = Annotated[
    str | None, typer.Option("--variant", metavar="NAME", help="Which weights of a diffusers folder: fp16, say.")
]
Prediction = Annotated[
    str | None,
    typer.Option("--prediction", metavar="TYPE", help="epsilon, v, sample or flow, where a file says it wrong."),
]
Loras = Annotated[
    list[str] | None,
    typer.Option("--lora", metavar="NAME:STRENGTH", help="May be repeated; NAME:UNET:TEXT gives two strengths."),
]
ClipSkip = Annotated[
    int | None,
    typer.Option("--clip-skip", metavar="N", help="Read the N-th last layer of CLIP; 1 is the last.",
                 show_default="the model's"),
]
Emphasis = Annotated[
    str, typer.Option("--emphasis", help=f"How (weights:1.2) act: one of {', '.join(EMPHASIS_NAMES)}.")
]
Upscale = Annotated[
    float | None, typer.Option("--upscale", metavar="X", help="Make the pictures so many times larger, such as 4.")
]
Upscaler = Annotated[
    str | None,
    typer.Option(
        "--upscaler", metavar="NAME", help="srresnet, lanczos, bicubic, nearest, or a file or library name.",
        show_default="srresnet",
    ),
]
HiresScale = Annotated[
    float | None,
    typer.Option("--hires", metavar="X", help="High-resolution fix: paint, enlarge so many times, paint on that."),
]
HiresUpscaler = Annotated[
    str | None, typer.Option("--hires-upscaler", metavar="NAME", help="What enlarges.", show_default="latent")
]
HiresSteps = Annotated[
    int | None, typer.Option("--hires-steps", metavar="N", help="Steps on that.", show_default="as many as before")
]
HiresStrength = Annotated[
    float | None, typer.Option("--hires-strength", help="How much noise they begin with.", show_default="0.7")
]
Seed = Annotated[
    int | None, typer.Option("--seed", help="Picture i draws its noise from seed + i.", show_default="drawn")
]
Steps = Annotated[int | None, typer.Option("--steps", help="How many times x is refined.", show_default="the model's")]
Guidance = Annotated[
    float | None,
    typer.Option("--guidance", help="How strongly to follow the prompt; 1 is off.", show_default="the model's"),
]
TrueGuidance = Annotated[
    float | None,
    typer.Option(
        "--true-guidance", help="Classifier-free guidance of a model that is told its guidance; 1 is off.",
        show_default="the model's",
    ),
]
ImageGuidance = Annotated[
    float | None,
    typer.Option(
        "--image-guidance", help="How closely instruct-pix2pix keeps to the picture; 1 adds nothing.",
        show_default="the model's",
    ),
]
GuidanceRescale = Annotated[
    float | None,
    typer.Option(
        "--guidance-rescale", help="0 to 1: take back contrast that guidance adds.", show_default="the model's"
    ),
]
GuidanceInterval = Annotated[
    str | None,
    typer.Option(
        "--guidance-interval", metavar="LOW,HIGH", help="Guide only at these t; 1 is noise.", show_default="0,1"
    ),
]
Sampler = Annotated[
    str | None, typer.Option("--sampler", help=f"One of {', '.join(SAMPLER_NAMES)}.", show_default="the model's")
]
Schedule = Annotated[
    str | None, typer.Option("--schedule", help=f"One of {', '.join(SCHEDULE_NAMES)}.", show_default="the model's")
]
Timesteps = Annotated[
    str | None, typer.Option("--timesteps", metavar="N,N,…", help="Training timesteps, falling, instead of a schedule.")
]
Negative = Annotated[str, typer.Option("--negative", help="What the pictures should not show.", show_default=False)]
Size = Annotated[str | None, typer.Option("--size", metavar="WxH", help="In pixels.", show_default="the model's")]
VariationSeed = Annotated[
    int | None,
    typer.Option("--variation-seed", metavar="N", help="Turn picture i's noise towards that of seed N + i.",
                 show_default="drawn, if needed"),
]
VariationStrength = Annotated[
    float | None, typer.Option("--variation-strength", help="How far: 0 is the seed's noise, 1 the other's.")
]
BlendPrompt = Annotated[
    str | None, typer.Option("--blend-prompt", metavar="PROMPT", help="A second text, to paint between the two.")
]
Blend = Annotated[float | None, typer.Option("--blend", help="0 is the prompt, 1 the second text.")]
ClipGuidance = Annotated[
    float | None,
    typer.Option("--clip-guidance", help="Steer by CLIP's gradient so strongly; 3 is usual.", show_default="off"),
]
Clip = Annotated[
    str | None,
    typer.Option("--clip", metavar="FOLDER", help="The CLIP that steers.", show_default="the model's own"),
]
Device = Annotated[str, typer.Option("--device", help="auto, cpu, cuda, cuda:1, mps.")]
Dtype = Annotated[str, typer.Option("--dtype", help="auto, float32, bfloat16, float16.")]
Offload = Annotated[
    str, typer.Option("--offload", help="What waits on the CPU for its turn on a GPU: auto, none, model, layer.")
]
Preset = Annotated[
    str | None,
    typer.Option("--preset", metavar="NAME", help="fast, quality, creative or one of your own; options given win."),
]
Styles = Annotated[
    list[str] | None,
    typer.Option("--style", metavar="NAME", help="A template around the prompt; repeatable; see `prompts list`."),
]
Expand = Annotated[
    bool | None,
    typer.Option("--expand/--no-expand", help="Let a language model continue the prompt.", show_default="the preset's"),
]
Expander = Annotated[
    str | None,
    typer.Option(
        "--expander", metavar="FOLDER", help="A GPT-2 that does; implies --expand.", show_default="the model's"
    ),
]
ExpandWith = Annotated[
    str | None,
    typer.Option(
        "--expand-with", metavar="NAME=N,…",
        help="How: temperature, top_k, top_p, tokens, repetition, no_repeat; implies --expand.",
    ),
]
AsJson = Annotated[bool, typer.Option("--json", help="Print the result as JSON.")]


def hires(scale: float | None, upscaler: str | None, steps: int | None, strength: float | None) -> Hires | None:
    """The request's `hires`, of what was given. Raises `RequestError` when there is no scale for the rest."""
    given = {"upscaler": upscaler, "steps": steps, "strength": strength}
    named = {name: value for name, value in given.items() if value is not None}
    if scale is None:
        if named:
            raise RequestError(f"--hires-{next(iter(named))} has no effect without --hires; give that as well")
        return None
    return Hires.from_dict({"scale": scale, **named})


def size(text: str | None) -> tuple[int | None, int | None]:
    """ "128x96" -> (width, height). Raises `RequestError`."""
    if text is None:
        return None, None
    match = re.fullmatch(r"\s*(\d{1,9})\s*[x×X]\s*(\d{1,9})\s*", text)
    if match is None:
        raise RequestError(f"--size {text!r} is not WIDTHxHEIGHT, such as 128x128")
    return int(match[1]), int(match[2])


def timesteps(text: str | None) -> tuple[int, ...] | None:
    """ "999,749,499" -> the numbers. Raises `RequestError`."""
    if text is None:
        return None
    try:
        return tuple(int(part) for part in text.split(","))
    except ValueError as error:
        raise RequestError(f"--timesteps {text!r} is not a list of whole numbers, such as 999,749,499,249") from error


def interval(text: str | None) -> tuple[float, float] | None:
    """ "0.2,0.8" -> the numbers. Raises `RequestError`."""
    if text is None:
        return None
    try:
        low, high = (float(part) for part in text.split(","))
    except ValueError as error:
        raise RequestError(f"--guidance-interval {text!r} is not LOW,HIGH, such as 0.2,0.8") from error
    return low, high


def expansion(expand: bool | None, expander: str | None, settings: str | None) -> Expansion | bool | None:
    """`--expand`, `--expander` and `--expand-with` as one. Raises `RequestError`."""
    if expander is None and settings is None:
        return expand
    if expand is False:
        raise RequestError("--no-expand contradicts --expander and --expand-with; leave it or them out")
    fields: dict[str, object] = {} if expander is None else {"model": expander}
    for part in (settings or "").split(",") if settings is not None else ():
        name, equals, number = (piece.strip() for piece in part.partition("="))
        if not equals or name == "model":
            raise RequestError(f"--expand-with {settings!r} is not NAME=NUMBER,…, such as temperature=1.4,tokens=20")
        fields[name] = number
    return Expansion.from_dict(fields)
