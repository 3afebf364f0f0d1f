"""What clients of the web UI ask, as our own requests; no server, no model."""

from __future__ import annotations

from typing import Any

import pytest
from PIL import Image

from wordbrush.errors import RequestError
from wordbrush.infotext import SAMPLER_LABELS, SCHEDULE_LABELS
from wordbrush.request import GenerationRequest
from wordbrush.serving.errors import Refused
from wordbrush.serving.sdapi.fields import Img2Img, Txt2Img
from wordbrush.serving.sdapi.names import (
    hires_upscaler,
    latent_modes,
    listed_samplers,
    listed_schedules,
    picture_upscaler,
    sampler_aliases,
    sampler_and_schedule,
)
from wordbrush.serving.sdapi.options import checked_options, request_fields
from wordbrush.serving.sdapi.pictures import PlacedPicture, placed, resized
from wordbrush.serving.sdapi.pnginfo import understood
from wordbrush.serving.sdapi.requests import Caller, Order, model_asked, picture_order, placing, text_order


def caller(options: dict[str, Any] | None = None, *, told: bool = False) -> Caller:
    return Caller(options=options or {}, size=(128, 128), told_guidance=told, most=64)


def asked(options: dict[str, Any] | None = None, **body: Any) -> Order:
    return text_order(Txt2Img(**body), caller(options))


def over(size: tuple[int, int] = (128, 128), mask: bool = False, count: int = 1, **body: Any) -> Order:
    if mask:
        body["mask"] = "x"
    picture, drawn = Image.new("RGB", size, "red"), Image.new("L", size, 255)
    given = [PlacedPicture(picture, drawn if mask else None)] * count
    return picture_order(Img2Img(**body), given, caller())


# What webuiapi 0.9.17 sends for txt2img(prompt="a fox"), with the defaults of its own.
WEBUIAPI: dict[str, Any] = {
    "enable_hr": False, "hr_scale": 2, "hr_upscaler": "Latent", "hr_second_pass_steps": 0, "hr_resize_x": 0,
    "hr_resize_y": 0, "hr_checkpoint_name": None, "hr_sampler_name": None, "hr_scheduler": None, "hr_prompt": "",
    "hr_negative_prompt": "", "denoising_strength": 0.7, "firstphase_width": 0, "firstphase_height": 0,
    "prompt": "a fox", "styles": [], "seed": -1, "subseed": -1, "subseed_strength": 0.0, "seed_resize_from_h": 0,
    "seed_resize_from_w": 0, "batch_size": 1, "n_iter": 1, "steps": 20, "cfg_scale": 7.0, "width": 512, "height": 512,
    "restore_faces": False, "tiling": False, "do_not_save_samples": False, "do_not_save_grid": False,
    "negative_prompt": "", "eta": 1.0, "s_churn": 0, "s_tmax": 0, "s_tmin": 0, "s_noise": 1, "override_settings": {},
    "override_settings_restore_afterwards": True, "sampler_name": "Euler a", "scheduler": "automatic",
    "sampler_index": "Euler a", "script_name": None, "script_args": [], "send_images": True, "save_images": False,
    "alwayson_scripts": {},
}  # fmt: skip


def test_what_is_left_out_is_the_models_own() -> None:
    (request,) = asked(prompt="a fox").requests
    assert request.prompt == "a fox"
    assert request.seed is not None
    for name in ("steps", "guidance", "sampler", "schedule", "width", "height", "hires", "strength", "model"):
        assert getattr(request, name) is None, name


def test_what_webuiapi_sends_by_itself_is_taken() -> None:
    order = asked(**WEBUIAPI)
    (request,) = order.requests
    assert (request.width, request.height, request.steps, request.guidance) == (512, 512, 20, 7.0)
    assert (request.sampler, request.schedule, request.count) == ("euler_a", None, 1)
    assert request.hires is None
    (note,) = order.notes
    assert note.startswith("the model paints 128x128; at 512x512 things repeat")
    assert asked(**(WEBUIAPI | {"width": 128, "height": 128})).notes == ()


