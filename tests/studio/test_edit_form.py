"""What the forms of the Edit and Understand pages ask of the server, and the HTML they show; no browser."""

from __future__ import annotations

from typing import Any

import pytest
from PIL import Image

from wordbrush import GenerationRequest, RequestError
from wordbrush.formats.library import EMBEDDED
from wordbrush.serving.work import Generate, Upscale

pytest.importorskip("gradio", reason="the studio needs gradio")

from wordbrush.studio import edit_page, understand_page
from wordbrush.studio.edit_form import AS_IT_IS, MODELS_SIZE, NAMES, EditForm, Source, steps_of
from wordbrush.studio.understand import request_of

SHA = "ab" * 32
SOURCE = Source(SHA, 128, 96)
VALUES: dict[str, Any] = {
    "mode": "part", "prompt": "a cat", "negative": "", "model": "", "strength": 0.8, "seed": "", "steps": "",
    "painted_at": "", "fill": "", "blur": 0, "grow": 0, "only_masked": False, "invert": False, "left": 0, "top": 0,
    "right": 0, "bottom": 0, "scale": 2, "upscaler": "",
}  # fmt: skip


def form(own_size: tuple[int, int] | None = (128, 128), **changed: Any) -> EditForm:
    return EditForm.of_values([(VALUES | changed)[name] for name in NAMES], own_size)


def mask(size: tuple[int, int] = (128, 96)) -> Image.Image:
    found = Image.new("L", size, 0)
    found.paste(255, (8, 8, 40, 40))
    return found


def asked(given: EditForm, marked: Image.Image | None = None, source: Source = SOURCE) -> GenerationRequest:
    work = given.work(source, marked)
    assert isinstance(work, Generate)
    assert work.request.image is not None
    assert (work.request.image.path, work.request.image.sha256) == (None, SHA), "no path, ever"
    return work.request


def test_a_part() -> None:
    request = asked(form(blur=3, grow=2, fill="noise", invert=True, seed="7", steps="12"), mask())
    assert request.mask is not None
    assert (request.mask_blur, request.mask_grow, request.mask_fill) == (3.0, 2, "noise")
    assert (request.mask_invert, request.seed, request.steps, request.strength) == (True, 7, 12, 0.8)
    assert not request.only_masked
    assert asked(form(only_masked=True), mask()).only_masked


def test_all_of_it_is_painted_at_a_size_that_suits_the_model() -> None:
    assert asked(form(mode="all")).width is None
    large = Source(SHA, 1600, 1200)
    request = asked(form(mode="all"), source=large)
    assert (request.width, request.height) == (144, 112), "the model's area, in the picture's shape"
    assert asked(form(mode="all", painted_at=AS_IT_IS), source=large).width is None
    assert asked(form(mode="all", painted_at=MODELS_SIZE)).width == 144
    assert asked(form(None, mode="all"), source=large).width is None, "nothing is known of the model"
    assert asked(form(), mask((1600, 1200)), large).only_masked, "only the part of a large picture is worked on"


def test_extend_and_enlarge() -> None:
    request = asked(form(mode="extend", left=8, bottom=16))
    assert request.extend == (8, 0, 0, 16)
    assert request.strength is None
    work = form(mode="enlarge", scale=3, upscaler="lanczos", prompt="").work(SOURCE, None)
    assert isinstance(work, Upscale)
    assert (work.scale, work.upscaler, work.images[0].sha256) == (3.0, "lanczos", SHA)


