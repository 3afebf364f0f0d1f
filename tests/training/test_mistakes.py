"""What is said of a wrong recipe: the key as the file has it, and the nearest one where it is misspelt."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml

from wordbrush.errors import RequestError
from wordbrush.networks.vae import AutoencoderKLConfig
from wordbrush.training.recipe import RecipeError, read_recipe
from wordbrush.training.run import train

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
