"""Travel: which requests lie between two, and which two have no way between them."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from wordbrush import GenerationRequest, Pipeline, RequestError
from wordbrush.editing.travel import EASINGS, Travel, between, stops_of


def stop(prompt: str = "a fox", seed: int = 1, **fields: Any) -> GenerationRequest:
    return GenerationRequest.from_dict({"prompt": prompt, "seed": seed, "steps": 4, **fields})


def test_frames_turn_the_noise_and_blend_the_texts() -> None:
    way = Travel(stops=(stop("a fox", 1), stop("a cat", 5)), frames=3, easing="linear")
    first, middle, last = way.requests
    assert (first, last) == way.stops
    assert (middle.prompt, middle.seed) == ("a fox", 1)
    assert (middle.variation_seed, middle.variation_strength) == (5, 0.5)
    assert (middle.blend_prompt, middle.blend) == ("a cat", 0.5)


def test_what_both_have_is_left_alone() -> None:
    middle = between(stop("a fox", 1), stop("a fox", 2), 0.25)
    assert (middle.blend_prompt, middle.variation_strength) == (None, 0.25)
    middle = between(stop("a fox", 1), stop("a cat", 1), 0.25)
    assert (middle.variation_strength, middle.blend) == (None, 0.25)


@pytest.mark.parametrize(("ending", "painted", "shown"), [("stop", 7, 7), ("loop", 9, 9), ("pingpong", 7, 12)])
def test_how_a_way_over_three_stops_ends(ending: str, painted: int, shown: int) -> None:
    way = Travel(stops=(stop(seed=1), stop(seed=2), stop(seed=3)), frames=4, ending=ending)
    assert (len(way.requests), len(way.order)) == (painted, shown)
    assert way.requests[3] == way.stops[1]
    assert way.order[0] == 0
    if ending == "pingpong":
        assert way.order[-1] == 1  # the film begins again at 0


@pytest.mark.parametrize("easing", sorted(EASINGS))
def test_easings_begin_at_0_end_at_1_and_rise(easing: str) -> None:
    values = [EASINGS[easing](index / 10) for index in range(11)]
    assert (values[0], values[10]) == (pytest.approx(0), pytest.approx(1))
    assert values == sorted(values)
    assert values[5] == pytest.approx(0.5)


def test_its_json_reads_back() -> None:
    way = Travel(stops=(stop("a fox", 1), stop("a cat", 5)), frames=3, easing="sine", ending="loop", fps=7.5)
    assert Travel.from_dict(way.to_dict()) == way


@pytest.mark.parametrize(
    ("stops", "fields", "words"),
    [
        ((stop(),), {}, "two stops"),
        ((stop(), stop(steps=5)), {}, "steps=5 where stop 1 has 4"),
        ((stop(), stop(seed=2, negative_prompt="x", width=64)), {}, "negative_prompt, width equal"),
        ((stop(count=2), stop()), {}, "one picture"),
        ((stop(), stop("a cat AND a car")), {}, "AND"),
        ((stop(variation_strength=0.1), stop()), {}, "variation_strength of its own"),
        ((stop(), stop(seed=2)), {"frames": 1}, "frames=1"),
        ((stop(), stop(seed=2)), {"fps": 0}, "fps=0"),
        ((stop(), stop(seed=2)), {"easing": "bouncy"}, "easing='bouncy'"),
        ((stop(), stop(seed=2)), {"ending": "never"}, "ending='never'"),
    ],
)
def test_ways_that_cannot_be_gone_are_refused(stops: Any, fields: dict[str, Any], words: str) -> None:
    with pytest.raises(RequestError, match=words):
        Travel(stops=stops, **fields)


def test_a_damaged_record_is_refused() -> None:
    with pytest.raises(RequestError, match="damaged"):
        Travel.from_dict({"stops": []})


def test_prompts_and_seeds_are_paired() -> None:
    assert stops_of(["a", "b"], [3]) == [("a", 3), ("b", 3)]
    assert stops_of(["a"], [3, 4]) == [("a", 3), ("a", 4)]
    with pytest.raises(RequestError, match="2 prompts with 3 seeds"):
        stops_of(["a", "b"], [1, 2, 3])


def test_the_ends_of_the_way_have_the_bits_of_the_stops(tiny_pipe: Pipeline) -> None:
    stops = tuple(tiny_pipe.fill(one) for one in (stop("a fox", 1), stop("a red car", 5)))
    painted = [tiny_pipe(request).latents for request in Travel(stops=stops, frames=3).requests]
    assert torch.equal(painted[0], tiny_pipe("a fox", seed=1, steps=4).latents)
    assert torch.equal(painted[2], tiny_pipe("a red car", seed=5, steps=4).latents)
    assert not torch.equal(painted[1], painted[0])
