"""What costs a stranger little and would cost the server much: refused before it does. And what errors do not tell."""

from __future__ import annotations

import asyncio
import threading
import time
from io import BytesIO
from pathlib import Path

import pytest
from PIL import Image
from tests.serving.conftest import Inside, OpenInside

from wordbrush.errors import ModelFileError, RequestError
from wordbrush.formats.user_folders import config_folder
from wordbrush.serving.errors import refusal
from wordbrush.serving.few_threads import THREADS, in_few_threads
from wordbrush.serving.guard.reading import MOST_VALUES, NOBODYS

JSON = {"content-type": "application/json"}
MANY = {
    "lists": b"[" + b"[]," * MOST_VALUES + b"[]]",
    "numbers": b"[" + b"1," * MOST_VALUES + b"1]",
    "objects": b"[" + b"{}," * MOST_VALUES + b"{}]",
    "nested": b'{"a":' * MOST_VALUES + b"1" + b"}" * MOST_VALUES,
}
PATHS = ("/v1/jobs", "/v1/queue", "/v1/images/generations", "/sdapi/v1/txt2img", "/sdapi/v1/options")


@pytest.mark.parametrize("what", MANY)
def test_a_body_of_very_many_values_is_not_read(what: str, shared: Inside) -> None:
    for path in PATHS:
        began = time.process_time()
        answer = shared.client.post(path, content=b'{"styles": ' + MANY[what] + b"}", headers=JSON)
        assert answer.status_code == 413, path
        assert str(MOST_VALUES) in answer.text
        assert time.process_time() - began < 2


def test_a_large_picture_in_json_is_not_taken_for_many_values(shared: Inside) -> None:
    answer = shared.client.post("/v1/jobs", json={"prompt": "a", "image": "A" * 8 * 1024**2})
    assert answer.status_code == 422
    assert "picture" in answer.json()["error"]["message"]


def test_who_shows_no_key_may_send_no_more_than_a_key(open_inside: OpenInside) -> None:
    with open_inside() as inside:
        key = {"authorization": f"Bearer {inside.server.store.keys.add('ann')[1]}"}
        large = {"key": "x" * 2 * NOBODYS}
        assert inside.client.post("/login", data=large).status_code == 413
        assert inside.client.post("/login", files={"key": b"x" * 2 * NOBODYS}).status_code == 413
        assert inside.client.post("/login", data={"key": "x"}).status_code == 401
        assert inside.client.post("/v1/tokens", json={"prompt": "x " * NOBODYS}, headers=key).status_code == 422


@pytest.mark.parametrize("name", ["model", "vae", "written", "preset", "upscaler", "styles", "loras", "blend_prompt"])
def test_no_text_of_a_request_is_longer_than_anybody_writes(name: str, shared: Inside) -> None:
    long = "a" * 3_000_000
    began = time.process_time()
    answer = shared.client.post("/v1/jobs", json={"prompt": "x", name: [long] if name in ("styles", "loras") else long})
    assert answer.status_code == 422
    assert len(answer.text) < 3000
    assert time.process_time() - began < 1.5


@pytest.mark.parametrize("path", ["/v1/jobs", "/v1/images/generations", "/sdapi/v1/txt2img"])
def test_a_field_of_a_very_long_name_is_answered_at_once(path: str, shared: Inside) -> None:
    began = time.process_time()
    answer = shared.client.post(path, json={"prompt": "x", "a" * 3_000_000: 1, "sampler_name": "b" * 1_000_000})
    assert answer.status_code in (400, 422)
    assert len(answer.text) < 5000
    assert time.process_time() - began < 1.5


def test_an_infotext_that_is_too_long_is_refused(shared: Inside) -> None:
    answer = shared.client.post("/sdapi/v1/txt2img", json={"infotext": "x\nSteps: 1, " + "a" * 5_000_000})
    assert answer.status_code == 422
    assert "infotext" in answer.json()["detail"]


def test_work_on_pictures_takes_a_few_threads_alone() -> None:
    lock, now, most = threading.Lock(), [0], [0]

    def slow() -> None:
        with lock:
            now[0] += 1
            most[0] = max(most[0], now[0])
        time.sleep(0.02)
        with lock:
            now[0] -= 1

    async def many() -> None:
        await asyncio.gather(*(in_few_threads(slow) for _ in range(5 * THREADS)))

    for _ in range(2):  # each event loop has its own
        asyncio.run(many())
    assert most[0] == THREADS


def test_a_webp_of_what_is_too_wide_for_one_is_refused(shared: Inside) -> None:
    data = BytesIO()
    Image.new("L", (16384, 1)).save(data, "PNG")
    sent = shared.client.post("/v1/images", content=data.getvalue(), headers={"content-type": "image/png"}).json()
    assert shared.client.get(f"/v1/images/{sent['sha256']}.jpg").status_code == 200
    answer = shared.client.get(f"/v1/images/{sent['sha256']}.webp")
    assert answer.status_code == 422
    assert "16383" in answer.json()["error"]["message"]


def test_signed_addresses_may_be_looked_at_so_often(open_inside: OpenInside) -> None:
    with open_inside(rate="3/minute") as inside:
        inside.server.store.keys.add("ann")
        address = f"/v1/images/{'a' * 64}.png?{inside.server.signatures.sign('a' * 64)}"
        assert [inside.client.get(address).status_code for _ in range(4)] == [404, 404, 404, 429]


def test_another_programs_cookie_logs_nobody_out(open_inside: OpenInside) -> None:
    with open_inside() as inside:
        keys = inside.server.store.keys
        token = keys.log_in(keys.add("ann")[1])
        for beside in ('odd={"a": 1, "b"}; ', "a b=c; ", "=; ", "x=\xe9; ", "ü=1; "):
            cookie = f"{beside}wordbrush_session={token}".encode("utf-8", "surrogateescape")
            assert inside.client.get("/v1/jobs", headers={b"cookie": cookie}).status_code == 200, beside


def test_errors_do_not_tell_where_files_lie(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    pytest.importorskip("torch")
    from wordbrush.serving.workers.problems import problem_of

    monkeypatch.setenv("WORDBRUSH_HOME", str(tmp_path / "secret place"))
    monkeypatch.setenv("WORDBRUSH_MODELS", str(tmp_path / "models"))
    folder = config_folder() / "wildcards"
    wildcard = RequestError(f"there is no wildcard __x__; put one into {folder}, or {Path.home()}/y")
    assert problem_of(wildcard).message == "there is no wildcard __x__; put one into wildcards, or y"
    damaged = ModelFileError(f"{tmp_path}/models/fox/a.safetensors is cut off")
    assert problem_of(damaged).message == "fox/a.safetensors is cut off"
    assert str(refusal(damaged)) == "fox/a.safetensors is cut off"
    unforeseen = problem_of(FileNotFoundError(2, "No such file", f"{folder}/a.txt"))
    assert str(tmp_path) not in unforeseen.message
    assert problem_of(RequestError("a/b is no size")).message == "a/b is no size"
