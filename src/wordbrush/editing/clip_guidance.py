"""CLIP guidance: the loop is steered towards pictures that CLIP finds like their prompts."""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from copy import deepcopy
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor

from wordbrush.conditioning.prompt.program import PromptProgram
from wordbrush.conditioning.prompt.syntax import parse
from wordbrush.conditioning.tokenizer import ClipTokenizer
from wordbrush.diffusion.prediction import Denoiser
from wordbrush.diffusion.process import Process
from wordbrush.diffusion.steering import steered
from wordbrush.errors import RequestError
from wordbrush.formats.clip_files import ClipFiles, read_clip
from wordbrush.formats.library import on_disk
from wordbrush.formats.parts import ModelParts
from wordbrush.networks.tiny_vae import Autoencoder
from wordbrush.request import GenerationRequest

CUTOUTS = 3
"""Views of a picture that CLIP sees at each step: the whole, and others moved and enlarged a little."""

# A cutout shows at least so much of either side: less would lose things that the prompt names.
_LEAST_VIEW = 0.8


class ClipGuide:
    """A CLIP beside a model's decoder, that says how its latents should change.

    Args:
        files: the CLIP.
        tokenizer: its own, or the model's where its files have none.
        vae: the model's; a plain copy is kept, in float32 unless it is bfloat16, whose gradients cannot overflow.
        device: where to compute.
    """

    def __init__(self, files: ClipFiles, tokenizer: ClipTokenizer, vae: Autoencoder, device: torch.device) -> None:
        with torch.inference_mode(False):
            self._clip = files.model.to(device)
            dtype = next((weight.dtype for weight in vae.parameters()), torch.float32)
            self._dtype = torch.float32 if dtype == torch.float16 else dtype
            self._vae = deepcopy(vae).to(device=device, dtype=self._dtype).requires_grad_(False)
            self._mean, self._std = (torch.tensor(v, device=device).view(1, -1, 1, 1) for v in (files.mean, files.std))
        self._tokenizer, self._device = tokenizer, device

    def texts(self, prompts: Sequence[str]) -> Tensor:
        """Unit embeddings (B, P) of the words of prompts, without weights, schedules and tags."""
        with torch.inference_mode(False), torch.no_grad():
            rows = [
                self._clip.text_features(torch.tensor([self._tokenizer.encode(words_of(prompt))], device=self._device))
                for prompt in prompts
            ]
            return F.normalize(torch.cat(rows), dim=1)

    def similarity(self, images: Tensor, texts: Tensor) -> Tensor:
        """Cosines (B,) of images (B, 3, H, W) in [-1, 1] and unit embeddings (B, P), the whole picture seen once."""
        return (F.normalize(self._embedded(images), dim=1) * texts).sum(dim=1)

    def gradient(self, texts: Tensor, seeds: Sequence[int]) -> Callable[[Tensor, float], Tensor]:
        """The gradient of log p(prompt | x0), which is CLIP's temperature times the mean cosine over the cutouts.

        Every picture is computed alone, and its cutouts are drawn from its seed and t, so that it does not depend on
        its neighbours.

        Args:
            texts: (B, P), of the pictures' prompts.
            seeds: of the pictures.
        """

        def toward(x0: Tensor, t: float) -> Tensor:
            rows = [
                self._row(row[None], text[None], random.Random(f"clip cutouts {seed} {t:.9f}"))
                for row, text, seed in zip(x0, texts, seeds, strict=True)
            ]
            return torch.cat(rows).to(x0)

        return toward

    def _row(self, x0: Tensor, text: Tensor, draws: random.Random) -> Tensor:
        with torch.inference_mode(False), torch.enable_grad():
            # a copy: tensors made in inference mode take no part in gradients
            latents = x0.detach().to(device=self._device, dtype=torch.float32).clone().requires_grad_(True)
            image = self._vae.decode(latents.to(self._dtype)).float()
            views = torch.cat([image, *(_cutout(image, draws) for _ in range(CUTOUTS - 1))])
            cosine = self.similarity(views, text).mean()
            (gradient,) = torch.autograd.grad(self._clip.logit_scale.exp() * cosine, latents)
        return gradient

    def _embedded(self, images: Tensor) -> Tensor:
        """Embeddings (B, P) of (B, 3, H, W) in [-1, 1], shrunk or enlarged to what the image tower takes."""
        side = self._clip.config.vision_config.image_size
        if images.shape[2:] != (side, side):
            images = F.interpolate(images, size=(side, side), mode="bilinear", antialias=True)
        return self._clip.image_features(((images + 1.0) / 2.0 - self._mean) / self._std)


def _cutout(image: Tensor, draws: random.Random) -> Tensor:
    """A part of (1, 3, H, W), at least `_LEAST_VIEW` of either side, enlarged to the whole's size (Crowson 2021)."""
    height, width = image.shape[2:]
    part = draws.uniform(_LEAST_VIEW, 1.0)
    high, wide = max(1, round(part * height)), max(1, round(part * width))
    top, left = draws.randint(0, height - high), draws.randint(0, width - wide)
    cut = image[:, :, top : top + high, left : left + wide]
    return F.interpolate(cut, size=(height, width), mode="bilinear")


def words_of(prompt: str) -> str:
    """What a prompt says in the end, as plain text."""
    program = PromptProgram.parse(prompt)
    texts = [part.text for part in program.at(999, 1000) if part.weight > 0]
    runs = ["".join(run.text for section in parse(text) for run in section) for text in texts]
    return " ".join(" ".join(runs).split())


class ClipShelf:
    """The CLIPs that requests have asked for, each read once, beside one model."""

    def __init__(self, parts: ModelParts) -> None:
        self._parts = parts
        self._guides: dict[str | None, ClipGuide] = {}

    def guide(self, name: str | None, vae: Autoencoder, device: torch.device) -> ClipGuide:
        """The guide of a name; None is the CLIP in the model's own folder.

        Raises:
            RequestError: the model has none, or nothing has the name, or its words cannot be read.
            ModelFileError: its files are damaged.
        """
        if name not in self._guides:
            files = read_clip(self._place(name))
            tokenizer = files.tokenizer or self._parts.tokenizer
            vocabulary = files.model.config.text_config.vocab_size
            if tokenizer is None or len(tokenizer.vocab) != vocabulary:
                raise RequestError(
                    f"the CLIP in {files.source} has no tokenizer of its {vocabulary} pieces; "
                    "put its vocab.json and merges.txt beside it"
                )
            self._guides[name] = ClipGuide(files, tokenizer, vae, device)
        return self._guides[name]

    def _place(self, name: str | None) -> Path:
        if name is not None:
            found = on_disk(name)
            if found is None:
                raise RequestError(f"there is no CLIP at {name!r}; give the path of its folder")
            return found
        source = self._parts.source
        if source is None or not (source / "clip" / "config.json").exists():
            raise RequestError(
                f"the model {self._parts.name!r} has no CLIP of its own to guide it; name one with clip (--clip)"
            )
        return source / "clip"


def guided_by(
    guide: ClipGuide, denoiser: Denoiser, request: GenerationRequest, seeds: Sequence[int], process: Process
) -> Denoiser:
    """The denoiser steered as a filled-in request says; `seeds` are the pictures'."""
    gradient = guide.gradient(guide.texts(request.prompts), seeds)
    return steered(denoiser, gradient, request.clip_guidance or 0.0, process)
