"""One layer in the spelling of every trainer and tool, and the weights of ours that must change, by how much."""

import json
from functools import cache
from pathlib import Path

import pytest
import torch
from tests.formats.lora_files import (
    assert_changed,
    bits,
    kohya,
    layers,
    low_rank,
    product,
    tiny_clip,
    tiny_flux,
    tiny_t5,
    tiny_unet,
    write,
)
from torch import Tensor, nn

from wordbrush.errors import ModelFileError
from wordbrush.formats.lora import LoraUse, attach, read_lora

DOWN = "down_blocks.0.attentions.0.transformer_blocks.0"
CLIP = "text_model.encoder.layers.1"


@cache
def _networks(family: str) -> dict[str, nn.Module]:
    if family == "flux":
        return {"transformer": tiny_flux(), "text_encoder": tiny_clip(), "text_encoder_2": tiny_t5()}
    if family == "sdxl":
        second = tiny_clip(projection=True, width=20)
        return {"unet": tiny_unet("sdxl"), "text_encoder": tiny_clip(), "text_encoder_2": second}
    return {"unet": tiny_unet("sd1"), "text_encoder": tiny_clip()}


SIMPLE = {
    # family, the key of the down, of the up, and the layer
    "kohya": ("sd1", "lora_unet_down_blocks_0_attentions_0_transformer_blocks_0_attn1_to_q.lora_{}.weight", "du",
              "unet", f"{DOWN}.attn1.to_q"),
    "kohya to_out": ("sd1", "lora_unet_down_blocks_0_attentions_0_transformer_blocks_0_attn1_to_out_0.lora_{}.weight",
                     "du", "unet", f"{DOWN}.attn1.to_out.0"),
    "kohya conv": ("sd1", "lora_unet_up_blocks_1_resnets_0_conv_shortcut.lora_{}.weight", "du",
                   "unet", "up_blocks.1.resnets.0.conv_shortcut"),
    "kohya 3x3": ("sd1", "lora_unet_down_blocks_0_downsamplers_0_conv.lora_{}.weight", "du",
                  "unet", "down_blocks.0.downsamplers.0.conv"),
    "kohya text": ("sd1", "lora_te_text_model_encoder_layers_1_self_attn_q_proj.lora_{}.weight", "du",
                   "text_encoder", f"{CLIP}.self_attn.q_proj"),
    "kohya text xl": ("sdxl", "lora_te2_text_model_encoder_layers_1_mlp_fc1.lora_{}.weight", "du",
                      "text_encoder_2", f"{CLIP}.mlp.fc1"),
    "kohya projection": ("sdxl", "lora_te2_text_projection.lora_{}.weight", "du", "text_encoder_2", "text_projection"),
    "sgm in": ("sdxl", "lora_unet_input_blocks_0_0.lora_{}.weight", "du", "unet", "conv_in"),
    "sgm resnet": ("sdxl", "lora_unet_input_blocks_1_0_in_layers_2.lora_{}.weight", "du",
                   "unet", "down_blocks.0.resnets.0.conv1"),
    "sgm smaller": ("sdxl", "lora_unet_input_blocks_3_0_op.lora_{}.weight", "du",
                    "unet", "down_blocks.0.downsamplers.0.conv"),
    "sgm attention": ("sdxl", "lora_unet_input_blocks_4_1_transformer_blocks_0_attn1_to_q.lora_{}.weight", "du",
                      "unet", "down_blocks.1.attentions.0.transformer_blocks.0.attn1.to_q"),
    "sgm middle": ("sdxl", "lora_unet_middle_block_1_proj_in.lora_{}.weight", "du",
                   "unet", "mid_block.attentions.0.proj_in"),
    "sgm middle resnet": ("sdxl", "lora_unet_middle_block_2_out_layers_3.lora_{}.weight", "du",
                          "unet", "mid_block.resnets.1.conv2"),
    "sgm larger": ("sdxl", "lora_unet_output_blocks_2_2_conv.lora_{}.weight", "du",
                   "unet", "up_blocks.0.upsamplers.0.conv"),
    "sgm out": ("sdxl", "lora_unet_output_blocks_8_0_skip_connection.lora_{}.weight", "du",
                "unet", "up_blocks.2.resnets.2.conv_shortcut"),
    "sgm time": ("sdxl", "lora_unet_time_embed_2.lora_{}.weight", "du", "unet", "time_embedding.linear_2"),
    "sgm sizes": ("sdxl", "lora_unet_label_emb_0_0.lora_{}.weight", "du", "unet", "add_embedding.linear_1"),
    "sgm in a resnet": ("sdxl", "lora_unet_input_blocks_4_0_emb_layers_1.lora_{}.weight", "du",
                        "unet", "down_blocks.1.resnets.0.time_emb_proj"),
    "xl in diffusers' names": ("sdxl", "lora_unet_down_blocks_1_attentions_0_proj_out.lora_{}.weight", "du",
                               "unet", "down_blocks.1.attentions.0.proj_out"),
    "lycoris": ("sd1", "lycoris_mid_block_attentions_0_proj_in.lora_{}.weight", "du",
                "unet", "mid_block.attentions.0.proj_in"),
    "peft": ("sd1", f"unet.{DOWN}.attn2.to_k.lora_{{}}.weight", "AB", "unet", f"{DOWN}.attn2.to_k"),
    "peft text": ("sd1", f"text_encoder.{CLIP}.self_attn.out_proj.lora_{{}}.weight", "AB",
                  "text_encoder", f"{CLIP}.self_attn.out_proj"),
    "peft text, transformers 5": ("sdxl", "text_encoder_2.encoder.layers.1.mlp.fc2.lora_{}.weight", "AB",
                                  "text_encoder_2", f"{CLIP}.mlp.fc2"),
    "peft with an adapter's name": ("sd1", f"unet.{DOWN}.ff.net.0.proj.lora_{{}}.default.weight", "AB",
                                    "unet", f"{DOWN}.ff.net.0.proj"),
    "peft itself": ("sd1", f"base_model.model.{DOWN}.ff.net.2.lora_{{}}.weight", "AB", "unet", f"{DOWN}.ff.net.2"),
    "peft itself, text": ("sd1", f"base_model.model.{CLIP}.mlp.fc1.lora_{{}}.weight", "AB",
                          "text_encoder", f"{CLIP}.mlp.fc1"),
    "diffusers 0.12": ("sd1", f"{DOWN}.attn1.processor.to_q_lora.{{}}.weight", "12", "unet", f"{DOWN}.attn1.to_q"),
    "diffusers 0.14": ("sd1", f"unet.{DOWN}.attn1.processor.to_out_lora.{{}}.weight", "12",
                       "unet", f"{DOWN}.attn1.to_out.0"),
    "diffusers 0.14, text": ("sd1", f"text_encoder.{CLIP}.self_attn.to_out_lora.{{}}.weight", "12",
                             "text_encoder", f"{CLIP}.self_attn.out_proj"),
    "diffusers 0.20": ("sd1", f"unet.{DOWN}.attn1.to_out.0.lora.{{}}.weight", "12", "unet", f"{DOWN}.attn1.to_out.0"),
    "diffusers 0.20, text": ("sd1", f"text_encoder.{CLIP}.self_attn.v_proj.lora_linear_layer.{{}}.weight", "12",
                             "text_encoder", f"{CLIP}.self_attn.v_proj"),
    "comfyui": ("sd1", "diffusion_model.input_blocks.1.1.proj_in.lora_{}.weight", "AB",
                "unet", "down_blocks.0.attentions.0.proj_in"),
    "comfyui text": ("sdxl", f"text_encoders.clip_g.transformer.{CLIP}.mlp.fc1.lora_{{}}.weight", "du",
                     "text_encoder_2", f"{CLIP}.mlp.fc1"),
    "flux ai-toolkit": ("flux", "transformer.transformer_blocks.1.attn.add_q_proj.lora_{}.weight", "AB",
                        "transformer", "transformer_blocks.1.attn.add_q_proj"),
    "flux ai-toolkit, single": ("flux", "transformer.single_transformer_blocks.0.proj_out.lora_{}.weight", "AB",
                                "transformer", "single_transformer_blocks.0.proj_out"),
    "flux peft without prefix": ("flux", "transformer_blocks.1.ff_context.net.2.lora_{}.weight", "AB",
                                 "transformer", "transformer_blocks.1.ff_context.net.2"),
    "flux kohya": ("flux", "lora_unet_double_blocks_1_img_mlp_0.lora_{}.weight", "du",
                   "transformer", "transformer_blocks.1.ff.net.0.proj"),
    "flux kohya, modulation": ("flux", "lora_unet_single_blocks_1_modulation_lin.lora_{}.weight", "du",
                               "transformer", "single_transformer_blocks.1.norm.linear"),
    "flux kohya, guidance": ("flux", "lora_unet_guidance_in_out_layer.lora_{}.weight", "du",
                             "transformer", "time_text_embed.guidance_embedder.linear_2"),
    "flux kohya, end": ("flux", "lora_unet_final_layer_linear.lora_{}.weight", "du", "transformer", "proj_out"),
    "flux kohya, CLIP": ("flux", "lora_te1_text_model_encoder_layers_1_mlp_fc1.lora_{}.weight", "du",
                         "text_encoder", f"{CLIP}.mlp.fc1"),
    "flux kohya, T5": ("flux", "lora_te3_encoder_block_1_layer_0_SelfAttention_q.lora_{}.weight", "du",
                       "text_encoder_2", "encoder.block.1.layer.0.SelfAttention.q"),
    "flux onetrainer": ("flux", "lora_transformer_transformer_blocks_0_attn_to_out_0.lora_{}.weight", "du",
                        "transformer", "transformer_blocks.0.attn.to_out.0"),
    "flux onetrainer, T5": ("flux", "lora_te2_encoder_block_0_layer_1_DenseReluDense_wi_0.lora_{}.weight", "du",
                            "text_encoder_2", "encoder.block.0.layer.1.DenseReluDense.wi_0"),
    "flux onetrainer, new": ("flux", "transformer.double_blocks.0.img_attn.qkv.1.lora_{}.weight", "du",
                             "transformer", "transformer_blocks.0.attn.to_k"),
    "flux onetrainer, new single": ("flux", "transformer.single_blocks.0.linear1.3.lora_{}.weight", "du",
                                    "transformer", "single_transformer_blocks.0.proj_mlp"),
    "flux onetrainer, new CLIP": ("flux", f"clip_l.{CLIP}.mlp.fc2.lora_{{}}.weight", "du",
                                  "text_encoder", f"{CLIP}.mlp.fc2"),
    "flux xlabs": ("flux", "double_blocks.1.processor.proj_lora2.{}.weight", "12",
                   "transformer", "transformer_blocks.1.attn.to_add_out"),
    "flux xlabs, single": ("flux", "diffusion_model.single_blocks.0.processor.proj_lora.{}.weight", "12",
                           "transformer", "single_transformer_blocks.0.proj_out"),
    "flux fal": ("flux", "base_model.model.double_blocks.1.txt_mod.lin.lora_{}.weight", "AB",
                 "transformer", "transformer_blocks.1.norm1_context.linear"),
    "flux simpletuner": ("flux", "lycoris_transformer_blocks_0_ff_net_0_proj.lora_{}.weight", "du",
                         "transformer", "transformer_blocks.0.ff.net.0.proj"),
}  # fmt: skip
_SIDES = {"du": ("down", "up"), "AB": ("A", "B"), "12": ("down", "up")}


