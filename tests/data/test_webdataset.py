"""WebDataset shards, written by the webdataset library and by tarfile."""

from __future__ import annotations

import io
import os
import random
import tarfile
from collections import Counter
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
import webdataset
from PIL import Image

from wordbrush.data.dataset import BadExample
from wordbrush.data.shards import expand_braces
from wordbrush.data.webdataset import ShardRules, WebDataset
from wordbrush.errors import RequestError


@pytest.fixture(autouse=True)
def _own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WORDBRUSH_HOME", str(tmp_path / "home"))


def pixels(number: int) -> np.ndarray:
    return np.random.default_rng(number).integers(0, 256, (6, 8 + number % 3, 3), dtype=np.uint8)


def png(number: int) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(pixels(number)).save(buffer, "PNG")
    return buffer.getvalue()


def tar(path: Path, members: dict[str, bytes]) -> Path:
    with tarfile.open(path, "w") as archive:
        for name, content in members.items():
            member = tarfile.TarInfo(name)
            member.size = len(content)
            archive.addfile(member, io.BytesIO(content))
    return path


@pytest.fixture
def shards(tmp_path: Path) -> str:
    """Three shards of five, as the library writes them."""
    with webdataset.ShardWriter(str(tmp_path / "data-%06d.tar"), maxcount=5, verbose=0) as writer:
        for number in range(15):
            writer.write(
                {"__key__": f"{number:04}", "png": pixels(number), "txt": f"picture {number}", "cls": number % 4}
            )
    return str(tmp_path / "data-{000000..000002}.tar")


def test_shards_of_the_library_are_read(shards: str) -> None:
    data = WebDataset([shards], ShardRules(names=("a", "b", "c", "d")))
    assert len(data) == 15
    assert data.labels == ("a", "b", "c", "d")
    for number in (0, 4, 5, 14):
        example = data.read(number)
        assert (example.image == pixels(number)).all()
        assert (example.caption, example.label) == (f"picture {number}", number % 4)
        assert data.size(number) == (8 + number % 3, 6)
    assert data.key(7) == "data-000001.tar/0007"
    theirs = list(webdataset.WebDataset(webdataset.shardlists.expand_urls(shards), shardshuffle=False))
    assert [each["__key__"] for each in theirs] == [data.key(index).split("/")[1] for index in range(15)]
    assert [each["txt"].decode() for each in theirs] == [data.caption(index) for index in range(15)]


