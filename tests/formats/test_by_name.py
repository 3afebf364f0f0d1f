"""LoRAs by their names: read once, and given up when there are too many."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from wordbrush.formats import by_name
from wordbrush.formats.by_name import LoraShelf
from wordbrush.formats.lora import LoraFile, read_lora
from wordbrush.request_fields import Lora

LAYER = "lora_unet_down_blocks_0_attentions_0_transformer_blocks_0_attn1_to_q"


@pytest.fixture
def read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Grows by the name of each LoRA, of "a", "b" and "c", that is read."""
    for name in "abc":
        tensors = {f"{LAYER}.lora_down.weight": torch.ones(2, 8), f"{LAYER}.lora_up.weight": torch.ones(8, 2)}
        save_file(tensors, tmp_path / f"{name}.safetensors")
    monkeypatch.setenv("WORDBRUSH_MODELS", str(tmp_path))
    found = []

    def reading(path: Path) -> LoraFile:
        found.append(path.stem)
        return read_lora(path)

    monkeypatch.setattr("wordbrush.formats.lora.read_lora", reading)
    return found


def use(shelf: LoraShelf, names: str) -> list[str]:
    return [one.file.name for one in shelf.uses([Lora(name=name, unet=1, text=1) for name in names])]


def test_they_are_read_once(read: list[str]) -> None:
    shelf = LoraShelf()
    for names in ("ab", "bc", "cab"):
        assert use(shelf, names) == list(names)
    assert read == ["a", "b", "c"]


def test_those_not_asked_for_for_longest_are_given_up(read: list[str], tmp_path: Path) -> None:
    shelf = LoraShelf(2 * (tmp_path / "a.safetensors").stat().st_size)
    for names in ("a", "b", "a", "c", "a"):
        use(shelf, names)
    assert read == ["a", "b", "c"]
    use(shelf, "b")
    assert read == ["a", "b", "c", "b"]
    assert use(shelf, "abc") == ["a", "b", "c"], "what one request asks for is there together"
    assert by_name.MOST_BYTES >= 2**28
