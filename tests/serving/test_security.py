"""Attacks on the whole application: on every route, with paths, addresses, bombs, other people's jobs and nonsense."""

from __future__ import annotations

import base64
import json
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from io import BytesIO
from typing import Any

import pytest
from fastapi.testclient import TestClient
from PIL import Image, PngImagePlugin
from tests.serving.conftest import BASE, Inside, OpenInside
from tests.serving.painter import Painter

from wordbrush.serving.app import create_app
from wordbrush.serving.settings import Settings

PROMPT = "a fox on a blue background"


class Audit:
    """What this process opens and where it connects to, while `watching`: Python tells every such thing to a hook."""

    EVENTS = ("open", "os.listdir", "os.scandir", "socket.connect", "socket.getaddrinfo", "subprocess.Popen", "os.exec")

    def __init__(self) -> None:
        self.on = False
        self.seen: list[str] = []
        sys.addaudithook(self._hear)  # which cannot be taken away again

    def _hear(self, event: str, arguments: tuple[Any, ...]) -> None:
        if self.on and event in self.EVENTS:
            self.seen.append(f"{event} {arguments[:2]!r}")

    @contextmanager
    def watching(self) -> Iterator[list[str]]:
        self.seen = []
        self.on = True
        try:
            yield self.seen
        finally:
            self.on = False


@pytest.fixture(scope="module")
def audit() -> Audit:
    return Audit()


@pytest.fixture(scope="module")
def inside(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Inside]:
    """One application for all tests of this module that do not change it; its painter stands still."""
    settings = Settings(data=tmp_path_factory.mktemp("attacked"), studio=False, shutdown_grace=5)
    app = create_app(settings, Painter)
    with TestClient(app, base_url=BASE) as client:
        app.state.server.dispatcher.go.clear()
        yield Inside(app, client)


def png(side: int = 16, mode: str = "RGB") -> bytes:
    buffer = BytesIO()
    Image.new(mode, (side, side), 77 if mode == "L" else (77, 5, 6)).save(buffer, "PNG")
    return buffer.getvalue()


def text(data: bytes) -> str:
    return base64.b64encode(data).decode()


PATHS = [
    "/etc/passwd",
    "../../../../etc/passwd",
    "..\\..\\x",
    "file:///etc/passwd",
    "http://127.0.0.1:9/model.safetensors",
    "https://huggingface.co/x/y",
    "hf://x/y",
    "./models",
    ".",
    "..",
    " ",
    "\\\\host\\share",
    "C:\\x",
    "~/x",
    "a\0b",
    "con",
    "x" * 5000,
    "\u202e",
    "stabilityai/stable-diffusion-xl-base-1.0",
    "*",
    "[a-z]*",
    "__import__('os')",
    "{{7*7}}",
    "%2e%2e%2fetc",
    "scenes-128/../../x",
    "scenes-128\n",
    "scenes-128/unet",
]


def named(name: str) -> list[dict[str, Any]]:
    """Requests with this name at every place where a request names something."""
    return [
        {"prompt": PROMPT, "model": name},
        {"prompt": PROMPT, "vae": name},
        {"prompt": PROMPT, "loras": [name]},
        {"prompt": PROMPT, "loras": [{"name": name, "unet": 1}]},
        {"prompt": f"{PROMPT} <lora:{name}:1>"},
        {"prompt": PROMPT, "upscale": 2, "upscaler": name},
        {"prompt": PROMPT, "hires": {"upscaler": name}},
        {"prompt": PROMPT, "clip_guidance": 1, "clip": name},
        {"prompt": PROMPT, "expand": {"model": name}},
    ]


def test_no_model_is_had_by_a_path_or_an_address(inside: Inside, audit: Audit) -> None:
    inside.client.get("/v1/models")
    inside.client.post(
        "/v1/jobs", json={"prompt": f"{PROMPT} <lora:x:1>", "loras": ["x"], "upscale": 2, "upscaler": "x"}
    )
    for name in PATHS:
        for fields in named(name):
            with audit.watching() as seen:
                answer = inside.client.post("/v1/jobs", json=fields)
            if answer.status_code == 201:  # what is no tag is a part of the prompt, and no name at all
                assert "<lora:" in fields["prompt"] or name.strip() == "scenes-128", fields
                assert answer.json()["work"]["request"]["model"] == "scenes-128"
                continue
            assert answer.status_code == 422, (name, fields)
            assert len(answer.json()["error"]["message"]) < 1500
            touched = [event for event in seen if "passwd" in event or "connect" in event or "getaddrinfo" in event]
            assert not touched, (fields, touched)
        for path in ("/v1/models/", "/sdapi/v1/sd-models/"):
            assert inside.client.get(path + base64.b16encode(name.encode()).decode()).status_code in (404, 422)
    generated = {"prompt": PROMPT, "model": "../../etc/passwd"}
    assert inside.client.post("/v1/images/generations", json=generated).status_code in (400, 404, 422)
    for checkpoint in ("/etc/passwd", "http://127.0.0.1:9/x"):
        body = {"prompt": PROMPT, "override_settings": {"sd_model_checkpoint": checkpoint, "sd_vae": checkpoint}}
        assert inside.client.post("/sdapi/v1/txt2img", json=body).status_code in (404, 422)
        assert inside.client.post("/sdapi/v1/options", json={"sd_model_checkpoint": checkpoint}).status_code in (
            404,
            422,
        )


