"""Pictures of the same model by diffusers and by us, from the same noise, for every family and sampler.

`test_families.py` holds them together; `picture_table.py` writes down how far apart they are.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from unittest import mock

import diffusers
import numpy as np
import torch
from diffusers.models.autoencoders.vae import DiagonalGaussianDistribution
from PIL import Image
from safetensors.torch import load_file, save_file
from torch import Tensor

import wordbrush
from wordbrush import Pipeline
from wordbrush.formats.diffusers_folder import read_folder
from wordbrush.formats.single_file.write import write_single_file

PROMPT, NEGATIVE = "a fox to the left of a red car", "green house"
STEPS = 4
SIDE = 32

# sampler -> the diffusers scheduler that it stands for
SCHEDULERS: dict[str, tuple[str, dict[str, Any]]] = {
    "ddpm": ("DDPMScheduler", {}),
    "ddim": ("DDIMScheduler", {}),
    "pndm": ("PNDMScheduler", {"skip_prk_steps": True}),
    "euler": ("EulerDiscreteScheduler", {}),
    "euler_a": ("EulerAncestralDiscreteScheduler", {}),
    "heun": ("HeunDiscreteScheduler", {}),
    "lms": ("LMSDiscreteScheduler", {}),
    "dpmpp_2m": ("DPMSolverMultistepScheduler", {}),
    "dpmpp_2m_sde": ("DPMSolverMultistepScheduler", {"algorithm_type": "sde-dpmsolver++"}),
    "unipc": ("UniPCMultistepScheduler", {}),
    "deis": ("DEISMultistepScheduler", {}),
}
# what docs/samplers.md says of PNDM on v-prediction
_WITHOUT_PNDM = tuple(name for name in SCHEDULERS if name != "pndm")


@dataclass(frozen=True)
class Family:
    """How a family is called in both programs; `guided` and `plain` are our names and theirs."""

    guided: tuple[dict[str, Any], dict[str, Any]] = ({"guidance": 5.0}, {"guidance_scale": 5.0})
    plain: tuple[dict[str, Any], dict[str, Any]] = ({"guidance": 1.0}, {"guidance_scale": 1.0})
    samplers: tuple[str, ...] = tuple(SCHEDULERS)
    picture: bool = False


IMAGE = Image.effect_noise((SIDE, SIDE), 80).convert("RGB")
MASK = Image.new("L", (SIDE, SIDE), 0)
MASK.paste(255, (7, 3, 25, 30))

FAMILIES = {
    "sd1": Family(),
    "sd2-v": Family(samplers=_WITHOUT_PNDM),
    "sdxl": Family(),
    "inpaint": Family(picture=True),
    "edit": Family(
        guided=({"guidance": 5.0, "image_guidance": 1.5}, {"guidance_scale": 5.0, "image_guidance_scale": 1.5}),
        plain=({"guidance": 1.0, "image_guidance": 1.0}, {"guidance_scale": 1.0}),
        picture=True,
    ),
    "lcm": Family(samplers=("lcm",)),
    "sdxl-inpaint": Family(picture=True, samplers=("euler", "dpmpp_2m")),
}
FLOW_FAMILIES = ("flux-dev", "flux-schnell")


class Reference:
    """A pipeline of diffusers, and pictures it has painted."""

    def __init__(self, folder: Path) -> None:
        self.pipeline = diffusers.DiffusionPipeline.from_pretrained(folder)
        self.pipeline.set_progress_bar_config(disable=True)
        self.own_scheduler = self.pipeline.scheduler
        self.config = self.own_scheduler.config

    def use(self, sampler: str | None) -> None:
        """Makes a sampler the pipeline's; None is its own."""
        self.pipeline.scheduler = self.own_scheduler
        if sampler in SCHEDULERS:
            name, options = SCHEDULERS[sampler]
            self.pipeline.scheduler = getattr(diffusers, name).from_config(self.config, **options)

    def __call__(self, **options: Any) -> np.ndarray:
        """(H, W, 3) in 0..255, float."""
        output = self.pipeline(prompt=PROMPT, num_inference_steps=STEPS, output_type="np", **options)
        return np.asarray(255.0 * output.images[0])


