"""Styles: templates, and the files of the A1111 web UI."""

from __future__ import annotations

from pathlib import Path

import pytest

from wordbrush.conditioning.styles import Style, applied, known_styles, named, read_styles, styles_csv, user_styles
from wordbrush.errors import RequestError

A1111 = (
    "\ufeffname,prompt,negative_prompt\r\n"
    "--- group ---,,\r\n"
    'Base,"{prompt}, ""sharp"", 8k",blurry\r\n'
    "Suffix,at night,\r\n"
    ',"no name",\r\n'
    'Lines,"one\ntwo {prompt}",\r\n'
)


def test_reads_the_web_uis_file(tmp_path: Path) -> None:
    file = tmp_path / "styles.csv"
    file.write_bytes(A1111.encode())
    assert read_styles(file) == [
        Style(name="Base", prompt='{prompt}, "sharp", 8k', negative="blurry"),
        Style(name="Suffix", prompt="at night"),
        Style(name="Lines", prompt="one\ntwo {prompt}"),
    ]
    again = tmp_path / "again.csv"
    again.write_text(styles_csv(read_styles(file)), newline="")
    assert read_styles(again) == read_styles(file)


def test_reads_its_first_form(tmp_path: Path) -> None:
    (tmp_path / "old.csv").write_text("name,text\nold,a {prompt}\n")
    assert read_styles(tmp_path / "old.csv") == [Style(name="old", prompt="a {prompt}")]


@pytest.mark.parametrize(
    ("template", "found"),
    [("x {prompt} y {prompt}", "x fox y fox"), ("at night", "fox, at night"), ("", "fox")],
)
def test_a_template_takes_the_prompt(template: str, found: str) -> None:
    assert applied(template, "fox") == found


def test_the_users_styles_come_first() -> None:
    shipped = known_styles()
    assert {"pixel art", "sketch", "silhouette", "sepia"} <= set(shipped)
    user_styles().parent.mkdir(parents=True)
    user_styles().write_text("name,prompt,negative_prompt\nsepia,brown {prompt},\n")
    assert named("Sepia", known_styles()).prompt == "brown {prompt}"
    assert named("sketch", known_styles()) == shipped["sketch"]
    with pytest.raises(RequestError, match="did you mean 'sepia'"):
        named("sepa", known_styles())


def test_files_that_are_none(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_text("nothing\n")
    (tmp_path / "b.csv").write_bytes(b"\xff\xfe")
    for name, words in (("a.csv", "no columns"), ("b.csv", "cannot be read"), ("c.csv", "cannot be read")):
        with pytest.raises(RequestError, match=words):
            read_styles(tmp_path / name)
