"""Memory and time of decoding with a full-size VAE, whole and in strips, and how far apart the two pictures are.

    python benchmarks/decoding.py
    python benchmarks/decoding.py --dtype float32 --sides 512 2048 --json

The VAE is that of Stable Diffusion 1.5 with random weights. Every figure is from a process of its own. The peak is all
memory that the process held beyond what Python and torch take, the VAE's weights among it. Pictures of up to a million
pixels are also decoded whole, for comparison; the difference is in steps of 255, of the whole picture's range.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import torch

sys.path.insert(0, str(Path(__file__).resolve().parent))

from loading import of_this_process

from wordbrush.formats.single_file.configs import VAES
from wordbrush.networks.vae import AutoencoderKL, AutoencoderKLConfig
from wordbrush.runtime.packed_vae import fastest_decoder
from wordbrush.runtime.policy import Runtime
from wordbrush.runtime.strips import StripDecoder

LARGEST_WHOLE = 1024


def random_vae(runtime: Runtime) -> AutoencoderKL:
    """Weights of a size that keeps every layer's output about as large as its input."""
    vae = AutoencoderKL(AutoencoderKLConfig.from_dict(VAES["sd1"]))
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in vae.parameters():
            noise = torch.randn(parameter.shape, generator=generator)
            parameter.copy_(noise * parameter[0].numel() ** -0.5 if parameter.ndim > 1 else 1 + 0.1 * noise)
    return runtime.place(vae)


@torch.inference_mode()
def measure(side: int, way: str, dtype: str) -> dict[str, Any]:
    """In this process: one picture decoded in one way, or in both for the difference."""
    before = of_this_process("VmRSS")
    runtime = Runtime.choose("cpu", dtype)
    vae = random_vae(runtime)
    decoder = fastest_decoder(vae, runtime)
    ways = {"whole": decoder.decode, "strips": StripDecoder(decoder).decode}
    latents = torch.randn(1, 4, side // 8, side // 8, generator=torch.Generator().manual_seed(1)).to(runtime.dtype)
    if way == "difference":
        whole, strips = (decode(latents).float() for decode in ways.values())
        exact = (runtime.dtype == torch.float32) or random_vae(Runtime.choose("cpu", "float32")).decode(latents.float())
        span = (whole.max() - whole.min()).item()
        found = {"difference": 255 * (whole - strips).abs().max().item() / span}
        if isinstance(exact, torch.Tensor):
            found |= {
                f"{name} to float32": 255 * (picture - exact).abs().max().item() / span
                for name, picture in (("whole", whole), ("strips", strips))
            }
        return found
    Path("/proc/self/clear_refs").write_text("5", encoding="ascii")  # VmHWM begins anew
    started = time.perf_counter()
    picture = ways[way](latents)
    seconds = time.perf_counter() - started
    assert picture.shape == (1, 3, side, side)
    return {"seconds": seconds, "peak": of_this_process("VmHWM") - before}


def in_new_process(side: int, way: str, dtype: str) -> dict[str, Any]:
    """`measure`, where nothing has been decoded before."""
    command = [sys.executable, __file__, "--dtype", dtype, "--measure", str(side), way]
    done = subprocess.run(command, check=True, capture_output=True, text=True)
    found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return found


def main() -> None:
    """Measures and prints."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sides", type=int, nargs="+", default=[512, 1024, 2048], metavar="PIXELS")
    parser.add_argument("--dtype", default="auto", choices=("auto", "float32", "bfloat16"))
    parser.add_argument("--json", action="store_true", help="also print everything as JSON, as the last line")
    parser.add_argument("--measure", nargs=2, metavar=("SIDE", "WAY"), help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.measure:
        print(json.dumps(measure(int(options.measure[0]), options.measure[1], options.dtype)))
        return
    rows = []
    for side in options.sides:
        for way in ("whole", "strips", "difference"):
            if way != "strips" and side > LARGEST_WHOLE:
                continue
            found = in_new_process(side, way, options.dtype)
            rows.append({"side": side, "way": way, **found})
            if way == "difference":
                text = ", ".join(f"{name} {value:.3f}" for name, value in found.items())
            else:
                text = f"{found['seconds']:.1f} s, peak {found['peak'] / 1e9:.2f} GB"
            print(f"{side}x{side} {way}: {text}", flush=True)
    if options.json:
        print(json.dumps({"dtype": Runtime.choose("cpu", options.dtype).dtype_name, "rows": rows}))


if __name__ == "__main__":
    main()
