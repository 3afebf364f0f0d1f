"""LoRAs against diffusers and PEFT: the same file on the same tiny network gives the same prediction.

Files in PEFT's dialects are written by PEFT and diffusers themselves; files in other trainers' dialects are written
here and read by diffusers' own loaders, which is what says that our layers are the right ones.
"""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from tests.formats.lora_files import FLUX, kohya, layers, low_rank
from tests.formats.lora_files import write as write_lora
from tests.parity.comparing import assert_near, open_with_transformers, randn, randomise, write
from torch import Tensor, nn

from wordbrush.formats.lora import LoraUse, attach, read_lora
from wordbrush.formats.lora.modules import targets
from wordbrush.formats.single_file.keymap import KeyMap
from wordbrush.formats.single_file.names_unet import unet_names
from wordbrush.networks.clip import CLIPTextConfig, CLIPTextModel
from wordbrush.networks.flux import FluxConfig, FluxTransformer, image_positions, text_positions
from wordbrush.networks.unet import AddedConditioning, UNet, UNetConfig

diffusers = pytest.importorskip("diffusers")
transformers = pytest.importorskip("transformers")
peft = pytest.importorskip("peft")

ENDS = (
    "to_q", "to_k", "to_v", "to_out.0", "proj_in", "proj_out", "conv1", "conv_shortcut", "ff.net.0.proj", "ff.net.2",
)  # fmt: skip
CONVERTERS = diffusers.loaders.lora_conversion_utils

_SMALL: dict[str, Any] = {"layers_per_block": 1, "cross_attention_dim": 12, "norm_num_groups": 4}
UNETS = {
    "sd1": UNetConfig(
        block_out_channels=(8, 16), down_block_types=("CrossAttnDownBlock2D", "DownBlock2D"),
        up_block_types=("UpBlock2D", "CrossAttnUpBlock2D"), attention_head_dim=2, **_SMALL,
    ),
    "sdxl": UNetConfig(
        block_out_channels=(8, 12), down_block_types=("DownBlock2D", "CrossAttnDownBlock2D"),
        up_block_types=("CrossAttnUpBlock2D", "UpBlock2D"), attention_head_dim=(1, 2),
        transformer_layers_per_block=(1, 2), use_linear_projection=True, addition_embed_type="text_time",
        addition_time_embed_dim=4, projection_class_embeddings_input_dim=10 + 6 * 4, **_SMALL,
    ),
}  # fmt: skip


def _unets(name: str) -> tuple[UNet, Any]:
    config = UNETS[name]
    theirs = diffusers.UNet2DConditionModel.from_config(config.to_dict()).eval()
    randomise(theirs)
    ours = UNet(config)
    ours.load_state_dict(theirs.state_dict(), strict=True)
    return ours, theirs


def _predict(ours: UNet, theirs: Any) -> tuple[Tensor, Tensor]:
    """Both predictions for one input."""
    x, time, context = randn(2, ours.config.in_channels, 8, 8), torch.tensor([3.0, 801.5]), randn(2, 5, 12, seed=2)
    added, extra = None, {}
    if ours.config.addition_embed_type is not None:
        text, sizes = randn(2, 10, seed=4), torch.tensor([[64.0, 48, 0, 8, 64, 64], [9, 9, 1, 2, 3, 4]])
        added = AddedConditioning(text_embeds=text, time_ids=sizes)
        extra = {"added_cond_kwargs": {"text_embeds": text, "time_ids": sizes}}
    with torch.no_grad():
        return ours(x, time, context, added=added), theirs(x, time, context, **extra).sample


def _assert_same_with(path: Path, ours: UNet, theirs: Any, strength: float = 1.0) -> None:
    before, _ = _predict(ours, theirs)
    with attach({"unet": ours}, [LoraUse(read_lora(path), strength)]):
        got, expected = _predict(ours, theirs)
        assert_near(got, expected)
        assert (got - before).abs().max() > 0.01 * before.abs().max(), "the LoRA changes next to nothing"
    assert torch.equal(_predict(ours, theirs)[0], before)


def _randomise_adapter(network: nn.Module) -> None:
    generator = torch.Generator().manual_seed(5)
    for name, parameter in network.named_parameters():
        if "magnitude" in name:
            parameter.data *= 1 + 0.3 * torch.randn(parameter.shape, generator=generator)
        elif any(part in name for part in ("lora_", "hada_", "lokr_")):
            parameter.data = torch.randn(parameter.shape, generator=generator) * 0.3


