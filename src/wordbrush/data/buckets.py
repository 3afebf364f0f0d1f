"""Aspect-ratio buckets: pictures of many shapes, each cut as little as possible, every step of one shape."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Sequence

import numpy as np

Size = tuple[int, int]
"""Width and height."""


def bucket_sizes(side: int, step: int, least: int, most: int) -> list[Size]:
    """All sizes of at most side² pixels, sides in [least, most] and multiples of `step`, of which one side could not be
    larger; by width.

    Raises:
        ValueError: there are none.
    """
    found: set[Size] = set()
    for one in range(-(-least // step) * step, most + 1, step):
        other = min(side * side // one, most) // step * step
        if other >= least:
            found |= {(one, other), (other, one)}
    if not found:
        raise ValueError(
            f"no sides from {least} to {most} are multiples of {step} and make at most {side}x{side} pixels; "
            "make least or step smaller"
        )
    return sorted(found)


def nearest_bucket(size: Size, buckets: Sequence[Size]) -> int:
    """The number of the bucket whose shape is nearest: by the logarithm of width / height; of equals the larger one."""
    shape = math.log(size[0] / size[1])
    distances = [(abs(math.log(w / h) - shape), -w * h) for w, h in buckets]
    return min(range(len(buckets)), key=distances.__getitem__)


class BucketPlan:
    """Which examples make up which step. An epoch has every example once, in batches of one bucket each; a batch that
    a bucket cannot fill is filled up from the beginning of the same bucket's order, so that no picture is left out.
    """

    def __init__(self, members: Sequence[Sequence[int]], batch: int) -> None:
        """members: the examples of each bucket; steps: of an epoch."""
        self.members = [np.asarray(bucket, np.int64) for bucket in members]
        self.batch = batch
        self.steps = sum(-(-len(bucket) // batch) for bucket in self.members)

    def epoch(self, order: Sequence[int] | np.ndarray, seed: int, epoch: int) -> list[tuple[int, np.ndarray]]:
        """The (bucket, examples) of each step of an epoch, for one order of all examples."""
        rank = np.empty(len(order), np.int64)
        rank[np.asarray(order)] = np.arange(len(order))
        steps: list[tuple[int, np.ndarray]] = []
        for number, bucket in enumerate(self.members):
            ordered = bucket[np.argsort(rank[bucket])]
            for start in range(0, len(ordered), self.batch):
                filled = np.arange(start, start + self.batch) % len(ordered)
                steps.append((number, ordered[filled]))
        return [steps[place] for place in shuffler(f"buckets/{seed}/{epoch}").permutation(len(steps))]


def shuffler(name: str) -> np.random.Generator:
    """Random numbers of their own for each name."""
    mixed = int.from_bytes(hashlib.blake2b(name.encode(), digest_size=8).digest(), "little")
    return np.random.Generator(np.random.PCG64(mixed))
