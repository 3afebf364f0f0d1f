"""What a recipe asks of the loop besides: micro-batches, recomputed blocks, rates, dropout, workers, figures."""

from __future__ import annotations

import csv
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image
from pydantic import ValidationError
from tests.training.support import Network, Numbers, recipe
from torch import nn

from wordbrush.data.dataset import BadExample
from wordbrush.errors import RequestError, WorkFailed
from wordbrush.training.distributed import World
from wordbrush.training.loading import Loader
from wordbrush.training.loop import Trainer
from wordbrush.training.optimiser import OptimiserPair
from wordbrush.training.progress import Journal
from wordbrush.training.recipe import Optimiser, Recipe
from wordbrush.training.recompute import blocks, recompute_blocks
from wordbrush.training.schedule import learning_rate


def trainer(folder: Path, of: Recipe, **options: Any) -> Trainer:
    return Trainer(of, Numbers(of, **options), folder, log=lambda _: None)


def weights(run: Trainer) -> dict[str, torch.Tensor]:
    return {f"{n}.{k}": v for n, module in run.task.modules.items() for k, v in module.state_dict().items()}


def test_micro_batches_add_up_to_the_whole_batch(tmp_path: Path) -> None:
    whole = trainer(tmp_path / "one", recipe())
    parts = trainer(tmp_path / "four", recipe(accumulate=4))
    assert parts.parts == [range(2), range(2, 4), range(4, 6), range(6, 8)]
    losses = [[report.figures for report in run.run()] for run in (whole, parts)]
    for one, other in zip(*losses, strict=True):
        for key in ("loss", "norm", "error"):
            assert one[key] == pytest.approx(other[key], rel=1e-4)
    for key, value in weights(whole).items():
        assert torch.allclose(value, weights(parts)[key], atol=1e-5), key


def test_a_batch_that_cannot_be_shared_out_names_those_that_can(tmp_path: Path) -> None:
    with pytest.raises(RequestError, match=r"batch=8 .* 1 processes with 3 micro-batches .*: 6 and 9"):
        trainer(tmp_path, recipe(accumulate=3))
    with pytest.raises(RequestError, match=r"nearest that can: 9$"):
        trainer(tmp_path, recipe(accumulate=9))


def test_blocks_computed_again_give_the_same_gradients() -> None:
    def gradients(again: bool) -> list[torch.Tensor]:
        torch.default_generator.manual_seed(3)
        network = Network(8, dropout=0.3)
        keys = network.state_dict().keys()
        if again:
            assert recompute_blocks({"net": network}) == 2
        assert network.state_dict().keys() == keys
        torch.default_generator.manual_seed(4)
        network(torch.ones(5, 8)).square().mean().backward()
        return [p.grad for p in network.parameters() if p.grad is not None]

    plain, again = gradients(False), gradients(True)
    assert len(plain) == len(again) == 14
    assert all(torch.equal(one, other) for one, other in zip(plain, again, strict=True))


def test_blocks_of_our_networks_are_found() -> None:
    from wordbrush.networks.unet import UNet, UNetConfig

    unet = UNet(
        UNetConfig.from_dict({
            "block_out_channels": [32, 32], "layers_per_block": 1, "cross_attention_dim": 8, "attention_head_dim": 4,
            "down_block_types": ["DownBlock2D", "CrossAttnDownBlock2D"],
            "up_block_types": ["CrossAttnUpBlock2D", "UpBlock2D"],
        })
    )  # fmt: skip
    kinds = [type(block).__name__ for block in blocks(unet)]
    assert kinds.count("ResnetBlock") == 1 + 1 + 2 + 2 + 2  # down, middle, up
    assert kinds.count("TransformerLayer") == 1 + 1 + 2
    assert len(kinds) == 12
    x, t, context = torch.ones(1, 4, 8, 8), torch.tensor([5]), torch.ones(1, 3, 8)
    unet(x, t, context).square().mean().backward()
    plain = {key: p.grad.clone() for key, p in unet.named_parameters() if p.grad is not None}
    unet.zero_grad()
    recompute_blocks({"unet": unet})
    unet(x, t, context).square().mean().backward()
    assert all(torch.equal(p.grad, plain[key]) for key, p in unet.named_parameters() if p.grad is not None)


def test_networks_without_blocks_cannot_be_computed_again(tmp_path: Path) -> None:
    task = Numbers(recipe())
    task.modules = {"gain": task.gain}
    with pytest.raises(RequestError, match="no repeated blocks"):
        Trainer(recipe(gradient_checkpointing=True), task, tmp_path)


