"""Every family, from a folder and from a single file: from the same noise, the picture of diffusers, to 1/255."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import diffusers
import numpy as np
import pytest
import torch
from diffusers.models.autoencoders.vae import DiagonalGaussianDistribution
from PIL import Image
from safetensors.torch import load_file, save_file
from tests.parity.families import FAMILIES as MADE
from tests.parity.families import LENGTH, Maker
from torch import Tensor

import wordbrush
from wordbrush import Pipeline, RequestError
from wordbrush.formats.diffusers_folder import read_folder
from wordbrush.formats.single_file.write import write_single_file

PROMPT, NEGATIVE = "a fox to the left of a red car", "green house"
STEPS = 4
SIDE = 32

# sampler -> the diffusers scheduler that it stands for
SCHEDULERS: dict[str, tuple[str, dict[str, Any]]] = {
    "ddpm": ("DDPMScheduler", {}),
    "ddim": ("DDIMScheduler", {}),
    "pndm": ("PNDMScheduler", {"skip_prk_steps": True}),
    "euler": ("EulerDiscreteScheduler", {}),
    "euler_a": ("EulerAncestralDiscreteScheduler", {}),
    "heun": ("HeunDiscreteScheduler", {}),
    "lms": ("LMSDiscreteScheduler", {}),
    "dpmpp_2m": ("DPMSolverMultistepScheduler", {}),
    "dpmpp_2m_sde": ("DPMSolverMultistepScheduler", {"algorithm_type": "sde-dpmsolver++"}),
    "unipc": ("UniPCMultistepScheduler", {}),
    "deis": ("DEISMultistepScheduler", {}),
}
# what docs/samplers.md says of PNDM on v-prediction
_WITHOUT_PNDM = tuple(name for name in SCHEDULERS if name != "pndm")


@dataclass(frozen=True)
class Family:
    """How a family is called in both programs; `guided` and `plain` are our names and theirs."""

    guided: tuple[dict[str, Any], dict[str, Any]] = ({"guidance": 5.0}, {"guidance_scale": 5.0})
    plain: tuple[dict[str, Any], dict[str, Any]] = ({"guidance": 1.0}, {"guidance_scale": 1.0})
    samplers: tuple[str, ...] = tuple(SCHEDULERS)
    picture: bool = False


IMAGE = Image.effect_noise((SIDE, SIDE), 80).convert("RGB")
MASK = Image.new("L", (SIDE, SIDE), 0)
MASK.paste(255, (7, 3, 25, 30))

FAMILIES = {
    "sd1": Family(),
    "sd2-v": Family(samplers=_WITHOUT_PNDM),
    "sdxl": Family(),
    "inpaint": Family(picture=True),
    "edit": Family(
        guided=({"guidance": 5.0, "image_guidance": 1.5}, {"guidance_scale": 5.0, "image_guidance_scale": 1.5}),
        plain=({"guidance": 1.0, "image_guidance": 1.0}, {"guidance_scale": 1.0}),
        picture=True,
    ),
    "lcm": Family(samplers=("lcm",)),
    "sdxl-inpaint": Family(picture=True, samplers=("euler", "dpmpp_2m")),
}


class Reference:
    """A pipeline of diffusers, and pictures it has painted."""

    def __init__(self, folder: Path) -> None:
        self.pipeline = diffusers.DiffusionPipeline.from_pretrained(folder)
        self.pipeline.set_progress_bar_config(disable=True)
        self.own_scheduler = self.pipeline.scheduler
        self.config = self.own_scheduler.config

    def use(self, sampler: str | None) -> None:
        """Makes a sampler the pipeline's; None is its own."""
        self.pipeline.scheduler = self.own_scheduler
        if sampler in SCHEDULERS:
            name, options = SCHEDULERS[sampler]
            self.pipeline.scheduler = getattr(diffusers, name).from_config(self.config, **options)

    def __call__(self, **options: Any) -> np.ndarray:
        """(H, W, 3) in 0..255, float."""
        output = self.pipeline(prompt=PROMPT, num_inference_steps=STEPS, output_type="np", **options)
        return np.asarray(255.0 * output.images[0])


