"""The Edit page: what there is on it, and what it does. Its HTML is in `edit_page.py`, its form in `edit_form.py`."""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

import gradio as gr
from starlette.concurrency import run_in_threadpool

from wordbrush.errors import RequestError, WordbrushError
from wordbrush.request_fields import MASK_FILL_NAMES, SHIPPED_UPSCALER
from wordbrush.serving.asking import ask_async
from wordbrush.serving.bodies import picture_from
from wordbrush.serving.work import Caller, Generate, Upscale
from wordbrush.studio import choices, edit_page, markup
from wordbrush.studio.create_events import QUIET
from wordbrush.studio.edit_form import (
    ALL,
    AS_IT_IS,
    ENLARGE,
    EXTEND,
    MODELS_SIZE,
    NAMES,
    PART,
    EditForm,
    Source,
)
from wordbrush.studio.follow import View, attended, last_words, progress_html, stop
from wordbrush.studio.form import AUTO
from wordbrush.studio.markup import capital, notice
from wordbrush.studio.session import Seat, Seats, caller_of
from wordbrush.studio.theme import PAGE

if TYPE_CHECKING:
    from PIL import Image

    from wordbrush.serving.server import Server

EDIT = "edit"
"""What this page's jobs are called in a seat."""

MODES = [("A part", PART), ("All of it", ALL), ("Extend", EXTEND), ("Enlarge", ENLARGE)]

_FILLS = {
    "original": "What is there now", "blur": "Its surroundings, blurred", "noise": "Noise", "empty": "Nothing",
}  # fmt: skip

# The mask is read when the button is pressed, so that the last stroke is always in it.
_PRESSED = "(source, mask, ...rest) => [source, window.wordbrushPressed?.() ?? '', ...rest]"
_CHOSEN = "(mode) => window.wordbrushMode?.(mode)"


@dataclass(frozen=True)
class EditPage:
    """The page's components.

    Attributes:
        source: state: the picture that is edited, as the fields of `Source`; None before there is one.
        incoming: state that other pages set: a picture that was sent here.
        fields: by the names of `edit_form.NAMES`.
        groups: by mode, what is shown only then.
    """

    source: gr.State
    incoming: gr.State
    mask: gr.Textbox
    easel: gr.HTML
    fields: Mapping[str, Any]
    groups: Mapping[str, gr.Column]
    words: gr.Column
    go: gr.Button
    stop: gr.Button
    status: gr.HTML
    result: gr.HTML
    notes: gr.HTML


def build(server: Server, seats: Seats) -> gr.State:
    """Puts the page into the tab that is open, and connects its handlers. Returns what takes a picture from elsewhere:
    `{"sha256": …, "request": … or None}`."""
    source, incoming = gr.State(None), gr.State(None)
    with gr.Column(elem_id="wb-edit"):
        with gr.Column(elem_id="wb-edit-easel"):
            script = (PAGE / "brush.js").read_text(encoding="utf-8")
            easel = gr.HTML(
                edit_page.no_picture(), elem_id="wb-brush-easel", elem_classes=["wb-drop"], js_on_load=script
            )
            mask = gr.Textbox(label="Mask", visible="hidden", elem_id="wb-mask")
        with gr.Column(elem_id="wb-edit-out"):
            status = gr.HTML(elem_id="wb-edit-status")
            notes = gr.HTML(elem_id="wb-edit-notes")
            result = gr.HTML(elem_id="wb-edit-result", js_on_load=markup.CLICKS)
        with gr.Column(elem_id="wb-edit-form", elem_classes=["wb-card"]):
            fields, groups, words, go, stop = _form(server)
    page = EditPage(
        source=source, incoming=incoming, mask=mask, easel=easel, fields={name: fields[name] for name in NAMES},
        groups=groups, words=words, go=go, stop=stop, status=status, result=result, notes=notes,
    )  # fmt: skip
    EditEvents(server, seats, page).register()
    return incoming


