"""Training the latent-diffusion U-Net, and the text encoder with it, on scenes."""

from __future__ import annotations

import hashlib
import json
import os
import random
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from wordbrush.conditioning.tokenizer import ClipTokenizer
from wordbrush.data.pixels import to_images
from wordbrush.data.scenes import caption, render, sample_scene
from wordbrush.diffusion.prediction import get_prediction
from wordbrush.diffusion.process import DiscreteVP
from wordbrush.diffusion.scheduler_config import read_scheduler_config
from wordbrush.errors import ModelFileError, RequestError
from wordbrush.networks.clip import CLIPConfig, CLIPTextModel
from wordbrush.networks.unet import UNet, UNetConfig
from wordbrush.networks.vae import AutoencoderKL, AutoencoderKLConfig
from wordbrush.training.export import write_network
from wordbrush.training.loop import Batch
from wordbrush.training.recipe import DenoiserRecipe, Recipe


class LatentBank:
    """Latents of scenes, encoded a window at a time and kept in the run's folder, so that resuming finds them.

    Step k of batch size b uses window k*b // (window * passes); within a window each pass is a fresh permutation. So
    what a step sees is a function of the step alone.
    """

    def __init__(self, recipe: Recipe, train: DenoiserRecipe, folder: Path, device: torch.device) -> None:
        self.recipe, self.train, self.folder = recipe, train, folder
        source = Path(train.vae)
        config = AutoencoderKLConfig.from_dict(json.loads((source / "config.json").read_text()))
        self.vae = AutoencoderKL(config)
        self.vae.load_state_dict(load_file(source / "diffusion_pytorch_model.safetensors"))
        self.vae.to(device=device, dtype=torch.bfloat16, memory_format=torch.channels_last)  # type: ignore[call-overload]
        self.vae.requires_grad_(False)
        # another autoencoder or other scenes make other latents: their files have other names
        stamp = (source / "diffusion_pytorch_model.safetensors").stat().st_mtime_ns
        made_of = f"{train.vae}|{stamp}|{recipe.seed}|{train.window}"
        self.key = hashlib.blake2b(made_of.encode(), digest_size=6).hexdigest()
        self.number = -1
        self.latents = torch.empty(0)

    def rows(self, step: int) -> tuple[Tensor, list[int]]:
        """The step's latents (B, C, h, w) and the numbers of their scenes."""
        window, batch = self.train.window, self.recipe.batch
        per_pass = window // batch
        number, position = divmod(step, per_pass * self.train.passes)
        if number != self.number:
            self.latents, self.number = self._window(number), number
        turn, place = divmod(position, per_pass)
        order = torch.randperm(
            window, generator=torch.Generator().manual_seed((self.recipe.seed * 1_000_003 + number) * 1_009 + turn)
        )
        chosen = order[place * batch : (place + 1) * batch]
        return self.latents[chosen].float(), [number * window + index for index in chosen.tolist()]

    def _window(self, number: int) -> Tensor:
        path = self.folder / f"latents-{self.key}-{number}.safetensors"
        if path.exists():
            return load_file(path)["latents"]
        parts = []
        for start in range(0, self.train.window, 64):
            indices = range(
                number * self.train.window + start, number * self.train.window + min(start + 64, self.train.window)
            )
            pixels = np.stack([render(sample_scene("train", self.recipe.seed, index)) for index in indices])
            with torch.no_grad():
                images = to_images(pixels).to(next(self.vae.parameters())).contiguous(memory_format=torch.channels_last)
                parts.append(self.vae.encode(images).mode().half().cpu())
        latents = torch.cat(parts).contiguous()
        # the window before stays: a run resumed from a checkpoint of its last steps needs it again
        (self.folder / f"latents-{self.key}-{number - 2}.safetensors").unlink(missing_ok=True)
        partial = path.with_suffix(".partial")
        save_file({"latents": latents}, partial)
        os.replace(partial, path)
        return latents


