"""The studio's other pages, and what holds for all of them: keyboard, dark mode, phones, speed, silence, login."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
from tests.serving.conftest import Served
from tests.studio.conftest import DESKTOP, LORA, PHONE, OpenPage, go_to, run_studio, sync_api, watch
from tests.studio.test_create import paint

Page = sync_api.Page
TABS = ("Create", "Edit", "Gallery", "Models", "Understand")
WAIT = 90_000
FIRST_PAINT = 3.0
"""Seconds until a person sees the page; and until the prompt can be typed."""


def test_the_page_is_there_within_three_seconds(studio: Served, browser: sync_api.Browser) -> None:
    paints, seconds = [], []
    for _ in range(3):
        with browser.new_context() as context:
            page = context.new_page()
            page.goto(f"{studio.url}/")
            page.locator("#wb-prompt textarea").wait_for()
            usable = page.evaluate("performance.now() / 1000")
            painted = page.evaluate("performance.getEntriesByName('first-contentful-paint')[0].startTime / 1000")
            paints.append(painted)
            seconds.append(usable)
    # The limit is for a machine that does nothing else; what else runs here takes its share of the cores.
    busy = max(1.0, os.getloadavg()[0] / (os.cpu_count() or 1))
    print(f"first paint after {min(paints):.2f} s, usable after {min(seconds):.2f} s, load {busy:.1f} times the cores")
    assert min(paints) < FIRST_PAINT
    assert min(seconds) < FIRST_PAINT * busy


@pytest.mark.parametrize(
    ("size", "scheme"),
    [
        pytest.param(DESKTOP, "light", id="desktop-light"),
        pytest.param(PHONE, "dark", id="phone-dark"),
        pytest.param(DESKTOP, "dark", id="desktop-dark", marks=pytest.mark.slow),
        pytest.param(PHONE, "light", id="phone-light", marks=pytest.mark.slow),
    ],
)
def test_every_page_fits_its_window_and_can_be_read(
    open_page: OpenPage, size: tuple[int, int], scheme: str
) -> None:
    page = open_page("Create", size, scheme)
    for tab in TABS:
        go_to(page, tab)
        page.wait_for_timeout(400)
        width = page.evaluate("document.documentElement.scrollWidth")
        assert width <= size[0], f"{tab} scrolls sideways: {width} px"
        assert page.evaluate(UNLABELLED) == [], f"{tab} has controls without a name"
        assert page.evaluate(FAINT) == [], f"{tab} has text that is hard to read"
    assert page.evaluate("document.body.classList.contains('dark')") is (scheme == "dark")
    assert not page.locator("footer").is_visible()


# Controls that no screen reader could name.
UNLABELLED = """
[...document.querySelectorAll('button, input, textarea, select, a[href]')]
  .filter((each) => each.getClientRects().length && getComputedStyle(each).visibility !== 'hidden'
    && !each.closest('[aria-hidden=true], .visually-hidden') && each.type !== 'file')
  .filter((each) => !(each.getAttribute('aria-label') || each.title || each.textContent.trim()
    || [...(each.labels ?? [])].some((label) => label.textContent.trim()) || each.getAttribute('aria-labelledby')))
  .map((each) => each.outerHTML.slice(0, 160))
