"""Pictures and masks through the whole loop of a tiny model: what is kept keeps its bits, and sizes their shape."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from PIL import Image

from wordbrush import GenerationRequest, Pipeline, RequestError
from wordbrush.editing.canvas import Canvas
from wordbrush.editing.setup import side_step

PROMPT = "a fox"


def noise(width: int, height: int) -> Image.Image:
    return Image.fromarray(np.random.default_rng(0).integers(0, 256, (height, width, 3), dtype=np.uint8))


def canvas_of(pipe: Pipeline, **fields: Any) -> Canvas:
    return Canvas(pipe.fill(GenerationRequest(prompt=PROMPT, **fields)), side_step(pipe.parts))


def assert_kept(before: Image.Image, after: Image.Image, mask: Image.Image) -> None:
    """Where the mask is black no bit differs; where it is white the picture was painted."""
    assert before.size == after.size == mask.size
    old, new, white = np.asarray(before), np.asarray(after), np.asarray(mask)
    assert (old[white == 0] == new[white == 0]).all()
    assert (old[white == 255] != new[white == 255]).any(axis=1).mean() > 0.8


MASKS = {
    "hard": {"mask": (8, 4, 12, 16)},
    "feathered": {"mask": (12, 12, 9, 9), "mask_blur": 1.5, "mask_grow": 2},
    "inverted": {"mask": (8, 4, 12, 16), "mask_invert": True},
    "shrunk": {"mask": (3, 3, 25, 20), "mask_grow": -3},
    "only masked": {"mask": (20, 11, 9, 7), "mask_blur": 1.0, "only_masked": True, "only_masked_padding": 3},
}


@pytest.mark.parametrize("fill", ["original", "blur", "noise", "empty"])
@pytest.mark.parametrize("fields", MASKS.values(), ids=MASKS)
def test_pixels_outside_the_feathered_mask_keep_their_bits(
    tiny_pipe: Pipeline, fields: dict[str, Any], fill: str
) -> None:
    picture = noise(37, 30)
    request = GenerationRequest(
        prompt=PROMPT, image=picture, strength=1.0, seed=1, steps=2, count=2, mask_fill=fill, **fields
    )
    canvas = Canvas(tiny_pipe.fill(request), side_step(tiny_pipe.parts))
    assert canvas.picture_mask is not None
    assert {0, 255} <= set(canvas.picture_mask.tobytes())
    first, second = tiny_pipe(request).images
    assert_kept(picture, first, canvas.picture_mask)
    assert_kept(picture, second, canvas.picture_mask)
    assert first.tobytes() != second.tobytes()


@pytest.mark.parametrize("extend", [(5, 0, 0, 0), (0, 7, 0, 0), (0, 0, 9, 0), (0, 0, 0, 3), (4, 3, 2, 1)])
def test_a_picture_is_extended_on_any_side(tiny_pipe: Pipeline, extend: tuple[int, int, int, int]) -> None:
    picture = noise(29, 30)
    result = tiny_pipe(PROMPT, image=picture, extend=extend, seed=1, steps=2)
    left, top, right, bottom = extend
    whole = Image.new("RGB", (29 + left + right, 30 + top + bottom))
    mask = Image.new("L", whole.size, 255)
    whole.paste(picture, (left, top))
    mask.paste(0, (left, top, left + 29, top + 30))
    assert_kept(whole, result.images[0], mask)
    assert (result.request.strength, result.request.mask_fill) == (1.0, "blur")
    assert tiny_pipe(result.request).images[0].tobytes() == result.images[0].tobytes()


def test_extended_and_masked_both_may_change(tiny_pipe: Pipeline) -> None:
    canvas = canvas_of(tiny_pipe, image=noise(16, 16), mask=(0, 0, 2, 2), extend=(4, 0, 0, 0), mask_grow=1)
    assert canvas.picture_mask is not None
    kept = np.asarray(canvas.picture_mask) == 0
    assert kept.sum() == 15 * 16 - 2 * 3  # a column of the grown edge, and the grown box beside it
    assert not kept[:, :5].any()
    assert not kept[:3, :7].any()


def test_only_the_masked_part_is_worked_on_at_full_size(tiny_pipe: Pipeline) -> None:
    canvas = canvas_of(tiny_pipe, image=noise(200, 120), mask=(150, 20, 20, 10), only_masked=True)
    assert (canvas.request.width, canvas.request.height) == (32, 32)  # the model's own
    assert canvas.request.only_masked_padding == 32
    assert canvas.frame.region == (118, 0, 200, 82)
    assert canvas.image is not None
    assert canvas.image.shape == (1, 3, 32, 32)
    result = tiny_pipe(canvas.request)
    assert result.images[0].size == (200, 120)
    assert result.latents.shape == (1, 4, 8, 8)


def test_another_size_is_worked_at_without_distortion(tiny_pipe: Pipeline) -> None:
    picture = Image.new("RGB", (60, 20))
    picture.paste("white", (20, 0, 40, 20))  # a square in the middle
    canvas = canvas_of(tiny_pipe, image=picture, width=40, height=40)
    assert canvas.image is not None
    assert canvas.image[..., 2:-2].min() > 0.9
    request = tiny_pipe.fill(GenerationRequest(prompt=PROMPT, image=picture, width=120))
    assert (request.width, request.height) == (120, 40)


def test_the_transparent_part_may_change_and_its_colours_are_those_beneath(tiny_pipe: Pipeline) -> None:
    picture = noise(32, 32)
    alpha = Image.new("L", picture.size, 255)
    alpha.paste(0, (8, 8, 24, 24))
    cut = picture.copy()
    cut.putalpha(alpha)
    result = tiny_pipe(PROMPT, image=cut, mask="alpha", strength=1.0, seed=1, steps=2)
    assert_kept(picture, result.images[0], Image.eval(alpha, lambda value: 255 - value))
    box = tiny_pipe(PROMPT, image=picture, mask=(8, 8, 16, 16), strength=1.0, seed=1, steps=2)
    assert box.images[0].tobytes() == result.images[0].tobytes()


def test_a_mask_of_each_form_says_the_same(tiny_pipe: Pipeline) -> None:
    drawn = Image.new("1", (32, 32))
    drawn.paste(1, (8, 8, 24, 24))
    masks = (drawn, drawn.convert("RGB"), (8, 8, 16, 16), "8,8,16,16")
    results = [tiny_pipe(PROMPT, image=noise(32, 32), mask=mask, seed=1, steps=2) for mask in masks]
    assert len({result.images[0].tobytes() for result in results}) == 1


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({"mask": Image.new("L", (16, 32))}, r"mask is 16x32 and the picture is 32x32"),
        ({"mask": (30, 0, 4, 4)}, r"30,0,4,4 reaches beyond"),
        ({"mask": "alpha"}, r"mode RGB has none"),
        ({"mask": Image.new("L", (32, 32)), "only_masked": True}, r"keeps the whole picture"),
        ({"mask": Image.new("L", (32, 32))}, r"keeps the whole picture, so nothing would change"),
        ({"mask": (8, 8, 4, 4), "mask_grow": -3}, r"keeps the whole picture after mask_grow"),
        ({"mask": (0, 0, 32, 32), "mask_invert": True}, r"keeps the whole picture after mask_invert"),
        ({"mask": (-1, 0, 4, 4)}, r"-1,0,4,4 begins outside the picture"),
        ({"mask": (0, 0, 4, 0)}, r"0,0,4,0 holds no pixel"),
        ({"mask_blur": 2}, r"mask_blur=2\.0 has no meaning without mask"),
        ({"mask_invert": True, "extend": (8, 0, 0, 0)}, r"mask_invert has no meaning without mask"),
        ({"mask_fill": "grey", "mask": "alpha"}, r"mask_fill='grey'.*original, blur, noise, empty"),
        ({"only_masked_padding": 4, "mask": (0, 0, 4, 4)}, r"only_masked_padding=4 has no meaning without only_masked"),
        ({"extend": (0, 0, 0, 0)}, r"extend=0,0,0,0 adds no pixel"),
        ({"extend": (-1, 0, 0, 0)}, r"extend=.*greater than or equal to 0"),
        ({"extend": (4, 0, 0, 0), "width": 64}, r"extend decides the picture's size"),
        ({"strength": 1.5}, r"strength=1\.5.*less than or equal to 1"),
        ({"strength": -0.1}, r"strength=-0\.1.*greater than or equal to 0"),
    ],
)
def test_what_does_not_fit_gets_one_sentence(tiny_pipe: Pipeline, fields: dict[str, Any], words: str) -> None:
    with pytest.raises(RequestError, match=words) as caught:
        tiny_pipe(PROMPT, image=noise(32, 32), steps=2, **fields)
    assert "\n" not in str(caught.value)


def test_extending_nothing_is_refused() -> None:
    with pytest.raises(RequestError, match="without image"):
        GenerationRequest(prompt=PROMPT, extend=(8, 0, 0, 0))


def test_json_carries_box_and_all(tiny_pipe: Pipeline) -> None:
    request = tiny_pipe.fill(
        GenerationRequest(
            prompt=PROMPT, image=noise(32, 32), mask=(1, 2, 3, 4), mask_grow=2, mask_blur=1.5, mask_fill="noise",
            mask_invert=True, only_masked=True, extend=(1, 2, 3, 4),
        )
    )  # fmt: skip
    assert GenerationRequest.from_json(request.to_json()) == request
    assert request.to_dict()["mask"] == [1, 2, 3, 4]
    text = request.to_infotext()
    for words in (
        "Mask blur: 1.5", "Mask grow: 2", "Mask mode: Inpaint not masked", "Masked content: latent noise",
        "Inpaint area: Only masked", "Masked area padding: 32", "Extend: 1 2 3 4", "Denoising strength: 1",
    ):  # fmt: skip
        assert words in text


def test_a_picture_is_edited_alike_alone_and_in_a_batch(tiny_pipe: Pipeline) -> None:
    request = tiny_pipe.fill(
        GenerationRequest(
            prompt=[PROMPT, "a red car"], count=2, seed=5, image=noise(30, 21), mask=(9, 3, 12, 12), mask_fill="noise",
            sampler="euler_a", strength=0.8, steps=3,
        )
    )  # fmt: skip
    batch = tiny_pipe(request).images
    for index in range(4):
        assert tiny_pipe(request.part(index, index + 1)).images[0].tobytes() == batch[index].tobytes()
