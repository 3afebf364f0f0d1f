"""A Stable Diffusion model as a diffusers pipeline folder, read and written.

model_index.json            which class each part is
unet/ vae/ text_encoder/    config.json and weights
tokenizer/                  vocab.json, merges.txt
scheduler/                  scheduler_config.json
wordbrush.json, words.json  optional, ours: the defaults of a request, and the words seen in training
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import secrets
import shutil
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, TypeVar

import torch
from torch import nn

from wordbrush.conditioning.tokenizer import ClipTokenizer
from wordbrush.diffusion.plan import SamplingConfig
from wordbrush.diffusion.scheduler_config import read_scheduler_config, write_scheduler_config
from wordbrush.errors import ModelFileError, RequestError, WorkFailed
from wordbrush.formats.parts import ModelParts
from wordbrush.formats.safetensors_file import write_tensors
from wordbrush.formats.weights import build, find_weights, read_weights
from wordbrush.networks.clip import CLIPTextConfig, CLIPTextModel
from wordbrush.networks.unet import UNet, UNetConfig
from wordbrush.networks.vae import AutoencoderKL, AutoencoderKLConfig
from wordbrush.request import ModelDefaults

M = TypeVar("M", bound=nn.Module)

# part -> (the class that model_index.json must name, the file name of its weights without ending)
NETWORKS = {
    "unet": ("UNet2DConditionModel", "diffusion_pytorch_model"),
    "vae": ("AutoencoderKL", "diffusion_pytorch_model"),
    "text_encoder": ("CLIPTextModel", "model"),
}

# What old files call the VAE's attention layers -> today's names.
_VAE_RENAMES = {"query": "to_q", "key": "to_k", "value": "to_v", "proj_attn": "to_out.0"}

# Buffers that old transformers stored and that follow from the config.
_TEXT_IGNORED = frozenset({"text_model.embeddings.position_ids"})


def read_folder(folder: Path, name: str | None = None) -> ModelParts:
    """Opens a folder; its weights stay in the number format of the files, on the CPU.

    Raises:
        ModelFileError: the folder is not a Stable Diffusion pipeline, or one of its files is missing or damaged.
    """
    if not folder.is_dir():
        raise ModelFileError(f"there is no model folder at {folder}")
    index = read_json(folder / "model_index.json")
    _check_index(folder, index)
    unet = _read_network(folder, "unet", lambda config: UNet(UNetConfig.from_dict(config)))
    vae = _read_network(folder, "vae", lambda config: AutoencoderKL(AutoencoderKLConfig.from_dict(config)))
    text = _read_network(folder, "text_encoder", lambda config: CLIPTextModel(CLIPTextConfig.from_dict(config)))
    tokenizer = ClipTokenizer.from_folder(folder / "tokenizer")
    _check_fit(folder, unet, vae, text, tokenizer)
    scheduler_json = read_json(folder / "scheduler" / "scheduler_config.json")
    scheduler = _scheduler(folder, scheduler_json)
    return ModelParts(
        unet=unet,
        vae=vae,
        text_encoder=text,
        tokenizer=tokenizer,
        scheduler=scheduler,
        defaults=_defaults(folder, unet, vae, scheduler),
        name=name or str(folder),
        known_words=_known_words(folder / "words.json"),
        source=folder,
        scheduler_json=scheduler_json,
    )


def read_json(path: Path) -> dict[str, Any]:
    """A JSON object from a model folder. Raises `ModelFileError` when it is missing or is something else."""
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise ModelFileError(f"{path} is missing; the folder is not a whole diffusers model") from error
    except (OSError, ValueError, RecursionError) as error:
        raise ModelFileError(f"{path} cannot be read: {error}") from error
    if not isinstance(content, dict):
        raise ModelFileError(f"{path} does not hold a JSON object")
    return content


def _check_index(folder: Path, index: Mapping[str, Any]) -> None:
    for part, (wanted, _) in NETWORKS.items():
        entry = index.get(part)
        found = entry[1] if isinstance(entry, list) and len(entry) == 2 else None
        if found != wanted:
            pipeline = index.get("_class_name")
            raise ModelFileError(
                f"{folder} holds a {pipeline} whose {part} is {found}; this version opens Stable Diffusion 1 and 2 "
                f"folders, where it is {wanted}"
            )
    second = index.get("text_encoder_2")
    if isinstance(second, list) and second[0] is not None:
        raise ModelFileError(
            f"{folder} holds a {index.get('_class_name')} with two text encoders, which this version cannot run"
        )


def _read_network(folder: Path, part: str, make: Callable[[dict[str, Any]], M]) -> M:
    place = folder / part
    config = read_json(place / "config.json")
    tensors = _current_names(part, read_weights(find_weights(place, NETWORKS[part][1])))
    try:
        return build(lambda: make(config), tensors, place)
    except ModelFileError:
        raise
    except (ValueError, TypeError) as error:
        raise ModelFileError(f"{place / 'config.json'}: {error}") from error


def _current_names(part: str, tensors: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """The tensors under the names that our networks use, whichever year's library wrote them."""
    if part == "text_encoder":
        # transformers 5 leaves out the prefix that all files before it have
        named = {key if key.startswith("text_") else f"text_model.{key}": value for key, value in tensors.items()}
        return {key: value for key, value in named.items() if key not in _TEXT_IGNORED}
    if part == "vae":
        return dict(_renamed_attention(key, value) for key, value in tensors.items())
    return tensors


