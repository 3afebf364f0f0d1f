"""Fine-tuning on several processes: weights that are shared out, and what only the main one does."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import pytest
import torch
from tests.training.forked import ended, forked
from tests.training.test_finetune import SIDE, pictures, recipe_of, task_of  # noqa: F401  a fixture

import wordbrush
from wordbrush.errors import RequestError
from wordbrush.training.distributed import Trained, by_the_main_one
from wordbrush.training.sharding import shard, whole
from wordbrush.training.task import Stopped


@pytest.fixture
def group() -> Iterator[None]:
    """A process group of this process alone, whose weights are sharded as those of many are."""
    torch.distributed.init_process_group("gloo", store=torch.distributed.HashStore(), rank=0, world_size=1)
    yield
    torch.distributed.destroy_process_group()


@pytest.mark.usefixtures("group")
def test_a_model_whose_weights_are_shared_out_learns_the_same_and_is_written_whole(
    tiny_v_folder: Path,
    pictures: Path,  # noqa: F811
    tmp_path: Path,
) -> None:
    recipe = recipe_of(tiny_v_folder, pictures, task="full", text_encoder=True)
    expected = task_of(recipe, tmp_path / "alone")
    task = task_of(recipe, tmp_path / "sharded")
    model = Trained(task.modules)
    shard(model, torch.device("cpu"), 1)
    batch = task.batch(0, range(2))
    loss, _ = model(partial(task.loss, batch, 0))
    loss.backward()
    torch.testing.assert_close(loss, expected.loss(batch, 0)[0])
    averaged = {name: whole(module.state_dict()) for name, module in task.modules.items()}
    task.export(tmp_path / "sharded", averaged)
    pipes = [wordbrush.load(folder, dtype="float32") for folder in (tiny_v_folder, tmp_path / "sharded" / "model")]
    first, second = (pipe("a fox", seed=1, steps=2, width=SIDE, height=SIDE).latents for pipe in pipes)
    torch.testing.assert_close(first, second, rtol=0.05, atol=0.05)  # stored in half precision


def _share_work(rank: int, folder: Path, error: Exception | None) -> None:
    store = torch.distributed.FileStore(str(folder / "store"), 2)
    torch.distributed.init_process_group("gloo", store=store, rank=rank, world_size=2)

    def work() -> None:
        (folder / f"by-{rank}").touch()
        if error is not None:
            raise error

    try:
        by_the_main_one(work)
    except (RequestError, Stopped) as found:
        (folder / f"failed-{rank}").write_text(f"{type(found).__name__}: {found}")
    assert (folder / "by-0").exists()  # for whoever waited, too


@pytest.mark.skipif(sys.platform == "win32", reason="forks")
@pytest.mark.parametrize("error", [None, RequestError("no"), Stopped("now")])
def test_the_main_process_works_and_the_others_wait_and_fail_as_it_does(
    tmp_path: Path, error: Exception | None
) -> None:
    codes = [ended(child) for child in [forked(partial(_share_work, rank, tmp_path, error)) for rank in range(2)]]
    assert codes == [0, 0]
    assert [path.name for path in sorted(tmp_path.glob("by-*"))] == ["by-0"]
    failed = [path.read_text() for path in sorted(tmp_path.glob("failed-*"))]
    assert failed == ([] if error is None else 2 * [f"{type(error).__name__}: {error}"])
