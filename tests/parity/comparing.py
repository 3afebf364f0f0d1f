"""What the comparisons of networks share: random weights, a folder both sides can open, and how near is near."""

import json
from pathlib import Path
from typing import Any

import torch
from torch import nn


def randomise(network: nn.Module) -> None:
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.copy_(torch.randn(parameter.shape, generator=generator) * 0.2)


def randn(*shape: int, seed: int = 1) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def assert_near(ours: torch.Tensor, theirs: torch.Tensor) -> None:
    size = theirs.abs().max().item()
    assert size > 0.01, "the reference gives next to nothing, so agreeing with it proves nothing"
    torch.testing.assert_close(ours, theirs, atol=1e-5 * size, rtol=0)


def write(folder: Path, config: dict[str, Any], network: nn.Module) -> Path:
    from safetensors.torch import save_file

    (folder / "config.json").write_text(json.dumps(config))
    save_file(network.state_dict(), folder / "model.safetensors", metadata={"format": "pt"})
    return folder


def open_with_transformers(kind: Any, folder: Path) -> Any:
    """transformers opens what we wrote, and misses or refuses no key."""
    network, info = kind.from_pretrained(folder, output_loading_info=True)
    assert not any(info[key] for key in ("missing_keys", "unexpected_keys", "mismatched_keys")), info
    return network.eval()
