"""The Gallery page: every picture that was made here, found by its words, looked at, compared, used again, deleted."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import gradio as gr

from wordbrush.errors import RequestError, WordbrushError
from wordbrush.request import GenerationRequest
from wordbrush.serving.store.jobs import JobFilter
from wordbrush.serving.work import Caller, JobState
from wordbrush.studio import history, markup
from wordbrush.studio.create_events import QUIET
from wordbrush.studio.form import OF_IMAGE
from wordbrush.studio.history import KINDS, SOURCES, Shown
from wordbrush.studio.markup import capital, notice
from wordbrush.studio.session import caller_of

if TYPE_CHECKING:
    from wordbrush.serving.server import Server

PAGE = 24
"""Jobs on a page."""

ANY = ""

# Clicks on tiles; two that are ticked are compared without asking the server in between.
_GRID = (
    markup.CLICKS
    + """
element.addEventListener('change', (event) => {
  if (!event.target.matches('[data-pick]')) return;
  const picked = [...element.querySelectorAll('[data-pick]:checked')];
  if (picked.length === 2) {
    trigger('select', { act: 'compare', first: picked[0].dataset.pick, second: picked[1].dataset.pick });
    picked.forEach((each) => { each.checked = false; });
  }
});
"""
)

# The dialog takes the focus when it opens, and gives it back when it closes.
_VIEWER = (
    markup.CLICKS
    + """
