"""ModelParts to one file, in the layout of the original code of its family."""

from __future__ import annotations

import contextlib
import json
import secrets
from collections.abc import Callable, Iterator, Mapping
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from wordbrush.diffusion.process import BetaConfig
from wordbrush.diffusion.scheduler_config import write_scheduler_config
from wordbrush.errors import ModelFileError, RequestError, WorkFailed
from wordbrush.formats.diffusers_folder.networks import config_of
from wordbrush.formats.parts import ModelParts
from wordbrush.formats.safetensors_file import read_header, write_tensors
from wordbrush.formats.single_file.components import OPEN_CLIP, ORIGINAL, TRANSFORMERS, Component
from wordbrush.formats.single_file.configs import VAES
from wordbrush.formats.single_file.contents import names_of
from wordbrush.formats.single_file.detect import OWN_METADATA
from wordbrush.formats.single_file.keymap import KeyMap
from wordbrush.formats.single_file.tiny_vae import BESIDE, HALVES
from wordbrush.formats.stored import scaled_weights, stored_weights
from wordbrush.networks.pixels import Pixels
from wordbrush.networks.tiny_vae import TinyAutoencoder

_UNET, _VAE = ("model.diffusion_model.", ORIGINAL), ("first_stage_model.", ORIGINAL)
_STABLE_DIFFUSION = {"unet": _UNET, "vae": _VAE}
_FLUX = {
    "transformer": _UNET,
    "vae": ("vae.", ORIGINAL),
    "text_encoder": ("text_encoders.clip_l.transformer.", TRANSFORMERS),
    "text_encoder_2": ("text_encoders.t5xxl.transformer.", TRANSFORMERS),
}
# family -> part -> (prefix, dialect of names)
_LAYOUTS: dict[str, dict[str, tuple[str, str]]] = {
    "sd1": _STABLE_DIFFUSION | {"text_encoder": ("cond_stage_model.transformer.", TRANSFORMERS)},
    "sd2": _STABLE_DIFFUSION | {"text_encoder": ("cond_stage_model.model.", OPEN_CLIP)},
    "sdxl": _STABLE_DIFFUSION
    | {
        "text_encoder": ("conditioner.embedders.0.transformer.", TRANSFORMERS),
        "text_encoder_2": ("conditioner.embedders.1.model.", OPEN_CLIP),
    },
    "sdxl-refiner": _STABLE_DIFFUSION | {"text_encoder_2": ("conditioner.embedders.0.model.", OPEN_CLIP)},
    "flux-dev": _FLUX,
    "flux-schnell": _FLUX,
}
_ARCHITECTURES = {
    "sd1": "stable-diffusion-v1",
    "sdxl": "stable-diffusion-xl-v1-base",
    "sdxl-refiner": "stable-diffusion-xl-v1-refiner",
    "flux-dev": "flux-1-dev",
    "flux-schnell": "flux-1-schnell",
}
_CODE = {
    "sd": "https://github.com/Stability-AI/generative-models",
    "flux": "https://github.com/black-forest-labs/flux",
}


def write_single_file(parts: ModelParts, path: Path, *, dtype: torch.dtype | None = None) -> None:
    """Writes a .safetensors file that other tools open as well; it appears whole or not at all.

    What the layout cannot say (the schedulers, tokenizers and our own defaults) goes into the metadata, so that
    `read_single_file` gives the same parts again, bit for bit.

    Args:
        dtype: the number format of the weights; None leaves every tensor in the one it was read in.

    Raises:
        RequestError: no single-file layout knows such a model.
        WorkFailed: the file cannot be written.
    """
    if parts.family not in _LAYOUTS or isinstance(parts.vae, Pixels):
        raise RequestError(
            f"{parts.name!r} is a model of pixels or without words, which single files have no names for; "
            "give a folder as the target"
        )
    tensors = _Made(_markers(parts))
    for part, (prefix, dialect) in _LAYOUTS[parts.family].items():
        if part == "vae":
            prefix += _half_alone(parts)
        tensors.add(parts, Component(part=part, prefix=prefix, dialect=dialect, config={}), dtype)
    temporary = path.with_name(f".wordbrush-{secrets.token_hex(8)}.part")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        write_tensors(temporary, tensors, _metadata(parts, path))
        temporary.replace(path)
    except OSError as error:
        raise WorkFailed(f"cannot write the model to {path}: {error.strerror or error}") from error
    finally:
        temporary.unlink(missing_ok=True)


def dialects(family: str) -> dict[str, str]:
    """How a file that is written spells the names of a model of that family: part -> dialect."""
    return {part: dialect for part, (_, dialect) in _LAYOUTS[family].items()}


