"""The diffusion task: every kind of conditioning, space and prediction, from recipe to painting folder."""

from __future__ import annotations

import inspect
import pickle
from pathlib import Path
from typing import Any

import diffusers
import numpy as np
import pytest
import torch
import yaml
from diffusers import UNet2DConditionModel
from safetensors.torch import save_file

import wordbrush
from wordbrush.diffusion.scheduler_config import knows_scheduler
from wordbrush.errors import ModelFileError, RequestError
from wordbrush.formats.inspect import inspect_model
from wordbrush.formats.open import embedded_folder
from wordbrush.training.recipe import Recipe, read_recipe
from wordbrush.training.run import build_task
from wordbrush.training.tasks.diffusion import DiffusionTask
from wordbrush.training.tasks.scheduler_keys import OF_BETAS, OF_FLOWS, checked_scheduler

MODEL = embedded_folder()
NETWORK: dict[str, Any] = {
    "block_out_channels": [16, 32],
    "down_block_types": ["DownBlock2D", "CrossAttnDownBlock2D"],
    "up_block_types": ["CrossAttnUpBlock2D", "UpBlock2D"],
    "layers_per_block": 1,
    "attention_head_dim": 2,
    "norm_num_groups": 4,
}
DDIM: dict[str, Any] = {
    "_class_name": "DDIMScheduler",
    "num_train_timesteps": 100,
    "beta_schedule": "cosine",
    "prediction_type": "epsilon",
    "clip_sample": True,
}
FLOW: dict[str, Any] = {"_class_name": "FlowMatchEulerDiscreteScheduler", "shift": 2.0}
SCENES: dict[str, Any] = {"kind": "scenes", "size": 16, "scene": "single"}
THINGS: dict[str, Any] = {"kind": "scenes", "size": 16, "things": ["dog", "car", "apple"]}
TEXT = {"kind": "text", "text_encoder": str(MODEL / "text_encoder"), "tokenizer": str(MODEL / "tokenizer")}
CLIP = {"kind": "embedding", "clip": str(MODEL / "clip"), "tokenizer": str(MODEL / "tokenizer")}


def task_of(folder: Path, **train: Any) -> DiffusionTask:
    values = {
        "name": "tiny", "steps": 2, "batch": 4, "precision": "float32",
        "train": {
            "task": "diffusion", "data": SCENES, "network": NETWORK, "scheduler": DDIM, "defaults": {"steps": 3},
            **train,
        },
    }  # fmt: skip
    folder.mkdir(exist_ok=True)
    (folder / "recipe.yaml").write_text(yaml.safe_dump(values))
    recipe = read_recipe(folder / "recipe.yaml")
    assert isinstance(recipe, Recipe)
    task = build_task(recipe, folder)
    assert isinstance(task, DiffusionTask)
    return task


def exported(task: DiffusionTask, folder: Path) -> wordbrush.Pipeline:
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():  # a network begins with zeros that let nothing through: give it an opinion
        for parameter in task.network.parameters():
            if not parameter.any():
                parameter.normal_(std=0.05, generator=generator)
    task.export(folder, {name: module.state_dict() for name, module in task.modules.items()})
    return wordbrush.load(folder, dtype="float32")


KINDS: dict[str, dict[str, Any]] = {
    "nothing": {},
    "class": {"data": THINGS, "conditioning": {"kind": "class"}},
    "text": {"conditioning": TEXT},
    "trained text": {"conditioning": TEXT | {"train": True}},
    "text embedding": {"conditioning": CLIP},
    "image embedding": {"conditioning": CLIP | {"of": "image", "into": "time"}},
    "band": {"time": "band", "data": THINGS, "conditioning": {"kind": "class"}},
    "band, packed": {"time": "band"},
    "flow": {"scheduler": FLOW},
    "previous": {"scheduler": DDIM | {"prediction_type": "previous_sample"}},
    "difference": {"scheduler": DDIM | {"prediction_type": "sample_difference"}},
    "latents": {
        "vae": str(MODEL / "vae"), "scheduler": DDIM | {"prediction_type": "v_prediction"},
        "data": SCENES | {"size": 64}, "conditioning": TEXT,
    },
    "latent classes": {
        "vae": str(MODEL / "vae"), "data": THINGS | {"size": 64}, "conditioning": {"kind": "class"},
    },
    "all options": {
        "objective": {
            "times": {"kind": "logit_normal", "uniform_part": 0.1}, "weighting": "p2", "loss": "pseudo_huber",
            "delta_schedule": "snr", "offset_noise": 0.1, "input_perturbation": 0.1,
        }
    },
}  # fmt: skip


