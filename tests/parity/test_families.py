"""Every family, from a folder and from a single file: from the same noise, the picture of diffusers, to 1/255."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

import diffusers
import numpy as np
import pytest
import torch
from PIL import Image
from tests.parity.families import FAMILIES as MADE
from tests.parity.families import LENGTH, Maker
from tests.parity.pictures import (
    FAMILIES,
    FLOW_FAMILIES,
    FLOW_SCHEDULERS,
    IMAGE,
    MASK,
    NEGATIVE,
    PROMPT,
    SIDE,
    Family,
    Ours,
    Reference,
    flux_picture_of,
    most_likely_latents,
    painted,
    picture_of,
    starting_noise,
)

import wordbrush
from wordbrush import Pipeline, RequestError
from wordbrush.formats.diffusers_folder import read_folder


@pytest.fixture(scope="module", autouse=True)
def _most_likely_latents() -> Iterator[None]:
    with most_likely_latents():
        yield


@pytest.fixture(scope="session")
def reference(make_family: Maker) -> Callable[[str], Reference]:
    made: dict[str, Reference] = {}
    return lambda name: made[name] if name in made else made.setdefault(name, Reference(make_family(name)))


@pytest.fixture(scope="session")
def ours(make_family: Maker, tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Ours]:
    made: dict[str, Ours] = {}

    def load(name: str) -> Ours:
        if name not in made:
            made[name] = Ours.opened(name, make_family(name), tmp_path_factory.mktemp(name))
        return made[name]

    return load


def assert_same(pipes: Iterable[Pipeline], expected: np.ndarray, **options: Any) -> None:
    """All of the pipelines paint that picture."""
    assert expected.std() > 5.0, "a flat picture would prove nothing"
    for pipe in pipes:
        assert np.abs(painted(pipe, **options) - expected).max() <= 1.0


# Without guidance a sampler does no less than with it: one family says so each time, the others when asked.
CASES = [
    pytest.param(name, sampler, guided, marks=() if guided or name == "sd1" else pytest.mark.slow)
    for name, family in FAMILIES.items()
    for sampler in family.samplers
    for guided in (True, False)
]


@pytest.mark.parametrize(("name", "sampler", "guided"), CASES)
def test_paints_the_picture_of_diffusers(
    ours: Callable[[str], Ours], reference: Callable[[str], Reference], name: str, sampler: str, guided: bool
) -> None:
    expected, own = picture_of(reference(name), name, sampler, guided=guided)
    assert_same(ours(name), expected, **own)


@pytest.mark.parametrize("guided", [True, False])
@pytest.mark.parametrize("sampler", FLOW_SCHEDULERS)
@pytest.mark.parametrize("name", FLOW_FAMILIES)
def test_flux(
    ours: Callable[[str], Ours], reference: Callable[[str], Reference], name: str, sampler: str, guided: bool
) -> None:
    expected, own = flux_picture_of(reference(name), name, sampler, guided=guided)
    assert_same(ours(name), expected, **own)


@pytest.mark.parametrize("strength", [1.0, 0.5])
def test_the_refiner_goes_on_from_a_picture(
    ours: Callable[[str], Ours], reference: Callable[[str], Reference], strength: float
) -> None:
    theirs = reference("sdxl-refiner")(
        image=IMAGE, strength=strength, negative_prompt=NEGATIVE, guidance_scale=5.0,
        generator=torch.Generator().manual_seed(11),
    )  # fmt: skip
    assert_same(
        ours("sdxl-refiner"), theirs, image=IMAGE, strength=strength, negative_prompt=NEGATIVE, guidance=5.0,
    )  # fmt: skip


@pytest.mark.parametrize("name", ["inpaint", "sdxl-inpaint"])
def test_inpainting_begins_part_way(
    ours: Callable[[str], Ours], reference: Callable[[str], Reference], name: str
) -> None:
    peer = reference(name)
    peer.use("euler")
    expected = peer(
        image=IMAGE, mask_image=MASK, strength=0.5, guidance_scale=5.0, height=SIDE, width=SIDE,
        generator=torch.Generator().manual_seed(11),
    )  # fmt: skip
    assert_same(ours(name), expected, image=IMAGE, mask=MASK, strength=0.5, guidance=5.0, sampler="euler")


def test_flux_fill_sees_the_mask_in_pixels(make_family: Maker, reference: Callable[[str], Reference]) -> None:
    noise = starting_noise()
    expected = reference("flux-fill")(
        image=IMAGE, mask_image=MASK, height=SIDE, width=SIDE, guidance_scale=30.0,
        latents=diffusers.FluxPipeline._pack_latents(noise.clone(), 1, 4, 8, 8),
    )  # fmt: skip
    pipe = wordbrush.load(make_family("flux-fill"), dtype="float32")
    assert_same([pipe], expected, image=IMAGE, mask=MASK, latents=noise, guidance=30.0)


def test_an_empty_negative_prompt_of_sdxl_is_zeros(
    ours: Callable[[str], Ours], reference: Callable[[str], Reference]
) -> None:
    noise, peer = starting_noise(), reference("sdxl")
    peer.use("euler")
    expected = peer(latents=noise.clone(), guidance_scale=5.0)
    assert_same(ours("sdxl"), expected, latents=noise, sampler="euler", guidance=5.0)
    encoded = peer(latents=noise.clone(), guidance_scale=5.0, negative_prompt="")
    assert np.abs(encoded - expected).max() > 1.0, "the rule would go unnoticed"


@pytest.mark.parametrize("name", MADE)
def test_saved_folders_are_the_same_models_to_diffusers(
    make_family: Maker, reference: Callable[[str], Reference], tmp_path: Path, name: str
) -> None:
    wordbrush.load(make_family(name), dtype="float32").save(tmp_path / "saved")
    reference(name).use(None)
    theirs, saved = reference(name).pipeline, diffusers.DiffusionPipeline.from_pretrained(tmp_path / "saved")
    assert type(saved) is type(theirs)
    assert plain(saved.scheduler.config) == plain(reference(name).config)
    for option in ("force_zeros_for_empty_prompt", "requires_aesthetics_score"):
        assert saved.config.get(option) == theirs.config.get(option)
    for part, component in theirs.components.items():
        other = saved.components[part]
        assert type(other) is type(component)
        if isinstance(component, torch.nn.Module):
            assert_equal_networks(other, component)
        elif part.startswith("tokenizer") and component is not None:
            for text in (PROMPT, ""):
                assert other(text, padding="max_length", max_length=LENGTH).input_ids == component(
                    text, padding="max_length", max_length=LENGTH
                ).input_ids


@pytest.mark.parametrize("name", ["sd1", "sd2-v", "sdxl", "inpaint", "edit", "flux-dev", "flux-schnell"])
def test_diffusers_paints_our_picture_from_the_saved_folder(
    ours: Callable[[str], Ours], tmp_path: Path, name: str
) -> None:
    """By the scheduler that was saved, so that only the folder can make a difference; saved from a single file."""
    ours(name).file.save(tmp_path / "saved")
    peer, noise, family = Reference(tmp_path / "saved"), starting_noise(), FAMILIES.get(name, Family())
    own, theirs = {"latents": noise, **family.guided[0]}, {"latents": noise.clone(), **family.guided[1]}
    if name != "edit":  # whose pictures have the size of the one they change
        theirs |= {"height": SIDE, "width": SIDE}
    if name.startswith("flux"):
        packed = diffusers.FluxPipeline._pack_latents(noise.clone(), 1, 4, SIDE // 4, SIDE // 4)
        own = {"latents": noise, "guidance": 3.5 if name == "flux-dev" else 1.0}
        length = 512 if name == "flux-dev" else 256
        theirs |= {"latents": packed, "guidance_scale": 3.5, "max_sequence_length": length}
    if family.picture:
        own["image"] = theirs["image"] = IMAGE
    if name == "inpaint":
        own |= {"mask": MASK, "strength": 1.0}
        theirs |= {"mask_image": MASK, "strength": 1.0}
    expected = peer(generator=torch.Generator().manual_seed(11), **theirs)
    assert_same([*ours(name), wordbrush.load(tmp_path / "saved", dtype="float32")], expected, **own)


def assert_equal_networks(found: torch.nn.Module, expected: torch.nn.Module) -> None:
    """Equal weights, and equal settings as far as both state them."""
    state = found.state_dict()
    assert state.keys() == expected.state_dict().keys()
    assert all(torch.equal(state[name], tensor) for name, tensor in expected.state_dict().items())
    ours, theirs = plain(found.config), plain(expected.config)
    assert {name: theirs[name] for name in theirs if name not in UNUSED} == {
        name: ours.get(name) for name in theirs if name not in UNUSED
    }


def plain(config: Any) -> dict[str, Any]:
    """A config as JSON values, without what libraries note of themselves."""
    content = json.loads(json.dumps(config.to_dict() if hasattr(config, "to_dict") else dict(config), default=list))
    return {name: value for name, value in content.items() if not name.startswith("_")}


# Of transformers' own bookkeeping, and of the decoder that T5's encoder is without.
UNUSED = {"architectures", "dtype", "transformers_version", "torch_dtype", "scale_decoder_outputs"}


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("name", ["sdxl", "edit", "lcm", "flux-dev"])
def test_a_picture_has_the_same_bits_alone_and_in_a_batch(make_family: Maker, name: str, dtype: str) -> None:
    pipe = wordbrush.load(make_family(name), dtype=dtype)
    options: dict[str, Any] = {"steps": 2, "width": SIDE, "height": SIDE, "image": IMAGE if name == "edit" else None}
    if name == "flux-dev":
        options["true_guidance"] = 2.0
    prompts = [PROMPT, "three cats", PROMPT]
    batch = pipe(prompts, seed=20, **options)
    for index, prompt in enumerate(prompts):
        assert torch.equal(pipe(prompt, seed=20 + index, **options).latents[0], batch.latents[index])


def test_what_a_family_has_no_use_for_is_refused(ours: Callable[[str], Ours]) -> None:
    for name, options, words in (
        ("edit", {}, "give image"),
        ("sdxl", {"true_guidance": 2.0}, "true_guidance=2.0"),
        ("sdxl", {"image_guidance": 2.0}, "image_guidance=2.0"),
        ("flux-dev", {"clip_skip": 2}, "clip_skip=2"),
        ("flux-dev", {"width": 36}, "width=36 is not a multiple of 8"),
    ):
        with pytest.raises(RequestError, match=words):
            ours(name).folder(PROMPT, **{"height": SIDE, "width": SIDE, "steps": 1, **options})


def test_an_inpainting_model_paints_without_a_picture_as_under_a_white_mask(ours: Callable[[str], Ours]) -> None:
    noise = starting_noise()
    white = Image.new("L", (SIDE, SIDE), 255)
    under = painted(ours("inpaint").folder, image=IMAGE, mask=white, latents=noise, strength=1.0)
    assert np.array_equal(painted(ours("inpaint").folder, latents=noise), under)


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("sd1", {"steps": 50, "guidance": 7.5, "true_guidance": None, "image_guidance": None}),
        ("sdxl", {"steps": 50, "guidance": 5.0}),
        ("edit", {"steps": 100, "guidance": 7.5, "image_guidance": 1.5, "strength": 1.0}),
        ("inpaint", {"steps": 50, "guidance": 7.5, "strength": 1.0}),
        ("sdxl-refiner", {"strength": 0.3}),
        ("lcm", {"steps": 4, "guidance": 8.5, "true_guidance": 1.0}),
        ("flux-dev", {"steps": 28, "guidance": 3.5, "true_guidance": 1.0, "schedule": "sgm_uniform", "width": 512}),
        ("flux-schnell", {"steps": 4, "guidance": 1.0, "true_guidance": None}),
        ("flux-fill", {"steps": 50, "guidance": 30.0, "strength": 1.0}),
    ],
)
def test_defaults_are_those_of_diffusers(make_family: Maker, name: str, expected: dict[str, Any]) -> None:
    defaults = read_folder(make_family(name)).defaults.model_dump()
    assert {key: defaults[key] for key in expected} == expected
