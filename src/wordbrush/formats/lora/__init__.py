"""LoRAs and their relatives, in every dialect their trainers write.

    from wordbrush.formats.lora import LoraUse, attach, read_lora

    lora = read_lora(Path("style.safetensors"))
    with attach({"unet": unet, "text_encoder": text_encoder}, [LoraUse(lora, unet=0.8, text=0.8)]) as attached:
        print(attached.matched[0])  # matched 528 of 528 keys

keys.py      a key of a file taken apart: network, layer, tensor
modules.py   the layers of our networks under the names that files have for them
rules.py     the formulas: LoRA, LoHa, LoKr, DoRA, full differences
layers.py    the tensors of one layer put together to a rule
read.py      a file read into layers
summary.py   what a file is, from its header alone, without torch
fit.py       the layers of a file matched with those of a model
attached.py  the changes made to the weights, and taken back
trained.py   what training leaves
write.py     the same as a file, in kohya's layout or PEFT's

The names below are loaded when first used, so that a summary needs no torch.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from wordbrush.formats.lora.attached import Attached, LoraUse, Match, attach, match
    from wordbrush.formats.lora.notes import TrainingNotes
    from wordbrush.formats.lora.read import LoraFile, read_lora
    from wordbrush.formats.lora.summary import LoraSummary, summarise
    from wordbrush.formats.lora.write import write_kohya, write_peft

__all__ = [
    "Attached", "LoraFile", "LoraSummary", "LoraUse", "Match", "TrainingNotes", "attach", "match", "read_lora",
    "summarise", "write_kohya", "write_peft",
]  # fmt: skip

_HOMES = {
    "Attached": "attached", "LoraUse": "attached", "Match": "attached", "attach": "attached", "match": "attached",
    "LoraFile": "read", "read_lora": "read",
    "LoraSummary": "summary", "summarise": "summary", "TrainingNotes": "notes",
    "write_kohya": "write", "write_peft": "write",
}  # fmt: skip


def __getattr__(name: str) -> object:
    if name in _HOMES:
        return getattr(import_module(f"{__name__}.{_HOMES[name]}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}; it has {', '.join(__all__)}")