@pytest.mark.parametrize("kind", KINDS)
def test_trains_samples_and_paints(kind: str, tmp_path: Path) -> None:
    """The sheets of the run and the exported folder's pictures are the same; gradients reach all that is trained."""
    task = task_of(tmp_path, **KINDS[kind])
    batch = task.batch(0, range(4))
    loss, _ = task.loss(batch, 0)
    loss.backward()
    assert torch.isfinite(loss)
    assert all(module is not None for module in task.modules.values())
    gradients = [parameter.grad for parameter in task.network.conv_out.parameters()]
    assert all(gradient is not None and torch.isfinite(gradient).all() for gradient in gradients)
    pipe = exported(task, tmp_path)
    samples = task.samples()
    prompts = [prompt for prompt, _ in samples]
    images = pipe(prompts, seed=0).images
    for (_, sample), image in zip(samples, images, strict=True):
        difference = np.abs(np.asarray(sample, np.int16) - np.asarray(image, np.int16))
        assert difference.max() <= 1
    assert len({np.asarray(image).tobytes() for image in images}) == len(images)  # other noise, other pictures
    assert task.network.conv_in.weight.requires_grad  # sampling has not touched what is trained


@pytest.mark.parametrize("kind", ["nothing", "class", "image embedding", "text"])
def test_diffusers_opens_the_network_and_answers_the_same(kind: str, tmp_path: Path) -> None:
    task = task_of(tmp_path, **KINDS[kind])
    pipe = exported(task, tmp_path)
    peer = UNet2DConditionModel.from_pretrained(tmp_path, subfolder="unet")
    unet = pipe.parts.unet
    assert unet is not None
    x = torch.randn(2, 3, 16, 16, generator=torch.Generator().manual_seed(0))
    context = torch.randn(2, 3, unet.config.cross_attention_dim, generator=torch.Generator().manual_seed(1))
    labels = None
    if kind == "class":
        labels = torch.tensor([0, 3])
    elif kind == "image embedding":
        labels = torch.randn(2, unet.config.label_width or 0, generator=torch.Generator().manual_seed(2))
    with torch.no_grad():
        ours = unet(x, torch.tensor([7, 70]), context, labels=labels)
        theirs = peer(x, torch.tensor([7, 70]), context, class_labels=labels).sample
        torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-5)
        if kind == "class":
            shares = torch.nn.functional.one_hot(labels, 4).float()
            torch.testing.assert_close(unet(x, torch.tensor([7, 70]), context, labels=shares), ours)


def test_a_folder_saved_again_is_the_same_model(tmp_path: Path) -> None:
    pipe = exported(task_of(tmp_path / "run", **KINDS["class"]), tmp_path / "run")
    pipe.save(tmp_path / "again")
    again = wordbrush.load(tmp_path / "again", dtype="float32")
    assert again.parts.labels == pipe.parts.labels == ("dog", "car", "apple")
    first, second = (model("car", seed=3, steps=3).images[0] for model in (pipe, again))
    assert first.tobytes() == second.tobytes()
    told = inspect_model(tmp_path / "again")
    assert (told["family"], told["native_size"]) == ("class", 16)


def test_classes_by_name_and_number_and_what_is_none(tmp_path: Path) -> None:
    pipe = exported(task_of(tmp_path, **KINDS["class"]), tmp_path)
    named, numbered = (pipe(prompt, seed=1, guidance=3.0).images[0] for prompt in ("Car", "1"))
    other, none = (pipe(prompt, seed=1, guidance=3.0).images[0] for prompt in ("dog", ""))
    assert named.tobytes() == numbered.tobytes()
    assert len({named.tobytes(), other.tobytes(), none.tobytes()}) == 3
    pipe("[dog:car:0.5]", seed=1)
    pipe("dog", blend_prompt="car", blend=0.5, seed=1)
    with pytest.raises(RequestError, match=r"'cat' is no class of this model; .*dog, car, apple.* 0 to 2"):
        pipe("cat")
    with pytest.raises(RequestError, match="clip_skip=2 means nothing to a model without CLIP"):
        pipe("car", clip_skip=2)
    alone = pipe("car", seed=6, guidance=3.0).images[0]
    assert pipe("car", seed=5, count=3, guidance=3.0).images[1].tobytes() == alone.tobytes()


