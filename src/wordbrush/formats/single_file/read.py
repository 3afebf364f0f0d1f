"""A checkpoint file to ModelParts."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from wordbrush.diffusion.plan import SamplingConfig
from wordbrush.errors import ModelFileError, RequestError
from wordbrush.formats.checkpoint import Checkpoint, open_checkpoint
from wordbrush.formats.defaults import usual_defaults
from wordbrush.formats.fit import check_fit
from wordbrush.formats.parts import ModelParts
from wordbrush.formats.schedulers import sampling_of
from wordbrush.formats.single_file.configs import Config, scheduler_config
from wordbrush.formats.single_file.contents import (
    SCALED_MARK,
    check_nothing_else,
    content_of,
    in_no_network,
    own_tensors,
    scaled_tensors,
    with_weights,
)
from wordbrush.formats.single_file.detect import Detected, detect
from wordbrush.formats.single_file.elsewhere import missing_networks
from wordbrush.formats.single_file.tokenizers import find_tokenizers
from wordbrush.formats.weights import listed
from wordbrush.networks.unet import UNet
from wordbrush.request_fields import ModelDefaults
from wordbrush.runtime.policy import Runtime

PREDICTIONS = ("epsilon", "v", "sample", "flow")
"""What a network can be said to predict."""

_LARGEST_YAML = 1 << 20
_MARKS = frozenset({"v_pred", "ztsnr"})


def read_single_file(
    path: Path,
    *,
    prediction: str | None = None,
    tokenizer: Path | None = None,
    vae: Path | None = None,
    text_encoders: Sequence[Path] = (),
    name: str | None = None,
    runtime: Runtime | None = None,
) -> ModelParts:
    """Opens a model in one file; its weights are on the CPU, in the number format of the file (fp8 as bfloat16).

    Args:
        path: a .safetensors file, or one that torch.save wrote (.ckpt), which is never executed.
        prediction: what the network predicts, in place of what the file says or is taken to say.
        tokenizer: a folder with the tokenizer, or with folders `tokenizer` and `tokenizer_2`.
        vae: a file or folder of the autoencoder, in place of the file's own or for a file without.
        text_encoders: files or folders of text encoders that the file does not hold.
        name: what requests and metadata call the model; the path if left out.
        runtime: where the model will run: on a CPU, its weights are made ready for that as they are read.

    Raises:
        ModelFileError: the file is damaged, is not a model of a known family, or lacks a part that was not given.
        RequestError: `prediction` is unknown, or has no meaning for this family.
    """
    checkpoint = open_checkpoint(path)
    found = detect(checkpoint.header, prediction=prediction or _beside(path))
    if found.family is None:
        raise ModelFileError(f"{path} is {found.what}; {found.remedy or 'get the file again'}")
    if prediction is not None:
        check_prediction(prediction, found.family, str(path))
    tokenizers = find_tokenizers(path, found.family, folder=tokenizer, written=found.own)
    networks = _own_networks(checkpoint, found, without_vae=vae is not None, runtime=runtime)
    networks |= missing_networks(path, found.family, networks, vae, text_encoders, runtime)
    family = found.family
    if found.prediction is None:
        found = _with_tried_prediction(checkpoint, networks["unet"])
    config = _scheduler_config(found)
    scheduler, note = _scheduler(path, config, found)
    parts = ModelParts(
        family=family,
        **networks,
        **tokenizers,
        scheduler=scheduler,
        defaults=_defaults(path, found, networks, scheduler),
        name=name or str(path),
        zero_negative=bool(found.own.get("zero_negative", found.family == "sdxl")),
        known_words=_known_words(found.own),
        source=path,
        scheduler_json=config,
        notes=() if note is None else (note,),
    )
    check_fit(parts, path)
    return parts


def check_prediction(prediction: str, family: str, name: str) -> None:
    """Raises `RequestError` unless a network of that family can predict that."""
    if prediction not in PREDICTIONS:
        raise RequestError(f"prediction={prediction!r} is unknown; there are {', '.join(PREDICTIONS)}")
    if (prediction == "flow") != family.startswith("flux"):
        raise RequestError(
            f"prediction={prediction!r} has no meaning for {name}: FLUX.1 predicts the flow, Stable Diffusion does not"
        )


def stored_part(path: Path, part: str) -> dict[str, Tensor]:
    """The tensors of one network in a model's file by our names, memory-mapped; none if it is not in the file.

    Raises:
        ModelFileError: the file is gone or damaged.
    """
    checkpoint = open_checkpoint(path)
    component = detect(checkpoint.header).components.get(part)
    return {} if component is None else own_tensors(checkpoint, content_of(checkpoint, component))


def scaled_part(path: Path, part: str, dialect: str) -> Iterator[tuple[dict[str, Tensor], dict[str, Tensor]]]:
    """The 8-bit weights with scales of one network in a model's file, if it is spelt in that dialect there.

    Each as what it is to the network, by our names, and as it is stored, by the file's names without the prefix.

    Raises:
        ModelFileError: the file is gone or damaged.
    """
    checkpoint = open_checkpoint(path)
    component = detect(checkpoint.header).components.get(part)
    if component is None or component.dialect != dialect:
        return
    content = content_of(checkpoint, component)
    own = own_tensors(checkpoint, content)
    for name, stored in scaled_tensors(checkpoint, content).items():
        yield {key: own[key] for key in content.names.links[name].own} if name else {}, stored


def holds_scales(path: Path, *, other_than: Mapping[str, str]) -> bool:
    """Whether a model's file holds 8-bit weights with scales in a network that it does not spell in these dialects.

    other_than: part -> dialect.
    """
    checkpoint = open_checkpoint(path)
    found = [one for one in detect(checkpoint.header).components.values() if other_than.get(one.part) != one.dialect]
    return any(scaled_tensors(checkpoint, content_of(checkpoint, component)) for component in found)


def left_out(path: Path) -> str | None:
    """One sentence on the tensors of a model's file that are in none of its networks; None when there are none.

    Raises:
        ModelFileError: the file is gone or damaged.
    """
    checkpoint = open_checkpoint(path)
    components = detect(checkpoint.header).components.values()
    groups = in_no_network(checkpoint, [content_of(checkpoint, component) for component in components])
    # the marks of a prediction type are told in other ways, and the one of 8-bit weights goes with them
    counts = {name: count for name, count in groups.items() if name not in _MARKS and not name.endswith(SCALED_MARK)}
    if not counts:
        return None
    shown = [f"{name} ({count})" if name.endswith("*") else name for name, count in counts.items()]
    total = sum(counts.values())
    which = "a tensor that is" if total == 1 else f"{total} tensors that are"
    return f"left out {which} in none of the model's networks: {listed(shown)}"


def _own_networks(
    checkpoint: Checkpoint, found: Detected, *, without_vae: bool, runtime: Runtime | None
) -> dict[str, Any]:
    """The networks in the file, none of them with weights unless all of them are whole."""
    contents = [content_of(checkpoint, component) for component in found.components.values()]
    check_nothing_else(checkpoint, contents)
    used = (content for content in contents if not (without_vae and content.component.part == "vae"))
    return {content.component.part: with_weights(checkpoint, content, runtime) for content in used}


def _beside(path: Path) -> str | None:
    """What the .yaml of the original code beside the file says that the network predicts; None without one."""
    place = path.with_suffix(".yaml")
    if not place.is_file():
        return None
    import yaml  # a fiftieth of the time of opening a file that has none

    try:
        if place.stat().st_size > _LARGEST_YAML:
            return None
        parameters = yaml.safe_load(place.read_text(encoding="utf-8"))["model"]["params"]
        stated = parameters.get("parameterization", "eps")  # what the original code takes for granted
        if "denoiser_config" in parameters:
            stated = parameters["denoiser_config"]["params"]["scaling_config"]["target"].rpartition(".")[2]
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError, yaml.YAMLError):
        return None
    return {"v": "v", "eps": "epsilon", "VScaling": "v", "EpsScaling": "epsilon"}.get(str(stated))


def _with_tried_prediction(checkpoint: Checkpoint, unet: UNet) -> Detected:
    """What is detected once the network itself has been asked what it predicts.

    At the last timestep x is all but noise. A network that predicts noise gives about x back; v, alpha * eps - sigma *
    x0, is then all but the negative picture. Input and limit are those of the WebUI; no published weights were at hand
    to try them on.
    """
    kind = next(unet.parameters()).dtype
    x = torch.full((1, unet.config.in_channels, 8, 8), 0.5, dtype=kind)
    context = torch.full((1, 2, unet.config.cross_attention_dim), 0.5, dtype=kind)
    with torch.inference_mode():
        out = unet.eval()(x, torch.tensor([999.0]), context)
    prediction = "v" if (out.float() - x.float()).mean().item() < -1.0 else "epsilon"
    tried = detect(checkpoint.header, prediction=prediction)
    unet.config = type(unet.config).from_dict(tried.components["unet"].config)
    return tried


def _scheduler_config(found: Detected) -> Config:
    noted = found.own.get("scheduler")
    if isinstance(noted, dict) and found.prediction_from != "the caller":
        return noted
    return scheduler_config(
        str(found.family),
        variant=found.variant,
        prediction=found.prediction or "epsilon",
        zero_terminal_snr=found.zero_terminal_snr,
    )


def _scheduler(path: Path, config: Mapping[str, Any], found: Detected) -> tuple[SamplingConfig, str | None]:
    """What the scheduler's config says, and a note on what of it cannot be followed."""
    offset = found.own.get("steps_offset")
    try:
        read, note = sampling_of(config, str(found.family))
        # latents have no bounds, whatever a config says, and diffusers' pipelines overrule some configs' offset
        read = replace(read, clip_x0=None, steps_offset=offset if isinstance(offset, int) else read.steps_offset)
        return read, note
    except (ValueError, TypeError) as error:
        raise ModelFileError(f"{path} is damaged: the scheduler in its metadata: {error}; get it again") from error


def _defaults(path: Path, found: Detected, networks: Mapping[str, Any], scheduler: SamplingConfig) -> ModelDefaults:
    usual = usual_defaults(str(found.family), networks, scheduler)
    noted = found.own.get("defaults")
    if not isinstance(noted, dict):
        return usual
    try:
        return ModelDefaults(**{**usual.model_dump(), **noted})
    except RequestError as error:
        raise ModelFileError(f"{path} is damaged: the defaults in its metadata: {error}; get it again") from error


def _known_words(own: Mapping[str, Any]) -> frozenset[str] | None:
    words = own.get("known_words")
    if not isinstance(words, list) or not all(isinstance(word, str) for word in words):
        return None
    return frozenset(words)
