"""A diffusers pipeline folder to ModelParts."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from wordbrush.conditioning.tokenizer import ClipTokenizer
from wordbrush.diffusion.plan import SamplingConfig
from wordbrush.errors import ModelFileError, RequestError
from wordbrush.formats.defaults import usual_defaults
from wordbrush.formats.diffusers_folder.index import Index, read_index
from wordbrush.formats.diffusers_folder.networks import check_variant, read_network
from wordbrush.formats.fit import check_fit
from wordbrush.formats.json_file import read_json
from wordbrush.formats.parts import ModelParts
from wordbrush.formats.schedulers import sampling_of
from wordbrush.networks.clip import CLIPTextModel
from wordbrush.networks.pixels import Pixels
from wordbrush.request_fields import ModelDefaults
from wordbrush.runtime.policy import Runtime

# These classes of diffusers overrule a setting of the scheduler that early folders left at an unfit value.
_OVERRULING = frozenset(
    {
        "StableDiffusionPipeline",
        "StableDiffusionImg2ImgPipeline",
        "StableDiffusionInpaintPipeline",
        "LatentConsistencyModelPipeline",
    }
)


def read_folder(
    folder: Path, name: str | None = None, *, variant: str | None = None, runtime: Runtime | None = None
) -> ModelParts:
    """Opens a folder; its weights are on the CPU, in the number format of the files unless `runtime` is given.

    Args:
        variant: which of several forms of the same weights to read, such as "fp16"; parts without it are read plain.
        runtime: where the model will run: on a CPU, its weights are made ready for that as they are read.

    Raises:
        ModelFileError: the folder is not a pipeline of a known family, or one of its files is missing or damaged.
    """
    if not folder.is_dir():
        raise ModelFileError(f"there is no model folder at {folder}")
    _refuse_part(folder)
    index = read_index(folder)
    check_variant(folder, index.networks, variant)
    networks: dict[str, Any] = {
        part: read_network(folder / part, kind, variant, runtime) for part, kind in index.networks.items()
    }
    networks.setdefault("vae", Pixels())
    scheduler_json = read_json(folder / "scheduler" / "scheduler_config.json")
    family = _family(index, networks)
    scheduler, note = _scheduler(folder, index, scheduler_json, family)
    if not isinstance(networks["vae"], Pixels):
        scheduler = replace(scheduler, clip_x0=None)  # latents have no bounds, whatever a file says
    parts = ModelParts(
        family=family,
        **networks,
        **_tokenizers(folder, index),
        scheduler=scheduler,
        defaults=usual_defaults(family, networks, scheduler),
        name=name or str(folder),
        zero_negative=index.zero_negative,
        known_words=_known_words(folder / "words.json"),
        labels=index.labels,
        source=folder,
        variant=variant,
        scheduler_json=scheduler_json,
        notes=() if note is None else (note,),
    )
    check_fit(parts, folder)
    return replace(parts, defaults=_own_defaults(folder / "wordbrush.json", parts.defaults))


def _refuse_part(folder: Path) -> None:
    """Raises `ModelFileError` for the folder of one part, which has a config.json in place of a model_index.json."""
    if (folder / "model_index.json").exists() or not (folder / "config.json").is_file():
        return
    config, above = read_json(folder / "config.json"), folder.resolve().parent
    architectures = config.get("architectures") or ["network"]  # transformers' spelling
    kind = str(config.get("_class_name") or (architectures[0] if isinstance(architectures, list) else "network"))
    whole = (above / "model_index.json").is_file()
    remedy = f"give the folder above, {above}" if whole else "give the folder of the whole model"
    if kind == "AutoencoderKL":
        remedy += ", or a model and this folder as its VAE"
    raise ModelFileError(f"{folder} is one part of a model ({kind}), not a whole one; {remedy}")


def _family(index: Index, networks: Mapping[str, Any]) -> str:
    """One of `FAMILIES` or `OWN_FAMILIES`, told apart where the parts alone do not by what the networks are."""
    if index.family == "flux":
        return "flux-dev" if networks["transformer"].config.guidance_embeds else "flux-schnell"
    if index.family != "sd":
        return index.family
    text = networks["text_encoder"]
    assert isinstance(text, CLIPTextModel)
    return "sd1" if text.config.hidden_act == "quick_gelu" else "sd2"  # OpenAI's CLIP, or OpenCLIP


def _tokenizers(folder: Path, index: Index) -> dict[str, Any]:
    found: dict[str, Any] = {}
    if "text_encoder" in index.networks:
        found["tokenizer"] = ClipTokenizer.from_folder(folder / "tokenizer")
    second = index.networks.get("text_encoder_2")
    if second == "T5EncoderModel":
        from wordbrush.conditioning.t5_tokenizer import T5Tokenizer

        found["tokenizer_2"] = T5Tokenizer.from_folder(folder / "tokenizer_2")
    elif second is not None:
        found["tokenizer_2"] = ClipTokenizer.from_folder(folder / "tokenizer_2")
    return found


def _scheduler(
    folder: Path, index: Index, config: Mapping[str, Any], family: str
) -> tuple[SamplingConfig, str | None]:
    """What the scheduler's config says, and a note on what of it cannot be followed."""
    try:
        read, note = sampling_of(config, family)
    except (ValueError, TypeError) as error:
        raise ModelFileError(f"{folder / 'scheduler' / 'scheduler_config.json'}: {error}") from error
    return (replace(read, steps_offset=1) if index.pipeline in _OVERRULING else read), note


def _own_defaults(path: Path, usual: ModelDefaults) -> ModelDefaults:
    """What our own file says, and the usual where it is silent or not there.

    The file also notes what the scheduler's config stood for when it was written: if that has been edited since, as one
    does for diffusers, the config's sampler and schedule count.
    """
    if not path.exists():
        return usual
    content = read_json(path)
    if not set(content) - {"scheduler"} == {"defaults"} or not isinstance(content["defaults"], dict):
        raise ModelFileError(
            f"{path} must hold an object 'defaults', and beside it 'scheduler' or nothing; it holds {list(content)}"
        )
    own, edited = content["defaults"], content.get("scheduler", scheduler_note(usual)) != scheduler_note(usual)
    if edited:
        own = {name: value for name, value in own.items() if name not in scheduler_note(usual)}
    try:
        return ModelDefaults(**{**usual.model_dump(), **own})
    except RequestError as error:
        raise ModelFileError(f"{path}: {error}") from error


def scheduler_note(usual: ModelDefaults) -> dict[str, Any]:
    """What wordbrush.json notes of the scheduler's config; `usual` are the defaults without that file."""
    return {"sampler": usual.sampler, "schedule": usual.schedule}


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
