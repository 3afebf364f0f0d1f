"""Travel: from one request to another over pictures in between, each an ordinary request that can be painted alone."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

from wordbrush.conditioning.prompt.blending import blendable
from wordbrush.errors import RequestError
from wordbrush.request import GenerationRequest

EASINGS: dict[str, Callable[[float], float]] = {
    "linear": lambda u: u,
    "smooth": lambda u: u * u * (3.0 - 2.0 * u),
    "sine": lambda u: 0.5 - 0.5 * math.cos(math.pi * u),
}
"""How the way is spread over the frames: 0…1 -> 0…1."""

ENDINGS = ("stop", "loop", "pingpong")
"""What follows the last stop: nothing, the way back to the first, or all frames backwards."""

# What two stops may differ in; the fields that frames between them are made of must be free.
_MOVING = ("prompt", "seed")
_FREE = ("count", "written")  # what a prompt was before it was expanded decides no pixel
_TAKEN = ("variation_seed", "variation_strength", "blend_prompt", "blend", "latents")


@dataclass(frozen=True, kw_only=True)
class Travel:
    """A way over two or more stops.

    Attributes:
        stops: filled-in requests for one picture each, alike in all but prompt and seed.
        frames: pictures from one stop to the next, both counted.
        easing: one of `EASINGS`.
        ending: one of `ENDINGS`.
        fps: frames a second.

    Raises:
        RequestError: a value is out of range or unknown, the stops differ in something else, or their prompts cannot be
            blended.
    """

    stops: tuple[GenerationRequest, ...]
    frames: int = 16
    easing: str = "smooth"
    ending: str = "stop"
    fps: float = 12.0

    def __post_init__(self) -> None:
        if len(self.stops) < 2:
            raise RequestError("a travel needs at least two stops: where it begins and where it ends")
        if not 2 <= self.frames <= 10_000:
            raise RequestError(f"frames={self.frames} is outside 2 to 10000; both stops are counted")
        if not 0.1 <= self.fps <= 100:
            raise RequestError(f"fps={self.fps} is outside 0.1 to 100")
        for name, value, known in (("easing", self.easing, EASINGS), ("ending", self.ending, ENDINGS)):
            if value not in known:
                raise RequestError(f"{name}={value!r} is unknown; there are {', '.join(known)}")
        for stop in self.stops:
            _require_stop(stop)
        for number, stop in enumerate(self.stops[1:], start=2):
            _require_alike(self.stops[0], stop, number)
        for start, stop in self.legs:
            if start.prompts != stop.prompts:
                blendable(start.prompts, stop.prompts[0])

    @property
    def legs(self) -> list[tuple[GenerationRequest, GenerationRequest]]:
        """(from, to) of every part of the way."""
        return list(pairwise((*self.stops, self.stops[0]) if self.ending == "loop" else self.stops))

    @property
    def requests(self) -> list[GenerationRequest]:
        """What is painted, in order, each once. A stop's own frame is the stop's request."""
        found = [
            between(start, stop, EASINGS[self.easing](number / (self.frames - 1)))
            for start, stop in self.legs
            for number in range(self.frames - 1)
        ]
        return found if self.ending == "loop" else [*found, self.stops[-1]]

    @property
    def order(self) -> list[int]:
        """Which of `requests` each frame of the film shows: with "pingpong" most are shown twice."""
        there = list(range(len(self.requests)))
        return [*there, *reversed(there[1:-1])] if self.ending == "pingpong" else there

    def to_dict(self) -> dict[str, Any]:
        """JSON values, which `from_dict` reads."""
        own = {"frames": self.frames, "easing": self.easing, "ending": self.ending, "fps": self.fps}
        return own | {"stops": [stop.to_dict() for stop in self.stops]}

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Travel:
        """Raises `RequestError` when the values are not those of a travel."""
        try:
            stops = tuple(GenerationRequest.from_dict(stop) for stop in values["stops"])
            return cls(
                stops=stops, frames=int(values["frames"]), easing=str(values["easing"]), ending=str(values["ending"]),
                fps=float(values["fps"]),
            )  # fmt: skip
        except (KeyError, TypeError, ValueError) as error:
            if isinstance(error, RequestError):
                raise
            raise RequestError(f"the travel is damaged: {error}") from error


def between(start: GenerationRequest, stop: GenerationRequest, share: float) -> GenerationRequest:
    """The request at `share` of the way: noise turned towards the other seed's, text embeddings on the line between.

    share: 0 is `start`, 1 is `stop`.
    """
    if share in (0.0, 1.0):
        return stop if share else start
    changed: dict[str, Any] = {}
    if start.seed != stop.seed:
        changed |= {"variation_seed": stop.seed, "variation_strength": share}
    if start.prompts != stop.prompts:
        changed |= {"blend_prompt": stop.prompts[0], "blend": share}
    return start.model_copy(update=changed)


def _require_stop(stop: GenerationRequest) -> None:
    if stop.pictures != 1 or stop.seed is None:
        raise RequestError("every stop of a travel is one picture with a seed; fill the request in first")
    for name in _TAKEN:
        if getattr(stop, name) is not None:
            raise RequestError(f"a stop of a travel cannot have {name} of its own; leave it out")


def _require_alike(first: GenerationRequest, other: GenerationRequest, number: int) -> None:
    different = [
        name
        for name in type(first).model_fields
        if name not in (*_MOVING, *_FREE) and getattr(first, name) != getattr(other, name)
    ]
    if different:
        name = different[0]
        raise RequestError(
            f"stop {number} has {name}={getattr(other, name)!r} where stop 1 has {getattr(first, name)!r}; "
            f"a travel changes {' and '.join(_MOVING)} alone, so make {', '.join(different)} equal"
        )


def stops_of(prompts: Sequence[str], seeds: Sequence[int | None]) -> list[tuple[str, int | None]]:
    """Prompts and seeds as stops: as many of each, or one of them for all.

    Raises:
        RequestError: the numbers do not fit, or nothing changes.
    """
    count = max(len(prompts), len(seeds))
    if len(prompts) not in (1, count) or len(seeds) not in (1, count):
        raise RequestError(f"{len(prompts)} prompts with {len(seeds)} seeds; give one seed, or one for each prompt")
    texts, numbers = list(prompts) * (count // len(prompts)), list(seeds) * (count // len(seeds))
    return list(zip(texts, numbers, strict=True))