@pytest.mark.parametrize("kind", ["class", "image embedding"])
def test_a_lora_fits_networks_that_are_told_classes_or_vectors(kind: str, tmp_path: Path) -> None:
    pipe = exported(task_of(tmp_path, **KINDS[kind]), tmp_path)
    key = "down_blocks.1.attentions.0.transformer_blocks.0.attn1.to_v"
    assert pipe.parts.unet is not None
    layer = pipe.parts.unet.get_submodule(key)
    assert isinstance(layer, torch.nn.Linear)
    matrices = {"lora_A": torch.ones(2, layer.in_features), "lora_B": torch.ones(layer.out_features, 2)}
    save_file({f"unet.{key}.{name}.weight": matrix for name, matrix in matrices.items()}, tmp_path / "x.safetensors")
    plain = pipe("car", seed=1).images[0]
    changed = pipe("car", seed=1, loras=[f"{tmp_path / 'x.safetensors'}"]).images[0]
    assert plain.tobytes() != changed.tobytes()


def test_what_of_a_recipe_does_nothing_is_said(tmp_path: Path) -> None:
    task = task_of(tmp_path, validation=SCENES | {"split": "test"}, samples=[""])
    assert [note.partition(",")[0] for note in task.notes] == [
        "train.validation is never looked at", "train.samples are never painted"
    ]  # fmt: skip


def test_a_model_without_words_takes_none(tmp_path: Path) -> None:
    pipe = exported(task_of(tmp_path), tmp_path)
    assert pipe("", seed=1).images[0].size == (16, 16)
    with pytest.raises(RequestError, match="paints without a prompt; leave out 'dog'"):
        pipe("dog")


def test_the_loss_of_silence_by_hand(tmp_path: Path) -> None:
    """A network that answers 0 has the loss mean(eps^2)."""
    task = task_of(tmp_path)
    with torch.no_grad():
        task.network.conv_out.weight.zero_()
    batch = task.batch(3, range(4))
    assert task.loss(batch, 3)[0].item() == pytest.approx((batch["eps"] ** 2).mean().item(), rel=1e-5)


def test_time_as_a_band_is_what_the_network_sees(tmp_path: Path) -> None:
    task = task_of(tmp_path, time="band")
    seen: list[tuple[torch.Tensor, torch.Tensor]] = []
    task.network.register_forward_pre_hook(lambda module, inputs: seen.append(inputs[:2]))
    batch = task.batch(0, range(4))
    task.loss(batch, 0)
    x, timesteps = seen[0]
    assert timesteps.tolist() == [0, 0, 0, 0]
    assert x.shape == (4, 4, 16, 16)
    bands = x[:, 3].flatten(1)
    assert torch.equal(bands.amin(1), bands.amax(1))
    assert bands[:, 0].tolist() == pytest.approx((batch["timesteps"] / 1000).tolist())


@pytest.mark.parametrize("kind", ["class", "text", "all options"])
def test_rows_are_the_same_in_parts_and_in_workers(kind: str, tmp_path: Path) -> None:
    task = task_of(tmp_path, **KINDS[kind])
    together, apart = task.batch(5, range(4)), [task.batch(5, part) for part in (range(1), range(1, 4))]
    assert task.source is not None
    worked = pickle.loads(pickle.dumps(task.source))(5, range(4))  # noqa: S301  our own bytes
    for name, value in together.items():
        assert torch.equal(value, torch.cat([part[name] for part in apart]))
        assert torch.equal(value, worked[name])


def test_parts_of_the_rows_are_told_nothing(tmp_path: Path) -> None:
    task = task_of(tmp_path, data=THINGS, conditioning={"kind": "class", "drop": 0.5})
    labels = torch.cat([task.batch(step, range(4))["labels"] for step in range(100)])
    assert (labels == 3).float().mean().item() == pytest.approx(0.5, abs=0.08)
    assert set(labels.tolist()) == {0, 1, 2, 3}
    task = task_of(tmp_path, conditioning=CLIP | {"drop": 1.0})
    told = task.teller.told(task.batch(0, range(4)), 1)
    assert told.context.abs().max() == 0


