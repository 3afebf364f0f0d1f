"""What lies under a mask."""

from __future__ import annotations

import torch

from wordbrush.editing.fill import surroundings


def test_known_pixels_stay_and_a_flat_picture_is_continued_flat() -> None:
    image = torch.full((1, 3, 13, 7), 0.25)
    mask = torch.zeros(1, 1, 13, 7)
    mask[..., 3:9, 2:6] = 1.0
    damaged = torch.where(mask > 0, torch.tensor(-1.0), image)
    torch.testing.assert_close(surroundings(damaged, mask), image)


def test_between_two_colours_lie_the_colours_between() -> None:
    ramp = torch.linspace(-1, 1, 64).expand(1, 3, 32, 64)
    mask = torch.zeros(1, 1, 32, 64)
    mask[..., 8:24, 16:48] = 1.0
    filled = surroundings(torch.where(mask > 0, torch.tensor(1.0), ramp), mask)
    assert torch.equal(filled[..., :16], ramp[..., :16])
    assert (filled - ramp).abs().max() < 0.5
    assert (filled.diff(dim=3) > -1e-5).all(), "no edge inside"


def test_a_soft_mask_mixes_and_a_whole_one_is_grey() -> None:
    image = torch.full((1, 3, 4, 4), 1.0)
    mask = torch.zeros(1, 1, 4, 4)
    mask[..., 1, 1] = 0.5
    dark = image.clone()
    dark[..., 1, 1] = -1.0
    assert surroundings(dark, mask)[0, 0, 1, 1].item() == 0.0
    assert torch.equal(surroundings(image, torch.ones(1, 1, 4, 4)), torch.zeros(1, 3, 4, 4))