@pytest.mark.parametrize(
    ("changed", "marked", "said"),
    [
        ({"prompt": " "}, None, "there is no prompt"),
        ({}, None, "nothing is marked"),
        ({}, Image.new("L", (128, 96)), "nothing is marked"),
        ({}, mask((64, 64)), "belongs to another picture"),
        ({"mode": "extend"}, None, "all four sides are 0"),
        ({"mode": "extend", "left": 1.5}, None, "left=1.5"),
        ({"mode": "all", "seed": "many"}, None, "seed="),
        ({"mode": "all", "steps": "few"}, None, "steps='few'"),
        ({"mode": "all", "steps": "0"}, None, "steps"),
    ],
)
def test_what_does_not_fit_is_one_sentence(changed: dict[str, Any], marked: Image.Image | None, said: str) -> None:
    with pytest.raises(RequestError) as error:
        form(**changed).work(SOURCE, marked)
    assert said in str(error.value)
    assert "\n" not in str(error.value)


def test_steps() -> None:
    assert [steps_of(value) for value in ("", None, " 8 ", "250")] == [None, None, 8, 250]


def test_a_picture_is_explained_as_it_was_painted_unless_the_form_says_otherwise() -> None:
    carried = GenerationRequest(
        prompt="a fox", seed=4, steps=6, sampler="euler", guidance=2.5, width=96, height=128, count=1, written="a fox"
    ).to_dict()
    values = {"prompt": "a fox", "negative": "", "model": "", "seed": "4", "steps": "6", "columns": 8}
    server: Any = None  # asked only for pictures
    same = request_of(values, carried, server)
    assert same == GenerationRequest.from_dict(carried)
    other = request_of(values | {"prompt": "a cat", "seed": "5"}, carried, server)
    assert (other.prompt, other.written, other.seed, other.sampler, other.width) == ("a cat", None, 5, "euler", 96)
    plain = request_of(values | {"model": "other"}, carried, server)
    assert (plain.model, plain.sampler, plain.width, plain.guidance) == ("other", None, None, None)
    back = request_of(values, carried | {"model": "other"}, server)
    assert (back.model, back.sampler) == (EMBEDDED, None), "the form says the built-in one"
    fresh = request_of(values | {"seed": "", "steps": ""}, None, server)
    assert (fresh.seed, fresh.steps, fresh.count) == (None, None, 1)
    with pytest.raises(RequestError, match="there is no prompt"):
        request_of(values | {"prompt": ""}, None, server)


def test_everything_from_outside_is_escaped() -> None:
    bad = "<img src=x onerror=alert(1)>'\""
    picture = {"role": "picture", "sha256": SHA, "index": 0, "width": 8, "height": 8, "label": None}
    word = {**picture, "role": "attention", "index": 1, "label": bad}
    row = {"prompt": bad, "position": None, "id": None, "text": bad, "word": bad, "role": "cut", "seen": False}
    output = {"words": [{"word": bad, "prompt": bad}], "tokens": [row, row | {"prompt": "b", "weight": 2}]}
    html = understand_page.explained([picture, word], output)
    assert "<img src=x" not in html
    assert "onerror=alert(1)&gt;&#x27;&quot;" in html
    assert "cut" in html
    assert html.count("<tr") == 3


def test_moments_are_pairs() -> None:
    def frame(index: int, label: str) -> dict[str, Any]:
        return {"role": "frame", "sha256": f"{index}", "index": index, "label": label}

    pictures = [
        frame(3, "timestep 249: x0"), frame(0, "timestep 999: x"), frame(1, "timestep 999: x0"),
        frame(2, "timestep 249: x"), {"role": "picture", "sha256": "p", "index": 4},
    ]  # fmt: skip
    moments = understand_page.moments_of(pictures)
    assert [(each.label, each.noisy, each.clean) for each in moments] == [
        ("timestep 999", "0", "1"), ("timestep 249", "2", "3"),
    ]  # fmt: skip
    assert [round(each.noise, 2) for each in moments] == [1.0, 0.25]


def test_unlike_shapes_stand_side_by_side() -> None:
    assert "wb-beside-only" in edit_page.result(SOURCE, Source(SHA, 160, 128), 7)
    alike = edit_page.result(SOURCE, Source(SHA, 256, 192), None)
    assert "wb-beside-only" not in alike
    assert "Seed" not in alike
