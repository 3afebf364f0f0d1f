"""The Create page in a real browser: painting with words, by keyboard, while typing, and restoring settings."""

from __future__ import annotations

import base64
import json
import re
from pathlib import Path
from typing import Any

import pytest
from PIL import Image
from PIL.PngImagePlugin import PngInfo
from tests.serving.conftest import Served
from tests.studio.conftest import DESKTOP, LORA, PHONE, OpenPage, go_to, sync_api

from wordbrush.metadata import read_metadata

Page = sync_api.Page
WAIT = 90_000

A1111 = (
    "a cat above a house, (watercolor:1.2)\nNegative prompt: blurry\nSteps: 9, Sampler: Euler a, "
    "Schedule type: Karras, CFG scale: 3.5, Seed: 123456, Size: 96x128, Model hash: 0123456789, "
    "Model: dreamy-mix-v3, Face restoration: GFPGAN, Version: v1.10.1"
)


def paint(page: Page, prompt: str, **settings: str) -> list[str]:
    """Fills the form and presses Ctrl+Enter; the addresses of the pictures."""
    page.fill("#wb-prompt textarea", prompt)
    for name, value in settings.items():
        page.fill(f"#wb-{name} input, #wb-{name} textarea", value)
    page.evaluate("document.querySelectorAll('#wb-canvas .wb-result').forEach((each) => each.remove())")
    page.locator("#wb-prompt textarea").press("Control+Enter")
    page.wait_for_selector("#wb-canvas .wb-result img", timeout=WAIT)
    return [str(each.get_attribute("src")) for each in page.locator("#wb-canvas .wb-result img").all()]


def fetched(studio: Served, address: str, path: Path) -> Path:
    with studio.client() as client:
        path.write_bytes(client.get(address).raise_for_status().content)
    return path


def drop(page: Page, path: Path, onto: str = "#wb-canvas") -> None:
    """Lets a file fall onto something, as a person would from another window."""
    data = base64.b64encode(path.read_bytes()).decode()
    page.evaluate(
        """([data, name, onto]) => {
          const bytes = Uint8Array.from(atob(data), (sign) => sign.charCodeAt(0));
          const carried = new DataTransfer();
          carried.items.add(new File([bytes], name, { type: 'image/png' }));
          for (const kind of ['dragenter', 'dragover', 'drop'])
            document.querySelector(onto).dispatchEvent(
              new DragEvent(kind, { dataTransfer: carried, bubbles: true, cancelable: true }));
        }""",
        [data, path.name, onto],
    )


def png(path: Path, **texts: str) -> Path:
    info = PngInfo()
    for name, text in texts.items():
        info.add_text(name, text)
    Image.new("RGB", (8, 8)).save(path, pnginfo=info)
    return path


def newest(studio: Served) -> dict[str, Any]:
    with studio.client() as client:
        found: dict[str, Any] = client.get("/v1/jobs", params={"limit": 1}).json()["jobs"][0]
    return found


def test_words_become_a_picture_that_carries_its_settings(
    studio: Served, open_page: OpenPage, tmp_path: Path
) -> None:
    page = open_page()
    page.locator("#wb-prompt textarea").wait_for()
    page.fill("#wb-prompt textarea", "a fox on a xylophonic background")
    page.get_by_text("never seen by this model: xylophonic").wait_for()
    assert re.search(r"\d+ of 30 tokens", page.inner_text("#wb-tokens"))
    (address,) = paint(page, "a fox on a blue background", steps="12", guidance="3,5", seed="7")
    request = read_metadata(fetched(studio, address, tmp_path / "fox.png")).request
    assert (request.prompt, request.steps, request.guidance, request.seed) == (
        "a fox on a blue background", 12, 3.5, 7,
    )  # fmt: skip
    assert newest(studio)["source"] == "studio"
    assert page.locator("#wb-cancel").is_disabled()


