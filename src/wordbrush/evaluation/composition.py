"""`wordbrush evaluate composition`: paint the fixed prompts, let the inspector judge, and say how far to trust it.

The same prompts, rules and inspector are applied to three sets of pictures: the renders of the scenes that the prompts
describe (what the inspector itself gets wrong), those renders through the model's autoencoder (what no denoiser could
win back), and what the model paints.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch
from PIL import Image

from wordbrush.data.pixels import to_images
from wordbrush.data.scenes import Scene, box, render
from wordbrush.evaluation.distances import frechet_distance, psnr
from wordbrush.evaluation.inspector.sightings import Sighting, Thing, TrainedInspector
from wordbrush.evaluation.judging import Verdict, judge, relations
from wordbrush.evaluation.prompts import SEED, TASKS, Prompt, composition_prompts
from wordbrush.evaluation.retrieval import Retrieval, measure_retrieval
from wordbrush.request import GenerationRequest

if TYPE_CHECKING:
    from wordbrush.pipeline import Pipeline

TRUSTED = 0.97
"""An inspector that is right less often than this about renders is no judge."""

_SAME_PLACE = 0.08  # parts of the picture's side: a thing seen this near a drawn one's middle is that thing

Advance = Callable[[], None]


@dataclass(frozen=True, kw_only=True)
class Summary:
    """How many of a set of pictures are true to their prompts.

    Attributes:
        tasks: part of right pictures, by task.
        mean: of the tasks.
        deviation: standard error of that mean, from the number of prompts.
        background: part with the stated ground, among prompts that state one; None when none does.
        nothing_else: part that shows what was demanded and nothing else.
    """

    tasks: dict[str, float]
    mean: float
    deviation: float
    background: float | None
    nothing_else: float


@dataclass(frozen=True, kw_only=True)
class Accuracy:
    """How often the inspector is right about renders, each part between 0 and 1; None when there was nothing to see.

    Attributes:
        names: of things drawn, those seen in their place under their name.
        counts: of pictures, those with the right number of things.
        positions: of pairs with a relation, those that are seen to be in it.
        colours: of things painted a colour and seen in their place, those seen in that colour.
        backgrounds: of pictures, those whose ground has the right colour.
    """

    names: float | None
    counts: float | None
    positions: float | None
    colours: float | None
    backgrounds: float | None

    @property
    def trusted(self) -> bool:
        """Whether every part reaches `TRUSTED`."""
        parts = (self.names, self.counts, self.positions, self.colours, self.backgrounds)
        return all(part is None or part >= TRUSTED for part in parts)


@dataclass(frozen=True, kw_only=True)
class Distances:
    """Fréchet distances in the inspector's features, each from as many pictures to the same other held-out scenes."""

    painted: float
    floor: float  # from the renders of the prompts' own scenes: two sets of real scenes
    reconstructed: float  # from these renders through the autoencoder


@dataclass(frozen=True, kw_only=True)
class Judged:
    """One painted picture, its prompt and the judgement."""

    prompt: Prompt
    picture: Image.Image
    seed: int
    verdict: Verdict


@dataclass(frozen=True, kw_only=True)
class Composition:
    """The whole measurement."""

    request: GenerationRequest
    inspector: Accuracy
    renders: Summary
    reconstructed: Summary
    painted: Summary
    distances: Distances
    psnr: float  # dB, mean over the prompts' scenes through the autoencoder
    retrieval: Retrieval | None  # None: the model's folder has no CLIP
    judged: tuple[Judged, ...]

    @property
    def failures(self) -> list[Judged]:
        return [judged for judged in self.judged if not judged.verdict.right]


def composition_request(prompts: Sequence[Prompt], request: GenerationRequest) -> GenerationRequest:
    """The request that paints the prompts, with the settings of another request (whose prompt is not read)."""
    settings = {name: getattr(request, name) for name in request.model_fields_set - {"prompt", "count", "seed"}}
    return GenerationRequest(prompt=tuple(prompt.text for prompt in prompts), seed=SEED, **settings)


def measure(
    pipe: Pipeline, inspector: TrainedInspector, prompts: Sequence[Prompt], request: GenerationRequest, advance: Advance
) -> Composition:
    """Paints `request`, a `composition_request` of the prompts, and measures; `advance` is called at each step."""
    request = pipe.fill(request)
    renders = [Image.fromarray(render(prompt.scene)) for prompt in prompts]
    reconstructed = through_codec(pipe, renders)
    others = [Image.fromarray(render(scene)) for scene in other_scenes(prompts)]
    painted = paint(pipe, request, advance)
    seen = inspector.inspect(renders)
    reference = inspector.embed(others)
    verdicts = [judge(prompt, sighting) for prompt, sighting in zip(prompts, inspector.inspect(painted), strict=True)]
    return Composition(
        request=request,
        inspector=accuracy([prompt.scene for prompt in prompts], seen),
        renders=summarise(prompts, [judge(prompt, sighting) for prompt, sighting in zip(prompts, seen, strict=True)]),
        reconstructed=summarise(
            prompts,
            [
                judge(prompt, sighting)
                for prompt, sighting in zip(prompts, inspector.inspect(reconstructed), strict=True)
            ],
        ),
        painted=summarise(prompts, verdicts),
        distances=Distances(
            painted=frechet_distance(inspector.embed(painted), reference),
            floor=frechet_distance(inspector.embed(renders), reference),
            reconstructed=frechet_distance(inspector.embed(reconstructed), reference),
        ),
        psnr=float(np.mean([psnr(np.asarray(a), np.asarray(b)) for a, b in zip(renders, reconstructed, strict=True)])),
        retrieval=measure_retrieval(pipe, prompts, renders, painted),
        judged=tuple(
            Judged(prompt=prompt, picture=picture, seed=SEED + number, verdict=verdict)
            for number, (prompt, picture, verdict) in enumerate(zip(prompts, painted, verdicts, strict=True))
        ),
    )


