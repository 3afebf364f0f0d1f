"""The native API in this process, with a quick painter."""

from __future__ import annotations

import base64
import json
import time
from collections.abc import Iterator
from io import BytesIO
from typing import Any

import pytest
from PIL import Image
from tests.serving.conftest import Inside, OpenInside

from wordbrush.metadata import read_metadata
from wordbrush.pictures import pixel_hash

FOX = {"prompt": "a fox", "seed": 7, "width": 32, "height": 32}


def picture_bytes(side: int = 24, kind: str = "PNG") -> bytes:
    buffer = BytesIO()
    Image.linear_gradient("L").resize((side, side)).convert("RGB").save(buffer, kind)
    return buffer.getvalue()


def post(inside: Inside, fields: dict[str, Any], **options: Any) -> dict[str, Any]:
    answer = inside.client.post("/v1/jobs", json=fields, **options)
    assert answer.status_code == 201, answer.text
    found: dict[str, Any] = answer.json()
    return found


def events(inside: Inside, job_id: str, last: int | None = None) -> Iterator[dict[str, Any]]:
    headers = {} if last is None else {"Last-Event-ID": str(last)}
    with inside.client.stream("GET", f"/v1/jobs/{job_id}/events", headers=headers) as answer:
        assert answer.status_code == 200
        assert answer.headers["content-type"].startswith("text/event-stream")
        event: dict[str, Any] = {}
        for line in answer.iter_lines():
            name, _, value = line.partition(": ")
            if not line:
                if "data" in event:
                    yield {**event, "data": json.loads(event["data"])}
                event = {}
            elif name:
                event[name] = value


def test_a_job_comes_in_waits_is_painted_and_is_there_with_its_picture(inside: Inside) -> None:
    answer = inside.client.post("/v1/jobs", json={**FOX, "count": 2})
    assert answer.status_code == 201
    assert answer.headers["location"] == f"/v1/jobs/{answer.json()['id']}"
    assert answer.json()["work"]["request"]["seed"] == 7

    job = inside.ended(answer.json()["id"])

    assert job["state"] == "done"
    assert [picture["seed"] for picture in job["pictures"]] == [7, 8]
    file = inside.client.get(job["pictures"][1]["url"])
    assert file.headers["content-type"] == "image/png"
    assert read_request(file.content)["seed"] == 8


def read_request(data: bytes) -> dict[str, Any]:
    with Image.open(BytesIO(data)) as image:
        found: dict[str, Any] = json.loads(image.info["wordbrush"])["request"]
    return found


def test_a_seed_that_is_not_given_is_drawn_and_told_at_once(shared: Inside) -> None:
    first, second = (post(shared, {"prompt": "a fox"})["work"]["request"]["seed"] for _ in range(2))
    assert 0 <= first < 2**32
    assert first != second
    varied = post(shared, {"prompt": "a fox", "variation_strength": 0.1})["work"]["request"]
    assert 0 <= varied["variation_seed"] < 2**32


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({}, "prompt is missing"),
        ({"prompt": "a", "stpes": 3}, "did you mean steps"),
        ({"prompt": "a", "steps": 0}, "steps=0"),
        ({"prompt": "a", "model": "/etc/passwd"}, "there is no model"),
        ({"prompt": "a <lora:../x:1>"}, "there is no LoRA"),
        ({"prompt": "a", "image": "/etc/passwd"}, "path"),
        ({"prompt": "a", "image": {"path": "/etc/passwd"}}, "files of the server"),
        ({"prompt": "a", "image": "http://127.0.0.1/x.png"}, "web address"),
        ({"prompt": "a", "image": {"sha256": "0" * 64}}, "there is no picture"),
        ({"prompt": "a", "count": 65}, "at most 64"),
        ({"prompt": "a", "width": 8192}, "width=8192"),
        ({"prompt": "a", "width": 4096, "height": 4096, "hires": 2}, "the enlarged picture would be 8192×8192"),
        ({"prompt": "a", "width": 2048, "upscale": 2.5}, "5120×320"),
        ({"prompt": "a", "steps": 251}, "steps=251"),
        ({"prompt": "\udcff"}, "Unicode"),
    ],
)  # fmt: skip
def test_what_does_not_fit_is_422_and_one_sentence(shared: Inside, fields: dict[str, Any], words: str) -> None:
    answer = shared.client.post("/v1/jobs", content=json.dumps(fields), headers={"Content-Type": "application/json"})
    error = answer.json()["error"]
    assert answer.status_code == 422, answer.text
    assert error["kind"] == "request"
    assert words.lower() in error["message"].lower(), error
    assert "\n" not in error["message"]


