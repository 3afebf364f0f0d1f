"""Pieces of HTML of the Edit page: the easel with the brush, and what came out."""

from __future__ import annotations

from html import escape

from wordbrush.studio import markup
from wordbrush.studio.edit_form import Source


def no_picture() -> str:
    """The easel before there is a picture."""
    return (
        "<div class='wb-empty-easel'><h2>Choose a picture to edit</h2>"
        "<p>Drop one here, paste one, or open a file. Or use “Edit” on any picture you painted.</p>"
        f"{_opener('Open a picture')}</div>"
    )


def easel(source: Source) -> str:
    """The picture with the canvas of its mask, and the brush's tools; `page/brush.js` moves them."""
    shape = f"--ratio: {source.width} / {source.height}; --width: {source.width}"
    return (
        f"<div class='wb-stage' style='{shape}'><img src='{markup.picture_url(source.sha256)}' alt='To be edited'"
        f" draggable='false'><canvas width='{source.width}' height='{source.height}' tabindex='0' role='application'"
        " aria-label='Mask: paint over what shall change. Arrow keys move the brush, space paints a dot,"
        " Shift with an arrow key paints a line.'></canvas><span class='wb-ring' aria-hidden='true'></span></div>"
        f"<div class='wb-tools'>{_brush()}{_opener('Another picture')}"
        f"<span class='wb-muted'>{source.width} × {source.height}</span></div>"
    )


def _brush() -> str:
    tools = "".join(
        f"<button type='button' class='wb-chip' data-tool='{tool}'{pressed}>{label}</button>"
        for tool, label, pressed in (
            ("paint", "Brush", " aria-pressed='true'"), ("erase", "Eraser", " aria-pressed='false'"),
            ("undo", "Undo", ""), ("clear", "Clear", ""), ("fill", "Mark all", ""),
        )
    )  # fmt: skip
    size = "<label class='wb-size'>Size <input type='range' name='size' min='1' max='50' value='12'></label>"
    return f"<div class='wb-brush' role='toolbar' aria-label='Mask brush'>{tools}{size}</div>"


def _opener(label: str) -> str:
    return (
        f"<button type='button' class='wb-chip' data-tool='file'>{label}</button>"
        "<input type='file' accept='image/png,image/jpeg,image/webp' aria-label='Picture file' hidden>"
    )


def result(before: Source, after: Source, seed: int | None) -> str:
    """What came out, over what was there: a slider shows more of either. Unlike shapes stand side by side."""
    named = (("under", "Before", before), ("over", "After", after))
    pair = "".join(
        f"<img class='wb-{side}' src='{markup.picture_url(shown.sha256)}' alt='{name}'>" for side, name, shown in named
    )
    alike = abs(before.width * after.height - before.height * after.width) <= max(after.width, after.height)
    slider = (
        "<label class='wb-slide'><span>Before – after</span><input type='range' min='0' max='100' value='0'"
        " aria-label='How much of the picture before is seen'></label>"
    )
    kind = "wb-compare" if alike else "wb-compare wb-beside-only"
    seeded = "" if seed is None else markup.button(
        f"Seed {seed}", "seed", title=f"Use seed {seed} again", seed=seed
    )  # fmt: skip
    url = markup.picture_url(after.sha256)
    again = markup.button(
        "Edit this one", "again", sha=after.sha256, width=after.width, height=after.height
    )
    return (
        f"<div class='{kind}' style='--cut: 0%; --ratio: {after.width} / {after.height}'>"
        f"<div class='wb-pair'>{pair}</div>{slider if alike else ''}</div>"
        f"<div class='wb-acts'>{again}{seeded}<a class='wb-chip' href='{url}' download='wordbrush-edited.png'>Save</a>"
        f"<span class='wb-muted'>{after.width} × {after.height}</span></div>"
    )


def partial_or_preview(data_url: str) -> str:
    """The picture as it stands while it is painted."""
    return f"<figure class='wb-preview'><img src='{escape(data_url)}' alt='The picture as it stands'></figure>"
