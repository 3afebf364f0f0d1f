"""The training loop: resuming is exact, files are whole, losses are what they should be."""

from __future__ import annotations

import math
import threading
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from safetensors.torch import load_file

from wordbrush.errors import ModelFileError, RequestError, WorkFailed
from wordbrush.training.loop import Trainer
from wordbrush.training.optimiser import OptimiserPair
from wordbrush.training.progress import Curve
from wordbrush.training.recipe import Optimiser, Recipe, read_recipe
from wordbrush.training.run import build_task, train
from wordbrush.training.schedule import learning_rate
from wordbrush.training.task import Batch, Task
from wordbrush.training.tasks.recipes import VAERecipe

ROWS = range(2)

NETWORK = {
    "latent_channels": 4, "block_out_channels": [16, 16], "layers_per_block": 1, "norm_num_groups": 1,
    "mid_block_add_attention": False, "use_quant_conv": False, "use_post_quant_conv": False,
}  # fmt: skip
RECIPE: dict[str, Any] = {
    "name": "tiny", "seed": 5, "steps": 6, "batch": 2, "checkpoint_every": 1000,
    "optimiser": {"warmup": 2, "kind": "muon"},
    "train": {"task": "vae", "crop": 32, "network": NETWORK, "half_scale_every": 3},
}  # fmt: skip


DENOISER = {"task": "denoiser", "network": {}, "scheduler": {}, "vae": "v", "tokenizer": "t", "clip": "c"}


@pytest.fixture
def recipe_file(tmp_path: Path) -> Path:
    path = tmp_path / "tiny.yaml"
    path.write_text(yaml.safe_dump(RECIPE))
    return path


def trainer(recipe_file: Path, folder: Path, **changes: Any) -> Trainer:
    recipe = read_recipe(recipe_file)
    assert isinstance(recipe, Recipe)
    recipe = recipe.model_copy(update=changes)
    return Trainer(recipe, build_task(recipe, folder), folder, log=lambda _: None)


@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
def test_a_run_that_was_stopped_ends_with_the_same_bits(recipe_file: Path, tmp_path: Path, precision: str) -> None:
    straight = trainer(recipe_file, tmp_path / "straight", precision=precision)
    list(straight.run())
    first = trainer(recipe_file, tmp_path / "broken", precision=precision)
    for step in range(3):
        first._train_step([first.task.batch(step, ROWS)])
    first.save()
    first._train_step([first.task.batch(3, ROWS)])  # work after the checkpoint, lost as by a kill
    second = trainer(recipe_file, tmp_path / "broken", precision=precision)
    assert second.step == 3
    list(second.run())
    for one, other in ((straight.task.modules, second.task.modules),):
        for key, value in one["vae"].state_dict().items():
            assert torch.equal(value, other["vae"].state_dict()[key]), key
    for key, value in straight.averaged["vae"].items():
        assert torch.equal(value, second.averaged["vae"][key]), key


def test_training_lowers_the_loss_and_writes_a_folder_diffusers_opens(recipe_file: Path, tmp_path: Path) -> None:
    values = RECIPE | {"steps": 50, "batch": 4, "ema": 0.5, "optimiser": {"learning_rate": 0.01, "warmup": 5}}
    recipe_file.write_text(yaml.safe_dump(values))
    lines: list[str] = []
    folder = train(recipe_file, tmp_path / "run", log=lines.append)
    first = trainer(recipe_file, tmp_path / "fresh")
    start = first.task.loss(first.task.batch(0, range(4)), 1)[0]
    assert float(lines[-1].split("loss ")[1].split()[0]) < 0.9 * start.item()
    from diffusers import AutoencoderKL

    vae = AutoencoderKL.from_pretrained(folder / "vae")
    images = first.task.batch(1, range(4))["images"]
    latents = vae.encode(images).latent_dist.mode()
    assert latents.shape == (4, 4, 16, 16)
    assert abs(latents.mean().item()) < 0.5
    assert 0.4 < latents.std().item() < 2.0
    decoded = vae.decode(latents).sample
    averaged = torch.load(folder / "checkpoint.pt", weights_only=True)["averaged"]["vae"]
    bare = build_task(read_recipe(recipe_file), tmp_path).modules["vae"]  # type: ignore[arg-type]
    bare.load_state_dict(averaged)
    own = bare.decode_raw(bare.encode_raw(images).mode())  # type: ignore[operator]
    assert torch.allclose(decoded, own, atol=2e-4)


