"""What belongs to one caller alone: options, progress, interrupting; and who may call. A quick painter paints."""

from __future__ import annotations

import json
import socket
import threading
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import uvicorn
import webuiapi  # type: ignore[import-untyped]
from tests.serving.painter import Painter
from tests.serving.waiting import until

from wordbrush.serving.app import Server, create_app
from wordbrush.serving.settings import Settings

SMALL: dict[str, Any] = {"width": 64, "height": 64, "steps": 4}


@dataclass
class Listening:
    """A server in a thread, with a quick painter and two keys."""

    url: str
    server: Server
    secrets: tuple[str, str]

    @property
    def painter(self) -> Painter:
        found = self.server.dispatcher
        assert isinstance(found, Painter)
        return found

    def client(self, number: int | None = None) -> Any:
        """webuiapi with the key of that number as the password."""
        api = webuiapi.WebUIApi(baseurl=f"{self.url}/sdapi/v1")
        if number is not None:
            api.set_auth("anybody", self.secrets[number])
        return api


@contextmanager
def listens(data: Path) -> Iterator[Listening]:
    """Such a server, while it is wanted."""
    app = create_app(Settings(data=data, studio=False, shutdown_grace=1, queue_limit=4), Painter)
    server = app.state.server
    secrets = tuple(server.store.keys.add(name, admin=name == "one")[1] for name in ("one", "two"))
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        port = taken.getsockname()[1]
    web = uvicorn.Server(uvicorn.Config(app, port=port, log_level="warning"))
    thread = threading.Thread(target=web.run, daemon=True)
    thread.start()
    until(lambda: web.started)
    yield Listening(f"http://127.0.0.1:{port}", server, (secrets[0], secrets[1]))
    server.dispatcher.go.set()
    web.should_exit = True
    thread.join(20)
    assert not thread.is_alive()


@pytest.fixture(scope="module")
def listening(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Listening]:
    with listens(tmp_path_factory.mktemp("callers")) as found:
        yield found


@pytest.fixture
def held(listening: Listening) -> Iterator[Painter]:
    """The painter, stopped in the middle of what it paints; it goes on after the test."""
    listening.painter.go.clear()
    yield listening.painter
    listening.painter.go.set()
    clients = [listening.client(number) for number in (0, 1)]
    until(lambda: all(api.get_progress()["state"]["job_count"] == 0 for api in clients))


def painting(pool: ThreadPoolExecutor, api: Any, **fields: Any) -> Future[Any]:
    return pool.submit(lambda: api.txt2img(prompt="a fox", **SMALL, **fields))


def test_a_key_is_the_password(listening: Listening) -> None:
    stranger = listening.client()
    with pytest.raises(RuntimeError) as refused:
        stranger.txt2img(prompt="a fox", **SMALL)
    assert refused.value.args[0] == 401
    answer = stranger.session.get(f"{listening.url}/sdapi/v1/options")
    assert answer.status_code == 401
    assert answer.headers["WWW-Authenticate"].startswith("Basic")
    assert {"error", "detail", "body", "errors"} == set(answer.json())
    assert len(listening.client(0).txt2img(prompt="a fox", **SMALL).images) == 1
    wrong = listening.client()
    wrong.set_auth("anybody", "wrong")
    with pytest.raises(RuntimeError):
        wrong.txt2img(prompt="a fox", **SMALL)


def test_options_are_the_callers_own(listening: Listening) -> None:
    one, two = listening.client(0), listening.client(1)
    before = two.get_options()
    one.set_options({"CLIP_stop_at_last_layers": 3, "anything": True})
    assert one.get_options()["CLIP_stop_at_last_layers"] == 3
    assert two.get_options() == before
    assert one.txt2img(prompt="a fox", **SMALL).info["clip_skip"] == 3
    assert two.txt2img(prompt="a fox", **SMALL).info["clip_skip"] == 1
    one.set_options({"CLIP_stop_at_last_layers": None, "anything": None})
    assert one.get_options() == before


def test_all_options_sent_back_change_nothing(listening: Listening) -> None:
    """As Open WebUI does, which reads them, changes the model, and sends them all."""
    two = listening.client(1)
    before = two.get_options()
    titles = [model["title"] for model in two.get_sd_models()]
    assert before["sd_model_checkpoint"] in titles
    assert two.set_options(before | {"sd_model_checkpoint": titles[0]}) is None
    assert two.get_options() == before
    body = {"prompt": "a fox", "negative_prompt": "", "batch_size": 2, "steps": 4, "width": 64, "height": 64}
    answer = two.session.post(f"{two.baseurl}/txt2img", json=body).json()
    assert len(answer["images"]) == 2
    assert "all_seeds" in answer["info"]
    two.set_options(dict.fromkeys(before))


