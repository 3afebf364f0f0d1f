"""WebDataset shards as a data set: pictures and captions in tar files, read in the order in which they lie there.

Members with the same name up to the first dot are one example: 000123.jpg, 000123.txt, 000123.json, 000123.cls.
Shards come in a random order each epoch, and examples are shuffled with those near to them, so that disks read on.
"""

from __future__ import annotations

import hashlib
import json
import random
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from wordbrush.data.buckets import shuffler
from wordbrush.data.dataset import BadExample, Dataset, Refusing, decode_picture, upright_size
from wordbrush.data.shards import Members, read_shard, shard_paths
from wordbrush.errors import RequestError

PICTURES = ("jpg", "jpeg", "png", "webp", "avif", "gif", "bmp", "tif", "tiff", "ppm", "pgm", "jp2")
_TEXT, _TABLE, _CLASS = "txt", "json", "cls"


@dataclass(frozen=True, kw_only=True)
class ShardRules:
    """How shards are read; see `training.data_recipe.WebDatasetData`."""

    window: int = 1000
    column: str = "caption"
    names: tuple[str, ...] = ()
    template: str = "{}"


class WebDataset(Refusing, Dataset):
    """The examples of some shards, numbered in the order they stand in."""

    def __init__(self, shards: Sequence[str], rules: ShardRules | None = None, *, skip_bad: bool = False) -> None:
        """
        Raises:
            RequestError: a shard is missing or damaged, there is no example, or one has no picture or no caption.
        """
        super().__init__(skip_bad=skip_bad)
        self.rules = rules or ShardRules()
        paths = shard_paths(shards)
        self.shards = []
        for number, path in enumerate(paths):
            try:
                self.shards.append(read_shard(path, number))
            except RequestError as error:
                self.refuse(path.name, str(error))
        self.places = np.array(self._usable(), np.int64).reshape(-1, 2)  # (N, 2): shard, example in it
        if not len(self.places):
            why = f": {self.bad[0][1]}" if self.bad else ""
            raise RequestError(f"the shards {', '.join(shards)} have no example that can be used{why}")
        if self.rules.names:
            self.labels = self.rules.names

    def __len__(self) -> int:
        return len(self.places)

    def image(self, index: int) -> np.ndarray:
        extension = _picture(self._members(index)) or ""
        return decode_picture(self._bytes(index, extension), self.key(index), self._name(index, extension))

    def caption(self, index: int, draw: random.Random | None = None) -> str:
        members = self._members(index)
        if _TEXT in members:
            return " ".join(self._text(index, _TEXT).split())
        if _TABLE in members and (told := self._from_table(index, draw)) is not None:
            return told
        number = self.label(index)
        if number is None:
            return ""
        name = self.rules.names[number] if self.rules.names else str(number)
        return self.rules.template.replace("{}", name)

    def label(self, index: int) -> int | None:
        if _CLASS not in self._members(index):
            return None
        text = self._text(index, _CLASS).strip()
        number = int(text) if text.isascii() and text.isdigit() else -1
        if number < 0 or (self.rules.names and number >= len(self.rules.names)):
            there = f"from 0 to {len(self.rules.names) - 1}" if self.rules.names else "from 0 up"
            raise BadExample(self.key(index), f"{self._name(index, _CLASS)} says {text[:20]!r}; classes are {there}")
        return number

    def key(self, index: int) -> str:
        shard, place = self.places[index]
        return f"{self.shards[shard].path.name}/{self.shards[shard].keys[place]}"

    def digest(self, index: int) -> str:
        return hashlib.sha256(self._bytes(index, _picture(self._members(index)) or "")).hexdigest()

    def size(self, index: int) -> tuple[int, int]:
        extension = _picture(self._members(index)) or ""
        name = self._name(index, extension)
        return upright_size(lambda most: self._bytes(index, extension, most), self.key(index), name)

    def order(self, seed: int, epoch: int) -> np.ndarray:
        """Shards in a random order, their examples shuffled with the `window - 1` around them."""
        draw = shuffler(f"order/{seed}/{epoch}")
        first = np.searchsorted(self.places[:, 0], np.arange(len(self.shards) + 1))
        shards = draw.permutation(len(self.shards))
        order = np.concatenate([np.arange(first[shard], first[shard + 1]) for shard in shards])
        start = -int(draw.integers(self.rules.window))  # else the same borders would part examples in every epoch
        for begin in range(start, len(order), self.rules.window):
            draw.shuffle(order[max(0, begin) : begin + self.rules.window])
        return order

    def _usable(self) -> list[tuple[int, int]]:
        """The examples with a picture, with a caption if any has one, and with a class if those have names."""
        captioned = any(_TEXT in each or _TABLE in each for shard in self.shards for each in shard.members)
        usable = []
        for number, shard in enumerate(self.shards):
            for place, (key, members) in enumerate(zip(shard.keys, shard.members, strict=True)):
                where = f"in shard {shard.number} ({shard.path.name})"
                if _picture(members) is None:
                    there = ", ".join(f".{extension}" for extension in members)
                    self.refuse(f"{shard.path.name}/{key}", f"the example {key} {where} has no picture, only {there}")
                elif captioned and _TEXT not in members and _TABLE not in members:
                    self.refuse(f"{shard.path.name}/{key}", f"the example {key} {where} has no .txt or .json caption")
                elif self.rules.names and _CLASS not in members:
                    self.refuse(f"{shard.path.name}/{key}", f"the example {key} {where} has no .cls, as classes need")
                else:
                    usable.append((number, place))
        return usable

    def _members(self, index: int) -> Members:
        shard, place = self.places[index]
        return self.shards[shard].members[place]

    def _name(self, index: int, extension: str) -> str:
        """How messages name a member."""
        number, place = self.places[index]
        shard = self.shards[number]
        what = "the picture" if extension in PICTURES else "the member"
        return f"{what} {shard.keys[place]}.{extension} in shard {shard.number} ({shard.path.name})"

    def _bytes(self, index: int, extension: str, most: int = -1) -> bytes:
        start, size = self._members(index)[extension]
        size = size if most < 0 else min(size, most)
        try:
            with self.shards[self.places[index, 0]].path.open("rb") as file:
                file.seek(start)
                data = file.read(size)
        except OSError as error:
            raise BadExample(
                self.key(index), f"{self._name(index, extension)} cannot be read: {error.strerror}"
            ) from error
        if len(data) < size:
            raise BadExample(self.key(index), f"{self._name(index, extension)} is cut short; copy the shard again")
        return data

    def _text(self, index: int, extension: str) -> str:
        try:
            return self._bytes(index, extension).decode("utf-8-sig")
        except UnicodeDecodeError as error:
            raise BadExample(self.key(index), f"{self._name(index, extension)} is not UTF-8 text: {error}") from error

    def _from_table(self, index: int, draw: random.Random | None) -> str | None:
        """None: it says other things, of a picture whose class is known (ImageNet's shards are so)."""
        name = self._name(index, _TABLE)
        try:
            table = json.loads(self._text(index, _TABLE))
        except ValueError as error:
            raise BadExample(self.key(index), f"{name} is not JSON: {error}") from error
        if isinstance(table, dict) and self.rules.column not in table and _CLASS in self._members(index):
            return None
        found = table.get(self.rules.column) if isinstance(table, dict) else None
        choices = found if isinstance(found, list) else [found]
        if not choices or not all(isinstance(choice, str) for choice in choices):
            there = ", ".join(map(repr, table)) if isinstance(table, dict) else "no table"
            raise BadExample(self.key(index), f"{name} has no text as {self.rules.column!r}; there is {there:.200}")
        return str(choices[0] if draw is None else draw.choice(choices))


def _picture(members: Members) -> str | None:
    return next((extension for extension in PICTURES if extension in members), None)
