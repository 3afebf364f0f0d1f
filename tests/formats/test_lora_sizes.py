"""LoRAs for the models in circulation at their full size: every layer that kohya's trainer changes has its place.

How many there are is what that trainer prints when it starts: 192 in the U-Net of Stable Diffusion 1 and 2, 722 in
that of XL, 304 in FLUX, 6 for each layer of a CLIP text encoder.
"""

from pathlib import Path

import pytest
import torch
from tests.formats.lora_files import write
from tests.networks.checks import without_memory
from tests.networks.test_sizes import CLIP_L, DEV, OPEN_CLIP_G, OPEN_CLIP_H, SD1, SD2, SDXL
from torch import Tensor, nn

from wordbrush.errors import ModelFileError
from wordbrush.formats.lora.fit import Model, fit
from wordbrush.formats.lora.read import read_lora
from wordbrush.formats.single_file.keymap import STACKED, KeyMap
from wordbrush.formats.single_file.names_flux import flux_names
from wordbrush.formats.single_file.names_unet import unet_names
from wordbrush.networks.clip import CLIPTextConfig, CLIPTextModel
from wordbrush.networks.flux import FluxTransformer
from wordbrush.networks.unet import UNet, UNetConfig


def _clip(config: CLIPTextConfig, *, projection: bool = False) -> CLIPTextModel:
    return without_memory(lambda: CLIPTextModel(config, projection=projection))


def _unet(config: UNetConfig) -> UNet:
    return without_memory(lambda: UNet(config))


def _model(family: str) -> dict[str, nn.Module]:
    if family == "flux":
        return {"transformer": without_memory(lambda: FluxTransformer(DEV)), "text_encoder": _clip(CLIP_L)}
    if family == "sdxl":
        second = _clip(OPEN_CLIP_G, projection=True)
        return {"unet": _unet(SDXL), "text_encoder": _clip(CLIP_L), "text_encoder_2": second}
    return {
        "sd1": {"unet": _unet(SD1), "text_encoder": _clip(CLIP_L)},
        "sd2": {"unet": _unet(SD2), "text_encoder": _clip(OPEN_CLIP_H)},
    }[family]


def _trained(name: str, network: nn.Module) -> dict[str, tuple[int, int]]:
    """The layers that kohya's trainer changes by default, as it names them: out and in."""
    shapes = {key: tuple(tensor.shape) for key, tensor in network.state_dict().items()}
    if isinstance(network, FluxTransformer):
        links = KeyMap(flux_names(network.config), shapes).links.values()
        blocks = [link for link in links if "_blocks." in link.original and link.original.endswith(".weight")]
        found = {}
        for link in blocks:
            if len(shapes[link.own[0]]) == 2:
                rows = sum(shapes[own][0] for own in link.own) if link.form == STACKED else shapes[link.own[0]][0]
                found[link.original] = (rows, shapes[link.own[0]][1])
    elif isinstance(network, UNet):
        names = {own: own for own in shapes}
        if network.config.addition_embed_type is not None:
            names = {link.own[0]: link.original for link in KeyMap(unet_names(network.config), shapes).links.values()}
        inside = {key: shape for key, shape in shapes.items() if ".attentions." in key and len(shape) >= 2}
        found = {names[key]: shape[:2] for key, shape in inside.items()}
    else:
        found = {key: shape for key, shape in shapes.items() if ".layers." in key and len(shape) == 2}
    prefix = {"unet": "lora_unet", "transformer": "lora_unet", "text_encoder": "lora_te1", "text_encoder_2": "lora_te2"}
    return {f"{prefix[name]}_{key.removesuffix('.weight').replace('.', '_')}": shape for key, shape in found.items()}


COUNTS = {
    "sd1": {"unet": 192, "text_encoder": 72},
    "sd2": {"unet": 192, "text_encoder": 138},
    "sdxl": {"unet": 722, "text_encoder": 72, "text_encoder_2": 192},
    "flux": {"transformer": 304, "text_encoder": 72},
}


def _tensors(layers: dict[str, tuple[int, int]]) -> dict[str, Tensor]:
    tensors = {}
    for layer, (out, columns) in layers.items():
        tensors[f"{layer}.lora_down.weight"] = torch.zeros(1, columns, dtype=torch.float16)
        tensors[f"{layer}.lora_up.weight"] = torch.zeros(out, 1, dtype=torch.float16)
        tensors[f"{layer}.alpha"] = torch.tensor(1.0)
    return tensors


@pytest.mark.parametrize("family", COUNTS)
def test_every_layer_that_kohya_trains_is_found(family: str, tmp_path: Path) -> None:
    networks = _model(family)
    tensors: dict[str, Tensor] = {}
    for name, network in networks.items():
        layers = _trained(name, network)
        assert len(layers) == COUNTS[family][name]
        tensors |= _tensors(layers)
    file = read_lora(write(tmp_path / "a.safetensors", tensors))
    assert file.summary.base == family
    assert file.summary.layers == sum(COUNTS[family].values())
    model = Model(networks)
    assert model.base == family
    found = fit(file, model)
    assert sum(len(one.keys) for one in found) == len(tensors)
    changed = {(one.network, part.module) for one in found for part in one.target}
    stacks = 19 * 4 + 38 * 3 if family == "flux" else 0  # q, k, v of two streams are one layer to kohya; q, k, v, mlp
    assert len(changed) == len(file.changes) + stacks
    other = Model(_model("sd1" if family != "sd1" else "sdxl"))
    with pytest.raises(ModelFileError, match="it was made for"):
        fit(file, other)
