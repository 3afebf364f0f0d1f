"""Tiles: the same picture as in one piece, for any size, and never more of it at a time than a tile."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from tests.networks.upscaler_oracles import random_state
from torch import Tensor

from wordbrush.errors import WorkFailed
from wordbrush.networks.rrdbnet import RRDBNet, RRDBNetConfig
from wordbrush.networks.srresnet import SRResNet, SRResNetConfig
from wordbrush.runtime.tiles import MOST_MARGIN, enlarge_in_tiles


def pixels(height: int, width: int) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (height, width, 3), dtype=np.uint8)


def nearest(images: Tensor) -> Tensor:
    return images.repeat_interleave(2, 2).repeat_interleave(2, 3)


@pytest.mark.parametrize("size", [(1, 1), (1, 300), (63, 64), (64, 65), (130, 200)])
def test_every_pixel_is_in_its_place(size: tuple[int, int]) -> None:
    picture = pixels(*size)
    found = enlarge_in_tiles(picture, 2, 5, nearest, large_side=64)
    assert np.array_equal(found, picture.repeat(2, 0).repeat(2, 1))


def test_a_network_that_sees_no_further_than_the_margin_gives_the_same_in_tiles() -> None:
    config = SRResNetConfig(scale=2, channels=8, blocks=3, end_kernel=3, batch_norm=False, skip_picture=True)
    network = SRResNet(config).eval()
    network.load_state_dict(random_state(network))
    assert config.reach <= MOST_MARGIN
    picture = pixels(90, 75)
    with torch.inference_mode():
        tiled = enlarge_in_tiles(picture, 2, config.reach, network, large_side=96)
        whole = enlarge_in_tiles(picture, 2, config.reach, network, large_side=1000)
    assert np.abs(tiled.astype(int) - whole).max() <= 1


def test_deep_networks_have_no_seams_that_eight_bits_show() -> None:
    """23 blocks, as published, though narrow: it could see 347 pixels far, and shows nothing of what is beyond 32."""
    config = RRDBNetConfig(features=8, growth=4, blocks=23, doublings=1)
    network = RRDBNet(config).eval()
    network.load_state_dict(random_state(network))
    scaled = random_state(network)
    scaled["conv_last.weight"] /= 40  # so that its results are colours, not black and white alone
    scaled["conv_last.bias"] += 0.5
    network.load_state_dict(scaled)
    picture = pixels(100, 150)
    with torch.inference_mode():
        tiled = enlarge_in_tiles(picture, 2, config.reach, network, large_side=256)
        whole = enlarge_in_tiles(picture, 2, config.reach, network, large_side=1000)
    assert 10 < whole.std() < 120
    assert np.abs(tiled.astype(int) - whole).max() <= 1


def test_memory_is_that_of_a_tile() -> None:
    seen = []

    def watched(images: Tensor) -> Tensor:
        seen.append(max(images.shape[2:]))
        return nearest(images)

    enlarge_in_tiles(pixels(40, 3000), 2, 10, watched, large_side=256)
    assert len(seen) > 10
    assert max(seen) <= 128


def test_numbers_that_are_none_fail() -> None:
    with pytest.raises(WorkFailed, match="not finite"):
        enlarge_in_tiles(pixels(4, 4), 2, 1, lambda images: nearest(images) * float("nan"))
