"""What a picture shows, in words: CLIP is asked which of many phrases is most like the picture.

It knows no other words than those of its list: the things and grounds of the scenes world, which are what the embedded
model paints. Of another picture it says what is nearest among them. Of 150 scenes of one thing in combinations that it
never saw, the embedded CLIP names the thing in 69 % (91 % have it among the first five) and the ground in 99 %. It
counts and tells the colour of a thing hardly better than chance, so neither is said.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
import torch.nn.functional as F
from torch import Tensor

from wordbrush.conditioning.tokenizer import ClipTokenizer
from wordbrush.data.scenes.objects import object_types, with_article
from wordbrush.data.scenes.scene import BACKGROUNDS
from wordbrush.errors import ModelFileError
from wordbrush.formats.clip_files import ClipFiles, read_clip
from wordbrush.formats.open import locate_model
from wordbrush.pictures import as_rgb

if TYPE_CHECKING:
    from PIL import Image

_BATCH = 256

# So many of the things that are likeliest without their ground are asked for on every ground.
_SHORTLIST = 16


@dataclass(frozen=True, kw_only=True)
class Ranked:
    """A phrase, and which share of the likelihood it has among all that were asked with it; the shares sum to 1."""

    phrase: str
    share: float


@dataclass(frozen=True, kw_only=True)
class Description:
    """What a picture seems to show.

    Attributes:
        caption: one sentence, "a fox on a blue background".
        things: the likeliest things, on any ground.
        grounds: the likeliest background colours, of any thing.
        similarity: the cosine of the picture and the caption.
    """

    caption: str
    things: tuple[Ranked, ...]
    grounds: tuple[Ranked, ...]
    similarity: float

    def output(self) -> dict[str, Any]:
        """As JSON."""

        def listed(ranked: Sequence[Ranked]) -> list[dict[str, Any]]:
            return [{"phrase": one.phrase, "share": round(one.share, 4)} for one in ranked]

        return {
            "caption": self.caption,
            "things": listed(self.things),
            "backgrounds": listed(self.grounds),
            "similarity": round(self.similarity, 4),
        }


class Describer:
    """A CLIP that describes pictures in the words of scenes."""

    def __init__(self, files: ClipFiles, tokenizer: ClipTokenizer, device: torch.device) -> None:
        self._clip = files.model.to(device)
        self._tokenizer, self._device = tokenizer, device
        self._known: dict[str, Tensor] = {}
        self._mean, self._std = (torch.tensor(value).view(1, -1, 1, 1) for value in (files.mean, files.std))

    @classmethod
    def of_model(cls, name: str | None, device: torch.device | str = "cpu") -> Describer:
        """By the CLIP that comes with a model; None is the embedded one.

        Raises:
            ModelFileError: it brings none, or one without a tokenizer.
        """
        place = locate_model(name)
        files = read_clip(place)
        folder = place / "tokenizer"
        tokenizer = files.tokenizer or (ClipTokenizer.from_folder(folder) if folder.is_dir() else None)
        if tokenizer is None or len(tokenizer.vocab) != files.model.config.text_config.vocab_size:
            raise ModelFileError(f"the CLIP in {files.source} has no tokenizer that fits it")
        return cls(files, tokenizer, torch.device(device))

    @torch.inference_mode()
    def describe(self, picture: Image.Image, most: int = 5) -> Description:
        """What a picture of any size shows.

        most: how many of the likeliest things and grounds are told.
        """
        seen = self._seen(picture)
        alone = self._texts([with_article(one.noun) for one in object_types()]) @ seen
        things = [object_types()[index].noun for index in alone.topk(_SHORTLIST).indices.tolist()]
        # a thing is judged on each ground: the picture is like a caption that says both
        phrases = [on_ground(with_article(thing), ground) for thing in things for ground in BACKGROUNDS]
        cosines = self._texts(phrases) @ seen
        shares = torch.softmax(self._clip.logit_scale.exp() * cosines, dim=0).view(len(things), len(BACKGROUNDS))
        best = int(cosines.argmax())
        return Description(
            caption=phrases[best],
            things=_ranked(things, shares.sum(dim=1), most),
            grounds=_ranked(BACKGROUNDS, shares.sum(dim=0), most),
            similarity=float(cosines[best]),
        )

    def _texts(self, texts: Sequence[str]) -> Tensor:
        """(N, P), unit embeddings; each text is read once."""
        missing = [text for text in texts if text not in self._known]
        for start in range(0, len(missing), _BATCH):
            part = missing[start : start + _BATCH]
            rows = [self._tokenizer.encode(text) for text in part]
            # what follows the end of a text is not seen: reading none of it gives the same
            length = max(row.index(self._clip.config.text_config.eos_token_id) for row in rows) + 1
            ids = torch.tensor([row[:length] for row in rows], device=self._device)
            embedded = F.normalize(self._clip.text_features(ids), dim=1)
            self._known.update(zip(part, embedded, strict=True))
        return torch.stack([self._known[text] for text in texts])

    def _seen(self, picture: Image.Image) -> Tensor:
        """(P,), the picture's unit embedding, the whole of it shrunk to what CLIP takes."""
        import numpy as np

        side = self._clip.config.vision_config.image_size
        pixels = torch.from_numpy(np.asarray(as_rgb(picture)).copy()).permute(2, 0, 1)[None].float() / 255.0
        if pixels.shape[2:] != (side, side):
            pixels = F.interpolate(pixels, size=(side, side), mode="bilinear", antialias=True)
        image = ((pixels - self._mean) / self._std).to(self._device)
        return F.normalize(self._clip.image_features(image), dim=1)[0]


def on_ground(phrase: str, ground: str) -> str:
    """A white ground is what captions do not mention."""
    return phrase if ground == "white" else f"{phrase} on {with_article(ground)} background"


def _ranked(names: Sequence[str], shares: Tensor, most: int) -> tuple[Ranked, ...]:
    best = shares.topk(min(most, len(names)))
    found = zip(best.values.tolist(), best.indices.tolist(), strict=True)
    return tuple(Ranked(phrase=names[index], share=share) for share, index in found)
