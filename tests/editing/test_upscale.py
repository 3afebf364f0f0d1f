"""Upscalers: sizes, modes of pictures, scales that need several passes, names."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import save_file
from tests.networks.upscaler_oracles import random_state, rrdbnet

from wordbrush import Pipeline
from wordbrush.editing.upscale import Upscaler, UpscalerShelf, enlarged_size
from wordbrush.errors import ModelFileError, RequestError
from wordbrush.networks.rrdbnet import RRDBNet, RRDBNetConfig
from wordbrush.request import GenerationRequest
from wordbrush.runtime.policy import Runtime

RUNTIME = Runtime.choose("cpu", "float32")


def picture(mode: str = "RGB", size: tuple[int, int] = (12, 9)) -> Image.Image:
    pixels = np.random.default_rng(0).integers(0, 256, (size[1], size[0], 4), dtype=np.uint8)
    return Image.fromarray(pixels, "RGBA").convert(mode)


def network(doublings: int) -> RRDBNet:
    made = RRDBNet(RRDBNetConfig(features=8, growth=4, blocks=1, doublings=doublings))
    made.load_state_dict(random_state(made))
    return made


@pytest.mark.parametrize("name", ["lanczos", "bicubic", "nearest"])
def test_filters_are_pillows(name: str) -> None:
    found = UpscalerShelf(RUNTIME).named(name).enlarge(picture(), 2.5)
    assert found == picture().resize((30, 22), Image.Resampling[name.upper()])


def test_a_network_of_the_very_scale() -> None:
    net = network(2)
    small = torch.from_numpy(np.array(picture())).permute(2, 0, 1)[None] / 255.0
    wanted = rrdbnet(net.state_dict(), small, blocks=1, doublings=2)[0]
    found = Upscaler("x", [net], RUNTIME).enlarge(picture(), 4)
    levels = (wanted * 255).round().clamp(0, 255).permute(1, 2, 0)
    assert np.abs(np.asarray(found, int) - levels.numpy()).max() <= 1


def test_other_scales_are_reached_by_passes_and_lanczos() -> None:
    twice = Upscaler("x", [network(1)], RUNTIME)
    assert twice.enlarge(picture(), 3).size == (36, 27)
    assert twice.enlarge(picture(), 3) == twice.enlarge(twice.enlarge(picture(), 2), 2).resize(
        (36, 27), Image.Resampling.LANCZOS
    )
    assert Upscaler("x", [network(0)], RUNTIME).enlarge(picture(), 2).size == (24, 18)  # cleans, and enlarges nothing


def test_of_several_scales_the_smallest_that_is_enough_is_used() -> None:
    both = Upscaler("x", [network(1), network(2)], RUNTIME)
    assert both.enlarge(picture(), 2) == Upscaler("x", [network(1)], RUNTIME).enlarge(picture(), 2)
    assert both.enlarge(picture(), 4) == Upscaler("x", [network(2)], RUNTIME).enlarge(picture(), 4)


@pytest.mark.parametrize(
    ("mode", "wanted"),
    [("L", "RGB"), ("P", "RGBA"), ("CMYK", "RGB"), ("1", "RGB"), ("RGBA", "RGBA"), ("LA", "RGBA")],
)
def test_pictures_of_any_mode(mode: str, wanted: str) -> None:
    found = UpscalerShelf(RUNTIME).named("srresnet").enlarge(picture(mode), 2)
    assert (found.mode, found.size) == (wanted, (24, 18))


def test_transparency_is_enlarged_and_colours_beneath_it_stay() -> None:
    found = UpscalerShelf(RUNTIME).named("lanczos").enlarge(picture("RGBA"), 2)
    alpha = picture("RGBA").getchannel("A").resize((24, 18), Image.Resampling.LANCZOS)
    assert found.getchannel("A") == alpha


def test_the_shipped_one_keeps_plain_colours_and_sharpens_edges() -> None:
    upscaler = UpscalerShelf(RUNTIME).named("srresnet")
    plain = np.asarray(upscaler.enlarge(Image.new("RGB", (24, 24), (112, 168, 236)), 4), int)
    assert np.abs(plain[16:-16, 16:-16] - (112, 168, 236)).max() <= 3
    edge = Image.new("L", (96, 96), 0)
    edge.paste(255, (50, 0, 96, 96))
    small = edge.resize((24, 24), Image.Resampling.BICUBIC)
    ours, theirs = upscaler.enlarge(small, 4).convert("L"), small.resize((96, 96), Image.Resampling.BICUBIC)
    errors = [np.abs(np.asarray(each, int) - np.asarray(edge, int)).mean() for each in (ours, theirs)]
    assert errors[0] < 0.6 * errors[1]


def test_a_file_is_found_by_its_path_and_read_once(tmp_path: Path) -> None:
    save_file(network(1).state_dict(), tmp_path / "x.safetensors")
    shelf = UpscalerShelf(RUNTIME)
    assert shelf.named(str(tmp_path / "x.safetensors")) is shelf.named(str(tmp_path / "x.safetensors"))


def test_wrong_names_and_sizes_say_what_there_is() -> None:
    with pytest.raises(RequestError, match=r"'nix'.*srresnet, lanczos, bicubic, nearest"):
        UpscalerShelf(RUNTIME).named("nix")
    with pytest.raises(RequestError, match="choose a smaller scale"):
        enlarged_size((16384, 16384), 2)


@pytest.mark.parametrize("fields", [{"upscale": 2, "upscaler": "NAME"}, {"hires": {"scale": 2, "upscaler": "NAME"}}])
def test_a_file_of_no_use_is_refused_before_anything_is_painted(
    tiny_pipe: Pipeline, tmp_path: Path, fields: dict[str, Any]
) -> None:
    save_file({"x": torch.zeros(1)}, tmp_path / "x.safetensors")
    text = json.dumps(fields).replace("NAME", str(tmp_path / "x.safetensors"))
    with pytest.raises(ModelFileError, match=r"x\.safetensors is no upscaler"):
        tiny_pipe.steps(GenerationRequest.from_dict({"prompt": "a fox", **json.loads(text)}))


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"upscale": 1}, "upscale=1"), ({"upscale": 9}, "upscale=9"), ({"upscaler": "lanczos"}, "without upscale"),
        ({"upscale": 2, "upscaler": "latent"}, "for hires alone"), ({"hires": {"scale": 1}}, "scale=1"),
        ({"hires": {"colour": 1}}, "colour"), ({"hires": {"strength": 0}}, "strength=0"),
        ({"hires": 2, "timesteps": (999, 1)}, "two"),
    ],
)  # fmt: skip
def test_requests_that_make_no_sense(fields: dict[str, object], message: str) -> None:
    with pytest.raises(RequestError, match=message):
        GenerationRequest.from_dict({"prompt": "a fox", **fields})
