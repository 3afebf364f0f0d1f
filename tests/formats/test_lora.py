"""Attaching and detaching LoRAs: sums, strengths, exactness, precision, and files that do not fit."""

import hashlib
import random
import re
from pathlib import Path

import pytest
import torch
from tests.formats.lora_files import (
    assert_changed,
    bits,
    changed,
    kohya,
    layers,
    product,
    tiny_clip,
    tiny_flux,
    tiny_unet,
    write,
)
from torch import Tensor, nn

from wordbrush.errors import ModelFileError, RequestError
from wordbrush.formats.lora import LoraFile, LoraUse, attach, read_lora, summarise

ENDS = ("to_q", "to_out.0", "proj_in", "conv1", "ff.net.2")


Tensors = dict[str, Tensor]


def _file(path: Path, network: nn.Module, prefix: str = "lora_unet", seed: int = 1) -> tuple[LoraFile, Tensors]:
    tensors = kohya(prefix, layers(network, *ENDS, "q_proj", "fc1"), seed=seed)
    return read_lora(write(path, tensors)), tensors


def _amounts(tensors: Tensors, network: nn.Module, strength: float, prefix: str = "lora_unet") -> Tensors:
    """strength · alpha / rank · up · down, by the names of the weights; alpha is 1 and the rank 2."""
    names = layers(network, *ENDS, "q_proj", "fc1")
    return {f"{name}.weight": product(tensors, f"{prefix}_{name.replace('.', '_')}", strength / 2) for name in names}


def _same(network: nn.Module, before: Tensors) -> bool:
    return changed(network, before) == {}


def test_strengths_of_denoiser_and_text_encoder_are_apart(tmp_path: Path) -> None:
    unet, text = tiny_unet(), tiny_clip()
    _, for_unet = _file(tmp_path / "u.safetensors", unet)
    _, for_text = _file(tmp_path / "t.safetensors", text, "lora_te", seed=2)
    file = read_lora(write(tmp_path / "both.safetensors", {**for_unet, **for_text}))
    networks = {"unet": unet, "text_encoder": text}
    before = {name: bits(network) for name, network in networks.items()}
    with attach(networks, [LoraUse(file, unet=0.75, text=-0.5)]) as attached:
        total = len(for_unet) + len(for_text)
        assert str(attached.matched[0]) == f"matched {total} of {total} keys"
        assert attached.matched[0].file is file
        assert_changed(unet, before["unet"], _amounts(for_unet, unet, 0.75))
        assert_changed(text, before["text_encoder"], _amounts(for_text, text, -0.5, "lora_te"))
    with attach(networks, [LoraUse(file, unet=0.0)]):
        assert _same(unet, before["unet"])  # strength 0 leaves the very bits
        assert not _same(text, before["text_encoder"])
    assert _same(unet, before["unet"])
    assert _same(text, before["text_encoder"])


def test_several_loras_add_up_in_any_order(tmp_path: Path) -> None:
    unet = tiny_unet()
    first, one = _file(tmp_path / "1.safetensors", unet, seed=1)
    second, two = _file(tmp_path / "2.safetensors", unet, seed=2)
    before = bits(unet)
    sums = {
        name: amount + _amounts(two, unet, -0.25)[name] for name, amount in _amounts(one, unet, 0.5).items()
    }
    with attach({"unet": unet}, [LoraUse(first, 0.5), LoraUse(second, -0.25)]) as attached:
        assert len(attached.matched) == 2
        assert_changed(unet, before, sums)
    with attach({"unet": unet}, [LoraUse(second, -0.25), LoraUse(first, 0.5)]):
        assert_changed(unet, before, sums)
    with attach({"unet": unet}, [LoraUse(first, 0.25), LoraUse(second, -0.25), LoraUse(first, 0.25)]):
        assert_changed(unet, before, sums)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16, torch.float64])
