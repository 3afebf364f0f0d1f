"""The guard around a small application: who may call it, from where, how often, with how much."""

from __future__ import annotations

import base64
import contextlib
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Annotated, Any

import pytest
from fastapi import Depends, FastAPI, Request
from fastapi.responses import Response
from starlette.applications import Starlette
from starlette.responses import PlainTextResponse
from starlette.routing import Route
from starlette.testclient import TestClient

from wordbrush.errors import RequestError
from wordbrush.serving import errors, guard
from wordbrush.serving.guard.caller import COOKIE, caller, check_bind
from wordbrush.serving.guard.gate import host_name
from wordbrush.serving.guard.keys import Keys, Limits
from wordbrush.serving.settings import Settings
from wordbrush.serving.signatures import Signatures
from wordbrush.serving.store.database import Database
from wordbrush.serving.work import Caller

HERE = "http://127.0.0.1:7860"


@contextlib.contextmanager
def guarded(folder: Path, **given: Any) -> Iterator[SimpleNamespace]:
    """A server's parts that the guard asks, and a client of an application that stands behind it."""
    settings = Settings(data=folder, **given)
    database = Database(settings.database_url, exclusive=False)
    server: Any = SimpleNamespace(
        settings=settings, store=SimpleNamespace(keys=Keys(database)), signatures=Signatures.of(folder)
    )
    app = FastAPI()
    app.state.server = server
    errors.register(app)
    guard.install(app, server)

    @app.get("/v1/who")
    @app.post("/v1/who")
    async def who(found: Annotated[Caller, Depends(caller)]) -> str:
        return found.name

    @app.post("/v1/length")
    async def length(request: Request) -> int:
        return len(await request.body())

    @app.post("/v1/json")
    async def read_json(body: dict[str, Any]) -> int:
        return len(body)

    @app.get("/v1/images/{name}")
    async def picture(name: str, found: Annotated[Caller, Depends(caller)]) -> Response:
        return PlainTextResponse(f"{name} for {found.id}")

    @app.post("/login")
    async def log_in(request: Request) -> Response:
        return PlainTextResponse("no", 401)

    async def inside(request: Request) -> Response:
        return PlainTextResponse(f"inside for {request.state.caller.name if request.state.caller else 'nobody'}")

    app.mount("/studio", Starlette(routes=[Route("/{path:path}", inside, methods=["GET", "POST"])]))
    try:
        with TestClient(app, base_url=HERE) as client:
            yield SimpleNamespace(client=client, server=server, keys=server.store.keys, app=app)
    finally:
        database.close()


@pytest.fixture
def local(tmp_path: Path) -> Iterator[SimpleNamespace]:
    with guarded(tmp_path) as parts:
        yield parts


@pytest.fixture
def locked(tmp_path: Path) -> Iterator[SimpleNamespace]:
    """With one key, `parts.secret`."""
    with guarded(tmp_path) as parts:
        parts.key, parts.secret = parts.keys.add("ann")
        yield parts


ROUTES = ["/v1/who", "/studio/", "/studio/gradio_api/file=x", "/openapi.json", "/docs", "/nowhere", "/metrics"]

HOSTS = {
    "127.0.0.1": True, "127.0.0.1:7860": True, "127.0.0.53:1": True, "localhost": True, "LOCALHOST:99": True,
    "localhost.": True, "[::1]:7860": True, "[::1]": True,
    "evil.example": False, "evil.example:7860": False, "localhost.evil.example": False, "127.0.0.1.nip.io": False,
    "127.0.0.1@evil.example": False, "evil.example@127.0.0.1": False, "169.254.169.254": False, "10.0.0.1": False,
    "": False, "127.0.0.1, evil.example": False, "127.0.0.1/": False, "127.0.0.1:port": False, "0x7f000001": False,
    "[::1": False, "localhost evil": False, "2130706433": False, "0.0.0.0": False, "127.1": False,
}  # fmt: skip


@pytest.mark.parametrize(("host", "fits"), HOSTS.items())
def test_only_our_own_names_are_answered(host: str, fits: bool, local: SimpleNamespace) -> None:
    for path in ROUTES:
        answer = local.client.get(path, headers={"host": host})
        assert (answer.status_code != 421) == fits
        if not fits:
            assert "allowed_hosts" in answer.json()["error"]["message"]


def test_names_of_the_settings_are_ours(tmp_path: Path) -> None:
    with guarded(tmp_path, allowed_hosts="paint.example,*.lan", public_url="https://show.example/x") as parts:
        for host, fits in {
            "paint.example": True, "PAINT.example:1": True, "a.lan": True, "lan": False, "show.example": True,
            "a.paint.example": False, "evilpaint.example": False,
        }.items():  # fmt: skip
            assert (parts.client.get("/v1/who", headers={"host": host}).status_code == 200) == fits