@pytest.mark.parametrize(
    ("content", "kind", "status"),
    [
        (b"{", "application/json", 422),
        (b"[1]", "application/json", 422),
        (b"{\"prompt\": NaN}", "application/json", 422),
        (b"[" * 100_000, "application/json", 422),
        (b"\xff\xfe{", "application/json", 422),
        (b"prompt=a", "application/x-www-form-urlencoded", 415),
        (b"{}", "text/plain", 415),
    ],
)
def test_a_body_that_is_no_json_object_is_refused(shared: Inside, content: bytes, kind: str, status: int) -> None:
    answer = shared.client.post("/v1/jobs", content=content, headers={"Content-Type": kind})
    assert answer.status_code == status, answer.text


def test_the_same_idempotency_key_and_body_is_the_same_job(inside: Inside) -> None:
    key = {"Idempotency-Key": "one"}
    first = inside.client.post("/v1/jobs", json={"prompt": "a fox"}, headers=key)
    second = inside.client.post("/v1/jobs", json={"prompt": "a fox"}, headers=key)
    other = inside.client.post("/v1/jobs", json={"prompt": "a dog"}, headers=key)
    assert (first.status_code, second.status_code, other.status_code) == (201, 200, 409)
    assert first.json()["id"] == second.json()["id"]
    assert other.json()["error"]["kind"] == "conflict"


def test_a_full_queue_is_429_with_retry_after(open_inside: OpenInside) -> None:
    with open_inside(queue_limit=2) as inside:
        inside.client.post("/v1/queue", json={"action": "pause"})
        answers = [inside.client.post("/v1/jobs", json=FOX) for _ in range(3)]
        assert [answer.status_code for answer in answers] == [201, 201, 429]
        assert int(answers[-1].headers["retry-after"]) >= 1
        assert answers[-1].json()["error"]["kind"] == "queue_full"


def test_events_tell_state_progress_previews_pictures_and_end(inside: Inside) -> None:
    inside.painter.go.clear()
    job = post(inside, FOX)
    heard = []
    for event in events(inside, job["id"]):
        heard.append(event)
        inside.painter.go.set()
    kinds = [event["event"] for event in heard]
    assert kinds[0] == "state"
    assert {"progress", "preview", "picture"} <= set(kinds)
    assert kinds[-1] == "state"
    assert heard[-1]["data"]["state"] == "done"
    assert heard[-1]["data"]["pictures"][0]["url"].endswith(".png")
    assert [int(event["id"]) for event in heard] == sorted(int(event["id"]) for event in heard)
    preview = next(event for event in heard if event["event"] == "preview")["data"]
    assert Image.open(BytesIO(base64.b64decode(preview["data"]))).format == "JPEG"


def test_who_comes_back_hears_what_was_missed_and_who_comes_late_the_end(inside: Inside) -> None:
    inside.painter.go.clear()
    job = post(inside, FOX)
    first = next(events(inside, job["id"]))
    inside.painter.go.set()
    inside.ended(job["id"])

    again = list(events(inside, job["id"], int(first["id"])))
    late = list(events(inside, job["id"]))

    assert again[-1]["data"]["state"] == "done"
    assert all(int(event["id"]) > int(first["id"]) for event in again)
    assert [event["event"] for event in late] == ["state"]
    assert list(events(inside, job["id"], int(late[-1]["id"]))) == []


def test_a_job_of_nobody_has_no_events(shared: Inside) -> None:
    assert shared.client.get("/v1/jobs/nothing/events").status_code == 404


def test_cancelling_what_waits_and_what_runs(inside: Inside) -> None:
    inside.painter.go.clear()
    running, waiting = post(inside, FOX), post(inside, FOX)
    _until(lambda: inside.client.get(f"/v1/jobs/{running['id']}").json()["state"] == "running")
    at_once = inside.client.post(f"/v1/jobs/{waiting['id']}/cancel").json()
    assert at_once["state"] == "cancelled"
    inside.client.post(f"/v1/jobs/{running['id']}/cancel", json={"keep_partial": True})
    job = inside.ended(running["id"])
    assert job["state"] == "cancelled"
    assert [picture["role"] for picture in job["pictures"]] == ["partial"]


