"""A preview is near the picture that the decoder makes, at a fraction of the cost."""

from __future__ import annotations

import gc
import weakref
from io import BytesIO
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from PIL import Image

import wordbrush
from wordbrush.data.scenes import render, sample_scene
from wordbrush.editing import preview as preview_module
from wordbrush.editing.preview import fitted, preview_of
from wordbrush.editing.start import image_tensor


def test_the_colours_of_scenes_it_was_not_fitted_to_are_nearly_right() -> None:
    codec = wordbrush.load().codec
    preview, errors, spreads = preview_of(codec), [], []
    for index in range(6):
        image = image_tensor(Image.fromarray(render(sample_scene("test", 3, index))))
        mean = F.avg_pool2d(image, codec.downscale)[0]
        errors.append((preview.colours(codec.encode(image)[0]) - mean).square().mean())
        spreads.append((mean - mean.mean(dim=(1, 2), keepdim=True)).square().mean())
    explained = 1 - torch.stack(errors).mean() / torch.stack(spreads).mean()
    assert explained > 0.8, explained


def test_it_is_fitted_once_for_a_vae_and_kept(monkeypatch: pytest.MonkeyPatch, hub: Path) -> None:
    first, second = wordbrush.load().codec, wordbrush.load().codec
    weights = preview_of(first).weights
    assert len(list((hub.parent / "wordbrush" / "cache" / "previews").iterdir())) == 1
    monkeypatch.setattr(preview_module, "fitted", fitted_again)
    kept = preview_of(second).weights
    assert weights is not None
    assert kept is not None
    assert torch.allclose(weights, kept, atol=1e-5)


def test_a_model_is_given_up_though_it_was_looked_at() -> None:
    pipe = wordbrush.load()
    preview_of(pipe.codec)
    network = weakref.ref(pipe.codec.vae)
    del pipe
    gc.collect()
    assert network() is None


def fitted_again(codec: object) -> torch.Tensor:
    raise AssertionError("it was kept")


def test_a_jpeg_of_any_latents(tiny_pipe: wordbrush.Pipeline) -> None:
    codec = tiny_pipe.codec
    assert fitted(codec, scenes=2).shape == (5, 3)
    latents = torch.full((4, 6, 10), float("nan"))
    with Image.open(BytesIO(preview_of(codec).jpeg(latents))) as picture:
        assert (picture.format, picture.size) == ("JPEG", (40, 24))