PEFT_SETTINGS: dict[str, dict[str, Any]] = {
    "plain": {"lora_alpha": 3},
    "patterns": {"rank_pattern": {"to_k": 2}, "alpha_pattern": {"attentions.0.proj_in": 7, "conv1": 1}},
    "rslora": {"lora_alpha": 3, "use_rslora": True},
    "dora": {"lora_alpha": 3, "use_dora": True},
    "bias": {"lora_alpha": 2, "lora_bias": True},
}


@pytest.mark.filterwarnings("ignore:Adapter 'default'")  # PEFT takes a bias for a tensor that was cut short
@pytest.mark.parametrize("settings", PEFT_SETTINGS)
def test_what_diffusers_saves(settings: str, tmp_path: Path) -> None:
    ours, theirs = _unets("sd1")
    ends = ENDS[3:] if settings == "bias" else ENDS  # the first three have no bias
    config = peft.LoraConfig(r=4, target_modules=list(ends), **PEFT_SETTINGS[settings])
    theirs.add_adapter(config)
    _randomise_adapter(theirs)
    diffusers.StableDiffusionPipeline.save_lora_weights(
        tmp_path, unet_lora_layers=peft.get_peft_model_state_dict(theirs),
        unet_lora_adapter_metadata={**config.to_dict(), "target_modules": list(ends)},
    )  # fmt: skip
    _assert_same_with(tmp_path, ours, theirs)


@pytest.mark.parametrize(
    "config",
    [
        peft.LoHaConfig(r=3, alpha=2, target_modules=list(ENDS)),
        peft.LoHaConfig(r=3, alpha=2, target_modules=list(ENDS), use_effective_conv2d=True),
        peft.LoKrConfig(r=2, alpha=3, target_modules=list(ENDS)),
        peft.LoKrConfig(r=2, alpha=3, target_modules=list(ENDS), decompose_both=True, use_effective_conv2d=True),
        peft.LoKrConfig(r=64, alpha=3, target_modules=list(ENDS)),
    ],
    ids=["loha", "loha with cores", "lokr", "lokr with cores", "lokr whole"],
)
def test_what_peft_saves(config: Any, tmp_path: Path) -> None:
    ours, theirs = _unets("sd1")
    wrapped = peft.get_peft_model(theirs, config)
    _randomise_adapter(wrapped)
    wrapped.save_pretrained(tmp_path)
    _assert_same_with(tmp_path, ours, wrapped.base_model.model)


def _clips(tmp_path: Path, *, projection: bool) -> tuple[CLIPTextModel, Any]:
    config = CLIPTextConfig(
        vocab_size=50, hidden_size=16, intermediate_size=32, num_hidden_layers=2, num_attention_heads=2,
        projection_dim=10, max_position_embeddings=7, bos_token_id=0, eos_token_id=49,
    )  # fmt: skip
    ours = CLIPTextModel(config, projection=projection).eval()
    randomise(ours)
    kind = transformers.CLIPTextModelWithProjection if projection else transformers.CLIPTextModel
    tmp_path.mkdir()
    return ours, open_with_transformers(kind, write(tmp_path, ours.to_dict(), ours))


def _assert_same_text(ours: CLIPTextModel, theirs: Any) -> None:
    ids = torch.tensor([[1, 5, 7, 49, 49, 49, 49], [4, 3, 2, 1, 9, 8, 49]])
    with torch.no_grad():
        got, expected = ours(ids), theirs(ids, output_hidden_states=True)
    assert_near(got.last_hidden_state, expected.last_hidden_state)
    assert_near(got.hidden_states[-2], expected.hidden_states[-2])
    if got.text_embeds is not None:
        assert_near(got.text_embeds, expected.text_embeds)


def test_kohyas_on_stable_diffusion(tmp_path: Path) -> None:
    ours, theirs = _unets("sd1")
    text, their_text = _clips(tmp_path / "clip", projection=False)
    shapes = layers(ours, *ENDS, "conv2", "time_emb_proj", "downsamplers.0.conv", "upsamplers.0.conv")
    tensors = kohya("lora_unet", shapes, rank=3)
    tensors |= kohya("lora_te", layers(text, "_proj", "fc1", "fc2"), alpha=2.0, seed=2)
    path = write_lora(tmp_path / "a.safetensors", tensors)
    pipe = diffusers.StableDiffusionPipeline(
        unet=theirs, text_encoder=their_text, vae=None, tokenizer=None, scheduler=None, safety_checker=None,
        feature_extractor=None, requires_safety_checker=False,
    )  # fmt: skip
    pipe.load_lora_weights(path)
    _assert_same_with_text(path, ours, theirs, {"text_encoder": (text, their_text)}, pipe)