def test_an_epoch_has_everything_once_and_stays_near(shards: str) -> None:
    data = WebDataset([shards], ShardRules(window=4))
    orders = [data.order(1, epoch) for epoch in range(8)]
    for order in orders:
        assert sorted(order) == list(range(15))
        switches = sum(a // 5 != b // 5 for a, b in pairwise(order))
        assert switches <= 2 + 2 * 4  # shards follow one another but for what is shuffled at their borders
    assert len({tuple(order) for order in orders}) == 8
    assert len({order[0] // 5 for order in orders}) > 1
    assert (data.order(1, 3) == orders[3]).all()
    assert (data.order(2, 3) != orders[3]).any()


def test_keys_go_to_the_first_dot_and_folders_belong_to_them(tmp_path: Path) -> None:
    members = {
        "x/1.png": png(1), "x/1.txt": b"one", "y/1.png": png(2), "y/1.json": b'{"caption": ["two", "zwei"]}',
        "y/1.mask.png": png(0), "__meta__.json": b"{}", "y/.hidden.png": b"",
    }  # fmt: skip
    data = WebDataset([str(tar(tmp_path / "a.tar", members))])
    assert [data.key(index) for index in range(len(data))] == ["a.tar/x/1", "a.tar/y/1"]
    assert (data.image(1) == pixels(2)).all()
    assert data.caption(1) == "two"
    assert {data.caption(1, random.Random(seed)) for seed in range(20)} == {"two", "zwei"}


def test_names_with_braces_and_stars() -> None:
    assert expand_braces("a-{08..11}.tar") == ["a-08.tar", "a-09.tar", "a-10.tar", "a-11.tar"]
    assert expand_braces("{x,y}-{1..2}") == ["x-1", "x-2", "y-1", "y-2"]
    assert expand_braces("{a,b{1..2}}") == ["a", "b1", "b2"]
    for text in ("a-{000..002}.tar", "{b,c}/d-{0..3}.tar", "n{9..11}"):
        import braceexpand

        assert expand_braces(text) == list(braceexpand.braceexpand(text))
    with pytest.raises(RequestError, match="braces"):
        expand_braces("{oops}")


def test_stars_match_files(shards: str, tmp_path: Path) -> None:
    assert len(WebDataset([str(tmp_path / "*.tar")])) == 15
    with pytest.raises(RequestError, match="no shard matches"):
        WebDataset([str(tmp_path / "*.zip")])


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("missing.tar", "there is no shard"),
        ("pipe:curl -s http://x/a.tar", "not files of this machine"),
        ("https://x/a.tar", "not files of this machine"),
        ("a.tar.gz", "is packed and cannot be read at random"),
    ],
)
def test_shards_that_cannot_be_read_at_random_are_refused(tmp_path: Path, name: str, message: str) -> None:
    with pytest.raises(RequestError, match=message):
        WebDataset([name])


def test_a_corrupt_picture_is_named_with_its_shard(tmp_path: Path) -> None:
    for number in range(8):
        members = {f"{number:06}.jpg": png(number), f"{number:06}.txt": b"x"}
        if number == 7:
            members["000123.jpg"], members["000123.txt"] = png(3)[:60], b"broken"
        tar(tmp_path / f"data-{number:06}.tar", members)
    data = WebDataset([str(tmp_path / "data-{000000..000007}.tar")])
    with pytest.raises(BadExample, match=r"the picture 000123\.jpg in shard 7 \(data-000007\.tar\) cannot be read"):
        data.image(8)
    assert (data.image(7) == pixels(7)).all()


def test_examples_without_a_picture_or_caption_are_named_or_skipped(tmp_path: Path) -> None:
    path = tar(tmp_path / "a.tar", {"1.png": png(1), "1.txt": b"one", "2.txt": b"two", "3.png": png(3)})
    with pytest.raises(BadExample, match=r"example 2 in shard 0 \(a\.tar\) has no picture, only \.txt"):
        WebDataset([str(path)])
    data = WebDataset([str(path)], skip_bad=True)
    assert len(data) == 1
    assert [key for key, _ in data.bad] == ["a.tar/2", "a.tar/3"]
    assert "has no .txt or .json caption" in data.bad[1][1]
    with pytest.raises(RequestError, match="no example that can be used"):
        WebDataset([str(tar(tmp_path / "empty.tar", {}))])


def test_bad_members_are_named(tmp_path: Path) -> None:
    members = {
        "1.png": png(1), "1.cls": b"9", "1.json": b"{", "2.png": png(2), "2.json": b'{"text": "x"}', "3.png": png(3),
        "3.txt": b"\xff",
    }  # fmt: skip
    named = [str(tar(tmp_path / "b.tar", {"1.png": png(1), "1.cls": b"9"}))]
    with pytest.raises(BadExample, match=r"member 1\.cls in shard 0 \(b\.tar\) says '9'; classes are from 0 to 1"):
        WebDataset(named, ShardRules(names=("a", "b"))).label(0)
    data = WebDataset([str(tar(tmp_path / "a.tar", members))])
    with pytest.raises(BadExample, match=r"1\.json in shard 0 \(a\.tar\) is not JSON"):
        data.caption(0)
    with pytest.raises(BadExample, match=r"2\.json in shard 0 \(a\.tar\) has no text as 'caption'; there is 'text'"):
        data.caption(1)
    with pytest.raises(BadExample, match=r"3\.txt in shard 0 \(a\.tar\) is not UTF-8"):
        data.caption(2)


def test_a_damaged_shard_is_named(shards: str, tmp_path: Path) -> None:
    second = tmp_path / "data-000001.tar"
    whole = second.read_bytes()
    second.write_bytes(whole[:1700])
    with pytest.raises(RequestError, match=r"shard 1 \(data-000001\.tar\) is cut short"):
        WebDataset([shards])
    assert len(WebDataset([shards], skip_bad=True)) == 10
    with tarfile.open(fileobj=io.BytesIO(whole)) as archive:
        place = archive.getmembers()[4].offset
    second.write_bytes(whole[:place] + b"\x7f" * 512 + whole[place + 512 :])
    with pytest.raises(RequestError, match=rf"shard 1 \(data-000001\.tar\) is damaged at byte {place}"):
        WebDataset([shards])
    second.write_bytes(b"this is no tar file" * 100)
    with pytest.raises(RequestError, match=r"shard 1 \(data-000001\.tar\) cannot be read as a tar file"):
        WebDataset([shards])
    doubled = tar(tmp_path / "b.tar", {"1.png": png(1), "2.png": png(2), "1.txt": b"late"})
    with pytest.raises(RequestError, match="has the example '1' twice"):
        WebDataset([str(doubled)])


def test_the_index_is_kept_until_the_shard_changes(
    shards: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    data = WebDataset([shards])
    scanned: Counter[str] = Counter()
    original = tarfile.open

    def counted(name: Path, *arguments: str) -> tarfile.TarFile:
        scanned[Path(name).name] += 1
        return original(name, *arguments)

    monkeypatch.setattr(tarfile, "open", counted)
    again = WebDataset([shards])
    assert not scanned
    assert [again.digest(index) for index in range(15)] == [data.digest(index) for index in range(15)]
    monkeypatch.undo()
    monkeypatch.setenv("WORDBRUSH_HOME", str(tmp_path / "home"))
    path = tar(tmp_path / "data-000001.tar", {"9.png": png(9), "9.txt": b"new"})
    os.utime(path, ns=(1, 1))
    assert WebDataset([shards]).caption(5) == "new"
    for kept in (tmp_path / "home/cache/shards").iterdir():
        kept.write_text("{damaged")
    assert len(WebDataset([shards])) == 11


def test_ranks_and_workers_share_a_step_without_overlap(shards: str) -> None:
    from wordbrush.training.data_recipe import data_recipe
    from wordbrush.training.feed import Feed

    def feed() -> Feed:
        return Feed(data_recipe({"kind": "webdataset", "shards": shards, "size": 8, "window": 3}), 5, 6)

    one = feed()
    ranks = [feed() for _ in range(3)]
    keys: list[str] = []
    for step in (0, 1, 2, 3, 4, 3):  # the last: a run that resumed there
        parts = [rank.rows(step, range(2 * number, 2 * number + 2)) for number, rank in enumerate(ranks)]
        whole = one.rows(step, range(6))
        assert [key for part in parts for key in part.keys] == whole.keys
        assert np.array_equal(np.concatenate([part.images for part in parts]), whole.images)
        keys += whole.keys
    assert Counter(keys[:30]) == dict.fromkeys(keys[:30], 2)
    assert len(set(keys[:15])) == 15
    assert keys[30:] == keys[18:24]
