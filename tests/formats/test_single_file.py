"""Models in one file: written and read back, and read as other tools write them."""

from __future__ import annotations

import json
import shutil
import socket
from collections.abc import Callable
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import torch
from tests.formats.single_files import (
    FAMILIES,
    assert_same_parts,
    assert_same_state,
    rewritten,
    tiny_parts,
    without_own_metadata,
)
from torch import Tensor

from wordbrush.errors import ModelFileError, RequestError, WorkFailed
from wordbrush.formats.diffusers_folder import write_folder
from wordbrush.formats.open import open_model
from wordbrush.formats.parts import ModelParts
from wordbrush.formats.safetensors_file import read_header, read_tensors, write_tensors
from wordbrush.formats.single_file.read import read_single_file
from wordbrush.formats.single_file.write import write_single_file

Make = Callable[..., tuple[ModelParts, Path]]


@pytest.fixture(scope="module")
def written(tiny_tokenizer_files: Path, tmp_path_factory: pytest.TempPathFactory) -> Make:
    """As `make`, each made once; nothing of it may be changed."""
    root = tmp_path_factory.mktemp("written")

    @cache
    def once(family: str, **settings: Any) -> Any:
        folder = root / str(len(list(root.iterdir())))
        folder.mkdir()
        parts = tiny_parts(family, tiny_tokenizer_files, folder, **settings)
        write_single_file(parts, folder / f"{family}.safetensors")
        return parts, folder / f"{family}.safetensors"

    return once


@pytest.fixture
def make(written: Make, tmp_path: Path) -> Make:
    """family -> a tiny model of it, which may not be changed, and a file that holds it, which may."""

    def copied(family: str, **settings: Any) -> Any:
        parts, path = written(family, **settings)
        (tmp_path / "models").mkdir(exist_ok=True)
        return parts, Path(shutil.copyfile(path, tmp_path / "models" / path.name))

    return copied


def beside(parts: ModelParts, path: Path) -> None:
    """Puts the tokenizers into folders beside a file."""
    for name in ("tokenizer", "tokenizer_2"):
        tokenizer = getattr(parts, name)
        for file, text in {} if tokenizer is None else tokenizer.files().items():
            (path.parent / name).mkdir(exist_ok=True)
            (path.parent / name / file).write_text(text, encoding="utf-8")


@pytest.mark.parametrize("family", FAMILIES)
def test_what_is_written_is_read_bit_for_bit(make: Make, family: str) -> None:
    parts, path = make(family)
    found = read_single_file(path)
    assert_same_parts(found, parts)
    assert (found.source, found.name) == (path, str(path))
    again = path.with_name("again.safetensors")
    write_single_file(found, again)
    assert read_header(again).metadata == read_header(path).metadata
    assert again.read_bytes() == path.read_bytes()


