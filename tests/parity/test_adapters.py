"""Our trainable adapters against PEFT's, put into copies of the same network: outputs and gradients are the same."""

from collections.abc import Callable
from copy import deepcopy
from typing import Any

import pytest
import torch
from tests.formats.lora_files import tiny_clip, tiny_flux, tiny_t5, tiny_unet
from tests.parity.comparing import assert_near, randn
from torch import Tensor, nn

from wordbrush.networks.flux import image_positions, text_positions
from wordbrush.networks.unet import AddedConditioning
from wordbrush.training.adapters import AdapterConfig, Adapters

peft = pytest.importorskip("peft")

IDS = torch.tensor([[1, 5, 7, 49, 49, 49, 49], [4, 3, 2, 1, 9, 8, 49]])


def _sd1(unet: Any) -> Tensor:
    return unet(randn(2, 4, 8, 8), torch.tensor([3.0, 801.5]), randn(2, 5, 16, seed=2))


def _sdxl(unet: Any) -> Tensor:
    sizes = torch.tensor([[64.0, 48, 0, 8, 64, 64], [9, 9, 1, 2, 3, 4]])
    added = AddedConditioning(text_embeds=randn(2, 10, seed=4), time_ids=sizes)
    return unet(randn(2, 4, 8, 8), torch.tensor([3.0, 801.5]), randn(2, 5, 20, seed=2), added=added)


def _clip(clip: Any) -> Tensor:
    out = clip(IDS)
    return torch.cat([out.last_hidden_state.flatten(1), out.pooled], dim=1)


def _t5(t5: Any) -> Tensor:
    return t5(IDS.clamp(max=39))


def _flux(flux: Any) -> Tensor:
    places, words = image_positions(8, 6), text_positions(5)
    return flux(
        randn(2, len(places), 8), torch.tensor([0.9, 0.2]), randn(2, 5, 12, seed=2), pooled=randn(2, 10, seed=3),
        positions_image=places, positions_text=words, guidance=torch.tensor([3.5, 1.0]),
    )  # fmt: skip


NETWORKS: dict[str, tuple[Callable[[], nn.Module], Callable[[Any], Tensor], str]] = {
    "sd1": (lambda: tiny_unet("sd1"), _sd1, "unet"),
    "sd2": (lambda: tiny_unet("sd1", use_linear_projection=True), _sd1, "unet"),
    "sdxl": (lambda: tiny_unet("sdxl"), _sdxl, "unet"),
    "clip": (tiny_clip, _clip, "text_encoder"),
    "bigG": (lambda: tiny_clip(projection=True, width=20), _clip, "text_encoder_2"),
    "t5": (tiny_t5, _t5, "text_encoder_2"),
    "flux": (tiny_flux, _flux, "transformer"),
}
SETTINGS: dict[str, dict[str, Any]] = {
    "plain": {"rank": 4, "alpha": 2.0},
    "stabilised": {"rank": 4, "alpha": 2.0, "rank_stabilised": True},
    "dora": {"rank": 4, "alpha": 3.0, "dora": True},
    "dropout": {"rank": 4, "alpha": 4.0, "dropout": 0.3},
    "dora with dropout": {"rank": 4, "dora": True, "dropout": 0.3},
    "ranks of convolutions": {"rank": 4, "alpha": 2.0, "conv_rank": 2, "conv_alpha": 3.0},
}


def learnt(adapters: Adapters) -> Adapters:
    """As if trained: random ups, magnitudes that are not those of the weights."""
    generator = torch.Generator().manual_seed(5)
    for name, parameter in adapters.named_parameters():
        noise = torch.randn(parameter.shape, generator=generator)
        parameter.data = parameter.data * (1 + 0.3 * noise) if name.endswith("magnitude") else 0.2 * noise
    return adapters


def with_peft(network: nn.Module, name: str, adapters: Adapters) -> tuple[nn.Module, dict[str, nn.Parameter]]:
    """A copy of the network with the same adapters of PEFT's, and their parameters by the names of ours."""
    layers = adapters.trained()[name]
    plain = {layer: one for layer, one in layers.items() if one.down[0].numel() == one.down.shape[1]} or layers
    first = next(iter(plain.values()))
    config = peft.LoraConfig(
        r=first.rank, lora_alpha=first.alpha, target_modules=list(layers), lora_dropout=adapters.config.dropout,
        use_rslora=adapters.config.rank_stabilised, use_dora=adapters.config.dora,
        rank_pattern={layer: one.rank for layer, one in layers.items() if one.rank != first.rank},
        alpha_pattern={layer: one.alpha for layer, one in layers.items() if one.alpha != first.alpha},
    )  # fmt: skip
    theirs = peft.inject_adapter_in_model(config, deepcopy(network))
    parameters = {}
    for layer, one in layers.items():
        module = theirs.get_submodule(layer)
        start = f"networks.{name}.{layer.replace('.', '_')}"
        pairs = {"down": (module.lora_A["default"].weight, one.down), "up": (module.lora_B["default"].weight, one.up)}
        if one.magnitude is not None:
            pairs["magnitude"] = (module.lora_magnitude_vector["default"].weight, one.magnitude)
        for kind, (parameter, value) in pairs.items():
            parameter.data.copy_(value.reshape(parameter.shape))
            parameters[f"{start}.{kind}"] = parameter
    return theirs, parameters


