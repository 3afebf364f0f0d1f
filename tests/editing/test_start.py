"""Where the loop starts from a picture, and what a mask holds."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from PIL import Image

from wordbrush.editing.start import Start, held_outside, image_tensor, latent_mask, steps_to_run
from wordbrush.errors import RequestError


@pytest.mark.parametrize(("steps", "strength", "run"), [(50, 0.75, 37), (20, 1.0, 20), (20, 0.05, 1), (3, 0.999, 2)])
def test_steps_to_run_is_the_rule_of_diffusers(steps: int, strength: float, run: int) -> None:
    assert steps_to_run(steps, strength) == run


@pytest.mark.parametrize(("steps", "strength", "run"), [(50, 0.75, 38), (20, 1.0, 20), (20, 0.01, 1), (10, 0.7, 7)])
def test_flux_rounds_up(steps: int, strength: float, run: int) -> None:
    assert steps_to_run(steps, strength, rounds_up=True) == run


def test_no_step_at_all_is_refused() -> None:
    with pytest.raises(RequestError, match=r"strength=0\.01 of 20 steps.*0\.05"):
        steps_to_run(20, 0.01)


def test_pixels_become_minus_one_to_one() -> None:
    image = Image.new("RGB", (2, 1))
    image.putpixel((1, 0), (255, 127, 0))
    tensor = image_tensor(image)
    assert tensor.shape == (1, 3, 1, 2)
    assert tensor[0, :, 0, 0].tolist() == [-1.0, -1.0, -1.0]
    assert tensor[0, :, 0, 1].tolist() == pytest.approx([1.0, -1 / 255, -1.0])


def test_a_latent_may_change_as_much_as_its_most_changing_pixel() -> None:
    mask = Image.new("L", (8, 8))
    mask.putpixel((1, 1), 255)
    mask.putpixel((7, 7), 51)
    assert latent_mask(mask, 4)[0, 0].tolist() == [[1.0, 0.0], [0.0, pytest.approx(0.2)]]


def test_outside_the_mask_the_estimate_is_what_is_kept() -> None:
    kept, mask = torch.full((1, 1, 1, 2), 5.0), torch.tensor([[[[1.0, 0.0]]]])
    denoiser = held_outside(lambda x, t: x * t, kept, mask)
    assert denoiser(torch.ones(3, 1, 1, 2), 0.5)[:, 0, 0].tolist() == [[0.5, 5.0]] * 3


def start(**fields: Any) -> Start:
    usual = {"clean": torch.full((1, 1, 1, 2), 5.0), "mask": None, "fill": None, "from_noise": False, "holds": True}
    return Start(**{**usual, **fields})


FIRST, MORE, PURE = torch.ones(2, 1, 1, 2), torch.full((2, 1, 1, 2), 3.0), torch.zeros(2, 1, 1, 2)
MASK = torch.tensor([[[[1.0, 0.0]]]])


@pytest.mark.parametrize(
    ("fields", "expected"),
    [
        ({}, [4.5, 4.5]),
        ({"mask": MASK, "fill": "original"}, [4.5, 4.5]),
        ({"mask": MASK, "fill": "noise"}, [2.9, 4.5]),  # 0.8 * 3 + 0.5
        ({"mask": MASK, "fill": "empty"}, [0.5, 4.5]),
        ({"from_noise": True}, [0.0, 0.0]),
    ],
)
def test_the_loop_begins_from_what_lies_under_the_mask(fields: dict[str, Any], expected: list[float]) -> None:
    x = start(**fields).noised(FIRST, lambda: MORE, (0.8, 0.5), PURE)
    assert x[0, 0, 0].tolist() == pytest.approx(expected)
    assert x.shape == (2, 1, 1, 2)


def test_what_an_inpainting_network_sees_is_not_held_besides() -> None:
    assert start(mask=MASK, holds=False).held(denoise)(FIRST, 1.0) is FIRST
    assert start(mask=MASK).held(denoise)(FIRST, 1.0)[0, 0, 0].tolist() == [1.0, 5.0]
    assert start().held(denoise)(FIRST, 1.0) is FIRST


def denoise(x: torch.Tensor, t: float) -> torch.Tensor:
    return x