@pytest.mark.parametrize("dialect", SIMPLE)
def test_a_layer_in_every_spelling(dialect: str, tmp_path: Path) -> None:
    family, key, sides, network, module = SIMPLE[dialect]
    networks = _networks(family)
    shape = networks[network].get_parameter(f"{module}.weight").shape
    down, up = low_rank(shape, 3, torch.Generator().manual_seed(0))
    keys = [key.format(side) for side in _SIDES[sides]]
    before = {name: bits(one) for name, one in networks.items()}
    file = read_lora(write(tmp_path / "a.safetensors", dict(zip(keys, (down, up), strict=True))))
    with attach(networks, [LoraUse(file)]) as attached:
        assert str(attached.matched[0]) == "matched 2 of 2 keys"
        expected = (up.double().flatten(1) @ down.double().flatten(1)).reshape(shape)
        for name, one in networks.items():
            assert_changed(one, before[name], {f"{module}.weight": expected} if name == network else {})


def _attached(network: nn.Module, tensors: dict[str, Tensor], path: Path, expected: dict[str, Tensor]) -> None:
    before = bits(network)
    with attach({"transformer": network}, [LoraUse(read_lora(write(path, tensors)))]) as attached:
        assert attached.matched[0].matched == len(tensors)
        assert_changed(network, before, {f"{name}.weight": amount for name, amount in expected.items()})


