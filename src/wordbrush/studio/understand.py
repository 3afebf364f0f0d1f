"""The Understand page: how a picture comes about. Its HTML is in `understand_page.py`."""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import gradio as gr

from wordbrush.errors import RequestError, WordbrushError
from wordbrush.formats.library import EMBEDDED
from wordbrush.request import GenerationRequest
from wordbrush.serving.asking import ask_async
from wordbrush.serving.bodies import request_from
from wordbrush.serving.work import Explain, JobState
from wordbrush.studio import choices, markup, understand_page
from wordbrush.studio.create_events import QUIET
from wordbrush.studio.edit_form import steps_of
from wordbrush.studio.follow import View, attended, last_words, progress_html, stop
from wordbrush.studio.form import AUTO, seed_of
from wordbrush.studio.markup import capital, notice
from wordbrush.studio.session import Seats, caller_of
from wordbrush.studio.theme import PAGE

if TYPE_CHECKING:
    from wordbrush.serving.server import Server

UNDERSTAND = "understand"
"""What this page's jobs are called in a seat."""

NAMES = ("prompt", "negative", "model", "seed", "steps", "columns")
"""The form's fields, in the order in which handlers get their values."""

# What was made of the words that were written; with other words it is made anew.
_OF_WORDS = ("written", "styles", "expand")


@dataclass(frozen=True)
class UnderstandPage:
    """The page's components.

    Attributes:
        incoming: state that other pages set: a picture that was sent here.
        carried: state: the request of that picture, as JSON; the form's values go before its own.
        fields: by `NAMES`.
    """

    incoming: gr.State
    carried: gr.State
    fields: Mapping[str, Any]
    go: gr.Button
    stop: gr.Button
    status: gr.HTML
    notes: gr.HTML
    shown: gr.HTML


def build(server: Server, seats: Seats) -> gr.State:
    """Puts the page into the tab that is open, and connects its handlers. Returns what takes a picture from elsewhere:
    `{"sha256": …, "seed": …, "request": … or None}`."""
    fields: dict[str, Any] = {}
    with gr.Column(elem_id="wb-understand"):
        with gr.Column(elem_id="wb-understand-form", elem_classes=["wb-card"]):
            fields["prompt"] = gr.Textbox(
                label="Prompt", lines=2, max_lines=8, elem_id="wb-understand-prompt",
                placeholder="a dog to the left of two slices of pizza",
            )  # fmt: skip
            with gr.Row(elem_id="wb-understand-actions"):
                go = gr.Button(
                    "Explain", variant="primary", elem_id="wb-understand-go", elem_classes=["wb-go"], scale=2
                )
                stop = gr.Button(
                    "Cancel", variant="stop", elem_id="wb-understand-stop", elem_classes=["wb-stop"],
                    interactive=False,
                )  # fmt: skip
            with gr.Accordion("More", open=False, elem_id="wb-understand-more"):
                _more(fields, server)
        with gr.Column(elem_id="wb-understand-easel"):
            status = gr.HTML(elem_id="wb-understand-status")
            notes = gr.HTML(elem_id="wb-understand-notes")
            script = (PAGE / "understand.js").read_text(encoding="utf-8")
            shown = gr.HTML(understand_page.welcome(), elem_id="wb-understand-shown", js_on_load=script)
    page = UnderstandPage(
        incoming=gr.State(None), carried=gr.State(None), fields={name: fields[name] for name in NAMES}, go=go,
        stop=stop, status=status, notes=notes, shown=shown,
    )  # fmt: skip
    UnderstandEvents(server, seats, page).register()
    return page.incoming


def _more(fields: dict[str, Any], server: Server) -> None:
    fields["negative"] = gr.Textbox(label="Negative prompt", lines=1, max_lines=4, elem_id="wb-understand-negative")
    fields["model"] = gr.Dropdown(choices.models(server), value=AUTO, label="Model", elem_id="wb-understand-model")
    with gr.Row():
        fields["seed"] = gr.Textbox(
            label="Seed", placeholder="drawn anew", max_lines=1, elem_id="wb-understand-seed", min_width=100
        )
        fields["steps"] = gr.Textbox(
            label="Steps", placeholder="auto", max_lines=1, elem_id="wb-understand-steps", min_width=100
        )
        fields["columns"] = gr.Slider(
            2, 32, value=8, step=1, label="Moments", elem_id="wb-understand-columns", min_width=140
        )


