"""What a model file or folder is, told from its headers and configs; no weights are read.

Importing torch takes longer than reading the header of the largest checkpoint, so nothing on the way does.
"""

from __future__ import annotations

import json
import os
from collections import Counter
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from wordbrush.errors import ModelFileError
from wordbrush.formats import hashes
from wordbrush.formats.checkpoint import open_checkpoint
from wordbrush.formats.inspect_metadata import card_licence, family_licence, licence_of, model_card, training_of
from wordbrush.formats.json_file import read_json
from wordbrush.formats.library import PICTURES
from wordbrush.formats.lora.summary import BASES, summarise
from wordbrush.formats.safetensors_file import Header, TensorInfo, read_scalars
from wordbrush.formats.single_file.components import text_encoders_alone
from wordbrush.formats.single_file.detect import OWN_METADATA, Detected, detect
from wordbrush.formats.weight_files import find_weights

Content = dict[str, Any]

# What `detect` calls a file -> what the library and this report call it.
_KINDS = {"model": "checkpoint", "other model": "checkpoint"}

_PREDICTIONS = {"v": "v_prediction", "flow": "flow_prediction"}

# As in `diffusers_folder.index`, which imports torch.
_OWN = "WordbrushPipeline"

# The smallest of the published networks that denoise, that of Stable Diffusion 1, has 860 million parameters.
_PUBLISHED = 800_000_000

# Parts of a LoRA's names -> the tool in whose manner it is written; the first that fits decides.
_DIALECTS = (
    (("lora_transformer_",), "OneTrainer"), (("lora_unet_", "lora_te"), "kohya"), (("lycoris_",), "LyCORIS"),
    ((".processor.qkv_lora", ".processor.proj_lora"), "XLabs"), (("base_model.model.",), "PEFT"),
    (("diffusion_model.",), "ComfyUI"), ((".lora_A.",), "diffusers (PEFT)"), (("lora.", "lora_linear"), "diffusers"),
)  # fmt: skip


def inspect_model(path: Path) -> Content:
    """Everything that headers and configs tell of a file or folder, as JSON-ready values; see docs/models.md.

    Raises:
        ModelFileError: there is nothing of the kind, or it is damaged.
    """
    if path.is_dir():
        weights = [path / name for name in ("pytorch_lora_weights.safetensors", "adapter_model.safetensors")]
        lora = next((file for file in weights if os.path.isfile(file)), None)
        if lora is not None:
            return inspect_file(lora)
        part = os.path.isfile(path / "config.json") and not os.path.exists(path / "model_index.json")
        return _inspect_part(path) if part else inspect_folder(path)
    return inspect_file(path)


def inspect_file(path: Path) -> Content:
    """What a single file is. Raises `ModelFileError`."""
    if path.suffix.lower() in PICTURES:
        return _picture(path)
    file = open_checkpoint(path)
    content = _told(path, file.header, pickled=file.pickled)
    return content | {"hashes": known_hashes(path, lora=content["kind"] == "lora" and not file.pickled)}


def _inspect_part(folder: Path) -> Content:
    """What the folder of a single network is, such as a VAE alone."""
    config = read_json(folder / "config.json")
    files = find_weights(folder, "diffusion_pytorch_model" if "_class_name" in config else "model")
    headers = [open_checkpoint(file).header for file in files]
    tensors = {name: tensor for header in headers for name, tensor in header.tensors.items()}
    named = config.get("architectures")
    architecture = config.get("_class_name") or ", ".join(map(str, named if isinstance(named, list) else ()))
    content = _told(folder, Header(tensors=tensors, metadata={}), pickled=False)
    return content | {"format": "folder of one network", "class": architecture}


