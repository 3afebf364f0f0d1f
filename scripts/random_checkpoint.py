"""A model of random weights as a diffusers folder: for trying formats out where no real checkpoint can be had.

    python scripts/random_checkpoint.py sd1 sd15-random-dir            # full size: 2.1 GB
    python scripts/random_checkpoint.py sdxl sdxl-tiny --tiny          # the same architecture, a few hundred kB

The shapes are those of the published models, or small ones with --tiny; the pictures are noise, but always the same.
`wordbrush models convert` makes a single file of it. The tokenizers are made on the spot, from captions of scenes.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

import torch
from torch import nn

from wordbrush.conditioning.t5_tokenizer import T5Tokenizer
from wordbrush.conditioning.tokenizer import ClipTokenizer, SpecialTokens
from wordbrush.data.scenes import caption, sample_scene
from wordbrush.diffusion.scheduler_config import read_scheduler_config
from wordbrush.errors import WordbrushError
from wordbrush.formats.defaults import usual_defaults
from wordbrush.formats.diffusers_folder import write_folder
from wordbrush.formats.parts import FAMILIES, ModelParts
from wordbrush.formats.single_file.configs import TEXT_ENCODERS, TRANSFORMERS, UNETS, VAES, scheduler_config
from wordbrush.formats.weights import without_weights
from wordbrush.networks.clip import CLIPTextConfig, CLIPTextModel
from wordbrush.networks.flux import FluxConfig, FluxTransformer
from wordbrush.networks.t5 import T5Config, T5Encoder
from wordbrush.networks.unet import UNet, UNetConfig
from wordbrush.networks.vae import AutoencoderKL, AutoencoderKLConfig
from wordbrush.training.tokenizer import learn_tokenizer

Config = dict[str, Any]

# Width of a small text encoder, and with it of what the network that denoises reads.
_WIDTH = 64

VARIANTS = {"base": 4, "inpaint": 9, "instruct-pix2pix": 8, "lcm": 4}
"""The variants of a U-Net, and the channels that it takes."""


def random_parts(
    family: str, *, variant: str = "base", tiny: bool = False, dtype: torch.dtype = torch.float32
) -> ModelParts:
    """A model of that family, its weights drawn from seed 0.

    Args:
        family: one of `FAMILIES`.
        variant: one of `VARIANTS`; FLUX has the base only.
        tiny: small networks in place of the published sizes.
    """
    generator = torch.Generator().manual_seed(0)
    configs = {part: small(part, config) if tiny else config for part, config in published(family, variant).items()}
    if tiny:
        _fit(configs)
    networks = {part: _network(config, part, generator, dtype) for part, config in configs.items()}
    prediction = "flow" if family.startswith("flux") else "v" if family == "sd2" and variant == "base" else "epsilon"
    scheduler_json = scheduler_config(family, variant=variant, prediction=prediction, zero_terminal_snr=False)
    scheduler = read_scheduler_config(scheduler_json)
    return ModelParts(
        family=family,
        **networks,
        **_tokenizers(networks),
        scheduler=scheduler,
        scheduler_json=scheduler_json,
        defaults=usual_defaults(family, networks, scheduler),
        name=f"random {family}",
        zero_negative=family == "sdxl",
    )


def published(family: str, variant: str = "base") -> dict[str, Config]:
    """The configs of the networks of a published model, by part."""
    configs = {"vae": VAES[family], **TEXT_ENCODERS[family]}
    if family in TRANSFORMERS:
        return {"transformer": TRANSFORMERS[family]} | configs
    unet = UNETS[family] | {"in_channels": VARIANTS[variant]}
    if variant == "lcm":
        unet["time_cond_proj_dim"] = 256
    return {"unet": unet} | configs


def small(part: str, config: Config) -> Config:
    """A config of the same architecture with a few thousand parameters."""
    if part == "unet":
        levels = len(config["block_out_channels"])
        depths = config["transformer_layers_per_block"]
        one = isinstance(config["attention_head_dim"], int)
        return config | {
            "sample_size": 8,
            "block_out_channels": [32, 64, 64, 64][:levels],
            "layers_per_block": 1,
            "attention_head_dim": 4 if one else [1, 2, 2, 2][:levels],
            "transformer_layers_per_block": 1 if isinstance(depths, int) else [1, 1, 2],
        }
    if part == "transformer":
        sizes = {"num_layers": 2, "num_single_layers": 2, "attention_head_dim": 32, "num_attention_heads": 2}
        return config | sizes | {"axes_dims_rope": [8, 12, 12], "joint_attention_dim": _WIDTH}
    if part == "vae":
        return config | {"block_out_channels": [32, 32, 32, 64], "layers_per_block": 1, "sample_size": 64}
    if "d_model" in config:
        t5 = {"vocab_size": 600, "d_model": _WIDTH, "d_kv": 16, "d_ff": 96, "num_layers": 2, "num_heads": 4}
        return config | t5
    text = {"hidden_size": _WIDTH, "intermediate_size": 96, "num_hidden_layers": 2, "num_attention_heads": 1}
    return config | text | {"vocab_size": 1000, "projection_dim": _WIDTH}


def _fit(configs: dict[str, Config]) -> None:
    """Makes the network that denoises read what the small text encoders give."""
    encoders = [part for part in configs if part.startswith("text_encoder")]
    if "transformer" in configs:
        configs["transformer"]["pooled_projection_dim"] = _WIDTH
        return
    unet = configs["unet"]
    unet["cross_attention_dim"] = _WIDTH * len(encoders)
    if "addition_embed_type" in unet:
        sizes = 6 if len(encoders) == 2 else 5  # the refiner is told five numbers, with the aesthetic score
        unet["addition_time_embed_dim"] = 32
        unet["projection_class_embeddings_input_dim"] = _WIDTH + sizes * 32


def _network(config: Config, part: str, generator: torch.Generator, dtype: torch.dtype) -> nn.Module:
    """A network whose every parameter, the output layers' too, is random and of a size that keeps numbers in range."""
    network = without_weights(lambda: _empty(config, part))
    tensors = {}
    for name, parameter in network.state_dict().items():
        noise = torch.randn(parameter.shape, generator=generator)
        if parameter.ndim >= 2:
            tensors[name] = noise.mul_(parameter[0].numel() ** -0.5).to(dtype)
        elif name.endswith("weight"):  # of a normalisation
            tensors[name] = noise.mul_(0.1).add_(1).to(dtype)
        else:
            tensors[name] = noise.mul_(0.02).to(dtype)
    network.load_state_dict(tensors, assign=True)
    return network


