"""High-resolution fix: two loops in one request, by hand, stopped, in batches; and pictures enlarged at the end."""

from __future__ import annotations

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from PIL import Image

import wordbrush
from wordbrush.editing.hires import interpolated, second_pass, second_times
from wordbrush.editing.upscale import UpscalerShelf
from wordbrush.errors import RequestError
from wordbrush.infotext import read_infotext
from wordbrush.request import GenerationRequest

PROMPT = "a fox on a blue background"
HIRES = {"scale": 1.5, "steps": 3, "strength": 0.6}


def request(**fields: object) -> GenerationRequest:
    return GenerationRequest.from_dict({"prompt": PROMPT, "seed": 5, "steps": 4, **fields})


def test_the_second_loop_is_image_to_image_on_the_enlarged_picture(tiny_pipe: wordbrush.Pipeline) -> None:
    """The same pixels as two requests: the first picture, enlarged by hand, at the strength that gives these steps."""
    hires = {"scale": 2, "upscaler": "bicubic", "steps": 3, "strength": 0.5}
    both = tiny_pipe(request(hires=hires)).images[0]
    small = tiny_pipe(request()).images[0]
    large = small.resize((64, 64), Image.Resampling.BICUBIC)
    again = tiny_pipe(request(image=large, strength=0.5, steps=6)).images[0]
    assert both.size == (64, 64)
    assert np.array_equal(np.asarray(both), np.asarray(again))


def test_steps_are_those_of_both_loops_and_are_numbered_on(tiny_pipe: wordbrush.Pipeline) -> None:
    filled = tiny_pipe.fill(request(hires=HIRES))
    steps = list(tiny_pipe.steps(filled))
    assert len(steps) == tiny_pipe.step_count(filled) == 7
    assert [step.index for step in steps] == list(range(7))
    assert [step.x.shape[-1] for step in steps] == [8] * 4 + [12] * 3
    assert steps[3].t == steps[6].t == 0.0
    assert tiny_pipe.finish(filled, steps[-1].x)[0].size == (48, 48)


def test_stopping_the_iteration_stops_the_work(tiny_pipe: wordbrush.Pipeline, monkeypatch: pytest.MonkeyPatch) -> None:
    def never(*_: object) -> None:
        raise AssertionError("the second loop was begun")

    monkeypatch.setattr(tiny_pipe, "_second_stage", never)
    for step in tiny_pipe.steps(request(hires=HIRES)):
        if step.index == 3:
            break


@pytest.mark.parametrize("upscaler", ["latent", "srresnet"])
def test_alone_and_in_a_batch_the_same(tiny_pipe: wordbrush.Pipeline, upscaler: str) -> None:
    hires = HIRES | {"upscaler": upscaler}
    batch = tiny_pipe(request(hires=hires, count=2, upscale=1.5, upscaler="lanczos")).images
    alone = tiny_pipe(request(hires=hires, seed=6, upscale=1.5, upscaler="lanczos")).images[0]
    assert batch[1].size == (72, 72)
    assert np.array_equal(np.asarray(batch[1]), np.asarray(alone))


def test_every_setting_changes_the_picture(tiny_pipe: wordbrush.Pipeline) -> None:
    variants: list[dict[str, object]] = [
        {}, {"hires": HIRES}, {"hires": HIRES | {"steps": 2}}, {"hires": HIRES | {"strength": 0.9}},
        {"hires": HIRES | {"scale": 2}}, {"hires": HIRES | {"upscaler": "latent (nearest)"}},
        {"hires": HIRES | {"upscaler": "nearest"}}, {"upscale": 1.5}, {"upscale": 1.5, "upscaler": "nearest"},
    ]  # fmt: skip
    pictures = [tiny_pipe(request(**each)).images[0] for each in variants]
    assert len({picture.tobytes() for picture in pictures}) == len(variants)


