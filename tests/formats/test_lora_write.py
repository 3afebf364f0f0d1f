"""Trained LoRAs written and read back: the file does what the live adapters did, and says what it is."""

import hashlib
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from safetensors.torch import save as to_bytes
from tests.formats.lora_files import bits, tiny_clip, tiny_flux, tiny_t5, tiny_unet
from torch import Tensor, nn

from wordbrush.errors import RequestError, WorkFailed
from wordbrush.formats import safetensors_file
from wordbrush.formats.inspect import inspect_model
from wordbrush.formats.lora import LoraUse, TrainingNotes, attach, read_lora, write_kohya, write_peft
from wordbrush.formats.lora.trained import TrainedLayer
from wordbrush.formats.safetensors_file import read_header
from wordbrush.networks.flux import image_positions, text_positions
from wordbrush.networks.unet import AddedConditioning
from wordbrush.training.adapters import AdapterConfig, Adapters

Networks = dict[str, nn.Module]


def _randn(*shape: int, seed: int = 1) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


IDS = torch.tensor([[1, 5, 7, 49, 49, 49, 49], [4, 3, 2, 1, 9, 8, 49]])
FAMILIES: dict[str, Callable[[], Networks]] = {
    "sd1": lambda: {"unet": tiny_unet(), "text_encoder": tiny_clip()},
    "sd2": lambda: {"unet": tiny_unet("sd1", use_linear_projection=True), "text_encoder": tiny_clip()},
    "sdxl": lambda: {
        "unet": tiny_unet("sdxl"), "text_encoder": tiny_clip(), "text_encoder_2": tiny_clip(projection=True, width=20),
    },
    "flux": lambda: {"transformer": tiny_flux(), "text_encoder": tiny_clip(), "text_encoder_2": tiny_t5()},
}  # fmt: skip
SETTINGS: dict[str, dict[str, Any]] = {
    "plain": {"rank": 3, "alpha": 2.0, "target": "attention"},
    "convolutions": {"rank": 4, "alpha": 2.0, "target": "conv", "conv_rank": 2, "conv_alpha": 3.0},
    "stabilised": {"rank": 4, "alpha": 3.0, "rank_stabilised": True, "target": "linear"},
    "dora": {"rank": 4, "dora": True, "target": "conv"},
    # of FLUX's stacked matrices, only some parts
    "some": {"rank": 3, "alpha": 2.0, "dora": True, "target": ("to_v", "to_k", "k_proj", "v_proj", "wo")},
}


@torch.no_grad()
def _outputs(networks: Networks) -> list[Tensor]:
    found = []
    if "transformer" in networks:
        places, words = image_positions(8, 6), text_positions(5)
        found.append(networks["transformer"](
            _randn(2, len(places), 8), torch.tensor([0.9, 0.2]), _randn(2, 5, 12, seed=2), pooled=_randn(2, 10, seed=3),
            positions_image=places, positions_text=words, guidance=torch.tensor([3.5, 1.0]),
        ))  # fmt: skip
        found.append(networks["text_encoder_2"](IDS.clamp(max=39)))
    else:
        width, added = 16, None
        if "text_encoder_2" in networks:
            width, sizes = 20, torch.tensor([[64.0, 48, 0, 8, 64, 64], [9, 9, 1, 2, 3, 4]])
            added = AddedConditioning(text_embeds=_randn(2, 10, seed=4), time_ids=sizes)
            found.append(networks["text_encoder_2"](IDS).last_hidden_state)
        x, context = _randn(2, 4, 8, 8), _randn(2, 5, width, seed=2)
        found.append(networks["unet"](x, torch.tensor([3.0, 801.5]), context, added=added))
    return [*found, networks["text_encoder"](IDS).last_hidden_state]


def adapted(networks: Networks, **settings: Any) -> Adapters:
    """Adapters as if trained."""
    adapters = Adapters.inject(networks, AdapterConfig(**settings), torch.Generator().manual_seed(0))
    for seed, (name, parameter) in enumerate(adapters.named_parameters()):
        noise = _randn(*parameter.shape, seed=seed)
        parameter.data = parameter.data * (1 + 0.1 * noise) if name.endswith("magnitude") else 0.2 * noise
    return adapters


USED = {
    "sd1": ("plain", "convolutions", "stabilised", "dora"),
    "sd2": ("stabilised", "dora"),
    "sdxl": ("convolutions", "dora"),
    "flux": ("plain", "stabilised", "dora", "some"),
}


