"""Styles: named templates around a prompt, in the form of the A1111 web UI's styles.csv.

    name,prompt,negative_prompt
    pixel art,"pixel art of {prompt}",

`{prompt}` stands for the user's own prompt; a template without it is added after a comma, as negative ones are.
"""

from __future__ import annotations

import csv
import difflib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from io import StringIO
from pathlib import Path

from wordbrush.errors import RequestError
from wordbrush.formats.user_folders import config_folder, shipped_folder

PLACE = "{prompt}"


@dataclass(frozen=True, kw_only=True)
class Style:
    """A template for the prompt and one for the negative prompt; either may be empty."""

    name: str
    prompt: str = ""
    negative: str = ""


def applied(template: str, text: str) -> str:
    """A text in its template: where the template says, or else before it."""
    if PLACE in template:
        return template.replace(PLACE, text)
    return ", ".join(filter(None, (text.strip(), template.strip())))


def read_styles(path: Path) -> list[Style]:
    """The styles in a file. Rows without a name are left out, as are those that only head a group of rows.

    Raises:
        RequestError: it cannot be read, or is not such a file.
    """
    try:
        text = path.read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise RequestError(f"the styles file {str(path)!r} cannot be read: {error}") from error
    rows = csv.DictReader(StringIO(text, newline=""))
    try:
        columns = rows.fieldnames or []
        prompt = "prompt" if "prompt" in columns else "text"  # as the web UI called it at first
        if "name" not in columns or prompt not in columns:
            raise RequestError(f"{str(path)!r} has no columns name,prompt,negative_prompt in its first line")
        found = [_style(row, prompt) for row in rows if (row["name"] or "").strip()]
    except csv.Error as error:
        raise RequestError(f"{str(path)!r} is not a table of comma-separated values: {error}") from error
    return [style for style in found if style.prompt or style.negative]


def styles_csv(styles: Iterable[Style]) -> str:
    """The text of a styles.csv."""
    text = StringIO(newline="")
    writer = csv.writer(text)
    writer.writerow(("name", "prompt", "negative_prompt"))
    writer.writerows((style.name, style.prompt, style.negative) for style in styles)
    return text.getvalue()


def user_styles() -> Path:
    """The user's styles file."""
    return config_folder() / "styles.csv"


def known_styles() -> dict[str, Style]:
    """Name -> style: the user's, then the shipped ones whose names they do not have. Raises `RequestError`."""
    files = [path for path in (user_styles(), shipped_folder() / "styles.csv") if path.is_file()]
    found: dict[str, Style] = {}
    for path in files:
        for style in read_styles(path):
            found.setdefault(style.name, style)
    return found


def named(name: str, styles: Mapping[str, Style]) -> Style:
    """The style of a name, whatever its case. Raises `RequestError` when there is none."""
    for known in (name, *(known for known in styles if known.casefold() == name.casefold())):
        if known in styles:
            return styles[known]
    name = name[:200]  # nothing is as long, and to look for what is like it would take minutes
    close = difflib.get_close_matches(name, styles, n=1)
    hint = f"did you mean {close[0]!r}? " if close else ""
    raise RequestError(f"there is no style {name!r}; {hint}there are {', '.join(styles)}")


def _style(row: Mapping[str, str | None], prompt: str) -> Style:
    return Style(
        name=(row["name"] or "").strip(),
        prompt=row[prompt] or "",
        negative=row.get("negative_prompt") or "",
    )