def test_null_everywhere_is_as_good_as_absent() -> None:
    body: dict[str, Any] = {**dict.fromkeys(Txt2Img.model_fields), "prompt": "a fox"}
    (request,) = asked(**body).requests
    assert request.to_dict() == {**GenerationRequest(prompt="a fox").to_dict(), "seed": request.seed}


@pytest.mark.parametrize(
    ("label", "scheduler", "expected"),
    [
        ("Euler a", "automatic", ("euler_a", None)),
        ("DPM++ 2M", None, ("dpmpp_2m", "karras")),
        ("DPM++ 2M Karras", "Automatic", ("dpmpp_2m", "karras")),
        ("DPM++ 2M SDE", "automatic", ("dpmpp_2m_sde", "exponential")),
        ("euler", "Karras", ("euler", "karras")),
        ("k_euler_ancestral", "uniform", ("euler_a", "normal")),
        ("UniPC", "align_your_steps", ("unipc", "ays")),
        ("UniPC", "Align Your Steps", ("unipc", "ays")),
        ("DDIM", "ddim", ("ddim", "ddim_uniform")),
        ("dpmpp_2m", "sgm_uniform", ("dpmpp_2m", "sgm_uniform")),
        ("PLMS", "", ("pndm", None)),
    ],
)
def test_samplers_and_schedules_by_the_web_uis_names(
    label: str, scheduler: str | None, expected: tuple[str, str | None]
) -> None:
    assert sampler_and_schedule(label, scheduler) == expected


def test_every_listed_name_is_understood() -> None:
    for name, label in listed_samplers():
        for word in (label, label.lower(), *sampler_aliases(name)):
            assert sampler_and_schedule(word, None)[0] == name
    listed = listed_schedules()
    assert len(listed) == len(SCHEDULE_LABELS) + 1
    for name, label in listed[1:]:
        found = sampler_and_schedule("Euler", name)[1]
        assert found is not None
        assert SCHEDULE_LABELS[found] == label
        assert sampler_and_schedule("Euler", label)[1] == found
    assert len(listed_samplers()) == len(SAMPLER_LABELS)
    for label in latent_modes():
        assert hires_upscaler(label) == label.lower()


def test_an_unknown_sampler_is_a_bad_request() -> None:
    body: dict[str, Any]
    for name, value in (("sampler_name", "Restart"), ("sampler_index", "Restart"), ("scheduler", "turbo")):
        body = {name: value}
        with pytest.raises(Refused, match="not known here") as refused:
            asked(prompt="a fox", **body)
        assert refused.value.status == 400


def test_pictures_are_batches_times_iterations() -> None:
    order = asked(prompt="a fox", seed=7, batch_size=2, n_iter=3)
    assert [(request.seed, request.count) for request in order.requests] == [(7, 2), (9, 2), (11, 2)]
    assert order.pictures == 6
    with pytest.raises(RequestError, match="at most 64 pictures"):
        asked(prompt="a fox", batch_size=8, n_iter=9)


def test_a_subseed_keeps_the_seed_as_in_the_web_ui() -> None:
    order = asked(prompt="a fox", seed=7, subseed=100, subseed_strength=0.3, batch_size=2, n_iter=2)
    told = [(one.seed, one.variation_seed, one.variation_strength, one.count) for one in order.requests]
    assert told == [(7, 100 + index, 0.3, 1) for index in range(4)]
    (without,) = asked(prompt="a fox", seed=7, subseed=100).requests
    assert without.variation_seed is None


def test_a_seed_of_minus_one_is_drawn() -> None:
    seeds = {asked(prompt="a fox", seed=-1).requests[0].seed for _ in range(8)}
    assert len(seeds) == 8


