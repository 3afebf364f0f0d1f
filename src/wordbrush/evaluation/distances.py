"""Figures of sets of pictures: Fréchet distance, PSNR, retrieval accuracy. NumPy in float64, no networks."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from wordbrush.errors import RequestError


def frechet_distance(first: np.ndarray, second: np.ndarray) -> float:
    """Between the Gaussians fitted to two sets of features (N, C), (M, C) (Heusel 2017, eq. 6); not negative.

    |m1 - m2|^2 + tr(S1) + tr(S2) - 2 tr((S1 S2)^(1/2)). The last trace is the sum of the singular values of A B^T, when
    S1 = A^T A and S2 = B^T B. So no matrix root is taken, and sets smaller than C do no harm to precision.

    Raises:
        RequestError: the sets have features of different lengths, or fewer than two pictures.
    """
    if first.ndim != 2 or second.ndim != 2 or first.shape[1] != second.shape[1]:
        raise RequestError(
            f"features of shapes {first.shape} and {second.shape} cannot be compared; both must be (N, C) with one C"
        )
    if min(len(first), len(second)) < 2:
        raise RequestError(f"sets of {len(first)} and {len(second)} pictures are too small; a distance needs 2 in each")
    roots = [_root(features.astype(np.float64)) for features in (first, second)]
    shift = first.mean(axis=0, dtype=np.float64) - second.mean(axis=0, dtype=np.float64)
    overlap = np.linalg.svd(roots[0] @ roots[1].T, compute_uv=False).sum()
    distance = shift @ shift + sum((root**2).sum() for root in roots) - 2 * overlap
    return max(0.0, float(distance))


def _root(features: np.ndarray) -> np.ndarray:
    """A (C or fewer, C) with A^T A = the covariance of the rows (N, C), by N - 1."""
    centred = (features - features.mean(axis=0)) / np.sqrt(len(features) - 1)
    if len(centred) <= centred.shape[1]:
        return centred
    upper: np.ndarray = np.linalg.qr(centred, mode="r")  # type: ignore[assignment]
    return upper


def psnr(first: np.ndarray, second: np.ndarray) -> float:
    """Peak signal-to-noise ratio in dB of two uint8 pictures of one shape; infinite when they are equal."""
    error = np.mean((first.astype(np.float64) - second.astype(np.float64)) ** 2)
    return float("inf") if error == 0 else float(10 * np.log10(255.0**2 / error))


def retrieval_accuracy(queries: np.ndarray, answers: np.ndarray, labels: Sequence[str], group: int = 100) -> float:
    """How often a query's most similar answer is its own, among `group` at a time.

    Args:
        queries, answers: (N, P); row i of one belongs to row i of the other. Compared by the cosine.
        labels: rows of one label are equally right (two pictures with the same caption).
        group: the last, smaller group is left out, unless it is the only one.

    Raises:
        RequestError: the numbers of rows differ, or there are none.
    """
    if not (len(queries) == len(answers) == len(labels) > 0):
        raise RequestError(
            f"{len(queries)} queries, {len(answers)} answers and {len(labels)} labels; give the same number, at least 1"
        )
    similar = _unit(queries) @ _unit(answers).T
    group = min(group, len(labels))
    right = [
        labels[start + int(np.argmax(similar[row, start : start + group]))] == labels[row]
        for start in range(0, len(labels) - group + 1, group)
        for row in range(start, start + group)
    ]
    return float(np.mean(right))


def _unit(rows: np.ndarray) -> np.ndarray:
    return rows / np.linalg.norm(rows, axis=1, keepdims=True)
