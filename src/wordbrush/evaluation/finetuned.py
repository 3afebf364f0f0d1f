"""`wordbrush evaluate finetune`: has a model learnt its subject, and has it kept the rest?

The model as it was and as it is now paint the same prompts from the same noise. Learnt: pictures painted by the
subject's prompts are compared with pictures of the subject that were kept out of training (the cosine of CLIP's image
embeddings, CLIP-I of Ruiz 2023), and are taken for the subject when the nearest of all reference pictures, of the
subject and of other things, is one of the subject. Kept: the composition prompts, which never name the subject, are
judged by the inspector before and after, and the pictures before and after are compared with each other.

Every figure has its standard error, over the painted pictures; differences are taken pair by pair.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image

from wordbrush.data.pixels import to_images
from wordbrush.data.scenes import render, sample_scene
from wordbrush.errors import RequestError
from wordbrush.evaluation.composition import Advance, composition_request, paint
from wordbrush.evaluation.inspector.sightings import TrainedInspector
from wordbrush.evaluation.judging import judge
from wordbrush.evaluation.prompts import Prompt
from wordbrush.formats.clip_files import ClipFiles

if TYPE_CHECKING:
    from wordbrush.pipeline import Pipeline
    from wordbrush.request import GenerationRequest

OTHERS = 300
"""Pictures of other things that a painted picture is compared with."""

_BATCH = 32


@dataclass(frozen=True, kw_only=True)
class Figure:
    """A mean over pictures and its standard error."""

    mean: float
    error: float

    @classmethod
    def of(cls, values: Sequence[float] | np.ndarray) -> Figure:
        """Of at least one value; one value has no error to speak of, given as 0."""
        numbers = np.asarray(values, dtype=np.float64)
        error = float(numbers.std(ddof=1) / len(numbers) ** 0.5) if len(numbers) > 1 else 0.0
        return cls(mean=float(numbers.mean()), error=error)

    def __str__(self) -> str:
        return f"{self.mean:.3f} ± {self.error:.3f}"


@dataclass(frozen=True, kw_only=True)
class Change:
    """A quantity before and after, and the difference pair by pair."""

    before: Figure
    after: Figure
    gain: Figure

    @classmethod
    def of(cls, before: Sequence[float] | np.ndarray, after: Sequence[float] | np.ndarray) -> Change:
        first, second = np.asarray(before, dtype=np.float64), np.asarray(after, dtype=np.float64)
        return cls(before=Figure.of(first), after=Figure.of(second), gain=Figure.of(second - first))


@dataclass(frozen=True, kw_only=True)
class Learnt:
    """Pictures of the subject's prompts.

    Attributes:
        similarity: cosine with the held-out pictures of the subject, mean over those.
        real: the same for each held-out picture and the others: what a perfect copy would reach.
        recognised: part whose nearest reference is the subject, among `OTHERS` pictures of other things.
        real_recognised: the same for each held-out picture, with the others as references.
        backgrounds: part with the ground that the prompt states, by the inspector; None where no prompt states one.
    """

    pictures: int
    similarity: Change
    real: Figure
    recognised: Change
    real_recognised: Figure
    backgrounds: Change | None


@dataclass(frozen=True, kw_only=True)
class Kept:
    """Pictures of prompts that do not name the subject.

    Attributes:
        composition: part that the inspector finds true to the prompt.
        leaked: cosine with the subject's pictures, which should not rise.
        same: cosine of the pictures before and after.
        unlike: the same for two pictures of a prompt that differ by their noise alone, both painted before.
        distance: mean absolute difference of pixels, in 0…255, before and after.
    """

    pictures: int
    composition: Change
    leaked: Change
    same: Figure
    unlike: Figure
    distance: Figure


@dataclass(frozen=True, kw_only=True)
class Effect:
    """The whole measurement; `sheet` shows pictures before and after, one below the other, with their prompts."""

    learnt: Learnt
    kept: Kept | None
    sheet: list[tuple[str, Image.Image, Image.Image]] = field(default_factory=list)


@dataclass(frozen=True, kw_only=True)
class Side:
    """A model that paints, and what a request needs for that: the LoRAs of a fine-tune, say.

    Attributes:
        pipe: the model.
        fields: put into every request.
    """

    pipe: Pipeline
    fields: dict[str, object] = field(default_factory=dict)

    def paint(self, request: GenerationRequest, advance: Advance) -> list[Image.Image]:
        """The pictures of a request that was not filled in for another model."""
        return paint(self.pipe, self.pipe.fill(request.model_copy(update=self.fields)), advance)


@torch.inference_mode()
def embedded(clip: ClipFiles, pictures: Sequence[Image.Image]) -> np.ndarray:
    """CLIP's image embeddings (N, P) of pictures of any size, of length 1, float64."""
    side = clip.model.config.vision_config.image_size
    mean, std = (torch.tensor(values).view(1, -1, 1, 1) for values in (clip.mean, clip.std))
    parts = []
    for start in range(0, len(pictures), _BATCH):
        rows = [to_images(np.array(picture.convert("RGB"))[None]) for picture in pictures[start : start + _BATCH]]
        same = [
            row if row.shape[2:] == (side, side)
            else F.interpolate(row, size=(side, side), mode="bicubic", antialias=True).clamp(-1, 1)
            for row in rows
        ]  # fmt: skip
        images = (torch.cat(same) + 1) / 2
        parts.append(F.normalize(clip.model.image_features((images - mean) / std).double(), dim=1))
    return torch.cat(parts).numpy()


