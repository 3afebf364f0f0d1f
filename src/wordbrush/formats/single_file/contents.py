"""A file's tensors held against the networks it should contain, and given to them."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from wordbrush.errors import ModelFileError
from wordbrush.formats.checkpoint import Checkpoint
from wordbrush.formats.diffusers_folder.networks import CLASSES
from wordbrush.formats.single_file.components import (
    DIFFUSERS_OLD,
    OPEN_CLIP,
    ORIGINAL,
    TRANSFORMERS_BARE,
    Component,
)
from wordbrush.formats.single_file.keymap import SAME_NAMES, KeyMap, Link, Names
from wordbrush.formats.single_file.names_clip import open_clip_names
from wordbrush.formats.single_file.names_flux import flux_names
from wordbrush.formats.single_file.names_unet import unet_names
from wordbrush.formats.single_file.names_vae import old_vae_names, vae_names
from wordbrush.formats.weights import FP8, fill, listed, without_weights
from wordbrush.runtime.policy import Runtime

# What training code left in files, and markers that `detect` has read.
_IGNORED = frozenset(
    {
        "alphas_cumprod", "alphas_cumprod_prev", "betas", "denoiser.log_sigmas", "denoiser.sigmas", "epoch",
        "global_step", "log_one_minus_alphas_cumprod", "log_sigmas", "logvar", "lvlb_weights",
        "posterior_log_variance_clipped", "posterior_mean_coef1", "posterior_mean_coef2", "posterior_variance",
        "scale_factor", "sigmas", "sqrt_alphas_cumprod", "sqrt_one_minus_alphas_cumprod",
        "sqrt_recip_alphas_cumprod", "sqrt_recipm1_alphas_cumprod", "v_pred", "ztsnr",
    }
)  # fmt: skip
# A training average of the weights beside them, the autoencoder's critic, CLIP's other tower, a picture filter.
_IGNORED_STARTS = (
    "model_ema.", "first_stage_model.loss.", "first_stage_model.model_ema.",
    "cond_stage_model.transformer.vision_model.", "cond_stage_model.transformer.visual_projection.",
    "embedding_manager.", "loss.", "safety_checker.",
)  # fmt: skip
SCALED_MARK = "scaled_fp8"  # an empty tensor of this name
# Buffers that follow from the config, CLIP's temperature, T5's second name for its embeddings.
_IGNORED_ENDS = (".position_ids", ".logit_scale", ".attn_mask", "encoder.embed_tokens.weight", SCALED_MARK)

# Numbers that an 8-bit weight is to be multiplied by, and what belongs to running it in 8 bits.
_SCALES = ("scale_weight", "weight_scale")
_BESIDE_SCALES = (*_SCALES, "scale_input", "input_scale", "comfy_quant")
_FP8_NAMES = ("F8_E4M3", "F8_E5M2")  # as headers call them
_OTHER_QUANTISATIONS = (".absmax", ".quant_map", ".quant_state", ".nested_absmax", ".SCB", ".qweight", ".scales")


@dataclass(frozen=True)
class Content:
    """One network of a file: made, but without weights, and how its tensors are called there."""

    component: Component
    network: nn.Module
    names: KeyMap

    @property
    def originals(self) -> dict[str, str]:
        """Name in the file -> the same without the prefix."""
        return {self.component.prefix + name: name for name in self.names.links}


def content_of(checkpoint: Checkpoint, component: Component) -> Content:
    """The network of a component, with every tensor of it found in the file and of the right shape.

    Raises:
        ModelFileError: the component's config is none that can be run, or a tensor is missing or of another shape.
    """
    kind = class_name(component.part, t5="d_model" in component.config)
    try:
        network = without_weights(lambda: CLASSES[kind].make(component.config))
    except (ValueError, TypeError, RuntimeError) as error:
        raise ModelFileError(
            f"{checkpoint.path} holds a {component.part} that cannot be run: {error}; get the file again"
        ) from error
    shapes = {name: tuple(tensor.shape) for name, tensor in network.state_dict().items()}
    tensors = checkpoint.header.tensors
    names = KeyMap(names_of(component, network, tensors), shapes)
    prefix = component.prefix
    missing = [prefix + name for name in names.links if prefix + name not in tensors]
    if missing:
        raise ModelFileError(f"{checkpoint.path} lacks {listed(missing)}; it is damaged or cut, so get it again")
    wanted = names.original_shapes()
    for name in names.links:
        found = tensors[prefix + name].shape
        if not names.fits(name, found):
            raise ModelFileError(
                f"{checkpoint.path}: {prefix}{name} has shape {list(found)}, where the file's other tensors ask for "
                f"{list(wanted[name])}; it is damaged, or merged from files that do not fit, so get another"
            )
    return Content(component, network, names)


def class_name(part: str, *, t5: bool) -> str:
    """Which of diffusers' or transformers' classes a part is; t5: whether the second text encoder is one."""
    return {
        "unet": "UNet2DConditionModel",
        "transformer": "FluxTransformer2DModel",
        "vae": "AutoencoderKL",
        "text_encoder": "CLIPTextModel",
        "text_encoder_2": "T5EncoderModel" if t5 else "CLIPTextModelWithProjection",
    }[part]


def names_of(component: Component, network: Any, tensors: Mapping[str, object]) -> Names:
    """How a component's tensors are called; `tensors` decides between spellings that are otherwise alike."""
    config, prefix = network.config, component.prefix
    if component.dialect == ORIGINAL:
        spelt = {"unet": unet_names, "vae": vae_names, "transformer": flux_names}[component.part]
        return spelt(config)  # type: ignore[operator]
    if component.dialect == DIFFUSERS_OLD:
        return old_vae_names(config)
    if component.dialect == OPEN_CLIP:
        names = open_clip_names(config, projection=network.text_projection is not None)
        if f"{prefix}text_projection.weight" not in tensors:
            return names
        kept = tuple(link for link in names.links if link.original != "text_projection")
        return Names({**names.modules, "text_projection": "text_projection"}, kept)
    if component.dialect == TRANSFORMERS_BARE:
        parts = ("embeddings", "encoder", "final_layer_norm")
        return Names({"text_projection": "text_projection", **{f"text_model.{part}": part for part in parts}})
    second = "encoder.embed_tokens.weight"
    if prefix + second in tensors and f"{prefix}shared.weight" not in tensors:  # a T5
        return Names(SAME_NAMES.modules, (Link(second, ("shared.weight",)),))
    return SAME_NAMES


