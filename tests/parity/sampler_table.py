"""Runs every sampler and schedule beside its reference and writes what came out as docs/samplers.md.

`python -m tests.parity.sampler_table` takes a minute.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterable
from pathlib import Path

from tests.diffusion.gaussian import PROCESSES
from tests.diffusion.orders import DETERMINISTIC, STOCHASTIC, measured_order
from tests.parity.k_diffusion import FUNCTIONS, STRAIGHT, k_diffusion_error
from tests.parity.sampler_cases import (
    FLOW_SCHEDULER_OF,
    KNOWN_DIFFERENCES,
    SCHEDULER_OF,
    Case,
    case_of,
    flow_case_of,
    max_error,
)
from tests.parity.schedule_cases import (
    ays_error,
    flow_schedule_error,
    k_diffusion_schedule_error,
    schedule_error,
    simple_error,
)

from wordbrush.diffusion.samplers import SAMPLERS

STEPS = (4, 10, 20)
NO_SAMPLE = ("pndm", "euler_a", "dpm2", "dpm2_a", "dpmpp_sde")
"""Samplers whose diffusers schedulers know no prediction type `sample`."""


def worst(cases: Iterable[Case]) -> str:
    """The largest difference of all the cases, as the table has it."""
    return f"{max(max_error(case) for case in cases):.0e}"


def sampler_row(sampler: str) -> str:
    """Its differences from diffusers, by prediction type, and from k-diffusion over all of them."""
    cells = dict.fromkeys(("epsilon", "v_prediction", "sample", "flow"), "–")
    for kind in ("epsilon", "v_prediction", "sample"):
        if sampler in SCHEDULER_OF and not (kind == "sample" and sampler in NO_SAMPLE):
            spacings = ("leading", "trailing")
            cells[kind] = worst(
                case_of(sampler, steps=steps, timestep_spacing=spacing, prediction_type=kind)
                for steps in STEPS
                for spacing in spacings
            )
    if sampler == "pndm":
        cells["v_prediction"] = "see below"
    if sampler in FLOW_SCHEDULER_OF:
        cells["flow"] = worst(flow_case_of(sampler, steps=n, shift=shift) for n in STEPS for shift in (1.0, 3.0))
    names = dict.fromkeys(name[sampler] for name in (SCHEDULER_OF, FLOW_SCHEDULER_OF) if sampler in name)
    return f"| `{sampler}` | {', '.join(names) or '–'} | {' | '.join(cells.values())} | {_k_diffusion_cell(sampler)} |"


def _k_diffusion_cell(sampler: str) -> str:
    if sampler not in FUNCTIONS:
        return "–"
    kinds = ("epsilon", "v", "sample", "flow")
    errors = [
        k_diffusion_error(sampler, ladder, PROCESSES[process], kind)
        for process, ladders in (("vp", ("karras", "exponential")), ("flow", ("karras", "exponential")))
        if not (process == "flow" and sampler in STRAIGHT)
        for ladder in ladders
        for kind in kinds
    ]
    if sampler in STRAIGHT:
        errors += [k_diffusion_error(sampler, "flow", PROCESSES["flow"], kind) for kind in kinds[1:]]
    return f"{max(errors):.0e}"


def order_row(sampler: str) -> str:
    """Its published order of convergence and the measured ones."""
    published = "see below" if sampler == "dpmpp_3m_sde" else (DETERMINISTIC | STOCHASTIC)[sampler]
    measured = " | ".join(f"{measured_order(sampler, PROCESSES[process]):.2f}" for process in ("vp", "ve", "flow"))
    return f"| `{sampler}` | {published} | {measured} |"


def schedule_rows() -> Iterable[str]:
    """Every schedule, what it means and how far its levels are from the reference's."""
    for schedule, (meaning, on_flow) in MEANINGS.items():
        if schedule == "simple":
            errors = [f"ComfyUI's rule {max(simple_error(n) for n in STEPS):.0e}"]
        elif schedule == "ays":
            errors = [f"published timesteps {ays_error('sd1'):.1f} (SD 1), {ays_error('sdxl'):.1f} (SDXL)"]
        else:
            found = max(schedule_error(schedule, name, n) for name in ("euler", "dpmpp_2m") for n in STEPS)
            errors = [f"diffusers {found:.0e}"]
        if schedule in ("karras", "exponential"):
            errors.append(f"k-diffusion {k_diffusion_schedule_error(schedule):.0e}")
        cases = [(n, None) for n in STEPS] if schedule in ("normal", "karras", "exponential", "beta") else []
        if schedule in ("sgm_uniform", "karras", "exponential", "beta"):
            cases += [(n, tokens) for n in STEPS for tokens in (256, 4096)]
        if cases:
            flow = max(flow_schedule_error(schedule, "euler", n, tokens) for n, tokens in cases)
            errors.append(f"diffusers on a flow {flow:.0e}")
        yield f"| `{schedule}` | {meaning} | {on_flow} | {', '.join(errors)} |"