def test_two_hosts_are_none(local: SimpleNamespace) -> None:
    answer = local.client.get("/v1/who", headers=[("host", "127.0.0.1"), ("host", "evil.example")])
    assert answer.status_code == 421


def test_host_names_are_read_as_browsers_do() -> None:
    assert host_name("Localhost:80") == "localhost"
    assert host_name("[::1]:80") == "::1"
    assert host_name("a\tb") is None
    assert host_name("ä.example") is None


# headers of a call that changes something -> whether it may
POSTS: list[tuple[dict[str, str], bool]] = [
    ({}, True),
    ({"origin": HERE}, True),
    ({"origin": HERE, "sec-fetch-site": "same-origin"}, True),
    ({"sec-fetch-site": "none"}, True),
    ({"origin": "http://evil.example"}, False),
    ({"origin": "http://evil.example", "sec-fetch-site": "same-origin"}, False),
    ({"origin": "null"}, False),
    ({"origin": ""}, False),
    ({"origin": "http://127.0.0.1:7861"}, False),
    ({"origin": "http://localhost:7860"}, False),
    ({"origin": "http://127.0.0.1:7860.evil.example"}, False),
    ({"origin": "http://127.0.0.1:7860@evil.example"}, False),
    ({"origin": "file://127.0.0.1:7860"}, False),
    ({"origin": "127.0.0.1:7860"}, False),
    ({"sec-fetch-site": "cross-site"}, False),
    ({"sec-fetch-site": "same-site"}, False),
    ({"sec-fetch-site": "cross-site", "sec-fetch-mode": "navigate", "sec-fetch-dest": "document"}, False),
    ({"sec-fetch-site": "garbage"}, False),
]


@pytest.mark.parametrize(("headers", "fits"), POSTS)
def test_another_sites_page_cannot_change_anything(headers: dict[str, str], fits: bool, local: SimpleNamespace) -> None:
    for path in ("/v1/who", "/studio/gradio_api/queue/join"):
        answer = local.client.post(path, headers=headers)
        assert (answer.status_code == 200) == fits
        assert fits or answer.status_code == 403
    plain = {"content-type": "text/plain", **headers}  # what a form or `fetch` sends without asking first
    assert (local.client.post("/v1/length", content="{}", headers=plain).status_code == 200) == fits
    assert "access-control-allow-origin" not in answer.headers


def test_another_sites_page_can_link_here_but_not_look(local: SimpleNamespace) -> None:
    link = {"sec-fetch-site": "cross-site", "sec-fetch-mode": "navigate", "sec-fetch-dest": "document"}
    assert local.client.get("/studio/", headers=link).status_code == 200
    for changed in ({"sec-fetch-mode": "no-cors"}, {"sec-fetch-dest": "iframe"}, {"sec-fetch-dest": "image"}):
        assert local.client.get("/studio/", headers={**link, **changed}).status_code == 403
    assert local.client.get("/v1/who", headers={"origin": "http://evil.example"}).status_code == 403


def test_a_page_that_the_settings_allow_may_call(tmp_path: Path) -> None:
    with guarded(tmp_path, allowed_origins="https://app.example") as parts:
        secret = parts.keys.add("ann")[1]
        asked = {"origin": "https://app.example", "access-control-request-method": "POST"}
        preflight = parts.client.options(
            "/v1/who", headers={**asked, "access-control-request-headers": "authorization,content-type"}
        )
        assert preflight.status_code == 200
        assert preflight.headers["access-control-allow-origin"] == "https://app.example"
        assert "access-control-allow-credentials" not in preflight.headers
        with_key = {"origin": "https://app.example", "authorization": f"Bearer {secret}"}
        answer = parts.client.post("/v1/who", headers=with_key)
        assert answer.status_code == 200
        assert answer.headers["access-control-allow-origin"] == "https://app.example"
        refused = parts.client.post("/v1/who", headers={"origin": "https://app.example"})
        assert refused.status_code == 401
        assert refused.headers["access-control-allow-origin"] == "https://app.example"  # so that the page can tell
        other = parts.client.options("/v1/who", headers={**asked, "origin": "https://evil.example"})
        assert "access-control-allow-origin" not in other.headers
        assert parts.client.post("/v1/who", headers={**with_key, "origin": "https://evil.example"}).status_code == 403


def basic(secret: str, user: str = "anybody") -> dict[str, str]:
    return {"authorization": "Basic " + base64.b64encode(f"{user}:{secret}".encode()).decode()}


