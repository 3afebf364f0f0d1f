"""`wordbrush serve` as a process of its own, with the embedded model: its start, its events, and its end."""

from __future__ import annotations

import json
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from tests.serving.conftest import OpenServed, Served

from wordbrush.serving.settings import Settings
from wordbrush.serving.store import Jobs, Store
from wordbrush.serving.work import LOCAL, JobState

FOX = {"prompt": "a fox on a blue background", "seed": 7, "steps": 4}


def lines(answer: httpx.Response) -> Iterator[dict[str, Any]]:
    event: dict[str, Any] = {}
    for line in answer.iter_lines():
        if not line and "data" in event:
            yield {"event": event["event"], "id": event["id"], "data": json.loads(event["data"])}
            event = {}
        name, _, value = line.partition(": ")
        if name:
            event[name] = value


def command(*flags: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "wordbrush", "serve", *flags], capture_output=True, text=True, timeout=120, check=False
    )


def test_it_is_ready_and_the_server_itself_has_no_torch(served: Served) -> None:
    with served.client() as client:
        assert client.get("/healthz").json()["status"] == "ok"
        end = time.monotonic() + 60
        while client.get("/readyz").status_code != 200:
            assert time.monotonic() < end
            time.sleep(0.1)
    maps = Path(f"/proc/{served.process.pid}/maps")
    if maps.exists():
        assert "libtorch" not in maps.read_text()


def test_the_embedded_model_paints_what_the_package_paints(served: Served) -> None:
    import torch

    import wordbrush
    from wordbrush.pictures import pixel_hash, unpack_picture

    with served.client() as client:
        job = client.post("/v1/jobs", json={**FOX, "width": 64, "height": 64}).json()
        done = client.get(f"/v1/jobs/{job['id']}", params={"wait": 200}).json()
        assert done["state"] == "done", done
        data = client.get(done["pictures"][0]["url"]).content
    threads = torch.get_num_threads()
    torch.set_num_threads(1)  # as the server of these tests has; in bfloat16 it decides the last bits
    try:
        here = wordbrush.load()(FOX["prompt"], seed=7, steps=4, width=64, height=64).images[0]
    finally:
        torch.set_num_threads(threads)
    assert pixel_hash(unpack_picture(data, "x")) == pixel_hash(here)


def test_a_broken_connection_goes_on_where_it_was(served: Served) -> None:
    with served.client() as client:
        job = client.post("/v1/jobs", json={**FOX, "steps": 12}).json()
        path = f"/v1/jobs/{job['id']}/events"
        heard = []
        with client.stream("GET", path) as answer:
            for event in lines(answer):
                heard.append(event)
                if event["event"] == "progress":
                    break  # which closes the connection in the middle of the stream
        with client.stream("GET", path, headers={"Last-Event-ID": heard[-1]["id"]}) as answer:
            rest = list(lines(answer))
    ids = [int(event["id"]) for event in heard + rest]
    assert ids == sorted(set(ids))
    assert heard[0]["event"] == "state"
    steps = [event["data"]["step"] for event in heard + rest if event["event"] == "progress"]
    assert steps == sorted(steps)
    assert set(range(1, 13)) <= set(steps)
    assert rest[-1]["data"]["state"] == "done"
    assert any(event["event"] == "preview" for event in rest)


def test_metrics_count_jobs_and_requests(served: Served) -> None:
    with served.client() as client:
        job = client.post("/v1/jobs", json={**FOX, "width": 64, "height": 64}).json()
        client.get(f"/v1/jobs/{job['id']}", params={"wait": 200})
        text = client.get("/metrics").text
    found = {line.rpartition(" ")[0]: float(line.rpartition(" ")[2]) for line in text.splitlines() if line[:1] != "#"}
    assert found['wordbrush_jobs{source="v1",state="done"}'] >= 1
    assert found['wordbrush_jobs_ended_total{kind="generate",source="v1",state="done"}'] >= 1
    assert found['wordbrush_pictures_total{kind="generate",source="v1"}'] >= 1
    assert found["wordbrush_steps_total"] >= 4
    assert found['wordbrush_http_requests_total{method="POST",route="/v1/jobs",status="201"}'] >= 1
    assert found['wordbrush_job_painting_seconds_count{kind="generate",source="v1"}'] >= 1
    assert found["wordbrush_queue_length"] == 0
    assert found['wordbrush_model_cache_bytes{worker="0"}'] > 1e6
    assert found['wordbrush_worker_memory_bytes{worker="0"}'] > 1e8


def test_the_log_has_ids_and_no_prompts(served: Served) -> None:
    with served.client() as client:
        answer = client.post("/v1/jobs", json=FOX, headers={"X-Request-ID": "my-own-id-1"})
        assert answer.headers["x-request-id"] == "my-own-id-1"
        client.get(f"/v1/jobs/{answer.json()['id']}", params={"wait": 200})
    records = [json.loads(line) for line in served.log]
    mine = [record for record in records if record.get("request_id") == "my-own-id-1"]
    assert {"job asked for", "request"} == {record["event"] for record in mine}
    assert any(record["event"] == "job ended" and record["job"] == answer.json()["id"] for record in records)
    assert "fox" not in "".join(served.log)