def _told(path: Path, header: Header, *, pickled: bool) -> Content:
    """What a header tells of a file."""
    found = detect(header)
    content: Content = {
        "path": str(path),
        "kind": _KINDS.get(found.kind, found.kind).replace(" ", "_"),
        "format": "pickle" if pickled else "safetensors",
        "what": found.what,
    }
    if found.kind == "model":
        content |= _checkpoint(found)
    elif found.kind == "lora":
        content |= _lora(path, header, pickled)
    elif found.kind == "text encoder":
        content["encoder"] = _encoder(header)
    elif found.kind == "embedding":
        content["vectors"], content["widths"] = _vectors(header)
    parts = _parts(header, found)
    family = content.get("base") or _published(found.family, parts)
    content |= {
        "parameters": sum(part["parameters"] for name, part in parts.items() if name != "other" or len(parts) == 1),
        "bytes": sum(part["bytes"] for part in parts.values()),
        "dtypes": _dtypes(header.tensors.values()),
        "tensors": len(header.tensors),
        "parts": parts if found.kind == "model" else {},
        "license": licence_of(header.metadata) or family_licence(family),
        "about": model_card(header.metadata),
        "training": training_of(header.metadata),
        "metadata": {key: text for key, text in header.metadata.items() if key != OWN_METADATA},
    }
    return {key: value for key, value in content.items() if value not in (None, {}, "")}


def inspect_folder(folder: Path) -> Content:
    """What a diffusers folder is: its pipeline, family, parts, prediction type and native size.

    Raises:
        ModelFileError: it is not a diffusers folder, or a file of it is damaged.
    """
    if not folder.is_dir():
        raise ModelFileError(f"there is no model folder at {folder}")
    index = read_json(folder / "model_index.json")
    files = {part: find_weights(folder / part, stem) for part, stem in _networks(folder, index).items()}
    parts = {part: _part(paths) for part, paths in files.items()}
    scheduler = read_json(folder / "scheduler" / "scheduler_config.json")
    configs = {part: read_json(folder / part / "config.json") for part in files}
    flow = str(scheduler.get("_class_name")).startswith("FlowMatch")
    family = _family(index, configs)
    counted = [part for name, part in parts.items() if name != "safety_checker"]
    denoiser = files.get("unet") or files.get("transformer") or []
    content = {
        "path": str(folder),
        "kind": "checkpoint",
        "format": "diffusers folder",
        "pipeline": index.get("_class_name"),
        "family": family,
        "variant": _variant(configs) if family else None,
        "prediction_type": scheduler.get("prediction_type") or ("flow_prediction" if flow else "epsilon"),
        "scheduler": scheduler.get("_class_name"),
        "native_size": _native_size(configs),
        "latent_channels": configs.get("vae", {}).get("latent_channels"),
        "parameters": sum(part["parameters"] for part in counted),
        "bytes": sum(part["bytes"] for part in parts.values()),
        "dtypes": ", ".join(dict.fromkeys(dtype for part in counted for dtype in part["dtypes"].split(", "))),
        "parts": parts,
        "license": card_licence(folder) or family_licence(_published(family, parts)),
        "hashes": known_hashes(denoiser[0]) if len(denoiser) == 1 else {},
    }
    return {key: value for key, value in content.items() if value not in (None, {}, "")}


def hashed_file(path: Path) -> Path | None:
    """The file whose hash names a model: itself, or the one that holds a folder's network that denoises.

    None where that network is spread over several files, which have no hash together.
    """
    if path.is_file():
        return path
    if not (path / "model_index.json").is_file():
        return None
    index = read_json(path / "model_index.json")
    networks = {part: stem for part, stem in _networks(path, index).items() if part in ("unet", "transformer")}
    files = [file for part, stem in networks.items() for file in find_weights(path / part, stem)]
    return files[0] if len(files) == 1 else None


def known_hashes(path: Path, *, lora: bool = False) -> dict[str, str | None]:
    """The names that a file has by its contents, as far as they are known without reading it; None for the others."""
    sha256 = hashes.cached_sha256(path)
    found = {
        "a1111": None if sha256 is None else hashes.short_hash(sha256),
        "autov2": None if sha256 is None else hashes.autov2(sha256),
        "sha256": sha256,
        "legacy": hashes.legacy_hash(path),
    }
    return found | ({"lora": hashes.cached_lora_hash(path)} if lora else {})


def _networks(folder: Path, index: Mapping[str, Any]) -> dict[str, str]:
    """The parts of a folder that have weights, each with what its file of weights is called."""
    stems = {"diffusers": "diffusion_pytorch_model", "transformers": "model", "stable_diffusion": "model"}
    entries = {part: entry for part, entry in index.items() if isinstance(entry, list) and len(entry) == 2 and entry[1]}
    return {
        part: stems.get(str(entry[0]), "model")
        for part, entry in entries.items()
        if Path(part).name == part and (folder / part / "config.json").is_file()
    }


