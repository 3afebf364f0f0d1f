"""How weights get from a file into a network: cast as they are read, checked, and never held twice."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

import wordbrush
from wordbrush.errors import ModelFileError, RequestError
from wordbrush.formats.open import open_model
from wordbrush.formats.safetensors_file import read_tensors, write_tensors
from wordbrush.formats.weights import build, fill, without_weights
from wordbrush.networks.vae import AutoencoderKL, AutoencoderKLConfig
from wordbrush.runtime.policy import Runtime

CPU = torch.device("cpu")
BFLOAT16 = Runtime(device=CPU, dtype=torch.bfloat16)


class Layers(nn.Module):
    """Weights of four megabytes each in float32."""

    def __init__(self, count: int = 4) -> None:
        super().__init__()
        self.linears = nn.ModuleList(nn.Linear(1024, 1024, bias=False) for _ in range(count))
        self.conv = nn.Conv2d(8, 8, 3)


def stored(path: Path, count: int = 4, **changes: Tensor) -> dict[str, Tensor]:
    draw = torch.Generator().manual_seed(0)
    state = Layers(count).state_dict()
    tensors = {name: torch.randn(tensor.shape, generator=draw) for name, tensor in state.items()} | changes
    write_tensors(path, tensors)
    return tensors


def test_every_weight_is_cast_as_it_is_read(tmp_path: Path) -> None:
    path = tmp_path / "x.safetensors"
    tensors = stored(path)
    read = read_tensors(path)
    network = build(Layers, read, path, BFLOAT16)
    assert read == {}  # nothing holds pages of the file any longer
    for name, tensor in network.state_dict().items():
        assert torch.equal(tensor, tensors[name].bfloat16())
    assert network.conv.weight.is_contiguous(memory_format=torch.channels_last)
    before = [parameter.data_ptr() for parameter in network.parameters()]
    placed = BFLOAT16.place(network)
    assert [parameter.data_ptr() for parameter in placed.parameters()] == before  # moved once


def test_weights_stay_as_stored_if_nothing_is_said_of_where_they_run(tmp_path: Path) -> None:
    path = tmp_path / "x.safetensors"
    tensors = stored(path)
    network = build(Layers, read_tensors(path), path)
    assert all(torch.equal(tensor, tensors[name]) for name, tensor in network.state_dict().items())


@pytest.mark.parametrize("runtime", [None, BFLOAT16], ids=["as stored", "cast"])
@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_what_is_not_a_number_is_refused(tmp_path: Path, runtime: Runtime | None, value: float) -> None:
    path = tmp_path / "x.safetensors"
    weight = torch.zeros(8, 8, 3, 3)
    weight[3, 4, 1, 2] = value
    stored(path, **{"conv.weight": weight})
    with pytest.raises(ModelFileError, match=r"damaged: conv\.weight holds values that are not numbers"):
        build(Layers, read_tensors(path), path, runtime)


def test_what_is_too_large_for_the_number_format_is_said_to_be_that(tmp_path: Path) -> None:
    path = tmp_path / "x.safetensors"
    stored(path, **{"conv.weight": torch.full((8, 8, 3, 3), 1e5)})
    with pytest.raises(RequestError, match=r"conv\.weight holds numbers too large for float16.*dtype='float32'"):
        build(Layers, read_tensors(path), path, Runtime(device=CPU, dtype=torch.float16))
    build(Layers, read_tensors(path), path, BFLOAT16)


def test_a_vae_that_overflows_in_float16_is_never_in_it() -> None:
    for upcast, expected in ((True, torch.float32), (False, torch.float16)):
        config = AutoencoderKLConfig(block_out_channels=(8,), norm_num_groups=4, force_upcast=upcast)
        exact = {name: tensor + 1e-6 for name, tensor in AutoencoderKL(config).state_dict().items()}
        runtime = Runtime(device=CPU, dtype=torch.float16)
        network = fill(without_weights(lambda config=config: AutoencoderKL(config)), dict(exact), Path("x"), runtime)
        assert {tensor.dtype for tensor in network.state_dict().values()} == {expected}
        assert torch.equal(network.decoder.conv_in.weight, exact["decoder.conv_in.weight"].to(expected))


def test_a_model_opened_for_a_runtime_is_the_one_the_pipeline_would_make(tiny_sd_folder: Path) -> None:
    opened = open_model(tiny_sd_folder, runtime=BFLOAT16)
    placed = wordbrush.Pipeline(open_model(tiny_sd_folder), BFLOAT16)
    for part, network in opened.networks.items():
        other = placed.parts.networks[part].state_dict()
        assert all(torch.equal(tensor, other[name]) for name, tensor in network.state_dict().items())


@pytest.mark.skipif(sys.platform != "linux", reason="reads Linux's account of memory")
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16], ids=str)
def test_memory_holds_the_weights_once(tmp_path: Path, dtype: torch.dtype) -> None:
    """Pages of the file count too: at no time is much more there than the weights in the wanted format."""
    count, path = 48, tmp_path / "x.safetensors"
    write_tensors(path, {name: tensor.to(dtype) for name, tensor in stored(path, count).items()})
    wanted = sum(tensor.numel() for tensor in read_tensors(path).values()) * 2
    status = Path("/proc/self/status")

    def peak(field: str) -> int:
        line = next(line for line in status.read_text(encoding="ascii").splitlines() if line.startswith(field))
        return int(line.split()[1]) << 10

    try:
        Path("/proc/self/clear_refs").write_text("5", encoding="ascii")  # the peak begins anew
    except OSError:
        pytest.skip("the peak cannot be reset here")
    before = peak("VmRSS")
    network = build(lambda: Layers(count), read_tensors(path), path, BFLOAT16)
    assert sum(parameter.nbytes for parameter in network.parameters()) == wanted
    assert peak("VmHWM") - before < wanted + (48 << 20)  # a window of the file, and little else
