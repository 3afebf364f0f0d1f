"""Textual inversions (Gal 2022): learnt vectors that take the place of a word's, in every layout they are shared in.

    A1111      .pt, .bin: string_to_param {"*": (n, D)}, with a name and the number of steps
    diffusers  one tensor, named by its token
    kohya      emb_params: (n, D)
    SDXL       clip_l: (n, 768), clip_g: (n, 1280)
    pictures   A1111's first layout as JSON, in the picture's text `sd-ti-embedding` or in the pixels themselves
"""

from __future__ import annotations

import base64
import json
import zlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from wordbrush.errors import ModelFileError, RequestError
from wordbrush.formats.safetensors_file import read_tensors
from wordbrush.formats.weight_files import SAFETENSORS

if TYPE_CHECKING:
    from wordbrush.formats.lora.notes import TrainingNotes

PICTURES = frozenset({".png", ".webp"})
"""Endings of pictures that can hold an embedding."""

# What files call the vectors of each text encoder. A single tensor may have any name.
_ENCODERS = {
    "clip_l": "text_encoder", "text_encoder": "text_encoder",
    "clip_g": "text_encoder_2", "text_encoder_2": "text_encoder_2", "t5xxl": "text_encoder_2", "t5": "text_encoder_2",
}  # fmt: skip

# The second CLIP of Stable Diffusion XL, whose vectors diffusers also keeps in a file of their own.
_SECOND_WIDTH = 1280

_LARGEST_TEXT = 1 << 26  # bytes of JSON in a picture: room for 400 vectors; a longer one is refused, not unpacked


@dataclass(frozen=True, kw_only=True, eq=False)
class TextualInversion:
    """A learnt word.

    Attributes:
        name: what prompts call it: the file's name without its ending, or the name it was opened under.
        vectors: "text_encoder" or "text_encoder_2" -> (n, D) float32, to take the places of n tokens.
        path: the file.
    """

    name: str
    vectors: Mapping[str, Tensor]
    path: Path


def read_embedding(path: Path, name: str | None = None) -> TextualInversion:
    """Reads an embedding from a .safetensors file, a pickle (.pt, .bin; never executed) or a picture.

    Raises:
        ModelFileError: the file is missing or damaged, or holds no embedding.
    """
    word = path.stem if name is None else name
    if path.suffix.lower() in PICTURES:
        return from_tensors(path, word, _from_picture(path))
    if path.suffix.lower() in SAFETENSORS:
        return from_tensors(path, word, read_tensors(path))
    from wordbrush.formats.pickles import read_pickled_tensors

    return from_tensors(path, word, read_pickled_tensors(path))


def from_tensors(path: Path, name: str, tensors: Mapping[str, Tensor]) -> TextualInversion:
    """Makes the embedding `name` of the tensors of a file, by their names in it.

    Raises:
        ModelFileError: the tensors are no embedding.
    """
    tensors = _of_a1111(tensors)
    if set(tensors) <= set(_ENCODERS) and tensors:
        vectors = {_ENCODERS[key]: tensor for key, tensor in tensors.items()}
        if len(vectors) < len(tensors):
            names = ", ".join(sorted(tensors))
            raise ModelFileError(f"{path} holds vectors for one text encoder twice ({names}); get one that does not")
    elif len(tensors) == 1:
        tensor = next(iter(tensors.values()))
        vectors = {"text_encoder_2" if tensor.shape[-1:] == (_SECOND_WIDTH,) else "text_encoder": tensor}
    else:
        names = ", ".join(list(tensors)[:3]) or "nothing"
        raise ModelFileError(f"{path} is not an embedding: it holds {names} ({len(tensors)} tensors)")
    for key, tensor in vectors.items():
        if tensor.ndim not in (1, 2) or tensor.numel() == 0 or not tensor.is_floating_point():
            raise ModelFileError(f"{path} is not an embedding: its tensor has shape {list(tensor.shape)}")
        if not tensor.isfinite().all():
            raise ModelFileError(f"{path} is damaged: its vectors hold values that are not numbers; get the file again")
        vectors[key] = torch.atleast_2d(tensor.detach()).float()
    return TextualInversion(name=name, vectors=vectors, path=path)