class DenoiserTask:
    """Noisy latents and captions in; out what the scheduler config says that the network predicts."""

    def __init__(self, recipe: Recipe, train: DenoiserRecipe, folder: Path, device: torch.device | None = None) -> None:
        """`device`: where scenes are encoded; the CPU unless given. The loop moves the networks."""
        self.recipe, self.train = recipe, train
        self.tokenizer = ClipTokenizer.from_folder(Path(train.tokenizer))
        clip = Path(train.clip)
        self.text_config = CLIPConfig.from_dict(json.loads((clip / "config.json").read_text())).text_config
        self.text = CLIPTextModel(self.text_config)
        weights = load_file(clip / "model.safetensors")
        self.text.load_state_dict({key: value for key, value in weights.items() if key.startswith("text_model.")})
        self.text.requires_grad_(train.train_text)
        self.config = UNetConfig.from_dict(train.network)
        self.network = UNet(self.config)
        self.network.initialise(torch.Generator().manual_seed(recipe.seed))
        if train.start is not None:
            self._start_from(Path(train.start))
        self.network.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        self.modules: dict[str, nn.Module] = {"unet": self.network, "text_encoder": self.text}
        sampling = read_scheduler_config(train.scheduler)
        if not isinstance(sampling.process, DiscreteVP):
            raise RequestError(
                f"the scheduler {train.scheduler.get('_class_name')!r} is a flow's; this task trains SD's"
            )
        self.alpha_bar = torch.from_numpy(sampling.process.alphas_cumprod)
        self.prediction = get_prediction(sampling.prediction)
        self.bank = LatentBank(recipe, train, folder, device or torch.device("cpu"))

    def _start_from(self, folder: Path) -> None:
        for network, path in (
            (self.network, folder / "unet/diffusion_pytorch_model.safetensors"),
            (self.text, folder / "text_encoder/model.safetensors"),
        ):
            try:
                network.load_state_dict({key: value.float() for key, value in load_file(path).items()})
            except (OSError, SafetensorError, RuntimeError) as error:
                reason = str(error).strip().split("\n")[0]
                raise ModelFileError(f"the run cannot start from {path}: {reason}") from error

    def batch(self, step: int) -> Batch:
        latents, numbers = self.bank.rows(step)
        rng = random.Random(f"{self.recipe.seed}/{step}")
        ids = []
        for number in numbers:
            text = (
                ""
                if rng.random() < self.train.drop_caption
                else caption(sample_scene("train", self.recipe.seed, number), rng)
            )
            ids.append(self.tokenizer.encode(text))
        return {"latents": latents, "ids": torch.tensor(ids)}

    def timesteps(self, count: int, generator: torch.Generator) -> Tensor:
        """(count,) integers: stratified draws, logit-normal but for a uniform part."""
        spread = (
            torch.randperm(count, generator=generator) + torch.rand(count, generator=generator)
        ) / count  # (B,) uniform
        normal = torch.special.ndtri(spread.double().clamp(1e-6, 1 - 1e-6))
        times = torch.sigmoid(self.train.time_mean + self.train.time_std * normal)
        uniform = torch.rand(count, generator=generator) < self.train.uniform_times
        times = torch.where(uniform, torch.rand(count, generator=generator).double(), times)
        return (times * len(self.alpha_bar)).long().clamp(0, len(self.alpha_bar) - 1)

    def loss(
        self,
        batch: Batch,
        step: int,  # noqa: ARG002  every task has this signature
        generator: torch.Generator,
    ) -> tuple[Tensor, dict[str, Tensor]]:
        x0 = batch["latents"]
        timesteps = self.timesteps(len(x0), generator)
        eps = torch.randn(x0.shape, generator=generator).to(x0)
        alpha_bar = self.alpha_bar[timesteps].view(-1, 1, 1, 1)
        alpha, sigma = alpha_bar.sqrt().to(x0), (1 - alpha_bar).sqrt().to(x0)  # (B, 1, 1, 1)
        x = (alpha * x0 + sigma * eps).contiguous(memory_format=torch.channels_last)
        context = self.text(batch["ids"]).last_hidden_state
        predicted = self.network(x, timesteps.to(x.device), context).float()
        loss = F.mse_loss(predicted, self.prediction.target(x0, eps, alpha, sigma))
        return loss, {}

    def export(self, folder: Path, averaged: dict[str, dict[str, Tensor]]) -> None:
        """Writes `unet/`, `text_encoder/` and `scheduler/`; `assemble` joins them with the other parts."""
        write_network(folder / "unet", self.config.to_dict(), averaged["unet"], dtype=torch.float32)
        text = {"architectures": ["CLIPTextModel"], **self.text_config.to_dict()}
        write_network(
            folder / "text_encoder", text, averaged["text_encoder"], dtype=torch.float32, weights_name="model"
        )
        (folder / "scheduler").mkdir(exist_ok=True)
        (folder / "scheduler/scheduler_config.json").write_text(json.dumps(self.train.scheduler, indent=2) + "\n")
