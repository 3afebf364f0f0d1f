"""The A1111 `parameters` text: ours, and that of other programs."""

from __future__ import annotations

import time

import pytest

from wordbrush.diffusion.samplers import SAMPLERS
from wordbrush.diffusion.schedules import SCHEDULES
from wordbrush.errors import RequestError
from wordbrush.infotext import SAMPLER_LABELS, SCHEDULE_LABELS, read_infotext
from wordbrush.request import GenerationRequest


def test_every_sampler_and_schedule_has_a_label() -> None:
    assert set(SAMPLER_LABELS) == set(SAMPLERS)
    assert set(SCHEDULE_LABELS) == set(SCHEDULES)
    assert len(set(SAMPLER_LABELS.values())) == len(SAMPLERS)


def test_written_as_the_web_ui_writes_it() -> None:
    request = GenerationRequest(
        prompt="a fox\non a hill", negative_prompt="blurry, dull", model="m", seed=7, steps=20, guidance=5.5,
        sampler="dpmpp_2m", schedule="karras", width=128, height=96,
    )  # fmt: skip
    assert request.to_infotext({"Version": "wordbrush 1: a"}) == (
        "a fox\non a hill\n"
        "Negative prompt: blurry, dull\n"
        "Steps: 20, Sampler: DPM++ 2M, Schedule type: Karras, CFG scale: 5.5, Seed: 7, Size: 128x96, Model: m, "
        'Version: "wordbrush 1: a"'
    )


@pytest.mark.parametrize("sampler", SAMPLERS)
@pytest.mark.parametrize("schedule", ["karras", "normal", "ays"])
def test_reads_what_it_wrote(sampler: str, schedule: str) -> None:
    prompt = '狐 "quoted", <lora:x:1>: {a}\nsecond line'  # the words of a picture: braces in them are no alternatives
    request = GenerationRequest(
        prompt=prompt, written=prompt, negative_prompt="näh\nno", model="a, b: c", seed=2**50,
        steps=3, guidance=0.1, guidance_rescale=0.7, guidance_interval=(0.25, 0.9), sampler=sampler, schedule=schedule,
        width=64, height=32,
    )  # fmt: skip
    assert GenerationRequest.from_infotext(request.to_infotext()) == request


@pytest.mark.parametrize("written", [None, "a __thing__", 'a {fox|"cat", 2}\nb', ("a __thing__",)])
def test_what_was_written_survives(written: str | tuple[str, ...] | None) -> None:
    request = GenerationRequest(
        prompt="a fox", model="m", seed=1, steps=3, guidance=2.0, sampler="ddim", schedule="karras", width=8, height=8,
        preset="fast", styles=("sepia", "a, b"), written=written,
    )  # fmt: skip
    found = read_infotext(request.to_infotext())
    assert found.fields.get("written") == (written[0] if isinstance(written, tuple) else written)
    assert found.ignored == {}
    assert found.provenance == {"Preset": "fast", "Styles": "sepia, a, b"}


def test_timesteps_survive() -> None:
    request = GenerationRequest(
        prompt="a", model="m", seed=1, steps=3, guidance=2.0, sampler="ddim", timesteps=(999, 500, 1), width=8, height=8
    )
    assert GenerationRequest.from_infotext(request.to_infotext()) == request


def test_reads_the_web_uis_text_and_says_what_it_leaves_aside() -> None:
    text = (
        "masterpiece, (a cat:1.2)\nNegative prompt: lowres\n"
        "Steps: 28, Sampler: Euler a, Schedule type: Automatic, CFG scale: 7, Seed: 1234, Size: 512x768, "
        'Model hash: 6ce0161689, Model: v1-5, Clip skip: 2, Lora hashes: "a: 1, b: 2", Version: v1.10.1'
    )
    found = read_infotext(text)
    assert found.ignored == {}
    assert found.fields == {
        "prompt": "masterpiece, (a cat:1.2)", "negative_prompt": "lowres", "steps": 28, "sampler": "euler_a",
        "schedule": None, "guidance": 7.0, "seed": 1234, "width": 512, "height": 768, "model": "v1-5",
        "clip_skip": 2,
    }  # fmt: skip


