"""Adapters on networks: what they change, what they leave alone, and that they come off without a trace."""

from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import torch
from pydantic import ValidationError
from tests.formats.lora_files import bits, tiny_clip, tiny_flux, tiny_unet
from torch import Tensor, nn

import wordbrush
from wordbrush.errors import RequestError
from wordbrush.formats.lora import write_kohya
from wordbrush.networks.blocks import ResnetBlock
from wordbrush.training.adapters import AdapterConfig, Adapters
from wordbrush.training.recompute import recompute_blocks


def _generator() -> torch.Generator:
    return torch.Generator().manual_seed(0)


def inject(networks: dict[str, nn.Module], without: tuple[str, ...] = (), **settings: Any) -> Adapters:
    """Adapters that change something."""
    adapters = Adapters.inject(networks, AdapterConfig(**settings), _generator(), without=without)
    generator = torch.Generator().manual_seed(5)
    for name, parameter in adapters.named_parameters():
        noise = torch.randn(parameter.shape, generator=generator)
        parameter.data = parameter.data * (1 + 0.1 * noise) if name.endswith("magnitude") else 0.1 * noise
    return adapters


X, TIME = torch.randn(2, 4, 8, 8, generator=_generator()), torch.tensor([3.0, 801.5])
CONTEXT = torch.randn(2, 5, 16, generator=_generator())


def _call(unet: nn.Module) -> Tensor:
    return unet(X, TIME, CONTEXT)


def test_one_layer_by_hand() -> None:
    layer = nn.Linear(2, 2)
    layer.weight.data = torch.tensor([[1.0, 0.0], [0.0, 2.0]])
    layer.bias.data = torch.tensor([10.0, 20.0])
    config = {"rank": 1, "alpha": 4.0, "target": ("to_q",)}
    adapters = Adapters.inject({"unet": nn.ModuleDict({"to_q": layer})}, AdapterConfig(**config), _generator())
    one = adapters.networks["unet"]["to_q"]  # type: ignore[index]
    one.down.data, one.up.data = torch.tensor([[1.0, 1.0]]), torch.tensor([[0.5], [0.25]])
    # down · x = 5, alpha / rank = 4
    assert torch.equal(layer(torch.tensor([[2.0, 3.0]])), torch.tensor([[12.0 + 10.0, 26.0 + 5.0]]))
    adapters.remove()

    adapters = Adapters.inject(
        {"unet": nn.ModuleDict({"to_q": layer})}, AdapterConfig(**config, dora=True), _generator()
    )  # fmt: skip
    one = adapters.networks["unet"]["to_q"]  # type: ignore[index]
    assert one.magnitude.tolist() == [1.0, 2.0]
    one.down.data, one.up.data = torch.tensor([[0.0, 1.0]]), torch.tensor([[0.0], [0.5]])
    one.magnitude.data = torch.tensor([3.0, 8.0])
    # W becomes [[1, 0], [0, 4]], each row then of length 3 and 8; x = [2, 3]
    assert torch.equal(layer(torch.tensor([[2.0, 3.0]])), torch.tensor([[6.0 + 10.0, 24.0 + 20.0]]))


@pytest.mark.parametrize("dora", [False, True])
def test_the_network_is_left_alone(dora: bool) -> None:
    unet = tiny_unet().requires_grad_(False)
    unet.conv_in.requires_grad_(True)
    unet.requires_grad_(True).conv_out.requires_grad_(False)
    with torch.no_grad():
        before, weights, modules = _call(unet), bits(unet), [type(module) for module in unet.modules()]
    adapters = inject({"unet": unet}, target="conv", dora=dora)
    assert [type(module) for module in unet.modules()] == modules
    assert not any(parameter.requires_grad for parameter in unet.parameters())
    assert {name for name, _ in adapters.named_parameters()} == set(adapters.state_dict())
    with torch.no_grad():
        changed = _call(unet)
        assert (changed - before).abs().max() > 0.05 * before.abs().max()
        with adapters.disabled():
            assert torch.equal(_call(unet), before)
        assert torch.equal(_call(unet), changed)
        with adapters.merged():
            torch.testing.assert_close(_call(unet), changed, rtol=0, atol=2e-5 * float(changed.abs().max()))
            assert not torch.equal(unet.conv_in.weight, unet.conv_out.weight)
        assert torch.equal(_call(unet), changed)
        adapters.remove()
        adapters.remove()
        assert torch.equal(_call(unet), before)
    after = unet.state_dict()
    assert list(after) == list(weights)
    assert all(torch.equal(after[name], tensor) for name, tensor in weights.items())
    assert [name for name, parameter in unet.named_parameters() if not parameter.requires_grad] == [
        "conv_out.weight", "conv_out.bias",
    ]  # fmt: skip


