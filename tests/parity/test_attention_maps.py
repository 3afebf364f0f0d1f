"""Where words act, against diffusers: the same weights, its own text encoding, and its attention's own scores."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from tests.parity.families import LENGTH, Maker
from torch import Tensor

import wordbrush
from wordbrush import GenerationRequest
from wordbrush.evaluation.explaining import WordMap, explain
from wordbrush.runtime.policy import Runtime

diffusers = pytest.importorskip("diffusers")

PROMPT = "three cats to the left of a green house"
SIZE = (40, 56)  # height, width: levels of unlike sides, none of which has as many places as there are tokens
Seen = list[tuple[Tensor, float]]


def request(**fields: object) -> GenerationRequest:
    values = {"prompt": PROMPT, "seed": 5, "steps": 3, "guidance": 4.0, "height": SIZE[0], "width": SIZE[1]}
    return GenerationRequest.from_dict(values | fields)


def seen_by_the_network(pipe: wordbrush.Pipeline, asked: GenerationRequest) -> Seen:
    """x and the timestep at the beginning of each step of an ordinary run."""
    run = pipe.begin(asked)
    found, x, t = Seen(), run.x, run.times[0]
    for step in run:
        found.append((x.clone(), float(run.plan.timestep(t))))
        x, t = step.x, step.t
    return found


def averaged(layers: list[Tensor], positions: tuple[int, ...], shapes: dict[int, tuple[int, int]]) -> np.ndarray:
    """The mean over heads, positions and layers of (heads, N, L) each, every layer enlarged to the picture first."""
    total = torch.zeros(SIZE)
    for weights in layers:
        small = weights[:, :, list(positions)].float().mean(dim=(0, 2)).view(1, 1, *shapes[weights.shape[1]])
        total += F.interpolate(small, SIZE, mode="bicubic", align_corners=False)[0, 0]
    return (total / len(layers)).numpy()


@contextmanager
def recorded_scores(unet: Any) -> Iterator[list[Tensor]]:
    """The attention probabilities of every cross-attention of diffusers' U-Net, (heads, N, L) each."""
    from diffusers.models.attention_processor import AttnProcessor

    found: list[Tensor] = []
    for name, module in unet.named_modules():
        if name.endswith("attn2"):
            module.set_processor(AttnProcessor())
            scores = module.get_attention_scores

            def recording(*inputs: Any, scores: Any = scores) -> Tensor:
                found.append(scores(*inputs))
                return found[-1]

            module.get_attention_scores = recording
    yield found


def check(words: tuple[WordMap, ...], layers: list[Tensor], shapes: dict[int, tuple[int, int]]) -> None:
    assert [word.word for word in words] == PROMPT.split()
    for word in words:
        expected = averaged(layers, word.positions, shapes)
        assert word.heat.std() > 0
        np.testing.assert_allclose(word.heat, expected, atol=2e-6 + 2e-4 * float(expected.std()), rtol=1e-5)


@pytest.mark.parametrize("packed", [True, False])
@pytest.mark.parametrize("name", ["sd1", "sd2-v", "sdxl"])
def test_unet(name: str, packed: bool, make_family: Maker, monkeypatch: pytest.MonkeyPatch) -> None:
    if not packed:
        monkeypatch.setattr(Runtime, "packs", lambda self, network: False)
    folder = make_family(name)
    pipe = wordbrush.load(folder, dtype="float32")
    explained = explain(pipe, request())
    theirs = diffusers.DiffusionPipeline.from_pretrained(folder)
    more: dict[str, Any] = {}
    if name == "sdxl":
        embeds, _, pooled, _ = theirs.encode_prompt(PROMPT, do_classifier_free_guidance=False)
        ids = torch.tensor([[*SIZE, 0.0, 0.0, *SIZE]])
        more["added_cond_kwargs"] = {"text_embeds": pooled, "time_ids": ids}
    else:
        embeds, _ = theirs.encode_prompt(PROMPT, "cpu", 1, False)
    with torch.no_grad(), recorded_scores(theirs.unet) as layers:
        for x, timestep in seen_by_the_network(pipe, request()):
            theirs.unet(x, timestep, encoder_hidden_states=embeds, **more)
    assert {weights.shape[2] for weights in layers} == {LENGTH}
    check(explained.words, layers, {140: (10, 14), 35: (5, 7)})


