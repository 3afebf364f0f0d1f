"""Pictures of the past as the Gallery shows them: tiles, one picture with its settings, two beside each other."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from html import escape
from typing import Any

from wordbrush.infotext import SAMPLER_LABELS, SCHEDULE_LABELS
from wordbrush.serving.work import Generate, Job, StoredPicture
from wordbrush.studio import markup
from wordbrush.studio.follow import seconds

SHOWN_ROLES = ("picture", "partial")

SOURCES = {"studio": "Studio", "v1": "API", "openai": "OpenAI API", "sdapi": "Web UI API"}
KINDS = {"generate": "Painted", "upscale": "Enlarged", "explain": "Explained"}

# The names of the settings that have one of their own here; the others keep theirs.
_LABELS = {"negative_prompt": "Negative prompt", "clip_skip": "CLIP skip", "vae": "VAE", "loras": "LoRAs"}
_FIRST = (
    "prompt", "negative_prompt", "model", "seed", "size", "steps", "guidance", "sampler", "schedule", "loras", "preset",
)  # fmt: skip
_HIDDEN = {"count", "width", "height", "preset_set", "written"}


@dataclass(frozen=True)
class Shown:
    """One picture of a job."""

    job: Job
    picture: StoredPicture

    @property
    def prompt(self) -> str:
        """The words it was painted from; what was done, where there were none."""
        told = (self.picture.request or {}).get("prompt")
        if told is None and isinstance(self.job.work, Generate):
            told = self.job.work.request.prompts[0]
        return str(told) if told else KINDS.get(self.job.work.kind, "A picture")


def shown_of(job: Job) -> list[Shown]:
    """The pictures of a job that are results."""
    found = sorted((each for each in job.pictures if each.role in SHOWN_ROLES), key=lambda each: each.index)
    return [Shown(job, picture) for picture in found]


def settings(shown: Shown) -> dict[str, str]:
    """What decided the picture, by the names that people know, the important first."""
    request = dict(shown.picture.request or {})
    request["seed"] = shown.picture.seed if shown.picture.seed is not None else request.get("seed")
    if request.get("width") and request.get("height"):
        request["size"] = f"{request['width']} × {request['height']}"
    names = [*_FIRST, *(name for name in request if name not in _FIRST and name not in _HIDDEN)]
    return {_label(name): text for name in names if (text := _text(name, request.get(name)))}


def _label(name: str) -> str:
    words = name.replace("_", " ")
    return _LABELS.get(name) or words[0].upper() + words[1:]


def _text(name: str, value: Any) -> str:
    if name == "loras" and isinstance(value, Sequence):
        return ", ".join(f"{each['name']} × {each['unet']:g}" for each in value if isinstance(each, Mapping))
    if name == "sampler":
        return SAMPLER_LABELS.get(str(value), str(value or ""))
    if name == "schedule":
        return SCHEDULE_LABELS.get(str(value), str(value or ""))
    if name in ("image", "mask") and isinstance(value, Mapping):
        return f"picture {str(value.get('sha256') or '')[:10]}…"
    if isinstance(value, Mapping):
        return ", ".join(f"{key} {each}" for key, each in value.items())
    if isinstance(value, list):
        return ", ".join(map(str, value))
    if isinstance(value, float):
        return f"{value:g}"
    return "" if value in (None, False) else str(value)


def origin(shown: Shown) -> dict[str, str]:
    """Where it came from."""
    job = shown.job
    took = (job.finished - job.started).total_seconds() if job.finished and job.started else None
    return {
        "Pixels": f"{shown.picture.width} × {shown.picture.height}",
        "Made": job.created.astimezone().strftime("%d %B %Y, %H:%M"),
        "By": SOURCES.get(job.source, job.source),
        "Took": "" if took is None else seconds(took),
        "Job": job.id,
    }


def grid(pictures: Sequence[Shown]) -> str:
    """The tiles. `place` is a tile's number on the page."""
    return f"<div class='wb-grid'>{''.join(_tile(shown, place) for place, shown in enumerate(pictures))}</div>"


