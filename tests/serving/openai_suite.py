"""What the unmodified `openai` client must be able to do with a server; run by the newest client and by an older major.

    python tests/serving/openai_suite.py http://127.0.0.1:7860 [KEY]

Prints a line for each check; exits with 1 when one failed.
"""

from __future__ import annotations

import asyncio
import base64
import io
import sys
import time
import traceback
import urllib.request
import warnings
from collections.abc import Callable
from typing import TypeVar

import openai
from PIL import Image, ImageChops, ImageDraw

PROMPT = "a fox on a blue background"
E = TypeVar("E", bound=openai.APIError)
CHECKS: list[Callable[[Suite], None]] = []


class Suite:
    """The clients, and what the checks share."""

    def __init__(self, url: str, key: str) -> None:
        self.url, self.key = url, key
        self.client = openai.OpenAI(base_url=f"{url}/v1", api_key=key)
        self.asynchronous = openai.AsyncOpenAI(base_url=f"{url}/v1", api_key=key)


def check(function: Callable[[Suite], None]) -> Callable[[Suite], None]:
    CHECKS.append(function)
    return function


def opened(text: str | None) -> Image.Image:
    assert text
    picture = Image.open(io.BytesIO(base64.b64decode(text)))
    picture.load()
    return picture


def png(picture: Image.Image) -> bytes:
    buffer = io.BytesIO()
    picture.save(buffer, format="PNG")
    return buffer.getvalue()


def fetched(url: str) -> tuple[str, bytes]:
    with urllib.request.urlopen(url) as answer:  # without any key
        return answer.headers["Content-Type"], answer.read()


def scene(suite: Suite, seed: int = 3) -> bytes:
    made = suite.client.images.generate(model="scenes-128", prompt=PROMPT, extra_body={"seed": seed, "steps": 8})
    return base64.b64decode(made.data[0].b64_json)


def caught(kind: type[E], call: Callable[[], object]) -> E:
    try:
        call()
    except kind as error:
        return error
    raise AssertionError(f"{kind.__name__} was not raised")


def raises(kind: type[openai.APIStatusError], param: str | None, call: Callable[[], object]) -> openai.APIStatusError:
    error = caught(kind, call)
    assert type(error) is kind, type(error)
    assert error.param == param, (error.param, param, error.message)
    assert error.message, "no message"
    assert isinstance(error.body, dict), error.body
    assert {"message", "type", "param", "code"} <= set(error.body), error.body
    return error


@check
def models_are_listed_and_read(suite: Suite) -> None:
    found = list(suite.client.models.list())
    assert "scenes-128" in [model.id for model in found]
    one = suite.client.models.retrieve("scenes-128")
    assert (one.id, one.object, type(one.created)) == ("scenes-128", "model", int)
    assert one.owned_by
    unknown = caught(openai.NotFoundError, lambda: suite.client.models.retrieve("gpt-4o"))
    assert "gpt-4o" in unknown.message


@check
def a_text_is_painted(suite: Suite) -> None:
    made = suite.client.images.generate(model="scenes-128", prompt=PROMPT, n=2, size="128x128", extra_body={"steps": 6})
    assert len(made.data) == 2
    first, second = (opened(picture.b64_json) for picture in made.data)
    assert (first.format, first.size, first.mode) == ("PNG", (128, 128), "RGB")
    assert first.tobytes() != second.tobytes()
    assert abs(time.time() - made.created) < 600
    assert made.data[0].url is None
    assert (made.output_format, made.quality, made.size, made.background) == ("png", "medium", "128x128", "opaque")
    assert made.usage.input_tokens == made.usage.input_tokens_details.text_tokens == made.usage.total_tokens > 5
    assert made.usage.output_tokens == 0
    assert "parameters" in first.info


@check
def the_same_seed_gives_the_same_pixels(suite: Suite) -> None:
    one, two = (opened(base64.b64encode(scene(suite, seed=7)).decode()) for _ in range(2))
    assert one.tobytes() == two.tobytes()
    assert opened(base64.b64encode(scene(suite, seed=8)).decode()).tobytes() != one.tobytes()


@check
def every_field_of_a_request_is_understood(suite: Suite) -> None:
    extra = {"seed": 1, "steps": 5, "guidance": 2.5, "sampler": "euler", "schedule": "normal", "negative_prompt": "red"}
    made = suite.client.images.generate(model="scenes-128", prompt=PROMPT, extra_body=extra)
    text = opened(made.data[0].b64_json).info["parameters"]
    parts = ("Negative prompt: red", "Steps: 5", "Sampler: Euler", "CFG scale: 2.5", "Seed: 1")
    assert all(part in text for part in parts), text


