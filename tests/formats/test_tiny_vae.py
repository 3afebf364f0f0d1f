"""Tiny autoencoders (TAESD): every layout they are shared in, alone and inside a model."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from tests.formats.single_files import assert_same_parts, assert_same_state, drawn, tiny_parts
from torch import Tensor

import wordbrush
from wordbrush.errors import ModelFileError, RequestError
from wordbrush.formats.diffusers_folder import read_folder, write_folder
from wordbrush.formats.diffusers_folder.networks import config_of
from wordbrush.formats.inspect import inspect_model
from wordbrush.formats.json_file import write_json
from wordbrush.formats.library import Library
from wordbrush.formats.library_folders import LibraryFolder
from wordbrush.formats.safetensors_file import read_tensors, write_tensors
from wordbrush.formats.single_file.elsewhere import read_vae
from wordbrush.formats.single_file.read import read_single_file
from wordbrush.formats.single_file.write import write_single_file
from wordbrush.networks.tiny_vae import TinyAutoencoder, TinyAutoencoderConfig

CONFIG = TinyAutoencoderConfig(
    encoder_block_out_channels=(8, 8), decoder_block_out_channels=(6, 6), num_encoder_blocks=(1, 2),
    num_decoder_blocks=(2, 1),
)  # fmt: skip


def tiny(**settings: Any) -> TinyAutoencoder:
    network: TinyAutoencoder = drawn(TinyAutoencoder(replace(CONFIG, **settings)))
    return network


def half(network: TinyAutoencoder, name: str, prefix: str = "") -> dict[str, Tensor]:
    """One half in the original names: those of an nn.Sequential, whose first in the decoder bends the latents."""
    found, shift = {}, 1 if name == "decoder" else 0
    for key, tensor in network.state_dict().items():
        own, _, rest = key.partition(".layers.")
        number, _, rest = rest.partition(".")
        if own == name:
            found[f"{prefix}{int(number) + shift}.{rest}"] = tensor
    return found


def write_form(form: str, network: TinyAutoencoder, folder: Path) -> Path:
    """The network in one of the forms that it is shared in."""
    encoder, decoder = half(network, "encoder"), half(network, "decoder")
    if form == "diffusers folder":
        place = folder / "taesd"
        place.mkdir()
        write_json(place / "config.json", config_of(network))
        write_tensors(place / "diffusion_pytorch_model.safetensors", dict(network.state_dict()), {})
        return place
    if form == "diffusers file":
        write_tensors(folder / "taesd.safetensors", dict(network.state_dict()), {})
        return folder / "taesd.safetensors"
    if form == "comfy file":
        tensors = half(network, "encoder", "taesd_encoder.") | half(network, "decoder", "taesd_decoder.")
        tensors |= {"vae_scale": torch.tensor(0.18215), "vae_shift": torch.tensor(0.0)}
        write_tensors(folder / "taesd.safetensors", tensors, {})
        return folder / "taesd.safetensors"
    if form.startswith("pickles"):
        torch.save(encoder, folder / "taesd_encoder.pth")
        torch.save(decoder, folder / "taesd_decoder.pth")
        return folder / f"taesd_{form.removeprefix('pickles, ')}.pth"
    write_tensors(folder / "taesd_encoder.safetensors", encoder, {})
    write_tensors(folder / "taesd_decoder.safetensors", decoder, {})
    return folder / "taesd_decoder.safetensors"


FORMS = (
    "diffusers folder", "diffusers file", "comfy file", "pickles, decoder", "pickles, encoder", "original files",
)  # fmt: skip


@pytest.mark.parametrize("channels", [4, 16])
@pytest.mark.parametrize("form", FORMS)
def test_every_form_is_the_same_network(tmp_path: Path, form: str, channels: int) -> None:
    network = tiny(latent_channels=channels)
    path = write_form(form, network, tmp_path)
    found = read_vae(path, "sd1" if channels == 4 else "flux-dev")
    assert found.config == network.config
    assert_same_state(found, network)
    content = inspect_model(path)
    assert (content["kind"], content["what"]) == ("vae", "a tiny autoencoder (TAESD) alone, without a model")


def test_the_published_shape_is_recognised_by_its_names(tmp_path: Path) -> None:
    network = TinyAutoencoder(TinyAutoencoderConfig())
    names = set(half(network, "decoder"))
    # what nn.Sequential calls the layers of `Decoder` in madebyollin/taesd, taesd.py
    assert {"1.weight", "3.conv.0.weight", "5.conv.4.bias", "7.weight", "17.weight", "18.conv.0.weight"} < names
    assert "19.bias" in names
    assert "7.bias" not in names
    path = write_form("original files", network, tmp_path)
    assert read_vae(path, "sdxl").config == TinyAutoencoderConfig()


def test_a_decoder_alone_decodes_and_says_so_when_it_is_to_encode(tmp_path: Path, tiny_sd_folder: Path) -> None:
    network = tiny(num_encoder_blocks=(1, 2, 1), encoder_block_out_channels=(8,) * 3, num_decoder_blocks=(1, 2, 1),
                   decoder_block_out_channels=(6,) * 3)  # fmt: skip
    path = write_form("original files", network, tmp_path)
    (tmp_path / "taesd_encoder.safetensors").rename(tmp_path / "elsewhere.safetensors")
    found = read_vae(path, "sd1")
    assert isinstance(found, TinyAutoencoder)
    assert found.encoder is None
    latents = torch.randn(1, 4, 3, 5, generator=torch.Generator().manual_seed(1))
    assert torch.equal(found.decode(latents), network.decode(latents))
    pipe = wordbrush.load(tiny_sd_folder, vae=path, dtype="float32")
    image = pipe("a fox", seed=1, steps=1).images[0]
    with pytest.raises(RequestError, match=r"taesd_decoder\.safetensors is a decoder alone.*put its encoder beside it"):
        pipe("a fox", image=image, steps=2)
    with pytest.raises(RequestError, match="a decoder without an encoder"):
        pipe.save(tmp_path / "saved")
    write_single_file(pipe.parts, tmp_path / "one.safetensors")
    again = read_single_file(tmp_path / "one.safetensors")
    assert again.vae.config == found.config
    assert_same_state(again.vae, found)


def test_an_encoder_alone_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "taesd_encoder.safetensors"
    write_tensors(path, half(tiny(), "encoder"), {})
    with pytest.raises(ModelFileError, match=r"taesd_encoder\.safetensors holds only the encoder .*put its decoder"):
        read_vae(path, "sd1")


def test_halves_that_do_not_belong_together(tmp_path: Path) -> None:
    write_tensors(tmp_path / "taesd_encoder.safetensors", half(tiny(latent_channels=16), "encoder"), {})
    write_tensors(tmp_path / "taesd_decoder.safetensors", half(tiny(), "decoder"), {})
    with pytest.raises(ModelFileError, match="are not: 4 and 16 latent channels; move one away"):
        read_vae(tmp_path / "taesd_decoder.safetensors", "sd1")


def _without(tensors: dict[str, Tensor], start: str) -> dict[str, Tensor]:
    return {name: tensor for name, tensor in tensors.items() if not name.startswith(start)}


@pytest.mark.parametrize(
    ("tensors", "words"),
    [
        (_without(half(tiny(), "decoder"), "3.conv.2"), r"lacks 3\.conv\.2\.weight, 3\.conv\.2\.bias"),
        (half(tiny(), "decoder") | {"3.skip.weight": torch.ones(6, 6, 1, 1)}, r"holds unexpected 3\.skip\.weight"),
        (half(tiny(), "decoder") | {"7.weight": torch.ones(3, 3, 3, 3)}, r"with levels of unlike width|has shape"),
        ({"1.weight": torch.ones(6, 4, 3, 3), "3.conv.0.weight": torch.ones(6, 6, 3, 3)}, "without the first or last"),
        (half(tiny(), "decoder") | {"1.weight": torch.ones(6)}, r"a network whose 1\.weight has the shape \[6\]"),
    ],
)
def test_damaged_files(tmp_path: Path, tensors: dict[str, Tensor], words: str) -> None:
    path = tmp_path / "taesd_decoder.safetensors"
    write_tensors(path, tensors, {})
    with pytest.raises(ModelFileError, match=words) as caught:
        read_vae(path, "sd1")
    assert str(path) in str(caught.value)


def test_one_for_another_family_is_refused(tmp_path: Path, tiny_sd_folder: Path) -> None:
    path = write_form("diffusers file", tiny(latent_channels=16), tmp_path)
    with pytest.raises(ModelFileError, match="gives 4 channels, the VAE makes 16"):
        wordbrush.load(tiny_sd_folder, vae=path)


@pytest.mark.parametrize("family", ["sd1", "sdxl", "flux-dev"])
def test_a_model_with_one_is_written_and_read_back(tmp_path: Path, tiny_tokenizer_files: Path, family: str) -> None:
    parts = tiny_parts(family, tiny_tokenizer_files, tmp_path)
    parts = replace(parts, vae=tiny(latent_channels=16 if family == "flux-dev" else 4))
    write_folder(parts, tmp_path / "folder")
    folder = read_folder(tmp_path / "folder")
    assert_same_parts(folder, replace(parts, scheduler=folder.scheduler, zero_negative=folder.zero_negative))
    assert json.loads((tmp_path / "folder" / "model_index.json").read_text())["vae"] == ["diffusers", "AutoencoderTiny"]
    content = inspect_model(tmp_path / "folder")
    assert content["native_size"] == (256 if family != "sd1" else 128)
    write_single_file(folder, tmp_path / "one.safetensors")
    file = read_single_file(tmp_path / "one.safetensors")
    assert_same_parts(file, replace(folder, scheduler=file.scheduler))
    names = read_tensors(tmp_path / "one.safetensors")
    prefix = "vae." if family == "flux-dev" else "first_stage_model."
    assert {f"{prefix}taesd_decoder.1.weight", f"{prefix}taesd_encoder.0.weight", f"{prefix}vae_scale"} < set(names)
    assert inspect_model(tmp_path / "one.safetensors")["native_size"] == content["native_size"]
    write_folder(file, tmp_path / "again")
    assert_same_parts(read_folder(tmp_path / "again"), folder)


def test_those_of_a_comfyui_are_found_by_name(tmp_path: Path) -> None:
    place = tmp_path / "models" / "vae_approx"
    place.mkdir(parents=True)
    (tmp_path / "models" / "checkpoints").mkdir()
    write_form("original files", tiny(), place)
    library = Library([LibraryFolder(path=tmp_path)])
    assert library.find_vae("taesd_decoder") == place / "taesd_decoder.safetensors"