def test_detaching_leaves_the_same_bits(dtype: torch.dtype, tmp_path: Path) -> None:
    unet = tiny_unet().to(dtype).to(memory_format=torch.channels_last)
    file, tensors = _file(tmp_path / "a.safetensors", unet)
    before, pointers = bits(unet), {name: value.data_ptr() for name, value in unet.named_parameters()}
    seen = []
    for strength in (1.0, 0.3, -2.0, 1.0):
        attached = attach({"unet": unet}, [LoraUse(file, strength)])
        seen.append(bits(unet))
        assert unet.conv_in.weight.dtype == dtype
        assert unet.down_blocks[0].resnets[0].conv1.weight.is_contiguous(memory_format=torch.channels_last)
        attached.detach()
        attached.detach()  # the second time does nothing
        assert _same(unet, before)
    assert {name: value.data_ptr() for name, value in unet.named_parameters()} == pointers  # not even a copy
    assert all(torch.equal(seen[0][name], seen[3][name]) for name in before)
    for name, amount in _amounts(tensors, unet, 1.0).items():  # the sum is rounded once
        exact = before[name].double() + amount
        torch.testing.assert_close(seen[0][name].double(), exact, atol=1e-6, rtol=torch.finfo(dtype).eps / 1.9)


def test_what_was_computed_before_still_holds_while_attached(tmp_path: Path) -> None:
    """A network on other memory or in another precision detaches to its originals there."""
    unet = tiny_unet()
    file, _ = _file(tmp_path / "a.safetensors", unet)
    before = bits(unet)
    attached = attach({"unet": unet}, [LoraUse(file)])
    unet.bfloat16()
    attached.detach()
    assert all(torch.equal(value, before[name].bfloat16()) for name, value in unet.state_dict().items())


def test_a_network_has_one_set_of_loras_at_a_time(tmp_path: Path) -> None:
    unet, text = tiny_unet(), tiny_clip()
    file, _ = _file(tmp_path / "a.safetensors", unet)
    before = bits(unet)
    attached = attach({"unet": unet}, [LoraUse(file)])
    with pytest.raises(ValueError, match="detach them first"):
        attach({"text_encoder": text, "unet": unet}, [LoraUse(file)])
    attached.detach()
    attach({"text_encoder": text, "unet": unet}, [LoraUse(file)]).detach()
    assert _same(unet, before)


def test_other_networks_of_the_model_are_left_alone(tmp_path: Path) -> None:
    unet = tiny_unet()
    file, _ = _file(tmp_path / "a.safetensors", unet)
    vae = nn.Linear(3, 3)
    with attach({"unet": unet, "vae": vae}, [LoraUse(file)]):
        assert not hasattr(vae, "attached_loras")


def _refused(networks: dict[str, nn.Module], uses: list[LoraUse]) -> str:
    before = {name: bits(network) for name, network in networks.items()}
    with pytest.raises(ModelFileError) as caught:
        attach(networks, uses)
    assert all(_same(network, before[name]) for name, network in networks.items())
    assert not any(hasattr(network, "attached_loras") for network in networks.values())
    return str(caught.value)


def test_a_partial_match_is_an_error_that_lists_what_did_not_match(tmp_path: Path) -> None:
    unet = tiny_unet()
    _, tensors = _file(tmp_path / "a.safetensors", unet)
    good, _ = _file(tmp_path / "good.safetensors", unet, seed=4)
    lost = [key for key in tensors if "up_blocks_2_attentions_1" in key]
    renamed = {key.replace("up_blocks_2_attentions_1", "up_blocks_2_attentions_9"): t for key, t in tensors.items()}
    path = write(tmp_path / "b.safetensors", renamed)
    message = _refused({"unet": unet}, [LoraUse(good), LoraUse(read_lora(path))])
    assert str(path) in message
    assert f"matched {len(tensors) - len(lost)} of {len(tensors)} keys" in message
    assert "lora_unet_up_blocks_2_attentions_9_proj_in." in message
    assert f"and {len(lost) - 3} more" in message


def test_a_lora_for_no_layer_at_all_is_an_error(tmp_path: Path) -> None:
    unet = tiny_unet()
    file, tensors = _file(tmp_path / "a.safetensors", unet)
    assert f"matched 0 of {len(tensors)} keys" in _refused({"transformer": tiny_flux()}, [LoraUse(file)])
    assert _refused({"unet": unet, "text_encoder": tiny_clip()}, [
        LoraUse(_file(tmp_path / "t.safetensors", tiny_clip(), "lora_te2")[0])
    ]).count("this model has no second text encoder") == 1  # fmt: skip


