"""Pieces of HTML that the pages are made of. Everything that comes from outside is escaped here."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from html import escape
from typing import Any

# A click on anything with `data-act` tells Python what was clicked: its data attributes, as the event's data.
CLICKS = """
element.addEventListener('click', (event) => {
  const button = event.target.closest('[data-act]');
  if (button && element.contains(button)) { event.preventDefault(); trigger('select', { ...button.dataset }); }
});
"""


def picture_url(sha256: str) -> str:
    """Where a stored picture is."""
    return f"/v1/images/{escape(sha256)}.png"


def notice(sentence: str, *, alarm: bool = False) -> str:
    """One sentence, read out by screen readers at once if it is an alarm."""
    if not sentence:
        return ""
    kind, role = ("wb-notice wb-alarm", "alert") if alarm else ("wb-notice", "status")
    return f"<p class='{kind}' role='{role}'>{escape(sentence)}</p>"


def capital(sentence: str) -> str:
    """A sentence with its first letter large and a full stop."""
    text = sentence.strip()
    return text if not text else text[0].upper() + text[1:] + ("" if text[-1] in ".!?…" else ".")


def button(label: str, act: str, *, title: str = "", classes: str = "", **data: str | int | None) -> str:
    """A button that tells Python `act` and its data."""
    attributes = "".join(f" data-{name}='{escape(str(value))}'" for name, value in data.items() if value is not None)
    hint = f" title='{escape(title)}' aria-label='{escape(title)}'" if title else ""
    kind = f"wb-chip {classes}".strip()
    return f"<button type='button' class='{kind}' data-act='{act}'{attributes}{hint}>{escape(label)}</button>"


def bar(fraction: float, label: str) -> str:
    """A progress bar with its sentence. fraction: 0 to 1; below 0 is not known."""
    known = fraction >= 0
    percent = round(100 * max(0.0, min(1.0, fraction)))
    value = f" aria-valuenow='{percent}'" if known else ""
    return (
        f"<div class='wb-progress' role='status'><div class='wb-bar{'' if known else ' wb-unknown'}' role='progressbar'"
        f" aria-label='{escape(label)}' aria-valuemin='0' aria-valuemax='100'{value}>"
        f"<span style='width:{percent if known else 100}%'></span></div>"
        f"<span class='wb-step'>{escape(label)}</span></div>"
    )


def table(rows: Mapping[str, Any]) -> str:
    """Names and values in two columns; what is empty is left out."""
    lines = "".join(
        f"<dt>{escape(str(name))}</dt><dd>{escape(str(value))}</dd>"
        for name, value in rows.items()
        if value not in (None, "", (), [], {})
    )
    return f"<dl class='wb-facts'>{lines}</dl>"


@dataclass(frozen=True, kw_only=True)
class Tile:
    """A finished picture on the page. Attributes as in `serving.work.StoredPicture`; job: its job's id."""

    sha256: str
    job: str
    width: int
    height: int
    prompt: str
    seed: int | None = None
    role: str = "picture"


def results(tiles: Sequence[Tile]) -> str:
    """Finished pictures with what can be done with each."""
    ratio = tiles[0].width / tiles[0].height if tiles else 1.0
    return easel([_card(tile) for tile in tiles], ratio)


def easel(cards: Sequence[str], ratio: float) -> str:
    """Pictures beside each other. ratio: width to height of one."""
    number = len(cards) if len(cards) <= 4 else "many"
    return f"<div class='wb-results wb-of-{number}' style='--ratio: {ratio:.4f}'>{''.join(cards)}</div>"


def _card(tile: Tile) -> str:
    place = {"sha": tile.sha256, "job": tile.job}
    stopped = "<span class='wb-badge'>stopped early</span>" if tile.role == "partial" else ""
    seed = "" if tile.seed is None else button(
        f"Seed {tile.seed}", "seed", title=f"Use seed {tile.seed} again", seed=tile.seed
    )  # fmt: skip
    url = picture_url(tile.sha256)
    return (
        f"<figure class='wb-result'><img src='{url}' alt='{escape(tile.prompt)}' width='{tile.width}'"
        f" height='{tile.height}'>{stopped}<figcaption>{seed}"
        f"{button('Edit', 'edit', title='Send to Edit', **place)}"
        f"{button('Understand', 'understand', title='See how it was painted', **place)}"
        f"<a class='wb-chip' href='{url}' download='wordbrush-{tile.seed}.png' title='Save the picture'>Save</a>"
        "</figcaption></figure>"
    )


def preview(data_url: str, label: str) -> str:
    """The picture as it stands while it is painted."""
    return f"<figure class='wb-preview'><img src='{escape(data_url)}' alt='{escape(label)}'></figure>"


def waiting(count: int = 1, ratio: float = 1.0) -> str:
    """An empty easel while the first preview is on its way. ratio: width to height."""
    return easel(["<figure class='wb-preview wb-blank' aria-hidden='true'></figure>"] * count, ratio)
