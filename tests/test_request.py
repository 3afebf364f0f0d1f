"""The request: every field validated, unknown ones refused, and its JSON form."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from wordbrush.diffusion.samplers import SAMPLERS
from wordbrush.diffusion.schedules import SCHEDULES
from wordbrush.errors import RequestError
from wordbrush.request import GenerationRequest, RequestFields
from wordbrush.request_fields import LARGEST_SEED, SAMPLER_NAMES, SCHEDULE_NAMES, Lora, ModelDefaults

DEFAULTS = ModelDefaults(steps=9, guidance=4.0, sampler="euler", schedule="karras", width=64, height=32)


def test_names_are_those_of_the_samplers_and_schedules() -> None:
    assert set(SAMPLER_NAMES) == set(SAMPLERS)
    assert set(SCHEDULE_NAMES) == set(SCHEDULES)


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({}, ["prompt", "missing"]),
        ({"prompt": 3}, ["prompt=3", "text"]),
        ({"prompt": []}, ["prompt", "text"]),
        ({"prompt": ["a", 3]}, ["prompt", "text"]),
        ({"prompt": "\ud800"}, ["prompt", "Unicode"]),
        ({"prompt": "a\0b"}, ["prompt", "Unicode"]),
        ({"negative_prompt": ("a", "b")}, ["negative_prompt"]),
        ({"steps": 0}, ["steps=0", "1"]),
        ({"steps": -3}, ["steps=-3"]),
        ({"steps": 2.5}, ["steps=2.5", "integer"]),
        ({"steps": True}, ["steps=True", "number"]),
        ({"stepz": 3}, ["stepz", "did you mean steps", "guidance"]),
        ({"sampler": "eulr"}, ["eulr", *SAMPLERS]),
        ({"schedule": "karas"}, ["karas", *SCHEDULES]),
        ({"seed": -1}, ["seed=-1"]),
        ({"seed": LARGEST_SEED, "count": 2}, [str(LARGEST_SEED), "2"]),
        ({"count": 0}, ["count=0"]),
        ({"guidance": float("nan")}, ["guidance=nan", "finite"]),
        ({"guidance": -1}, ["guidance=-1"]),
        ({"guidance_rescale": 1.5}, ["guidance_rescale=1.5"]),
        ({"guidance_interval": (0.8, 0.2)}, ["guidance_interval", "0.8", "0.2"]),
        ({"timesteps": []}, ["timesteps"]),
        ({"timesteps": [3, 5]}, ["timesteps", "fall"]),
        ({"timesteps": [5, 5]}, ["timesteps", "fall"]),
        ({"timesteps": [5, -1]}, ["timesteps", "below 0"]),
        ({"timesteps": [9, 5], "steps": 3}, ["steps=3", "2"]),
        ({"timesteps": [9, 5], "schedule": "karras"}, ["schedule='karras'", "timesteps"]),
        ({"width": 0}, ["width=0"]),
        ({"height": 99999}, ["height=99999"]),
        ({"strength": 0.5}, ["strength=0.5", "image"]),
        ({"mask": Image.new("L", (4, 4))}, ["mask", "image"]),
        ({"image": "no such file.png"}, ["no such file.png"]),
        ({"image": Image.new("RGB", (4, 4)), "strength": 1.5}, ["strength=1.5"]),
        ({"latents": torch.zeros(2, 4, 8, 8)}, ["latents", "2", "1"]),
        ({"latents": torch.zeros(4, 8, 8)}, ["latents", "(B, C, h, w)"]),
        ({"latents": torch.full((1, 4, 2, 2), float("nan"))}, ["latents", "not-a-number"]),
        ({"latents": {"shape": [1, 1, 1, 1], "float32": "AAAA"}}, ["latents", "unpacked"]),
    ],
)
def test_refuses_in_one_sentence_what_does_not_fit(fields: dict[str, Any], words: list[str]) -> None:
    given = fields if not fields or "prompt" in fields else {"prompt": "a fox", **fields}
    with pytest.raises(RequestError) as caught:
        GenerationRequest(**given)
    assert isinstance(caught.value, ValueError)
    message = str(caught.value)
    assert "\n" not in message
    for word in words:
        assert word in message


def test_accepts_what_is_at_the_edges() -> None:
    request = GenerationRequest(prompt="", seed=0, guidance=0, steps=1000, count=1, timesteps=None, width=8)
    assert (request.seed, request.guidance, request.steps) == (0, 0.0, 1000)


def test_prompts_and_counts() -> None:
    request = GenerationRequest(prompt=["a fox", "a cat"], count=2)
    assert request.prompts == ("a fox", "a fox", "a cat", "a cat")
    assert request.pictures == 4


def test_filled_takes_the_models_defaults_and_keeps_what_was_given() -> None:
    filled = GenerationRequest(prompt="a fox", guidance=1.0).filled(DEFAULTS, seed=5, model="m")
    assert (filled.steps, filled.guidance, filled.sampler, filled.schedule) == (9, 1.0, "euler", "karras")
    assert (filled.width, filled.height, filled.seed, filled.model) == (64, 32, 5, "m")
    assert filled.filled(DEFAULTS, seed=6, model="m") == filled


def test_timesteps_take_the_place_of_steps_and_schedule() -> None:
    filled = GenerationRequest(prompt="a fox", timesteps=[999, 500]).filled(DEFAULTS, seed=0, model="m")
    assert (filled.steps, filled.schedule, filled.timesteps) == (2, None, (999, 500))
    assert filled.filled(DEFAULTS, seed=0, model="m") == filled


def test_parts_have_their_own_prompts_seeds_and_noise() -> None:
    noise = torch.arange(4.0).reshape(4, 1, 1, 1)
    request = GenerationRequest(prompt=["a fox", "a cat"], count=2, seed=10, latents=noise)
    part = request.part(1, 3)
    assert (part.prompts, part.seed, part.pictures) == (("a fox", "a cat"), 11, 2)
    assert part.latents is not None
    assert part.latents.array().ravel().tolist() == [1.0, 2.0]
    assert request.part(2, 4).prompt == "a cat"
    with pytest.raises(RequestError, match="seed"):
        GenerationRequest(prompt="a fox").part(0, 1)


def test_json_form_reads_back_as_the_same_request(tmp_path: Path) -> None:
    picture = Image.effect_noise((8, 8), 50).convert("RGB")
    picture.save(tmp_path / "start.png")
    request = GenerationRequest(
        prompt=["a 🦊 \n fox", "狐狸"], negative_prompt='say "no"', seed=2**40, guidance=3.25, sampler="euler_a",
        guidance_interval=(0.1, 0.9), image=tmp_path / "start.png", strength=0.25,
        latents=np.random.default_rng(0).standard_normal((2, 4, 3, 5)),
    )  # fmt: skip
    again = GenerationRequest.from_json(request.to_json())
    assert again == request
    assert json.loads(request.to_json())["image"]["path"] == str(tmp_path / "start.png")
    assert again.image is not None
    assert again.image.load().tobytes() == picture.tobytes()


def test_json_names_only_what_has_a_meaning() -> None:
    assert set(json.loads(GenerationRequest(prompt="a fox").to_json())) == {"prompt", "negative_prompt", "count"}


@pytest.mark.parametrize("text", ["", "[]", '{"prompt": "a", "x": 1}', "{", '"prompt"'])
def test_json_that_is_no_request_is_refused(text: str) -> None:
    with pytest.raises(RequestError):
        GenerationRequest.from_json(text)


def test_an_input_picture_that_has_changed_is_named(tmp_path: Path) -> None:
    path = tmp_path / "start.png"
    Image.new("RGB", (8, 8), "red").save(path)
    again = GenerationRequest.from_json(GenerationRequest(prompt="a fox", image=path).to_json())
    Image.new("RGB", (8, 8), "blue").save(path)
    assert again.image is not None
    with pytest.raises(RequestError, match=r"start\.png.*changed"):
        again.image.load()


def test_an_input_picture_known_by_hash_alone_is_asked_for() -> None:
    request = GenerationRequest(prompt="a fox", image=Image.new("RGB", (8, 8)))
    again = GenerationRequest.from_json(request.to_json())
    assert again == request
    assert again.image is not None
    with pytest.raises(RequestError, match="not at hand"):
        again.image.load()


def loaded_by(code: str) -> set[str]:
    """Which heavy modules a fresh process has after running the code."""
    code += "; import sys; print(*(m for m in ('torch', 'numpy', 'PIL.Image') if m in sys.modules))"
    return set(subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.split())


def test_neither_the_package_nor_a_request_loads_anything_heavy() -> None:
    assert loaded_by("import wordbrush, wordbrush.metadata; wordbrush.GenerationRequest(prompt='a')") == set()


def test_the_command_line_does_not_load_torch_before_it_works() -> None:
    assert "torch" not in loaded_by("import wordbrush.cli.app; wordbrush.cli.app.make_app()")


@pytest.mark.parametrize(
    "given",
    ["style:0.5", ["style:0.5"], [("style", 0.5)], [{"name": "style", "unet": 0.5}], [["style", 0.5, 0.5]]],
)
def test_loras_may_be_given_in_many_ways(given: object) -> None:
    request = GenerationRequest.from_dict({"prompt": "a fox", "loras": given})
    assert request.loras == (Lora(name="style", unet=0.5, text=0.5),)
    assert GenerationRequest.from_json(request.to_json()) == request


@pytest.mark.parametrize(
    ("text", "name", "strengths"),
    [
        ("style", "style", (1.0, 1.0)),
        ("style:0.8:0.3", "style", (0.8, 0.3)),
        (r"C:\loras\style.safetensors:-1", r"C:\loras\style.safetensors", (-1.0, -1.0)),
        ("a:b:c", "a:b:c", (1.0, 1.0)),
    ],
)
def test_strengths_stand_at_the_end_of_a_name(text: str, name: str, strengths: tuple[float, float]) -> None:
    lora = Lora.parse(text)
    assert (lora.name, lora.unet, lora.text) == (name, *strengths)


@pytest.mark.parametrize(
    ("loras", "words"), [([("style", "much")], "unet='much'"), ([("", 1.0)], "name="), ([3], "loras"), ([[]], "loras")]
)
def test_loras_that_cannot_be_read_are_refused(loras: object, words: str) -> None:
    with pytest.raises(RequestError, match=words):
        GenerationRequest.from_dict({"prompt": "a fox", "loras": loras})


def test_keywords_of_the_pipeline_are_the_fields_of_the_request() -> None:
    of_the_model = {"prompt", "model", "vae"}  # the prompt comes first; the others are known when a model is opened
    assert set(RequestFields.__annotations__) == set(GenerationRequest.model_fields) - of_the_model