def test_hires_fix() -> None:
    body: dict[str, Any] = {"prompt": "a fox", "enable_hr": True, "width": 128, "height": 64}
    plain = asked(**body, hr_scale=1.5, hr_upscaler="Latent (bicubic)", hr_second_pass_steps=5, denoising_strength=0.6)
    hires = plain.requests[0].hires
    assert hires is not None
    assert (hires.scale, hires.upscaler, hires.steps, hires.strength) == (1.5, "latent (bicubic)", 5, 0.6)
    resized_to = asked(**body, hr_resize_x=256, hr_upscaler="None", hr_second_pass_steps=0).requests[0].hires
    assert resized_to is not None
    assert (resized_to.scale, resized_to.upscaler, resized_to.steps) == (2.0, "lanczos", None)
    own_size = asked(prompt="a fox", enable_hr=True, hr_resize_y=192, hr_upscaler="srresnet").requests[0].hires
    assert own_size is not None
    assert own_size.scale == 1.5
    old = asked(**(body | {"firstphase_width": 64, "firstphase_height": 32})).requests[0]
    assert (old.width, old.height) == (64, 32)
    assert old.hires is not None
    assert old.hires.scale == 2.0


@pytest.mark.parametrize(
    ("body", "why"),
    [
        ({"hr_resize_x": 256, "hr_resize_y": 256}, "another shape"),
        ({"hr_prompt": "a cat"}, "hr_prompt differs"),
        ({"hr_negative_prompt": "blue"}, "hr_negative_prompt differs"),
        ({"hr_sampler_name": "Heun"}, "hr_sampler_name"),
        ({"hr_scheduler": "Beta"}, "hr_scheduler"),
        ({"hr_checkpoint_name": "other"}, "hr_checkpoint_name"),
        ({"hr_scale": 1.0}, "scale"),
    ],
)
def test_a_second_pass_that_is_another_is_refused(body: dict[str, Any], why: str) -> None:
    with pytest.raises(RequestError, match=why):
        asked(prompt="a fox", enable_hr=True, width=128, height=64, sampler_name="Euler", scheduler="Karras", **body)


def test_a_second_pass_that_is_the_same_is_not() -> None:
    body: dict[str, Any] = {
        "hr_sampler_name": "Use same sampler",
        "hr_scheduler": "Karras",
        "hr_checkpoint_name": "Use same checkpoint",
    }
    asked(prompt="a fox", enable_hr=True, sampler_name="Euler", scheduler="Karras", hr_prompt="a fox", **body)
    asked(prompt="a fox", enable_hr=True, sampler_name="Euler Karras", hr_sampler_name="Euler")


@pytest.mark.parametrize(
    "body",
    [
        {"restore_faces": True}, {"tiling": True}, {"refiner_checkpoint": "other"}, {"seed_resize_from_w": 64},
        {"s_churn": 1}, {"s_noise": 1.1}, {"s_min_uncond": 1}, {"eta": 0.5}, {"eta": 0, "sampler_name": "Euler a"},
        {"script_name": "x/y/z plot"}, {"alwayson_scripts": {"ADetailer": {"args": []}}}, {"firstpass_image": "x"},
        {"override_settings": {"eta_noise_seed_delta": 31337}}, {"override_settings": {"CLIP_stop_at_last_layers": 13}},
        {"override_settings": {"emphasis": "loud"}}, {"override_settings": {"sd_model_checkpoint": 3}},
        {"disable_extra_networks": True, "prompt": "a fox <lora:x:1>"},
    ],
)  # fmt: skip
def test_what_cannot_be_done_is_refused_when_it_is_switched_on(body: dict[str, Any]) -> None:
    with pytest.raises(RequestError):
        asked(**{"prompt": "a fox", **body})


def test_what_is_unknown_is_said() -> None:
    order = asked(prompt="a fox", rtx_mode=1, override_settings={"img2img_color_correction": True})
    assert "rtx_mode is not known here and was passed over" in order.notes
    assert "the option img2img_color_correction decides nothing here" in order.notes


