"""What OpenAI's parameters mean: sizes, qualities, formats, extra fields, masks; and what is refused."""

from __future__ import annotations

from typing import Any

import pytest
from tests.serving.openai_parts import parts, request_of

from wordbrush.serving.errors import Refused
from wordbrush.serving.openai import sizes
from wordbrush.serving.openai.forms import _sorted_out
from wordbrush.serving.openai.parameters import Output, understood
from wordbrush.serving.openai.requests import works_of

TINY, USUAL, LARGE = (128, 128), (512, 512), (1024, 1024)


@pytest.fixture
def server(tmp_path) -> Any:
    return parts(tmp_path)


# Sizes


@pytest.mark.parametrize(
    ("size", "own", "fields"),
    [
        ((128, 128), TINY, {"width": 128, "height": 128}),
        ((160, 96), TINY, {"width": 160, "height": 96}),
        ((64, 64), TINY, {"width": 64, "height": 64}),
        ((256, 256), TINY, {"width": 128, "height": 128, "upscale": 2.0}),
        ((1024, 1024), TINY, {"width": 128, "height": 128, "upscale": 8.0}),
        ((1536, 1024), TINY, {"width": 192, "height": 128, "upscale": 8.0}),
        ((1000, 700), TINY, {"width": 160, "height": 112, "upscale": 6.25}),
        ((1024, 1024), USUAL, {"width": 512, "height": 512, "hires": {"scale": 2.0, "strength": 0.55}}),
        ((2048, 2048), USUAL, {"width": 512, "height": 512, "upscale": 4.0}),
        ((1536, 1024), LARGE, {"width": 1536, "height": 1024}),
        ((1024, 1024), None, {"width": 1024, "height": 1024}),
    ],
)
def test_a_size_is_reached_in_the_way_that_the_model_can(size, own, fields):
    assert sizes.fields_for(size, own) == fields
    scale = fields.get("upscale", fields.get("hires", {}).get("scale", 1))
    assert (round(fields["width"] * scale), round(fields["height"] * scale)) == size


@pytest.mark.parametrize("own", [TINY, USUAL, LARGE])
@pytest.mark.parametrize("size", ["256x256", "512x512", "1024x1024", "1536x1024", "1024x1536", "1792x1024", "1536x864"])
def test_every_size_of_the_hosted_models_is_exact(size, own):
    wanted = sizes.read_size(size)
    assert wanted is not None
    fields = sizes.fields_for(wanted, own)
    scale = fields.get("upscale", fields.get("hires", {}).get("scale", 1))
    assert (round(fields["width"] * scale), round(fields["height"] * scale)) == wanted
    assert fields["width"] % 8 == fields["height"] % 8 == 0


@pytest.mark.parametrize(
    ("size", "says"),
    [
        ("100x100", "sides are multiples of 8; near 100 are 96 and 104"),
        ("4000x4000", "enlarged at most 8 times; the most is 1536 by 1536"),
        ("1001x703", "no size on its grid has this shape"),
        ("large", "give WIDTHxHEIGHT"),
        ("0x64", "give WIDTHxHEIGHT"),
        ("64", "give WIDTHxHEIGHT"),
        ("64x64x64", "give WIDTHxHEIGHT"),
    ],
)
def test_a_size_that_cannot_be_had_is_refused(server, size, says):
    with pytest.raises(Refused, match=says) as caught:
        request_of(server, {"prompt": "a fox", "size": size})
    assert (caught.value.status, caught.value.param) == (400, "size")


# Parameters


def test_defaults_are_the_models_own(server):
    asked = understood({"prompt": "a fox", "size": "auto", "model": None, "n": None}, "generations")
    assert asked.output == Output(format="png", quality=100, as_url=False)
    assert (asked.quality, asked.size, asked.stream, asked.partial_images) == ("medium", None, False, 0)
    (work,) = works_of(asked, {}, server)
    assert work.request.to_dict() == {"prompt": "a fox", "negative_prompt": "", "count": 1}


@pytest.mark.parametrize(
    ("quality", "called", "preset"),
    [("low", "low", "fast"), ("medium", "medium", None), ("standard", "medium", None), ("auto", "medium", None),
     ("high", "high", "quality"), ("hd", "high", "quality"), ("max", "high", "quality")],
)  # fmt: skip
def test_quality_is_a_preset_and_the_answer_says_which(server, quality, called, preset):
    asked = understood({"prompt": "a fox", "quality": quality}, "generations")
    assert (asked.quality, asked.fields.get("preset")) == (called, preset)


def test_natural_takes_back_the_contrast_of_guidance(server):
    assert request_of(server, {"prompt": "a fox", "style": "natural"}).guidance_rescale == 0.7
    assert request_of(server, {"prompt": "a fox", "style": "vivid"}).guidance_rescale is None
    assert request_of(server, {"prompt": "a fox", "style": "natural", "guidance_rescale": 0.1}).guidance_rescale == 0.1


def test_every_field_of_a_request_is_understood(server):
    given = {"prompt": "a fox", "n": 2, "seed": 7, "steps": 4, "guidance": 3.5, "negative_prompt": "red",
             "sampler": "euler", "schedule": "karras", "hires": {"scale": 1.5},
             "guidance_interval": [0.2, 1]}  # fmt: skip
    request = request_of(server, given)
    assert (request.count, request.seed, request.steps, request.sampler) == (2, 7, 4, "euler")
    assert request.hires is not None
    assert request.hires.scale == 1.5
    assert request_of(server, {"prompt": "a fox", "width": 64, "height": 96}).width == 64


