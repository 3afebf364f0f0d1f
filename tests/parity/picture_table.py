"""Paints with every family and sampler beside diffusers and writes what came out as docs/parity.md.

`python -m tests.parity.picture_table` takes a minute of processor time.
"""

from __future__ import annotations

import tempfile
import warnings
from pathlib import Path

import diffusers
import numpy as np
from tests.conftest import write_tokenizer
from tests.parity.conftest import write_t5_tokenizer
from tests.parity.families import Maker
from tests.parity.pictures import (
    FAMILIES,
    FLOW_FAMILIES,
    FLOW_SCHEDULERS,
    SCHEDULERS,
    SIDE,
    STEPS,
    Ours,
    Reference,
    flux_picture_of,
    most_likely_latents,
    painted_exactly,
    picture_of,
)

_NAMES = {
    "sd1": "SD 1", "sd2-v": "SD 2 (v)", "sdxl": "SDXL", "inpaint": "inpainting", "edit": "instruct-pix2pix",
    "lcm": "LCM", "sdxl-inpaint": "SDXL inpainting", "flux-dev": "FLUX.1 dev", "flux-schnell": "FLUX.1 schnell",
}  # fmt: skip

_HEAD = f"""# Pictures against diffusers

Written by `python -m tests.parity.picture_table`; that each figure is at most 1 is a test
(`tests/parity/test_families.py`).

Each family is a tiny model of random weights, opened by diffusers {diffusers.__version__} and by Wordbrush in float32:
from the diffusers folder, and from a single file in the original layout without any notes of ours. Both paint the same
prompt from the same starting noise, {STEPS} steps, {SIDE} x {SIDE} pixels. A cell is the largest difference of any
channel of any pixel, in units of 1/255 before rounding, the larger of with and without guidance: from the folder / from
the file. Rounding itself is 0.5. A dash: not compared.

Wordbrush takes the most likely latents of a picture it begins from, diffusers draws some; for the comparison diffusers
takes the most likely too.

## Stable Diffusion

The references are diffusers' pipelines with its schedulers, as they are. `pndm` on v-prediction is among the known
differences in `samplers.md`.

"""
_FLUX = """
## FLUX.1

The references of six samplers are stock classes of diffusers. Two are written in the test (`tests/parity/pictures.py`),
because diffusers has no scheduler that its FLUX pipeline can use so: `FlowLMS` is diffusers' linear multistep method
run over FLUX's noise levels, and `FlowHeun` its Heun for flows through the noise levels that the pipeline asks for,
which the stock class cannot be told. What these two share with diffusers is the step, not the schedule.

The FLUX pipeline hands its generator to no scheduler, so the noise that `lcm` and `dpmpp_2m_sde` draw is given to them;
and for schnell, DPMSolverMultistep and UniPC are kept from refusing the shift by size that they do not use.

"""


def cell(ours: Ours, peer: Reference, name: str, sampler: str) -> str:
    """The largest difference from the folder and from the file."""
    worst = [0.0, 0.0]
    for guided in (True, False):
        paint = flux_picture_of if name in FLOW_FAMILIES else picture_of
        expected, options = paint(peer, name, sampler, guided=guided)
        for index, pipe in enumerate(ours):
            worst[index] = max(worst[index], float(np.abs(painted_exactly(pipe, **options) - expected).max()))
    return " / ".join(f"{value:.1g}" if value < 0.001 else f"{value:.3f}" for value in worst)


def columns(make: Maker, folder: Path) -> dict[str, dict[str, str]]:
    """Family -> sampler -> cell."""
    found = {}
    for name in _NAMES:
        peer, ours = Reference(make(name)), Ours.opened(name, make(name), folder)
        samplers = FLOW_SCHEDULERS if name in FLOW_FAMILIES else FAMILIES[name].samplers
        found[name] = {sampler: cell(ours, peer, name, sampler) for sampler in samplers}
    return found


def table(found: dict[str, dict[str, str]], names: list[str], schedulers: dict[str, str]) -> str:
    """Rows of samplers, columns of families."""
    heads = ["sampler", "diffusers' scheduler", *(_NAMES[name] for name in names)]
    rows = [heads, ["---"] * len(heads)]
    for sampler, scheduler in schedulers.items():
        rows.append([f"`{sampler}`", scheduler, *(found[name].get(sampler, "–") for name in names)])
    return "".join(f"|{'|'.join(row)}|\n" if row[0] == "---" else f"| {' | '.join(row)} |\n" for row in rows)


def main() -> None:
    """Write docs/parity.md and print it."""
    warnings.simplefilter("ignore")
    diffusers.utils.logging.set_verbosity_error()
    with tempfile.TemporaryDirectory() as name, most_likely_latents():
        folder = Path(name)
        for part in ("tokenizer", "t5", "models", "files"):
            (folder / part).mkdir()
        make = Maker(folder / "models", write_tokenizer(folder / "tokenizer"), write_t5_tokenizer(folder / "t5"))
        found = columns(make, folder / "files")
    stock = {sampler: name for sampler, (name, _) in SCHEDULERS.items()} | {"lcm": "LCMScheduler"}
    flow = {
        sampler: f"{kind.__name__}, written in the test" if kind.__module__.startswith("tests") else kind.__name__
        for sampler, (kind, _) in FLOW_SCHEDULERS.items()
    }
    text = _HEAD + table(found, [name for name in FAMILIES if name in _NAMES], stock)
    text += _FLUX + table(found, list(FLOW_FAMILIES), flow)
    Path("docs/parity.md").write_text(text, encoding="utf-8")
    print(text)


if __name__ == "__main__":
    main()
