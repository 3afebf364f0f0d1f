"""Model folders: what is read, what is refused, and that writing is whole and loses nothing."""

from __future__ import annotations

import errno
import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

import wordbrush
from wordbrush.errors import ModelFileError, RequestError, WorkFailed
from wordbrush.formats.diffusers_folder import read_folder, weights_hash, write_folder
from wordbrush.formats.diffusers_folder import write as module

UNET = "unet/diffusion_pytorch_model.safetensors"


@pytest.fixture
def folder(tiny_v_folder: Path, tmp_path: Path) -> Path:
    """A folder of its own, to be changed."""
    return Path(shutil.copytree(tiny_v_folder, tmp_path / "model"))


def edit_json(path: Path, change: Callable[[dict[str, object]], object]) -> None:
    content = json.loads(path.read_text())
    change(content)
    path.write_text(json.dumps(content))


def test_reads_parts_defaults_and_words(folder: Path) -> None:
    parts = read_folder(folder)
    assert (parts.defaults.steps, parts.defaults.sampler, parts.defaults.width) == (4, "dpmpp_2m", 32)
    assert parts.scheduler.prediction == "v"
    assert parts.known_words is not None
    assert "fox" in parts.known_words
    assert parts.name == str(folder)


def test_without_our_file_the_defaults_are_those_of_diffusers(tiny_sd_folder: Path) -> None:
    defaults = read_folder(tiny_sd_folder).defaults
    assert (defaults.steps, defaults.guidance, defaults.sampler, defaults.schedule) == (50, 7.5, "ddim", "ddim_uniform")


def test_sharded_weights_are_joined(folder: Path) -> None:
    before = load_file(folder / UNET)
    names = sorted(before)
    pieces = {"one.safetensors": names[::2], "two.safetensors": names[1::2]}
    (folder / UNET).unlink()
    for file, keys in pieces.items():
        save_file({key: before[key] for key in keys}, folder / "unet" / file)
    index = {"weight_map": {key: file for file, keys in pieces.items() for key in keys}}
    path = folder / "unet/diffusion_pytorch_model.safetensors.index.json"
    path.write_text(json.dumps(index))
    state = read_folder(folder).unet.state_dict()
    assert all(torch.equal(state[key], before[key]) for key in names)
    (folder / "unet/two.safetensors").unlink()
    with pytest.raises(ModelFileError, match=r"two\.safetensors.*missing"):
        read_folder(folder)
    path.write_text(json.dumps({"weight_map": {"a": "../../etc/passwd"}}))
    with pytest.raises(ModelFileError, match="not a file beside it"):
        read_folder(folder)


def test_the_fp16_variant_is_taken_when_it_is_all_there_is(folder: Path) -> None:
    before = load_file(folder / UNET)
    (folder / UNET).unlink()
    halves = {key: value.half() for key, value in before.items()}
    save_file(halves, folder / "unet/diffusion_pytorch_model.fp16.safetensors")
    state = read_folder(folder).unet.state_dict()
    assert all(torch.equal(state[key], value) for key, value in halves.items())


def test_names_of_older_files_are_understood(folder: Path) -> None:
    before = read_folder(folder)
    vae = load_file(folder / "vae/diffusion_pytorch_model.safetensors")
    old = {"to_q": "query", "to_k": "key", "to_v": "value", "to_out.0": "proj_attn"}
    renamed = {}
    for key, value in vae.items():
        for new, name in old.items():
            if f".attentions.0.{new}." in key:
                key = key.replace(f".{new}.", f".{name}.")
                value = value[:, :, None, None] if value.ndim == 2 else value
        renamed[key] = value
    assert set(renamed) != set(vae)
    save_file(renamed, folder / "vae/diffusion_pytorch_model.safetensors")
    text = {
        key if key.startswith("text_model.") else f"text_model.{key}": value
        for key, value in load_file(folder / "text_encoder/model.safetensors").items()
    }
    text["text_model.embeddings.position_ids"] = torch.arange(24)[None]
    save_file(text, folder / "text_encoder/model.safetensors")
    after = read_folder(folder)
    for part in ("vae", "text_encoder"):
        first, second = getattr(before, part).state_dict(), getattr(after, part).state_dict()
        assert all(torch.equal(first[key], second[key]) for key in first)


def break_weights(change: Callable[[dict[str, torch.Tensor]], object]) -> Callable[[Path], None]:
    def breaker(folder: Path) -> None:
        tensors = load_file(folder / UNET)
        change(tensors)
        save_file(tensors, folder / UNET)

    return breaker