def test_the_way_there_is_seen_and_escape_cancels(studio: Served, open_page: OpenPage) -> None:
    page = open_page()
    page.fill("#wb-steps input, #wb-steps textarea", "200")
    page.fill("#wb-prompt textarea", "a cat")
    page.locator("#wb-prompt textarea").press("Control+Enter")
    page.wait_for_selector("#wb-canvas .wb-preview img[src^='data:image/']", timeout=WAIT)
    page.get_by_text(re.compile(r"Step \d+ of 200 · [\d.]+ (s|min) left")).wait_for()
    page.keyboard.press("Escape")
    page.get_by_text("Cancelled").wait_for(timeout=WAIT)
    assert newest(studio)["state"] == "cancelled"
    page.wait_for_selector("#wb-cancel[disabled]")


def test_a_closed_tab_stops_its_job(studio: Served, open_page: OpenPage) -> None:
    page = open_page()
    page.fill("#wb-steps input, #wb-steps textarea", "250")
    page.fill("#wb-prompt textarea", "a closed tab")
    page.locator("#wb-prompt textarea").press("Control+Enter")
    page.wait_for_selector("#wb-status .wb-progress", timeout=WAIT)
    job = newest(studio)
    page.close()
    with studio.client() as client:
        assert client.get(f"/v1/jobs/{job['id']}", params={"wait": 30}).json()["state"] == "cancelled"


def test_the_newest_text_is_painted_while_it_is_typed(studio: Served, open_page: OpenPage) -> None:
    page = open_page()
    page.get_by_label("Paint as I type").check()
    page.locator("#wb-prompt textarea").press_sequentially("a red apple", delay=25)
    page.wait_for_selector("#wb-canvas .wb-result img", timeout=WAIT)
    page.wait_for_function(
        "document.querySelector('#wb-canvas .wb-result img')?.alt === 'a red apple'", timeout=WAIT
    )
    first = newest(studio)
    page.locator("#wb-prompt textarea").press_sequentially(" on a green background", delay=25)
    page.wait_for_function(
        "document.querySelector('#wb-canvas .wb-result img')?.alt === 'a red apple on a green background'", timeout=WAIT
    )
    second = newest(studio)
    assert first["pictures"][0]["request"]["preset"] == "fast"
    assert first["pictures"][0]["seed"] == second["pictures"][0]["seed"]  # the words alone change the picture
    with studio.client() as client:
        jobs = client.get("/v1/jobs", params={"limit": 50}).json()["jobs"]
    texts = [job["work"]["request"]["prompt"] for job in jobs if job["state"] in ("queued", "running")]
    assert not texts, "older texts are cancelled"


def test_a_picture_from_here_gives_its_settings_back(studio: Served, open_page: OpenPage, tmp_path: Path) -> None:
    page = open_page()
    (address,) = paint(page, "two bananas", steps="6", guidance="2.5", seed="99")
    first = fetched(studio, address, tmp_path / "first.png")
    other = open_page("Gallery")
    drop(other, first, "#wb-gallery, #wb-summary, body")
    other.get_by_text("The picture's settings are in the form.").wait_for()
    assert other.input_value("#wb-prompt textarea") == "two bananas"
    other.evaluate("document.querySelectorAll('#wb-canvas .wb-result').forEach((each) => each.remove())")
    other.keyboard.press("Control+Enter")
    other.wait_for_selector("#wb-canvas .wb-result img", timeout=WAIT)
    again = other.locator("#wb-canvas .wb-result img").get_attribute("src")
    second = fetched(studio, str(again), tmp_path / "second.png")
    assert Image.open(first).tobytes() == Image.open(second).tobytes()


def test_a_picture_of_a1111_gives_its_settings(open_page: OpenPage, tmp_path: Path) -> None:
    page = open_page()
    drop(page, png(tmp_path / "cat.png", parameters=A1111))
    page.get_by_text("The picture's settings are in the form.").wait_for()
    assert page.input_value("#wb-prompt textarea") == "a cat above a house, (watercolor:1.2)"
    assert page.input_value("#wb-negative textarea, #wb-negative input") == "blurry"
    wanted = {
        "steps": "9", "guidance": "3.5", "seed": "123456", "size": "Portrait 96 × 128", "sampler": "Euler a",
        "schedule": "Karras",
    }  # fmt: skip
    assert {name: page.input_value(f"#wb-{name} input") for name in wanted} == wanted
    said = page.inner_text("#wb-notes")
    assert "Face restoration (GFPGAN)" in said
    assert "dreamy-mix-v3" in said


