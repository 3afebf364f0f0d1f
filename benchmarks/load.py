"""The server under load, beside what the same machine paints without it.

    python benchmarks/load.py         # 64 clients for 3 × 60 s, by wrk; then 500 jobs and 20 model switches
    python benchmarks/load.py --parts throughput --rounds 1 --seconds 20 --clients 16 --json

Needs the extra `serve` and wrk (Debian, Ubuntu: apt-get install wrk). The server is `wordbrush serve` in a process of
its own, on this machine, with an empty data folder; wrk asks its OpenAI API for one picture a request, each of another
seed, and every answer but 200 and 429 is an error.

alone        pictures a second that `Pipeline` paints and encodes as PNG, in batches as large as the server's
throughput   pictures a second while there is always work, from the end of the first full batch to that of the last, in
             turns with what is painted alone, since a machine's speed drifts; the share of the one in the other
memory       resident memory of the server and its workers after every 50 jobs, and after each switch between two models
             of which the cache holds one
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import datetime
from pathlib import Path
from typing import Any

import httpx
import psutil

ROOT = Path(__file__).resolve().parent.parent
THINGS = ("a red apple", "a dog", "a yellow car", "two cats", "a tree", "a house", "a blue fish", "a pizza")
GROUNDS = ("a white background", "a blue background", "a green background", "a yellow background")
SECOND_MODEL = "second-model"


def paint_alone(batch: int, seconds: float) -> float:
    """Pictures a second of the pipeline in this process, without a server."""
    import wordbrush
    from wordbrush.metadata import PictureMetadata, png_bytes
    from wordbrush.runtime.memory import keep_freed_memory

    keep_freed_memory()
    pipe = wordbrush.load()
    done, started = 0, 0.0
    while not started or time.monotonic() - started < seconds:
        prompts = tuple(f"{THINGS[i % len(THINGS)]} on {GROUNDS[i % len(GROUNDS)]}" for i in range(done, done + batch))
        result = pipe(wordbrush.GenerationRequest(prompt=prompts, seed=done))
        for index, image in enumerate(result.images):
            png_bytes(image, PictureMetadata(request=result.request.part(index, index + 1), origin=pipe.origin))
        if not started:  # the first batch is for warming up
            started = time.monotonic()
        else:
            done += batch
    return done / (time.monotonic() - started)


@contextmanager
def served(folder: Path, *flags: str, models: Path | None = None) -> Iterator[tuple[str, psutil.Process]]:
    """A server with its data in a folder; gives its address, when it is ready, and its process."""
    environment = {**os.environ, "WORDBRUSH_HOME": str(folder / "home")}
    if models is not None:
        environment["WORDBRUSH_MODELS"] = str(models)
    log = folder / "server.log"
    command = [sys.executable, "-m", "wordbrush", "serve", "--port", "0", "--data", str(folder / "data"), *flags]
    with log.open("wb") as output:
        process = subprocess.Popen(command, env=environment, stdout=output, stderr=subprocess.STDOUT)
    try:
        yield _address(process, log), psutil.Process(process.pid)
    finally:
        process.terminate()
        process.wait(60)


def _address(process: subprocess.Popen[bytes], log: Path) -> str:
    deadline = time.monotonic() + 120
    while time.monotonic() < deadline and process.poll() is None:
        if found := re.search(r"http://[\w.:]+", log.read_text(errors="replace")):
            try:
                if httpx.get(f"{found[0]}/readyz").status_code == 200:
                    return found[0]
            except httpx.TransportError:
                pass
        time.sleep(0.2)
    raise SystemExit(f"the server did not come up:\n{log.read_text(errors='replace')}")


def throughput(clients: int, seconds: int, batch: int, rounds: int) -> dict[str, Any]:
    """What wrk measures, and what the pipeline does alone: in turns, since a machine's speed drifts."""
    flags = ("--batch", str(batch), "--no-studio")
    alone, painted, runs = [_alone(batch)], list[float](), list[dict[str, Any]]()
    with tempfile.TemporaryDirectory() as folder, served(Path(folder), *flags) as (url, _):
        for number in range(3):  # the first pictures open the model
            httpx.post(f"{url}/v1/images/generations", json={"prompt": "a dog", "seed": number}, timeout=300)
        for _ in range(rounds):
            since = time.time()
            runs.append(_wrk(url, clients, seconds))
            painted.append(_pace(url, since))
            alone.append(_alone(batch))  # the server is idle meanwhile
    mean = sum(painted) / rounds
    longest: dict[str, Any] = {name: max(run[name] for run in runs) for name in ("p50", "p95", "p99", "longest")}
    summed: dict[str, Any] = {name: sum(run[name] for run in runs) for name in ("seconds", "requests")}
    answers: dict[str, int] = {}
    for run in runs:
        for code, many in run["answers"].items():
            answers[code] = answers.get(code, 0) + many
    errors = sum(run["broken"] + run["timeouts"] for run in runs)
    errors += sum(many for code, many in answers.items() if code not in ("200", "429"))
    return {
        **summed, **longest, "answers": answers, "errors": errors, "clients": clients, "batch": batch, "rounds": rounds,
        "pictures_per_second": painted, "alone": alone, "share": mean * len(alone) / sum(alone),
    }  # fmt: skip