def test_cached_latents_are_those_encoded_at_each_step(tmp_path: Path) -> None:
    settings = KINDS["latents"] | {"conditioning": CLIP | {"of": "image"}, "data": SCENES | {"size": 64, "count": 6}}
    plain, cached = (task_of(tmp_path, **settings, **more) for more in ({}, {"cache": str(tmp_path / "kept")}))
    for _ in range(2):  # made, then found
        batch = cached.batch(1, range(4))
        assert "images" not in batch
        with torch.no_grad():
            pairs = ((cached, batch), (plain, plain.batch(1, range(4))))
            losses = [task.loss(part, 1)[0].item() for task, part in pairs]
        assert losses[0] == pytest.approx(losses[1], rel=1e-4)


def test_validation_is_by_level_and_does_not_move(tmp_path: Path) -> None:
    validation = SCENES | {"split": "test"}
    task = task_of(
        tmp_path, validation=validation, validation_rows=8, validation_levels=4, objective={"weighting": "min_snr"}
    )
    with torch.no_grad():
        task.network.conv_out.weight.zero_()
    figures = task.validate()
    assert list(figures) == ["loss", "loss_t0.12", "loss_t0.38", "loss_t0.62", "loss_t0.88"]
    assert figures["loss"] == pytest.approx(1.0, abs=0.05)  # of the answer 0 to unit noise, without weights
    assert task.validate() == figures


@pytest.mark.parametrize(
    ("train", "said"),
    [
        ({"conditioning": {"kind": "class"}}, "the data have no classes"),
        ({"network": NETWORK | {"in_channels": 4}}, "in_channels is 4, but the rest of the recipe makes it 3"),
        ({"conditioning": TEXT, "network": NETWORK | {"cross_attention_dim": 7}}, "cross_attention_dim is 7, but"),
        ({"scheduler": DDIM | {"beta_schedule": "cubic"}}, "train.scheduler: .*cubic"),
        ({"cache": "somewhere"}, "cache keeps latents"),
        ({"vae": str(MODEL / "vae"), "data": SCENES | {"size": 60}}, "60 is not a multiple of 8"),
        ({"objective": {"delta": 1}}, "belong to loss"),
        ({"network": NETWORK | {"widths": 3}}, "train.network: .*widths"),
        ({"network": NETWORK | {"num_class_embeds": 3}}, "num_class_embeds: with conditioning.kind: none nothing is"),
        ({"scheduler": DDIM | {"rescale_betas_zero_snr": True}}, "give prediction_type: v_prediction or sample"),
        ({"scheduler": DDIM | {"zero_snr": True}}, "zero_snr is not a key .*; did you mean rescale_betas_zero_snr?"),
        ({"scheduler": DDIM | {"schedule": "linear"}}, "schedule is not a key .*; did you mean beta_schedule?"),
        ({"scheduler": DDIM | {"timesteps": 9}}, "timesteps is not a key .*; did you mean num_train_timesteps?"),
        ({"scheduler": DDIM | {"banana": 9}}, "banana is not a key that is known; there are _class_name, "),
        ({"scheduler": DDIM | {"shift": 3.0}}, "shift is a flow's, and DDIMScheduler is none"),
        ({"scheduler": FLOW | {"prediction_type": "epsilon"}}, "prediction_type='epsilon' contradicts FlowMatch"),
        ({"scheduler": FLOW | {"beta_schedule": "linear"}}, "beta_schedule='linear' contradicts FlowMatch"),
        ({"scheduler": FLOW | {"rescale_betas_zero_snr": True}}, "rescale_betas_zero_snr=True contradicts FlowMatch"),
        ({"defaults": {"stepz": 3}}, r"train.defaults: unknown option 'stepz' \(did you mean steps\?\)"),
        ({"defaults": {"sampler": "banana"}}, "train.defaults: sampler='banana' .*there are ddpm"),
        ({"defaults": {"steps": 200}}, "train.defaults: steps=200 is too many .* 100 timesteps wants fewer"),
        ({"data": SCENES | {"size": 4}}, "train.defaults: width=4 does not fit"),
        ({"samples": ["", "a dog"]}, "train.samples: .* paints without a prompt; leave out 'a dog'"),
        (KINDS["class"] | {"samples": ["[dog:cat:0.5]"]}, "train.samples: 'cat' is no class of this model"),
        (KINDS["latents"] | {"validation": SCENES | {"size": 36}}, "train.validation: .* 36 is not a multiple of 8"),
        (KINDS["class"] | {"validation": SCENES}, "train.validation: the data have no classes"),
        (
            KINDS["class"] | {"validation": THINGS | {"things": ["car", "fox"]}},
            "train.validation: the model learns no class named fox; the classes of train.data are dog, car, apple",
        ),
    ],
)  # fmt: skip
def test_recipes_that_do_not_fit_are_refused(train: dict[str, Any], said: str, tmp_path: Path) -> None:
    with pytest.raises(RequestError, match=said):
        task_of(tmp_path, **train)


