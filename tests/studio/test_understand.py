"""The Understand page in a real browser: the way to a picture, where its words act, and the pieces of its text."""

from __future__ import annotations

from io import BytesIO

import numpy as np
import pytest
from PIL import Image
from tests.serving.conftest import Served
from tests.studio.conftest import DESKTOP, PHONE, OpenPage, sync_api

Page = sync_api.Page
WAIT = 90_000
PROMPT = "a dog to the left of a pizza on a blue background"


def explain(page: Page, prompt: str, seed: int | None = None, **more: str) -> None:
    page.fill("#wb-understand-prompt textarea", prompt)
    if seed is not None or more:
        page.locator("#wb-understand-more > button").click()
    if seed is not None:
        page.fill("#wb-understand-seed input", str(seed))
    for name, value in more.items():
        page.fill(f"#wb-understand-{name} input", value)
        page.locator(f"#wb-understand-{name} input").first.blur()
    page.click("#wb-understand-go")
    page.wait_for_selector("#wb-understand-shown .wb-understood", timeout=WAIT)


def pixels(studio: Served, address: str | None) -> np.ndarray:
    assert address is not None
    with studio.client() as client:
        return np.asarray(Image.open(BytesIO(client.get(address).content)).convert("RGB"))


def roughness(picture: np.ndarray) -> float:
    """How unlike pixels beside one another are."""
    return float(np.abs(np.diff(picture.astype(int), axis=1)).mean())


def painted(studio: Served, prompt: str, seed: int) -> np.ndarray:
    """The same picture from the native API."""
    with studio.client() as client:
        job = client.post("/v1/jobs", json={"prompt": prompt, "seed": seed}).json()
        job = client.get(f"/v1/jobs/{job['id']}", params={"wait": 60}).json()
        return pixels(studio, f"/v1/images/{job['pictures'][0]['sha256']}.png")


@pytest.mark.parametrize("size", [DESKTOP, pytest.param(PHONE, marks=pytest.mark.slow)], ids=["desktop", "phone"])
def test_the_whole_page(size: tuple[int, int], studio: Served, open_page: OpenPage) -> None:
    page = open_page("Understand", size)
    explain(page, PROMPT, seed=3)
    shown = page.locator(".wb-moment:not([hidden]) img")
    picture = pixels(studio, shown.get_attribute("src"))
    assert (picture == painted(studio, PROMPT, 3)).all(), "it is the request's own picture"

    slider = page.locator("input[name=moment]")
    assert slider.get_attribute("max") == "7"
    slider.fill("0")
    noisy, clean = (pixels(studio, shown.nth(index).get_attribute("src")) for index in (0, 1))
    assert roughness(noisy) > 1.5 * roughness(clean), "the first x is noise"
    assert slider.get_attribute("aria-valuetext") == "timestep 999, 100% of the way left"
    page.locator(".wb-thumbs button").nth(6).click()
    assert slider.input_value() == "6"
    late = pixels(studio, shown.nth(1).get_attribute("src"))
    assert np.abs(late.astype(int) - picture).mean() < np.abs(clean.astype(int) - picture).mean()

    words = page.locator("[data-word]")
    assert words.all_inner_texts() == PROMPT.split()
    words.get_by_text("dog").click()
    seen = page.locator(".wb-map-stage img:visible")
    assert seen.count() == 1
    assert "dog" in str(seen.get_attribute("alt"))
    page.locator("[data-word]", has_text="pizza").hover()
    assert "pizza" in str(seen.get_attribute("alt"))
    page.mouse.move(2, 2)
    assert "dog" in str(seen.get_attribute("alt")), "the chosen word stays"
    words.get_by_text("dog").click()
    page.mouse.move(2, 2)
    words.get_by_text("dog").blur()
    assert seen.get_attribute("alt") == "The finished picture"

    rows = page.locator(".wb-tokens tbody tr")
    assert rows.nth(2).locator("td").all_inner_texts() == ["2", "929", "dog</w>", "dog", "yes"]
    assert page.evaluate("document.documentElement.scrollWidth <= window.innerWidth"), "the page is too wide"


def test_words_that_training_never_showed_and_weights(open_page: OpenPage) -> None:
    page = open_page("Understand")
    explain(page, "a (dog:1.3) and a quokka", steps="4", columns="3")
    assert page.locator(".wb-thumbs button").count() == 3
    head = page.locator(".wb-tokens th").all_inner_texts()
    assert "Weight" in head
    unseen = page.locator(".wb-unseen td").all_inner_texts()
    assert "quokka" in unseen
    assert "never" in unseen
    page.get_by_text("quokka").first.wait_for()


def test_a_picture_is_sent_here_from_where_it_was_painted(studio: Served, open_page: OpenPage) -> None:
    page = open_page("Create")
    page.fill("#wb-prompt textarea", "two cats on a green background")
    page.click("#wb-paint")
    page.wait_for_selector("#wb-canvas .wb-result img", timeout=WAIT)
    address = page.get_attribute("#wb-canvas .wb-result img", "src")
    page.locator("#wb-canvas [data-act=understand]").click()
    page.wait_for_selector("#wb-understand-shown .wb-understood", timeout=WAIT)
    same = page.get_attribute(".wb-moment:not([hidden]) img", "src")
    assert (pixels(studio, same) == pixels(studio, address)).all()
    assert page.input_value("#wb-understand-prompt textarea") == "two cats on a green background"

    page.get_by_role("tab", name="Create").click()
    page.locator("#wb-canvas [data-act=edit]").click()
    page.wait_for_selector("#wb-brush-easel canvas")
    assert page.get_attribute("#wb-brush-easel img", "src") == address
    assert page.input_value("#wb-edit-prompt textarea") == "two cats on a green background"


def test_what_does_not_fit_is_said(open_page: OpenPage) -> None:
    page = open_page("Understand")
    page.click("#wb-understand-go")
    page.get_by_text("There is no prompt").wait_for()
    page.fill("#wb-understand-prompt textarea", "a fox")
    page.locator("#wb-understand-more > button").click()
    page.fill("#wb-understand-seed input", "many")
    page.click("#wb-understand-go")
    page.get_by_text("give a whole number").wait_for()
