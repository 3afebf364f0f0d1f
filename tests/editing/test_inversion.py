"""Inversion: exact where the answer is known, and back again with a model."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from PIL import Image
from tests.diffusion.gaussian import MEAN, PROCESSES, SPREAD, exact_flow, exact_x0
from torch.testing import assert_close

import wordbrush
from wordbrush import GenerationRequest, Pipeline, RequestError
from wordbrush.diffusion.samplers.first_order import ddim
from wordbrush.editing.inversion import Inversion, inverse_steps, invert
from wordbrush.editing.start import image_tensor

PROMPT = "a fox on a blue background"


@pytest.mark.parametrize("name", sorted(PROCESSES))
def test_gaussian_data_goes_back_to_its_own_noise(name: str) -> None:
    """The probability-flow ODE of Gaussian data is known in closed form; the error falls with the steps."""
    process = PROCESSES[name]
    x0 = (MEAN + SPREAD * torch.linspace(-2, 2, 9, dtype=torch.float64)).reshape(9, 1, 1, 1)
    errors = []
    for steps in (40, 160):
        times = [1.0 - index / steps for index in range(steps)] + [0.0]
        *_, last = inverse_steps(lambda x, t: exact_x0(process, x, t), x0, times, process)
        exact = exact_flow(process, x0, 0.0, 1.0)
        errors.append(float((last.x - exact).abs().max() / process.sigma(1.0)))
    assert errors[1] < 0.1
    assert errors[1] < 0.5 * errors[0]


@pytest.mark.parametrize("name", ["vp", "flow"])
def test_refinements_make_few_steps_reversible(name: str) -> None:
    process = PROCESSES[name]
    x0 = (MEAN + SPREAD * torch.linspace(-2, 2, 9, dtype=torch.float64)).reshape(9, 1, 1, 1)
    times = [1.0, 0.8, 0.6, 0.4, 0.2, 0.1, 0.0]

    def denoiser(x: torch.Tensor, t: float) -> torch.Tensor:
        return exact_x0(process, x, t)

    def error(refinements: int) -> float:
        *_, there = inverse_steps(denoiser, x0, times[:-1], process, refinements)  # ends short of clean, as some do
        *_, back = ddim(denoiser, there.x, times[:-1], process, lambda: there.x)
        return float((back.x - x0).abs().max())

    assert error(12) < 1e-3
    assert error(12) < 0.1 * error(1)


def test_the_noise_paints_the_picture_again() -> None:
    """The embedded model: what its VAE keeps of a picture comes back; measured 33 dB and more beside the original."""
    pipe = wordbrush.load(dtype="float32")
    settings = {"steps": 20, "guidance": 1.0, "sampler": "ddim"}
    picture = pipe(PROMPT, seed=7, **settings).images[0]  # type: ignore[arg-type]
    noise = invert(pipe, GenerationRequest(prompt=PROMPT, image=picture, **settings))  # type: ignore[arg-type]
    assert noise.shape[:2] == (1, pipe.codec.latent_channels)
    assert 0.4 < noise.std().item() < 1.3
    again = pipe(PROMPT, latents=noise, **settings).images[0]  # type: ignore[arg-type]
    assert difference(picture, again) < 0.02
    other = pipe("a panda on a blue background", latents=noise, **settings).images[0]  # type: ignore[arg-type]
    assert difference(picture, other) > 0.02


def difference(first: Image.Image, second: Image.Image) -> float:
    """Mean, 1 being black against white."""
    pair = [torch.tensor(list(picture.tobytes()), dtype=torch.float32) / 255 for picture in (first, second)]
    return float((pair[0] - pair[1]).abs().mean())


def test_inversion_is_deterministic_and_can_be_stopped(tiny_pipe: Pipeline) -> None:
    request = GenerationRequest(prompt=PROMPT, image=Image.new("RGB", (32, 32), "red"), guidance=1.0, sampler="ddim")
    assert_close(invert(tiny_pipe, request), invert(tiny_pipe, request), rtol=0, atol=0)
    walk = iter(Inversion(tiny_pipe, request))
    next(walk)
    walk.close()  # type: ignore[attr-defined]


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({}, "needs a picture"),
        ({"image": Image.new("RGB", (32, 32)), "strength": 0.5}, "all the way"),
        ({"image": Image.new("RGB", (32, 32)), "count": 2}, "one picture"),
    ],
)
def test_what_cannot_be_inverted_is_refused(tiny_pipe: Pipeline, fields: dict[str, object], words: str) -> None:
    with pytest.raises(RequestError, match=words):
        invert(tiny_pipe, GenerationRequest.from_dict({"prompt": PROMPT, **fields}))


def test_an_epsilon_model_inverts_too(tiny_sd_folder: Path) -> None:
    pipe = wordbrush.load(tiny_sd_folder, dtype="float32")
    picture = Image.radial_gradient("L").resize((32, 32)).convert("RGB")
    settings = {"steps": 30, "guidance": 1.0, "sampler": "ddim"}
    noise = invert(pipe, GenerationRequest(prompt=PROMPT, image=picture, **settings), 10)  # type: ignore[arg-type]
    again = pipe(PROMPT, latents=noise, width=32, height=32, **settings)  # type: ignore[arg-type]
    assert_close(again.latents, pipe.codec.encode(image_tensor(picture)), rtol=0, atol=0.15)
