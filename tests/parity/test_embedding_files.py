"""Learnt words that we write: our reader finds what was written, diffusers reads the same prompts."""

from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from tests.parity.families import WIDTH, Maker
from tests.parity.pictures import SIDE, STEPS, Reference, starting_noise
from torch import Tensor

import wordbrush
from wordbrush.conditioning.of_model import conditioner_of
from wordbrush.formats.by_name import NamedEmbeddings
from wordbrush.formats.safetensors_file import read_header
from wordbrush.formats.textual_inversion import read_embedding, write_embedding

PROMPT = "a <robot> on a red car"


def _vectors(*names: str) -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(0)
    return {name: torch.randn(3, WIDTH, generator=generator) * 0.3 for name in names}


def _assert_same_picture(peer: Reference, folder: Path, embedding: Path) -> None:
    noise = starting_noise()
    options = {"num_inference_steps": STEPS, "guidance_scale": 3.0, "output_type": "np"}
    expected = 255.0 * peer.pipeline(prompt=PROMPT, latents=noise.clone(), **options).images[0]
    pipe = wordbrush.load(folder, dtype="float32")
    word = read_embedding(embedding)
    pipe.conditioner = conditioner_of(pipe.parts, NamedEmbeddings({"robot": word.vectors}))
    result = pipe(
        PROMPT.replace("<robot>", "robot"), steps=STEPS, guidance=3.0, sampler="ddim", latents=noise, width=SIDE,
        height=SIDE,
    )  # fmt: skip
    assert np.abs(np.asarray(result.images[0], dtype=np.float64) - expected).max() <= 1.0


def test_stable_diffusion(make_family: Maker, tmp_path: Path) -> None:
    vectors = _vectors("text_encoder")
    paths = write_embedding(tmp_path, "robot", "<robot>", vectors)
    assert [path.name for path in paths] == ["robot.safetensors", "learned_embeds.safetensors"]
    assert load_file(paths[0]).keys() == {"emb_params"}
    assert read_header(paths[0]).metadata["modelspec.architecture"].endswith("/textual-inversion")
    for path in paths:
        assert torch.equal(read_embedding(path).vectors["text_encoder"], vectors["text_encoder"])
    peer = Reference(make_family("sd1"))
    peer.use("ddim")
    peer.pipeline.load_textual_inversion(paths[1])  # its own file, whose key is the word
    _assert_same_picture(peer, make_family("sd1"), paths[0])
    again = Reference(make_family("sd1"))
    again.use("ddim")
    again.pipeline.load_textual_inversion(paths[0], token="<robot>")
    _assert_same_picture(again, make_family("sd1"), paths[1])


@pytest.mark.parametrize("layout", ["kohya", "diffusers"])
def test_stable_diffusion_xl(layout: str, make_family: Maker, tmp_path: Path) -> None:
    vectors = _vectors("text_encoder", "text_encoder_2")
    kohya, first, second = write_embedding(tmp_path, "robot", "<robot>", vectors)
    assert {name: tensor.shape for name, tensor in load_file(kohya).items()} == {
        "clip_l": (3, WIDTH), "clip_g": (3, WIDTH),
    }  # fmt: skip
    read = read_embedding(kohya).vectors
    assert all(torch.equal(read[name], tensor) for name, tensor in vectors.items())
    peer = Reference(make_family("sdxl"))
    peer.use("ddim")
    pipe = peer.pipeline
    sides = [(pipe.text_encoder, pipe.tokenizer), (pipe.text_encoder_2, pipe.tokenizer_2)]
    state = load_file(kohya)
    sources = [state["clip_l"], state["clip_g"]] if layout == "kohya" else [first, second]
    for source, (encoder, tokenizer) in zip(sources, sides, strict=True):
        pipe.load_textual_inversion(source, token="<robot>", text_encoder=encoder, tokenizer=tokenizer)
    _assert_same_picture(peer, make_family("sdxl"), kohya)
