"""Image-to-image and inpainting: from the same noise, the picture of diffusers' own pipelines, to 1/255."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import diffusers
import numpy as np
import pytest
import torch
from diffusers.models.autoencoders.vae import DiagonalGaussianDistribution
from PIL import Image
from tests.parity.families import Maker
from tests.parity.pictures import SCHEDULERS
from typer.testing import CliRunner

import wordbrush
from wordbrush import Pipeline
from wordbrush.cli.app import make_app

PROMPT, NEGATIVE = "a fox to the left of a red car", "green house"
WIDTH, HEIGHT = 40, 32
STEPS = 8
IMAGE = Image.fromarray(np.random.default_rng(5).integers(0, 256, (HEIGHT, WIDTH, 3), dtype=np.uint8))
MASK = Image.new("L", IMAGE.size, 0)
MASK.paste(255, (8, 4, 28, 24))  # whole latents, of 4 pixels each

Open = Callable[[Any, str], tuple[Pipeline, Any]]


@pytest.fixture(scope="module", autouse=True)
def _most_likely_latents() -> Iterator[None]:
    """diffusers draws a picture's latents, we take the most likely; what it draws would also shift all later noise."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(DiagonalGaussianDistribution, "sample", lambda self, generator=None: self.mode())
        yield


@pytest.fixture(scope="module")
def both(make_family: Maker) -> Open:
    """(a pipeline class of diffusers, a family) -> ours and theirs."""
    made: dict[tuple[Any, str], tuple[Pipeline, Any]] = {}

    def opened(kind: Any, name: str) -> tuple[Pipeline, Any]:
        if (kind, name) not in made:
            folder = make_family(name)
            theirs = kind.from_pretrained(folder)
            theirs.set_progress_bar_config(disable=True)
            theirs.first_config = theirs.scheduler.config
            made[kind, name] = (wordbrush.load(folder, dtype="float32"), theirs)
        return made[kind, name]

    return opened


def reference(peer: Any, sampler: str, **options: Any) -> np.ndarray:
    """(H, W, 3) in 0...255, or latents (4, h, w), from diffusers."""
    name, own = SCHEDULERS[sampler]
    peer.scheduler = getattr(diffusers, name).from_config(peer.first_config, **own)
    usual = {"prompt": PROMPT, "negative_prompt": NEGATIVE, "guidance_scale": 5.0, "num_inference_steps": STEPS}
    usual |= {"image": IMAGE, "generator": torch.Generator().manual_seed(11), "output_type": "np"}
    return np.asarray(peer(**(usual | options)).images[0])


def painted(pipe: Pipeline, sampler: str, **options: Any) -> wordbrush.GenerationResult:
    usual: dict[str, Any] = {"negative_prompt": NEGATIVE, "guidance": 5.0, "steps": STEPS, "image": IMAGE, "seed": 11}
    return pipe(PROMPT, sampler=sampler, **usual, **options)


IMAGE_TO_IMAGE = {
    "sd1": diffusers.StableDiffusionImg2ImgPipeline,
    "sd2-v": diffusers.StableDiffusionImg2ImgPipeline,
    "sdxl": diffusers.StableDiffusionXLImg2ImgPipeline,
}
# What docs/editing.md says of these two: started part-way, diffusers' own lose their place or their weights.
_PART_WAY = [name for name in SCHEDULERS if name not in ("pndm", "lms")]
CASES = [
    *(("sd1", sampler, strength) for sampler in _PART_WAY for strength in (0.3, 0.8)),
    *(("sd1", sampler, 1.0) for sampler in ("ddim", "pndm", "lms", "dpmpp_2m_sde")),
    *(("sd2-v", sampler, 0.6) for sampler in ("ddim", "dpmpp_2m")),
    *(("sdxl", sampler, 0.6) for sampler in ("euler", "euler_a", "heun", "dpmpp_2m", "unipc")),
]


@pytest.mark.parametrize(("name", "sampler", "strength"), CASES)
def test_image_to_image(both: Open, name: str, sampler: str, strength: float) -> None:
    pipe, peer = both(IMAGE_TO_IMAGE[name], name)
    expected = 255.0 * reference(peer, sampler, strength=strength)
    assert expected.std() > 5.0, "a flat picture would prove nothing"
    found = np.asarray(painted(pipe, sampler, strength=strength).images[0], dtype=np.float64)
    assert np.abs(found - expected).max() <= 1.0


