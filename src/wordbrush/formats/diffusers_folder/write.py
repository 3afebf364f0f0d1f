"""ModelParts to a folder that diffusers opens."""

from __future__ import annotations

import json
import os
import secrets
import shutil
from pathlib import Path

import torch
from torch import nn

from wordbrush.diffusion.scheduler_config import write_scheduler_config
from wordbrush.errors import RequestError, WorkFailed
from wordbrush.formats.defaults import usual_defaults
from wordbrush.formats.diffusers_folder.index import index_of
from wordbrush.formats.diffusers_folder.networks import CLASSES, class_of, config_of, weight_files
from wordbrush.formats.diffusers_folder.read import scheduler_note
from wordbrush.formats.hashes import files_sha256, short_hash
from wordbrush.formats.json_file import write_json
from wordbrush.formats.parts import ModelParts
from wordbrush.formats.safetensors_file import write_tensors
from wordbrush.formats.stored import stored_weights
from wordbrush.networks.tiny_vae import TinyAutoencoder

# What a folder may hold beside the parts of its pipeline, taken along as it is: texts, and the CLIP of both towers that
# our own models are judged with.
_TEXTS = ("README.md", "LICENSE", "LICENSE.md", "NOTICE")
_FOLDERS = ("clip",)


def weights_hash(parts: ModelParts) -> str | None:
    """First ten hex digits of the SHA-256 over the weight files of the network that denoises, or over the single file.

    None for a model never stored.
    """
    if parts.source is None:
        return None
    files = [parts.source]
    if parts.source.is_dir():
        part = "unet" if parts.unet is not None else "transformer"
        files = weight_files(parts.source / part, class_of(parts.denoiser), parts.variant)
    return short_hash(files_sha256(files))


def write_folder(parts: ModelParts, folder: Path, *, dtype: torch.dtype | None = None) -> None:
    """Writes a folder that diffusers opens with the pipeline class of the model's family; whole or not at all.

    A folder that already holds a model is replaced; one that holds something else is left alone. Of a link, that is the
    folder it leads to.

    Args:
        dtype: the number format of its weights; None is the one they were read in.

    Raises:
        RequestError: the folder holds something that is not a model, or the model has half a tiny autoencoder.
        WorkFailed: the files cannot be written.
    """
    if folder.exists() and not (folder.is_dir() and (_is_empty(folder) or (folder / "model_index.json").exists())):
        raise RequestError(f"{folder} exists and is not a model folder; choose another name")
    if isinstance(parts.vae, TinyAutoencoder) and None in (parts.vae.encoder, parts.vae.decoder):
        raise RequestError(
            f"the VAE {parts.vae_name or 'of ' + parts.name} is a decoder without an encoder, which diffusers does not "
            "open; put its encoder beside it (taesd_encoder beside taesd_decoder), or give another VAE"
        )
    place = Path(os.path.realpath(folder))
    temporary = place.with_name(f".wordbrush-{secrets.token_hex(8)}.part")
    try:
        temporary.mkdir(parents=True)
        _write_parts(parts, temporary, dtype)
        _replace_folder(temporary, place)
    except OSError as error:
        raise WorkFailed(f"cannot write the model to {folder}: {error.strerror or error}") from error
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def _is_empty(folder: Path) -> bool:
    return next(folder.iterdir(), None) is None


def _replace_folder(temporary: Path, folder: Path) -> None:
    """Moves the finished folder to its name; an old one is set aside first and brought back if that fails."""
    if not folder.exists():
        temporary.rename(folder)
        return
    aside = temporary.with_name(temporary.name + ".old")
    folder.rename(aside)
    try:
        temporary.rename(folder)
    except OSError:
        aside.rename(folder)
        raise
    shutil.rmtree(aside, ignore_errors=True)


def _write_parts(parts: ModelParts, folder: Path, dtype: torch.dtype | None) -> None:
    for part, network in parts.networks.items():
        place = folder / part
        place.mkdir()
        write_json(place / "config.json", config_of(network))
        tensors = stored_weights(parts, part, network) if dtype is None else _cast(network, dtype)
        write_tensors(place / f"{CLASSES[class_of(network)].stem}.safetensors", tensors)
    scheduler = parts.scheduler_json or write_scheduler_config(parts.scheduler)
    (folder / "scheduler").mkdir()
    write_json(folder / "scheduler" / "scheduler_config.json", scheduler)
    for name in ("tokenizer", "tokenizer_2"):
        _write_tokenizer(parts, name, folder / name)
    if parts.known_words is not None:
        (folder / "words.json").write_text(json.dumps(sorted(parts.known_words)) + "\n", encoding="utf-8")
    usual = usual_defaults(parts.family, parts.networks | {"vae": parts.vae}, parts.scheduler)
    own = {"defaults": parts.defaults.model_dump(mode="json"), "scheduler": scheduler_note(usual)}
    write_json(folder / "wordbrush.json", own)
    _copy_extras(parts, folder)
    write_json(folder / "model_index.json", index_of(parts, scheduler["_class_name"]))


def _write_tokenizer(parts: ModelParts, name: str, place: Path) -> None:
    tokenizer = getattr(parts, name)
    if tokenizer is None:
        return
    place.mkdir()
    for file, text in tokenizer.files().items():
        (place / file).write_text(text, encoding="utf-8")


def _copy_extras(parts: ModelParts, folder: Path) -> None:
    if parts.source is None or not parts.source.is_dir():
        return
    for name in _TEXTS:
        if (parts.source / name).is_file():
            shutil.copyfile(parts.source / name, folder / name)
    for name in _FOLDERS:
        if (parts.source / name / "config.json").is_file():
            shutil.copytree(parts.source / name, folder / name)


def _cast(network: nn.Module, dtype: torch.dtype) -> dict[str, torch.Tensor]:
    return {name: tensor.to(dtype) for name, tensor in network.state_dict().items()}
