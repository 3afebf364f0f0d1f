"""OpenAI's edits and variations as requests: masks, sizes, noise; and pictures in other formats."""

from __future__ import annotations

import json
from io import BytesIO
from typing import Any

import pytest
from PIL import Image, ImageDraw
from PIL.PngImagePlugin import PngInfo
from tests.serving.openai_parts import parts, request_of

from wordbrush.errors import RequestError
from wordbrush.metadata import PictureMetadata, png_bytes
from wordbrush.pictures import unpack_picture
from wordbrush.request import GenerationRequest
from wordbrush.serving.errors import Refused
from wordbrush.serving.openai.parameters import Asked, Output, understood
from wordbrush.serving.openai.pictures import encoded, mask_from, preview
from wordbrush.serving.openai.requests import works_of
from wordbrush.serving.openai.usage import usage_of


def picture_bytes(picture: Image.Image, kind: str = "PNG") -> bytes:
    buffer = BytesIO()
    picture.save(buffer, format=kind)
    return buffer.getvalue()


@pytest.fixture
def server(tmp_path) -> Any:
    return parts(tmp_path)


# Edits


def scene(size=(128, 96), mode="RGB") -> Image.Image:
    picture = Image.new(mode, size, "blue" if mode == "RGB" else (0, 0, 255, 255))
    ImageDraw.Draw(picture).ellipse((10, 10, 60, 60), fill="red")
    return picture


def hole(size=(128, 96), box=(0, 0, 63, 95)) -> Image.Image:
    mask = Image.new("RGBA", size, (0, 0, 0, 255))
    ImageDraw.Draw(mask).rectangle(box, fill=(0, 0, 0, 0))
    return mask


def test_a_transparent_mask_becomes_white(server):
    files = {"image": [picture_bytes(scene())], "mask": [picture_bytes(hole())]}
    request = request_of(server, {"prompt": "a fox"}, "edits", **files)
    assert request.strength == 1.0
    assert request.mask is not None
    assert request.image is not None
    mask = server.store.inputs.image(request.mask.sha256)
    assert mask.mode == "L"
    assert mask.getpixel((5, 5)) == 255
    assert mask.getpixel((100, 5)) == 0
    assert server.store.inputs.image(request.image.sha256).tobytes() == scene().tobytes()
    assert request.image.path is None


def test_half_transparent_may_change_by_half():
    alpha = Image.new("RGBA", (8, 8), (0, 0, 0, 128))
    assert mask_from(alpha, Image.new("RGB", (8, 8))).getpixel((0, 0)) == 127


@pytest.mark.parametrize(
    ("mask", "says"),
    [
        (hole((64, 64)), "mask is 64x64 and the image 128x96"),
        (Image.new("L", (128, 96)), "no transparency"),
        (Image.new("RGBA", (128, 96), "black"), "opaque everywhere"),
    ],
)
def test_masks_that_do_not_fit_are_refused(server, mask, says):
    files = {"image": [picture_bytes(scene())], "mask": [picture_bytes(mask)]}
    with pytest.raises(Refused, match=says) as caught:
        request_of(server, {"prompt": "a fox"}, "edits", **files)
    assert caught.value.param == "mask"


def test_a_picture_with_holes_is_its_own_mask(server):
    picture = scene(mode="RGBA")
    picture.paste((0, 0, 0, 0), (0, 0, 32, 32))
    request = request_of(server, {"prompt": "a fox"}, "edits", image=[picture_bytes(picture)])
    assert request.mask is not None
    assert server.store.inputs.image(request.mask.sha256).getbbox() == (0, 0, 32, 32)


def test_an_edit_without_a_mask_and_its_fidelity(server):
    sent = [picture_bytes(scene(), "JPEG")]
    assert request_of(server, {"prompt": "a fox"}, "edits", image=sent).strength is None
    assert request_of(server, {"prompt": "a fox", "input_fidelity": "high"}, "edits", image=sent).strength == 0.5
    assert request_of(server, {"prompt": "a fox", "strength": 0.3}, "edits", image=sent).strength == 0.3


def test_large_pictures_are_worked_on_in_the_models_size(server):
    large = [picture_bytes(scene((600, 450)))]
    request = request_of(server, {"prompt": "a fox"}, "edits", image=large)
    assert (request.width, request.height) == (144, 112)
    assert request.upscale == pytest.approx(4.09, abs=0.01)
    masked = request_of(server, {"prompt": "a fox"}, "edits", image=large, mask=[picture_bytes(hole((600, 450)))])
    assert (masked.only_masked, masked.width, masked.height, masked.upscale) == (True, 128, 128, None)


def test_a_masked_edit_in_another_size_is_fitted_to_it_first(server):
    files = {"image": [picture_bytes(scene())], "mask": [picture_bytes(hole())]}
    request = request_of(server, {"prompt": "a fox", "size": "128x128"}, "edits", **files)
    assert request.image is not None
    assert request.mask is not None
    assert server.store.inputs.image(request.image.sha256).size == (128, 128)
    assert server.store.inputs.image(request.mask.sha256).size == (128, 128)