def test_the_queue_is_moved_prioritised_paused_and_cancelled(inside: Inside) -> None:
    client = inside.client
    assert client.post("/v1/queue", json={"action": "pause"}).json()["paused"]
    ids = [post(inside, FOX)["id"] for _ in range(4)]
    assert client.get("/v1/queue").json()["waiting"] == ids
    client.post(f"/v1/jobs/{ids[3]}/move", json={"before": "first"})
    client.post(f"/v1/jobs/{ids[0]}/move", json={"before": None})
    assert client.get("/v1/queue").json()["waiting"] == [ids[3], ids[1], ids[2], ids[0]]
    assert client.patch(f"/v1/jobs/{ids[2]}", json={"priority": 5}).json()["position"] == 0
    assert client.patch(f"/v1/jobs/{ids[2]}", json={"priority": 101}).status_code == 422
    client.delete(f"/v1/jobs/{ids[1]}")
    assert client.get(f"/v1/jobs/{ids[1]}").status_code == 404
    assert client.post("/v1/queue", json={"action": "cancel"}).json() == {"paused": True, "cancelled": 3}
    assert not client.post("/v1/queue", json={"action": "resume"}).json()["paused"]


def test_the_history_is_filtered_and_paged(inside: Inside) -> None:
    ids = [post(inside, {**FOX, "prompt": f"a {word}"})["id"] for word in ("fox", "dog", "cat")]
    for job_id in ids:
        inside.ended(job_id)
    client = inside.client
    page = client.get("/v1/jobs", params={"limit": 2}).json()
    rest = client.get("/v1/jobs", params={"limit": 2, "cursor": page["next_cursor"]}).json()
    assert [job["id"] for job in page["jobs"] + rest["jobs"]] == ids[::-1]
    assert (page["total"], rest["next_cursor"]) == (3, None)
    found = client.get("/v1/jobs", params={"text": "DOG", "state": ["done", "failed"], "source": "v1"}).json()
    assert [job["id"] for job in found["jobs"]] == [ids[1]]
    oldest = client.get("/v1/jobs", params={"order": "oldest", "model": "scenes-128"}).json()["jobs"]
    assert [job["id"] for job in oldest] == ids
    assert client.get("/v1/jobs", params={"kind": "upscale"}).json()["total"] == 0
    for wrong in ({"state": "lost"}, {"limit": 0}, {"colour": "red"}, {"cursor": "nonsense"}):
        assert client.get("/v1/jobs", params=wrong).status_code == 422, wrong


def test_a_picture_is_sent_in_by_body_or_form_and_used_by_its_hash(shared: Inside) -> None:
    client, data = shared.client, picture_bytes()
    raw = client.post("/v1/images", content=data, headers={"Content-Type": "image/png"})
    form = client.post("/v1/images", files={"image": ("x.png", data)})
    assert raw.status_code == form.status_code == 201
    sha256 = raw.json()["sha256"]
    assert form.json() == raw.json() == {"sha256": sha256, "url": f"/v1/images/{sha256}.png", "width": 24, "height": 24}
    assert sha256 == pixel_hash(Image.open(BytesIO(data)))
    about = client.get(f"/v1/images/{sha256}").json()
    assert (about["kind"], about["width"], about["picture"]) == ("input", 24, None)
    job = post(shared, {**FOX, "image": {"sha256": sha256}, "strength": 0.5})
    assert job["work"]["request"]["image"]["sha256"] == sha256
    inline = post(shared, {**FOX, "image": base64.b64encode(data).decode(), "mask": [0, 0, 8, 8]})
    assert inline["work"]["request"]["image"]["sha256"] == sha256


@pytest.mark.parametrize(
    ("content", "kind", "status"),
    [(b"no picture", "image/png", 422), (b"", "image/png", 422), (b"x", "text/html", 415), (b"x", "", 415)],
)
def test_an_upload_that_is_no_picture_is_refused(shared: Inside, content: bytes, kind: str, status: int) -> None:
    assert shared.client.post("/v1/images", content=content, headers={"Content-Type": kind}).status_code == status


def test_pictures_have_addresses_that_may_be_kept_for_ever(shared: Inside) -> None:
    client = shared.client
    picture = shared.ended(post(shared, FOX)["id"])["pictures"][0]
    png = client.get(picture["url"])
    assert "immutable" in png.headers["cache-control"]
    tag = png.headers["etag"]
    assert client.get(picture["url"], headers={"If-None-Match": tag}).status_code == 304
    assert client.get(picture["url"], headers={"If-None-Match": '"other"'}).status_code == 200
    assert client.head(picture["url"]).headers["content-length"] == str(len(png.content))
    for suffix, kind in (("jpg", "JPEG"), ("jpeg", "JPEG"), ("webp", "WEBP")):
        answer = client.get(f"/v1/images/{picture['sha256']}.{suffix}", params={"quality": 80})
        assert Image.open(BytesIO(answer.content)).format == kind
        assert answer.headers["etag"] != tag
    about = client.get(f"/v1/images/{picture['sha256']}").json()
    assert about["kind"] == "picture"
    assert about["picture"]["request"]["prompt"] == "a fox"
    for wrong, status in ((f"{'0' * 64}.png", 404), (f"{picture['sha256']}.gif", 422), ("..%2f..%2fetc.png", 404)):
        assert client.get(f"/v1/images/{wrong}").status_code == status, wrong