@pytest.mark.parametrize("stream", ["img", "txt"])
def test_flux_stacks_query_key_value(stream: str, tmp_path: Path) -> None:
    network = tiny_flux()  # of width 16
    names = ("to_q", "to_k", "to_v") if stream == "img" else ("add_q_proj", "add_k_proj", "add_v_proj")
    tensors = kohya("lora_unet", {f"double_blocks.1.{stream}_attn.qkv": (48, 16)})
    kohyas = f"lora_unet_double_blocks_1_{stream}_attn_qkv"
    whole = product(tensors, kohyas, 1 / 2)
    expected = {f"transformer_blocks.1.attn.{name}": whole[16 * i : 16 * (i + 1)] for i, name in enumerate(names)}
    _attached(network, tensors, tmp_path / "kohya.safetensors", expected)
    theirs = "double_blocks.1.processor.qkv_lora" + ("1" if stream == "img" else "2")
    xlabs = {f"{theirs}.{side}.weight": tensors[f"{kohyas}.lora_{side}.weight"] for side in ("down", "up")}
    _attached(network, xlabs, tmp_path / "xlabs.safetensors", {name: 2 * part for name, part in expected.items()})


def test_flux_stacks_the_way_into_single_blocks(tmp_path: Path) -> None:
    tensors = kohya("lora_unet", {"single_blocks.0.linear1": (48 + 64, 16)}, alpha=None)
    whole = product(tensors, "lora_unet_single_blocks_0_linear1", 1)
    block = "single_transformer_blocks.0"
    parts = dict(zip(("attn.to_q", "attn.to_k", "attn.to_v", "proj_mlp"), whole.split([16, 16, 16, 64]), strict=True))
    expected = {f"{block}.{name}": part for name, part in parts.items()}
    _attached(tiny_flux(), tensors, tmp_path / "kohya.safetensors", expected)
    xlabs = kohya("", {"single_blocks.0.qkv": (48, 16)}, alpha=None)
    down, up = xlabs.values()
    path, key = tmp_path / "xlabs.safetensors", "single_blocks.0.processor.qkv_lora"
    expected = {f"{block}.attn.to_{name}": (up @ down)[16 * i : 16 * (i + 1)] for i, name in enumerate("qkv")}
    _attached(tiny_flux(), {f"{key}.down.weight": down, f"{key}.up.weight": up}, path, expected)


