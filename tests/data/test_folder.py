"""Folders of pictures in the layouts that people have them in."""

from __future__ import annotations

import io
import json
import random
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from wordbrush.data.dataset import BadExample
from wordbrush.data.folder import FolderDataset, Texts
from wordbrush.errors import RequestError

PIXELS = np.random.default_rng(0).integers(0, 256, (20, 30, 3), dtype=np.uint8)


def picture(path: Path, pixels: np.ndarray = PIXELS) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels).save(path)
    return path


def test_captions_lie_beside_the_pictures(tmp_path: Path) -> None:
    for name, text in (("b.png", "a red\n bird "), ("sub/a.png", "ein Käfer")):
        picture(tmp_path / name).with_suffix(".txt").write_text(text, encoding="utf-8")
    (tmp_path / ".hidden.png").write_bytes(b"")
    (tmp_path / "notes.md").write_text("no picture")
    data = FolderDataset(tmp_path)
    assert [data.key(index) for index in range(len(data))] == ["b.png", "sub/a.png"]
    assert [data.caption(index) for index in range(2)] == ["a red bird", "ein Käfer"]
    example = data.read(0)
    assert (example.image == PIXELS).all()
    assert example.label is None
    assert data.labels is None
    assert data.size(0) == (30, 20)


def test_a_missing_caption_is_named_or_skipped(tmp_path: Path) -> None:
    picture(tmp_path / "a.png").with_suffix(".txt").write_text("a")
    picture(tmp_path / "b.png")
    with pytest.raises(BadExample, match=r"b\.png' has no caption file 'b\.txt' beside it"):
        FolderDataset(tmp_path)
    data = FolderDataset(tmp_path, skip_bad=True)
    assert len(data) == 1
    assert [key for key, _ in data.bad] == ["b.png"]
    (tmp_path / "b.txt").write_bytes(b"\xff\xfe\x00\xd8")
    with pytest.raises(BadExample, match=r"b\.txt' cannot be read as UTF-8"):
        FolderDataset(tmp_path)


def test_metadata_jsonl_and_csv_as_hugging_face_writes_them(tmp_path: Path) -> None:
    for name in ("one.png", "train/two.jpg"):
        picture(tmp_path / "j" / name)
        picture(tmp_path / "c" / name)
    rows = [
        {"file_name": "one.png", "text": ["first", "second"]},
        {"file_name": "train/two.jpg", "text": "a, b", "width": 3},
    ]
    (tmp_path / "j/metadata.jsonl").write_text("\n".join(map(json.dumps, rows)) + "\n")
    data = FolderDataset(tmp_path / "j")
    assert [data.caption(index) for index in range(2)] == ["first", "a, b"]
    assert {data.caption(0, random.Random(seed)) for seed in range(20)} == {"first", "second"}
    (tmp_path / "c/metadata.csv").write_text('file_name,prompt\none.png,"a, ""b"""\ntrain/two.jpg,c\n')
    data = FolderDataset(tmp_path / "c", Texts(column="prompt"))
    assert [data.caption(index) for index in range(2)] == ['a, "b"', "c"]
    with pytest.raises(
        RequestError, match=r"line 2 of .*metadata\.csv' has no text in the column 'text'; there is 'prompt'"
    ):
        FolderDataset(tmp_path / "c")


def test_metadata_lies_in_the_subfolder_of_its_pictures(tmp_path: Path) -> None:
    for part in ("x", "y"):
        picture(tmp_path / part / "1.png")
        (tmp_path / part / "metadata.jsonl").write_text(json.dumps({"file_name": "1.png", "text": part}))
    assert [FolderDataset(tmp_path).caption(index) for index in range(2)] == ["x", "y"]


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("{not json", r"line 1 of .*metadata\.jsonl' is not JSON"),
        ("[1]", r"line 1 of .* is no object"),
        ('{"text": "a"}', "line 1 of .* has no file_name"),
        ('{"file_name": "a.png"}', "line 1 of .* has no text in the column 'text'; there is nothing else"),
        ('{"file_name": "b.png", "text": "b"}', r"b\.png', which metadata has a caption of, is not there"),
    ],
)
def test_bad_metadata_is_named(tmp_path: Path, line: str, message: str) -> None:
    picture(tmp_path / "a.png")
    (tmp_path / "metadata.jsonl").write_text(line)
    with pytest.raises(RequestError, match=message):
        FolderDataset(tmp_path)