def test_a_record_that_names_a_file_opens_none(open_page: OpenPage, tmp_path: Path) -> None:
    secret = tmp_path / "secret.png"
    Image.new("RGB", (8, 8), "red").save(secret)
    request = {"prompt": "a dog", "image": str(secret), "strength": 0.5, "mask": str(secret), "seed": 3}
    page = open_page()
    drop(page, png(tmp_path / "sly.png", wordbrush=json.dumps({"version": "1", "request": request})))
    page.get_by_text("The picture's settings are in the form.").wait_for()
    assert page.input_value("#wb-prompt textarea") == "a dog"
    drop(page, png(tmp_path / "none.png"))
    page.get_by_text("carries no request").wait_for()


def test_wrong_values_are_said_in_one_sentence(open_page: OpenPage) -> None:
    page = open_page()
    page.locator("#wb-prompt textarea").press("Control+Enter")
    page.get_by_text("There is no prompt; say what to paint.").wait_for()
    page.fill("#wb-prompt textarea", "a cat")
    page.fill("#wb-steps input, #wb-steps textarea", "many")
    page.locator("#wb-prompt textarea").press("Control+Enter")
    page.get_by_text("Steps='many' does not fit: give a number, or leave it empty.").wait_for()
    page.fill("#wb-steps input, #wb-steps textarea", "5000")
    page.locator("#wb-prompt textarea").press("Control+Enter")
    page.locator("#wb-notes .wb-alarm", has_text="5000").wait_for()


def test_seeds_and_loras(studio: Served, open_page: OpenPage) -> None:
    page = open_page()
    page.locator("#wb-loras input").click()
    page.get_by_role("option", name=LORA).click()
    page.keyboard.press("Escape")
    slider = page.get_by_label(f"number input for Strength of {LORA}")
    slider.fill("0.4")
    slider.blur()
    paint(page, "a fish", steps="4")
    job = newest(studio)
    assert job["work"]["request"]["loras"] == [{"name": LORA, "unet": 0.4, "text": 0.4}]
    seed = str(job["pictures"][0]["seed"])
    page.click("#wb-again")
    page.wait_for_function(f"document.querySelector('#wb-seed input').value === '{seed}'")
    page.click("#wb-dice")
    page.wait_for_function("document.querySelector('#wb-seed input').value === ''")
    page.get_by_role("button", name=f"Use seed {seed} again").click()
    page.wait_for_function(f"document.querySelector('#wb-seed input').value === '{seed}'")


@pytest.mark.parametrize("size", [DESKTOP, pytest.param(PHONE, marks=pytest.mark.slow)], ids=["desktop", "phone"])
def test_a_picture_goes_to_edit_and_understand(open_page: OpenPage, size: tuple[int, int]) -> None:
    page = open_page("Create", size)
    (address,) = paint(page, "a horse", steps="4")
    page.get_by_role("button", name="Send to Edit").click()
    page.wait_for_selector(f"#wb-brush-easel img[src*='{address[11:40]}']", timeout=WAIT)
    sync_api.expect(page.get_by_role("tab", name="Edit")).to_have_attribute("aria-selected", "true")
    go_to(page, "Understand")
    page.wait_for_timeout(500)
    assert page.inner_text("#wb-understand-notes").strip() == "", "what was sent to Edit is no business of this page"
    go_to(page, "Create")
    page.get_by_role("button", name="See how it was painted").click()
    page.wait_for_selector("#wb-understand-shown .wb-understood", timeout=WAIT)
    assert page.input_value("#wb-understand-prompt textarea") == "a horse"


def test_several_pictures_and_a_size(studio: Served, open_page: OpenPage) -> None:
    page = open_page()
    page.fill("#wb-number input[type=number]", "2")
    page.locator("#wb-size input").fill("96x64")
    page.locator("#wb-size input").press("Enter")
    assert len(paint(page, "a boat", steps="4")) == 2
    pictures = newest(studio)["pictures"]
    assert [(each["width"], each["height"]) for each in pictures] == [(96, 64)] * 2
    assert pictures[1]["seed"] == pictures[0]["seed"] + 1
