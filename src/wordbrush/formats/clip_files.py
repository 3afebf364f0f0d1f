"""CLIP models with both towers: transformers' folders, OpenCLIP's, and the `clip/` folder of a Wordbrush model."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import Tensor

from wordbrush.conditioning.tokenizer import ClipTokenizer
from wordbrush.errors import ModelFileError
from wordbrush.formats.json_file import read_json
from wordbrush.formats.single_file.keymap import TRANSPOSED, KeyMap, Link, Names
from wordbrush.formats.single_file.names_clip import open_clip_names
from wordbrush.formats.weights import build, find_weights, read_weights, without_weights
from wordbrush.networks.clip import CLIPConfig, CLIPModel, CLIPTextConfig, CLIPVisionConfig

OPENAI_MEAN = (0.48145466, 0.4578275, 0.40821073)
OPENAI_STD = (0.26862954, 0.26130258, 0.27577711)
"""How OpenAI's CLIP, and all that follow it, normalise the red, green and blue of pictures in [0, 1]."""

PICTURE_CONFIG = "preprocessor_config.json"
"""Where transformers' folders say how pictures are normalised."""

_OPEN_CONFIG = "open_clip_config.json"
_OPEN_STEMS = ("open_clip_model", "open_clip_pytorch_model")

# Buffers that old transformers stored, and what OpenCLIP stores beside the weights; all follow from the config.
_IGNORED = frozenset(
    {"text_model.embeddings.position_ids", "vision_model.embeddings.position_ids", "attn_mask", "logit_bias"}
)


@dataclass(frozen=True, kw_only=True)
class ClipFiles:
    """A CLIP as it was stored.

    Attributes:
        model: float32, without gradients of its own weights.
        tokenizer: None where the files have none.
        mean, std: of red, green and blue, pictures being in [0, 1].
        source: the folder.
    """

    model: CLIPModel
    tokenizer: ClipTokenizer | None
    mean: tuple[float, ...]
    std: tuple[float, ...]
    source: Path


def read_clip(path: Path) -> ClipFiles:
    """Reads a CLIP from its folder, from a weight file in it, or from the `clip/` of a model's folder.

    Raises:
        ModelFileError: there is none, or it is damaged.
    """
    folder = path.parent if path.is_file() else path
    for place in (folder, folder / "clip"):
        if (place / _OPEN_CONFIG).exists():
            return _open_clip(place)
        if (place / "config.json").exists() and read_json(place / "config.json").get("model_type") == "clip":
            return _transformers(place)
    raise ModelFileError(
        f"there is no CLIP in {str(path)!r}; give a folder with the config.json of a CLIPModel, or with "
        f"{_OPEN_CONFIG}, and the weights beside it"
    )


def _transformers(folder: Path) -> ClipFiles:
    try:
        config = CLIPConfig.from_dict(read_json(folder / "config.json"))
    except (ValueError, TypeError) as error:
        raise ModelFileError(f"{folder / 'config.json'}: {error}") from error
    tensors = read_weights(find_weights(folder, "model"))
    picture = read_json(folder / PICTURE_CONFIG) if (folder / PICTURE_CONFIG).exists() else {}
    return _made(folder, config, tensors, picture.get("image_mean"), picture.get("image_std"))


def _open_clip(folder: Path) -> ClipFiles:
    content = read_json(folder / _OPEN_CONFIG)
    try:
        config = open_clip_config(content["model_cfg"])
    except (KeyError, ValueError, TypeError, AttributeError) as error:
        raise ModelFileError(f"{folder / _OPEN_CONFIG} describes no CLIP that is known here: {error}") from error
    stem = next((stem for stem in _OPEN_STEMS if list(folder.glob(f"{stem}.*"))), _OPEN_STEMS[0])
    stored = {name: tensor for name, tensor in read_weights(find_weights(folder, stem)).items() if name not in _IGNORED}
    own = without_weights(lambda: CLIPModel(config)).state_dict()
    keys = KeyMap(open_clip_both(config), {name: tuple(tensor.shape) for name, tensor in own.items()})
    wanted = keys.original_shapes()
    wrong = {*stored} ^ {*wanted} or {name for name, shape in wanted.items() if not keys.fits(name, stored[name].shape)}
    if wrong:
        raise ModelFileError(f"{sorted(wrong)[0]} in the weights in {folder} does not fit its {_OPEN_CONFIG}")
    picture = content.get("preprocess_cfg") or {}
    return _made(folder, config, keys.to_own(stored), picture.get("mean"), picture.get("std"))


