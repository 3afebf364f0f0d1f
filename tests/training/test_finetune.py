"""Fine-tuning: what is trained and what is not, what is written, and what is refused in words."""

from __future__ import annotations

import shutil
import threading
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from PIL import Image
from safetensors import safe_open
from safetensors.torch import load_file

import wordbrush
from wordbrush.errors import RequestError
from wordbrush.formats.textual_inversion import read_embedding
from wordbrush.training.feed import Feed
from wordbrush.training.finetune.captions import CaptionReader, Placeholder
from wordbrush.training.finetune.export import notes_of
from wordbrush.training.finetune.plan import Asked, plan
from wordbrush.training.finetune.recipes import LoraRecipe
from wordbrush.training.finetune.task import FinetuneTask
from wordbrush.training.recipe import Recipe, read_recipe
from wordbrush.training.run import RunOptions, run_recipe
from wordbrush.training.task import Stopped

SIDE = 32
QUIET: dict[str, Any] = {"log": lambda _: None}


@pytest.fixture
def pictures(tmp_path: Path) -> Path:
    folder = tmp_path / "pictures"
    folder.mkdir()
    generator = np.random.default_rng(0)
    for index in range(3):
        Image.fromarray(generator.integers(0, 255, (SIDE, SIDE, 3), dtype=np.uint8)).save(folder / f"{index}.png")
    return folder


def recipe_of(model: Path, pictures: Path, /, *, data: dict[str, Any] | None = None, **train: Any) -> Recipe:
    table = {"kind": "folder", "path": str(pictures), "size": SIDE, "caption": "a fox", **(data or {})}
    return Recipe.model_validate({
        "name": "tiny", "seed": 3, "steps": 3, "batch": 2, "precision": "float32", "ema": 0, "trackers": [],
        "optimiser": {"warmup": 0, "learning_rate": 1e-2}, "train": {"model": str(model), "data": table, **train},
    })  # fmt: skip


def run(recipe: Recipe, folder: Path) -> Path:
    return run_recipe(recipe, folder, RunOptions(device="cpu"), **QUIET)


def task_of(recipe: Recipe, folder: Path) -> FinetuneTask:
    return FinetuneTask(recipe, recipe.train, folder)  # type: ignore[arg-type]


def test_a_lora_is_written_in_both_layouts_and_changes_the_picture(
    tiny_v_folder: Path, pictures: Path, tmp_path: Path
) -> None:
    folder = run(recipe_of(tiny_v_folder, pictures, task="lora", trigger="zorb", text_encoder=True), tmp_path / "run")
    pipe = wordbrush.load(tiny_v_folder, dtype="float32")
    options: dict[str, Any] = {"seed": 1, "steps": 2}
    plain = pipe("a fox", **options).latents
    both = [
        pipe("a fox", loras=[f"{folder / name}:1"], **options).latents
        for name in ("tiny.safetensors", "pytorch_lora_weights.safetensors")
    ]
    torch.testing.assert_close(*both)
    assert (both[0] - plain).abs().max() > 1e-3
    with safe_open(folder / "tiny.safetensors", "pt") as file:
        metadata = file.metadata()
    assert metadata["modelspec.trigger_phrase"] == "zorb"
    assert metadata["ss_max_train_steps"] == "3"
    layer = "lora_te_text_model_encoder_layers_0_self_attn_q_proj"
    assert f"{layer}.lora_up.weight" in load_file(folder / "tiny.safetensors")
    assert "zorb" in (folder / "README.md").read_text()


def test_only_the_adapters_are_trained(tiny_v_folder: Path, pictures: Path, tmp_path: Path) -> None:
    task = task_of(recipe_of(tiny_v_folder, pictures, task="lora"), tmp_path / "run")
    before = {name: value.clone() for name, value in task.parts.denoiser.state_dict().items()}
    assert set(task.modules) == {"lora"}
    loss, _ = task.loss(task.batch(0, range(2)), 0)
    loss.backward()
    assert all(parameter.grad is not None for parameter in task.modules["lora"].parameters())
    assert all(parameter.grad is None for parameter in task.parts.denoiser.parameters())
    assert all(torch.equal(value, before[name]) for name, value in task.parts.denoiser.state_dict().items())


