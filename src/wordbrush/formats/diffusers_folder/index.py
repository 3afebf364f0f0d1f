"""model_index.json: which pipeline a folder is, and which class each of its parts."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from wordbrush.errors import ModelFileError, WorkFailed
from wordbrush.formats.diffusers_folder.networks import NETWORKS, class_of
from wordbrush.formats.json_file import read_json
from wordbrush.formats.parts import OWN_FAMILIES, ModelParts
from wordbrush.networks.pixels import Pixels

# By this diffusers tells how old a folder's conventions are; some of its pipelines do not open one that does not say.
_WRITTEN_AS = "0.30.0"

_OPENS = "Stable Diffusion 1, 2, XL and FLUX.1 folders"

OWN = "WordbrushPipeline"
"""Of models that no pipeline of diffusers runs: those of pixels, classes, CLIP embeddings and nothing at all. diffusers
opens their parts one by one. Names of classes are in `id2label`, as in diffusers' DiTPipeline."""
_OWN_CLASSES = {"text_encoder": ("CLIPTextModel", "CLIPTextModelWithProjection")}

_SD_ABSENT = ("feature_extractor", "image_encoder", "safety_checker")
_XL_ABSENT = ("feature_extractor", "image_encoder")

# (family, what the network sees beside the latents) -> diffusers' class, and its parts that we never have
_PIPELINES: dict[tuple[str, str | None], tuple[str, tuple[str, ...]]] = {
    ("sd", None): ("StableDiffusionPipeline", _SD_ABSENT),
    ("sd", "inpaint"): ("StableDiffusionInpaintPipeline", _SD_ABSENT),
    ("sd", "edit"): ("StableDiffusionInstructPix2PixPipeline", _SD_ABSENT),
    ("sdxl", None): ("StableDiffusionXLPipeline", _XL_ABSENT),
    ("sdxl", "inpaint"): ("StableDiffusionXLInpaintPipeline", _XL_ABSENT),
    ("sdxl", "edit"): ("StableDiffusionXLInstructPix2PixPipeline", ()),
    ("sdxl-refiner", None): ("StableDiffusionXLImg2ImgPipeline", (*_XL_ABSENT, "text_encoder", "tokenizer")),
    ("flux", None): ("FluxPipeline", ("feature_extractor", "image_encoder")),
    ("flux", "inpaint"): ("FluxFillPipeline", ()),
}

_KINDS = {"sd1": "sd", "sd2": "sd", "flux-dev": "flux", "flux-schnell": "flux"}

# Classes whose networks look like ours but are used otherwise.
_OTHERS = frozenset(
    {
        "StableDiffusionDepth2ImgPipeline",
        "StableDiffusionImageVariationPipeline",
        "StableDiffusionLatentUpscalePipeline",
        "StableDiffusionUpscalePipeline",
        "StableUnCLIPPipeline",
        "StableUnCLIPImg2ImgPipeline",
        "FluxControlPipeline",
        "FluxKontextPipeline",
    }
)


@dataclass(frozen=True, kw_only=True)
class Index:
    """What a model_index.json says.

    Attributes:
        pipeline: diffusers' class.
        networks: part -> class, for the networks that the folder has.
        zero_negative: an empty negative prompt is read as all zeros.
        labels: the names of the classes; None where there are none.
    """

    pipeline: str
    networks: Mapping[str, str]
    zero_negative: bool
    labels: tuple[str, ...] | None = None

    @property
    def family(self) -> str:
        """Its family as far as the parts tell: "sd", "sdxl", "sdxl-refiner", "flux" or `OWN_FAMILIES`."""
        if self.pipeline == OWN:
            kind = self.networks.get("text_encoder")
            if kind is None:
                return "unconditional" if self.labels is None else "class"
            return "sd" if kind == "CLIPTextModel" else "embedding"
        if "transformer" in self.networks:
            return "flux"
        if "text_encoder_2" not in self.networks:
            return "sd"
        return "sdxl" if "text_encoder" in self.networks else "sdxl-refiner"


def read_index(folder: Path) -> Index:
    """Reads a folder's model_index.json.

    Raises:
        ModelFileError: it is missing or damaged, or names a pipeline or part that this package does not run.
    """
    content = read_json(folder / "model_index.json")
    pipeline = str(content.get("_class_name"))
    if pipeline in _OTHERS:
        raise ModelFileError(f"{folder} holds a {pipeline}; this version opens {_OPENS}")
    networks: dict[str, str] = {}
    for part, classes in NETWORKS.items():
        found = _class_named(content.get(part))
        if found is None:
            continue
        if pipeline == OWN:
            classes = _OWN_CLASSES.get(part, classes)
        if found not in classes:
            raise ModelFileError(
                f"{folder} holds a {pipeline} whose {part} is {found}; this version opens {_OPENS}, "
                f"where it is {' or '.join(classes)}"
            )
        networks[part] = found
    _check_parts(folder, pipeline, networks)
    zero = bool(content.get("force_zeros_for_empty_prompt", "text_encoder" in networks))
    return Index(
        pipeline=pipeline,
        networks=networks,
        zero_negative="unet" in networks and zero,
        labels=_labels(folder, content) if pipeline == OWN else None,
    )


