"""Buckets, cuts and captions: hand-worked cases, and what holds for all."""

from __future__ import annotations

import random

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from wordbrush.data.buckets import BucketPlan, bucket_sizes, nearest_bucket
from wordbrush.data.prepare import CaptionRules, Cut, cut_out

PIXELS = np.random.default_rng(0).integers(0, 256, (40, 64, 3), dtype=np.uint8)


def test_bucket_sizes_worked_by_hand() -> None:
    assert bucket_sizes(64, 32, 32, 128) == [(32, 96), (32, 128), (64, 64), (96, 32), (128, 32)]
    sizes = bucket_sizes(512, 64, 256, 1024)
    assert (512, 512) in sizes
    assert (256, 1024) in sizes
    assert (768, 320) in sizes  # 768 x 341: the largest multiple of 64 below


@given(st.integers(64, 1100), st.sampled_from([8, 16, 32, 64]))
def test_every_bucket_keeps_the_limits(side: int, step: int) -> None:
    least, most = max(step, side // 2), 2 * side
    sizes = bucket_sizes(side, step, least, most)
    assert len(set(sizes)) == len(sizes)
    for width, height in sizes:
        assert (height, width) in sizes
        assert width * height <= side * side
        assert width % step == height % step == 0
        assert least <= min(width, height) <= max(width, height) <= most


def test_no_bucket_is_an_error_that_says_what_to_change() -> None:
    with pytest.raises(ValueError, match="no sides from 60 to 63 are multiples of 64"):
        bucket_sizes(62, 64, 60, 63)


def test_pictures_go_to_the_nearest_shape() -> None:
    sizes = [(32, 128), (64, 64), (96, 32), (128, 32)]
    assert sizes[nearest_bucket((100, 100), sizes)] == (64, 64)
    assert sizes[nearest_bucket((300, 100), sizes)] == (96, 32)
    assert sizes[nearest_bucket((1000, 100), sizes)] == (128, 32)
    assert sizes[nearest_bucket((100, 210), sizes)] == (32, 128)  # by the logarithm: 1/2.1 is nearer to 1/4 than to 1
    assert sizes[nearest_bucket((100, 190), sizes)] == (64, 64)


def test_an_epoch_of_buckets_has_everything_and_whole_batches() -> None:
    plan = BucketPlan([[0, 2, 4, 6, 8], [], [1], [3, 5, 7, 9]], 2)
    assert plan.steps == 3 + 1 + 2
    order = np.random.default_rng(0).permutation(10)
    steps = plan.epoch(order, 3, 0)
    assert len(steps) == plan.steps
    assert all(set(members) <= set(plan.members[bucket]) and len(members) == 2 for bucket, members in steps)
    seen = np.bincount(np.concatenate([members for _, members in steps]), minlength=10)
    assert (seen >= 1).all()
    assert seen[1] == 2  # alone in its bucket: it fills its batch itself
    assert seen[[0, 2, 4, 6, 8]].sum() == 6
    again = plan.epoch(order, 3, 0)
    assert all(a == c and (b == d).all() for (a, b), (c, d) in zip(steps, again, strict=True))
    assert [bucket for bucket, _ in plan.epoch(order, 3, 1)] != [bucket for bucket, _ in steps]


def test_a_cut_of_the_same_size_keeps_the_pixels() -> None:
    pixels, corner = cut_out(PIXELS, Cut(size=(64, 40)))
    assert (pixels == PIXELS).all()
    assert corner == (0, 0)
    pixels, corner = cut_out(PIXELS, Cut(size=(40, 40)))  # the largest square of its middle
    assert (pixels == PIXELS[:, 12:52]).all()
    assert corner == (0, 12)
    pixels, corner = cut_out(PIXELS, Cut(size=(40, 40), at=(1.0, 0.0), flip=True))
    assert (pixels == PIXELS[:, 24:64][:, ::-1]).all()
    assert corner == (0, 0)  # mirrored, the right end is the left one


def test_cover_is_resizing_then_cutting() -> None:
    smooth = np.asarray(Image.fromarray(PIXELS).resize((8, 5)).resize((256, 160), Image.Resampling.BICUBIC))
    pixels, corner = cut_out(smooth, Cut(size=(40, 40), at=(0.25, 0.5)))
    whole = Image.fromarray(smooth).resize((64, 40), Image.Resampling.LANCZOS)
    left = round(0.25 * (64 - 40))
    assert corner == (0, left)
    difference = np.abs(np.asarray(whole)[:, left : left + 40].astype(int) - pixels)
    assert difference.max() <= 3
    enlarged, _ = cut_out(PIXELS, Cut(size=(128, 100)))
    assert enlarged.shape == (100, 128, 3)


def test_native_cuts_without_resizing_unless_too_small() -> None:
    pixels, corner = cut_out(PIXELS, Cut(size=(16, 24), fit="native", at=(1.0, 1.0)))
    assert (pixels == PIXELS[16:, 48:]).all()
    assert corner == (16, 48)
    assert cut_out(PIXELS, Cut(size=(128, 24), fit="native"))[0].shape == (24, 128, 3)


@given(
    st.integers(1, 90), st.integers(1, 90), st.integers(1, 50), st.integers(1, 50),
    st.floats(0, 1), st.floats(0, 1), st.booleans(), st.sampled_from(["cover", "native"]),
)  # fmt: skip
def test_every_cut_has_its_size(w: int, h: int, wide: int, high: int, x: float, y: float, flip: bool, fit: str) -> None:
    picture = np.zeros((h, w, 3), np.uint8)
    pixels, (top, left) = cut_out(picture, Cut(size=(wide, high), fit=fit, at=(x, y), flip=flip))  # type: ignore[arg-type]
    assert pixels.shape == (high, wide, 3)
    assert top >= 0
    assert left >= 0


def test_captions_are_dropped_as_often_as_asked() -> None:
    rules = CaptionRules(drop=0.3, before="style, ", after="!")
    told = [rules.applied("a cat", random.Random(seed)) for seed in range(2000)]
    assert set(told) == {"", "style, a cat!"}
    assert 0.26 < told.count("") / 2000 < 0.34
    assert CaptionRules().applied("a, b", random.Random(0)) == "a, b"


def test_tags_are_shuffled_behind_the_kept_ones() -> None:
    rules = CaptionRules(shuffle=True, keep=2)
    told = {rules.applied("sks,  girl, b, c,d", random.Random(seed)) for seed in range(200)}
    assert len(told) == 6
    assert all(text.startswith("sks, girl, ") for text in told)
    rules = CaptionRules(shuffle=True, separator=" ")
    assert rules.applied("a b", random.Random(0)) in ("a b", "b a")
    rules = CaptionRules(drop_tags=0.5, keep=1, separator=";")
    told = {rules.applied("a; b; c", random.Random(seed)) for seed in range(100)}
    assert told == {"a", "a; b", "a; c", "a; b; c"}