def _form(server: Server) -> tuple[dict[str, Any], dict[str, gr.Column], gr.Column, gr.Button, gr.Button]:
    fields: dict[str, Any] = {}
    fields["mode"] = gr.Radio(MODES, value=PART, label="What shall change", elem_id="wb-edit-mode")
    with gr.Column(elem_id="wb-edit-words") as words:
        fields["prompt"] = gr.Textbox(
            label="Prompt", lines=2, max_lines=8, elem_id="wb-edit-prompt",
            placeholder="what the whole picture shows, when it is done",
        )  # fmt: skip
        fields["negative"] = gr.Textbox(label="Negative prompt", lines=1, max_lines=4, elem_id="wb-edit-negative")
    groups = {}
    with gr.Column() as groups[PART]:
        _part(fields)
    with gr.Column() as changing:
        fields["strength"] = gr.Slider(
            0.05, 1, value=0.8, step=0.05, label="Strength", info="0 keeps what is there, 1 forgets it.",
            elem_id="wb-edit-strength",
        )  # fmt: skip
    groups["strength"] = changing
    with gr.Column(visible=False) as groups[EXTEND]:
        gr.HTML("<p class='wb-muted'>By how many pixels the picture grows on each side; what is new is painted.</p>")
        with gr.Row():
            for side in ("left", "top", "right", "bottom"):
                fields[side] = gr.Number(
                    0, label=side.capitalize(), precision=0, minimum=0, maximum=4096, step=8, min_width=70,
                    elem_id=f"wb-edit-{side}",
                )  # fmt: skip
    with gr.Column(visible=False) as groups[ENLARGE]:
        fields["scale"] = gr.Slider(1, 8, value=2, step=0.5, label="Times larger", elem_id="wb-edit-scale")
        names = [known.name for known in server.catalogue.upscalers]
        fields["upscaler"] = gr.Dropdown(names, value=SHIPPED_UPSCALER, label="Upscaler", elem_id="wb-edit-upscaler")
    with gr.Row(elem_id="wb-edit-actions"):
        go = gr.Button("Paint", variant="primary", elem_id="wb-edit-go", elem_classes=["wb-go"], scale=2)
        stop = gr.Button(
            "Cancel", variant="stop", elem_id="wb-edit-stop", elem_classes=["wb-stop"], interactive=False
        )
    with gr.Accordion("More", open=False, elem_id="wb-edit-more"):
        _more(fields, server)
    return fields, groups, words, go, stop


def _part(fields: dict[str, Any]) -> None:
    fields["only_masked"] = gr.Checkbox(
        label="Work on the marked part alone", elem_id="wb-edit-only-masked",
        info="Paints it as large as the model can, then puts it back: more detail for small parts.",
    )  # fmt: skip
    with gr.Row():
        fills = [("Model's own", AUTO), *((_FILLS[name], name) for name in MASK_FILL_NAMES)]
        fields["fill"] = gr.Dropdown(fills, value=AUTO, label="Begin from", elem_id="wb-edit-fill")
        fields["invert"] = gr.Checkbox(label="Keep what is marked, change the rest", elem_id="wb-edit-invert")


def _more(fields: dict[str, Any], server: Server) -> None:
    fields["model"] = gr.Dropdown(choices.models(server), value=AUTO, label="Model", elem_id="wb-edit-model")
    with gr.Row():
        fields["seed"] = gr.Textbox(label="Seed", placeholder="drawn anew", max_lines=1, elem_id="wb-edit-seed")
        fields["steps"] = gr.Textbox(label="Steps", placeholder="auto", max_lines=1, elem_id="wb-edit-steps")
    with gr.Row():
        fields["blur"] = gr.Number(
            0, label="Soft edge, pixels", minimum=0, maximum=256, elem_id="wb-edit-blur", min_width=120
        )
        fields["grow"] = gr.Number(
            0, label="Grow mask, pixels", precision=0, minimum=-256, maximum=256, elem_id="wb-edit-grow", min_width=120
        )
    sizes = [("What suits it", AUTO), ("The picture's own size", AS_IT_IS), ("The model's own size", MODELS_SIZE)]
    fields["painted_at"] = gr.Dropdown(
        sizes, value=AUTO, label="Painted at", elem_id="wb-edit-painted-at",
        info="A picture far larger than the model's own size is painted at that size.",
    )  # fmt: skip


