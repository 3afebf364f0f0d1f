"""Files of upscalers: every set of names gives the same network, wrong files say what they are, names are found."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from tests.networks.upscaler_oracles import random_state
from torch import Tensor

from wordbrush.errors import ModelFileError
from wordbrush.formats.library import Library
from wordbrush.formats.library_folders import LibraryFolder
from wordbrush.formats.library_scan import UPSCALER
from wordbrush.formats.upscalers import SHIPPED_SCALES, read_upscaler, shipped_upscaler
from wordbrush.networks.rrdbnet import RRDBNet, RRDBNetConfig
from wordbrush.networks.srresnet import SRResNet
from wordbrush.networks.srvgg import SRVGG, SRVGGConfig

BLOCKS = 2

# The layers of a network of 2018 that have weights, after its blocks, by the number of doublings.
LAYERS = {0: (2, 4), 1: (3, 5, 7), 2: (3, 6, 8, 10), 3: (3, 6, 9, 11, 13)}


def state_of(doublings: int, unshuffle: int = 1) -> dict[str, Tensor]:
    config = RRDBNetConfig(features=8, growth=4, blocks=BLOCKS, doublings=doublings, unshuffle=unshuffle)
    return random_state(RRDBNet(config))


def of_2018(state: dict[str, Tensor], doublings: int) -> dict[str, Tensor]:
    stems = [*(f"conv_up{n + 1}" for n in range(doublings)), "conv_hr", "conv_last"]
    tail = dict(zip(stems, LAYERS[doublings], strict=True))
    named = {}
    for name, tensor in state.items():
        stem, _, kind = name.rpartition(".")
        if dense := re.fullmatch(r"body\.(\d+)\.rdb(\d)\.conv(\d)", stem):
            named[f"model.1.sub.{dense[1]}.RDB{dense[2]}.conv{dense[3]}.0.{kind}"] = tensor
        elif stem == "conv_body":
            named[f"model.1.sub.{BLOCKS}.{kind}"] = tensor
        else:
            named[f"model.{0 if stem == 'conv_first' else tail[stem]}.{kind}"] = tensor
    return named


def of_2019(state: dict[str, Tensor]) -> dict[str, Tensor]:
    words = (
        ("conv_body", "trunk_conv"), ("body.", "RRDB_trunk."), ("rdb", "RDB"), ("conv_up", "upconv"),
        ("conv_hr", "HRconv"),
    )  # fmt: skip
    named = {}
    for name, tensor in state.items():
        for here, there in words:
            name = name.replace(here, there)
        named[name] = tensor
    return named


def same(network: torch.nn.Module, state: dict[str, Tensor]) -> bool:
    found = network.state_dict()
    return found.keys() == state.keys() and all(torch.equal(found[name], state[name]) for name in state)


@pytest.mark.parametrize("doublings", [0, 1, 2, 3])
@pytest.mark.parametrize("names", ["2018", "2019", "real"])
def test_rrdbnets_by_every_set_of_names(names: str, doublings: int, tmp_path: Path) -> None:
    state = state_of(doublings)
    stored = {"2018": of_2018(state, doublings), "2019": of_2019(state), "real": state}[names]
    save_file(stored, tmp_path / "x.safetensors")
    network = read_upscaler(tmp_path / "x.safetensors")
    assert isinstance(network, RRDBNet)
    assert network.config.scale == 2**doublings
    assert same(network, state)


@pytest.mark.parametrize(("unshuffle", "scale"), [(2, 2), (4, 1)])
def test_real_esrgans_folded_networks(unshuffle: int, scale: int, tmp_path: Path) -> None:
    state = state_of(2, unshuffle)
    torch.save({"params_ema": state}, tmp_path / "x.pth")
    network = read_upscaler(tmp_path / "x.pth")
    assert network.config.scale == scale
    assert same(network, state)


def test_the_average_of_the_weights_is_preferred(tmp_path: Path) -> None:
    state, other = state_of(2), random_state(RRDBNet(RRDBNetConfig(features=8, growth=4, blocks=BLOCKS)), seed=5)
    torch.save({"params": other, "params_ema": state}, tmp_path / "x.pth")
    assert same(read_upscaler(tmp_path / "x.pth"), state)
    torch.save({"params": other}, tmp_path / "y.pth", _use_new_zipfile_serialization=False)
    assert same(read_upscaler(tmp_path / "y.pth"), other)


@pytest.mark.parametrize("scale", [1, 2, 3, 4])
def test_compact_networks(scale: int, tmp_path: Path) -> None:
    state = random_state(SRVGG(SRVGGConfig(features=6, convolutions=3, scale=scale)))
    torch.save({"params": state}, tmp_path / "x.pth")
    network = read_upscaler(tmp_path / "x.pth")
    assert isinstance(network, SRVGG)
    assert network.config == SRVGGConfig(features=6, convolutions=3, scale=scale)
    assert same(network, state)


def test_wrong_files_say_what_is_wrong(tmp_path: Path) -> None:
    state = state_of(2)
    cases: dict[str, tuple[dict[str, Tensor], str]] = {
        "nothing": ({"alpha": torch.zeros(1)}, "no upscaler that is known here"),
        "grey": ({**state, "conv_first.weight": torch.zeros(8, 1, 3, 3)}, "sees 1 channels"),
        "lacking": ({k: v for k, v in state.items() if k != "conv_hr.bias"}, "lacks conv_hr.bias"),
        "plus": ({**state, "body.0.rdb1.conv1x1.weight": torch.zeros(4, 8, 1, 1)}, "unexpected body.0.rdb1.conv1x1"),
        "shuffled": ({**state, "conv_up1.weight": torch.zeros(32, 8, 3, 3)}, "other shapes in conv_up1.weight"),
        "short": ({"model.0.weight": torch.zeros(8, 3, 3, 3)}, "no upscaler that is known here"),
        "compact": ({"body.0.weight": torch.zeros(6, 3, 3, 3), "body.1.weight": torch.zeros(6)}, "no upscaler"),
    }
    for name, (tensors, message) in cases.items():
        save_file(tensors, tmp_path / f"{name}.safetensors")
        with pytest.raises(ModelFileError, match=message):
            read_upscaler(tmp_path / f"{name}.safetensors")
    with pytest.raises(ModelFileError, match="no folder of an upscaler"):
        read_upscaler(tmp_path)


def test_a_pickle_that_would_run_something_is_refused(tmp_path: Path) -> None:
    class Runs:
        def __reduce__(self) -> tuple[object, ...]:
            return print, ("run",)

    torch.save({"params": state_of(2), "x": Runs()}, tmp_path / "x.pth")
    with pytest.raises(ModelFileError, match="would run"):
        read_upscaler(tmp_path / "x.pth")


def test_found_by_name_in_the_folders_of_other_programs(tmp_path: Path) -> None:
    for folder, name in (
        ("models/ESRGAN", "4x-UltraSharp"), ("models/RealESRGAN", "RealESRGAN_x4plus"), ("models/upscale_models", "2x"),
    ):  # fmt: skip
        (tmp_path / folder).mkdir(parents=True)
        torch.save(state_of(2), tmp_path / folder / f"{name}.pth")
    library = Library([LibraryFolder(path=tmp_path)])
    assert [entry.stem for entry in library.entries(UPSCALER)] == ["2x", "4x-UltraSharp", "RealESRGAN_x4plus"]
    assert library.find(UPSCALER, "4x-ultrasharp").name == "4x-UltraSharp.pth"


def test_found_by_its_header_in_a_plain_folder(tmp_path: Path) -> None:
    save_file(state_of(2), tmp_path / "mine.safetensors")
    assert Library([LibraryFolder(path=tmp_path)]).find(UPSCALER, "mine").name == "mine.safetensors"


@pytest.mark.parametrize("scale", SHIPPED_SCALES)
def test_the_shipped_upscalers(scale: int) -> None:
    network = read_upscaler(shipped_upscaler(scale))
    assert isinstance(network, SRResNet)
    assert network.config.scale == scale
    assert (shipped_upscaler(scale) / "model.safetensors").stat().st_size < 3_000_000


def test_models_list_names_them(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from typer.testing import CliRunner

    from wordbrush.cli.app import make_app

    save_file(state_of(2), tmp_path / "mine.safetensors")
    monkeypatch.setenv("WORDBRUSH_MODELS", str(tmp_path))
    result = CliRunner().invoke(make_app(), ["models", "list", "--kind", "upscaler"])
    assert result.exit_code == 0, result.output
    assert "mine" in result.output
