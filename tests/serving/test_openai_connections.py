"""What OpenAI's client meets when things go wrong: retries, full queues, failed work, connections that break."""

from __future__ import annotations

import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import openai
import pytest
import uvicorn
from tests.serving.painter import Painter

from wordbrush.serving.app import Server, create_app
from wordbrush.serving.guard import listening
from wordbrush.serving.openai import following
from wordbrush.serving.settings import Settings
from wordbrush.serving.work import LOCAL, Job, JobState, Problem

PROMPT = "a fox"


class Failing(Painter):
    """Fails every job in the way that its prompt says."""

    def _paint(self, job: Job) -> None:
        kind = str(getattr(job.work, "request").prompt)  # noqa: B009, the work is always to paint here
        self.jobs.failed(job.id, Problem(kind=kind, message="width=7 is not a multiple of 8"))


class _Unhurried(threading.Event):
    def wait(self, timeout: float | None = None) -> bool:
        time.sleep(0.15)
        return super().wait(timeout)


class Unhurried(Painter):
    """Takes its time for each step, as real work does: of previews that come at once, only the newest is sent."""

    def __init__(self, *parts: Any) -> None:
        super().__init__(*parts)
        self.go = _Unhurried()
        self.go.set()


class Listening:
    """A server on a socket, in a thread of this process."""

    def __init__(self, server: Server, url: str) -> None:
        self.server, self.url = server, url

    @property
    def painter(self) -> Painter:
        found = self.server.dispatcher
        assert isinstance(found, Painter)
        return found

    def client(self, key: str = "unused", **options: Any) -> openai.OpenAI:
        return openai.OpenAI(base_url=f"{self.url}/v1", api_key=key, **{"timeout": 60, **options})

    def jobs(self) -> list[Job]:
        return list(self.server.jobs.list(LOCAL, limit=100).jobs)

    def states(self) -> list[JobState]:
        return [job.state for job in self.jobs()]


OpenListening = Callable[..., Any]


@pytest.fixture
def listen(tmp_path: Path) -> OpenListening:
    @contextmanager
    def opened(painter: type[Painter] = Painter, **settings: Any) -> Iterator[Listening]:
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            port = free.getsockname()[1]
        values = Settings(data=tmp_path / "data", studio=False, shutdown_grace=2, port=port, **settings)
        app = create_app(values, painter)
        server = uvicorn.Server(listening.config(app, values))
        thread = threading.Thread(target=server.run)
        thread.start()
        try:
            _until(lambda: server.started)
            yield Listening(app.state.server, f"http://127.0.0.1:{port}")
        finally:
            app.state.server.dispatcher.go.set()
            server.should_exit = True
            thread.join(30)
        assert not thread.is_alive()

    return opened


def _until(true: Callable[[], bool], seconds: float = 20) -> None:
    end = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < end, "it did not come about"
        time.sleep(0.02)


def test_a_retry_takes_the_job_over_that_is_there_already(listen):
    with listen() as found:
        found.painter.go.clear()
        threading.Timer(3.0, found.painter.go.set).start()
        made = found.client(timeout=1.0, max_retries=5).images.generate(prompt=PROMPT)
        assert len(made.data) == 1
        assert found.states() == [JobState.DONE]
        again = found.client(max_retries=0).images.generate(prompt=PROMPT)  # asked anew, so painted anew
        assert again.data[0].b64_json != made.data[0].b64_json
        assert len(found.jobs()) == 2


def test_a_retry_of_a_stream_takes_the_job_over(listen):
    with listen() as found:
        client = found.client(max_retries=0)
        found.painter.go.clear()
        with client.images.generate(prompt=PROMPT, stream=True):
            _until(lambda: found.states() == [JobState.RUNNING])
        headers = {"x-stainless-retry-count": "1"}
        stream = client.images.generate(prompt=PROMPT, stream=True, partial_images=3, extra_headers=headers)
        found.painter.go.set()
        assert [event.type for event in stream][-1] == "image_generation.completed"
        assert len(found.jobs()) == 1


def test_a_retry_of_something_else_or_by_somebody_else_is_a_new_job(listen):
    with listen() as found:
        headers = {"x-stainless-retry-count": "1"}
        client = found.client(max_retries=0)
        client.images.generate(prompt=PROMPT, extra_headers=headers)
        client.images.generate(prompt="a cat", extra_headers=headers)
        client.images.generate(prompt=PROMPT, extra_headers=headers)  # the first one was handed over
        assert len(found.jobs()) == 3


def test_a_client_that_goes_away_cancels_what_has_not_begun(listen, monkeypatch):
    monkeypatch.setattr(following, "GRACE", 0.3)
    with listen() as found:
        found.painter.go.clear()
        running = threading.Thread(target=found.client(max_retries=0).images.generate, kwargs={"prompt": "first"})
        running.start()
        _until(lambda: found.states() == [JobState.RUNNING])
        with pytest.raises(openai.APITimeoutError):
            found.client(timeout=0.5, max_retries=0).images.generate(prompt=PROMPT)
        with found.client(max_retries=0).images.generate(prompt=PROMPT, stream=True):
            _until(lambda: len(found.jobs()) == 3)
        _until(lambda: sorted(found.states()) == [JobState.CANCELLED, JobState.CANCELLED, JobState.RUNNING])
        found.painter.go.set()
        running.join(20)
        assert sorted(found.states()) == [JobState.CANCELLED, JobState.CANCELLED, JobState.DONE]


