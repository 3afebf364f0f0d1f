"""What a fine-tuning did, measured: the figures on pictures whose answers are known."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from typer.testing import CliRunner

import wordbrush
from wordbrush.cli.app import make_app
from wordbrush.data.scenes import render, sample_scene
from wordbrush.data.subjects import SUBJECTS
from wordbrush.errors import RequestError
from wordbrush.evaluation.finetuned import Change, Figure, Side, effect_requests, embedded, measure_effect, table
from wordbrush.evaluation.inspector import TrainedInspector
from wordbrush.evaluation.prompts import composition_prompts
from wordbrush.formats.clip_files import ClipFiles, read_clip
from wordbrush.formats.library import embedded_folder
from wordbrush.request import GenerationRequest


@pytest.fixture(scope="module")
def clip() -> ClipFiles:
    return read_clip(embedded_folder())


def subject(split: str, count: int) -> list[Image.Image]:
    return [Image.fromarray(SUBJECTS["zorb"].picture(split, 0, index).pixels) for index in range(count)]  # type: ignore[arg-type]


def test_a_figure_has_the_standard_error_of_its_mean() -> None:
    figure = Figure.of([1.0, 2.0, 3.0, 6.0])
    assert figure.mean == 3.0
    assert figure.error == pytest.approx(np.std([1, 2, 3, 6], ddof=1) / 2)
    assert Change.of([1.0, 2.0], [2.0, 4.0]).gain == Figure(mean=1.5, error=pytest.approx(0.5))  # type: ignore[arg-type]


def test_pictures_of_a_subject_are_more_like_each_other_than_like_other_things(clip: ClipFiles) -> None:
    train, test = (embedded(clip, subject(split, 8)) for split in ("train", "test"))
    others = embedded(clip, [Image.fromarray(render(sample_scene("test", 3, index))) for index in range(16)])
    assert np.linalg.norm(train, axis=1) == pytest.approx(1.0)
    assert (train @ test.T).mean() > (train @ others.T).mean() + 0.2


def test_a_model_against_itself_has_learnt_nothing_and_kept_everything(clip: ClipFiles) -> None:
    pipe, asked = wordbrush.load(), composition_prompts(1)[:2]
    settings = GenerationRequest(prompt="", steps=2)
    requests = effect_requests(["a cat on a red background", "a dog"], 1, 7, asked, settings)
    inspector = (TrainedInspector.load(), asked)
    side = Side(pipe=pipe)
    effect = measure_effect((side, side), clip, subject("test", 3), requests, inspector, lambda: None)
    assert effect.learnt.pictures == 2
    assert effect.learnt.similarity.gain == Figure(mean=0.0, error=0.0)
    assert effect.learnt.backgrounds is not None
    assert effect.kept is not None
    assert effect.kept.same.mean == pytest.approx(1.0)
    assert effect.kept.distance.mean == 0.0
    assert effect.kept.unlike.mean < 1.0
    assert "taken for the subject" in table(effect)


def test_too_few_pictures_are_refused(clip: ClipFiles) -> None:
    side = Side(pipe=wordbrush.load())
    requests = effect_requests(["a cat"], 1, 7, [], GenerationRequest(prompt=""))
    with pytest.raises(RequestError, match="at least 2"):
        measure_effect((side, side), clip, subject("test", 1), requests, None, lambda: None)


@pytest.mark.parametrize("name", SUBJECTS)
def test_subjects_are_drawn_the_same_every_time_and_apart_in_the_splits(name: str) -> None:
    first, again = (SUBJECTS[name].picture("train", 0, 3) for _ in range(2))
    assert np.array_equal(first.pixels, again.pixels)
    assert first.pixels.shape == (128, 128, 3)
    assert name in first.caption
    assert not np.array_equal(first.pixels, SUBJECTS[name].picture("test", 0, 3).pixels)


def test_the_command_draws_a_subject_and_names_those_there_are(tmp_path: Path) -> None:
    runner = CliRunner()
    assert runner.invoke(make_app(), ["data", "subject", "zorb", "-n", "2", "-o", str(tmp_path / "z")]).exit_code == 0
    assert sorted(path.name for path in (tmp_path / "z").iterdir()) == [
        "zorb-000.png", "zorb-000.txt", "zorb-001.png", "zorb-001.txt",
    ]  # fmt: skip
    result = runner.invoke(make_app(), ["data", "subject", "blorp", "-o", str(tmp_path / "b")])
    assert result.exit_code == 2
    assert "zorb" in result.output
