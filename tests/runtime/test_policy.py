"""Device and number format: chosen, or named, or refused."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from wordbrush.errors import RequestError
from wordbrush.networks.flux import FluxConfig, FluxTransformer
from wordbrush.networks.t5 import T5Config, T5Encoder
from wordbrush.runtime.memory import keep_freed_memory
from wordbrush.runtime.policy import Runtime
from wordbrush.runtime.runners import FluxRunner


def test_names_and_torch_values_mean_the_same() -> None:
    assert Runtime.choose("cpu", "bfloat16") == Runtime.choose(torch.device("cpu"), torch.bfloat16)
    assert Runtime.choose("cpu", "float32").dtype_name == "float32"


@pytest.mark.parametrize(
    ("abilities", "expected"),
    [
        ({"avx512_bf16": True}, torch.bfloat16),
        ({"amx_bf16": True}, torch.bfloat16),
        ({"avx512_f": True}, torch.float32),
        ({}, torch.float32),
    ],
)
def test_auto_takes_bfloat16_only_where_the_processor_multiplies_it(
    monkeypatch: pytest.MonkeyPatch, abilities: dict[str, bool], expected: torch.dtype
) -> None:
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: abilities)
    assert Runtime.choose("cpu").dtype is expected


@pytest.mark.parametrize(("device", "dtype"), [("tpu", "auto"), ("meta", "auto"), ("cpu", "int8"), ("cpu", torch.int8)])
def test_unknown_names_are_refused(device: str, dtype: str) -> None:
    with pytest.raises(RequestError, match=r"tpu|meta|int8"):
        Runtime.choose(device, dtype)


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU here")
def test_a_gpu_that_is_not_there_is_said_to_be_missing() -> None:
    with pytest.raises(RequestError, match="no CUDA GPU"):
        Runtime.choose("cuda")


def test_place_prepares_a_network_for_inference() -> None:
    network = Runtime.choose("cpu", "bfloat16").place(nn.Sequential(nn.Conv2d(3, 8, 3), nn.Dropout()))
    weight = next(network.parameters())
    assert weight.dtype is torch.bfloat16
    assert weight.is_contiguous(memory_format=torch.channels_last)
    assert not weight.requires_grad
    assert not network.training


def test_t5_never_runs_in_float16() -> None:
    config = T5Config(vocab_size=9, d_model=16, d_kv=8, d_ff=32, num_layers=1, num_heads=2)
    for asked, given in (("float16", torch.bfloat16), ("bfloat16", torch.bfloat16), ("float32", torch.float32)):
        network = Runtime.choose("cpu", asked).place(T5Encoder(config))
        assert {parameter.dtype for parameter in network.parameters()} == {given}


def test_flux_reads_its_texts_in_its_own_number_format() -> None:
    config = FluxConfig(
        in_channels=16, num_layers=1, num_single_layers=1, attention_head_dim=16, num_attention_heads=2,
        joint_attention_dim=16, pooled_projection_dim=12, axes_dims_rope=(4, 6, 6),
    )  # fmt: skip
    runner = FluxRunner(Runtime.choose("cpu", "float16").place(FluxTransformer(config)))
    told = runner.told(torch.ones(1, 5, 16, dtype=torch.bfloat16), torch.ones(1, 12, dtype=torch.float32), None)
    assert isinstance(told.context, torch.Tensor)
    assert told.pooled is not None
    assert told.context.dtype is told.pooled.dtype is torch.float16


def test_keeping_memory_says_whether_it_worked() -> None:
    assert keep_freed_memory() in (True, False)


def test_weights_that_lie_unusually_in_memory_are_copied() -> None:
    memory = torch.arange(200, dtype=torch.float32)
    layer = nn.Linear(8, 8)
    start = next(number for number in range(1, 20) if memory[number:].data_ptr() % 64)
    layer.weight.data = memory[start : start + 64].view(8, 8)
    expected = layer.weight.detach().clone()
    Runtime.choose("cpu", "float32").place(layer)
    assert layer.weight.data_ptr() % 64 == 0
    assert torch.equal(layer.weight, expected)
    layer.weight.data = expected.T.contiguous().T
    Runtime.choose("cpu", "float32").place(layer)
    assert layer.weight.is_contiguous()
    assert torch.equal(layer.weight, expected)