URLS = [
    "http://127.0.0.1:9/a.png",
    "https://example.com/a.png",
    "http://169.254.169.254/latest/meta-data/",
    "ftp://h/a.png",
    "file:///etc/passwd",
    "/etc/passwd",
    "data:text/html;base64,PGI+",
    "gopher://127.0.0.1:9/x",
    "//127.0.0.1:9/a.png",
]


@pytest.mark.parametrize("url", URLS)
def test_no_picture_is_fetched_or_read_from_the_disk(url: str, inside: Inside, audit: Audit) -> None:
    bodies: list[tuple[str, dict[str, Any]]] = [
        ("/v1/jobs", {"prompt": PROMPT, "image": url}),
        ("/v1/jobs", {"prompt": PROMPT, "image": text(png()), "mask": url}),
        ("/v1/jobs", {"prompt": PROMPT, "image": {"path": url}}),
        ("/v1/jobs", {"prompt": PROMPT, "image": {"path": url, "sha256": "0" * 64}}),
        ("/v1/jobs/upscale", {"images": [url], "scale": 2}),
        ("/v1/jobs/upscale", {"images": [{"path": url, "sha256": None}], "scale": 2}),
        ("/v1/jobs/explain", {"request": {"prompt": PROMPT, "image": url}}),
        ("/v1/jobs/describe", {"image": url}),
        ("/sdapi/v1/img2img", {"prompt": PROMPT, "init_images": [url]}),
        ("/sdapi/v1/img2img", {"prompt": PROMPT, "init_images": [text(png())], "mask": url}),
        ("/sdapi/v1/extra-single-image", {"image": url}),
        ("/sdapi/v1/extra-batch-images", {"imageList": [{"data": url, "name": url}]}),
        ("/sdapi/v1/png-info", {"image": url}),
        ("/sdapi/v1/interrogate", {"image": url}),
    ]
    inside.client.post("/v1/jobs", json={"prompt": PROMPT, "image": text(png()), "width": 32, "height": 32})
    for path, body in bodies:
        with audit.watching() as seen:
            answer = inside.client.post(path, json=body)
        assert answer.status_code in (400, 404, 422), (path, answer.text)
        assert "root:" not in answer.text
        touched = [event for event in seen if "passwd" in event or "connect" in event or "getaddrinfo" in event]
        assert not touched, (path, touched)


def test_a_picture_that_says_it_began_from_a_file_does_not_read_it(inside: Inside, audit: Audit) -> None:
    """The request inside a PNG is as untrusted as any."""
    info = PngImagePlugin.PngInfo()
    request = {"prompt": PROMPT, "image": {"path": "/etc/passwd", "sha256": None}, "mask": {"path": "/etc/passwd"}}
    info.add_text("wordbrush", json.dumps({"version": "0", "request": request}))
    info.add_text("parameters", f"{PROMPT}\nSteps: 5, Seed: 1, Model: ../../etc/passwd")
    buffer = BytesIO()
    Image.new("RGB", (16, 16)).save(buffer, "PNG", pnginfo=info)
    with audit.watching() as seen:
        answers = [
            inside.client.post("/sdapi/v1/png-info", json={"image": text(buffer.getvalue())}),
            inside.client.post("/v1/images", content=buffer.getvalue(), headers={"content-type": "image/png"}),
        ]
    assert not [event for event in seen if "passwd" in event]
    assert all(answer.status_code < 500 for answer in answers)


