"""Bytes of pictures as the tensors that networks read."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor


def to_images(pixels: np.ndarray) -> Tensor:
    """(B, H, W, 3) uint8 to (B, 3, H, W) float32 in [-1, 1], channels_last."""
    numbers = pixels.astype(np.float32)  # in NumPy, since torch's threads would be taken from who trains meanwhile
    numbers /= np.float32(127.5)
    numbers -= np.float32(1)
    return torch.from_numpy(numbers).permute(0, 3, 1, 2)


def to_pixels(images: Tensor) -> np.ndarray:
    """(B, 3, H, W) in [-1, 1] to (B, H, W, 3) uint8: the way back, exact for what `to_images` made."""
    rounded = images.detach().float().cpu().add(1.0).mul(127.5).round_().clamp_(0, 255)
    return np.ascontiguousarray(rounded.to(torch.uint8).permute(0, 2, 3, 1).numpy())