@pytest.mark.parametrize(
    ("files", "param"),
    [
        ({}, "image"),
        ({"image": [b"a", b"b"]}, "image"),
        ({"image": [b"no picture"]}, "image"),
        ({"image": [picture_bytes(scene())], "mask": [b"no picture"]}, "mask"),
        ({"image": [picture_bytes(scene())], "markup": [b"a"]}, "markup"),
    ],
)
def test_uploads_that_cannot_be_used_are_refused(server, files, param):
    with pytest.raises(Refused) as caught:
        request_of(server, {"prompt": "a fox"}, "edits", **files)
    assert (caught.value.status, caught.value.param) == (400, param)


# Variations


def painted(**fields: Any) -> bytes:
    request = GenerationRequest(
        prompt="a fox", model="scenes-128", seed=7, steps=4, guidance=4.0, sampler="euler", schedule="normal",
        width=128, height=128, **fields,
    )  # fmt: skip
    return png_bytes(Image.new("RGB", (128, 128), "red"), PictureMetadata(request=request))


def test_a_picture_of_ours_varies_by_its_noise(server):
    works = works_of(understood({"n": 3, "seed": 11}, "variations"), {"image": [painted()]}, server)
    assert [work.request.variation_seed for work in works] == [11, 12, 13]
    for work in works:
        request = work.request
        assert (request.prompt, request.seed, request.count, request.sampler) == ("a fox", 7, 1, "euler")
        assert (request.variation_strength, request.image) == (0.15, None)
    (drawn,) = works_of(understood({}, "variations"), {"image": [painted()]}, server)
    assert drawn.request.variation_seed is None
    (large,) = works_of(understood({"size": "512x512"}, "variations"), {"image": [painted()]}, server)
    assert (large.request.upscale, large.request.width) == (4.0, 128)


def test_any_other_picture_is_begun_from(server):
    (work,) = works_of(understood({"n": 2}, "variations"), {"image": [picture_bytes(scene())]}, server)
    request = work.request
    assert (request.prompt, request.strength, request.count) == ("", 0.5, 2)
    assert request.image is not None
    (worded,) = works_of(understood({"prompt": "a fox"}, "variations"), {"image": [picture_bytes(scene())]}, server)
    assert worded.request.prompt == "a fox"
    masked = painted(image=Image.new("RGB", (128, 128)), strength=0.5)
    (again,) = works_of(understood({}, "variations"), {"image": [masked]}, server)
    assert again.request.image is not None
    assert again.request.prompt == "a fox"


def test_a_hostile_record_in_a_picture_names_no_files(server):
    data = painted()
    picture = unpack_picture(data, "x")
    record = json.loads(picture.info["wordbrush"])
    for changed in (
        {"model": "/etc/passwd"},
        {"image": {"path": "/etc/passwd"}},
        {"latents": {"path": "x"}},
        {"seed": "x"},
    ):
        info = PngInfo()
        info.add_text("wordbrush", json.dumps({**record, "request": {**record["request"], **changed}}))
        buffer = BytesIO()
        picture.save(buffer, format="PNG", pnginfo=info)
        files = {"image": [buffer.getvalue()]}
        if "seed" in changed:
            with pytest.raises(RequestError, match="seed"):
                works_of(understood({}, "variations"), files, server)
            continue
        (work,) = works_of(understood({}, "variations"), files, server)
        assert work.request.image is not None
        assert work.request.image.path is None
        assert work.request.latents is None


# Files


@pytest.mark.parametrize("kind", ["jpeg", "webp"])
def test_other_formats_carry_the_parameters_and_obey_compression(kind):
    noise = Image.effect_noise((128, 128), 80).convert("RGB")
    request = GenerationRequest.from_dict(json.loads(unpack_picture(painted(), "x").info["wordbrush"])["request"])
    png = png_bytes(noise, PictureMetadata(request=request))
    best, worst = (encoded(png, Output(format=kind, quality=quality)) for quality in (100, 10))
    assert len(worst) < len(best) / 2
    opened = unpack_picture(best, "x")
    assert opened.size == (128, 128)
    comment = opened.getexif().get_ifd(0x8769)[0x9286]
    assert comment.startswith(b"UNICODE\0")
    assert comment[8:].decode("utf-16-be").startswith("a fox\nSteps: 4, Sampler: Euler")
    assert encoded(png, Output()) == png


def test_previews_are_brought_to_the_final_size():
    small = picture_bytes(scene((16, 12)), "JPEG")
    data, size = preview(small, (128, 96), Output(format="webp"))
    assert size == (128, 96)
    assert unpack_picture(data, "x").size == (128, 96)
    assert preview(small, None, Output())[1] == (16, 12)


def test_tokens_of_the_texts_are_counted_and_pictures_have_none(server):
    usage = usage_of(["a fox on a blue background", "red"], None, server)
    assert usage.input_tokens == usage.input_tokens_details.text_tokens == usage.total_tokens == 7
    assert (usage.output_tokens, usage.input_tokens_details.image_tokens) == (0, 0)


def test_nothing_understood_is_lost() -> None:
    asked: Asked = understood({"prompt": "a", "seed": 1, "moderation": "low", "background": "opaque"}, "generations")
    assert asked.fields == {"count": 1, "prompt": "a", "seed": 1}
