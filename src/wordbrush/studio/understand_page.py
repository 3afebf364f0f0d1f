"""Pieces of HTML of the Understand page: the film strip, where words act, and the token table, each explained."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from html import escape
from itertools import pairwise
from typing import Any

from wordbrush.studio import markup

Picture = Mapping[str, Any]
"""A `StoredPicture` as JSON."""

_ROLES = {"start": "start", "end": "end", "padding": "filling"}
_SEEN = {True: "yes", False: "never", None: ""}


@dataclass(frozen=True)
class Moment:
    """One column of the film strip.

    Attributes:
        label: "timestep 640".
        noisy, clean: hashes of x and of the picture that was predicted from it.
    """

    label: str
    noisy: str
    clean: str

    @property
    def noise(self) -> float:
        """How far from the end it is: 1 at the beginning, 0 at the end."""
        number = self.label.rpartition(" ")[2]
        return min(float(number) / 1000, 1.0) if number.replace(".", "").isdigit() else 0.0


def moments_of(pictures: Sequence[Picture]) -> list[Moment]:
    """The moments that an explained job has kept, in order: its frames come in pairs, x and x0."""
    frames = sorted((each for each in pictures if each["role"] == "frame"), key=lambda each: int(each["index"]))
    found = []
    for one, other in pairwise(frames):
        label, _, kind = str(one["label"]).rpartition(": ")
        if kind == "x" and other["label"] == f"{label}: x0":
            found.append(Moment(label, one["sha256"], other["sha256"]))
    return found


def explained(pictures: Sequence[Picture], output: Mapping[str, Any]) -> str:
    """The whole page of a finished job."""
    (picture,) = [each for each in pictures if each["role"] == "picture"][:1]
    maps = sorted((each for each in pictures if each["role"] == "attention"), key=lambda each: int(each["index"]))
    shape = f"--ratio: {picture['width']} / {picture['height']}"
    return (
        f"<div class='wb-understood' style='{shape}'>{film(moments_of(pictures), picture)}"
        f"{words(picture, maps, output)}{tokens(output)}</div>"
    )


def film(moments: Sequence[Moment], picture: Picture) -> str:
    """The strip, with a slider; the finished picture is its last moment, and the one that is shown first."""
    last = len(moments)
    shown = [_pair(index, moment, hidden=True) for index, moment in enumerate(moments)]
    end = (
        f"<div class='wb-moment' data-moment='{last}'><figure>{_img(picture['sha256'], 'The finished picture')}"
        "<figcaption><strong>The picture.</strong> The last x, decoded to pixels. No noise is left.</figcaption>"
        "</figure></div>"
    )
    said = [*(f"{moment.label}, {moment.noise:.0%} of the way left" for moment in moments), "the finished picture"]
    thumbs = [
        _thumb(index, moment.noisy, moment.label) for index, moment in enumerate(moments)
    ] + [_thumb(last, picture["sha256"], "the picture", pressed=True)]
    slider = (
        f"<label class='wb-slide'><span>Moment</span><input type='range' name='moment' min='0' max='{last}'"
        f" value='{last}' data-said='{escape('|'.join(said))}' aria-valuetext='the finished picture'></label>"
    )
    return (
        "<section class='wb-card wb-film'><h2>From noise to picture</h2>"
        "<p>The model begins with pure noise. At each step it looks at what is there, called x, and guesses the clean"
        " picture behind it, called x0. It then takes a little of the noise away, in the direction of that guess."
        " Move the slider: first guesses are blurs of colour and place, later ones have edges and details.</p>"
        f"<div class='wb-moments'>{''.join(shown)}{end}</div>{slider}"
        f"<div class='wb-thumbs' role='group' aria-label='Moments'>{''.join(thumbs)}</div></section>"
    )


def _pair(index: int, moment: Moment, *, hidden: bool) -> str:
    label = escape(moment.label)
    return (
        f"<div class='wb-moment' data-moment='{index}'{' hidden' if hidden else ''}>"
        f"<figure>{_img(moment.noisy, f'x at {label}')}<figcaption><strong>x</strong> at {label}: what the network is"
        " given.</figcaption></figure>"
        f"<figure>{_img(moment.clean, f'x0 predicted at {label}')}<figcaption><strong>x0</strong>: the clean picture"
        " that it sees in there.</figcaption></figure></div>"
    )


def _thumb(index: int, sha256: str, label: str, *, pressed: bool = False) -> str:
    return (
        f"<button type='button' data-to='{index}' aria-pressed='{str(pressed).lower()}' title='{escape(label)}'"
        f" aria-label='Show {escape(label)}'>{_img(sha256, '')}</button>"
    )


def _img(sha256: str, alt: str) -> str:
    return f"<img src='{markup.picture_url(sha256)}' alt='{escape(alt)}' loading='lazy'>"


def words(picture: Picture, maps: Sequence[Picture], output: Mapping[str, Any]) -> str:
    """The prompt's words; pointing at one lays its map over the picture."""
    head = "<section class='wb-card wb-words'><h2>Where each word acts</h2>"
    if not maps:
        return f"{head}<p>This model reads no words, or there are none in the prompt.</p></section>"
    named = list(output.get("words") or [])
    texts = list(dict.fromkeys(str(each.get("prompt", "")) for each in named))
    lines = []
    for text in texts:
        chips = "".join(
            f"<button type='button' class='wb-chip' data-word='{index}' aria-pressed='false'>"
            f"{escape(str(shown['word']))}</button>"
            for index, shown in enumerate(named)
            if shown.get("prompt", "") == text and index < len(maps)
        )
        lines.append(f"<div class='wb-line' role='group' aria-label='Words'>{chips}</div>")
    layers = "".join(
        f"<img data-map='{index}' hidden src='{markup.picture_url(each['sha256'])}' loading='lazy'"
        f" alt='Where “{escape(str(each['label']))}” acts: bright is strong'>"
        for index, each in enumerate(maps)
    )
    base = f"<img data-map='' src='{markup.picture_url(picture['sha256'])}' alt='The finished picture'>"
    return (
        f"{head}<p>While it paints, every spot of the picture looks at the words and takes from each as much as it"
        " finds fitting. Choose a word: where it is bright, that spot looked at the word a lot. Names of things light"
        " up on the things; small words such as “of” often have no place of their own. It is the mean over all steps,"
        f" layers and heads of the network’s cross-attention.</p>{''.join(lines)}"
        f"<div class='wb-map-stage'>{base}{layers}</div>"
        "<div class='wb-scale' aria-hidden='true'><span>little</span><i></i><span>much</span></div></section>"
    )


