"""Trained adapters written to files: diffusers opens them and paints the picture that we paint."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import diffusers
import numpy as np
import pytest
import torch
from tests.parity.families import Maker
from tests.parity.pictures import PROMPT, SIDE, flux_picture_of, painted, picture_of
from tests.parity.pictures import Reference as Peer
from torch import nn

import wordbrush
from wordbrush import Pipeline
from wordbrush.formats.lora import write_kohya, write_peft
from wordbrush.formats.lora.trained import TrainedLora
from wordbrush.formats.open import embedded_folder
from wordbrush.training.adapters import AdapterConfig, Adapters

peft = pytest.importorskip("peft")

SETTINGS: dict[str, dict[str, Any]] = {
    "plain": {"rank": 4, "alpha": 2.0},
    "convolutions": {"rank": 4, "alpha": 2.0, "target": "conv", "conv_rank": 2, "conv_alpha": 3.0},
    "stabilised": {"rank": 4, "alpha": 2.0, "rank_stabilised": True, "target": "linear"},
    "dora": {"rank": 4, "alpha": 3.0, "dora": True, "target": "conv"},
}
# Of FLUX's stacked `linear1`, diffusers finds the parts at FLUX's own width only: these are all layers but its.
SETTINGS["but linear1"] = {
    "rank": 4, "alpha": 2.0,
    "target": ("transformer.transformer_blocks.*", "single_transformer_blocks.*.proj_out", "*.norm.linear", "mlp.fc1"),
}  # fmt: skip
# diffusers drops kohya's magnitudes, with a warning: DoRA goes to it in PEFT's layout.
FIRST = [
    ("sd1", "plain", "kohya"), ("sd1", "dora", "peft"), ("sd2-v", "convolutions", "kohya"),
    ("sdxl", "stabilised", "kohya"), ("sdxl", "convolutions", "peft"),
    ("flux-dev", "but linear1", "kohya"), ("flux-dev", "dora", "peft"),
]  # fmt: skip
REST = [
    ("sd1", "plain", "peft"), ("sd1", "convolutions", "kohya"), ("sd1", "convolutions", "peft"),
    ("sd1", "stabilised", "kohya"), ("sd1", "stabilised", "peft"), ("sd2-v", "stabilised", "peft"),
    ("sd2-v", "dora", "peft"), ("sdxl", "convolutions", "kohya"), ("sdxl", "stabilised", "peft"),
    ("sdxl", "dora", "peft"), ("flux-dev", "stabilised", "peft"), ("flux-dev", "plain", "peft"),
]  # fmt: skip
CASES = [*FIRST, *(pytest.param(*case, marks=pytest.mark.slow) for case in REST)]


def trainable(pipe: Pipeline) -> dict[str, nn.Module]:
    names = ("unet", "transformer", "text_encoder", "text_encoder_2")
    return {name: network for name, network in pipe.parts.networks.items() if name in names}


def trained_on(pipe: Pipeline, settings: dict[str, Any]) -> TrainedLora:
    """As if trained: random ups and magnitudes."""
    # diffusers' own loader takes LoRAs of CLIP encoders, not of FLUX's T5
    networks = {name: one for name, one in trainable(pipe).items() if not hasattr(one, "shared")}
    adapters = Adapters.inject(networks, AdapterConfig(**settings), torch.Generator().manual_seed(0))
    generator = torch.Generator().manual_seed(5)
    for name, parameter in adapters.named_parameters():
        noise = torch.randn(parameter.shape, generator=generator)
        parameter.data = parameter.data * (1 + 0.1 * noise) if name.endswith("magnitude") else 0.12 * noise
    adapters.remove()
    return adapters.trained()


def written(path: Path, layout: str, trained: TrainedLora, pipe: Pipeline) -> Path:
    path = path / f"{layout}.safetensors"
    return write_kohya(path, trained, trainable(pipe)) if layout == "kohya" else write_peft(path, trained)


@pytest.fixture(scope="module")
def opened(make_family: Maker) -> Callable[[str], Pipeline]:
    made: dict[str, Pipeline] = {}
    return lambda name: made.setdefault(name, wordbrush.load(make_family(name), dtype="float32"))


@pytest.mark.parametrize(("name", "settings", "layout"), CASES)
def test_diffusers_paints_our_picture(
    opened: Callable[[str], Pipeline], make_family: Maker, tmp_path: Path, name: str, settings: str, layout: str
) -> None:
    pipe, peer = opened(name), Peer(make_family(name))
    path = written(tmp_path, layout, trained_on(pipe, SETTINGS[settings]), pipe)
    plain, own = _picture(peer, name)
    peer.pipeline.load_lora_weights(path)
    expected, _ = _picture(peer, name)
    assert np.abs(expected - plain).max() > 10.0, "the LoRA changes next to nothing"
    got = painted(pipe, **own, loras=[(str(path), 1.0)])
    assert np.abs(got - expected).max() <= 1.0
    notes = " ".join(pipe(PROMPT, steps=1, width=SIDE, height=SIDE, loras=[(str(path), 1.0)]).notes)
    matched, total = _matched(notes)
    assert matched == total > 0


def _picture(peer: Peer, name: str) -> tuple[np.ndarray, dict[str, Any]]:
    if name.startswith("flux"):
        return flux_picture_of(peer, name, "euler", guided=True)
    return picture_of(peer, name, "ddim", guided=True)


def _matched(notes: str) -> tuple[int, int]:
    first, _, rest = notes.partition("matched ")[2].partition(" of ")
    return int(first), int(rest.split()[0])


def test_a_lora_trained_on_the_embedded_model(tmp_path: Path) -> None:
    """Trained for real, if only for moments: text encoder and U-Net learn to give one picture's noise."""
    pipe = wordbrush.load(dtype="float32")
    networks = trainable(pipe)
    adapters = Adapters.inject(networks, AdapterConfig(rank=4), torch.Generator().manual_seed(0))
    optimiser = torch.optim.AdamW(adapters.parameters(), lr=3e-3)
    generator = torch.Generator().manual_seed(1)
    x, wanted = (torch.randn(2, 8, 16, 16, generator=generator) for _ in range(2))
    assert pipe.parts.tokenizer is not None
    ids = torch.tensor([pipe.parts.tokenizer.encode(text) for text in ("a fox", "a red car")])
    losses = []
    for _ in range(6):
        context = networks["text_encoder"](ids).last_hidden_state
        loss = (networks["unet"](x, torch.tensor([500.0, 100.0]), context) - wanted).square().mean()
        losses.append(float(loss))
        loss.backward()
        optimiser.step()
        optimiser.zero_grad()
    assert losses[-1] < 0.97 * losses[0]
    adapters.remove()
    latents = torch.randn(1, 8, 16, 16, generator=torch.Generator().manual_seed(5))
    pictures = {}
    for layout in ("kohya", "peft"):
        path = written(tmp_path, layout, adapters.trained(), pipe)
        other = diffusers.StableDiffusionPipeline.from_pretrained(embedded_folder(), torch_dtype=torch.float32)
        other.set_progress_bar_config(disable=True)
        other.load_lora_weights(path)
        options = {"num_inference_steps": 6, "guidance_scale": 3.0, "output_type": "np"}
        theirs = 255.0 * other("a fox", latents=latents.clone(), **options).images[0]
        own = pipe("a fox", latents=latents, steps=6, guidance=3.0, loras=[(str(path), 1.0)]).images[0]
        assert np.abs(theirs - np.asarray(own, dtype=np.float64)).max() <= 1.0
        pictures[layout] = theirs
    plain = np.asarray(pipe("a fox", latents=latents, steps=6, guidance=3.0).images[0], dtype=np.float64)
    assert np.abs(pictures["kohya"] - pictures["peft"]).max() <= 1.0
    assert np.abs(pictures["kohya"] - plain).max() > 20.0