class EditEvents:
    """The page's handlers."""

    def __init__(self, server: Server, seats: Seats, page: EditPage) -> None:
        self._server, self._seats, self._page = server, seats, page

    def register(self) -> None:
        """Connects them."""
        page = self._page
        taken = [page.source, page.easel, page.notes, page.result, page.status]
        page.easel.upload(self.uploaded, None, taken, **QUIET)
        page.easel.error(self.refused, None, [page.notes], **QUIET)
        page.incoming.change(self.sent, page.incoming, [*taken, *self._words], **QUIET)
        page.result.select(self.clicked, None, [*taken, page.fields["seed"]], **QUIET)
        shown = [page.words, *page.groups.values(), page.go]
        page.fields["mode"].change(self.choose_mode, page.fields["mode"], shown, queue=False, **QUIET)
        page.fields["mode"].change(None, page.fields["mode"], None, js=_CHOSEN)
        changed = [page.status, page.result, page.notes, page.stop]
        inputs = [page.source, page.mask, *page.fields.values()]
        page.go.click(self.paint, inputs, changed, js=_PRESSED, trigger_mode="multiple", **QUIET)
        page.stop.click(self.cancel, None, [page.stop], queue=False, **QUIET)

    @property
    def _words(self) -> list[gr.components.Component]:
        return [self._page.fields[name] for name in ("prompt", "negative", "model")]

    def uploaded(self, event: gr.EventData) -> dict[Any, Any]:
        """A file was sent to /v1/images, which looked at it."""
        return self._take(str((event._data or {}).get("sha256")))

    def refused(self, event: gr.EventData) -> dict[Any, Any]:
        """A file was refused there."""
        return {self._page.notes: notice(capital(str((event._data or {}).get("message"))), alarm=True)}

    def sent(self, request: gr.Request, given: dict[str, Any] | None) -> dict[Any, Any]:
        """A picture from another page, with the words it was painted from."""
        seat = self._seats.of(request)
        if given is None or not seat.is_news(EDIT, given):
            return {self._page.notes: gr.skip()}
        seat.sent[EDIT] = given["n"]
        changes = self._take(str(given["sha256"]))
        painted = given.get("request") or {}
        words = zip(self._words, ("prompt", "negative_prompt", "model"), strict=True)
        known = {value for _, value in choices.models(self._server)}
        for field, name in words:
            value = painted.get(name) or ""
            text = value if isinstance(value, str) else value[0]
            changes[field] = text if name != "model" or text in known else AUTO
        return changes

    def _take(self, sha256: str) -> dict[Any, Any]:
        """A stored picture onto the easel."""
        page = self._page
        try:
            picture = self._server.store.inputs.image(sha256)
        except WordbrushError as error:
            return {page.notes: notice(capital(str(error)), alarm=True)}
        source = Source(sha256, picture.width, picture.height)
        return {
            page.source: asdict(source), page.easel: edit_page.easel(source), page.notes: "", page.result: "",
            page.status: "",
        }  # fmt: skip

    def clicked(self, event: gr.EventData) -> dict[Any, Any]:
        """A button below the result."""
        data, page = dict(event._data or {}), self._page
        if data.get("act") == "again":
            return self._take(str(data.get("sha")))
        if data.get("act") == "seed":
            return {page.fields["seed"]: str(data.get("seed"))}
        return {page.notes: gr.skip()}

    def choose_mode(self, mode: str) -> dict[Any, Any]:
        """Shows what a mode has."""
        page = self._page
        shown = {PART: mode == PART, EXTEND: mode == EXTEND, ENLARGE: mode == ENLARGE, "strength": mode in (ALL, PART)}
        return {
            page.words: gr.update(visible=mode != ENLARGE),
            **{group: gr.update(visible=shown[name]) for name, group in page.groups.items()},
            page.go: gr.update(value="Enlarge" if mode == ENLARGE else "Paint"),
        }

    async def paint(
        self, request: gr.Request, source: dict[str, Any] | None, mask: str, *values: Any
    ) -> AsyncIterator[dict[Any, Any]]:
        """The Paint button: a job, watched until it ended. Another press cancels what this page is painting."""
        page, seat = self._page, self._seats.of(request)
        try:
            caller = caller_of(request)
            if source is None:
                raise RequestError("there is no picture yet; open one, or send one here from the other pages")
            given = Source(**source)
            marked = await run_in_threadpool(self._mask, mask)
            own = choices.own_size(self._server, str(values[NAMES.index("model")] or ""))
            work = EditForm.of_values(values, own).work(given, marked)
        except WordbrushError as error:
            yield {page.notes: notice(capital(str(error)), alarm=True)}
            return
        stop(self._server, seat, caller, {EDIT})
        async for changes in self._watched(seat, caller, work, given):
            yield changes

    def _mask(self, text: str) -> Image.Image | None:
        return picture_from(text, self._server.settings, "the mask").convert("L") if text else None

    async def _watched(
        self, seat: Seat, caller: Caller, work: Generate | Upscale, source: Source
    ) -> AsyncIterator[dict[Any, Any]]:
        page = self._page
        try:
            job = await ask_async(self._server, work, caller, source="studio")
        except WordbrushError as error:
            yield {page.notes: notice(capital(str(error)), alarm=True), page.status: ""}
            return
        seat.jobs[job.id] = EDIT
        yield {page.notes: "", page.stop: gr.update(interactive=True)}
        async for view in attended(self._server, job, caller, seat):
            changes = self._drawn(view, source)
            if view.ended and EDIT not in seat.jobs.values():
                changes[page.stop] = gr.update(interactive=False)
            yield changes

    def _drawn(self, view: View, source: Source) -> dict[Any, Any]:
        """What a job's view changes on the page."""
        page = self._page
        changes: dict[Any, Any] = {page.status: progress_html(view)}
        if not view.ended:
            if view.preview:
                changes[page.result] = edit_page.partial_or_preview(view.preview[min(view.preview)])
            return changes
        pictures = [each for each in view.pictures if each["role"] in ("picture", "partial")]
        changes[page.notes] = last_words(view)
        if pictures:
            made = pictures[0]
            after = Source(made["sha256"], made["width"], made["height"])
            changes[page.result] = edit_page.result(source, after, made.get("seed"))
        else:
            changes[page.result] = ""
        return changes

    def cancel(self, request: gr.Request) -> Any:
        """The Cancel button and Escape; what is there of the picture is kept."""
        stop(self._server, self._seats.of(request), caller_of(request), {EDIT}, keep_partial=True)
        return gr.update(interactive=False)
