"""Training the autoencoder."""

from __future__ import annotations

import json
import random
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from safetensors.torch import load_file
from torch import Tensor

from wordbrush.data.pixels import to_images
from wordbrush.data.scenes import box, render, sample_scene
from wordbrush.data.scenes.scene import SIZE
from wordbrush.errors import RequestError
from wordbrush.networks.vae import AutoencoderKL, AutoencoderKLConfig
from wordbrush.training.export import write_network
from wordbrush.training.recipe import Recipe
from wordbrush.training.task import Batch, Task, normal_rows, uniform_rows
from wordbrush.training.tasks.recipes import VAERecipe


def scene_crop(seed: int, index: int, crop: int) -> np.ndarray:
    """A (crop, crop, 3) uint8 piece of a training scene with a thing in it; mostly on the grid of scenes."""
    scene = sample_scene("train", seed, index)
    rng = random.Random(f"crop/{seed}/{index}")
    left, top, right, bottom = box(rng.choice(scene.objects))
    step = 8 if rng.random() < 0.7 else 1
    x = min(max(0, rng.randint(min(left, right - crop), max(left, right - crop))), SIZE - crop) // step * step
    y = min(max(0, rng.randint(min(top, bottom - crop), max(top, bottom - crop))), SIZE - crop) // step * step
    return render(scene)[y : y + crop, x : x + crop]


def edges(images: Tensor) -> tuple[Tensor, Tensor]:
    """Differences of neighbouring pixels, across and down."""
    return images[..., 1:] - images[..., :-1], images[..., 1:, :] - images[..., :-1, :]


class VAETask(Task):
    """Crops in, crops out: L1 + edge L1 + KL."""

    def __init__(self, recipe: Recipe, train: VAERecipe) -> None:
        super().__init__()
        self.recipe, self.train = recipe, train
        self.config = AutoencoderKLConfig.from_dict(train.network)
        self.network = AutoencoderKL(self.config)
        if train.decoder_of is None:
            self.network.initialise(torch.Generator().manual_seed(recipe.seed))
        else:
            self._continue(Path(train.decoder_of))
        self.network.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        self.modules = {"vae": self.network}

    def _continue(self, folder: Path) -> None:
        trained = AutoencoderKLConfig.from_dict(json.loads((folder / "config.json").read_text(encoding="utf-8")))
        if trained != self.config:
            raise RequestError(f"the recipe's network is not that of {folder}; copy its config.json into the recipe")
        self.network.load_state_dict(load_file(folder / "diffusion_pytorch_model.safetensors"))
        self.network.encoder.requires_grad_(False)
        if self.network.quant_conv is not None:
            self.network.quant_conv.requires_grad_(False)

    def batch(self, step: int, rows: range) -> Batch:
        first, seed = step * self.recipe.batch, self.recipe.seed
        crops = [scene_crop(seed, first + row, self.train.crop) for row in rows]
        side = self.train.crop // 2 ** (len(self.config.block_out_channels) - 1)
        shape = (self.config.latent_channels, side, side)
        batch = {"images": to_images(np.stack(crops)), "eps": normal_rows(seed, step, rows, shape)}
        if self.train.latent_noise:
            amount = self.train.latent_noise * uniform_rows(seed, step, rows, purpose=1)
            batch["noise"] = amount.view(-1, 1, 1, 1) * normal_rows(seed, step, rows, shape, purpose=2)
        return batch

    def loss(self, batch: Batch, step: int) -> tuple[Tensor, dict[str, Tensor]]:
        images = batch["images"]
        posterior = self.network.encode_raw(images)
        latents = posterior.mean + torch.exp(0.5 * posterior.logvar) * batch["eps"].to(posterior.mean)
        if self.train.latent_noise:
            latents = latents + batch["noise"].to(latents)
        half = self.train.half_scale_every and step % self.train.half_scale_every == 0
        if half:
            latents, images = F.avg_pool2d(latents, 2), F.avg_pool2d(images, 2)
        decoded = self.network.decode_raw(latents).float()
        l1 = (decoded - images).abs().mean()
        edge = sum((a - b).abs().mean() for a, b in zip(edges(decoded), edges(images), strict=True))
        kl = (
            replace(posterior, mean=posterior.mean.float(), logvar=posterior.logvar.float()).kl().mean()
            / latents[0].numel()
        )
        if half:
            kl = kl / 4
        loss = l1 + self.train.edges * edge + self.train.kl * kl
        figures = {"kl": kl.detach()} if half else {"kl": kl.detach(), "l1": l1.detach() * 1.0}
        return loss, figures

    def export(self, folder: Path, averaged: dict[str, dict[str, Tensor]]) -> None:
        """Writes `vae/`; latents of scenes are brought to zero mean and unit variance, channel by channel.

        Not so where only a decoder was trained: its latents stay what they were.

        The shift and scale become the 1x1 convolutions that Stable Diffusion's autoencoder has between its encoder, the
        latents and its decoder (`quant_conv`, `post_quant_conv`), so any reader of the format gets them right.
        """
        if self.train.decoder_of is not None:
            write_network(folder / "vae", self.config.to_dict(), averaged["vae"], dtype=torch.float32)
            return
        network = AutoencoderKL(self.config)
        network.load_state_dict(averaged["vae"])
        pixels = np.stack([render(sample_scene("train", self.recipe.seed + 1, index)) for index in range(512)])
        with torch.no_grad():
            latents = torch.cat([network.encode_raw(part).mode() for part in to_images(pixels).split(32)])
        mean, std = latents.mean((0, 2, 3)), latents.std((0, 2, 3))
        count = self.config.latent_channels
        weights = averaged["vae"] | {
            "quant_conv.weight": torch.diag(torch.cat([1 / std, torch.ones(count)]))[..., None, None],
            "quant_conv.bias": torch.cat([-mean / std, -2 * std.log()]),
            "post_quant_conv.weight": torch.diag(std)[..., None, None],
            "post_quant_conv.bias": mean,
        }
        config = replace(
            self.config,
            scaling_factor=1.0,
            sample_size=SIZE,
            force_upcast=False,
            use_quant_conv=True,
            use_post_quant_conv=True,
        )
        write_network(folder / "vae", config.to_dict(), weights, dtype=torch.float32)
