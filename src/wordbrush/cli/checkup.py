"""What `wordbrush doctor` looks at: each check yields findings, and what is not good says how to mend it."""

from __future__ import annotations

import os
import shutil
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import Literal

from wordbrush.errors import WordbrushError

Level = Literal["good", "note", "wrong"]

# Memory and disk space, in bytes, below which the embedded model or a written checkpoint fails.
LEAST_MEMORY = 1 << 30
LEAST_DISK = 1 << 30

# Seconds within which a picture of the embedded model is there on any machine that is not overloaded.
SLOW_PICTURE = 20.0


@dataclass(frozen=True)
class Finding:
    """One thing that was looked at.

    Attributes:
        about: what, in a word or two.
        level: "good"; "note", which limits something; "wrong", which keeps Wordbrush from working.
        says: what was found.
        mend: what to do about it; None where it is good.
    """

    about: str
    level: Level
    says: str
    mend: str | None = None


def examined(checks: tuple[Callable[[], Iterator[Finding]], ...]) -> Iterator[Finding]:
    """The findings of all checks; one that breaks is a finding itself."""
    for check in checks:
        try:
            yield from check()
        except (WordbrushError, OSError, ImportError, RuntimeError, ValueError) as error:
            about = check.__name__.replace("_", " ")
            yield Finding(about, "wrong", f"{error}", "mend what the sentence names, then run `wordbrush doctor` again")


def python() -> Iterator[Finding]:
    """The interpreter, and whether it is one of its own."""
    version = ".".join(map(str, sys.version_info[:3]))
    yield Finding("python", "good", f"Python {version}")
    if sys.prefix == sys.base_prefix:
        mend = "python -m venv .venv, and install Wordbrush into that: other programs then cannot change its packages"
        yield Finding("python", "note", "Wordbrush is installed beside the system's own packages", mend)


def packages() -> Iterator[Finding]:
    """Whether every package that Wordbrush names is there in a version that fits."""
    from packaging.requirements import Requirement

    wanted = [Requirement(text) for text in metadata.requires("wordbrush") or ()]
    extras = sorted(metadata.metadata("wordbrush").get_all("Provides-Extra") or ())
    core = [entry for entry in wanted if entry.marker is None or entry.marker.evaluate({"extra": ""})]
    problems = [problem for entry in core if (problem := _unmet(entry)) is not None]
    for problem in problems:
        yield Finding("packages", "wrong", problem, "pip install --upgrade wordbrush, in this environment")
    if not problems:
        yield Finding("packages", "good", f"all {len(core)} that Wordbrush needs are there")
    for extra in extras:
        own = [entry for entry in wanted if entry.marker is not None and entry.marker.evaluate({"extra": extra})]
        own = [entry for entry in own if entry not in core and entry.name != "wordbrush"]
        lacks = [problem for entry in own if (problem := _unmet(entry)) is not None]
        if extra != "dev" and lacks:
            mend = f"if you want that: pip install 'wordbrush[{extra}]'"
            yield Finding("packages", "note", f"the extra {extra!r} is not complete: {'; '.join(lacks)}", mend)


def _unmet(requirement: object) -> str | None:
    from packaging.requirements import Requirement

    assert isinstance(requirement, Requirement)
    try:
        found = metadata.version(requirement.name)
    except metadata.PackageNotFoundError:
        return f"{requirement.name} is not installed"
    if not requirement.specifier.contains(found, prereleases=True):
        return f"{requirement.name} {found} is installed, {requirement.specifier} is needed"
    return None


def processor() -> Iterator[Finding]:
    """Where networks will run, in which format, on how many threads."""
    import torch

    from wordbrush.runtime.policy import Runtime

    runtime = Runtime.choose()
    yield Finding("device", "good", f"torch {torch.__version__} runs on {runtime.device} in {runtime.dtype_name}")
    if runtime.device.type == "cpu" and _nvidia_is_here():
        built = torch.version.cuda
        reason = "is built without CUDA" if built is None else f"needs a driver that runs CUDA {built}"
        mend = "install the torch that fits the driver; PyTorch's installation page gives the command"
        yield Finding("device", "wrong", f"there is an NVIDIA GPU, but torch {torch.__version__} {reason}", mend)
    cores = len(os.sched_getaffinity(0)) if sys.platform == "linux" else os.cpu_count() or 1
    threads = torch.get_num_threads()
    if runtime.device.type == "cpu" and threads < cores / 2:
        variables = [name for name in ("OMP_NUM_THREADS", "MKL_NUM_THREADS") if os.environ.get(name)]
        mend = f"unset {' and '.join(variables)}" if variables else "call torch.set_num_threads with more"
        yield Finding("threads", "note", f"torch uses {threads} of {cores} cores", mend)