def test_a_key_can_be_sent_in_four_ways(locked: SimpleNamespace) -> None:
    client, secret = locked.client, locked.secret
    for headers in (
        {"authorization": f"Bearer {secret}"}, {"authorization": f"bearer  {secret} "}, basic(secret),
        {"x-api-key": secret}, {"cookie": f"{COOKIE}={locked.keys.log_in(secret)}"},
    ):  # fmt: skip
        assert client.get("/v1/who", headers=headers).json() == "ann"
        assert client.get("/studio/", headers=headers).text == "inside for ann"


def test_nothing_is_answered_without_a_key(locked: SimpleNamespace) -> None:
    client, secret = locked.client, locked.secret
    wrong = [
        {}, {"authorization": f"Bearer {secret}x"}, {"authorization": f"Bearer {secret[:-1]}"},
        {"authorization": secret},
        {"authorization": "Bearer"}, {"authorization": "Bearer "}, {"authorization": "Basic ???"}, basic("", secret),
        {"authorization": "Basic " + base64.b64encode(b"\xff\xfe").decode()}, {"x-api-key": ""},
        {"x-api-key": "wb_" + "0" * 52}, {"cookie": f"{COOKIE}={secret}"}, {"cookie": f"{COOKIE}="},
        {"cookie": "\x01=;;;="}, {"authorization": f"Digest {secret}"},
        {"authorization": f"Bearer {secret[:12]}" + "A" * 43},
    ]  # fmt: skip
    for number, headers in enumerate(wrong):
        path = ROUTES[number % len(ROUTES)]
        answer = client.get(path, headers=headers)
        assert answer.status_code == 401, (path, headers)
        assert answer.headers["www-authenticate"].startswith("Bearer")
    assert client.get("/v1/who", params={"key": secret, "api_key": secret}).status_code == 401


def test_a_browser_without_a_key_is_sent_to_log_in(locked: SimpleNamespace) -> None:
    for path, target in {"/studio/": "/studio/", "/docs": "/docs", "//evil.example/": "%2F%2Fevil.example/"}.items():
        answer = locked.client.get(HERE + path, headers={"accept": "text/html"}, follow_redirects=False)
        assert answer.status_code == 303
        assert answer.headers["location"].startswith("/login?next=")
        assert answer.headers["location"] in (f"/login?next={target}", f"/login?next={path}")


def test_an_address_that_goes_on_guessing_is_told_to_wait(locked: SimpleNamespace) -> None:
    answers = [locked.client.get("/v1/who", headers={"x-api-key": f"wrong{n}"}).status_code for n in range(31)]
    assert answers == [401] * 30 + [429]
    refused = locked.client.get("/v1/who")
    assert refused.status_code == 429
    assert 1 <= int(refused.headers["retry-after"]) <= 60
    assert locked.client.post("/login").status_code == 429
    assert locked.client.get("/v1/who", headers={"x-api-key": locked.secret}).status_code == 200


def test_the_login_page_counts_guesses_too(locked: SimpleNamespace) -> None:
    assert [locked.client.post("/login").status_code for _ in range(31)] == [401] * 30 + [429]


def test_a_removed_key_is_nobodys_at_once_and_its_browsers_are_logged_out(locked: SimpleNamespace) -> None:
    locked.keys.add("other")
    token = locked.keys.log_in(locked.secret)
    cookie = {"cookie": f"{COOKIE}={token}"}
    assert locked.client.get("/v1/who", headers=cookie).status_code == 200
    locked.keys.remove("ann")
    assert locked.client.get("/v1/who", headers=cookie).status_code == 401
    assert locked.client.get("/v1/who", headers={"x-api-key": locked.secret}).status_code == 401


def test_logging_out_ends_the_session(locked: SimpleNamespace) -> None:
    token = locked.keys.log_in(locked.secret)
    locked.keys.log_out(token)
    assert locked.keys.session(token) is None
    assert locked.keys.log_in("wrong") is None


def test_a_signed_address_opens_one_picture_and_nothing_else(locked: SimpleNamespace) -> None:
    client, signatures, name = locked.client, locked.server.signatures, "a" * 64
    query = signatures.sign(name)
    assert client.get(f"/v1/images/{name}.png?{query}").text == f"{name}.png for link"
    assert client.get(f"/v1/images/{'b' * 64}.png?{query}").status_code == 401
    assert client.get(f"/v1/who?{query}").status_code == 401
    assert client.delete(f"/v1/images/{name}.png?{query}").status_code == 401
    assert client.get(f"/v1/images/{name}.png?{signatures.sign(name, now=0)}").status_code == 401
    later = query.replace("expires=", "expires=9")
    for changed in (later, query[:-1] + "x", "expires=x&signature=y", "expires=²&signature=" + "a" * 64, "signature="):
        assert client.get(f"/v1/images/{name}.png?{changed}").status_code == 401


