"""Fréchet distance, PSNR and retrieval against closed forms and SciPy."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.linalg import sqrtm

from wordbrush.errors import RequestError
from wordbrush.evaluation.distances import frechet_distance, psnr, retrieval_accuracy


def by_matrix_root(first: np.ndarray, second: np.ndarray) -> float:
    """The formula as it is written (Heusel 2017, eq. 6)."""
    a, b = np.cov(first, rowvar=False), np.cov(second, rowvar=False)
    shift = first.mean(0) - second.mean(0)
    return float(shift @ shift + np.trace(a + b - 2 * sqrtm(a @ b).real))


def test_frechet_equals_scipy() -> None:
    rng = np.random.default_rng(0)
    first = rng.normal(size=(200, 12)) @ rng.normal(size=(12, 12)) + rng.normal(size=12)
    second = rng.normal(size=(150, 12)) @ rng.normal(size=(12, 12))
    assert frechet_distance(first, second) == pytest.approx(by_matrix_root(first, second), rel=1e-8)


def test_frechet_of_two_gaussians_in_one_dimension() -> None:
    """(m1 - m2)^2 + (s1 - s2)^2, with samples scaled to have these moments exactly."""
    rng = np.random.default_rng(1)
    unit = rng.normal(size=(500, 1))
    unit = (unit - unit.mean()) / unit.std(ddof=1)
    assert frechet_distance(unit * 2 + 1, unit[::-1] * 0.5 - 3) == pytest.approx(16 + 2.25, rel=1e-10)


def test_frechet_of_a_set_with_itself_is_zero_even_when_it_is_small() -> None:
    small = np.random.default_rng(2).normal(size=(5, 64))  # fewer pictures than features: singular covariances
    assert frechet_distance(small, small) == pytest.approx(0.0, abs=1e-9)
    assert frechet_distance(small, small + 1) == pytest.approx(64.0, rel=1e-9)


@pytest.mark.parametrize("shapes", [((4, 3), (4, 2)), ((1, 3), (4, 3)), ((4,), (4,))])
def test_frechet_refuses_what_cannot_be_compared(shapes: tuple[tuple[int, ...], tuple[int, ...]]) -> None:
    with pytest.raises(RequestError, match=r"features|too small"):
        frechet_distance(*(np.ones(shape) for shape in shapes))


def test_psnr() -> None:
    black = np.zeros((4, 4, 3), np.uint8)
    assert psnr(black, black) == float("inf")
    assert psnr(black, black + 255) == pytest.approx(0.0)
    assert psnr(black, black + 51) == pytest.approx(20 * np.log10(5))


def test_retrieval() -> None:
    axes = np.eye(4)
    labels = ["a", "b", "c", "d"]
    assert retrieval_accuracy(axes, axes * 7, labels) == 1.0  # the length says nothing
    assert retrieval_accuracy(axes[[1, 0, 2, 3]], axes, labels) == 0.5
    assert retrieval_accuracy(axes[[1, 0, 2, 3]], axes, ["a", "a", "c", "d"]) == 1.0  # equal captions are equally right
    # among 2 at a time, rows 0 and 1 cannot be confused with 2 and 3
    close = np.array([[1, 0, 0.9, 0], [0, 1, 0, 0], [1, 0, 0.9, 0], [0, 0, 0, 1.0]])
    assert retrieval_accuracy(close, axes, labels) == 0.75
    assert retrieval_accuracy(close, axes, labels, group=2) == 1.0


def test_retrieval_needs_pairs() -> None:
    with pytest.raises(RequestError, match="same number"):
        retrieval_accuracy(np.eye(3), np.eye(3), ["a"])