@pytest.mark.parametrize("layout", ["kohya", "peft"])
@pytest.mark.parametrize(("family", "settings"), [(family, one) for family, used in USED.items() for one in used])
def test_the_file_does_what_the_adapters_did(family: str, settings: str, layout: str, tmp_path: Path) -> None:
    networks = FAMILIES[family]()
    weights = {name: bits(network) for name, network in networks.items()}
    before = _outputs(networks)
    adapters = adapted(networks, **SETTINGS[settings])
    expected = _outputs(networks)
    path = tmp_path / "a.safetensors"
    if layout == "kohya":
        write_kohya(path, adapters.trained(), networks)
    else:
        write_peft(path, adapters.trained())
    adapters.remove()
    with attach(networks, [LoraUse(read_lora(path))]) as attached:
        got = _outputs(networks)
        match = attached.matched[0]
        assert match.matched == match.total == len(read_header(path).tensors)
    for one, other, plain in zip(got, expected, before, strict=True):
        size = float(other.abs().max())
        torch.testing.assert_close(one, other, rtol=0, atol=3e-5 * size)
        assert (other - plain).abs().max() > 0.01 * size
    for name, network in networks.items():
        assert all(torch.equal(tensor, weights[name][key]) for key, tensor in network.state_dict().items())


def test_names_of_every_layout(tmp_path: Path) -> None:
    def layers(family: str, layout: str, *, only: str) -> set[str]:
        networks = FAMILIES[family]()
        trained = adapted(networks, rank=2, target="conv").trained()
        path = tmp_path / f"{family}.safetensors"
        write_kohya(path, trained, networks) if layout == "kohya" else write_peft(path, trained)
        names = {key.partition(".lora_")[0] for key in load_file(path) if ".lora_" in key}
        return {name for name in names if only in name}

    block = "transformer_blocks_0_attn1_to_out_0"
    assert f"lora_unet_down_blocks_0_attentions_0_{block}" in layers("sd1", "kohya", only="lora_unet")
    assert "lora_te_text_model_encoder_layers_0_self_attn_q_proj" in layers("sd1", "kohya", only="lora_te")
    xl = layers("sdxl", "kohya", only="lora_")
    assert {f"lora_unet_input_blocks_4_1_{block}", "lora_unet_input_blocks_1_0_emb_layers_1"} <= xl
    assert {f"lora_te{n}_text_model_encoder_layers_1_mlp_fc2" for n in (1, 2)} <= xl
    assert not any("_down_blocks_" in name or name.startswith("lora_te_") for name in xl)
    flux = layers("flux", "kohya", only="lora_")
    assert {"lora_unet_double_blocks_1_img_attn_qkv", "lora_unet_single_blocks_0_linear1"} <= flux
    assert {"lora_te1_text_model_encoder_layers_0_mlp_fc1", "lora_te3_encoder_block_0_layer_0_SelfAttention_q"} <= flux
    assert not any("to_q" in name or "proj_mlp" in name for name in flux)
    assert "unet.down_blocks.1.attentions.0.transformer_blocks.0.attn1.to_out.0" in layers("sdxl", "peft", only="unet")
    assert "text_encoder_2.text_model.encoder.layers.1.mlp.fc1" in layers("sdxl", "peft", only="text_encoder_2")
    assert "transformer.single_transformer_blocks.1.proj_mlp" in layers("flux", "peft", only="transformer.")


def test_a_stabilised_alpha_by_hand(tmp_path: Path) -> None:
    """3 / √4 is the scale: kohya's file says 6 of rank 4, PEFT's says 3 and a flag."""
    networks = FAMILIES["sd1"]()
    trained = adapted(networks, **SETTINGS["stabilised"]).trained()
    kohya = write_kohya(tmp_path / "a.safetensors", trained, networks)
    alphas = {float(tensor) for key, tensor in load_file(kohya).items() if key.endswith(".alpha")}
    assert alphas == {6.0}
    assert read_header(kohya).metadata["ss_network_alpha"] == "6"
    folder = tmp_path / "peft"
    peft = write_peft(folder, trained)
    assert peft == folder / "pytorch_lora_weights.safetensors"
    config = json.loads(read_header(peft).metadata["lora_adapter_metadata"])
    assert (config["unet.r"], config["unet.lora_alpha"], config["unet.use_rslora"]) == (4, 3, True)
    assert config["unet.use_dora"] is False
    assert config["unet.rank_pattern"] == config["unet.alpha_pattern"] == {}
    assert read_lora(folder).changes.keys() == read_lora(peft).changes.keys()