def test_options_then_infotext_then_override_settings_then_fields() -> None:
    options = {"sd_model_checkpoint": "mine", "CLIP_stop_at_last_layers": 2, "sd_vae": "soft"}
    told = "a cat\nNegative prompt: dogs\nSteps: 9, Sampler: Heun, Schedule type: Karras, CFG scale: 3, Seed: 5, "
    told += "Size: 64x96, Model: theirs"
    (request,) = asked(options, prompt="a fox").requests
    assert (request.model, request.clip_skip, request.vae) == ("mine", 2, "soft")
    (request,) = asked(options, infotext=told).requests
    assert (request.prompt, request.negative_prompt, request.seed) == ("a cat", "dogs", 5)
    assert (request.steps, request.sampler, request.schedule, request.guidance) == (9, "heun", "karras", 3)
    assert (request.width, request.height, request.model, request.vae) == (64, 96, "theirs", "soft")
    override = {"sd_model_checkpoint": "ours", "CLIP_stop_at_last_layers": 1, "sd_vae": "Automatic"}
    body: dict[str, Any] = {"infotext": told, "override_settings": override, "steps": 4}
    body |= {"sampler_name": "Euler", "seed": 6}
    (request,) = asked(options, **body).requests
    assert (request.model, request.clip_skip, request.vae) == ("ours", None, None)
    assert (request.steps, request.sampler, request.schedule, request.seed) == (4, "euler", None, 6)
    assert model_asked(Txt2Img(**body), options) == "ours"
    assert model_asked(Txt2Img(infotext=told), options) == "theirs"
    assert model_asked(Txt2Img(), options) == "mine"


def test_distilled_guidance_is_for_models_that_are_told_it() -> None:
    body = Txt2Img(prompt="a fox", cfg_scale=1.0, distilled_cfg_scale=3.5)
    (request,) = text_order(body, caller(told=True)).requests
    assert (request.guidance, request.true_guidance) == (3.5, 1.0)
    order = text_order(body, caller())
    assert (order.requests[0].guidance, order.requests[0].true_guidance) == (1.0, None)
    assert "distilled_cfg_scale" in order.notes[0]


def test_img2img() -> None:
    (request,) = over(prompt="a fox", denoising_strength=0.5, image_cfg_scale=1.5, seed=3).requests
    assert (request.strength, request.image_guidance, request.mask, request.seed) == (0.5, None, None, 3)
    assert request.image is not None
    (request,) = over(prompt="a fox").requests
    assert request.strength is None


def test_inpainting_has_the_web_uis_defaults() -> None:
    (request,) = over(mask=True, prompt="a fox").requests
    assert (request.mask_blur, request.mask_fill, request.mask_invert) == (4, "blur", False)
    assert (request.only_masked, request.only_masked_padding) == (True, 0)
    body: dict[str, Any] = {"mask_blur_x": 2, "mask_blur_y": 2, "inpainting_fill": 3, "inpainting_mask_invert": 1}
    (request,) = over(mask=True, prompt="a fox", inpaint_full_res=False, inpaint_full_res_padding=8, **body).requests
    assert (request.mask_blur, request.mask_fill, request.mask_invert) == (2, "empty", True)
    assert (request.only_masked, request.only_masked_padding) == (False, None)
    with pytest.raises(RequestError, match="alike both ways"):
        over(mask=True, prompt="a fox", mask_blur_x=1, mask_blur_y=2)


def test_several_pictures_are_painted_over_one_by_one() -> None:
    order = over(count=2, prompt="a fox", seed=5, n_iter=2)
    assert [(request.seed, request.count) for request in order.requests] == [(5, 1), (6, 1), (7, 1), (8, 1)]
    with pytest.raises(RequestError, match="batch_size=3"):
        over(count=2, prompt="a fox", batch_size=3)
    with pytest.raises(RequestError, match="init_images"):
        picture_order(Img2Img(prompt="a fox"), [], caller())


def test_sizes_are_for_the_picture_or_for_the_masked_part() -> None:
    assert placing(Img2Img(width=64, height=32, resize_mode=2)) == ((64, 32), 2)
    assert placing(Img2Img(width=64, height=32)) == ((64, 32), 0)
    assert placing(Img2Img())[0] is None
    assert placing(Img2Img(width=64, height=32, mask="x"))[0] is None
    assert placing(Img2Img(width=64, height=32, mask="x", inpaint_full_res=False)) == ((64, 32), 0)


