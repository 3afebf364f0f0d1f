"""LoRA and DoRA beside the layers of networks that stay as they are.

    from wordbrush.training.adapters import AdapterConfig, Adapters

    adapters = Adapters.inject({"unet": unet}, AdapterConfig(rank=8, alpha=8), torch.Generator().manual_seed(0))
    ...                                           # train adapters.parameters(); call the U-Net as always
    write_kohya(path, adapters.trained(), ...)    # wordbrush.formats.lora.write
    adapters.remove()
"""

from __future__ import annotations

from wordbrush.training.adapters.config import AdapterConfig
from wordbrush.training.adapters.inject import Adapters

__all__ = ["AdapterConfig", "Adapters"]
