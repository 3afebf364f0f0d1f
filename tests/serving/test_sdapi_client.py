"""The unmodified `webuiapi` client against a real server with the embedded model: every method that it has itself."""

from __future__ import annotations

import asyncio
import inspect
import io
import json
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any, TypeVar

import pytest
import webuiapi  # type: ignore[import-untyped]
from PIL import Image, ImageChops
from tests.serving.conftest import Served
from tests.serving.waiting import until

from wordbrush.pictures import pixel_hash

ELSEWHERE = {"set_auth"}  # which test_sdapi_callers.py calls, on a server with keys
EXTENSIONS = {
    "list_prompt_gen_models", "prompt_gen", "controlnet_version", "controlnet_model_list", "controlnet_module_list",
    "controlnet_detect",
}  # fmt: skip
"""Methods that ask for what an extension of the web UI adds; the server answers 404 to them."""

SMALL: dict[str, Any] = {"width": 64, "height": 64, "steps": 4, "cfg_scale": 4}

COVERED: set[str] = set()

Test = TypeVar("Test", bound=Callable[..., Any])


def covers(*methods: str) -> Callable[[Test], Test]:
    """What a test says it calls; the fixture holds it to its word."""

    def said(test: Test) -> Test:
        COVERED.update(methods)
        setattr(test, "covers", set(methods))  # noqa: B010  a function has no such attribute to mypy
        return test

    return said


class Recorded(webuiapi.WebUIApi):
    """The client, writing down which of its methods are called; it does nothing else."""

    def __getattribute__(self, name: str) -> Any:
        found = super().__getattribute__(name)
        if inspect.ismethod(found) and not name.startswith("_"):
            super().__getattribute__("__dict__").setdefault("_called", set()).add(name)
        return found


@pytest.fixture
def api(request: pytest.FixtureRequest, served: Served) -> Iterator[Recorded]:
    client = Recorded(baseurl=f"{served.url}/sdapi/v1")
    yield client
    missing = getattr(request.function, "covers", set()) - client.__dict__["_called"]
    assert not missing, f"the test did not call {missing}"


def test_every_method_is_covered() -> None:
    methods = {
        name for name, _ in inspect.getmembers(webuiapi.WebUIApi, inspect.isfunction) if not name.startswith("_")
    }
    assert methods - COVERED - ELSEWHERE == EXTENSIONS
    assert methods >= COVERED


def hashes(result: Any) -> list[str]:
    return [pixel_hash(image) for image in result.images]


@covers("check_extensions", "get_scripts")
def test_the_client_connects(api: Recorded) -> None:
    assert [api.has_controlnet, api.has_adetailer, api.has_animatediff] == [False] * 3
    assert api.get_scripts() == {"txt2img": [], "img2img": []}


@covers("txt2img", "post_and_get_api_result")
def test_txt2img(api: Recorded) -> None:
    result = api.txt2img(prompt="a fox on a blue background", seed=7, batch_size=2, n_iter=2, **SMALL)
    assert [image.size for image in result.images] == [(64, 64)] * 4
    assert len(set(hashes(result))) == 4
    info = result.info
    assert info["all_seeds"] == [7, 8, 9, 10]
    assert info["all_prompts"] == ["a fox on a blue background"] * 4
    assert (info["steps"], info["cfg_scale"], info["sampler_name"]) == (4, 4, "Euler a")
    assert (info["width"], info["height"], info["batch_size"]) == (64, 64, 2)
    assert info["sd_model_name"] == "scenes-128"
    assert len(info["infotexts"]) == 4
    assert result.parameters["prompt"] == "a fox on a blue background"
    for image, text in zip(result.images, info["infotexts"], strict=True):
        assert image.info["parameters"] == text
    again = api.txt2img(prompt="a fox on a blue background", seed=9, **SMALL)
    assert hashes(again) == hashes(result)[2:3]