"""

# Texts whose contrast with what lies behind them is below 4.5 to 1 (3 to 1 if they are large): WCAG 2.2, 1.4.3.
FAINT = """
(() => {
  const canvas = document.createElement('canvas').getContext('2d', { willReadFrequently: true });
  const parts = (colour) => {
    canvas.clearRect(0, 0, 1, 1); canvas.fillStyle = colour; canvas.fillRect(0, 0, 1, 1);
    const [r, g, b, a] = canvas.getImageData(0, 0, 1, 1).data; return [r, g, b, a / 255];
  };
  const light = ([r, g, b]) => [r, g, b].map((part) => part / 255)
    .map((part) => part <= 0.03928 ? part / 12.92 : ((part + 0.055) / 1.055) ** 2.4)
    .reduce((sum, part, place) => sum + part * [0.2126, 0.7152, 0.0722][place], 0);
  const behind = (element) => {
    let layers = [];
    for (let each = element; each; each = each.parentElement) {
      const colour = parts(getComputedStyle(each).backgroundColor);
      if (getComputedStyle(each).backgroundImage !== 'none') return null;
      layers.push(colour);
      if (colour[3] === 1) break;
    }
    return layers.reverse().reduce((below, [r, g, b, a]) =>
      [r, g, b].map((part, place) => part * a + below[place] * (1 - a)), [255, 255, 255]);
  };
  const faint = [];
  for (const element of document.querySelectorAll('.gradio-container *')) {
    const text = [...element.childNodes].filter((each) => each.nodeType === 3).map((each) => each.data.trim()).join('');
    const style = getComputedStyle(element);
    if (!text || !element.getClientRects().length || style.visibility === 'hidden' || element.closest(
      ':disabled, [aria-disabled=true], .visually-hidden, .sr-only')) continue;
    const ground = behind(element);
    if (!ground) continue;
    const colour = parts(style.color), ink = colour.slice(0, 3).map((part, place) =>
      part * colour[3] + ground[place] * (1 - colour[3]));
    const [high, low] = [light(ink), light(ground)].sort((a, b) => b - a);
    const large = parseFloat(style.fontSize) >= 24 || (parseFloat(style.fontSize) >= 18.66 && style.fontWeight >= 700);
    const ratio = (high + 0.05) / (low + 0.05);
    if (ratio < (large ? 3 : 4.5)) faint.push(`${text.slice(0, 40)} ${ratio.toFixed(2)}`);
  }
  return faint;
})()
"""


def test_dark_mode_is_kept(open_page: OpenPage) -> None:
    page = open_page()
    page.click("#wb-theme")
    page.wait_for_function("document.body.classList.contains('dark')")
    assert page.get_attribute("#wb-theme", "aria-pressed") == "true"
    page.reload()
    page.wait_for_selector("#wb-theme[aria-pressed=true]")
    assert page.evaluate("document.body.classList.contains('dark')")
    page.click("#wb-theme")
    page.wait_for_function("!document.body.classList.contains('dark')")


def test_the_keyboard_reaches_everything_and_shows_where_it_is(open_page: OpenPage) -> None:
    page = open_page()
    page.locator("#wb-prompt textarea").wait_for()
    reached = set()
    page.locator("#wb-prompt textarea").focus()
    for _ in range(48):
        page.keyboard.press("Tab")
        name, visible = page.evaluate(
            """(() => { const at = document.activeElement, box = at.closest('[id^=wb-]');
              const parts = [at, ...(at.closest('.wrap') ? [at.closest('.wrap')] : [])];
              return [box ? box.id : '', parts.some((each) => getComputedStyle(each).outlineStyle !== 'none'
                || getComputedStyle(each).boxShadow !== 'none')]; })()"""
        )
        if not name:  # between the last one and the first
            continue
        reached.add(name)
        assert visible, f"no focus is seen on {name}"
    assert {"wb-negative", "wb-paint", "wb-live", "wb-model", "wb-preset", "wb-size", "wb-steps", "wb-seed"} <= reached


def test_the_gallery_finds_shows_compares_reuses_and_deletes(studio: Served, open_page: OpenPage) -> None:
    page = open_page()
    paint(page, "a purple umbrella", steps="4", seed="1")
    paint(page, "a purple umbrella", steps="5", seed="2", guidance="2")
    go_to(page, "Gallery")
    page.get_by_label("Search").locator("visible=true").fill("PURPLE umbrella")
    page.get_by_text("2 jobs").wait_for()
    tiles = page.locator(".wb-tile")
    sync_api.expect(tiles).to_have_count(2)

    tiles.first.locator(".wb-open").focus()
    page.keyboard.press("Enter")
    dialog = page.get_by_role("dialog")
    dialog.wait_for()
    assert "a purple umbrella" in dialog.inner_text()
    page.wait_for_function("document.activeElement.classList.contains('wb-close')")
    page.keyboard.press("ArrowRight")
    page.locator(".wb-facts", has_text=re.compile(r"Steps\s*4")).wait_for()
    page.keyboard.press("Escape")
    dialog.wait_for(state="detached")

    for place in (0, 1):
        tiles.nth(place).get_by_text("Compare").click()
    page.get_by_role("dialog", name="Two pictures compared").wait_for()
    rows = [row.inner_text().split() for row in page.locator(".wb-differs tr").all()]
    assert ["Seed", "2", "1"] in rows
    assert ["Steps", "5", "4"] in rows
    page.get_by_label("How much of the first picture is seen").fill("20")
    assert page.evaluate("document.querySelector('.wb-compare').style.getPropertyValue('--cut')") == "20%"
    page.get_by_role("button", name="Close").click()

    tiles.first.locator(".wb-open").click()
    page.get_by_role("button", name="Reuse settings").click()
    page.wait_for_function("document.querySelector('#wb-seed input').value === '2'")
    assert page.input_value("#wb-steps input") == "5"
    sync_api.expect(page.get_by_role("tab", name="Create")).to_have_attribute("aria-selected", "true")

    go_to(page, "Gallery")
    tiles.first.locator(".wb-open").click()
    page.get_by_role("button", name="Delete").click()
    page.get_by_role("button", name="Yes, delete").click()
    page.get_by_text("1 job", exact=True).wait_for()
    with studio.client() as client:
        found = client.get("/v1/jobs", params={"text": "purple umbrella"}).json()
    assert found["total"] == 1
    page.get_by_label("Search").locator("visible=true").fill("nothing of the kind")
    page.get_by_text("Nothing fits; try other words.").wait_for()


def test_the_gallery_has_pages(studio: Served, open_page: OpenPage) -> None:
    with studio.client() as client:
        work = {"prompt": "a page turner", "steps": 1}
        jobs = [client.post("/v1/jobs", json={**work, "seed": seed}).json()["id"] for seed in range(26)]
        for job in jobs:
            assert client.get(f"/v1/jobs/{job}", params={"wait": 60}).json()["state"] == "done"
    page = open_page("Gallery")
    page.get_by_label("Search").locator("visible=true").fill("page turner")
    page.get_by_text("26 jobs, page 1").wait_for()
    sync_api.expect(page.locator(".wb-tile")).to_have_count(24)
    page.get_by_role("button", name="Older").click()
    page.get_by_text("26 jobs, page 2").wait_for()
    sync_api.expect(page.locator(".wb-tile")).to_have_count(2)
    page.get_by_role("button", name="Newer").click()
    page.get_by_text("26 jobs, page 1").wait_for()


def test_models_are_inspected_and_chosen(open_page: OpenPage) -> None:
    page = open_page("Models")
    page.locator(".wb-item", has_text="scenes-128").click()
    page.locator("#wb-detail", has_text="16.5 million").wait_for()
    assert "apache-2.0" in page.inner_text("#wb-detail")
    page.locator(".wb-item", has_text=LORA).click()
    page.locator("#wb-detail", has_text="Ranks").wait_for()
    strength = page.get_by_label(f"number input for Strength of {LORA}").locator("visible=true")
    strength.fill("0.65")
    strength.blur()
    page.get_by_role("button", name="Use this LoRA").click()
    chosen = page.locator("#wb-strength-0 input[type=number]")
    chosen.wait_for()
    assert chosen.input_value() == "0.65"
    go_to(page, "Models")
    page.locator("#wb-memory", has_text="scenes-128").wait_for()
    page.get_by_label("Search").locator("visible=true").fill("was")
    page.wait_for_function("document.querySelectorAll('.wb-item').length === 1")


def test_nothing_of_torch_is_in_the_server(tmp_path: Path) -> None:
    code = (
        "import sys; from pathlib import Path\n"
        "from wordbrush.serving.app import create_app; from wordbrush.serving.settings import Settings\n"
        f"create_app(Settings(data=Path({str(tmp_path)!r})))\n"
        "print([name for name in ('torch', 'diffusers') if name in sys.modules], 'gradio' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip().splitlines()[-1] == "[] True"


def test_without_the_studio_gradio_is_not_loaded(tmp_path: Path) -> None:
    code = (
        "import sys; from pathlib import Path\n"
        "from wordbrush.serving.app import create_app; from wordbrush.serving.settings import Settings\n"
        f"create_app(Settings(data=Path({str(tmp_path)!r}), studio=False))\n"
        "print('gradio' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip().splitlines()[-1] == "False"


def test_a_key_opens_the_studio(browser: sync_api.Browser, tmp_path: Path) -> None:
    with run_studio(tmp_path, "--workers", "0") as served:
        added = subprocess.run(
            [sys.executable, "-m", "wordbrush", "keys", "add", "anna", "--data", str(tmp_path / "data"), "--json"],
            capture_output=True, text=True, check=True,
        )  # fmt: skip
        secret = json.loads(added.stdout)["key"]
        with browser.new_context() as context:
            page = context.new_page()
            wrong: list[str] = []
            watch(page, served.url, wrong)
            page.goto(f"{served.url}/studio/")
            page.get_by_label("Key").fill("wb-not-a-key")
            page.get_by_role("button", name="Log in").click()
            page.get_by_text("This key is not known here").wait_for()
            page.get_by_label("Key").fill(secret)
            page.get_by_role("button", name="Log in").click()
            page.locator("#wb-prompt textarea").wait_for()
            page.get_by_role("button", name="Log out").click()
            page.get_by_label("Key").wait_for()
            assert [each for each in wrong if "401" not in each] == []