BREAKS: list[tuple[Callable[[Path], object], str]] = [
    (lambda f: (f / "model_index.json").unlink(), r"model_index\.json is missing"),
    (lambda f: (f / "model_index.json").write_text("{"), r"model_index\.json cannot be read"),
    (lambda f: edit_json(f / "model_index.json", lambda c: c.update(unet=["x", "Flux"])), "whose unet is Flux"),
    (lambda f: edit_json(f / "model_index.json", lambda c: c.update(text_encoder_2=["t", "C"])), "text_encoder_2 is C"),
    (
        lambda f: edit_json(f / "model_index.json", lambda c: c.update(_class_name="StableDiffusionUpscalePipeline")),
        "StableDiffusionUpscalePipeline; this version opens",
    ),
    (
        lambda f: edit_json(f / "model_index.json", lambda c: c.update(text_encoder_2=["t", "T5EncoderModel"])),
        "text_encoder_2 is T5EncoderModel, not a CLIPTextModelWithProjection",
    ),
    (
        lambda f: edit_json(f / "model_index.json", lambda c: c.update(transformer=["d", "FluxTransformer2DModel"])),
        "StableDiffusionPipeline of unet, transformer, vae, text_encoder",
    ),
    (lambda f: shutil.rmtree(f / "vae"), r"vae/config\.json is missing"),
    (lambda f: (f / UNET).unlink(), r"no diffusion_pytorch_model\.safetensors in .*unet"),
    (lambda f: (f / UNET).write_bytes((f / UNET).read_bytes()[:-100]), r"safetensors is cut short"),
    (lambda f: (f / UNET).write_bytes(b"PK\3\4" + bytes(99)), "pickled checkpoint"),
    (break_weights(lambda t: t.pop("conv_in.weight")), r"unet lacks conv_in\.weight"),
    (break_weights(lambda t: t.update(extra=torch.zeros(1))), "holds unexpected extra"),
    (break_weights(lambda t: t.update({"conv_in.bias": torch.zeros(3)})), r"conv_in\.bias has shape \[3\].*\[32\]"),
    (lambda f: edit_json(f / "unet/config.json", lambda c: c.update(act_fn="mish")), r"config\.json.*act_fn='mish'"),
    (lambda f: edit_json(f / "unet/config.json", lambda c: c.update(wobble=1)), "wobble"),
    (
        lambda f: edit_json(f / "unet/config.json", lambda c: c.update(in_channels="four")),
        r"unet/config\.json is not the config of a UNet2DConditionModel: .*; copy the file again",
    ),
    (
        lambda f: edit_json(f / "text_encoder/config.json", lambda c: c.update(hidden_size=[32])),
        r"text_encoder/config\.json is not the config of a CLIPTextModel: .*; copy the file again",
    ),
    (
        lambda f: edit_json(f / "scheduler/scheduler_config.json", lambda c: c.update(_class_name="Odd")),
        r"scheduler_config\.json.*'Odd'",
    ),
    (lambda f: (f / "wordbrush.json").write_text('{"defaults": {"steps": 0}}'), r"wordbrush\.json: steps=0"),
    (lambda f: (f / "wordbrush.json").write_text('{"steps": 3}'), r"wordbrush\.json must hold"),
    (lambda f: (f / "words.json").write_text("3"), r"words\.json"),
    (
        lambda f: edit_json(f / "tokenizer/tokenizer_config.json", lambda c: c.update(model_max_length=77)),
        "makes 77 tokens, the text encoder takes 24",
    ),
]


@pytest.mark.parametrize("case", range(len(BREAKS)))
def test_every_damage_is_one_sentence_that_names_the_file(folder: Path, case: int) -> None:
    breaker, words = BREAKS[case]
    breaker(folder)
    with pytest.raises(ModelFileError, match=words) as caught:
        read_folder(folder)
    assert "\n" not in str(caught.value)


def test_written_folders_read_back_bit_for_bit(folder: Path, tmp_path: Path) -> None:
    parts = read_folder(folder)
    write_folder(parts, tmp_path / "copy")
    again = read_folder(tmp_path / "copy")
    for part in ("unet", "vae", "text_encoder"):
        first, second = getattr(parts, part).state_dict(), getattr(again, part).state_dict()
        assert list(first) == list(second)
        assert all(torch.equal(first[key], second[key]) for key in first)
    assert (again.defaults, again.known_words, again.scheduler_json) == (
        parts.defaults, parts.known_words, parts.scheduler_json,
    )  # fmt: skip
    assert not list(tmp_path.glob(".wordbrush-*"))


def test_a_model_opened_in_bfloat16_is_written_back_without_loss(folder: Path, tmp_path: Path) -> None:
    parts = read_folder(folder)
    parts.unet.to(torch.bfloat16)
    with torch.no_grad():
        parts.unet.conv_out.bias.add_(1.0)  # what has changed is written as it is
    write_folder(parts, tmp_path / "copy")
    before, after = load_file(folder / UNET), load_file(tmp_path / "copy" / UNET)
    assert after["conv_out.bias"].dtype is torch.bfloat16
    others = [key for key in before if key != "conv_out.bias"]
    assert all(torch.equal(before[key], after[key]) for key in others)


