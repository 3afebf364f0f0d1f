"""What the form's lists offer: the names that the server has."""

from __future__ import annotations

from typing import TYPE_CHECKING

from wordbrush.conditioning.styles import known_styles
from wordbrush.editing.presets import preset_files, read_preset
from wordbrush.errors import WordbrushError
from wordbrush.formats.library import EMBEDDED
from wordbrush.infotext import SAMPLER_LABELS, SCHEDULE_LABELS
from wordbrush.serving.catalogue import Known
from wordbrush.studio.form import AUTO

if TYPE_CHECKING:
    from wordbrush.serving.server import Server

Choices = list[tuple[str, str]]
"""(what is shown, its value)."""


def models(server: Server) -> Choices:
    """The embedded one first; it is the value of no choice."""
    return [(_shown(model), AUTO if model.name == EMBEDDED else model.name) for model in server.catalogue.models]


def _shown(model: Known) -> str:
    return f"{model.name} (built in)" if model.origin == "embedded" else model.name


def loras(server: Server) -> list[str]:
    """LoRAs by name."""
    return [lora.name for lora in server.catalogue.loras]


def presets() -> Choices:
    """Presets, each with its line about it."""
    found: Choices = [("None", AUTO)]
    for name, path in preset_files().items():
        try:
            about = read_preset(path).about
        except WordbrushError:  # a file of the user's that is damaged; painting with it says what is wrong
            about = ""
        found.append((f"{name.capitalize()}: {about}" if about else name.capitalize(), name))
    return found


def styles() -> list[str]:
    """Names of styles."""
    try:
        return sorted(known_styles())
    except WordbrushError:  # the user's file is damaged; `wordbrush styles` says what is wrong
        return []


def samplers() -> Choices:
    """All samplers."""
    return [("Model's own", AUTO), *((label, name) for name, label in SAMPLER_LABELS.items())]


def schedules() -> Choices:
    """All schedules of steps."""
    return [("Model's own", AUTO), *((label, name) for name, label in SCHEDULE_LABELS.items())]


def sizes(server: Server, model: str) -> Choices:
    """Sizes that suit a model; others can be typed."""
    own = own_size(server, model)
    if own is None:
        return [("Model's own", AUTO)]
    width, height = own
    three, two = (_stepped(width * 3 // 4), _stepped(width * 2 // 3))
    shapes = [
        ("Portrait", three, height), ("Landscape", width, three), ("Tall", two, height), ("Wide", width, two),
        ("Larger", _stepped(width * 3 // 2), _stepped(height * 3 // 2)),
    ]  # fmt: skip
    listed = [(f"{name} {w} × {h}", f"{w}x{h}") for name, w, h in shapes]
    return [(f"Own, {width} × {height}", AUTO), *listed]


def own_size(server: Server, model: str) -> tuple[int, int] | None:
    """(width, height) of a model's own pictures, where that is known."""
    try:
        return server.catalogue.own_size(model or None)
    except WordbrushError:
        return None


def _stepped(side: int) -> int:
    return max(8, round(side / 8) * 8)
