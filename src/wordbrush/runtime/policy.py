"""Where and in which number format networks run."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TypeVar

import torch
from torch import Tensor, nn

from wordbrush.errors import RequestError
from wordbrush.networks.t5 import T5Encoder
from wordbrush.networks.unet import UNet
from wordbrush.networks.vae import AutoencoderKL
from wordbrush.runtime.packing import can_be_packed, can_pack

M = TypeVar("M", bound=nn.Module)

# Bytes that the places of torch's own tensors in memory are multiples of.
_ALIGNED = 64

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}


@dataclass(frozen=True, kw_only=True)
class Runtime:
    """Device and number format of the networks. Sampling itself stays in float32.

    Attributes:
        device: where networks run.
        dtype: what their weights are.
        offloaded: whether the weights wait on the CPU until they are used (see `offload`).
    """

    device: torch.device
    dtype: torch.dtype
    offloaded: bool = False

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

    def suiting(self, network: nn.Module) -> Runtime:
        """The same, or with more range where a network overflows in float16.

        T5 does, and so gets bfloat16; a VAE that does by its own account gets float32.
        """
        if self.dtype != torch.float16:
            return self
        if isinstance(network, T5Encoder):
            return replace(self, dtype=torch.bfloat16)
        overflows = isinstance(network, AutoencoderKL) and network.config.force_upcast
        return replace(self, dtype=torch.float32) if overflows else self

    def packs(self, network: nn.Module) -> bool:
        """Whether a network that denoises is run as a packed copy (see `packed_unet`)."""
        if self.offloaded or not isinstance(network, UNet):
            return False
        return can_pack(self.device, self.dtype) and can_be_packed(network.config)

    def place(self, network: M) -> M:
        """Moves a network where it runs or waits, for inference; each weight as `placed` does, in what suits it."""
        own = self.suiting(network)
        packed = own.packs(network)
        for tensor in (*network.parameters(), *network.buffers()):
            tensor.data = own.placed(tensor.data, packed=packed)
        return network.eval().requires_grad_(False)

    def placed(self, weight: Tensor, *, packed: bool = False) -> Tensor:
        """A weight in its place, in the dtype; itself if it is that already. Convolutions have channels-last order.

        oneDNN's and cuDNN's fast convolutions read channels last; in the other order every call reorders its input.
        What will be packed stays in the other order, from which packing takes half the time.
        MKL adds up a product in an order that hangs on where in memory a matrix begins and whether it lies transposed.
        Weights that are pages of a file lie anyhow, and so are copied: the same weights paint the same picture from
        whichever file they came.
        """
        dtype = self.dtype if weight.is_floating_point() else weight.dtype
        order = torch.channels_last if weight.ndim == 4 and not packed else torch.contiguous_format
        place = torch.device("cpu") if self.offloaded else self.device
        if weight.dtype != dtype or weight.device != place or not weight.is_contiguous(memory_format=order):
            weight = weight.to(device=place, dtype=dtype, memory_format=order).contiguous(memory_format=order)
        return weight.clone() if weight.device.type == "cpu" and weight.data_ptr() % _ALIGNED else weight


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
