"""`wordbrush vary`: more pictures like one that is there."""

from __future__ import annotations

import secrets
from io import BytesIO
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from wordbrush.cli import console, options
from wordbrush.cli.generate import LARGEST_SHEET, Painted, Sheet, Target, open_pipeline
from wordbrush.cli.output import Output
from wordbrush.cli.singly import model_at_hand, notes_of, paint_singly
from wordbrush.errors import RequestError
from wordbrush.request import GenerationRequest

if TYPE_CHECKING:
    from wordbrush.pipeline import Pipeline

WAYS = {"noise": 0.15, "image": 0.5, "inversion": 0.1}
"""How the new pictures keep to the old one -> how far they leave it unless it is said."""

Picture = Annotated[str, typer.Argument(metavar="PICTURE", help="A picture that Wordbrush saved, or any other.")]
Prompt = Annotated[
    str | None, typer.Argument(metavar="PROMPT", help="What the new ones show.", show_default="what the picture says")
]
By = Annotated[
    str | None,
    typer.Option(
        "--by",
        help="noise: its own noise, turned a little; image: image-to-image; inversion: the noise the model would have "
        "painted it from, turned a little.",
        show_default="noise where the picture says how it was painted, else image",
    ),
]
Amount = Annotated[
    float | None, typer.Option("--amount", help="0 keeps the picture, 1 leaves it.", show_default="0.15, 0.5 or 0.1")
]
Was = Annotated[
    str | None,
    typer.Option("--was", metavar="PROMPT", help="What PICTURE shows, for inversion.", show_default="what it says"),
]
Seed = Annotated[int | None, typer.Option("--seed", help="Of the first variation; the next has one more.")]
Count = Annotated[int, typer.Option("--count", "-n", help="How many variations.")]


def register(app: typer.Typer) -> None:
    """Adds the command."""
    app.command(epilog="Example: wordbrush vary fox.png --amount 0.2 -n 6 --seed 1 -o out/")(vary)


def vary(
    picture: Picture,
    prompt: Prompt = None,
    output: Target = "out",
    by: By = None,
    amount: Amount = None,
    count: Count = 4,
    seed: Seed = None,
    was: Was = None,
    steps: options.Steps = None,
    guidance: options.Guidance = None,
    model: options.Model = None,
    vae: options.Vae = None,
    device: options.Device = "auto",
    dtype: options.Dtype = "auto",
    offload: options.Offload = "auto",
    sheet: Sheet = True,
    as_json: options.AsJson = False,
) -> None:
    """Paint variations of a picture. Each carries its full request; `wordbrush replay` paints it again."""
    from wordbrush.metadata import PictureMetadata, png_bytes

    saved = _saved(picture)
    way = by or ("image" if saved is None else "noise")
    if way not in WAYS:
        raise RequestError(f"--by {way!r} is unknown; there are {', '.join(WAYS)}")
    far = WAYS[way] if amount is None else amount
    if not 0 <= far <= 1:
        raise RequestError(f"--amount {far:g} is outside 0 to 1; 0 keeps the picture, 1 leaves it")
    if not 1 <= count <= LARGEST_SHEET:
        raise RequestError(f"--count {count} is outside 1 to {LARGEST_SHEET}")
    if was is not None and way != "inversion":
        raise RequestError(f"--was has no effect with --by {way}; it is for --by inversion")
    base = _base(saved, picture, way, prompt if prompt is not None or way != "inversion" else was)
    place = Output.parse(output)
    place.check()
    pipe = open_pipeline(model or model_at_hand(base.model), device, dtype, vae=vae or base.vae, offload=offload)
    given = {"steps": steps, "guidance": guidance}
    changed = {name: value for name, value in given.items() if value is not None}
    base = base.model_copy(update={"model": None, "vae": None, **changed})
    first = secrets.randbelow(2**32) if seed is None else seed
    if way == "inversion":
        base = _inverted(pipe, base, picture, saved.prompts[0] if was is None and saved else was or base.prompts[0])
    requests = [_variation(base, way, far, picture, first + index) for index in range(count)]
    notes = notes_of(pipe, [pipe.fill(requests[0])])
    for note in notes:
        console.note(note)
    painted = Painted()
    for request, image in paint_singly(pipe, requests, f"painting {count} variations"):
        number = first + len(painted.files)
        data = png_bytes(image, PictureMetadata(request=request, origin=pipe.origin_of(request)))
        with console.uninterrupted():
            painted.files.append(place.write_picture(data, request.prompts[0], number, number - first + 1, count))
        painted.images.append(image)
    whole = _write_sheet(picture, painted, place, first) if sheet and count > 1 else None
    if as_json:
        files = [{"file": str(file), "seed": first + index} for index, file in enumerate(painted.files)]
        content: dict[str, Any] = {"pictures": files, "by": way, "amount": far, "notes": notes}
        console.json_result(content | {"contact_sheet": None if whole is None else str(whole)})
        return
    for file in painted.files:
        console.result(str(file))
    if whole is not None:
        console.result(f"all together: {whole}")