@contextmanager
def most_likely_latents() -> Iterator[None]:
    """diffusers draws a picture's latents, we take the most likely; what it draws would also shift all later noise."""
    with mock.patch.object(DiagonalGaussianDistribution, "sample", lambda self, generator=None: self.mode()):
        yield


@dataclass(frozen=True)
class Ours:
    """A model opened twice: from its folder, and from a single file in the original layout, as other tools write it."""

    folder: Pipeline
    file: Pipeline

    def __iter__(self) -> Iterator[Pipeline]:
        return iter((self.folder, self.file))

    @classmethod
    def opened(cls, name: str, folder: Path, temporary: Path) -> Ours:
        """The model in `folder`, and in a file that is written to `temporary`."""
        path = temporary / f"{name}.safetensors"
        write_single_file(read_folder(folder), path)
        strip_our_notes(path)
        prediction = "v" if name == "sd2-v" else None
        file = wordbrush.load(path, dtype="float32", tokenizer=folder, prediction=prediction)
        return cls(wordbrush.load(folder, dtype="float32"), file)


def strip_our_notes(path: Path) -> None:
    """Leaves of a file what any other tool would have written: tensors alone."""
    save_file(load_file(path), path)


def starting_noise(channels: int = 4, seed: int = 3) -> Tensor:
    return torch.randn(1, channels, SIDE // 4, SIDE // 4, generator=torch.Generator().manual_seed(seed))


def painted(pipe: Pipeline, **options: Any) -> np.ndarray:
    """The picture before anything outside a mask is put back, (H, W, 3) in 0..255."""
    return np.asarray(pipe.decode(_final(pipe, options))[0], dtype=np.float64)


def painted_exactly(pipe: Pipeline, **options: Any) -> np.ndarray:
    """The same before it is rounded."""
    image = pipe.codec.decode(_final(pipe, options))[0].double()
    return np.asarray((127.5 * (image + 1.0)).clamp(0, 255).permute(1, 2, 0))


def _final(pipe: Pipeline, options: dict[str, Any]) -> Tensor:
    return pipe(PROMPT, steps=STEPS, seed=11, width=SIDE, height=SIDE, **options).latents


def picture_of(peer: Reference, name: str, sampler: str, *, guided: bool) -> tuple[np.ndarray, dict[str, Any]]:
    """diffusers' picture of a Stable Diffusion, (H, W, 3) in 0..255, and the options by which we paint it."""
    family, noise = FAMILIES[name], starting_noise()
    own, theirs = family.guided if guided else family.plain
    own, theirs = dict(own), dict(theirs)
    if name != "lcm":
        own["negative_prompt"] = theirs["negative_prompt"] = NEGATIVE
    if family.picture:
        own["image"] = theirs["image"] = IMAGE
        if "inpaint" in name:
            own |= {"mask": MASK, "strength": 1.0}
            theirs |= {"mask_image": MASK, "strength": 1.0, "height": SIDE, "width": SIDE}
    peer.use(sampler)
    expected = peer(latents=noise.clone(), generator=torch.Generator().manual_seed(11), **theirs)
    return expected, own | {"latents": noise, "sampler": sampler}


def shifted_levels(sigmas: Any, shift: float | None, mu: float | None) -> np.ndarray:
    """FLUX's noise levels by its paper: sigma / (sigma + (1 - sigma) / shift), shift being e^mu with a dynamic one."""
    factor = float(np.exp(mu)) if shift is None else shift
    levels = np.asarray(sigmas, dtype=np.float64)
    return factor * levels / (1.0 + (factor - 1.0) * levels)


class FlowLMS(diffusers.LMSDiscreteScheduler):  # type: ignore[misc]
    """diffusers' linear multistep method on a flow: what it takes for noise is dx / dsigma, and FLUX predicts that."""

    shift: float | None = None

    def set_timesteps(self, count: int | None = None, device: Any = None, sigmas: Any = None, mu: Any = None) -> None:
        if sigmas is None:  # as it is made
            super().set_timesteps(count)
            return
        levels = shifted_levels(sigmas, self.shift, mu)
        super().set_timesteps(len(levels))
        self.sigmas = torch.from_numpy(np.append(levels, 0.0)).float()
        self.timesteps = 1000.0 * self.sigmas[:-1]
        self.is_scale_input_called = True


class FlowHeun(diffusers.FlowMatchHeunDiscreteScheduler):  # type: ignore[misc]
    """diffusers' Heun through the noise levels that the pipeline of FLUX asks for, which it cannot be told."""

    shift_of_model: float | None = None

    def set_timesteps(self, count: int | None = None, device: Any = None, sigmas: Any = None, mu: Any = None) -> None:
        levels = torch.from_numpy(shifted_levels(sigmas, self.shift_of_model, mu)).float()
        super().set_timesteps(len(levels))
        self.sigmas = torch.cat([levels[:1], levels[1:].repeat_interleave(2), torch.zeros(1)])
        self.timesteps = 1000.0 * self.sigmas[:-1]


_FLOW = {"use_flow_sigmas": True, "prediction_type": "flow_prediction"}
# sampler -> diffusers' scheduler on a flow; ddim's step is there the same as Euler's
FLOW_SCHEDULERS: dict[str, tuple[Any, dict[str, Any]]] = {
    "euler": (diffusers.FlowMatchEulerDiscreteScheduler, {}),
    "ddim": (diffusers.FlowMatchEulerDiscreteScheduler, {}),
    "heun": (FlowHeun, {"shift": 1.0}),
    "lms": (FlowLMS, {}),
    "lcm": (diffusers.FlowMatchLCMScheduler, {}),
    "dpmpp_2m": (diffusers.DPMSolverMultistepScheduler, _FLOW),
    "dpmpp_2m_sde": (diffusers.DPMSolverMultistepScheduler, _FLOW | {"algorithm_type": "sde-dpmsolver++"}),
    "unipc": (diffusers.UniPCMultistepScheduler, _FLOW),
}


def flow_scheduler(sampler: str, config: dict[str, Any], *, dev: bool) -> Any:
    """diffusers' scheduler for FLUX.1 dev or schnell, whose pipeline says a shift to each."""
    kind, options = FLOW_SCHEDULERS[sampler]
    scheduler = kind.from_config(config | options | ({} if dev else {"flow_shift": 1.0}))
    if not dev and kind in (diffusers.DPMSolverMultistepScheduler, diffusers.UniPCMultistepScheduler):
        unshifted = scheduler.set_timesteps
        # they refuse a shift by size that they do not use
        scheduler.set_timesteps = lambda *args, mu=None, **rest: unshifted(*args, **rest)
    if not dev:
        scheduler.shift_of_model = 1.0
        if sampler == "lms":
            scheduler.shift = 1.0
    return scheduler


def packed_draws(generator: torch.Generator) -> Callable[..., Tensor]:
    """diffusers' `randn_tensor` for packed pictures, drawn as for pictures that are not.

    Its pipeline for FLUX hands its own generator to no scheduler.
    """

    def draw(shape: Any, **_: Any) -> Tensor:
        rows, tokens, channels = shape
        side = 2 * int(tokens**0.5)
        drawn = torch.randn(rows, channels // 4, side, side, generator=generator)
        return diffusers.FluxPipeline._pack_latents(drawn, rows, channels // 4, side, side)

    return draw


def flux_picture_of(peer: Reference, name: str, sampler: str, *, guided: bool) -> tuple[np.ndarray, dict[str, Any]]:
    """The same of a FLUX.1."""
    noise, dev = starting_noise(), name == "flux-dev"
    peer.pipeline.scheduler = flow_scheduler(sampler, dict(peer.config), dev=dev)
    theirs: dict[str, Any] = {"guidance_scale": 3.5, "max_sequence_length": 512 if dev else 256}
    own: dict[str, Any] = {"guidance": 3.5} if dev else {"guidance": 1.0}
    if guided:
        theirs |= {"true_cfg_scale": 4.0, "negative_prompt": NEGATIVE}
        own |= {"negative_prompt": NEGATIVE, ("true_guidance" if dev else "guidance"): 4.0}
    place = "diffusers.schedulers.scheduling_{}.randn_tensor"
    draw = packed_draws(torch.Generator().manual_seed(11))
    with mock.patch(place.format("dpmsolver_multistep"), draw), mock.patch(place.format("flow_match_lcm"), draw):
        packed = diffusers.FluxPipeline._pack_latents(noise.clone(), 1, 4, SIDE // 4, SIDE // 4)
        expected = peer(latents=packed, height=SIDE, width=SIDE, **theirs)
    return expected, own | {"latents": noise, "sampler": sampler}
