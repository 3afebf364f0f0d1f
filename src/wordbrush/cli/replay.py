"""`wordbrush replay`: paint a saved picture again, and say whether it is the same."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer

from wordbrush.cli import console, options
from wordbrush.cli.generate import open_pipeline
from wordbrush.errors import ModelFileError, RequestError
from wordbrush.metadata import Origin, PictureMetadata, png_bytes, read_metadata, write_new, write_whole

Source = Annotated[
    str, typer.Argument(metavar="PNG", help="A picture that Wordbrush saved, or one with A1111 settings.")
]
Image = Annotated[
    str | None,
    typer.Option("--image", metavar="FILE", help="Where the edited picture is now.", show_default="where it was"),
]
Mask = Annotated[
    str | None, typer.Option("--mask", metavar="FILE", help="Where the mask is now.", show_default="where it was")
]
Target = Annotated[str | None, typer.Option("--output", "-o", help="A .png file.", show_default="NAME-replay.png")]


def register(app: typer.Typer) -> None:
    """Adds the command."""
    app.command(epilog="Example: wordbrush replay fox.png -o again.png")(replay)


def replay(
    source: Source,
    output: Target = None,
    image: Image = None,
    mask: Mask = None,
    model: options.Model = None,
    vae: options.Vae = None,
    device: options.Device = "auto",
    dtype: Annotated[
        str, typer.Option("--dtype", help="Number format.", show_default="the one it was painted in")
    ] = "auto",
    as_json: options.AsJson = False,
) -> None:
    """Paint a saved picture again from the request inside it: the same pixels with the same model on such a machine.

    An edit needs the picture and the mask that it was made with, and is refused with others.
    """
    from wordbrush.cli.output import Output
    from wordbrush.editing.again import with_inputs

    metadata = read_metadata(source)
    for key, value in (metadata.ignored or {}).items():
        console.note(f"{key}: {value!r} has no meaning here and is left out")
    place = Output.parse(output or str(Path(source).with_name(f"{Path(source).stem}-replay.png")))
    if place.file is None:
        raise RequestError(f"-o {output!r} is not a .png file")
    place.check()
    asked = with_inputs(metadata.request, {"image": image, "mask": mask}, Path(source).parent)
    if dtype == "auto":
        dtype = metadata.origin.dtype or dtype
    pipe = open_pipeline(model or _local(metadata.request.model), device, dtype, vae=vae or metadata.request.vae)
    request = pipe.fill(asked.model_copy(update={"model": None, "vae": None}))
    origin = pipe.origin_of(request)
    for text in [*_differences(metadata.origin, origin), *pipe.notes(request)]:
        console.note(text)
    with console.progress("painting 1 picture", pipe.step_count(request)) as advance:
        for step in pipe.steps(request):
            latents = step.x
            advance()
    painted = pipe.finish(request, latents)[0]
    data = png_bytes(painted, PictureMetadata(request=request, origin=origin))
    same, verdict = _compare(source, painted)  # before the source is replaced, where it is the target too
    file = write_new(place.file, data) if output is None else write_whole(place.file, data)
    if as_json:
        console.json_result({"file": str(file), "identical": same, "verdict": verdict, **asdict(origin)})
    else:
        console.result(str(file))
        typer.echo(verdict, err=True)


def _local(named: str | None) -> str | None:
    """The model that the file names, if it is here: a name out of a file is no reason to download anything."""
    from wordbrush.formats.open import locate_model

    try:
        locate_model(named)
    except ModelFileError as error:
        raise RequestError(
            f"the picture was painted with the model {named!r}, which is not here; say where it is with -m"
        ) from error
    return named


def _differences(then: Origin, now: Origin) -> list[str]:
    """What differs from when the picture was painted, as far as it says."""
    names = {
        "version": "Wordbrush", "model_hash": "the model's weights", "dtype": "the number format",
        "lora_hashes": "the LoRAs",
    }  # fmt: skip
    pairs = {name: (getattr(then, field), getattr(now, field)) for field, name in names.items()}
    return [
        f"{name}: {before} then, {after} now; the pixels may differ"
        for name, (before, after) in pairs.items()
        if before is not None and before != after
    ]


def _compare(source: str, image: object) -> tuple[bool, str]:
    """Whether the picture in the file has the same pixels, and the sentence that says so."""
    import numpy as np
    from PIL import Image

    with Image.open(source) as picture:
        before = np.asarray(picture.convert("RGB"), dtype=np.int16)
    after = np.asarray(image, dtype=np.int16)
    if before.shape != after.shape:
        return False, f"the picture in {source} has another size, so it was changed after it was painted"
    difference = np.abs(before - after)
    if not difference.any():
        return True, f"identical to {source}"
    share = (difference.max(axis=2) > 0).mean()
    return False, f"not identical to {source}: {share:.1%} of the pixels differ, by at most {difference.max()} of 255"