INPAINT = {"sd1": diffusers.StableDiffusionInpaintPipeline, "sdxl": diffusers.StableDiffusionXLInpaintPipeline}
# Samplers that add no noise: what lies outside the mask then follows one way, ours and theirs. DDIM and DEIS stop
# before the noise is gone, and diffusers puts the clean latents in at the end.
BLENDED = [
    *(("sd1", sampler, strength) for sampler in ("euler", "heun", "dpmpp_2m", "unipc") for strength in (0.3, 0.8)),
    *(("sdxl", sampler, 0.6) for sampler in ("euler", "dpmpp_2m")),
    *(("sd1", sampler, 0.8) for sampler in ("ddim", "deis")),
]


@pytest.mark.parametrize(("name", "sampler", "strength"), BLENDED)
def test_masked_blending(both: Open, name: str, sampler: str, strength: float) -> None:
    pipe, peer = both(INPAINT[name], name)
    size = {"width": WIDTH, "height": HEIGHT}
    options = {"mask_image": MASK, "strength": strength, **size, "output_type": "latent"}
    expected = torch.from_numpy(reference(peer, sampler, **options))
    found = painted(pipe, sampler, strength=strength, mask=MASK).latents[0]
    inside = (slice(None), slice(1, 6), slice(2, 7))  # the mask in latents
    torch.testing.assert_close(found[inside], expected[inside], atol=2e-3, rtol=0)
    if sampler not in ("ddim", "deis"):
        torch.testing.assert_close(found, expected, atol=2e-3, rtol=0)


@pytest.mark.parametrize("masked", [False, True])
@pytest.mark.parametrize("name", ["flux-dev", "flux-schnell"])
def test_flux_begins_part_way(both: Open, name: str, masked: bool) -> None:
    kind = diffusers.FluxInpaintPipeline if masked else diffusers.FluxImg2ImgPipeline
    pipe, peer = both(kind, name)
    lengths = {"max_sequence_length": 512 if name == "flux-dev" else 256}
    theirs = peer(
        prompt=PROMPT, image=IMAGE, strength=0.3, num_inference_steps=STEPS, guidance_scale=3.5, output_type="np",
        generator=torch.Generator().manual_seed(11), width=WIDTH, height=HEIGHT, **lengths,
        **({"mask_image": MASK} if masked else {}),
    ).images[0]  # fmt: skip
    guidance = 3.5 if name == "flux-dev" else 1.0
    options = {"mask": MASK} if masked else {}
    result = pipe(PROMPT, image=IMAGE, strength=0.3, steps=STEPS, seed=11, guidance=guidance, **options)
    found = np.asarray(pipe.decode(result.latents)[0], dtype=np.float64)
    assert theirs.std() > 0.02, "a flat picture would prove nothing"
    assert np.abs(found - 255.0 * theirs).max() <= 1.0


def test_instruct_pix2pix_from_the_command_line(make_family: Maker, tmp_path: Path) -> None:
    """One command that keeps to a picture; its mask holds the rest, and a replay gives the same."""
    folder, pipe = make_family("edit"), wordbrush.load(make_family("edit"), dtype="float32")
    IMAGE.save(tmp_path / "scene.png")
    flags = ["--steps", "3", "--guidance", "5", "--image-guidance", "1.5", "--seed", "11", "--dtype", "float32"]

    def edited(*more: str) -> Image.Image:
        words = ["edit", str(tmp_path / "scene.png"), PROMPT, "-m", str(folder), "-o", str(tmp_path / "out.png")]
        result = CliRunner().invoke(make_app(), [*words, *flags, *more])
        assert result.exit_code == 0, result.output
        return Image.open(tmp_path / "out.png").convert("RGB")

    options: dict[str, Any] = {"image": IMAGE, "steps": 3, "guidance": 5.0, "image_guidance": 1.5, "seed": 11}
    assert edited().tobytes() == pipe(PROMPT, **options).images[0].tobytes()
    masked = np.asarray(edited("--mask", "8,4,20,20"))
    outside = np.asarray(MASK) == 0
    assert (masked[outside] == np.asarray(IMAGE)[outside]).all()
    result = CliRunner().invoke(make_app(), ["replay", str(tmp_path / "out.png")])
    assert "identical to" in result.stderr, result.output
    with pytest.raises(wordbrush.RequestError, match=r"mask_fill='noise' has no effect at strength 1"):
        pipe(PROMPT, mask=(8, 4, 20, 20), mask_fill="noise", **options)


@pytest.mark.parametrize("name", ["inpaint", "flux-fill"])
def test_inpainting_models_extend(make_family: Maker, name: str) -> None:
    pipe = wordbrush.load(make_family(name), dtype="float32")
    result = pipe(PROMPT, image=IMAGE, extend=(0, 5, 11, 0), steps=2, seed=1)
    assert result.request.mask_fill is None
    found = np.asarray(result.images[0])
    assert found.shape == (HEIGHT + 5, WIDTH + 11, 3)
    assert (found[5:, :WIDTH] == np.asarray(IMAGE)).all()