@check
def names_of_hosted_models_stand_for_the_default_one(suite: Suite) -> None:
    made = suite.client.images.generate(model="gpt-image-1", prompt=PROMPT, extra_body={"steps": 2})
    assert "Model: scenes-128" in opened(made.data[0].b64_json).info["parameters"]
    old = suite.client.images.generate(model="dall-e-3", prompt=PROMPT, style="vivid", extra_body={"steps": 2})
    assert old.data[0].url


@check
def addresses_open_without_a_key(suite: Suite) -> None:
    extra = {"seed": 5, "steps": 4}
    made = suite.client.images.generate(
        model="scenes-128", prompt=PROMPT, response_format="url", extra_body=extra, user="someone"
    )
    url = made.data[0].url
    assert url is not None
    assert url.startswith(f"{suite.url}/v1/images/"), url
    assert made.data[0].b64_json is None
    assert made.model_dump().get("safety_identifier") == "someone"
    kind, data = fetched(url)
    again = suite.client.images.generate(model="scenes-128", prompt=PROMPT, extra_body=extra)
    assert kind == "image/png"
    assert Image.open(io.BytesIO(data)).tobytes() == opened(again.data[0].b64_json).tobytes()
    made = suite.client.images.generate(
        model="scenes-128", prompt=PROMPT, response_format="url", output_format="webp", output_compression=40,
        extra_body=extra,
    )  # fmt: skip
    kind, data = fetched(made.data[0].url or "")
    assert (kind, Image.open(io.BytesIO(data)).format) == ("image/webp", "WEBP")


@check
def formats_and_compression(suite: Suite) -> None:
    sizes = {}
    for kind, name in (("jpeg", "JPEG"), ("webp", "WEBP")):
        for compression in (100, 10):
            made = suite.client.images.generate(
                model="scenes-128", prompt=PROMPT, output_format=kind, output_compression=compression,  # type: ignore[arg-type]
                extra_body={"seed": 2, "steps": 6},
            )  # fmt: skip
            assert made.output_format == kind
            assert opened(made.data[0].b64_json).format == name
            sizes[kind, compression] = len(made.data[0].b64_json or "")
        assert sizes[kind, 10] < sizes[kind, 100]


@check
def sizes_of_hosted_models(suite: Suite) -> None:
    for size, wanted in (("512x512", (512, 512)), ("1536x1024", (1536, 1024)), ("64x96", (64, 96))):
        made = suite.client.images.generate(model="scenes-128", prompt=PROMPT, size=size, extra_body={"steps": 2})  # type: ignore[arg-type]
        assert opened(made.data[0].b64_json).size == wanted
        assert made.size == size
    made = suite.client.images.generate(model="scenes-128", prompt=PROMPT, size="auto", quality="low", n=1)
    assert (made.size, made.quality) == ("128x128", "low")
    assert "Steps: 10" in opened(made.data[0].b64_json).info["parameters"]


def streamed(events: list[object], kind: str, partials: int) -> Image.Image:
    types = [event.type for event in events]  # type: ignore[attr-defined]
    assert types == [f"{kind}.partial_image"] * partials + [f"{kind}.completed"], types
    for index, event in enumerate(events[:-1]):
        assert event.partial_image_index == index  # type: ignore[attr-defined]
        partial = opened(event.b64_json)  # type: ignore[attr-defined]
        assert f"{partial.width}x{partial.height}" == event.size  # type: ignore[attr-defined]
        assert len(partial.getcolors(1 << 24) or ()) > 16, "a preview shows nothing"
    last = events[-1]
    assert last.usage.total_tokens > 0  # type: ignore[attr-defined]
    assert last.output_format in ("png", "webp")  # type: ignore[attr-defined]
    assert last.created_at > 1_700_000_000  # type: ignore[attr-defined]
    return opened(last.b64_json)  # type: ignore[attr-defined]


@check
def pictures_are_streamed_with_three_partials(suite: Suite) -> None:
    extra = {"seed": 4, "steps": 20}
    stream = suite.client.images.generate(prompt=PROMPT, stream=True, partial_images=3, extra_body=extra)
    final = streamed(list(stream), "image_generation", 3)
    plain = suite.client.images.generate(prompt=PROMPT, extra_body=extra)
    assert final.tobytes() == opened(plain.data[0].b64_json).tobytes()


@check
def partials_come_before_the_end(suite: Suite) -> None:
    stream = suite.client.images.generate(
        model="scenes-128", prompt=PROMPT, stream=True, partial_images=2, output_format="webp", extra_body={"steps": 60}
    )
    times = [time.monotonic() for _ in stream]
    assert len(times) == 3
    assert times[2] - times[0] > 0.05, "all at once"