def _part(files: list[Path]) -> Content:
    tensors = [tensor for path in files for tensor in open_checkpoint(path).header.tensors.values()]
    return _summed(tensors) | {"files": ", ".join(path.name for path in files)}


def _family(index: Mapping[str, Any], configs: Mapping[str, Mapping[str, Any]]) -> str | None:
    """One of `parts.FAMILIES`, by the networks that a folder has; None for one that is not run here."""
    classes = {part: entry[1] for part, entry in index.items() if isinstance(entry, list) and len(entry) == 2}
    if classes.get("transformer") == "FluxTransformer2DModel":
        return "flux-dev" if configs.get("transformer", {}).get("guidance_embeds") else "flux-schnell"
    if classes.get("unet") != "UNet2DConditionModel":
        return None
    if index.get("_class_name") == _OWN and classes.get("text_encoder") != "CLIPTextModel":
        named = "unconditional" if index.get("id2label") is None else "class"
        return "embedding" if classes.get("text_encoder") else named
    if classes.get("text_encoder_2"):
        return "sdxl" if classes.get("text_encoder") else "sdxl-refiner"
    return "sd1" if configs.get("text_encoder", {}).get("hidden_act", "quick_gelu") == "quick_gelu" else "sd2"


def _native_size(configs: Mapping[str, Mapping[str, Any]]) -> int | None:
    """The side of its pictures in pixels; None where the configs do not say."""
    side = _count(configs.get("unet", {}), "sample_size", 64 if "unet" in configs else 128)
    vae = configs.get("vae", {})
    if "unet" in configs and "vae" not in configs:
        return side  # a model of pixels
    levels = vae.get("block_out_channels", vae.get("decoder_block_out_channels"))  # the latter, of a tiny autoencoder
    return side * 2 ** (len(levels) - 1) if isinstance(levels, list) and levels else None


def _variant(configs: Mapping[str, Mapping[str, Any]]) -> str:
    """One of `detect.VARIANTS`, by what the network that denoises takes beside latents."""
    latents = _count(configs.get("vae", {}), "latent_channels", 4)
    if "transformer" in configs:
        channels = _count(configs["transformer"], "in_channels", 64)
        return {8 * latents: "control", 24 * latents: "fill"}.get(channels, "base")
    unet = configs.get("unet", {})
    if unet.get("time_cond_proj_dim") is not None:
        return "lcm"
    channels = _count(unet, "in_channels", latents)
    return {2 * latents + 1: "inpaint", 2 * latents: "instruct-pix2pix"}.get(channels, "base")


def _count(config: Mapping[str, Any], name: str, usual: int) -> int:
    """A whole number of a config, which may hold anything in its place."""
    value = config.get(name)
    return value if isinstance(value, int) and value > 0 else usual


def _checkpoint(found: Detected) -> Content:
    prediction = found.prediction
    return {
        "family": found.family,
        "variant": found.variant,
        "layout": found.layout,
        "prediction_type": "not stated" if prediction is None else _PREDICTIONS.get(prediction, prediction),
        "prediction_from": found.prediction_from or "the network itself, when it is opened",
        "zero_terminal_snr": found.zero_terminal_snr or None,
        "native_size": found.native_size,
        "latent_channels": found.components["vae"].config["latent_channels"] if "vae" in found.components else None,
        "quantisation": found.quantisation,
        "missing": ", ".join(_missing(found)),
    }


def _missing(found: Detected) -> list[str]:
    """What a model of that family needs beside the file: its encoders and VAE."""
    from wordbrush.formats.single_file.configs import TEXT_ENCODERS

    assert found.family is not None
    return [part for part in ("vae", *TEXT_ENCODERS[found.family]) if part not in found.components]


def _lora(path: Path, header: Header, pickled: bool) -> Content:
    summary = summarise({name: tensor.shape for name, tensor in header.tensors.items()}, header.metadata)
    dialect = next(
        (name for marks, name in _DIALECTS if any(mark in key for key in header.tensors for mark in marks)), None
    )
    return {
        "base": summary.base,
        "base_name": None if summary.base is None else BASES[summary.base],
        "dialect": dialect,
        "rules": ", ".join(summary.kinds),
        "ranks": ", ".join(map(str, summary.ranks)),
        "alphas": ", ".join(f"{alpha:g}" for alpha in _alphas(path, header, pickled)),
        "changes": ", ".join(summary.networks),
        "layers": summary.layers,
    }


