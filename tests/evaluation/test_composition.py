"""The whole measurement, on a tiny random model and an untrained inspector."""

from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import wordbrush
from wordbrush.data.scenes import render
from wordbrush.errors import RequestError
from wordbrush.evaluation import report
from wordbrush.evaluation.composition import (
    Accuracy,
    Composition,
    composition_request,
    measure,
    other_scenes,
    through_codec,
    truth,
)  # fmt: skip
from wordbrush.evaluation.inspector import TrainedInspector
from wordbrush.evaluation.judging import judge
from wordbrush.evaluation.prompts import SEED, TASKS, composition_prompts
from wordbrush.request import GenerationRequest


@pytest.fixture(scope="module")
def measured(tiny_v_folder: Path, untrained_inspector: Path) -> Composition:
    pipe = wordbrush.load(tiny_v_folder, dtype="float32")
    prompts = composition_prompts(1)
    request = composition_request(prompts, GenerationRequest(prompt="", steps=2, guidance=1.0))
    steps = []
    result = measure(pipe, TrainedInspector.load(untrained_inspector), prompts, request, lambda: steps.append(1))
    size = pipe.batch_size(result.request)
    assert len(steps) == 2 * -(-6 // size)
    return result


def test_everything_is_measured(measured: Composition) -> None:
    assert list(measured.painted.tasks) == list(TASKS)
    assert measured.request.steps == 2
    assert measured.request.guidance == 1.0
    assert len(measured.judged) == 6
    assert measured.distances.floor >= 0
    assert np.isfinite(measured.distances.painted)
    assert 0 < measured.psnr < 40
    assert measured.retrieval is None  # the tiny folder has no clip/


def test_a_picture_is_the_one_its_seed_gives(measured: Composition, tiny_v_folder: Path) -> None:
    judged = measured.judged[4]
    assert judged.seed == SEED + 4
    pipe = wordbrush.load(tiny_v_folder, dtype="float32")
    alone = pipe(judged.prompt.text, seed=judged.seed, steps=2, guidance=1.0).images[0]
    assert np.array_equal(np.asarray(alone), np.asarray(judged.picture))


def test_the_report(measured: Composition) -> None:
    text = report.table(measured)
    assert text.startswith("The inspector on held-out renders: names ")
    assert "do not rely" in text  # an untrained inspector is no judge
    for task in (*TASKS, "mean of the tasks", "stated background", "PSNR", "Fréchet", "CLIP retrieval: not measured"):
        assert task in text
    content = json.loads(json.dumps(report.as_json(measured)))
    assert len(content["pictures"]) == 6
    assert content["inspector"]["trusted"] is False
    assert content["request"]["steps"] == 2
    sheet = report.failure_sheet(measured)
    assert sheet is not None
    assert sheet.width > 6 * 256


def test_a_flawless_model_has_no_sheet_of_failures(measured: Composition) -> None:
    right = tuple(replace(one, verdict=judge(one.prompt, truth(one.prompt.scene))) for one in measured.judged)
    perfect = Accuracy(names=1.0, counts=1.0, positions=1.0, colours=0.97, backgrounds=None)
    flawless = replace(measured, judged=right, inspector=perfect)
    assert report.failure_sheet(flawless) is None
    assert "do not rely" not in report.table(flawless)


def test_the_other_scenes_are_others() -> None:
    prompts = composition_prompts(2)
    others = other_scenes(prompts)
    assert len(others) == len(prompts)
    assert not {repr(scene) for scene in others} & {repr(prompt.scene) for prompt in prompts}


def test_through_the_codec_is_encode_then_decode(tiny_v_folder: Path) -> None:
    pipe = wordbrush.load(tiny_v_folder, dtype="float32")
    pictures = [Image.fromarray(render(prompt.scene)) for prompt in composition_prompts(1)[:3]]
    together = through_codec(pipe, pictures)
    alone = [through_codec(pipe, [picture])[0] for picture in pictures]
    assert [picture.size for picture in together] == [(128, 128)] * 3
    for a, b in zip(together, alone, strict=True):
        assert np.abs(np.asarray(a).astype(int) - np.asarray(b)).max() <= 1


def test_no_prompts_is_refused() -> None:
    with pytest.raises(RequestError, match="at least 1"):
        composition_prompts(0)


def test_the_command(tiny_v_folder: Path, untrained_inspector: Path, tmp_path: Path) -> None:
    command = [
        sys.executable, "-m", "wordbrush", "evaluate", "composition", "-m", str(tiny_v_folder), "--count", "1",
        "--steps", "2", "--inspector", str(untrained_inspector), "-o", str(tmp_path / "out"), "--json",
    ]  # fmt: skip
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout) == json.loads((tmp_path / "out/composition.json").read_text(encoding="utf-8"))
    assert Image.open(tmp_path / "out/failures.png").format == "PNG"


def test_the_command_refuses_before_it_paints(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "wordbrush", "evaluate", "composition", "--count", "0"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert "at least 1" in done.stderr
    assert "Traceback" not in done.stderr