@pytest.fixture(scope="module", autouse=True)
def _most_likely_latents() -> Iterator[None]:
    """diffusers draws a picture's latents, we take the most likely; what it draws would also shift all later noise."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(DiagonalGaussianDistribution, "sample", lambda self, generator=None: self.mode())
        yield


@pytest.fixture(scope="session")
def reference(make_family: Maker) -> Callable[[str], Reference]:
    made: dict[str, Reference] = {}
    return lambda name: made[name] if name in made else made.setdefault(name, Reference(make_family(name)))


@dataclass(frozen=True)
class Ours:
    """A model opened twice: from its folder, and from a single file in the original layout, as other tools write it."""

    folder: Pipeline
    file: Pipeline

    def __iter__(self) -> Iterator[Pipeline]:
        return iter((self.folder, self.file))


@pytest.fixture(scope="session")
def ours(make_family: Maker, tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Ours]:
    made: dict[str, Ours] = {}

    def load(name: str) -> Ours:
        if name not in made:
            folder = make_family(name)
            path = tmp_path_factory.mktemp(name) / f"{name}.safetensors"
            write_single_file(read_folder(folder), path)
            strip_our_notes(path)
            prediction = "v" if name == "sd2-v" else None
            file = wordbrush.load(path, dtype="float32", tokenizer=folder, prediction=prediction)
            made[name] = Ours(wordbrush.load(folder, dtype="float32"), file)
        return made[name]

    return load


def strip_our_notes(path: Path) -> None:
    """Leaves of a file what any other tool would have written: tensors alone."""
    save_file(load_file(path), path)


def starting_noise(channels: int = 4, seed: int = 3) -> Tensor:
    return torch.randn(1, channels, SIDE // 4, SIDE // 4, generator=torch.Generator().manual_seed(seed))


def painted(pipe: Pipeline, **options: Any) -> np.ndarray:
    """The picture before anything outside a mask is put back, (H, W, 3) in 0..255."""
    result = pipe(PROMPT, steps=STEPS, seed=11, width=SIDE, height=SIDE, **options)
    return np.asarray(pipe.decode(result.latents)[0], dtype=np.float64)


def assert_same(pipes: Iterable[Pipeline], expected: np.ndarray, **options: Any) -> None:
    """All of the pipelines paint that picture."""
    assert expected.std() > 5.0, "a flat picture would prove nothing"
    for pipe in pipes:
        assert np.abs(painted(pipe, **options) - expected).max() <= 1.0


CASES = [
    (name, sampler, guided)
    for name, family in FAMILIES.items()
    for sampler in family.samplers
    for guided in (True, False)
]


@pytest.mark.parametrize(("name", "sampler", "guided"), CASES)
def test_paints_the_picture_of_diffusers(
    ours: Callable[[str], Ours], reference: Callable[[str], Reference], name: str, sampler: str, guided: bool
) -> None:
    family, noise = FAMILIES[name], starting_noise()
    own, theirs = family.guided if guided else family.plain
    own, theirs = dict(own), dict(theirs)
    if name != "lcm":
        own["negative_prompt"] = theirs["negative_prompt"] = NEGATIVE
    if family.picture:
        own["image"] = theirs["image"] = IMAGE
        if "inpaint" in name:
            own |= {"mask": MASK, "strength": 1.0}
            theirs |= {"mask_image": MASK, "strength": 1.0, "height": SIDE, "width": SIDE}
    peer = reference(name)
    peer.use(sampler)
    expected = peer(latents=noise.clone(), generator=torch.Generator().manual_seed(11), **theirs)
    assert_same(ours(name), expected, latents=noise, sampler=sampler, **own)


def shifted_levels(sigmas: Any, shift: float | None, mu: float | None) -> np.ndarray:
    """FLUX's noise levels by its paper: sigma / (sigma + (1 - sigma) / shift), shift being e^mu with a dynamic one."""
    factor = float(np.exp(mu)) if shift is None else shift
    levels = np.asarray(sigmas, dtype=np.float64)
    return factor * levels / (1.0 + (factor - 1.0) * levels)


class FlowLMS(diffusers.LMSDiscreteScheduler):  # type: ignore[misc]
    """diffusers' linear multistep method on a flow: what it takes for noise is dx / dsigma, and FLUX predicts that."""

    shift: float | None = None

    def set_timesteps(self, count: int | None = None, device: Any = None, sigmas: Any = None, mu: Any = None) -> None:
        if sigmas is None:  # as it is made
            super().set_timesteps(count)
            return
        levels = shifted_levels(sigmas, self.shift, mu)
        super().set_timesteps(len(levels))
        self.sigmas = torch.from_numpy(np.append(levels, 0.0)).float()
        self.timesteps = 1000.0 * self.sigmas[:-1]
        self.is_scale_input_called = True


