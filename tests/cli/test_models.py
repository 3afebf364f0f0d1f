"""`wordbrush models`: list, inspect, pull, convert, remove, folders. No test needs the network, or touches it."""

from __future__ import annotations

import fnmatch
import hashlib
import json
import os
import shutil
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import huggingface_hub
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file, save_file
from tests.formats.single_files import tiny_parts

from wordbrush.cli import console
from wordbrush.formats.diffusers_folder import write_folder
from wordbrush.formats.hub import cached_model
from wordbrush.formats.open import open_model
from wordbrush.formats.safetensors_file import read_header

from .conftest import Run

COMMIT = "0123456789abcdef0123456789abcdef01234567"
Remote = Callable[[str, Path], list[list[str]]]


def lora(path: Path, **metadata: str) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    tensors = {"lora_unet_a.lora_down.weight": torch.zeros(4, 8), "lora_unet_a.lora_up.weight": torch.zeros(8, 4)}
    save_file(tensors, path, metadata=metadata)
    return path


@pytest.fixture
def models(tmp_path: Path, tiny_sd_folder: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A library folder with a diffusers model and two LoRAs, one of them damaged."""
    folder = tmp_path / "models-of-mine"
    shutil.copytree(tiny_sd_folder, folder / "checkpoints" / "tiny")
    lora(folder / "loras" / "ink.safetensors")
    (folder / "loras" / "broken.safetensors").write_bytes(b"no header")
    monkeypatch.setenv("WORDBRUSH_MODELS", str(folder))
    return folder


@pytest.fixture
def remote(monkeypatch: pytest.MonkeyPatch) -> Remote:
    """Puts a repository on a hub that is a folder; gives the patterns that each call asks for."""

    def put(name: str, source: Path) -> list[list[str]]:
        asked: list[list[str]] = []

        def snapshot_download(
            repo_id: str, *, cache_dir: Path, allow_patterns: list[str], revision: str | None = None, **_: Any
        ) -> str:
            assert repo_id == name
            asked.append(allow_patterns)
            repository = cache_dir / f"models--{repo_id.replace('/', '--')}"
            if revision != COMMIT:
                (repository / "refs").mkdir(parents=True, exist_ok=True)
                (repository / "refs" / (revision or "main")).write_text(COMMIT, encoding="utf-8")
            for path in (path for path in source.rglob("*") if path.is_file()):
                file = path.relative_to(source)
                place = repository / "snapshots" / COMMIT / file
                if any(fnmatch.fnmatch(file.as_posix(), pattern) for pattern in allow_patterns) and not place.exists():
                    blob = repository / "blobs" / hashlib.sha256(path.read_bytes()).hexdigest()
                    blob.parent.mkdir(exist_ok=True)
                    shutil.copyfile(path, blob)
                    place.parent.mkdir(parents=True, exist_ok=True)
                    place.symlink_to(os.path.relpath(blob, place.parent))
            return str(repository / "snapshots" / COMMIT)

        monkeypatch.setattr(huggingface_hub, "snapshot_download", snapshot_download)
        return asked

    return put


def files_in(folder: Path) -> set[str]:
    return {path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()}


def test_list_shows_everything_and_says_what_is_damaged(run: Run, models: Path) -> None:
    rows = json.loads(run("models", "list", "--json").stdout)["models"]
    assert [(row["name"], row["kind"], row["family"]) for row in rows] == [
        ("scenes-128", "checkpoint", "sd1"), ("tiny", "checkpoint", "sd1"),
        ("broken.safetensors", "lora", None), ("ink.safetensors", "lora", None),
    ]  # fmt: skip
    assert rows[1]["bytes"] == 4 * rows[1]["parameters"]
    result = run("models", "list", "--kind", "lora")
    assert result.exit_code == 0
    assert result.stdout.splitlines()[0].split() == ["name", "kind", "family", "size", "dtypes"]
    assert result.stdout.splitlines()[2].split() == ["ink.safetensors", "lora", "256", "B", "F32"]
    assert "note: " in result.stderr
    assert "broken.safetensors is not a safetensors file" in result.stderr


def test_inspect_says_what_a_folder_is(run: Run, tiny_v_folder: Path) -> None:
    content = json.loads(run("models", "inspect", tiny_v_folder, "--json").stdout)
    assert content["prediction_type"] == "v_prediction"
    lines = run("models", "inspect", tiny_v_folder).stdout
    assert "prediction type: v_prediction" in lines
    assert f"parameters: {content['parameters']:,}" in lines


def test_inspect_refuses_what_is_no_model(run: Run, tmp_path: Path) -> None:
    result = run("models", "inspect", tmp_path)
    assert result.exit_code == 2
    assert "model_index.json" in result.stderr


def test_what_a_file_says_is_not_obeyed_by_the_terminal(run: Run, tmp_path: Path) -> None:
    path = lora(tmp_path / "odd.safetensors", ss_training_comment="\x1b[2Jgone\x9b\nlicense: MIT")
    lines = run("models", "inspect", path).stdout.splitlines()
    assert "  training comment: \\x1b[2Jgone\\x9b license: MIT" in lines
    assert not any(line.startswith("license") for line in lines)


@pytest.mark.skipif(sys.platform in ("win32", "darwin"), reason="names of files are text there")
def test_a_name_that_is_not_text(run: Run, tmp_path: Path) -> None:
    path = os.fsdecode(os.fsencode(tmp_path) + b"/caf\xe9.safetensors")
    lora(tmp_path / "plain.safetensors").rename(path)
    told = run("models", "inspect", path)
    assert (told.exit_code, told.stdout.splitlines()[0]) == (0, f"path: {tmp_path}/caf\\udce9.safetensors")
    assert json.loads(run("models", "inspect", path, "--json").stdout)["path"] == path


def test_inspect_takes_names(run: Run, models: Path) -> None:
    embedded = json.loads(run("models", "inspect", "scenes-128", "--json").stdout)
    assert embedded == json.loads(run("models", "inspect", "--json").stdout)
    assert embedded["license"] == "apache-2.0"
    assert json.loads(run("models", "inspect", "ink", "--json").stdout)["kind"] == "lora"
    result = run("models", "inspect", "inc")
    assert result.exit_code == 2
    assert "close to it: ink" in result.stderr


def test_inspect_hashes_when_asked_and_remembers(run: Run, models: Path) -> None:
    assert json.loads(run("models", "inspect", "ink", "--json").stdout)["hashes"]["a1111"] is None
    result = run("models", "inspect", "ink")
    assert "--hash computes them" in result.stderr
    sha256 = hashlib.sha256((models / "loras" / "ink.safetensors").read_bytes()).hexdigest()
    found = json.loads(run("models", "inspect", "ink", "--hash", "--json").stdout)["hashes"]
    assert (found["a1111"], found["autov2"], found["sha256"]) == (sha256[:10], sha256[:10].upper(), sha256)
    assert len(found["lora"]) == 12
    assert json.loads(run("models", "inspect", "ink", "--json").stdout)["hashes"] == found
    folder = json.loads(run("models", "inspect", "tiny", "--hash", "--json").stdout)
    weights = (models / "checkpoints/tiny/unet/diffusion_pytorch_model.safetensors").read_bytes()
    assert folder["hashes"]["sha256"] == hashlib.sha256(weights).hexdigest()


@pytest.fixture
def repository(tmp_path: Path, tiny_sd_folder: Path) -> Path:
    """A repository as they are: the same weights in several forms, and a safety checker."""
    source = tmp_path / "repository"
    shutil.copytree(tiny_sd_folder, source)
    stems = {"unet": "diffusion_pytorch_model", "vae": "diffusion_pytorch_model", "text_encoder": "model"}
    for part, stem in stems.items():
        weights = source / part / f"{stem}.safetensors"
        half = {name: tensor.half() for name, tensor in load_file(weights).items()}
        save_file(half, weights.with_name(f"{stem}.fp16.safetensors"), metadata={"format": "pt"})
        weights.with_name(f"{'pytorch_model' if stem == 'model' else stem}.bin").write_bytes(b"PK")
        weights.with_name("flax_model.msgpack").write_bytes(b"")
    index = json.loads((source / "model_index.json").read_text(encoding="utf-8"))
    index["safety_checker"] = ["stable_diffusion", "StableDiffusionSafetyChecker"]
    (source / "model_index.json").write_text(json.dumps(index), encoding="utf-8")
    (source / "safety_checker").mkdir()
    (source / "safety_checker" / "model.safetensors").write_bytes(b"")
    (source / "v1-5-pruned.safetensors").write_bytes(b"")
    return source


def test_pull_fetches_one_form_of_the_weights(run: Run, repository: Path, remote: Remote) -> None:
    remote("owner/name", repository)
    result = run("models", "pull", "owner/name")
    assert result.exit_code == 0, result.stderr
    folder = cached_model("owner/name")
    assert result.stdout.strip() == str(folder)
    assert folder is not None
    weights = {name for name in files_in(folder) if not name.endswith((".json", ".txt", ".md"))}
    assert weights == {
        "unet/diffusion_pytorch_model.safetensors", "vae/diffusion_pytorch_model.safetensors",
        "text_encoder/model.safetensors",
    }  # fmt: skip
    rows = json.loads(run("models", "list", "--json").stdout)["models"]
    assert ("owner/name", "hub") in [(row["name"], row["origin"]) for row in rows]


def test_pull_of_a_variant_and_of_what_only_one_form_is_there_for(
    run: Run, repository: Path, remote: Remote
) -> None:
    (repository / "vae" / "diffusion_pytorch_model.fp16.safetensors").unlink()
    (repository / "text_encoder" / "model.safetensors").unlink()
    remote("owner/name", repository)
    assert run("models", "pull", "owner/name", "--variant", "bf16").exit_code == 2
    result = run("models", "pull", "owner/name", "--variant", "fp16")
    assert result.exit_code == 0, result.stderr
    names = files_in(Path(result.stdout.strip()))
    assert "unet/diffusion_pytorch_model.fp16.safetensors" in names
    assert "unet/diffusion_pytorch_model.safetensors" not in names
    assert {"vae/diffusion_pytorch_model.safetensors", "text_encoder/model.fp16.safetensors"} <= names
    parts = open_model("owner/name", variant="fp16")
    assert {part: next(network.parameters()).dtype for part, network in parts.networks.items()} == {
        "unet": torch.float16, "vae": torch.float32, "text_encoder": torch.float16
    }  # fmt: skip


def test_pull_goes_on_where_it_stopped(
    run: Run, repository: Path, remote: Remote, monkeypatch: pytest.MonkeyPatch
) -> None:
    remote("owner/name", repository)
    whole = huggingface_hub.snapshot_download

    def breaking(*arguments: Any, **options: Any) -> str:
        if any("diffusion_pytorch_model" in pattern for pattern in options["allow_patterns"]):
            whole(*arguments, **{**options, "allow_patterns": ["unet/diffusion_pytorch_model.safetensors"]})
            raise ConnectionError("the cable was pulled")
        return whole(*arguments, **options)

    monkeypatch.setattr(huggingface_hub, "snapshot_download", breaking)
    result = run("models", "pull", "owner/name")
    assert result.exit_code == 1
    assert "needs the network" in result.stderr
    assert "the cable was pulled" in result.stderr
    assert cached_model("owner/name") is None
    assert run("models", "inspect", "owner/name").exit_code == 2
    monkeypatch.setattr(huggingface_hub, "snapshot_download", whole)
    asked = remote("owner/name", repository)
    assert run("models", "pull", "owner/name").exit_code == 0
    assert not any(pattern.startswith("unet/diffusion") for pattern in asked[1])


def test_pull_of_one_file_and_by_revision(run: Run, repository: Path, remote: Remote, tmp_path: Path) -> None:
    lora(repository / "sub" / "ink.safetensors")
    remote("owner/name", repository)
    content = json.loads(run("models", "pull", "owner/name/sub/ink.safetensors", "--revision", "v2", "--json").stdout)
    assert Path(content["path"]).read_bytes() == (repository / "sub" / "ink.safetensors").read_bytes()
    assert (Path(content["path"]).parents[3] / "refs" / "v2").is_file()
    result = run("models", "pull", "owner/name/none.safetensors")
    assert result.exit_code == 2
    assert "has no file 'none.safetensors'" in result.stderr


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["nonsense"], "neither a hub id"),
        (["owner/name/x.safetensors", "--variant", "fp16"], "--variant fp16 has no meaning"),
        (["owner/name"], "is not a diffusers model"),
    ],
)
def test_pull_refuses(run: Run, remote: Remote, tmp_path: Path, arguments: list[str], words: str) -> None:
    (tmp_path / "empty").mkdir()
    remote("owner/name", tmp_path / "empty")
    result = run("models", "pull", *arguments)
    assert result.exit_code == 2
    assert words in result.stderr


def test_a_download_is_told_in_lines_in_a_log(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(console, "LOG_INTERVAL", 0.0)
    bar = console.download_progress()["tqdm_class"](total=4_000_000, unit="B", mininterval=0)
    bar.update(1_000_000)
    bar.update(3_000_000)
    bar.close()
    lines = capsys.readouterr().err.splitlines()
    assert lines[0] == "downloaded 1 of 4 MB"
    assert lines[-1] == "downloaded 4 of 4 MB"


def test_pull_when_the_network_is_forbidden(
    run: Run, repository: Path, remote: Remote, monkeypatch: pytest.MonkeyPatch
) -> None:
    remote("owner/name", repository)
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    result = run("models", "pull", "owner/name")
    assert result.exit_code == 1
    assert "HF_HUB_OFFLINE" in result.stderr
    monkeypatch.delenv("HF_HUB_OFFLINE")
    assert run("models", "pull", "owner/name").exit_code == 0
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.setattr(huggingface_hub, "snapshot_download", lambda *_, **__: pytest.fail("a download was tried"))
    assert run("models", "pull", "owner/name").stdout.strip() == str(cached_model("owner/name"))


def weights_of(folder: Path) -> dict[str, dict[str, torch.Tensor]]:
    return {path.parent.name: load_file(path) for path in sorted(folder.rglob("*.safetensors"))}


def same_bits(first: dict[str, torch.Tensor], second: dict[str, torch.Tensor]) -> bool:
    return first.keys() == second.keys() and all(
        tensor.dtype == second[name].dtype
        and tensor.shape == second[name].shape
        and tensor.contiguous().numpy().tobytes() == second[name].contiguous().numpy().tobytes()
        for name, tensor in first.items()
    )


def test_convert_there_and_back_is_exact(run: Run, models: Path, tmp_path: Path) -> None:
    single, again, back = (tmp_path / name for name in ("one.safetensors", "two.safetensors", "back"))
    assert run("models", "convert", "tiny", models / "first").exit_code == 0  # under today's names of its tensors
    for source, target in (("tiny", single), (single, back), (back, again)):
        result = run("models", "convert", source, target)
        assert result.exit_code == 0, result.stderr
    first, last = weights_of(models / "first"), weights_of(back)
    assert first.keys() == last.keys()
    assert all(same_bits(first[part], last[part]) for part in first)
    assert same_bits(load_file(single), load_file(again))
    for name in ("unet/config.json", "vae/config.json", "scheduler/scheduler_config.json", "tokenizer/vocab.json"):
        assert (back / name).read_text("utf-8") == (models / "first" / name).read_text("utf-8")
    content = json.loads(run("models", "inspect", single, "--json").stdout)
    assert (content["family"], content["dtypes"], content["layout"]) == ("sd1", "F32", "ldm")


def test_folder_and_file_paint_the_same_picture(run: Run, models: Path, tmp_path: Path) -> None:
    assert run("models", "convert", "tiny", models / "one.safetensors").exit_code == 0
    pictures = []
    for model in ("tiny", "one"):
        target = tmp_path / f"{model}.png"
        result = run("generate", "a fox", "-m", model, "--seed", 3, "--steps", 2, "--dtype", "float32", "-o", target)
        assert result.exit_code == 0, result.stderr
        with Image.open(target) as picture:
            pictures.append(picture.tobytes())
    assert pictures[0] == pictures[1]
    assert len(set(pictures[0])) > 10


def test_convert_changes_the_number_format(run: Run, models: Path, tmp_path: Path) -> None:
    source = weights_of(models / "checkpoints" / "tiny")["unet"]
    for target in (tmp_path / "half.safetensors", tmp_path / "half"):
        content = json.loads(run("models", "convert", "tiny", target, "--dtype", "float16", "--json").stdout)
        assert content["bytes"] < 0.6 * json.loads(run("models", "inspect", "tiny", "--json").stdout)["bytes"]
        assert json.loads(run("models", "inspect", target, "--json").stdout)["dtypes"] == "F16"
    written = weights_of(tmp_path / "half")["unet"]
    assert all(torch.equal(tensor.half(), written[name]) for name, tensor in source.items())


def test_convert_says_what_it_left_out(run: Run, models: Path, tmp_path: Path) -> None:
    assert run("models", "convert", "tiny", tmp_path / "one.safetensors").stderr == ""
    tensors = load_file(tmp_path / "one.safetensors")
    extra = {"model_ema.a": torch.zeros(1), "model_ema.b": torch.zeros(1), "alphas_cumprod": torch.zeros(9)}
    metadata = read_header(tmp_path / "one.safetensors").metadata
    save_file(tensors | extra, tmp_path / "two.safetensors", metadata=metadata)
    source = (tmp_path / "two.safetensors", tmp_path / "out")
    result = run("models", "convert", *source)
    assert result.exit_code == 0, result.stderr
    said = "left out 3 tensors that are in none of the model's networks: model_ema.* (2), alphas_cumprod"
    assert " ".join(result.stderr.split()).endswith(said)
    assert json.loads(run("models", "convert", *source, "--force", "--json").stdout)["left_out"] == said


def test_convert_takes_what_a_file_lacks_from_elsewhere(
    run: Run, tiny_tokenizer_files: Path, tmp_path: Path
) -> None:
    parts = tiny_parts("flux-dev", tiny_tokenizer_files, tmp_path)
    write_folder(parts, tmp_path / "whole")
    bare, folder = tmp_path / "transformer.safetensors", tmp_path / "folder"
    save_file(load_file(tmp_path / "whole" / "transformer" / "diffusion_pytorch_model.safetensors"), bare)
    result = run("models", "convert", bare, folder)
    assert result.exit_code == 2, result.stderr
    given: list[object] = ["--vae", tmp_path / "whole" / "vae", "--tokenizer", tmp_path / "whole"]
    for part in ("text_encoder", "text_encoder_2"):
        given += ["--text-encoder", tmp_path / "whole" / part]
    assert run("models", "convert", bare, folder, *given[:4]).exit_code == 2
    for target in (folder, tmp_path / "one.safetensors"):
        result = run("models", "convert", bare, target, *given)
        assert result.exit_code == 0, result.stderr
        content = open_model(target)
        assert all(
            same_bits(dict(network.state_dict()), dict(content.networks[part].state_dict()))
            for part, network in parts.networks.items()
        )


def test_convert_writes_the_prediction_that_it_is_told(run: Run, models: Path, tmp_path: Path) -> None:
    for target in (tmp_path / "one.safetensors", tmp_path / "folder"):
        assert run("models", "convert", "tiny", target, "--prediction", "v").exit_code == 0
        assert open_model(target).scheduler.prediction == "v"
    assert run("models", "convert", "tiny", tmp_path / "two", "--prediction", "flow").exit_code == 2


def test_convert_refuses_numbers_too_large_for_the_format(run: Run, models: Path, tmp_path: Path) -> None:
    weights = models / "checkpoints" / "tiny" / "unet" / "diffusion_pytorch_model.safetensors"
    tensors = load_file(weights)
    tensors["conv_in.bias"][0] = 1e6
    save_file(tensors, weights, metadata={"format": "pt"})
    result = run("models", "convert", "tiny", tmp_path / "x.safetensors", "--dtype", "float16")
    assert result.exit_code == 1
    assert "unet.conv_in.bias" in result.stderr
    assert run("models", "convert", "tiny", tmp_path / "x.safetensors", "--dtype", "bfloat16").exit_code == 0


def test_convert_replaces_nothing_unasked(run: Run, models: Path, tmp_path: Path) -> None:
    taken = tmp_path / "taken.safetensors"
    taken.write_bytes(b"mine")
    assert run("models", "convert", "tiny", taken).exit_code == 2
    assert taken.read_bytes() == b"mine"
    assert run("models", "convert", "tiny", taken, "--force").exit_code == 0
    for source, target, words in (
        ("tiny", tmp_path / "x.ckpt", "pickles are only read"),
        (taken, taken, "is the model itself"),
        ("ink", tmp_path / "ink", "there is no model 'ink'"),
        (models / "loras" / "ink.safetensors", tmp_path / "ink", "is a LoRA"),
        ("tiny", models, "is not a model folder"),
    ):
        result = run("models", "convert", source, target, "--force")
        assert result.exit_code == 2, result.stderr
        assert words in result.stderr
    assert (models / "loras" / "ink.safetensors").exists()
    assert not list(tmp_path.rglob("*.part"))


def test_convert_does_not_replace_the_folder_that_its_source_lies_in(run: Run, models: Path) -> None:
    folder = models / "checkpoints" / "tiny"
    before = files_in(folder)
    done = run("models", "convert", folder / "vae" / "diffusion_pytorch_model.safetensors", folder, "--force")
    assert (done.exit_code, "lies in" in done.stderr) == (2, True)
    assert files_in(folder) == before


def test_remove_asks_and_then_removes(run: Run, models: Path) -> None:
    result = run("models", "remove", "ink")
    assert result.exit_code == 2
    assert "--yes" in result.stderr
    result = run("models", "remove", "ink", "--yes")
    assert result.exit_code == 0
    assert "removed" in result.stdout
    assert files_in(models / "loras") == {"broken.safetensors"}
    content = json.loads(run("models", "remove", "tiny", "-y", "--json").stdout)
    assert content["removed"] == [str(models / "checkpoints" / "tiny")]
    assert content["bytes"] > 1000
    assert not (models / "checkpoints" / "tiny").exists()


def test_remove_touches_nothing_outside_the_library(run: Run, models: Path, tmp_path: Path) -> None:
    elsewhere = lora(tmp_path / "elsewhere.safetensors")
    for name, words in ((elsewhere, "is not in a folder of the library"), ("scenes-128", "ships with Wordbrush"),
                        ("nothing", "there is no entry 'nothing'"), (models, "is not in a folder of the library")):
        result = run("models", "remove", name, "--yes")
        assert result.exit_code == 2
        assert words in result.stderr
    assert elsewhere.exists()
    assert run("models", "remove", models / "loras" / "ink.safetensors", "--yes").exit_code == 0


def test_remove_of_what_was_pulled(run: Run, repository: Path, remote: Remote, hub: Path) -> None:
    lora(repository / "ink.safetensors")
    shutil.copyfile(repository / "ink.safetensors", repository / "same.safetensors")
    remote("owner/name", repository)
    for file in ("ink.safetensors", "same.safetensors", "unet/config.json"):
        run("models", "pull", f"owner/name/{file}")
    blobs = hub / "models--owner--name" / "blobs"
    assert len(list(blobs.iterdir())) == 1
    assert run("models", "remove", "owner/name/ink.safetensors", "-y").exit_code == 0
    assert len(list(blobs.iterdir())) == 1  # the other file's contents too
    assert run("models", "remove", "same", "-y").exit_code == 0
    assert list(blobs.iterdir()) == []
    assert run("models", "pull", "owner/name").exit_code == 0
    assert run("models", "remove", "owner/name", "-y").exit_code == 0
    assert not (hub / "models--owner--name").exists()
    assert run("models", "remove", "owner/name", "-y").exit_code == 2


def test_remove_leaves_what_a_link_in_the_cache_leads_to(
    run: Run, repository: Path, remote: Remote, hub: Path, tmp_path: Path
) -> None:
    lora(repository / "ink.safetensors")
    remote("owner/name", repository)
    run("models", "pull", "owner/name/ink.safetensors")
    mine = lora(tmp_path / "mine.safetensors")
    link = next((hub / "models--owner--name" / "snapshots").iterdir()) / "linked.safetensors"
    link.symlink_to(mine)
    assert run("models", "remove", "owner/name/linked", "-y").exit_code == 0
    assert mine.exists()
    assert not link.is_symlink()


def test_folders(run: Run, tmp_path: Path) -> None:
    webui = tmp_path / "webui"
    lora(webui / "models" / "Lora" / "ink.safetensors")
    result = run("models", "folders", "add", webui)
    assert result.stdout == f"{webui}: 1 LoRA\n"
    assert run("models", "folders", "add", tmp_path, "--kind", "vae").exit_code == 0
    rows = json.loads(run("models", "folders", "list", "--json").stdout)["folders"]
    assert [(row["path"], row["kind"], row["exists"]) for row in rows[:2]] == [
        (str(webui), None, True), (str(tmp_path), "vae", True),
    ]  # fmt: skip
    shutil.rmtree(webui)
    assert "not there" in run("models", "folders", "list").stdout
    assert run("models", "folders", "remove", webui).exit_code == 0
    assert run("models", "folders", "remove", webui).exit_code == 2
    assert run("models", "folders", "add", webui).exit_code == 2
    assert json.loads(run("models", "list", "--kind", "lora", "--json").stdout)["models"] == []


@pytest.mark.parametrize(
    "command", ["list", "inspect", "pull", "convert", "remove", "folders add", "folders list", "folders remove"]
)
def test_help_shows_an_example(run: Run, command: str) -> None:
    result = run("models", *command.split(), "--help")
    assert result.exit_code == 0
    assert f"Example: wordbrush models {command}" in result.stdout