def _renamed_attention(key: str, tensor: torch.Tensor) -> tuple[str, torch.Tensor]:
    """Today's name and shape of a VAE attention weight that an old file calls `...attentions.0.query.weight`."""
    head, _, old = key.rpartition(".")[0].rpartition(".")
    if ".attentions." not in key or old not in _VAE_RENAMES:
        return key, tensor
    # older still: a 1x1 convolution in place of the linear layer
    return f"{head}.{_VAE_RENAMES[old]}.{key.rpartition('.')[2]}", tensor[:, :, 0, 0] if tensor.ndim == 4 else tensor


def _scheduler(folder: Path, config: Mapping[str, Any]) -> SamplingConfig:
    try:
        # diffusers' own class for these folders overrules two settings that early files left at unfit values
        return replace(read_scheduler_config(config), steps_offset=1, clip_x0=None)
    except (ValueError, TypeError) as error:
        raise ModelFileError(f"{folder / 'scheduler' / 'scheduler_config.json'}: {error}") from error


def _check_fit(folder: Path, unet: UNet, vae: AutoencoderKL, text: CLIPTextModel, tokenizer: ClipTokenizer) -> None:
    """The parts must be made for each other; otherwise the first picture would fail deep inside a network."""
    channels, latents = unet.config.in_channels, vae.config.latent_channels
    wide, width = unet.config.cross_attention_dim, text.config.hidden_size
    last, words = max(tokenizer.vocab.values()), text.config.vocab_size
    long, length = tokenizer.max_length, text.config.max_position_embeddings
    pairs = (
        (channels == latents, f"the U-Net takes {channels} channels, the VAE makes {latents}"),
        (wide == width, f"the U-Net reads {wide} numbers a token, the text encoder gives {width}"),
        (last < words, f"the tokenizer has ids up to {last}, the text encoder knows {words}"),
        (long <= length, f"the tokenizer makes {long} tokens, the text encoder takes {length}"),
    )
    for fits, problem in pairs:
        if not fits:
            raise ModelFileError(f"the parts of {folder} do not belong together: {problem}")


def _defaults(folder: Path, unet: UNet, vae: AutoencoderKL, scheduler: SamplingConfig) -> ModelDefaults:
    """Our own file's word, else what diffusers does with such a folder: 50 steps at guidance 7.5."""
    side = (unet.config.sample_size or 64) * vae.config.downscale
    fields: dict[str, Any] = {
        "steps": 50,
        "guidance": 7.5,
        "sampler": scheduler.sampler,
        "schedule": scheduler.default_schedule(),
        "width": side,
        "height": side,
    }
    path = folder / "wordbrush.json"
    if path.exists():
        content = read_json(path)
        if set(content) != {"defaults"} or not isinstance(content["defaults"], dict):
            raise ModelFileError(f"{path} must hold one object, 'defaults', and nothing else; it holds {list(content)}")
        fields.update(content["defaults"])
    try:
        return ModelDefaults(**fields)
    except RequestError as error:
        raise ModelFileError(f"{path}: {error}") from error


def _known_words(path: Path) -> frozenset[str] | None:
    if not path.exists():
        return None
    try:
        words = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise ModelFileError(f"{path} cannot be read: {error}") from error
    if not isinstance(words, list) or not all(isinstance(word, str) for word in words):
        raise ModelFileError(f"{path} does not hold a JSON list of words")
    return frozenset(words)


