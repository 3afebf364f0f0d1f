"""What a file or folder is, from its headers alone."""

from __future__ import annotations

import base64
import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Mapping
from pathlib import Path

import pytest
import torch
from PIL import Image
from PIL.PngImagePlugin import PngInfo
from safetensors.torch import save_file

import wordbrush
from wordbrush.errors import ModelFileError
from wordbrush.formats import hashes
from wordbrush.formats.diffusers_folder import read_folder
from wordbrush.formats.inspect import hashed_file, inspect_folder, inspect_model
from wordbrush.formats.single_file.configs import TEXT_ENCODERS, TRANSFORMERS, UNETS, VAES
from wordbrush.formats.single_file.keymap import KeyMap
from wordbrush.formats.single_file.names_clip import open_clip_names
from wordbrush.formats.single_file.names_flux import flux_names
from wordbrush.formats.single_file.names_unet import unet_names
from wordbrush.formats.single_file.names_vae import vae_names
from wordbrush.networks.clip import CLIPTextConfig, CLIPTextModel
from wordbrush.networks.flux import FluxConfig, FluxTransformer
from wordbrush.networks.unet import UNet, UNetConfig
from wordbrush.networks.vae import AutoencoderKL, AutoencoderKLConfig

Shapes = dict[str, tuple[int, ...]]

BYTES = {"F16": 2, "F32": 4, "BF16": 2, "F8_E4M3": 1, "I64": 8}


def sparse(path: Path, shapes: Shapes, dtype: str = "F16", metadata: Mapping[str, str] | None = None) -> Path:
    """A .safetensors file with a true header and a hole in place of the weights."""
    header: dict[str, object] = {"__metadata__": dict(metadata or {})}
    place = 0
    for name, shape in shapes.items():
        size = BYTES[dtype]
        for number in shape:
            size *= number
        header[name] = {"dtype": dtype, "shape": list(shape), "data_offsets": [place, place + size]}
        place += size
    text = json.dumps(header).encode()
    path.write_bytes(len(text).to_bytes(8, "little") + text)
    os.truncate(path, 8 + len(text) + place)
    return path


def shapes_of(network: torch.nn.Module) -> Shapes:
    return {name: tuple(tensor.shape) for name, tensor in network.state_dict().items()}


def under(prefix: str, shapes: Shapes) -> Shapes:
    return {prefix + name: shape for name, shape in shapes.items()}


def unet(family: str, **changes: object) -> Shapes:
    with torch.device("meta"):
        network = UNet(UNetConfig.from_dict(UNETS[family] | changes))
    names = KeyMap(unet_names(network.config), shapes_of(network))
    return under("model.diffusion_model.", names.original_shapes())


def vae(family: str) -> Shapes:
    with torch.device("meta"):
        network = AutoencoderKL(AutoencoderKLConfig.from_dict(VAES[family]))
    return KeyMap(vae_names(network.config), shapes_of(network)).original_shapes()


def clip(family: str, part: str = "text_encoder", *, open_clip: bool = False) -> Shapes:
    config = CLIPTextConfig.from_dict(TEXT_ENCODERS[family][part])
    with torch.device("meta"):
        network = CLIPTextModel(config, projection=open_clip)
    shapes = shapes_of(network)
    return KeyMap(open_clip_names(config, projection=True), shapes).original_shapes() if open_clip else shapes


def flux(family: str) -> Shapes:
    config = FluxConfig.from_dict(TRANSFORMERS[family])
    with torch.device("meta"):
        network = FluxTransformer(config)
    return KeyMap(flux_names(config), shapes_of(network)).original_shapes()


@pytest.fixture(scope="module")
def sdxl() -> Shapes:
    return {
        **unet("sdxl"),
        **under("first_stage_model.", vae("sdxl")),
        **under("conditioner.embedders.0.transformer.", clip("sdxl")),
        **under("conditioner.embedders.1.model.", clip("sdxl", "text_encoder_2", open_clip=True)),
    }


