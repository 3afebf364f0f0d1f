"""`wordbrush travel`: a film from one request to another."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Any

import typer

from wordbrush.cli import console, options
from wordbrush.cli.generate import open_pipeline
from wordbrush.cli.output import Output
from wordbrush.cli.singly import model_at_hand, notes_of, paint_singly
from wordbrush.editing.travel import EASINGS, Travel, stops_of
from wordbrush.errors import RequestError
from wordbrush.request import GenerationRequest
from wordbrush.request_fields import Lora

Stops = Annotated[
    list[str],
    typer.Argument(
        metavar="STOP…", help="Prompts, or PNG files with their requests; or one film of this command, to repeat it."
    ),
]
Target = Annotated[str, typer.Option("--output", "-o", help="A .gif, .webp or .mp4 file.")]
Frames = Annotated[
    int | None, typer.Option("--frames", help="From one stop to the next, both counted.", show_default="16")
]
Easing = Annotated[
    str | None, typer.Option("--easing", help=f"One of {', '.join(EASINGS)}.", show_default="smooth")
]
Ending = Annotated[
    str | None,
    typer.Option("--ending", help="stop; loop goes back to the first stop; pingpong runs backwards.",
                 show_default="stop"),
]
Fps = Annotated[float | None, typer.Option("--fps", help="Frames a second.", show_default="12")]
Seeds = Annotated[
    str | None, typer.Option("--seed", metavar="N,N,…", help="Of the stops; one for all of them is enough.")
]
Pictures = Annotated[
    str | None, typer.Option("--pictures", metavar="FOLDER", help="Also save every frame as a PNG with its request.")
]

_FILMS = {".gif", ".webp", ".mp4"}
_FILES = {".png", ".jpg", ".jpeg", ".webp", ".avif", ".gif", ".tif", ".tiff", ".bmp", ".mp4"}
"""A stop of such an ending is meant as a file, even where it is none or holds no request: never as a prompt."""


def register(app: typer.Typer) -> None:
    """Adds the command."""
    example = 'wordbrush travel "a fox on a blue background" "a panda on a blue background" --seed 7 -o travel.gif'
    app.command(epilog=f"Example: {example}")(travel)


def travel(
    stops: Stops,
    output: Target = "travel.gif",
    frames: Frames = None,
    easing: Easing = None,
    ending: Ending = None,
    fps: Fps = None,
    pictures: Pictures = None,
    negative: Annotated[str | None, typer.Option("--negative", help="What no frame should show.")] = None,
    seed: Seeds = None,
    steps: options.Steps = None,
    guidance: options.Guidance = None,
    sampler: options.Sampler = None,
    schedule: options.Schedule = None,
    size: options.Size = None,
    lora: options.Loras = None,
    model: options.Model = None,
    vae: options.Vae = None,
    device: options.Device = "auto",
    dtype: options.Dtype = "auto",
    offload: options.Offload = "auto",
    as_json: options.AsJson = False,
) -> None:
    """Paint the way from one prompt or seed to another as a film: noise turns, and texts blend.

    The stops may differ in prompt and seed alone. The film carries its requests; given as the only STOP, it is painted
    again. The options win over what PNG files or a film say.
    """
    from wordbrush.animation import animation_bytes, check_animation
    from wordbrush.metadata import write_whole

    path = Path(output).expanduser()
    check_animation(path, 12.0 if fps is None else fps)
    Output(folder=path.parent, file=path).check()
    frame_folder = None if pictures is None else Output(folder=Path(pictures).expanduser(), file=None)
    if frame_folder is not None:
        frame_folder.check()
    width, height = options.size(size)
    changed = {
        "negative_prompt": negative, "steps": steps, "guidance": guidance, "sampler": sampler, "schedule": schedule,
        "width": width, "height": height, "vae": vae, "loras": tuple(Lora.parse(text) for text in lora or ()) or None,
    }  # fmt: skip
    changed = {name: value for name, value in changed.items() if value is not None}
    manner, asked = _asked(stops, seed, changed)
    given = {"frames": frames, "easing": easing, "ending": ending, "fps": fps}
    manner |= {name: value for name, value in given.items() if value is not None}
    ending_of_file = check_animation(path, float(manner.get("fps", 12.0)))
    named = asked[0].model
    pipe = open_pipeline(model or model_at_hand(named), device, dtype, vae=asked[0].vae, offload=offload)
    free = [request.model_copy(update={"model": None, "vae": None}) for request in asked]
    first = pipe.fill(free[0])  # one seed drawn serves every stop without its own
    seeded = [r if r.seed is not None else r.model_copy(update={"seed": first.seed}) for r in free[1:]]
    way = Travel(stops=(first, *map(pipe.fill, seeded)), **manner)
    for note in notes_of(pipe, way.stops):
        console.note(note)
    images, files = [], []
    for request, image in paint_singly(pipe, way.requests, f"painting {len(way.requests)} frames"):
        images.append(image)
        if frame_folder is not None:
            files.append(_frame(pipe, frame_folder, request, image, len(images)))
    record = {"travel": way.to_dict(), **asdict(pipe.origin_of(way.stops[0]))}
    data = animation_bytes(ending_of_file, [images[number] for number in way.order], way.fps, record)
    with console.uninterrupted():
        write_whole(path, data)
    if as_json:
        console.json_result({"file": str(path), "frames": len(way.order), "pictures": list(map(str, files)), **record})
        return
    console.result(str(path))
    typer.echo(f"{len(way.order)} frames, {len(way.order) / way.fps:.1f} seconds, {len(data) / 1e6:.2f} MB", err=True)


def _asked(
    stops: Sequence[str], seeds: str | None, changed: dict[str, Any]
) -> tuple[dict[str, Any], list[GenerationRequest]]:
    """How to travel, as far as a film says it, and the requests of the stops, with what was changed in all."""
    numbers = _seeds(seeds)
    if len(stops) == 1 and Path(stops[0]).suffix.lower() in _FILMS and Path(stops[0]).is_file():
        from wordbrush.animation import read_record

        record = read_record(Path(stops[0])).get("travel")
        if not isinstance(record, dict):
            raise RequestError(f"{stops[0]!r} carries a damaged travel; only files saved by wordbrush travel do")
        way = Travel.from_dict(record)
        found = list(way.stops)
        manner = {"frames": way.frames, "easing": way.easing, "ending": way.ending, "fps": way.fps}
    else:
        manner, found = {}, _requests(stops, numbers)
    if numbers != [None] and len(numbers) not in (1, len(found)):
        raise RequestError(f"{len(numbers)} seeds for {len(found)} stops; give one seed, or one for each stop")
    for index, request in enumerate(found):
        number = numbers[index if len(numbers) > 1 else 0]
        update = changed if number is None else {**changed, "seed": number}
        fields = {name: getattr(request, name) for name in request.model_fields_set} | update
        found[index] = GenerationRequest(**fields)  # checks them, as a copy would not
    return manner, found


def _requests(stops: Sequence[str], seeds: Sequence[int | None]) -> list[GenerationRequest]:
    """Of prompts and saved pictures; a prompt takes everything else from the first picture, if there is one."""
    from wordbrush.metadata import read_metadata

    saved = {stop: read_metadata(stop).request for stop in stops if Path(stop).suffix.lower() in _FILES}
    base = next(iter(saved.values()), GenerationRequest(prompt=""))
    found = []
    for stop, _ in stops_of(stops, seeds):
        plain = base.model_copy(update={"prompt": stop, "written": None})
        found.append(saved.get(stop, plain))
    return found


def _seeds(text: str | None) -> list[int | None]:
    """ "3,9" -> the numbers; [None] for none. Raises `RequestError`."""
    if text is None:
        return [None]
    try:
        return [int(part) for part in text.split(",")]
    except ValueError as error:
        raise RequestError(f"--seed {text!r} is not a list of whole numbers, such as 3,9") from error


def _frame(pipe: Any, folder: Output, request: GenerationRequest, image: Any, number: int) -> Path:
    from wordbrush.metadata import PictureMetadata, png_bytes, write_new

    data = png_bytes(image, PictureMetadata(request=request, origin=pipe.origin_of(request)))
    with console.uninterrupted():
        return write_new(folder.folder / f"frame-{number:04d}.png", data)
