"""LoRAs around a run: on the weights while it needs them, by path, name and tag; and off again."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

import wordbrush
from wordbrush import GenerationRequest, ModelFileError, Pipeline, RequestError
from wordbrush.formats import adapted
from wordbrush.request_fields import Lora
from wordbrush.runtime.policy import Runtime

PROMPT = "a fox on a blue background"
UNET_LAYER = "mid_block.attentions.0.transformer_blocks.0.attn2.to_k"
TEXT_LAYER = "text_model.encoder.layers.1.self_attn.q_proj"


def low_rank(rows: int, columns: int, seed: int) -> tuple[Tensor, Tensor]:
    draw = torch.Generator().manual_seed(seed)
    return torch.randn(2, columns, generator=draw), torch.randn(rows, 2, generator=draw)


def write_lora(path: Path, seed: int = 0) -> Path:
    """A LoRA of one layer of the U-Net and one of the text encoder, in PEFT's names, of rank and alpha 2."""
    tensors = {}
    for place, (rows, columns) in ((f"unet.{UNET_LAYER}", (64, 32)), (f"text_encoder.{TEXT_LAYER}", (32, 32))):
        tensors[f"{place}.lora_A.weight"], tensors[f"{place}.lora_B.weight"] = low_rank(rows, columns, seed + rows)
    path.parent.mkdir(exist_ok=True)
    save_file(tensors, path)
    return path