def _assert_same_with_text(
    path: Path, ours: UNet, theirs: Any, texts: dict[str, tuple[CLIPTextModel, Any]], pipe: Any
) -> None:
    networks = {"unet": ours, **{name: text for name, (text, _) in texts.items()}}
    seen = [_predict(ours, theirs)[0]]
    for strengths in ((1.0, 1.0), (0.5, -0.25)):
        pipe.set_adapters("default_0", {"unet": strengths[0], **dict.fromkeys(texts, strengths[1])})
        with attach(networks, [LoraUse(read_lora(path), *strengths)]):
            got, expected = _predict(ours, theirs)
            assert_near(got, expected)
            assert all((got - other).abs().max() > 0.01 * other.abs().max() for other in seen), "no strength acts"
            seen.append(got)
            for text, their_text in texts.values():
                _assert_same_text(text, their_text)


@pytest.mark.parametrize("names", ["sgm", "diffusers"])
def test_kohyas_on_stable_diffusion_xl(names: str, tmp_path: Path) -> None:
    ours, theirs = _unets("sdxl")
    shapes = layers(ours, *ENDS, "conv2", "time_emb_proj", "downsamplers.0.conv", "upsamplers.0.conv")
    if names == "sgm":
        whole = {name: tuple(tensor.shape) for name, tensor in ours.state_dict().items()}
        links = KeyMap(unet_names(ours.config), whole).links.values()
        original = {link.own[0]: link.original for link in links}
        shapes = {original[f"{name}.weight"].removesuffix(".weight"): shape for name, shape in shapes.items()}
    texts = {
        "text_encoder": _clips(tmp_path / "1", projection=False),
        "text_encoder_2": _clips(tmp_path / "2", projection=True),
    }
    tensors = kohya("lora_unet", shapes)
    tensors |= kohya("lora_te1", layers(texts["text_encoder"][0], "_proj", "fc1"), seed=2)
    tensors |= kohya("lora_te2", layers(texts["text_encoder_2"][0], "_proj", "fc2"), seed=3)
    path = write_lora(tmp_path / "a.safetensors", tensors)
    pipe = diffusers.StableDiffusionXLPipeline(
        unet=theirs, text_encoder=texts["text_encoder"][1], text_encoder_2=texts["text_encoder_2"][1], vae=None,
        tokenizer=None, tokenizer_2=None, scheduler=None, add_watermarker=False,
    )  # fmt: skip
    pipe.load_lora_weights(path)
    _assert_same_with_text(path, ours, theirs, texts, pipe)


@pytest.mark.filterwarnings("ignore:Already found a `peft_config`")
def test_two_loras_at_once(tmp_path: Path) -> None:
    ours, theirs = _unets("sd1")
    uses = []
    for index, strength in ((1, 0.7), (2, -0.4)):
        tensors = kohya("lora_unet", layers(ours, *ENDS[index:]), rank=index + 1, seed=index)
        path = write_lora(tmp_path / f"{index}.safetensors", tensors)
        converted, alphas = CONVERTERS._convert_non_diffusers_lora_to_diffusers(dict(tensors))
        theirs.load_lora_adapter(converted, prefix="unet", network_alphas=alphas, adapter_name=f"lora{index}")
        uses.append(LoraUse(read_lora(path), strength))
    theirs.set_adapters(["lora1", "lora2"], [0.7, -0.4])
    with attach({"unet": ours}, uses):
        assert_near(*_predict(ours, theirs))


