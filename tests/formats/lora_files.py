"""Tiny networks, and LoRA files for them."""

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from wordbrush.networks.clip import CLIPTextConfig, CLIPTextModel
from wordbrush.networks.flux import FluxConfig, FluxTransformer
from wordbrush.networks.t5 import T5Config, T5Encoder
from wordbrush.networks.unet import UNet, UNetConfig

UNETS: dict[str, dict[str, Any]] = {
    "sd1": {
        "block_out_channels": (8, 12, 12),
        "down_block_types": ("CrossAttnDownBlock2D", "CrossAttnDownBlock2D", "DownBlock2D"),
        "up_block_types": ("UpBlock2D", "CrossAttnUpBlock2D", "CrossAttnUpBlock2D"),
        "attention_head_dim": 2,
        "cross_attention_dim": 16,
        "norm_num_groups": 4,
    },
    "sdxl": {
        "block_out_channels": (8, 12, 16),
        "down_block_types": ("DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"),
        "up_block_types": ("CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"),
        "attention_head_dim": (1, 2, 4),
        "transformer_layers_per_block": (1, 2, 3),
        "use_linear_projection": True,
        "cross_attention_dim": 20,
        "norm_num_groups": 4,
        "addition_embed_type": "text_time",
        "addition_time_embed_dim": 4,
        "projection_class_embeddings_input_dim": 10 + 6 * 4,
    },
}
FLUX: dict[str, Any] = {
    "in_channels": 8, "num_layers": 2, "num_single_layers": 2, "attention_head_dim": 8, "num_attention_heads": 2,
    "joint_attention_dim": 12, "pooled_projection_dim": 10, "guidance_embeds": True, "axes_dims_rope": (2, 2, 4),
}  # fmt: skip


def tiny_unet(name: str = "sd1", **settings: Any) -> UNet:
    return _drawn(UNet(UNetConfig(**{**UNETS[name], **settings})))


def tiny_flux(**settings: Any) -> FluxTransformer:
    return _drawn(FluxTransformer(FluxConfig(**{**FLUX, **settings})))


def tiny_clip(*, projection: bool = False, width: int = 16) -> CLIPTextModel:
    config = CLIPTextConfig(
        vocab_size=50, hidden_size=width, intermediate_size=2 * width, num_hidden_layers=2, num_attention_heads=2,
        projection_dim=10, max_position_embeddings=7, bos_token_id=0, eos_token_id=49,
    )  # fmt: skip
    return _drawn(CLIPTextModel(config, projection=projection))


def tiny_t5() -> T5Encoder:
    return _drawn(T5Encoder(T5Config(vocab_size=40, d_model=12, d_kv=4, d_ff=20, num_layers=2, num_heads=3)))


def _drawn(network: Any) -> Any:
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.copy_(torch.randn(parameter.shape, generator=generator) * 0.2)
    return network.eval()


def layers(network: nn.Module, *ends: str) -> dict[str, torch.Size]:
    """The shapes of the matrices and convolutions of a network whose names end so."""
    found = {name.removesuffix(".weight"): parameter.shape for name, parameter in network.named_parameters()}
    return {name: shape for name, shape in found.items() if len(shape) >= 2 and name.endswith(ends)}


def low_rank(shape: Iterable[int], rank: int, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """The down and the up of a LoRA for a weight of that shape."""
    out, *rest = shape
    down = torch.randn(rank, *rest, generator=generator) * 0.3
    return down, torch.randn(out, rank, *(1 for _ in rest[1:]), generator=generator) * 0.3


def kohya(
    prefix: str, shapes: Mapping[str, Iterable[int]], *, rank: int = 2, alpha: float | None = 1.0, seed: int = 1
) -> dict[str, Tensor]:
    """A LoRA in kohya's dialect, for layers of these names and shapes."""
    generator = torch.Generator().manual_seed(seed)
    tensors = {}
    for name, shape in shapes.items():
        layer = f"{prefix}_{name.replace('.', '_')}"
        tensors[f"{layer}.lora_down.weight"], tensors[f"{layer}.lora_up.weight"] = low_rank(shape, rank, generator)
        if alpha is not None:
            tensors[f"{layer}.alpha"] = torch.tensor(alpha)
    return tensors


def write(path: Path, tensors: Mapping[str, Tensor], **metadata: str) -> Path:
    save_file({name: tensor.contiguous() for name, tensor in tensors.items()}, path, metadata=metadata or None)
    return path


def bits(network: nn.Module) -> dict[str, Tensor]:
    """A copy of all weights."""
    return {name: tensor.clone() for name, tensor in network.state_dict().items()}


def changed(network: nn.Module, before: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """W now less W then, in float64, of the weights that are not the same bits."""
    now = network.state_dict()
    other = [name for name, tensor in before.items() if not torch.equal(now[name], tensor)]
    return {name: now[name].double() - before[name].double() for name in other}


def assert_changed(network: nn.Module, before: Mapping[str, Tensor], expected: Mapping[str, Tensor]) -> None:
    """These weights changed by these amounts, and no others changed."""
    got = changed(network, before)
    assert sorted(got) == sorted(expected)
    for name, amount in expected.items():
        torch.testing.assert_close(got[name], amount.double(), atol=2e-6, rtol=1e-6, msg=lambda m, n=name: f"{n}: {m}")


def product(tensors: Mapping[str, Tensor], layer: str, scale: float) -> Tensor:
    """scale · up · down in float64, of a layer of a kohya file, in the shape of the down's kernel."""
    down, up = (tensors[f"{layer}.lora_{side}.weight"].double() for side in ("down", "up"))
    return scale * (up.flatten(1) @ down.flatten(1)).reshape(len(up), *down.shape[1:])