def test_a_module_has_its_own_rate() -> None:
    for kind in ("adamw", "muon"):
        layers = {name: nn.Linear(8, 8) for name in ("slow", "fast")}
        pair = OptimiserPair(layers, Optimiser(kind=kind), {"slow": 0.1})
        pair.set_rate(0.01)
        before = {name: layer.weight.detach().clone() for name, layer in layers.items()}
        for layer in layers.values():
            layer.weight.grad = torch.eye(8)
        pair.step()
        slow, fast = ((layer.weight - before[name]).norm().item() for name, layer in layers.items())
        assert fast == pytest.approx(10 * slow, rel=1e-3), kind
        again = OptimiserPair(layers, Optimiser(kind=kind), {"slow": 0.1})
        again.load_state_dict(pair.state_dict())
    with pytest.raises(RequestError, match="'slo'; the modules are slow, fast"):
        OptimiserPair(layers, Optimiser(), {"slo": 0.1})


def test_rates_fall_in_a_line_or_not_at_all() -> None:
    linear = Optimiser(learning_rate=1.0, warmup=10, decay=0.5, final=0.2, schedule="linear")
    assert [learning_rate(step, 100, linear) for step in (0, 9, 50, 75, 100)] == pytest.approx([0.1, 1, 1, 0.6, 0.2])
    constant = Optimiser(learning_rate=1.0, warmup=10, schedule="constant")
    assert [learning_rate(step, 100, constant) for step in (4, 10, 100)] == pytest.approx([0.5, 1, 1])
    with pytest.raises(ValidationError, match="a constant rate does not fall: leave out decay and final"):
        Optimiser(schedule="constant", decay=0.5, final=0.2)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"precision": "float16"}, "float16 trains on CUDA only, not on cpu"),
        ({"optimiser": {"kind": "adamw8bit"}}, "adamw8bit runs on CUDA"),
    ],
)
def test_what_a_cpu_cannot_do_is_said(tmp_path: Path, changes: dict[str, Any], message: str) -> None:
    if torch.cuda.is_available():
        pytest.skip("this machine can")
    with pytest.raises(RequestError, match=message):
        trainer(tmp_path, recipe(**changes))


def test_unknown_trackers_are_named() -> None:
    with pytest.raises(RequestError, match=r"no tracker 'tensorbord'; there are .*tensorboard"):
        World("cpu", trackers=["tensorbord"])
    with pytest.raises(RequestError, match="the tracker wandb is not installed"):
        World("cpu", trackers=["wandb"])


def test_a_run_with_dropout_validation_and_micro_batches_resumes_exactly(tmp_path: Path) -> None:
    of = recipe(accumulate=2, validate_every=3, ema_lengths=(0.1,), ema_snapshots=6)
    straight = trainer(tmp_path / "straight", of, dropout=0.4)
    list(straight.run())
    for _ in trainer(tmp_path / "broken", of, dropout=0.4).run():
        break  # at step 3, after none was saved but before 4 is
    broken = trainer(tmp_path / "broken", recipe(accumulate=2, ema_lengths=(0.1,), ema_snapshots=6), dropout=0.4)
    for report in broken.run():
        if report.step == 8:
            break
    again = trainer(tmp_path / "broken", of, dropout=0.4)
    assert again.step == 8
    torch.default_generator.manual_seed(99)
    state = torch.default_generator.get_state()
    list(again.run())
    assert torch.equal(torch.default_generator.get_state(), state)  # as it was before the run
    for key, value in weights(straight).items():
        assert torch.equal(value, weights(again)[key]), key
    for one, other in zip(straight.snapshots.steps().values(), again.snapshots.steps().values(), strict=True):
        kept = [torch.load(path, weights_only=True)[0.1]["net"]["last.weight"] for path in (one, other)]
        assert torch.equal(*kept)
    assert list(again.snapshots.steps()) == [2, 4, 6, 8, 10, 12]
    dry = trainer(tmp_path / "dry", of, dropout=0.0)
    list(dry.run())
    assert not torch.equal(weights(dry)["net.last.weight"], weights(straight)["net.last.weight"])


