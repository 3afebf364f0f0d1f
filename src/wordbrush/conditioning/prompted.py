"""Prompts and a network to one guided denoiser: what each picture is told, at each step.

    prompts ─► programs ─► texts of all steps ─► conditioner ─► rows that the network is told
                                                                    │ picture i, step s
    x, t ───────────────────────────────────────────────────────────▼
           network(s) of all rows at once ─► parts of AND added up ─► guided away from the negative prompt
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cached_property

import torch
from torch import Tensor

from wordbrush.conditioning.conditioning import PLAIN, Conditioner, TextOptions
from wordbrush.conditioning.prompt.program import PromptProgram
from wordbrush.diffusion.guidance import (
    Guidance,
    PairDenoiser,
    batched_pair,
    classifier_free,
    clipped,
    composed,
    edited,
)
from wordbrush.diffusion.plan import SamplingConfig, TimePlan
from wordbrush.diffusion.prediction import Denoiser, network_denoiser
from wordbrush.diffusion.samplers import Step
from wordbrush.runtime.batching import NO_CONSTANTS, Constants, batched_network
from wordbrush.runtime.policy import Runtime
from wordbrush.runtime.runners import Runner, Told


@dataclass(frozen=True, kw_only=True)
class TextScales:
    """How strongly the text, and a picture that is edited, act.

    Attributes:
        guidance: classifier-free guidance.
        image: guidance towards the picture (`guidance.edited`), for a network that sees one; 1 is off.
    """

    guidance: Guidance
    image: float = 1.0


@dataclass(frozen=True, kw_only=True)
class Bound:
    """A network with everything that a run tells it but the text.

    Attributes:
        size: (h, w) of the latents.
        sampling: what the network predicts, and the bounds of a clean estimate, if it has any.
        time_ids: what Stable Diffusion XL is told of size, for prompts and for negative prompts: (1, 5 or 6) each.
    """

    runner: Runner
    runtime: Runtime
    size: tuple[int, int]
    plan: TimePlan
    sampling: SamplingConfig
    constants: Constants = NO_CONSTANTS
    time_ids: tuple[Tensor, Tensor] | None = None

    def denoiser(self, told: Sequence[Told], copies: int = 1, *, constants: Constants | None = None) -> Denoiser:
        """The network as a denoiser whose row i is told `told[i]`; see `batched_network`."""
        chosen = self.constants if constants is None else constants
        network = batched_network(self.runner, told, self.size, self.runtime, copies=copies, constants=chosen)
        return network_denoiser(network, self.plan.process, self.sampling.prediction, self.plan.timestep)


@dataclass
class StepCounter:
    """Which step of the loop is being computed: prompts that change on the way ask it."""

    steps: int
    """How many the loop takes."""
    step: int = 0
    """0 is the first."""

    def counted(self, walk: Iterator[Step]) -> Iterator[Step]:
        """The steps of a sampler, counted as they come."""
        for found in walk:
            self.step = min(found.index + 1, self.steps - 1)
            yield found


class Texts:
    """Texts as rows that the network is told, each encoded once for every length it is needed in."""

    def __init__(self, conditioner: Conditioner, bound: Bound, options: TextOptions = PLAIN) -> None:
        self.conditioner, self.bound, self.options = conditioner, bound, options
        self._rows: dict[tuple[str, bool, int], Told] = {}

    def length(self, texts: Sequence[str]) -> int:
        """How long the contexts of these texts are when none is cut."""
        return max(self.conditioner.length(text, self.options) for text in texts)

    def row(self, text: str, length: int, *, negative: bool) -> Told:
        """What the network is told of a text, as one row."""
        key = (text, negative, length)
        if key not in self._rows:
            encode = self.conditioner.encode_negative if negative else self.conditioner.encode
            with torch.inference_mode():
                found = encode([text], self.options, length=length)
                ids = None if self.bound.time_ids is None else self.bound.time_ids[negative].to(found.context.device)
                self._rows[key] = self.bound.runner.told(found.context, found.pooled, ids)
        return self._rows[key]


@dataclass(frozen=True, kw_only=True)
class Group:
    """Pictures of a batch that go through the network together: alike in the length of their contexts and in AND.

    Attributes:
        places: their numbers in the batch.
        programs: of their prompts.
        length: of their contexts; the negative prompt's may have another.
    """

    places: tuple[int, ...]
    programs: tuple[PromptProgram, ...]
    length: int

    @property
    def weights(self) -> tuple[float, ...]:
        """Of the parts between ANDs."""
        return self.programs[0].weights


class Prompted:
    """The prompts of a batch, encoded, and the denoiser that follows them.

    Args:
        prompts: one for each picture.
        counter: says which step is computed.

    Raises:
        RequestError: a prompt cannot be read.
    """

    def __init__(
        self, bound: Bound, texts: Texts, prompts: Sequence[str], negative_prompt: str, scales: TextScales,
        counter: StepCounter,
    ) -> None:  # fmt: skip
        self.bound, self.texts, self.scales, self.counter = bound, texts, scales, counter
        self.against = PromptProgram.parse_negative(negative_prompt)
        self.groups = self._grouped(prompts)
        for group in self.groups:
            for step in range(1 if self._constant(group) else counter.steps):
                self._rows(group, step)

    def denoiser(self) -> Denoiser:
        """x: (B, C, h, w), picture i follows prompt i."""
        parts = [self._following(group) for group in self.groups]
        if len(parts) == 1:
            return parts[0]
        places = [torch.tensor(group.places) for group in self.groups]

        def apart(x: Tensor, t: float) -> Tensor:
            x0 = torch.empty_like(x)
            for place, part in zip(places, parts, strict=True):
                x0[place] = part(x[place], t)
            return x0

        return apart

    def parts(self, step: int) -> list[tuple[str, Denoiser]]:
        """What the first picture is told at a step: each text between ANDs, and the unguided denoiser of it alone."""
        group = next(group for group in self.groups if 0 in group.places)
        texts = [part.text for part in group.programs[0].at(step, self.counter.steps)]
        rows = [self.texts.row(text, group.length, negative=False) for text in texts]
        return [(text, self.bound.denoiser([row])) for text, row in zip(texts, rows, strict=True)]

    def _grouped(self, prompts: Sequence[str]) -> list[Group]:
        programs = {prompt: PromptProgram.parse(prompt) for prompt in dict.fromkeys(prompts)}
        kinds: dict[tuple[int, tuple[float, ...]], list[int]] = {}
        for place, prompt in enumerate(prompts):
            program = programs[prompt]
            length = self.texts.length(program.texts(self.counter.steps))
            kinds.setdefault((length, program.weights), []).append(place)
        return [
            Group(places=tuple(places), programs=tuple(programs[prompts[place]] for place in places), length=length)
            for (length, _), places in kinds.items()
        ]

    @cached_property
    def _length_against(self) -> int:
        """How long the contexts of the negative prompt are."""
        return self.texts.length(self.against.texts(self.counter.steps))

    def _turns_away(self, weights: tuple[float, ...]) -> bool:
        """Whether the negative prompt is read at all."""
        return not self.scales.guidance.off or weights != (1.0,) or self.scales.image != 1.0

    def _constant(self, group: Group) -> bool:
        """Whether every step has the same texts."""
        return all(program.constant for program in (*group.programs, self.against))

    def _rows(self, group: Group, step: int) -> list[Told]:
        """First part of every picture, second part …, then the negative prompt of every picture if it is read."""
        steps, row, length = self.counter.steps, self.texts.row, group.length
        wanted = [program.at(step, steps) for program in group.programs]
        parts = range(len(group.weights))
        positive = [row(texts[part].text, length, negative=False) for part in parts for texts in wanted]
        if not self._turns_away(group.weights):
            return positive
        against = row(self.against.at(step, steps)[0].text, self._length_against, negative=True)
        return [*positive, *[against] * len(wanted)]

    def _following(self, group: Group) -> Denoiser:
        """The guided denoiser of a group: one while its prompts stay as they are, made when a step first needs it."""
        limit = self.bound.sampling.clip_x0
        if limit is not None:
            return clipped(self._unbounded(group), limit)
        return self._unbounded(group)

    def _unbounded(self, group: Group) -> Denoiser:
        if self._constant(group):
            return self._guided(group, self._rows(group, 0))
        made: dict[tuple[int, ...], Denoiser] = {}

        def following(x: Tensor, t: float) -> Tensor:
            rows = self._rows(group, self.counter.step)
            key = tuple(map(id, rows))
            if key not in made:
                made[key] = self._guided(group, rows)
            return made[key](x, t)

        return following

    def _guided(self, group: Group, rows: list[Told]) -> Denoiser:
        bound, pictures, weights = self.bound, len(group.places), group.weights
        if not self._turns_away(weights):
            return bound.denoiser(rows)
        stacked = self._stacked(group, rows)
        both = batched_pair(stacked) if weights == (1.0,) else composed(stacked, torch.tensor(weights))
        positive = bound.denoiser(rows[:pictures]) if weights == (1.0,) else _first(both)
        if self.scales.image != 1.0 and bound.constants.beside is not None:
            unseen = replace(bound.constants, beside=torch.zeros_like(bound.constants.beside))
            both = edited(both, bound.denoiser(rows[-pictures:], constants=unseen), self.scales.image)
            positive = _first(both)
        return classifier_free(positive, both, self.scales.guidance, bound.plan.process, bound.sampling.prediction)

    def _stacked(self, group: Group, rows: list[Told]) -> Denoiser:
        """All rows as one denoiser. Contexts of unlike lengths go through the network apart: padding would be seen."""
        copies, pictures = len(group.weights), len(group.places)
        if group.length == self._length_against:
            return self.bound.denoiser(rows, copies=copies + 1)
        prompts = self.bound.denoiser(rows[:-pictures], copies=copies)
        against = self.bound.denoiser(rows[-pictures:])

        def apart(x: Tensor, t: float) -> Tensor:
            return torch.cat([prompts(x[:-pictures], t), against(x[-pictures:], t)])

        return apart


def _first(both: PairDenoiser) -> Denoiser:
    def positive(x: Tensor, t: float) -> Tensor:
        return both(x, t)[0]

    return positive
