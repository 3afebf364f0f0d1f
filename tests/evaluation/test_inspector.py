"""From the network's answers to things seen, and the inspector that ships."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from wordbrush.data.scenes import Scene, render
from wordbrush.errors import ModelFileError
from wordbrush.evaluation.composition import accuracy, summarise
from wordbrush.evaluation.inspector import TrainedInspector
from wordbrush.evaluation.inspector.sightings import SHIPPED
from wordbrush.evaluation.judging import judge
from wordbrush.evaluation.prompts import SEED, Prompt, composition_prompts
from wordbrush.networks.inspector import Answers, Features
from wordbrush.runtime.policy import Runtime
from wordbrush.training.tasks.inspector import vocabulary


@pytest.fixture
def scripted(untrained_inspector: Path, monkeypatch: pytest.MonkeyPatch) -> TrainedInspector:
    """An inspector whose network says what the test wrote into the cells: presence, kind, sureness, shift across."""
    inspector = TrainedInspector.load(untrained_inspector, Runtime.choose("cpu", "float32"))
    network = inspector.network
    cells = torch.zeros(1, 16, 16, 4)
    cells[..., 0] = -9.0
    cells[0, 4, 4] = torch.tensor([3.0, 5, 9.0, 0.0])  # a thing of kind 5 ...
    cells[0, 4, 5] = torch.tensor([2.0, 6, 8.0, -1.0])  # ... also seen from the next cell, less surely, as kind 6
    cells[0, 4, 9] = torch.tensor([3.0, 5, 9.0, 0.0])  # another of kind 5
    cells[0, 10, 3] = torch.tensor([3.0, 7, 4.0, 0.0])  # something of which the kind is unclear
    cells[0, 10, 12] = torch.tensor([-1.0, 7, 9.0, 0.0])  # presence below one half: not looked at

    def answers(rows: torch.Tensor) -> Answers:
        kinds = len(inspector.config.kinds)
        kind = torch.nn.functional.one_hot(rows[:, 1].long(), kinds) * rows[:, 2:3]
        box = torch.stack([rows[:, 3], *[torch.zeros(len(rows))] * 3], dim=1)
        return Answers(kind, torch.nn.functional.one_hot(rows[:, 1].long() % 9, 9).float(), box)

    monkeypatch.setattr(network, "features", lambda images: Features(cells, torch.zeros(1, 32)))
    monkeypatch.setattr(network, "presence", lambda rows: rows[..., 0])
    monkeypatch.setattr(network, "answers", answers)
    monkeypatch.setattr(network, "background", lambda embedding: torch.eye(11)[None, 3])
    return inspector


def test_one_thing_is_seen_once_and_only_when_it_is_likely(scripted: TrainedInspector) -> None:
    (sighting,) = scripted.inspect([Image.new("RGB", (128, 128))])
    config = scripted.config
    assert sighting.background == config.backgrounds[3]
    assert [(thing.noun, thing.colour) for thing in sighting.things] == [(config.kinds[5], config.colours[5])] * 2
    first = sighting.things[0]
    # the cell (row 4, column 4) of 8 pixels has its middle at 36; raw boxes of zeros are 48 pixels wide
    assert first.box == pytest.approx((12 / 128, 12 / 128, 60 / 128, 60 / 128))
    assert first.centre == pytest.approx((36 / 128, 36 / 128))


def test_pictures_of_any_size_and_number(untrained_inspector: Path) -> None:
    inspector = TrainedInspector.load(untrained_inspector)
    pictures = [Image.new("RGB", (side, side), "blue") for side in (64, 128, 512)]
    assert len(inspector.inspect(pictures)) == 3
    features = inspector.embed(pictures)
    assert features.shape == (3, 32)
    assert np.allclose(features[0], features[2], atol=1e-2)


def test_another_list_of_things_is_refused(untrained_inspector: Path, tmp_path: Path) -> None:
    shutil.copytree(untrained_inspector, tmp_path / "old")
    config = json.loads((tmp_path / "old/config.json").read_text())
    config["kinds"][0], config["kinds"][1] = config["kinds"][1], config["kinds"][0]
    (tmp_path / "old/config.json").write_text(json.dumps(config))
    with pytest.raises(ModelFileError, match="another list of things"):
        TrainedInspector.load(tmp_path / "old")


def test_damaged_folders_are_named(untrained_inspector: Path, tmp_path: Path) -> None:
    with pytest.raises(ModelFileError, match=r"config\.json"):
        TrainedInspector.load(tmp_path)
    shutil.copy(untrained_inspector / "config.json", tmp_path)
    with pytest.raises(ModelFileError, match=r"model\.safetensors"):
        TrainedInspector.load(tmp_path)


def test_the_shipped_inspector_is_small_and_knows_todays_things() -> None:
    sizes = [path.stat().st_size for path in SHIPPED.glob("*.safetensors")]
    assert len(sizes) == 1
    assert sizes[0] < 5_000_000
    config = TrainedInspector.load().config
    assert {name: getattr(config, name) for name in vocabulary()} == vocabulary()


def test_the_shipped_inspector_is_right_about_held_out_renders() -> None:
    """Issue 2: at least 97 %. A small set of other scenes than the measurement's, so with some allowance for chance."""
    prompts = composition_prompts(12, SEED + 7)
    pictures = [Image.fromarray(render(prompt.scene)) for prompt in prompts]
    seen = TrainedInspector.load().inspect(pictures)
    result = accuracy([prompt.scene for prompt in prompts], seen)
    for name in ("names", "counts", "positions", "colours", "backgrounds"):
        assert getattr(result, name) >= 0.95, (name, result)
    verdicts = [judge(prompt, sighting) for prompt, sighting in zip(prompts, seen, strict=True)]
    assert summarise(prompts, verdicts).mean >= 0.95, [verdict.reason for verdict in verdicts if verdict.reason]


def test_the_shipped_inspector_is_not_fooled() -> None:
    """Renders with one thing wrong: colours or places exchanged, one thing too few, another thing in its place."""
    wrong: list[tuple[Prompt, Scene]] = []
    prompts = composition_prompts(8, SEED + 7)
    for prompt, other in zip(prompts, prompts[1:] + prompts[:1], strict=True):
        first, *rest = prompt.scene.objects
        if prompt.task == "counting":
            objects = tuple(rest)
        elif prompt.task == "attribute binding":
            objects = (replace(first, colour=rest[0].colour), replace(rest[0], colour=first.colour))
        elif prompt.task == "position":
            objects = (replace(first, kind=rest[0].kind), replace(rest[0], kind=first.kind))
        else:
            objects = (replace(first, kind=other.scene.objects[0].kind), *rest)
        wrong.append((prompt, replace(prompt.scene, objects=objects)))
    seen = TrainedInspector.load().inspect([Image.fromarray(render(scene)) for _, scene in wrong])
    passed = [prompt.text for (prompt, _), sighting in zip(wrong, seen, strict=True) if judge(prompt, sighting).right]
    assert passed == []
