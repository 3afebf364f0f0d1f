"""Rows through the U-Net: in pieces, and with the same bits in any batch."""

from __future__ import annotations

import pytest
import torch

from wordbrush.networks.unet import UNet, UNetConfig
from wordbrush.runtime.batching import batched_network, rows_per_call, spans
from wordbrush.runtime.policy import Runtime
from wordbrush.runtime.runners import UNetRunner, runner_of


def test_spans_cover_all_rows_in_nearly_equal_pieces() -> None:
    assert spans(1, 8) == [(0, 1)]
    assert spans(8, 8) == [(0, 8)]
    assert spans(9, 8) == [(0, 4), (4, 9)]
    for rows in range(1, 40):
        pieces = spans(rows, 8)
        assert [start for start, _ in pieces[1:]] == [stop for _, stop in pieces[:-1]]
        sizes = [stop - start for start, stop in pieces]
        assert (pieces[0][0], pieces[-1][1]) == (0, rows)
        assert max(sizes) <= 8
        assert max(sizes) - min(sizes) <= 1


def test_rows_per_call_is_even_and_bounded() -> None:
    cpu = torch.device("cpu")
    assert rows_per_call(16, 16, cpu) == 32
    assert rows_per_call(64, 64, cpu) == 2
    assert rows_per_call(512, 512, cpu) == 2


@pytest.fixture(scope="module")
def unet() -> UNet:
    """Wide enough for the kernels that real models meet."""
    config = UNetConfig(
        sample_size=16, in_channels=4, out_channels=4, block_out_channels=(64, 128), layers_per_block=1,
        down_block_types=("DownBlock2D", "CrossAttnDownBlock2D"), up_block_types=("CrossAttnUpBlock2D", "UpBlock2D"),
        cross_attention_dim=64, attention_head_dim=4,
    )  # fmt: skip
    network = UNet(config)
    network.initialise(torch.Generator().manual_seed(0))
    with torch.no_grad():  # initialised to paint nothing: give the last layers weights too
        for parameter in network.parameters():
            parameter.add_(0.02 * torch.randn(parameter.shape, generator=torch.Generator().manual_seed(1)))
    return network


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_a_row_has_the_same_bits_in_any_batch(unet: UNet, dtype: str) -> None:
    runtime = Runtime.choose("cpu", dtype)
    runner = runner_of(runtime.place(unet), runtime)
    draw = torch.Generator().manual_seed(2)
    x, text = torch.randn(34, 4, 16, 16, generator=draw), torch.randn(3, 12, 64, generator=draw)
    rows = [index % 3 for index in range(34)]
    with torch.inference_mode():
        told = [runner.told(row[None].to(runtime.dtype), None, None) for row in text]
        whole = batched_network(runner, [told[row] for row in rows], (16, 16), runtime)(x, 500.0)
        for start, stop in ((0, 1), (4, 6), (3, 10), (5, 21), (33, 34)):
            some = [told[row] for row in rows[start:stop]]
            part = batched_network(runner, some, (16, 16), runtime)(x[start:stop], 500.0)
            assert torch.equal(part, whole[start:stop]), (start, stop)
    assert whole.float().std() > 0


def test_rows_read_their_own_context(unet: UNet) -> None:
    runtime = Runtime.choose("cpu", "float32")
    network = runtime.place(unet)
    draw = torch.Generator().manual_seed(2)
    x, text = torch.randn(2, 4, 16, 16, generator=draw), torch.randn(2, 12, 64, generator=draw)
    with torch.inference_mode():
        runner = UNetRunner(network)
        told = [runner.told(row[None], None, None) for row in text]
        found = batched_network(runner, told[::-1], (16, 16), runtime)(x, 10.0)
        expected = network(x, torch.tensor([10.0]), text[[1, 0]])
    torch.testing.assert_close(found, expected, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize(("side", "calls"), [(16, [2]), (64, [1])])
def test_a_large_row_is_not_computed_twice(unet: UNet, side: int, calls: list[int]) -> None:
    runtime, seen = Runtime.choose("cpu", "float32"), []
    runner = UNetRunner(runtime.place(unet))
    hook = unet.register_forward_pre_hook(lambda _, inputs: seen.append(len(inputs[0])))
    draw = torch.Generator().manual_seed(2)
    x, text = torch.randn(3, 4, side, side, generator=draw), torch.randn(1, 12, 64, generator=draw)
    with torch.inference_mode():
        told = [runner.told(text, None, None)]
        alone = batched_network(runner, told, (side, side), runtime)(x[:1], 10.0)
        assert seen == calls
        batch = batched_network(runner, told * 3, (side, side), runtime)(x, 10.0)
    hook.remove()
    assert torch.equal(batch[:1], alone)