def test_a_full_queue_says_when_to_come_back(listen):
    with listen(queue_limit=1) as found:
        found.painter.go.clear()
        asking = [
            threading.Thread(target=found.client(max_retries=0).images.generate, kwargs={"prompt": f"a fox {index}"})
            for index in range(2)
        ]
        for index, thread in enumerate(asking):
            thread.start()
            _until(lambda index=index: len(found.jobs()) == index + 1)
            _until(lambda: JobState.RUNNING in found.states())
        with pytest.raises(openai.RateLimitError, match="queue is full") as caught:
            found.client(max_retries=0).images.generate(prompt=PROMPT)
        assert int(caught.value.response.headers["retry-after"]) >= 1
        assert caught.value.code == "queue_full"
        threading.Timer(0.2, found.painter.go.set).start()
        assert found.client(max_retries=3).images.generate(prompt=PROMPT).data  # waits as it was told, and gets through
        for thread in asking:
            thread.join(20)


def test_failed_work_is_a_typed_error_and_is_not_tried_again(listen):
    with listen(Failing) as found:
        for number, (kind, error, param) in enumerate(
            [
                ("request", openai.BadRequestError, "size"),
                ("model", openai.UnprocessableEntityError, None),
                ("work", openai.InternalServerError, None),
                ("crash", openai.InternalServerError, None),
            ]
        ):
            with pytest.raises(error, match="width=7") as caught:
                found.client(max_retries=2).images.generate(prompt=kind)
            assert (caught.value.param, caught.value.code) == (param, "invalid_value" if param else kind)
            assert len(found.jobs()) == number + 1
        with pytest.raises(openai.APIError, match="width=7"):
            list(found.client().images.generate(prompt="work", stream=True))


def test_a_job_that_somebody_cancels_is_a_conflict(listen):
    with listen() as found:
        found.painter.go.clear()

        def cancel() -> None:
            _until(lambda: bool(found.jobs()))
            found.server.jobs.cancel(found.jobs()[0].id, LOCAL)

        other = threading.Thread(target=cancel)
        other.start()
        with pytest.raises(openai.ConflictError, match="cancelled"):
            found.client(max_retries=2, timeout=30).images.generate(prompt=PROMPT)
        other.join(20)
        assert len(found.jobs()) == 1


def test_keys_are_asked_for_and_jobs_belong_to_them(listen):
    with listen() as found:
        _, secret = found.server.store.keys.add("one")
        _, other = found.server.store.keys.add("two")
        with pytest.raises(openai.AuthenticationError) as caught:
            found.client("wrong").images.generate(prompt=PROMPT)
        assert caught.value.type == "authentication_error"
        made = found.client(secret).images.generate(prompt=PROMPT, response_format="url")
        (job,) = found.jobs()
        headers = {"x-stainless-retry-count": "1"}
        found.client(other).images.generate(prompt=PROMPT, extra_headers=headers)
        assert len(found.jobs()) == 2
        assert made.data[0].url.startswith(found.url)
        assert job.owner != "local"


def test_partials_of_a_stream_are_the_jobs_previews(listen):
    with listen(Unhurried) as found:
        stream = found.client().images.generate(
            prompt=PROMPT, stream=True, partial_images=2, n=1, output_format="webp", user="me"
        )
        events = list(stream)
        assert [event.type.partition(".")[2] for event in events] == ["partial_image", "partial_image", "completed"]
        assert {event.output_format for event in events} == {"webp"}
        assert {event.size for event in events[:2]} == {"128x128"}
        assert events[2].safety_identifier == "me"
        raw = found.client().images.with_raw_response.generate(prompt=PROMPT, stream=True)
        assert raw.headers["content-type"].startswith("text/event-stream")
        assert raw.http_response.read().endswith(b"data: [DONE]\n\n")


def test_bodies_that_cannot_be_read(inside):
    for path, kind, body, status in (
        ("generations", "application/json", b"{", 400),
        ("generations", "application/json", b"[]", 400),
        ("generations", "application/json", b'{"prompt": "a", "n": NaN}', 400),
        ("generations", "application/json", b'{"prompt": "a", "\\ud800": 1}', 400),
        ("generations", "application/json", b'{"prompt": "a", "user": "\\ud800"}', 400),
        ("generations", "application/json", b'{"prompt": "\\u0000"}', 400),
        ("generations", "application/json", b'{"prompt": "a", "n": "2"}', 400),
        ("generations", "application/json", b'{"prompt": "a", "image": "/etc/passwd"}', 400),
        ("generations", "application/json", b'{"prompt": "a", "image": {"path": "/etc/passwd"}}', 400),
        ("generations", "application/json", b'{"prompt": "a", "image": "http://127.0.0.1/a.png"}', 400),
        ("generations", "application/json", b"[" * 100_000, 400),
        ("generations", "text/plain", b"a fox", 415),
        ("edits", "application/json", b"{}", 415),
        ("edits", "multipart/form-data", b"x", 400),
        ("edits", "multipart/form-data; boundary=b", b"no form at all", 400),
    ):
        answer = inside.client.post(f"/v1/images/{path}", content=body, headers={"content-type": kind})
        assert answer.status_code == status, (path, body)
        assert set(answer.json()["error"]) == {"message", "type", "param", "code"}


def test_the_document_tells_of_the_routes(inside):
    paths = inside.client.get("/openapi.json").json()["paths"]
    for name, kind in (("generations", "json"), ("edits", "form-data"), ("variations", "form-data")):
        post = paths[f"/v1/images/{name}"]["post"]
        (content,) = post["requestBody"]["content"].items()
        assert content[0].endswith(kind)
        assert "n" in content[1]["schema"]["properties"]
        assert {"200", "400", "404", "422", "429", "500"} <= set(post["responses"])
