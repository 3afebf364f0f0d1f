"""Noise: one generator a picture."""

from __future__ import annotations

import pytest
import torch

from wordbrush.diffusion.noise import NoiseSource


def test_a_seed_gives_the_same_bits_alone_and_in_a_batch() -> None:
    batch, alone = NoiseSource.for_batch(40, 7, (4, 3, 5)), NoiseSource([43], (4, 3, 5))
    for _ in range(3):
        drawn = batch()
        assert drawn.shape == (7, 4, 3, 5)
        assert drawn.dtype == torch.float32
        assert torch.equal(drawn[3], alone()[0])


def test_draws_go_on_and_seeds_differ() -> None:
    source = NoiseSource([1, 2], (1, 4, 4))
    first, second = source(), source()
    assert not torch.equal(first, second)
    assert not torch.equal(first[0], first[1])


def test_the_first_draw_is_what_a_plain_seeded_generator_gives() -> None:
    """So that other programs' `torch.Generator().manual_seed(seed)` start from the same noise."""
    expected = torch.randn((4, 8, 8), generator=torch.Generator().manual_seed(7))
    assert torch.equal(NoiseSource([7], (4, 8, 8))()[0], expected)


def test_the_global_generator_is_neither_read_nor_moved() -> None:
    before = torch.get_rng_state()
    NoiseSource([1], (1, 2, 2))()
    assert torch.equal(before, torch.get_rng_state())


def test_impossible_seeds_are_refused() -> None:
    with pytest.raises(ValueError, match="at least one seed"):
        NoiseSource([], (1, 2, 2))
    with pytest.raises(ValueError, match="does not fit in 64 bits"):
        NoiseSource([2**64], (1, 2, 2))
    assert NoiseSource([0, -1, 2**64 - 1], (1, 2, 2))().isfinite().all()