def test_a_folder_says_what_loading_finds(tiny_v_folder: Path) -> None:
    content = json.loads(json.dumps(inspect_model(tiny_v_folder)))
    counted = sum(parameter.numel() for parameter in read_folder(tiny_v_folder).denoiser.parameters())
    assert content["parts"]["unet"]["parameters"] == counted
    assert content["parts"]["unet"]["dtypes"] == content["dtypes"] == "F32"
    assert (content["prediction_type"], content["native_size"], content["latent_channels"]) == ("v_prediction", 32, 4)
    assert (content["kind"], content["family"], content["variant"]) == ("checkpoint", "sd1", "base")
    assert content["bytes"] == 4 * content["parameters"]


def test_what_is_no_model_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ModelFileError, match=r"model_index\.json"):
        inspect_model(tmp_path)
    with pytest.raises(ModelFileError, match="no model folder"):
        inspect_folder(tmp_path / "none")
    with pytest.raises(ModelFileError, match="there is no file"):
        inspect_model(tmp_path / "none")
    (tmp_path / "text.safetensors").write_text("not a model", encoding="utf-8")
    with pytest.raises(ModelFileError, match=r"text\.safetensors is not a safetensors file"):
        inspect_model(tmp_path / "text.safetensors")


@pytest.mark.parametrize(
    ("part", "config"),
    [
        ("vae", {"block_out_channels": 7, "latent_channels": "x"}),
        ("vae", {"block_out_channels": [], "latent_channels": [4]}),
        ("unet", {"sample_size": [1, 2], "in_channels": {}}),
    ],
)
def test_a_config_may_hold_anything(
    tmp_path: Path, tiny_sd_folder: Path, part: str, config: dict[str, object]
) -> None:
    folder = shutil.copytree(tiny_sd_folder, tmp_path / "model")
    (folder / part / "config.json").write_text(json.dumps(config))
    content = inspect_model(folder)
    assert (content["family"], content["variant"]) == ("sd1", "base")
    assert isinstance(content.get("native_size"), int | None)


def test_the_embedded_models_card_gives_its_licence() -> None:
    content = inspect_model(Path(wordbrush.__file__).parent / "models" / "scenes-128")
    assert (content["license"], content["format"]) == ("apache-2.0", "diffusers folder")


def test_seven_gigabytes_of_sdxl_in_half_a_second(tmp_path: Path, sdxl: Shapes) -> None:
    path = sparse(tmp_path / "xl.safetensors", sdxl)
    assert path.stat().st_size > 6_900_000_000
    inspect_model(path)  # imports
    started = time.process_time()
    content = inspect_model(path)
    assert time.process_time() - started < 0.5
    assert (content["family"], content["variant"], content["layout"]) == ("sdxl", "base", "sgm")
    assert content["parts"]["unet"]["parameters"] == 2_567_463_684
    assert content["parts"]["vae"]["parameters"] == 83_653_863
    assert content["parts"]["text_encoder"]["parameters"] == 123_060_480
    assert content["parts"]["text_encoder_2"]["parameters"] == 694_659_840
    assert content["parameters"] == 2_567_463_684 + 83_653_863 + 123_060_480 + 694_659_840
    assert (content["prediction_type"], content["native_size"], content["dtypes"]) == ("epsilon", 1024, "F16")
    assert content["license"] == "not stated; that of the family is CreativeML Open RAIL++-M"
    assert content["hashes"]["a1111"] is None
    assert "missing" not in content


def test_inspecting_a_file_or_folder_never_imports_torch(tmp_path: Path, tiny_sd_folder: Path, sdxl: Shapes) -> None:
    paths = [sparse(tmp_path / "xl.safetensors", sdxl), lora_file(tmp_path / "lora.safetensors"), tiny_sd_folder]
    program = (
        "import sys; from pathlib import Path\n"
        "from wordbrush.cli.app import make_app\n"
        "make_app()(['models', 'inspect', sys.argv[1]], standalone_mode=False)\n"
        "sys.exit(9 if 'torch' in sys.modules else 0)"
    )
    environment = {**os.environ, "PYTHONPATH": str(Path(wordbrush.__file__).parents[1])}
    for path in paths:
        done = subprocess.run(
            [sys.executable, "-c", program, str(path)], env=environment, capture_output=True, text=True, check=False
        )
        assert (done.returncode, done.stderr) == (0, "note: the hashes are not known yet; --hash computes them\n")


