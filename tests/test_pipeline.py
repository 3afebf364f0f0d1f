"""One prompt to pixels: what a request means, and that a picture does not depend on its neighbours."""

from __future__ import annotations

import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import save_file
from torch import Tensor

import wordbrush
from wordbrush import GenerationRequest, ModelFileError, Pipeline, RequestError, WorkFailed
from wordbrush.conditioning import prompted as prompted_module
from wordbrush.formats.library import embedded_folder
from wordbrush.request_fields import SAMPLER_NAMES, SCHEDULE_NAMES, ModelDefaults

PROMPT = "a fox on a blue background"


@pytest.fixture
def network_calls(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Grows by the number of rows that a denoiser was asked for, at every call of the network."""
    calls: list[int] = []
    made = prompted_module.batched_network

    def counted(*arguments: Any, **options: Any) -> Callable[[Tensor, float], Tensor]:
        network = made(*arguments, **options)

        def call(x: Tensor, timestep: float) -> Tensor:
            output = network(x, timestep)
            calls.append(len(output))
            return output

        return call

    monkeypatch.setattr(prompted_module, "batched_network", counted)
    return calls


def same(first: list[Image.Image], second: list[Image.Image]) -> bool:
    return [picture.tobytes() for picture in first] == [picture.tobytes() for picture in second]


def test_result_holds_pictures_the_full_request_and_latents(tiny_pipe: Pipeline) -> None:
    result = tiny_pipe(PROMPT, count=2, seed=3)
    assert [(picture.mode, picture.size) for picture in result.images] == [("RGB", (32, 32))] * 2
    assert result.latents.shape == (2, 4, 8, 8)
    missing = {name for name in ModelDefaults.model_fields if getattr(result.request, name) is None}
    assert missing == {"true_guidance", "image_guidance", "strength", "clip_skip"}, "of what a model has defaults for"
    assert (result.request.steps, result.request.sampler, result.request.schedule) == (4, "dpmpp_2m", "sgm_uniform")
    assert same(tiny_pipe.finish(result.request, result.latents), result.images)


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("options", [{}, {"guidance": 1.0}, {"sampler": "euler_a", "guidance_rescale": 0.7}])
def test_a_picture_has_the_same_bits_alone_and_in_a_batch_of_seven(
    tiny_v_folder: Path, dtype: str, options: dict[str, object]
) -> None:
    pipe = wordbrush.load(tiny_v_folder, dtype=dtype)
    batch = pipe([PROMPT, "a red car"] * 3 + ["three cats"], seed=20, steps=3, **options)  # type: ignore[arg-type]
    for index, prompt in enumerate(batch.request.prompts):
        alone = pipe(prompt, seed=20 + index, steps=3, **options)  # type: ignore[arg-type]
        assert torch.equal(alone.latents[0], batch.latents[index])
        assert same(alone.images, batch.images[index : index + 1])


def test_a_part_of_a_request_paints_those_pictures(tiny_pipe: Pipeline) -> None:
    whole = tiny_pipe([PROMPT, "three cats"], count=3, seed=8)
    part = tiny_pipe(whole.request.part(2, 5))
    assert same(part.images, whole.images[2:5])


def test_seeds_decide(tiny_pipe: Pipeline) -> None:
    first = tiny_pipe(PROMPT, seed=0)
    assert same(first.images, tiny_pipe(PROMPT, seed=0).images)
    assert not same(first.images, tiny_pipe(PROMPT, seed=1).images)
    drawn = tiny_pipe(PROMPT)
    assert same(drawn.images, tiny_pipe(drawn.request).images)
    assert drawn.request.seed != tiny_pipe(PROMPT).request.seed


CHANGES = {
    "prompt": "three cats",
    "negative_prompt": "a red car",
    "seed": 2,
    "steps": 3,
    "guidance": 6.0,
    "guidance_rescale": 0.9,
    "guidance_interval": (0.6, 1.0),
    "sampler": "euler_a",
    "schedule": "karras",
    "timesteps": (999, 600, 300, 20),
    "width": 48,
    "height": 24,
    "image": Image.effect_noise((32, 32), 60).convert("RGB"),
    "latents": torch.ones(1, 4, 8, 8),
    "clip_skip": 2,
    "emphasis": "ignore",
    "mask_invert": True,
    "mask_grow": 4,
    "mask_blur": 3.0,
    "mask_fill": "blur",
    "only_masked": True,
    "only_masked_padding": 2,
    "extend": (4, 0, 8, 4),
    "hires": {"scale": 1.5, "steps": 2},
    "upscale": 1.5,
    "upscaler": "nearest",
    "preset": "fast",
    "preset_set": (),
    "styles": "sepia",
    "expand": {"model": str(embedded_folder().with_name("scenes-expander"))},
    "written": PROMPT,
    "variation_seed": 9,
    "variation_strength": 0.5,
    "blend_prompt": "a house",
    "blend": 1.0,
}
HALF = Image.new("L", (32, 32))
HALF.paste(255, (0, 0, 16, 32))
MASKED = {"image": Image.effect_noise((48, 48), 60).convert("RGB"), "mask": (20, 20, 8, 8)}

# What each of these fields needs beside it before it can change anything.
NEEDS: dict[str, dict[str, Any]] = {
    "strength": {"image": CHANGES["image"]},
    "mask": {"image": CHANGES["image"]},
    **dict.fromkeys(("mask_invert", "mask_grow", "mask_blur", "mask_fill", "only_masked"), MASKED),
    "only_masked_padding": {**MASKED, "only_masked": True},
    "extend": {"image": CHANGES["image"]},
    "emphasis": {"prompt": "(a fox:1.4) on a blue background"},
    "upscaler": {"upscale": 1.5},
    "preset_set": {"preset": "fast"},
    "written": {"prompt": "{a fox}"},
    "variation_seed": {"variation_seed": 4, "variation_strength": 0.5},
    "variation_strength": {"variation_seed": 4, "variation_strength": 0.1},
    "blend_prompt": {"blend_prompt": "three cats", "blend": 0.5},
    "blend": {"blend_prompt": "three cats", "blend": 0.2},
}

# Fields that decide which model is used, and fields that only models of other kinds have: tested with those. The tiny
# model has no CLIP of pictures: see tests/editing/test_clip_guidance.py.
ELSEWHERE = {"model", "vae", "count", "loras", "true_guidance", "image_guidance", "clip_guidance", "clip"}


@pytest.mark.parametrize("field", [name for name in GenerationRequest.model_fields if name not in ELSEWHERE])
def test_every_field_of_the_request_changes_the_picture(tiny_pipe: Pipeline, field: str) -> None:
    base = {"prompt": PROMPT, "seed": 1, **NEEDS.get(field, {})}
    change = {"strength": 0.3, "mask": HALF}.get(field, CHANGES.get(field))
    assert change is not None, f"{field} has no test here"
    before = tiny_pipe(GenerationRequest(**base))
    after = tiny_pipe(GenerationRequest(**{**base, field: change}))
    assert not same(before.images, after.images)


@pytest.mark.parametrize("sampler", SAMPLER_NAMES)
def test_every_sampler_paints_and_repeats(tiny_pipe: Pipeline, sampler: str) -> None:
    result = tiny_pipe(PROMPT, seed=1, sampler=sampler, steps=3)
    assert result.latents.isfinite().all()
    assert same(result.images, tiny_pipe(PROMPT, seed=1, sampler=sampler, steps=3).images)


@pytest.mark.parametrize("schedule", SCHEDULE_NAMES)
def test_every_schedule_paints(tiny_pipe: Pipeline, schedule: str) -> None:
    assert tiny_pipe(PROMPT, seed=1, sampler="euler", schedule=schedule, steps=3).latents.isfinite().all()


def test_guidance_at_one_reads_no_negative_prompt(tiny_pipe: Pipeline) -> None:
    results = [tiny_pipe(PROMPT, seed=1, guidance=1.0, negative_prompt=text) for text in ("", "a red car")]
    assert same(results[0].images, results[1].images)


def test_steps_can_be_watched_and_left(tiny_pipe: Pipeline, network_calls: list[int]) -> None:
    request = GenerationRequest(prompt=PROMPT, seed=4, steps=6, sampler="euler")
    for step in tiny_pipe.steps(request):
        assert step.x.shape == step.x0.shape == (1, 4, 8, 8)
        if step.index == 1:
            break
    assert len(network_calls) == 2, "stopping the iteration stops the work"
    finals = [step.x for step in tiny_pipe.steps(request)]
    assert len(finals) == tiny_pipe.step_count(tiny_pipe.fill(request)) == 6
    assert torch.equal(finals[-1], tiny_pipe(request).latents)


def test_steps_refuses_at_once(tiny_pipe: Pipeline) -> None:
    with pytest.raises(RequestError, match="width=33"):
        tiny_pipe.steps(GenerationRequest(prompt=PROMPT, width=33))


def test_both_halves_of_guidance_run_together_and_nothing_twice(tiny_pipe: Pipeline, network_calls: list[int]) -> None:
    encoded: list[int] = []
    hook = tiny_pipe.conditioner.encoder.register_forward_hook(lambda *_: encoded.append(1))
    try:
        tiny_pipe([PROMPT, "a red car"], count=2, steps=5, guidance=4.0, sampler="euler")
    finally:
        hook.remove()
    assert len(encoded) == 3, "each distinct prompt, and the negative one, is encoded once"
    assert network_calls == [8] * 5, "one call a step, for four pictures and their other halves"


def test_outside_the_interval_of_guidance_half_the_work_is_saved(tiny_pipe: Pipeline, network_calls: list[int]) -> None:
    tiny_pipe(PROMPT, steps=4, guidance=4.0, guidance_interval=(0.6, 1.0), sampler="euler")
    assert network_calls == [2, 2, 1, 1]


def test_given_latents_are_the_noise_that_the_seed_would_draw(tiny_pipe: Pipeline) -> None:
    noise = torch.randn(4, 8, 8, generator=torch.Generator().manual_seed(5))[None]
    assert same(tiny_pipe(PROMPT, seed=5).images, tiny_pipe(PROMPT, latents=noise).images)


def test_latents_must_fit(tiny_pipe: Pipeline) -> None:
    with pytest.raises(RequestError, match=r"\(1, 3, 8, 8\).*\(1, 4, 8, 8\)"):
        tiny_pipe(PROMPT, latents=torch.zeros(1, 3, 8, 8))


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"width": 33}, ["width=33", "32 and 36"]),
        ({"height": 10}, ["height=10", "8 and 12"]),
        ({"timesteps": [1000]}, ["1000"]),
        ({"sampler": "eulr"}, ["eulr", "euler_a"]),
    ],
)
def test_what_the_model_cannot_do_is_refused(tiny_pipe: Pipeline, options: dict[str, object], words: list[str]) -> None:
    with pytest.raises(ValueError) as caught:  # noqa: PT011  the words are checked below
        tiny_pipe(PROMPT, **options)  # type: ignore[arg-type]
    for word in words:
        assert word in str(caught.value)


def test_a_request_for_another_model_is_refused(tiny_pipe: Pipeline) -> None:
    with pytest.raises(RequestError, match="'other'"):
        tiny_pipe(GenerationRequest(prompt=PROMPT, model="other"))


def test_options_beside_a_whole_request_are_refused(tiny_pipe: Pipeline) -> None:
    with pytest.raises(RequestError, match=r"steps.*whole request"):
        tiny_pipe(GenerationRequest(prompt=PROMPT), steps=3)


def test_words_that_the_model_cannot_read_are_reported(tiny_pipe: Pipeline, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING, logger="wordbrush"):
        result = tiny_pipe("a zebra 🦊", negative_prompt="a gnu", seed=1)
    assert "'zebra'" in result.notes[0]
    assert "'🦊'" in result.notes[0]
    assert result.notes[1].startswith("in the negative prompt")
    assert [record.getMessage() for record in caplog.records] == list(result.notes)
    assert tiny_pipe(PROMPT, seed=1).notes == ()


def test_words_that_a_lora_brings_along_are_known(tiny_v_folder: Path, tmp_path: Path) -> None:
    layer = "unet.mid_block.attentions.0.transformer_blocks.0.attn2.to_k.lora_{}.weight"
    tensors = {layer.format("A"): torch.ones(2, 32), layer.format("B"): torch.ones(64, 2)}
    save_file({**tensors, "bundle_emb.zorbly.clip_l": torch.ones(2, 32)}, tmp_path / "style.safetensors")
    pipe = wordbrush.load(tiny_v_folder, dtype="float32")
    with pytest.raises(RequestError, match="zorbly"):
        pipe("a embedding:zorbly")
    options = {"prompt": "a embedding:zorbly", "loras": [str(tmp_path / "style.safetensors")], "steps": 1}
    request = pipe.fill(GenerationRequest.from_dict(options))
    before = {name: weight.clone() for name, weight in pipe.parts.networks["unet"].state_dict().items()}
    assert pipe.notes(request) == ["LoRA style: matched 2 of 2 keys"]
    after = pipe.parts.networks["unet"].state_dict()
    assert all(torch.equal(before[name], after[name]) for name in after), "notes put nothing on the networks"
    assert len(pipe(request).images) == 1


def test_strange_prompts_paint(tiny_pipe: Pipeline) -> None:
    for prompt in ("", " ", "🦊👩‍🚀", "狐狸在蓝色背景上", "word " * 10_000):
        assert tiny_pipe(prompt, seed=1, steps=1).latents.isfinite().all()


def test_numbers_that_are_not_finite_are_said_and_not_painted(tiny_pipe: Pipeline) -> None:
    request = tiny_pipe.fill(GenerationRequest(prompt=PROMPT))
    with pytest.raises(WorkFailed, match="not finite"):
        tiny_pipe.finish(request, torch.full((1, 4, 8, 8), float("nan")))


def test_image_to_image_starts_part_way(tiny_pipe: Pipeline) -> None:
    image = Image.effect_noise((32, 32), 60).convert("RGB")
    request = tiny_pipe.fill(GenerationRequest(prompt=PROMPT, image=image, strength=0.5, steps=8, seed=1))
    assert tiny_pipe.step_count(request) == 4
    with pytest.raises(RequestError, match=r"strength=0\.1 of 8 steps"):
        tiny_pipe(PROMPT, image=image, strength=0.1, steps=8)


def test_less_strength_stays_nearer_to_the_picture(tiny_pipe: Pipeline) -> None:
    image = Image.effect_noise((32, 32), 60).convert("RGB")
    kept = tiny_pipe.begin(GenerationRequest(prompt=PROMPT, image=image, strength=0.125, steps=8, seed=1))
    base = tiny_pipe(PROMPT, image=image, strength=0.125, steps=8, seed=1)
    far = tiny_pipe(PROMPT, image=image, strength=1.0, steps=8, seed=1)
    with torch.inference_mode():
        clean = kept.x  # a little noise on the encoded picture
    assert (base.latents - clean).square().mean() < (far.latents - clean).square().mean()


def test_what_a_mask_keeps_keeps_its_bits(tiny_pipe: Pipeline) -> None:
    image = Image.effect_noise((32, 32), 60).convert("RGB")
    mask = Image.new("L", (32, 32), 0)
    mask.paste(255, (16, 0, 32, 32))
    result = tiny_pipe(PROMPT, image=image, mask=mask, strength=1.0, seed=1)
    before, after = np.asarray(image), np.asarray(result.images[0])
    assert (before[:, :16] == after[:, :16]).all()
    assert (before[:, 16:] != after[:, 16:]).any()


def test_a_picture_of_any_size_is_fitted(tiny_pipe: Pipeline) -> None:
    result = tiny_pipe(PROMPT, image=Image.new("RGBA", (35, 26), (255, 0, 0, 100)), strength=0.5, seed=1)
    assert result.images[0].size == (35, 26)
    assert (result.request.width, result.request.height) == (36, 28)
    assert tiny_pipe(result.request).images[0].tobytes() == result.images[0].tobytes()


def test_odd_latent_sizes_paint(tiny_pipe: Pipeline) -> None:
    assert tiny_pipe(PROMPT, width=36, height=28, seed=1, steps=2).images[0].size == (36, 28)


def test_save_and_load_paint_the_same(tiny_pipe: Pipeline, tmp_path: Path) -> None:
    tiny_pipe.save(tmp_path / "saved")
    again = wordbrush.load(tmp_path / "saved", dtype="float32")
    assert same(again(PROMPT, seed=1).images, tiny_pipe(PROMPT, seed=1).images)
    assert again.origin.model_hash is not None
    assert again.conditioner.known_words == tiny_pipe.conditioner.known_words


def test_load_names_what_is_wrong(tmp_path: Path, tiny_v_folder: Path) -> None:
    for path, words in ((tmp_path / "none", "none"), (tmp_path, "model_index.json")):
        with pytest.raises(ModelFileError, match=words):
            wordbrush.load(path)
    for options, words in (({"device": "tpu"}, "tpu"), ({"dtype": "int3"}, "int3"), ({"revision": "main"}, "main")):
        with pytest.raises(RequestError, match=words):
            wordbrush.load(tiny_v_folder, **options)  # type: ignore[arg-type]
