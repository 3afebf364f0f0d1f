"""What networks make of pictures and texts, kept on disk: latents and text embeddings that are computed once.

    folder / first 16 hex digits of the model's hash / ab / abcdef….safetensors

A key is a hash of all that decides the value besides the model: bytes of the picture and how it is cut, or the text.
So nothing here can be stale: a changed picture, cut or model has another key, and the old file is never asked for.
Any number of processes may share a cache: files are written under a name of their own and then renamed, and two that
compute the same value write the same bytes. A file that a crash of the machine left damaged counts as missing.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import secrets
from collections.abc import Callable, Iterable
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor, nn

from wordbrush.errors import WorkFailed

Tensors = dict[str, Tensor]


def weights_hash(modules: Iterable[nn.Module], *more: str) -> str:
    """SHA-256, in hex, of all weights and buffers, their names, formats and shapes; and of the texts `more`.

    `more`: what else decides a network's results, such as its config as JSON, or its tokenizer's vocabulary.
    """
    digest = hashlib.sha256()
    for module in modules:
        for name, value in sorted(module.state_dict().items()):
            plain = value.detach().cpu().contiguous()
            digest.update(f"{name} {plain.dtype} {tuple(plain.shape)}\n".encode())
            digest.update(plain.reshape(-1).view(torch.uint8).numpy() if plain.numel() else b"")
    for text in more:
        digest.update(f"{len(text)}:{text}".encode())
    return digest.hexdigest()


def text_key(*parts: str) -> str:
    """The key of what a text encoder makes of these texts."""
    digest = hashlib.sha256()
    for part in parts:
        digest.update(f"{len(part.encode())}:".encode() + part.encode())
    return digest.hexdigest()


class TensorCache:
    """Tensors by key, for one model."""

    def __init__(self, folder: Path, model: str) -> None:
        """model: hash of what computes the values, as `weights_hash` gives it."""
        self.folder = folder / model[:16]
        self.model = model

    def path(self, key: str) -> Path:
        """Where the value of a key is, once there is one."""
        return self.folder / key[:2] / f"{key}.safetensors"

    def get(self, key: str) -> Tensors | None:
        """The tensors of a key; None where there are none yet, or none that can be read."""
        try:
            with safe_open(self.path(key), "pt") as file:
                metadata = file.metadata() or {}
                if metadata.get("key") != key or metadata.get("model") != self.model:
                    return None
                return {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118  not a dict
        except (OSError, SafetensorError):
            return None

    def put(self, key: str, tensors: Tensors) -> Tensors:
        """Keeps tensors; they come back as `get` will give them.

        Raises:
            WorkFailed: they cannot be written.
        """
        plain = {name: value.detach().cpu().contiguous().clone() for name, value in tensors.items()}
        path = self.path(key)
        partial = path.with_name(f".{secrets.token_hex(8)}.part")
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            partial.write_bytes(save(plain, {"key": key, "model": self.model}))
            os.replace(partial, path)
        except OSError as error:
            raise WorkFailed(f"the cache {str(self.folder)!r} cannot be written: {error.strerror or error}") from error
        finally:
            with contextlib.suppress(OSError):
                partial.unlink()
        return plain

    def through(self, keys: Iterable[str], compute: Callable[[int], Tensors]) -> list[Tensors]:
        """The tensors of each key; what is not kept is computed, by its number among the keys, each alone.

        Alone, so that the bits do not depend on what happened to be kept already.
        """
        found: list[Tensors] = []
        for number, key in enumerate(keys):
            tensors = self.get(key)
            found.append(self.put(key, compute(number)) if tensors is None else tensors)
        return found