def _nvidia_is_here() -> bool:
    return Path("/proc/driver/nvidia/version").exists() or shutil.which("nvidia-smi") is not None


def room() -> Iterator[Finding]:
    """Memory, disk space, and folders that must be written to."""
    from wordbrush.formats.user_folders import cache_folder, config_folder

    free = _free_memory()
    if free is not None:
        mend = "close other programs, or give the machine swap"
        short = free < LEAST_MEMORY
        said = f"{free / 1e9:.1f} GB are free"
        yield Finding("memory", "wrong" if short else "good", said, mend if short else None)
    places = {"settings": config_folder(), "cache": cache_folder(), "temporary files": Path(tempfile.gettempdir())}
    for name, place in places.items():
        home = next(folder for folder in (place, *place.parents) if folder.exists())
        space = shutil.disk_usage(home).free
        if not home.is_dir() or not os.access(home, os.W_OK | os.X_OK):
            mend = f"make {home} writable for you, or set WORDBRUSH_HOME to a folder that is"
            yield Finding("folders", "wrong", f"the folder for {name}, {place}, cannot be written to", mend)
        elif space < LEAST_DISK:
            said = f"{space / 1e6:.0f} MB are left for {name}, in {home}"
            yield Finding("disk", "wrong", said, "free some space there")
        else:
            yield Finding("folders", "good", f"{name} in {place}, {space / 1e9:.0f} GB free")


def _free_memory() -> int | None:
    try:
        lines = Path("/proc/meminfo").read_text(encoding="ascii").splitlines()
    except OSError:  # not Linux
        return None
    found = next((line for line in lines if line.startswith("MemAvailable:")), None)
    return None if found is None else int(found.split()[1]) * 1024


def library() -> Iterator[Finding]:
    """The model folders: whether they are there, and what they hold."""
    from wordbrush.formats.library import KINDS, Library

    shelf = Library.default()
    for folder in shelf.folders:
        if not folder.path.is_dir():
            where = "wordbrush models folders remove" if folder.configured else "take it out of WORDBRUSH_MODELS:"
            yield Finding("models", "note", f"the model folder {folder.path} is not there", f"{where} {folder.path}")
        elif not os.access(folder.path, os.R_OK | os.X_OK):
            yield Finding("models", "wrong", f"the model folder {folder.path} cannot be read", "change its permissions")
    counts = {KINDS[kind]: len(shelf.entries(kind)) for kind in KINDS}
    yield Finding("models", "good", "; ".join(f"{number} × {name}" for name, number in counts.items() if number))


def picture() -> Iterator[Finding]:
    """Whether the embedded model paints, and how long that takes."""
    import wordbrush

    started = time.monotonic()
    pipe = wordbrush.load()
    loaded = time.monotonic()
    image = pipe("a red apple on a white background", seed=1).images[0]
    seconds = time.monotonic() - loaded
    extremes = image.convert("L").getextrema()
    if extremes[0] == extremes[1]:
        mend = "install Wordbrush again: its weights may be damaged; if that does not help, use dtype='float32'"
        yield Finding("picture", "wrong", "the embedded model painted one single colour", mend)
        return
    said = f"loaded in {loaded - started:.1f} s, painted in {seconds:.1f} s"
    if seconds > SLOW_PICTURE:
        yield Finding("picture", "note", said, "see what else the processor has to do; `wordbrush bench` measures more")
    else:
        yield Finding("picture", "good", said)


CHECKS: tuple[Callable[[], Iterator[Finding]], ...] = (python, packages, processor, room, library, picture)
