"""The embeddings of diffusers' `encode_prompt`, for the same tokenizers and small random encoders."""

from __future__ import annotations

import importlib
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import diffusers
import pytest
import torch
import transformers
from tests.conditioning import spiece
from torch import Tensor

from wordbrush.conditioning.conditioning import TextOptions
from wordbrush.conditioning.flux import FluxConditioner
from wordbrush.conditioning.sdxl import SDXLConditioner
from wordbrush.conditioning.t5_tokenizer import T5Tokenizer
from wordbrush.conditioning.text import TextConditioner
from wordbrush.conditioning.tokenizer import ClipTokenizer
from wordbrush.networks.clip import CLIPTextConfig, CLIPTextModel
from wordbrush.networks.t5 import T5Config, T5Encoder, encoder_state

LENGTH = 24
PROMPTS = ("a fox on a blue background", "Three cats, it's a RED car!", "", "🦊 in a house")
LONG = "three cats to the left of two slices of pizza and a red car above a green house on a blue background"


class Words:
    """A tokenizer that pads with a given token: theirs and ours."""

    def __init__(self, files: Path, folder: Path, pad: str) -> None:
        theirs = transformers.CLIPTokenizer.from_pretrained(files, model_max_length=LENGTH, pad_token=pad)
        theirs.save_pretrained(folder)
        self.theirs = theirs
        self.ours = ClipTokenizer.from_folder(folder)


@pytest.fixture(scope="module")
def eos_words(tiny_tokenizer_files: Path, tmp_path_factory: pytest.TempPathFactory) -> Words:
    return Words(tiny_tokenizer_files, tmp_path_factory.mktemp("eos"), "<|endoftext|>")


@pytest.fixture(scope="module")
def zero_words(tiny_tokenizer_files: Path, tmp_path_factory: pytest.TempPathFactory) -> Words:
    """As OpenCLIP pads: with "!", the first of the vocabulary."""
    words = Words(tiny_tokenizer_files, tmp_path_factory.mktemp("zero"), "!")
    assert words.ours.pad_id == 0
    return words


def encoder(words: Words, *, width: int, layers: int, act: str, seed: int, projection: bool = False) -> Any:
    """One of transformers'."""
    config = transformers.CLIPTextConfig(
        vocab_size=len(words.ours.vocab), hidden_size=width, intermediate_size=2 * width, num_hidden_layers=layers,
        num_attention_heads=4, max_position_embeddings=LENGTH, projection_dim=20, hidden_act=act,
        bos_token_id=words.ours.bos_id, eos_token_id=words.ours.eos_id, pad_token_id=words.ours.pad_id,
    )  # fmt: skip
    kind = transformers.CLIPTextModelWithProjection if projection else transformers.CLIPTextModel
    return randomised(kind(config), seed)


def randomised(module: Any, seed: int) -> Any:
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.copy_(torch.randn(parameter.shape, generator=generator) * 0.3)
    return module.eval()


def ours(theirs: Any) -> CLIPTextModel:
    """Ours, with the weights of theirs."""
    model = CLIPTextModel(
        CLIPTextConfig.from_dict(theirs.config.to_dict()),
        projection=isinstance(theirs, transformers.CLIPTextModelWithProjection),
    ).eval()
    state = {key: value for key, value in theirs.state_dict().items() if not key.endswith("position_ids")}
    prefixed = {key if key.startswith("text_") else f"text_model.{key}": value for key, value in state.items()}
    model.load_state_dict(prefixed)
    return model


def near(found: Tensor | None, expected: Tensor) -> None:
    assert found is not None
    assert found.shape == expected.shape
    assert float((found - expected).abs().max()) <= 1e-5 * float(expected.abs().max())


def sd_pipeline(words: Words, theirs: Any) -> Any:
    if not hasattr(theirs, "text_model"):  # diffusers looks for the norm where transformers had it in older versions
        theirs.text_model = SimpleNamespace(final_layer_norm=theirs.final_layer_norm)
    return diffusers.StableDiffusionPipeline(
        vae=None, text_encoder=theirs, tokenizer=words.theirs, unet=None, scheduler=None, safety_checker=None,
        feature_extractor=None, requires_safety_checker=False,
    )  # fmt: skip


@pytest.fixture(scope="module", params=["sd1", "sd2"])
def sd(request: pytest.FixtureRequest, eos_words: Words, zero_words: Words) -> tuple[Any, TextConditioner]:
    if request.param == "sd1":
        words, theirs = eos_words, encoder(eos_words, width=32, layers=3, act="quick_gelu", seed=1)
    else:
        words, theirs = zero_words, encoder(zero_words, width=40, layers=4, act="gelu", seed=2)
    return sd_pipeline(words, theirs), TextConditioner(words.ours, ours(theirs))