def test_dreambooth_paints_its_class_first_and_writes_a_model(
    tiny_v_folder: Path, pictures: Path, tmp_path: Path
) -> None:
    recipe = recipe_of(
        tiny_v_folder, pictures, task="dreambooth", trigger="zorb",
        prior={"prompts": ["three cats", "a car"], "pictures": 3, "steps": 2},
    )  # fmt: skip
    folder = run(recipe, tmp_path / "run")
    painted = sorted((folder / "class").glob("*.png"))
    assert [path.with_suffix(".txt").read_text().strip() for path in painted] == ["three cats", "a car", "three cats"]
    pipe = wordbrush.load(tiny_v_folder, dtype="float32")
    third = wordbrush.load(tiny_v_folder)("three cats", seed=3 + 2, steps=2, width=SIDE, height=SIDE).images[0]
    distance = np.abs(np.asarray(third, int) - np.asarray(Image.open(painted[2]), int)).max()
    assert distance <= 1
    tuned = wordbrush.load(folder / "model", dtype="float32")
    assert not torch.equal(tuned.parts.denoiser.conv_in.weight, pipe.parts.denoiser.conv_in.weight)  # type: ignore[union-attr]
    own, kept = tuned.parts.text_encoder, pipe.parts.text_encoder
    assert own is not None
    assert kept is not None
    for name, value in own.state_dict().items():
        torch.testing.assert_close(value, kept.state_dict()[name], rtol=1e-3, atol=1e-4)  # stored in half precision
    import diffusers

    diffusers.StableDiffusionPipeline.from_pretrained(folder / "model")


def test_the_prior_counts_with_its_weight(tiny_v_folder: Path, pictures: Path, tmp_path: Path) -> None:
    recipe = recipe_of(
        tiny_v_folder, pictures, task="dreambooth", prior={"prompts": ["a car"], "pictures": 2, "steps": 2, "weight": 3}
    )
    task = task_of(recipe, tmp_path / "run")
    loss, figures = task.loss(task.batch(0, range(2)), 0)
    torch.testing.assert_close(loss.detach(), figures["subject"] + 3 * figures["prior"])
    assert figures["subject"] != figures["prior"]


def test_rows_do_not_depend_on_how_a_step_is_shared_out(tiny_v_folder: Path, pictures: Path, tmp_path: Path) -> None:
    objective = {"offset_noise": 0.1, "input_perturbation": 0.1, "weighting": "min_snr"}
    task = task_of(recipe_of(tiny_v_folder, pictures, task="full", objective=objective), tmp_path / "run")
    whole = task.batch(1, range(2))
    for row in range(2):
        for key, value in task.batch(1, range(row, row + 1)).items():
            torch.testing.assert_close(value[0], whole[key][row], msg=key)


def test_an_inversion_trains_its_vectors_alone(tiny_v_folder: Path, pictures: Path, tmp_path: Path) -> None:
    recipe = recipe_of(
        tiny_v_folder, pictures, task="inversion", placeholder="<zorb>", initial="red car", vectors=3,
        data={"caption": None, "text": "none"},
    )  # fmt: skip
    folder = run(recipe, tmp_path / "run")
    learnt = read_embedding(folder / "zorb.safetensors").vectors["text_encoder"]
    assert learnt.shape == (3, 32)
    theirs = load_file(folder / "learned_embeds.safetensors")
    torch.testing.assert_close(theirs["<zorb>"], learnt)
    from diffusers import StableDiffusionPipeline

    pipe = StableDiffusionPipeline.from_pretrained(tiny_v_folder)
    pipe.load_textual_inversion(str(folder / "learned_embeds.safetensors"))
    known = wordbrush.load(tiny_v_folder, dtype="float32").parts.text_encoder
    assert known is not None
    longest = known.text_model.embeddings.token_embedding.weight.norm(dim=1).max()
    assert (learnt.norm(dim=1) <= longest * 1.0001).all()


