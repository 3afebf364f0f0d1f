"""What a file is, from names and shapes alone: every family at full size, and everything that is not a model."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from functools import cache

import pytest
from tests.formats.single_files import header_of
from tests.networks.checks import without_memory
from torch import nn

from wordbrush.formats.single_file import configs
from wordbrush.formats.single_file.components import OPEN_CLIP, ORIGINAL, TRANSFORMERS, Component
from wordbrush.formats.single_file.contents import names_of
from wordbrush.formats.single_file.detect import OWN_METADATA, Detected, detect
from wordbrush.formats.single_file.keymap import KeyMap
from wordbrush.networks.clip import CLIPTextConfig, CLIPTextModel
from wordbrush.networks.flux import FluxConfig, FluxTransformer
from wordbrush.networks.t5 import T5Config, T5Encoder
from wordbrush.networks.unet import UNet, UNetConfig
from wordbrush.networks.vae import AutoencoderKL, AutoencoderKLConfig

Shapes = dict[str, tuple[int, ...]]
TEXT = {
    "sd1": {"text_encoder": ("cond_stage_model.transformer.", TRANSFORMERS)},
    "sd2": {"text_encoder": ("cond_stage_model.model.", OPEN_CLIP)},
    "sdxl": {
        "text_encoder": ("conditioner.embedders.0.transformer.", TRANSFORMERS),
        "text_encoder_2": ("conditioner.embedders.1.model.", OPEN_CLIP),
    },
    "sdxl-refiner": {"text_encoder_2": ("conditioner.embedders.0.model.", OPEN_CLIP)},
    "flux-dev": {
        "text_encoder": ("text_encoders.clip_l.transformer.", TRANSFORMERS),
        "text_encoder_2": ("text_encoders.t5xxl.transformer.", TRANSFORMERS),
    },
}
UNET = "model.diffusion_model."


def shapes_of(make: Callable[[], nn.Module], part: str, prefix: str, dialect: str) -> Shapes:
    """The tensors of a network in a file, made without memory for its weights."""
    network = without_memory(make)
    own = {name: tuple(tensor.shape) for name, tensor in network.state_dict().items()}
    component = Component(part=part, prefix=prefix, dialect=dialect, config={})
    names = KeyMap(names_of(component, network, {}), own)
    return {prefix + name: shape for name, shape in names.original_shapes().items()}


@cache
def denoiser(family: str, dialect: str = ORIGINAL, **settings: int) -> Mapping[str, tuple[int, ...]]:
    prefix = UNET if dialect == ORIGINAL else ""
    if family.startswith("flux"):
        flux = FluxConfig.from_dict(configs.TRANSFORMERS[family] | settings)
        return shapes_of(lambda: FluxTransformer(flux), "transformer", prefix, dialect)
    unet = UNetConfig.from_dict(configs.UNETS[family] | settings)
    return shapes_of(lambda: UNet(unet), "unet", prefix, dialect)


@cache
def vae(family: str, prefix: str, dialect: str = ORIGINAL) -> Mapping[str, tuple[int, ...]]:
    config = AutoencoderKLConfig.from_dict(configs.VAES[family])
    return shapes_of(lambda: AutoencoderKL(config), "vae", prefix, dialect)


@cache
def text(family: str, part: str, prefix: str, dialect: str) -> Mapping[str, tuple[int, ...]]:
    config = configs.TEXT_ENCODERS[family][part]
    if "d_model" in config:
        return shapes_of(lambda: T5Encoder(T5Config.from_dict(config)), part, prefix, dialect)
    clip = CLIPTextConfig.from_dict(config)
    return shapes_of(lambda: CLIPTextModel(clip, projection=part == "text_encoder_2"), part, prefix, dialect)


def whole(family: str, **settings: int) -> Shapes:
    start = "vae." if family == "flux-dev" else "first_stage_model."
    found = {**denoiser(family, **settings), **vae(family, start)}
    for part, (prefix, dialect) in TEXT[family].items():
        found |= text(family, part, prefix, dialect)
    return found


@pytest.mark.parametrize("family", TEXT)
def test_the_published_models_at_full_size(family: str) -> None:
    found = detect(header_of(whole(family)))
    assert (found.kind, found.family, found.variant) == ("model", family, "base")
    assert found.layout == {"sd1": "ldm", "sd2": "ldm", "flux-dev": "bfl"}.get(family, "sgm")
    components = found.components
    assert {part: (part_.prefix, part_.dialect) for part, part_ in components.items() if "text" in part} == TEXT[family]
    for part, config in configs.TEXT_ENCODERS[family].items():
        assert components[part].config == config
    assert components["vae"].config == configs.VAES[family]
    if family == "flux-dev":
        assert components["transformer"].config == configs.TRANSFORMERS[family]
        return
    derived = components["unet"].config
    published = configs.UNETS[family] | {"sample_size": derived["sample_size"]}
    assert UNetConfig.from_dict(derived) == UNetConfig.from_dict(published)


def test_how_many_tensors_the_published_files_hold() -> None:
    # as known of v1-5-pruned-emaonly, sd_xl_base_1.0, flux1-dev and flux1-schnell, none of which could be opened where
    # this was written; the first two also hold position_ids, the second logit_scale
    assert len(whole("sd1")) == 1131 - 1
    assert len(whole("sdxl")) == 2515 - 2
    assert (len(denoiser("flux-dev")), len(denoiser("flux-schnell"))) == (780, 776)


@pytest.mark.parametrize(
    ("family", "settings", "variant"),
    [
        ("sd1", {"in_channels": 9}, "inpaint"),
        ("sd2", {"in_channels": 9}, "inpaint"),
        ("sdxl", {"in_channels": 9}, "inpaint"),
        ("sd1", {"in_channels": 8}, "instruct-pix2pix"),
        ("sdxl", {"in_channels": 8}, "instruct-pix2pix"),
        ("sd1", {"time_cond_proj_dim": 256}, "lcm"),
        ("flux-dev", {"in_channels": 128, "out_channels": 64}, "control"),
        ("flux-dev", {"in_channels": 384, "out_channels": 64}, "fill"),
    ],
)
def test_variants(family: str, settings: dict[str, int], variant: str) -> None:
    found = detect(header_of(denoiser(family, **settings)))
    assert (found.family, found.variant) == (family, variant)
    assert found.prediction == ("flow" if family == "flux-dev" else "epsilon")
    assert found.native_size == {"sd1": 512, "sd2": 512, "sdxl": 1024, "flux-dev": 1024}[family]
    assert set(found.components) == {"transformer" if family == "flux-dev" else "unet"}


@pytest.mark.parametrize("prefix", ["", "diffusion_model.", "model.", "unet."])
@pytest.mark.parametrize("family", ["sd1", "sd2", "sdxl", "sdxl-refiner", "flux-schnell"])
def test_networks_alone_under_any_prefix(family: str, prefix: str) -> None:
    shapes = {name.replace(UNET, prefix): shape for name, shape in denoiser(family).items()}
    found = detect(header_of(shapes))
    assert found.family == family
    assert next(iter(found.components.values())).prefix == prefix


@pytest.mark.parametrize("family", ["sd1", "sd2", "sdxl", "sdxl-refiner", "flux-dev"])
def test_networks_in_diffusers_names(family: str) -> None:
    found = detect(header_of(denoiser(family, "diffusers")))
    assert (found.family, found.layout) == (family, "diffusers")
    original = detect(header_of(denoiser(family)))
    part = "transformer" if family == "flux-dev" else "unet"
    assert found.components[part].config == original.components[part].config


def test_comfyui_s_names_for_the_encoders() -> None:
    second = text("sdxl", "text_encoder_2", "text_encoders.clip_g.transformer.", TRANSFORMERS)
    shapes = {**denoiser("sdxl"), **second}
    component = detect(header_of(shapes)).components["text_encoder_2"]
    assert component.config == configs.TEXT_ENCODERS["sdxl"]["text_encoder_2"]


def test_open_clip_h_is_read_to_its_last_layer_but_one() -> None:
    shapes = whole("sd2")
    prefix = "cond_stage_model.model."
    last = {name.replace("resblocks.22.", "resblocks.23."): shape for name, shape in shapes.items()}
    with_end = shapes | last | {f"{prefix}text_projection": (1024, 1024)}
    component = detect(header_of(with_end)).components["text_encoder"]
    assert component.config == configs.TEXT_ENCODERS["sd2"]["text_encoder"]
    assert component.spare == ("text_projection", "transformer.resblocks.23.")


PREDICTIONS: dict[str, tuple[dict[str, str], tuple[str, ...], tuple[str | None, int | None]]] = {
    "silent": ({}, (), (None, None)),
    "markers": ({}, ("v_pred", "ztsnr"), ("v", 768)),
    "ModelSpec": ({"modelspec.prediction_type": "epsilon"}, (), ("epsilon", 512)),
    "ModelSpec v": ({"modelspec.prediction_type": "v"}, (), ("v", 768)),
    "architecture": ({"modelspec.architecture": "stable-diffusion-v2-768-v"}, (), ("v", 768)),
    "kohya": ({"ss_v_parameterization": "True"}, (), ("v", 768)),
    "training step": ({"global_step": "875000"}, (), ("epsilon", 512)),
    "another step": ({"global_step": "140000"}, (), (None, None)),
    "resolution": ({"modelspec.prediction_type": "v", "modelspec.resolution": "512x512"}, (), ("v", 512)),
}


@pytest.mark.parametrize("case", PREDICTIONS)
def test_what_stable_diffusion_2_predicts(case: str) -> None:
    metadata, markers, (prediction, side) = PREDICTIONS[case]
    found = detect(header_of({**denoiser("sd2"), **dict.fromkeys(markers, (0,))}, **metadata))
    assert (found.prediction, found.native_size) == (prediction, side)
    assert found.zero_terminal_snr == ("ztsnr" in markers)
    assert bool(found.prediction_from) == (prediction is not None)
    assert detect(header_of(denoiser("sd2"), **metadata), prediction="v").prediction == "v"


def test_number_formats_and_scales() -> None:
    shapes = denoiser("flux-schnell")
    assert detect(header_of(shapes)).quantisation is None
    assert detect(header_of(shapes, "F8_E4M3")).quantisation == "fp8"
    assert detect(header_of({**shapes, "scaled_fp8": (2,)}, "F8_E4M3")).quantisation == "scaled fp8"


def _without(shapes: Mapping[str, tuple[int, ...]], *parts: str) -> Shapes:
    return {name: shape for name, shape in shapes.items() if not any(part in name for part in parts)}


def _described(shapes: Mapping[str, tuple[int, ...]]) -> Detected:
    found = detect(header_of(shapes))
    assert found.family is None
    assert found.remedy
    assert not found.what.endswith((".", ";"))
    return found


def test_pruned_networks_are_named_as_such() -> None:
    for shapes in (
        _without(denoiser("sdxl"), "middle_block.1."),  # SSD-1B, Segmind Vega
        _without(denoiser("sd1"), "output_blocks.7.1."),
        _without(denoiser("sd1"), "middle_block."),
        _without(denoiser("sd1"), "output_blocks.11."),
    ):
        assert "U-Net" in _described(shapes).what


def test_a_network_with_a_piece_missing_is_damaged() -> None:
    assert "input_blocks.4.0.out_layers.3.weight" in _described(_without(denoiser("sd1"), "4.0.out_layers.3.")).what
    assert "are missing" in _described(_without(denoiser("sd1"), "input_blocks.4.")).what
    # a missing tensor that decides nothing is found when the file is opened
    assert detect(header_of(_without(denoiser("sd1"), "input_blocks.0.0.weight"))).family is None
    assert detect(header_of(_without(denoiser("sd1"), "input_blocks.4.0.in_layers.0."))).family == "sd1"


OTHERS: dict[str, tuple[Shapes, str, str]] = {
    "kohya LoRA": ({"lora_unet_down_blocks_0.lora_down.weight": (4, 320)}, "lora", "a LoRA"),
    "PEFT LoRA": ({"unet.down_blocks.0.to_q.lora_A.weight": (4, 320)}, "lora", "a LoRA"),
    "LoHa": ({"lora_unet_x.hada_w1_a": (4, 320)}, "lora", "a LoRA"),
    "embedding": ({"emb_params": (4, 768)}, "embedding", "an embedding"),
    "SDXL embedding": ({"clip_l": (4, 768), "clip_g": (4, 1280)}, "embedding", "an embedding"),
    "A1111 embedding": ({"string_to_param.*": (4, 768)}, "embedding", "an embedding"),
    "diffusers embedding": ({"<cat>": (1, 768)}, "embedding", "an embedding"),
    "ControlNet": ({"control_model.input_blocks.0.0.weight": (320, 4, 3, 3)}, "controlnet", "a ControlNet"),
    "diffusers ControlNet": ({"controlnet_cond_embedding.conv_in.weight": (16, 3, 3, 3)}, "controlnet", "a ControlNet"),
    "IP-Adapter": ({"image_proj.proj.weight": (4, 4)}, "adapter", "an IP-Adapter"),
    "ESRGAN": ({"model.1.sub.0.RDB1.conv1.0.weight": (32, 64, 3, 3)}, "upscaler", "an upscaler (ESRGAN)"),
    "TAESD": ({"decoder.layers.0.weight": (64, 4, 3, 3)}, "vae", "a tiny autoencoder (TAESD)"),
    "SD3": (
        {f"{UNET}joint_blocks.0.context_block.adaLN_modulation.1.weight": (9216, 1536)},
        "other model",
        "a Stable Diffusion 3 model",
    ),
    "Stable Cascade": ({"clip_txt_mapper.weight": (1536, 1280)}, "other model", "a Stable Cascade model"),
    "nothing known": ({"a.b": (3,), "c": (2, 2)}, "unknown", "no model"),
    "empty": ({}, "unknown", "no model"),
}


@pytest.mark.parametrize("case", OTHERS)
def test_files_that_are_not_models(case: str) -> None:
    shapes, kind, what = OTHERS[case]
    found = _described(shapes)
    assert found.kind == kind
    assert found.what.startswith(what)


def test_parts_of_models_alone() -> None:
    assert _described(vae("sd1", "")).kind == "vae"
    assert _described(vae("sd1", "", "diffusers")).kind == "vae"
    assert _described(text("sd1", "text_encoder", "", TRANSFORMERS)).kind == "text encoder"
    assert _described(text("sdxl", "text_encoder_2", "", OPEN_CLIP)).kind == "text encoder"
    assert _described(text("flux-dev", "text_encoder_2", "", TRANSFORMERS)).kind == "text encoder"


@pytest.mark.parametrize(
    ("shapes", "what"),
    [
        ({"edm_mean": (1, 4, 1, 1)}, "Playground"),
        ({"edm_vpred.sigma_max": ()}, "CosXL"),
        ({"control_model.time_embed.0.weight": (1280, 320)}, "ControlNet"),
        ({f"{UNET}distilled_guidance_layer.in_proj.weight": (4, 4)}, "Chroma"),
        ({f"{UNET}label_emb.weight": (1000, 1280)}, "x4 upscaler"),
    ],
)
def test_models_that_only_look_like_ours(shapes: Shapes, what: str) -> None:
    assert what in _described({**denoiser("sd1"), **shapes}).what


def test_channels_of_no_known_variant() -> None:
    assert "depth" in _described(denoiser("sd2", in_channels=5)).what
    assert "6 channels" in _described(denoiser("sd1", in_channels=6)).what


def test_our_own_note_decides_only_what_no_shape_tells() -> None:
    noted = {"attention_head_dim": 4, "layers_per_block": 10**9, "block_out_channels": [1], "unheard_of": 1}
    own = json.dumps({"configs": {"unet": noted}})
    config = detect(header_of(denoiser("sd1"), **{OWN_METADATA: own})).components["unet"].config
    assert (config["attention_head_dim"], config["layers_per_block"]) == (4, 2)
    assert "unheard_of" not in config
    for nonsense in ("[1]", "{", "null", '{"configs": 3}', '{"configs": {"unet": []}}'):
        assert detect(header_of(denoiser("sd1"), **{OWN_METADATA: nonsense})).family == "sd1"