FIELDS = {
    "prompt", "all_prompts", "negative_prompt", "all_negative_prompts", "seed", "all_seeds", "subseed", "all_subseeds",
    "subseed_strength", "width", "height", "sampler_name", "cfg_scale", "steps", "batch_size", "restore_faces",
    "face_restoration_model", "sd_model_name", "sd_model_hash", "sd_vae_name", "sd_vae_hash", "seed_resize_from_w",
    "seed_resize_from_h", "denoising_strength", "extra_generation_params", "index_of_first_image", "infotexts",
    "styles", "job_timestamp", "clip_skip", "is_using_inpainting_conditioning", "version",
}  # fmt: skip


def test_the_info_has_all_fields(api: Recorded) -> None:
    assert set(api.txt2img(prompt="a fox", **SMALL).info) >= FIELDS


def test_variations_keep_the_seed(api: Recorded) -> None:
    plain = api.txt2img(prompt="a fox", seed=7, **SMALL)
    varied = api.txt2img(prompt="a fox", seed=7, subseed=5, subseed_strength=0.2, batch_size=2, **SMALL)
    assert varied.info["all_seeds"] == [7, 7]
    assert varied.info["all_subseeds"] == [5, 6]
    assert varied.info["subseed_strength"] == 0.2
    assert len({*hashes(plain), *hashes(varied)}) == 3


def test_hires_fix(api: Recorded) -> None:
    result = api.txt2img(
        prompt="a fox", seed=7, enable_hr=True, hr_scale=1.5, hr_second_pass_steps=2, denoising_strength=0.5, **SMALL
    )
    assert result.image.size == (96, 96)
    assert result.info["extra_generation_params"]["Hires upscale"] == "1.5"
    assert result.info["denoising_strength"] == 0.5


@covers("img2img")
def test_img2img(api: Recorded) -> None:
    given = api.txt2img(prompt="a fox", seed=7, **SMALL).image
    kept = api.img2img(images=[given], prompt="a fox", seed=7, denoising_strength=0.25, **SMALL).image
    changed = api.img2img(images=[given], prompt="a red car", seed=7, denoising_strength=0.9, **SMALL).image
    assert distance(given, kept) < distance(given, changed)
    larger = api.img2img(images=[given], prompt="a fox", seed=7, **(SMALL | {"width": 96})).image
    assert larger.size == (96, 64)
    both = api.img2img(images=[given, changed], prompt="a fox", seed=7, denoising_strength=0.25, **SMALL)
    assert hashes(both)[0] == pixel_hash(kept)
    assert len(both.images) == 2
    assert both.parameters["init_images"] is None
    echoed = api.img2img(images=[given], prompt="a fox", include_init_images=True, **SMALL)
    assert len(echoed.parameters["init_images"]) == 1


@pytest.mark.parametrize("full", [True, False])
def test_inpainting_keeps_what_is_not_masked(api: Recorded, full: bool) -> None:
    given = api.txt2img(prompt="a fox", seed=7, **SMALL).image
    mask = Image.new("RGB", given.size, "black")
    mask.paste("white", (0, 0, 32, 64))
    how: dict[str, Any] = {"mask_image": mask, "mask_blur": 0, "inpaint_full_res": full, "denoising_strength": 0.9}
    for fill in range(4):
        painted = api.img2img(images=[given], prompt="a red car", seed=3, inpainting_fill=fill, **how, **SMALL).image
        right, left = (32, 0, 64, 64), (0, 0, 32, 64)
        assert painted.crop(right).tobytes() == given.crop(right).tobytes()
        assert painted.crop(left).tobytes() != given.crop(left).tobytes()
    turned = api.img2img(images=[given], prompt="a red car", inpainting_mask_invert=1, **how, **SMALL).image
    assert turned.crop((0, 0, 32, 64)).tobytes() == given.crop((0, 0, 32, 64)).tobytes()


