"""What the Create page does: painting, painting as one types, restoring a picture's settings."""

from __future__ import annotations

import secrets
from collections.abc import AsyncIterator
from dataclasses import dataclass, replace
from html import escape
from typing import TYPE_CHECKING, Any

import gradio as gr
from starlette.concurrency import run_in_threadpool

from wordbrush.errors import WordbrushError
from wordbrush.formats.library import EMBEDDED
from wordbrush.request import GenerationRequest
from wordbrush.serving import tokens
from wordbrush.serving.asking import LARGEST_DRAWN, ask_async
from wordbrush.serving.work import Caller, Generate
from wordbrush.studio import choices, markup
from wordbrush.studio.create import CreatePage, automatic
from wordbrush.studio.follow import View, attended, cancel_soon, last_words, progress_html, stop
from wordbrush.studio.form import AUTO, Form, form_of, not_restored
from wordbrush.studio.markup import Tile, capital, notice
from wordbrush.studio.restore import restored
from wordbrush.studio.session import Seat, Seats, caller_of

if TYPE_CHECKING:
    from wordbrush.serving.server import Server

LIVE, PAINT = "live", "create"

# Handlers of this page wait for jobs, so any number may wait at once.
QUIET: dict[str, Any] = {"show_progress": "hidden", "concurrency_limit": None, "api_visibility": "private"}


@dataclass(frozen=True)
class Drawn:
    """What a view of a job shows: HTML, None where it stays as it is."""

    status: str
    canvas: str | None
    notes: str


def drawn(view: View, prompt: str, ratio: float = 1.0) -> Drawn:
    """A job's view on the easel. ratio: width to height of its pictures, as far as that is known."""
    if view.ended:
        tiles = _tiles(view, prompt)
        notes = last_words(view, "Cancelled; this is how far it was." if tiles else "Cancelled.")
        return Drawn("", markup.results(tiles) if tiles else None, notes)
    finished = _tiles(view, prompt)
    if finished and not view.preview:
        return Drawn(progress_html(view), markup.results(finished), "")
    previews = [markup.preview(view.preview[index], "The picture as it stands") for index in sorted(view.preview)]
    return Drawn(progress_html(view), markup.easel(previews, ratio) if previews else None, "")


def _tiles(view: View, prompt: str) -> list[Tile]:
    shown = sorted((each for each in view.pictures if each["role"] in ("picture", "partial")), key=_place)
    return [
        Tile(
            sha256=each["sha256"], job=view.id, width=each["width"], height=each["height"], seed=each.get("seed"),
            prompt=str((each.get("request") or {}).get("prompt") or prompt), role=each["role"],
        )
        for each in shown
    ]  # fmt: skip


def _place(picture: dict[str, Any]) -> int:
    return int(picture["index"])


