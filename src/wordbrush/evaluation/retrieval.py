"""Does CLIP find the caption of a picture, and the picture of a caption, among a hundred? (Radford 2021)"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch
from PIL import Image

from wordbrush.data.pixels import to_images
from wordbrush.errors import ModelFileError
from wordbrush.evaluation.distances import retrieval_accuracy
from wordbrush.evaluation.prompts import TASKS, Prompt
from wordbrush.formats.weights import build, find_weights, read_weights
from wordbrush.networks.clip import CLIPConfig, CLIPModel

if TYPE_CHECKING:
    from wordbrush.pipeline import Pipeline

AMONG = 100
_BATCH = 64


@dataclass(frozen=True, kw_only=True)
class Retrieval:
    """Parts of queries answered right, among `among` candidates at a time (renders and captions of all tasks mixed).

    `painted_to_caption` asks the same of painted pictures: whether CLIP too finds them true to their prompts.
    """

    among: int
    picture_to_caption: float
    caption_to_picture: float
    painted_to_caption: float


def load_clip(folder: Path) -> CLIPModel | None:
    """The model's CLIP, both towers, float32; None when the folder has none.

    Raises:
        ModelFileError: it is there but damaged.
    """
    if not (folder / "config.json").exists():
        return None
    try:
        config = CLIPConfig.from_dict(json.loads((folder / "config.json").read_text(encoding="utf-8")))
    except (OSError, ValueError, TypeError) as error:
        raise ModelFileError(f"{folder / 'config.json'} cannot be read: {error}") from error
    tensors = read_weights(find_weights(folder, "model"))
    network = build(lambda: CLIPModel(config), {name: tensor.float() for name, tensor in tensors.items()}, folder)
    return network.eval().requires_grad_(False)


@torch.inference_mode()
def measure_retrieval(
    pipe: Pipeline, prompts: Sequence[Prompt], renders: Sequence[Image.Image], painted: Sequence[Image.Image]
) -> Retrieval | None:
    """Asks the CLIP that lies beside the model's other parts (in `clip/`); None when there is none."""
    source = pipe.parts.source
    clip = None if source is None else load_clip(source / "clip")
    if clip is None:
        return None
    order = _mixed(prompts)
    texts = [prompts[index].text for index in order]
    captions = _captions(clip, pipe, texts)
    shown, made = (_pictures(clip, [pictures[index] for index in order]) for pictures in (renders, painted))
    return Retrieval(
        among=min(AMONG, len(texts)),
        picture_to_caption=retrieval_accuracy(shown, captions, texts, AMONG),
        caption_to_picture=retrieval_accuracy(captions, shown, texts, AMONG),
        painted_to_caption=retrieval_accuracy(made, captions, texts, AMONG),
    )


def _mixed(prompts: Sequence[Prompt]) -> list[int]:
    """The prompts' numbers, taken from each task in turn."""
    by_task = [[index for index, prompt in enumerate(prompts) if prompt.task == task] for task in TASKS]
    longest = max(map(len, by_task))
    return [numbers[place] for place in range(longest) for numbers in by_task if place < len(numbers)]


def _captions(clip: CLIPModel, pipe: Pipeline, texts: Sequence[str]) -> np.ndarray:
    """(N, P) float64."""
    tokenizer = pipe.parts.tokenizer
    assert tokenizer is not None  # a model of the kind that has a CLIP beside it
    ids = torch.tensor([tokenizer.encode(text) for text in texts])
    return torch.cat([clip.text_features(part) for part in ids.split(_BATCH)]).double().numpy()


def _pictures(clip: CLIPModel, pictures: Sequence[Image.Image]) -> np.ndarray:
    """(N, P) float64. Our CLIP reads pictures in [-1, 1], as our other networks do."""
    side = clip.config.vision_config.image_size
    parts = []
    for start in range(0, len(pictures), _BATCH):
        same = [picture.convert("RGB") for picture in pictures[start : start + _BATCH]]
        same = [picture if picture.size == (side, side) else picture.resize((side, side)) for picture in same]
        parts.append(clip.image_features(to_images(np.stack([np.asarray(picture) for picture in same]))))
    return torch.cat(parts).double().numpy()