def test_flux_ends_with_shift_and_scale_the_other_way_round(tmp_path: Path) -> None:
    tensors = kohya("lora_unet", {"final_layer.adaLN_modulation.1": (32, 16)})
    whole = product(tensors, "lora_unet_final_layer_adaLN_modulation_1", 1 / 2)
    expected = {"norm_out.linear": torch.cat([whole[16:], whole[:16]])}
    _attached(tiny_flux(), tensors, tmp_path / "a.safetensors", expected)


def test_rules_that_cannot_be_split_change_a_stack_as_a_whole(tmp_path: Path) -> None:
    """A Kronecker product and DoRA's columns of the stacked layer, which no part of it has by itself."""
    generator = torch.Generator().manual_seed(0)
    network = tiny_flux()
    names = [f"transformer_blocks.0.attn.to_{name}" for name in "qkv"]
    stacked = torch.cat([network.get_parameter(f"{name}.weight") for name in names]).detach().double()
    w1, w2 = torch.randn(2, 4, generator=generator), torch.randn(24, 4, generator=generator)
    lengths = torch.rand(1, 16, generator=generator) + 0.5
    merged = stacked + torch.kron(w1.double(), w2.double())
    whole = merged * (lengths / merged.square().sum(0, keepdim=True).sqrt()) - stacked
    layer = "lora_unet_double_blocks_0_img_attn_qkv"
    tensors = {f"{layer}.lokr_w1": w1, f"{layer}.lokr_w2": w2, f"{layer}.dora_scale": lengths}
    expected = dict(zip(names, whole.split(16), strict=True))
    _attached(network, tensors, tmp_path / "a.safetensors", expected)


