"""CLIP guidance: it raises what it climbs, and a picture does not depend on its neighbours."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest
import torch

import wordbrush
from wordbrush import GenerationRequest, Pipeline, RequestError
from wordbrush.data.pixels import to_images
from wordbrush.editing.clip_guidance import words_of

PROMPTS = ["a red car on a yellow background", "two slices of pizza on a blue background"]


@pytest.fixture(scope="module")
def pipe() -> Pipeline:
    return wordbrush.load(dtype="float32")


def similarity(pipe: Pipeline, **options: object) -> float:
    guide = pipe.clip_guide(None)
    images = pipe(PROMPTS, seed=11, steps=6, **options).images  # type: ignore[arg-type]
    stacked = to_images(np.stack([np.array(image) for image in images]))
    with torch.no_grad():
        return float(guide.similarity(stacked, guide.texts(PROMPTS)).mean())


def test_it_raises_clips_similarity_on_the_embedded_model(pipe: Pipeline) -> None:
    plain, steered = similarity(pipe), similarity(pipe, clip_guidance=10.0)
    assert steered > plain + 0.005, (plain, steered)


def test_the_gradient_is_the_slope_of_the_similarity(pipe: Pipeline) -> None:
    """A step along it pleases CLIP more, a step against it less; it hangs on the picture's seed alone."""
    guide, generator = pipe.clip_guide(None), torch.Generator().manual_seed(0)
    x0 = torch.randn(1, pipe.codec.latent_channels, 16, 16, generator=generator)
    texts = guide.texts(["a fox"])
    slope = guide.gradient(texts, [3])(x0, 0.5)
    assert slope.shape == x0.shape
    small = 0.05 * slope / slope.norm() * x0.norm()
    with torch.no_grad():
        more, less = (guide.similarity(pipe.codec.decode(x0 + step), texts).item() for step in (small, -small))
    assert more > less
    assert torch.equal(slope, guide.gradient(texts, [3])(x0, 0.5))  # cutouts come from the seed and t
    assert not torch.equal(slope, guide.gradient(texts, [4])(x0, 0.5))


def test_a_steered_picture_is_the_same_alone_and_in_a_batch(pipe: Pipeline) -> None:
    batch = pipe(PROMPTS, seed=11, steps=3, clip_guidance=3.0)
    alone = pipe(PROMPTS[1], seed=12, steps=3, clip_guidance=3.0)
    assert torch.equal(batch.latents[1], alone.latents[0])
    assert not torch.equal(alone.latents, pipe(PROMPTS[1], seed=12, steps=3).latents)


def test_guidance_0_is_off(pipe: Pipeline) -> None:
    assert torch.equal(
        pipe(PROMPTS[0], seed=1, steps=2, clip_guidance=0.0).latents, pipe(PROMPTS[0], seed=1, steps=2).latents
    )


def test_another_models_clip_can_steer(tiny_v_folder: Path, tmp_path: Path, pipe: Pipeline) -> None:
    source = pipe.parts.source
    assert source is not None
    shutil.copytree(source / "clip", tmp_path / "clip")
    tiny = wordbrush.load(tiny_v_folder, dtype="float32")
    with pytest.raises(RequestError, match="has no CLIP of its own"):
        tiny("a fox", seed=1, clip_guidance=3.0)
    with pytest.raises(RequestError, match="tokenizer of its 2220 pieces"):
        tiny("a fox", seed=1, clip_guidance=3.0, clip=str(tmp_path / "clip"))
    for name in ("vocab.json", "merges.txt", "tokenizer_config.json"):
        shutil.copyfile(source / "tokenizer" / name, tmp_path / "clip" / name)
    steered = tiny("a fox", seed=1, clip_guidance=3.0, clip=str(tmp_path / "clip"))
    assert not torch.equal(steered.latents, tiny("a fox", seed=1).latents)


def test_a_clip_without_guidance_is_refused() -> None:
    with pytest.raises(RequestError, match="clip_guidance"):
        GenerationRequest(prompt="a fox", clip="there")


@pytest.mark.parametrize(
    ("prompt", "words"),
    [
        ("a (fox:1.3) and [a cat]", "a fox and a cat"),
        ("a fox AND a red car", "a fox a red car"),
        ("a [fox:cat:0.5] <lora:style:1>", "a cat"),
    ],
)
def test_clip_reads_the_words_alone(prompt: str, words: str) -> None:
    assert words_of(prompt) == words