def _pace(url: str, since: float) -> float:
    """Pictures a second between the ends of the first full batch after a time and of the last one wrk waited for."""
    cursor, ends = None, list[float]()
    with httpx.Client(base_url=url, timeout=60) as client:
        while True:
            query = {"state": "done", "limit": 500, "order": "oldest"} | ({"cursor": cursor} if cursor else {})
            page = client.get("/v1/jobs", params=query).json()
            ends += [datetime.fromisoformat(job["finished"]).timestamp() for job in page["jobs"]]
            cursor = page["next_cursor"]
            if cursor is None:
                break
    ends = sorted(end for end in ends if end > since)
    began = next(end for end in ends if end > ends[0] + 0.2)
    return sum(end > began + 0.2 for end in ends) / (ends[-1] - began)


def _alone(batch: int) -> float:
    command = [sys.executable, __file__, "--alone", str(batch)]
    return float(subprocess.run(command, check=True, capture_output=True, text=True).stdout.split()[-1])


def _wrk(url: str, clients: int, seconds: int) -> dict[str, Any]:
    script = Path(__file__).with_suffix(".lua")
    command = ["wrk", "-t1", f"-c{clients}", f"-d{seconds}s", "--timeout", "120s", "--latency", "-s", str(script), url]
    output = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    line = next(line for line in output.splitlines() if line.startswith("RESULT "))
    return json.loads(line.removeprefix("RESULT "))


def memory(jobs: int, switches: int) -> dict[str, Any]:
    """Resident megabytes over many jobs, and over switches between two models of which one fits the cache."""
    with tempfile.TemporaryDirectory() as folder:
        models = Path(folder) / "models"
        _second_model(models / SECOND_MODEL)
        with served(Path(folder), "--no-studio", "--cache-bytes", "1", models=models) as (url, process):
            first = asyncio.run(_jobs(url, process, jobs))
            second = asyncio.run(_switches(url, process, switches))
    return {"jobs": first, "switches": second}


def _second_model(folder: Path) -> None:
    program = f"import wordbrush; wordbrush.load().save({str(folder)!r})"
    subprocess.run([sys.executable, "-c", program], check=True, capture_output=True)


async def _jobs(url: str, process: psutil.Process, jobs: int) -> list[int]:
    found = []
    async with httpx.AsyncClient(base_url=url, timeout=300) as client:
        for start in range(0, jobs, 50):
            await asyncio.gather(*(_paint(client, number) for number in range(start, min(start + 50, jobs))))
            found.append(_resident(process))
    return found


async def _switches(url: str, process: psutil.Process, switches: int) -> list[int]:
    found = []
    async with httpx.AsyncClient(base_url=url, timeout=300) as client:
        for number in range(switches):
            await _paint(client, number, SECOND_MODEL if number % 2 == 0 else None)
            found.append(_resident(process))
    return found


async def _paint(client: httpx.AsyncClient, number: int, model: str | None = None) -> None:
    body = {"prompt": f"{THINGS[number % len(THINGS)]} on {GROUNDS[number % len(GROUNDS)]}", "seed": number}
    if model is not None:
        body["model"] = model
    answer = await client.post("/v1/images/generations", json=body)
    answer.raise_for_status()


def _resident(process: psutil.Process) -> int:
    """Megabytes of the server and its workers."""
    members = [process, *process.children(recursive=True)]
    return round(sum(member.memory_info().rss for member in members) / 1e6)


def _print(found: dict[str, Any]) -> None:
    if result := found.get("throughput"):
        print(f"{result['clients']} clients, {result['seconds']:.0f} s in {result['rounds']} rounds, one picture each")
        print(f"answers       {result['answers']}, errors {result['errors']}")
        print(f"latency       p50 {result['p50']:.2f} s, p95 {result['p95']:.2f} s, p99 {result['p99']:.2f} s")
        print(f"throughput    {_listed(result['pictures_per_second'])} pictures/s")
        print(f"alone         {_listed(result['alone'])} pictures/s in batches of {result['batch']}, around the rounds")
        print(f"share         {100 * result['share']:.0f} %")
    if result := found.get("memory"):
        print(f"MB, every 50 jobs      {result['jobs']}")
        print(f"MB, every model switch {result['switches']}")


def _listed(numbers: list[float]) -> str:
    return ", ".join(f"{number:.2f}" for number in numbers)


def main() -> None:
    """Runs what was asked for."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--parts", nargs="+", choices=("throughput", "memory"), default=["throughput", "memory"])
    parser.add_argument("--clients", type=int, default=64)
    parser.add_argument("--seconds", type=int, default=60)
    parser.add_argument("--rounds", type=int, default=3, help="of load, with the pipeline alone before and after each")
    parser.add_argument("--batch", type=int, default=16)
    parser.add_argument("--jobs", type=int, default=500)
    parser.add_argument("--switches", type=int, default=20)
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--alone", type=int, metavar="BATCH", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.alone:
        print(paint_alone(options.alone, 20.0))
        return
    if "throughput" in options.parts and shutil.which("wrk") is None:
        parser.error("wrk is not here; install it (Debian, Ubuntu: apt-get install wrk), or give --parts memory")
    found = {}
    if "throughput" in options.parts:
        found["throughput"] = throughput(options.clients, options.seconds, options.batch, options.rounds)
    if "memory" in options.parts:
        found["memory"] = memory(options.jobs, options.switches)
    if options.json:
        print(json.dumps(found, indent=2))
    else:
        _print(found)


if __name__ == "__main__":
    main()