def test_a_model_is_replaced_and_anything_else_left_alone(folder: Path, tmp_path: Path) -> None:
    parts = read_folder(folder)
    (folder / "old.txt").write_text("of the old model")
    write_folder(parts, folder)
    assert not (folder / "old.txt").exists()
    assert weights_hash(read_folder(folder)) is not None
    (tmp_path / "precious").mkdir()
    (tmp_path / "precious/thesis.txt").write_text("years of work")
    for place in ("precious", "precious/thesis.txt"):
        with pytest.raises(RequestError, match="is not a model folder"):
            write_folder(parts, tmp_path / place)
    assert (tmp_path / "precious/thesis.txt").read_text() == "years of work"


def test_a_link_to_a_model_stays_one(folder: Path, tmp_path: Path) -> None:
    parts = read_folder(folder)
    (folder / "old.txt").write_text("of the old model")
    (tmp_path / "elsewhere").mkdir()
    link, dangling = tmp_path / "elsewhere" / "link", tmp_path / "elsewhere" / "dangling"
    link.symlink_to(folder, target_is_directory=True)
    dangling.symlink_to(tmp_path / "new", target_is_directory=True)
    write_folder(parts, link)
    write_folder(parts, dangling)
    assert link.is_symlink()
    assert dangling.is_symlink()
    assert not (folder / "old.txt").exists()
    assert weights_hash(read_folder(tmp_path / "new")) == weights_hash(read_folder(folder))
    assert {path.name for path in tmp_path.iterdir()} == {"model", "new", "elsewhere"}
    assert {path.name for path in (tmp_path / "elsewhere").iterdir()} == {"link", "dangling"}


