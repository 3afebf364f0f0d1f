"""Between two prompts: a line between embeddings."""

from __future__ import annotations

import pytest
import torch
from torch.testing import assert_close

from wordbrush import GenerationRequest, Pipeline, RequestError
from wordbrush.conditioning.blended import blended

FOX, CAR = "a fox on a blue background", "a red car"


def request(prompt: str | tuple[str, ...] = FOX, other: str = CAR, share: float = 0.25) -> GenerationRequest:
    return GenerationRequest(prompt=prompt, blend_prompt=other, blend=share)


def test_lies_on_the_line_between_the_texts(tiny_pipe: Pipeline) -> None:
    base = tiny_pipe.conditioner
    with torch.inference_mode():
        first, other = base.encode([FOX]).context, base.encode([CAR]).context
        found = blended(base, request()).encode([FOX]).context
    assert_close(found, 0.75 * first + 0.25 * other)


def test_the_ends_are_the_texts_themselves_bit_for_bit(tiny_pipe: Pipeline) -> None:
    ends = [tiny_pipe(FOX, seed=2, blend_prompt=CAR, blend=share).latents for share in (0.0, 1.0)]
    assert torch.equal(ends[0], tiny_pipe(FOX, seed=2).latents)
    assert torch.equal(ends[1], tiny_pipe(CAR, seed=2).latents)


def test_texts_of_unlike_length_meet(tiny_pipe: Pipeline) -> None:
    long = "a fox, " * 20
    between = tiny_pipe(FOX, seed=2, blend_prompt=long, blend=0.5).latents
    assert not torch.equal(between, tiny_pipe(FOX, seed=2).latents)
    assert torch.equal(between, tiny_pipe(FOX, seed=2, blend_prompt=long, blend=0.5).latents)


def test_a_blend_is_the_same_alone_and_in_a_batch(tiny_pipe: Pipeline) -> None:
    batch = tiny_pipe([FOX, "three cats"], seed=2, blend_prompt=CAR, blend=0.5)
    alone = tiny_pipe("three cats", seed=3, blend_prompt=CAR, blend=0.5)
    assert torch.equal(batch.latents[1], alone.latents[0])


def test_without_a_second_text_nothing_changes(tiny_pipe: Pipeline) -> None:
    assert blended(tiny_pipe.conditioner, GenerationRequest(prompt=FOX)) is tiny_pipe.conditioner


@pytest.mark.parametrize(
    ("prompt", "other", "words"),
    [
        ("a fox AND a car", CAR, "AND"),
        (FOX, "a [fox:car:0.5]", "changes on the way"),
        (FOX, "a car <lora:style:1>", "different LoRAs"),
    ],
)
def test_what_cannot_be_blended_is_refused(tiny_pipe: Pipeline, prompt: str, other: str, words: str) -> None:
    with pytest.raises(RequestError, match=words):
        blended(tiny_pipe.conditioner, request(prompt, other))


def test_one_field_without_the_other_is_refused() -> None:
    with pytest.raises(RequestError, match="together"):
        GenerationRequest(prompt=FOX, blend=0.5)