def _labels(folder: Path, content: Mapping[str, Any]) -> tuple[str, ...] | None:
    named = content.get("id2label")
    if named is None:
        return None
    if not isinstance(named, dict) or set(named) != {str(number) for number in range(len(named))}:
        raise ModelFileError(f"{folder / 'model_index.json'}: id2label must name the classes 0, 1, 2 … and no others")
    return tuple(str(named[str(number)]) for number in range(len(named)))


def _class_named(entry: Any) -> str | None:
    """The class of an entry [library, class]; None for a part that is absent."""
    if not isinstance(entry, list) or len(entry) != 2 or entry[1] is None:
        return None
    return str(entry[1])


def _check_parts(folder: Path, pipeline: str, networks: Mapping[str, str]) -> None:
    if pipeline == OWN and "unet" in networks and not {"transformer", "text_encoder_2"} & set(networks):
        return
    denoisers = {"unet", "transformer"} & set(networks)
    if len(denoisers) != 1 or "vae" not in networks or not {"text_encoder", "text_encoder_2"} & set(networks):
        held = ", ".join(networks) or "no network that is known here"
        raise ModelFileError(f"{folder} holds a {pipeline} of {held}; this version opens {_OPENS}")
    second = networks.get("text_encoder_2")
    wanted = "T5EncoderModel" if "transformer" in networks else "CLIPTextModelWithProjection"
    if second not in ((wanted,) if "transformer" in networks else (wanted, None)):
        raise ModelFileError(f"{folder} holds a {pipeline} whose text_encoder_2 is {second}, not a {wanted}")


def index_of(parts: ModelParts, scheduler_class: str) -> dict[str, Any]:
    """The model_index.json of a model whose diffusers scheduler is of that class.

    Raises:
        WorkFailed: diffusers has no pipeline for such a model.
    """
    if parts.family in OWN_FAMILIES or isinstance(parts.vae, Pixels):
        return _own_index(parts, scheduler_class)
    family = _KINDS.get(parts.family, parts.family)
    if (family, parts.picture_input) not in _PIPELINES:
        raise WorkFailed(f"diffusers has no pipeline for a {parts.family} model for {parts.picture_input}")
    pipeline, absent = _PIPELINES[family, parts.picture_input]
    if pipeline == "StableDiffusionPipeline" and parts.tells_guidance:
        pipeline = "LatentConsistencyModelPipeline"
    components = {part: class_of(network) for part, network in parts.networks.items()}
    components["scheduler"] = scheduler_class
    if parts.tokenizer is not None:
        components["tokenizer"] = "CLIPTokenizer"
    if parts.tokenizer_2 is not None:
        components["tokenizer_2"] = "T5TokenizerFast" if family == "flux" else "CLIPTokenizer"
    options: dict[str, Any] = {}
    if "safety_checker" in absent:
        options["requires_safety_checker"] = False
    if family.startswith("sdxl"):
        options["force_zeros_for_empty_prompt"] = parts.zero_negative
    if family == "sdxl-refiner":
        options["requires_aesthetics_score"] = True
    return model_index(pipeline, components, absent=absent, options=options)


def _own_index(parts: ModelParts, scheduler_class: str) -> dict[str, Any]:
    components = {part: class_of(network) for part, network in parts.networks.items()} | {"scheduler": scheduler_class}
    if parts.tokenizer is not None:
        components["tokenizer"] = "CLIPTokenizer"
    options: dict[str, Any] = {}
    if parts.labels is not None:
        options["id2label"] = {str(number): label for number, label in enumerate(parts.labels)}
    return model_index(OWN, components, options=options)


def model_index(
    pipeline: str,
    components: Mapping[str, str],
    *,
    absent: Sequence[str] = (),
    options: Mapping[str, Any] | None = None,
) -> dict[str, Any]:
    """A model_index.json.

    Args:
        pipeline: diffusers' class.
        components: part -> its class in diffusers or transformers.
        absent: parts of that pipeline that the model does not have.
        options: arguments of the pipeline itself.
    """
    present = {
        part: ["transformers" if kind.startswith(("CLIP", "T5")) else "diffusers", kind]
        for part, kind in components.items()
    }
    entries = present | {part: [None, None] for part in absent} | dict(options or {})
    return {"_class_name": pipeline, "_diffusers_version": _WRITTEN_AS, **dict(sorted(entries.items()))}
