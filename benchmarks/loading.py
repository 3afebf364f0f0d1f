"""Memory and time of opening a full-size model, beside reading and casting the same files plainly.

    python benchmarks/loading.py                     # Stable Diffusion 1.5 in bfloat16: 9 GB of temporary files
    python benchmarks/loading.py --repeats 5 --json
    python benchmarks/loading.py --cold              # read from the disk each time

The weights are random; a folder and a single file are written, in float32 and in float16. Each is opened by
`wordbrush.load` in a process of its own, and by the least that any loader must do: safetensors, tensor by tensor, cast
and kept. The files are in the system's cache when the clock starts, so that the disk does not hide the work; `--cold`
takes them out of it before each time, as for somebody who opens a model the first time after starting the machine.

peak      the most memory the process held while it loaded, beyond what it held before: all of its resident pages, those
          of mapped files too (which the system may take back at any time), as Linux counts them in VmHWM
own       the most of it that was the process's own (RssAnon, looked at every few milliseconds)
seconds   median of the repeats; imports are not counted
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open

from wordbrush.formats.safetensors_file import read_header

ROOT = Path(__file__).resolve().parent.parent
LOADERS = ("wordbrush", "plain")


def load_with_wordbrush(path: Path, dtype: str) -> Any:
    """The whole model, ready to paint on the CPU."""
    import wordbrush

    return wordbrush.load(path, device="cpu", dtype=dtype)


def load_plainly(path: Path, dtype: str) -> Any:
    """Every tensor of every file, cast."""
    files = [path] if path.is_file() else sorted(path.rglob("*.safetensors"))
    tensors = []
    for file in files:
        with safe_open(file, "pt") as opened:
            tensors += [opened.get_tensor(name).to(getattr(torch, dtype)) for name in opened.keys()]  # noqa: SIM118
    return tensors


def of_this_process(field: str) -> int:
    """Bytes of a field of /proc/self/status."""
    status = Path("/proc/self/status").read_text(encoding="ascii")
    return next(int(line.split()[1]) for line in status.splitlines() if line.startswith(f"{field}:")) << 10


def peak_while(work: Callable[[], Any]) -> dict[str, int]:
    """Bytes by which `work` raised this process's memory, at the most."""
    Path("/proc/self/clear_refs").write_text("5", encoding="ascii")  # VmHWM begins anew
    before, own_before = of_this_process("VmRSS"), of_this_process("RssAnon")
    seen, done = [own_before], threading.Event()

    def watch() -> None:
        while not done.wait(0.004):
            seen.append(of_this_process("RssAnon"))

    watcher = threading.Thread(target=watch)
    watcher.start()
    kept = work()
    seen.append(of_this_process("RssAnon"))
    done.set()
    watcher.join()
    peak = of_this_process("VmHWM")
    del kept
    return {"peak": peak - before, "own": max(seen) - own_before}


def measure(loader: str, path: Path, dtype: str, what: str) -> dict[str, float]:
    """In this process: memory, or time."""
    load = {"wordbrush": load_with_wordbrush, "plain": load_plainly}[loader]
    import wordbrush.pipeline  # noqa: F401  its imports are no part of loading

    if what == "memory":
        return dict(peak_while(lambda: load(path, dtype)))
    started, processor = time.perf_counter(), time.process_time()
    kept = load(path, dtype)
    result = {"seconds": time.perf_counter() - started, "processor": time.process_time() - processor}
    del kept
    return result


def in_new_process(loader: str, path: Path, dtype: str, what: str) -> dict[str, float]:
    """`measure`, where nothing has been loaded before."""
    command = [sys.executable, __file__, "--measure", loader, what, "--model", str(path), "--dtype", dtype]
    done = subprocess.run(command, check=True, capture_output=True, text=True)
    found: dict[str, float] = json.loads(done.stdout.splitlines()[-1])
    return found