class FlowHeun(diffusers.FlowMatchHeunDiscreteScheduler):  # type: ignore[misc]
    """diffusers' Heun through the noise levels that the pipeline of FLUX asks for, which it cannot be told."""

    shift_of_model: float | None = None

    def set_timesteps(self, count: int | None = None, device: Any = None, sigmas: Any = None, mu: Any = None) -> None:
        levels = torch.from_numpy(shifted_levels(sigmas, self.shift_of_model, mu)).float()
        super().set_timesteps(len(levels))
        self.sigmas = torch.cat([levels[:1], levels[1:].repeat_interleave(2), torch.zeros(1)])
        self.timesteps = 1000.0 * self.sigmas[:-1]


_FLOW = {"use_flow_sigmas": True, "prediction_type": "flow_prediction"}
# sampler -> diffusers' scheduler on a flow; ddim's step is there the same as Euler's
FLOW_SCHEDULERS: dict[str, tuple[Any, dict[str, Any]]] = {
    "euler": (diffusers.FlowMatchEulerDiscreteScheduler, {}),
    "ddim": (diffusers.FlowMatchEulerDiscreteScheduler, {}),
    "heun": (FlowHeun, {"shift": 1.0}),
    "lms": (FlowLMS, {}),
    "lcm": (diffusers.FlowMatchLCMScheduler, {}),
    "dpmpp_2m": (diffusers.DPMSolverMultistepScheduler, _FLOW),
    "dpmpp_2m_sde": (diffusers.DPMSolverMultistepScheduler, _FLOW | {"algorithm_type": "sde-dpmsolver++"}),
    "unipc": (diffusers.UniPCMultistepScheduler, _FLOW),
}


def flow_scheduler(sampler: str, config: dict[str, Any], *, dev: bool) -> Any:
    """diffusers' scheduler for FLUX.1 dev or schnell, whose pipeline says a shift to each."""
    kind, options = FLOW_SCHEDULERS[sampler]
    scheduler = kind.from_config(config | options | ({} if dev else {"flow_shift": 1.0}))
    if not dev and kind in (diffusers.DPMSolverMultistepScheduler, diffusers.UniPCMultistepScheduler):
        unshifted = scheduler.set_timesteps
        # they refuse a shift by size that they do not use
        scheduler.set_timesteps = lambda *args, mu=None, **rest: unshifted(*args, **rest)
    if not dev:
        scheduler.shift_of_model = 1.0
        if sampler == "lms":
            scheduler.shift = 1.0
    return scheduler


def packed_draws(generator: torch.Generator) -> Callable[..., Tensor]:
    """diffusers' `randn_tensor` for packed pictures, drawn as for pictures that are not.

    Its pipeline for FLUX hands its own generator to no scheduler.
    """

    def draw(shape: Any, **_: Any) -> Tensor:
        rows, tokens, channels = shape
        side = 2 * int(tokens**0.5)
        drawn = torch.randn(rows, channels // 4, side, side, generator=generator)
        return diffusers.FluxPipeline._pack_latents(drawn, rows, channels // 4, side, side)

    return draw


@pytest.mark.parametrize("guided", [True, False])
@pytest.mark.parametrize("sampler", FLOW_SCHEDULERS)
@pytest.mark.parametrize("name", ["flux-dev", "flux-schnell"])
def test_flux(
    ours: Callable[[str], Ours], reference: Callable[[str], Reference], monkeypatch: pytest.MonkeyPatch,
    name: str, sampler: str, guided: bool,
) -> None:  # fmt: skip
    noise, dev, peer = starting_noise(), name == "flux-dev", reference(name)
    peer.pipeline.scheduler = flow_scheduler(sampler, dict(peer.config), dev=dev)
    for module in ("dpmsolver_multistep", "flow_match_lcm"):
        draw = packed_draws(torch.Generator().manual_seed(11))
        monkeypatch.setattr(f"diffusers.schedulers.scheduling_{module}.randn_tensor", draw)
    theirs: dict[str, Any] = {"guidance_scale": 3.5, "max_sequence_length": 512 if dev else 256}
    own: dict[str, Any] = {"guidance": 3.5} if dev else {"guidance": 1.0}
    if guided:
        theirs |= {"true_cfg_scale": 4.0, "negative_prompt": NEGATIVE}
        own |= {"negative_prompt": NEGATIVE, ("true_guidance" if dev else "guidance"): 4.0}
    expected = peer(
        latents=diffusers.FluxPipeline._pack_latents(noise.clone(), 1, 4, 8, 8), height=SIDE, width=SIDE,
        **theirs,
    )  # fmt: skip
    assert_same(ours(name), expected, latents=noise, sampler=sampler, **own)


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