def halves(size: tuple[int, int] = (40, 20)) -> Image.Image:
    picture = Image.new("RGB", size, "red")
    picture.paste("blue", (size[0] // 2, 0, *size))
    return picture


def test_resize_modes() -> None:
    squashed, cut, filled = (resized(halves(), (20, 20), mode) for mode in range(3))
    assert squashed.getpixel((0, 0)) == filled.getpixel((0, 0)) == cut.getpixel((0, 0)) == (255, 0, 0)
    assert squashed.getpixel((19, 19)) == cut.getpixel((19, 19)) == filled.getpixel((19, 19)) == (0, 0, 255)
    framed = halves((40, 40))
    framed.paste("green", (0, 0, 8, 40))  # cut away, but neither by squashing nor by filling
    assert [resized(framed, (20, 40), mode).getpixel((0, 20)) == (0, 128, 0) for mode in range(3)] == [
        True,
        False,
        True,
    ]
    tall = resized(halves((20, 10)), (20, 30), 2)  # its rows are repeated above and below
    assert tall.crop((0, 0, 20, 10)).tobytes() == tall.crop((0, 20, 20, 30)).tobytes() == halves((20, 10)).tobytes()
    wide = resized(halves((20, 10)), (60, 10), 2)
    assert wide.getpixel((0, 5)) == (255, 0, 0)
    assert wide.getpixel((59, 5)) == (0, 0, 255)
    assert resized(halves(), (40, 20), 3).tobytes() == halves().tobytes()
    with pytest.raises(RequestError, match="resize_mode=3"):
        resized(halves(), (20, 20), 3)


def test_masks_are_hard_unless_asked_and_opaque_counts() -> None:
    grey = Image.linear_gradient("L").resize((64, 64))
    hard = placed(Image.new("RGB", (64, 64)), grey, None, 0, hard=True).mask
    soft = placed(Image.new("RGB", (64, 64)), grey, None, 0, hard=False).mask
    assert hard is not None
    assert soft is not None
    assert {level for _, level in hard.getcolors() or ()} == {0, 255}
    assert len(soft.getcolors() or ()) > 2
    clear = Image.new("RGBA", (64, 64), (0, 0, 0, 0))
    clear.paste((0, 0, 0, 255), (0, 0, 32, 64))
    drawn = placed(Image.new("RGB", (32, 32)), clear, (16, 16), 0, hard=True).mask
    assert drawn is not None
    assert drawn.size == (16, 16)
    assert (drawn.getpixel((2, 8)), drawn.getpixel((13, 8))) == (255, 0)


def test_options_are_checked_and_read() -> None:
    assert request_fields({"CLIP_stop_at_last_layers": 1, "sd_vae": "None", "emphasis": "No norm"}) == {
        "clip_skip": None, "vae": None, "emphasis": "no norm",
    }  # fmt: skip
    checked_options({"anything": {"is": ["kept"]}, "samples_format": "jpg"})
    for wrong in ({"samples_format": "gif"}, {"x": float("nan")}, {"x": "\ud800"}, {"sd_vae": 1}, {"x": "y" * 10**6}):
        with pytest.raises(RequestError):
            checked_options(wrong)


def test_a_body_that_no_json_could_hold_is_refused() -> None:
    deep: Any = []
    for _ in range(100):
        deep = [deep]
    for extra in (float("inf"), "\udc00", deep):
        with pytest.raises(ValueError, match=r"finite|Unicode|deep"):
            Txt2Img.model_validate({"prompt": "a fox", "whatever": extra})


def test_upscalers() -> None:
    assert picture_upscaler("None") is picture_upscaler(None) is None
    assert picture_upscaler("Lanczos") == "lanczos"
    assert picture_upscaler("4x_foo") == "4x_foo"
    with pytest.raises(RequestError, match="enlarges latents"):
        picture_upscaler("Latent")


def test_a_text_is_understood_as_the_web_ui_does() -> None:
    found = understood("a fox\nNegative prompt: blur\nSteps: 20, Sampler: Euler, Seed: 7, Size: 128x64")
    assert (found["Prompt"], found["Negative prompt"], found["Steps"]) == ("a fox", "blur", "20")
    assert (found["Size-1"], found["Size-2"], found["Clip skip"]) == ("128", "64", "1")
    assert understood("") == {}
