"""The Edit page in a real browser: pictures in, masks by mouse, touch and keyboard, and what comes out."""

from __future__ import annotations

import re
from io import BytesIO
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from tests.serving.conftest import Served
from tests.studio.conftest import DESKTOP, PHONE, OpenPage, sync_api

from wordbrush.data.scenes import render, sample_scene

Page = sync_api.Page
WAIT = 90_000


@pytest.fixture(scope="module")
def scene(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A picture of the embedded model's world, 128x128."""
    path = tmp_path_factory.mktemp("scene") / "scene.png"
    Image.fromarray(render(sample_scene("test", 11, 3, "two"))).save(path)
    return path


def put(page: Page, path: Path) -> None:
    """Opens a file on the easel."""
    page.set_input_files("#wb-brush-easel input[type=file]", str(path))
    page.wait_for_selector("#wb-brush-easel canvas")


def drag(page: Page, *places: tuple[float, float]) -> None:
    """Draws with the mouse through places given as parts of the picture's sides."""
    canvas = page.locator("#wb-brush-easel canvas")
    canvas.scroll_into_view_if_needed()
    box = canvas.bounding_box()
    assert box is not None
    points = [(box["x"] + x * box["width"], box["y"] + y * box["height"]) for x, y in places]
    page.mouse.move(*points[0])
    page.mouse.down()
    for point in points[1:]:
        page.mouse.move(*point, steps=6)
    page.mouse.up()


def painted(page: Page, studio: Served) -> Image.Image:
    """Presses the button, and waits for what comes out."""
    page.evaluate("document.querySelectorAll('#wb-edit-result .wb-compare').forEach((each) => each.remove())")
    page.click("#wb-edit-go")
    page.wait_for_selector("#wb-edit-result .wb-compare .wb-over", timeout=WAIT)
    return picture(studio, page.get_attribute("#wb-edit-result .wb-compare .wb-over", "src"))


def picture(studio: Served, address: str | None) -> Image.Image:
    assert address is not None
    with studio.client() as client:
        answer = client.get(address)
    assert answer.status_code == 200
    return Image.open(BytesIO(answer.content)).convert("RGB")


def mask_of(page: Page) -> np.ndarray:
    """What is marked, as the page would send it."""
    import base64

    text = page.evaluate("window.wordbrushMask()")
    return np.asarray(Image.open(BytesIO(base64.b64decode(text.partition(",")[2]))).convert("L")) > 127


def differing(before: Image.Image, after: Image.Image) -> np.ndarray:
    return (np.asarray(before.convert("RGB")) != np.asarray(after)).any(axis=2)


@pytest.mark.parametrize("size", [DESKTOP, PHONE], ids=["desktop", "phone"])
def test_what_is_not_marked_stays(size: tuple[int, int], studio: Served, open_page: OpenPage, scene: Path) -> None:
    page = open_page("Edit", size)
    put(page, scene)
    drag(page, (0.6, 0.3), (0.8, 0.3), (0.8, 0.7), (0.6, 0.7))
    page.fill("#wb-edit-prompt textarea", "a cat on a white background")
    marked = mask_of(page)
    assert 0.03 < marked.mean() < 0.5
    changed = differing(Image.open(scene), painted(page, studio))
    assert not changed[~marked].any(), "a pixel outside the mask has changed"
    assert changed[marked].mean() > 0.3
    assert page.evaluate("document.documentElement.scrollWidth <= window.innerWidth"), "the page is too wide"


def test_the_result_can_be_edited_on_and_the_mask_begins_anew(
    studio: Served, open_page: OpenPage, scene: Path
) -> None:
    page = open_page("Edit")
    put(page, scene)
    drag(page, (0.5, 0.5))
    page.fill("#wb-edit-prompt textarea", "a cat")
    first = painted(page, studio)
    page.get_by_role("button", name="Edit this one").click()
    page.wait_for_function("!document.querySelector('#wb-edit-result img')")
    page.wait_for_function("window.wordbrushMask() === ''")
    page.click("#wb-edit-go")
    page.get_by_text("Nothing is marked").wait_for()
    drag(page, (0.2, 0.2), (0.3, 0.3))
    marked = mask_of(page)
    changed = differing(first, painted(page, studio))
    assert not changed[~marked].any()


def test_brush_eraser_undo_clear_and_the_keyboard(open_page: OpenPage, scene: Path) -> None:
    page = open_page("Edit")
    put(page, scene)
    drag(page, (0.2, 0.5), (0.8, 0.5))
    line = mask_of(page)
    page.get_by_role("button", name="Eraser").click()
    drag(page, (0.5, 0.2), (0.5, 0.8))
    cut = mask_of(page)
    assert cut.sum() < line.sum()
    assert not (cut & ~line).any()
    assert not cut[64, 64]
    page.get_by_role("button", name="Undo").click()
    assert (mask_of(page) == line).all()
    page.get_by_role("button", name="Mark all").click()
    assert mask_of(page).all()
    page.get_by_role("button", name="Clear").click()
    assert page.evaluate("window.wordbrushMask()") == ""
    canvas = page.locator("#wb-brush-easel canvas")
    canvas.focus()
    for key in ("ArrowRight", " ", "Shift+ArrowDown"):
        canvas.press(key)
    assert 0 < mask_of(page).sum() < line.sum()


def test_all_of_it_extend_and_enlarge(studio: Served, open_page: OpenPage, scene: Path) -> None:
    page = open_page("Edit")
    put(page, scene)
    page.get_by_role("radio", name="All of it").check()
    page.fill("#wb-edit-prompt textarea", "a cat on a red background")
    page.locator("#wb-brush-easel canvas").wait_for(state="hidden")
    whole = painted(page, studio)
    assert whole.size == (128, 128)
    assert differing(Image.open(scene), whole).mean() > 0.5

    page.get_by_role("radio", name="Extend").check()
    page.fill("#wb-edit-right input", "32")
    page.fill("#wb-edit-top input", "16")
    page.locator("#wb-edit-top input").blur()
    page.wait_for_function(
        "getComputedStyle(document.querySelector('.wb-stage')).aspectRatio.replaceAll(' ', '') === '160/144'"
    )
    wider = painted(page, studio)
    assert wider.size == (160, 144)
    kept = wider.crop((0, 16, 128, 144))
    assert not differing(Image.open(scene), kept).any()

    page.get_by_role("radio", name="Enlarge").check()
    page.locator("#wb-edit-prompt").wait_for(state="hidden")
    sync_api.expect(page.locator("#wb-edit-go")).to_have_text("Enlarge")
    assert painted(page, studio).size == (256, 256)


def test_before_and_after(studio: Served, open_page: OpenPage, scene: Path) -> None:
    page = open_page("Edit")
    put(page, scene)
    page.get_by_role("radio", name="Enlarge").check()
    painted(page, studio)
    before = page.get_attribute("#wb-edit-result .wb-under", "src")
    assert before == page.get_attribute("#wb-brush-easel img", "src")
    slider = page.locator("#wb-edit-result input[type=range]")
    slider.fill("70")
    cut = page.evaluate("document.querySelector('#wb-edit-result .wb-compare').style.getPropertyValue('--cut')")
    assert cut == "70%"


def test_what_does_not_fit_is_said(open_page: OpenPage, scene: Path, tmp_path: Path) -> None:
    page = open_page("Edit")
    page.click("#wb-edit-go")
    page.get_by_text("There is no picture yet").wait_for()
    broken = tmp_path / "broken.png"
    broken.write_bytes(b"\x89PNG\r\n\x1a\n" + b"no picture" * 9)
    page.set_input_files("#wb-brush-easel input[type=file]", str(broken))
    page.locator("#wb-edit-notes .wb-alarm", has_text="picture").wait_for()
    put(page, scene)
    page.click("#wb-edit-go")
    page.get_by_text("There is no prompt").wait_for()
    page.get_by_role("radio", name="Extend").check()
    page.fill("#wb-edit-prompt textarea", "a cat")
    page.click("#wb-edit-go")
    page.get_by_text(re.compile("All four sides are 0")).wait_for()


def test_cancel_stops_the_work(studio: Served, open_page: OpenPage, scene: Path) -> None:
    page = open_page("Edit")
    put(page, scene)
    page.get_by_role("radio", name="All of it").check()
    page.fill("#wb-edit-prompt textarea", "a cat")
    page.get_by_text("More", exact=True).click()
    page.fill("#wb-edit-steps input", "250")
    page.locator("#wb-edit-steps input").blur()
    page.click("#wb-edit-go")
    page.wait_for_selector("#wb-edit-status .wb-progress")
    page.wait_for_selector("#wb-edit-stop:not([disabled])")
    page.keyboard.press("Escape")
    page.get_by_text("Cancelled.").wait_for(timeout=WAIT)
    page.wait_for_selector("#wb-edit-stop[disabled]", state="attached")
    with studio.client() as client:
        newest = client.get("/v1/jobs", params={"limit": 1}).json()
    assert newest["jobs"][0]["state"] == "cancelled"
