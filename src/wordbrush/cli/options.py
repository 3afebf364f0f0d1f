"""The options that commands share, as types for their signatures, and texts into values."""

from __future__ import annotations

import re
from typing import Annotated

import typer

from wordbrush.errors import RequestError
from wordbrush.request_fields import EMPHASIS_NAMES, SAMPLER_NAMES, SCHEDULE_NAMES

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
Device = Annotated[str, typer.Option("--device", help="auto, cpu, cuda, cuda:1, mps.")]
Dtype = Annotated[str, typer.Option("--dtype", help="auto, float32, bfloat16, float16.")]
Offload = Annotated[
    str, typer.Option("--offload", help="What waits on the CPU for its turn on a GPU: auto, none, model, layer.")
]
AsJson = Annotated[bool, typer.Option("--json", help="Print the result as JSON.")]


def size(text: str | None) -> tuple[int | None, int | None]:
    """ "128x96" -> (width, height). Raises `RequestError`."""
    if text is None:
        return None, None
    match = re.fullmatch(r"\s*(\d{1,5})\s*[x×X]\s*(\d{1,5})\s*", text)
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
