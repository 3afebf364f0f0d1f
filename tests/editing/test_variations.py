"""Variations: noise turned towards other noise."""

from __future__ import annotations

import math

import pytest
import torch
from torch.testing import assert_close

from wordbrush import GenerationRequest, Pipeline, RequestError
from wordbrush.diffusion.noise import NoiseSource
from wordbrush.editing.variations import slerp

PROMPT = "a fox on a blue background"


def test_a_third_of_a_right_angle_is_thirty_degrees() -> None:
    first, second = torch.tensor([[1.0, 0.0]]), torch.tensor([[0.0, 1.0]])
    assert_close(slerp(1 / 3, first, second), torch.tensor([[math.cos(math.pi / 6), math.sin(math.pi / 6)]]))


def test_between_noises_lies_noise_of_the_same_size() -> None:
    first, second = torch.randn(2, 3, 4, 16, 16, generator=torch.Generator().manual_seed(0))
    middle = slerp(0.5, first, second)
    assert middle.std().item() == pytest.approx(1.0, abs=0.03)
    assert torch.lerp(first, second, 0.5).std().item() < 0.75


def test_the_ends_are_the_noises_themselves_and_rows_do_not_meet() -> None:
    first, second = torch.randn(2, 3, 4, 5, generator=torch.Generator().manual_seed(1))
    assert torch.equal(slerp(0.0, first, second), first)
    assert torch.equal(slerp(1.0, first, second), second)
    assert torch.equal(slerp(0.3, first, second)[1:2], slerp(0.3, first[1:2], second[1:2]))


@pytest.mark.parametrize("other", [1.0, -1.0, 0.0])
def test_parallel_and_empty_vectors_have_finite_ways(other: float) -> None:
    row = torch.ones(1, 4)
    assert torch.isfinite(slerp(0.4, row, other * row)).all()


def test_a_variation_starts_from_the_turned_noise(tiny_pipe: Pipeline) -> None:
    varied = tiny_pipe(PROMPT, seed=3, variation_seed=9, variation_strength=0.3)
    noise = slerp(0.3, *(NoiseSource([seed], (4, 8, 8))() for seed in (3, 9)))
    by_hand = tiny_pipe(PROMPT, seed=3, latents=noise)
    assert torch.equal(varied.latents, by_hand.latents)
    assert not torch.equal(varied.latents, tiny_pipe(PROMPT, seed=3).latents)


def test_strength_0_is_the_seed_and_1_the_other_seed(tiny_pipe: Pipeline) -> None:
    ends = [tiny_pipe(PROMPT, seed=3, variation_seed=9, variation_strength=end).latents for end in (0.0, 1.0)]
    assert torch.equal(ends[0], tiny_pipe(PROMPT, seed=3).latents)
    assert torch.equal(ends[1], tiny_pipe(PROMPT, seed=9).latents)


def test_a_variation_is_the_same_alone_and_in_a_batch(tiny_pipe: Pipeline) -> None:
    batch = tiny_pipe(PROMPT, seed=3, count=3, variation_seed=9, variation_strength=0.3)
    alone = tiny_pipe(PROMPT, seed=5, variation_seed=11, variation_strength=0.3)
    assert torch.equal(batch.latents[2], alone.latents[0])
    assert batch.request.part(2, 3).variation_seed == 11


def test_a_variation_seed_that_is_left_out_is_drawn_and_recorded(tiny_pipe: Pipeline) -> None:
    request = tiny_pipe.fill(GenerationRequest(prompt=PROMPT, variation_strength=0.2))
    assert request.variation_seed is not None
    assert tiny_pipe.fill(request) == request


def test_the_infotext_has_the_web_uis_keys() -> None:
    request = GenerationRequest(prompt=PROMPT, seed=1, variation_seed=2, variation_strength=0.25)
    text = request.to_infotext()
    assert "Variation seed: 2, Variation seed strength: 0.25" in text
    again = GenerationRequest.from_infotext(text + ", Steps: 4, Sampler: DDIM")
    assert (again.variation_seed, again.variation_strength) == (2, 0.25)


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({"variation_seed": 3}, "variation_strength"),
        ({"variation_seed": 2**63 - 1, "variation_strength": 0.1, "count": 2}, "leaves no room"),
        ({"variation_strength": 1.5}, "variation_strength=1.5"),
    ],
)
def test_what_has_no_meaning_is_refused(fields: dict[str, object], words: str) -> None:
    with pytest.raises(RequestError, match=words):
        GenerationRequest.from_dict({"prompt": PROMPT, **fields})
