"""The loss of a fine-tuning equals one computed with diffusers on the same weights, pictures, noise and times."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import diffusers
import numpy as np
import pytest
import torch
import torch.nn.functional as F
from PIL import Image
from tests.parity.families import Maker
from torch import Tensor

from wordbrush.errors import RequestError
from wordbrush.training.finetune.task import FinetuneTask
from wordbrush.training.recipe import Recipe
from wordbrush.training.task import normal_rows

CAPTIONS = ("a fox on a blue background", "three cats", "it's a red car above a green house")
SIDE = 32


@pytest.fixture
def pictures(tmp_path: Path) -> Path:
    folder = tmp_path / "pictures"
    folder.mkdir()
    generator = np.random.default_rng(0)
    for index, caption in enumerate(CAPTIONS):
        pixels = generator.integers(0, 255, (40, 48, 3), dtype=np.uint8)
        Image.fromarray(pixels).resize((96, 80)).save(folder / f"{index}.png")
        (folder / f"{index}.txt").write_text(caption)
    return folder


def recipe_of(model: Path, pictures: Path, **train: Any) -> Recipe:
    data = {"kind": "folder", "path": str(pictures), "size": SIDE}
    values = {"task": "lora", "model": str(model), "data": data, **train}
    return Recipe.model_validate(
        {"name": "tiny", "seed": 3, "steps": 4, "batch": 3, "precision": "float32", "train": values}
    )


def task_of(recipe: Recipe, folder: Path) -> FinetuneTask:
    return FinetuneTask(recipe, recipe.train, folder)  # type: ignore[arg-type]


def pictures_of(task: FinetuneTask) -> tuple[Tensor, list[str], Tensor, Tensor]:
    rows = task.feeds[""].rows(0, range(3))
    return rows.images, rows.captions, rows.originals, rows.corners


@pytest.mark.parametrize("text_encoder", [False, True])
@pytest.mark.parametrize("name", ["sd1", "sd2-v", "sdxl", "flux-dev", "flux-schnell"])
def test_loss_is_that_of_diffusers(
    make_family: Maker, pictures: Path, tmp_path: Path, name: str, text_encoder: bool
) -> None:
    folder = make_family(name)
    task = task_of(recipe_of(folder, pictures, text_encoder=text_encoder), tmp_path / "run")
    batch = task.batch(0, range(3))
    assert ("context" in batch) != text_encoder  # encoders that do not change are asked once
    found, _ = task.loss(batch, 0)
    images, captions, originals, corners = pictures_of(task)
    pipe = diffusers.DiffusionPipeline.from_pretrained(folder)
    with torch.no_grad():
        drawn = normal_rows(3, 0, range(3), batch["latents"].shape[1:], purpose=3)
        posterior = pipe.vae.encode(images).latent_dist
        config = pipe.vae.config
        latents = (posterior.mean + posterior.std * drawn - (config.shift_factor or 0.0)) * config.scaling_factor
        loss = flux_loss if name.startswith("flux") else unet_loss
        expected = loss(pipe, latents, batch, captions, torch.cat([originals, corners], dim=1))
    torch.testing.assert_close(batch["latents"], latents, rtol=1e-4, atol=1e-4)
    assert found.item() == pytest.approx(expected.item(), rel=2e-4)


def unet_loss(pipe: Any, latents: Tensor, batch: dict[str, Tensor], captions: list[str], placed: Tensor) -> Tensor:
    scheduler = diffusers.DDPMScheduler.from_config(pipe.scheduler.config)
    timesteps, eps = batch["timesteps"], batch["eps"]
    x = scheduler.add_noise(latents, eps, timesteps)
    if hasattr(pipe, "text_encoder_2"):
        context, _, pooled, _ = pipe.encode_prompt(captions, do_classifier_free_guidance=False)
        numbers = torch.cat([placed, torch.full((3, 2), SIDE)], dim=1).float()
        added = {"text_embeds": pooled, "time_ids": numbers}
    else:
        context, added = pipe.encode_prompt(captions, "cpu", 1, False)[0], None
    out = pipe.unet(x, timesteps, context, added_cond_kwargs=added).sample
    v = scheduler.config.prediction_type == "v_prediction"
    target = scheduler.get_velocity(latents, eps, timesteps) if v else eps
    return F.mse_loss(out, target)


def flux_loss(pipe: Any, latents: Tensor, batch: dict[str, Tensor], captions: list[str], placed: Tensor) -> Tensor:
    del placed
    length = 512 if pipe.transformer.config.guidance_embeds else 256
    context, pooled, text_ids = pipe.encode_prompt(captions, None, max_sequence_length=length)
    sigma = (batch["timesteps"] / 1000).float().view(-1, 1, 1, 1)
    x = (1 - sigma) * latents + sigma * batch["eps"]
    height, width = latents.shape[2:]
    packed = pipe._pack_latents(x, 3, latents.shape[1], height, width)
    ids = pipe._prepare_latent_image_ids(3, height // 2, width // 2, "cpu", torch.float32)
    guidance = torch.ones(3) if pipe.transformer.config.guidance_embeds else None
    out = pipe.transformer(
        hidden_states=packed, timestep=sigma.flatten(), guidance=guidance, pooled_projections=pooled,
        encoder_hidden_states=context, txt_ids=text_ids, img_ids=ids,
    ).sample  # fmt: skip
    target = pipe._pack_latents(batch["eps"] - latents, 3, latents.shape[1], height, width)
    return F.mse_loss(out, target)


def test_the_times_of_flux_are_shifted_by_the_size_of_the_picture(
    make_family: Maker, pictures: Path, tmp_path: Path
) -> None:
    def times(**train: Any) -> Tensor:
        task = task_of(recipe_of(make_family("flux-dev"), pictures, **train), tmp_path / "run")
        return task.batch(0, range(3))["timesteps"].double() / 1000

    plain, shifted, own = times(shift=1.0), times(shift=3.0), times()
    torch.testing.assert_close(shifted, 3 * plain / (1 + 2 * plain))
    scheduler = diffusers.FlowMatchEulerDiscreteScheduler.from_pretrained(make_family("flux-dev") / "scheduler")
    from diffusers.pipelines.flux.pipeline_flux import calculate_shift

    mu = calculate_shift((SIDE // 8) ** 2, 256, 4096, 0.5, 1.15)  # this tiny model has a token for 8 by 8 pixels
    torch.testing.assert_close(own, scheduler.time_shift(mu, 1.0, plain))


@pytest.mark.parametrize(
    ("name", "words"),
    [("inpaint", "inpainting"), ("sdxl-inpaint", "inpainting"), ("flux-fill", "inpainting"), ("edit", "editing"),
     ("lcm", "distilled"), ("sdxl-refiner", "refiner")],
)  # fmt: skip
def test_models_that_cannot_be_trained_so_are_refused(
    make_family: Maker, pictures: Path, tmp_path: Path, name: str, words: str
) -> None:
    with pytest.raises(RequestError, match=words):
        task_of(recipe_of(make_family(name), pictures), tmp_path / "run")


@pytest.mark.parametrize("way", ["lora", "full"])
@pytest.mark.parametrize("name", ["sd1", "sdxl", "flux-dev"])
def test_everything_that_is_trained_has_a_part_in_the_loss(
    make_family: Maker, pictures: Path, tmp_path: Path, name: str, way: str
) -> None:
    """Processes that train together wait for the gradient of every parameter."""
    task = task_of(recipe_of(make_family(name), pictures, task=way, text_encoder=True), tmp_path / "run")
    task.loss(task.batch(0, range(2)), 0)[0].backward()
    for module in task.modules.values():
        missing = [key for key, value in module.named_parameters() if value.requires_grad and value.grad is None]
        assert not missing