def test_stable_diffusion_1_with_its_schedule_and_average(tmp_path: Path) -> None:
    shapes = {
        **unet("sd1"),
        **under("first_stage_model.", vae("sd1")),
        **under("cond_stage_model.transformer.", clip("sd1")),
        "betas": (1000,),
        "model_ema.decay": (),
    }
    metadata = {"modelspec.license": "CreativeML Open RAIL-M", "modelspec.title": "Mine", "modelspec.author": "me"}
    content = inspect_model(sparse(tmp_path / "sd.safetensors", shapes, "F32", metadata))
    assert (content["family"], content["layout"], content["prediction_type"]) == ("sd1", "ldm", "epsilon")
    assert content["parts"]["unet"]["parameters"] == 859_520_964
    assert content["parts"]["other"]["parameters"] == 1001
    assert content["parameters"] == 859_520_964 + 83_653_863 + 123_060_480
    assert content["license"] == "CreativeML Open RAIL-M"
    assert content["about"] == {"title": "Mine", "author": "me"}


@pytest.mark.parametrize(
    ("channels", "variant"), [(4, "base"), (9, "inpaint"), (8, "instruct-pix2pix")], ids=["base", "inpaint", "edit"]
)
def test_variants_and_what_a_bare_network_lacks(tmp_path: Path, channels: int, variant: str) -> None:
    content = inspect_model(sparse(tmp_path / "x.safetensors", unet("sd1", in_channels=channels)))
    assert (content["variant"], content["missing"]) == (variant, "vae, text_encoder")


def test_a_flux_network_alone_in_eight_bits(tmp_path: Path) -> None:
    content = inspect_model(sparse(tmp_path / "flux.safetensors", flux("flux-dev"), "F8_E4M3"))
    assert (content["family"], content["layout"], content["quantisation"]) == ("flux-dev", "bfl", "fp8")
    assert (content["prediction_type"], content["parameters"]) == ("flow_prediction", 11_901_408_320)
    assert content["missing"] == "vae, text_encoder, text_encoder_2"
    assert content["license"].endswith("FLUX.1 [dev] Non-Commercial")


def lora_file(path: Path, **metadata: str) -> Path:
    tensors = {}
    for layer in ("lora_unet_mid_block_attentions_0_transformer_blocks_0_attn2_to_k", "lora_te_text_model_encoder"):
        tensors |= {
            f"{layer}.lora_down.weight": torch.zeros(8, 768, dtype=torch.bfloat16),
            f"{layer}.lora_up.weight": torch.zeros(1280, 8, dtype=torch.bfloat16),
            f"{layer}.alpha": torch.tensor(4.0, dtype=torch.bfloat16),
        }
    save_file(tensors, path, metadata=metadata)
    return path


def test_a_lora_says_for_what_it_is_and_how_it_was_trained(tmp_path: Path) -> None:
    tags = {"folder": {"fox": 3, "red": 9}, "other": {"fox": 8}}
    path = lora_file(
        tmp_path / "x.safetensors", ss_network_dim="8", ss_learning_rate="0.0001", ss_clip_skip="None",
        ss_tag_frequency=json.dumps(tags), ss_output_name="foxes", sshs_model_hash="ab" * 32,
    )  # fmt: skip
    content = inspect_model(path)
    assert (content["kind"], content["base"], content["dialect"]) == ("lora", "sd1", "kohya")
    assert (content["ranks"], content["alphas"], content["layers"]) == ("8", "4", 2)
    assert content["changes"] == "text_encoder, unet"
    assert content["training"] == {
        "output_name": "foxes", "network_dim": "8", "learning_rate": "0.0001", "most_frequent_tags": "fox, red",
    }  # fmt: skip
    assert content["hashes"]["lora"] == "abababababab"
    assert content["metadata"]["ss_tag_frequency"] == json.dumps(tags)


def test_alphas_of_a_peft_file_are_in_its_metadata(tmp_path: Path) -> None:
    tensors = {
        "unet.mid_block.attentions.0.proj_in.lora_A.weight": torch.zeros(4, 1280),
        "unet.mid_block.attentions.0.proj_in.lora_B.weight": torch.zeros(1280, 4),
    }
    path = tmp_path / "pytorch_lora_weights.safetensors"
    save_file(tensors, path, metadata={"lora_adapter_metadata": json.dumps({"unet.lora_alpha": 16, "unet.r": 4})})
    for place in (path, tmp_path):
        content = inspect_model(place)
        assert (content["dialect"], content["ranks"], content["alphas"]) == ("diffusers (PEFT)", "4", "16")
    save_file(tensors, path, metadata={"lora_adapter_metadata": "[]"})
    assert "alphas" not in inspect_model(path)