def weights_hash(parts: ModelParts) -> str | None:
    """First ten hex digits of the SHA-256 over the U-Net's weight files; None for a model never stored."""
    if parts.source is None:
        return None
    digest = hashlib.sha256()
    for path in find_weights(parts.source / "unet", NETWORKS["unet"][1]):
        with path.open("rb") as file:
            while block := file.read(1 << 20):
                digest.update(block)
    return digest.hexdigest()[:10]


def write_folder(parts: ModelParts, folder: Path) -> None:
    """Writes a folder that diffusers' StableDiffusionPipeline opens; it appears whole or not at all.

    A folder that already holds a model is replaced; one that holds something else is left alone.

    Raises:
        RequestError: the folder holds something that is not a model.
        WorkFailed: the files cannot be written.
    """
    if folder.exists() and not (folder.is_dir() and (_is_empty(folder) or (folder / "model_index.json").exists())):
        raise RequestError(f"{folder} exists and is not a model folder; choose another name")
    temporary = folder.with_name(f".wordbrush-{secrets.token_hex(8)}.part")
    try:
        temporary.mkdir(parents=True)
        _write_parts(parts, temporary)
        _replace_folder(temporary, folder)
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


def _write_parts(parts: ModelParts, folder: Path) -> None:
    networks = {"unet": parts.unet, "vae": parts.vae, "text_encoder": parts.text_encoder}
    configs = {
        "unet": parts.unet.config.to_dict(),
        "vae": parts.vae.config.to_dict(),
        "text_encoder": parts.text_encoder.to_dict(),
    }
    for part, network in networks.items():
        place = folder / part
        place.mkdir()
        _write_json(place / "config.json", configs[part])
        write_tensors(place / f"{NETWORKS[part][1]}.safetensors", _stored_weights(parts, part, network))
    (folder / "scheduler").mkdir()
    scheduler = parts.scheduler_json or write_scheduler_config(parts.scheduler)
    _write_json(folder / "scheduler" / "scheduler_config.json", scheduler)
    (folder / "tokenizer").mkdir()
    for name, text in parts.tokenizer.files().items():
        (folder / "tokenizer" / name).write_text(text, encoding="utf-8")
    if parts.known_words is not None:
        (folder / "words.json").write_text(json.dumps(sorted(parts.known_words)) + "\n", encoding="utf-8")
    _write_json(folder / "wordbrush.json", {"defaults": parts.defaults.model_dump(mode="json")})
    for extra in ("README.md", "LICENSE", "NOTICE"):
        if parts.source is not None and (parts.source / extra).is_file():
            shutil.copyfile(parts.source / extra, folder / extra)
    _write_json(folder / "model_index.json", model_index(scheduler["_class_name"]))


def model_index(scheduler_class: str) -> dict[str, Any]:
    """The model_index.json of a Stable Diffusion pipeline with this diffusers scheduler."""
    absent = {name: [None, None] for name in ("feature_extractor", "image_encoder", "safety_checker")}
    return {
        "_class_name": "StableDiffusionPipeline",
        **absent,
        "requires_safety_checker": False,
        "scheduler": ["diffusers", scheduler_class],
        "text_encoder": ["transformers", "CLIPTextModel"],
        "tokenizer": ["transformers", "CLIPTokenizer"],
        "unet": ["diffusers", "UNet2DConditionModel"],
        "vae": ["diffusers", "AutoencoderKL"],
    }


def _stored_weights(parts: ModelParts, part: str, network: nn.Module) -> dict[str, torch.Tensor]:
    """The network's tensors, in the number format they were read in as long as nothing has changed them.

    A model opened in bfloat16 from a float16 folder is so written back without loss.
    """
    current = network.state_dict()
    if parts.source is None:
        return current
    stored: dict[str, torch.Tensor] = {}
    with contextlib.suppress(ModelFileError):  # the folder it came from may be gone by now
        stored = _current_names(part, read_weights(find_weights(parts.source / part, NETWORKS[part][1])))
    result = {}
    for name, tensor in current.items():
        before = stored.get(name)
        unchanged = before is not None and torch.equal(before.to(tensor.dtype), tensor.cpu())
        result[name] = before if before is not None and unchanged else tensor
    return result


def _write_json(path: Path, content: Mapping[str, Any]) -> None:
    path.write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")
