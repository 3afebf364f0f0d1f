"""A tiny autoencoder in the place of a model's own: the pictures of diffusers' AutoencoderTiny, to 1/255."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import diffusers
import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from tests.parity.families import Maker
from tests.parity.pictures import IMAGE, NEGATIVE, PROMPT, SIDE, STEPS, painted, starting_noise

import wordbrush
from wordbrush import Pipeline

SCALE = 0.18215  # of Stable Diffusion's own VAE, whose latents times this are a tiny one's


def tiny() -> Any:
    """One of diffusers', of the factor that the models of `families` have."""
    widths = (16, 16, 16)
    with torch.random.fork_rng():
        torch.manual_seed(5)
        network = diffusers.AutoencoderTiny(
            encoder_block_out_channels=widths, decoder_block_out_channels=widths, num_encoder_blocks=(1, 2, 2),
            num_decoder_blocks=(2, 2, 1),
        )  # fmt: skip
    with torch.no_grad():  # latents of about unit size, pictures of many colours
        network.encoder.layers[-1].weight.mul_(4.0)
        network.decoder.layers[-1].weight.mul_(4.0)
        network.decoder.layers[-1].bias.fill_(0.5)
    return network.eval()


def original_files(network: Any, folder: Path) -> Path:
    """As madebyollin/taesd has them: two state dicts of nn.Sequential, the decoder's with one layer more in front."""
    for half, first in (("encoder", 0), ("decoder", 1)):
        layers = torch.nn.Sequential(*[torch.nn.Identity()] * first, *getattr(network, half).layers)
        save_file(layers.state_dict(), folder / f"taesd_{half}.safetensors")
    return folder / "taesd_decoder.safetensors"


def assert_same(pipe: Pipeline, expected: np.ndarray, **options: Any) -> None:
    assert 255.0 * expected.std() > 5.0, "a flat picture would prove nothing"
    assert np.abs(painted(pipe, **options) - 255.0 * expected).max() <= 1.0


@pytest.mark.parametrize("name", ["sd1", "sdxl", "flux-dev"])
def test_paints_the_picture_of_diffusers(make_family: Maker, tmp_path: Path, name: str) -> None:
    network, noise, folder = tiny(), starting_noise(), make_family(name)
    theirs = diffusers.DiffusionPipeline.from_pretrained(folder, vae=network)
    theirs.save_pretrained(tmp_path / "theirs")
    network.save_pretrained(tmp_path / "taesd")
    options: dict[str, Any] = {"latents": noise.clone(), "guidance_scale": 5.0, "negative_prompt": NEGATIVE}
    own: dict[str, Any] = {"latents": noise, "guidance": 5.0, "negative_prompt": NEGATIVE}
    if name == "flux-dev":
        packed = diffusers.FluxPipeline._pack_latents(noise.clone(), 1, 4, SIDE // 4, SIDE // 4)
        options = {"latents": packed, "guidance_scale": 3.5, "height": SIDE, "width": SIDE}
        own = {"latents": noise, "guidance": 3.5}
    expected = theirs(PROMPT, num_inference_steps=STEPS, output_type="np", **options).images[0]
    whole = wordbrush.load(tmp_path / "theirs", dtype="float32")
    whole.save(tmp_path / "ours")
    again = diffusers.DiffusionPipeline.from_pretrained(tmp_path / "ours")
    assert type(again.vae) is diffusers.AutoencoderTiny
    if name == "flux-dev":
        options["latents"] = packed.clone()
    by_them = again(PROMPT, num_inference_steps=STEPS, output_type="np", **options).images[0]
    assert np.abs(by_them - expected).max() <= 1 / 255
    files = original_files(network, tmp_path)
    for vae in (None, tmp_path / "taesd", tmp_path / "taesd" / "diffusion_pytorch_model.safetensors", files):
        pipe = whole if vae is None else wordbrush.load(folder, vae=vae, dtype="float32")
        assert_same(pipe, expected, **own)


def test_begins_from_a_picture_as_diffusers_does(make_family: Maker, tmp_path: Path) -> None:
    network, folder = tiny(), make_family("sd1")
    scheduler = diffusers.DDIMScheduler.from_pretrained(folder, subfolder="scheduler")
    theirs = diffusers.StableDiffusionImg2ImgPipeline.from_pretrained(folder, vae=network, scheduler=scheduler)
    expected = theirs(
        PROMPT, image=IMAGE, strength=0.5, guidance_scale=5.0, num_inference_steps=STEPS, output_type="np",
        generator=torch.Generator().manual_seed(11),
    ).images[0]  # fmt: skip
    pipe = wordbrush.load(folder, vae=original_files(network, tmp_path), dtype="float32")
    assert_same(pipe, expected, image=IMAGE, strength=0.5, guidance=5.0, sampler="ddim")


def test_a_model_that_edits_sees_latents_in_the_scale_it_was_trained_on(make_family: Maker, tmp_path: Path) -> None:
    """diffusers would show it those of the tiny autoencoder, which are five times smaller; here they are divided."""
    network = tiny()
    pipe = wordbrush.load(make_family("edit"), vae=original_files(network, tmp_path), dtype="float32")
    with torch.no_grad():
        wider = network.encoder.layers[-1]
        wider.weight.div_(SCALE)
        wider.bias.div_(SCALE)
    theirs = diffusers.StableDiffusionInstructPix2PixPipeline.from_pretrained(make_family("edit"), vae=network)
    noise = starting_noise()
    expected = theirs(
        PROMPT, image=IMAGE, latents=noise.clone(), guidance_scale=5.0, image_guidance_scale=1.5, output_type="np",
        num_inference_steps=STEPS, generator=torch.Generator().manual_seed(11),
    ).images[0]  # fmt: skip
    assert_same(pipe, expected, image=IMAGE, latents=noise, guidance=5.0, image_guidance=1.5)
