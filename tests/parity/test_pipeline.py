"""Same folder, same starting noise, same scheduler: the picture of diffusers' StableDiffusionPipeline, to 1/255."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import diffusers
import numpy as np
import pytest
import torch
from tests.parity.pictures import SCHEDULERS as STOCK

import wordbrush

SCHEDULERS: dict[str, tuple[str, dict[str, Any]]] = STOCK | {"lcm": ("LCMScheduler", {})}
STEPS = 5
"""A divisor of 1000: with others diffusers' DDIM takes its next noise level from T // steps, not from its timesteps."""
PROMPT = "a fox to the left of a red car"
NEGATIVE = "green house"


def reference_picture(folder: Path, sampler: str, latents: torch.Tensor, guidance: float, schedule: str) -> np.ndarray:
    """(H, W, 3) in 0..255, float, from diffusers; the schedule is the folder's own spacing, or karras."""
    pipeline = diffusers.StableDiffusionPipeline.from_pretrained(folder, safety_checker=None)
    pipeline.set_progress_bar_config(disable=True)
    name, options = SCHEDULERS[sampler]
    if schedule == "karras":
        options = options | {"use_karras_sigmas": True}
    pipeline.scheduler = getattr(diffusers, name).from_config(pipeline.scheduler.config, **options)
    output = pipeline(
        PROMPT,
        negative_prompt=NEGATIVE,
        latents=latents.clone(),
        num_inference_steps=STEPS,
        guidance_scale=guidance,
        generator=torch.Generator().manual_seed(11),
        output_type="np",
    )
    return 255.0 * output.images[0]


def picture(folder: Path, sampler: str, latents: torch.Tensor, guidance: float, schedule: str | None) -> np.ndarray:
    pipe = wordbrush.load(folder, dtype="float32")
    result = pipe(
        PROMPT, negative_prompt=NEGATIVE, latents=latents, steps=STEPS, guidance=guidance, seed=11, sampler=sampler,
        schedule=schedule,
    )  # fmt: skip
    return np.asarray(result.images[0], dtype=np.float64)


@pytest.fixture
def latents() -> torch.Tensor:
    return torch.randn(1, 4, 8, 8, generator=torch.Generator().manual_seed(3))


@pytest.mark.parametrize("guidance", [1.0, 5.0])
@pytest.mark.parametrize("sampler", SCHEDULERS)
def test_paints_the_picture_of_diffusers(
    tiny_sd_folder: Path, latents: torch.Tensor, sampler: str, guidance: float
) -> None:
    expected = reference_picture(tiny_sd_folder, sampler, latents, guidance, "own")
    found = picture(tiny_sd_folder, sampler, latents, guidance, None)
    assert expected.std() > 5.0, "a flat picture would prove nothing"
    assert np.abs(found - expected).max() <= 1.0


@pytest.mark.parametrize("sampler", ["ddim", "euler", "dpmpp_2m", "unipc"])
def test_v_prediction_with_zero_terminal_snr(tiny_v_folder: Path, latents: torch.Tensor, sampler: str) -> None:
    expected = reference_picture(tiny_v_folder, sampler, latents, 3.0, "own")
    found = picture(tiny_v_folder, sampler, latents, 3.0, "sgm_uniform")
    assert expected.std() > 5.0, "a flat picture would prove nothing"
    assert np.abs(found - expected).max() <= 1.0


@pytest.mark.parametrize("sampler", ["euler", "dpmpp_2m"])
def test_karras_schedule(tiny_sd_folder: Path, latents: torch.Tensor, sampler: str) -> None:
    expected = reference_picture(tiny_sd_folder, sampler, latents, 5.0, "karras")
    found = picture(tiny_sd_folder, sampler, latents, 5.0, "karras")
    assert np.abs(found - expected).max() <= 1.0


def test_given_timesteps_step_for_step(tiny_sd_folder: Path, latents: torch.Tensor) -> None:
    pipeline = diffusers.StableDiffusionPipeline.from_pretrained(tiny_sd_folder, safety_checker=None)
    pipeline.set_progress_bar_config(disable=True)
    pipeline.scheduler.set_timesteps(STEPS)
    timesteps = [int(timestep) for timestep in pipeline.scheduler.timesteps]
    states: list[torch.Tensor] = []

    def note(_pipeline: object, _index: int, _timestep: object, tensors: dict[str, torch.Tensor]) -> dict[str, Any]:
        states.append(tensors["latents"].clone())
        return {}

    pipeline(PROMPT, latents=latents.clone(), num_inference_steps=STEPS, guidance_scale=4.0, callback_on_step_end=note)
    pipe = wordbrush.load(tiny_sd_folder, dtype="float32")
    request = wordbrush.GenerationRequest(prompt=PROMPT, latents=latents, timesteps=timesteps, guidance=4.0)
    for step, expected in zip(pipe.steps(request), states, strict=True):
        torch.testing.assert_close(step.x, expected, atol=2e-4, rtol=2e-4)


def test_defaults_are_those_of_diffusers(tiny_sd_folder: Path, latents: torch.Tensor) -> None:
    pipeline = diffusers.StableDiffusionPipeline.from_pretrained(tiny_sd_folder, safety_checker=None)
    pipeline.set_progress_bar_config(disable=True)
    expected = 255.0 * pipeline(PROMPT, latents=latents.clone(), output_type="np").images[0]
    result = wordbrush.load(tiny_sd_folder, dtype="float32")(PROMPT, latents=latents)
    assert np.abs(np.asarray(result.images[0], dtype=np.float64) - expected).max() <= 1.0


@pytest.mark.parametrize("sampler", ["ddim", "pndm", "euler"])
def test_settings_that_diffusers_overrules_in_old_folders(
    tiny_sd_folder: Path, latents: torch.Tensor, tmp_path: Path, sampler: str
) -> None:
    folder = Path(shutil.copytree(tiny_sd_folder, tmp_path / "old"))
    path = folder / "scheduler" / "scheduler_config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"clip_sample": True, "steps_offset": 0}))
    expected = reference_picture(folder, sampler, latents, 5.0, "own")
    found = picture(folder, sampler, latents, 5.0, None)
    assert np.abs(found - expected).max() <= 1.0


def test_a_saved_folder_opens_in_diffusers(tiny_v_folder: Path, latents: torch.Tensor, tmp_path: Path) -> None:
    wordbrush.load(tiny_v_folder, dtype="float32").save(tmp_path / "saved")
    before = reference_picture(tiny_v_folder, "ddim", latents, 3.0, "own")
    after = reference_picture(tmp_path / "saved", "ddim", latents, 3.0, "own")
    np.testing.assert_array_equal(before, after)
