"""`wordbrush evaluate steering`: does CLIP guidance make pictures that CLIP finds more like their prompts?

The fixed prompts are painted twice from the same noise, without and with it. CLIP's own opinion must rise, or nothing
was steered; the inspector, which knows nothing of CLIP, says whether the pictures became truer or only pleased CLIP.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch
from PIL import Image

from wordbrush.data.pixels import to_images
from wordbrush.editing.clip_guidance import ClipGuide
from wordbrush.evaluation.composition import Advance, Summary, paint, summarise
from wordbrush.evaluation.inspector.sightings import TrainedInspector
from wordbrush.evaluation.judging import judge
from wordbrush.evaluation.prompts import Prompt
from wordbrush.request import GenerationRequest

if TYPE_CHECKING:
    from wordbrush.pipeline import Pipeline


@dataclass(frozen=True, kw_only=True)
class Side:
    """One of the two sets of pictures.

    Attributes:
        similarity: cosine of picture and prompt in CLIP, mean over the pictures.
        composition: the inspector's verdict.
    """

    similarity: float
    composition: Summary


@dataclass(frozen=True, kw_only=True)
class Steering:
    """The whole measurement.

    Attributes:
        scale: of CLIP guidance.
        gain: of similarity, mean over the pairs of pictures.
        deviation: standard error of that mean.
        higher: part of the pairs in which it is higher with guidance.
    """

    pictures: int
    scale: float
    without: Side
    steered: Side
    gain: float
    deviation: float
    higher: float


def measure_steering(
    pipe: Pipeline, inspector: TrainedInspector, prompts: Sequence[Prompt], request: GenerationRequest, advance: Advance
) -> Steering:
    """Paints `request`, a filled-in `composition_request` of the prompts with CLIP guidance, and the same without."""
    plain = request.model_copy(update={"clip_guidance": None, "clip": None})
    guide = pipe.clip_guide(request.clip)
    texts = guide.texts([prompt.text for prompt in prompts])
    sides, values = [], []
    for asked in (plain, request):
        pictures = paint(pipe, asked, advance)
        seen = [judge(prompt, sight) for prompt, sight in zip(prompts, inspector.inspect(pictures), strict=True)]
        values.append(similarities(guide, pictures, texts))
        sides.append(Side(similarity=float(values[-1].mean()), composition=summarise(prompts, seen)))
    gains = values[1] - values[0]
    return Steering(
        pictures=len(prompts),
        scale=request.clip_guidance or 0.0,
        without=sides[0],
        steered=sides[1],
        gain=float(gains.mean()),
        deviation=float(gains.std() / max(len(gains), 1) ** 0.5),
        higher=float((gains > 0).mean()),
    )


@torch.inference_mode()
def similarities(guide: ClipGuide, pictures: Sequence[Image.Image], texts: torch.Tensor) -> np.ndarray:
    """Cosines (N,) of pictures and their texts (N, P)."""
    found = [
        guide.similarity(to_images(np.array(picture)[None]).to(texts.device), text[None])
        for picture, text in zip(pictures, texts, strict=True)
    ]
    return torch.cat(found).double().cpu().numpy()


def table(result: Steering) -> str:
    """For a terminal."""
    plain, steered = result.without, result.steered
    return "\n".join(
        [
            f"{result.pictures} prompts, painted without and with CLIP guidance {result.scale:g}, from the same noise",
            f"{'':24}{'without':>10}{'with':>10}",
            f"{'CLIP similarity':24}{plain.similarity:10.4f}{steered.similarity:10.4f}"
            f"   {result.gain:+.4f} ± {result.deviation:.4f}, higher in {result.higher:.0%} of the pairs",
            f"{'composition':24}{plain.composition.mean:10.3f}{steered.composition.mean:10.3f}"
            f"   ± {plain.composition.deviation:.3f}, by the inspector",
        ]
    )