def test_unknown_kinds_are_an_error(tmp_path: Path) -> None:
    unet = tiny_unet()
    _, tensors = _file(tmp_path / "a.safetensors", unet)
    key = "lora_unet_mid_block_attentions_0_proj_in.oft_blocks"
    path = write(tmp_path / "b.safetensors", {**tensors, key: torch.zeros(2, 4, 4)})
    message = _refused({"unet": unet}, [LoraUse(read_lora(path))])
    assert key in message
    assert f"matched {len(tensors)} of {len(tensors) + 1} keys" in message


def test_layers_of_another_size_are_an_error(tmp_path: Path) -> None:
    file, _ = _file(tmp_path / "a.safetensors", tiny_unet(cross_attention_dim=24))
    attach({"unet": tiny_unet()}, [LoraUse(file)]).detach()  # it touches nothing that reads the text
    tensors = kohya("lora_unet", layers(tiny_unet(cross_attention_dim=24), "attn2.to_k"))
    path = write(tmp_path / "b.safetensors", tensors)
    message = _refused({"unet": tiny_unet()}, [LoraUse(read_lora(path))])
    assert "11 of 11 layers are of another size" in message
    assert re.search(r"it makes (8|12) × 24 numbers, the layer has \1 × 16", message)


@pytest.mark.parametrize(
    ("width", "made_for", "metadata", "sentence"),
    [
        (768, 2048, {}, "it was made for Stable Diffusion XL, this model is Stable Diffusion 1"),
        (2048, 768, {}, "it was made for Stable Diffusion 1, this model is Stable Diffusion XL"),
        (1024, 768, {}, "it was made for Stable Diffusion 1, this model is Stable Diffusion 2"),
        (16, 24, {"ss_base_model_version": "sdxl_base_v1-0"}, "it was made for Stable Diffusion XL; 11 of 22 layers"),
        (16, 24, {"modelspec.architecture": "flux-1-dev/lora"}, "it was made for FLUX.1; 11 of 22 layers"),
    ],
)
def test_a_lora_for_another_base_says_so(
    width: int, made_for: int, metadata: dict[str, str], sentence: str, tmp_path: Path
) -> None:
    shapes = layers(tiny_unet(cross_attention_dim=made_for), "attn2.to_k", "attn2.to_q")
    file = read_lora(write(tmp_path / "a.safetensors", kohya("lora_unet", shapes), **metadata))
    message = _refused({"unet": tiny_unet(cross_attention_dim=width)}, [LoraUse(file)])
    assert message.startswith(f"the LoRA {file.path} does not fit this model: {sentence}")
    assert "the layer has" in message
    assert message.endswith("and 10 more; use a LoRA made for this model")
    assert len(message) < 400 + len(str(file.path))


def test_a_lora_for_another_base_names_few_of_its_keys(tmp_path: Path) -> None:
    shapes = {f"transformer.single_transformer_blocks.{index}.attn.to_q": (8, 8) for index in range(38)}
    file = read_lora(write(tmp_path / "a.safetensors", kohya("lora", shapes)))
    message = _refused({"unet": tiny_unet(cross_attention_dim=768)}, [LoraUse(file)])
    start = "it was made for FLUX.1, this model is Stable Diffusion 1; matched 0 of 114 keys, no place for lora_"
    assert start in message
    assert " and 113 more; use" in message


def test_two_changes_of_one_layer_in_one_file_are_an_error(tmp_path: Path) -> None:
    tensors = {
        **kohya("lora_unet", {"down_blocks.1.attentions.0.proj_in": (12, 12)}),
        **kohya("lora_unet", {"input_blocks.4.1.proj_in": (12, 12)}, seed=2),
    }
    file = read_lora(write(tmp_path / "a.safetensors", tensors))
    message = _refused({"unet": tiny_unet("sdxl")}, [LoraUse(file)])
    assert "changes one layer in two ways" in message
    twice = {f"lora_unet_conv_in.lora_{side}.weight": torch.zeros(1, 2) for side in ("down", "A")}
    with pytest.raises(ModelFileError, match="a second time"):
        read_lora(write(tmp_path / "b.safetensors", twice))