def test_vectors_are_put_where_the_word_stands(tiny_pipe: wordbrush.Pipeline) -> None:
    reader = CaptionReader(tiny_pipe.parts, placeholder=Placeholder(word="<zorb>", vectors=2))
    ids = reader.read(["a <ZORB> on a <zorb>s background"])
    marks = ids["learnt"][0].tolist()
    place = 1 + len(tiny_pipe.parts.tokenizer.pieces("a"))  # type: ignore[union-attr]
    assert marks[place : place + 2] == [0, 1]
    assert marks.count(0) == 1  # the other is another word
    vectors = torch.randn(2, 32, generator=torch.Generator().manual_seed(0))
    found = reader.condition(ids, {"text_encoder": vectors}).context
    assert (found - reader.condition(ids).context).abs().max() > 1e-3


def test_captions_are_read_as_prompts_are(tiny_pipe: wordbrush.Pipeline) -> None:
    captions = ["a fox on a blue background", "three cats"]
    reader = CaptionReader(tiny_pipe.parts)
    found = reader.condition(reader.read(captions)).context
    torch.testing.assert_close(found, tiny_pipe.conditioner.encode(captions).context)


@pytest.mark.parametrize(
    ("train", "words"),
    [
        ({"task": "lora", "clip_skip": 9}, "clip_skip=9"),
        ({"task": "lora", "shift": 2.0}, "flows"),
        ({"task": "inversion", "placeholder": "fox"}, "knows"),
        ({"task": "inversion", "placeholder": "<zorb>"}, "does not hold the placeholder"),
        ({"task": "inversion", "placeholder": "a/b"}, "the name of a file"),
        ({"task": "inversion", "placeholder": "learned_embeds"}, "diffusers"),
    ],
)
def test_what_does_not_fit_is_named(
    tiny_v_folder: Path, pictures: Path, tmp_path: Path, train: dict[str, Any], words: str
) -> None:
    with pytest.raises(RequestError, match=words):
        task_of(recipe_of(tiny_v_folder, pictures, **train), tmp_path / "run").batch(0, range(2))


def test_a_size_that_the_network_cannot_halve_is_named(tiny_v_folder: Path, pictures: Path, tmp_path: Path) -> None:
    with pytest.raises(RequestError, match="20"):
        task_of(recipe_of(tiny_v_folder, pictures, task="lora", data={"size": 20}), tmp_path / "run")


def test_samples_and_validation(tiny_v_folder: Path, pictures: Path, tmp_path: Path) -> None:
    held_out = {"kind": "folder", "path": str(pictures), "size": SIDE, "caption": "a fox"}
    recipe = recipe_of(tiny_v_folder, pictures, task="lora", samples=["a fox", "three cats"], validation=held_out)
    task = task_of(recipe, tmp_path / "run")
    painted = [(text, picture.size) for text, picture in task.samples()]
    assert painted == [("a fox", (SIDE, SIDE)), ("three cats", (SIDE, SIDE))]
    figures = task.validate()
    assert figures["held-out loss"] == pytest.approx(np.mean([v for k, v in figures.items() if k != "held-out loss"]))


def test_a_sample_is_what_the_pipeline_paints(tiny_v_folder: Path, pictures: Path, tmp_path: Path) -> None:
    task = task_of(recipe_of(tiny_v_folder, pictures, task="lora", samples=["a fox"]), tmp_path / "run")
    ((_, picture),) = task.samples()
    expected = wordbrush.load(tiny_v_folder, dtype="float32")("a fox", seed=0, width=SIDE, height=SIDE).images[0]
    assert np.abs(np.asarray(picture, int) - np.asarray(expected, int)).max() <= 1


