"""The tokenizers of a single file, which it does not hold: found in a folder or in the hub's cache; never fetched.

They are looked for, in this order: in a folder that was named; in the file itself, if this package wrote it; beside it;
in the hub's cache on this machine.
"""

from __future__ import annotations

import json
import tempfile
from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from wordbrush.conditioning.tokenizer import ClipTokenizer
from wordbrush.errors import ModelFileError
from wordbrush.formats.hub import cached_snapshot
from wordbrush.formats.single_file.configs import TEXT_ENCODERS

# Repositories that many people have in their cache, with the folder in them.
_CLIP_HUB = (
    ("openai/clip-vit-large-patch14", "."),
    ("stable-diffusion-v1-5/stable-diffusion-v1-5", "tokenizer"),
    ("runwayml/stable-diffusion-v1-5", "tokenizer"),
    ("stabilityai/stable-diffusion-2-1", "tokenizer"),
    ("stabilityai/stable-diffusion-xl-base-1.0", "tokenizer"),
    ("black-forest-labs/FLUX.1-dev", "tokenizer"),
    ("black-forest-labs/FLUX.1-schnell", "tokenizer"),
    ("laion/CLIP-ViT-H-14-laion2B-s32B-b79K", "."),
    ("laion/CLIP-ViT-bigG-14-laion2B-39B-b160k", "."),
)
_T5_HUB = (
    ("google/t5-v1_1-xxl", "."),
    ("black-forest-labs/FLUX.1-dev", "tokenizer_2"),
    ("black-forest-labs/FLUX.1-schnell", "tokenizer_2"),
    ("google-t5/t5-small", "."),
    ("google-t5/t5-base", "."),
)
_FILES = frozenset(
    {"vocab.json", "merges.txt", "tokenizer.json", "tokenizer_config.json", "special_tokens_map.json", "spiece.model"}
)
_LARGEST = 64 << 20

# OpenCLIP was trained with zeros after the end of a text, and 0 is this piece; OpenAI's CLIP repeats the end.
_OPEN_CLIP_PAD = "!"


def find_tokenizers(
    path: Path, family: str, *, folder: Path | None = None, written: Mapping[str, Any] | None = None
) -> dict[str, Any]:
    """The tokenizers of a model, by their names in `ModelParts`.

    Args:
        path: the model's file.
        folder: where to look; nowhere else is then looked.
        written: file name -> text by tokenizer, as our own writer puts them into a file's metadata.

    Raises:
        ModelFileError: one is nowhere to be found, or is damaged.
    """
    found: dict[str, Any] = {}
    for part in TEXT_ENCODERS[family]:
        name = part.replace("text_encoder", "tokenizer")
        t5 = family.startswith("flux") and part == "text_encoder_2"
        inside = (written or {}).get(name)
        if folder is None and isinstance(inside, dict):
            found[name] = _from_texts(path, inside, t5=t5)
            continue
        place = next(_places(path, folder, name, t5=t5), None)
        if place is None:
            raise ModelFileError(_nowhere(path, folder, t5=t5))
        if t5:
            from wordbrush.conditioning.t5_tokenizer import T5Tokenizer

            found[name] = T5Tokenizer.from_folder(place)
        else:
            pads_with_zero = family == "sd2" or part == "text_encoder_2"
            found[name] = _clip(place, pads_with_zero=pads_with_zero and place.name != name)
    return found


def _places(path: Path, folder: Path | None, name: str, *, t5: bool) -> Iterator[Path]:
    """Folders with such a tokenizer, best first."""
    bases = [folder] if folder is not None else [path.with_suffix(""), path.parent]
    for base in bases:
        for place in (base / name, base / "tokenizer", base / "tokenizer_2", base):
            if _holds(place, t5=t5):
                yield place
    for repository, inside in () if folder is not None else _T5_HUB if t5 else _CLIP_HUB:
        snapshot = cached_snapshot(repository)
        if snapshot is not None and _holds(snapshot / inside, t5=t5):
            yield snapshot / inside


def _holds(place: Path, *, t5: bool) -> bool:
    """Whether a folder holds a tokenizer of that kind."""
    if (place / "spiece.model").is_file() or (place / "vocab.json").is_file():
        return (place / "spiece.model").is_file() == t5
    whole = place / "tokenizer.json"
    try:
        if not whole.is_file() or whole.stat().st_size > _LARGEST:
            return False
        return bool(json.loads(whole.read_text(encoding="utf-8"))["model"]["type"] == ("Unigram" if t5 else "BPE"))
    except (OSError, ValueError, KeyError, TypeError, RecursionError):
        return False


def _clip(place: Path, *, pads_with_zero: bool) -> ClipTokenizer:
    tokenizer = ClipTokenizer.from_folder(place)
    if not pads_with_zero or tokenizer.vocab.get(_OPEN_CLIP_PAD) != 0:
        return tokenizer
    return ClipTokenizer(
        tokenizer.vocab,
        tokenizer.merges,
        special=replace(tokenizer.special, pad=_OPEN_CLIP_PAD),
        max_length=tokenizer.max_length,
    )


def _from_texts(path: Path, texts: Mapping[Any, Any], *, t5: bool) -> Any:
    """A tokenizer from the files that our own writer put into the metadata."""
    if not all(name in _FILES and isinstance(text, str) for name, text in texts.items()):
        raise ModelFileError(f"{path} is damaged: the tokenizer in its metadata has files that none has; get it again")
    with tempfile.TemporaryDirectory() as folder:
        for name, text in texts.items():
            (Path(folder) / name).write_text(text, encoding="utf-8")
        try:
            if t5:
                from wordbrush.conditioning.t5_tokenizer import T5Tokenizer

                return T5Tokenizer.from_folder(Path(folder))
            return ClipTokenizer.from_folder(Path(folder))
        except ModelFileError as error:
            reason = str(error).replace(folder, "its metadata")
            raise ModelFileError(f"{path} is damaged: its own tokenizer cannot be read: {reason}") from error


def _nowhere(path: Path, folder: Path | None, *, t5: bool) -> str:
    kind, files = ("T5", "spiece.model or tokenizer.json") if t5 else ("CLIP", "vocab.json and merges.txt")
    if folder is not None:
        return f"there is no {kind} tokenizer ({files}) in {folder}, nor in a folder 'tokenizer' or 'tokenizer_2' there"
    repository = (_T5_HUB if t5 else _CLIP_HUB)[0][0]
    return (
        f"{path} needs a {kind} tokenizer, and there is none: name a folder with {files} (--tokenizer), put it as "
        f"{'tokenizer_2' if t5 else 'tokenizer'} beside the file, or get {repository} into the Hugging Face cache"
    )
