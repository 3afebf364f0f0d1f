"""The models of a worker: as many as fit its memory, the one that was not used for longest given up first."""

from __future__ import annotations

import contextlib
import ctypes
import gc
import logging
import os
import sys
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeVar, cast

import torch

from wordbrush.editing.upscale import UpscalerShelf
from wordbrush.runtime.policy import Runtime
from wordbrush.serving.workers.machine import memory
from wordbrush.serving.workers.weights import weigh

if TYPE_CHECKING:
    from wordbrush.evaluation.describing import Describer
    from wordbrush.pipeline import Pipeline

logger = logging.getLogger(__name__)

T = TypeVar("T")
Estimate = Callable[[str], int]
"""The name of a model -> about how many bytes it will take, for making room beforehand; 0 where it is not known."""

# What a model takes, beside the bytes of its files: packed copies of what denoises and decodes.
_COPIES = 1.5

# Of the memory of a GPU, or of the machine, what models may take if nothing else is said.
_SHARE = 0.5


@dataclass
class _Kept:
    value: Any
    bytes: int


class Models:
    """Opens what is asked for, and keeps it while there is room. One thread asks."""

    def __init__(self, device: str, dtype: str, most_bytes: int | None, estimate: Estimate = lambda name: 0) -> None:
        """most_bytes: of weights, with all copies; None is half of the device's memory. One model is always kept.

        Raises:
            RequestError: there is no such device or dtype here.
        """
        self.runtime = Runtime.choose(device, dtype)
        self.most_bytes = most_bytes if most_bytes is not None else int(_SHARE * _device_bytes(self.runtime.device))
        self._estimate = estimate
        self._kept: dict[tuple[str, ...], _Kept] = {}

    def pipeline(self, model: str, vae: str | None) -> Pipeline:
        """A model by its name, with its own VAE or another. Raises as `wordbrush.load` does."""

        def opened() -> Pipeline:
            from wordbrush.pipeline import load

            return load(model, device=str(self.runtime.device), dtype=self.runtime.dtype, vae=vae)

        name = model if vae is None else f"{model} with {vae}"
        return self._get(("model", name), opened, int(_COPIES * self._estimate(model)))

    def upscalers(self, name: str) -> UpscalerShelf:
        """A shelf with that upscaler on it. Raises as `UpscalerShelf.named` does."""

        def read() -> UpscalerShelf:
            shelf = UpscalerShelf(self.runtime)
            shelf.named(name)
            return shelf

        return self._get(("upscaler", name), read, 0)

    def describer(self, model: str) -> Describer:
        """What a model's CLIP says of pictures. Raises `RequestError`, `ModelFileError`."""

        def read() -> Describer:
            from wordbrush.evaluation.describing import Describer

            return Describer.of_model(model, self.runtime.device)

        return self._get(("CLIP", model), read, 0)

    def has(self, model: str, vae: str | None) -> bool:
        """Whether a model is open already."""
        return ("model", model if vae is None else f"{model} with {vae}") in self._kept

    @property
    def sizes(self) -> dict[str, int]:
        """What is kept, by name -> bytes of its weights; the last is the one used last."""
        return {" ".join(key[1:] if key[0] == "model" else key): one.bytes for key, one in self._kept.items()}

    def settle(self) -> None:
        """Counts again what is kept, which may have made copies or read LoRAs, and gives up what is too much."""
        for one in self._kept.values():
            one.bytes = weigh(one.value)
        self._make_room(0, keep=1)

    def drop(self) -> None:
        """Gives up everything."""
        self._kept.clear()
        release_memory()

    def drop_others(self) -> bool:
        """Gives up everything but what was used last. Returns whether there was anything."""
        others = list(self._kept)[:-1]
        for key in others:
            del self._kept[key]
        release_memory()
        return bool(others)

    def _get(self, key: tuple[str, ...], make: Callable[[], T], estimate: int) -> T:
        kept = self._kept.pop(key, None)
        if kept is None:
            self._make_room(estimate, keep=0)
            value = make()
            kept = _Kept(value, weigh(value))
        self._kept[key] = kept  # the last is the one used last
        self._make_room(0, keep=1)
        return cast("T", kept.value)

    def _make_room(self, wanted: int, keep: int) -> None:
        dropped = False
        while len(self._kept) > keep and sum(one.bytes for one in self._kept.values()) + wanted > self.most_bytes:
            key = next(iter(self._kept))
            size = self._kept.pop(key).bytes
            logger.info("gave up the %s %s, %.0f MB", *key, size / 1e6)
            dropped = True
        if dropped:
            release_memory()


def release_memory() -> None:
    """Gives memory that is free back to the system: networks lie in circles of references, and allocators keep it."""
    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
    if sys.platform.startswith("linux"):
        with contextlib.suppress(OSError, AttributeError):  # another C library
            ctypes.CDLL(None).malloc_trim(0)


def used_bytes(device: torch.device) -> int:
    """What this process takes: on a GPU what torch holds there, else what is resident."""
    if device.type == "cuda":
        return int(torch.cuda.memory_reserved(device))
    try:
        with open("/proc/self/statm", encoding="ascii") as file:
            return int(file.read().split()[1]) * os.sysconf("SC_PAGE_SIZE")
    except OSError:
        return 0


def _device_bytes(device: torch.device) -> int:
    if device.type == "cuda":
        return int(torch.cuda.get_device_properties(device).total_memory)
    return memory()
