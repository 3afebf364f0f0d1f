"""What a folder is, from its headers alone."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from wordbrush.errors import ModelFileError
from wordbrush.formats.diffusers_folder import read_folder
from wordbrush.formats.inspect import inspect_folder


def test_says_what_loading_finds(tiny_v_folder: Path) -> None:
    content = json.loads(json.dumps(inspect_folder(tiny_v_folder)))
    counted = sum(parameter.numel() for parameter in read_folder(tiny_v_folder).unet.parameters())
    assert content["parts"]["unet"]["parameters"] == counted
    assert content["parts"]["unet"]["dtypes"] == "F32"
    assert (content["prediction_type"], content["native_size"], content["latent_channels"]) == ("v_prediction", 32, 4)
    assert content["bytes"] == 4 * content["parameters"]


def test_what_is_no_model_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ModelFileError, match=r"model_index\.json"):
        inspect_folder(tmp_path)
    with pytest.raises(ModelFileError, match="no model folder"):
        inspect_folder(tmp_path / "none")