def _empty(config: Config, part: str) -> nn.Module:
    if part == "unet":
        return UNet(UNetConfig.from_dict(config))
    if part == "transformer":
        return FluxTransformer(FluxConfig.from_dict(config))
    if part == "vae":
        return AutoencoderKL(AutoencoderKLConfig.from_dict(config))
    if "d_model" in config:
        return T5Encoder(T5Config.from_dict(config))
    return CLIPTextModel(CLIPTextConfig.from_dict(config), projection=part == "text_encoder_2")


def _tokenizers(networks: dict[str, nn.Module]) -> dict[str, ClipTokenizer | T5Tokenizer]:
    captions = [caption(sample_scene("train", 0, index)) for index in range(300)]
    clip = learn_tokenizer(captions, size=900, max_length=77)
    found: dict[str, ClipTokenizer | T5Tokenizer] = {}
    if "text_encoder" in networks:
        found["tokenizer"] = clip
    second = networks.get("text_encoder_2")
    if isinstance(second, T5Encoder):
        letters = [f"{mark}{letter}" for mark in ("▁", "") for letter in "abcdefghijklmnopqrstuvwxyz0123456789.,'-"]
        pieces = [("<pad>", 0.0), ("</s>", 0.0), ("<unk>", 0.0), ("▁", -3.0), *((letter, -4.0) for letter in letters)]
        found["tokenizer_2"] = T5Tokenizer(pieces, unk_id=2, charsmap=b"")
    elif second is not None:  # the second tokenizer of Stable Diffusion XL pads with another token
        found["tokenizer_2"] = ClipTokenizer(clip.vocab, clip.merges, special=SpecialTokens(pad="!"), max_length=77)
    return found


def main() -> None:
    """Writes the folder that the command line asks for."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("family", choices=FAMILIES)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--variant", choices=VARIANTS, default="base")
    parser.add_argument("--tiny", action="store_true", help="small networks of the same architecture")
    parser.add_argument("--dtype", choices=("float32", "float16", "bfloat16"), default="float16")
    options = parser.parse_args()
    if options.variant != "base" and options.family in TRANSFORMERS:
        parser.error(f"--variant {options.variant} is not one of {options.family}")
    dtype = getattr(torch, options.dtype)
    parts = random_parts(options.family, variant=options.variant, tiny=options.tiny, dtype=dtype)
    try:
        write_folder(parts, options.folder)
    except WordbrushError as error:
        parser.error(str(error))
    print(options.folder)


if __name__ == "__main__":
    main()
