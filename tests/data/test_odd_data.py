"""Data as people really have them: links, odd characters, parts of data sets side by side, files that are not whole."""

from __future__ import annotations

import io
import json
import tarfile
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from wordbrush.data.dataset import BadExample, decode_picture
from wordbrush.data.export import new_folder
from wordbrush.data.folder import FolderDataset
from wordbrush.data.idx import open_idx
from wordbrush.data.webdataset import ShardRules, WebDataset
from wordbrush.errors import RequestError
from wordbrush.pictures import picture_size
from wordbrush.training.data_check import check_data
from wordbrush.training.data_recipe import data_recipe
from wordbrush.training.feed import Feed, read_skipped
from wordbrush.training.open_data import open_dataset


def picture(path: Path, width: int = 12, height: int = 8) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", (width, height), "red").save(path)
    return path


def jpeg() -> bytes:
    buffer = io.BytesIO()
    Image.new("RGB", (8, 8), "blue").save(buffer, "JPEG")
    return buffer.getvalue()


def shard(path: Path, members: dict[str, bytes]) -> None:
    with tarfile.open(path, "w") as archive:
        for name, content in members.items():
            member = tarfile.TarInfo(name)
            member.size = len(content)
            archive.addfile(member, io.BytesIO(content))


def test_links_are_followed_but_not_in_circles(tmp_path: Path) -> None:
    picture(tmp_path / "data/real/0.png")
    picture(tmp_path / "elsewhere/1.png")
    (tmp_path / "elsewhere/metadata.jsonl").write_text('{"file_name": "1.png", "text": "behind a link"}')
    (tmp_path / "data/real/metadata.jsonl").write_text('{"file_name": "0.png", "text": "here"}')
    (tmp_path / "data/real/circle").symlink_to("..")
    (tmp_path / "data/link").symlink_to(tmp_path / "elsewhere")
    (tmp_path / "elsewhere/back").symlink_to(tmp_path / "data")
    data = FolderDataset(tmp_path / "data")
    assert [(data.key(index), data.caption(index)) for index in range(len(data))] == [
        ("link/1.png", "behind a link"),
        ("real/0.png", "here"),
    ]


def test_captions_may_hold_any_letter(tmp_path: Path) -> None:
    picture(tmp_path / "a.png")
    line = json.dumps({"file_name": "a.png", "text": "one\u2028two\x85three"}, ensure_ascii=False)
    (tmp_path / "metadata.jsonl").write_text(line + "\r\n", encoding="utf-8", newline="")
    assert FolderDataset(tmp_path).caption(0) == "one\u2028two\x85three"
    skipped = {"key": "a\u2028b.png", "reason": "it is bad"}
    (tmp_path / "skipped.jsonl").write_text(json.dumps(skipped, ensure_ascii=False) + "\n", encoding="utf-8")
    assert read_skipped(tmp_path) == {"a\u2028b.png": "it is bad"}


def test_bad_csv_is_named_by_its_line(tmp_path: Path) -> None:
    for name in "abc":
        picture(tmp_path / f"{name}.png")
    metadata = tmp_path / "metadata.csv"
    metadata.write_text('file_name,text\na.png,"one, and\ntwo"\nb.png\n')
    with pytest.raises(RequestError, match=r"line 4 of .* has no text in the column 'text'; there is nothing else"):
        FolderDataset(tmp_path)
    metadata.write_text(f"file_name,text\na.png,{'x' * 200_000}\n")
    with pytest.raises(RequestError, match=r"line 2 of .*metadata\.csv' cannot be read as CSV: field larger than"):
        FolderDataset(tmp_path)


@pytest.mark.parametrize(
    ("names", "first"),
    [
        (["train/a.png", "test/b.png"], "train"),
        (["train/cat/a.png", "validation/cat/b.png"], "train"),
        (["training/cat/a.png", "training/dog/b.png"], "training"),
    ],
)
def test_training_and_test_pictures_are_not_mixed_up(tmp_path: Path, names: list[str], first: str) -> None:
    for name in names:
        picture(tmp_path / name)
    with pytest.raises(RequestError, match=rf"has parts of a data set \(.*\); name one of them, such as '.*/{first}'"):
        FolderDataset(tmp_path)
    assert len(FolderDataset(tmp_path / first)) > 0


def test_pictures_in_one_folder_called_train_are_read(tmp_path: Path) -> None:
    picture(tmp_path / "train/a.png").with_suffix(".txt").write_text("a")
    assert FolderDataset(tmp_path).caption(0) == "a"


def test_a_folder_of_shards_says_how_they_are_named(tmp_path: Path) -> None:
    shard(tmp_path / "a.tar", {"0.jpg": jpeg()})
    with pytest.raises(RequestError, match=r"has no pictures \(it has shards: name those, as in '.*/\*\.tar'\)"):
        FolderDataset(tmp_path)


def test_shards_keep_their_numbers_when_one_is_passed_over(tmp_path: Path) -> None:
    for number in range(3):
        shard(tmp_path / f"{number}.tar", {"0.jpg": jpeg()[: -600 if number == 2 else None], "0.txt": b"x"})
    (tmp_path / "1.tar").write_bytes(b"no tar file" * 99)
    data = WebDataset([str(tmp_path / "*.tar")], skip_bad=True)
    assert len(data) == 2
    with pytest.raises(BadExample, match=r"in shard 2 \(2\.tar\)"):
        data.image(1)