# The U-Net of XL has the most layers, and no kind of layer that the others have not.
CASES = [(kind, settings) for kind in NETWORKS for settings in SETTINGS if kind != "sdxl" or settings == "dora"]


@pytest.mark.parametrize(("kind", "settings"), CASES)
def test_outputs_and_gradients_are_those_of_peft(kind: str, settings: str) -> None:
    make, call, name = NETWORKS[kind]
    network = make()
    clean = deepcopy(network)
    # torch multiplies by other kernels where gradients of weights are wanted, so these are not
    before = call(network.requires_grad_(False)).detach()
    config = AdapterConfig(target="conv", **SETTINGS[settings])
    adapters = Adapters.inject({name: network}, config, torch.Generator().manual_seed(0))
    if not config.dora:
        torch.testing.assert_close(call(network.eval()), before, rtol=0, atol=0)
    learnt(adapters)
    theirs, parameters = with_peft(clean, name, adapters)
    assert set(parameters) == set(dict(adapters.named_parameters()))
    theirs.train(config.dropout > 0)
    direction = randn(*before.shape, seed=9)
    results = []
    for one in (network, theirs):
        torch.manual_seed(7)
        out = call(one)
        (out * direction).sum().backward()
        results.append(out.detach())
    assert_near(*results)
    assert (results[0] - before).abs().max() > 0.01 * before.abs().max()
    for parameter_name, ours in adapters.named_parameters():
        expected = parameters[parameter_name].grad
        assert ours.grad is not None, parameter_name
        assert expected is not None, parameter_name
        largest = float(expected.abs().max())
        torch.testing.assert_close(
            ours.grad, expected.reshape(ours.shape), rtol=0, atol=2e-5 * max(largest, 1e-3),
            msg=lambda m, n=parameter_name: f"{n}: {m}",
        )  # fmt: skip
    assert all(parameter.grad is None for parameter in network.parameters())


@pytest.mark.parametrize("dora", [False, True])
@pytest.mark.parametrize("base", [torch.float32, torch.bfloat16])
def test_under_autocast_it_is_near_the_float32_result(base: torch.dtype, dora: bool) -> None:
    """Half precision loses digits, not the change; the trained parameters and their gradients stay float32."""
    network = tiny_unet("sd1")
    config = AdapterConfig(rank=4, target="conv", dora=dora)
    adapters = learnt(Adapters.inject({"unet": network}, config, torch.Generator().manual_seed(0)))
    exact = _sd1(network)
    exact.square().mean().backward()
    expected = {name: parameter.grad for name, parameter in adapters.named_parameters()}
    network.to(base)
    adapters.zero_grad()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        out = _sd1(network)
    out.float().square().mean().backward()
    assert (out.float() - exact).abs().max() < 0.06 * exact.abs().max()
    angles = []
    for name, parameter in adapters.named_parameters():
        assert parameter.dtype == torch.float32
        assert parameter.grad is not None
        angles.append(nn.functional.cosine_similarity(parameter.grad.flatten(), expected[name].flatten(), dim=0))
    assert torch.stack(angles).median() > 0.99


def test_bfloat16_without_autocast() -> None:
    """The adapter computes in float32 beside a layer in bfloat16, whose type the output keeps."""
    layer = nn.Linear(8, 6).to(torch.bfloat16)
    adapters = learnt(Adapters.inject({"unet": nn.ModuleDict({"to_q": layer})}, AdapterConfig(target=("to_q",)),
                                      torch.Generator().manual_seed(0)))  # fmt: skip
    x = randn(3, 8).to(torch.bfloat16)
    out = layer(x)
    assert out.dtype == torch.bfloat16
    adapters.remove()
    plain, one = layer(x), adapters.trained()["unet"]["to_q"]
    torch.testing.assert_close(out, plain + (x.float() @ one.down.T @ one.up.T * one.scale).to(torch.bfloat16))
