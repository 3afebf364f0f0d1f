"""Latents and captions of training scenes, made a window at a time: by worker processes and ahead of time if wished.

What a step sees is a function of the step alone, whatever the number of workers.
"""

from __future__ import annotations

import hashlib
import json
import multiprocessing
import os
import random
import signal
import threading
from collections import deque
from collections.abc import Iterator
from concurrent.futures import BrokenExecutor, CancelledError, Future, ProcessPoolExecutor, ThreadPoolExecutor
from contextlib import contextmanager, suppress
from functools import lru_cache
from pathlib import Path

import numpy as np
import torch
from filelock import FileLock, Timeout
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from wordbrush.conditioning.tokenizer import ClipTokenizer
from wordbrush.data.pixels import to_images
from wordbrush.data.scenes import Scene, caption, render, sample_scene
from wordbrush.errors import WorkFailed
from wordbrush.networks.vae import AutoencoderKL, AutoencoderKLConfig
from wordbrush.training.recipe import Recipe
from wordbrush.training.tasks.recipes import DenoiserRecipe

_ENCODED = 128  # scenes drawn and encoded at once
_AHEAD = 64  # such groups that workers may be ahead of the encoder


def training_scene(seed: int, train: DenoiserRecipe, index: int) -> Scene:
    """The scene with this number, of the kind that the recipe's shares give it."""
    place = random.Random(f"kind/{seed}/{index}").random()
    for kind, share in train.kinds.items():
        if place < share:
            return sample_scene("train", seed, index, kind)
        place -= share
    return sample_scene("train", seed, index)


def draw(seed: int, train: DenoiserRecipe, indices: range) -> tuple[np.ndarray, np.ndarray]:
    """Scenes as pixels, (n, H, W, 3) uint8, and the token ids of a caption for each pass, (n, passes, L) int32."""
    tokenizer, pixels, ids = _tokenizer(train.tokenizer), [], []
    for index in indices:
        scene = training_scene(seed, train, index)
        pixels.append(render(scene))
        rng = random.Random(f"captions/{seed}/{index}")
        texts = ["" if rng.random() < train.drop_caption else caption(scene, rng) for _ in range(train.passes)]
        ids.append([tokenizer.encode(text) for text in texts])
    return np.stack(pixels), np.asarray(ids, np.int32)


@lru_cache(maxsize=1)
def _tokenizer(folder: str) -> ClipTokenizer:
    return ClipTokenizer.from_folder(Path(folder))