def test_vae_loss_by_hand(recipe_file: Path, tmp_path: Path) -> None:
    """With a decoder that gives 0 and a posterior N(1, 1) the loss is known in closed form."""
    task = build_task(read_recipe(recipe_file), tmp_path)  # type: ignore[arg-type]
    network = task.modules["vae"]
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.zero_()
        network.encoder.conv_out.bias[:4] = 1.0  # type: ignore[union-attr,index,operator]
    images = torch.full((1, 3, 32, 32), 0.25)
    images[..., 16:] = 0.75
    loss, figures = task.loss({"images": images, "eps": torch.zeros(1, 4, 16, 16)}, 1)
    edge = 32 * 0.5 / (32 * 31)  # one step of 0.5 per row, over 31 differences
    assert figures["kl"].item() == pytest.approx(0.5)  # 0.5 * (1 + 1 - 1 - 0) nats per latent
    assert loss.item() == pytest.approx(0.5 + edge + 1e-3 * 0.5, rel=1e-5)


def test_rate_warms_up_holds_and_falls() -> None:
    optimiser = Optimiser(learning_rate=1.0, warmup=10, decay=0.5, final=0.1)
    rates = [learning_rate(step, 100, optimiser) for step in range(101)]
    assert rates[0] == pytest.approx(0.1)
    assert rates[9] == rates[30] == rates[50] == 1.0
    assert rates[75] == pytest.approx(0.1 + 0.9 * 0.5)
    assert rates[100] == pytest.approx(0.1)


def test_muon_steps_are_orthogonal_and_as_large_as_adamws() -> None:
    layer = torch.nn.Conv2d(8, 16, 3, bias=False).to(memory_format=torch.channels_last)
    before = layer.weight.detach().clone()
    pair = OptimiserPair({"net": layer}, Optimiser(kind="muon", learning_rate=0.01))
    layer.weight.grad = torch.randn(layer.weight.shape, generator=torch.Generator().manual_seed(0)).to(
        memory_format=torch.channels_last
    )
    pair.step()
    change = (layer.weight.detach() - before).permute(0, 2, 3, 1).flatten(1)  # (16, 72)
    singular = torch.linalg.svdvals(change)
    assert singular.max() / singular.min() < 2.5  # Newton-Schulz brings them near one value
    assert change.square().mean().sqrt().item() == pytest.approx(0.2 * 0.01, rel=0.3)  # AdamW's usual size
    assert layer.weight.grad is None


def test_not_a_number_stops_with_the_step_named(recipe_file: Path, tmp_path: Path) -> None:
    run = trainer(recipe_file, tmp_path / "run")
    run.save()
    kept = (tmp_path / "run/checkpoint.pt").read_bytes()
    run._train_step([run.task.batch(0, ROWS) | {"images": torch.full((2, 3, 32, 32), math.nan)}])
    with pytest.raises(WorkFailed, match="step 0"):  # seen before anything is saved
        run.save()
    run = trainer(recipe_file, tmp_path / "run")
    run._train_step([run.task.batch(0, ROWS) | {"images": torch.full((2, 3, 32, 32), math.nan)}])
    with pytest.raises(WorkFailed, match="step 0"):  # or by the next step
        run._train_step([run.task.batch(1, ROWS)])
    assert (tmp_path / "run/checkpoint.pt").read_bytes() == kept