def test_weights_come_back_when_something_fails_while_they_are_merged() -> None:
    unet = tiny_unet()
    weights, adapters = bits(unet), inject({"unet": unet})
    with pytest.raises(RuntimeError, match="cut"), adapters.merged():
        raise RuntimeError("cut")
    assert all(torch.equal(tensor, weights[name]) for name, tensor in unet.state_dict().items())


def test_merged_weights_reach_a_pipeline(tmp_path: Path) -> None:
    """The embedded model's own pipeline, which runs a packed copy of the U-Net, paints what the file makes it paint."""
    options: dict[str, Any] = {"seed": 3, "steps": 2}
    trained = wordbrush.load(dtype="float32")
    networks: dict[str, nn.Module] = {"unet": trained.parts.denoiser}
    adapters = inject(networks, rank=2, target="attention")
    path = write_kohya(tmp_path / "a.safetensors", adapters.trained(), networks)
    with adapters.merged():
        got = trained("a fox", **options).latents
    fresh = wordbrush.load(dtype="float32")
    expected = fresh("a fox", **options, loras=[(str(path), 1.0)]).latents
    torch.testing.assert_close(got, expected, rtol=0, atol=1e-4)
    assert (expected - fresh("a fox", **options).latents).abs().max() > 0.1


def test_the_same_generator_gives_the_same_beginning() -> None:
    first, second, other = (
        Adapters.inject({"unet": tiny_unet()}, AdapterConfig(), torch.Generator().manual_seed(seed)).state_dict()
        for seed in (1, 1, 2)
    )
    assert all(torch.equal(first[name], second[name]) for name in first)
    assert not all(torch.equal(first[name], other[name]) for name in first)
    assert all(not tensor.any() for name, tensor in first.items() if name.endswith("up"))


def test_another_state_in_place_of_the_parameters() -> None:
    adapters = inject({"unet": tiny_unet()}, dora=True)
    averages = {name: tensor + 1 for name, tensor in adapters.state_dict().items()}
    now, averaged = adapters.trained()["unet"], adapters.trained(averages)["unet"]
    for name, layer in now.items():
        assert torch.equal(averaged[name].down, layer.down + 1)
        assert layer.magnitude is not None
        assert torch.equal(averaged[name].magnitude, layer.magnitude + 1)


def _gradients(adapters: Adapters, out: Tensor) -> dict[str, Tensor]:
    adapters.zero_grad()
    out.square().mean().backward()
    found = {name: parameter.grad for name, parameter in adapters.named_parameters()}
    return {name: gradient.clone() for name, gradient in found.items() if gradient is not None}


def _assert_same(found: dict[str, Tensor], expected: dict[str, Tensor], adapters: Adapters) -> None:
    assert set(found) == set(expected) == set(dict(adapters.named_parameters()))
    for name, gradient in expected.items():
        torch.testing.assert_close(found[name], gradient, rtol=0, atol=1e-5 * float(gradient.abs().max()))


@pytest.mark.parametrize("dora", [False, True])
def test_blocks_computed_again_have_the_same_gradients(dora: bool) -> None:
    unet = tiny_unet()
    adapters = inject({"unet": unet}, target="conv", dora=dora)
    expected = _gradients(adapters, _call(unet))
    recompute_blocks({"unet": unet})
    _assert_same(_gradients(adapters, _call(unet)), expected, adapters)


@pytest.mark.parametrize("dora", [False, True])
def test_a_whole_graph_compiles(dora: bool) -> None:
    """Hooks are no break in it, and it follows when adapters are switched off."""
    block = ResnetBlock(4, 6, groups=2, eps=1e-5, time_channels=8)
    adapters = inject({"unet": block}, target=("conv1", "conv2", "time_emb_proj", "conv_shortcut"), dora=dora)
    time = torch.randn(2, 8, generator=_generator())
    expected = _gradients(adapters, block(X, time))
    compiled = torch.compile(block, backend="aot_eager", fullgraph=True)
    _assert_same(_gradients(adapters, compiled(X, time)), expected, adapters)
    with torch.no_grad(), adapters.disabled():
        torch.testing.assert_close(compiled(X, time), block(X, time))


def _names(networks: dict[str, nn.Module], **settings: Any) -> set[str]:
    adapters = Adapters.inject(networks, AdapterConfig(**settings), _generator())
    return {f"{network}.{name}" for network, layers in adapters.trained().items() for name in layers}