def test_ended_in_the_middle_of_a_job_it_finishes_that_and_takes_no_more(open_served: OpenServed) -> None:
    with open_served("--no-studio") as served, served.client() as client:
        job = client.post("/v1/jobs", json={**FOX, "steps": 30}).json()
        heard = []
        refused = None
        with client.stream("GET", f"/v1/jobs/{job['id']}/events") as answer:
            for event in lines(answer):
                heard.append(event)
                if event["event"] == "progress" and event["data"]["step"] >= 1 and refused is None:
                    served.process.send_signal(signal.SIGTERM)
                    time.sleep(0.3)
                    refused = client.post("/v1/jobs", json=FOX)
        assert refused is not None
        assert refused.status_code == 503
        assert refused.json()["error"]["kind"] == "closing"
        assert "retry-after" in refused.headers
        assert heard[-1]["data"]["state"] == "done"
        assert served.process.wait(60) == 0


def test_ended_with_no_time_left_the_job_waits_for_the_next_start(open_served: OpenServed, tmp_path: Path) -> None:
    with open_served("--no-studio", "--shutdown-grace", "0") as served, served.client() as client:
        answers = [client.post("/v1/jobs", json={**FOX, "steps": 200, "seed": seed}) for seed in (1, 2)]
        assert [answer.status_code for answer in answers] == [201, 201], answers[-1].text
        ids = [answer.json()["id"] for answer in answers]
        with client.stream("GET", f"/v1/jobs/{ids[0]}/events") as answer:
            coming = lines(answer)
            next(event for event in coming if event["event"] == "progress")
            served.process.send_signal(signal.SIGINT)
            last = list(coming)  # and the stream ends, though the job has not
        assert served.process.wait(60) == 0
        assert all(event["data"].get("state") != "done" for event in last)
    store = Store(Settings(data=tmp_path / "data"))
    jobs = Jobs(store)
    try:
        assert [jobs.get(job_id, LOCAL).state for job_id in ids] == [JobState.QUEUED, JobState.QUEUED]
    finally:
        jobs.close()
        store.close()


def test_a_second_signal_does_not_wait(open_served: OpenServed) -> None:
    with open_served("--no-studio") as served, served.client() as client:
        job = client.post("/v1/jobs", json={**FOX, "steps": 200, "count": 16}).json()
        while client.get(f"/v1/jobs/{job['id']}").json()["state"] != "running":
            time.sleep(0.1)
        served.process.send_signal(signal.SIGTERM)
        time.sleep(0.5)
        began = time.monotonic()
        served.end(signal.SIGTERM, 15)
        assert time.monotonic() - began < 10


def test_a_database_that_cannot_be_opened_is_one_sentence_and_exit_code_2(tmp_path: Path) -> None:
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "wordbrush.db").write_bytes(b"this is no database, " * 100)
    found = command("--port", "0", "--data", str(tmp_path / "data"))
    assert found.returncode == 2, found.stderr
    assert "database" in found.stderr
    assert len(found.stderr.strip().splitlines()) == 1


def test_a_busy_port_is_one_sentence_and_exit_code_2(tmp_path: Path) -> None:
    with socket.socket() as busy:
        busy.bind(("127.0.0.1", 0))
        busy.listen()
        port = busy.getsockname()[1]
        found = command("--port", str(port), "--data", str(tmp_path))
    assert found.returncode == 2
    why = f"port={port} on 127.0.0.1 is in use; end what uses it, or choose another with --port"
    assert found.stderr == f"error: {why}\n"


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        (["--host", "0.0.0.0", "--port", "0"], "wordbrush keys add"),
        (["--port", "70000"], "port=70000"),
        (["--port", "0", "--database", "nonsense"], "database"),
        (["--port", "0", "--host", "no.such.host.invalid"], "no address of this machine"),
        (["--port", "0", "--log-format", "xml"], "log_format"),
        (["--config", "/nowhere.json"], "/nowhere.json"),
    ],
)
def test_what_cannot_be_is_one_sentence_and_exit_code_2(tmp_path: Path, flags: list[str], words: str) -> None:
    found = command("--data", str(tmp_path / "data"), "--no-studio", *flags)
    assert found.returncode == 2, found.stderr
    assert words in found.stderr
    assert len(found.stderr.strip().splitlines()) == 1


@pytest.mark.skipif(shutil.which("curl") is None or shutil.which("bash") is None, reason="needs bash and curl")
def test_the_examples_of_the_documentation_run(served: Served, tmp_path: Path) -> None:
    text = (Path(__file__).parents[2] / "docs" / "serving.md").read_text(encoding="utf-8")
    section = text.partition("## The API")[2].partition("\n## ")[0]
    script = "\n".join(part.partition("```")[0] for part in section.split("```sh\n")[1:])
    assert script.count("curl") >= 6
    script = "set -euo pipefail\n" + script.replace("http://127.0.0.1:7860", served.url)
    found = subprocess.run(
        ["bash", "-c", script], cwd=tmp_path, capture_output=True, text=True, timeout=180, check=False
    )
    assert found.returncode == 0, found.stderr
    assert (tmp_path / "fox.png").read_bytes().startswith(b"\x89PNG")
    assert found.stdout.count("event: state") >= 1
    assert '"error"' not in found.stdout
