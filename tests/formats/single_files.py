"""Tiny models of every family, shaped after the rules of their families, and files that hold them."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from tests.conditioning import spiece
from torch import Tensor, nn

from wordbrush.conditioning.t5_tokenizer import T5Tokenizer
from wordbrush.conditioning.tokenizer import ClipTokenizer, SpecialTokens
from wordbrush.diffusion.scheduler_config import read_scheduler_config
from wordbrush.formats.defaults import usual_defaults
from wordbrush.formats.parts import ModelParts
from wordbrush.formats.safetensors_file import Header, TensorInfo, read_header, read_tensors, write_tensors
from wordbrush.formats.single_file.configs import scheduler_config
from wordbrush.formats.single_file.detect import OWN_METADATA
from wordbrush.networks.clip import CLIPTextConfig, CLIPTextModel
from wordbrush.networks.flux import FluxConfig, FluxTransformer
from wordbrush.networks.t5 import T5Config, T5Encoder
from wordbrush.networks.unet import UNet, UNetConfig
from wordbrush.networks.vae import AutoencoderKL, AutoencoderKLConfig

LENGTH = 24
FAMILIES = ("sd1", "sd2", "sdxl", "sdxl-refiner", "flux-dev", "flux-schnell")

_PLAIN: dict[str, Any] = {
    "sample_size": 64, "layers_per_block": 1, "block_out_channels": (32, 64),
    "down_block_types": ("CrossAttnDownBlock2D", "DownBlock2D"), "up_block_types": ("UpBlock2D", "CrossAttnUpBlock2D"),
}  # fmt: skip
_XL: dict[str, Any] = {
    "sample_size": 128, "layers_per_block": 1, "block_out_channels": (32, 64),
    "down_block_types": ("DownBlock2D", "CrossAttnDownBlock2D"), "up_block_types": ("CrossAttnUpBlock2D", "UpBlock2D"),
    "transformer_layers_per_block": 2, "attention_head_dim": (1, 1), "use_linear_projection": True,
    "addition_embed_type": "text_time", "addition_time_embed_dim": 8,
}  # fmt: skip
UNETS: dict[str, dict[str, Any]] = {
    "sd1": {**_PLAIN, "cross_attention_dim": 32, "attention_head_dim": 8},
    "sd2": {**_PLAIN, "cross_attention_dim": 32, "attention_head_dim": (1, 1), "use_linear_projection": True},
    "sdxl": {**_XL, "cross_attention_dim": 32 + 48, "projection_class_embeddings_input_dim": 40 + 6 * 8},
    "sdxl-refiner": {**_XL, "cross_attention_dim": 48, "projection_class_embeddings_input_dim": 40 + 5 * 8},
}


def drawn(network: Any, seed: int = 0) -> Any:
    """The network with random weights."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.copy_(torch.randn(parameter.shape, generator=generator) * 0.2)
    return network.eval()


def tiny_unet(family: str, **settings: Any) -> UNet:
    return drawn(UNet(UNetConfig(**{**UNETS[family], **settings})))


def tiny_vae(**settings: Any) -> AutoencoderKL:
    return drawn(
        AutoencoderKL(AutoencoderKLConfig(**{"block_out_channels": (32, 32), "sample_size": 512, **settings}))
    )


def tiny_clip(words: int, *, projection: bool = False, **settings: Any) -> CLIPTextModel:
    config: dict[str, Any] = {
        "vocab_size": words, "hidden_size": 48 if projection else 32, "intermediate_size": 64, "num_hidden_layers": 2,
        "num_attention_heads": 1, "max_position_embeddings": LENGTH, "projection_dim": 40 if projection else 32,
        "hidden_act": "gelu" if projection else "quick_gelu", "bos_token_id": 0, "eos_token_id": 2,
    }  # fmt: skip
    return drawn(CLIPTextModel(CLIPTextConfig(**{**config, **settings}), projection=projection))


def tiny_flux(*, dev: bool, **settings: Any) -> FluxTransformer:
    config = {
        "in_channels": 64, "num_layers": 1, "num_single_layers": 2, "attention_head_dim": 16, "num_attention_heads": 2,
        "joint_attention_dim": 24, "pooled_projection_dim": 32, "guidance_embeds": dev, "axes_dims_rope": (4, 6, 6),
    }  # fmt: skip
    return drawn(FluxTransformer(FluxConfig(**{**config, **settings})))


def t5_tokenizer(folder: Path) -> T5Tokenizer:
    (folder / "spiece.model").write_bytes(spiece.model())
    return T5Tokenizer.from_folder(folder)


def clip_tokenizer(files: Path, pad: str = "<|endoftext|>") -> ClipTokenizer:
    read = ClipTokenizer.from_folder(files)
    return ClipTokenizer(read.vocab, read.merges, special=SpecialTokens(pad=pad), max_length=LENGTH)