def test_targets() -> None:
    kinds = ("attention", "feed_forward", "linear", "conv")
    unet, flux, clip = ([_names({name: make()}, target=kind) for kind in kinds] for name, make in (
        ("unet", tiny_unet), ("transformer", tiny_flux), ("text_encoder", tiny_clip),
    ))  # fmt: skip
    for found in (unet, flux, clip):
        assert all(less <= more for less, more in pairwise(found))
    layer = "unet.down_blocks.0.attentions.0.transformer_blocks.0"
    assert {f"{layer}.attn1.to_out.0", f"{layer}.attn2.to_k"} <= unet[0]
    assert {f"{layer}.ff.net.0.proj", f"{layer}.ff.net.2"} <= unet[1] - unet[0]
    assert {"unet.mid_block.attentions.0.proj_in", "unet.mid_block.attentions.0.proj_out"} <= unet[2] - unet[1]
    assert {"unet.up_blocks.0.resnets.1.conv_shortcut", "unet.down_blocks.0.downsamplers.0.conv"} <= unet[3] - unet[2]
    assert "unet.mid_block.resnets.1.time_emb_proj" in unet[3] - unet[2]
    left = {"unet.conv_in", "unet.conv_out", "unet.time_embedding.linear_1", "unet.time_embedding.linear_2"}
    linear = {f"unet.{name}" for name, one in tiny_unet().named_modules() if isinstance(one, nn.Linear | nn.Conv2d)}
    assert linear - unet[3] == left
    assert "transformer.transformer_blocks.0.attn.add_k_proj" in flux[0]
    assert "transformer.single_transformer_blocks.1.attn.to_v" in flux[0]
    assert "transformer.single_transformer_blocks.0.proj_out" in flux[1] - flux[0]
    assert "transformer.transformer_blocks.1.norm1_context.linear" in flux[2] - flux[1]
    assert {"text_encoder.text_model.encoder.layers.1.self_attn.out_proj"} <= clip[0]
    assert {"text_encoder.text_model.encoder.layers.0.mlp.fc1"} <= clip[1] - clip[0]


def test_layers_by_name() -> None:
    networks: dict[str, nn.Module] = {"unet": tiny_unet(), "text_encoder": tiny_clip()}
    found = _names(networks, target=("attn2.to_k", "unet.conv_in", "text_encoder.*.1.mlp.*"))
    assert {name.rpartition(".")[2] for name in found} == {"to_k", "conv_in", "fc1", "fc2"}
    assert not any("attn1" in name or "layers.0" in name for name in found)


def test_ranks_and_alphas() -> None:
    adapters = Adapters.inject(
        {"unet": tiny_unet()}, AdapterConfig(rank=4, alpha=2, conv_rank=3, target="conv"), _generator()
    )  # fmt: skip
    layers = adapters.trained()["unet"]
    wide = layers["mid_block.resnets.0.conv1"]
    assert wide.down.shape == (3, 12, 3, 3)
    assert wide.up.shape == (12, 3, 1, 1)
    assert (wide.rank, wide.alpha, wide.scale) == (3, 1.5, 0.5)
    narrow = layers["up_blocks.0.resnets.0.conv_shortcut"]
    assert narrow.down.shape == (4, 24, 1, 1)
    assert (narrow.alpha, narrow.scale) == (2, 0.5)
    rooted = Adapters.inject({"unet": tiny_unet()}, AdapterConfig(rank=4, rank_stabilised=True), _generator())
    assert {layer.scale for layer in rooted.trained()["unet"].values()} == {2.0}  # 4 / √4


def test_layers_left_out_get_none() -> None:
    networks: dict[str, nn.Module] = {"text_encoder": tiny_clip()}
    adapters = inject(networks, without=("text_encoder.text_model.encoder.layers.1",))
    assert {name.split(".")[3] for name in adapters.trained()["text_encoder"]} == {"0"}


def test_what_cannot_be_is_said() -> None:
    unet = tiny_unet()
    with pytest.raises(RequestError, match=r"no layer of unet is named 'attn3\.to_q'; give a layer's name or its end"):
        _names({"unet": unet}, target=("to_q", "attn3.to_q"))
    with pytest.raises(RequestError, match="text_encoder has no layer of the target 'attention'"):
        _names({"unet": unet, "text_encoder": nn.Linear(2, 2)}, target="attention")
    Adapters.inject({"unet": unet}, AdapterConfig(), _generator())
    with pytest.raises(ValueError, match="unet has adapters already; remove them first"):
        Adapters.inject({"unet": unet}, AdapterConfig(), _generator())
    grouped = nn.ModuleDict({"conv": nn.Conv2d(4, 4, 3, groups=2)})
    with pytest.raises(RequestError, match=r"the convolution unet\.conv is grouped"):
        _names({"unet": grouped}, target=("conv",))
    with pytest.raises(ValidationError, match="rank"):
        AdapterConfig(rank=0)