TRAVERSALS = [
    "/v1/images/../../../../etc/passwd",
    "/v1/images/..%2f..%2f..%2fetc%2fpasswd.png",
    "/v1/images/%2e%2e/%2e%2e/etc/passwd",
    "/v1/images/....//....//etc/passwd.png",
    f"/v1/images/{'0' * 64}.png%00.html",
    f"/v1/images/{'0' * 64}.svg",
    f"/v1/images/{'0' * 62}/..png",
    "/v1/images//etc/passwd",
    "/docs/../../../../etc/passwd",
    "/docs/..%2f..%2fpyproject.toml",
    "/docs/%2e%2e%2f__init__.py",
    "/docs/swagger-ui.css%00",
    "/v1/models/..%2f..%2f..%2fetc%2fpasswd",
    "/v1/jobs/..%2f..%2fx",
    "/v1/models//etc/passwd",
    "/..%5c..%5cwindows%5cwin.ini",
    "/static/../../etc/passwd",
    "/file=/etc/passwd",
    "/studio/gradio_api/file=/etc/passwd",
    "/gradio_api/file=/etc/passwd",
]


@pytest.mark.parametrize("path", TRAVERSALS)
def test_no_address_leads_out_of_the_data_folder(path: str, inside: Inside, audit: Audit) -> None:
    with audit.watching() as seen:
        answer = inside.client.get(path)
    assert answer.status_code in (400, 404, 422)
    assert "root:" not in answer.text
    assert not [event for event in seen if "passwd" in event or "pyproject" in event or "win.ini" in event]


NONSENSE: dict[str, bytes] = {
    "nothing": b"",
    "half": b'{"prompt": ',
    "a list": b"[1]",
    "null": b"null",
    "a text": b'"x"',
    "a number": b"1e999",
    "deep lists": b"[" * 200_000,
    "deep lists, closed": b"[" * 100_000 + b"]" * 100_000,
    "deep objects": b'{"prompt":' * 50_000 + b"1" + b"}" * 50_000,
    "deep inside": b'{"prompt": "a", "loras": ' + b"[" * 50_000 + b"]" * 50_000 + b"}",
    "a huge whole number": b'{"prompt": "a", "seed": ' + b"9" * 5000 + b"}",
    "a large whole number": b'{"prompt": "a", "seed": ' + b"9" * 4000 + b"}",
    "a huge number": b'{"prompt": "a", "guidance": 1e999}',
    "a huge negative one": b'{"prompt": "a", "strength": -1e999}',
    "not a number": b'{"prompt": "a", "guidance": NaN}',
    "infinity": b'{"prompt": "a", "guidance": Infinity}',
    "a NUL": b'{"prompt": "a\\u0000b"}',
    "a raw NUL": b'{"prompt": "a\0b"}',
    "half a letter": b'{"prompt": "\\ud800"}',
    "no UTF-8": b'{"prompt": "\xff\xfe"}',
    "UTF-16": '{"prompt": "a"}'.encode("utf-16"),
    "a BOM": b'\xef\xbb\xbf{"prompt": "a"}',
    "twice the same": b'{"prompt": "a", "prompt": 7}',
    "a surprise": b'{"prompt": "a", "__class__": "x", "$ref": "#"}',
    "a prototype": b'{"prompt": "a", "__proto__": {"admin": true}}',
    "true for a number": b'{"prompt": "a", "steps": true}',
    "a text for a number": b'{"prompt": "a", "steps": "5"}',
    "many fields": json.dumps(dict.fromkeys(map(str, range(50_000)), 1)).encode(),
    "open brackets": json.dumps({"prompt": "(" * 50_000}).encode(),
    "brackets": json.dumps({"prompt": "(" * 5000 + ")" * 5000}).encode(),
    "square ones": json.dumps({"prompt": "[" * 5000 + "]" * 5000}).encode(),
    "curly ones": json.dumps({"prompt": "{" * 5000 + "}" * 5000}).encode(),
    "alternatives": json.dumps({"prompt": "{a|b}" * 5000}).encode(),
    "tags": json.dumps({"prompt": "<lora:" * 5000}).encode(),
    "wildcards": json.dumps({"prompt": "__x__" * 5000}).encode(),
    "underscores": json.dumps({"prompt": "_" * 50_000}).encode(),
    "a schedule": json.dumps({"prompt": "[a:b:" * 3000}).encode(),
    "a long text": json.dumps({"prompt": "a " * 500_000}).encode(),
    "many prompts": json.dumps({"prompt": ["a"] * 100_000}).encode(),
    "weights": json.dumps({"prompt": "(a:" + "9" * 5000 + ")"}).encode(),
}