def summarise(prompts: Sequence[Prompt], verdicts: Sequence[Verdict]) -> Summary:
    """The figures of a set of judgements, in the order of `TASKS`."""
    tasks, variance = {}, 0.0
    for task in TASKS:
        right = [verdict.right for prompt, verdict in zip(prompts, verdicts, strict=True) if prompt.task == task]
        if right:
            tasks[task] = sum(right) / len(right)
            variance += tasks[task] * (1 - tasks[task]) / len(right)
    grounds = [verdict.background for verdict in verdicts if verdict.background is not None]
    return Summary(
        tasks=tasks,
        mean=sum(tasks.values()) / len(tasks),
        deviation=variance**0.5 / len(tasks),
        background=sum(grounds) / len(grounds) if grounds else None,
        nothing_else=sum(verdict.right and verdict.nothing_else for verdict in verdicts) / len(verdicts),
    )


def truth(scene: Scene) -> Sighting:
    """What a perfect inspector sees in the render of a scene."""
    things = []
    for item in scene.objects:
        left, top, right, bottom = (side / scene.size for side in box(item))
        things.append(Thing(noun=item.kind.noun, colour=item.colour or "own", box=(left, top, right, bottom)))
    return Sighting(things=tuple(things), background=scene.background)


def accuracy(scenes: Sequence[Scene], sightings: Sequence[Sighting]) -> Accuracy:
    """How right the sightings of renders are."""
    names: list[bool] = []
    colours: list[bool] = []
    positions: list[bool] = []
    for scene, sighting in zip(scenes, sightings, strict=True):
        matched = [_seen_at(thing, sighting) for thing in truth(scene).things]
        for item, thing in zip(scene.objects, matched, strict=True):
            names.append(thing is not None and thing.noun == item.kind.noun)
            if item.colour is not None and thing is not None:
                colours.append(thing.colour == item.colour)
        if scene.relation is not None:
            first, second = matched[:2]
            positions.append(first is not None and second is not None and scene.relation in relations(first, second))
    pairs = list(zip(scenes, sightings, strict=True))
    return Accuracy(
        names=_part(names),
        counts=_part([len(scene.objects) == len(sighting.things) for scene, sighting in pairs]),
        positions=_part(positions),
        colours=_part(colours),
        backgrounds=_part([scene.background == sighting.background for scene, sighting in pairs]),
    )


def _seen_at(drawn: Thing, sighting: Sighting) -> Thing | None:
    """The thing seen where one was drawn: the nearest, if it is near."""

    def distance(thing: Thing) -> float:
        return max(abs(a - b) for a, b in zip(thing.centre, drawn.centre, strict=True))

    nearest = min(sighting.things, key=distance, default=None)
    return nearest if nearest is not None and distance(nearest) <= _SAME_PLACE else None


def _part(right: Sequence[bool]) -> float | None:
    return sum(right) / len(right) if right else None


def other_scenes(prompts: Sequence[Prompt]) -> list[Scene]:
    """As many other held-out scenes of the same tasks."""
    per_task = max(sum(prompt.task == task for prompt in prompts) for task in TASKS)
    return [prompt.scene for prompt in composition_prompts(per_task, SEED + 1)]


def paint(pipe: Pipeline, request: GenerationRequest, advance: Advance) -> list[Image.Image]:
    """The pictures of a filled-in request, painted as many at a time as is worth while."""
    size, pictures = pipe.batch_size(request), []
    for start in range(0, request.pictures, size):
        part = request.part(start, min(start + size, request.pictures))
        for step in pipe.steps(part):
            latents = step.x
            advance()
        pictures += pipe.finish(part, latents)
    return pictures


@torch.inference_mode()
def through_codec(pipe: Pipeline, pictures: Sequence[Image.Image], batch: int = 16) -> list[Image.Image]:
    """Encoded and decoded by the model's autoencoder, without noise."""
    result = []
    for start in range(0, len(pictures), batch):
        images = to_images(np.stack([np.asarray(picture) for picture in pictures[start : start + batch]]))
        result += pipe.decode(pipe.codec.encode(images))
    return result