def test_a_full_disk_leaves_the_old_model_and_no_pieces(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    parts = read_folder(folder)
    before = sorted(path.name for path in folder.rglob("*"))

    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(module, "write_tensors", full)
    with pytest.raises(WorkFailed, match="No space left"):
        write_folder(parts, folder)
    assert sorted(path.name for path in folder.rglob("*")) == before
    assert [path.name for path in tmp_path.iterdir()] == ["model"]


def test_the_hash_is_of_the_weights(folder: Path) -> None:
    first = weights_hash(read_folder(folder))
    break_weights(lambda tensors: tensors["conv_in.bias"].add_(1.0))(folder)
    assert first is not None
    assert len(first) == 10
    assert weights_hash(read_folder(folder)) != first


def test_a_variant_is_read_when_it_is_asked_for(folder: Path, tmp_path: Path) -> None:
    before = load_file(folder / UNET)
    halves = {key: value.half() for key, value in before.items()}
    stems = {"unet": "diffusion_pytorch_model", "vae": "diffusion_pytorch_model", "text_encoder": "model"}
    for part, stem in stems.items():
        weights = load_file(folder / part / f"{stem}.safetensors")
        save_file({key: value.half() for key, value in weights.items()}, folder / part / f"{stem}.fp16.safetensors")
    parts = read_folder(folder, variant="fp16")
    assert all(torch.equal(value, halves[key]) for key, value in parts.unet.state_dict().items())
    assert read_folder(folder).unet.conv_in.weight.dtype is torch.float32
    write_folder(parts, tmp_path / "copy")
    assert load_file(tmp_path / "copy" / UNET)["conv_in.weight"].dtype is torch.float16
    assert weights_hash(parts) != weights_hash(read_folder(folder))
    with pytest.raises(ModelFileError, match=r"no part of .* has weights of the variant 'bf16'; leave"):
        read_folder(folder, variant="bf16")


def test_a_part_without_the_variant_is_read_plain(folder: Path) -> None:
    halves = {key: value.half() for key, value in load_file(folder / UNET).items()}
    save_file(halves, folder / "unet/diffusion_pytorch_model.fp16.safetensors")
    (folder / UNET).unlink()
    parts = read_folder(folder, variant="fp16")
    assert {part: next(network.parameters()).dtype for part, network in parts.networks.items()} == {
        "unet": torch.float16, "vae": torch.float32, "text_encoder": torch.float32
    }  # fmt: skip
    assert all(torch.equal(value, halves[key]) for key, value in parts.unet.state_dict().items())
    assert weights_hash(parts) is not None


SCHEDULER = "scheduler/scheduler_config.json"


@pytest.mark.parametrize("name", ["DPMSolverSinglestepScheduler", "TCDScheduler", "SASolverScheduler"])
def test_of_an_unknown_scheduler_the_process_counts(folder: Path, tmp_path: Path, name: str) -> None:
    before = read_folder(folder)
    (folder / "wordbrush.json").unlink()
    edit_json(folder / SCHEDULER, lambda c: c.update(_class_name=name, solver_order=3, thresholding=True))
    parts = read_folder(folder)
    assert parts.scheduler.noise == before.scheduler.noise
    assert (parts.scheduler.prediction, parts.scheduler.spacing) == ("v", before.scheduler.spacing)
    assert parts.scheduler.sampler == parts.defaults.sampler == "pndm"
    assert parts.notes == (
        f"no sampler here stands for the model's {name}, so pndm is its own; a request can name another",
    )
    assert before.notes == ()
    write_folder(parts, tmp_path / "copy")
    assert json.loads((tmp_path / "copy" / SCHEDULER).read_text())["_class_name"] == name
    pipe = wordbrush.load(folder, dtype="float32")
    assert parts.notes[0] in pipe("a fox", steps=1, seed=1).notes


def test_a_scheduler_that_does_not_state_its_process_is_refused(folder: Path) -> None:
    edm = {"_class_name": "EDMEulerScheduler", "sigma_min": 0.002, "sigma_max": 80.0, "sigma_data": 0.5}
    (folder / SCHEDULER).write_text(json.dumps(edm))
    with pytest.raises(ModelFileError, match=r"scheduler_config\.json: scheduler class 'EDMEulerScheduler' is unknown"):
        read_folder(folder)


def test_a_scheduler_edited_after_saving_counts(folder: Path, tmp_path: Path) -> None:
    saved = tmp_path / "saved"
    parts = read_folder(folder)
    write_folder(parts, saved)
    assert read_folder(saved).defaults == parts.defaults
    edit_json(saved / SCHEDULER, lambda c: c.update(_class_name="EulerDiscreteScheduler", timestep_spacing="leading"))
    edited = read_folder(saved).defaults
    assert (edited.sampler, edited.schedule) == ("euler", "ddim_uniform")
    assert (edited.steps, edited.guidance) == (parts.defaults.steps, parts.defaults.guidance)
    write_folder(read_folder(saved), saved)
    assert read_folder(saved).defaults == edited


def test_a_part_alone_says_where_the_model_is(folder: Path) -> None:
    with pytest.raises(ModelFileError, match=rf"unet is one part of a model \(UNet2D.*the folder above, {folder}$"):
        read_folder(folder / "unet")
    with pytest.raises(ModelFileError, match=r"\(CLIPTextModel.*\), not a whole one; give the folder above"):
        wordbrush.load(str(folder / "text_encoder"))
    alone = folder.parent / "my-vae"
    shutil.copytree(folder / "vae", alone)
    with pytest.raises(ModelFileError, match=r"\(AutoencoderKL\).*or a model and this folder as its VAE"):
        wordbrush.load(alone)


def test_weights_in_8_bits_run_in_16_and_are_written_back(folder: Path, tmp_path: Path) -> None:
    eight = {key: value.to(torch.float8_e4m3fn) for key, value in load_file(folder / UNET).items()}
    save_file(eight, folder / UNET)
    parts = read_folder(folder)
    assert all(torch.equal(value, eight[key].to(torch.bfloat16)) for key, value in parts.unet.state_dict().items())
    write_folder(parts, tmp_path / "copy")
    again = load_file(tmp_path / "copy" / UNET)
    assert all(value.view(torch.uint8).equal(eight[key].view(torch.uint8)) for key, value in again.items())


def test_weights_that_torch_saved_are_read_without_running_anything(folder: Path) -> None:
    before = read_folder(folder)
    for part, stem, pickled in (
        ("unet", "diffusion_pytorch_model", "diffusion_pytorch_model"), ("text_encoder", "model", "pytorch_model"),
    ):  # fmt: skip
        place = folder / part / f"{stem}.safetensors"
        torch.save(load_file(place), folder / part / f"{pickled}.bin")
        place.unlink()
    after = read_folder(folder)
    for part in ("unet", "text_encoder"):
        first, second = getattr(before, part).state_dict(), getattr(after, part).state_dict()
        assert all(torch.equal(first[key], second[key]) for key in first)


def test_what_lies_beside_the_model_is_taken_along(folder: Path, tmp_path: Path) -> None:
    (folder / "README.md").write_text("a card")
    (folder / "clip").mkdir()
    (folder / "clip" / "config.json").write_text("{}")
    (folder / "clip" / "model.safetensors").write_bytes(b"both towers")
    write_folder(read_folder(folder), tmp_path / "copy")
    assert (tmp_path / "copy" / "README.md").read_text() == "a card"
    assert (tmp_path / "copy" / "clip" / "model.safetensors").read_bytes() == b"both towers"
