"""Where the loop starts from a picture, and what a mask holds."""

from __future__ import annotations

import pytest
import torch
from PIL import Image

from wordbrush.editing.start import held_outside, image_tensor, latent_mask, mask_picture, steps_to_run
from wordbrush.errors import RequestError


@pytest.mark.parametrize(("steps", "strength", "run"), [(50, 0.75, 37), (20, 1.0, 20), (20, 0.05, 1), (3, 0.999, 2)])
def test_steps_to_run_is_the_rule_of_diffusers(steps: int, strength: float, run: int) -> None:
    assert steps_to_run(steps, strength) == run


def test_no_step_at_all_is_refused() -> None:
    with pytest.raises(RequestError, match=r"strength=0\.01 of 20 steps.*0\.05"):
        steps_to_run(20, 0.01)


def test_pixels_become_minus_one_to_one() -> None:
    image = Image.new("RGB", (2, 1))
    image.putpixel((1, 0), (255, 127, 0))
    tensor = image_tensor(image, 2, 1)
    assert tensor.shape == (1, 3, 1, 2)
    assert tensor[0, :, 0, 0].tolist() == [-1.0, -1.0, -1.0]
    assert tensor[0, :, 0, 1].tolist() == pytest.approx([1.0, -1 / 255, -1.0])


@pytest.mark.parametrize("mode", ["RGBA", "LA", "P", "L", "1", "CMYK", "I;16"])
def test_every_mode_of_picture_is_read(mode: str) -> None:
    assert image_tensor(Image.new(mode, (8, 8)), 4, 4).shape == (1, 3, 4, 4)


def test_transparent_becomes_white() -> None:
    assert image_tensor(Image.new("RGBA", (2, 2), (255, 0, 0, 0)), 2, 2).min() == 1.0


def test_a_latent_may_change_as_much_as_its_most_changing_pixel() -> None:
    mask = mask_picture(Image.new("RGB", (8, 8)), 8, 8)
    mask.putpixel((1, 1), 255)
    mask.putpixel((7, 7), 51)
    assert latent_mask(mask, 4)[0, 0].tolist() == [[1.0, 0.0], [0.0, pytest.approx(0.2)]]


def test_outside_the_mask_the_estimate_is_what_is_kept() -> None:
    kept, mask = torch.full((1, 1, 1, 2), 5.0), torch.tensor([[[[1.0, 0.0]]]])
    denoiser = held_outside(lambda x, t: x * t, kept, mask)
    assert denoiser(torch.ones(3, 1, 1, 2), 0.5)[:, 0, 0].tolist() == [[0.5, 5.0]] * 3
