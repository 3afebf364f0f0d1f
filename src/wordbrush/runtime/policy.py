"""Where and in which number format networks run."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TypeVar

import torch
from torch import nn

from wordbrush.errors import RequestError

M = TypeVar("M", bound=nn.Module)

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}


@dataclass(frozen=True, kw_only=True)
class Runtime:
    """Device and number format of the networks. Sampling itself stays in float32."""

    device: torch.device
    dtype: torch.dtype

    @classmethod
    def choose(cls, device: str | torch.device = "auto", dtype: str | torch.dtype = "auto") -> Runtime:
        """The fastest that this machine does well, or what was named.

        Raises:
            RequestError: the device or dtype is unknown, or this machine does not have it.
        """
        chosen = _device(device)
        return cls(device=chosen, dtype=_dtype(dtype, chosen))

    @property
    def dtype_name(self) -> str:
        """The dtype without "torch."."""
        return str(self.dtype).removeprefix("torch.")

    def place(self, network: M) -> M:
        """Moves a network to the device and dtype, for inference, with convolutions in channels-last order.

        oneDNN's and cuDNN's fast convolutions read channels last; in the other order every call reorders its input.
        """
        network = network.to(device=self.device, dtype=self.dtype, memory_format=torch.channels_last)  # type: ignore[call-overload]
        return network.eval().requires_grad_(False)


def _device(wanted: str | torch.device) -> torch.device:
    if isinstance(wanted, str) and wanted == "auto":
        if torch.cuda.is_available():
            return torch.device("cuda")
        return torch.device("mps" if torch.backends.mps.is_available() else "cpu")
    try:
        device = torch.device(wanted)
    except (RuntimeError, TypeError) as error:
        raise RequestError(f"device={wanted!r} is unknown; there are 'auto', 'cpu', 'cuda', 'cuda:1', 'mps'") from error
    if device.type == "cuda" and not torch.cuda.is_available():
        raise RequestError(f"device={str(wanted)!r} was asked for, but torch finds no CUDA GPU here; use device='cpu'")
    if device.type == "mps" and not torch.backends.mps.is_available():
        raise RequestError("device='mps' was asked for, but torch finds no Apple GPU here; use device='cpu'")
    if device.type not in ("cpu", "cuda", "mps"):
        raise RequestError(f"device={str(wanted)!r} is not supported; there are 'auto', 'cpu', 'cuda', 'cuda:1', 'mps'")
    return device


def _dtype(wanted: str | torch.dtype, device: torch.device) -> torch.dtype:
    if isinstance(wanted, torch.dtype):
        wanted = str(wanted).removeprefix("torch.")
    if wanted == "auto":
        return _fast_dtype(device)
    if wanted not in DTYPES:
        raise RequestError(f"dtype={wanted!r} is unknown; there are 'auto', {', '.join(map(repr, DTYPES))}")
    return DTYPES[wanted]


def _fast_dtype(device: torch.device) -> torch.dtype:
    """bfloat16 where the hardware multiplies it natively: elsewhere it is slower than float32."""
    if device.type == "cuda":
        return torch.bfloat16 if torch.cuda.is_bf16_supported(including_emulation=False) else torch.float16
    if device.type == "mps":
        return torch.float16
    abilities = torch.cpu.get_capabilities()
    native = abilities.get("avx512_bf16", False) or abilities.get("amx_bf16", False) or abilities.get("bf16", False)
    return torch.bfloat16 if native else torch.float32