def test_full_disk_keeps_the_old_checkpoint(recipe_file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run = trainer(recipe_file, tmp_path / "run")
    run.save()
    kept = (tmp_path / "run/checkpoint.pt").read_bytes()

    def full(state: object, path: Path) -> None:
        path.write_bytes(b"half")
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(torch, "save", full)
    with pytest.raises(WorkFailed, match="No space left"):
        run.save()
    assert [path.name for path in (tmp_path / "run").iterdir()] == ["checkpoint.pt"]
    assert (tmp_path / "run/checkpoint.pt").read_bytes() == kept


def test_what_changed_in_a_recipe_is_named_and_what_is_new_has_its_default(recipe_file: Path, tmp_path: Path) -> None:
    run = trainer(recipe_file, tmp_path / "run")
    run.save()
    state = torch.load(run.checkpoint, weights_only=True)
    del state["recipe"]["train"]["latent_noise"]  # as by a version that did not have it
    torch.save(state, run.checkpoint)
    assert trainer(recipe_file, tmp_path / "run").step == 0
    recipe_file.write_text(yaml.safe_dump(RECIPE | {"train": RECIPE["train"] | {"kl": 0.5}}))
    with pytest.raises(RequestError, match=r"another seed and train\.kl;"):
        trainer(recipe_file, tmp_path / "run", seed=6)


class Slow(Task):
    """A task whose data for the third step does not come until it is closed."""

    def __init__(self) -> None:
        super().__init__()
        self.modules = {"net": torch.nn.Linear(1, 1)}
        self.asked: list[int] = []
        self.free = threading.Event()

    def batch(self, step: int, rows: range) -> Batch:
        self.asked.append(step)
        if step == 2:
            self.free.wait(60)
        return {"x": torch.ones(len(rows), 1)}

    def loss(self, batch: Batch, step: int) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
        return self.modules["net"](batch["x"]).square().mean(), {}

    def export(self, folder: Path, averaged: dict[str, dict[str, torch.Tensor]]) -> None:
        """Nothing is written."""

    def close(self) -> None:
        self.free.set()


def test_asked_to_stop_it_saves_without_waiting_for_data(recipe_file: Path, tmp_path: Path) -> None:
    recipe = read_recipe(recipe_file)
    assert isinstance(recipe, Recipe)
    task, stop = Slow(), threading.Event()
    run = Trainer(recipe.model_copy(update={"precision": "float32"}), task, tmp_path, log=lambda _: None)
    threading.Timer(0.5, stop.set).start()
    list(run.run(stop=stop))
    assert not task.free.is_set()
    task.close()
    assert torch.load(run.checkpoint, weights_only=True)["step"] == 2
    again = Trainer(recipe.model_copy(update={"precision": "float32"}), task, tmp_path, log=lambda _: None)
    task.asked.clear()
    list(again.run())
    assert task.asked == [2, 3, 4, 5]  # six steps in all: nothing is made for a seventh


def test_damaged_checkpoint_is_named(recipe_file: Path, tmp_path: Path) -> None:
    (tmp_path / "run").mkdir()
    (tmp_path / "run/checkpoint.pt").write_bytes(b"not a checkpoint")
    with pytest.raises(ModelFileError, match=r"checkpoint\.pt is damaged"):
        trainer(recipe_file, tmp_path / "run")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"steps": 0}, "steps"),
        ({"stepz": 3}, "stepz"),
        ({"train": {"task": "painting"}}, "train"),
        ({"train": {"task": "vae", "network": NETWORK, "klx": 1}}, "klx"),
        ({"train": DENOISER | {"kinds": {"two": 0.7, "single": 0.5}}}, r"kinds.*add up to 1\.2"),
        ({"train": DENOISER | {"kinds": {"two": -0.1}}}, "kinds.two"),
        ({"train": DENOISER | {"window": 1}}, "window=1 is less than batch=2"),
    ],
)
def test_wrong_recipes_name_the_key(recipe_file: Path, change: dict[str, Any], message: str) -> None:
    recipe_file.write_text(yaml.safe_dump(RECIPE | change))
    with pytest.raises(RequestError, match=message):
        read_recipe(recipe_file)


def test_every_shipped_recipe_is_valid() -> None:
    recipes = sorted((Path(__file__).parents[2] / "recipes").glob("*.yaml"))
    assert len(recipes) >= 5
    names = {read_recipe(path).name for path in recipes}
    assert {"vae", "clip", "denoiser"} <= names


def test_exported_weights_are_the_running_average(recipe_file: Path, tmp_path: Path) -> None:
    folder = train(recipe_file, tmp_path / "run", log=lambda _: None)
    averaged = torch.load(folder / "checkpoint.pt", weights_only=True)["averaged"]["vae"]
    written = load_file(folder / "vae/diffusion_pytorch_model.safetensors")
    assert all(torch.equal(written[key], value) for key, value in averaged.items())
    assert isinstance(read_recipe(recipe_file).train, VAERecipe)  # type: ignore[union-attr]


def test_curve_of_a_resumed_run_has_each_step_once(tmp_path: Path) -> None:
    curve = Curve(tmp_path / "curve.csv", upto=0)
    for step in (50, 100, 150):
        curve.add({"step": step, "loss": step / 100})
    again = Curve(tmp_path / "curve.csv", upto=100)
    again.add({"step": 150, "loss": 9.0})
    assert (tmp_path / "curve.csv").read_text() == "step,loss\n50,0.5\n100,1.0\n150,9.0\n"