def _tile(shown: Shown, place: int) -> str:
    url, prompt = markup.picture_url(shown.picture.sha256), escape(shown.prompt)
    badge = "<span class='wb-badge'>stopped early</span>" if shown.picture.role == "partial" else ""
    return (
        f"<figure class='wb-tile'><button type='button' class='wb-open' data-act='open' data-place='{place}'"
        f" aria-label='Open: {prompt}'><img src='{url}' alt='' loading='lazy' width='{shown.picture.width}'"
        f" height='{shown.picture.height}'></button>{badge}<figcaption>{prompt}</figcaption>"
        f"<label class='wb-pick'><input type='checkbox' data-pick='{place}' aria-label='Compare: {prompt}'>"
        "<span>Compare</span></label></figure>"
    )


def big(shown: Shown, place: int, places: int, *, deleting: bool = False) -> str:
    """One picture large, with its settings and what can be done with it."""
    url = markup.picture_url(shown.picture.sha256)
    picture = (
        f"<figure class='wb-big'><img src='{url}' alt='{escape(shown.prompt)}' width='{shown.picture.width}'"
        f" height='{shown.picture.height}'></figure>"
    )
    acts = "".join(
        (
            markup.button("Reuse settings", "reuse", place=place, classes="wb-strong"),
            markup.button("Edit", "edit", place=place, title="Send to Edit"),
            markup.button("Understand", "understand", place=place, title="See how it was painted"),
            f"<a class='wb-chip' href='{url}' download='wordbrush-{shown.picture.seed}.png'>Save</a>",
            markup.button("Delete", "delete", place=place, classes="wb-danger"),
        )
    )
    if deleting:
        number = len(shown_of(shown.job))
        what = "this picture" if number == 1 else f"this job with its {number} pictures"
        sure = f"<span role='alert'>Delete {what} for good?</span>"
        yes = markup.button("Yes, delete", "really-delete", place=place, classes="wb-danger")
        acts = sure + yes + markup.button("Keep", "open", place=place)
    facts = f"<div class='wb-side'>{markup.table(settings(shown))}<h3>About</h3>{markup.table(origin(shown))}</div>"
    walk = (
        markup.button("‹", "open", place=place - 1, title="Previous picture", classes="wb-prev")
        if place > 0
        else ""
    ) + (
        markup.button("›", "open", place=place + 1, title="Next picture", classes="wb-next")
        if place + 1 < places
        else ""
    )
    return _dialog("A picture and its settings", f"{walk}", f"{picture}{facts}<div class='wb-acts'>{acts}</div>")


def compared(first: Shown, second: Shown) -> str:
    """Two pictures on one another with a slider, or side by side; and the settings in which they differ."""
    pair = "".join(
        f"<img class='wb-{side}' src='{markup.picture_url(shown.picture.sha256)}' alt='{name}: {escape(shown.prompt)}'>"
        for side, name, shown in (("under", "First", first), ("over", "Second", second))
    )
    ratio = f"{first.picture.width} / {first.picture.height}"
    slider = (
        "<label class='wb-slide'><span>First – second</span><input type='range' min='0' max='100' value='50'"
        " aria-label='How much of the first picture is seen'></label>"
        "<label class='wb-beside'><input type='checkbox'> <span>Side by side</span></label>"
    )
    mine, others = settings(first), settings(second)
    rows = [name for name in {**mine, **others} if mine.get(name) != others.get(name)]
    lines = "".join(
        f"<tr><th scope='row'>{escape(name)}</th><td>{escape(mine.get(name, '–'))}</td>"
        f"<td>{escape(others.get(name, '–'))}</td></tr>"
        for name in rows
    )
    head = "<tr><th scope='col'>Differs</th><th scope='col'>First</th><th scope='col'>Second</th></tr>"
    told = f"<table class='wb-differs'>{head}{lines}</table>" if rows else "<p>Their settings are the same.</p>"
    body = (
        f"<div class='wb-compare' style='--cut: 50%; --ratio: {ratio}'><div class='wb-pair'>{pair}</div>{slider}</div>"
        f"<div class='wb-side'>{told}</div>"
    )
    return _dialog("Two pictures compared", "", body)


def _dialog(name: str, walk: str, body: str) -> str:
    close = markup.button("Close", "close", classes="wb-stop wb-close")
    return (
        f"<div class='wb-overlay' role='dialog' aria-modal='true' aria-label='{name}'>"
        f"<div class='wb-sheet'><header>{walk}<span class='wb-fill'></span>{close}</header>"
        f"<div class='wb-view'>{body}</div></div></div>"
    )