def test_flux(make_family: Maker, monkeypatch: pytest.MonkeyPatch) -> None:
    from diffusers.models.transformers import transformer_flux

    folder = make_family("flux-dev")
    pipe = wordbrush.load(folder, dtype="float32")
    size = (40, 48)
    asked = request(guidance=3.5, height=size[0], width=size[1])
    monkeypatch.setitem(globals(), "SIZE", size)
    explained = explain(pipe, asked)
    theirs = diffusers.FluxPipeline.from_pretrained(folder)
    length = pipe.conditioner.length(PROMPT)
    embeds, pooled, text_ids = theirs.encode_prompt(PROMPT, PROMPT, max_sequence_length=length)
    layers: list[Tensor] = []
    plain = transformer_flux.dispatch_attention_fn

    def recording(query: Tensor, key: Tensor, value: Tensor, **options: Any) -> Tensor:
        scores = torch.einsum("bqhd,bkhd->bhqk", query, key) * query.shape[3] ** -0.5
        layers.append(scores.softmax(dim=3)[0, :, length:, :length])
        return plain(query, key, value, **options)

    monkeypatch.setattr(transformer_flux, "dispatch_attention_fn", recording)
    seen = seen_by_the_network(pipe, asked)
    height, width = seen[0][0].shape[2:]
    image_ids = theirs._prepare_latent_image_ids(1, height // 2, width // 2, torch.device("cpu"), torch.float32)
    for x, timestep in seen:
        with torch.no_grad():
            theirs.transformer(
                theirs._pack_latents(x, *x.shape), timestep=torch.tensor([timestep / 1000]),
                guidance=torch.tensor([3.5]),
                pooled_projections=pooled, encoder_hidden_states=embeds, txt_ids=text_ids, img_ids=image_ids,
            )  # fmt: skip
    assert len(layers) == 3 * len(seen)  # one block of two streams, two of one
    check(explained.words, layers, {height * width // 4: (height // 2, width // 2)})


def test_the_embedded_model_in_bfloat16(tmp_path: Path) -> None:
    """The packed products that the run itself uses, against diffusers in float32: alike but for rounding."""
    pipe = wordbrush.load()
    pipe.save(tmp_path / "folder")
    prompt = "a dog to the left of a pizza on a blue background"
    explained = explain(pipe, GenerationRequest(prompt=prompt, seed=3, steps=6))
    theirs = diffusers.StableDiffusionPipeline.from_pretrained(tmp_path / "folder", safety_checker=None)
    theirs = theirs.to(torch.float32)
    embeds, _ = theirs.encode_prompt(prompt, "cpu", 1, False)
    seen = seen_by_the_network(pipe, GenerationRequest(prompt=prompt, seed=3, steps=6))
    with torch.no_grad(), recorded_scores(theirs.unet) as layers:
        for x, timestep in seen:
            theirs.unet(x, timestep, encoder_hidden_states=embeds)
    for word in explained.words:
        small = torch.stack([weights[:, :, list(word.positions)].mean(dim=(0, 2)) for weights in layers]).mean(dim=0)
        side = round(small.numel() ** 0.5)
        large = F.interpolate(small.view(1, 1, side, side), (128, 128), mode="bicubic")[0, 0].clamp(min=0).numpy()
        assert np.abs(word.heat - large).max() < 0.03 * large.max() + 1e-3, word.word
        assert np.corrcoef(word.heat.ravel(), large.ravel())[0, 1] > 0.99
