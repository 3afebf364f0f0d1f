"""Inversion: from a picture back to the noise that the model would paint it from."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Protocol

import torch
from torch import Tensor

from wordbrush.diffusion.plan import TimePlan
from wordbrush.diffusion.prediction import Denoiser
from wordbrush.diffusion.process import Process
from wordbrush.diffusion.samplers.base import Step, intervals, step_to
from wordbrush.errors import RequestError, WorkFailed
from wordbrush.request import GenerationRequest

REFINEMENTS = 2
"""How often each step is corrected; 20 steps then bring back what the embedded model's VAE keeps of a picture."""

# Whole corrections overshoot where the estimate does not follow x, and each undoes the one before.
_DAMPED = 0.5


class Counter(Protocol):
    """Which step of sampling is being computed; prompts that change on the way ask it."""

    step: int


class Loop(Protocol):
    """A loop that is set up; `pipeline.Run` says more."""

    @property
    def clean(self) -> Tensor | None:
        """(1, C, h, w), the latents of the picture it begins from."""

    @property
    def denoiser(self) -> Denoiser:
        """Guided, and following the prompt."""

    @property
    def counter(self) -> Counter:
        """Of the denoiser."""

    @property
    def times(self) -> tuple[float, ...]:
        """Falling."""

    @property
    def plan(self) -> TimePlan:
        """Of the times."""

    @property
    def release(self) -> Callable[[], object]:
        """To be called when the loop is left."""


class Painter(Protocol):
    """What inversion needs of a `Pipeline`."""

    def fill(self, request: GenerationRequest) -> GenerationRequest:
        """The full request."""

    def step_count(self, request: GenerationRequest) -> int:
        """Of a filled-in request."""

    def begin(self, request: GenerationRequest) -> Loop:
        """Sets the loop up."""


def inverse_steps(
    denoiser: Denoiser, x: Tensor, times: Sequence[float], process: Process, refinements: int = REFINEMENTS
) -> Iterator[Step]:
    """Walks data to noise along the path that DDIM (Euler) takes from noise to data (Song 2021, eq. 12 and §4.3).

    The sampler's step from t_next down to t is x = f(x_next), which has no closed inverse: f asks the denoiser at the
    x_next that is sought. It is found as a fixed point, z <- z + (x - f(z)), as in Pan 2023 (AIDI, §4), from the guess
    that the last clean estimate still holds. One correction is DDIM inversion, right for many steps; more make the way
    back right for few.

    Args:
        denoiser: (x, t) -> x0.
        x: (B, C, h, w) at times[-1].
        times: falling, as for sampling; they are walked from the last to the first.
        refinements: at least 1; as many calls of the denoiser a step.
    """
    x0 = x / process.alpha(times[-1])
    for index, (t_next, t) in enumerate(reversed(intervals(times))):
        if t_next == t:  # a last step of no length changes nothing
            continue
        clean = process.sigma(t) <= 0.0  # which says nothing of the noise that was in x: there is nothing to refine
        z = process.alpha(t_next) * x0 if clean else step_to(x, x0, process, t, t_next)
        for attempt in range(1 if clean else refinements):
            x0 = denoiser(z, t_next)
            z = z + (_DAMPED if attempt else 1.0) * (x - step_to(z, x0, process, t_next, t))
        x = z
        yield Step(index, t_next, x, x0)


class Inversion:
    """A picture on its way back to noise: iterate over it, then ask for `noise`.

    Args:
        request: with `image`; one picture, no mask. Its size is the picture's.
        refinements: as for `inverse_steps`.

    Raises:
        RequestError: the request has no image, or asks for what has no meaning here.
    """

    def __init__(self, pipe: Painter, request: GenerationRequest, refinements: int = REFINEMENTS) -> None:
        if request.image is None:
            raise RequestError("inversion needs a picture; give image")
        if request.mask is not None or request.strength not in (None, 1.0):
            raise RequestError("inversion takes a whole picture all the way to noise; leave out mask and strength")
        if request.hires is not None or request.extend is not None:
            raise RequestError("inversion runs one loop over the picture as it is; leave out hires and extend")
        if request.pictures != 1:
            raise RequestError(f"inversion takes one picture under one prompt, the request has {request.pictures}")
        self.request = pipe.fill(request.model_copy(update={"strength": 1.0}))
        self._pipe, self._refinements = pipe, refinements
        self._end: Tensor | None = None

    @property
    def steps(self) -> int:
        """How many steps the walk has at most."""
        return self._pipe.step_count(self.request)

    def __iter__(self) -> Iterator[Step]:
        run = self._pipe.begin(self.request)
        try:
            if run.clean is None:
                raise RequestError("this model sees the picture it changes, and does not paint from noise alone")
            walk = inverse_steps(run.denoiser, run.clean, run.times, run.plan.process, self._refinements)
            last = len(run.times) - 2
            run.counter.step = last
            while True:
                with torch.inference_mode():  # not while the consumer looks at the step
                    step = next(walk, None)
                if step is None:
                    return
                self._end = step.x / run.plan.start_scale
                yield step
                run.counter.step = max(last - step.index - 1, 0)
        finally:
            run.release()

    def noise(self) -> Tensor:
        """(1, C, h, w) float32 on the CPU, of about unit variance, once the walk has ended.

        Raises:
            WorkFailed: the corrections did not settle.
        """
        assert self._end is not None
        if not torch.isfinite(self._end).all():
            raise WorkFailed(f"the inversion did not settle at guidance={self.request.guidance}; bring it nearer to 1")
        return self._end.float().cpu().clone()


def invert(pipe: Painter, request: GenerationRequest, refinements: int = REFINEMENTS) -> Tensor:
    """The noise that the model paints a picture from, under the request's prompt, steps and guidance.

    Sampling from it with `ddim` or `euler`, the same prompt, steps and schedule paints the picture again; with another
    prompt it edits it. Guidance 1 is the surest: what guidance adds makes the steps hard to undo.

    Returns (1, C, h, w): `latents` of a request without image, of the picture's size.

    Raises:
        RequestError, WorkFailed: as `Inversion`.
    """
    inversion = Inversion(pipe, request, refinements)
    for _ in inversion:
        pass
    return inversion.noise()
