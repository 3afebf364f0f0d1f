"""The Models page: what there is, what each file is (from its header alone), what is in memory, and choosing."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from html import escape
from typing import TYPE_CHECKING, Any

import gradio as gr

from wordbrush.errors import RequestError, WordbrushError
from wordbrush.formats.library import CHECKPOINT, EMBEDDING, LORA, VAE
from wordbrush.formats.library_scan import UPSCALER
from wordbrush.serving.catalogue import Known
from wordbrush.studio import markup
from wordbrush.studio.create_events import QUIET
from wordbrush.studio.markup import capital, notice
from wordbrush.studio.session import caller_of

if TYPE_CHECKING:
    from wordbrush.serving.server import Server

HEADINGS = {
    CHECKPOINT: "Models", LORA: "LoRAs", EMBEDDING: "Embeddings", VAE: "VAEs", UPSCALER: "Upscalers",
}  # fmt: skip

ORIGINS = {"embedded": "built in", "hub": "from the hub", "library": "in your folders"}

# What is told of a file, by the names of `formats.inspect`, in this order; nested things are told apart.
_TOLD = {
    "what": "What it is", "family": "Family", "variant": "Variant", "base_name": "Made for", "pipeline": "Pipeline",
    "format": "Format", "native_size": "Own size", "prediction_type": "Predicts", "scheduler": "Scheduler",
    "ranks": "Ranks", "alphas": "Alphas", "changes": "Changes", "layers": "Layers", "vectors": "Vectors",
    "parameters": "Parameters", "dtypes": "Numbers", "license": "Licence", "missing": "Missing",
}  # fmt: skip


# Where the detail lies below the list, on a phone, it is brought into view.
_TO_DETAIL = "() => { if (innerWidth <= 860) document.querySelector('#wb-inspected')?.scrollIntoView(); }"


@dataclass(frozen=True)
class ModelsPage:
    """The page's components. chosen: state: [kind, name] of what is looked at."""

    search: gr.Textbox
    listed: gr.HTML
    detail: gr.HTML
    strength: gr.Slider
    use: gr.Button
    refresh: gr.Button
    memory: gr.HTML
    drop: gr.Button
    said: gr.HTML
    chosen: gr.State


def build(server: Server) -> ModelsPage:
    """Puts the page into the tab that is open."""
    with gr.Column(elem_id="wb-models"):
        with gr.Column(elem_id="wb-shelf"):
            with gr.Row(elem_classes=["wb-row"]):
                search = gr.Textbox(
                    label="Search", placeholder="part of a name", elem_id="wb-find-model", max_lines=1, scale=3
                )
                refresh = gr.Button("Look again", size="sm", elem_id="wb-refresh", min_width=110)
            listed = gr.HTML(shelf(server), elem_id="wb-listed", js_on_load=markup.CLICKS)
        with gr.Column(elem_id="wb-inspected", elem_classes=["wb-card"]):
            detail = gr.HTML("<p class='wb-muted'>Choose something to see what it is.</p>", elem_id="wb-detail")
            strength = gr.Slider(-1, 2, value=1.0, step=0.05, label="Strength", visible=False, elem_id="wb-lora-by")
            use = gr.Button("Use this model", variant="primary", visible=False, elem_id="wb-use")
            said = gr.HTML(elem_id="wb-models-said")
            gr.HTML("<h3>In memory</h3>")
            memory = gr.HTML(elem_id="wb-memory")
            drop = gr.Button("Free the memory", size="sm", elem_id="wb-drop-models")
    return ModelsPage(
        search=search, listed=listed, detail=detail, strength=strength, use=use, refresh=refresh, memory=memory,
        drop=drop, said=said, chosen=gr.State([]),
    )  # fmt: skip


