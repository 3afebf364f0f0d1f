"""The page that asks for a key, where keys are needed. It is plain HTML: no script, nothing from elsewhere."""

from __future__ import annotations

from html import escape
from typing import TYPE_CHECKING, Annotated

from fastapi import APIRouter, Form, Request
from fastapi.responses import HTMLResponse, RedirectResponse, Response
from starlette.concurrency import run_in_threadpool

from wordbrush.serving.guard import caller as guard

if TYPE_CHECKING:
    from wordbrush.serving.server import Server

HOME = "/studio/"

_PAGE = """<!doctype html>
<html lang="en"><head><meta charset="utf-8"><meta name="viewport" content="width=device-width, initial-scale=1">
<title>Log in · Wordbrush</title><style>
:root {{ color-scheme: light dark; --ground: #f6f4ef; --card: #fff; --text: #20242a; --muted: #5a5f66; --edge: #8b877d;
  --accent: #0f6b62; --on: #fff; --alarm: #a3281c; }}
@media (prefers-color-scheme: dark) {{ :root {{ --ground: #15181b; --card: #1d2125; --text: #e9e7e2; --muted: #a9afb6;
  --edge: #737b83; --accent: #55c7b8; --on: #06211d; --alarm: #ff9d8f; }} }}
* {{ box-sizing: border-box; }}
body {{ margin: 0; min-height: 100vh; display: grid; place-items: center; padding: 16px; background: var(--ground);
  color: var(--text); font: 16px/1.5 ui-sans-serif, system-ui, sans-serif; }}
form {{ width: min(380px, 100%); background: var(--card); padding: 28px; border-radius: 16px; }}
form {{ display: grid; gap: 14px; }}
h1 {{ font-size: 1.3rem; margin: 0; }} p {{ margin: 0; color: var(--muted); }} label {{ font-weight: 600; }}
input {{ width: 100%; font: inherit; padding: 10px 12px; border: 1px solid var(--edge); border-radius: 10px;
  background: transparent; color: inherit; }}
button {{ font: inherit; font-weight: 600; padding: 11px; border: 0; border-radius: 10px; background: var(--accent);
  color: var(--on); cursor: pointer; }}
:focus-visible {{ outline: 3px solid var(--accent); outline-offset: 2px; }} .alarm {{ color: var(--alarm); }}
</style></head><body><main><form method="post" action="/login">
<h1>Wordbrush</h1><p>This server asks for a key. The command <code>wordbrush keys add</code> makes one.</p>{problem}
<label for="key">Key</label>
<input id="key" name="key" type="password" autocomplete="current-password" required autofocus>
<input name="next" type="hidden" value="{target}">
<button>Log in</button></form></main></body></html>"""


def router(server: Server) -> APIRouter:
    """GET and POST /login, POST /logout."""
    routes = APIRouter(include_in_schema=False)

    @routes.get("/login")
    async def ask_for_key(next: str = HOME) -> HTMLResponse:
        return HTMLResponse(_page(next))

    @routes.post("/login")
    async def log_in(
        request: Request, key: Annotated[str, Form()] = "", next: Annotated[str, Form()] = HOME
    ) -> Response:
        token = await run_in_threadpool(server.store.keys.log_in, key.strip())
        if token is None:
            return HTMLResponse(_page(next, "This key is not known here; look for a typing error."), status_code=401)
        answer = RedirectResponse(_own(next), status_code=303)
        guard.set_cookie(answer, token, secure=request.url.scheme == "https")
        return answer

    @routes.post("/logout")
    async def log_out(request: Request) -> Response:
        token = guard.session_of(request.headers)
        if token is not None:
            await run_in_threadpool(server.store.keys.log_out, token)
        answer = RedirectResponse("/login", status_code=303)
        guard.unset_cookie(answer)
        return answer

    return routes


def _page(target: str, problem: str = "") -> str:
    told = f"<p class='alarm' role='alert'>{escape(problem)}</p>" if problem else ""
    return _PAGE.format(problem=told, target=escape(_own(target)))


def _own(target: str) -> str:
    """A path of this server; the studio for anything else, so that nobody is sent elsewhere."""
    plain = target.startswith("/") and not target.startswith("//") and "\\" not in target and target.isprintable()
    return target if plain else HOME
