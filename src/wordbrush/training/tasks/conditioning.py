"""What a diffusion model is told in training, and the parts that its finished folder has for it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from wordbrush.conditioning.pooled import unit_variance
from wordbrush.conditioning.tokenizer import ClipTokenizer
from wordbrush.errors import RequestError
from wordbrush.formats.clip_files import ClipFiles, read_clip
from wordbrush.formats.diffusers_folder.networks import read_network
from wordbrush.formats.json_file import read_json
from wordbrush.networks.clip import CLIPTextModel
from wordbrush.training.feed import Rows
from wordbrush.training.task import Batch
from wordbrush.training.tasks.denoising import Told
from wordbrush.training.tasks.diffusion_recipe import ByClass, ByEmbedding, ByText, Conditioning

_LISTED = 12  # names of classes in a message

Reader = Callable[[Rows, Tensor], Batch]
"""(rows, dropped: (B,) bool) -> what a batch has of them for the teller. It holds no networks, so that worker processes
can have it."""


def read_nothing(known: Rows, dropped: Tensor) -> Batch:
    """For models that are told nothing."""
    del known, dropped
    return {}


@dataclass(frozen=True)
class ClassReader:
    """`labels` (B,): numbers of classes.

    Attributes:
        numbers: what the model calls each of the data's classes.
        null: that of rows which are told nothing.
    """

    numbers: tuple[int, ...]
    null: int

    def __call__(self, known: Rows, dropped: Tensor) -> Batch:
        assert known.labels is not None
        return {"labels": torch.tensor(self.numbers)[known.labels].masked_fill(dropped, self.null)}


@dataclass(frozen=True)
class TextReader:
    """`ids` (B, L): tokens of captions; those of dropped rows are the empty text's."""

    tokenizer: ClipTokenizer

    def __call__(self, known: Rows, dropped: Tensor) -> Batch:
        texts = ["" if out else text for out, text in zip(dropped.tolist(), known.captions, strict=True)]
        return {"ids": torch.tensor([self.tokenizer.encode(text) for text in texts])}


@dataclass(frozen=True)
class EmbeddingReader:
    """`dropped` (B,), and `ids` (B, L) where captions are embedded; an empty caption counts as dropped."""

    tokenizer: ClipTokenizer | None

    def __call__(self, known: Rows, dropped: Tensor) -> Batch:
        if self.tokenizer is None:
            return {"dropped": dropped}
        empty = torch.tensor([not caption.strip() for caption in known.captions])
        ids = torch.tensor([self.tokenizer.encode(caption) for caption in known.captions])
        return {"dropped": dropped | empty, "ids": ids}


class Teller:
    """Nothing is told; other kinds build on this one.

    Attributes:
        reader: what the batch needs of its rows.
        modules, frozen: networks that tell, as in `Task`.
        family: of the finished model, as in `ModelParts`.
        network: settings of the U-Net's config that follow from what it is told.
        drop: part of the rows that are told nothing, for guidance.
        sees: whether it looks at the pictures themselves, in the loss.
    """

    family = "unconditional"
    drop = 0.0
    sees = False

    def __init__(self) -> None:
        self.reader: Reader = read_nothing
        self.modules: dict[str, nn.Module] = {}
        self.frozen: dict[str, nn.Module] = {}
        self.rates: dict[str, float] = {}
        self.network: dict[str, Any] = {"cross_attention_dim": 8}

    def reader_of(self, labels: tuple[str, ...] | None) -> Reader:
        """As `reader`, of other data, whose classes have these names. Raises RequestError where it has no such."""
        del labels
        return self.reader

    def told(self, batch: Batch, width: int) -> Told:
        """What the network is told; width: its cross_attention_dim."""
        return Told(context=batch["eps"].new_zeros(1, 1, width))

    def view(self, images: Tensor) -> Tensor:
        """`seen` of a batch, where `sees`: embeddings (B, P) of pictures (B, 3, H, W) in [-1, 1]."""
        raise NotImplementedError

    def parts(self, texts: dict[str, nn.Module]) -> dict[str, Any]:
        """Fields of the finished model's `ModelParts`; texts: trained copies of `modules`."""
        del texts
        return {}

    def prompts(self, captions: list[str]) -> list[str]:
        """Prompts for sample sheets; captions: of some rows of the data."""
        return [""] * len(captions)


class ClassTeller(Teller):
    """The number of a class; that after the last is the null class."""

    family = "class"

    def __init__(self, labels: tuple[str, ...] | None, drop: float) -> None:
        super().__init__()
        if labels is None:
            raise RequestError("conditioning.kind is class, but the data have no classes; give data with labels")
        self.labels, self.drop = labels, drop
        self.reader = self.reader_of(labels)
        self.network |= {"num_class_embeds": len(labels) + 1}

    def reader_of(self, labels: tuple[str, ...] | None) -> Reader:
        if labels is None:
            raise RequestError("the data have no classes, of which the model is told; give data with labels")
        if strange := [name for name in labels if name not in self.labels]:
            raise RequestError(
                f"the model learns no class named {', '.join(strange[:_LISTED])}; the classes of train.data are "
                + ", ".join(self.labels[:_LISTED])
                + (", …" if len(self.labels) > _LISTED else "")
            )
        return ClassReader(tuple(self.labels.index(name) for name in labels), len(self.labels))

    def told(self, batch: Batch, width: int) -> Told:
        return replace(super().told(batch, width), labels=batch["labels"])

    def parts(self, texts: dict[str, nn.Module]) -> dict[str, Any]:
        return {"labels": self.labels}

    def prompts(self, captions: list[str]) -> list[str]:
        return [self.labels[number % len(self.labels)] for number in range(len(captions))]