class LatentBank:
    """Step k of batch size b uses window k * b // (window * passes); within it each pass is a fresh permutation.

    Windows are kept in the run's folder, so that resuming finds them.
    """

    def __init__(
        self, recipe: Recipe, train: DenoiserRecipe, folder: Path, device: torch.device, *, workers: int = 0
    ) -> None:
        """`workers`: processes that draw scenes; the next window is then made while this one is trained on."""
        self.recipe, self.train, self.folder = recipe, train, folder
        source = Path(train.vae)
        config = AutoencoderKLConfig.from_dict(json.loads((source / "config.json").read_text()))
        self.vae = AutoencoderKL(config)
        self.vae.load_state_dict(load_file(source / "diffusion_pytorch_model.safetensors"))
        self.vae.to(device=device, dtype=torch.bfloat16, memory_format=torch.channels_last)  # type: ignore[call-overload]
        self.vae.requires_grad_(False)
        # another autoencoder, tokenizer, other scenes or captions make another window: its file has another name
        stamp = (source / "diffusion_pytorch_model.safetensors").stat().st_mtime_ns
        words = (Path(train.tokenizer) / "vocab.json").stat().st_mtime_ns
        made_of = f"{stamp}|{words}|{recipe.seed}|{train.model_dump_json(include=_MADE_OF)}"
        self.key = hashlib.blake2b(made_of.encode(), digest_size=6).hexdigest()
        self.number = -1
        self.current: dict[str, Tensor] = {}
        self.next: tuple[int, Future[dict[str, Tensor]]] | None = None
        # new processes rather than forked ones: a fork of a process with threads and a GPU may hang
        spawn = multiprocessing.get_context("spawn")
        self.pool = ProcessPoolExecutor(workers, mp_context=spawn, initializer=_as_worker) if workers else None
        self.maker = ThreadPoolExecutor(1)
        self.closing = threading.Event()

    def rows(self, step: int, rows: range) -> tuple[Tensor, Tensor]:
        """Those rows of the step's latents, (B, C, h, w) float32, and token ids, (B, L) int64.

        Raises:
            WorkFailed: a worker process died, or a window could not be kept.
        """
        window, batch = self.train.window, self.recipe.batch
        per_pass = window // batch
        number, position = divmod(step, per_pass * self.train.passes)
        if number != self.number:
            self.current, self.number = self._take(number), number
        turn, place = divmod(position, per_pass)
        order = torch.randperm(
            window, generator=torch.Generator().manual_seed((self.recipe.seed * 1_000_003 + number) * 1_009 + turn)
        )
        chosen = order[place * batch + rows.start : place * batch + rows.stop]
        return self.current["latents"][chosen].float(), self.current["ids"][chosen, turn].long()

    def close(self) -> None:
        """Ends the worker processes; a window that is being made is given up."""
        self.closing.set()
        self.maker.shutdown(cancel_futures=True)
        if self.pool is not None:
            self.pool.shutdown(cancel_futures=True)

    def _take(self, number: int) -> dict[str, Tensor]:
        if self.next is not None and self.next[0] == number:
            made = self.next[1].result()
        else:
            made = self.maker.submit(self._window, number).result()
        train = self.train
        first_of_next = (number + 1) * (train.window // self.recipe.batch) * train.passes
        ahead = self.pool is not None and first_of_next < self.recipe.steps
        self.next = (number + 1, self.maker.submit(self._window, number + 1)) if ahead else None
        return made

    def _window(self, number: int) -> dict[str, Tensor]:
        path = self.folder / f"latents-{self.key}-{number}.safetensors"
        with suppress(FileNotFoundError, SafetensorError):  # none there, or half of one, as by a power cut
            return load_file(path)
        with self._alone():
            with suppress(FileNotFoundError, SafetensorError):  # another process has made it meanwhile
                return load_file(path)
            return self._made(number, path)

    @contextmanager
    def _alone(self) -> Iterator[None]:
        """Of the processes that train together and share the folder, one makes a window and the others wait."""
        if not torch.distributed.is_initialized():
            yield
            return
        lock = FileLock(self.folder / f"latents-{self.key}.lock")
        while not lock.is_locked:
            if self.closing.is_set():
                raise CancelledError
            with suppress(Timeout):
                lock.acquire(timeout=1.0)
        try:
            yield
        finally:
            lock.release()

    def _made(self, number: int, path: Path) -> dict[str, Tensor]:
        first, last = number * self.train.window, (number + 1) * self.train.window
        groups = [range(start, min(start + _ENCODED, last)) for start in range(first, last, _ENCODED)]
        latents, ids = [], []
        for pixels, tokens in self._drawn(groups):
            if self.closing.is_set():
                raise CancelledError
            with torch.no_grad():
                images = to_images(pixels).to(next(self.vae.parameters())).contiguous(memory_format=torch.channels_last)
                latents.append(self.vae.encode(images).mode().half().cpu())
            ids.append(torch.from_numpy(tokens))
        made = {"latents": torch.cat(latents).contiguous(), "ids": torch.cat(ids)}
        # the window before stays: a run resumed from a checkpoint of its last steps needs it again; and with workers
        # the window that is being made is one ahead of the one trained on
        (self.folder / f"latents-{self.key}-{number - 3}.safetensors").unlink(missing_ok=True)
        partial = path.with_suffix(".partial")
        try:
            save_file(made, partial)
            os.replace(partial, path)
        except (OSError, SafetensorError) as error:
            partial.unlink(missing_ok=True)
            raise WorkFailed(f"{path} could not be written ({error}); the last checkpoint is kept") from error
        return made

    def _drawn(self, groups: list[range]) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        """Each group's scenes in order; workers stay a bounded number of groups ahead."""
        if self.pool is None:
            yield from (draw(self.recipe.seed, self.train, group) for group in groups)
            return
        waiting: deque[Future[tuple[np.ndarray, np.ndarray]]] = deque()
        try:
            for group in groups:
                waiting.append(self.pool.submit(draw, self.recipe.seed, self.train, group))
                if len(waiting) == _AHEAD:
                    yield waiting.popleft().result()
            while waiting:
                yield waiting.popleft().result()
        except BrokenExecutor as error:
            raise WorkFailed(
                "a process that draws scenes has died, perhaps for want of memory; the last checkpoint is kept: the "
                "same command goes on from there, with fewer --workers if it dies again"
            ) from error


_MADE_OF = {"vae", "tokenizer", "window", "passes", "drop_caption", "kinds"}


def _as_worker() -> None:
    """Ctrl-C is for the process that trains, which ends its workers; if it is killed, they end too."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    threading.Thread(target=_end_with_parent, daemon=True).start()


def _end_with_parent() -> None:
    parent = multiprocessing.parent_process()
    if parent is not None:
        parent.join()
        os._exit(1)