def open_clip_config(model: Mapping[str, Any]) -> CLIPConfig:
    """The shapes that OpenCLIP's `model_cfg` states. Raises `ValueError` for what this CLIP has not."""
    text, vision = model["text_cfg"], model["vision_cfg"]
    for name, values, known in (
        ("model_cfg", model, {"embed_dim", "text_cfg", "vision_cfg", "quick_gelu", "init_logit_scale"}),
        ("text_cfg", text, {"context_length", "vocab_size", "width", "heads", "layers"}),
        ("vision_cfg", vision, {"image_size", "layers", "width", "patch_size", "head_width", "mlp_ratio"}),
    ):
        unknown = sorted(set(values) - known)
        if unknown:
            raise ValueError(f"{name} has {unknown[0]}={values[unknown[0]]!r}")
    activation = "quick_gelu" if model.get("quick_gelu") else "gelu"
    return CLIPConfig(
        projection_dim=model["embed_dim"],
        text_config=CLIPTextConfig(
            vocab_size=text["vocab_size"],
            hidden_size=text["width"],
            intermediate_size=4 * text["width"],
            projection_dim=model["embed_dim"],
            num_hidden_layers=text["layers"],
            num_attention_heads=text["heads"],
            max_position_embeddings=text["context_length"],
            hidden_act=activation,
            eos_token_id=text["vocab_size"] - 1,  # the last of its vocabulary
        ),
        vision_config=CLIPVisionConfig(
            hidden_size=vision["width"],
            intermediate_size=round(vision["width"] * vision.get("mlp_ratio", 4.0)),
            projection_dim=model["embed_dim"],
            num_hidden_layers=vision["layers"],
            num_attention_heads=vision["width"] // vision.get("head_width", 64),
            image_size=vision["image_size"],
            patch_size=vision["patch_size"],
            hidden_act=activation,
        ),
    )


def open_clip_both(config: CLIPConfig) -> Names:
    """Ours -> OpenCLIP's, of both towers: the layers of its image tower are named as those of its text tower."""
    text = open_clip_names(config.text_config, projection=True)
    depth = config.vision_config.num_hidden_layers
    layers = open_clip_names(CLIPTextConfig(num_hidden_layers=depth), projection=False)
    head = "text_model.encoder."
    modules = dict(text.modules) | {
        f"vision_model.encoder.{own.removeprefix(head)}": f"visual.{original}"
        for own, original in layers.modules.items()
        if own.startswith(head)
    }
    modules |= {
        "vision_model.embeddings.class_embedding": "visual.class_embedding",
        "vision_model.embeddings.position_embedding.weight": "visual.positional_embedding",
        "vision_model.embeddings.patch_embedding": "visual.conv1",
        "vision_model.pre_layrnorm": "visual.ln_pre",
        "vision_model.post_layernorm": "visual.ln_post",
        "logit_scale": "logit_scale",
    }
    links = [Link("visual.proj", ("visual_projection.weight",), TRANSPOSED)]
    for link in layers.links:
        own = tuple(name.replace("text_model.", "vision_model.") for name in link.own)
        links.append(Link(f"visual.{link.original}", own, link.form))
    return Names(modules, (*text.links, *links))


def _made(folder: Path, config: CLIPConfig, tensors: Mapping[str, Tensor], mean: Any, std: Any) -> ClipFiles:
    kept = {name: tensor.float() for name, tensor in tensors.items() if name not in _IGNORED}
    model = build(lambda: CLIPModel(config), kept, folder).eval().requires_grad_(False)
    has_tokenizer = any((folder / name).exists() for name in ("vocab.json", "tokenizer.json"))
    return ClipFiles(
        model=model,
        tokenizer=ClipTokenizer.from_folder(folder) if has_tokenizer else None,
        mean=tuple(mean or OPENAI_MEAN),
        std=tuple(std or OPENAI_STD),
        source=folder,
    )