class TextTeller(Teller):
    """The hidden states of a text encoder."""

    def __init__(self, recipe: ByText) -> None:
        super().__init__()
        self.encoder, self.drop = read_text_encoder(Path(recipe.text_encoder)), recipe.drop
        self.tokenizer = _tokenizer(Path(recipe.tokenizer), self.encoder.config.vocab_size)
        self.reader = TextReader(self.tokenizer)
        self.family = "sd1" if self.encoder.config.hidden_act == "quick_gelu" else "sd2"
        self.network = {"cross_attention_dim": self.encoder.config.hidden_size}
        self.trained = recipe.train
        self.encoder.requires_grad_(recipe.train)
        (self.modules if recipe.train else self.frozen)["text_encoder"] = self.encoder
        self.rates = {"text_encoder": recipe.rate} if recipe.train else {}

    def told(self, batch: Batch, width: int) -> Told:
        del width
        with torch.set_grad_enabled(self.trained and torch.is_grad_enabled()):
            return Told(context=self.encoder(batch["ids"]).last_hidden_state)

    def parts(self, texts: dict[str, nn.Module]) -> dict[str, Any]:
        return {"text_encoder": texts.get("text_encoder", self.encoder), "tokenizer": self.tokenizer}

    def prompts(self, captions: list[str]) -> list[str]:
        return captions


class EmbeddingTeller(Teller):
    """CLIP's embedding of the caption or of the picture."""

    family = "embedding"

    def __init__(self, recipe: ByEmbedding) -> None:
        super().__init__()
        files = read_clip(Path(recipe.clip))
        self.clip, self.recipe, self.drop = files.model, recipe, recipe.drop
        self.tokenizer = _clip_tokenizer(files, recipe.tokenizer)
        self.mean, self.std = (torch.tensor(numbers).view(1, 3, 1, 1) for numbers in (files.mean, files.std))
        self.sees = recipe.of == "image"
        self.reader = EmbeddingReader(None if self.sees else self.tokenizer)
        self.frozen = {"clip": self.clip}
        size = self.clip.config.projection_dim
        if recipe.into == "token":
            self.network = {"cross_attention_dim": size}
        else:
            self.network |= {"class_embed_type": "projection", "projection_class_embeddings_input_dim": size}

    def told(self, batch: Batch, width: int) -> Told:
        with torch.no_grad():
            found = batch["seen"] if self.sees else self.clip.text_features(batch["ids"])
            vectors = unit_variance(found).masked_fill(batch["dropped"][:, None], 0.0)
        if self.recipe.into == "token":
            return Told(context=vectors[:, None])
        return replace(super().told(batch, width), labels=vectors)

    @torch.no_grad()
    def view(self, images: Tensor) -> Tensor:
        side = self.clip.config.vision_config.image_size
        if images.shape[2:] != (side, side):
            images = F.interpolate(images, size=(side, side), mode="bilinear", antialias=True)
        return self.clip.image_features(((images + 1) / 2 - self.mean.to(images)) / self.std.to(images))

    def parts(self, texts: dict[str, nn.Module]) -> dict[str, Any]:
        config = replace(self.clip.config.text_config, projection_dim=self.clip.config.projection_dim)
        encoder = CLIPTextModel(config, projection=True)
        own = ("text_model.", "text_projection.")
        encoder.load_state_dict({key: value for key, value in self.clip.state_dict().items() if key.startswith(own)})
        return {"text_encoder": encoder, "tokenizer": self.tokenizer}

    def prompts(self, captions: list[str]) -> list[str]:
        return captions


def teller_of(recipe: Conditioning, labels: tuple[str, ...] | None) -> Teller:
    """What tells a network of that recipe; labels: the names of the data's classes.

    Raises:
        RequestError, ModelFileError: the data or folders do not have what it needs.
    """
    match recipe:
        case ByClass():
            return ClassTeller(labels, recipe.drop)
        case ByText():
            return TextTeller(recipe)
        case ByEmbedding():
            return EmbeddingTeller(recipe)
    return Teller()


def read_text_encoder(folder: Path) -> CLIPTextModel:
    """The CLIPTextModel in a folder, or the text tower of a whole CLIP; float32. Raises ModelFileError."""
    if read_json(folder / "config.json").get("model_type") == "clip":
        clip = read_clip(folder).model
        encoder = CLIPTextModel(clip.config.text_config)
        encoder.load_state_dict(clip.text_encoder_state())
        return encoder
    found = read_network(folder, "CLIPTextModel")
    assert isinstance(found, CLIPTextModel)
    return found.float()


def _clip_tokenizer(files: ClipFiles, folder: str | None) -> ClipTokenizer:
    if folder is None and files.tokenizer is None:
        raise RequestError(f"the CLIP in {files.source} has no tokenizer; name its folder with conditioning.tokenizer")
    size = files.model.config.text_config.vocab_size
    return _tokenizer(Path(folder), size) if folder is not None else files.tokenizer or _tokenizer(files.source, size)


def _tokenizer(folder: Path, pieces: int) -> ClipTokenizer:
    tokenizer = ClipTokenizer.from_folder(folder)
    if len(tokenizer.vocab) > pieces:
        raise RequestError(
            f"the tokenizer in {folder} has {len(tokenizer.vocab)} pieces, the text encoder {pieces}; give its own"
        )
    return tokenizer