MEANINGS = {
    "normal": ("even timesteps over the whole range (linspace)", "even before the shift, down to 1/1000; SD 3's"),
    "ddim_uniform": ("whole strides up from the first timestep (leading)", "even, without pure noise"),
    "sgm_uniform": ("whole strides down from the last timestep (trailing)", "even from 1 to 1/steps; FLUX's"),
    "simple": ("every (1000 / steps)-th timestep from the last down", "as `sgm_uniform`"),
    "karras": ("even in level^(1/7), level being sigma / alpha", "the same in sigma, over the range of the default"),
    "exponential": ("even in log level", "the same in sigma, over the range of the default"),
    "beta": ("levels at the quantiles of Beta(0.6, 0.6)", "the same in sigma, over the range of the default"),
    "ays": ("Align Your Steps' table, by model family", "the table's signal-to-noise ratios"),
}

_SAMPLERS = """# Samplers and schedules against their references

Written by `python -m tests.parity.sampler_table`; the same comparisons, and many more options, are tests
(`tests/parity/test_samplers.py`, `test_schedules.py`; `tests/diffusion/test_samplers.py`).

## Samplers

Each sampler runs 4, 10 and 20 steps beside the reference, on the same noise, with the exact denoiser of a two-component
mixture as the network, turned into each prediction type; the figure is the largest difference at the end of the run, x
being of about unit size. diffusers computes in float32, which is most of it. k-diffusion 0.1.1's functions were run in
float64 and their ends stored (`tests/parity/k_diffusion.json`); the last column is over all four prediction types and
over both Stable Diffusion's noise and a rectified flow. A dash: the reference has no such thing.

| sampler | diffusers' scheduler | epsilon | v | sample | flow | k-diffusion |
|---|---|---|---|---|---|---|
"""

_ORDERS = """
`pndm` on a flow has no reference: it is shown to be its own run on Stable Diffusion's noise, divided by alpha, to 9
digits, as are all samplers but `heun`, `dpm2` and `lms`, which are straight in x on a flow (as diffusers and ComfyUI
have them). That of `deis` on a flow is stopped where diffusers stops (see the known differences); there diffusers finds
alpha, 0.0003 at the first step, as a difference of float32 numbers near 1.

## Orders of convergence

Measured on Gaussian data, whose trajectories and distributions are known exactly, between lambda -2.5 and 3: log2 of
what 120 steps instead of 60 divide the error by. Of a stochastic sampler the error is that of the spread at the end;
its mean is exact at any number of steps. `lms` and `unipc` are measured after a few short first steps and before a
short last one: they begin (and unipc ends) with a step of lower order. `lcm` has no order; with an exact consistency
function its distribution is exact at any number of steps.

| sampler | published | Stable Diffusion's noise | variance exploding | rectified flow |
|---|---|---|---|---|
"""

_SCHEDULES = """
`dpmpp_3m_sde` is k-diffusion's, which publishes no order. Noise leaves 2 on Gaussian data. Where the estimate of x0 is
smooth in time the order would be 3, but the parabola has half the weight which that takes (as in diffusers'
DPM-Solver++ of order 3), so it is 2 there too; it stays so for the sake of the same pictures.

## Schedules

The figure is the largest relative difference of sigma / alpha over 4, 10 and 20 steps of `euler` and `dpmpp_2m`; that
of Align Your Steps is in timesteps, of which the authors publish whole ones. On a flow it is the difference of sigma,
for SD 3's static shift of 3 and for FLUX's shift by picture size. diffusers rounds a little differently in some groups
of samplers, and so does Wordbrush (`Family` in `diffusion/schedules.py`). `beta` spreads levels, as in diffusers;
ComfyUI's `beta` spreads timesteps.

| schedule | Stable Diffusion's noise | rectified flow | difference |
|---|---|---|---|
"""

_KNOWN = """
A model samples as its scheduler config and its pipeline in diffusers say when nothing is asked for: Stable Diffusion
`ddim_uniform` with most samplers, Turbo and Lightning `sgm_uniform` (trailing), LCM models a subset of the 50 timesteps
they were distilled on, SD 3 `normal`, FLUX.1 schnell `sgm_uniform`, and dev the same shifted by exp(mu), mu rising from
0.5 at 256 tokens (256 x 256 pixels) to 1.15 at 4096 (1024 x 1024).

## Known differences

Where a diffusers scheduler contradicts itself, Wordbrush does what its paper says, and pictures differ. Measured as
above, 20 steps unless stated:

| what diffusers does | difference |
|---|---|
"""


def main() -> None:
    """Write docs/samplers.md and print it."""
    warnings.simplefilter("ignore")
    tables = {
        _SAMPLERS: map(sampler_row, SAMPLERS),
        _ORDERS: (order_row(sampler) for sampler in SAMPLERS if sampler != "lcm"),
        _SCHEDULES: schedule_rows(),
        _KNOWN: (f"| {why} | {max_error(case):.0e} |" for why, case in KNOWN_DIFFERENCES.items()),
    }
    text = "".join(head + "\n".join(rows) + "\n" for head, rows in tables.items())
    Path("docs/samplers.md").write_text(text, encoding="utf-8")
    print(text)


if __name__ == "__main__":
    main()