@check
def streams_of_several_pictures(suite: Suite) -> None:
    stream = suite.client.images.generate(model="scenes-128", prompt=PROMPT, n=2, stream=True, extra_body={"steps": 4})
    events = list(stream)
    assert [event.type for event in events] == ["image_generation.completed"] * 2  # no partials were asked for
    assert events[0].b64_json != events[1].b64_json


def masked(data: bytes) -> tuple[bytes, Image.Image]:
    """A mask whose right half is transparent, and which pixels that keeps."""
    size = Image.open(io.BytesIO(data)).size
    mask, kept = Image.new("RGBA", size, "black"), Image.new("L", size, 255)
    box = (size[0] // 2, 0, size[0] - 1, size[1] - 1)
    ImageDraw.Draw(mask).rectangle(box, fill=(0, 0, 0, 0))
    ImageDraw.Draw(kept).rectangle(box, fill=0)
    return png(mask), kept


def unchanged(before: bytes, after: Image.Image, kept: Image.Image) -> None:
    was = Image.open(io.BytesIO(before)).convert("RGB")
    assert after.size == was.size, after.size
    difference = ImageChops.difference(was, after.convert("RGB"))
    outside = Image.composite(difference, Image.new("RGB", was.size), kept)
    inside = Image.composite(Image.new("RGB", was.size), difference, kept)
    assert outside.getbbox() is None, "a pixel outside the mask has changed"
    assert inside.getbbox() is not None, "nothing has changed under the mask"


@check
def an_edit_with_a_mask_keeps_the_rest(suite: Suite) -> None:
    picture = scene(suite)
    mask, kept = masked(picture)
    edited = suite.client.images.edit(
        model="scenes-128", image=("scene.png", picture), mask=("mask.png", mask), n=2,
        prompt="a fox and a cat on a blue background", extra_body={"seed": 1, "steps": 8},
    )  # fmt: skip
    assert len(edited.data) == 2
    for made in edited.data:
        unchanged(picture, opened(made.b64_json), kept)


@check
def a_large_picture_with_a_mask_keeps_the_rest(suite: Suite) -> None:
    large = png(Image.open(io.BytesIO(scene(suite))).resize((500, 376)))
    mask, kept = masked(large)
    edited = suite.client.images.edit(
        model="gpt-image-1", image=large, mask=mask, prompt="a cat on a blue background", extra_body={"steps": 4}
    )
    unchanged(large, opened(edited.data[0].b64_json), kept)


@check
def an_edit_without_a_mask_changes_the_whole(suite: Suite) -> None:
    picture = scene(suite)
    edited = suite.client.images.edit(
        model="scenes-128", image=[io.BytesIO(picture)], prompt="a cat on a red background",
        extra_body={"steps": 8, "strength": 0.9},
    )  # fmt: skip
    assert opened(edited.data[0].b64_json).tobytes() != Image.open(io.BytesIO(picture)).tobytes()
    sized = suite.client.images.edit(
        model="scenes-128", image=picture, prompt="a cat on a red background", size="256x256", extra_body={"steps": 4}
    )
    assert opened(sized.data[0].b64_json).size == (256, 256)


@check
def an_edit_is_streamed(suite: Suite) -> None:
    picture = scene(suite)
    mask, kept = masked(picture)
    stream = suite.client.images.edit(
        model="scenes-128", image=picture, mask=mask, prompt=PROMPT, stream=True, partial_images=2,
        extra_body={"steps": 20},
    )  # fmt: skip
    unchanged(picture, streamed(list(stream), "image_edit", 2), kept)


def variation(suite: Suite) -> Callable[..., openai.types.ImagesResponse]:
    warnings.simplefilter("ignore", DeprecationWarning)  # the hosted endpoint is closed; ours is not
    return suite.client.images.create_variation


@check
def variations_of_a_picture_of_ours_and_of_another(suite: Suite) -> None:
    picture = scene(suite)
    made = variation(suite)(image=picture, n=2, model="dall-e-2", response_format="b64_json", size="256x256")
    assert len({one.b64_json for one in made.data}) == 2
    first = opened(made.data[0].b64_json)
    assert first.size == (256, 256)
    assert "Variation seed strength: 0.15" in first.info["parameters"], first.info["parameters"]
    plain = Image.open(io.BytesIO(picture)).convert("RGB").transpose(Image.Transpose.FLIP_LEFT_RIGHT)
    other = variation(suite)(image=png(plain), n=1, response_format="b64_json", extra_body={"steps": 8})
    assert opened(other.data[0].b64_json).size == (128, 128)


@check
def errors_are_typed(suite: Suite) -> None:
    images = suite.client.images
    paint = images.generate
    bad = openai.BadRequestError
    raises(bad, "n", lambda: paint(prompt=PROMPT, n=11))
    raises(bad, "background", lambda: paint(prompt=PROMPT, background="transparent"))
    raises(bad, "size", lambda: paint(prompt=PROMPT, size="100x100"))  # type: ignore[call-overload]
    raises(bad, "size", lambda: paint(prompt=PROMPT, size="8192x8192"))  # type: ignore[call-overload]
    raises(bad, "steps", lambda: paint(prompt=PROMPT, extra_body={"steps": 0}))
    raises(bad, "sampler", lambda: paint(prompt=PROMPT, extra_body={"sampler": "best"}))
    raises(bad, "colour", lambda: paint(prompt=PROMPT, extra_body={"colour": "red"}))
    raises(bad, "output_format", lambda: paint(prompt=PROMPT, output_format="gif"))  # type: ignore[call-overload]
    raises(bad, "image", lambda: images.edit(prompt=PROMPT, image=b"no picture"))
    raises(bad, "image", lambda: images.edit(prompt=PROMPT, image=[png(Image.new("RGB", (64, 64)))] * 2))
    wrong = png(Image.new("RGBA", (32, 32)))
    raises(bad, "mask", lambda: images.edit(prompt=PROMPT, image=png(Image.new("RGB", (64, 64))), mask=wrong))
    raises(bad, "stream", lambda: variation(suite)(image=wrong, extra_body={"stream": True}))
    found = raises(openai.NotFoundError, "model", lambda: paint(prompt=PROMPT, model="sd-9"))
    assert found.code == "model_not_found"
    # The worker's own refusal, which nobody could have foreseen here.
    raises(bad, "image_guidance", lambda: paint(prompt=PROMPT, extra_body={"image_guidance": 2}))
    ask = {"prompt": PROMPT, "stream": True, "extra_body": {"image_guidance": 2}}
    streamed_error = caught(openai.APIError, lambda: list(paint(**ask)))  # type: ignore[call-overload]
    assert "image_guidance" in streamed_error.message


@check
def an_idempotency_key_paints_once(suite: Suite) -> None:
    ask = {"prompt": PROMPT, "extra_headers": {"Idempotency-Key": f"suite-{time.time()}"}, "extra_body": {"steps": 4}}
    one, two = (suite.client.images.generate(**ask) for _ in range(2))  # type: ignore[call-overload]
    assert one.data[0].b64_json == two.data[0].b64_json
    raises(openai.ConflictError, None, lambda: suite.client.images.generate(**{**ask, "prompt": "a cat"}))  # type: ignore[call-overload]


@check
def a_wrong_key_is_refused(suite: Suite) -> None:
    if not suite.key.startswith("wb"):
        return  # a server without keys lets everybody on this machine in
    client = openai.OpenAI(base_url=f"{suite.url}/v1", api_key="wrong")
    raises(openai.AuthenticationError, None, lambda: client.images.generate(prompt=PROMPT))


@check
def the_asynchronous_client(suite: Suite) -> None:
    async def several() -> None:
        client = suite.asynchronous
        extra = {"seed": 4, "steps": 20}
        made = await asyncio.gather(
            *(
                client.images.generate(model="scenes-128", prompt=PROMPT, extra_body={**extra, "seed": 4 + i})
                for i in range(4)
            )
        )
        assert len({one.data[0].b64_json for one in made}) == 4
        stream = await client.images.generate(prompt=PROMPT, stream=True, partial_images=3, extra_body=extra)
        final = streamed([event async for event in stream], "image_generation", 3)
        assert final.tobytes() == opened(made[0].data[0].b64_json).tobytes()
        picture = base64.b64decode(made[0].data[0].b64_json)
        mask, kept = masked(picture)
        edited = await client.images.edit(image=picture, mask=mask, prompt=PROMPT, extra_body={"steps": 6})
        unchanged(picture, opened(edited.data[0].b64_json), kept)
        assert [model.id async for model in client.models.list()]
        await client.close()

    asyncio.run(several())


def main() -> int:
    url = sys.argv[1].rstrip("/")
    suite = Suite(url, sys.argv[2] if len(sys.argv) > 2 else "unused")
    wanted = set(sys.argv[3:])
    failed = 0
    for function in CHECKS:
        if wanted and function.__name__ not in wanted:
            continue
        began = time.monotonic()
        try:
            function(suite)
            print(f"ok    {function.__name__} ({time.monotonic() - began:.1f} s)", flush=True)
        except Exception:  # noqa: BLE001, every check is to be run
            failed += 1
            print(f"FAIL  {function.__name__}\n{traceback.format_exc()}", flush=True)
    print(f"openai {openai.__version__}: {len(wanted or CHECKS) - failed} passed, {failed} failed")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
