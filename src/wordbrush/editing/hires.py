"""High-resolution fix: paint small, enlarge, and run a second loop on that, all in one request.

A model asked for more pixels than it was trained on repeats things. So the picture is laid out at the size that the
model knows, enlarged, and the second loop, which begins part-way, only draws what is missing (the A1111 web UI's
"Hires. fix").
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace

import torch
import torch.nn.functional as F
from torch import Tensor

from wordbrush.diffusion.plan import TimePlan
from wordbrush.diffusion.samplers import Step
from wordbrush.editing.canvas import picture_of
from wordbrush.editing.setup import latent_size, loop_times, side_step
from wordbrush.editing.start import image_tensor
from wordbrush.editing.upscale import UpscalerShelf, enlarged_size, find_upscaler
from wordbrush.errors import RequestError
from wordbrush.formats.parts import ModelParts
from wordbrush.request import GenerationRequest
from wordbrush.request_fields import LATENT_UPSCALERS, SHIPPED_UPSCALER
from wordbrush.runtime.codec import Codec

# Of a strength, as in the web UI: 1 would have the first step begin from noise alone.
_MOST_STRENGTH = 0.999

_MOST_STEPS = 1000


def with_enlarging(parts: ModelParts, request: GenerationRequest) -> GenerationRequest:
    """A filled-in request with what its `hires` and `upscale` leave open filled in too; twice changes nothing.

    Raises:
        RequestError: there is no such upscaler, the result would be too large, or the second loop does not fit.
    """
    size = (request.width or 0, request.height or 0)
    if request.hires is not None:
        hires = request.hires
        if hires.steps is None:
            hires = hires.model_copy(update={"steps": request.steps})
        if hires.upscaler not in LATENT_UPSCALERS:
            find_upscaler(hires.upscaler)
        request = request.model_copy(update={"hires": hires})
        second = second_pass(parts, request)
        size = (second.width or 0, second.height or 0)
        second_times(parts, request)
    if request.upscale is not None:
        name = SHIPPED_UPSCALER if request.upscaler is None else request.upscaler
        find_upscaler(name)
        enlarged_size(size, request.upscale)
        request = request.model_copy(update={"upscaler": name})
    return request


def second_pass(parts: ModelParts, request: GenerationRequest) -> GenerationRequest:
    """The request of the second loop, for the size it works at; `steps` are those of the whole schedule.

    As in the web UI, `hires.steps` are really taken: the schedule has as many more as lie above `strength`.

    Raises:
        RequestError: that schedule would have more than 1,000 steps.
    """
    hires = request.hires
    assert hires is not None
    steps, step = hires.steps or request.steps or 1, side_step(parts)
    whole = int(steps / min(hires.strength, _MOST_STRENGTH))
    if whole > _MOST_STEPS:
        raise RequestError(
            f"hires: {steps} steps at strength {hires.strength:g} are the last of {whole}, more than {_MOST_STEPS}; "
            "take fewer steps or more strength"
        )
    width, height = (round((side or 0) * hires.scale / step) * step for side in (request.width, request.height))
    changed = {"hires": None, "latents": None, "steps": whole, "width": width, "height": height}
    return request.model_copy(update=changed)


def second_times(parts: ModelParts, request: GenerationRequest) -> tuple[TimePlan, tuple[float, ...]]:
    """The plan and times of the second loop of a filled-in request. Raises `RequestError` as `loop_times` does."""
    hires = request.hires
    assert hires is not None
    plan, times = loop_times(parts, second_pass(parts, request))
    return plan, times[-((hires.steps or request.steps or 1) + 1) :]


def step_count(parts: ModelParts, request: GenerationRequest) -> int:
    """How many steps all loops of a filled-in request take."""
    first = len(loop_times(parts, request)[1]) - 1
    return first if request.hires is None else first + len(second_times(parts, request)[1]) - 1


def largest_latents(parts: ModelParts, request: GenerationRequest) -> tuple[int, int]:
    """(h, w) of the largest latents that a filled-in request's loops work on."""
    return latent_size(parts, request if request.hires is None else second_pass(parts, request))


@dataclass(frozen=True)
class Enlarging:
    """What happens between the loops: latents to latents of another size (h, w)."""

    codec: Codec
    upscalers: UpscalerShelf
    size: tuple[int, int]

    def __call__(self, request: GenerationRequest, latents: Tensor) -> Tensor:
        """(B, C, h, w) of the first loop to where the second begins, picture by picture."""
        hires = request.hires
        assert hires is not None
        if hires.upscaler in LATENT_UPSCALERS:
            return interpolated(latents, self.size, hires.upscaler)
        return torch.cat([self._through_pixels(row[None], hires.upscaler, hires.scale) for row in latents])

    def _through_pixels(self, row: Tensor, upscaler: str, scale: float) -> Tensor:
        from PIL import Image

        height, width = (side * self.codec.downscale for side in self.size)
        large = self.upscalers.named(upscaler).enlarge(picture_of(self.codec.decode(row)[0]), scale)
        if large.size != (width, height):
            large = large.resize((width, height), Image.Resampling.LANCZOS)
        return self.codec.encode(image_tensor(large)).to(row)


def interpolated(latents: Tensor, size: tuple[int, int], upscaler: str) -> Tensor:
    """Latents (B, C, h, w) at another size (h, w); `upscaler` is one of `LATENT_UPSCALERS`."""
    words = upscaler.partition("(")[2].rstrip(")").split()
    mode = next((word for word in words if word != "antialiased"), "bilinear")
    return F.interpolate(latents, size, mode=mode, antialias="antialiased" in words)


def in_two_stages(first: Iterator[Step], second: Callable[[Tensor], Iterator[Step]]) -> Iterator[Step]:
    """The steps of two loops in a row; `second` makes the later one from what the first ended with (B, C, h, w)."""
    last = None
    for last in first:
        yield last
    assert last is not None, "a loop has at least one step"
    for step in second(last.x):
        yield replace(step, index=last.index + 1 + step.index)
