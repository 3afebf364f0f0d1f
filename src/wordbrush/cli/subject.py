"""`wordbrush data subject`: pictures of something that no model knows, to try fine-tuning with."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Annotated, Literal

import typer

from wordbrush.cli import console
from wordbrush.errors import RequestError

EXAMPLE = "Example: wordbrush data subject zorb -n 12 -o zorb"


def subject(
    name: Annotated[str, typer.Argument(help="zorb, a toy; or skrimble, a way of drawing.")],
    output: Annotated[Path, typer.Option("--output", "-o", metavar="FOLDER", help="Where the pictures are written.")],
    count: Annotated[int, typer.Option("--count", "-n", min=1, max=1000, help="How many.")] = 12,
    split: Annotated[
        Literal["train", "test"], typer.Option("--split", help="test: other pictures, to judge what was learnt.")
    ] = "train",
    seed: Annotated[int, typer.Option("--seed", help="Which pictures.")] = 0,
    captions: Annotated[
        bool, typer.Option("--captions/--no-captions", help="With a .txt beside each picture.")
    ] = True,
) -> None:
    """Draws pictures of a subject that no model knows, to teach it to one with `wordbrush finetune`."""
    from PIL import Image

    from wordbrush.data.subjects import SUBJECTS
    from wordbrush.metadata import write_whole

    if name not in SUBJECTS:
        raise RequestError(f"there is no subject {name!r}; there are {', '.join(SUBJECTS)}")
    for index in range(count):
        drawn = SUBJECTS[name].picture(split, seed, index)
        buffer = io.BytesIO()
        Image.fromarray(drawn.pixels).save(buffer, "PNG")
        write_whole(output / f"{name}-{index:03d}.png", buffer.getvalue())
        if captions:
            write_whole(output / f"{name}-{index:03d}.txt", (drawn.caption + "\n").encode())
    console.result(f"{output}: {count} pictures of {SUBJECTS[name].about}")
