"""What a trained file says of itself: kohya's `ss_…`, the ModelSpec's `modelspec.…` and the hashes in its metadata."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime

import torch
from torch import nn

from wordbrush.formats.lora.summary import BASE_OF_TEXT_WIDTH, BASES
from wordbrush.networks.flux import FluxTransformer
from wordbrush.networks.unet import UNet

_VERSIONS = {"sd1": "sd_v1", "sd2": "sd_v2", "sdxl": "sdxl_base_v1-0", "sdxl-refiner": "sdxl_refiner", "flux": "flux1"}
_ARCHITECTURES = {
    "sd1": "stable-diffusion-v1",
    "sd2": "stable-diffusion-v2-512",
    "sdxl": "stable-diffusion-xl-v1-base",
    "sdxl-refiner": "stable-diffusion-xl-v1-refiner",
    "flux": "flux-1-dev",
}
_STABILITY = "https://github.com/Stability-AI/generative-models"  # kohya's word for all textual inversions too
_IMPLEMENTATIONS = {
    "sdxl": _STABILITY,
    "sdxl-refiner": _STABILITY,
    "flux": "https://github.com/black-forest-labs/flux",
}
# The ModelSpec's words for what a network predicts.
_PREDICTIONS = {"epsilon": "epsilon", "v": "v", "v_prediction": "v"}


@dataclass(frozen=True, kw_only=True)
class TrainingNotes:
    """What is known of a training run, for the metadata of the file it gives; what is None is left out.

    Attributes:
        name: of the file, without its ending.
        base: family of the model it was trained on, a key of `summary.BASES`; None takes it from the networks, and
            leaves it open where those are of no published family.
        base_name, base_hash: that model's own name, and the SHA-256 of its file.
        prediction: what its network predicts: "epsilon", "v" or "flow".
        guided: of FLUX, whether the network takes a guidance scale (dev) or not (schnell).
        resolution: width and height of the training pictures in pixels.
        clip_skip: how many of the text encoder's last layers were left out, counted as kohya does: 1 for none.
        trigger: words that call what was taught.
        title, author, description, licence, tags, usage: for people.
        tag_frequency: folder of pictures -> tag or caption -> how often it was there.
        started, finished: of the run, in seconds since 1970.
        settings: whatever else kohya's scripts note, by their names without `ss_`: "seed", "max_train_steps",
            "unet_lr", "optimizer", "num_train_images", …
    """

    name: str
    base: str | None = None
    base_name: str | None = None
    base_hash: str | None = None
    prediction: str = "epsilon"
    guided: bool = True
    resolution: tuple[int, int] | None = None
    clip_skip: int | None = None
    trigger: str | None = None
    title: str | None = None
    author: str | None = None
    description: str | None = None
    licence: str | None = None
    tags: str | None = None
    usage: str | None = None
    tag_frequency: Mapping[str, Mapping[str, int]] = field(default_factory=dict)
    started: float | None = None
    finished: float | None = None
    settings: Mapping[str, object] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if self.base is not None and self.base not in BASES:
            raise ValueError(f"the base {self.base!r} is unknown; there are {', '.join(BASES)}")


def base_of(networks: Mapping[str, nn.Module]) -> str | None:
    """The family that networks are of, a key of `summary.BASES`; None when their sizes are of no published one."""
    if isinstance(networks.get("transformer"), FluxTransformer):
        return "flux"
    unet = networks.get("unet")
    return BASE_OF_TEXT_WIDTH.get(unet.config.cross_attention_dim) if isinstance(unet, UNet) else None


def kohya_metadata(notes: TrainingNotes, base: str | None) -> dict[str, str]:
    """The `ss_…` entries, all but those of the adapter's shape."""
    version = _VERSIONS.get(base or "")
    if version in ("sd_v1", "sd_v2") and notes.prediction.startswith("v"):
        version += "_v"
    known: dict[str, object] = {
        "output_name": notes.name,
        "base_model_version": version or notes.base_name,
        "v2": base == "sd2",
        "sd_model_name": notes.base_name,
        "new_sd_model_hash": notes.base_hash,
        "resolution": None if notes.resolution is None else f"({notes.resolution[0]}, {notes.resolution[1]})",
        "clip_skip": "None" if notes.clip_skip is None else notes.clip_skip,
        "tag_frequency": json.dumps(notes.tag_frequency, ensure_ascii=False) if notes.tag_frequency else None,
        "training_started_at": notes.started,
        "training_finished_at": notes.finished,
        **notes.settings,
    }
    return {f"ss_{name}": str(value) for name, value in known.items() if value is not None}


def modelspec(notes: TrainingNotes, base: str | None, kind: str) -> dict[str, str]:
    """The entries of the ModelSpec 1.0.1 (Stability AI), all but the hash. kind: "lora" or "textual-inversion"."""
    architecture = _ARCHITECTURES.get(base or "", "stable-diffusion")
    if base == "sd2" and notes.prediction.startswith("v"):
        architecture = "stable-diffusion-v2-768-v"
    elif base == "flux" and not notes.guided:
        architecture = "flux-1-schnell"
    date = None
    if notes.finished is not None:
        date = datetime.fromtimestamp(int(notes.finished), UTC).replace(tzinfo=None).isoformat()
    implementation = _IMPLEMENTATIONS.get(base or "", _STABILITY if kind == "textual-inversion" else "diffusers")
    known = {
        "sai_model_spec": "1.0.1",
        "architecture": f"{architecture}/{kind}",
        "implementation": implementation,
        "title": notes.title or notes.name,
        "resolution": None if notes.resolution is None else f"{notes.resolution[0]}x{notes.resolution[1]}",
        "prediction_type": _PREDICTIONS.get(notes.prediction),
        "encoder_layer": None if notes.clip_skip is None else str(notes.clip_skip),
        "date": date,
        "trigger_phrase": notes.trigger,
        "author": notes.author,
        "description": notes.description,
        "license": notes.licence,
        "tags": notes.tags,
        "usage_hint": notes.usage,
    }
    return {f"modelspec.{name}": value for name, value in known.items() if value is not None}


def hashes_of(tensors: Mapping[str, torch.Tensor], metadata: Mapping[str, str]) -> dict[str, str]:
    """The entries that name a file by its content: kohya's two, and the ModelSpec's.

    kohya takes them of the file as it would be with its `ss_…` entries alone, so that what people add later changes
    neither: the SHA-256 of what follows the header, and the first 8 digits of that of 64 KiB at 1 MiB.
    """
    from safetensors.torch import save

    kept = {name: value for name, value in metadata.items() if name.startswith("ss_")}
    data = memoryview(save({name: tensor.contiguous() for name, tensor in tensors.items()}, metadata=kept))
    start = 8 + int.from_bytes(data[:8], "little")
    whole = hashlib.sha256(data[start:]).hexdigest()
    legacy = hashlib.sha256(data[0x100000:0x110000]).hexdigest()[:8]
    return {"sshs_model_hash": whole, "sshs_legacy_hash": legacy, "modelspec.hash_sha256": f"0x{whole}"}