@pytest.mark.parametrize("dialect", ["0.14", "0.20"])
def test_what_older_diffusers_saved(dialect: str, tmp_path: Path) -> None:
    ours, theirs = _unets("sd1")
    generator, tensors = torch.Generator().manual_seed(3), {}
    for name, shape in layers(ours, "to_q", "to_k", "to_v", "to_out.0").items():
        for side, tensor in zip(("down", "up"), low_rank(shape, 3, generator), strict=True):
            if dialect == "0.14":
                head, _, last = name.removesuffix(".0").rpartition(".")
                tensors[f"unet.{head}.processor.{last}_lora.{side}.weight"] = tensor
            else:
                tensors[f"unet.{name}.lora.{side}.weight"] = tensor
    theirs.load_lora_adapter(dict(tensors), prefix="unet")
    _assert_same_with(write_lora(tmp_path / "a.safetensors", tensors), ours, theirs)


def _fluxes() -> tuple[FluxTransformer, Any]:
    config = FluxConfig(**FLUX)
    theirs = diffusers.FluxTransformer2DModel.from_config(config.to_dict()).eval()
    randomise(theirs)
    ours = FluxTransformer(config)
    ours.load_state_dict(theirs.state_dict(), strict=True)
    return ours, theirs


def _assert_same_flux(path: Path, ours: FluxTransformer, theirs: Any) -> None:
    places, words = image_positions(8, 6), text_positions(5)
    x, context, pooled = randn(2, len(places), 8), randn(2, 5, 12, seed=2), randn(2, 10, seed=3)
    times, guidance = torch.tensor([0.9, 0.2]), torch.tensor([3.5, 1.0])
    with torch.no_grad():
        expected = theirs(
            x, encoder_hidden_states=context, pooled_projections=pooled, timestep=times, img_ids=places, txt_ids=words,
            guidance=guidance,
        ).sample  # fmt: skip

        def predict() -> Tensor:
            return ours(
                x, times, context, pooled=pooled, positions_image=places, positions_text=words, guidance=guidance
            )

        before = predict()
        with attach({"transformer": ours}, [LoraUse(read_lora(path))]):
            got = predict()
    assert_near(got, expected)
    assert (got - before).abs().max() > 0.01 * before.abs().max(), "the LoRA changes next to nothing"


def _flux_pipe(theirs: Any) -> Any:
    return diffusers.FluxPipeline(
        transformer=theirs, scheduler=None, vae=None, text_encoder=None, tokenizer=None, text_encoder_2=None,
        tokenizer_2=None,
    )  # fmt: skip


WIDTH, INNER = 16, 64  # of the tiny FLUX
DOUBLE = {
    "img_attn.qkv": (3 * WIDTH, WIDTH), "txt_attn.qkv": (3 * WIDTH, WIDTH), "img_attn.proj": (WIDTH, WIDTH),
    "txt_attn.proj": (WIDTH, WIDTH), "img_mlp.0": (INNER, WIDTH), "img_mlp.2": (WIDTH, INNER),
    "txt_mlp.0": (INNER, WIDTH), "txt_mlp.2": (WIDTH, INNER), "img_mod.lin": (6 * WIDTH, WIDTH),
    "txt_mod.lin": (6 * WIDTH, WIDTH),
}  # fmt: skip
SINGLE = {"linear2": (WIDTH, WIDTH + INNER), "modulation.lin": (3 * WIDTH, WIDTH)}
OTHERS = {
    "img_in": (WIDTH, 8), "txt_in": (WIDTH, 12), "vector_in.in_layer": (WIDTH, 10), "time_in.out_layer": (WIDTH, WIDTH),
    "guidance_in.out_layer": (WIDTH, WIDTH), "final_layer.linear": (8, WIDTH),
}  # fmt: skip


def test_kohyas_on_flux(tmp_path: Path) -> None:
    """All but `linear1`, which diffusers splits at FLUX's own width only; the next test has that."""
    ours, theirs = _fluxes()
    shapes = {f"double_blocks.{i}.{name}": shape for i in range(2) for name, shape in DOUBLE.items()}
    shapes |= {f"single_blocks.{i}.{name}": shape for i in range(2) for name, shape in SINGLE.items()}
    path = write_lora(tmp_path / "a.safetensors", kohya("lora_unet", shapes))
    _flux_pipe(theirs).load_lora_weights(path)
    _assert_same_flux(path, ours, theirs)