def test_a_bias_for_a_layer_without_one_is_an_error(tmp_path: Path) -> None:
    name = "lora_unet_down_blocks_0_attentions_0_transformer_blocks_0_attn1_to_q"
    file = read_lora(write(tmp_path / "a.safetensors", {f"{name}.diff_b": torch.zeros(8)}))
    assert "the bias of a layer that has none" in _refused({"unet": tiny_unet()}, [LoraUse(file)])
    file = read_lora(write(tmp_path / "b.safetensors", {"lora_unet_conv_in.diff_b": torch.zeros(9)}))
    assert "9 biases, the layer has 8" in _refused({"unet": tiny_unet()}, [LoraUse(file)])


@pytest.mark.parametrize("value", [torch.nan, torch.inf])
def test_numbers_that_are_none_are_an_error(value: float, tmp_path: Path) -> None:
    unet = tiny_unet()
    good, tensors = _file(tmp_path / "a.safetensors", unet)
    key = "lora_unet_mid_block_attentions_0_proj_in.lora_up.weight"
    tensors[key] = tensors[key].clone()
    tensors[key][0, 0] = value
    path = write(tmp_path / "b.safetensors", tensors)
    message = _refused({"unet": unet}, [LoraUse(good), LoraUse(read_lora(path))])
    assert message.startswith(f"{path} is damaged: its layer lora_unet_mid_block_attentions_0_proj_in holds")


def test_a_strength_beyond_the_precision_is_an_error(tmp_path: Path) -> None:
    unet = tiny_unet().half()
    file, _ = _file(tmp_path / "a.safetensors", unet)
    before = bits(unet)
    with pytest.raises(RequestError, match=r"a at 1e\+06 bring .* out of the range of torch.float16"):
        attach({"unet": unet}, [LoraUse(file, unet=1e6)])
    assert _same(unet, before)


def test_files_that_are_no_loras(tmp_path: Path) -> None:
    with pytest.raises(ModelFileError, match="is missing"):
        read_lora(tmp_path / "none.safetensors")
    with pytest.raises(ModelFileError, match="holds no LoRA"):
        read_lora(tmp_path)
    with pytest.raises(ModelFileError, match="is not a LoRA: model"):
        read_lora(write(tmp_path / "a.safetensors", {"model.weight": torch.zeros(2)}))
    for name, kind in (
        ("lora_unet_mid.oft_blocks", "an OFT LoRA"), ("unet.mid.oft_R.default.weight", "an OFT LoRA"),
        ("base_model.model.mid.ia3_l", "an IA3 adapter"), ("lora_unet_mid.on_input", "an IA3 adapter"),
    ):  # fmt: skip
        tensors = {"lora_unet_mid.alpha": torch.ones(()), "lora_unet_mid.weight": torch.ones(4), name: torch.ones(4)}
        with pytest.raises(ModelFileError, match=f"other.safetensors is {kind}, which this version does not apply"):
            read_lora(write(tmp_path / "other.safetensors", tensors))
    with pytest.raises(ModelFileError, match="is damaged: of its layer lora_unet_conv_in, its up is missing"):
        read_lora(write(tmp_path / "b.safetensors", {"lora_unet_conv_in.lora_down.weight": torch.zeros(1, 2)}))
    path = write(tmp_path / "c.safetensors", kohya("unet", {"conv_in": (8, 4)}), lora_adapter_metadata="{")
    with pytest.raises(ModelFileError, match="PEFT config"):
        read_lora(path)
    (tmp_path / "d.safetensors").write_bytes(path.read_bytes()[:-3])
    with pytest.raises(ModelFileError, match="cut short"):
        read_lora(tmp_path / "d.safetensors")


def _mutated(tensors: Tensors, choice: random.Random) -> Tensors:
    """A LoRA with a few of its tensors lost, renamed, reshaped or of other numbers."""
    tensors = dict(tensors)
    for _ in range(choice.randint(1, 3)):
        key = choice.choice(list(tensors))
        tensor = tensors.pop(key)
        layer, _, part = key.partition(".")
        match choice.randrange(6):
            case 0:
                continue
            case 1:
                key = layer + choice.choice((".alpha", ".lora_mid.weight", ".diff", ".diff_b", ".dora_scale", ""))
            case 2:
                key = f"{layer}{choice.choice(('_', '.', '_0', '.weight', '.lora'))}.{part}"
            case 3:
                key = f"{choice.choice(('lora_te2_', 'unet.', 'transformer_', '', 'lycoris_'))}{key}"
            case 4:
                tensor = torch.zeros([choice.randint(0, 9) for _ in range(choice.randint(0, 5))])
            case 5:
                tensor = tensor.to(choice.choice((torch.int64, torch.bool, torch.float64, torch.float8_e4m3fn)))
        tensors[key] = tensor
    return tensors