@pytest.mark.parametrize("family", FAMILIES)
def test_a_file_of_another_tool_is_understood_from_its_shapes(
    make: Make, family: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    parts, path = make(family)
    without_own_metadata(path)
    beside(parts, path)
    monkeypatch.setattr(socket, "socket", lambda *_, **__: pytest.fail("a socket was opened"))
    found = read_single_file(path)
    defaults = found.defaults.model_copy(update={"width": parts.defaults.width, "height": parts.defaults.height})
    found = replace(found, defaults=defaults)
    for part, network in parts.networks.items():
        assert_same_state(found.networks[part], network)
    if family != "sd2":  # 512 pixels, as the network itself says; the tiny model's config said 768
        assert_same_parts(found, parts)


@pytest.mark.parametrize(("family", "count"), [("sd1", 9), ("sd2", 9), ("sd1", 8), ("sdxl", 9)])
def test_networks_that_see_a_picture(make: Make, family: str, count: int) -> None:
    parts, path = make(family, in_channels=count)
    found = read_single_file(without_own_metadata(path), tokenizer=_tokenizers(parts, path))
    assert found.unet is not None
    assert (found.unet.config.in_channels, found.picture_input) == (count, "edit" if count == 8 else "inpaint")
    assert found.scheduler.prediction == "epsilon"


def _tokenizers(parts: ModelParts, path: Path) -> Path:
    beside(parts, path)
    return path.parent


def test_a_network_that_is_told_guidance(make: Make) -> None:
    parts, path = make("sd1", time_cond_proj_dim=10)
    assert "model.diffusion_model.time_embed.cond_proj.weight" in read_header(path).tensors
    found = read_single_file(without_own_metadata(path), tokenizer=_tokenizers(parts, path))
    assert found.tells_guidance
    assert found.scheduler.sampler == "lcm"


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_number_formats(make: Make, dtype: torch.dtype) -> None:
    parts, path = make("sd1")
    write_single_file(parts, path, dtype=dtype)
    found = read_single_file(path)
    for part, network in parts.networks.items():
        for name, tensor in found.networks[part].state_dict().items():
            assert torch.equal(tensor, network.state_dict()[name].to(dtype))
    opened = found.networks["unet"].to(torch.float32)  # as a pipeline does
    write_single_file(replace(found, unet=opened), path.with_name("back.safetensors"))
    assert {info.dtype for info in read_header(path.with_name("back.safetensors")).tensors.values()} == {
        "F16" if dtype is torch.float16 else "BF16"
    }


def test_weights_that_were_changed_are_written_as_they_are(make: Make) -> None:
    _, path = make("sd1")
    found = read_single_file(path)
    assert found.unet is not None
    with torch.no_grad():
        found.unet.conv_in.weight.add_(1.0)
    write_single_file(found, path.with_name("changed.safetensors"))
    changed = read_tensors(path.with_name("changed.safetensors"))["model.diffusion_model.input_blocks.0.0.weight"]
    assert torch.equal(changed, read_tensors(path)["model.diffusion_model.input_blocks.0.0.weight"] + 1.0)


def test_there_and_back_through_a_folder(make: Make, tmp_path: Path) -> None:
    for family in FAMILIES:
        parts, path = make(family)
        write_folder(read_single_file(path), tmp_path / family)
        found = open_model(tmp_path / family)
        assert_same_parts(replace(found, zero_negative=parts.zero_negative), parts)


def test_what_training_left_in_a_file_is_passed_over(make: Make) -> None:
    parts, path = make("sd1")

    def littered(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
        return tensors | {
            "betas": torch.ones(4),
            "alphas_cumprod": torch.ones(4),
            "posterior_mean_coef1": torch.ones(4),
            "model_ema.decay": torch.tensor(0.9),
            "model_ema.diffusion_modelinput_blocks00weight": torch.ones(2),
            "cond_stage_model.transformer.text_model.embeddings.position_ids": torch.arange(24)[None],
            "cond_stage_model.logit_scale": torch.tensor(1.0),
            "first_stage_model.loss.logvar": torch.tensor(0.0),
        }

    rewritten(path, littered, keep_metadata=True)
    assert_same_parts(read_single_file(path), parts)


def test_clip_without_the_first_part_of_its_names(make: Make) -> None:
    parts, path = make("sd1")
    old = "cond_stage_model.transformer."
    rewritten(
        path,
        lambda tensors: {name.replace(f"{old}text_model.", old): tensor for name, tensor in tensors.items()},
        keep_metadata=True,
    )
    assert_same_parts(read_single_file(path), parts)


def test_the_unused_end_of_open_clip_is_left_out(make: Make) -> None:
    parts, path = make("sd2")
    start = "cond_stage_model.model.transformer.resblocks."

    def with_last_layer(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
        last = {name.replace(f"{start}1.", f"{start}2."): tensor for name, tensor in tensors.items()}
        ends = {"cond_stage_model.model.text_projection": torch.ones(32, 32)}
        return last | tensors | ends | {"cond_stage_model.model.logit_scale": torch.tensor(1.0)}

    rewritten(path, with_last_layer, keep_metadata=True)
    assert_same_parts(read_single_file(path), parts)


def test_the_projection_of_open_clip_in_either_direction(make: Make) -> None:
    parts, path = make("sdxl")
    name = "conditioner.embedders.1.model.text_projection"

    def turned(tensors: dict[str, Tensor]) -> None:
        tensors[f"{name}.weight"] = tensors.pop(name).T

    assert read_header(path).tensors[name].shape == (48, 40)
    rewritten(path, turned, keep_metadata=True)
    assert_same_parts(read_single_file(path), parts)


@pytest.mark.parametrize("prefix", ["", "diffusion_model.", "model.diffusion_model."])
def test_a_transformer_alone_with_its_other_parts_beside_it(make: Make, tmp_path: Path, prefix: str) -> None:
    parts, path = make("flux-dev")
    tensors = read_tensors(path)
    start = "model.diffusion_model."
    pieces = {
        "flux.safetensors": {
            prefix + name.removeprefix(start): tensor for name, tensor in tensors.items() if name.startswith(start)
        },
        "ae.safetensors": _under(tensors, "vae."),
        "clip_l.safetensors": _under(tensors, "text_encoders.clip_l.transformer."),
        "t5xxl.safetensors": _under(tensors, "text_encoders.t5xxl.transformer."),
    }
    pieces["t5xxl.safetensors"]["encoder.embed_tokens.weight"] = pieces["t5xxl.safetensors"].pop("shared.weight")
    pieces["clip_l.safetensors"]["text_projection.weight"] = torch.ones(32, 32)
    for file, content in pieces.items():
        write_tensors(tmp_path / file, content)
    beside(parts, tmp_path / "flux.safetensors")
    with pytest.raises(ModelFileError, match=r"flux\.safetensors holds no autoencoder; give one"):
        read_single_file(tmp_path / "flux.safetensors")
    with pytest.raises(ModelFileError, match="no text encoder CLIP-L and no text encoder T5-XXL"):
        read_single_file(tmp_path / "flux.safetensors", vae=tmp_path / "ae.safetensors")
    encoders = [tmp_path / "t5xxl.safetensors", tmp_path / "clip_l.safetensors"]
    found = open_model(tmp_path / "flux.safetensors", vae=tmp_path / "ae.safetensors", text_encoders=encoders)
    assert_same_parts(replace(found, vae_name=None), replace(parts, name=found.name))


def _under(tensors: dict[str, Tensor], prefix: str) -> dict[str, Tensor]:
    return {name.removeprefix(prefix): tensor for name, tensor in tensors.items() if name.startswith(prefix)}


def test_two_clips_beside_a_u_net_in_our_own_names(make: Make, tmp_path: Path) -> None:
    # a U-Net alone does not tell how its numbers beside the time are shared out; they are taken to be as published
    sizes = {"addition_time_embed_dim": 256, "projection_class_embeddings_input_dim": 40 + 6 * 256}
    parts, path = make("sdxl", **sizes)
    assert parts.unet is not None
    write_tensors(tmp_path / "unet.safetensors", parts.unet.state_dict())
    write_folder(parts, tmp_path / "folder")
    write_tensors(tmp_path / "g.safetensors", _under(read_tensors(path), "conditioner.embedders.1.model."))
    found = read_single_file(
        tmp_path / "unet.safetensors",
        vae=tmp_path / "folder",
        text_encoders=[tmp_path / "g.safetensors", tmp_path / "folder" / "text_encoder"],
        tokenizer=_tokenizers(parts, path),
    )
    for part, network in parts.networks.items():
        assert_same_state(found.networks[part], network)


def test_another_vae(make: Make, tmp_path: Path) -> None:
    parts, path = make("sd1")
    other = {name: tensor + 1 for name, tensor in _under(read_tensors(path), "first_stage_model.").items()}
    write_tensors(tmp_path / "other.vae.safetensors", other)
    found = open_model(path, vae=tmp_path / "other.vae.safetensors")
    assert found.vae_name == str(tmp_path / "other.vae.safetensors")
    assert torch.equal(found.vae.decoder.conv_in.weight, parts.vae.decoder.conv_in.weight + 1)
    assert found.vae.config.scaling_factor == 0.18215
    write_folder(parts, tmp_path / "folder")
    in_folder = open_model(tmp_path / "folder", vae=tmp_path / "other.vae.safetensors")
    assert_same_state(in_folder.vae, found.vae)
    write_tensors(tmp_path / "unet.safetensors", _under(read_tensors(path), "model.diffusion_model."))
    with pytest.raises(ModelFileError, match=r"unet\.safetensors is a Stable Diffusion 1 model; it holds no autoenc"):
        open_model(path, vae=tmp_path / "unet.safetensors")


def test_a_vae_as_its_training_left_it(make: Make, tmp_path: Path) -> None:
    parts, path = make("sd1")
    vae = _under(read_tensors(path), "first_stage_model.")
    left = ("loss.logvar", "loss.discriminator.main.0.weight", "loss.perceptual_loss.lin0.model.1.weight")
    vae |= {name: torch.zeros(1) for name in (*left, "model_ema.decay", "model_ema.num_updates")}
    torch.save({"state_dict": vae, "global_step": 840_000}, tmp_path / "kl-f8.ckpt")
    found = open_model(path, vae=tmp_path / "kl-f8.ckpt")
    assert_same_state(found.vae, parts.vae)


@pytest.mark.parametrize("scale", ["none", "number", "one a row"])
def test_weights_in_8_bits(make: Make, scale: str) -> None:
    parts, path = make("flux-schnell")
    name = "double_blocks.0.img_attn.qkv"
    start = "model.diffusion_model."
    factor = {"none": None, "number": torch.tensor(0.25), "one a row": torch.linspace(0.1, 2.0, 96)[:, None]}[scale]

    def squeezed(tensors: dict[str, Tensor]) -> None:
        for key in list(tensors):
            if key.startswith(start) and tensors[key].ndim == 2:
                tensors[key] = tensors[key].to(torch.float8_e4m3fn)
        if factor is not None:
            tensors[f"{start}{name}.scale_weight"] = factor
            tensors[f"{start}{name}.scale_input"] = torch.tensor(1.0)
            tensors[f"{start}scaled_fp8"] = torch.zeros(2, dtype=torch.float8_e4m3fn)

    stored = read_tensors(rewritten(path, squeezed, keep_metadata=True))
    found = read_single_file(path)
    assert found.transformer is not None
    state = found.transformer.state_dict()
    wanted = stored[f"{start}{name}.weight"].float() * (1.0 if factor is None else factor)
    key = "transformer_blocks.0.attn.to_{}.weight"
    joined = torch.cat([state[key.format(letter)] for letter in "qkv"])
    assert joined.dtype is torch.bfloat16
    assert torch.equal(joined, wanted.to(torch.bfloat16))
    assert torch.equal(state["proj_out.weight"], stored[f"{start}final_layer.linear.weight"].to(torch.bfloat16))
    assert torch.equal(state["proj_out.bias"], parts.networks["transformer"].state_dict()["proj_out.bias"])


def test_prediction_from_markers_file_and_caller(make: Make, tiny_tokenizer_files: Path) -> None:
    parts, path = make("sdxl")
    without_own_metadata(path)
    tokenizer = _tokenizers(parts, path)
    assert read_single_file(path, tokenizer=tokenizer).scheduler.prediction == "epsilon"
    assert read_single_file(path, tokenizer=tokenizer, prediction="v").scheduler.prediction == "v"
    rewritten(path, lambda tensors: tensors | {"v_pred": torch.zeros(0), "ztsnr": torch.zeros(0)})
    marked = read_single_file(path, tokenizer=tokenizer).scheduler
    assert (marked.prediction, marked.noise.zero_terminal_snr, marked.spacing) == ("v", True, "sgm_uniform")  # type: ignore[union-attr]
    yaml = path.with_suffix(".yaml")
    yaml.write_text("model:\n  params:\n    parameterization: eps\n")
    assert read_single_file(path, tokenizer=tokenizer).scheduler.prediction == "epsilon"
    yaml.write_text("model:\n  params:\n    denoiser_config: {params: {scaling_config: {target: sgm.x.VScaling}}}\n")
    assert read_single_file(path, tokenizer=tokenizer).scheduler.prediction == "v"
    yaml.write_text("not: [a, model")
    assert read_single_file(path, tokenizer=tokenizer).scheduler.prediction == "v"
    with pytest.raises(RequestError, match="prediction='noise' is unknown"):
        read_single_file(path, tokenizer=tokenizer, prediction="noise")
    with pytest.raises(RequestError, match="'flow' has no meaning"):
        read_single_file(path, tokenizer=tokenizer, prediction="flow")


@pytest.mark.parametrize(("slope", "prediction", "side"), [(-4.0, "v", 96), (0.0, "epsilon", 64)])
def test_the_network_is_asked_where_nothing_says_what_it_predicts(
    make: Make, slope: float, prediction: str, side: int
) -> None:
    def tilted(tensors: dict[str, Tensor]) -> None:
        last = "model.diffusion_model.out.2"
        tensors[f"{last}.weight"] = torch.zeros_like(tensors[f"{last}.weight"])
        tensors[f"{last}.bias"] = torch.full_like(tensors[f"{last}.bias"], slope)

    parts, path = make("sd2")
    rewritten(path, tilted, keep_metadata=True)
    found = read_single_file(without_own_metadata(path), tokenizer=_tokenizers(parts, path))
    assert found.unet is not None
    assert (found.scheduler.prediction, found.unet.config.sample_size) == (prediction, side)


def test_our_own_settings_survive(make: Make) -> None:
    parts, path = make("sd1", attention_head_dim=2, norm_num_groups=8)
    defaults = parts.defaults.model_copy(update={"steps": 7, "width": 32})
    parts = replace(parts, known_words=frozenset({"fox", "a"}), defaults=defaults)
    write_single_file(parts, path)
    assert_same_parts(read_single_file(path), parts)
    metadata = read_header(path).metadata
    assert metadata["modelspec.architecture"] == "stable-diffusion-v1"
    assert metadata["modelspec.resolution"] == f"32x{parts.defaults.height}"


def test_the_metadata_of_the_source_is_kept(make: Make) -> None:
    _, path = make("sd1")
    tensors, metadata = read_tensors(path), read_header(path).metadata
    write_tensors(path, tensors, metadata | {"modelspec.license": "CreativeML OpenRAIL-M", "ss_tag": "x"})
    write_single_file(read_single_file(path), path.with_name("copy.safetensors"))
    kept = read_header(path.with_name("copy.safetensors")).metadata
    assert (kept["modelspec.license"], kept["modelspec.title"]) == ("CreativeML OpenRAIL-M", "sd1")
    assert "ss_tag" not in kept


def test_tokenizers_are_looked_for_in_order(make: Make, tmp_path: Path, hub: Path) -> None:
    parts, path = make("sdxl")
    without_own_metadata(path)
    with pytest.raises(ModelFileError) as caught:
        read_single_file(path)
    for way in ("--tokenizer", "beside the file", "openai/clip-vit-large-patch14", "CLIP tokenizer"):
        assert way in str(caught.value)
    with pytest.raises(ModelFileError, match=r"no CLIP tokenizer .* in .*nowhere"):
        read_single_file(path, tokenizer=tmp_path / "nowhere")
    snapshot = hub / "models--openai--clip-vit-large-patch14" / "snapshots" / ("a" * 40)
    snapshot.mkdir(parents=True)
    (snapshot.parents[1] / "refs").mkdir()
    (snapshot.parents[1] / "refs" / "main").write_text("a" * 40)
    assert parts.tokenizer is not None
    for file, text in parts.tokenizer.files().items():
        (snapshot / file).write_text(text, encoding="utf-8")
    found = read_single_file(path)
    assert found.tokenizer is not None
    assert found.tokenizer.vocab == parts.tokenizer.vocab


def test_open_clip_pads_with_zero(make: Make, tiny_tokenizer_files: Path, tmp_path: Path) -> None:
    _, path = make("sdxl")
    without_own_metadata(path)
    folder = tmp_path / "files"
    folder.mkdir()
    vocab = json.loads((tiny_tokenizer_files / "vocab.json").read_text())
    first = next(piece for piece, index in vocab.items() if index == 0)
    vocab[first], vocab["!"] = vocab["!"], 0
    (folder / "vocab.json").write_text(json.dumps(vocab))
    (folder / "merges.txt").write_text((tiny_tokenizer_files / "merges.txt").read_text())
    (folder / "tokenizer_config.json").write_text(json.dumps({"model_max_length": 24}))
    found = read_single_file(path, tokenizer=folder)
    assert found.tokenizer is not None
    assert (found.tokenizer.pad_id, found.tokenizer_2.pad_id) == (vocab["<|endoftext|>"], 0)  # type: ignore[union-attr]


def test_a_pickled_checkpoint(make: Make) -> None:
    parts, path = make("sd2", prediction="v")
    tensors = {name: tensor for name, tensor in read_tensors(path).items() if name not in ("v_pred", "ztsnr")}
    ckpt = path.with_suffix(".ckpt")
    torch.save({"state_dict": tensors, "global_step": 875000, "epoch": 3}, ckpt)
    found = read_single_file(ckpt, tokenizer=_tokenizers(parts, path))
    assert found.scheduler.prediction == "epsilon"  # as diffusers reads that step of training
    for part, network in parts.networks.items():
        assert_same_state(found.networks[part], network)
    write_single_file(found, path)
    assert_same_state(read_single_file(path).vae, parts.vae)


def test_writing_is_whole_or_not_at_all(make: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    parts, path = make("sd1")
    before = path.read_bytes()

    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("wordbrush.formats.single_file.write.write_tensors", full)
    with pytest.raises(WorkFailed, match=r"sd1\.safetensors: No space left"):
        write_single_file(parts, path)
    assert path.read_bytes() == before
    assert [file.name for file in path.parent.iterdir()] == [path.name]


def test_open_model_opens_files(make: Make) -> None:
    parts, path = make("sd1")
    assert_same_parts(open_model(path), parts)
    assert open_model(str(path)).name == str(path)
    with pytest.raises(RequestError, match="variant='fp16' has a meaning only for folders"):
        open_model(path, variant="fp16")
