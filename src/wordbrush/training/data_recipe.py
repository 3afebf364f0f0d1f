"""What a run is trained on, as data: where the pictures are, and how each is prepared.

    data: {kind: folder, path: my/pictures, size: 64, flip: 0.5, captions: {drop: 0.1}}

Paths are relative to the working directory.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, Literal, Self

from pydantic import Field, ValidationError, model_validator

from wordbrush.errors import RequestError
from wordbrush.training.mistakes import mistakes
from wordbrush.training.strict import Strict
from wordbrush.training.yaml_file import read_yaml

Side = Annotated[int, Field(ge=1, le=16384)]
Share = Annotated[float, Field(ge=0, le=1)]


class Buckets(Strict):
    """Sizes of many shapes and about one area; each picture goes to the shape nearest to its own."""

    side: Side = Field(description="no size has more pixels than a square of this side")
    step: Side = Field(64, description="sides are multiples of this")
    least: Side | None = Field(None, description="shortest side; half of `side` unless given")
    most: Side | None = Field(None, description="longest side; twice `side` unless given")


class Captions(Strict):
    """What happens to captions each time that they are read."""

    drop: Share = Field(0.0, description="part of the captions emptied, for guidance (Ho & Salimans 2022)")
    shuffle: bool = Field(False, description="captions are tags parted by `separator`: a new order each time")
    keep: int = Field(0, ge=0, description="so many first tags stay where they are")
    drop_tags: Share = Field(0.0, description="part of the other tags left out")
    separator: str = Field(",", min_length=1)
    before: str = Field("", description="put before every caption that is not emptied")
    after: str = Field("", description="put after it")
    trigger: str = Field("", description="a word put before captions that lack it, and the whole of empty ones")

    @model_validator(mode="after")
    def _tags_are_asked_for(self) -> Self:
        if self.keep and not (self.shuffle or self.drop_tags):
            raise ValueError("keep says which tags stay; without shuffle or drop_tags all do")
        if self.separator != "," and not (self.shuffle or self.drop_tags):
            raise ValueError("separator parts the tags that shuffle or drop_tags change; give one of these")
        return self


class Prepared(Strict):
    """What is the same for every kind of data: how a picture becomes a row of a batch."""

    size: Side | tuple[Side, Side] | None = Field(
        None, description="side of squares, or [width, height]; not given: as the pictures are, if all are alike"
    )
    buckets: Buckets | None = Field(None, description="in place of one size")
    fit: Literal["cover", "native"] = Field(
        "cover", description="cover: resized so that it just covers the size, then cut; native: cut without resizing"
    )
    crop: Literal["centre", "random"] = "centre"
    flip: Share = Field(0.0, description="part of the pictures mirrored left to right")
    captions: Captions = Field(default_factory=lambda: Captions.model_validate({}))
    skip_bad: bool = Field(
        False, exclude=True, description="pass over what cannot be read, and list it, instead of stopping"
    )

    @model_validator(mode="after")
    def _one_size(self) -> Self:
        if self.size is not None and self.buckets is not None:
            raise ValueError("give size or buckets, not both")
        return self


SceneKind = Literal["single", "colour", "two", "position", "binding", "counting", "several"]


class ScenesData(Prepared):
    """Scenes, drawn as they are needed: 128 by 128, captions worded anew each time."""

    kind: Literal["scenes"]
    split: Literal["train", "test"] = "train"
    seed: int = 0
    count: int | None = Field(None, ge=1, description="so many scenes, again each epoch; not given: never the same")
    scene: SceneKind | None = Field(None, description="one kind of scene only; not given: the usual mix")
    things: tuple[str, ...] = Field(
        (), description="nouns: pictures of one of these things each, whose number is the label"
    )

    @model_validator(mode="after")
    def _scene_or_things(self) -> Self:
        if self.scene and self.things:
            raise ValueError("give scene or things, not both: things are single ones")
        if self.buckets is not None and self.count is None:
            raise ValueError("scenes are of one shape, and endless ones cannot be sorted into buckets: give size")
        return self


class FolderData(Prepared):
    """A folder of pictures, with subfolders, in Hugging Face's imagefolder layout or with a .txt beside each."""

    kind: Literal["folder"]
    path: Path
    text: Literal["auto", "txt", "metadata", "class", "none"] = Field(
        "auto",
        description="where captions are: metadata.jsonl or .csv, a .txt beside each picture, the names of the "
        "subfolders (which are labels too), or nowhere; auto: looks for them in this order",
    )
    column: str = Field("text", description="the captions' name in metadata.jsonl or .csv")
    template: str = Field("{}", description="the caption of a class: {} is its name")
    caption: str | None = Field(None, description="one caption for every picture, in place of any that there are")

    @model_validator(mode="after")
    def _texts_are_used(self) -> Self:
        if self.caption is not None and self.text != "auto":
            raise ValueError("give text or caption, not both: a caption stands in place of all others")
        if self.column != "text" and (self.caption is not None or self.text not in ("auto", "metadata")):
            raise ValueError("column is of metadata, of which no captions are taken here")
        if self.template != "{}" and (self.caption is not None or self.text not in ("auto", "class")):
            raise ValueError("template is of classes, of which no captions are made here")
        return self