def _half_alone(parts: ModelParts) -> str:
    """What stands before the numbers of a tiny autoencoder of which the model has one half; else nothing."""
    halves = [half for half in HALVES if getattr(parts.vae, half) is not None]
    return f"taesd_{halves[0]}." if len(halves) == 1 else ""


class _Made(Mapping[str, Tensor]):
    """The tensors of a file by name, each put together from the network's when it is asked for, and not kept."""

    def __init__(self, tensors: Mapping[str, Tensor]) -> None:
        self._makers: dict[str, Callable[[], Tensor]] = {}
        for name, tensor in tensors.items():
            self._makers[name] = partial(torch.clone, tensor)

    def add(self, parts: ModelParts, component: Component, dtype: torch.dtype | None) -> None:
        """Adds the tensors of a part, for a file that holds it at the component's prefix in its dialect."""
        network = parts.networks[component.part]
        own = stored_weights(parts, component.part, network)
        names = KeyMap(names_of(component, network, {}), {name: tuple(tensor.shape) for name, tensor in own.items()})
        for name in names.links:
            self._makers[component.prefix + name] = partial(_original, names, name, own, dtype)
        if dtype is None:
            for name, tensor in scaled_weights(parts, component.part, component.dialect).items():
                self._makers[component.prefix + name] = partial(torch.clone, tensor)

    def __getitem__(self, name: str) -> Tensor:
        return self._makers[name]()

    def __iter__(self) -> Iterator[str]:
        return iter(self._makers)

    def __len__(self) -> int:
        return len(self._makers)


def _original(names: KeyMap, name: str, own: Mapping[str, Tensor], dtype: torch.dtype | None) -> Tensor:
    tensor = names.original(name, own)
    return tensor.detach().to("cpu", dtype if tensor.is_floating_point() else None)


def _markers(parts: ModelParts) -> dict[str, Tensor]:
    """What tells other tools of a model, and is no weight of it.

    Empty tensors whose names say that it predicts v, and that its process ends in pure noise; beside a tiny
    autoencoder the scale and shift by which ComfyUI divides its latents again.
    """
    noise, found = parts.scheduler.noise, dict[str, Tensor]()
    if isinstance(parts.vae, TinyAutoencoder) and not _half_alone(parts):
        prefix, large = _LAYOUTS[parts.family]["vae"][0], VAES[parts.family]
        values = (large["scaling_factor"], large["shift_factor"] or 0.0)
        found = {prefix + name: torch.tensor(value) for name, value in zip(BESIDE, values, strict=True)}
    if parts.scheduler.prediction != "v":
        return found
    ends_in_noise = isinstance(noise, BetaConfig) and noise.zero_terminal_snr
    return found | {name: torch.zeros(0) for name in ("v_pred", *(["ztsnr"] if ends_in_noise else []))}


def _metadata(parts: ModelParts, path: Path) -> dict[str, str]:
    """The metadata of the model's own file, the facts of ModelSpec 1.0.1, and what our reader needs besides."""
    kept: dict[str, str] = {}
    if parts.source is not None and parts.source.is_file():
        with contextlib.suppress(ModelFileError):  # a pickle has none, and the file may be gone by now
            kept = {
                key: text for key, text in read_header(parts.source).metadata.items() if key.startswith("modelspec.")
            }
    prediction, defaults = parts.scheduler.prediction, parts.defaults
    kind = {"v": "stable-diffusion-v2-768-v"}.get(prediction, "stable-diffusion-v2-512")
    stated = {
        "modelspec.sai_model_spec": "1.0.1",
        "modelspec.architecture": _ARCHITECTURES.get(parts.family, kind),
        "modelspec.implementation": _CODE["flux" if parts.transformer is not None else "sd"],
        "modelspec.resolution": f"{defaults.width}x{defaults.height}",
    }
    if prediction in ("epsilon", "v"):
        stated["modelspec.prediction_type"] = prediction
    titled = {"modelspec.title": path.stem} | kept | stated
    return titled | {OWN_METADATA: json.dumps(_own(parts), separators=(",", ":"))}


def _own(parts: ModelParts) -> dict[str, Any]:
    scheduler = dict(parts.scheduler_json or write_scheduler_config(parts.scheduler))
    tokenizers = {name: getattr(parts, name) for name in ("tokenizer", "tokenizer_2")}
    own: dict[str, Any] = {
        "configs": {part: config_of(network) for part, network in parts.networks.items()},
        "scheduler": scheduler,
        "steps_offset": parts.scheduler.steps_offset,
        "defaults": parts.defaults.model_dump(mode="json"),
        "zero_negative": parts.zero_negative,
    } | {name: tokenizer.files() for name, tokenizer in tokenizers.items() if tokenizer is not None}
    if parts.known_words is not None:
        own["known_words"] = sorted(parts.known_words)
    return own