@covers("extra_single_image", "extra_batch_images")
def test_enlarging(api: Recorded) -> None:
    given = api.txt2img(prompt="a fox", seed=7, **SMALL).image
    names = [each["name"] for each in api.get_upscalers()]
    assert names[:2] == ["None", "Lanczos"]
    assert pixel_hash(api.extra_single_image(given).image) == pixel_hash(given)
    assert api.extra_single_image(given, upscaler_1="srresnet", upscaling_resize=2).image.size == (128, 128)
    fitted = api.extra_single_image(
        given, upscaler_1="Lanczos", resize_mode=1, upscaling_resize_w=150, upscaling_resize_h=100
    )
    assert fitted.image.size == (150, 100)
    one, two, mixed = (
        api.extra_single_image(given, upscaler_1=first, upscaler_2=second, extras_upscaler_2_visibility=share).image
        for first, second, share in (("Lanczos", "None", 0), ("Nearest", "None", 0), ("Lanczos", "Nearest", 0.25))
    )
    assert mixed.tobytes() == Image.blend(one, two, 0.25).tobytes()
    batch = api.extra_batch_images([given, given.rotate(90)], upscaler_1=webuiapi.Upscaler.Lanczos)
    assert [image.size for image in batch.images] == [(128, 128)] * 2
    assert hashes(batch)[0] == pixel_hash(one)


@covers("png_info", "util_get_current_model")
def test_a_picture_is_painted_again_from_what_it_says(api: Recorded) -> None:
    first = api.txt2img(
        prompt="a fox, (red:1.2)\non a hill", negative_prompt="blue", seed=77, sampler_name="DPM++ 2M", **SMALL
    )
    told = api.png_info(first.image)
    assert told.info == first.info["infotexts"][0]
    assert "wordbrush" in told.json["items"]
    found = told.parameters
    again = api.txt2img(
        prompt=found["Prompt"], negative_prompt=found["Negative prompt"], seed=int(found["Seed"]),
        steps=int(found["Steps"]), cfg_scale=float(found["CFG scale"]), sampler_name=found["Sampler"],
        scheduler=found["Schedule type"], width=int(found["Size-1"]), height=int(found["Size-2"]),
    )  # fmt: skip
    assert hashes(again) == hashes(first)
    assert found["Model"] in api.util_get_current_model()


def test_the_text_alone_paints_the_picture_again(api: Recorded) -> None:
    first = api.txt2img(
        prompt="a fox", seed=78, subseed=4, subseed_strength=0.3, sampler_name="DPM++ 2M Karras", enable_hr=True,
        hr_scale=1.5, hr_upscaler="Lanczos", **SMALL,
    )  # fmt: skip
    again = api.custom_post("sdapi/v1/txt2img", {"infotext": first.info["infotexts"][0]})
    assert hashes(again) == hashes(first)


@covers("interrogate")
def test_a_picture_is_described(api: Recorded) -> None:
    given = api.txt2img(prompt="a fox on a blue background", seed=7, steps=12, cfg_scale=4, width=128, height=128)
    caption = api.interrogate(given.image).info
    assert isinstance(caption, str)
    assert caption.strip()
    with pytest.raises(RuntimeError) as refused:
        api.interrogate(given.image, model="deepdanbooru")
    assert refused.value.args[0] == 404


@covers("get_options", "set_options", "util_set_model", "util_get_model_names")
def test_options(api: Recorded) -> None:
    before = api.get_options()
    assert before["CLIP_stop_at_last_layers"] == 1
    assert api.set_options({"CLIP_stop_at_last_layers": 2, "my_own": {"kept": [1]}}) is None
    try:
        after = api.get_options()
        assert (after["CLIP_stop_at_last_layers"], after["my_own"]) == (2, {"kept": [1]})
        result = api.txt2img(prompt="a fox", seed=7, **SMALL)
        assert result.info["clip_skip"] == 2
        once = api.txt2img(prompt="a fox", seed=7, override_settings={"CLIP_stop_at_last_layers": 1}, **SMALL)
        assert once.info["clip_skip"] == 1
        assert hashes(once) != hashes(result)
        api.set_options({"samples_format": "jpg", "jpeg_quality": 90})
        jpeg = api.txt2img(prompt="a fox", seed=7, **SMALL).image
        assert jpeg.format == "JPEG"
        sent = api.session.post(f"{api.baseurl}/txt2img", json={"prompt": "a fox", "seed": 7, **SMALL}).json()
        told = api.session.post(f"{api.baseurl}/png-info", json={"image": sent["images"][0]}).json()
        assert told["parameters"]["Seed"] == "7"
        assert told["info"] == json.loads(sent["info"])["infotexts"][0]
        answer = api.set_options({"sd_model_checkpoint": "no such model"})
        assert "no such model" in answer["detail"]
    finally:
        api.set_options(dict.fromkeys(("CLIP_stop_at_last_layers", "my_own", "samples_format", "jpeg_quality")))
    assert api.get_options() == before
    assert before["sd_model_checkpoint"] in api.util_get_model_names()
    api.util_set_model("scenes")
    assert api.get_options()["sd_model_checkpoint"] == before["sd_model_checkpoint"]
    assert api.txt2img(prompt="a fox", **SMALL).info["sd_model_name"] == "scenes-128"