def test_a_table_that_says_no_caption_leaves_it_to_the_class(tmp_path: Path) -> None:
    shard(tmp_path / "a.tar", {"0.jpg": jpeg(), "0.cls": b"1", "0.json": b'{"size": 3}'})
    data = WebDataset([str(tmp_path / "a.tar")], ShardRules(names=("cat", "dog"), template="a {}"))
    assert (data.caption(0), data.label(0)) == ("a dog", 1)
    shard(tmp_path / "b.tar", {"0.jpg": jpeg(), "0.json": b'{"size": 3}'})
    with pytest.raises(BadExample, match="has no text as 'caption'; there is 'size'"):
        WebDataset([str(tmp_path / "b.tar")]).caption(0)


def test_named_classes_are_of_every_example(tmp_path: Path) -> None:
    shard(tmp_path / "a.tar", {"0.jpg": jpeg(), "0.cls": b"1", "1.jpg": jpeg()})
    with pytest.raises(BadExample, match=r"the example 1 in shard 0 \(a\.tar\) has no \.cls"):
        WebDataset([str(tmp_path / "a.tar")], ShardRules(names=("cat", "dog")))
    assert len(WebDataset([str(tmp_path / "a.tar")], ShardRules(names=("cat", "dog")), skip_bad=True)) == 1


def idx(array: np.ndarray) -> bytes:
    return bytes([0, 0, 8, array.ndim]) + b"".join(side.to_bytes(4, "big") for side in array.shape) + array.tobytes()


def test_emnist_is_set_upright_and_its_parts_are_not_mixed_up(tmp_path: Path) -> None:
    upright = np.arange(2 * 3 * 3, dtype=np.uint8).reshape(2, 3, 3)
    for part in ("letters", "digits"):
        (tmp_path / f"emnist-{part}-train-labels-idx1-ubyte").write_bytes(idx(np.array([1, 2], np.uint8)))
        (tmp_path / f"emnist-{part}-train-images-idx3-ubyte").write_bytes(idx(upright.transpose(0, 2, 1)))
    with pytest.raises(RequestError, match=r"has emnist-digits-train-images-idx3-ubyte and emnist-letters-.*its own"):
        open_idx(tmp_path, "train")
    for path in tmp_path.glob("emnist-digits-*"):
        path.unlink()
    assert (open_idx(tmp_path, "train").image(1) == upright[1][..., None]).all()


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "WEBP", "TIFF", "AVIF"])
def test_the_size_is_that_of_the_upright_picture(kind: str) -> None:
    exif, buffer = Image.Exif(), io.BytesIO()
    exif[0x0112] = 6
    Image.new("RGB", (32, 16), "green").save(buffer, kind, exif=exif)
    assert decode_picture(buffer.getvalue(), "a", "a").shape == (32, 16, 3)
    assert picture_size(buffer.getvalue(), "a") == (16, 32)


def test_data_without_a_usable_picture_have_no_buckets(tmp_path: Path) -> None:
    (tmp_path / "a.png").write_bytes(b"no picture")
    recipe = data_recipe({"kind": "folder", "path": tmp_path, "buckets": {"side": 64, "step": 32}, "skip_bad": True})
    with pytest.raises(RequestError, match=r"none of the 1 pictures can be used: .*a\.png' cannot be read"):
        Feed(recipe, 0, 2)
    with pytest.raises(RequestError, match="endless ones cannot be sorted into buckets: give size"):
        data_recipe({"kind": "scenes", "buckets": {"side": 64}})


@pytest.mark.parametrize(("there", "limit", "read"), [(17, 7, 7), (3, 7, 3), (17, None, 17)])
def test_a_part_of_the_data_is_spread_over_all(tmp_path: Path, there: int, limit: int | None, read: int) -> None:
    for number in range(there):
        picture(tmp_path / f"{number:02}.png")
    recipe = data_recipe({"kind": "folder", "path": tmp_path})
    assert check_data(recipe, limit=limit).pictures == read
    with pytest.raises(RequestError, match=r"data\.size is missing"):
        check_data(recipe, multiple=8)


def test_the_working_folder_is_no_new_folder() -> None:
    with pytest.raises(RequestError, match="written to a new folder"), new_folder(Path()):
        pass


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"caption": "x", "text": "class"}, "give text or caption, not both"),
        ({"text": "txt", "column": "prompt"}, "column is of metadata"),
        ({"caption": "x", "template": "a {}"}, "template is of classes"),
        ({"captions": {"separator": "|"}}, "separator parts the tags"),
    ],
)
def test_options_that_would_do_nothing_are_refused(values: dict[str, object], message: str) -> None:
    with pytest.raises(RequestError, match=message):
        data_recipe({"kind": "folder", "path": "x", **values})


def test_a_mix_comes_back_from_its_values() -> None:
    mix = data_recipe({"kind": "mix", "size": 8, "parts": [{"kind": "folder", "path": "x"}]})
    assert data_recipe(mix.model_dump(mode="json")) == mix


@pytest.mark.parametrize("kind", ["folder", "idx", "cifar", "celeba"])
def test_a_folder_that_is_not_there_is_called_that(kind: str, tmp_path: Path) -> None:
    with pytest.raises(RequestError, match=r"there is no folder '.*none'"):
        open_dataset(data_recipe({"kind": kind, "path": tmp_path / "none"}))


def test_bad_pictures_of_a_mix_are_counted_apart(tmp_path: Path) -> None:
    for part in ("x", "y"):
        picture(tmp_path / part / "good.png").with_suffix(".txt").write_text("good")
        (tmp_path / part / "bad.png").write_bytes(b"no picture")
        (tmp_path / part / "bad.txt").write_text("bad")
        picture(tmp_path / part / "mute.png")
    parts = [{"kind": "folder", "path": tmp_path / part} for part in ("x", "y")]
    found = check_data(data_recipe({"kind": "mix", "size": 8, "parts": parts}))
    assert found.pictures == 2
    assert set(found.bad) == {"0/bad.png", "0/mute.png", "1/bad.png", "1/mute.png"}