def test_biases_and_norms(tmp_path: Path) -> None:
    unet = tiny_unet()
    before = bits(unet)
    tensors = {
        "lora_unet_down_blocks_0_resnets_0_norm1.w_norm": torch.full((8,), 0.5),
        "lora_unet_down_blocks_0_resnets_0_norm1.b_norm": torch.full((8,), 0.25),
        "lora_unet_conv_out.diff": torch.full((4, 8, 3, 3), 2.0),
        "lora_unet_conv_out.diff_b": torch.full((4,), 3.0),
    }
    file = read_lora(write(tmp_path / "a.safetensors", tensors))
    with attach({"unet": unet}, [LoraUse(file, unet=0.5)]):
        assert_changed(unet, before, {
            "down_blocks.0.resnets.0.norm1.weight": torch.full((8,), 0.25),
            "down_blocks.0.resnets.0.norm1.bias": torch.full((8,), 0.125),
            "conv_out.weight": torch.full((4, 8, 3, 3), 1.0),
            "conv_out.bias": torch.full((4,), 1.5),
        })  # fmt: skip
    stacked = {"lora_unet_double_blocks_0_img_attn_qkv.diff_b": torch.arange(48.0)}
    flux = tiny_flux()
    before = bits(flux)
    with attach({"transformer": flux}, [LoraUse(read_lora(write(tmp_path / "b.safetensors", stacked)))]):
        names = (f"transformer_blocks.0.attn.to_{name}.bias" for name in "qkv")
        assert_changed(flux, before, dict(zip(names, torch.arange(48.0).split(16), strict=True)))


def test_a_lora_of_the_four_channel_model_on_the_inpainting_model(tmp_path: Path) -> None:
    tensors = kohya("lora_unet", layers(tiny_unet(), "conv_in", "conv_out"))
    inpainting = tiny_unet(in_channels=9)
    before = bits(inpainting)
    with attach({"unet": inpainting}, [LoraUse(read_lora(write(tmp_path / "a.safetensors", tensors)))]):
        amount = torch.zeros(8, 9, 3, 3, dtype=torch.float64)
        amount[:, :4] = product(tensors, "lora_unet_conv_in", 1 / 2)
        expected = {"conv_in.weight": amount, "conv_out.weight": product(tensors, "lora_unet_conv_out", 1 / 2)}
        assert_changed(inpainting, before, expected)


def test_alpha_from_pefts_configs(tmp_path: Path) -> None:
    generator = torch.Generator().manual_seed(0)
    down, up = low_rank((8, 8), 2, generator)
    keys = (f"unet.{DOWN}.attn1.to_q.lora_A.weight", f"unet.{DOWN}.attn1.to_q.lora_B.weight")
    config = {"unet.r": 2, "unet.lora_alpha": 6, "text_encoder.r": 2, "text_encoder.lora_alpha": 100}
    metadata = {"lora_adapter_metadata": json.dumps(config)}
    unet = tiny_unet()
    before = bits(unet)
    file = read_lora(write(tmp_path / "a.safetensors", dict(zip(keys, (down, up), strict=True)), **metadata))
    with attach({"unet": unet}, [LoraUse(file)]):
        assert_changed(unet, before, {f"{DOWN}.attn1.to_q.weight": 3 * up.double() @ down.double()})
    folder = tmp_path / "adapter"
    folder.mkdir()
    raw = {key.replace("unet.", "base_model.model."): tensor for key, tensor in zip(keys, (down, up), strict=True)}
    write(folder / "adapter_model.safetensors", raw)
    (folder / "adapter_config.json").write_text(json.dumps({"r": 2, "lora_alpha": 5, "alpha_pattern": {"to_q": 1}}))
    with attach({"unet": unet}, [LoraUse(read_lora(folder))]):
        assert_changed(unet, before, {f"{DOWN}.attn1.to_q.weight": 0.5 * up.double() @ down.double()})


