"""Is the picture true to the sentence? GenEval's rules (Ghosh 2023, section 3) on what an inspector has seen."""

from __future__ import annotations

import math
from dataclasses import dataclass

from wordbrush.evaluation.inspector.sightings import Sighting, Thing
from wordbrush.evaluation.prompts import Demand, Prompt

MARGIN = 0.1
"""How far apart two things must be to lie left of, right of, above or below: this part of both their sides together."""

MAIN_AXIS = 0.5
"""A relation holds when what is left along its axis, after the margin, is more than this part of the whole distance."""


@dataclass(frozen=True, kw_only=True)
class Verdict:
    """The judgement of one picture.

    Attributes:
        right: GenEval's verdict: everything demanded is there. It says nothing of the ground or of further things.
        reason: what was wrong, in words; "" when right.
        background: whether the ground has the stated colour; None when none was stated.
        nothing_else: whether there is nothing but what was demanded.
    """

    right: bool
    reason: str
    background: bool | None
    nothing_else: bool


def relations(first: Thing, second: Thing) -> set[str]:
    """Every relation in which the first thing stands to the second."""
    beyond, between = [], []
    for axis in (0, 1):
        sides = sum(thing.box[axis + 2] - thing.box[axis] for thing in (first, second))
        gap = first.centre[axis] - second.centre[axis]
        between.append(gap)
        beyond.append(math.copysign(max(abs(gap) - MARGIN * sides, 0.0), gap))
    distance = math.hypot(*between)
    if distance == 0.0:
        return set()
    across, down = beyond[0] / distance, beyond[1] / distance
    named = {"left of": -across, "right of": across, "above": -down, "below": down}
    return {name for name, part in named.items() if part > MAIN_AXIS}


def judge(prompt: Prompt, seen: Sighting) -> Verdict:
    """Holds the things seen against the prompt's demands."""
    found: list[list[Thing]] = []
    reason = ""
    for demand in prompt.demands:
        alike = [thing for thing in seen.things if thing.noun == demand.noun]
        reason = reason or _unmet(demand, alike)
        found.append(alike[: demand.count])
    if not reason and prompt.relation is not None:
        first, second = found[0][0], found[1][0]
        held = relations(first, second)
        if prompt.relation not in held:
            instead = " and ".join(sorted(held)) or "too near to say"
            reason = f"the {first.noun} is not {prompt.relation} the {second.noun}: {instead}"
    return Verdict(
        right=not reason,
        reason=reason,
        background=None if prompt.background is None else seen.background == prompt.background,
        nothing_else=len(seen.things) == sum(demand.count for demand in prompt.demands),
    )


def _unmet(demand: Demand, alike: list[Thing]) -> str:
    """What is wrong with the things of the demanded name, surest first; "" when nothing is."""
    if not alike:
        return f"no {demand.noun}"
    if len(alike) < demand.count or (demand.exactly and len(alike) > demand.count):
        return f"{len(alike)} x {demand.noun}, not {demand.count}"
    if demand.colour is not None:
        colours = [thing.colour for thing in alike[: demand.count]]
        if any(colour != demand.colour for colour in colours):
            shown = "in its own colours" if colours[0] == "own" else colours[0]
            return f"the {demand.noun} is {shown}, not {demand.colour}"
    return ""