@pytest.mark.parametrize(
    ("given", "param", "says"),
    [
        ({}, "prompt", "prompt is missing"),
        ({"prompt": 7}, "prompt", "prompt=7 does not fit"),
        ({"prompt": "x" * 32_001}, "prompt", "32000"),
        ({"prompt": "a", "n": 0}, "n", "n=0 does not fit"),
        ({"prompt": "a", "n": 11}, "n", "n=11 does not fit"),
        ({"prompt": "a", "n": True}, "n", "not true or false"),
        ({"prompt": "a", "background": "transparent"}, "background", "pictures are opaque here"),
        ({"prompt": "a", "output_format": "gif"}, "output_format", "give png, jpeg or webp"),
        ({"prompt": "a", "output_format": "svg"}, "output_format", "give png, jpeg or webp"),
        ({"prompt": "a", "output_compression": 50}, "output_compression", "PNG loses nothing"),
        ({"prompt": "a", "output_format": "jpeg", "output_compression": 101}, "output_compression", "does not fit"),
        ({"prompt": "a", "partial_images": 2}, "partial_images", "without stream=true"),
        ({"prompt": "a", "partial_images": 4, "stream": True}, "partial_images", "does not fit"),
        ({"prompt": "a", "stream": True, "response_format": "url"}, "response_format", "no effect with stream"),
        ({"prompt": "a", "response_format": "file"}, "response_format", "does not fit"),
        ({"prompt": "a", "quality": "best"}, "quality", "does not fit"),
        ({"prompt": "a", "quality": "high", "preset": "fast"}, "quality", "leave it or preset out"),
        ({"prompt": "a", "n": 2, "count": 3}, "n", "leave one of them out"),
        ({"prompt": "a", "size": "128x128", "width": 64}, "size", "leave one of them out"),
        ({"prompt": "a", "frame_count": 4}, "frame_count", "no animations"),
        ({"prompt": "a", "complexity": "high"}, "complexity", "no planning"),
        ({"prompt": "a", "step": 4}, "step", "did you mean steps"),
        ({"prompt": "a", "input_fidelity": "high"}, "input_fidelity", "no meaning for generations"),
    ],
)
def test_what_cannot_be_had_is_refused_by_name(given, param, says):
    with pytest.raises(Refused, match=says) as caught:
        understood(given, "generations")
    assert (caught.value.status, caught.value.param) == (400, param)


def test_hosted_models_are_the_default_one_and_unknown_ones_are_not_found(server):
    for name in ("gpt-image-1", "dall-e-3", "gpt-image-2.5-flare", "GPT-Image-1", ""):
        assert request_of(server, {"prompt": "a fox", "model": name}).model is None
    assert request_of(server, {"prompt": "a fox", "model": "scenes-128"}).model == "scenes-128"
    for name in ("sd-unknown", "/etc/passwd", "../scenes-128", "https://example.com/m.safetensors"):
        with pytest.raises(Refused) as caught:
            request_of(server, {"prompt": "a fox", "model": name})
        assert (caught.value.status, caught.value.kind, caught.value.param) == (404, "model_not_found", "model")


def test_dalle_clients_expect_addresses():
    assert understood({"prompt": "a", "model": "dall-e-3"}, "generations").output.as_url
    assert not understood(
        {"prompt": "a", "model": "dall-e-3", "response_format": "b64_json"}, "generations"
    ).output.as_url
    assert not understood({"prompt": "a", "model": "gpt-image-1"}, "generations").output.as_url


def test_the_safety_identifier_is_given_back():
    assert understood({"prompt": "a", "user": "me"}, "generations").safety_identifier == "me"
    assert understood({"prompt": "a", "user": "me", "safety_identifier": "x"}, "generations").safety_identifier == "x"


# Forms


def test_forms_hold_lists_objects_and_numbers():
    items = [("prompt", "7"), ("n", "2"), ("stream", "true"), ("loras[]", "one:0.5"), ("loras[]", "two"),
             ("hires[scale]", "1.5"), ("guidance_interval[]", "0.2"), ("guidance_interval[]", "1"),
             ("image[]", b"a"), ("image[]", b"b"), ("mask", b"c")]  # fmt: skip
    form = _sorted_out(items)  # type: ignore[arg-type]
    assert form.fields == {"prompt": "7", "n": 2, "stream": True, "loras": ["one:0.5", "two"],
                           "hires": {"scale": 1.5}, "guidance_interval": [0.2, 1]}  # fmt: skip
    assert form.files == {"image": [b"a", b"b"], "mask": [b"c"]}


@pytest.mark.parametrize(
    "items",
    [[("a[b][c]", "1")], [("n", "1"), ("n", "2")], [("a", "1"), ("a[]", "1")], [("a[]", "1"), ("a[b]", "1")],
     [("[]", "1")], [("prompt", b"file")]],
)  # fmt: skip
def test_forms_that_make_no_sense_are_refused(items):
    with pytest.raises(Refused) as caught:
        _sorted_out(items)
    assert caught.value.status == 400
