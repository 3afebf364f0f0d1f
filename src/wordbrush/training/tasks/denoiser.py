"""Training the latent-diffusion U-Net, and the text encoder with it, on scenes."""

from __future__ import annotations

import json
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from wordbrush.diffusion.process import DiscreteVP
from wordbrush.diffusion.scheduler_config import read_scheduler_config
from wordbrush.errors import ModelFileError, RequestError
from wordbrush.networks.clip import CLIPConfig, CLIPTextModel
from wordbrush.networks.unet import UNet, UNetConfig
from wordbrush.training.export import write_network
from wordbrush.training.recipe import Recipe
from wordbrush.training.task import Batch, Task
from wordbrush.training.tasks.denoising import Draws, Told, denoising_rows
from wordbrush.training.tasks.latents import LatentBank
from wordbrush.training.tasks.recipes import DenoiserRecipe


class DenoiserTask(Task):
    """Noisy latents and captions in; out what the scheduler config says that the network predicts."""

    def __init__(
        self,
        recipe: Recipe,
        train: DenoiserRecipe,
        folder: Path,
        device: torch.device | None = None,
        *,
        workers: int = 0,
    ) -> None:
        """`device`: where scenes are encoded; the CPU unless given. The loop moves the networks."""
        super().__init__()
        self.recipe, self.train = recipe, train
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
        self.modules = {"unet": self.network, "text_encoder": self.text}
        sampling = read_scheduler_config(train.scheduler)
        if not isinstance(sampling.process, DiscreteVP):
            raise RequestError(
                f"the scheduler {train.scheduler.get('_class_name')!r} is a flow's; this task trains SD's"
            )
        self.draws = Draws(train.objective, sampling, seed=recipe.seed, batch=recipe.batch)
        self.bank = LatentBank(recipe, train, folder, device or torch.device("cpu"), workers=workers)

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

    def batch(self, step: int, rows: range) -> Batch:
        """The step's latents and captions, and its noise: drawn here, so that the network need not wait for it."""
        latents, ids = self.bank.rows(step, rows)
        return {"latents": latents, "ids": ids} | self.draws(step, rows, latents.shape[1:])

    def close(self) -> None:
        self.bank.close()

    def loss(self, batch: Batch, step: int) -> tuple[Tensor, dict[str, Tensor]]:
        told = Told(context=self.text(batch["ids"]).last_hidden_state)
        return denoising_rows(self.network, self.draws, batch["latents"], batch, told).mean(), {}

    def export(self, folder: Path, averaged: dict[str, dict[str, Tensor]]) -> None:
        """Writes `unet/`, `text_encoder/` and `scheduler/`; `assemble` joins them with the other parts."""
        write_network(folder / "unet", self.config.to_dict(), averaged["unet"], dtype=torch.float32)
        text = {"architectures": ["CLIPTextModel"], **self.text_config.to_dict()}
        write_network(
            folder / "text_encoder", text, averaged["text_encoder"], dtype=torch.float32, weights_name="model"
        )
        (folder / "scheduler").mkdir(exist_ok=True)
        (folder / "scheduler/scheduler_config.json").write_text(json.dumps(self.train.scheduler, indent=2) + "\n")