def test_other_kinds_of_work(shared: Inside) -> None:
    client, data = shared.client, base64.b64encode(picture_bytes()).decode()
    for kind, fields in (
        ("upscale", {"images": [data], "scale": 2}),
        ("explain", {"request": FOX, "columns": 4}),
        ("describe", {"image": data}),
    ):
        answer = client.post(f"/v1/jobs/{kind}", json=fields)
        assert answer.status_code == 201, answer.text
        assert answer.json()["work"]["kind"] == kind
        assert shared.ended(answer.json()["id"])["state"] == "done"
    for kind, fields in (
        ("upscale", {"images": []}),
        ("upscale", {"images": [data], "scale": 9}),
        ("upscale", {"images": [data], "scale": "2"}),
        ("upscale", {"images": [base64.b64encode(picture_bytes(1024)).decode()], "scale": 5}),
        ("upscale", {"images": [data], "upscaler": "/etc/passwd"}),
        ("explain", {"request": {**FOX, "count": 2}}),
        ("explain", {"columns": 4}),
        ("describe", {}),
        ("describe", {"image": data, "model": "../x"}),
    ):
        answer = client.post(f"/v1/jobs/{kind}", json=fields)
        assert answer.status_code == 422, (kind, answer.text)


def test_the_names_there_are(inside: Inside) -> None:
    client = inside.client
    models = client.get("/v1/models").json()
    assert models["object"] == "list"
    assert models["data"][0] | {"id": "scenes-128", "object": "model", "owned_by": "wordbrush"} == models["data"][0]
    assert models["data"][0]["defaults"]["width"] == 128
    assert models["data"][0]["loaded"]
    assert client.get("/v1/models/scenes-128").json()["id"] == "scenes-128"
    assert client.get("/v1/models/some/thing").status_code == 404
    assert "euler" in client.get("/v1/samplers").json()["data"]
    assert "karras" in client.get("/v1/schedules").json()["data"]
    assert client.get("/v1/upscalers").json()["data"][0]["id"] == "srresnet"
    for name in ("loras", "vaes", "embeddings", "latent-upscalers"):
        assert client.get(f"/v1/{name}").json()["object"] == "list"
    assert client.post("/v1/models/refresh").json()["models"] == len(models["data"])
    assert client.post("/v1/models/unload").status_code == 204
    assert inside.painter.dropped == 1


def test_tokens_are_counted_as_the_model_reads_them(shared: Inside) -> None:
    from wordbrush.conditioning.tokenizer import ClipTokenizer
    from wordbrush.formats.library import embedded_folder

    found = shared.client.post("/v1/tokens", json={"prompt": "a (fox:1.2) on a <lora:none:1> blue background"}).json()
    tokenizer = ClipTokenizer.from_folder(embedded_folder() / "tokenizer")
    assert found["tokens"] == len(tokenizer.pieces("a fox on a  blue background"))
    assert found["limit"] == tokenizer.max_length - 2
    assert shared.client.post("/v1/tokens", json={"prompt": "a", "model": "nothing"}).status_code == 422


def _until(true: Any, seconds: float = 10) -> None:
    end = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < end
        time.sleep(0.01)


def test_what_was_asked_is_asked_again_from_a_picture(shared: Inside, tmp_path: Any) -> None:
    picture = shared.ended(post(shared, FOX)["id"])["pictures"][0]
    file = tmp_path / "x.png"
    file.write_bytes(shared.client.get(picture["url"]).content)
    request = read_metadata(file).request.to_dict()
    again = shared.ended(post(shared, request)["id"])["pictures"][0]
    assert again["sha256"] == picture["sha256"]


@pytest.mark.parametrize("time", ["0.5", "1e3", "20261126"])
def test_a_time_is_not_a_number(shared: Inside, time: str) -> None:
    answer = shared.client.get("/v1/jobs", params={"until": time})
    assert answer.status_code == 422
    assert "2026-11-26T19:00:00Z" in answer.text
    assert shared.client.get("/v1/jobs", params={"since": "2026-11-26"}).status_code == 200
