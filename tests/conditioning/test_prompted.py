"""Prompts on the way through the loop: texts that change, prompts that are added up, prompts of unlike lengths."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor

import wordbrush
from wordbrush import GenerationRequest, Pipeline, RequestError

PROMPT = "a fox on a blue background"


def states(pipe: Pipeline, prompt: str, **options: object) -> list[Tensor]:
    """x after every step."""
    fields = {"prompt": prompt, "seed": 4, "steps": 6, "sampler": "euler", **options}
    return [step.x for step in pipe.steps(GenerationRequest.from_dict(fields))]


def test_a_prompt_may_change_on_the_way(tiny_pipe: Pipeline) -> None:
    first, second = states(tiny_pipe, "a red fox"), states(tiny_pipe, "a red house")
    changing = states(tiny_pipe, "a red [fox:house:0.5]")
    assert [torch.equal(one, two) for one, two in zip(changing, first, strict=True)] == [True] * 3 + [False] * 3
    alternating = states(tiny_pipe, "a red [fox|house]")
    assert torch.equal(alternating[0], first[0])
    assert not any(torch.equal(alternating[-1], one[-1]) for one in (first, second, changing))


def test_a_negative_prompt_may_change_on_the_way(tiny_pipe: Pipeline) -> None:
    plain = states(tiny_pipe, PROMPT, negative_prompt="a car")
    changing = states(tiny_pipe, PROMPT, negative_prompt="a car[ above a house::2]")
    assert not torch.equal(plain[0], changing[0])
    later = states(tiny_pipe, PROMPT, negative_prompt="a car[: above a house:3]")
    assert [torch.equal(one, two) for one, two in zip(later, plain, strict=True)] == [True] * 3 + [False] * 3


@pytest.mark.parametrize("sampler", ["heun", "dpm2", "dpmpp_sde"])
def test_a_step_keeps_its_text_however_often_the_network_is_called(tiny_pipe: Pipeline, sampler: str) -> None:
    first = states(tiny_pipe, "a red fox", sampler=sampler)
    changing = states(tiny_pipe, "a red [fox:house:0.5]", sampler=sampler)
    assert [torch.equal(one, two) for one, two in zip(changing, first, strict=True)] == [True] * 3 + [False] * 3


def test_and_adds_up_what_prompts_say(tiny_pipe: Pipeline) -> None:
    scale = 3.0
    alone = {text: states(tiny_pipe, text, steps=1, guidance=1.0)[0] for text in ("a red fox", "three cats", "")}
    together = states(tiny_pipe, "a red fox AND three cats :-0.5", steps=1, guidance=scale)[0]
    away = alone[""]
    # one step of Euler is linear in the network's estimates
    expected = away + scale * ((alone["a red fox"] - away) - 0.5 * (alone["three cats"] - away))
    torch.testing.assert_close(together, expected, atol=1e-4, rtol=1e-4)
    unguided = states(tiny_pipe, "a red fox AND three cats :-0.5", steps=1, guidance=1.0)[0]
    expected = away + (alone["a red fox"] - away) - 0.5 * (alone["three cats"] - away)
    torch.testing.assert_close(unguided, expected, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_prompts_of_all_kinds_have_the_same_bits_in_a_batch(tiny_v_folder: Path, dtype: str) -> None:
    prompts = [
        PROMPT, "a fox, " * 20, "a red fox AND three cats", "a [fox|cat]", "a (red:1.3) fox", "two slices, " * 12,
    ]  # fmt: skip
    pipe = wordbrush.load(tiny_v_folder, dtype=dtype)
    batch = pipe(prompts, seed=7, steps=3, negative_prompt="a car")
    for index, prompt in enumerate(prompts):
        alone = pipe(prompt, seed=7 + index, steps=3, negative_prompt="a car")
        assert torch.equal(alone.latents[0], batch.latents[index]), prompt


@pytest.mark.parametrize(("prompt", "negative"), [("a fox, " * 20, "a car"), ("a fox", "a red car, " * 20)])
def test_a_prompt_and_a_negative_prompt_are_read_at_their_own_lengths(
    tiny_pipe: Pipeline, prompt: str, negative: str
) -> None:
    alone = {text: states(tiny_pipe, text, steps=1, guidance=1.0)[0] for text in (prompt, negative)}
    away = alone[negative]
    guided = states(tiny_pipe, prompt, negative_prompt=negative, steps=1, guidance=3.0)[0]
    # one step of Euler is linear in the network's estimates
    torch.testing.assert_close(guided, away + 3.0 * (alone[prompt] - away), atol=1e-5, rtol=1e-5)
    both = f"{prompt} AND {prompt} :-0.5"
    guided = states(tiny_pipe, both, negative_prompt=negative, steps=1, guidance=3.0)[0]
    torch.testing.assert_close(guided, away + 1.5 * (alone[prompt] - away), atol=1e-5, rtol=1e-5)


def test_without_guidance_the_negative_prompt_has_no_length(tiny_pipe: Pipeline) -> None:
    results = [tiny_pipe(PROMPT, seed=1, guidance=1.0, negative_prompt=text) for text in ("", "a red car, " * 20)]
    assert torch.equal(results[0].latents, results[1].latents)


def test_a_prompt_that_cannot_be_read_is_refused_at_once(tiny_pipe: Pipeline) -> None:
    with pytest.raises(RequestError, match="lora"):
        tiny_pipe.steps(GenerationRequest(prompt="a fox <lora:style:much>"))
    with pytest.raises(RequestError, match="clip_skip"):
        tiny_pipe.steps(GenerationRequest(prompt="a fox", clip_skip=9))


def test_embeddings_of_the_library_are_read_by_name(
    tiny_v_folder: Path, tiny_pipe: Pipeline, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "embeddings"
    folder.mkdir()
    words = tiny_pipe.parts.networks["text_encoder"].state_dict()["text_model.embeddings.token_embedding.weight"]
    tokens = [piece.id for piece in tiny_pipe.parts.tokenizer.pieces("red fox")]  # type: ignore[union-attr]
    save_file({"emb_params": words[tokens].clone()}, folder / "zorbly.safetensors")
    monkeypatch.setenv("WORDBRUSH_MODELS", str(tmp_path))
    pipe = wordbrush.load(tiny_v_folder, dtype="float32")
    learnt = pipe("a zorbly", seed=2)
    assert torch.equal(learnt.latents, pipe("a red fox", seed=2).latents)
    assert not torch.equal(learnt.latents, tiny_pipe("a zorbly", seed=2).latents)
