"""CLIP files: transformers' own, and OpenCLIP's layout, which holds the same network."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch.testing import assert_close

from wordbrush.errors import ModelFileError
from wordbrush.formats.clip_files import OPENAI_MEAN, read_clip

OPEN_CONFIG = {
    "model_cfg": {
        "embed_dim": 16,
        "vision_cfg": {"image_size": 32, "layers": 2, "width": 32, "patch_size": 8, "head_width": 8},
        "text_cfg": {"context_length": 24, "vocab_size": 400, "width": 24, "heads": 4, "layers": 2},
    },
    "preprocess_cfg": {"mean": [0.5, 0.5, 0.5], "std": [0.25, 0.25, 0.25]},
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny CLIP that transformers made, with the activation of OpenCLIP's models."""
    from transformers import CLIPConfig, CLIPModel

    common = {"num_hidden_layers": 2, "num_attention_heads": 4, "hidden_act": "gelu", "projection_dim": 16}
    text = {"vocab_size": 400, "hidden_size": 24, "intermediate_size": 96, "max_position_embeddings": 24}
    ids = {"bos_token_id": 398, "eos_token_id": 399, "pad_token_id": 399}
    vision = {"hidden_size": 32, "intermediate_size": 128, "image_size": 32, "patch_size": 8}
    with torch.random.fork_rng():
        torch.manual_seed(0)
        towers = {"text_config": {**common, **text, **ids}, "vision_config": {**common, **vision}}
        model = CLIPModel(CLIPConfig(**towers, projection_dim=16))
    folder = tmp_path_factory.mktemp("clip")
    model.save_pretrained(folder)
    return folder


def _inputs() -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(1)
    ids = torch.randint(0, 398, (2, 24), generator=generator)
    ids[:, 9:] = 399
    return ids, torch.randn(3, 3, 32, 32, generator=generator)


def test_a_transformers_folder_gives_transformers_features(folder: Path) -> None:
    from transformers import CLIPModel

    files, (ids, images) = read_clip(folder), _inputs()
    assert (files.mean, files.tokenizer) == (OPENAI_MEAN, None)
    theirs = CLIPModel.from_pretrained(folder).eval()
    with torch.no_grad():
        out = theirs(input_ids=ids, pixel_values=images)
        ours = files.model(ids, images)
    assert_close(ours.logits_per_image, out.logits_per_image, rtol=1e-4, atol=1e-4)


def _open_clip_tensors(own: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Written from OpenCLIP's model.py and transformer.py, name by name."""
    found = {
        "logit_scale": own["logit_scale"],
        "positional_embedding": own["text_model.embeddings.position_embedding.weight"],
        "token_embedding.weight": own["text_model.embeddings.token_embedding.weight"],
        "text_projection": own["text_projection.weight"].T.contiguous(),
        "visual.proj": own["visual_projection.weight"].T.contiguous(),
        "visual.class_embedding": own["vision_model.embeddings.class_embedding"],
        "visual.positional_embedding": own["vision_model.embeddings.position_embedding.weight"],
        "visual.conv1.weight": own["vision_model.embeddings.patch_embedding.weight"],
        "attn_mask": torch.zeros(24, 24),
    }
    norms = {"text_model.final_layer_norm": "ln_final", "vision_model.pre_layrnorm": "visual.ln_pre",
             "vision_model.post_layernorm": "visual.ln_post"}  # fmt: skip
    for tower, head in (("text_model", "transformer"), ("vision_model", "visual.transformer")):
        for layer in range(2):
            ours, theirs = f"{tower}.encoder.layers.{layer}", f"{head}.resblocks.{layer}"
            norms |= {f"{ours}.layer_norm1": f"{theirs}.ln_1", f"{ours}.layer_norm2": f"{theirs}.ln_2"}
            norms |= {f"{ours}.mlp.fc1": f"{theirs}.mlp.c_fc", f"{ours}.mlp.fc2": f"{theirs}.mlp.c_proj"}
            norms |= {f"{ours}.self_attn.out_proj": f"{theirs}.attn.out_proj"}
            for kind in ("weight", "bias"):
                stack = [own[f"{ours}.self_attn.{name}_proj.{kind}"] for name in "qkv"]
                found[f"{theirs}.attn.in_proj_{kind}"] = torch.cat(stack)
    for ours, theirs in norms.items():
        found |= {f"{theirs}.{kind}": own[f"{ours}.{kind}"] for kind in ("weight", "bias")}
    return found


@pytest.fixture
def open_folder(folder: Path, tmp_path: Path) -> Path:
    own = dict(read_clip(folder).model.state_dict())
    save_file(_open_clip_tensors(own), tmp_path / "open_clip_model.safetensors")
    (tmp_path / "open_clip_config.json").write_text(json.dumps(OPEN_CONFIG), encoding="utf-8")
    return tmp_path


def test_openclips_layout_is_the_same_network(folder: Path, open_folder: Path) -> None:
    ours, theirs = read_clip(folder), read_clip(open_folder / "open_clip_model.safetensors")
    assert theirs.mean == (0.5, 0.5, 0.5)
    for name, tensor in ours.model.state_dict().items():
        assert torch.equal(theirs.model.state_dict()[name], tensor), name
    ids, images = _inputs()
    assert torch.equal(theirs.model(ids, images).logits_per_image, ours.model(ids, images).logits_per_image)


def test_pickled_openclip_weights_load(open_folder: Path) -> None:
    tensors = load_file(open_folder / "open_clip_model.safetensors")
    (open_folder / "open_clip_model.safetensors").unlink()
    torch.save(tensors, open_folder / "open_clip_pytorch_model.bin")
    assert read_clip(open_folder).model.config.projection_dim == 16


def test_damaged_and_foreign_folders_are_refused(open_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> None:
    with pytest.raises(ModelFileError, match="there is no CLIP"):
        read_clip(tmp_path_factory.mktemp("empty"))
    config = json.loads(json.dumps(OPEN_CONFIG))
    config["model_cfg"]["vision_cfg"]["timm_model_name"] = "vit"
    strange = tmp_path_factory.mktemp("strange")
    shutil.copyfile(open_folder / "open_clip_model.safetensors", strange / "open_clip_model.safetensors")
    (strange / "open_clip_config.json").write_text(json.dumps(config), encoding="utf-8")
    with pytest.raises(ModelFileError, match="timm_model_name"):
        read_clip(strange)
    config["model_cfg"]["vision_cfg"] = {**OPEN_CONFIG["model_cfg"]["vision_cfg"], "width": 40}  # type: ignore[index, dict-item]
    (strange / "open_clip_config.json").write_text(json.dumps(config), encoding="utf-8")
    with pytest.raises(ModelFileError, match="does not fit"):
        read_clip(strange)