class WebDatasetData(Prepared):
    """WebDataset shards: tar files whose members with one name up to the first dot are one example."""

    kind: Literal["webdataset"]
    shards: str | tuple[str, ...] = Field(description='tar files: "data-{000..063}.tar", "folder/*.tar" or a list')
    window: int = Field(
        1000, ge=1, description="examples shuffled with each other; shards are read in a random order too"
    )
    column: str = Field("caption", description="the captions' name in .json members, where there is no .txt")
    names: tuple[str, ...] = Field((), description="names of the classes that .cls members number")
    template: str = Field("{}", description="the caption of a class where there is no text: {} is its name")


class IdxData(Prepared):
    """MNIST's layout: train-images-idx3-ubyte, train-labels-idx1-ubyte, t10k-..., packed by gzip or not."""

    kind: Literal["idx"]
    path: Path = Field(description="the folder of the four files")
    split: Literal["train", "test"] = "train"
    names: tuple[str, ...] = Field((), description="names of the classes; not given: their numbers")
    template: str = Field("{}", description="the caption of a class: {} is its name")


class CifarData(Prepared):
    """CIFAR-10 or CIFAR-100, as Python pickles (read as data, never run) or in the binary version."""

    kind: Literal["cifar"]
    path: Path = Field(description="cifar-10-batches-py, cifar-10-batches-bin, cifar-100-python or cifar-100-binary")
    split: Literal["train", "test"] = "train"
    coarse: bool = Field(False, description="the twenty superclasses of CIFAR-100 as labels")
    template: str = Field("{}", description="the caption of a class: {} is its name")


class CelebAData(Prepared):
    """CelebA: img_align_celeba/, list_attr_celeba.txt and list_eval_partition.txt; attributes become captions."""

    kind: Literal["celeba"]
    path: Path
    split: Literal["train", "valid", "test", "all"] = "train"
    tell: Share = Field(1.0, description="part of the attributes that a caption tells, drawn anew each time")
    start: str = Field("Photo of a person", description="how captions begin")
    absent: bool = Field(False, description="tell too what is said by absence: female, old, beard")


class CocoData(Prepared):
    """COCO captions: a folder of pictures and a captions_*.json, several captions a picture, one drawn each time."""

    kind: Literal["coco"]
    pictures: Path = Field(description="the folder of the pictures, train2017 for instance")
    annotations: Path = Field(description="captions_train2017.json for instance")


Plain = Annotated[
    ScenesData | FolderData | WebDatasetData | IdxData | CifarData | CelebAData | CocoData,
    Field(discriminator="kind"),
]
"""One source of pictures."""


class MixData(Prepared):
    """Several sources as one, all prepared in the same way."""

    kind: Literal["mix"]
    parts: tuple[Plain, ...] = Field(min_length=1)
    repeats: tuple[Annotated[int, Field(ge=1)], ...] = Field(
        (), description="how often an epoch has each picture of a part, part by part; not given: once"
    )

    @model_validator(mode="after")
    def _parts_are_only_read(self) -> Self:
        if self.repeats and len(self.repeats) != len(self.parts):
            raise ValueError(f"{len(self.repeats)} repeats for {len(self.parts)} parts; give one for each")
        for number, part in enumerate(self.parts):
            usual = Prepared.model_validate({})  # compared by value: a recipe read back from a checkpoint says them all
            prepared = [name for name in Prepared.model_fields if getattr(part, name) != getattr(usual, name)]
            if prepared:
                raise ValueError(f"parts.{number} has {', '.join(sorted(prepared))}: say that of the whole mix")
            if isinstance(part, ScenesData) and part.count is None:
                raise ValueError(f"parts.{number} is endless: give it a count of scenes")
        return self


def skipping(table: Strict) -> Strict:
    """A part of a recipe with skip_bad set in all data that it names.

    Raises:
        RequestError: it names none.
    """
    changed = {key: value.model_copy(update={"skip_bad": True}) for key, value in table if isinstance(value, Prepared)}
    if not changed:
        raise RequestError("--skip-bad is for recipes that name their data; this one reads no files")
    return table.model_copy(update=changed)


DataRecipe = Annotated[
    ScenesData | FolderData | WebDatasetData | IdxData | CifarData | CelebAData | CocoData | MixData,
    Field(discriminator="kind"),
]
"""The table `data` of a recipe."""


class _Table(Strict):
    data: DataRecipe


def data_recipe(values: Any, where: str = "data") -> DataRecipe:
    """A data recipe from plain values.

    Raises:
        RequestError: keys are unknown or values wrong; it names each below `where`.
    """
    try:
        return _Table.model_validate({"data": values}).data
    except ValidationError as error:
        raise RequestError("; ".join(mistakes(_Table, error, where=where)).replace(f"{where}.data", where)) from error


def read_data_recipe(path: Path) -> DataRecipe:
    """The data of a folder, of shards (a .tar), or of a YAML file: a recipe's `train.data`, or such a table alone.

    Raises:
        RequestError: there is no such file, or it says nothing of data.
    """
    if path.is_dir():
        return data_recipe({"kind": "folder", "path": path})
    if path.suffix == ".tar" or "{" in path.name or "*" in path.name:
        return data_recipe({"kind": "webdataset", "shards": str(path)})
    values = read_yaml(path)
    table = values if isinstance(values, dict) else {}
    if isinstance(table.get("train"), dict) and "data" in table["train"]:
        return data_recipe(table["train"]["data"], f"{path}: train.data")
    if "kind" in table:
        return data_recipe(table, str(path))
    raise RequestError(f"the recipe {path} has no train.data, and no kind: it says nothing of pictures")