def test_damaged_files_attach_or_are_refused_in_a_sentence(tmp_path: Path) -> None:
    unet = tiny_unet()
    tensors = kohya("lora_unet", layers(unet, "attentions.0.proj_in", "downsamplers.0.conv"))
    before, choice, messages = bits(unet), random.Random(0), []
    for _ in range(300):
        path = write(tmp_path / "a.safetensors", _mutated(tensors, choice))
        try:
            attach({"unet": unet}, [LoraUse(read_lora(path))]).detach()
        except ModelFileError as error:
            messages.append(str(error))
    assert 100 < len(messages) < 300
    assert all(str(path) in message for message in messages)
    assert _same(unet, before)


def test_the_hash_and_the_names(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    tensors = kohya("lora_unet", {"conv_in": (8, 4)})
    plain = write(tmp_path / "plain.safetensors", tensors)
    content = plain.read_bytes()
    after_header = content[8 + int.from_bytes(content[:8], "little") :]
    file = read_lora(plain)
    assert file.hash == hashlib.sha256(after_header).hexdigest()[:12]
    assert file.name == "plain"
    said = {"sshs_model_hash": "0123456789abcdef" * 4, "ss_output_name": "style", "modelspec.title": "Style"}
    file = read_lora(write(tmp_path / "said.safetensors", tensors, **said))
    assert file.hash == "0123456789ab"
    assert file.name == "said"
    assert file.metadata["modelspec.title"] == "Style"


def test_embeddings_that_came_along(tmp_path: Path) -> None:
    tensors = kohya("lora_unet", layers(tiny_unet("sdxl"), "conv_in"))
    vectors = {"bundle_emb.xyz.clip_l": torch.ones(2, 16), "bundle_emb.xyz.clip_g": torch.ones(2, 20)}
    unet = tiny_unet("sdxl")
    file = read_lora(write(tmp_path / "a.safetensors", {**tensors, **vectors}))
    assert set(file.embeddings) == {"xyz"}
    assert file.embeddings["xyz"].vectors["text_encoder_2"].shape == (2, 20)
    with attach({"unet": unet}, [LoraUse(file)]) as attached:
        assert str(attached.matched[0]) == "matched 3 of 3 keys"


def test_summaries() -> None:
    def shapes(prefix: str, **layer_shapes: tuple[int, ...]) -> dict[str, tuple[int, ...]]:
        return {f"{prefix}_{name}.lora_down.weight": shape for name, shape in layer_shapes.items()}

    sd1 = shapes("lora_unet", down_blocks_0_attn2_to_k=(4, 768), conv=(8, 3, 3, 3)) | shapes("lora_te", a=(16, 768))
    found = summarise(sd1, {})
    assert (found.base, found.kinds, found.ranks, found.layers) == ("sd1", ("LoRA",), (4, 8, 16), 3)
    assert found.networks == ("text_encoder", "unet")
    assert summarise(shapes("lora_unet", x_attn2_to_v=(4, 2048, 1, 1)), {"ss_v2": "True"}).base == "sdxl"
    assert summarise(shapes("lora_unet", conv=(4, 8)), {"ss_v2": "True"}).base == "sd2"
    assert summarise(shapes("lora_unet", double_blocks_0_img_mlp_0=(4, 8)), {}).base == "flux"
    assert summarise({"transformer.single_transformer_blocks.0.proj_out.lora_A.weight": (4, 8)}, {}).base == "flux"
    assert summarise(shapes("lora_te2", text_model_encoder_layers_0_mlp_fc1=(4, 1280)), {}).base == "sdxl"
    dora = {"a.lora_A.weight": (4, 8), "a.lora_magnitude_vector": (8,), "b.hada_w1_a": (8, 2), "b.hada_w1_b": (2, 8)}
    assert summarise(dora, {}).kinds == ("DoRA", "LoHa")
    assert summarise(dora, {}).ranks == (2, 4)
    assert summarise({"model.weight": (3, 4)}, {}).layers == 0
