"""The studio in a real browser: one real server with the embedded model for all tests, and headless Chromium."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import save_file
from tests.serving.conftest import Served, run_serve

sync_api = pytest.importorskip("playwright.sync_api", reason="the studio's tests need playwright")

DESKTOP, PHONE = (1280, 800), (390, 844)
"""Sizes of the window in CSS pixels."""

OpenPage = Callable[..., "sync_api.Page"]


# What Chromium reports as an error of the page, and is none: an answer that says what a user did wrong, and a request
# of Gradio's own script that a reloaded or closed page cuts off.
EXPECTED = ("status of 422", "AbortError: signal is aborted")

LORA = "wash"


def write_lora(path: Path) -> Path:
    """A LoRA of rank 2 for one layer of the embedded model's U-Net, in PEFT's names."""
    draw, place = np.random.default_rng(5), "unet.mid_block.attentions.0.transformer_blocks.0.attn2.to_q"
    names = {f"{place}.lora_A.weight": (2, 224), f"{place}.lora_B.weight": (224, 2)}
    path.parent.mkdir(parents=True, exist_ok=True)
    save_file({name: draw.standard_normal(shape, dtype=np.float32) for name, shape in names.items()}, path)
    return path


@contextmanager
def run_studio(home: Path, *flags: str) -> Iterator[Served]:
    """A real server with the studio, the embedded model and one LoRA, in a folder of its own."""
    write_lora(home / "library" / "loras" / f"{LORA}.safetensors")
    environment = {
        "WORDBRUSH_HOME": str(home / "wordbrush"), "HF_HUB_CACHE": str(home / "hub"),
        "WORDBRUSH_MODELS": str(home / "library"),
    }  # fmt: skip
    with run_serve(home / "data", *flags, environment=environment, ready=180) as found:
        yield found


@pytest.fixture(scope="session")
def studio(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    """One real server with the studio and the embedded model."""
    pytest.importorskip("gradio", reason="the studio needs gradio")
    with run_studio(tmp_path_factory.mktemp("studio")) as found:
        yield found


def chromium() -> str | None:
    """The system's browser; None where Playwright's own is to be used."""
    names = ("chromium", "chromium-browser", "google-chrome")
    return next((found for name in names if (found := shutil.which(name))), None)


@pytest.fixture(scope="session")
def browser() -> Iterator[sync_api.Browser]:
    """Headless Chromium: the system's, or Playwright's own; without any the tests are skipped."""
    path = chromium()
    with sync_api.sync_playwright() as playwright:
        if path is None and not Path(playwright.chromium.executable_path).exists():
            pytest.skip("there is no Chromium; install one, or run: playwright install chromium")
        found = playwright.chromium.launch(executable_path=path, args=["--no-sandbox"])
        try:
            yield found
        finally:
            found.close()


@pytest.fixture
def open_page(studio: Served, browser: sync_api.Browser) -> Iterator[OpenPage]:
    """Opens the studio in a window of its own: `open_page("Edit", PHONE)`.

    Errors of its scripts, what it writes on the console as an error, and requests to other hosts fail the test.
    """
    contexts, wrong = [], list[str]()

    def opened(tab: str = "Create", size: tuple[int, int] = DESKTOP, scheme: str = "light") -> sync_api.Page:
        width, height = size
        context = browser.new_context(
            viewport={"width": width, "height": height}, color_scheme=scheme, has_touch=size == PHONE
        )
        contexts.append(context)
        page = context.new_page()
        watch(page, studio.url, wrong)
        page.goto(f"{studio.url}/studio/")
        go_to(page, tab)
        return page

    yield opened
    for context in contexts:
        with suppress(sync_api.Error):
            context.close()
    assert not wrong, wrong


def watch(page: sync_api.Page, url: str, wrong: list[str]) -> None:
    """Writes down what a page should not do."""

    def said(message: sync_api.ConsoleMessage) -> None:
        if message.type == "error" and not any(text in message.text for text in EXPECTED):
            wrong.append(f"console: {message.text} {message.location}")

    def asked(request: sync_api.Request) -> None:
        if not request.url.startswith((f"{url}/", "data:", "blob:")):
            wrong.append(f"request: {request.url}")

    page.on("pageerror", lambda error: wrong.append(f"script: {error}"))
    page.on("console", said)
    page.on("request", asked)


def go_to(page: sync_api.Page, tab: str) -> None:
    """Opens a tab, which on a narrow page may stand in the menu of the others."""
    page.wait_for_selector("#wb-tabs button[role=tab]")
    found = page.get_by_role("tab", name=tab, exact=True)
    if not found.is_visible():
        page.locator("#wb-tabs .overflow-menu > button").click()
        page.locator("#wb-tabs .overflow-dropdown button", has_text=tab).click()
        return
    found.click()


@pytest.fixture
def shots(tmp_path: Path) -> Path:
    """Where a test may put its screenshots."""
    return tmp_path