def request_of(values: Mapping[str, Any], carried: Mapping[str, Any] | None, server: Server) -> GenerationRequest:
    """One picture: as it was carried here, with what the form says in place of that.

    Raises:
        RequestError: a value does not fit.
    """
    known = dict(carried or {})
    prompt = str(values["prompt"] or "")
    if not known and not prompt.strip():
        raise RequestError("there is no prompt; say what to paint")
    if known.get("prompt") not in (prompt, [prompt]):
        known = {name: value for name, value in known.items() if name not in _OF_WORDS}
    steps = steps_of(values["steps"])
    told = {
        "prompt": prompt, "negative_prompt": str(values["negative"] or ""), "seed": seed_of(values["seed"]),
        "steps": steps, "count": 1,
    }  # fmt: skip
    if steps is not None and steps != known.get("steps"):
        known.pop("timesteps", None)
    model = str(values["model"] or EMBEDDED)
    if model != (known.get("model") or EMBEDDED):  # another model has its own size, sampler and all else
        known = {"model": model}
    known |= {name: value for name, value in told.items() if value is not None}
    return request_from({name: value for name, value in known.items() if value is not None}, server)


class UnderstandEvents:
    """The page's handlers."""

    def __init__(self, server: Server, seats: Seats, page: UnderstandPage) -> None:
        self._server, self._seats, self._page = server, seats, page

    def register(self) -> None:
        """Connects them."""
        page = self._page
        changed = [page.status, page.notes, page.shown, page.stop]
        inputs = [page.carried, *page.fields.values()]
        page.go.click(self.explain, inputs, changed, trigger_mode="multiple", **QUIET)
        page.stop.click(self.cancel, None, [page.stop], queue=False, **QUIET)
        sent = page.incoming.change(
            self.sent, page.incoming, [page.carried, page.notes, *page.fields.values()], **QUIET
        )
        sent.success(self.explain_sent, [page.incoming, *inputs], changed, trigger_mode="multiple", **QUIET)

    async def explain_sent(
        self, request: gr.Request, given: dict[str, Any] | None, carried: dict[str, Any] | None, *values: Any
    ) -> AsyncIterator[dict[Any, Any]]:
        """Explains a picture that was sent here, once."""
        seat = self._seats.of(request)
        if given is None or not seat.is_news(UNDERSTAND, given) or not carried:
            yield {self._page.status: gr.skip()}
            return
        seat.sent[UNDERSTAND] = given["n"]
        async for changes in self.explain(request, carried, *values):
            yield changes

    def sent(self, request: gr.Request, given: dict[str, Any] | None) -> dict[Any, Any]:
        """A picture from another page: its request, of which the form shows what can be changed."""
        page = self._page
        if given is None or not self._seats.of(request).is_news(UNDERSTAND, given):
            return {page.notes: gr.skip()}
        painted = dict(given.get("request") or {})
        if not painted:
            return {page.carried: None, page.notes: notice("That picture does not say how it was painted.", alarm=True)}
        prompt = painted.get("prompt") or ""
        known = {value for _, value in choices.models(self._server)}
        model = painted.get("model") or AUTO
        fields = page.fields
        return {
            page.carried: painted,
            page.notes: "",
            fields["prompt"]: prompt if isinstance(prompt, str) else prompt[0],
            fields["negative"]: painted.get("negative_prompt") or "",
            fields["model"]: model if model in known else AUTO,
            fields["seed"]: "" if painted.get("seed") is None else str(painted["seed"]),
            fields["steps"]: "" if painted.get("steps") is None else str(painted["steps"]),
            fields["columns"]: gr.skip(),
        }

    async def explain(
        self, request: gr.Request, carried: dict[str, Any] | None, *values: Any
    ) -> AsyncIterator[dict[Any, Any]]:
        """The Explain button: a job, watched until it ended. Another press cancels what this page is painting."""
        page, seat = self._page, self._seats.of(request)
        given = dict(zip(NAMES, values, strict=True))
        try:
            caller = caller_of(request)
            stop(self._server, seat, caller, {UNDERSTAND})
            work = Explain(request=request_of(given, carried, self._server), columns=int(given["columns"]))
            job = await ask_async(self._server, work, caller, source="studio")
        except WordbrushError as error:
            yield {page.notes: notice(capital(str(error)), alarm=True), page.status: ""}
            return
        seat.jobs[job.id] = UNDERSTAND
        yield {page.notes: "", page.stop: gr.update(interactive=True)}
        async for view in attended(self._server, job, caller, seat):
            changes = self._drawn(view)
            if view.ended and UNDERSTAND not in seat.jobs.values():
                changes[page.stop] = gr.update(interactive=False)
            yield changes

    def _drawn(self, view: View) -> dict[Any, Any]:
        """What a job's view changes on the page."""
        page = self._page
        changes: dict[Any, Any] = {page.status: progress_html(view)}
        if not view.ended:
            if view.preview:
                changes[page.shown] = markup.preview(view.preview[min(view.preview)], "The picture as it stands")
            return changes
        changes[page.notes] = last_words(view)
        done = view.state is JobState.DONE
        changes[page.shown] = (
            understand_page.explained(view.pictures, view.output) if done else understand_page.welcome()
        )
        return changes

    def cancel(self, request: gr.Request) -> Any:
        """The Cancel button and Escape."""
        stop(self._server, self._seats.of(request), caller_of(request), {UNDERSTAND})
        return gr.update(interactive=False)
