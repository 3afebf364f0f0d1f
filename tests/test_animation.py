"""Films: frames, speed and the text inside, in every format."""

from __future__ import annotations

import sys
from io import BytesIO
from pathlib import Path

import pytest
from PIL import Image, ImageSequence

from wordbrush.animation import FORMATS, animation_bytes, check_animation, read_record
from wordbrush.errors import RequestError

RECORD = {"travel": {"prompt": "füchse", "long": "x" * 3000}}


def frames(count: int = 4, size: tuple[int, int] = (48, 32)) -> list[Image.Image]:
    return [Image.new("RGB", size, (60 * index, 90, 200 - 40 * index)) for index in range(count)]


@pytest.mark.parametrize("ending", sorted(FORMATS))
def test_a_film_holds_its_frames_and_its_record(ending: str, tmp_path: Path) -> None:
    path = tmp_path / f"film{ending}"
    path.write_bytes(animation_bytes(ending, frames(), 10.0, RECORD))
    assert read_record(path) == RECORD
    assert animation_bytes(ending, frames(), 10.0, RECORD) == path.read_bytes()  # the same bytes every time


@pytest.mark.parametrize("ending", [".gif", ".webp"])
def test_pillow_reads_frames_and_durations(ending: str) -> None:
    with Image.open(BytesIO(animation_bytes(ending, frames(), 10.0, RECORD))) as film:
        frames_of_film = ImageSequence.Iterator(film)
        shown = [(frame.convert("RGB").getpixel((5, 5)), frame.info["duration"]) for frame in frames_of_film]
    assert [duration for _, duration in shown] == [100] * 4
    for (pixel, _), picture in zip(shown, frames(), strict=True):
        assert max(abs(a - b) for a, b in zip(pixel, picture.getpixel((5, 5)), strict=True)) <= 4  # type: ignore[arg-type]


def test_pyav_reads_frames_and_speed() -> None:
    av = pytest.importorskip("av")
    with av.open(BytesIO(animation_bytes(".mp4", frames(5, (51, 32)), 12.5, RECORD))) as film:
        stream = film.streams.video[0]
        assert (stream.width, stream.height, float(stream.average_rate)) == (50, 32, 12.5)
        assert sum(1 for _ in film.decode(stream)) == 5


def test_many_colours_share_one_palette() -> None:
    noisy = [Image.radial_gradient("L").resize((64, 64)).convert("RGB").rotate(index) for index in range(3)]
    with Image.open(BytesIO(animation_bytes(".gif", noisy, 10.0, {}))) as film:
        assert film.n_frames == 3  # type: ignore[attr-defined]


@pytest.mark.parametrize(
    ("name", "fps", "words"), [("x.avi", 12, ".gif, .webp, .mp4"), ("x", 12, "moving pictures"), ("x.gif", 100, "50")]
)
def test_what_cannot_be_written_is_refused_before_the_work(name: str, fps: float, words: str) -> None:
    with pytest.raises(RequestError, match=words):
        check_animation(Path(name), fps)


def test_mp4_without_pyav_names_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "av", None)
    with pytest.raises(RequestError, match=r"pip install 'wordbrush\[video\]'"):
        check_animation(Path("x.mp4"), 12)


def test_files_without_a_record_are_refused(tmp_path: Path) -> None:
    Image.new("RGB", (8, 8)).save(tmp_path / "plain.gif")
    (tmp_path / "broken.webp").write_bytes(b"RIFF")
    for name, words in (("plain.gif", "no travel"), ("broken.webp", "cannot be read"), ("none.gif", "no file")):
        with pytest.raises(RequestError, match=words):
            read_record(tmp_path / name)