def test_a_stack_by_hand(tmp_path: Path) -> None:
    """Two of the three parts of a matrix, of other ranks and scales, are one adapter of both ranks."""
    flux = tiny_flux()
    name = "transformer_blocks.0.attn"
    query = TrainedLayer(down=torch.ones(1, 16), up=torch.full((16, 1), 2.0), alpha=3.0)  # scale 3
    value = TrainedLayer(down=torch.full((2, 16), 5.0), up=torch.full((16, 2), 7.0), alpha=1.0)  # scale 1/2
    trained = {"transformer": {f"{name}.to_q": query, f"{name}.to_v": value}}
    tensors = load_file(write_kohya(tmp_path / "a.safetensors", trained, {"transformer": flux}))
    start = "lora_unet_double_blocks_0_img_attn_qkv"
    assert set(tensors) == {f"{start}.lora_down.weight", f"{start}.lora_up.weight", f"{start}.alpha"}
    assert float(tensors[f"{start}.alpha"]) == 3.0  # of rank 3: the scales are in the ups
    assert tensors[f"{start}.lora_down.weight"][:, 0].tolist() == [1.0, 5.0, 5.0]
    up = tensors[f"{start}.lora_up.weight"]
    assert up.shape == (48, 3)
    assert up[0].tolist() == [6.0, 0.0, 0.0]
    assert up[16].tolist() == [0.0, 0.0, 0.0]
    assert up[32].tolist() == [0.0, 3.5, 3.5]


NOTES = TrainingNotes(
    name="robot", base_name="runwayml/sd-1-5", base_hash="ab" * 32, resolution=(512, 768), trigger="a sks robot",
    title="The robot", author="someone", licence="CC0-1.0", clip_skip=2, finished=1_700_000_000.5,
    tag_frequency={"10_robot": {"robot": 12, "café": 3}},
    settings={"seed": 7, "max_train_steps": 400, "unet_lr": 1e-4, "noise_offset": None},
)  # fmt: skip


def test_metadata(tmp_path: Path) -> None:
    networks: Networks = {"unet": tiny_unet("sd1", cross_attention_dim=768)}
    trained = adapted(networks, **SETTINGS["convolutions"]).trained()
    path = write_kohya(tmp_path / "robot.safetensors", trained, networks, NOTES, dtype=torch.float16)
    said = read_header(path).metadata
    expected = {
        "ss_output_name": "robot", "ss_base_model_version": "sd_v1", "ss_v2": "False", "ss_sd_model_name":
        "runwayml/sd-1-5", "ss_new_sd_model_hash": "ab" * 32, "ss_resolution": "(512, 768)", "ss_clip_skip": "2",
        "ss_network_module": "networks.lora", "ss_network_dim": "4", "ss_network_alpha": "2", "ss_seed": "7",
        "ss_max_train_steps": "400", "ss_unet_lr": "0.0001", "ss_training_finished_at": "1700000000.5",
        "modelspec.sai_model_spec": "1.0.1", "modelspec.architecture": "stable-diffusion-v1/lora",
        "modelspec.implementation": "diffusers", "modelspec.title": "The robot", "modelspec.resolution": "512x768",
        "modelspec.prediction_type": "epsilon", "modelspec.encoder_layer": "2", "modelspec.author": "someone",
        "modelspec.trigger_phrase": "a sks robot", "modelspec.license": "CC0-1.0",
        "modelspec.date": "2023-11-14T22:13:20",
    }  # fmt: skip
    assert {key: said.get(key) for key in expected} == expected
    assert json.loads(said["ss_network_args"]) == {"conv_dim": "2", "conv_alpha": "3"}
    assert json.loads(said["ss_tag_frequency"]) == NOTES.tag_frequency
    assert "ss_noise_offset" not in said
    whole = path.read_bytes()
    rest = whole[8 + int.from_bytes(whole[:8], "little") :]
    assert said["sshs_model_hash"] == hashlib.sha256(rest).hexdigest()
    assert said["modelspec.hash_sha256"] == "0x" + said["sshs_model_hash"]
    shown = inspect_model(path)
    assert (shown["kind"], shown["base"], shown["ranks"], shown["alphas"]) == ("lora", "sd1", "2, 4", "2, 3")
    assert (shown["dialect"], shown["rules"]) == ("kohya", "LoRA")
    assert shown["hashes"]["lora"] == said["sshs_model_hash"][:12]


