"""The peer of `training.py`: what diffusers' text-to-image training example does in a step, in words of our own.

    python benchmarks/diffusers_training.py TASK.json

accelerate with bf16 autocast; a DataLoader without workers that opens, resizes, cuts and normalises pictures and
tokenises captions; the frozen VAE and text encoder in bfloat16, both run in every step; noise and uniform timesteps;
the U-Net; mean squared error; backward; clipping; AdamW; a constant rate; the EMA of diffusers' training_utils; the
loss gathered and read in every step. torchvision's transforms are replaced by Pillow and numpy.

TASK.json is described in `training.py`, and so is what this script prints.
"""

from __future__ import annotations

import json
import os
import sys
import time
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

os.environ.setdefault("HF_HUB_OFFLINE", "1")
warnings.simplefilter("ignore")

import diffusers  # noqa: E402
import numpy as np  # noqa: E402
import torch  # noqa: E402
import torch.nn.functional as F  # noqa: E402
import transformers  # noqa: E402
from accelerate import Accelerator  # noqa: E402
from accelerate.utils import set_seed  # noqa: E402
from diffusers import AutoencoderKL, DDPMScheduler, UNet2DConditionModel  # noqa: E402
from diffusers.optimization import get_scheduler  # noqa: E402
from diffusers.training_utils import EMAModel  # noqa: E402
from PIL import Image  # noqa: E402
from torch.utils.data import DataLoader, Dataset  # noqa: E402
from transformers import CLIPTextModel, CLIPTokenizer  # noqa: E402


class Folder(Dataset[tuple[torch.Tensor, str]]):
    """Pictures and captions of an imagefolder with metadata.jsonl, prepared one by one."""

    def __init__(self, folder: Path, size: int) -> None:
        lines = (folder / "metadata.jsonl").read_text(encoding="utf-8").splitlines()
        self.rows = [json.loads(line) for line in lines]
        self.folder, self.size = folder, size

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, index: int) -> tuple[torch.Tensor, str]:
        row, size = self.rows[index], self.size
        image = Image.open(self.folder / row["file_name"]).convert("RGB")
        scale = size / min(image.size)
        if scale != 1:
            image = image.resize((round(image.width * scale), round(image.height * scale)), Image.Resampling.BILINEAR)
        x = int(torch.randint(image.width - size + 1, ()))
        y = int(torch.randint(image.height - size + 1, ()))
        pixels = np.asarray(image.crop((x, y, x + size, y + size)))
        return torch.from_numpy(pixels.copy()).permute(2, 0, 1).contiguous().float().div(127.5).sub(1), row["text"]


def steps(task: dict[str, Any]) -> Iterator[float]:
    """Trains for ever; yields after each step the seconds it waited for data."""
    set_seed(0)
    accelerator = Accelerator(mixed_precision="bf16" if task["precision"] == "bfloat16" else "no", cpu=True)
    model = task["model"]
    scheduler = DDPMScheduler.from_pretrained(model, subfolder="scheduler")
    tokenizer = CLIPTokenizer.from_pretrained(model, subfolder="tokenizer")
    text_encoder = CLIPTextModel.from_pretrained(model, subfolder="text_encoder")
    vae = AutoencoderKL.from_pretrained(model, subfolder="vae")
    unet = UNet2DConditionModel.from_pretrained(model, subfolder="unet")
    average = EMAModel(unet.parameters(), model_cls=UNet2DConditionModel, model_config=unet.config, decay=task["ema"])
    vae.requires_grad_(False)
    text_encoder.requires_grad_(False)
    unet.train()
    optimizer = torch.optim.AdamW(unet.parameters(), lr=task["learning_rate"], betas=(0.9, 0.999), weight_decay=0.01)

    def collate(rows: list[tuple[torch.Tensor, str]]) -> dict[str, torch.Tensor]:
        ids = tokenizer(
            [text for _, text in rows],
            max_length=tokenizer.model_max_length,
            padding="max_length",
            truncation=True,
            return_tensors="pt",
        ).input_ids
        return {"pixel_values": torch.stack([pixels for pixels, _ in rows]), "input_ids": ids}

    data = Folder(Path(task["data"]), task["size"])
    loader = DataLoader(data, shuffle=True, collate_fn=collate, batch_size=task["batch"], num_workers=0, drop_last=True)
    rate = get_scheduler("constant", optimizer=optimizer, num_warmup_steps=0)
    unet, optimizer, loader, rate = accelerator.prepare(unet, optimizer, loader, rate)
    dtype = torch.bfloat16 if task["precision"] == "bfloat16" else torch.float32
    vae.to(dtype=dtype)
    text_encoder.to(dtype=dtype)
    while True:
        marked = time.perf_counter()
        for batch in loader:
            waited = time.perf_counter() - marked
            with accelerator.accumulate(unet):
                latents = vae.encode(batch["pixel_values"].to(dtype)).latent_dist.sample() * vae.config.scaling_factor
                noise = torch.randn_like(latents)
                timesteps = torch.randint(0, scheduler.config.num_train_timesteps, (len(latents),))
                noisy = scheduler.add_noise(latents, noise, timesteps)
                states = text_encoder(batch["input_ids"])[0]
                target = scheduler.get_velocity(latents, noise, timesteps)
                predicted = unet(noisy, timesteps, states).sample
                loss = F.mse_loss(predicted.float(), target.float())
                accelerator.gather(loss.repeat(task["batch"])).mean().item()
                accelerator.backward(loss)
                if accelerator.sync_gradients:
                    accelerator.clip_grad_norm_(unet.parameters(), task["clip"])
                optimizer.step()
                rate.step()
                optimizer.zero_grad()
            if accelerator.sync_gradients:
                average.step(unet.parameters())
            loss.detach().item()
            yield waited
            marked = time.perf_counter()


def main() -> None:
    """Trains as many steps as each line of standard input says, and prints how long they took."""
    task = json.loads(Path(sys.argv[1]).read_text(encoding="utf-8"))
    torch.set_num_threads(task["threads"])
    diffusers.logging.set_verbosity_error()
    transformers.logging.set_verbosity_error()
    transformers.logging.disable_progress_bar()
    print(json.dumps({"name": f"diffusers {diffusers.__version__}"}), flush=True)
    running = steps(task)
    for line in sys.stdin:
        started, busy, waited = time.perf_counter(), time.process_time(), 0.0
        for _ in range(int(line)):
            waited += next(running)
        seconds, busy = time.perf_counter() - started, time.process_time() - busy
        print(json.dumps({"seconds": seconds, "busy": busy, "waited": waited}), flush=True)


if __name__ == "__main__":
    main()