def test_a_picture_without_a_line_is_named(tmp_path: Path) -> None:
    picture(tmp_path / "a.png")
    picture(tmp_path / "b.png")
    (tmp_path / "metadata.jsonl").write_text('{"file_name": "a.png", "text": "a"}')
    with pytest.raises(BadExample, match=r"b\.png' has no line in metadata\.jsonl"):
        FolderDataset(tmp_path)
    assert len(FolderDataset(tmp_path, skip_bad=True)) == 1


def test_subfolders_are_classes(tmp_path: Path) -> None:
    for name in ("tabby_cat/1.png", "dog/1.png", "dog/deep/2.png"):
        picture(tmp_path / name)
    data = FolderDataset(tmp_path, Texts(template="a photo of a {}"))
    assert data.labels == ("dog", "tabby_cat")
    assert [data.label(index) for index in range(3)] == [0, 0, 1]
    assert data.caption(2) == "a photo of a tabby cat"


def test_one_caption_for_all_and_none(tmp_path: Path) -> None:
    picture(tmp_path / "a.png").with_suffix(".txt").write_text("own")
    assert FolderDataset(tmp_path, Texts(caption="a photo of sks dog")).caption(0) == "a photo of sks dog"
    assert FolderDataset(tmp_path, Texts(source="none")).caption(0) == ""


def test_what_is_no_folder_of_pictures_is_refused(tmp_path: Path) -> None:
    with pytest.raises(RequestError, match="there is no folder"):
        FolderDataset(tmp_path / "nowhere")
    with pytest.raises(RequestError, match="has no pictures"):
        FolderDataset(tmp_path)
    picture(tmp_path / "a.png")
    with pytest.raises(RequestError, match=r"has no metadata\.jsonl"):
        FolderDataset(tmp_path, Texts(source="metadata"))
    with pytest.raises(RequestError, match="none of the 1 pictures"):
        FolderDataset(tmp_path, Texts(source="txt"), skip_bad=True)


def test_pictures_of_every_sort_become_plain_colours(tmp_path: Path) -> None:
    sideways = Image.fromarray(PIXELS)
    exif = sideways.getexif()
    exif[0x0112] = 6
    sideways.save(tmp_path / "0.jpg", exif=exif, quality=100, subsampling=0)
    Image.new("RGBA", (4, 4), (255, 0, 0, 0)).save(tmp_path / "1.png")
    Image.fromarray(np.full((3, 5), 65535, np.uint16)).save(tmp_path / "2.png")
    Image.fromarray(PIXELS).quantize(8).save(tmp_path / "3.png")
    Image.fromarray(PIXELS[..., 0]).save(tmp_path / "4.png")
    data = FolderDataset(tmp_path)
    images = [data.image(index) for index in range(5)]
    assert all(image.dtype == np.uint8 and image.shape[2] == 3 for image in images)
    assert data.size(0) == (20, 30) == images[0].shape[1::-1]
    turned = np.rot90(PIXELS, -1).astype(int)
    assert np.abs(images[0].astype(int) - turned).mean() < 8
    assert (images[1] == 255).all()
    assert (images[2] == 255).all()
    assert (images[4] == PIXELS[..., :1]).all()


def test_a_corrupt_picture_is_named(tmp_path: Path) -> None:
    buffer = io.BytesIO()
    Image.fromarray(PIXELS).save(buffer, "PNG")
    (tmp_path / "cut.png").write_bytes(buffer.getvalue()[:-200])
    (tmp_path / "text.jpg").write_text("no picture at all")
    data = FolderDataset(tmp_path)
    with pytest.raises(BadExample, match=r"the picture '.*cut\.png' cannot be read"):
        data.image(0)
    for use in (data.image, data.size):
        with pytest.raises(BadExample, match=r"text\.jpg' cannot be read as a picture: it is no whole"):
            use(1)
    data.path(0).unlink()
    with pytest.raises(BadExample, match="No such file"):
        data.digest(0)


def test_another_picture_has_another_digest(tmp_path: Path) -> None:
    picture(tmp_path / "a.png")
    data = FolderDataset(tmp_path)
    first = data.digest(0)
    assert data.digest(0) == first
    picture(tmp_path / "a.png", PIXELS[::-1])
    assert data.digest(0) != first