@pytest.mark.parametrize(
    ("tensors", "said"),
    [
        ({"emb_params": (4, 768)}, {"kind": "embedding", "vectors": 4, "widths": "768"}),
        ({"clip_l": (2, 768), "clip_g": (2, 1280)}, {"kind": "embedding", "vectors": 2, "widths": "768, 1280"}),
        ({"body.0.rdb1.conv1.weight": (1,), "conv_first.weight": (64, 3, 3, 3)}, {"kind": "upscaler"}),
        ({"joint_blocks.0.context_block.adaLN_modulation.1.weight": (1,)}, {"kind": "checkpoint"}),
        ({"weight": (3, 3, 3)}, {"kind": "unknown"}),
    ],
    ids=["kohya", "sdxl", "upscaler", "sd3", "unknown"],
)
def test_other_files(tmp_path: Path, tensors: Shapes, said: dict[str, object]) -> None:
    content = inspect_model(sparse(tmp_path / "x.safetensors", tensors))
    assert {key: content.get(key) for key in said} == said
    assert "family" not in content


def test_a_vae_and_text_encoders_alone(tmp_path: Path) -> None:
    content = inspect_model(sparse(tmp_path / "vae.safetensors", vae("flux-dev")))
    assert (content["kind"], content["parameters"]) == ("vae", 83_819_683)
    content = inspect_model(sparse(tmp_path / "clip_l.safetensors", clip("sd1")))
    assert (content["kind"], content["encoder"]) == ("text_encoder", "CLIP ViT-L/14")
    bigg = clip("sdxl", "text_encoder_2", open_clip=True)
    assert inspect_model(sparse(tmp_path / "g.safetensors", bigg))["encoder"] == "OpenCLIP ViT-bigG/14"


def test_the_folder_of_one_network(tiny_sd_folder: Path) -> None:
    content = inspect_model(tiny_sd_folder / "vae")
    assert (content["kind"], content["class"], content["dtypes"]) == ("vae", "AutoencoderKL", "F32")
    assert content["parameters"] == inspect_model(tiny_sd_folder)["parts"]["vae"]["parameters"]
    assert inspect_model(tiny_sd_folder / "text_encoder")["kind"] == "text_encoder"
    assert hashed_file(tiny_sd_folder / "vae") is None


def test_an_embedding_in_a_picture(tmp_path: Path) -> None:
    info = PngInfo()
    vectors = {"string_to_param": {"*": {"TORCHTENSOR": [[0.5] * 768] * 2}}}
    info.add_text("sd-ti-embedding", base64.b64encode(json.dumps(vectors).encode()).decode())
    Image.new("RGB", (8, 8)).save(tmp_path / "word.png", pnginfo=info)
    content = inspect_model(tmp_path / "word.png")
    assert (content["kind"], content["vectors"], content["widths"]) == ("embedding", 2, "768")


def test_a_pickle_is_told_from_its_description(tmp_path: Path) -> None:
    small = {name: torch.zeros(shape[0], *[1] * (len(shape) - 1)) for name, shape in vae("sd1").items()}
    torch.save({"state_dict": small, "global_step": 5}, tmp_path / "old.vae.pt")
    content = inspect_model(tmp_path / "old.vae.pt")
    assert (content["kind"], content["format"], content["dtypes"]) == ("vae", "pickle", "F32")
    assert content["metadata"]["global_step"] == "5"


def test_hashes_are_told_once_they_are_known(tmp_path: Path, tiny_sd_folder: Path) -> None:
    path = lora_file(tmp_path / "x.safetensors")
    sha256 = hashes.file_sha256(path)
    assert inspect_model(path)["hashes"] | {"legacy": None} == {
        "a1111": sha256[:10], "autov2": sha256[:10].upper(), "sha256": sha256, "legacy": None, "lora": None,
    }  # fmt: skip
    assert hashed_file(path) == path
    file = hashed_file(tiny_sd_folder)
    assert file == tiny_sd_folder / "unet" / "diffusion_pytorch_model.safetensors"
