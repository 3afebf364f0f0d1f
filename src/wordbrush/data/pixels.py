"""Bytes of pictures as the tensors that networks read."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor


def to_images(pixels: np.ndarray) -> Tensor:
    """(B, H, W, 3) uint8 to (B, 3, H, W) float32 in [-1, 1], channels_last."""
    return torch.from_numpy(pixels).permute(0, 3, 1, 2).float().div_(127.5).sub_(1.0)
