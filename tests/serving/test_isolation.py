"""Who may call: every route asks; a key sees its own jobs, so many at once, from our pages; and Gradio's own doors."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from typing import Any

import pytest
from tests.serving.conftest import Inside, OpenInside

from wordbrush.serving.guard.caller import COOKIE
from wordbrush.serving.guard.keys import Limits

PROMPT = "a fox on a blue background"


def routes(inside: Inside) -> list[tuple[str, str]]:
    """(method, path) of every documented operation, and of what is not documented."""
    paths = inside.app.openapi()["paths"]
    known = [(method.upper(), path) for path, found in paths.items() for method in found]
    filled = [
        (
            method,
            path.replace("{job_id}", "x")
            .replace("{sha256}", "0" * 64)
            .replace("{suffix}", "png")
            .replace("{name}", "x"),
        )
        for method, path in known
    ]
    return [
        *filled,
        ("GET", "/docs"),
        ("GET", "/openapi.json"),
        ("GET", "/studio/"),
        ("POST", "/studio/gradio_api/upload"),
    ]


OPEN = {"/healthz", "/readyz"}


def test_every_route_looks_at_host_origin_and_key(open_inside: OpenInside) -> None:
    with open_inside() as inside:
        secret = inside.server.store.keys.add("ann")[1]
        found = routes(inside)
        assert len(found) > 60
        for number, (method, path) in enumerate(found):
            key = {"authorization": f"Bearer {secret}"}
            rebound = inside.client.request(method, path, headers={**key, "host": "evil.example"})
            assert rebound.status_code == 421, path
            if method != "GET":
                foreign = inside.client.request(method, path, headers={**key, "origin": "http://evil.example"})
                assert foreign.status_code == 403, path
            if path not in OPEN and number < 29:  # then the guard says 429
                assert inside.client.request(method, path).status_code == 401, path
            elif path not in OPEN:
                assert inside.client.request(method, path).status_code in (401, 429), path
            answer = inside.client.request("OPTIONS", path, headers={"origin": "http://evil.example"})
            assert "access-control-allow-origin" not in answer.headers


@pytest.fixture
def two(open_inside: OpenInside) -> Iterator[tuple[Inside, dict[str, str], dict[str, str], dict[str, str]]]:
    """The application, and the headers of ann, of bob, and of an admin."""
    with open_inside() as inside:
        keys = inside.server.store.keys
        ann, bob, root = (
            {"authorization": f"Bearer {keys.add(name, admin=name == 'root')[1]}"} for name in ("ann", "bob", "root")
        )
        yield inside, ann, bob, root


def test_nobody_sees_or_changes_another_keys_jobs(
    two: tuple[Inside, dict[str, str], dict[str, str], dict[str, str]],
) -> None:
    inside, ann, bob, root = two
    client = inside.client
    asked = client.post("/v1/jobs", headers=ann, json={"prompt": "a secret", "width": 32, "height": 32, "seed": 3})
    done = client.get(f"/v1/jobs/{asked.json()['id']}", headers=ann, params={"wait": 20}).json()
    assert done["state"] == "done"
    picture = done["pictures"][0]["sha256"]
    inside.painter.go.clear()
    ids = [
        client.post("/v1/jobs", headers=ann, json={"prompt": "a secret", "seed": seed}).json()["id"] for seed in (1, 2)
    ]
    mine = client.post("/v1/jobs", headers=bob, json={"prompt": "mine"}).json()["id"]
    for job in (done["id"], *ids):
        for method, path, body in (
            ("GET", "", None),
            ("GET", "/events", None),
            ("POST", "/cancel", {}),
            ("POST", "/move", {"before": "first"}),
            ("PATCH", "", {"priority": -1}),
            ("DELETE", "", None),
        ):
            answer = client.request(method, f"/v1/jobs/{job}{path}", headers=bob, json=body)
            assert answer.status_code in (403, 404), (method, path)
            assert "secret" not in answer.text
    for path in (f"/v1/images/{picture}.png", f"/v1/images/{picture}.webp", f"/v1/images/{picture}"):
        assert client.get(path, headers=bob).status_code == 404
        assert client.get(path, headers=ann).status_code == 200
        assert client.get(path, headers=root).status_code == 200
    listed = client.get("/v1/jobs", headers=bob, params={"limit": 500})
    assert [job["id"] for job in listed.json()["jobs"]] == [mine]
    assert listed.json()["total"] == 1
    for path in (
        "/v1/queue",
        "/v1/jobs?text=secret",
        "/sdapi/v1/progress",
        "/internal/pending-tasks",
        "/sdapi/v1/options",
    ):
        shown = client.get(path, headers=bob).text
        assert "secret" not in shown
        assert not any(job in shown for job in ids)
    before = client.post(f"/v1/jobs/{mine}/move", headers=bob, json={"before": ids[1]})
    assert before.status_code in (403, 404, 409)
    assert client.post("/v1/queue", headers=bob, json={"action": "pause"}).status_code == 403
    assert client.post("/v1/queue", headers=bob, json={"action": "cancel", "everyone": True}).status_code == 403
    client.post("/sdapi/v1/interrupt", headers=bob)
    client.post("/sdapi/v1/skip", headers=bob)
    assert client.post("/v1/queue", headers=bob, json={"action": "cancel"}).json()["cancelled"] <= 1
    assert {client.get(f"/v1/jobs/{job}", headers=ann).json()["state"] for job in ids} <= {"queued", "running"}
    assert client.get(f"/v1/jobs/{ids[0]}", headers=root).status_code == 200


def test_idempotency_keys_and_options_are_each_keys_own(
    two: tuple[Inside, dict[str, str], dict[str, str], dict[str, str]],
) -> None:
    inside, ann, bob, _ = two
    inside.painter.go.clear()
    same = {"Idempotency-Key": "same"}
    first = inside.client.post("/v1/jobs", headers={**ann, **same}, json={"prompt": "anns"})
    second = inside.client.post("/v1/jobs", headers={**bob, **same}, json={"prompt": "bobs"})
    assert (first.status_code, second.status_code) == (201, 201)
    assert first.json()["id"] != second.json()["id"]
    assert inside.client.post("/sdapi/v1/options", headers=ann, json={"samples_format": "jpg"}).status_code == 200
    assert inside.client.get("/sdapi/v1/options", headers=ann).json()["samples_format"] == "jpg"
    assert inside.client.get("/sdapi/v1/options", headers=bob).json()["samples_format"] == "png"


def test_a_key_may_have_so_many_jobs_and_no_more(open_inside: OpenInside) -> None:
    with open_inside() as inside:
        inside.painter.go.clear()
        key = {"authorization": f"Bearer {inside.server.store.keys.add('ann', limits=Limits(jobs=2))[1]}"}
        answers = [inside.client.post("/v1/jobs", headers=key, json={"prompt": PROMPT}) for _ in range(3)]
        assert [answer.status_code for answer in answers] == [201, 201, 429]
        assert int(answers[2].headers["retry-after"]) >= 1
        other = {"authorization": f"Bearer {inside.server.store.keys.add('bob')[1]}"}
        assert inside.client.post("/v1/jobs", headers=other, json={"prompt": PROMPT}).status_code == 201
        inside.client.post(f"/v1/jobs/{answers[0].json()['id']}/cancel", headers=key, json={})
        inside.client.post(f"/v1/jobs/{answers[1].json()['id']}/cancel", headers=key, json={})
        time.sleep(0.2)
        assert inside.client.post("/v1/jobs", headers=key, json={"prompt": PROMPT}).status_code == 201


def test_a_browser_logs_in_and_out(open_inside: OpenInside) -> None:
    with open_inside() as inside:
        secret = inside.server.store.keys.add("ann")[1]
        client = inside.client
        assert "Key" in client.get("/login?next=/docs").text
        assert client.post("/login", data={"key": "wrong"}).status_code == 401
        for target, end in {
            "/docs": "/docs",
            "//evil.example": "/studio/",
            "https://evil.example": "/studio/",
            "/\\evil": "/studio/",
            "/\t/evil.example": "/studio/",
            "javascript:alert(1)": "/studio/",
        }.items():
            answer = client.post("/login", data={"key": secret, "next": target}, follow_redirects=False)
            assert answer.status_code == 303
            assert answer.headers["location"] == end
        cookie = answer.headers["set-cookie"].lower()
        assert COOKIE in cookie
        assert "httponly" in cookie
        assert "samesite=strict" in cookie
        assert secret.lower() not in cookie
        assert client.get("/v1/queue").status_code == 200
        assert (
            client.post("/v1/queue", json={"action": "cancel"}, headers={"origin": "http://evil.example"}).status_code
            == 403
        )
        token = client.cookies[COOKIE]
        assert client.post("/logout", follow_redirects=False).status_code == 303
        assert client.get("/v1/queue", headers={"cookie": f"{COOKIE}={token}"}).status_code == 401
        told = client.get("/login", params={"next": '"><script>alert(1)</script>'}).text
        assert "<script>" not in told


def test_gradios_own_doors_are_guarded_too(open_inside: OpenInside) -> None:
    pytest.importorskip("gradio")
    with open_inside(studio=True, max_body="1MiB") as inside:
        client, folder = inside.client, inside.server.settings.data
        key = {"authorization": f"Bearer {inside.server.store.keys.add('ann')[1]}"}
        api = "/studio/gradio_api"
        page = client.get("/studio/", headers=key)
        assert page.status_code == 200
        assert "frame-ancestors 'none'" in page.headers["content-security-policy"]
        for path in (
            "/etc/passwd",
            f"{folder}/wordbrush.db",
            f"{folder}/address.key",
            "../../../etc/passwd",
            "http://127.0.0.1:9/x",
            f"{folder}/../data/address.key",
        ):
            for way in ("file=", "file/"):
                answer = client.get(f"{api}/{way}{path}", headers=key)
                assert answer.status_code in (403, 404), path
                assert "root:" not in answer.text
        for url in ("http://127.0.0.1:9/x", "https://example.com/x", "https://x.hf.space/x", "file:///etc/passwd"):
            assert client.get(f"{api}/proxy={url}", headers=key).status_code in (400, 403, 404)
        upload = {"files": ("../../evil.html", b"<script>alert(1)</script>", "text/html")}
        assert client.post(f"{api}/upload", files=upload).status_code == 401
        foreign = {**key, "origin": "http://evil.example"}
        assert client.post(f"{api}/upload", files=upload, headers=foreign).status_code == 403
        large = {"files": ("a.png", b"x" * 2 * 1024**2, "image/png")}
        assert client.post(f"{api}/upload", files=large, headers=key).status_code == 413
        kept = client.post(f"{api}/upload", files=upload, headers=key)
        if kept.status_code == 200:
            assert ".." not in kept.json()[0]
            shown = client.get(f"{api}/file={kept.json()[0]}", headers=key)
            if shown.status_code == 200:  # it is to be saved, not shown as a page of ours
                assert shown.headers["content-disposition"].startswith("attachment")
        assert _asked_to_fetch(client, key) == "this server fetches nothing; upload the file"
        join = {"data": [], "fn_index": 0, "session_hash": "x"}
        assert client.post(f"{api}/queue/join", json=join).status_code == 401
        assert client.post(f"{api}/queue/join", json=join, headers=foreign).status_code == 403


def _asked_to_fetch(client: Any, key: dict[str, str]) -> str:
    """What Gradio says to a call that names a file by its address, where it would else fetch it."""
    config = client.get("/studio/config", headers=key).json()
    kinds = {each["id"]: each["type"] for each in config["components"]}
    call = next(each for each in config["dependencies"] if "textbox" in map(kinds.get, each["inputs"]))
    named = {"path": "http://192.0.2.1/a.png", "meta": {"_type": "gradio.FileData"}}
    data = [named if kinds[each] == "textbox" else None for each in call["inputs"]]
    join = {"data": data, "fn_index": call["id"], "session_hash": "fetching"}
    assert client.post("/studio/gradio_api/queue/join", json=join, headers=key).status_code == 200
    with client.stream("GET", "/studio/gradio_api/queue/data?session_hash=fetching", headers=key) as answer:
        told = next(line for line in answer.iter_lines() if "process_completed" in line)
    return str(json.loads(told.removeprefix("data: "))["output"]["error"])