@pytest.mark.parametrize("name", NONSENSE)
def test_nonsense_is_refused_quickly_and_nothing_breaks(name: str, inside: Inside) -> None:
    for path in (
        "/v1/jobs",
        "/v1/jobs/explain",
        "/v1/tokens",
        "/v1/queue",
        "/v1/jobs/upscale",
        "/v1/jobs/describe",
        "/sdapi/v1/options",
        "/sdapi/v1/png-info",
        "/internal/progress",
    ):
        began = time.process_time()
        answer = inside.client.post(path, content=NONSENSE[name], headers={"content-type": "application/json"})
        assert answer.status_code < 500, (path, answer.text[:300])
        assert time.process_time() - began < 3, path
        answer.json()
        assert len(answer.content) < 100_000 or answer.status_code == 201


def test_bombs_are_refused_at_every_door(inside: Inside) -> None:
    import struct
    import zlib

    def chunk(name: bytes, content: bytes) -> bytes:
        return struct.pack(">I", len(content)) + name + content + struct.pack(">I", zlib.crc32(name + content))

    head = chunk(b"IHDR", struct.pack(">IIBBBBB", 60_000, 60_000, 8, 2, 0, 0, 0))
    bomb = b"\x89PNG\r\n\x1a\n" + head + chunk(b"IDAT", zlib.compress(b"\0" * 10**6)) + chunk(b"IEND", b"")
    for path, body in (
        ("/v1/jobs", {"prompt": PROMPT, "image": text(bomb)}),
        ("/v1/jobs/describe", {"image": text(bomb)}),
        ("/sdapi/v1/img2img", {"prompt": PROMPT, "init_images": [text(bomb)]}),
        ("/sdapi/v1/png-info", {"image": text(bomb)}),
        ("/sdapi/v1/extra-single-image", {"image": text(bomb)}),
    ):
        assert inside.client.post(path, json=body).status_code in (400, 422), path
    raw = inside.client.post("/v1/images", content=bomb, headers={"content-type": "image/png"})
    assert raw.status_code == 422
    assert inside.client.post("/v1/images", files={"image": ("a.png", bomb, "image/png")}).status_code == 422
    edit = inside.client.post(
        "/v1/images/edits", data={"prompt": PROMPT}, files={"image": ("a.png", bomb, "image/png")}
    )
    assert edit.status_code == 400


@pytest.mark.parametrize(
    "name",
    ["../../evil.png", "/etc/passwd", 'a"\r\nX-Evil: 1\r\n\r\n.png', "a\0.png", "\u202egnp.exe", "x" * 5000, "", "con"],
)
def test_names_of_uploaded_files_mean_nothing(name: str, inside: Inside, audit: Audit) -> None:
    with audit.watching() as seen:
        answer = inside.client.post("/v1/images", files={"image": (name, png(), "text/html")})
    assert answer.status_code in (201, 400, 422)
    assert "x-evil" not in answer.headers
    assert not [event for event in seen if "evil" in event or "passwd" in event]
    if answer.status_code == 201:
        shown = inside.client.get(answer.json()["url"])
        assert shown.headers["content-type"] == "image/png"
        assert name not in shown.headers["content-disposition"] or name == ""


def test_nothing_is_larger_than_the_server_does(open_inside: OpenInside) -> None:
    with open_inside(max_pixels=512 * 512, max_side=512, max_pictures=4, max_steps=30) as inside:
        inside.painter.go.clear()
        picture = text(png(400))
        for fields in (
            {"count": 5},
            {"prompt": ["a"] * 5},
            {"steps": 31},
            {"width": 520, "height": 8},
            {"hires": {"scale": 8}, "width": 128},
            {"width": 256, "height": 256, "upscale": 4},
            {"timesteps": list(range(31, 0, -1))},
            {"image": picture, "extend": [5000, 0, 0, 0]},
            {"image": picture, "upscale": 8},
            {"upscale": 8},
            {"hires": {"scale": 8}},
            {"image": picture, "mask": "alpha", "extend": [0, 0, 0, 16384]},
        ):
            answer = inside.client.post("/v1/jobs", json={"prompt": PROMPT, **fields})
            assert answer.status_code == 422, fields
        for fields in ({"scale": 8}, {"scale": 1.5}, {"width": 513}, {"images": [picture] * 5, "scale": 1}):
            answer = inside.client.post("/v1/jobs/upscale", json={"images": [picture], **fields})
            assert answer.status_code == 422, fields
        large = {"prompt": PROMPT, "width": 4096, "height": 4096}
        assert inside.client.post("/sdapi/v1/txt2img", json=large).status_code == 422
        assert (
            inside.client.post(
                "/sdapi/v1/extra-single-image", json={"image": picture, "upscaling_resize": 8, "upscaler_1": "lanczos"}
            ).status_code
            == 422
        )
