"""The measurement of CLIP guidance: same noise, two sides, and a table."""

from __future__ import annotations

import wordbrush
from wordbrush.evaluation.composition import composition_request
from wordbrush.evaluation.inspector import TrainedInspector
from wordbrush.evaluation.prompts import composition_prompts
from wordbrush.evaluation.steering import measure_steering, table
from wordbrush.request import GenerationRequest


def test_guidance_raises_similarity_on_the_first_prompt_of_each_task() -> None:
    pipe, prompts = wordbrush.load(), composition_prompts(1)
    settings = GenerationRequest(prompt="", steps=5, clip_guidance=10.0)
    request, steps = pipe.fill(composition_request(prompts, settings)), list[int]()
    result = measure_steering(pipe, TrainedInspector.load(), prompts, request, lambda: steps.append(1))
    assert len(steps) == 10
    assert result.pictures == 6
    assert result.gain > 0
    assert result.steered.similarity - result.without.similarity - result.gain < 1e-9
    assert result.steered.composition.mean >= result.without.composition.mean - 0.2
    assert "CLIP similarity" in table(result)