def test_the_keys_of_schedulers_are_those_of_diffusers() -> None:
    """Each with all its own, as it saves itself, is a recipe's scheduler; and there are no others."""
    found: dict[bool, set[str]] = {False: {"noise_sampler_seed"}, True: set()}  # of one that wants torchsde
    for name in filter(knows_scheduler, dir(diffusers)):
        own = inspect.signature(getattr(diffusers, name)).parameters.values()
        saved = {parameter.name: parameter.default for parameter in own if parameter.kind != parameter.VAR_KEYWORD}
        saved.pop("args", None)
        found[name.startswith("FlowMatch")] |= saved.keys()
        saved |= {"_class_name": name, "_diffusers_version": diffusers.__version__}
        assert checked_scheduler(saved) == saved
    assert found == {False: OF_BETAS, True: OF_FLOWS}


def test_held_out_classes_are_known_by_their_names(tmp_path: Path) -> None:
    """Whatever number a class has in the held-out data."""
    held_out = THINGS | {"split": "test", "things": ["apple", "dog"]}
    task = task_of(tmp_path, **KINDS["class"], validation=held_out, validation_rows=6)
    assert task.held_out is not None
    known = task.held_out.feed.rows(0, range(6))
    told = task.held_out.reader(known, torch.zeros(6, dtype=torch.bool))["labels"]
    assert known.labels is not None
    assert {0, 1} == set(known.labels.tolist())
    assert told.tolist() == [(2, 0)[label] for label in known.labels.tolist()]


def test_prompts_that_the_model_takes_are_let_pass(tmp_path: Path) -> None:
    task_of(tmp_path, **KINDS["class"], samples=["Dog", "2", "", "[dog:car:0.5]"])
    task_of(tmp_path, samples=["", " "])
    task_of(tmp_path, **KINDS["text embedding"], samples=["a (red:1.2) dog"])


def test_a_start_must_be_of_the_same_shape(tmp_path: Path) -> None:
    exported(task_of(tmp_path / "first"), tmp_path / "first")
    second = task_of(tmp_path / "second", start=str(tmp_path / "first"))
    stored = wordbrush.load(tmp_path / "first", dtype="float32").parts.unet
    assert stored is not None
    assert torch.equal(second.network.conv_in.weight, stored.conv_in.weight)
    with pytest.raises(RequestError, match="is not that of"):
        task_of(tmp_path / "third", start=str(tmp_path / "first"), time="band")
    with pytest.raises(ModelFileError):
        task_of(tmp_path / "fourth", start=str(tmp_path / "nowhere"))


@pytest.mark.parametrize("kind", ["nothing", "class", "flow", "previous", "band, packed"])
def test_the_loss_on_held_out_pictures_falls(kind: str, tmp_path: Path) -> None:
    settings = KINDS[kind]
    held_out = settings.get("data", SCENES) | {"split": "test"}
    task = task_of(tmp_path, **settings, validation=held_out, validation_rows=16)
    before = task.validate()["loss"]
    optimiser = torch.optim.AdamW(task.network.parameters(), 3e-3)
    for step in range(60):
        loss, _ = task.loss(task.batch(step, range(4)), step)
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
    assert task.validate()["loss"] < 0.75 * before