def test_the_command_writes_a_recipe_that_trains(tiny_v_folder: Path, pictures: Path, tmp_path: Path) -> None:
    from typer.testing import CliRunner

    from wordbrush.cli.app import make_app

    arguments = ["finetune", "lora", str(pictures), "-m", str(tiny_v_folder), "-o", str(tmp_path / "zorb"),
                 "--trigger", "zorb", "--steps", "2", "--batch", "1", "--size", str(SIDE), "--class-pictures", "0",
                 "--precision", "float32", "--device", "cpu"]  # fmt: skip
    result = CliRunner().invoke(make_app(), arguments)
    assert result.exit_code == 0, result.output
    assert (tmp_path / "zorb" / "zorb.safetensors").exists()
    recipe = read_recipe(tmp_path / "zorb" / "recipe.yaml")
    assert isinstance(recipe, Recipe)
    assert recipe.train.data.caption == "a picture of zorb"  # type: ignore[union-attr]
    other = [*arguments, "--seed", "5", "--class-pictures", "2", "--class-prompt", "a car"]
    again = CliRunner().invoke(make_app(), other)
    assert again.exit_code == 2
    assert not (tmp_path / "zorb" / "class").exists()  # nothing is painted for a run that cannot go on
    assert yaml.safe_load((tmp_path / "zorb" / "recipe.yaml").read_text()).get("seed", 0) == 0


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["lora"], "caption"),
        (["dreambooth", "--trigger", "zorb", "--class-pictures", "0"], "class-prompt"),
        (["dreambooth", "--trigger", "zorb", "--class-pictures", "0"], "give another number"),
        (["lora", "--trigger", "zorb", "--alpha", "0"], "train.adapter.alpha is wrong: Input should be greater than 0"),
        (["lora", "--trigger", "zorb", "--plan", "--name", "a/b"], "the name 'a/b' becomes the name of a file"),
        (["inversion", "--word", "a/b", "--plan"], "the new word 'a/b' becomes the name of a file"),
        (["full", "--trigger", "zorb", "--plan", "--size", "20"], "the width 20 is not a multiple of 8"),
        (["inversion", "--word", "<zorb>", "--caption", "a fox"], "does not hold"),
        (["lora", "--trigger", "zorb", "--rate", "0"], "learning_rate"),
    ],
)
def test_the_command_refuses_in_words(
    tiny_v_folder: Path, pictures: Path, tmp_path: Path, arguments: list[str], words: str
) -> None:
    from typer.testing import CliRunner

    from wordbrush.cli.app import make_app

    way, *more = arguments
    given = ["finetune", way, str(pictures), "-m", str(tiny_v_folder), "-o", str(tmp_path / "zorb"), *more]
    result = CliRunner().invoke(make_app(), given)
    assert result.exit_code == 2
    assert words in " ".join(result.output.split())
    assert not (tmp_path / "zorb").exists()


def planned(model: Path, pictures: Path, folder: Path, *more: str) -> tuple[int, str]:
    """The exit code of `finetune lora --plan`, and what it said."""
    from typer.testing import CliRunner

    from wordbrush.cli.app import make_app

    arguments = ["finetune", "lora", pictures, "-m", model, "-o", folder, "--plan", "--trigger", "zorb", *more]
    result = CliRunner().invoke(make_app(), list(map(str, arguments)))
    return result.exit_code, " ".join(result.output.split())


def test_a_plan_that_was_changed_by_hand_stays(tiny_v_folder: Path, pictures: Path, tmp_path: Path) -> None:
    folder = tmp_path / "zorb"
    assert planned(tiny_v_folder, pictures, folder)[0] == 0
    path = folder / "recipe.yaml"
    path.write_text(path.read_text() + "# a note\n")
    assert planned(tiny_v_folder, pictures, folder)[0] == 0  # it says the same
    changed = path.read_text().replace("steps: 1000", "steps: 1001")
    path.write_text(changed)
    code, said = planned(tiny_v_folder, pictures, folder)
    assert code == 2
    assert f"{path} is there already and says something else" in said
    assert f"`wordbrush train {path} -o {folder}`" in said
    assert path.read_text() == changed