def test_progress_and_interrupting_are_the_callers_own(listening: Listening, held: Painter) -> None:
    one, two = listening.client(0), listening.client(1)
    with ThreadPoolExecutor() as pool:
        first = painting(pool, one, n_iter=2, seed=5)
        until(lambda: one.get_progress()["state"]["job_count"] == 2)
        second = painting(pool, two, seed=9)
        told = until(lambda: two.get_progress() if two.get_progress()["state"]["job_count"] else None)
        assert told["state"]["job_count"] == 1
        assert told["textinfo"] == "Waiting in the queue"
        until(lambda: one.get_progress()["state"]["job"] == "Batch 1 out of 2")
        two.interrupt()  # its own, which waits; not the other's
        assert second.result(20).images == []
        one.interrupt()
        result = first.result(20)
        assert len(result.images) == 1  # what the running one looked like; the other had not begun
        assert result.info["all_seeds"] == [5]
        assert result.info["notes"] == ["picture 1 is as it stood when it was ended"]


def test_skipping_ends_one_of_several(listening: Listening, held: Painter) -> None:
    one = listening.client(0)
    with ThreadPoolExecutor() as pool:
        call = painting(pool, one, n_iter=3, seed=5)
        until(lambda: one.get_progress()["textinfo"] == "Painting")
        one.skip()
        until(lambda: one.get_progress()["state"]["job_no"] == 1)
        assert one.get_progress()["state"]["skipped"]
        held.go.set()
        assert call.result(20).info["all_seeds"] == [5, 6, 7]


def test_a_full_queue_takes_all_of_a_call_or_nothing(listening: Listening, held: Painter) -> None:
    one = listening.client(0)
    with ThreadPoolExecutor() as pool:
        call = painting(pool, one, n_iter=2)
        until(lambda: one.get_progress()["textinfo"] == "Painting")
        body = {"prompt": "a fox", "n_iter": 8, **SMALL}
        answer = one.session.post(f"{listening.url}/sdapi/v1/txt2img", json=body)
        assert answer.status_code == 429
        assert int(answer.headers["Retry-After"]) >= 1
        assert one.custom_get("internal/pending-tasks")["size"] == 1
        held.go.set()
        assert len(call.result(20).images) == 2


def test_models_are_dropped_by_administrators_alone(listening: Listening) -> None:
    url = f"{listening.url}/sdapi/v1/unload-checkpoint"
    before = listening.painter.dropped
    assert listening.client(1).session.post(url).status_code == 403
    assert listening.client(0).session.post(url).status_code == 200
    assert listening.painter.dropped == before + 1


def test_pictures_need_not_be_sent(listening: Listening) -> None:
    result = listening.client(0).txt2img(prompt="a fox", send_images=False, seed=3, **SMALL)
    assert result.images == []
    assert result.info["all_seeds"] == [3]


def test_bodies_that_are_no_json(listening: Listening) -> None:
    session = listening.client(0).session
    for path in ("txt2img", "options", "png-info"):
        for body in ("{", "[1]", '"x"', "null", '{"prompt": NaN}', '{"a": "\\ud800"}', "[" * 5000):
            headers = {"Content-Type": "application/json"}
            answer = session.post(f"{listening.url}/sdapi/v1/{path}", data=body, headers=headers)
            assert answer.status_code in (400, 422), (path, body[:20], answer.text)
            assert {"error", "detail", "body", "errors"} == set(answer.json())


def test_a_call_is_answered_when_the_server_ends(tmp_path: Path) -> None:
    with listens(tmp_path) as listening, ThreadPoolExecutor() as pool:
        listening.painter.go.clear()
        one = listening.client(0)
        call = painting(pool, one)
        until(lambda: one.get_progress()["textinfo"] == "Painting")
        listening.server.ended.set()
        with pytest.raises(RuntimeError) as refused:
            call.result(20)
        assert refused.value.args[0] == 503


@pytest.mark.parametrize(
    ("body", "status"),
    [
        ({"sampler_name": "no such"}, 400),
        ({"scheduler": "no such"}, 400),
        ({"script_name": "no such"}, 422),
        ({"alwayson_scripts": {"ControlNet": {"args": []}}}, 422),
        ({"restore_faces": True}, 422),
        ({"tiling": True}, 422),
        ({"styles": ["no such"]}, 422),
        ({"steps": 0}, 422),
        ({"width": "wide"}, 422),
        ({"override_settings": {"sd_model_checkpoint": "/etc/passwd"}}, 422),
        ({"prompt": "a <lora:nowhere:1>"}, 422),
        ({"comments": {"x": "\ud800"}}, 422),
    ],
)
def test_errors_are_one_sentence_in_the_web_uis_form(listening: Listening, body: dict[str, Any], status: int) -> None:
    with pytest.raises(RuntimeError) as refused:
        listening.client(0).custom_post("sdapi/v1/txt2img", {"prompt": "a fox", **SMALL, **body})
    assert refused.value.args[0] == status
    answer = json.loads(refused.value.args[1])
    assert {"error", "detail", "body", "errors"} == set(answer)
    assert len(answer["detail"]) > 10


def test_pictures_from_addresses_and_paths_are_refused(listening: Listening) -> None:
    api = listening.client(0)
    for given in ("http://127.0.0.1:1/x.png", "/etc/passwd", "file:///etc/passwd", "@@@"):
        answer = api.session.post(f"{api.baseurl}/img2img", json={"prompt": "a fox", "init_images": [given]})
        assert answer.status_code == 422, answer.text