def _saved(picture: str) -> GenerationRequest | None:
    """The request inside a picture; None where it has none. Raises `RequestError` when it cannot be read."""
    from wordbrush.metadata import read_metadata
    from wordbrush.pictures import open_picture

    open_picture(picture)
    try:
        return read_metadata(picture).request
    except RequestError:
        return None


def _base(saved: GenerationRequest | None, picture: str, way: str, prompt: str | None) -> GenerationRequest:
    """What all variations have in common."""
    if saved is None:
        if way == "noise":
            raise RequestError(f"{picture!r} does not say from which noise it was painted; use --by image or inversion")
        if prompt is None:
            raise RequestError(f"{picture!r} does not say what it shows; give a PROMPT")
        return GenerationRequest(prompt=prompt)
    if way == "noise":
        if saved.seed is None and saved.latents is None:
            raise RequestError(f"the request in {picture!r} has no seed; use --by image or inversion")
        return saved if prompt is None else saved.model_copy(update={"prompt": prompt, "written": None})
    words = saved.prompts[0] if prompt is None else prompt
    names = ("negative_prompt", "model", "vae", "loras", "clip_skip", "emphasis")
    kept = {name: getattr(saved, name) for name in names}
    return GenerationRequest(prompt=words, steps=saved.steps, guidance=saved.guidance, **kept)


def _inverted(pipe: Pipeline, base: GenerationRequest, picture: str, was: str) -> GenerationRequest:
    """The request that paints the picture from its own noise, as `base.prompt` says."""
    from wordbrush.editing.inversion import Inversion
    from wordbrush.inputs import InputNoise

    asked = {"prompt": was, "image": picture, "guidance": 1.0, "sampler": "ddim", "seed": 0}
    fields = {name: getattr(base, name) for name in base.model_fields_set} | asked
    inversion = Inversion(pipe, GenerationRequest(**fields))
    with console.progress("finding the picture's noise", inversion.steps) as advance:
        for _ in inversion:
            advance()
    size = {"width": inversion.request.width, "height": inversion.request.height}
    noise = InputNoise.parse(inversion.noise())
    return base.model_copy(update={"latents": noise, "sampler": "ddim", "seed": 0, **size})


def _variation(base: GenerationRequest, way: str, far: float, picture: str, seed: int) -> GenerationRequest:
    """One variation of the base."""
    if way == "image":
        update: dict[str, Any] = {"image": picture, "strength": far, "seed": seed}
    else:
        update = {"variation_strength": far, "variation_seed": seed}
    return GenerationRequest(**{name: getattr(base, name) for name in base.model_fields_set} | update)


def _write_sheet(picture: str, painted: Painted, place: Output, first: int) -> Path:
    from wordbrush.pictures import open_picture
    from wordbrush.sheets import contact_sheet

    labels = ["the picture", *(f"seed {first + index}" for index in range(len(painted.images)))]
    shown = open_picture(picture).convert("RGB").resize(painted.images[0].size)
    buffer = BytesIO()
    contact_sheet([shown, *painted.images], labels).save(buffer, format="PNG")
    return place.write_sheet(buffer.getvalue())