def _alphas(path: Path, header: Header, pickled: bool) -> list[float]:
    """Alpha of its layers, in rising order: from the tensors, or else from what the trainer wrote."""
    names = [name for name in header.tensors if name.endswith(".alpha")]
    if names and not pickled:
        return sorted(set(read_scalars(path, names).values()))
    stated = {header.metadata.get("ss_network_alpha")}
    try:
        peft = json.loads(header.metadata.get("lora_adapter_metadata", "{}"))
        stated |= {value for key, value in peft.items() if key.rpartition(".")[2] == "lora_alpha"}
        return sorted({float(alpha) for alpha in stated if alpha not in (None, "None")})
    except (ValueError, TypeError, AttributeError):
        return []


def _encoder(header: Header) -> str | None:
    """Which text encoder a file holds, by the width of its token embedding."""
    shapes = {name: tensor.shape for name, tensor in header.tensors.items()}
    names = {768: "CLIP ViT-L/14", 1024: "OpenCLIP ViT-H/14", 1280: "OpenCLIP ViT-bigG/14", 4096: "T5 v1.1 XXL"}
    widths = {shape[1] for name, shape in shapes.items() if name.endswith(_TOKENS) and len(shape) == 2}
    known = [names[width] for width in widths if width in names]
    return known[0] if len(known) == 1 and any(text_encoders_alone(shapes)) else None


_TOKENS = ("token_embedding.weight", "shared.weight", "encoder.embed_tokens.weight")


def _picture(path: Path) -> Content:
    """The embedding that a picture carries, which has to be unpacked."""
    from wordbrush.formats.textual_inversion import read_embedding

    vectors = read_embedding(path).vectors.values()
    count, widths = max(tensor.shape[0] for tensor in vectors), [tensor.shape[1] for tensor in vectors]
    parameters = sum(tensor.numel() for tensor in vectors)
    about = {"path": str(path), "kind": "embedding", "format": "picture", "what": "an embedding in a picture"}
    return about | {"vectors": count, "widths": ", ".join(map(str, widths)), "parameters": parameters}


def _vectors(header: Header) -> tuple[int, str]:
    """How many tokens an embedding takes the place of, and how wide its vectors are."""
    shapes = [tensor.shape for tensor in header.tensors.values() if tensor.shape]
    count = max((shape[0] if len(shape) == 2 else 1 for shape in shapes), default=0)
    return count, ", ".join(str(shape[-1]) for shape in shapes)


def _parts(header: Header, found: Detected) -> dict[str, Content]:
    """The tensors by the network they belong to; "other" are those that none uses."""
    prefixes = sorted(((part.prefix, name) for name, part in found.components.items()), reverse=True)
    groups: dict[str, list[TensorInfo]] = {}
    for name, tensor in header.tensors.items():
        owner = next((part for prefix, part in prefixes if name.startswith(prefix)), "other")
        groups.setdefault(owner, []).append(tensor)
    return {name: _summed(groups[name]) for name in (*found.components, "other") if name in groups}


def _published(family: str | None, parts: Mapping[str, Content]) -> str | None:
    """The family of a model as large as the published ones; a smaller one was made from something else."""
    largest = max((part["parameters"] for part in parts.values()), default=0)
    return family if largest >= _PUBLISHED else None


def _summed(tensors: Iterable[TensorInfo]) -> Content:
    tensors = tuple(tensors)
    return {
        # whole numbers are positions and step counters, not parameters
        "parameters": sum(tensor.parameters for tensor in tensors if "F" in tensor.dtype),
        "bytes": sum(tensor.bytes for tensor in tensors),
        "dtypes": _dtypes(tensors),
    }


def _dtypes(tensors: Iterable[TensorInfo]) -> str:
    """The number formats, that of the most numbers first."""
    counts: Counter[str] = Counter()
    for tensor in tensors:
        counts[tensor.dtype] += tensor.parameters
    return ", ".join(dtype for dtype, _ in counts.most_common())
