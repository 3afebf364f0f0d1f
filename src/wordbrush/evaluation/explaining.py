"""How one picture comes about: the way from noise to it, what the model reads, and where each word of it acts.

The picture is the request's own. Beside each step the network computes the prompt once more, alone and without
guidance, and where its attention looks in the text is added up (see `runtime.text_attention`); nothing of that goes
back into the loop.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from itertools import groupby
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from wordbrush.conditioning.conditioning import TextOptions
from wordbrush.conditioning.prompt.program import PromptProgram
from wordbrush.diffusion.samplers import Step
from wordbrush.runtime.text_attention import TextAttention
from wordbrush.sheets import Frame, heat_overlay

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray
    from PIL import Image

    from wordbrush.conditioning.report import PromptReport, TokenRow
    from wordbrush.editing.run import Run
    from wordbrush.pipeline import Pipeline
    from wordbrush.request import GenerationRequest

Role = str
"""As of `serving.work.StoredPicture`: "picture", "frame" or "attention"."""


@dataclass(frozen=True, kw_only=True)
class WordMap:
    """Where one word acts.

    Attributes:
        word: as it is written in the prompt.
        text: the one it stands in, of the prompt's: there are several where AND parts them, or they change on the way.
        positions: its places in the sequence that the network is conditioned on, as in the token table.
        heat: (H, W) float32, 0 to 1: the part of its attention that each pixel gives to the word, the mean over its
            positions, the heads, the layers and the steps. H and W are those of what the loop painted: of the picture,
            unless it was enlarged afterwards or is a part put back into a larger one.
        overlay: the map over what the loop painted, coloured from its least to its largest value.
    """

    word: str
    text: str
    positions: tuple[int, ...]
    heat: NDArray[np.float32]
    overlay: Image.Image


@dataclass(frozen=True, kw_only=True)
class Reading:
    """What the model reads of one text of the prompt."""

    text: str
    table: tuple[TokenRow, ...]
    report: PromptReport


@dataclass(frozen=True, kw_only=True)
class Explained:
    """A picture and how it came about.

    Attributes:
        request: filled in, of this one picture.
        picture: the same pixels as from `Pipeline.__call__`.
        latents: (1, C, h, w) float32, before decoding.
        frames: moments of the way, each with x and the clean picture that the network predicted from it; the last is
            the picture.
        words: in the order of the prompt; none for a model that has no attention to a text.
        readings: of every text of the prompt.
        notes: what a user should know, one sentence each.
    """

    request: GenerationRequest
    picture: Image.Image
    latents: Tensor
    frames: tuple[Frame, ...]
    words: tuple[WordMap, ...]
    readings: tuple[Reading, ...]
    notes: tuple[str, ...]

    @property
    def tokens(self) -> list[dict[str, Any]]:
        """The token table as JSON: a `TokenRow` each, and the text it is of as "prompt"."""
        return [{"prompt": reading.text} | asdict(row) for reading in self.readings for row in reading.table]

    def pictures(self) -> Iterator[tuple[Role, str | None, Image.Image]]:
        """All pictures in the order to keep them in: role, label, picture.

        The picture itself has no label; frames come in pairs, "timestep 640: x" and "timestep 640: x0"; attention maps
        have their word.
        """
        yield "picture", None, self.picture
        for frame in self.frames:
            if frame.clean is not None:
                yield "frame", f"{frame.label}: x", frame.noisy
                yield "frame", f"{frame.label}: x0", frame.clean
        for word in self.words:
            yield "attention", word.word, word.overlay

    def output(self) -> dict[str, Any]:
        """What is not a picture, as JSON; "words" are in the order of the attention maps."""
        words = [{"word": word.word, "prompt": word.text, "positions": list(word.positions)} for word in self.words]
        reports = [{"prompt": reading.text} | asdict(reading.report) for reading in self.readings]
        return {"tokens": self.tokens, "words": words, "reports": reports, "notes": list(self.notes)}


def explain(
    pipe: Pipeline,
    request: GenerationRequest,
    columns: int = 8,
    on_step: Callable[[Step], object] | None = None,
) -> Explained:
    """Paints the first picture of a request and keeps the way there.

    With high-resolution fix, moments and maps are those of the first loop.

    Args:
        pipe: of any family.
        request: need not be filled in.
        columns: how many moments the way has, the finished picture included; fewer if there are fewer steps. From 2.
        on_step: called after each step, of which there are `pipe.step_count(request)`; what it raises ends the work.

    Raises:
        RequestError, ModelFileError, WorkFailed: as `Pipeline.__call__`.
    """
    request = pipe.fill(request)
    request = request.part(0, 1)
    notes = pipe.notes(request)
    options = TextOptions(clip_skip=request.clip_skip, emphasis=request.emphasis)
    texts = PromptProgram.parse(request.prompts[0]).texts(pipe.step_count(request))
    conditioner = pipe.conditioner_for(request)
    readings = tuple(
        Reading(text=text, table=tuple(conditioner.table(text, options)), report=conditioner.report(text, options))
        for text in texts
    )
    run = pipe.begin(request)
    frames, attention, latents = _watch(pipe, run, columns, on_step)
    (picture,) = pipe.finish(request, latents)
    painted = pipe.decode(latents)[0]
    small = (run.x.shape[2], run.x.shape[3])
    return Explained(
        request=request,
        picture=picture,
        latents=latents.cpu().clone(),
        frames=(*frames, Frame(label="the picture", noisy=picture, clean=None)),
        words=tuple(
            word
            for reading in readings
            if reading.text in attention
            for word in _maps(reading, attention[reading.text], small, painted)
        ),
        readings=readings,
        notes=tuple(notes),
    )


def _watch(
    pipe: Pipeline, run: Run, columns: int, on_step: Callable[[Step], object] | None
) -> tuple[list[Frame], dict[str, TextAttention], Tensor]:
    """The loop: moments evenly chosen, what was looked at in each text, and the latents at the end."""
    total = len(run.times) - 1
    shown = {round(index * (total - 1) / max(columns - 2, 1)) for index in range(columns - 1)}
    frames, attention = list[Frame](), dict[str, TextAttention]()
    x, t = run.x, run.times[0]
    for step in run:
        if step.index < total:
            _attend(run, step.index, x, t, attention)
        if step.index in shown:
            label = f"timestep {run.plan.timestep(t):.0f}"
            frames.append(Frame(label=label, noisy=pipe.decode(x)[0], clean=pipe.decode(step.x0)[0]))
        x, t = step.x, step.t
        if on_step is not None:
            on_step(step)
    return frames, attention, x


@torch.inference_mode()
def _attend(run: Run, index: int, x: Tensor, t: float, attention: dict[str, TextAttention]) -> None:
    """Adds what the network looks at in each text that it is told at this step, which begins with x at t."""
    for text, denoiser in run.prompted.parts(index):
        with run.prompted.bound.runner.watched(attention.setdefault(text, TextAttention()).watch):
            denoiser(x, t)


def _maps(
    reading: Reading, attention: TextAttention, latents: tuple[int, int], painted: Image.Image
) -> Iterator[WordMap]:
    """One for each word that was not cut, and is more than punctuation."""
    if attention.empty:
        return
    rows = [row for row in reading.table if row.number is not None and row.position is not None]
    for _, pieces in groupby(rows, key=lambda row: row.number):
        parts = list(pieces)
        word = parts[0].word
        if not any(character.isalnum() for character in word):
            continue
        positions = [
            place for row in parts for place in range(row.position or 0, (row.position or 0) + row.positions)
        ]
        heat = attention.heat(positions, latents, (painted.height, painted.width)).numpy()
        yield WordMap(
            word=word, text=reading.text, positions=tuple(positions), heat=heat, overlay=heat_overlay(painted, heat)
        )