def test_as_many_steps_as_before_unless_told(tiny_pipe: wordbrush.Pipeline) -> None:
    filled = tiny_pipe.fill(request(hires=2))
    assert filled.hires is not None
    assert (filled.hires.steps, filled.hires.strength, filled.hires.upscaler) == (4, 0.7, "latent")
    assert tiny_pipe.step_count(filled) == 8
    assert tiny_pipe.fill(filled) == filled
    assert second_pass(tiny_pipe.parts, filled).steps == 5  # int(4 / 0.7), of which the last 4 are taken
    assert len(second_times(tiny_pipe.parts, filled)[1]) == 5


def test_strength_1_takes_all_steps(tiny_pipe: wordbrush.Pipeline) -> None:
    filled = tiny_pipe.fill(request(hires=HIRES | {"strength": 1}))
    assert tiny_pipe.step_count(filled) == 7


def test_the_size_is_a_multiple_of_the_models_step(tiny_pipe: wordbrush.Pipeline) -> None:
    picture = tiny_pipe(request(hires={"scale": 1.3, "upscaler": "lanczos", "strength": 0.5})).images[0]
    assert picture.size == (40, 40)  # 41.6 to the nearest multiple of 4


def test_what_does_not_fit_is_refused(tiny_pipe: wordbrush.Pipeline) -> None:
    with pytest.raises(RequestError, match="leave image out"):
        request(hires=2, image=Image.new("RGB", (32, 32)))
    with pytest.raises(RequestError, match="more than 1000"):
        tiny_pipe.fill(request(hires={"steps": 500, "strength": 0.1}))
    with pytest.raises(RequestError, match="'nix'"):
        tiny_pipe.fill(request(hires={"upscaler": "nix"}))


@pytest.mark.parametrize(
    ("upscaler", "mode", "antialias"),
    [
        ("latent", "bilinear", False), ("latent (antialiased)", "bilinear", True),
        ("latent (bicubic)", "bicubic", False),
        ("latent (bicubic antialiased)", "bicubic", True), ("latent (nearest)", "nearest", False),
        ("latent (nearest-exact)", "nearest-exact", False),
    ],
)  # fmt: skip
def test_latent_modes_are_the_web_uis(upscaler: str, mode: str, antialias: bool) -> None:
    latents = torch.randn(2, 4, 5, 6, generator=torch.Generator().manual_seed(0))
    wanted = F.interpolate(latents, size=(9, 7), mode=mode, antialias=antialias)
    assert torch.equal(interpolated(latents, (9, 7), upscaler), wanted)


def test_pictures_are_enlarged_at_the_end(tiny_pipe: wordbrush.Pipeline) -> None:
    result = tiny_pipe(PROMPT, seed=5, steps=2, upscale=4)
    small = tiny_pipe(PROMPT, seed=5, steps=2).images[0]
    assert result.request.upscaler == "srresnet"
    assert result.images[0] == UpscalerShelf(tiny_pipe.runtime).named("srresnet").enlarge(small, 4)
    assert torch.equal(result.latents, tiny_pipe(PROMPT, seed=5, steps=2).latents)


def test_json_and_infotext_carry_it(tiny_pipe: wordbrush.Pipeline) -> None:
    filled = tiny_pipe.fill(request(hires=HIRES, upscale=2, upscaler="lanczos"))
    assert GenerationRequest.from_json(filled.to_json()) == filled
    text = filled.to_infotext()
    assert "Denoising strength: 0.6, Hires upscale: 1.5, Hires steps: 3, Hires upscaler: Latent" in text
    assert "Postprocess upscale by: 2, Postprocess upscaler: Lanczos" in text
    read = GenerationRequest.from_infotext(text)
    assert (read.hires, read.upscale, read.upscaler) == (filled.hires, 2, "lanczos")


def test_the_web_uis_own_text_is_understood() -> None:
    text = (
        "a fox\nSteps: 20, Sampler: Euler a, CFG scale: 7, Seed: 1, Size: 512x512, Denoising strength: 0.55, "
        "Hires upscale: 2, Hires upscaler: 4x-UltraSharp"
    )
    understood = read_infotext(text)
    assert understood.fields["hires"] == {"scale": 2.0, "upscaler": "4x-UltraSharp", "strength": 0.55}
    assert understood.ignored == {}
