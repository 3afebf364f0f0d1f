"""The model that ships: small, whole, painting the same picture here and in diffusers, and honest about its words."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

import wordbrush
from wordbrush.data.scenes import object_types
from wordbrush.formats.open import embedded_folder

EMBEDDED = embedded_folder()
LARGEST = 40_000_000  # bytes, all parts together


@pytest.fixture(scope="module")
def pipe() -> wordbrush.Pipeline:
    return wordbrush.load(dtype="float32")


def test_all_parts_are_there_and_small() -> None:
    weights = sorted(EMBEDDED.rglob("*.safetensors"))
    assert {path.parent.name for path in weights} == {"unet", "vae", "text_encoder", "clip"}
    assert sum(path.stat().st_size for path in EMBEDDED.rglob("*") if path.is_file()) <= LARGEST


def test_card_lists_what_it_was_taught() -> None:
    card = (EMBEDDED / "README.md").read_text(encoding="utf-8")
    assert len(object_types()) >= 300
    assert [kind.noun for kind in object_types() if kind.noun not in card] == []


@pytest.mark.parametrize("guidance", [1.0, 4.0])
def test_diffusers_opens_it_and_paints_the_same_picture(pipe: wordbrush.Pipeline, guidance: float) -> None:
    from diffusers import StableDiffusionPipeline

    other = StableDiffusionPipeline.from_pretrained(EMBEDDED, torch_dtype=torch.float32)
    other.set_progress_bar_config(disable=True)
    latents = torch.randn(1, 8, 16, 16, generator=torch.Generator().manual_seed(5))
    prompt = "two cats to the left of a red car"
    theirs = other(
        prompt, latents=latents.clone(), num_inference_steps=20, guidance_scale=guidance, output_type="np"
    ).images[0]
    own = pipe(prompt, latents=latents, steps=20, guidance=guidance).images[0]
    assert np.abs(255 * theirs - np.asarray(own, dtype=np.float64)).max() <= 1.0


def test_painting_twice_alone_and_in_a_batch_gives_the_same_bits() -> None:
    fast = wordbrush.load()
    batch = fast(["a dog"] * 7, seed=3, steps=4)
    for index in (0, 3, 6):
        alone = fast("a dog", seed=3 + index, steps=4)
        assert torch.equal(alone.latents[0], batch.latents[index])
        assert alone.images[0].tobytes() == batch.images[index].tobytes()


def test_the_prompt_decides_the_picture(pipe: wordbrush.Pipeline) -> None:
    """Grounds are what the model learns first: a stated one must be there."""
    result = pipe(["a dog on a blue background", "a dog on a green background"], seed=1)
    blue, green = (np.asarray(image, dtype=np.float64)[:8].mean((0, 1)) for image in result.images)
    assert blue[2] > blue[1] > blue[0]
    assert green[1] > green[0]
    assert green[1] > green[2]


def test_words_it_never_met_are_reported(pipe: wordbrush.Pipeline) -> None:
    notes = " ".join(pipe("a zeppelin above a dog", seed=1, steps=1).notes)
    assert "zeppelin" in notes
    assert "dog" not in notes
    assert pipe("three cats and a dog on a red background", seed=1, steps=1).notes == ()


def test_nothing_of_it_is_outside_the_package() -> None:
    assert Path(wordbrush.__file__).parent in EMBEDDED.parents