def in_background(work: Callable[[], Any]) -> tuple[threading.Thread, list[Any]]:
    results: list[Any] = []
    thread = threading.Thread(target=lambda: results.append(work()))
    thread.start()
    return thread, results


@covers("get_progress", "interrupt", "util_wait_for_ready")
def test_progress_and_interrupting(api: Recorded) -> None:
    api.util_wait_for_ready(0.05)
    idle = api.get_progress()
    assert (idle["progress"], idle["state"]["job_count"], idle["current_image"]) == (0, 0, None)
    size = {"width": 256, "height": 256, "steps": 200}
    thread, results = in_background(lambda: api.txt2img(prompt="a fox", seed=7, n_iter=2, **size))

    def painting() -> Any:
        told = api.get_progress()
        return told if told["progress"] > 0.01 and told["current_image"] else None

    told = until(painting, 30)
    assert 0 < told["progress"] < 1
    assert told["state"]["job_count"] == 2
    assert 0 < told["state"]["sampling_step"] <= told["state"]["sampling_steps"]
    assert told["eta_relative"] > 0
    with Image.open(io.BytesIO(webuiapi.webuiapi.base64.b64decode(told["current_image"]))) as preview:
        assert preview.size[0] >= 16
    began = time.monotonic()
    assert api.interrupt() == {}
    thread.join(30)
    assert time.monotonic() - began < 10
    (result,) = results
    assert 1 <= len(result.images) <= 2
    assert result.image.size == (256, 256)
    api.util_wait_for_ready(0.05)


@covers("skip")
def test_skipping_goes_on_with_the_next(api: Recorded) -> None:
    size = {"width": 192, "height": 192, "steps": 24}
    thread, results = in_background(lambda: api.txt2img(prompt="a fox", seed=7, n_iter=2, **size))
    until(lambda: api.get_progress()["state"]["sampling_step"] > 1, 30)
    assert api.skip() is None
    assert until(lambda: api.get_progress()["state"]["skipped"] or not thread.is_alive(), 30)
    thread.join(120)
    (result,) = results
    assert len(result.images) == 2
    whole = api.txt2img(prompt="a fox", seed=8, **size)
    assert hashes(result)[1] == hashes(whole)[0]


def test_a_task_is_known_by_its_name(api: Recorded) -> None:
    body = {"prompt": "a fox", "width": 256, "height": 256, "steps": 100, "force_task_id": "task(mine)"}
    thread, results = in_background(lambda: api.custom_post("sdapi/v1/txt2img", body))
    until(lambda: api.get_progress()["current_task"] == "task(mine)", 30)
    assert "task(mine)" in api.custom_get("internal/pending-tasks")["tasks"]

    def preview() -> Any:
        told = api.session.post(
            api.get_endpoint("internal/progress", baseurl=False), json={"id_task": "task(mine)"}
        ).json()
        return told if told["live_preview"] else None

    told = until(preview, 30)
    assert (told["active"], told["completed"]) == (True, False)
    assert told["live_preview"].startswith("data:image/jpeg;base64,")
    assert api.session.get(f"{api.baseurl}/progress?id_task=task(other)").status_code == 404
    api.session.post(f"{api.baseurl}/interrupt?id_task=task(mine)")
    thread.join(30)
    assert len(results) == 1
    told = api.session.post(api.get_endpoint("internal/progress", baseurl=False), json={"id_task": "task(mine)"}).json()
    assert (told["active"], told["completed"]) == (False, True)