let before = null;
watch('value', () => {
  const dialog = element.querySelector('.wb-overlay');
  document.body.classList.toggle('wb-locked', Boolean(dialog));
  if (dialog) {
    if (!before) before = document.activeElement;
    dialog.querySelector('.wb-close')?.focus({ preventScroll: true });
  } else if (before) { before.focus?.({ preventScroll: true }); before = null; }
});
"""
)


@dataclass(frozen=True)
class GalleryPage:
    """The page's components.

    Attributes:
        cursors: state: where each page up to this one begins; the last is this one's.
        following: state: where the next one begins, or None.
        places: state: [job id, SHA-256] of each tile.
    """

    search: gr.Textbox
    kind: gr.Dropdown
    source: gr.Dropdown
    model: gr.Dropdown
    grid: gr.HTML
    summary: gr.HTML
    newer: gr.Button
    older: gr.Button
    viewer: gr.HTML
    cursors: gr.State
    following: gr.State
    places: gr.State


def build(server: Server) -> GalleryPage:
    """Puts the page into the tab that is open."""
    with gr.Row(elem_id="wb-filters", elem_classes=["wb-card"]):
        search = gr.Textbox(
            label="Search", placeholder="words of the prompt", elem_id="wb-search", max_lines=1, scale=3
        )
        kind = gr.Dropdown([("All", ANY), *_listed(KINDS)], value=ANY, label="Kind", elem_id="wb-kind")
        source = gr.Dropdown([("All", ANY), *_listed(SOURCES)], value=ANY, label="Made in", elem_id="wb-source")
        model = gr.Dropdown(_models(server), value=ANY, label="Model", elem_id="wb-of-model")
    summary = gr.HTML(elem_id="wb-summary")
    grid = gr.HTML(elem_id="wb-gallery", js_on_load=_GRID)
    with gr.Row(elem_id="wb-pages"):
        newer = gr.Button("‹ Newer", size="sm", elem_id="wb-newer", visible=False)
        older = gr.Button("Older ›", size="sm", elem_id="wb-older", visible=False)
    viewer = gr.HTML(elem_id="wb-viewer", js_on_load=_VIEWER)
    return GalleryPage(
        search=search, kind=kind, source=source, model=model, grid=grid, summary=summary, newer=newer, older=older,
        viewer=viewer, cursors=gr.State([None]), following=gr.State(None), places=gr.State([]),
    )  # fmt: skip


def _listed(names: dict[str, str]) -> list[tuple[str, str]]:
    return [(shown, name) for name, shown in names.items()]


def _models(server: Server) -> list[tuple[str, str]]:
    return [("All", ANY), *((model.name, model.name) for model in server.catalogue.models)]


class GalleryEvents:
    """The page's handlers.

    Args:
        put: what a request changes on the Create page.
        goto: changes that open a tab and hand it a picture, by the tab's name.
    """

    def __init__(
        self,
        server: Server,
        page: GalleryPage,
        put: Callable[[GenerationRequest], dict[Any, Any]],
        goto: Callable[[str, Shown | None], dict[Any, Any]],
    ) -> None:
        self._server, self._page, self._put, self._goto = server, page, put, goto

    def register(self, tab: gr.Tab, others: list[Any]) -> None:
        """Connects them. others: what `put` and `goto` change."""
        page = self._page
        filters = [page.search, page.kind, page.source, page.model]
        shown = [page.grid, page.summary, page.newer, page.older, page.cursors, page.following, page.places]
        for event in (page.search.change, page.kind.input, page.source.input, page.model.input, tab.select):
            event(self.first, filters, shown, trigger_mode="always_last", **QUIET)
        page.older.click(self.next, [*filters, page.cursors, page.following], shown, **QUIET)
        page.newer.click(self.back, [*filters, page.cursors], shown, **QUIET)
        changed = [page.viewer, *shown, *others]
        state = [*filters, page.cursors, page.places]
        page.grid.select(self.act, state, changed, **QUIET)
        page.viewer.select(self.act, state, changed, **QUIET)

    def first(self, request: gr.Request, search: str, kind: str, source: str, model: str) -> dict[Any, Any]:
        """The newest page that the filters let through."""
        return self._listed(request, (search, kind, source, model), [None])

    def next(
        self, request: gr.Request, search: str, kind: str, source: str, model: str, cursors: list[Any], following: Any
    ) -> dict[Any, Any]:
        """The next older page."""
        further = cursors if following is None else [*cursors, following]
        return self._listed(request, (search, kind, source, model), further)

    def back(
        self, request: gr.Request, search: str, kind: str, source: str, model: str, cursors: list[Any]
    ) -> dict[Any, Any]:
        """The next newer page."""
        return self._listed(request, (search, kind, source, model), cursors[:-1] or [None])

    def act(
        self, request: gr.Request, event: gr.EventData, *state: Any
    ) -> dict[Any, Any]:
        """A click on a tile or in the dialog."""
        filters, (cursors, places) = state[:4], state[4:]
        try:
            return self._act(request, dict(event._data or {}), filters, cursors, places)
        except (WordbrushError, LookupError, ValueError) as error:
            said = str(error) if isinstance(error, WordbrushError) else "that picture is not there any more"
            return {self._page.viewer: "", self._page.summary: notice(capital(said), alarm=True)}

    def _act(
        self, request: gr.Request, data: dict[str, Any], filters: tuple[Any, ...], cursors: list[Any], places: list[Any]
    ) -> dict[Any, Any]:
        page, caller, act = self._page, caller_of(request), data.get("act")
        if act == "close":
            return {page.viewer: ""}
        if act == "compare":
            pair = [self._shown(caller, places, data[name]) for name in ("first", "second")]
            return {page.viewer: history.compared(*pair)}
        place = int(data["place"])
        shown = self._shown(caller, places, place)
        if act in ("open", "delete"):
            return {page.viewer: history.big(shown, place, len(places), deleting=act == "delete")}
        if act == "really-delete":
            self._server.jobs.delete(shown.job.id, caller)
            return {page.viewer: "", **self._listed(request, filters, cursors)}
        if act == "reuse":
            if shown.picture.request is None:
                raise RequestError("this picture was not painted from settings that could be used again")
            kept = {name: value for name, value in shown.picture.request.items() if name not in ("image", "mask")}
            wanted = GenerationRequest.from_dict({"prompt": "", **_without_picture(kept, shown.picture.request)})
            return {page.viewer: "", **self._put(wanted), **self._goto("create", None)}
        if act in ("edit", "understand"):
            return {page.viewer: "", **self._goto(str(act), shown)}
        return {page.viewer: gr.skip()}

    def _shown(self, caller: Caller, places: list[Any], place: Any) -> Shown:
        job_id, sha256 = places[int(place)]
        job = self._server.jobs.get(job_id, caller)
        return next(shown for shown in history.shown_of(job) if shown.picture.sha256 == sha256)

    def _listed(self, request: gr.Request, filters: tuple[Any, ...], cursors: list[Any]) -> dict[Any, Any]:
        page, (search, kind, source, model) = self._page, filters
        try:
            wanted = JobFilter(
                states=(JobState.DONE, JobState.CANCELLED), kinds=(kind,) if kind else tuple(KINDS),
                sources=(source,) if source else None, model=model or None, text=search.strip() or None,
            )  # fmt: skip
            found = self._server.jobs.list(
                caller_of(request), wanted, limit=PAGE, cursor=cursors[-1], newest_first=True
            )
        except WordbrushError as error:
            return {page.summary: notice(capital(str(error)), alarm=True)}
        tiles = [shown for job in found.jobs for shown in history.shown_of(job)]
        empty = "Nothing fits; try other words." if any(filters) else "Nothing was painted yet. Create is the place."
        more = "" if found.next_cursor is None and len(cursors) == 1 else f", page {len(cursors)}"
        said = f"{found.total} {'job' if found.total == 1 else 'jobs'}{more}" if tiles else empty
        return {
            page.grid: history.grid(tiles),
            page.summary: f"<p class='wb-muted' role='status'>{said}</p>",
            page.newer: gr.update(interactive=len(cursors) > 1, visible=bool(more)),
            page.older: gr.update(interactive=found.next_cursor is not None, visible=bool(more)),
            page.cursors: cursors,
            page.following: found.next_cursor,
            page.places: [[shown.job.id, shown.picture.sha256] for shown in tiles],
        }


def _without_picture(fields: dict[str, Any], request: dict[str, Any]) -> dict[str, Any]:
    """The fields without those that have no meaning when the picture that it began from is not there."""
    if request.get("image") is None:
        return fields
    return {name: value for name, value in fields.items() if name not in OF_IMAGE}