@torch.no_grad()
@pytest.mark.parametrize("prompt", PROMPTS)
def test_sd(sd: tuple[Any, TextConditioner], prompt: str) -> None:
    pipeline, conditioner = sd
    assert conditioner.length(prompt) == LENGTH
    for theirs, clip_skip in ((None, None), (None, 1), (1, 2), (2, 3)):
        expected, negative = pipeline.encode_prompt(prompt, "cpu", 1, True, negative_prompt="red", clip_skip=theirs)
        options = TextOptions(clip_skip=clip_skip)
        near(conditioner.encode([prompt], options).context, expected)
        if theirs is None:  # diffusers skips no layer for negative prompts, A1111 does
            near(conditioner.encode_negative(["red"], options).context, negative)


@torch.no_grad()
@pytest.mark.parametrize("words", [LONG, f"{LONG}, {LONG}, a fox", "fox " * 44])
def test_long_prompts_are_the_chunks_that_transformers_encodes(sd: tuple[Any, TextConditioner], words: str) -> None:
    pipeline, conditioner = sd
    tokenizer, size = pipeline.tokenizer, LENGTH - 2
    ids = tokenizer(words, add_special_tokens=False).input_ids
    parts = [ids[start : start + size] for start in range(0, len(ids), size)]
    assert len(parts) > 1
    states = []
    for part in parts:
        framed = [tokenizer.bos_token_id, *part, tokenizer.eos_token_id]
        framed += [tokenizer.pad_token_id] * (LENGTH - len(framed))
        states.append(pipeline.text_encoder(torch.tensor([framed]))[0])
    near(conditioner.encode([words], TextOptions(comma_backtrack=0)).context, torch.cat(states, dim=1))


@torch.no_grad()
def test_textual_inversion(eos_words: Words, tiny_tokenizer_files: Path) -> None:
    theirs = encoder(eos_words, width=32, layers=2, act="quick_gelu", seed=3)
    vectors = torch.randn(3, 32, generator=torch.Generator().manual_seed(4))
    conditioner = TextConditioner(eos_words.ours, ours(theirs), embeddings={"fur": {"text_encoder": vectors}})
    tokenizer = transformers.CLIPTokenizer.from_pretrained(tiny_tokenizer_files, model_max_length=LENGTH)
    pipeline = diffusers.StableDiffusionPipeline(
        vae=None, text_encoder=theirs, tokenizer=tokenizer, unet=None, scheduler=None, safety_checker=None,
        feature_extractor=None, requires_safety_checker=False,
    )  # fmt: skip
    pipeline.load_textual_inversion({"<fur>": vectors}, token="<fur>")
    expected, _ = pipeline.encode_prompt("a red <fur> fox", "cpu", 1, False)
    near(conditioner.encode(["a red fur fox"]).context, expected)


@pytest.fixture(scope="module")
def sdxl(eos_words: Words, zero_words: Words) -> tuple[Any, SDXLConditioner]:
    first = encoder(eos_words, width=32, layers=4, act="quick_gelu", seed=5)
    second = encoder(zero_words, width=40, layers=5, act="gelu", seed=6, projection=True)
    pipeline = diffusers.StableDiffusionXLPipeline(
        vae=None, text_encoder=first, text_encoder_2=second, tokenizer=eos_words.theirs,
        tokenizer_2=zero_words.theirs, unet=None, scheduler=None, add_watermarker=False,
    )  # fmt: skip
    conditioner = SDXLConditioner(
        tokenizer=eos_words.ours, text_encoder=ours(first), tokenizer_2=zero_words.ours, text_encoder_2=ours(second),
        zero_negative=True,
    )  # fmt: skip
    return pipeline, conditioner


@torch.no_grad()
@pytest.mark.parametrize("prompt", PROMPTS)
def test_sdxl(sdxl: tuple[Any, SDXLConditioner], prompt: str) -> None:
    pipeline, conditioner = sdxl
    for theirs, clip_skip in ((None, None), (None, 1), (None, 2), (1, 3), (2, 4)):
        context, _, pooled, _ = pipeline.encode_prompt(prompt, clip_skip=theirs, do_classifier_free_guidance=False)
        found = conditioner.encode([prompt], TextOptions(clip_skip=clip_skip))
        assert found.context.shape == (1, LENGTH, 72)
        near(found.context, context)
        near(found.pooled, pooled)


@torch.no_grad()
def test_sdxl_negative_prompts(sdxl: tuple[Any, SDXLConditioner]) -> None:
    pipeline, conditioner = sdxl
    _, context, _, pooled = pipeline.encode_prompt("a fox", negative_prompt="a red car")
    found = conditioner.encode_negative(["a red car", "", " "])
    near(found.context[:1], context)
    assert found.pooled is not None
    near(found.pooled[:1], pooled)
    _, context, _, pooled = pipeline.encode_prompt("a fox")  # no negative prompt
    assert torch.equal(found.context[1:], context.repeat(2, 1, 1))
    assert torch.equal(found.pooled[1:], pooled.repeat(2, 1))