@covers(
    "get_samplers", "get_schedulers", "util_get_sampler_names", "util_get_scheduler_names", "get_upscalers",
    "get_latent_upscale_modes", "get_sd_models", "get_sd_vae", "get_loras", "get_hypernetworks", "get_face_restorers",
    "get_realesrgan_models", "get_prompt_styles", "get_embeddings", "refresh_checkpoints", "get_cmd_flags",
    "get_memory", "get_artists", "get_artist_categories",
)  # fmt: skip
def test_lists(api: Recorded) -> None:
    assert "Euler a" in api.util_get_sampler_names()
    assert {"automatic", "karras"} <= set(api.util_get_scheduler_names())
    assert {"name", "aliases", "options"} == set(api.get_samplers()[0])
    assert {"name", "label", "aliases", "default_rho", "need_inner_model"} == set(api.get_schedulers()[0])
    assert {"name", "model_name", "model_path", "model_url", "scale"} == set(api.get_upscalers()[0])
    labels = {mode.value for mode in webuiapi.HiResUpscaler if mode.value.startswith("Latent")}
    assert {each["name"] for each in api.get_latent_upscale_modes()} == labels
    (model, *_) = api.get_sd_models()
    assert {"title", "model_name", "hash", "sha256", "filename", "config"} == set(model)
    assert model["model_name"] == "scenes-128"
    assert "/" not in model["filename"]
    for empty in (api.get_hypernetworks(), api.get_face_restorers(), api.get_realesrgan_models()):
        assert empty == []
    assert isinstance(api.get_sd_vae(), list)
    assert isinstance(api.get_loras(), list)
    assert set(api.get_embeddings()) == {"loaded", "skipped"}
    assert all({"name", "prompt", "negative_prompt"} == set(style) for style in api.get_prompt_styles())
    assert api.refresh_checkpoints() is None
    assert api.get_cmd_flags()["api"] is True
    ram = api.get_memory()["ram"]
    assert 0 < ram["used"] < ram["total"]
    for gone in (api.get_artists(), api.get_artist_categories()):
        assert gone["error"] == "NotFound"


@covers("custom_get", "custom_post", "get_endpoint")
def test_the_pages_own_questions(api: Recorded) -> None:
    assert api.custom_get("internal/ping") == {}
    assert api.custom_get("internal/sysinfo")["Version"].startswith("wordbrush")
    assert api.custom_get("script-info", baseurl=True) == api.custom_get("extensions", baseurl=True) == []
    for name in ("refresh-vae", "refresh-loras", "refresh-embeddings", "unload-checkpoint", "reload-checkpoint"):
        answer = api.session.post(api.get_endpoint(name, baseurl=True))
        assert answer.status_code == 200, name
    assert api.custom_post("sdapi/v1/txt2img", {"prompt": "a fox", **SMALL}).image.size == (64, 64)


@covers("async_post")
def test_async(api: Recorded) -> None:
    pytest.importorskip("aiohttp")

    async def both() -> tuple[Any, Any]:
        how: dict[str, Any] = {"prompt": "a fox", "use_async": True, **SMALL}
        return await asyncio.gather(api.txt2img(seed=7, **how), api.txt2img(seed=8, **how))

    one, two = asyncio.run(both())
    together = api.txt2img(prompt="a fox", seed=7, batch_size=2, **SMALL)
    assert hashes(one) + hashes(two) == hashes(together)


def test_what_only_the_model_knows_is_refused_too(api: Recorded) -> None:
    with pytest.raises(RuntimeError, match="width=13 is not a multiple of 8") as refused:
        api.txt2img(prompt="a fox", **(SMALL | {"width": 13}))
    assert refused.value.args[0] == 422


def distance(one: Image.Image, two: Image.Image) -> float:
    levels = ImageChops.difference(one.convert("L"), two.convert("L")).histogram()
    return sum(level * count for level, count in enumerate(levels)) / sum(levels)