def test_the_legacy_hash_is_of_a_file_with_kohyas_entries_alone(tmp_path: Path) -> None:
    networks: Networks = {"unet": tiny_unet("sd1", block_out_channels=(64, 128, 128))}
    trained = adapted(networks, rank=16, target="conv").trained()
    path = write_kohya(tmp_path / "a.safetensors", trained, networks, NOTES)
    said = read_header(path).metadata
    kept = {key: value for key, value in said.items() if key.startswith("ss_")}
    data = to_bytes(load_file(path), metadata=kept)
    assert len(data) > 0x110000
    assert said["sshs_legacy_hash"] == hashlib.sha256(data[0x100000 : 0x100000 + 0x10000]).hexdigest()[:8]


@pytest.mark.parametrize(
    ("family", "prediction", "version", "architecture"),
    [
        ("sd2", "v", "sd_v2_v", "stable-diffusion-v2-768-v/lora"),
        ("sd2", "epsilon", "sd_v2", "stable-diffusion-v2-512/lora"),
        ("sdxl", "epsilon", "sdxl_base_v1-0", "stable-diffusion-xl-v1-base/lora"),
        ("flux", "flow", "flux1", "flux-1-dev/lora"),
    ],
)
@pytest.mark.parametrize("layout", ["kohya", "peft"])
def test_what_is_said_of_the_base(
    family: str, prediction: str, version: str, architecture: str, layout: str, tmp_path: Path
) -> None:
    networks = FAMILIES[family]()
    notes = TrainingNotes(name="a", base=family, prediction=prediction)
    trained = adapted(networks, **SETTINGS["dora"]).trained()
    if layout == "kohya":
        path = write_kohya(tmp_path / "a.safetensors", trained, networks, notes)
        assert read_header(path).metadata["ss_base_model_version"] == version
        assert read_header(path).metadata["ss_v2"] == str(family == "sd2")
    else:
        path = write_peft(tmp_path / "a.safetensors", trained, notes)
    assert read_header(path).metadata["modelspec.architecture"] == architecture
    assert ("modelspec.prediction_type" in read_header(path).metadata) == (family != "flux")
    shown = inspect_model(path)
    assert shown["base"] == family or (layout == "peft" and family == "sd2")  # the tiny ones' widths tell nothing
    assert shown["rules"] == "DoRA"


def test_a_file_appears_whole_or_not_at_all(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    networks = FAMILIES["sd1"]()
    trained = adapted(networks, **SETTINGS["plain"]).trained()
    path = write_kohya(tmp_path / "a.safetensors", trained, networks)
    before = path.read_bytes()
    assert write_kohya(path, trained, networks).read_bytes() == before
    assert [file.name for file in tmp_path.iterdir()] == ["a.safetensors"]

    def full(path: Path, *rest: Any) -> None:
        path.write_bytes(b"half of it")
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("wordbrush.formats.lora.write.write_tensors", full)
    for write in (lambda: write_kohya(path, trained, networks), lambda: write_peft(path, trained)):
        with pytest.raises(WorkFailed, match=r"cannot write '.*a\.safetensors': No space left on device"):
            write()
    assert path.read_bytes() == before
    assert [file.name for file in tmp_path.iterdir()] == ["a.safetensors"]
    assert safetensors_file.read_header(path).tensors


def test_what_cannot_be_written(tmp_path: Path) -> None:
    networks = FAMILIES["sd1"]()
    adapters = adapted(networks, **SETTINGS["plain"])
    with pytest.raises(RequestError, match=r"written as a \.safetensors file, not as 'a\.pt'"):
        write_kohya(tmp_path / "a.pt", adapters.trained(), networks)
    with pytest.raises(RequestError, match="no layer was trained"):
        write_peft(tmp_path, {"unet": {}})
    with pytest.raises(ValueError, match="the base 'sd15' is unknown; there are sd1, sd2"):
        TrainingNotes(name="a", base="sd15")
    next(adapters.parameters()).data.fill_(float("nan"))
    with pytest.raises(WorkFailed, match=r"a\.safetensors was not written: its lora_unet_.*lora_down\.weight holds"):
        write_kohya(tmp_path / "a.safetensors", adapters.trained(), networks)
    assert not list(tmp_path.iterdir())
