"""Weights of which each process holds a part (FSDP2), and the same weights whole, as files have them."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard
from torch.distributed.tensor import DTensor, distribute_tensor

from wordbrush.networks.unet_blocks import TransformerLayer
from wordbrush.training.recompute import blocks


def shard(model: nn.Module, device: torch.device, processes: int) -> None:
    """Leaves each process its part of every parameter: block by block, so that one block is whole at a time."""
    for parameter in model.parameters():
        parameter.data = parameter.data.contiguous()  # channels last cannot be sharded
    mesh = init_device_mesh(device.type, (processes,))
    for layer in model.modules():
        if isinstance(layer, TransformerLayer):  # a U-Net asks them for keys and values ahead of their blocks' forward
            for projection in (layer.attn2.to_k, layer.attn2.to_v):
                if projection.weight.requires_grad:
                    fully_shard(projection, mesh=mesh)
    for block in blocks(model):
        if any(parameter.requires_grad for parameter in block.parameters()):
            fully_shard(block, mesh=mesh)
    fully_shard(model, mesh=mesh)


def local(tensor: Tensor) -> Tensor:
    """This process' part, sharing memory; all of a tensor that is not sharded."""
    return tensor.to_local() if isinstance(tensor, DTensor) else tensor


def whole(value: Any) -> Any:
    """The same tables and lists with every sharded tensor put together on the CPU. All processes call it at once."""
    if isinstance(value, DTensor):
        return value.full_tensor().cpu()
    if isinstance(value, dict):
        return {key: whole(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return type(value)(whole(item) for item in value)
    return value


@torch.no_grad()
def fill(target: Tensor, value: Tensor) -> None:
    """Copies a whole tensor, or this process' part of it, into what training holds."""
    local(target).copy_(local(parted(value, target)) if isinstance(target, DTensor) else value)


def parted(value: Tensor, like: Tensor) -> Tensor:
    """A whole tensor sharded as another one is, or in memory as that is: fused optimisers want equal strides."""
    if not isinstance(like, DTensor):
        return torch.empty_like(like, dtype=value.dtype).copy_(value)
    return distribute_tensor(value.to(like.device), like.device_mesh, like.placements)
