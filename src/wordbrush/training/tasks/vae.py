"""Training the autoencoder."""

from __future__ import annotations

import json
import random
from collections.abc import Iterator
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
from wordbrush.networks.patch_discriminator import PatchDiscriminator, PatchDiscriminatorConfig
from wordbrush.networks.vae import AutoencoderKL, AutoencoderKLConfig
from wordbrush.training.adversary import oppose, untouched
from wordbrush.training.export import write_network
from wordbrush.training.feed import Feed
from wordbrush.training.perceptual import perceptual_distance
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


def standardising(network: AutoencoderKL, mean: Tensor, std: Tensor) -> dict[str, Tensor]:
    """`quant_conv` and `post_quant_conv` that bring latents of this mean and spread, (C,), to 0 and 1, and back.

    Those that the network has already are done too: before the one, after the other.
    """
    count = len(mean)
    weight, bias = torch.diag(torch.cat([1 / std, torch.ones(count)])), torch.cat([-mean / std, -2 * std.log()])
    if network.quant_conv is not None:
        bias = weight @ network.quant_conv.bias.detach() + bias  # type: ignore[union-attr]
        weight = weight @ network.quant_conv.weight.detach()[..., 0, 0]
    back, start = torch.diag(std), mean
    if network.post_quant_conv is not None:
        after = network.post_quant_conv.weight.detach()[..., 0, 0]
        back, start = after @ back, after @ start + network.post_quant_conv.bias.detach()  # type: ignore[union-attr]
    return {
        "quant_conv.weight": weight[..., None, None],
        "quant_conv.bias": bias,
        "post_quant_conv.weight": back[..., None, None],
        "post_quant_conv.bias": start,
    }


