"""Sums of attention to a text: arithmetic that can be done by hand."""

from __future__ import annotations

import pytest
import torch

from wordbrush.networks.attention import attend, attention_weights
from wordbrush.runtime.text_attention import TextAttention, level_of


def test_the_mean_over_calls_layers_and_positions() -> None:
    attention = TextAttention()
    for value in (0.2, 0.4):
        attention.watch(0, torch.full((2, 6, 3), value))  # a 2x3 level; the second row is not kept
    attention.watch(1, torch.full((1, 24, 3), 0.5))
    heat = attention.heat([0, 2], (4, 6), (8, 12))
    torch.testing.assert_close(heat, torch.full((8, 12), (0.3 + 0.5) / 2))


def test_a_map_is_where_it_was_looked_from() -> None:
    weights = torch.zeros(1, 16, 2)
    weights[0, 6, 1] = 1.0  # second row, third column of a 4x4 level
    attention = TextAttention()
    attention.watch(0, weights)
    y, x = divmod(int(attention.heat([1], (8, 8), (32, 32)).argmax()), 32)
    assert (y // 8, x // 8) == (1, 2)
    assert attention.heat([0], (8, 8), (32, 32)).max() == 0.0


def test_nothing_watched_has_no_map() -> None:
    attention = TextAttention()
    assert attention.empty
    with pytest.raises(ValueError, match="nothing was watched"):
        attention.heat([0], (4, 4), (8, 8))


@pytest.mark.parametrize(("positions", "expected"), [(5 * 7, (5, 7)), (3 * 4, (3, 4)), (2 * 2, (2, 2)), (1, (1, 1))])
def test_levels_round_up(positions: int, expected: tuple[int, int]) -> None:
    assert level_of(positions, (5, 7)) == expected


def test_a_level_that_is_none() -> None:
    with pytest.raises(ValueError, match="no level of 5x7 latents has 13 positions"):
        level_of(13, (5, 7))


def test_weights_are_those_of_attend() -> None:
    generator = torch.Generator().manual_seed(3)
    query, key = torch.randn(2, 9, 8, generator=generator), torch.randn(1, 5, 8, generator=generator)
    value = torch.eye(5).repeat(1, 1, 2)[:, :, :10]  # what comes out is where was looked
    weights = attention_weights(query, key, 2)
    assert weights.shape == (2, 2, 9, 5)
    out = attend(query, key, value, 2).unflatten(2, (2, 5)).transpose(1, 2)
    torch.testing.assert_close(out, weights)