def measure_effect(
    sides: tuple[Side, Side],
    clip: ClipFiles,
    subject: Sequence[Image.Image],
    requests: tuple[GenerationRequest, GenerationRequest | None],
    inspector: tuple[TrainedInspector, Sequence[Prompt]] | None,
    advance: Advance,
) -> Effect:
    """Paints and measures.

    Args:
        sides: the model before and after.
        subject: at least two pictures of the subject that were kept out of training.
        requests: the subject's prompts, with a seed; and a `composition_request`, or None to leave that out.
        inspector: who judges, and the prompts of the second request; None where the model is not one of scenes.
        advance: called at each step of each batch.

    Raises:
        RequestError: fewer than two pictures of the subject.
    """
    if len(subject) < 2:
        raise RequestError(f"{len(subject)} held-out pictures of the subject; at least 2 are needed to compare with")
    own = embedded(clip, subject)
    before, after = (side.paint(requests[0], advance) for side in sides)
    learnt = _learnt(clip, own, (before, after), _grounds(requests[0], inspector), inspector)
    sheet = list(zip(requests[0].prompts, before, after, strict=True))
    if requests[1] is None or inspector is None:
        return Effect(learnt=learnt, kept=None, sheet=sheet)
    kept, shown = _kept(sides, clip, own, requests[1], inspector, advance)
    return Effect(learnt=learnt, kept=kept, sheet=sheet + shown)


def _learnt(
    clip: ClipFiles,
    own: np.ndarray,
    painted: tuple[list[Image.Image], list[Image.Image]],
    grounds: list[str | None],
    inspector: tuple[TrainedInspector, Sequence[Prompt]] | None,
) -> Learnt:
    found = [embedded(clip, pictures) for pictures in painted]
    others = embedded(clip, [Image.fromarray(render(sample_scene("test", 31, index))) for index in range(OTHERS)])
    similarity = [(rows @ own.T).mean(axis=1) for rows in found]
    recognised = [(rows @ own.T).max(axis=1) > (rows @ others.T).max(axis=1) for rows in found]
    among = own @ own.T
    backgrounds = None
    stated = [index for index, ground in enumerate(grounds) if ground is not None]
    if inspector is not None and stated:
        seen = [inspector[0].inspect([pictures[index] for index in stated]) for pictures in painted]
        right = [[sight.background == grounds[index] for index, sight in zip(stated, row, strict=True)] for row in seen]
        backgrounds = Change.of(*(np.asarray(row, dtype=np.float64) for row in right))
    return Learnt(
        pictures=len(painted[0]),
        similarity=Change.of(*similarity),
        real=Figure.of((among.sum(axis=1) - 1) / (len(own) - 1)),
        recognised=Change.of(*(np.asarray(row, dtype=np.float64) for row in recognised)),
        real_recognised=Figure.of((among - 2 * np.eye(len(own))).max(axis=1) > (own @ others.T).max(axis=1)),
        backgrounds=backgrounds,
    )