class VAESource:
    """The rows of a step: pictures and the noise that is added to their latents. Holds no network, so it is pickled."""

    def __init__(self, recipe: Recipe, train: VAERecipe, config: AutoencoderKLConfig, folder: Path | None) -> None:
        self.seed, self.count, self.train, self.config = recipe.seed, recipe.batch, train, config
        if train.data is None:
            if train.crop % config.downscale:
                low = train.crop // config.downscale * config.downscale
                raise RequestError(
                    f"train.crop={train.crop} is not a multiple of {config.downscale}, by which the autoencoder "
                    f"divides pictures; the nearest that fit are {low} and {low + config.downscale}"
                )
            self.feed = None
        else:
            self.feed = Feed(train.data, recipe.seed, recipe.batch, multiple=config.downscale, folder=folder)

    def __call__(self, step: int, rows: range) -> Batch:
        """`images` (B, 3, H, W) in [-1, 1]; `eps` and, if asked for, `noise`: (B, C, h, w)."""
        images = self.images(step, rows)
        height, width = (side // self.config.downscale for side in images.shape[2:])
        shape = (self.config.latent_channels, height, width)
        batch = {"images": images, "eps": normal_rows(self.seed, step, rows, shape)}
        if self.train.latent_noise:
            amount = self.train.latent_noise * uniform_rows(self.seed, step, rows, purpose=1)
            batch["noise"] = amount.view(-1, 1, 1, 1) * normal_rows(self.seed, step, rows, shape, purpose=2)
        return batch

    def images(self, step: int, rows: range) -> Tensor:
        """(B, 3, H, W) in [-1, 1]."""
        if self.feed is None:
            first = step * self.count
            return to_images(np.stack([scene_crop(self.seed, first + row, self.train.crop) for row in rows]))
        return self.feed.rows(step, rows).images

    def whole(self) -> Iterator[Tensor]:
        """Some hundred pictures to measure latents with, in batches (B, 3, H, W): whole ones, where they are scenes."""
        if self.feed is None:
            scenes = [sample_scene("train", self.seed + 1, index) for index in range(512)]
            for first in range(0, len(scenes), 32):
                yield to_images(np.stack([render(scene) for scene in scenes[first : first + 32]]))
            return
        for step in range(max(1, 512 // self.count)):
            yield self.images(step, range(self.count))


class VAETask(Task):
    """Pictures in, pictures out: L1 + edge L1 + KL, and if wished a perceptual loss and an adversary."""

    def __init__(self, recipe: Recipe, train: VAERecipe, folder: Path | None = None) -> None:
        """`folder`: where it is noted which pictures were passed over as bad."""
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
        self.source = self.pictures = VAESource(recipe, train, self.config, folder)
        if train.perceptual is not None:
            self.frozen["perceptual"] = perceptual_distance(train.perceptual)
        if train.adversary is not None:
            shape = PatchDiscriminatorConfig(channels=train.adversary.channels, layers=train.adversary.layers)
            self.discriminator = PatchDiscriminator(shape)
            self.discriminator.initialise(torch.Generator().manual_seed(recipe.seed + 1))
            self.discriminator.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
            self.modules["discriminator"] = self.discriminator
            self.rates["discriminator"] = train.adversary.rate

    def _continue(self, folder: Path) -> None:
        trained = AutoencoderKLConfig.from_dict(json.loads((folder / "config.json").read_text(encoding="utf-8")))
        if trained != self.config:
            raise RequestError(f"the recipe's network is not that of {folder}; copy its config.json into the recipe")
        self.network.load_state_dict(load_file(folder / "diffusion_pytorch_model.safetensors"))
        self.network.encoder.requires_grad_(False)
        if self.network.quant_conv is not None:
            self.network.quant_conv.requires_grad_(False)

    def batch(self, step: int, rows: range) -> Batch:
        return self.pictures(step, rows)

    def loss(self, batch: Batch, step: int) -> tuple[Tensor, dict[str, Tensor]]:
        """Each `half_scale_every`-th step is of L1, edges and KL alone, at half size."""
        images = batch["images"]
        posterior = self.network.encode_raw(images)
        latents = posterior.mean + torch.exp(0.5 * posterior.logvar) * batch["eps"].to(posterior.mean)
        if self.train.latent_noise:
            latents = latents + batch["noise"].to(latents)
        half = bool(self.train.half_scale_every) and step % self.train.half_scale_every == 0
        if half:
            latents, images = F.avg_pool2d(latents, 2), F.avg_pool2d(images, 2)
        if self.network.post_quant_conv is not None:
            latents = self.network.post_quant_conv(latents)
        features = self.network.decoder.features(latents)
        decoded = self.network.decoder.conv_out(features).float()
        kl = (
            replace(posterior, mean=posterior.mean.float(), logvar=posterior.logvar.float()).kl().mean()
            / latents[0].numel()
        )
        if half:
            kl = kl / 4
        figures = {"kl": kl.detach()}
        if self._opposed(step, half):
            leaf = decoded.detach().requires_grad_()
            reconstruction, parts = self._reconstruction(leaf, images, half)
            pull = oppose(
                self.discriminator,
                images,
                leaf,
                reconstruction,
                last=self.network.decoder.conv_out,
                features=features,
                weight=self.train.adversary.weight if self.train.adversary else 0.0,
            )
            return pull.loss(decoded) + self.train.kl * kl, figures | parts | pull.figures
        reconstruction, parts = self._reconstruction(decoded, images, half)
        loss = reconstruction + self.train.kl * kl
        if self.train.adversary is not None:
            loss = loss + untouched(self.discriminator)
            if step < self.train.adversary.start:  # the curve's columns are those of its first row
                parts |= dict.fromkeys(("adversary", "adversary_weight", "hinge"), kl.new_zeros(()))
        return loss, figures | parts

    def _opposed(self, step: int, half: bool) -> bool:
        return self.train.adversary is not None and step >= self.train.adversary.start and not half

    def _reconstruction(self, decoded: Tensor, images: Tensor, half: bool) -> tuple[Tensor, dict[str, Tensor]]:
        """The mean loss of pictures decoded (B, 3, H, W), and figures."""
        l1 = (decoded - images).abs().mean()
        edge = sum((a - b).abs().mean() for a, b in zip(edges(decoded), edges(images), strict=True))
        loss = l1 + self.train.edges * edge
        figures = {} if half else {"l1": l1.detach()}
        if self.train.perceptual is not None and not half:
            apart = self.frozen["perceptual"](decoded, images).mean()
            loss = loss + self.train.perceptual.weight * apart
            figures["perceptual"] = apart.detach()
        return loss, figures

    def export(self, folder: Path, averaged: dict[str, dict[str, Tensor]]) -> None:
        """Writes `vae/`; latents are brought to zero mean and unit variance, channel by channel.

        Not so where only a decoder was trained: its latents stay what they were.

        The shift and scale become the 1x1 convolutions that Stable Diffusion's autoencoder has between its encoder, the
        latents and its decoder (`quant_conv`, `post_quant_conv`), so any reader of the format gets them right.
        """
        if self.train.decoder_of is not None:
            write_network(folder / "vae", self.config.to_dict(), averaged["vae"], dtype=torch.float32)
            return
        network = AutoencoderKL(self.config)
        network.load_state_dict(averaged["vae"])
        with torch.no_grad():
            means = [network.encode_raw(part).mode().transpose(0, 1).flatten(1) for part in self.pictures.whole()]
        latents = torch.cat(means, dim=1)  # (C, places)
        weights = averaged["vae"] | standardising(network, latents.mean(1), latents.std(1))
        config = replace(
            self.config,
            scaling_factor=1.0,
            sample_size=SIZE if self.train.data is None else self.pictures.images(0, range(1)).shape[3],
            force_upcast=False,
            use_quant_conv=True,
            use_post_quant_conv=True,
        )
        write_network(folder / "vae", config.to_dict(), weights, dtype=torch.float32)