@pytest.mark.parametrize(
    ("label", "names"),
    [
        ("DPM++ 2M Karras", ("dpmpp_2m", "karras")),
        ("DPM++ 3M SDE Exponential", ("dpmpp_3m_sde", "exponential")),
        ("euler karras", ("euler", "karras")),
        ("dpm++ 2m sde", ("dpmpp_2m_sde", "exponential")),
        ("DPM++ 2M", ("dpmpp_2m", "karras")),
        ("Euler", ("euler", None)),
    ],
)
def test_older_labels_and_automatic_schedules(label: str, names: tuple[str, str | None]) -> None:
    fields = read_infotext(f"a cat\nSteps: 2, Sampler: {label}, Seed: 1").fields
    assert (fields["sampler"], fields["schedule"]) == names


def test_a_last_line_with_fewer_than_three_pairs_is_prompt() -> None:
    found = read_infotext("a sign that says\nsteps: 3, of stairs")
    assert found.fields == {"prompt": "a sign that says\nsteps: 3, of stairs", "negative_prompt": ""}


@pytest.mark.parametrize(
    "last",
    [
        "Steps: many, Sampler: Euler, Seed: 1",
        "Steps: 2, Sampler: Wobble, Seed: 1",
        "Steps: 2, Sampler: Euler, Size: 12",
        "Steps: 2, Sampler: Euler, Schedule type: Wobble",
    ],
)
def test_values_that_matter_must_be_understood(last: str) -> None:
    with pytest.raises(RequestError):
        read_infotext(f"a cat\n{last}")


def test_several_pictures_have_no_infotext() -> None:
    with pytest.raises(RequestError, match="3"):
        GenerationRequest(prompt="a", count=3).to_infotext()


def test_what_other_tools_know_of_models_and_loras_is_written_as_they_write_it() -> None:
    request = GenerationRequest(
        prompt="a cat", seed=1, steps=4, guidance=3.5, true_guidance=2.0, sampler="euler", schedule="simple", width=64,
        height=64, clip_skip=2, emphasis="no norm", vae="vae-ft-mse.safetensors", loras=(("style", 0.5, 0.8),),  # type: ignore[arg-type]
    )  # fmt: skip
    text = request.to_infotext({"Lora hashes": "style: 0123456789ab"})
    assert text.splitlines()[0] == "a cat <lora:style:0.8:0.5>", "first the text encoders', then the network's strength"
    for pair in (
        "CFG scale: 2", "Distilled CFG Scale: 3.5", "VAE: vae-ft-mse.safetensors", "Clip skip: 2", "Emphasis: No norm",
        'Lora hashes: "style: 0123456789ab"',
    ):  # fmt: skip
        assert pair in text
    found = read_infotext(text)
    assert found.ignored == {}
    again = GenerationRequest.from_dict(found.fields)
    assert again == request.model_copy(update={"loras": (), "prompt": "a cat <lora:style:0.8:0.5>"})
    assert (again.guidance, again.true_guidance) == (3.5, 2.0)


def test_guidance_towards_a_picture() -> None:
    found = read_infotext("a cat\nSteps: 4, Sampler: Euler, CFG scale: 7, Image CFG scale: 1.5, Seed: 1")
    assert found.fields["image_guidance"] == 1.5


@pytest.mark.parametrize(
    "line", ["Steps: 1, " + "a" * 90_000, " " * 90_000 + "x", 'Steps: "' + "\\" * 90_000, 'ab:"' * 20_000, "a" * 10**6]
)
def test_a_text_made_to_keep_the_reader_busy_does_not(line: str) -> None:
    began = time.process_time()
    assert read_infotext(f"x\n{line}").fields["prompt"].startswith("x")
    assert time.process_time() - began < 2