class CreateEvents:
    """The page's handlers."""

    def __init__(self, server: Server, seats: Seats, page: CreatePage) -> None:
        self._server, self._seats, self._page = server, seats, page

    def register(self) -> None:
        """Connects them."""
        page = self._page
        shown = [page.canvas, page.status, page.notes, page.last_seed, page.stop]
        page.go.click(self.paint, page.inputs, shown, trigger_mode="multiple", **QUIET)
        page.stop.click(self.cancel, None, [page.stop], queue=False, **QUIET)
        page.typed.click(self.count_tokens, [page.fields["model"], page.fields["prompt"]], page.tokens, **QUIET)
        live = [page.live, *page.inputs]
        for event in (page.typed.click, page.live.input, page.fields["styles"].input, page.fields["seed"].submit):
            event(self.sketch, live, shown, trigger_mode="multiple", **QUIET)
        page.fields["model"].input(
            self.choose_model, [page.fields["model"], page.fields["prompt"]],
            [page.fields["size"], page.fields["steps"], page.fields["guidance"], page.tokens, page.live], **QUIET,
        )  # fmt: skip
        page.fields["loras"].change(
            self.choose_loras, [page.fields["loras"], *page.strengths], list(page.strengths), **QUIET
        )
        page.dice.click(lambda: "", None, page.fields["seed"], queue=False, **QUIET)
        page.again.click(_last, page.last_seed, page.fields["seed"], queue=False, **QUIET)
        page.clear_carried.click(
            lambda: ({}, "", gr.update(visible=False)), None,
            [page.carried, page.carried_note, page.clear_carried], queue=False, **QUIET,
        )  # fmt: skip

    async def paint(self, request: gr.Request, carried: dict[str, Any], *values: Any) -> AsyncIterator[dict[Any, Any]]:
        """The Paint button: a job, watched until it ended. Another press cancels what this page is painting."""
        page, seat = self._page, self._seats.of(request)
        try:
            caller = caller_of(request)
            work = Generate(request=Form.of_values(values, carried).request())
        except WordbrushError as error:
            yield {page.notes: notice(capital(str(error)), alarm=True)}
            return
        stop(self._server, seat, caller, {LIVE, PAINT})
        async for changes in self._watched(seat, caller, work, PAINT):
            yield changes

    async def sketch(
        self, request: gr.Request, live: bool, carried: dict[str, Any], *values: Any
    ) -> AsyncIterator[dict[Any, Any]]:
        """Paint as I type: always the newest text; what an older one began is cancelled."""
        seat = self._seats.of(request)
        seat.newest += 1
        mine = seat.newest
        try:
            caller = caller_of(request)
            stop(self._server, seat, caller, {LIVE})
            form = Form.of_values(values, carried)
            if not live or not form.prompt.strip() or form.model != AUTO:
                yield {self._page.notes: gr.skip()}
                return
            seat.seed = seat.seed if form.seed is None and seat.seed is not None else form.seed
            seat.seed = secrets.randbelow(LARGEST_DRAWN) if seat.seed is None else seat.seed
            work = Generate(request=replace(form, seed=seat.seed).sketch())
        except WordbrushError as error:
            yield {self._page.notes: notice(capital(str(error)), alarm=True)}
            return
        async for changes in self._watched(seat, caller, work, LIVE):
            if seat.newest != mine:
                return
            yield changes

    async def _watched(self, seat: Seat, caller: Caller, work: Generate, kind: str) -> AsyncIterator[dict[Any, Any]]:
        page = self._page
        try:
            job = await ask_async(self._server, work, caller, source="studio")
        except WordbrushError as error:
            yield {page.notes: notice(capital(str(error)), alarm=True), page.status: ""}
            return
        seat.jobs[job.id] = kind
        asked = job.work.request if isinstance(job.work, Generate) else work.request
        ratio = self._ratio(asked)
        begun: dict[Any, Any] = {page.last_seed: asked.seed, page.notes: "", page.stop: gr.update(interactive=True)}
        if kind == PAINT:
            begun[page.canvas] = markup.waiting(asked.pictures, ratio)
        yield begun
        async for view in attended(self._server, job, caller, seat):
            now = drawn(view, asked.prompts[0], ratio)
            changes: dict[Any, Any] = {page.status: now.status, page.notes: now.notes}
            if now.canvas is not None:
                changes[page.canvas] = now.canvas
            if view.ended and not seat.jobs:
                changes[page.stop] = gr.update(interactive=False)
            yield changes

    def _ratio(self, request: GenerationRequest) -> float:
        own = choices.own_size(self._server, request.model or AUTO) or (1, 1)
        return (request.width or own[0]) / (request.height or own[1])

    def cancel(self, request: gr.Request) -> Any:
        """The Cancel button and Escape: everything that this page is painting; what is there of it is kept."""
        stop(self._server, self._seats.of(request), caller_of(request), {LIVE, PAINT}, keep_partial=True)
        return gr.update(interactive=False)

    def count_tokens(self, model: str, prompt: str) -> str:
        """What stands below the prompt."""
        try:
            found = tokens.count(self._server.catalogue.model(model or None), prompt or "")
        except WordbrushError:
            found = None
        said = f"{len((prompt or '').split())} words" if found is None else found.sentence
        over = " wb-over" if found is not None and (found.pieces > found.limit or found.unseen) else ""
        return f"<span class='wb-count{over}'>{escape(said)}</span>"

    def choose_model(self, model: str, prompt: str) -> tuple[Any, ...]:
        """Another model has other sizes and defaults."""
        try:
            own = self._server.catalogue.defaults_of(model or None)
        except WordbrushError:
            own = {}
        return (
            gr.update(choices=choices.sizes(self._server, model), value=AUTO),
            gr.update(placeholder=automatic(own.get("steps"))),
            gr.update(placeholder=automatic(own.get("guidance"))),
            self.count_tokens(model, prompt),
            gr.update(interactive=model == AUTO, value=False) if model != AUTO else gr.update(interactive=True),
        )

    def choose_loras(self, loras: list[str], *strengths: float) -> dict[Any, Any]:
        """A slider for each; those that stay keep their strengths, since the list grows at its end."""
        return self._page.strength_updates(loras, dict(zip(loras, strengths, strict=False)))

    def put(self, request: GenerationRequest) -> dict[Any, Any]:
        """Puts a picture's request on the page, with what it cannot hold said in its notes."""
        form, said = self._here(form_of(request), [*not_restored(request)])
        told = "".join(notice(capital(sentence)) for sentence in said)
        return {**self._page.updates(form, self._server), self._page.notes: told}

    def restore(self, data: bytes | None) -> dict[Any, Any]:
        """A dropped picture's settings."""
        page = self._page
        if not data:
            return {page.notes: gr.skip()}
        try:
            found = restored(data, self._server.settings)
        except WordbrushError as error:
            return {page.notes: notice(capital(str(error)), alarm=True)}
        changes = self.put(found.request)
        said = notice("The picture's settings are in the form.") + changes[page.notes]
        if found.began_from is not None:
            said += notice("It began from a picture, which the file does not hold; use Edit for that.")
        if found.unknown:
            listed = ", ".join(f"{name} ({value})" for name, value in found.unknown.items())
            said += notice(f"Unknown here, and left out: {listed}.")
        return {**changes, page.notes: said}

    def _here(self, form: Form, said: list[str]) -> tuple[Form, list[str]]:
        """The form with its names as this server spells them, and sentences about those that it does not have."""
        model = AUTO
        try:
            name = self._server.catalogue.model(form.model or None).name
            model = AUTO if name == EMBEDDED else name
        except WordbrushError as error:
            said.append(f"{error}; the built-in model takes its place")
        loras, strengths = [], {}
        for lora in form.loras:
            try:
                name = self._server.catalogue.find("lora", lora).name
            except WordbrushError as error:
                said.append(str(error))
                continue
            loras.append(name)
            strengths[name] = form.strengths.get(lora, 1.0)
        return replace(form, model=model, loras=tuple(loras), strengths=strengths), said


def _last(seed: int | None) -> str:
    return "" if seed is None else str(seed)


async def closed(server: Server, seats: Seats, request: gr.Request) -> None:
    """A tab that was closed stops its jobs."""
    try:
        caller = caller_of(request)
    except WordbrushError:
        return
    for job_id in seats.leave(request):
        await run_in_threadpool(cancel_soon, server, job_id, caller)