def tokens(output: Mapping[str, Any]) -> str:
    """What became of the text: the table of its pieces."""
    rows = list(output.get("tokens") or [])
    weighted = any(float(row.get("weight", 1)) != 1 for row in rows)
    several = len({row.get("prompt") for row in rows}) > 1
    names = ["Place", "Number", "Piece", "Word", *(["Weight"] if weighted else []), "Seen in training"]
    head = "".join(f"<th scope='col'>{name}</th>" for name in (["Text"] if several else []) + names)
    lines = "".join(_row(row, weighted=weighted, several=several) for row in rows)
    return (
        "<section class='wb-card wb-tokens'><h2>What the model reads</h2>"
        "<p>The model does not see letters. Its tokenizer cuts the text into pieces that it knows, each of which has a"
        " number; an encoder turns these into vectors. The places after the end are filled up, so that every prompt is"
        f" as long. A word that training never showed can only be guessed at.</p><div class='wb-scroll' tabindex='0'>"
        f"<table><thead><tr>{head}</tr></thead><tbody>{lines}</tbody></table></div></section>"
    )


def _row(row: Mapping[str, Any], *, weighted: bool, several: bool) -> str:
    role = str(row.get("role"))
    place = "cut" if row.get("position") is None else str(row["position"])
    cells = [
        *([str(row.get("prompt"))] if several else []),
        place,
        "" if row.get("id") is None else str(row["id"]),
        str(row.get("text")),
        str(row.get("word") or f"({_ROLES.get(role, role)})"),
        *([f"{float(row.get('weight', 1)):.4g}"] if weighted else []),
        _SEEN.get(row.get("seen"), ""),
    ]
    kind = " class='wb-muted'" if role in _ROLES else " class='wb-unseen'" if row.get("seen") is False else ""
    return f"<tr{kind}>{''.join(f'<td>{escape(cell)}</td>' for cell in cells)}</tr>"


def welcome() -> str:
    """Before anything was explained."""
    return (
        "<div class='wb-empty-easel'><h2>See how a picture comes about</h2>"
        "<p>Write a prompt and press Explain, or use “Understand” on a picture you painted: it is painted once more,"
        " and everything on the way is kept.</p></div>"
    )
