"""Writes screenshots of every page of the studio: desktop (1280x800) and phone (390x844), light and dark.

    python scripts/studio_screens.py screens/

It starts a real server with the embedded model in a temporary folder, paints a few pictures, and ends it. Needs the
`dev` extra and Chromium.
"""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from playwright.sync_api import Browser, Page, sync_playwright
from tests.studio.conftest import DESKTOP, LORA, PHONE, chromium, go_to, run_studio

PROMPTS = (
    "a fox on a blue background", "two slices of pizza to the left of a cat", "a red balloon above a house",
    "three strawberries on a yellow background", "a snail below a rainbow", "a blue fish on a green background",
)  # fmt: skip
WAIT = 180_000


def paint(page: Page, prompt: str, count: int = 1) -> None:
    """Paints on the Create page."""
    page.fill("#wb-prompt textarea", prompt)
    page.fill("#wb-number input[type=number]", str(count))
    page.keyboard.press("Control+Enter")
    page.wait_for_selector(f"#wb-canvas .wb-result img[alt='{prompt}']", timeout=WAIT)
    page.wait_for_selector("#wb-cancel[disabled]", timeout=WAIT)


def shoot(page: Page, folder: Path, name: str) -> None:
    """One screenshot of what the window shows, once its pictures are there."""
    page.evaluate("window.scrollTo(0, 0)")
    page.wait_for_timeout(900)
    # those that are out of sight are never decoded
    shown = "[...document.images].filter((each) => each.checkVisibility() && each.loading !== 'lazy')"
    page.evaluate(f"Promise.all({shown}.map((each) => each.decode().catch(() => null)))")
    page.screenshot(path=folder / f"{name}.png")


def walk(browser: Browser, url: str, folder: Path, size: tuple[int, int], scheme: str) -> None:
    """All pages in one size and theme."""
    mark = f"{'desktop' if size == DESKTOP else 'phone'}-{scheme}"
    with browser.new_context(viewport={"width": size[0], "height": size[1]}, color_scheme=scheme) as context:
        page = context.new_page()
        page.goto(f"{url}/studio/")
        page.locator("#wb-prompt textarea").wait_for()
        shoot(page, folder, f"create-empty-{mark}")
        page.fill("#wb-prompt textarea", PROMPTS[1])
        page.keyboard.press("Control+Enter")
        page.wait_for_selector("#wb-canvas .wb-preview img", timeout=WAIT)
        page.screenshot(path=folder / f"create-painting-{mark}.png")
        page.wait_for_selector("#wb-canvas .wb-result img", timeout=WAIT)
        paint(page, PROMPTS[0], 4)
        shoot(page, folder, f"create-done-{mark}")
        page.get_by_role("button", name="Send to Edit").first.click()
        page.wait_for_selector("#wb-brush-easel img", timeout=WAIT)
        shoot(page, folder, f"edit-{mark}")
        go_to(page, "Gallery")
        page.wait_for_selector(".wb-tile")
        shoot(page, folder, f"gallery-{mark}")
        page.locator(".wb-open").first.click()
        page.get_by_role("dialog").wait_for()
        shoot(page, folder, f"gallery-picture-{mark}")
        page.keyboard.press("Escape")
        page.get_by_role("dialog").wait_for(state="detached")
        for place in (0, 5):
            page.locator(".wb-tile").nth(place).get_by_text("Compare").click()
        page.get_by_role("dialog").wait_for()
        shoot(page, folder, f"gallery-compare-{mark}")
        page.keyboard.press("Escape")
        go_to(page, "Models")
        page.locator(".wb-item", has_text=LORA).click()
        page.locator("#wb-detail h2").wait_for()
        shoot(page, folder, f"models-{mark}")
        go_to(page, "Understand")
        shoot(page, folder, f"understand-empty-{mark}")
        page.fill("#wb-understand-prompt textarea", PROMPTS[0])
        page.click("#wb-understand-go")
        page.wait_for_selector("#wb-understand-shown .wb-understood", timeout=WAIT)
        shoot(page, folder, f"understand-{mark}")


def main() -> None:
    """Writes them into the folder that is named."""
    folder = Path(sys.argv[1] if len(sys.argv) > 1 else "screens")
    folder.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as home, run_studio(Path(home)) as served, sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=chromium(), args=["--no-sandbox"])
        with browser.new_context() as context:
            page = context.new_page()
            page.goto(f"{served.url}/studio/")
            page.locator("#wb-prompt textarea").wait_for()
            for prompt in PROMPTS:
                paint(page, prompt)
        for scheme in ("light", "dark"):
            for size in (PHONE, DESKTOP):
                walk(browser, served.url, folder, size, scheme)
                print(f"{folder}: {size[0]}x{size[1]}, {scheme}")
        browser.close()


if __name__ == "__main__":
    main()
