"""k-diffusion's own samplers as a reference, stored as numbers because its package drags too much along to install.

    pip download --no-deps k-diffusion==0.1.1.post1 && unzip k_diffusion-0.1.1.post1-py3-none-any.whl
    python -m tests.parity.k_diffusion k_diffusion/sampling.py

runs the functions in that file (MIT licence, Katherine Crowson) in float64 and writes k_diffusion.json beside this one.
They step y = x / alpha over levels sigma / alpha, so that one stored end serves every process and prediction type; on a
flow, the deterministic ones are also run as ComfyUI does, in x over sigma.
"""

from __future__ import annotations

import json
import math
import sys
import types
from collections.abc import Callable, Iterator
from importlib import util
from pathlib import Path
from typing import Any
from unittest import mock

import torch
from tests.parity.sampler_cases import brownian, mixture_x0, network
from torch import Tensor

from wordbrush.diffusion.prediction import network_denoiser
from wordbrush.diffusion.process import Process
from wordbrush.diffusion.samplers import get_sampler

STORE = Path(__file__).with_name("k_diffusion.json")
SHAPE = (1, 1, 2, 3)

FUNCTIONS = {
    "ddim": "sample_euler",
    "euler": "sample_euler",
    "ddpm": "sample_euler_ancestral",
    "euler_a": "sample_euler_ancestral",
    "heun": "sample_heun",
    "dpm2": "sample_dpm_2",
    "dpm2_a": "sample_dpm_2_ancestral",
    "lms": "sample_lms",
    "dpmpp_2s_a": "sample_dpmpp_2s_ancestral",
    "dpmpp_sde": "sample_dpmpp_sde",
    "dpmpp_2m": "sample_dpmpp_2m",
    "dpmpp_2m_sde": "sample_dpmpp_2m_sde",
    "dpmpp_3m_sde": "sample_dpmpp_3m_sde",
}
STRAIGHT = ("euler", "heun", "dpm2", "lms")
"""Samplers that ComfyUI also runs in x itself on a flow."""

# karras ends at 0; exponential stops before, so that the noise of the last step shows
LEVELS = {"karras": (10, 14.6, 0.03), "exponential": (17, 14.6, 0.03)}
FLOW_LEVELS = [1.0, 0.97, 0.9, 0.8, 0.65, 0.5, 0.3, 0.1, 0.0]


def stored() -> dict[str, Any]:
    """What k-diffusion gave: {"levels": {name: [...]}, "ends": {name: {function: [...]}}}."""
    found: dict[str, Any] = json.loads(STORE.read_text(encoding="utf-8"))
    return found


def k_diffusion_error(sampler: str, levels: str, process: Process, prediction: str) -> float:
    """The largest difference from k-diffusion's end, y being of about unit size, by a network of that prediction type.

    levels: "karras" or "exponential", taken as sigma / alpha of the process, or "flow", taken as its sigma.
    """
    reference = stored()
    ladder = reference["levels"][levels]
    as_sigma = levels == "flow"
    time_of = process.time_of_level if as_sigma else lambda level: process.time_of_lambda(-math.log(level))
    times = [time_of(level) if level > 0.0 else 0.0 for level in ladder]
    scale = 1.0 if as_sigma else process.alpha(times[0])
    denoiser = network_denoiser(network(process, prediction), process, prediction)
    run = get_sampler(sampler)(denoiser, _start(ladder) * scale, times, process, _noise(len(ladder)).__next__)
    end = list(run)[-1].x.flatten() / (1.0 if as_sigma else process.alpha(times[-1]))
    return float((end - torch.tensor(reference["ends"][levels][FUNCTIONS[sampler]], dtype=torch.float64)).abs().max())


def _start(ladder: list[float]) -> Tensor:
    return _draw(0) * ladder[0]


def _noise(steps: int) -> Iterator[Tensor]:
    return (_draw(k) for k in range(1, 2 * steps + 1))


def _draw(k: int) -> Tensor:
    """Numbers of about unit size by a formula, so that no generator has to stay as it is."""
    place = torch.arange(math.prod(SHAPE), dtype=torch.float64).reshape(SHAPE)
    return math.sqrt(2.0) * torch.cos(1.0 + 2.3 * place + (1.7 + 0.6 * place) * k)


def main(source: str) -> None:
    """Write the store from k_diffusion/sampling.py at that path."""
    sampling = _load(source)
    torch.set_default_dtype(torch.float64)
    makers = {"karras": sampling.get_sigmas_karras, "exponential": sampling.get_sigmas_exponential}
    levels = {name: makers[name](n, low, high) for name, (n, high, low) in LEVELS.items()}
    levels["exponential"] = levels["exponential"][:-1]
    ends: dict[str, dict[str, list[float]]] = {
        name: {function: _run(sampling, function, ladder, _ratio_x0) for function in dict.fromkeys(FUNCTIONS.values())}
        for name, ladder in levels.items()
    }
    levels["flow"] = torch.tensor(FLOW_LEVELS)
    ends["flow"] = {FUNCTIONS[name]: _run(sampling, FUNCTIONS[name], levels["flow"], _flow_x0) for name in STRAIGHT}
    lists = {name: ladder.tolist() for name, ladder in levels.items()}
    STORE.write_text(json.dumps({"k_diffusion": "0.1.1.post1", "levels": lists, "ends": ends}, indent=1) + "\n")


def _load(source: str) -> Any:
    """The module, without the packages that only its other functions need."""
    idle = {name: types.ModuleType(name) for name in ("torchdiffeq", "torchsde", "tqdm", "tqdm.auto", "kd", "kd.utils")}
    idle["torchdiffeq"].odeint = None  # type: ignore[attr-defined]
    idle["tqdm.auto"].trange = lambda count, **_: range(count)  # type: ignore[attr-defined]
    idle["tqdm.auto"].tqdm = None  # type: ignore[attr-defined]
    idle["kd.utils"].append_dims = lambda x, n: x[(...,) + (None,) * (n - x.ndim)]  # type: ignore[attr-defined]
    idle["kd"].utils = idle["kd.utils"]  # type: ignore[attr-defined]
    spec = util.spec_from_file_location("kd.sampling", source)
    assert spec is not None
    assert spec.loader is not None
    module = util.module_from_spec(spec)
    with mock.patch.dict(sys.modules, idle):
        spec.loader.exec_module(module)
    return module


def _run(sampling: Any, function: str, levels: Tensor, x0_of: Callable[[Tensor, float], Tensor]) -> list[float]:
    ladder = levels.tolist()
    draws = _noise(len(ladder))
    path = brownian(draws) if function == "sample_dpmpp_sde" else lambda *_: next(draws)
    ancestral = "ancestral" in function or "sde" in function
    end = getattr(sampling, function)(
        lambda y, level: x0_of(y, float(level[0])),
        _start(ladder),
        levels,
        **({"noise_sampler": path} if ancestral else {}),
    )
    return [float(value) for value in end.flatten()]


def _ratio_x0(y: Tensor, level: float) -> Tensor:
    return mixture_x0(y, 1.0, level)


def _flow_x0(x: Tensor, level: float) -> Tensor:
    return mixture_x0(x, 1.0 - level, level)


if __name__ == "__main__":
    main(sys.argv[1])
