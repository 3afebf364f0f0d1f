"""CLIP, denoiser, tokenizer and assembly: losses by hand, data as a function of the step, folders that others open."""

from __future__ import annotations

import json
import math
import os
import re
import shutil
import signal
from concurrent.futures import CancelledError, ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from safetensors import SafetensorError
from safetensors.torch import load_file

import wordbrush
from wordbrush.conditioning.tokenizer import ClipTokenizer
from wordbrush.errors import ModelFileError, RequestError, WorkFailed
from wordbrush.training.check import check
from wordbrush.training.objectives import draw_times
from wordbrush.training.recipe import Recipe, read_recipe
from wordbrush.training.run import build_task, train
from wordbrush.training.tasks.clip import CLIPTask
from wordbrush.training.tasks.denoiser import DenoiserTask
from wordbrush.training.tasks.latents import LatentBank, training_scene
from wordbrush.training.tokenizer import learn_tokenizer

ROWS = range(4)

TEXT = {"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2}
VAE = {
    "latent_channels": 4, "block_out_channels": [16, 16, 16, 16], "layers_per_block": 1, "norm_num_groups": 1,
    "mid_block_add_attention": False, "use_quant_conv": False, "use_post_quant_conv": False,
}  # fmt: skip
UNET = {
    "in_channels": 4, "out_channels": 4, "sample_size": 16, "block_out_channels": [16, 16], "layers_per_block": 1,
    "down_block_types": ["DownBlock2D", "CrossAttnDownBlock2D"], "up_block_types": ["CrossAttnUpBlock2D", "UpBlock2D"],
    "attention_head_dim": 2, "cross_attention_dim": 16, "norm_num_groups": 1, "use_linear_projection": True,
}  # fmt: skip
SCHEDULER = {
    "_class_name": "DPMSolverMultistepScheduler", "num_train_timesteps": 1000, "beta_schedule": "squaredcos_cap_v2",
    "beta_start": 0.00085, "beta_end": 0.012, "prediction_type": "v_prediction", "rescale_betas_zero_snr": True,
    "timestep_spacing": "trailing", "algorithm_type": "dpmsolver++", "solver_order": 2,
}  # fmt: skip


def quiet(_: str) -> None:
    """Swallows the log."""


@pytest.fixture(scope="session")
def workshop(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder where every part of a tiny model has been trained for two steps by the package's own commands."""
    root = tmp_path_factory.mktemp("workshop")
    common: dict[str, Any] = {"seed": 1, "steps": 2, "batch": 4, "precision": "float32", "optimiser": {"warmup": 1}}
    tokenizer, clip, vae = str(root / "tokenizer"), str(root / "clip/clip"), str(root / "vae/vae")
    recipes: dict[str, dict[str, Any]] = {
        "tokenizer": {"build": {"task": "tokenizer", "captions": 1500, "size": 1800, "max_length": 24}},
        "vae": common | {"train": {"task": "vae", "crop": 32, "network": VAE}},
        "clip": common | {
            "train": {"task": "clip", "tokenizer": tokenizer, "projection": 8, "text": TEXT,
                      "vision": TEXT | {"image_size": 128, "patch_size": 32}}
        },
        "denoiser": common | {"steps": 5} | {
            "train": {"task": "denoiser", "tokenizer": tokenizer, "clip": clip, "vae": vae, "network": UNET,
                      "scheduler": SCHEDULER, "window": 12, "passes": 2}
        },
        "model": {
            "build": {"task": "assemble", "denoiser": str(root / "denoiser"), "vae": vae, "clip": clip,
                      "tokenizer": tokenizer, "defaults": {"steps": 3, "guidance": 2.0}}
        },
    }  # fmt: skip
    for name, recipe in recipes.items():
        path = root / f"{name}.yaml"
        path.write_text(yaml.safe_dump({"name": name, **recipe}))
        train(path, root / name, log=quiet)
    return root


def task_of(workshop: Path, name: str) -> Any:
    recipe = read_recipe(workshop / f"{name}.yaml")
    assert isinstance(recipe, Recipe)
    return build_task(recipe, workshop / name)


def test_tokenizer_is_the_one_transformers_reads(workshop: Path) -> None:
    from transformers import CLIPTokenizer

    own = ClipTokenizer.from_folder(workshop / "tokenizer")
    other = CLIPTokenizer.from_pretrained(workshop / "tokenizer")
    for text in ("a dog to the left of two slices of pizza", "Pixel art of a T-Rex!", "漢字 🐶 zeppelin", ""):
        assert other(text, padding="max_length", truncation=True).input_ids == own.encode(text)
    assert len(own.pieces("a dog on a blue background")) == 6  # common words are one piece each
    words = json.loads((workshop / "tokenizer/words.json").read_text())
    assert "background" in words
    assert "zeppelin" not in words


def test_tokenizer_is_the_same_each_time() -> None:
    """Of pairs that are equally frequent, the one whose letters come first is merged first."""
    tokenizer = learn_tokenizer([f"a{letter}" for letter in "utsrqpon" for _ in range(3)], size=520, max_length=8)
    assert tokenizer.merges == [("a", f"{letter}</w>") for letter in "nopqrs"]
    assert len(tokenizer.vocab) == 520


def test_clip_loss_by_hand(workshop: Path) -> None:
    task = task_of(workshop, "clip")
    assert isinstance(task, CLIPTask)
    task.network.text_features = lambda ids: torch.eye(2)[ids]  # type: ignore[method-assign]
    task.network.image_features = lambda images: 3 * torch.eye(2)  # type: ignore[method-assign]
    with torch.no_grad():
        task.network.logit_scale.fill_(math.log(2.0))
    right, figures = task.loss({"ids": torch.tensor([0, 1]), "images": torch.zeros(2)}, 0)
    swapped, _ = task.loss({"ids": torch.tensor([1, 0]), "images": torch.zeros(2)}, 0)
    assert right.item() == pytest.approx(math.log(1 + math.exp(-2)))  # logits 2 for the own caption, 0 for the other
    assert swapped.item() == pytest.approx(math.log(1 + math.exp(2)))
    assert figures["retrieval"] == 1.0


def test_denoiser_loss_by_hand(workshop: Path) -> None:
    """A network that answers 0 has the loss mean((alpha * eps - sigma * x0)^2)."""
    task = task_of(workshop, "denoiser")
    assert isinstance(task, DenoiserTask)
    with torch.no_grad():
        task.network.conv_out.weight.zero_()
        task.network.conv_out.bias.zero_()
    batch = task.batch(0, ROWS)
    loss, _ = task.loss(batch, 0)
    timesteps, eps = batch["timesteps"], batch["eps"]
    assert eps.std().item() == pytest.approx(1.0, abs=0.05)
    alpha_bar = task.draws.noising.alpha_bar
    assert alpha_bar is not None
    alpha = (alpha_bar[timesteps].sqrt()).float().view(-1, 1, 1, 1)
    sigma = (1 - alpha_bar[timesteps]).sqrt().float().view(-1, 1, 1, 1)
    assert loss.item() == pytest.approx(((alpha * eps - sigma * batch["latents"]) ** 2).mean().item(), rel=1e-5)


def test_denoiser_times_cover_the_range_and_reach_pure_noise(workshop: Path) -> None:
    task = task_of(workshop, "denoiser")
    times = [draw_times(task.train.objective.times, 64, torch.Generator().manual_seed(seed)) for seed in range(400)]
    drawn = torch.cat([task.draws.noising.at(part).timesteps for part in times])
    assert drawn.min() == 0
    assert drawn.max() == 999
    middle = ((drawn > 250) & (drawn < 750)).float().mean().item()
    # sigmoid(normal) is in (0.25, 0.75) with probability 2 * Phi(log 3) - 1 = 0.728; a fifth is uniform
    assert middle == pytest.approx(0.8 * 0.728 + 0.2 * 0.5, abs=0.01)


def test_denoiser_data_is_a_function_of_the_step(workshop: Path) -> None:
    one, other = task_of(workshop, "denoiser"), task_of(workshop, "denoiser")
    # 3 steps a pass, 6 a window: passes, and on to the second window
    batches = [one.batch(step, ROWS) for step in range(8)]
    for step in (7, 2, 5):
        again = other.batch(step, ROWS)
        assert all(torch.equal(batches[step][key], again[key]) for key in again)
    first_pass = torch.cat([batch["latents"] for batch in batches[:3]])
    second_pass = torch.cat([batch["latents"] for batch in batches[3:6]])
    assert not torch.equal(first_pass, second_pass)  # another order of ...
    keys = [sorted(row.flatten()[:3].tolist() for row in part) for part in (first_pass, second_pass)]
    assert keys[0] == keys[1]  # ... the same scenes


def test_worker_processes_draw_the_same_data(workshop: Path, tmp_path: Path) -> None:
    recipe = read_recipe(workshop / "denoiser.yaml")
    assert isinstance(recipe, Recipe)
    alone, helped = task_of(workshop, "denoiser"), build_task(recipe, tmp_path, workers=2)
    try:
        for step in (0, 5, 6):  # the last is in the second window
            one, other = alone.batch(step, ROWS), helped.batch(step, ROWS)
            assert all(torch.equal(one[key], other[key]) for key in one)
    finally:
        helped.close()


def test_parts_that_are_missing_are_named(workshop: Path, tmp_path: Path) -> None:
    recipe = yaml.safe_load((workshop / "denoiser.yaml").read_text())
    (tmp_path / "bare").mkdir()
    shutil.copyfile(workshop / "vae/vae/config.json", tmp_path / "bare/config.json")
    for part, folder, name in (("tokenizer", "none", "vocab.json"), ("vae", "bare", "safetensors")):
        values = recipe | {"train": recipe["train"] | {part: str(tmp_path / folder)}}
        path = tmp_path / "lacks.yaml"
        path.write_text(yaml.safe_dump(values))
        with pytest.raises(RequestError, match=rf"{folder}/.*{name} does not exist; run the recipe"):
            train(path, tmp_path / "run", log=quiet)


def helped_bank(workshop: Path, folder: Path, **changes: Any) -> LatentBank:
    recipe = read_recipe(workshop / "denoiser.yaml")
    assert isinstance(recipe, Recipe)
    task = build_task(recipe.model_copy(update=changes), folder, workers=2)
    assert isinstance(task, DenoiserTask)
    return task.bank


def test_a_worker_that_dies_is_said_and_ctrl_c_is_not_for_them(workshop: Path, tmp_path: Path) -> None:
    bank = helped_bank(workshop, tmp_path, steps=18)  # three windows
    try:
        bank.rows(0, ROWS)
        assert bank.next is not None
        bank.next[1].result()
        assert bank.pool is not None
        workers = list(bank.pool._processes.values())
        for worker in workers:
            os.kill(worker.pid or 0, signal.SIGINT)  # as a terminal sends it to all of them
        bank.rows(6, ROWS)
        assert bank.next is not None
        bank.next[1].result()
        for worker in workers:
            worker.kill()
        (tmp_path / f"latents-{bank.key}-1.safetensors").write_bytes(b"half")  # which is made again
        bank.number, bank.next = -1, None
        with pytest.raises(WorkFailed, match="has died"):
            bank.rows(6, ROWS)
    finally:
        bank.close()


def test_no_window_is_made_that_no_step_needs_and_closing_gives_one_up(workshop: Path, tmp_path: Path) -> None:
    bank = helped_bank(workshop, tmp_path, steps=6)
    try:
        bank.rows(5, ROWS)
        assert bank.next is None
    finally:
        bank.close()
    bank = helped_bank(workshop, tmp_path / "other")
    bank.closing.set()
    with pytest.raises(CancelledError):
        bank._window(0)
    bank.close()


def test_a_window_that_cannot_be_written_is_said(
    workshop: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(tensors: object, path: Path) -> None:
        path.write_bytes(b"half")
        raise SafetensorError("No space left on device (os error 28)")

    monkeypatch.setattr("wordbrush.training.tasks.latents.save_file", full)
    bank = task_of(workshop, "denoiser").bank
    bank.folder = tmp_path
    with pytest.raises(WorkFailed, match="No space left"):
        bank.rows(0, ROWS)
    assert list(tmp_path.iterdir()) == []


def test_of_processes_that_train_together_one_makes_a_window(
    workshop: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Two banks in one folder, as two ranks have them; the lock is between open files, so threads will do."""
    monkeypatch.setattr(torch.distributed, "is_initialized", lambda: True)
    made: list[int] = []
    original = LatentBank._made

    def counted(bank: LatentBank, number: int, path: Path) -> dict[str, torch.Tensor]:
        made.append(number)
        return original(bank, number, path)

    monkeypatch.setattr(LatentBank, "_made", counted)
    banks = [task_of(workshop, "denoiser").bank for _ in range(2)]
    for bank in banks:
        bank.folder = tmp_path
    with ThreadPoolExecutor(2) as threads:
        one, other = threads.map(lambda bank: bank.rows(0, ROWS), banks)
    assert made == [0]
    assert all(torch.equal(a, b) for a, b in zip(one, other, strict=True))
    for bank in banks:
        bank.close()


def test_kinds_take_their_share_of_the_scenes(workshop: Path) -> None:
    train_part = task_of(workshop, "denoiser").train
    shaped = train_part.model_copy(update={"kinds": {"position": 0.4, "counting": 0.2}})
    drawn = [training_scene(1, shaped, index).kind for index in range(600)]
    usual = [training_scene(1, train_part, index).kind for index in range(600)]
    assert drawn.count("position") / 600 == pytest.approx(0.4 + 0.4 * usual.count("position") / 600, abs=0.06)
    assert drawn.count("counting") / 600 == pytest.approx(0.2 + 0.4 * usual.count("counting") / 600, abs=0.06)


def test_text_encoder_starts_as_clips_and_trains_along(workshop: Path) -> None:
    start = load_file(workshop / "clip/clip/model.safetensors")
    after = load_file(workshop / "denoiser/text_encoder/model.safetensors")
    fresh = task_of(workshop, "denoiser").text.state_dict()
    assert all(torch.equal(fresh[key], start[key]) for key in fresh)
    assert any(not torch.equal(after[key], start[key]) for key in after)


def test_assembled_folder_paints_here_and_in_diffusers(workshop: Path) -> None:
    from diffusers import StableDiffusionPipeline

    pipe = wordbrush.load(workshop / "model", dtype="float32")
    result = pipe("a dog", seed=1)
    assert (result.request.steps, result.request.guidance) == (3, 2.0)
    assert result.images[0].size == (128, 128)
    other = StableDiffusionPipeline.from_pretrained(workshop / "model", torch_dtype=torch.float32)
    noise = torch.randn(1, 4, 16, 16, generator=torch.Generator().manual_seed(1))
    own = pipe("a dog", latents=noise).latents
    theirs = other(
        "a dog", latents=noise, num_inference_steps=3, guidance_scale=2.0, output_type="latent", return_dict=False
    )[0]
    assert torch.allclose(own, theirs, atol=1e-3, rtol=1e-3)


def test_assembly_names_a_part_that_is_missing(workshop: Path, tmp_path: Path) -> None:
    values = yaml.safe_load((workshop / "model.yaml").read_text())
    values["build"]["vae"] = str(tmp_path / "nowhere")
    path = tmp_path / "model.yaml"
    path.write_text(yaml.safe_dump(values))
    with pytest.raises(RequestError, match=r"build\.vae: there is no folder .*nowhere; run the recipe that makes it"):
        train(path, tmp_path / "model", log=quiet)
    assert not (tmp_path / "model").exists()


def test_assembly_checks_defaults_before_it_writes(workshop: Path, tmp_path: Path) -> None:
    values = yaml.safe_load((workshop / "model.yaml").read_text())
    path = tmp_path / "model.yaml"
    for defaults, words in (
        ({"stepz": 3}, "unknown option 'stepz' (did you mean steps?)"),
        ({"sampler": "banana"}, "banana"),
        ({"steps": -4}, "steps"),
    ):
        path.write_text(yaml.safe_dump(values | {"build": values["build"] | {"defaults": defaults}}))
        with pytest.raises(RequestError, match=rf"build\.defaults: .*{re.escape(words)}"):
            train(path, tmp_path / "model", log=quiet)
        (problem,) = check(path).problems
        assert problem.startswith("build.defaults: ")
        assert words in problem
    assert not (tmp_path / "model").exists()


def test_decoder_training_leaves_the_latents_alone(workshop: Path, tmp_path: Path) -> None:
    config = json.loads((workshop / "vae/vae/config.json").read_text())
    recipe = yaml.safe_load((workshop / "vae.yaml").read_text())
    recipe["train"] |= {"decoder_of": str(workshop / "vae/vae"), "latent_noise": 0.2, "network": config, "kl": 0.0}
    path = tmp_path / "decoder.yaml"
    path.write_text(yaml.safe_dump(recipe))
    train(path, tmp_path / "decoder", log=quiet)
    before = load_file(workshop / "vae/vae/diffusion_pytorch_model.safetensors")
    after = load_file(tmp_path / "decoder/vae/diffusion_pytorch_model.safetensors")
    changed = {key.split(".")[0] for key in before if not torch.equal(before[key], after[key])}
    assert "decoder" in changed
    assert not changed & {"encoder", "quant_conv"}


def test_denoiser_can_go_on_from_a_finished_model(workshop: Path, tmp_path: Path) -> None:
    recipe = yaml.safe_load((workshop / "denoiser.yaml").read_text())
    recipe["train"]["start"] = str(workshop / "model")
    path = tmp_path / "more.yaml"
    path.write_text(yaml.safe_dump(recipe))
    recipe_read = read_recipe(path)
    assert isinstance(recipe_read, Recipe)
    task = build_task(recipe_read, tmp_path)
    shipped = load_file(workshop / "model/unet/diffusion_pytorch_model.safetensors")
    own = task.modules["unet"].state_dict()
    assert all(torch.equal(own[key], shipped[key].float()) for key in shipped)
    recipe["train"]["start"] = str(tmp_path)
    path.write_text(yaml.safe_dump(recipe))
    with pytest.raises(ModelFileError, match="cannot start from"):
        build_task(read_recipe(path), tmp_path)  # type: ignore[arg-type]
