"""Pictures of different requests in one loop: none of them changes a bit."""

from __future__ import annotations

import subprocess
import sys
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from wordbrush import GenerationRequest, Pipeline, RequestError
from wordbrush.editing.joined import agreement, joined

DETERMINISTIC = ("dpmpp_2m", "euler", "heun", "unipc")
ANCESTRAL = ("euler_a", "dpmpp_2s_a", "dpmpp_sde", "dpmpp_2m_sde", "dpmpp_3m_sde", "ddpm", "lcm")


def alone(pipe: Pipeline, request: GenerationRequest) -> bytes:
    return pipe(request).images[0].tobytes()


def together(pipe: Pipeline, singles: list[GenerationRequest]) -> list[bytes]:
    loop = joined(singles)
    for step in pipe.steps(loop.request, loop.seeds):
        final = step.x
    return [picture.tobytes() for picture in pipe.finish(loop.request, final)]


def check(pipe: Pipeline, requests: list[GenerationRequest]) -> None:
    """Each of the requests' pictures, all mixed in one loop, has the bits that it has alone."""
    filled = [pipe.fill(request) for request in requests]
    singles = [one.part(index, index + 1) for one in filled for index in range(one.pictures)]
    singles = singles[::2] + singles[1::2]
    assert together(pipe, singles) == [alone(pipe, single) for single in singles]


def mixed(**fields: Any) -> list[GenerationRequest]:
    return [
        GenerationRequest(prompt="a fox on a blue background", seed=41, count=2, **fields),
        GenerationRequest(prompt=("a red car", "[a cat:a fox:0.5] above a (green house:1.3)"), seed=7, **fields),
        GenerationRequest(prompt="it's two slices of pizza AND a red car :0.5", seed=2**62 + 9, **fields),
    ]


@pytest.mark.parametrize("sampler", [*DETERMINISTIC, *ANCESTRAL])
def test_pictures_of_a_mixed_loop_are_those_painted_alone(tiny_pipe: Pipeline, sampler: str) -> None:
    check(tiny_pipe, mixed(sampler=sampler, steps=3, negative_prompt="three cats"))


def picture(side: int = 32) -> Image.Image:
    values = np.arange(side * side * 3, dtype=np.uint32) * 2654435761 >> 24
    return Image.fromarray(values.astype(np.uint8).reshape(side, side, 3))


@pytest.mark.parametrize(
    "fields",
    [
        {"variation_seed": 900, "variation_strength": 0.3},
        {"hires": {"scale": 1.5, "steps": 2}, "sampler": "euler_a"},
        {"image": picture(), "strength": 0.8, "mask": "4,4,20,16", "mask_fill": "noise", "sampler": "euler_a"},
        {"upscale": 2.0, "upscaler": "lanczos"},
    ],
    ids=lambda fields: next(iter(fields)),
)
def test_so_are_those_of_every_way_to_paint(tiny_pipe: Pipeline, fields: dict[str, Any]) -> None:
    requests = mixed(steps=4, **fields)
    if "variation_seed" in fields:  # of which a request's pictures agree, but requests with other distances do not
        requests = requests[:1]
    check(tiny_pipe, requests)


def test_and_with_the_embedded_model_in_its_fastest_format() -> None:
    import wordbrush

    check(wordbrush.load(), mixed(sampler="euler_a", steps=2))


def test_noise_that_was_given_stays_with_its_picture(tiny_pipe: Pipeline) -> None:
    noise = torch.randn(2, 4, 8, 8, generator=torch.Generator().manual_seed(0))
    requests = [GenerationRequest(prompt="a fox", seed=5, latents=one[None], sampler="euler_a") for one in noise]
    check(tiny_pipe, requests)
    assert agreement(requests[0]) != agreement(GenerationRequest(prompt="a fox", seed=5, sampler="euler_a"))


def test_words_drawn_for_one_are_not_drawn_again(tiny_pipe: Pipeline) -> None:
    drawn = GenerationRequest(prompt=r"a {fox|cat|red car} \{on a house\}", seed=11, count=3)
    check(tiny_pipe, [drawn, GenerationRequest(prompt="a cat", seed=3)])


@pytest.mark.parametrize(
    "fields",
    [
        {"steps": 5}, {"sampler": "euler"}, {"guidance": 2.0}, {"negative_prompt": "a cat"}, {"width": 64},
        {"image": picture()}, {"clip_skip": 2}, {"prompt": "a fox <lora:fur:0.5>"}, {"loras": ["fur:0.5"]},
        {"variation_seed": 9, "variation_strength": 0.5}, {"model": "another"}, {"preset": "quick"},
    ],
    ids=" ".join,
)  # fmt: skip
def test_what_decides_more_than_a_row_parts_requests(fields: dict[str, Any]) -> None:
    plain = GenerationRequest(prompt="a fox", seed=1)
    other = GenerationRequest.from_dict({"prompt": "a cat", "seed": 2, "count": 3, **fields})
    assert agreement(plain) != agreement(other)
    assert agreement(plain) == agreement(GenerationRequest(prompt="a house", seed=8, count=2, styles=("sketch",)))


def test_those_that_do_not_agree_are_refused() -> None:
    first = GenerationRequest(prompt="a fox", seed=1, steps=3)
    with pytest.raises(RequestError, match="differ in more"):
        joined([first, GenerationRequest(prompt="a fox", seed=1, steps=4)])
    with pytest.raises(RequestError, match="one picture each"):
        joined([first, GenerationRequest(prompt="a fox", seed=1, steps=3, count=2)])


def test_there_is_a_seed_for_each_picture(tiny_pipe: Pipeline) -> None:
    with pytest.raises(RequestError, match="1 seeds are given for 2 pictures"):
        tiny_pipe.steps(GenerationRequest(prompt="a fox", count=2), [3])


def test_asking_does_not_load_torch() -> None:
    code = "import sys, wordbrush.editing.joined; assert 'torch' not in sys.modules and 'numpy' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True)
