"""Packed networks paint what the plain ones paint, and give a row the same bits in any batch."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch import Tensor, nn

from wordbrush.networks.unet import UNet, UNetConfig
from wordbrush.networks.vae import AutoencoderKL, AutoencoderKLConfig
from wordbrush.runtime.packed_unet import PackedUNet
from wordbrush.runtime.packed_vae import PackedDecoder, fastest_decoder
from wordbrush.runtime.packing import FoldedUpsample, PackedCrossAttention, can_pack
from wordbrush.runtime.policy import Runtime
from wordbrush.runtime.runners import PackedRunner, UNetRunner, runner_of

CPU = torch.device("cpu")

EMBEDDED_KIND = UNetConfig(
    sample_size=16, in_channels=4, out_channels=4, block_out_channels=(32, 64), layers_per_block=1,
    down_block_types=("DownBlock2D", "CrossAttnDownBlock2D"), up_block_types=("CrossAttnUpBlock2D", "UpBlock2D"),
    cross_attention_dim=24, attention_head_dim=4, norm_num_groups=2, use_linear_projection=True,
)  # fmt: skip
SD1_KIND = UNetConfig(
    sample_size=16, in_channels=4, out_channels=4, block_out_channels=(32, 64, 64), layers_per_block=2,
    down_block_types=("CrossAttnDownBlock2D", "CrossAttnDownBlock2D", "DownBlock2D"),
    up_block_types=("UpBlock2D", "CrossAttnUpBlock2D", "CrossAttnUpBlock2D"), cross_attention_dim=24,
    attention_head_dim=4, norm_num_groups=8, transformer_layers_per_block=(1, 2, 1),
)  # fmt: skip


def filled(network: nn.Module, dtype: torch.dtype = torch.float32) -> nn.Module:
    """Random everywhere, biases and norms included, so that nothing can be left out unseen."""
    draw = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for parameter in network.parameters():
            spread = parameter[0].numel() ** -0.5 if parameter.ndim > 1 else 0.3
            parameter.copy_(spread * torch.randn(parameter.shape, generator=draw) + (parameter.ndim == 1) * 0.5)
    return network.to(dtype=dtype, memory_format=torch.channels_last).requires_grad_(False).eval()


def unet_of(config: UNetConfig, dtype: torch.dtype = torch.float32) -> UNet:
    network = filled(UNet(config), dtype)
    assert isinstance(network, UNet)
    return network


def drawn(*shape: int, dtype: torch.dtype = torch.float32, seed: int = 2) -> Tensor:
    x = torch.randn(shape, generator=torch.Generator().manual_seed(seed)).to(dtype)
    return x.contiguous(memory_format=torch.channels_last) if x.ndim == 4 else x


@pytest.mark.parametrize("config", [EMBEDDED_KIND, SD1_KIND], ids=["embedded", "sd1"])
@pytest.mark.parametrize("size", [(16, 16), (11, 7), (24, 24)], ids=["even", "odd", "many tokens"])
@torch.inference_mode()
def test_unet_predicts_what_the_plain_one_does(config: UNetConfig, size: tuple[int, int]) -> None:
    plain = unet_of(config)
    packed = PackedUNet(plain)
    x, text = drawn(2, 4, *size), drawn(4, 9, 24)
    found = packed(x, 321.5, packed.prepare_context(text), copies=2)
    expected = plain(torch.cat([x, x]), torch.tensor([321.5]), text)
    assert expected.std() > 0.1
    torch.testing.assert_close(found, expected, atol=2e-5 * float(expected.abs().max()), rtol=0)


@torch.inference_mode()
def test_bfloat16_is_no_further_from_float32_than_the_plain_network() -> None:
    exact = unet_of(EMBEDDED_KIND)
    x, text, time = drawn(4, 4, 16, 16), drawn(4, 9, 24), torch.tensor([500.0])
    expected = exact(x, time, text)
    plain = unet_of(EMBEDDED_KIND, torch.bfloat16)
    packed = PackedUNet(plain)
    half, words = x.bfloat16(), text.bfloat16()
    errors = [
        float((output.float() - expected).square().mean().sqrt())
        for output in (plain(half, time, words), packed(half, 500.0, packed.prepare_context(words)))
    ]
    print(f"root mean square error, plain {errors[0]:.2e}, packed {errors[1]:.2e}")
    assert errors[1] < 1.1 * errors[0] < 0.1 * float(expected.std())


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@torch.inference_mode()
def test_unet_gives_a_row_the_same_bits_in_any_batch(dtype: torch.dtype) -> None:
    wide = replace(
        EMBEDDED_KIND, block_out_channels=(96, 224), attention_head_dim=7
    )  # of kernels that real models meet
    network = PackedUNet(unet_of(wide, dtype))
    x, text = drawn(17, 4, 16, 16, dtype=dtype), drawn(17, 9, 24, dtype=dtype)
    whole = network(x, 700.0, network.prepare_context(text))
    assert whole.float().std() > 0.1
    for start, stop in ((0, 1), (4, 6), (3, 10), (1, 17)):
        part = network(x[start:stop].contiguous(memory_format=torch.channels_last), 700.0,
                       network.prepare_context(text[start:stop]))  # fmt: skip
        assert torch.equal(part, whole[start:stop]), (start, stop)


@torch.inference_mode()
def test_rows_that_differ_in_text_alone_have_the_bits_of_separate_rows() -> None:
    network = PackedUNet(unet_of(EMBEDDED_KIND, torch.bfloat16))
    x, text = drawn(3, 4, 16, 16, dtype=torch.bfloat16), drawn(6, 9, 24, dtype=torch.bfloat16)
    context = network.prepare_context(text)
    shared = network(x, 5.0, context, copies=2)
    separate = network(torch.cat([x, x]).contiguous(memory_format=torch.channels_last), 5.0, context)
    assert torch.equal(shared, separate)
    assert not torch.equal(shared[:3], shared[3:])


@torch.inference_mode()
def test_one_context_row_serves_the_whole_batch() -> None:
    for dtype in (torch.float32, torch.bfloat16):  # with and without weights multiplied into the text
        network = PackedUNet(unet_of(EMBEDDED_KIND, dtype))
        x, text = drawn(3, 4, 16, 16, dtype=dtype), drawn(1, 9, 24, dtype=dtype)
        one = network(x, 5.0, network.prepare_context(text))
        repeated = network(x, 5.0, network.prepare_context(text.expand(3, -1, -1)))
        assert torch.equal(one, repeated)


@torch.inference_mode()
def test_a_timestep_has_the_same_bits_whatever_came_before() -> None:
    plain = unet_of(EMBEDDED_KIND)
    x, text = drawn(1, 4, 16, 16), drawn(1, 9, 24)
    fresh, used = PackedUNet(plain), PackedUNet(plain)
    for timestep in (999.0, 3.0, 400.0):
        used(x, timestep, used.prepare_context(text))
    first, again = (network(x, 400.0, network.prepare_context(text)) for network in (fresh, used))
    assert torch.equal(first, again)
    assert not torch.equal(first, fresh(x, 401.0, fresh.prepare_context(text)))


@torch.inference_mode()
def test_text_is_multiplied_out_only_where_that_is_less_work() -> None:
    layer = PackedCrossAttention(
        unet_of(EMBEDDED_KIND, torch.bfloat16).mid_block.attentions[0].transformer_blocks[0].attn2
    )
    assert layer.prepare(drawn(2, 16, 24, dtype=torch.bfloat16))[0].shape == (2, 64, 4 * 16)
    assert layer.prepare(drawn(2, 17, 24, dtype=torch.bfloat16))[0].shape == (2, 4, 16, 17)


@torch.inference_mode()
def test_long_text_is_attended_to_as_by_the_plain_network() -> None:
    plain = unet_of(EMBEDDED_KIND)
    packed = PackedUNet(plain)
    x, text = drawn(2, 4, 8, 8), drawn(2, 300, 24)
    expected = plain(x, torch.tensor([10.0]), text)
    torch.testing.assert_close(packed(x, 10.0, packed.prepare_context(text)), expected, atol=1e-4, rtol=1e-4)


def test_text_of_another_width_is_refused() -> None:
    with pytest.raises(ValueError, match=r"\(1, 9, 25\); this network takes \(B, L, 24\)"):
        PackedUNet(unet_of(EMBEDDED_KIND)).prepare_context(drawn(1, 9, 25))


@torch.inference_mode()
def test_folded_upsampling_is_upsampling_and_then_the_convolution() -> None:
    conv = filled(nn.Conv2d(6, 10, 3, padding=1))
    assert isinstance(conv, nn.Conv2d)
    x = drawn(2, 6, 5, 7)
    expected = conv(nn.functional.interpolate(x, scale_factor=2, mode="nearest"))
    torch.testing.assert_close(FoldedUpsample(conv)(x), expected, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("whole", [True, False], ids=["with attention", "embedded"])
@torch.inference_mode()
def test_decoder_paints_what_the_plain_one_does(whole: bool) -> None:
    config = AutoencoderKLConfig(
        block_out_channels=(16, 32, 32), layers_per_block=1, latent_channels=4, norm_num_groups=4, scaling_factor=0.7,
        shift_factor=0.1, use_quant_conv=whole, use_post_quant_conv=whole, mid_block_add_attention=whole,
    )  # fmt: skip
    plain = filled(AutoencoderKL(config))
    assert isinstance(plain, AutoencoderKL)
    latents = drawn(2, 4, 8, 6)
    expected = plain.decode(latents)
    assert expected.std() > 0.1
    found = PackedDecoder(plain).decode(latents)
    torch.testing.assert_close(found, expected, atol=2e-5 * float(expected.abs().max()), rtol=0)
    assert torch.equal(PackedDecoder(plain).decode(latents[:1]), found[:1])


@pytest.mark.parametrize("config", [EMBEDDED_KIND, SD1_KIND], ids=["embedded", "sd1"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
@torch.inference_mode()
def test_weights_that_were_taken_come_back_bit_by_bit(config: UNetConfig, dtype: torch.dtype) -> None:
    if not can_pack(CPU, dtype):
        pytest.skip("this build of torch cannot pack them")
    plain, same = unet_of(config, dtype), unet_of(config, dtype)
    x, context = drawn(2, 4, 12, 8, dtype=dtype), drawn(2, 9, 24, dtype=dtype)
    copy, taker = PackedUNet(plain), PackedUNet(plain, take=True)
    wanted = copy(x, 7.0, copy.prepare_context(context))
    assert torch.equal(taker(x, 7.0, taker.prepare_context(context)), wanted)
    taken = sum(weight.numel() for weight in plain.parameters() if weight.is_meta)
    assert taken > 0.8 * sum(weight.numel() for weight in plain.parameters())
    taker.give_back()
    own, expected = plain.state_dict(), same.state_dict()
    assert list(own) == list(expected)
    assert all(torch.equal(own[name], weight) for name, weight in expected.items())
    assert torch.equal(taker(x, 7.0, taker.prepare_context(context)), wanted)  # a copy, and still one


def test_only_what_can_be_packed_is() -> None:
    plain = unet_of(EMBEDDED_KIND)
    runtime = Runtime.choose("cpu", "float32")
    assert can_pack(CPU, torch.float32)
    assert not can_pack(CPU, torch.float16)
    assert not can_pack(torch.device("meta"), torch.float32)
    assert isinstance(runner_of(plain, runtime), PackedRunner)
    assert isinstance(runner_of(plain, Runtime(device=CPU, dtype=torch.float16)), UNetRunner)
    assert isinstance(runner_of(unet_of(replace(EMBEDDED_KIND, time_cond_proj_dim=8)), runtime), UNetRunner)
    vae = AutoencoderKL(AutoencoderKLConfig(block_out_channels=(32,)))
    assert isinstance(fastest_decoder(vae, runtime), PackedDecoder)
    assert fastest_decoder(vae, Runtime(device=CPU, dtype=torch.float16)) is vae
