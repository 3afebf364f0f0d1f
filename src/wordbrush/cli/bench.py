"""`wordbrush bench`: how fast, on this machine, and beside diffusers."""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from wordbrush.cli import console, options
from wordbrush.errors import RequestError

if TYPE_CHECKING:
    from wordbrush.evaluation.speed import Figures, Speed

EXAMPLE = "Example: wordbrush bench --json > bench.json"

# Where a source tree keeps the peer that is measured unless another is named, and the number formats it is measured in:
# what it does by default, and its fastest.
_PEER = Path("benchmarks/diffusers_peer.py")
_DTYPES = ("float32", "bfloat16")

Pictures = Annotated[int, typer.Option("--pictures", "-n", help="Pictures in the batch.")]
Repeats = Annotated[int, typer.Option("--repeats", help="Single pictures; the median counts.")]
Cold = Annotated[bool, typer.Option(help="Start processes from nothing too.")]
Peer = Annotated[
    Path | None,
    typer.Option("--peer", metavar="FILE", help="A peer script to run beside.", show_default="diffusers, if installed"),
]
WithPeer = Annotated[bool, typer.Option("--with-peer/--no-peer", help="Whether to measure a peer at all.")]


def register(app: typer.Typer) -> None:
    """Adds the command."""
    app.command(epilog=EXAMPLE)(bench)


def bench(
    model: options.Model = None,
    pictures: Pictures = 16,
    repeats: Repeats = 7,
    steps: options.Steps = None,
    guidance: options.Guidance = None,
    cold: Cold = True,
    peer: Peer = None,
    with_peer: WithPeer = True,
    device: options.Device = "auto",
    dtype: options.Dtype = "auto",
    as_json: options.AsJson = False,
) -> None:
    """Measure the time from prompt to picture: cold, warm, in a batch, and per step.

    In a source tree with diffusers installed, diffusers does the same on the same weights, noise and sampler.
    """
    from wordbrush.cli.generate import open_pipeline
    from wordbrush.evaluation.speed import Task, measure

    task = Task(pictures=pictures, repeats=repeats, cold=cold, steps=steps, guidance=guidance)
    script = _peer_script(peer) if with_peer else None
    peers = {} if script is None else {script: _DTYPES}
    pipe = open_pipeline(model, device, dtype)
    result = measure(pipe, task, peers, say=lambda text: typer.echo(f"measuring {text}", err=True))
    if as_json:
        console.json_result(result.as_json())
    else:
        console.result(table(result))
        if with_peer and script is None:
            console.note("diffusers is not measured: that needs a source tree and diffusers and transformers installed")
    for problem in result.problems:
        console.note(problem)


def _peer_script(named: Path | None) -> Path | None:
    if named is not None:
        if not named.is_file():
            raise RequestError(f"there is no peer script {str(named)!r}")
        return named
    import wordbrush

    if find_spec("diffusers") is None or find_spec("transformers") is None:
        return None
    places = (Path(wordbrush.__file__).parents[2] / _PEER, _PEER)
    return next((place for place in places if place.is_file()), None)


def table(result: Speed) -> str:
    """The figures as text, the machine first."""
    machine, request, ours = result.machine, result.request, result.figures[0]
    load = "" if machine.load is None else f", load {machine.load:.1f} before"
    lines = [
        f"{machine.processor}, {machine.cores} cores, {machine.threads} threads{load}",
        f"torch {machine.torch}, Python {machine.python}, {machine.system}",
        f"{request.model}: {request.width}x{request.height}, {request.steps} steps of {request.sampler}, "
        f"{request.schedule} schedule, guidance {request.guidance:g}",
        "",
    ]
    columns = [_column(figures, result.pictures) for figures in result.figures]
    names = (
        "", "cold process to picture", "one picture, warm", f"{result.pictures} at once, each", "gain of the batch",
        "one step", "apart from ours (of 255)",
    )  # fmt: skip
    for index, name in enumerate(names):
        if index == len(names) - 1 and len(columns) == 1:
            break
        lines.append(f"{name:26}" + "".join(f"{column[index]:>26}" for column in columns))
    if len(columns) > 1:
        lines.append("")
    lines += [
        f"a step takes {peer.name} in {peer.dtype} {peer.step / ours.step:.1f} times as long"
        for peer in result.figures[1:]
    ]
    return "\n".join(lines)


def _column(figures: Figures, pictures: int) -> tuple[str, ...]:
    difference = "" if figures.difference is None else f"max {figures.difference[0]}, mean {figures.difference[1]:.2f}"
    return (
        f"{figures.name} {figures.dtype}",
        "" if figures.cold is None else f"{figures.cold:.2f} s",
        f"{figures.single:.3f} s",
        f"{figures.batch / pictures:.3f} s",
        f"{figures.single * pictures / figures.batch:.2f} x",
        f"{1000 * figures.step:.2f} ms",
        difference,
    )
