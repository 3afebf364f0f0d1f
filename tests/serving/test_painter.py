"""What a worker does with a batch: joined, painted, cancelled, failed; each job for itself."""

from __future__ import annotations

import time
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from tests.serving.worker_parts import PROMPT, Bench, library, work

from wordbrush import Pipeline
from wordbrush.data.scenes import render, sample_scene
from wordbrush.metadata import read_metadata
from wordbrush.request import GenerationRequest
from wordbrush.serving.work import Describe, Explain, Upscale
from wordbrush.serving.workers import painter
from wordbrush.serving.workers.protocol import Cancel, Cancelled, Done, Failed


@pytest.fixture
def bench(tmp_path: Path, tiny_v_folder: Path, monkeypatch: pytest.MonkeyPatch) -> Bench:
    monkeypatch.setenv("WORDBRUSH_MODELS", str(library(tmp_path / "models", tiny_v_folder, "tiny")))
    monkeypatch.setattr(painter, "_TELL_EVERY", 0.0)  # the small model's steps are quicker than reports are due
    return Bench(tmp_path / "data")


@pytest.fixture
def loops(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Grows by the number of pictures of every loop that is begun."""
    found: list[int] = []
    begin = Pipeline.begin

    def counted(self: Pipeline, request: GenerationRequest, *rest: Any) -> Any:
        found.append(request.pictures)
        return begin(self, request, *rest)

    monkeypatch.setattr(Pipeline, "begin", counted)
    return found


def test_jobs_of_a_batch_are_one_loop_and_have_their_own_pixels(bench: Bench, loops: list[int]) -> None:
    bench.do(work(seed=5, count=2), work("a red car", seed=9, sampler="dpmpp_2m"), work(seed=9, steps=3))
    assert loops == [3, 1], "the second says no more than the first's defaults; the third differs"
    alone = bench.models.pipeline("tiny", None)
    assert bench.images("0") == [image.tobytes() for image in alone(PROMPT, seed=5, count=2).images]
    assert bench.images("1") == [image.tobytes() for image in alone("a red car", seed=9).images]
    assert bench.images("2") == [image.tobytes() for image in alone(PROMPT, seed=9, steps=3).images]


def test_a_file_says_all_that_it_takes_to_paint_it_again(bench: Bench) -> None:
    bench.do(work(["a fox", "a red car"], seed=5))
    second = bench.pictures("0")[1]
    path = bench.files.path(second.sha256)
    assert path is not None
    assert path.stat().st_size == second.bytes
    told = read_metadata(path)
    assert (told.request.prompt, told.request.seed, told.request.model) == ("a red car", 6, "tiny")
    assert (second.seed, second.role, second.index) == (6, "picture", 1)
    assert second.request == told.request.to_dict()
    pipe = bench.models.pipeline("tiny", None)
    assert pipe(told.request).images[0].tobytes() == bench.images("0")[1]
    assert told.origin.model_hash == pipe.origin.model_hash is not None


def test_many_pictures_go_through_in_loops_of_the_batch_size(bench: Bench, loops: list[int]) -> None:
    few = Bench(bench.data, batch=4)
    few.do(work(count=9, seed=1, steps=2), work(seed=3, steps=2))
    assert loops == [4, 4, 2]
    assert len(few.pictures("0")) == 9
    progress = few.progress("0")
    assert [one.step for one in progress] == sorted(one.step for one in progress)
    assert progress[-1].step == progress[-1].steps == 18
    assert all(one.eta is not None and one.eta >= 0 for one in progress if one.phase == "painting" and one.step)
    assert progress[0].phase == "loading"


def test_every_step_is_told_of_a_job_that_is_watched_alone(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(painter, "_TELL_EVERY", 3600.0)
    bench.do(work(seed=1, steps=8), watched=True)
    assert {one.step for one in bench.progress("0")} >= set(range(1, 9))
    bench.do(work(seed=1, steps=8))
    assert {one.step for one in bench.progress("0")} == {0, 8}  # when it begins, and when it is decoded


def test_who_is_cancelled_leaves_within_a_step_and_the_others_go_on(bench: Bench) -> None:
    bench.cancel_at("1", 3)
    bench.do(work(seed=1, steps=8), work(seed=2, steps=8), work(seed=3, steps=8))
    assert isinstance(bench.last("1"), Cancelled)
    assert bench.pictures("1") == []
    assert max(one.step for one in bench.progress("1")) == 3
    alone = bench.models.pipeline("tiny", None)
    assert bench.images("2") == [alone(PROMPT, seed=3, steps=8).images[0].tobytes()]
    assert isinstance(bench.last("0"), Done)


def test_when_all_are_cancelled_the_loop_stops(bench: Bench, loops: list[int]) -> None:
    bench.cancel_at("0", 2)
    bench.do(work(seed=1, steps=30))
    assert isinstance(bench.last("0"), Cancelled)
    assert max(one.step for one in bench.progress("0")) == 2
    assert loops == [1]


def test_a_job_that_waits_in_the_batch_is_let_go_too(bench: Bench, loops: list[int]) -> None:
    bench.heard = lambda report: bench.desk.cancel(Cancel("1"))
    bench.do(work(seed=1, steps=4), work(seed=1, steps=5))
    assert isinstance(bench.last("0"), Done)
    assert isinstance(bench.last("1"), Cancelled)
    assert loops == [1]


def test_a_picture_is_kept_as_it_stands(bench: Bench) -> None:
    bench.cancel_at("0", 4, keep_partial=True)
    bench.do(work(seed=1, steps=8), work(seed=2, steps=8))
    assert isinstance(bench.last("0"), Cancelled)
    (partial,) = bench.pictures("0")
    assert (partial.role, partial.label) == ("partial", "step 5 of 8"), "within one step"
    pipe = bench.models.pipeline("tiny", None)
    for number, step in enumerate(pipe.steps(GenerationRequest(prompt=PROMPT, seed=1, steps=8)), 1):
        if number == 5:
            assert bench.open(partial).tobytes() == pipe.decode(step.x0)[0].tobytes()
            break


@pytest.mark.parametrize(
    ("wrong", "kind", "words"),
    [
        ({"width": 33}, "request", "multiple of 4"),
        ({"prompt": "a fox <lora:nothing:1>"}, "request", "nothing"),
        ({"prompt": "{a fox|a cat} <lora:{/etc/passwd|/etc/shadow}:1>", "seed": 3}, "request", "there is no LoRA"),
        ({"styles": ["nowhere"]}, "request", "nowhere"),
        ({"image": {"sha256": "ab" * 32}}, "request", "no picture"),
        ({"image": {"path": "fox.png", "sha256": None}}, "request", "uploaded"),
        ({"model": "absent"}, "model", "absent"),
    ],
    ids=lambda value: str(value)[:24],
)
def test_what_is_wrong_fails_alone(bench: Bench, wrong: dict[str, Any], kind: str, words: str) -> None:
    bad = work(**{"seed": 3, **wrong})
    bench.do(work(seed=1), bad, work(seed=2))
    failed = bench.last("1")
    assert isinstance(failed, Failed)
    assert failed.problem.kind == kind
    assert words in failed.problem.message
    assert isinstance(bench.last("0"), Done)
    assert isinstance(bench.last("2"), Done)


def test_numbers_that_are_not_finite_are_one_jobs_affair(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    decode = Pipeline.finish

    def finish(self: Pipeline, request: GenerationRequest, latents: Any) -> Any:
        return decode(self, request, latents * float("nan") if request.seed == 2 else latents)

    monkeypatch.setattr(Pipeline, "finish", finish)
    bench.do(work(seed=1), work(seed=2), work(seed=3))
    failed = bench.last("1")
    assert isinstance(failed, Failed)
    assert failed.problem.kind == "work"
    assert "not finite" in failed.problem.message
    assert isinstance(bench.last("0"), Done)
    assert isinstance(bench.last("2"), Done)


def broken(monkeypatch: pytest.MonkeyPatch, when: Any, error: Exception) -> None:
    """Lets loops fail in their second step when `when` says so of their seeds."""
    steps = Pipeline.steps

    def failing(self: Pipeline, request: GenerationRequest, seeds: Any = None) -> Any:
        for number, step in enumerate(steps(self, request, seeds)):
            if number == 1 and when(seeds):
                raise error
            yield step

    monkeypatch.setattr(Pipeline, "steps", failing)


def test_out_of_memory_it_is_tried_with_half_as_many(
    bench: Bench, loops: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    broken(monkeypatch, lambda seeds: len(seeds) > 2, MemoryError())
    bench.do(*(work(seed=seed) for seed in range(4)))
    assert loops == [4, 2, 2]
    assert all(isinstance(bench.last(str(number)), Done) for number in range(4))
    assert bench.progress("0")[-1].step == bench.progress("0")[-1].steps


def test_but_only_once(bench: Bench, loops: list[int], monkeypatch: pytest.MonkeyPatch) -> None:
    broken(monkeypatch, lambda seeds: len(seeds) > 1, MemoryError())
    bench.do(*(work(seed=seed) for seed in range(4)), work(seed=1, steps=3))
    assert loops == [4, 2, 2, 1]
    for number in range(4):
        failed = bench.last(str(number))
        assert isinstance(failed, Failed)
        assert "not enough memory" in failed.problem.message
    assert isinstance(bench.last("4"), Done), "a worker outlives it"


def test_memory_that_runs_out_after_some_pictures_are_written_loses_none(
    bench: Bench, loops: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    decode, failed = Pipeline.finish, list[int]()

    def finish(self: Pipeline, request: GenerationRequest, latents: Any) -> Any:
        time.sleep(0.1)  # the files of those before are written meanwhile
        if request.seed == 4 and not failed:
            failed.append(4)
            raise MemoryError
        return decode(self, request, latents)

    monkeypatch.setattr(Pipeline, "finish", finish)
    bench.do(work(seed=1, count=4))
    assert isinstance(bench.last("0"), Done)
    assert loops == [4, 2, 2]
    assert {picture.index for picture in bench.pictures("0")} == {0, 1, 2, 3}
    assert bench.progress("0")[-1].picture <= 4


def test_an_error_that_nobody_foresaw_is_found_by_itself(
    bench: Bench, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    broken(monkeypatch, lambda seeds: 2 in seeds, ZeroDivisionError("of all things"))
    bench.do(*(work(seed=seed) for seed in range(4)))
    failed = bench.last("2")
    assert isinstance(failed, Failed)
    assert "ZeroDivisionError" in failed.problem.message
    assert [isinstance(bench.last(number), Done) for number in "013"] == [True] * 3
    assert "unforeseen" in caplog.text


def test_previews_only_for_whom_somebody_looks_on(bench: Bench) -> None:
    bench.do(work(seed=1, steps=20))
    assert bench.previews("0") == []
    bench.do(work(seed=1, steps=20, count=2), watched=True)
    previews = bench.previews("0")
    assert {one.index for one in previews} == {0, 1}
    assert len(previews) >= 16
    with Image.open(BytesIO(previews[-1].jpeg)) as picture:
        assert (picture.format, picture.size) == ("JPEG", (32, 32))


def test_pictures_are_made_larger(bench: Bench) -> None:
    values = np.random.default_rng(0).integers(0, 255, (20, 30, 3), dtype=np.uint8)
    given = bench.inputs.put(Image.fromarray(values))
    bench.do(Upscale(images=(given, given), scale=2))
    assert [(one.width, one.height) for one in bench.pictures("0")] == [(60, 40)] * 2
    for fields, size in (
        ({"width": 60, "height": 60}, (90, 60)),
        ({"width": 60, "height": 60, "crop": True}, (60, 60)),
        ({"height": 30, "upscaler": "nearest"}, (45, 30)),
    ):
        bench.do(Upscale(images=(given,), **{"upscaler": "lanczos", **fields}))
        (picture,) = bench.pictures("0")
        assert (picture.width, picture.height) == size == bench.open(picture).size
    bench.do(Upscale(images=(given,), width=400))
    failed = bench.last("0")
    assert isinstance(failed, Failed)
    assert "at most 8" in failed.problem.message


def test_a_picture_that_was_given_is_painted_over(bench: Bench) -> None:
    given = bench.inputs.put(Image.new("RGB", (32, 32), "red"))
    bench.do(work(image=given.to_json(), strength=0.5, mask=[0, 0, 16, 32]))
    (picture,) = bench.pictures("0")
    assert bench.open(picture).getpixel((30, 16)) == (255, 0, 0)


def test_a_picture_is_explained(bench: Bench) -> None:
    asked = work(seed=1, steps=4).request
    bench.do(Explain(request=asked, columns=3))
    done = bench.last("0")
    assert isinstance(done, Done), done
    pictures = bench.pictures("0")
    assert {one.role for one in pictures} == {"picture", "frame", "attention"}
    own = next(one for one in pictures if one.role == "picture")
    pipe = bench.models.pipeline("tiny", None)
    assert bench.open(own).tobytes() == pipe(asked).images[0].tobytes()
    assert (own.seed, own.label) == (1, None)
    assert done.output["tokens"]
    assert bench.progress("0")[-1].step == 4
    bench.cancel_at("0", 2)
    bench.do(Explain(request=asked))
    assert isinstance(bench.last("0"), Cancelled)


def test_a_picture_is_described(bench: Bench) -> None:
    given = bench.inputs.put(Image.fromarray(render(sample_scene("test", 99, 2, "single"))))
    bench.do(Describe(image=given))
    done = bench.last("0")
    assert isinstance(done, Done), done
    assert "saxophone" in done.output["caption"]
    bench.do(Describe(image=given, model="tiny"))
    failed = bench.last("0")
    assert isinstance(failed, Failed)
    assert failed.problem.kind == "model"