def test_elsewhere_than_on_this_machine_a_key_is_demanded(tmp_path: Path) -> None:
    with guarded(tmp_path, host="0.0.0.0") as parts:
        with pytest.raises(RequestError, match="wordbrush keys add"):
            check_bind(parts.server.settings, parts.keys)
        assert parts.client.get("/v1/who", headers={"host": "10.0.0.1"}).status_code == 401
        secret = parts.keys.add("ann")[1]
        check_bind(parts.server.settings, parts.keys)
        assert parts.client.get("/v1/who", headers={"host": "10.0.0.1", "x-api-key": secret}).status_code == 200
        assert parts.client.get("/v1/who", headers={"host": "evil.example", "x-api-key": secret}).status_code == 421
    for host in ("127.0.0.1", "localhost", "::1", "127.0.0.2"):
        with guarded(tmp_path / host.replace(":", "_"), host=host) as parts:
            check_bind(parts.server.settings, parts.keys)
            assert parts.client.get("/v1/who").json() == "local"


def test_a_key_may_call_so_often_and_no_more(tmp_path: Path) -> None:
    with guarded(tmp_path, rate="3/minute") as parts:
        assert {parts.client.post("/v1/who").status_code for _ in range(40)} == {200}  # the local user
        ann, bob = (
            {"x-api-key": parts.keys.add(name, limits=limits)[1]}
            for name, limits in (("ann", Limits()), ("bob", Limits(rate="5/minute")))
        )
        assert [parts.client.post("/v1/who", headers=ann).status_code for _ in range(5)] == [200] * 3 + [429] * 2
        assert [parts.client.post("/v1/who", headers=bob).status_code for _ in range(6)] == [200] * 5 + [429]
        refused = parts.client.post("/v1/who", headers=ann)
        assert 1 <= int(refused.headers["retry-after"]) <= 60
        assert refused.json()["error"]["kind"] == "rate"
        reads = [parts.client.get("/v1/who", headers=ann).status_code for _ in range(31)]
        assert reads == [200] * 30 + [429]
        assert parts.client.get("/studio/theme.css", headers=ann).status_code == 200
        assert parts.client.get("/healthz", headers=ann).status_code == 404


def test_every_answer_carries_the_security_headers(locked: SimpleNamespace) -> None:
    key = {"x-api-key": locked.secret}
    answers = [
        locked.client.get("/v1/who", headers=key), locked.client.get("/v1/who"),
        locked.client.get("/nowhere", headers=key),
        locked.client.get("/studio/", headers=key), locked.client.get("/openapi.json", headers=key),
        locked.client.post("/v1/json", headers=key, content=b"{"), locked.client.get("/", headers={"host": "evil"}),
        locked.client.put("/v1/who", headers=key),
    ]  # fmt: skip
    assert [answer.status_code for answer in answers] == [200, 401, 404, 200, 200, 422, 421, 405]
    for answer in answers:
        assert answer.headers["x-content-type-options"] == "nosniff"
        assert answer.headers["x-frame-options"] == "DENY"
        assert answer.headers["referrer-policy"] == "same-origin"
        assert answer.headers["cross-origin-resource-policy"] == "same-origin"
        assert "frame-ancestors 'none'" in answer.headers["content-security-policy"]
        assert "server" not in answer.headers
    assert "script-src" in answers[3].headers["content-security-policy"]
    assert "script-src" not in answers[0].headers["content-security-policy"]


def test_a_body_is_counted_as_it_comes(tmp_path: Path) -> None:
    with guarded(tmp_path, max_body=2048) as parts:

        def pieces(count: int) -> Iterator[bytes]:
            for _ in range(count):
                yield b"x" * 1024

        assert parts.client.post("/v1/length", content=b"x" * 2048).json() == 2048
        assert parts.client.post("/v1/length", content=pieces(2)).json() == 2048
        for content in (b"x" * 2049, pieces(3), pieces(10_000)):
            answer = parts.client.post("/v1/length", content=content)
            assert answer.status_code == 413
            assert answer.headers["connection"] == "close"
        lying = parts.client.post("/v1/length", content=pieces(5), headers={"content-length": "10"})
        assert lying.status_code == 413
        assert parts.client.post("/v1/json", content=b'{"a": "' + b"x" * 4096 + b'"}').status_code == 413
        for told in ("9" * 5000, "-1", "1e9"):
            parts.client.post("/v1/length", content=b"", headers={"content-length": told})
        key = {"x-api-key": parts.keys.add("ann", limits=Limits(body=100))[1]}
        assert parts.client.post("/v1/length", content=b"x" * 101, headers=key).status_code == 413
        assert parts.client.post("/v1/length", content=b"x" * 100, headers=key).json() == 100
