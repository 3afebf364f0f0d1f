"""What a checkpoint file is, told from the names, shapes and number formats of its tensors; no weight is read."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Set
from dataclasses import dataclass, field, replace
from typing import Any

from wordbrush.formats.safetensors_file import Header
from wordbrush.formats.single_file.components import (
    DENOISER_PREFIXES,
    DIFFUSERS,
    ORIGINAL,
    Component,
    autoencoders,
    marked,
    text_encoders,
    text_encoders_alone,
    text_prefixes,
    under,
)
from wordbrush.formats.single_file.configs import Config, latents_side
from wordbrush.formats.single_file.kinds import LORA, TEXT_ENCODER, TINY_VAE, VAE, Kind, not_a_model, other_model
from wordbrush.formats.single_file.shapes import Shapes, UnknownShape, flux_config
from wordbrush.formats.single_file.shapes_unet import unet_config
from wordbrush.formats.single_file.tiny_vae import tiny_place

VARIANTS = ("base", "inpaint", "instruct-pix2pix", "lcm", "control", "fill")
"""What else a network takes than noisy latents and text: a mask and picture (inpaint, in FLUX called fill), a picture
(instruct-pix2pix), a guidance scale (lcm), edges or depth (control)."""

OWN_METADATA = "wordbrush"
"""The key under `__metadata__` of what our own writer knows and no tensor tells, as JSON."""

_NAMES = {
    "sd1": "a Stable Diffusion 1 model",
    "sd2": "a Stable Diffusion 2 model",
    "sdxl": "a Stable Diffusion XL model",
    "sdxl-refiner": "the refiner of Stable Diffusion XL",
    "flux-dev": "a FLUX.1 dev model",
    "flux-schnell": "a FLUX.1 schnell model",
}
_FP8 = {"F8_E4M3", "F8_E5M2"}

# Settings of the networks' configs that leave no trace in a shape.
_UNTOLD = frozenset(
    {
        "addition_time_embed_dim", "attention_head_dim", "axes_dims_rope", "bos_token_id", "eos_token_id",
        "force_upcast", "hidden_act", "layer_norm_eps", "layer_norm_epsilon", "norm_eps", "norm_num_groups",
        "num_attention_heads", "pad_token_id", "projection_dim", "relative_attention_max_distance", "sample_size",
        "scaling_factor", "shift_factor",
    }
)  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class Detected:
    """What a file is.

    Attributes:
        kind: "model", or what else it is ("lora", "embedding", "vae", "text encoder", "other model", "unknown" …).
        what, remedy: the same in words; what to do when it is given as a model.
        family: of a model, one of `parts.FAMILIES`.
        variant: of a model, one of `VARIANTS`.
        layout: of a model: "ldm", "sgm", "bfl" (the original code of Stable Diffusion, XL, FLUX) or "diffusers".
        components: by part; what is missing must come from elsewhere.
        prediction: "epsilon", "v" or "flow"; None where nothing in the file tells, as in most of Stable Diffusion 2.
        prediction_from: what tells it.
        zero_terminal_snr: whether its noise process ends in pure noise.
        native_size: side in pixels of its pictures; None where that hangs on an unknown prediction.
        quantisation: "fp8" or "scaled fp8" where tensors are stored so, else None.
        own: what our own writer noted under `__metadata__`.
    """

    kind: str
    what: str
    remedy: str = ""
    family: str | None = None
    variant: str = "base"
    layout: str | None = None
    components: Mapping[str, Component] = field(default_factory=dict)
    prediction: str | None = None
    prediction_from: str = ""
    zero_terminal_snr: bool = False
    native_size: int | None = None
    quantisation: str | None = None
    own: Mapping[str, Any] = field(default_factory=dict)


def detect(header: Header, *, prediction: str | None = None) -> Detected:
    """What the file with this header is.

    prediction: what the network predicts, where it is known from elsewhere: "epsilon", "v" or "flow".
    """
    shapes = {name: info.shape for name, info in header.tensors.items()}
    own = _own_metadata(header)
    try:
        found = _detect(shapes, header.metadata, own, prediction)
    except UnknownShape as error:
        what, _, remedy = str(error).partition("; ")
        return Detected(kind="other model", what=what, remedy=remedy)
    return replace(found, quantisation=_quantisation(header), own=own)


def _detect(
    shapes: Shapes, metadata: Mapping[str, str], own: Mapping[str, Any], prediction: str | None
) -> Detected:
    places = {part: (prefix, dialect) for part, prefix, dialect in marked(shapes)}
    found = places.get("unet") or places.get("transformer")
    names = set(shapes)
    prefixes = DENOISER_PREFIXES if found is None else (found[0],)
    other = other_model(names, {name.removeprefix(prefix) for prefix in prefixes for name in names})
    if other is not None:
        return _named(other)
    if found is None:
        return _named(_kind_alone(shapes))
    prefix, dialect = found
    denoiser = under(shapes, prefix)
    family, config = _family(denoiser, {prefix for prefix, _ in text_prefixes(shapes)}, dialect, "unet" in places)
    variant = _variant(family, config)
    told_by = "the caller"
    if prediction is None or family.startswith("flux"):
        prediction, told_by = _prediction(names, metadata, own, (family, variant))
    ldm = "sgm" if family.startswith("sdxl") else "ldm"
    components = {component.part: component for component in autoencoders(shapes, family)}
    components |= {component.part: component for component in text_encoders(shapes, family)}
    side = latents_side(family, variant=variant, prediction=prediction)
    part = "unet" if "unet" in places else "transformer"
    if part == "unet":
        config = _completed(config, components, metadata, side)
    components[part] = Component(part=part, prefix=prefix, dialect=dialect, config=config)
    components = {part: _as_noted(component, own) for part, component in components.items()}
    unknown = family == "sd2" and prediction is None
    return Detected(
        kind="model",
        what=_NAMES[family],
        family=family,
        variant=variant,
        layout="diffusers" if dialect == DIFFUSERS else "bfl" if part == "transformer" else ldm,
        components=components,
        prediction=prediction,
        prediction_from=told_by,
        zero_terminal_snr="ztsnr" in names and "v_pred" in names,
        native_size=None if unknown else _native_size(components, part, side),
    )


def _named(kind: Kind) -> Detected:
    return Detected(kind=kind.name, what=kind.what, remedy=kind.remedy)


def _kind_alone(shapes: Shapes) -> Kind:
    kind = not_a_model(shapes)
    if kind is LORA:
        return kind
    if any(part == "vae" for part, _, _ in marked(shapes)):
        return VAE if tiny_place(shapes) is None else TINY_VAE
    return TEXT_ENCODER if any(text_encoders_alone(shapes)) or any(text_prefixes(shapes)) else kind


def _family(denoiser: Shapes, texts: Set[str], dialect: str, is_unet: bool) -> tuple[str, Config]:
    """One of `parts.FAMILIES`, and the config of the network that denoises."""
    if not is_unet:
        config = flux_config(denoiser, original=dialect == ORIGINAL)
        return ("flux-dev" if config["guidance_embeds"] else "flux-schnell"), config
    config = unet_config(denoiser, original=dialect == ORIGINAL)
    width, linear = config["cross_attention_dim"], config["use_linear_projection"]
    if "addition_embed_type" in config:
        if "conditioner.embedders.1.model." in texts or width == 2048:
            return "sdxl", config
        refiner = "conditioner.embedders.0.model." in texts or width == 1280 or len(config["block_out_channels"]) > 3
        return ("sdxl-refiner" if refiner else "sdxl"), config
    if "cond_stage_model.model." in texts or width == 1024:
        return "sd2", config
    return ("sd1" if "cond_stage_model.transformer." in texts or width == 768 or not linear else "sd2"), config


def _variant(family: str, config: Config) -> str:
    """One of `VARIANTS`, by the channels that the network takes beyond those it gives."""
    into, out = config["in_channels"], config.get("out_channels") or config["in_channels"]
    if family.startswith("flux"):
        if into == out:
            return "base"
        return "control" if into == 2 * out else "fill"
    if config.get("time_cond_proj_dim") is not None:
        return "lcm"
    known = {out: "base", 2 * out + 1: "inpaint", 2 * out: "instruct-pix2pix"}
    if into not in known:
        what = {out + 1: "a Stable Diffusion 2 depth model", out + 3: "the Stable Diffusion x4 upscaler"}.get(
            into, f"a U-Net of {into} channels in and {out} out"
        )
        raise UnknownShape(f"{what}, which this version does not run; open a model for text, editing or inpainting")
    return known[into]


def _prediction(
    names: Set[str], metadata: Mapping[str, str], own: Mapping[str, Any], is_a: tuple[str, str]
) -> tuple[str | None, str]:
    """What the network predicts, and what says so."""
    family, variant = is_a
    if family.startswith("flux"):
        return "flow", "the family"
    if "v_pred" in names:
        return "v", "the tensor v_pred"
    scheduler = own.get("scheduler")
    noted = scheduler.get("prediction_type") if isinstance(scheduler, dict) else None
    if noted in ("epsilon", "v_prediction"):
        return noted.removesuffix("_prediction"), "its scheduler"
    stated = metadata.get("modelspec.prediction_type") or metadata.get("modelspec.predict_key") or ""
    for prediction, spellings in (("v", ("v", "v_prediction")), ("epsilon", ("epsilon", "eps"))):
        if stated.lower() in spellings:
            return prediction, "modelspec.prediction_type"
    if metadata.get("ss_v_parameterization", "").lower() == "true":
        return "v", "ss_v_parameterization"
    architecture = metadata.get("modelspec.architecture", "")
    for prediction, ending in (("v", "-768-v"), ("epsilon", "-v2-512")):
        if architecture.startswith("stable-diffusion-v2") and architecture.split("/")[0].endswith(ending):
            return prediction, "modelspec.architecture"
    if family != "sd2" or variant != "base":
        return "epsilon", "the family"
    # the training step at which the 512-pixel model was published, in the pickled original
    return ("epsilon", "global_step") if metadata.get("global_step") == "875000" else (None, "")


def _completed(config: Config, components: Mapping[str, Component], metadata: Mapping[str, str], side: int) -> Config:
    """A U-Net's config with what follows from the other parts and the metadata."""
    second = components.get("text_encoder_2")
    if second is not None and "addition_embed_type" in config:
        sizes = config["projection_class_embeddings_input_dim"] - second.config["projection_dim"]
        count = 6 if "text_encoder" in components else 5
        if sizes > 0 and sizes % count == 0:
            config = config | {"addition_time_embed_dim": sizes // count}
    vae = components.get("vae")
    factor = 8 if vae is None else 2 ** (len(vae.config["block_out_channels"]) - 1)
    stated = re.fullmatch(r"(\d{2,5})x(\d{2,5})", metadata.get("modelspec.resolution", ""))
    if stated and stated[1] == stated[2] and int(stated[1]) % factor == 0:
        side = int(stated[1]) // factor
    return config | {"sample_size": side}


def _native_size(components: Mapping[str, Component], part: str, side: int) -> int:
    vae = components.get("vae")
    factor = 8 if vae is None else 2 ** (len(vae.config["block_out_channels"]) - 1)
    return int(components[part].config.get("sample_size") or side) * factor


def _own_metadata(header: Header) -> Mapping[str, Any]:
    try:
        content = json.loads(header.metadata.get(OWN_METADATA, "{}"))
    except (ValueError, RecursionError):
        return {}
    return content if isinstance(content, dict) else {}


def _as_noted(component: Component, own: Mapping[str, Any]) -> Component:
    """The component with what our own writer noted of its config, where no shape tells."""
    configs = own.get("configs")
    noted = configs.get(component.part) if isinstance(configs, dict) else None
    if not isinstance(noted, dict):
        return component
    return replace(component, config=component.config | {key: noted[key] for key in _UNTOLD & noted.keys()})


def _quantisation(header: Header) -> str | None:
    if not any(info.dtype in _FP8 for info in header.tensors.values()):
        return None
    scaled = any(name.endswith((".scale_weight", ".weight_scale", "scaled_fp8")) for name in header.tensors)
    return "scaled fp8" if scaled else "fp8"