def shelf(server: Server, words: str = "", chosen: Sequence[str] = ()) -> str:
    """Everything there is whose name holds the words, by kind."""
    parts = []
    for kind, heading in HEADINGS.items():
        known = everything(server, kind)
        found = [one for one in known if words.lower() in one.name.lower()]
        if not known and kind not in (CHECKPOINT, LORA):
            continue
        cards = "".join(_card(one, pressed=[one.kind, one.name] == list(chosen)) for one in found)
        none = "There are none in your folders." if not known else "None has that in its name."
        parts.append(f"<h3>{heading} <span>{len(known)}</span></h3>")
        parts.append(f"<div class='wb-shelf'>{cards}</div>" if found else f"<p class='wb-muted'>{none}</p>")
    hint = "<p class='wb-muted'>Add folders with <code>wordbrush models folders add</code>.</p>"
    return "".join(parts) + hint


def everything(server: Server, kind: str) -> Sequence[Known]:
    """What the catalogue has of a kind."""
    if kind == CHECKPOINT:
        return server.catalogue.models
    return server.catalogue.upscalers if kind == UPSCALER else server.catalogue.known(kind)


def _card(one: Known, *, pressed: bool) -> str:
    origin = ORIGINS.get(one.origin, one.origin)
    return (
        f"<button type='button' class='wb-item' data-act='look' data-kind='{escape(one.kind)}'"
        f" data-name='{escape(one.name)}' aria-pressed='{str(pressed).lower()}'><strong>{escape(one.name)}</strong>"
        f"<span>{escape(origin)}</span></button>"
    )


def inspected(one: Known) -> str:
    """What a file is; no weights are read for it."""
    about = one.about
    facts: dict[str, Any] = {label: _fact(name, about.get(name)) for name, label in _TOLD.items()}
    facts["Size"] = size_text(about["bytes"]) if about.get("bytes") else None
    facts["Hash"] = one.sha256[:10] if one.sha256 else None
    facts["File"] = one.file
    parts = about.get("parts")
    if isinstance(parts, Mapping):
        facts["Parts"] = ", ".join(f"{name} {_millions(part.get('parameters', 0))}" for name, part in parts.items())
    damaged = notice("This file cannot be read; it is damaged or cut off.", alarm=True)
    told = markup.table(facts) if about or one.path is None else damaged
    card = about.get("about")
    words = card.get("description") if isinstance(card, Mapping) else None
    more = f"<p>{escape(str(words)[:600])}</p>" if words else ""
    return f"<h2>{escape(one.name)}</h2>{more}{told}"


def _fact(name: str, value: Any) -> str | None:
    if value in (None, "", {}, []):
        return None
    if name == "parameters":
        return _millions(int(value))
    if name == "native_size":
        return f"{value} × {value}"
    return str(value)


def _millions(number: int) -> str:
    if number < 10_000:
        return f"{number}"
    return f"{number / 1e6:.1f} million" if number < 1e9 else f"{number / 1e9:.1f} billion"


def size_text(number: float) -> str:
    """Bytes for people: 34 MB."""
    for unit, by in (("GB", 1e9), ("MB", 1e6), ("kB", 1e3)):
        if number >= by:
            return f"{number / by:.1f} {unit}" if number < 10 * by else f"{number / by:.0f} {unit}"
    return f"{number:.0f} bytes"


def in_memory(server: Server) -> str:
    """Which models the workers hold, and how much of the memory that takes."""
    lines = []
    for worker in server.dispatcher.status():
        models = ", ".join(f"{escape(name)} ({size_text(held)})" for name, held in dict(worker.models).items())
        lines.append(
            f"<dt>{escape(str(worker.device or 'Worker'))}</dt><dd>{escape(str(worker.state))}: "
            f"{models or 'no model'}</dd>"
        )
    return f"<dl class='wb-facts'>{''.join(lines)}</dl>" if lines else "<p class='wb-muted'>No worker runs.</p>"