def test_kohyas_names_on_flux() -> None:
    """Every name of kohya's, at FLUX's own width: where diffusers puts each row of the ups is where we put it."""
    with torch.device("meta"):
        network = FluxTransformer(FluxConfig(num_layers=1, num_single_layers=1, guidance_embeds=True))
    known = targets(network)
    names = [f"double_blocks.0.{name}" for name in DOUBLE]
    names += [f"single_blocks.0.{name}" for name in (*SINGLE, "linear1")]
    names += [*OTHERS, "final_layer.adaLN_modulation.1"]
    tensors, expected = {}, {}
    for index, name in enumerate(names):
        parts = known[name.replace(".", "_")]
        rows = [len(network.get_parameter(f"{part.module}.weight")) for part in parts]
        rows = [count // (1 if part.half is None else 2) for count, part in zip(rows, parts, strict=True)]
        up, down = torch.arange(sum(rows) * 2.0).reshape(-1, 2), torch.full((2, 1), float(index))
        layer = f"lora_unet_{name.replace('.', '_')}"
        tensors |= {f"{layer}.lora_up.weight": up, f"{layer}.lora_down.weight": down}
        pieces = dict(zip(parts, up.split(rows), strict=True))
        for module in dict.fromkeys(part.module for part in parts):
            halves = sorted((part.half or 0, piece) for part, piece in pieces.items() if part.module == module)
            expected[module] = (torch.cat([piece for _, piece in halves]), down)
    converted = CONVERTERS._convert_kohya_flux_lora_to_diffusers(dict(tensors))
    found = {key.removeprefix("transformer."): tensor for key, tensor in converted.items()}
    assert {key.partition(".lora_")[0] for key in found} == set(expected)
    for module, (up, down) in expected.items():
        assert torch.equal(found[f"{module}.lora_B.weight"], up), module
        assert torch.equal(found[f"{module}.lora_A.weight"], down), module


def test_xlabs_on_flux(tmp_path: Path) -> None:
    ours, theirs = _fluxes()
    generator, tensors = torch.Generator().manual_seed(3), {}
    shapes = {
        **{f"double_blocks.{i}.processor.qkv_lora{n}": (3 * WIDTH, WIDTH) for i in range(2) for n in (1, 2)},
        **{f"double_blocks.{i}.processor.proj_lora{n}": (WIDTH, WIDTH) for i in range(2) for n in (1, 2)},
        **{f"single_blocks.{i}.processor.qkv_lora": (3 * WIDTH, WIDTH) for i in range(2)},
        **{f"single_blocks.{i}.processor.proj_lora": (WIDTH, WIDTH + INNER) for i in range(2)},
    }
    for name, shape in shapes.items():
        tensors[f"{name}.down.weight"], tensors[f"{name}.up.weight"] = low_rank(shape, 3, generator)
    path = write_lora(tmp_path / "a.safetensors", tensors)
    _flux_pipe(theirs).load_lora_weights(path)
    _assert_same_flux(path, ours, theirs)


def test_diffusers_own_on_flux(tmp_path: Path) -> None:
    ours, theirs = _fluxes()
    config = peft.LoraConfig(
        r=3, lora_alpha=5, target_modules=["to_q", "add_k_proj", "to_add_out", "proj_mlp", "linear", "x_embedder"]
    )
    theirs.add_adapter(config)
    _randomise_adapter(theirs)
    metadata = {key: value for key, value in config.to_dict().items() if key in ("r", "lora_alpha")}
    diffusers.FluxPipeline.save_lora_weights(
        tmp_path, transformer_lora_layers=peft.get_peft_model_state_dict(theirs),
        transformer_lora_adapter_metadata=metadata,
    )  # fmt: skip
    assert "lora_adapter_metadata" in json.dumps(dict(read_lora(tmp_path).metadata))
    _assert_same_flux(tmp_path, ours, theirs)


def test_pefts_on_text_encoders(tmp_path: Path) -> None:
    ours, theirs = _clips(tmp_path / "clip", projection=True)
    config = peft.LoraConfig(r=3, lora_alpha=2, target_modules=["q_proj", "fc1", "text_projection"])
    theirs.add_adapter(config)
    _randomise_adapter(theirs)
    state = peft.get_peft_model_state_dict(theirs, adapter_name="default")
    diffusers.StableDiffusionXLPipeline.save_lora_weights(
        tmp_path, text_encoder_2_lora_layers=state,
        text_encoder_2_lora_adapter_metadata={"r": 3, "lora_alpha": 2},
    )  # fmt: skip
    with attach({"text_encoder_2": ours}, [LoraUse(read_lora(tmp_path))]):
        _assert_same_text(ours, theirs)
