"""Retrieval by the CLIP in a model's folder, against its own logits."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

import wordbrush
from wordbrush.data.scenes import render
from wordbrush.errors import ModelFileError
from wordbrush.evaluation.prompts import TASKS, composition_prompts
from wordbrush.evaluation.retrieval import load_clip, measure_retrieval
from wordbrush.networks.clip import CLIPConfig, CLIPModel, CLIPTextConfig, CLIPVisionConfig
from wordbrush.training.export import write_network


@pytest.fixture(scope="module")
def folder_with_clip(tiny_v_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("model") / "tiny"
    shutil.copytree(tiny_v_folder, folder)
    tokenizer = wordbrush.load(folder).parts.tokenizer
    sizes = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 1, "num_attention_heads": 2}
    text = CLIPTextConfig(
        **sizes, projection_dim=16, vocab_size=len(tokenizer.vocab), max_position_embeddings=tokenizer.max_length,
        bos_token_id=tokenizer.bos_id, eos_token_id=tokenizer.eos_id, pad_token_id=tokenizer.pad_id,
    )  # fmt: skip
    vision = CLIPVisionConfig(**sizes, projection_dim=16, image_size=64, patch_size=16)
    network = CLIPModel(CLIPConfig(text_config=text, vision_config=vision, projection_dim=16))
    network.initialise(torch.Generator().manual_seed(0))
    write_network(
        folder / "clip", network.config.to_dict(), network.state_dict(), dtype=torch.float32, weights_name="model"
    )
    return folder


def test_retrieval_is_by_the_clips_own_logits(folder_with_clip: Path) -> None:
    pipe = wordbrush.load(folder_with_clip)
    prompts = composition_prompts(3)
    pictures = [Image.fromarray(render(prompt.scene)) for prompt in prompts]
    inverted = [Image.fromarray(255 - np.asarray(picture)) for picture in pictures]
    result = measure_retrieval(pipe, prompts, pictures, inverted)
    clip = load_clip(folder_with_clip / "clip")
    assert result is not None
    assert clip is not None
    ids = torch.tensor([pipe.parts.tokenizer.encode(prompt.text) for prompt in prompts])
    right = {}
    for name, shown in (("renders", pictures), ("inverted", inverted)):
        pixels = np.stack([np.asarray(picture.resize((64, 64))) for picture in shown])
        with torch.no_grad():
            logits = clip(ids, torch.from_numpy(pixels).permute(0, 3, 1, 2) / 127.5 - 1).logits_per_image
        own = torch.arange(len(prompts))
        right[name] = [(logits.argmax(axis) == own).double().mean().item() for axis in (1, 0)]
    assert result.among == len(prompts) == 3 * len(TASKS)
    assert result.picture_to_caption == pytest.approx(right["renders"][0])
    assert result.caption_to_picture == pytest.approx(right["renders"][1])
    assert result.painted_to_caption == pytest.approx(right["inverted"][0])


def test_a_damaged_clip_is_named(tmp_path: Path) -> None:
    assert load_clip(tmp_path) is None
    (tmp_path / "config.json").write_text("{")
    with pytest.raises(ModelFileError, match=r"config\.json"):
        load_clip(tmp_path)