def test_a_run_that_is_refused_leaves_no_recipe_in_the_way(tiny_v_folder: Path, pictures: Path, tmp_path: Path) -> None:
    from typer.testing import CliRunner

    from wordbrush.cli.app import make_app

    arguments = ["finetune", "lora", pictures, "-m", tiny_v_folder, "-o", tmp_path / "run", "--trigger", "zorb",
                 "--size", SIDE, "--class-pictures", "0", "--device", "cpu", "--precision", "float16"]  # fmt: skip
    result = CliRunner().invoke(make_app(), list(map(str, arguments)))
    assert result.exit_code == 2
    assert "float16 trains on CUDA only" in result.output
    assert not (tmp_path / "run/recipe.yaml").exists()


def test_a_plan_reads_the_pictures(tiny_v_folder: Path, pictures: Path, tmp_path: Path) -> None:
    (pictures / "1.png").write_bytes((pictures / "1.png").read_bytes()[:200])
    code, said = planned(tiny_v_folder, pictures, tmp_path / "zorb")
    assert code == 2
    assert "1.png" in said
    assert said.endswith("; mend it, or take it out of the folder")


def test_a_caption_file_that_is_missing_may_be_an_empty_one(
    tiny_v_folder: Path, pictures: Path, tmp_path: Path
) -> None:
    for number, caption in enumerate(("a fox", "")):
        (pictures / f"{number}.txt").write_text(caption)
    code, said = planned(tiny_v_folder, pictures, tmp_path / "zorb")
    assert code == 2
    assert "no caption file '2.txt' beside it; give every picture a caption, or an empty one for which" in said
    (pictures / "2.txt").touch()
    assert planned(tiny_v_folder, pictures, tmp_path / "zorb")[0] == 0


def test_a_template_is_no_format(tiny_v_folder: Path, pictures: Path, tmp_path: Path) -> None:
    inverted = {"task": "inversion", "placeholder": "<zorb>", "templates": ["a {} {b}"], "data": {"caption": None}}
    task = task_of(recipe_of(tiny_v_folder, pictures, **inverted), tmp_path / "run")
    assert task._worded("", 0.0) == "a <zorb> {b}"


@pytest.mark.parametrize(
    ("train", "file"),
    [
        ({"task": "lora", "adapter": {"rank": 2, "dropout": 0.2}, "text_encoder": True,
          "prior": {"prompts": ["a car"], "pictures": 2, "steps": 2}}, "pytorch_lora_weights.safetensors"),
        ({"task": "inversion", "placeholder": "<zorb>", "initial": "robot", "vectors": 2,
          "data": {"caption": None, "text": "none"}}, "zorb.safetensors"),
        ({"task": "full", "data": {"flip": 0.5}}, "model/unet/diffusion_pytorch_model.safetensors"),
    ],
    ids=["lora", "inversion", "full"],
)  # fmt: skip
def test_a_run_that_goes_on_ends_with_the_same_bits(
    tiny_v_folder: Path, pictures: Path, tmp_path: Path, train: dict[str, Any], file: str
) -> None:
    recipe = recipe_of(tiny_v_folder, pictures, **train)
    flat = recipe.optimiser.model_copy(update={"schedule": "constant"})
    recipe = recipe.model_copy(update={"optimiser": flat, "steps": 4})
    straight = run(recipe, tmp_path / "straight")
    half = run(recipe.model_copy(update={"steps": 2}), tmp_path / "broken")
    first = load_file(half / file)
    resumed, whole = (load_file(folder / file) for folder in (run(recipe, tmp_path / "broken"), straight))
    assert all(torch.equal(value, resumed[name]) for name, value in whole.items())
    assert any(not torch.equal(value, first[name]) for name, value in whole.items())