@pytest.fixture
def lora(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A LoRA that the library finds as "style"."""
    monkeypatch.setenv("WORDBRUSH_MODELS", str(tmp_path))
    return write_lora(tmp_path / "loras" / "style.safetensors")


@pytest.fixture(params=["packed", "taken", "plain"])
def pipe(request: pytest.FixtureRequest, tiny_v_folder: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Pipeline]:
    """The tiny model, run on a packed copy of its weights, one that takes them over, or the weights themselves."""
    if request.param == "plain":
        monkeypatch.setattr(Runtime, "packs", lambda *_: False)
    if request.param == "taken":
        monkeypatch.setattr(adapted, "LARGE", 0)
    return wordbrush.load(tiny_v_folder, dtype="float32")


def merged_by_hand(folder: Path, target: Path, path: Path, unet: float, text: float) -> Pipeline:
    """The model with W + strength * B @ A written into its files."""
    wordbrush.load(folder, dtype="float32").save(target)
    found = load_file(path)
    for part, layer, strength, file in (
        ("unet", UNET_LAYER, unet, "diffusion_pytorch_model"), ("text_encoder", TEXT_LAYER, text, "model"),
    ):  # fmt: skip
        weights = load_file(target / part / f"{file}.safetensors")
        down, up = (found[f"{part}.{layer}.lora_{side}.weight"] for side in "AB")
        weights[f"{layer}.weight"] += strength * (up @ down)
        save_file(weights, target / part / f"{file}.safetensors")
    return wordbrush.load(target, dtype="float32")


def bits(pipe: Pipeline) -> dict[str, Tensor]:
    pipe.adapted.restore()
    return {
        f"{part}.{name}": tensor.clone()
        for part, network in pipe.parts.networks.items()
        for name, tensor in network.state_dict().items()
    }


def test_paints_as_with_the_change_in_the_weights_and_leaves_no_trace(
    pipe: Pipeline, tiny_v_folder: Path, lora: Path, tmp_path: Path
) -> None:
    before, plain = bits(pipe), pipe(PROMPT, seed=3)
    merged = merged_by_hand(tiny_v_folder, tmp_path / "merged", lora, 0.8, 0.5)(PROMPT, seed=3)
    found = pipe(PROMPT, seed=3, loras=[(str(lora), 0.8, 0.5)])
    torch.testing.assert_close(found.latents, merged.latents, atol=1e-4, rtol=1e-4)
    assert not torch.allclose(found.latents, plain.latents, atol=1e-2)
    assert found.notes == ("LoRA style: matched 4 of 4 keys",)
    after = bits(pipe)
    assert all(torch.equal(after[name], tensor) for name, tensor in before.items())
    assert torch.equal(pipe(PROMPT, seed=3).latents, plain.latents)


def test_a_name_a_tag_and_a_request_are_the_same(pipe: Pipeline, lora: Path) -> None:
    by_path = pipe(PROMPT, seed=3, loras=[Lora(name=str(lora), unet=0.5, text=0.5)]).latents
    assert torch.equal(pipe(PROMPT, seed=3, loras=["style:0.5"]).latents, by_path)
    assert torch.equal(pipe(f"{PROMPT}<lora:style:0.5>", seed=3).latents, by_path)
    split = pipe(f"{PROMPT}<lora:style:0.5:0.2>", seed=3).latents
    assert torch.equal(split, pipe(PROMPT, seed=3, loras=[("style", 0.2, 0.5)]).latents)
    assert not torch.equal(split, by_path)


def test_runs_may_take_turns(pipe: Pipeline, lora: Path, tmp_path: Path) -> None:
    other = write_lora(tmp_path / "loras" / "other.safetensors", seed=50)
    requests = [
        GenerationRequest(prompt=PROMPT, seed=3, steps=4, loras=names) for names in ((), (str(lora),), (str(other),))
    ]
    alone = [[step.x for step in pipe.steps(request)] for request in requests]
    turns = zip(*(pipe.steps(request) for request in requests), strict=True)
    together = [[step.x for step in steps] for steps in turns]
    for number, states in enumerate(alone):
        assert all(torch.equal(state, step[number]) for state, step in zip(states, together, strict=True))


def test_a_run_that_is_left_leaves_no_trace(pipe: Pipeline, lora: Path, tmp_path: Path) -> None:
    before = bits(pipe)
    for _ in pipe.steps(GenerationRequest(prompt=PROMPT, seed=3, loras=(str(lora),))):
        break
    pipe.save(tmp_path / "saved")
    after = bits(wordbrush.load(tmp_path / "saved", dtype="float32"))
    assert all(torch.equal(after[name], tensor) for name, tensor in before.items())


def test_a_large_network_has_its_weights_once(
    monkeypatch: pytest.MonkeyPatch, tiny_v_folder: Path, lora: Path, tmp_path: Path
) -> None:
    pipe = wordbrush.load(tiny_v_folder, dtype="float32")
    if not pipe.runtime.packs(pipe.parts.denoiser):
        pytest.skip("this build of torch cannot pack")
    before = bits(pipe)

    def taken() -> set[str]:
        return {name for name, weight in pipe.parts.denoiser.named_parameters() if weight.is_meta}

    pipe(PROMPT, seed=3)
    assert not taken()  # small
    monkeypatch.setattr(adapted, "LARGE", 0)
    pipe = wordbrush.load(tiny_v_folder, dtype="float32")
    assert not taken()
    first = pipe(PROMPT, seed=3)
    weights = dict(pipe.parts.denoiser.named_parameters())
    assert sum(weights[name].numel() for name in taken()) > 0.8 * sum(weight.numel() for weight in weights.values())
    pipe.save(tmp_path / "saved")  # gives them back
    assert not taken()
    saved = bits(wordbrush.load(tmp_path / "saved", dtype="float32"))
    assert all(torch.equal(saved[name], tensor) for name, tensor in before.items())
    assert torch.equal(pipe(PROMPT, seed=3).latents, first.latents)
    pipe(PROMPT, seed=3, loras=[str(lora)])
    assert not taken()
    assert torch.equal(pipe(PROMPT, seed=3).latents, first.latents)
    assert taken()


def test_prompts_with_different_loras_are_painted_in_turn(pipe: Pipeline, lora: Path) -> None:
    prompts = [PROMPT, f"{PROMPT}<lora:style:0.5>", "a red car<lora:style:0.5>", "a red car"]
    batch = pipe(prompts, seed=3)
    for index, prompt in enumerate(prompts):
        assert torch.equal(batch.latents[index], pipe(prompt, seed=3 + index).latents[0])
    with pytest.raises(RequestError, match="different LoRAs"):
        pipe.steps(batch.request)


def test_what_does_not_fit_is_refused_and_nothing_stays(pipe: Pipeline, lora: Path) -> None:
    before = bits(pipe)
    pairs = zip("AB", low_rank(80, 96, 0), strict=True)
    wrong = {f"unet.{UNET_LAYER}.lora_{side}.weight": tensor for side, tensor in pairs}
    save_file(wrong, lora.with_name("wrong.safetensors"))
    for name, words in (("wrong", "wrong"), ("nothing", "nothing")):
        with pytest.raises(ModelFileError, match=words):
            pipe(PROMPT, seed=3, loras=[name])
    after = bits(pipe)
    assert all(torch.equal(after[name], tensor) for name, tensor in before.items())


def test_the_metadata_names_the_loras_by_their_hashes(pipe: Pipeline, lora: Path) -> None:
    request = pipe.fill(GenerationRequest(prompt=f"{PROMPT}<lora:style:0.5>"))
    hashes = pipe.origin_of(request).lora_hashes
    assert hashes is not None
    name, _, digits = hashes.partition(": ")
    assert name == "style"
    assert len(digits) == 12
    assert pipe.origin.lora_hashes is None
