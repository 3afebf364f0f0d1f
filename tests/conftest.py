"""Fixtures shared by all tests: tiny random models in diffusers' own folders, made by diffusers and transformers."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

import wordbrush

TINY_SIDE = 32
"""Pixels along each side of a tiny model's default picture."""


@pytest.fixture(autouse=True)
def hub(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Nobody's own settings, folders and downloads take part in a test; returns the folder of the hub's cache."""
    home = tmp_path_factory.mktemp("home")
    monkeypatch.setenv("WORDBRUSH_HOME", str(home / "wordbrush"))
    monkeypatch.setenv("HF_HUB_CACHE", str(home / "hub"))
    for name in ("WORDBRUSH_MODELS", "HF_HUB_OFFLINE", "TRANSFORMERS_OFFLINE"):
        monkeypatch.delenv(name, raising=False)
    return home / "hub"


_SENTENCES = (
    "a fox on a blue background",
    "three cats to the left of two slices of pizza",
    "it's a red car above a green house",
)


@pytest.fixture(scope="session")
def tiny_tokenizer_files(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with vocab.json and merges.txt of a small byte-level BPE in CLIP's manner."""
    return write_tokenizer(tmp_path_factory.mktemp("tokenizer"))


def write_tokenizer(folder: Path) -> Path:
    """Fills the folder of `tiny_tokenizer_files`."""
    from tokenizers import Tokenizer, models, pre_tokenizers, trainers

    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    backend = Tokenizer(models.BPE(end_of_word_suffix="</w>"))
    backend.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.WhitespaceSplit(), pre_tokenizers.ByteLevel(add_prefix_space=False)]
    )
    endings = [f"{character}</w>" for character in alphabet]
    # as special tokens they are numbered first and in this order: the trainer's own order is another in each process
    trainer = trainers.BpeTrainer(
        vocab_size=565, end_of_word_suffix="</w>", initial_alphabet=alphabet, special_tokens=endings,
        show_progress=False,
    )  # fmt: skip
    backend.train_from_iterator(_SENTENCES, trainer)
    model = json.loads(backend.to_str())["model"]
    pieces = [*alphabet, *endings, *("".join(pair) for pair in model["merges"]), "<|startoftext|>", "<|endoftext|>"]
    vocab = {piece: number for number, piece in enumerate(pieces)}  # the order of CLIP's own
    (folder / "vocab.json").write_text(json.dumps(vocab), encoding="utf-8")
    merges = "".join(f"{first} {second}\n" for first, second in model["merges"])
    (folder / "merges.txt").write_text(f"#version: 0.2\n{merges}", encoding="utf-8")
    return folder


@pytest.fixture(scope="session")
def tiny_sd_folder(tmp_path_factory: pytest.TempPathFactory, tiny_tokenizer_files: Path) -> Path:
    """A Stable Diffusion folder of random weights, float32: 4 latent channels, factor 4, epsilon, DDIM."""
    from diffusers import DDIMScheduler

    scheduler = DDIMScheduler(
        beta_start=0.00085, beta_end=0.012, beta_schedule="scaled_linear", clip_sample=False, set_alpha_to_one=False,
        steps_offset=1,
    )  # fmt: skip
    folder = tmp_path_factory.mktemp("tiny-sd")
    make_sd_folder(folder, tiny_tokenizer_files, scheduler)
    return folder


@pytest.fixture(scope="session")
def tiny_v_folder(tmp_path_factory: pytest.TempPathFactory, tiny_tokenizer_files: Path) -> Path:
    """As `tiny_sd_folder` in the embedded model's manner: v-prediction, zero terminal SNR, trailing, and words.json."""
    from diffusers import DDIMScheduler

    scheduler = DDIMScheduler(
        beta_start=0.00085, beta_end=0.012, beta_schedule="scaled_linear", clip_sample=False, set_alpha_to_one=True,
        prediction_type="v_prediction", rescale_betas_zero_snr=True, timestep_spacing="trailing",
    )  # fmt: skip
    folder = tmp_path_factory.mktemp("tiny-v")
    make_sd_folder(folder, tiny_tokenizer_files, scheduler)
    words = sorted({word for sentence in _SENTENCES for word in sentence.replace("'s", " 's").split()})
    (folder / "words.json").write_text(json.dumps(words), encoding="utf-8")
    defaults = {"steps": 4, "guidance": 3.0, "sampler": "dpmpp_2m", "schedule": "sgm_uniform"}
    (folder / "wordbrush.json").write_text(json.dumps({"defaults": defaults}), encoding="utf-8")
    return folder


def make_sd_folder(folder: Path, tokenizer_files: Path, scheduler: object) -> None:
    """Writes a diffusers pipeline folder of tiny random networks; the same bits every time."""
    from diffusers import AutoencoderKL, StableDiffusionPipeline, UNet2DConditionModel
    from transformers import CLIPTextConfig, CLIPTextModel, CLIPTokenizer

    with torch.random.fork_rng():
        torch.manual_seed(0)
        unet = UNet2DConditionModel(
            sample_size=TINY_SIDE // 4, in_channels=4, out_channels=4, block_out_channels=(32, 64), layers_per_block=1,
            down_block_types=("CrossAttnDownBlock2D", "DownBlock2D"),
            up_block_types=("UpBlock2D", "CrossAttnUpBlock2D"), cross_attention_dim=32, attention_head_dim=4,
            norm_num_groups=8,
        )  # fmt: skip
        vae = AutoencoderKL(
            block_out_channels=(16, 32, 32), down_block_types=("DownEncoderBlock2D",) * 3,
            up_block_types=("UpDecoderBlock2D",) * 3, latent_channels=4, norm_num_groups=8, layers_per_block=1,
        )  # fmt: skip
        vocabulary = json.loads((tokenizer_files / "vocab.json").read_text(encoding="utf-8"))
        text = CLIPTextModel(
            CLIPTextConfig(
                vocab_size=len(vocabulary), hidden_size=32, intermediate_size=64, num_hidden_layers=2,
                num_attention_heads=4, max_position_embeddings=24, projection_dim=32,
                bos_token_id=vocabulary["<|startoftext|>"], eos_token_id=vocabulary["<|endoftext|>"],
                pad_token_id=vocabulary["<|endoftext|>"],
            )
        )  # fmt: skip
    merges = [
        tuple(line.split()) for line in (tokenizer_files / "merges.txt").read_text(encoding="utf-8").splitlines()[1:]
    ]
    tokenizer = CLIPTokenizer(vocab=vocabulary, merges=merges, model_max_length=24)
    pipeline = StableDiffusionPipeline(
        unet=unet, vae=vae, text_encoder=text, tokenizer=tokenizer, scheduler=scheduler, safety_checker=None,
        feature_extractor=None, requires_safety_checker=False,
    )  # fmt: skip
    pipeline.save_pretrained(folder)


@pytest.fixture(scope="session")
def tiny_pipe(tiny_v_folder: Path) -> wordbrush.Pipeline:
    """The v-prediction model in float32; nothing in it may be changed."""
    return wordbrush.load(tiny_v_folder, dtype="float32")