class ModelsEvents:
    """The page's handlers.

    Args:
        use: what choosing a model, or a LoRA with its strength, changes on the Create page.
    """

    def __init__(
        self, server: Server, page: ModelsPage, use: Callable[[Known, float, Sequence[Any]], dict[Any, Any]]
    ) -> None:
        self._server, self._page, self._use = server, page, use

    def register(self, tab: gr.Tab, form: list[Any], others: list[Any]) -> None:
        """Connects them. form: the inputs that `use` reads; others: what it changes."""
        page = self._page
        page.search.change(
            self.find, [page.search, page.chosen], page.listed, trigger_mode="always_last", **QUIET
        )
        tab.select(self.opened, [page.search, page.chosen], [page.listed, page.memory], **QUIET)
        looked = [page.detail, page.strength, page.use, page.chosen, page.said, page.listed]
        page.listed.select(self.look, page.search, looked, **QUIET).then(None, js=_TO_DETAIL)
        page.refresh.click(self.refresh, [page.search, page.chosen], [page.listed, page.said], **QUIET)
        page.drop.click(self.drop, None, [page.memory, page.said], **QUIET)
        page.use.click(self.choose, [page.chosen, page.strength, *form], [page.said, *others], **QUIET)

    def find(self, words: str, chosen: list[str]) -> str:
        """The shelf while a name is typed."""
        return shelf(self._server, words.strip(), chosen)

    def opened(self, words: str, chosen: list[str]) -> tuple[str, str]:
        """What the tab shows when it is opened."""
        return shelf(self._server, words.strip(), chosen), in_memory(self._server)

    def look(self, words: str, event: gr.EventData) -> dict[Any, Any]:
        """Something was clicked: what it is."""
        page, data = self._page, dict(event._data or {})
        kind, name = str(data.get("kind")), str(data.get("name"))
        known = everything(self._server, kind) if kind in HEADINGS else ()
        one = next((one for one in known if one.name == name), None)
        if one is None:
            return {page.said: notice("That is not there any more; look again.", alarm=True)}
        label = {CHECKPOINT: "Use this model", LORA: "Use this LoRA"}.get(kind)
        return {
            page.detail: inspected(one),
            page.strength: gr.update(visible=kind == LORA, label=f"Strength of {name}"),
            page.use: gr.update(visible=label is not None, value=label or ""),
            page.chosen: [kind, name],
            page.said: _how(one),
            page.listed: shelf(self._server, words.strip(), [kind, name]),
        }

    def refresh(self, words: str, chosen: list[str]) -> tuple[str, str]:
        """Looks through the folders again."""
        try:
            self._server.catalogue.refresh()
        except WordbrushError as error:
            return shelf(self._server, words.strip(), chosen), notice(capital(str(error)), alarm=True)
        return shelf(self._server, words.strip(), chosen), notice("The folders were looked through again.")

    def drop(self, request: gr.Request) -> tuple[str, str]:
        """Lets the workers forget their models; for administrators."""
        if not caller_of(request).admin:
            return in_memory(self._server), notice("Only an administrator's key may do that.", alarm=True)
        self._server.dispatcher.drop_models()
        return in_memory(self._server), notice("The models leave the memory when nothing needs them.")

    def choose(self, chosen: list[str], strength: float, *form: Any) -> dict[Any, Any]:
        """The chosen model or LoRA goes to the Create page."""
        page = self._page
        try:
            if len(chosen) != 2:
                raise RequestError("nothing is chosen; click on a model first")
            one = self._server.catalogue.find(chosen[0], chosen[1])
            return {page.said: notice(f"{one.name} is in the form of Create."), **self._use(one, strength, form)}
        except WordbrushError as error:
            return {page.said: notice(capital(str(error)), alarm=True)}


def _how(one: Known) -> str:
    """How something that is not chosen by a button is used."""
    if one.kind == EMBEDDING:
        return notice(f"Write its name, {one.name}, into a prompt.")
    if one.kind == UPSCALER:
        return notice("Edit enlarges pictures with it.")
    return ""