def in_no_network(checkpoint: Checkpoint, contents: Sequence[Content]) -> dict[str, int]:
    """The file's tensors that no network has and how many there are of each kind, the largest kind first.

    A kind is a name, or "beginning.*" for the whole of what training code left under it.
    """
    spare = [content.component.prefix + start for content in contents for start in content.component.spare]
    starts = (*_IGNORED_STARTS, *spare)
    left = _in_no_network(checkpoint, contents)
    kinds = (next((f"{start}*" for start in starts if name.startswith(start)), name) for name in sorted(left))
    return dict(Counter(kinds).most_common())


def _in_no_network(checkpoint: Checkpoint, contents: Sequence[Content]) -> set[str]:
    """Without what belongs to 8-bit weights."""
    left = {name for name in checkpoint.header.tensors if name.rpartition(".")[2] not in _BESIDE_SCALES}
    return left.difference(*(content.originals for content in contents))


def check_nothing_else(checkpoint: Checkpoint, contents: Sequence[Content]) -> None:
    """Raises `ModelFileError` when the file holds a tensor that no network has and that has no known other purpose."""
    left = _in_no_network(checkpoint, contents) - _IGNORED
    for content in contents:
        component = content.component
        spare = tuple(component.prefix + start for start in component.spare)
        left = {name for name in left if not (spare and name.startswith(spare))}
    left = {name for name in left if not name.startswith(_IGNORED_STARTS) and not name.endswith(_IGNORED_ENDS)}
    quantised = [name for name in left if name.endswith(_OTHER_QUANTISATIONS)]
    if quantised:
        raise _quantised(checkpoint, f"it holds {min(quantised)}")
    if left:
        raise ModelFileError(
            f"{checkpoint.path} holds unexpected {listed(sorted(left))}; it was made by a tool that this version does "
            "not know, so get it in its original form"
        )