def write_embedding(
    folder: Path, name: str, token: str, vectors: Mapping[str, Tensor], notes: TrainingNotes | None = None
) -> list[Path]:
    """Writes a learnt word for other tools, each file whole or not at all.

    `<name>.safetensors` is in kohya's layout, which the web UIs read: `emb_params`, or of Stable Diffusion XL `clip_l`
    and `clip_g`. `learned_embeds.safetensors` is diffusers': the vectors under the word itself; those of the second
    encoder in `learned_embeds_2.safetensors`.

    Args:
        folder: where they go.
        name: what web UIs will call the word.
        token: the word in prompts to diffusers, such as "<robot>".
        vectors: "text_encoder", "text_encoder_2" or both -> (n, D).
        notes: what the metadata says of the training.

    Returns:
        The paths, kohya's first.

    Raises:
        RequestError: there are no vectors, or the name is that of diffusers' own files.
        WorkFailed: a value is not a number, or a file cannot be written.
    """
    from wordbrush.formats.lora.notes import TrainingNotes, hashes_of, kohya_metadata, modelspec
    from wordbrush.formats.lora.write import save

    if not vectors or set(vectors) - {"text_encoder", "text_encoder_2"}:
        raise RequestError(f"vectors of {', '.join(vectors) or 'no text encoder'} make no embedding")
    if name.startswith("learned_embeds"):
        raise RequestError(f"an embedding cannot be named {name!r}, which diffusers calls its own files")
    learnt = {key: torch.atleast_2d(tensor.detach()).float().cpu().contiguous() for key, tensor in vectors.items()}
    notes = notes or TrainingNotes(name=name)
    kept = {"emb_params": learnt["text_encoder"]} if set(learnt) == {"text_encoder"} else {}
    kept = kept or {"clip_l" if key == "text_encoder" else "clip_g": tensor for key, tensor in learnt.items()}
    metadata = kohya_metadata(notes, notes.base) | modelspec(notes, notes.base, "textual-inversion")
    paths = [save(folder / f"{name}.safetensors", kept, metadata | hashes_of(kept, metadata))]
    for key, tensor in learnt.items():
        file = "learned_embeds.safetensors" if key == "text_encoder" else "learned_embeds_2.safetensors"
        paths.append(save(folder / file, {token: tensor}, {}))
    return paths


def _of_a1111(tensors: Mapping[str, Tensor]) -> Mapping[str, Tensor]:
    start = "string_to_param."
    inner = {key.removeprefix(start): tensor for key, tensor in tensors.items() if key.startswith(start)}
    return inner or tensors


def _from_picture(path: Path) -> dict[str, Tensor]:
    from PIL import Image

    try:
        with Image.open(path) as picture:
            text = getattr(picture, "text", {}).get("sd-ti-embedding")
            stored = base64.b64decode(text, validate=True) if text else _in_pixels(np.asarray(picture.convert("RGB")))
        values = json.loads(stored)["string_to_param"]
        return {key: torch.tensor(value["TORCHTENSOR"], dtype=torch.float32) for key, value in values.items()}
    except FileNotFoundError as error:
        raise ModelFileError(f"the embedding {path} is missing") from error
    except (OSError, Image.DecompressionBombError) as error:
        raise ModelFileError(f"the picture {path} cannot be read: {error}") from error
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError, SyntaxError, zlib.error) as error:
        raise ModelFileError(
            f"no embedding can be read from the picture {path} ({error}); copies that were resized or saved as JPEG "
            "lose it, get the original"
        ) from error


def _in_pixels(pixels: np.ndarray[Any, np.dtype[np.uint8]]) -> bytes:
    """Unpacks what A1111 wrote into the low four bits of the blocks left and right of a picture.

    A column of black divides each block from the picture. The left block holds the low halves of the bytes, the right
    one the high halves, row by row, both masked with the same pseudo-random numbers; the bytes are JSON, deflated.
    pixels: (H, W, 3).
    """
    bright = pixels.min(axis=2) > 0  # A1111 crops what is black around a block, of any channel
    rows, columns = np.flatnonzero(bright.any(axis=1)), np.flatnonzero(bright.any(axis=0))
    if not len(rows):
        raise ValueError("it is black")
    low = pixels[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1] & np.uint8(0x0F)
    empty = np.flatnonzero(low.sum(axis=(0, 2)) == 0)
    if len(empty) < 2:
        raise ValueError("it has no blocks of data beside it")
    left, right = _unmasked(low[:, : empty[0]]), _unmasked(low[:, empty[-1] + 1 :])
    if left.shape != right.shape:
        raise ValueError("the blocks of data beside it differ in size")
    unpacker = zlib.decompressobj()
    data = unpacker.decompress((right << 4 | left).tobytes(), _LARGEST_TEXT)
    if not unpacker.eof:
        raise ValueError("the data beside it is cut short or too large for an embedding")
    return data


def _unmasked(block: np.ndarray[Any, np.dtype[np.uint8]]) -> np.ndarray[Any, np.dtype[np.uint8]]:
    # The linear congruential generator of Numerical Recipes from 0. Its states m further on are factor · states + step.
    factor, step, modulus = 1664525, 1013904223, 2**32
    states = np.array([step], dtype=np.uint32)
    while len(states) < block.size:
        states = np.concatenate([states, states * np.uint32(factor) + np.uint32(step)])
        factor, step = factor * factor % modulus, (factor * step + step) % modulus
    return block.ravel() ^ (states[: block.size] % 255 & 0x0F).astype(np.uint8)
