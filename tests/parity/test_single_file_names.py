"""The name maps against diffusers' own converters: what they make of what our maps write, bit for bit."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import diffusers
import pytest
import torch
from diffusers.loaders import single_file_utils as theirs
from tests.formats.single_files import drawn, without_own_metadata
from tests.parity.families import FAMILIES, Maker
from torch import Tensor

from wordbrush.formats.diffusers_folder import read_folder
from wordbrush.formats.safetensors_file import read_tensors, write_tensors
from wordbrush.formats.single_file.configs import TRANSFORMERS
from wordbrush.formats.single_file.keymap import KeyMap, Names
from wordbrush.formats.single_file.names_clip import open_clip_names
from wordbrush.formats.single_file.names_flux import flux_names
from wordbrush.formats.single_file.names_unet import unet_names
from wordbrush.formats.single_file.names_vae import old_vae_names, vae_names
from wordbrush.formats.single_file.read import read_single_file
from wordbrush.formats.single_file.write import write_single_file
from wordbrush.networks.clip import CLIPTextConfig, CLIPTextModel
from wordbrush.networks.flux import FluxConfig
from wordbrush.networks.unet import UNet, UNetConfig
from wordbrush.networks.vae import AutoencoderKL, AutoencoderKLConfig

ATTEND, PLAIN = ("CrossAttnDownBlock2D", "CrossAttnUpBlock2D"), ("DownBlock2D", "UpBlock2D")


def _unet(attending: tuple[bool, ...], **settings: Any) -> dict[str, Any]:
    kinds = [ATTEND if yes else PLAIN for yes in attending]
    return {
        "block_out_channels": (8, 16, 24, 24)[: len(attending)],
        "down_block_types": tuple(kind[0] for kind in kinds),
        "up_block_types": tuple(kind[1] for kind in reversed(kinds)),
        "attention_head_dim": 2, "cross_attention_dim": 12, "norm_num_groups": 4, "layers_per_block": 2, **settings,
    }  # fmt: skip


_ADDED = {"addition_embed_type": "text_time", "addition_time_embed_dim": 4, "projection_class_embeddings_input_dim": 34}
UNETS = {
    "sd1": _unet((True, True, True, False)),
    "sd2": _unet((True, True, True, False), use_linear_projection=True, attention_head_dim=(1, 2, 4, 4)),
    "sdxl": _unet(
        (False, True, True), use_linear_projection=True, transformer_layers_per_block=(1, 2, 3), **_ADDED
    ),
    "sdxl-refiner": _unet((False, True, True, False), transformer_layers_per_block=2, **_ADDED),
    "inpainting": _unet((True, False), in_channels=9, layers_per_block=1),
    "attending everywhere": _unet((True, True), layers_per_block=3),
}


def _assert_same(found: dict[str, Tensor], wanted: dict[str, Tensor]) -> None:
    assert found.keys() == wanted.keys()
    for name, tensor in wanted.items():
        assert torch.equal(found[name], tensor), name


def _map(names: Names, state: dict[str, Tensor]) -> KeyMap:
    return KeyMap(names, {name: tuple(tensor.shape) for name, tensor in state.items()})


def _there_and_back(names: KeyMap, state: dict[str, Tensor]) -> dict[str, Tensor]:
    """The file's tensors, which must give the network's again."""
    original = names.to_original(state)
    assert {name: tuple(tensor.shape) for name, tensor in original.items()} == names.original_shapes()
    _assert_same(names.to_own(original), state)
    return original


@pytest.mark.parametrize("name", UNETS)
def test_unet(name: str) -> None:
    config = UNetConfig(**UNETS[name])
    state = dict(drawn(UNet(config)).state_dict())
    original = _there_and_back(_map(unet_names(config), state), state)
    file = {f"model.diffusion_model.{key}": tensor for key, tensor in original.items()}
    _assert_same(theirs.convert_ldm_unet_checkpoint(file, config.to_dict()), state)


@pytest.mark.parametrize("settings", [{}, {"use_quant_conv": False, "use_post_quant_conv": False}])
def test_vae(settings: dict[str, Any]) -> None:
    config = AutoencoderKLConfig(block_out_channels=(8, 16, 16), layers_per_block=2, norm_num_groups=4, **settings)
    state = dict(drawn(AutoencoderKL(config)).state_dict())
    names = _map(vae_names(config), state)
    original = _there_and_back(names, state)
    assert original["encoder.mid.attn_1.q.weight"].shape == (16, 16, 1, 1)
    for prefix in ("first_stage_model.", "vae."):
        file = {prefix + key: tensor for key, tensor in original.items()}
        _assert_same(theirs.convert_ldm_vae_checkpoint(file, config.to_dict()), state)
    flat = {key: tensor.squeeze() if "attn_1" in key else tensor for key, tensor in original.items()}
    assert all(names.fits(key, tuple(tensor.shape)) for key, tensor in flat.items())
    _assert_same(names.to_own(flat), state)


def test_vae_as_diffusers_wrote_it_before_2023(tmp_path: Path) -> None:
    config = AutoencoderKLConfig(block_out_channels=(8,), norm_num_groups=4)
    state = dict(drawn(AutoencoderKL(config)).state_dict())
    old = _there_and_back(_map(old_vae_names(config), state), state)
    attentions = {key: tensor[..., 0, 0] for key, tensor in old.items() if ".attentions." in key and tensor.ndim == 4}
    flat = old | attentions
    write_tensors(tmp_path / "diffusion_pytorch_model.safetensors", flat)
    (tmp_path / "config.json").write_text(json.dumps(config.to_dict()))
    reference = diffusers.AutoencoderKL.from_pretrained(tmp_path, low_cpu_mem_usage=False)
    _assert_same(dict(reference.state_dict()), state)


@pytest.mark.parametrize("projection", [False, True])
@pytest.mark.parametrize("prefix", ["cond_stage_model.model.", "conditioner.embedders.1.model."])
def test_open_clip(prefix: str, projection: bool) -> None:
    config = CLIPTextConfig(
        vocab_size=50, hidden_size=12, intermediate_size=24, num_hidden_layers=3, num_attention_heads=2,
        max_position_embeddings=7, hidden_act="gelu", projection_dim=12,
    )  # fmt: skip
    encoder = drawn(CLIPTextModel(config, projection=projection))
    state = dict(encoder.state_dict())
    original = _there_and_back(_map(open_clip_names(config, projection=projection), state), state)
    file = {prefix + key: tensor for key, tensor in original.items()}
    found = theirs.convert_open_clip_checkpoint(encoder, file, prefix=prefix)
    if projection and prefix.startswith("cond_stage"):  # diffusers leaves it out there, as Stable Diffusion 2 does
        found["text_projection.weight"] = state["text_projection.weight"]
    _assert_same(found, state)


@pytest.mark.parametrize("family", TRANSFORMERS)
def test_flux(family: str) -> None:
    # diffusers' converter knows only the full width; a few columns of it are enough
    config = FluxConfig.from_dict(TRANSFORMERS[family] | {"num_layers": 2, "num_single_layers": 3})
    with torch.device("meta"):
        reference = diffusers.FluxTransformer2DModel.from_config(config.to_dict())
    generator = torch.Generator().manual_seed(0)
    state = {
        name: torch.randn(tensor.shape[0], *[2 for _ in tensor.shape[1:]], generator=generator)
        for name, tensor in reference.state_dict().items()
    }
    original = _there_and_back(_map(flux_names(config), state), state)
    # the parts of a matrix that were stacked need not look alike in the file: their order is what is checked
    _assert_same(theirs.convert_flux_transformer_checkpoint_to_diffusers(dict(original)), state)
    prefixed = {f"model.diffusion_model.{name}": tensor for name, tensor in original.items()}
    _assert_same(theirs.convert_flux_transformer_checkpoint_to_diffusers(prefixed), state)


def test_names_of_the_published_files() -> None:
    """Literal names, so that both directions of a map cannot be wrong together."""
    config = UNetConfig(**UNETS["sd1"])
    names = _map(unet_names(config), dict(UNet(config).state_dict()))
    literal = {
        "input_blocks.0.0.weight": "conv_in.weight",
        "input_blocks.2.1.transformer_blocks.0.attn2.to_k.weight": (
            "down_blocks.0.attentions.1.transformer_blocks.0.attn2.to_k.weight"
        ),
        "input_blocks.3.0.op.weight": "down_blocks.0.downsamplers.0.conv.weight",
        "input_blocks.4.0.skip_connection.weight": "down_blocks.1.resnets.0.conv_shortcut.weight",
        "input_blocks.10.0.emb_layers.1.bias": "down_blocks.3.resnets.0.time_emb_proj.bias",
        "middle_block.1.proj_in.weight": "mid_block.attentions.0.proj_in.weight",
        "output_blocks.2.1.conv.weight": "up_blocks.0.upsamplers.0.conv.weight",
        "output_blocks.5.2.conv.weight": "up_blocks.1.upsamplers.0.conv.weight",
        "output_blocks.11.0.skip_connection.weight": "up_blocks.3.resnets.2.conv_shortcut.weight",
        "out.2.weight": "conv_out.weight",
    }
    for original, own in literal.items():
        assert names.links[original].own == (own,)


@pytest.mark.parametrize("family", ["sd1", "sd2-v", "sdxl", "inpaint"])
def test_diffusers_opens_what_we_write(make_family: Maker, tmp_path: Path, family: str) -> None:
    """Its own reader of single files, with the configs of a folder, to the same weights."""
    folder = make_family(family)
    path = tmp_path / f"{family}.safetensors"
    write_single_file(read_folder(folder), path)
    classes = {"sdxl": "StableDiffusionXLPipeline", "inpaint": "StableDiffusionInpaintPipeline"}
    pipeline = getattr(diffusers, classes.get(family, "StableDiffusionPipeline")).from_single_file(
        str(path), config=str(folder), local_files_only=True, safety_checker=None
    )
    # not the second text encoder: diffusers tells the two by their widths, and those of the tiny model are the same
    for part in ("unet", "vae", "text_encoder"):
        network = getattr(pipeline, part)
        stem = "diffusion_pytorch_model" if part in ("unet", "vae") else "model"
        wanted = read_tensors(folder / part / f"{stem}.safetensors")
        found = {name.removeprefix("text_model."): tensor for name, tensor in network.state_dict().items()}
        wanted = {name.removeprefix("text_model."): tensor for name, tensor in wanted.items()}
        assert wanted.keys() <= found.keys()
        for name, tensor in wanted.items():
            assert torch.equal(found[name], tensor), (part, name)


@pytest.mark.parametrize("family", FAMILIES)
def test_every_family_is_understood_from_its_shapes(make_family: Maker, tmp_path: Path, family: str) -> None:
    """The file as another tool writes it, without our metadata, means the networks of the folder it was made of."""
    folder = make_family(family)
    parts = read_folder(folder)
    path = tmp_path / "x.safetensors"
    write_single_file(parts, path)
    prediction = "v" if family == "sd2-v" else None
    found = read_single_file(without_own_metadata(path), tokenizer=folder, prediction=prediction)
    assert (found.family, found.picture_input, found.tells_guidance) == (
        parts.family, parts.picture_input, parts.tells_guidance,
    )  # fmt: skip
    assert found.scheduler.noise == parts.scheduler.noise
    assert found.scheduler.prediction == parts.scheduler.prediction
    for part, network in parts.networks.items():
        _assert_same(dict(found.networks[part].state_dict()), dict(network.state_dict()))
    if found.unet is not None and parts.unet is not None:
        assert found.unet.config.heads == parts.unet.config.heads
        assert found.unet.config.addition_time_embed_dim == parts.unet.config.addition_time_embed_dim
    if found.transformer is not None and parts.transformer is not None:
        ours, wanted = found.transformer.config, parts.transformer.config
        assert replace(ours, out_channels=ours.out_channels or ours.in_channels) == wanted
    assert found.vae.config.scaling_factor == parts.vae.config.scaling_factor