def test_class_pictures_stop_when_told_and_go_on_with_the_same_bits(
    tiny_v_folder: Path, pictures: Path, tmp_path: Path
) -> None:
    prior = {"prompts": ["three cats", "a car"], "pictures": 4, "steps": 2}
    recipe = recipe_of(tiny_v_folder, pictures, task="lora", prior=prior)
    stop, said = threading.Event(), list[str]()
    stop.set()
    with pytest.raises(Stopped):
        FinetuneTask(recipe, recipe.train, tmp_path / "run", stop=stop, log=said.append)  # type: ignore[arg-type]
    assert said == [f"painting 4 of 4 class pictures into {tmp_path / 'run' / 'class'}, once"]
    assert not list((tmp_path / "run" / "class").glob("*.png"))
    first = run_recipe(recipe, tmp_path / "run", RunOptions(device="cpu"), stop=stop, **QUIET)
    assert not (first / "checkpoint.pt").exists()  # stopped without a word of complaint
    straight, broken = (tmp_path / name / "class" for name in ("run", "broken"))
    task_of(recipe, straight.parent)
    shutil.copytree(straight, broken)
    for path in [*broken.glob("0001.*"), *broken.glob("0002.txt")]:  # a kill between the two files of one
        path.unlink()
    task_of(recipe, broken.parent)
    for path in straight.glob("*.png"):
        assert np.array_equal(np.asarray(Image.open(path)), np.asarray(Image.open(broken / path.name)))


def test_captions_that_are_cut_are_counted(tiny_v_folder: Path, pictures: Path, tmp_path: Path) -> None:
    for number, caption in enumerate(("a fox", "a fox on a red background " * 30, "a cat")):
        (pictures / f"{number}.txt").write_text(caption)
    task = task_of(recipe_of(tiny_v_folder, pictures, task="lora", data={"caption": None}), tmp_path / "run")
    (note,) = task.notes
    assert note.startswith("1 of 3 captions are longer than the ")
    assert task_of(recipe_of(tiny_v_folder, pictures, task="lora"), tmp_path / "run").notes == []


def test_a_trigger_is_put_before_captions_that_lack_it(tiny_v_folder: Path, pictures: Path) -> None:
    for number, caption in enumerate(("a fox", "", "a Zorb")):
        (pictures / f"{number}.txt").write_text(caption)
    asked = Asked(pictures=pictures, name="zorb", model=str(tiny_v_folder), trigger="zorb", size=SIDE)
    train = plan("lora", asked, {}).train
    assert isinstance(train, LoraRecipe)
    feed = Feed(train.data, 0, 3)
    assert sorted(feed.rows(0, range(3)).captions) == ["a Zorb", "zorb", "zorb, a fox"]


def test_buckets_of_the_embedded_model_are_sizes_that_it_takes(pictures: Path, tmp_path: Path) -> None:
    recipe = plan("lora", Asked(pictures=pictures, name="zorb", caption="a zorb", buckets=True, class_pictures=0), {})
    task = task_of(recipe, tmp_path)
    assert len(task.feeds[""].sizes) > 10
    assert task.usual_size == (128, 128)
    assert notes_of(task).resolution == (128, 128)


def test_a_trained_model_and_a_lora_know_their_trigger(tiny_v_folder: Path, pictures: Path, tmp_path: Path) -> None:
    tuned = run(recipe_of(tiny_v_folder, pictures, task="full", trigger="zorb"), tmp_path / "full") / "model"
    lora = run(recipe_of(tiny_v_folder, pictures, task="lora", trigger="zorb"), tmp_path / "lora") / "tiny.safetensors"
    plain, model = (wordbrush.load(folder, dtype="float32") for folder in (tiny_v_folder, tuned))

    def strange(pipe: wordbrush.Pipeline, **fields: Any) -> bool:
        request = pipe.fill(wordbrush.GenerationRequest(prompt="a zorb", steps=1, **fields))
        return any("never seen" in note for note in pipe.notes(request))

    assert strange(plain)
    assert not strange(model)
    assert not strange(plain, loras=[{"name": str(lora), "unet": 1.0, "text": 1.0}])