@torch.no_grad()
def test_sdxl_long_prompts_pool_the_first_chunk(sdxl: tuple[Any, SDXLConditioner]) -> None:
    pipeline, conditioner = sdxl
    _, _, pooled, _ = pipeline.encode_prompt(LONG, do_classifier_free_guidance=False)
    found = conditioner.encode([LONG, "a fox"])
    assert found.context.shape[1] == conditioner.length(LONG) == 2 * LENGTH
    assert found.pooled is not None
    near(found.pooled[:1], pooled)
    alone = conditioner.encode(["a fox"], length=2 * LENGTH)
    assert torch.equal(found.context[1:], alone.context)


@torch.no_grad()
def test_refiner(zero_words: Words) -> None:
    second = encoder(zero_words, width=40, layers=5, act="gelu", seed=6, projection=True)
    pipeline = diffusers.StableDiffusionXLImg2ImgPipeline(
        vae=None, text_encoder=None, text_encoder_2=second, tokenizer=None, tokenizer_2=zero_words.theirs, unet=None,
        scheduler=None, add_watermarker=False, requires_aesthetics_score=True, force_zeros_for_empty_prompt=False,
    )  # fmt: skip
    conditioner = SDXLConditioner(
        tokenizer=None, text_encoder=None, tokenizer_2=zero_words.ours, text_encoder_2=ours(second),
        zero_negative=False,
    )  # fmt: skip
    context, negative, pooled, negative_pooled = pipeline.encode_prompt("a fox")
    found, against = conditioner.encode(["a fox"]), conditioner.encode_negative([""])
    near(found.context, context)
    near(found.pooled, pooled)
    near(against.context, negative)
    near(against.pooled, negative_pooled)


@pytest.fixture(scope="module")
def flux(eos_words: Words, tmp_path_factory: pytest.TempPathFactory) -> tuple[Any, FluxConditioner]:
    folder = tmp_path_factory.mktemp("t5")
    (folder / "spiece.model").write_bytes(spiece.model(rules=spiece.compile_rules(spiece.RULES)))
    with pytest.MonkeyPatch.context() as patch:  # transformers asks for a package that it does not use
        reading = importlib.import_module("transformers.convert_slow_tokenizer")
        patch.setattr(reading, "requires_backends", lambda *_: None)
        tokenizer_2 = transformers.T5Tokenizer.from_pretrained(folder)
    first = encoder(eos_words, width=32, layers=2, act="quick_gelu", seed=7)
    config = T5Config(vocab_size=len(tokenizer_2), d_model=24, d_kv=6, d_ff=40, num_layers=2, num_heads=4)
    second = randomised(transformers.T5EncoderModel(transformers.T5Config(**config.to_dict())), 8)
    own = T5Encoder(config).eval()
    own.load_state_dict(encoder_state(second.state_dict()))
    pipeline = diffusers.FluxPipeline(
        scheduler=None, vae=None, text_encoder=first, tokenizer=eos_words.theirs, text_encoder_2=second,
        tokenizer_2=tokenizer_2, transformer=None,
    )  # fmt: skip
    conditioner = FluxConditioner(
        tokenizer=eos_words.ours, text_encoder=ours(first), tokenizer_2=T5Tokenizer.from_folder(folder),
        text_encoder_2=own, max_length=40,
    )  # fmt: skip
    return pipeline, conditioner


@torch.no_grad()
@pytest.mark.parametrize("prompt", [*PROMPTS, LONG, "a fox " * 50])
def test_flux(flux: tuple[Any, FluxConditioner], prompt: str) -> None:
    pipeline, conditioner = flux
    context, pooled, _ = pipeline.encode_prompt(prompt, max_sequence_length=40)
    found = conditioner.encode([prompt])
    near(found.context, context)
    near(found.pooled, pooled)


def test_flux_weights_multiply_the_states_of_t5_alone(flux: tuple[Any, FluxConditioner]) -> None:
    conditioner = flux[1]
    plain, weighted = conditioner.encode(["the fox a cat"]), conditioner.encode(["the (fox:1.5) a cat"])
    places = [row.position or 0 for row in conditioner.table("the (fox:1.5) a cat") if row.weight == 1.5]
    factors = torch.ones(40)
    factors[places] = 1.5
    assert places == [1]
    assert torch.allclose(weighted.context, plain.context * factors[None, :, None], rtol=1e-6)
    assert weighted.pooled is not None
    assert plain.pooled is not None
    assert torch.equal(weighted.pooled, plain.pooled)