def test_figures_curves_sheets_and_tensorboard(tmp_path: Path) -> None:
    of = recipe(validate_every=6, sample_every=12, trackers=["tensorboard"])
    world = World("cpu", trackers=of.trackers, logs=tmp_path / "logs")
    task, lines = Numbers(of), []
    run = Trainer(of, task, tmp_path, world=world, log=lines.append)
    with Journal(of, tmp_path, world, first=0, log=lines.append) as journal:
        run.on_step = journal.step
        for report in run.run():
            journal.take(report, run.seconds)
    world.close()
    assert task.validated == 2
    assert [line.split("  ")[0] for line in lines] == [
        "tiny: step 4/12", "tiny: step 6, held-out", "tiny: step 8/12", "tiny: step 12/12", "tiny: step 12, held-out",
        f"tiny: step 12, samples in {tmp_path / 'samples/step-000012.png'}",
    ]  # fmt: skip
    assert "waiting for data" in lines[0]
    assert "pictures/s" in lines[0]
    with (tmp_path / "curve.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert [row["step"] for row in rows] == ["4", "8", "12"]
    assert all(0 <= float(row["wait"]) <= 1 and float(row["loss"]) > 0 for row in rows)
    assert (tmp_path / "validation.csv").read_text().startswith("step,easy,hard\n6,")
    with Image.open(tmp_path / "samples/step-000012.png") as sheet:
        assert sheet.width > sheet.height > 128  # two pictures side by side, each with its caption
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    events = EventAccumulator(str(tmp_path / "logs/tiny"))
    events.Reload()
    assert [point.step for point in events.Scalars("train/loss")] == [4, 8, 12]
    assert [point.step for point in events.Scalars("validation/easy")] == [6, 12]
    assert [picture.step for picture in events.Images("samples")] == [12]


def test_workers_make_the_same_data_and_their_death_is_said(tmp_path: Path) -> None:
    of = recipe()
    parts = [range(4), range(4, 8)]
    loaders = [Loader(Numbers(of), range(3, 6), parts, workers=count) for count in (0, 1)]
    for _ in range(3):
        one, other = (loader.next() for loader in loaders)
        assert one is not None
        assert other is not None
        assert all(torch.equal(a["x"], b["x"]) for a, b in zip(one, other, strict=True))
    for loader in loaders:
        assert loader.next() is None
        loader.close(wait=True)
    dying = Loader(Numbers(of, fails_at=1), range(6), parts, workers=1)
    with pytest.raises(WorkFailed, match="a process that makes training data has died"):
        [dying.next() for _ in range(6)]
    dying.close(wait=True)


@pytest.mark.parametrize("workers", [0, 1])
def test_data_that_cannot_be_used_is_named_and_the_steps_before_it_are_kept(tmp_path: Path, workers: int) -> None:
    of = recipe()
    run = Trainer(of, Numbers(of, bad_at=6), tmp_path, workers=workers, log=lambda _: None)
    with pytest.raises(BadExample, match=r"the picture 7\.png cannot be read") as caught:
        list(run.run())
    assert caught.value.key == "7.png"
    assert torch.load(run.checkpoint, weights_only=True)["step"] == 6  # though the last was due at 4


def test_weights_spoilt_by_the_last_step_are_not_saved(tmp_path: Path) -> None:
    list(trainer(tmp_path, recipe(steps=4)).run())
    before = (tmp_path / "checkpoint.pt").read_bytes()
    wild = Optimiser(kind="adamw", learning_rate=1e30, warmup=0)
    with pytest.raises(WorkFailed, match=r"weights' norm became inf at step 4; the last checkpoint is kept: lower"):
        list(trainer(tmp_path, recipe(steps=5, optimiser=wild)).run())
    assert (tmp_path / "checkpoint.pt").read_bytes() == before


def test_averages_of_a_run_whose_checkpoint_was_deleted_are_forgotten(tmp_path: Path) -> None:
    list(trainer(tmp_path, recipe(ema_lengths=(0.05, 0.1), ema_snapshots=6)).run())
    (tmp_path / "checkpoint.pt").unlink()
    run = trainer(tmp_path, recipe(ema_lengths=(0.05, 0.1), ema_snapshots=2, steps=6, seed=6))
    list(run.run())
    assert list(run.snapshots.steps()) == [3, 6]


@pytest.mark.slow
def test_compiled_networks_learn_the_same(tmp_path: Path) -> None:
    runs = [Trainer(recipe(), Numbers(recipe()), tmp_path / str(c), compiled=c, log=lambda _: None) for c in (0, 1)]
    for run in runs:
        list(run.run())
    for key, value in weights(runs[0]).items():
        torch.testing.assert_close(weights(runs[1])[key], value)


def test_what_compiling_lacks_is_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    torch.compiler.reset()  # or it would know these networks from another test
    monkeypatch.setenv("TORCHINDUCTOR_CACHE_DIR", str(tmp_path / "cache"))
    monkeypatch.setattr("torch._inductor.config.cpp.cxx", (None, "/nope"))
    run = Trainer(recipe(), Numbers(recipe()), tmp_path, compiled=True, log=lambda _: None)
    with pytest.raises(RequestError, match=r"torch\.compile cannot make .*install that, or train without --compile"):
        list(run.run())


def test_frozen_networks_stay_in_evaluation_mode_and_without_gradients(tmp_path: Path) -> None:
    task = Numbers(recipe())
    task.modules, task.frozen = {"gain": task.gain}, {"net": task.network}
    run = Trainer(recipe(), task, tmp_path, log=lambda _: None)
    before = {key: value.clone() for key, value in task.network.state_dict().items()}
    list(run.run())
    assert not task.network.training
    assert task.gain.training
    assert not any(parameter.requires_grad for parameter in task.network.parameters())
    assert all(torch.equal(value, before[key]) for key, value in task.network.state_dict().items())
    assert list(torch.load(run.checkpoint, weights_only=True)["modules"]) == ["gain"]