def forget(path: Path) -> None:
    """Takes a model's files out of the system's cache (Linux)."""
    for file in [path] if path.is_file() else [one for one in path.rglob("*") if one.is_file()]:
        with file.open("rb") as opened:
            os.fsync(opened.fileno())
            os.posix_fadvise(opened.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)


def write_models(folder: Path) -> Iterator[tuple[str, Path]]:
    """Writes the models; yields what each is, and where."""
    sys.path.insert(0, str(ROOT / "scripts"))
    from random_checkpoint import random_parts
    from wordbrush.formats.diffusers_folder import write_folder
    from wordbrush.formats.single_file.write import write_single_file

    parts = random_parts("sd1")
    for dtype in (torch.float32, torch.float16):
        name = str(dtype).removeprefix("torch.")
        write_folder(parts, folder / name, dtype=dtype)
        yield f"folder, {name}", folder / name
        write_single_file(parts, folder / f"{name}.safetensors", dtype=dtype)
        yield f"single file, {name}", folder / f"{name}.safetensors"


def weight_bytes(path: Path, dtype: str) -> int:
    """Bytes of all weights, once they are in that number format."""
    files = [path] if path.is_file() else sorted(path.rglob("*.safetensors"))
    count = sum(tensor.parameters for file in files for tensor in read_header(file).tensors.values())
    return count * int(getattr(torch, dtype).itemsize)


def compare(name: str, path: Path, dtype: str, repeats: int, *, cold: bool) -> dict[str, Any]:
    """One row of the table."""
    row: dict[str, Any] = {"model": name, "weights": weight_bytes(path, dtype)}
    for loader in LOADERS:
        found = in_new_process(loader, path, dtype, "memory")
        row |= {f"{loader} {key}": value for key, value in found.items()}
    times: dict[str, list[dict[str, float]]] = {loader: [] for loader in LOADERS}
    for _ in range(repeats):  # in turn, so that a busy moment does not meet one of them alone
        for loader in LOADERS:
            if cold:
                forget(path)
            times[loader].append(in_new_process(loader, path, dtype, "time"))
    for loader in LOADERS:
        for key in ("seconds", "processor"):
            row[f"{loader} {key}"] = statistics.median(one[key] for one in times[loader])
    return row


def show(row: dict[str, Any]) -> None:
    """A row as text."""
    weights = row["weights"]
    print(f"{row['model']}: {weights / 1e9:.2f} GB of weights once loaded")
    for loader in LOADERS:
        peak, own = row[f"{loader} peak"], row[f"{loader} own"]
        print(
            f"  {loader:9}  peak {peak / 1e9:.2f} GB, {peak / weights:.2f} x weights;  own {own / 1e9:.2f} GB, "
            f"{own / weights:.2f} x;  {row[f'{loader} seconds']:.2f} s, {row[f'{loader} processor']:.2f} s of processor"
        )
    ratio = row["wordbrush seconds"] / row["plain seconds"]
    processor = row["wordbrush processor"] / row["plain processor"]
    print(f"  wordbrush takes {ratio:.2f} x the time, {processor:.2f} x the processor time", flush=True)


def main() -> None:
    """Measures and prints."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--dtype", default="bfloat16", choices=("float32", "bfloat16", "float16"))
    parser.add_argument("--cold", action="store_true", help="time it with the files out of the system's cache")
    parser.add_argument("--model", type=Path, help="a model of one's own in place of the random ones")
    parser.add_argument("--json", action="store_true", help="also print everything as JSON, as the last line")
    parser.add_argument("--measure", nargs=2, metavar=("LOADER", "WHAT"), help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.measure:
        print(json.dumps(measure(options.measure[0], options.model, options.dtype, options.measure[1])))
        return
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        models = write_models(Path(folder)) if options.model is None else [(options.model.name, options.model)]
        for name, path in models:
            rows.append(compare(name, path, options.dtype, options.repeats, cold=options.cold))
            show(rows[-1])
    if options.json:
        print(json.dumps({"threads": torch.get_num_threads(), "rows": rows}))


if __name__ == "__main__":
    main()
