"""Presets: what they set, for which models, and what wins."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

import wordbrush
from wordbrush.editing.presets import preset_files, preset_named, read_preset, with_preset
from wordbrush.errors import RequestError
from wordbrush.formats.parts import ModelParts
from wordbrush.formats.user_folders import config_folder
from wordbrush.request import GenerationRequest


def put(parts: ModelParts, name: str, *, expands: bool = True, **fields: Any) -> GenerationRequest:
    request = GenerationRequest.from_dict({"prompt": "a fox", "preset": name, **fields})
    return with_preset(parts, request, expands=expands)


def own(name: str, text: str) -> None:
    folder = config_folder() / "presets"
    folder.mkdir(parents=True, exist_ok=True)
    (folder / f"{name}.yaml").write_text(text)


@pytest.fixture
def large(tiny_pipe: wordbrush.Pipeline) -> ModelParts:
    """The parts of a model that was trained at 512 pixels, with guidance."""
    parts = tiny_pipe.parts
    return replace(parts, defaults=parts.defaults.model_copy(update={"width": 512, "height": 512, "guidance": 7.5}))


def test_the_shipped_ones(large: ModelParts) -> None:
    fast, quality, creative = (put(large, name) for name in ("fast", "quality", "creative"))
    assert (fast.steps, fast.width, fast.height, fast.guidance) == (10, 384, 384, None)
    assert (quality.steps, quality.guidance) == (75, 12.0)
    assert quality.hires is not None
    assert quality.hires.scale == 2
    assert creative.guidance == 7.0
    assert creative.expand is not None
    assert creative.expand.temperature > 1
    assert fast.preset_set == ("height", "steps", "width")


def test_what_is_given_wins(large: ModelParts) -> None:
    found = put(large, "quality", steps=3, guidance=1.0, width=64)
    assert (found.steps, found.guidance, found.width, found.height, found.hires) == (3, 1.0, 64, None, None)
    assert found.preset_set == ("guidance_interval", "guidance_rescale")
    assert put(large, "creative", expand=False).expand is False
    assert put(large, "quality", timesteps=(999, 500)).steps is None


def test_sizes_are_what_the_model_can(large: ModelParts, tiny_pipe: wordbrush.Pipeline) -> None:
    tiny = put(tiny_pipe.parts, "quality")
    assert (tiny.hires, tiny.upscale, tiny.width) == (None, 2, None)
    assert put(tiny_pipe.parts, "fast").width is None
    wide = replace(large, defaults=large.defaults.model_copy(update={"width": 1024, "height": 1024}))
    assert put(wide, "quality").hires.scale == 1.5  # type: ignore[union-attr]
    own("little", "size: 0.1")
    assert put(large, "little").width == 256
    own("odd", "size: 0.7")
    assert put(large, "odd").width % 8 == 0  # type: ignore[operator]


def test_distilled_models_keep_their_own(large: ModelParts) -> None:
    quick = large.defaults.model_copy(update={"steps": 4, "guidance": 1.0})
    own("mine", "steps: 30\nsampler: euler\nguidance: 9\nnegative_prompt: blurry\n")
    found = put(replace(large, defaults=quick), "mine")
    assert (found.steps, found.sampler, found.guidance, found.negative_prompt) == (4, None, None, "")
    found = put(large, "mine")
    assert (found.steps, found.sampler, found.guidance, found.negative_prompt) == (30, "euler", 9.0, "blurry")


def test_expansion_is_left_out_where_there_is_no_language_model(large: ModelParts) -> None:
    assert put(large, "creative", expands=False).expand is None
    own("with", "expand: {model: some/folder}")
    assert put(large, "with", expands=False).expand is not None


def test_a_picture_keeps_its_size(large: ModelParts) -> None:
    from PIL import Image

    found = put(large, "quality", image=Image.new("RGB", (64, 64)), strength=0.3)
    assert (found.hires, found.upscale, found.strength) == (None, None, 0.3)


def test_filling_shows_it_and_is_done_once(tiny_pipe: wordbrush.Pipeline) -> None:
    filled = tiny_pipe.fill(GenerationRequest(prompt="a fox", seed=1, preset="fast"))
    assert filled.steps == 10
    own("fast", "steps: 3")
    assert tiny_pipe.fill(filled) == filled
    assert tiny_pipe.fill(GenerationRequest(prompt="a fox", seed=1, preset="fast")).steps == 3
    (config_folder() / "presets" / "fast.yaml").unlink()
    own("gone", "steps: 4")
    kept = tiny_pipe.fill(GenerationRequest(prompt="a fox", seed=1, preset="gone"))
    (config_folder() / "presets" / "gone.yaml").unlink()
    assert tiny_pipe.fill(GenerationRequest.from_json(kept.to_json())) == kept


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("- steps", "not a table"),
        ("steps: [", "cannot be read"),
        ("step: 3", "sets 'step'"),
        ("seed: 3", "sets 'seed'"),
        ("steps: 0", "steps=0"),
        ("size: large", "size='large'"),
    ],
)
def test_files_that_are_wrong(text: str, words: str, tmp_path: Path) -> None:
    (tmp_path / "mine.yaml").write_text(text)
    with pytest.raises(RequestError, match=r"the preset .*mine\.yaml") as caught:
        read_preset(tmp_path / "mine.yaml")
    assert words in str(caught.value)


def test_names() -> None:
    assert {"fast", "quality", "creative"} <= set(preset_files())
    assert all(read_preset(path).about for path in preset_files().values())
    with pytest.raises(RequestError, match="did you mean quality"):
        preset_named("qualty")


def test_the_record_needs_its_preset() -> None:
    with pytest.raises(RequestError, match="preset_set has no meaning"):
        GenerationRequest(prompt="a fox", preset_set=("steps",))
