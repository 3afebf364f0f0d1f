"""The studio, put together: one page with tabs, mounted into the server's application."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import replace
from html import escape
from typing import TYPE_CHECKING, Any

import gradio as gr
from fastapi import FastAPI
from fastapi.responses import RedirectResponse, Response
from starlette.staticfiles import StaticFiles

from wordbrush.errors import RequestError, WordbrushError
from wordbrush.formats.library import CHECKPOINT, EMBEDDED
from wordbrush.serving.catalogue import Known
from wordbrush.serving.guard.caller import remembered
from wordbrush.studio import choices, create, edit, fetching, gallery, models_page, theme, understand
from wordbrush.studio.create_events import QUIET, CreateEvents, closed
from wordbrush.studio.form import AUTO, MOST_LORAS, Form
from wordbrush.studio.gallery import GalleryEvents
from wordbrush.studio.history import Shown, shown_of
from wordbrush.studio.markup import capital, notice
from wordbrush.studio.models_page import ModelsEvents
from wordbrush.studio.session import Seats, caller_of

if TYPE_CHECKING:
    from wordbrush.serving.server import Server

PATH = "/studio"

_BRUSH = f"<svg viewBox='0 0 24 24' width='26' height='26' aria-hidden='true'>{theme.BRUSH}</svg>"


def mount(app: FastAPI, server: Server) -> None:
    """Puts the studio at /studio, and sends / there."""
    fetching.forbid()
    page = build(server)

    @app.get("/", include_in_schema=False)
    async def home() -> Response:
        return RedirectResponse(f"{PATH}/", status_code=307)

    @app.get("/favicon.ico", include_in_schema=False)
    async def icon() -> Response:
        return Response(theme.ICON, media_type="image/svg+xml", headers={"Cache-Control": "public, max-age=86400"})

    # Gradio would compress each of its many small files anew for every page; their names change with their contents.
    app.mount(f"{PATH}/assets", _Assets(directory=theme.ASSETS))
    gr.mount_gradio_app(
        app, page, path=PATH, footer_links=[], run_history=False, ssr_mode=False, enable_monitoring=False, pwa=False,
        mcp_server=False, show_error=True, max_file_size=int(server.settings.max_body), theme=theme.theme(),
        css=theme.style(), head=theme.head(), auth_dependency=_user, app_kwargs={"docs_url": None, "redoc_url": None},
    )  # fmt: skip


class _Assets(StaticFiles):
    """Files that never change under their names."""

    def file_response(self, *args: Any, **options: Any) -> Response:  # as in the class
        response = super().file_response(*args, **options)
        response.headers["Cache-Control"] = "public, max-age=31536000, immutable"
        return response


def _user(request: Any) -> str | None:
    """Gradio's name for whom the guard found; None, and 401, for nobody."""
    found = remembered(request.scope)
    return None if found is None else found.id