def _grounds(
    request: GenerationRequest, inspector: tuple[TrainedInspector, Sequence[Prompt]] | None
) -> list[str | None]:
    """The colour of the ground that each prompt states, if it does."""
    if inspector is None:
        return [None] * request.pictures
    from wordbrush.data.scenes.scene import BACKGROUNDS

    return [next((name for name in BACKGROUNDS if f"{name} background" in text), None) for text in request.prompts]


def _kept(
    sides: tuple[Side, Side],
    clip: ClipFiles,
    own: np.ndarray,
    request: GenerationRequest,
    inspector: tuple[TrainedInspector, Sequence[Prompt]],
    advance: Advance,
) -> tuple[Kept, list[tuple[str, Image.Image, Image.Image]]]:
    judges, prompts = inspector
    before, after = (side.paint(request, advance) for side in sides)
    elsewhere = request.model_copy(update={"seed": (request.seed or 0) + 1_000_000})
    again = sides[0].paint(elsewhere, advance)
    right = [
        [judge(prompt, sight).right for prompt, sight in zip(prompts, judges.inspect(pictures), strict=True)]
        for pictures in (before, after)
    ]
    first, second, third = (embedded(clip, pictures) for pictures in (before, after, again))
    pixels = [[np.asarray(picture, np.float64) for picture in pictures] for pictures in (before, after)]
    apart = [np.abs(a - b).mean() for a, b in zip(*pixels, strict=True)]
    kept = Kept(
        pictures=len(prompts),
        composition=Change.of(*(np.asarray(row, dtype=np.float64) for row in right)),
        leaked=Change.of((first @ own.T).mean(axis=1), (second @ own.T).mean(axis=1)),
        same=Figure.of((first * second).sum(axis=1)),
        unlike=Figure.of((first * third).sum(axis=1)),
        distance=Figure.of(apart),
    )
    step = max(1, len(prompts) // 8)
    chosen = range(0, len(prompts), step)
    return kept, [(prompts[index].text, before[index], after[index]) for index in chosen]


def effect_requests(
    prompts: Sequence[str], count: int, seed: int, composition: Sequence[Prompt], settings: GenerationRequest
) -> tuple[GenerationRequest, GenerationRequest | None]:
    """The requests of `measure_effect`: each of the subject's prompts `count` times, and the composition prompts."""
    fields = {name: getattr(settings, name) for name in settings.model_fields_set - {"prompt", "count", "seed"}}
    texts = tuple(prompt for prompt in prompts for _ in range(count))
    first = type(settings)(prompt=texts, seed=seed, **fields)
    return first, composition_request(composition, settings) if composition else None


def table(effect: Effect) -> str:
    """For a terminal."""
    learnt, kept = effect.learnt, effect.kept
    lines = [
        f"learnt, {learnt.pictures} pictures painted by the subject's prompts",
        f"{'':34}{'before':>16}{'after':>16}{'difference':>18}",
        _row("similarity to the subject (CLIP-I)", learnt.similarity) + f"   real pictures: {learnt.real}",
        _row("taken for the subject", learnt.recognised) + f"   real pictures: {learnt.real_recognised}",
    ]
    if learnt.backgrounds is not None:
        lines.append(_row("stated background", learnt.backgrounds))
    if kept is not None:
        lines += [
            f"kept, {kept.pictures} pictures of other things",
            _row("true to the prompt (inspector)", kept.composition),
            _row("similarity to the subject", kept.leaked),
            f"{'before and after alike (CLIP)':34}{kept.same!s:>32}   the same prompt from other noise: {kept.unlike}",
            f"{'before and after apart (0…255)':34}{f'{kept.distance.mean:.1f} ± {kept.distance.error:.1f}':>32}",
        ]
    return "\n".join(lines)


def _row(name: str, change: Change) -> str:
    gain = f"{change.gain.mean:+.3f} ± {change.gain.error:.3f}"
    return f"{name:34}{change.before!s:>16}{change.after!s:>16}{gain:>18}"