def with_weights(checkpoint: Checkpoint, content: Content, runtime: Runtime | None = None) -> nn.Module:
    """The network with its tensors, in the number format of the file, those in 8 bits as bfloat16 (see `fill`).

    runtime: where the network will run, as in `fill`.

    Raises:
        ModelFileError: a tensor holds values that are not numbers, or is quantised in an unknown way.
    """
    return fill(content.network, own_tensors(checkpoint, content), checkpoint.path, runtime)


def own_tensors(checkpoint: Checkpoint, content: Content) -> dict[str, Tensor]:
    """The tensors of `with_weights` by the network's names, those in 8 bits still so unless they have scales."""
    originals = content.originals
    modules = {name.rpartition(".")[0] for name in originals}
    beside = [f"{module}.{end}" for module in modules for end in _BESIDE_SCALES]
    tensors = checkpoint.tensors([*originals, *(name for name in beside if name in checkpoint.header.tensors)])
    return content.names.to_own({originals[name]: _restored(checkpoint, name, tensors) for name in originals})


def scaled_tensors(checkpoint: Checkpoint, content: Content) -> dict[str, dict[str, Tensor]]:
    """The 8-bit weights that have scales, as they are stored: weight -> it and what is beside it, without the prefix.

    Under the name "" is the mark by which tools know such a network, if it is there.
    """
    prefix, stored = content.component.prefix, checkpoint.header.tensors
    groups = {}
    for name in content.names.links:
        module, _, last = name.rpartition(".")
        beside = [f"{module}.{end}" for end in _BESIDE_SCALES if f"{prefix}{module}.{end}" in stored]
        scaled = any(f"{module}.{end}" in beside for end in _SCALES)
        if scaled and last == "weight" and stored[prefix + name].dtype in _FP8_NAMES:
            groups[name] = [name, *beside]
    if groups and prefix + SCALED_MARK in stored:
        groups[""] = [SCALED_MARK]
    read = checkpoint.tensors([prefix + name for names in groups.values() for name in names])
    return {weight: {name: read[prefix + name] for name in names} for weight, names in groups.items()}


def _restored(checkpoint: Checkpoint, name: str, tensors: Mapping[str, Tensor]) -> Tensor:
    """A tensor, if it is in 8 bits and has a scale brought back to 16 and multiplied."""
    tensor, module = tensors[name], name.rpartition(".")[0]
    described = tensors.get(f"{module}.comfy_quant")
    if described is not None:
        _check_description(checkpoint, module, described)
    if tensor.dtype not in FP8:
        if name.endswith(".weight") and not tensor.is_floating_point():
            raise _quantised(checkpoint, f"{name} holds {str(tensor.dtype).removeprefix('torch.')}")
        return tensor
    found = (tensors.get(f"{module}.{scale}") for scale in _SCALES)
    scale = next((scale for scale in found if scale is not None), None)
    if scale is None or not name.endswith(".weight"):
        return tensor
    if scale.numel() not in (1, len(tensor)):
        raise ModelFileError(f"{checkpoint.path}: the scale of {name} has shape {list(scale.shape)}; get another copy")
    rows = scale.float().reshape(-1, *[1] * (tensor.ndim - 1))
    return (tensor.float() * rows).to(torch.bfloat16)


def _check_description(checkpoint: Checkpoint, module: str, described: Tensor) -> None:
    try:
        form = json.loads(bytes(described.to(torch.uint8).tolist())).get("format")
    except (ValueError, AttributeError, RecursionError):
        form = "unknown"
    if form not in ("float8_e4m3fn", "float8_e5m2"):
        raise _quantised(checkpoint, f"{module} is {str(form)[:40]}")


def _quantised(checkpoint: Checkpoint, how: str) -> ModelFileError:
    return ModelFileError(
        f"{checkpoint.path} is quantised in a form that this version does not run ({how}); get it in float16, bfloat16 "
        "or fp8"
    )