@pytest.mark.parametrize("legacy", [False, True])
def test_pickles_are_read_as_data(legacy: bool, tmp_path: Path) -> None:
    tensors = kohya("lora_unet", {f"{DOWN}.attn1.to_q": (8, 8)})
    torch.save(tensors, tmp_path / "a.pt", _use_new_zipfile_serialization=not legacy)
    unet = tiny_unet()
    before = bits(unet)
    with attach({"unet": unet}, [LoraUse(read_lora(tmp_path / "a.pt"))]):
        layer = "lora_unet_" + f"{DOWN}.attn1.to_q".replace(".", "_")
        assert_changed(unet, before, {f"{DOWN}.attn1.to_q.weight": product(tensors, layer, 1 / 2)})


def test_what_is_said_in_two_dialects_counts_once(tmp_path: Path) -> None:
    tensors = kohya("lora_unet", {"down_blocks.1.attentions.0.proj_in": (12, 12)})
    twice = {**tensors, **{
        key.replace("down_blocks_1_attentions_0_proj_in", "input_blocks_4_1_proj_in"): tensor.clone()
        for key, tensor in tensors.items()
    }}  # fmt: skip
    unet = tiny_unet("sdxl")
    before = bits(unet)
    with attach({"unet": unet}, [LoraUse(read_lora(write(tmp_path / "a.safetensors", twice)))]) as attached:
        assert str(attached.matched[0]) == "matched 6 of 6 keys"
        amount = product(tensors, "lora_unet_down_blocks_1_attentions_0_proj_in", 1 / 2)
        assert_changed(unet, before, {"down_blocks.1.attentions.0.proj_in.weight": amount})


def _control_lora(channels: int) -> dict[str, Tensor]:
    """A LoRA as Black Forest Labs write theirs for FLUX.1 depth and canny, its way in of so many channels."""
    norms = ("double_blocks.0.img_attn.norm.query_norm", "double_blocks.1.txt_attn.norm.key_norm")
    generator = torch.Generator().manual_seed(3)
    down, up = low_rank((16, channels), 2, generator)
    tensors = {f"{name}.scale": torch.rand(8, generator=generator) for name in norms}
    tensors |= {"img_in.lora_A.weight": down, "img_in.lora_B.weight": up, "img_in.lora_B.bias": torch.arange(16.0)}
    return tensors | {"single_blocks.1.norm.query_norm.scale": torch.rand(8, generator=generator)}


@pytest.mark.parametrize("spelling", ["{}", "diffusion_model.{}.set_weight"])
def test_norms_are_set(spelling: str, tmp_path: Path) -> None:
    flux = tiny_flux()
    before = bits(flux)
    tensors = _control_lora(8)
    norms = {
        "double_blocks.0.img_attn.norm.query_norm.scale": "transformer_blocks.0.attn.norm_q.weight",
        "double_blocks.1.txt_attn.norm.key_norm.scale": "transformer_blocks.1.attn.norm_added_k.weight",
        "single_blocks.1.norm.query_norm.scale": "single_transformer_blocks.1.attn.norm_q.weight",
    }
    expected = {own: tensors[name].double() - before[own].double() for name, own in norms.items()}
    expected["x_embedder.weight"] = tensors["img_in.lora_B.weight"].double() @ tensors["img_in.lora_A.weight"].double()
    expected["x_embedder.bias"] = tensors["img_in.lora_B.bias"].double()
    spelt = {spelling.format(name) if name in norms else name: tensor for name, tensor in tensors.items()}
    file = read_lora(write(tmp_path / "a.safetensors", spelt))
    with attach({"transformer": flux}, [LoraUse(file)]) as attached:
        assert str(attached.matched[0]) == "matched 6 of 6 keys"
        assert_changed(flux, before, expected)
    with attach({"transformer": flux}, [LoraUse(file, unet=0.5)]):  # half of the way
        assert_changed(flux, before, {name: amount / 2 for name, amount in expected.items()})


@pytest.mark.parametrize("taken", [8, 48])
def test_a_control_lora_says_what_it_needs(taken: int, tmp_path: Path) -> None:
    flux = tiny_flux(in_channels=taken, out_channels=8)
    path = write(tmp_path / "depth.safetensors", _control_lora(16))
    with pytest.raises(ModelFileError, match=r"control LoRA: .*8 to 16 channels .*needs a FLUX.1 control checkpoint"):
        attach({"transformer": flux}, [LoraUse(read_lora(path))])
