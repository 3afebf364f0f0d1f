"""A loop that is set up and about to begin, with all that an onlooker may want to know of it."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from wordbrush.conditioning.prompted import Prompted, StepCounter
from wordbrush.diffusion.plan import TimePlan
from wordbrush.diffusion.prediction import Denoiser
from wordbrush.diffusion.samplers import Step


@dataclass(frozen=True, kw_only=True)
class Run:
    """A loop about to begin; iterate over it once.

    Attributes:
        x: (B, C, h, w) float32 at times[0].
        times: falling; one more than there are steps.
        plan: what the network is told at each time.
        prompted: the prompts, and the network that is told them.
        denoiser: guided, and following the prompts.
        clean: (1, C, h, w), the latents of the picture that the loop begins from; None where there is none.
        counter: which step the denoiser computes.
        release: called when the loop ends or is left.
    """

    x: Tensor
    times: tuple[float, ...]
    plan: TimePlan
    prompted: Prompted
    denoiser: Denoiser
    clean: Tensor | None
    counter: StepCounter
    walk: Iterator[Step]
    release: Callable[[], object]

    def __iter__(self) -> Iterator[Step]:
        try:
            while True:
                with torch.inference_mode():  # not while the consumer looks at the step
                    step = next(self.walk, None)
                if step is None:
                    return
                yield step
        finally:
            self.release()
