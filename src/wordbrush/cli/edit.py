"""`wordbrush edit`: change a picture, repair a part of it, or extend it."""

from __future__ import annotations

from typing import Annotated, Any

import typer

from wordbrush.cli import generate, options
from wordbrush.cli.output import Output
from wordbrush.errors import RequestError
from wordbrush.request import GenerationRequest
from wordbrush.request_fields import MASK_FILL_NAMES, Lora

Picture = Annotated[str, typer.Argument(metavar="PICTURE", help="PNG, JPEG, WebP, AVIF, GIF, TIFF …")]
Prompt = Annotated[
    str, typer.Argument(metavar="PROMPT", help="What it shall show; for instruct-pix2pix, what to do to it.")
]
Strength = Annotated[
    float | None,
    typer.Option("--strength", help="0 keeps the picture, 1 forgets it.", show_default="the model's; 1 with --extend"),
]
Mask = Annotated[
    str | None,
    typer.Option(
        "--mask", metavar="FILE|alpha|X,Y,W,H",
        help="What may change: the white of a picture, what is transparent in PICTURE, or a box in its pixels.",
    ),
]
MaskGrow = Annotated[
    int | None, typer.Option("--mask-grow", metavar="PIXELS", help="Widen what may change; below 0, narrow it.")
]
MaskBlur = Annotated[
    float | None, typer.Option("--mask-blur", metavar="PIXELS", help="Soften the mask's edge.", show_default="hard")
]
MaskInvert = Annotated[bool, typer.Option("--mask-invert", help="Change what the mask keeps instead.")]
MaskFill = Annotated[
    str | None,
    typer.Option(
        "--mask-fill", help=f"What lies under the mask at first: {', '.join(MASK_FILL_NAMES)}.",
        show_default="original; blur with --extend",
    ),
]
OnlyMasked = Annotated[
    bool, typer.Option("--only-masked", help="Paint the masked part alone, at the model's full size, and put it back.")
]
Padding = Annotated[
    int | None,
    typer.Option(
        "--only-masked-padding", metavar="PIXELS", help="How much around the mask is seen then.", show_default="32"
    ),
]
Extend = Annotated[
    str | None,
    typer.Option("--extend", metavar="L,T,R,B", help="Pixels to add at left, top, right, bottom; one number for all."),
]
Size = Annotated[
    str | None, typer.Option("--size", metavar="WxH", help="Work at this size.", show_default="the picture's")
]


def register(app: typer.Typer) -> None:
    """Adds the command."""
    example = 'wordbrush edit scene.png "a cat on a blue background" --mask 16,40,48,48 --strength 1 -o cat.png'
    app.command(epilog=f"Example: {example}")(edit)


def edit(
    picture: Picture,
    prompt: Prompt,
    output: generate.Target = "out",
    strength: Strength = None,
    mask: Mask = None,
    mask_grow: MaskGrow = None,
    mask_blur: MaskBlur = None,
    mask_invert: MaskInvert = False,
    mask_fill: MaskFill = None,
    only_masked: OnlyMasked = False,
    only_masked_padding: Padding = None,
    extend: Extend = None,
    count: generate.Count = 1,
    negative: options.Negative = "",
    seed: options.Seed = None,
    steps: options.Steps = None,
    guidance: options.Guidance = None,
    true_guidance: options.TrueGuidance = None,
    image_guidance: options.ImageGuidance = None,
    guidance_rescale: options.GuidanceRescale = None,
    guidance_interval: options.GuidanceInterval = None,
    sampler: options.Sampler = None,
    schedule: options.Schedule = None,
    timesteps: options.Timesteps = None,
    size: Size = None,
    lora: options.Loras = None,
    clip_skip: options.ClipSkip = None,
    emphasis: options.Emphasis = "original",
    preset: options.Preset = None,
    style: options.Styles = None,
    expand: options.Expand = None,
    expander: options.Expander = None,
    expand_with: options.ExpandWith = None,
    upscale: options.Upscale = None,
    upscaler: options.Upscaler = None,
    model: options.Model = None,
    vae: options.Vae = None,
    text_encoder: options.TextEncoders = None,
    tokenizer: options.Tokenizer = None,
    variant: options.Variant = None,
    prediction: options.Prediction = None,
    device: options.Device = "auto",
    dtype: options.Dtype = "auto",
    offload: options.Offload = "auto",
    sheet: generate.Sheet = True,
    as_json: options.AsJson = False,
) -> None:
    """Change a picture as the prompt says: all of it, what a mask marks, or what is added at its sides.

    The result has the picture's size; outside the mask it has the picture's own pixels. It carries its full request.
    """
    named = GenerationRequest.model_fields.keys() - {"model", "vae"}  # those say how the model is opened
    fields = {name: value for name, value in locals().items() if name in named}  # a flag has the name of its field
    fields |= {"image": picture, "negative_prompt": negative, "loras": [Lora.parse(text) for text in lora or ()]}
    fields |= {"styles": tuple(style or ()), "expand": options.expansion(expand, expander, expand_with)}
    fields |= _understood(size, extend, guidance_interval, timesteps)
    request, place = GenerationRequest.from_dict(fields), Output.parse(output)
    place.check()
    pipe = generate.open_pipeline(
        model, device, dtype, vae=vae, text_encoders=text_encoder, tokenizer=tokenizer, variant=variant,
        prediction=prediction, offload=offload,
    )  # fmt: skip
    generate.run(pipe, request, place, sheet=sheet, as_json=as_json)


def _understood(size: str | None, extend: str | None, interval: str | None, timesteps: str | None) -> dict[str, Any]:
    """Fields of a request from flags that are texts of several numbers. Raises `RequestError`."""
    width, height = options.size(size)
    numbers = {"guidance_interval": options.interval(interval), "timesteps": options.timesteps(timesteps)}
    return {"width": width, "height": height, "extend": sides(extend), **numbers}


def sides(text: str | None) -> tuple[int, int, int, int] | None:
    """ "64,0,64,0" or "64" -> pixels at the left, top, right and bottom. Raises `RequestError`."""
    if text is None:
        return None
    try:
        numbers = [int(part) for part in text.split(",")]
        left, top, right, bottom = numbers * 4 if len(numbers) == 1 else numbers
    except ValueError as error:
        raise RequestError(f"--extend {text!r} is not LEFT,TOP,RIGHT,BOTTOM, such as 64,0,64,0") from error
    return left, top, right, bottom