class Studio:
    """The page's parts, and what one of them changes on another."""

    def __init__(self, server: Server) -> None:
        self.server, self.seats = server, Seats()
        with gr.Tabs(elem_id="wb-tabs") as self.tabs:
            with gr.Tab("Create", id="create"):
                self.create = create.build(server)
            with gr.Tab("Edit", id="edit"):
                self.edit_in = edit.build(server, self.seats)
            with gr.Tab("Gallery", id="gallery") as self.gallery_tab:
                self.gallery = gallery.build(server)
            with gr.Tab("Models", id="models") as self.models_tab:
                self.models = models_page.build(server)
            with gr.Tab("Understand", id="understand"):
                self.understand_in = understand.build(server, self.seats)

    def register(self, restore: gr.UploadButton) -> None:
        """Connects the handlers."""
        events = CreateEvents(self.server, self.seats, self.create)
        events.register()
        form, handed = self.create.form_outputs, [self.tabs, self.edit_in, self.understand_in]
        notes = self.create.notes

        def restored(data: bytes | None) -> dict[Any, Any]:
            return {**events.restore(data), self.tabs: gr.Tabs(selected="create")}

        restore.upload(restored, restore, [*form, notes, self.tabs], **QUIET)
        clicked = [*handed, self.create.fields["seed"], self.create.fields["prompt"], self.create.tokens, notes]
        self.create.canvas.select(self.clicked, self.create.fields["model"], clicked, **QUIET)
        in_gallery = GalleryEvents(self.server, self.gallery, events.put, self.goto)
        in_gallery.register(self.gallery_tab, [*form, notes, *handed])
        of_models = ModelsEvents(self.server, self.models, self.use)
        live = [self.create.live, self.create.tokens]
        of_models.register(self.models_tab, self.create.inputs, [*form, *live, self.tabs])
        self._events = events

    def goto(self, tab: str, shown: Shown | None) -> dict[Any, Any]:
        """Opens a tab, and hands it a picture."""
        changes: dict[Any, Any] = {self.tabs: gr.Tabs(selected=tab)}
        if shown is not None:
            picture = shown.picture
            given = {"sha256": picture.sha256, "seed": picture.seed, "request": picture.request, "n": time.time()}
            changes[self.edit_in if tab == "edit" else self.understand_in] = given
        return changes

    def clicked(self, request: gr.Request, model: str, event: gr.EventData) -> dict[Any, Any]:
        """A click on the easel: an example, a seed, or a picture that is sent elsewhere."""
        data = dict(event._data or {})
        if data.get("act") == "example":
            text = str(data.get("text"))
            told = self._events.count_tokens(model, text)
            return {self.create.fields["prompt"]: text, self.create.tokens: told}
        if data.get("act") == "seed":
            return {self.create.fields["seed"]: str(data.get("seed"))}
        if data.get("act") in ("edit", "understand"):
            try:
                job = self.server.jobs.get(str(data.get("job")), caller_of(request))
            except WordbrushError as error:
                return {self.create.notes: notice(capital(str(error)), alarm=True)}
            found = [shown for shown in shown_of(job) if shown.picture.sha256 == data.get("sha")]
            return self.goto(str(data["act"]), found[0]) if found else {self.create.notes: gr.skip()}
        return {self.create.notes: gr.skip()}

    def use(self, one: Known, strength: float, form: Sequence[Any]) -> dict[Any, Any]:
        """A model, or a LoRA with its strength, chosen for the Create page."""
        now = Form.of_values(form[1:], form[0])
        if one.kind == CHECKPOINT:
            model = AUTO if one.name == EMBEDDED else one.name
            size, steps, guidance, told, live = self._events.choose_model(model, now.prompt)
            fields = self.create.fields
            changes = self.create.updates(replace(now, model=model, size=AUTO), self.server)
            return {
                **changes, fields["size"]: size, fields["steps"]: steps, fields["guidance"]: guidance,
                self.create.tokens: told, self.create.live: live, self.tabs: gr.Tabs(selected="create"),
            }  # fmt: skip
        names = tuple(dict.fromkeys((*now.loras, one.name)))
        if len(names) > MOST_LORAS:
            raise RequestError(f"{MOST_LORAS} LoRAs are chosen already; take one out first")
        changed = replace(now, loras=names, strengths={**now.strengths, one.name: float(strength)})
        return {**self.create.updates(changed, self.server), self.tabs: gr.Tabs(selected="create")}

    def opened(self, request: gr.Request) -> tuple[Any, ...]:
        """What a page that was just loaded is told: what there is by now, and who is logged in."""
        caller = caller_of(request)
        who = "" if caller.id == "local" else _LOG_OUT.format(name=escape(caller.name))
        return gr.update(choices=choices.models(self.server)), gr.update(choices=choices.loras(self.server)), who

    async def closed(self, request: gr.Request) -> None:
        """A tab that was closed stops its jobs."""
        await closed(self.server, self.seats, request)


_HEADER = f"<a class='wb-mark' href='{PATH}/'>{_BRUSH}<span>Wordbrush</span></a>"
_THEME = (
    "<button type='button' id='wb-theme' class='wb-chip' aria-pressed='false' aria-label='Dark mode'"
    " title='Dark mode' onclick='wordbrushTheme()'>◐</button>"
)
_LOG_OUT = (
    "<form method='post' action='/logout'><button class='wb-chip' title='Logged in as {name}'>Log out</button></form>"
)


def build(server: Server) -> gr.Blocks:
    """The page."""
    hour = 3600
    with gr.Blocks(title="Wordbrush", analytics_enabled=False, fill_width=True, delete_cache=(hour, hour)) as page:
        with gr.Row(elem_id="wb-header"):
            gr.HTML(_HEADER, elem_id="wb-brand")
            restore = gr.UploadButton(
                "Restore settings", file_types=[".png"], type="binary", size="sm", elem_id="wb-restore"
            )
            who = gr.HTML(elem_id="wb-who")
            gr.HTML(_THEME, elem_id="wb-theme-slot")
        studio = Studio(server)
        studio.register(restore)
        fields = studio.create.fields
        page.load(studio.opened, None, [fields["model"], fields["loras"], who], **QUIET)
        page.unload(studio.closed)
    return page
