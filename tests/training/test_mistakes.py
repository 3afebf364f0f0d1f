"""What is said of a wrong recipe: the key as the file has it, and the nearest one where it is misspelt."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml
from typer.testing import CliRunner

from wordbrush.cli.app import make_app
from wordbrush.errors import RequestError
from wordbrush.networks.vae import AutoencoderKLConfig
from wordbrush.training.check import check
from wordbrush.training.data_recipe import read_data_recipe
from wordbrush.training.recipe import RecipeError, read_recipe
from wordbrush.training.run import RunOptions, train

GOOD: dict[str, Any] = {"name": "a", "steps": 3, "batch": 2, "train": {"task": "vae", "network": {}}}


def told(tmp_path: Path, values: dict[str, Any]) -> tuple[str, ...]:
    path = tmp_path / "recipe.yaml"
    path.write_text(yaml.safe_dump(values))
    with pytest.raises(RecipeError, match=r"the recipe .*recipe\.yaml is wrong: ") as caught:
        read_recipe(path)
    assert caught.value.mistakes[0] in str(caught.value)
    return caught.value.mistakes


@pytest.mark.parametrize(
    ("changes", "wanted"),
    [
        ({"sede": 1}, "sede is not a key that is known; did you mean seed?"),
        ({"optimiser": {"warmpu": 1}}, "optimiser.warmpu is not a key that is known; did you mean warmup?"),
        ({"optimiser": {"kind": "adam"}}, "optimiser.kind='adam' is not known; did you mean adamw?"),
        ({"steps": 0}, "steps is wrong: Input should be greater than or equal to 1 (given: 0)"),
        ({"trackers": "wandb"}, "trackers is wrong: Input should be a list, like [wandb] (given: 'wandb')"),
        ({"optimiser": 3}, "optimiser is wrong: Input should be a table of keys and values (given: 3)"),
        ({"optimiser": {"betas": [0.9] * 3}}, "optimiser.betas is wrong: List should have at most 2 items after "
         "validation, not 3 (given: [0.9, 0.9, 0.9])"),
        ({"optimiser": {"learning_rate": float("inf")}}, "optimiser.learning_rate is wrong: Input should be a finite "
         "number (given: inf)"),
        ({"ema_lengths": [float("nan")]}, "ema_lengths.0 is wrong: Input should be a finite number (given: nan)"),
    ],
)  # fmt: skip
def test_common_keys(tmp_path: Path, changes: dict[str, Any], wanted: str) -> None:
    assert told(tmp_path, GOOD | changes) == (wanted,)


@pytest.mark.parametrize(
    ("trained", "wanted"),
    [
        ({"adversary": {"wieght": 1}}, "train.adversary.wieght is not a key that is known; did you mean weight?"),
        ({"perceptual": {"clip": "a", "lpips": ["b"]}}, "train.perceptual: give clip or lpips, not both"),
        ({"task": "vea"}, "train.task='vea' is not known; did you mean vae?"),
        ({"data": {"kind": "foldr", "path": "x"}}, "train.data.kind='foldr' is not known; did you mean folder?"),
        ({"data": {"kind": "folder"}}, "train.data.path is missing"),
        (
            {"data": {"kind": "folder", "path": "x", "captions": {"dorp": 1}}},
            "train.data.captions.dorp is not a key that is known; did you mean drop?",
        ),
    ],
)
def test_keys_of_a_task_without_the_names_of_alternatives(tmp_path: Path, trained: dict[str, Any], wanted: str) -> None:
    assert told(tmp_path, GOOD | {"train": GOOD["train"] | trained}) == (wanted,)


@pytest.mark.parametrize(
    ("size", "wanted"),
    [
        ("512x512", " is wrong: Input should be a valid integer, unable to parse string as an integer, or a list "
         "(given: '512x512')"),
        (0, " is wrong: Input should be greater than or equal to 1 (given: 0)"),
        ([16, 0], ".1 is wrong: Input should be greater than or equal to 1 (given: 0)"),
        ([16], ".1 is missing"),
    ],
)  # fmt: skip
def test_a_value_of_several_kinds_is_told_once(tmp_path: Path, size: Any, wanted: str) -> None:
    data = {"kind": "folder", "path": "x", "size": size}
    assert told(tmp_path, GOOD | {"train": GOOD["train"] | {"data": data}}) == (f"train.data.size{wanted}",)


def test_a_target_of_adapters_is_guessed(tmp_path: Path) -> None:
    def of(target: Any) -> tuple[str, ...]:
        data = {"kind": "folder", "path": "x"}
        return told(tmp_path, GOOD | {"train": {"task": "lora", "data": data, "adapter": {"target": target}}})

    assert of("lineer") == ("train.adapter.target='lineer' is not known; did you mean linear?",)
    assert of(["a", 3]) == ("train.adapter.target.1 is wrong: Input should be a valid string (given: 3)",)


@pytest.mark.parametrize(
    ("content", "wanted"),
    [
        (b"name: \xff\n", "codec can't decode byte 0xff"),
        (b"kind: folder\npath: x\nkind: idx\n", "the key kind of line 1 comes again in line 3"),
        (b"kind: mix\ntrain: {batch: 3, 'batch': 4}\n", "the key batch of line 2 comes again in line 2"),
        (b"name: 2024-13-45\n", "month must be in"),
        (b"[" * 5000, "maximum recursion depth"),
    ],
)
def test_what_is_no_yaml_is_told_of_recipes_and_of_data_recipes(tmp_path: Path, content: bytes, wanted: str) -> None:
    path = tmp_path / "recipe.yaml"
    path.write_bytes(content)
    for read in (read_recipe, read_data_recipe):
        with pytest.raises(RequestError, match=rf"the recipe .*recipe\.yaml is not valid YAML: .*{wanted}"):
            read(path)


def test_a_table_may_differ_from_the_one_that_it_takes_in(tmp_path: Path) -> None:
    path = tmp_path / "recipe.yaml"
    path.write_text("name: a\nsteps: 1\nbatch: 1\ntrain: {<<: {task: clip, network: {}}, task: vae}\n")
    assert read_recipe(path).train.task == "vae"  # type: ignore[union-attr]


def test_a_key_like_nothing_lists_what_there_is(tmp_path: Path) -> None:
    (said,) = told(tmp_path, GOOD | {"train": GOOD["train"] | {"adversary": {"xyzzy": 1}}})
    assert said == "train.adversary.xyzzy is not a key that is known; there are channels, layers, rate, start, weight"


def test_a_table_that_has_the_name_of_an_alternative(tmp_path: Path) -> None:
    """`vae` is a task, and a key of another task."""
    said = told(tmp_path, GOOD | {"train": {"task": "denoiser", "network": {}, "vae": 3}})
    assert "train.vae is wrong: Input should be a valid string (given: 3)" in said
    assert "train.clip is missing" in said


def test_several_mistakes_are_counted(tmp_path: Path) -> None:
    path = tmp_path / "recipe.yaml"
    path.write_text(yaml.safe_dump(GOOD | {"sede": 1, "stepps": 2}))
    with pytest.raises(RequestError, match=r"and 1 more: `wordbrush train --check` lists them"):
        read_recipe(path)


def test_settings_of_networks_are_told_as_mistakes_too(tmp_path: Path) -> None:
    path = tmp_path / "recipe.yaml"
    path.write_text(yaml.safe_dump(GOOD | {"train": {"task": "vae", "network": {"latent_chanels": 4}}}))
    with pytest.raises(RequestError, match=r"wrong in `train`.*latent_chanels.*did you mean latent_channels"):
        train(path, tmp_path / "run")
    with pytest.raises(ValueError, match="did you mean latent_channels"):
        AutoencoderKLConfig.from_dict({"latent_chanels": 4})


def test_a_missing_folder_is_named(tmp_path: Path) -> None:
    path = tmp_path / "recipe.yaml"
    trained = {"task": "vae", "network": {}, "decoder_of": str(tmp_path / "gone")}
    path.write_text(yaml.safe_dump(GOOD | {"train": trained}))
    with pytest.raises(RequestError, match=r"gone/config\.json does not exist; run the recipe that makes it first"):
        train(path, tmp_path / "run")


def test_a_part_that_was_never_made_is_named_by_its_folder(tmp_path: Path) -> None:
    path, gone = tmp_path / "recipe.yaml", tmp_path / "gone"
    blocks = {"down_block_types": ["DownBlock2D"], "up_block_types": ["UpBlock2D"], "block_out_channels": [32]}
    diffusion = {"task": "diffusion", "data": {"kind": "scenes", "size": 16}, "network": blocks,
                 "scheduler": {"_class_name": "DDIMScheduler"}}  # fmt: skip
    for trained in (
        {"task": "clip", "text": {}, "vision": {}, "tokenizer": str(gone)},
        diffusion | {"vae": str(gone)},
        diffusion | {"start": str(gone)},
        diffusion | {"conditioning": {"kind": "embedding", "clip": str(gone)}},
    ):
        path.write_text(yaml.safe_dump(GOOD | {"train": trained}))
        assert check(path).problems == [f"{gone} does not exist; run the recipe that makes it first"]


ASSEMBLE = {"task": "assemble", "denoiser": "run", "vae": "vae", "clip": "clip", "tokenizer": "tokenizer"}


def test_parts_whose_folders_are_empty_are_named(tmp_path: Path) -> None:
    for name in ("run/unet", "run/text_encoder", "run/scheduler", "vae", "clip", "tokenizer"):
        (tmp_path / name).mkdir(parents=True)
    path = tmp_path / "recipe.yaml"
    parts = {key: str(tmp_path / value) for key, value in ASSEMBLE.items() if key != "task"}
    path.write_text(yaml.safe_dump({"name": "a", "build": ASSEMBLE | parts}))
    with pytest.raises(RequestError, match=r"build\.denoiser: .*run has no unet/config\.json, .*; run the recipe"):
        train(path, tmp_path / "model")
    (tmp_path / "run/unet/config.json").write_text("{}")
    with pytest.raises(RequestError, match=r"run has no unet/\*\.safetensors"):
        train(path, tmp_path / "model")
    assert not (tmp_path / "model").exists()


@pytest.mark.parametrize(
    ("options", "named"), [(RunOptions(skip_bad=True), "--skip-bad"), (RunOptions(ema_length=0.1), "--ema-length")]
)
def test_what_a_recipe_without_training_would_ignore_is_refused(
    tmp_path: Path, options: RunOptions, named: str
) -> None:
    path = tmp_path / "recipe.yaml"
    path.write_text(yaml.safe_dump({"name": "a", "build": ASSEMBLE}))
    with pytest.raises(RequestError, match=rf"{named} is for recipes that train; .*recipe\.yaml trains nothing"):
        train(path, tmp_path / "model", options)


@pytest.mark.parametrize("recipe", [GOOD, {"name": "a", "build": {"task": "tokenizer", "captions": 1}}])
@pytest.mark.parametrize("inside", ["", "run"])
def test_an_output_that_is_a_file_is_refused(tmp_path: Path, recipe: dict[str, Any], inside: str) -> None:
    path, there = tmp_path / "recipe.yaml", tmp_path / "there"
    path.write_text(yaml.safe_dump(recipe))
    there.write_text("mine")
    result = CliRunner().invoke(make_app(), ["train", str(path), "-o", str(there / inside)])
    assert result.exit_code == 2
    assert f"{there} is a file, and a run needs a folder" in result.stderr
    assert there.read_text() == "mine"