def tiny_parts(family: str, files: Path, folder: Path, *, prediction: str = "epsilon", **settings: Any) -> ModelParts:
    """A model of that family; `settings` are of its U-Net."""
    clip = clip_tokenizer(files)
    words = len(clip.vocab)
    networks: dict[str, Any] = {}
    tokenizers: dict[str, Any] = {}
    if family.startswith("flux"):
        prediction = "flow"
        t5 = t5_tokenizer(folder)
        networks = {
            "transformer": tiny_flux(dev=family == "flux-dev"),
            "vae": tiny_vae(
                latent_channels=16, scaling_factor=0.3611, shift_factor=0.1159, use_quant_conv=False,
                use_post_quant_conv=False, sample_size=1024,
            ),
            "text_encoder": tiny_clip(words),
            "text_encoder_2": drawn(
                T5Encoder(T5Config(vocab_size=len(t5.vocab), d_model=24, d_kv=4, d_ff=20, num_layers=2, num_heads=3))
            ),
        }  # fmt: skip
        tokenizers = {"tokenizer": clip, "tokenizer_2": t5}
    else:
        scale = {"scaling_factor": 0.13025, "sample_size": 1024} if family.startswith("sdxl") else {}
        networks = {"unet": tiny_unet(family, **settings), "vae": tiny_vae(**scale)}
        if family != "sdxl-refiner":
            act = {"hidden_act": "gelu"} if family == "sd2" else {}
            networks["text_encoder"] = tiny_clip(words, **act)
            tokenizers["tokenizer"] = clip
        if family.startswith("sdxl"):
            networks["text_encoder_2"] = tiny_clip(words, projection=True)
            tokenizers["tokenizer_2"] = clip_tokenizer(files, pad="!")
    config = scheduler_config(family, variant="base", prediction=prediction, zero_terminal_snr=False)
    scheduler = read_scheduler_config(config, family=family)
    return ModelParts(
        family=family,
        **networks,
        **tokenizers,
        scheduler=scheduler,
        scheduler_json=config,
        defaults=usual_defaults(family, networks, scheduler),
        name="tiny",
        zero_negative=family == "sdxl",
    )


def rewritten(
    path: Path, change: Callable[[dict[str, Tensor]], Mapping[str, Tensor] | None], *, keep_metadata: bool = False
) -> Path:
    """The file with other tensors, and without the metadata of our own writer."""
    header = read_header(path)
    tensors = read_tensors(path)
    changed = change(tensors)
    metadata = {key: text for key, text in header.metadata.items() if keep_metadata and key != "format"}
    temporary = path.with_suffix(".new")
    write_tensors(temporary, tensors if changed is None else changed, metadata)
    temporary.replace(path)
    return path


def without_own_metadata(path: Path) -> Path:
    """The file as another tool would have written it."""
    assert OWN_METADATA in read_header(path).metadata
    return rewritten(path, lambda tensors: None)


def lora() -> dict[str, Tensor]:
    """The tensors of a LoRA."""
    return {f"lora_unet_mid.{end}": torch.ones(4, 4) for end in ("lora_down.weight", "lora_up.weight")}


def header_of(shapes: Mapping[str, tuple[int, ...]], dtype: str = "F16", **metadata: str) -> Header:
    """A header with these tensors."""
    tensors = {name: TensorInfo(dtype=dtype, shape=tuple(shape), bytes=0) for name, shape in shapes.items()}
    return Header(tensors=tensors, metadata=metadata)


def states(parts: ModelParts) -> dict[str, dict[str, Tensor]]:
    return {part: dict(network.state_dict()) for part, network in parts.networks.items()}


def assert_same_parts(ours: ModelParts, theirs: ModelParts) -> None:
    """Every weight the same bit for bit, every setting equal."""
    assert ours.networks.keys() == theirs.networks.keys()
    for part, network in theirs.networks.items():
        found = ours.networks[part]
        assert found.config == network.config, part
        assert_same_state(found, network)
    for field in ("family", "scheduler", "scheduler_json", "defaults", "zero_negative", "known_words"):
        assert getattr(ours, field) == getattr(theirs, field), field
    for name in ("tokenizer", "tokenizer_2"):
        assert (getattr(ours, name) is None) == (getattr(theirs, name) is None)
        if getattr(theirs, name) is not None:
            assert getattr(ours, name).files() == getattr(theirs, name).files()


def assert_same_state(ours: nn.Module, theirs: nn.Module) -> None:
    found, wanted = ours.state_dict(), theirs.state_dict()
    assert found.keys() == wanted.keys()
    for name, tensor in wanted.items():
        assert found[name].dtype == tensor.dtype, name
        assert torch.equal(found[name], tensor), name
