"""Finding models by name in the trees people have; every file is tiny, no socket is opened."""

from __future__ import annotations

import errno
import hashlib
import json
import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

import wordbrush
from wordbrush.errors import ModelFileError, RequestError
from wordbrush.formats import hashes
from wordbrush.formats.library import EMBEDDED, Library
from wordbrush.formats.library_folders import LibraryFolder, add_folder, config_file, library_folders, remove_folder
from wordbrush.formats.open import locate_model

FLUX = {"double_blocks.0.img_attn.norm.key_norm.scale": torch.zeros(1)}
CHECKPOINT = {"model.diffusion_model.input_blocks.0.0.weight": torch.zeros(1)}
VAE = {"encoder.down.0.block.0.conv1.weight": torch.zeros(1)}
LORA = {"lora_unet_mid_block_attentions_0_proj_in.lora_down.weight": torch.zeros(1, 1)}
EMBEDDING = {"emb_params": torch.zeros(2, 4)}
ENCODER = {"text_model.embeddings.token_embedding.weight": torch.zeros(1)}


def write(path: Path, tensors: dict[str, torch.Tensor], **metadata: str) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    save_file(tensors, path, metadata=metadata)
    return path


def names(entries: tuple[object, ...]) -> list[str]:
    return [entry.name for entry in entries]  # type: ignore[attr-defined]


def library(*folders: Path) -> Library:
    return Library([LibraryFolder(path=folder) for folder in folders])


@pytest.fixture
def webui(tmp_path: Path) -> Path:
    root = tmp_path / "stable-diffusion-webui"
    models = root / "models"
    write(models / "Stable-diffusion" / "dream.safetensors", CHECKPOINT)
    write(models / "Stable-diffusion" / "xl" / "base.safetensors", CHECKPOINT)
    write(models / "Stable-diffusion" / "dream.vae.safetensors", VAE)
    write(models / "VAE" / "better.safetensors", VAE)
    write(models / "Lora" / "ink_v2.safetensors", LORA, ss_output_name="ink")
    write(models / "ESRGAN" / "4x.safetensors", {"body.0.rdb1.conv1.weight": torch.zeros(1)})
    write(root / "embeddings" / "EasyNegative.safetensors", EMBEDDING)
    write(root / "venv" / "lib" / "junk.safetensors", LORA)
    return root


@pytest.fixture
def comfy(tmp_path: Path) -> Path:
    root = tmp_path / "ComfyUI"
    write(root / "models" / "checkpoints" / "base.safetensors", CHECKPOINT)
    write(root / "models" / "diffusion_models" / "flux1-dev.sft", FLUX)
    write(root / "models" / "unet" / "flux1-schnell.safetensors", FLUX)
    write(root / "models" / "loras" / "ink.safetensors", LORA)
    write(root / "models" / "vae" / "ae.safetensors", VAE)
    write(root / "models" / "embeddings" / "bad.pt", EMBEDDING)
    write(root / "models" / "text_encoders" / "t5xxl_fp16.safetensors", ENCODER)
    write(root / "models" / "clip" / "clip_l.safetensors", ENCODER)
    return root


def test_a_webui_tree(webui: Path) -> None:
    found = library(webui)
    assert names(found.checkpoints()) == ["dream.safetensors", EMBEDDED, "xl/base.safetensors"]
    assert names(found.vaes()) == ["better.safetensors", "dream.vae.safetensors"]
    assert names(found.loras()) == ["ink_v2.safetensors"]
    assert names(found.embeddings()) == ["EasyNegative.safetensors"]


def test_a_comfyui_tree_by_its_root_and_by_its_models_folder(comfy: Path) -> None:
    for place in (comfy, comfy / "models"):
        found = library(place)
        models = ["base.safetensors", "flux1-dev.sft", "flux1-schnell.safetensors", EMBEDDED]
        assert names(found.checkpoints()) == models
        assert names(found.loras()) == ["ink.safetensors"]
        assert names(found.vaes()) == ["ae.safetensors"]
        assert names(found.embeddings()) == ["bad.pt"]
        assert names(found.text_encoders()) == ["clip_l.safetensors", "t5xxl_fp16.safetensors"]


def test_in_a_plain_folder_the_headers_tell(tmp_path: Path) -> None:
    for name, tensors in {"a": CHECKPOINT, "b": VAE, "c": LORA, "d": EMBEDDING, "e": ENCODER}.items():
        write(tmp_path / "deep" / "er" / f"{name}.safetensors", tensors)
    write(tmp_path / "other.safetensors", {"weight": torch.zeros(1, 1, 1)})
    (tmp_path / "old.ckpt").write_bytes(b"PK")
    (tmp_path / ".hidden").mkdir()
    write(tmp_path / ".hidden" / "x.safetensors", CHECKPOINT)
    found = library(tmp_path)
    assert names(found.checkpoints()) == ["deep/er/a.safetensors", "old.ckpt", EMBEDDED]
    kinds = [(entry.name[-13], entry.kind) for entry in found.entries() if entry.name.startswith("deep")]
    wanted = {"a": "checkpoint", "b": "vae", "c": "lora", "d": "embedding", "e": "text_encoder"}
    assert dict(kinds) == wanted
    typed = Library([LibraryFolder(path=tmp_path / "deep", kind="lora")])
    assert len(typed.loras()) == 5


def test_diffusers_folders_are_one_entry_each(tmp_path: Path, tiny_sd_folder: Path) -> None:
    (tmp_path / "tiny").symlink_to(tiny_sd_folder, target_is_directory=True)
    found = library(tmp_path)
    assert names(found.checkpoints()) == [EMBEDDED, "tiny"]
    assert found.find_checkpoint("tiny") == tmp_path / "tiny"
    assert names(library(tiny_sd_folder).entries()) == [EMBEDDED, tiny_sd_folder.name]


def test_folders_that_link_in_a_circle_end(tmp_path: Path) -> None:
    write(tmp_path / "a" / "x.safetensors", LORA)
    (tmp_path / "a" / "again").symlink_to(tmp_path, target_is_directory=True)
    assert names(library(tmp_path).loras()) == ["a/x.safetensors"]


@pytest.mark.parametrize(
    "name",
    ["dream", "dream.safetensors", "DREAM", "dream [{short}]", "dream.safetensors [{short}]", "{short}", "{whole}"],
)
def test_the_ways_to_name_a_file(webui: Path, name: str) -> None:
    path = webui / "models" / "Stable-diffusion" / "dream.safetensors"
    whole = hashlib.sha256(path.read_bytes()).hexdigest()
    hashes.file_sha256(path)
    assert library(webui).find_checkpoint(name.format(short=whole[:10], whole=whole)) == path


def test_names_below_a_folder_and_with_backslashes(webui: Path) -> None:
    spellings = ("base", "xl/base", r"xl\base.safetensors", "base.safetensors")
    assert len({library(webui).find_checkpoint(name) for name in spellings}) == 1


def test_a_lora_is_also_what_its_trainer_called_it(webui: Path) -> None:
    assert library(webui).find_lora("ink").name == "ink_v2.safetensors"


def test_a_file_name_goes_before_an_output_name(webui: Path, comfy: Path) -> None:
    assert library(webui, comfy).find_lora("ink") == comfy / "models" / "loras" / "ink.safetensors"


def test_an_ambiguous_name_lists_what_it_could_be(webui: Path, comfy: Path) -> None:
    with pytest.raises(ModelFileError, match=r"'base\.safetensors' is the name of 2 files: .*ComfyUI.*, .*xl"):
        library(webui / "models" / "Stable-diffusion" / "xl", comfy).find_checkpoint("base.safetensors")
    # the path below one folder is plainer than the file's name below another
    assert library(webui, comfy).find_checkpoint("base").parent.name == "checkpoints"


def test_one_file_in_two_trees_is_not_ambiguous(webui: Path, tmp_path: Path) -> None:
    other = tmp_path / "other" / "loras"
    other.mkdir(parents=True)
    (other / "ink_v2.safetensors").symlink_to(webui / "models" / "Lora" / "ink_v2.safetensors")
    assert library(webui, tmp_path / "other").find_lora("ink_v2").exists()


def test_an_unknown_name_gets_close_ones(webui: Path) -> None:
    with pytest.raises(ModelFileError, match=r"there is no LoRA 'ink_v1'.*close to it: ink_v2$"):
        library(webui).find_lora("ink_v1")
    with pytest.raises(ModelFileError, match=r"there is no embedding 'zzz'.*models list"):
        library(webui).find_embedding("zzz")


def test_a_title_with_the_wrong_hash_is_another_version(webui: Path) -> None:
    with pytest.raises(ModelFileError, match=r"dream\.safetensors is not 'dream \[0123456789\]'"):
        library(webui).find_checkpoint("dream [0123456789]")


def test_a_path_is_itself(tmp_path: Path) -> None:
    path = write(tmp_path / "x.safetensors", LORA)
    assert library().find_lora(path) == library().find_lora(str(path)) == path


def test_a_damaged_file_is_still_found(tmp_path: Path) -> None:
    (tmp_path / "broken.safetensors").write_bytes(b"nonsense")
    assert library(tmp_path).find_checkpoint("broken").name == "broken.safetensors"


def test_what_leads_nowhere_stops_nothing(tmp_path: Path, webui: Path) -> None:
    """Prompts are searched for the names of embeddings, so that one bad link would stop every picture."""
    folder = webui / "embeddings"
    (folder / "circle.pt").symlink_to("circle.pt")
    (folder / "gone.safetensors").symlink_to(tmp_path / "gone")
    assert "EasyNegative.safetensors" in names(library(webui).embeddings())
    assert library(webui).find_embedding("EasyNegative") == folder / "EasyNegative.safetensors"


@pytest.mark.parametrize("name", ["x" * 5000, "x\0y", "~nobody-of-that-name/x.safetensors"])
def test_names_that_no_file_can_have(name: str) -> None:
    with pytest.raises(ModelFileError, match="there is no model"):
        locate_model(name)


def test_a_path_that_may_not_be_seen(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def stat(path: Path, **_: object) -> None:
        raise PermissionError(errno.EACCES, "Permission denied", str(path))

    monkeypatch.setattr(Path, "stat", stat)
    with pytest.raises(ModelFileError, match=r"a\.safetensors cannot be read: Permission denied"):
        locate_model(tmp_path / "a.safetensors")


def test_folders_are_configured(tmp_path: Path, webui: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert library_folders() == ()
    add_folder(webui)
    add_folder(tmp_path, "lora")
    add_folder(webui, "lora")
    assert [(folder.path, folder.kind) for folder in library_folders()] == [(tmp_path, "lora"), (webui, "lora")]
    remove_folder(webui)
    monkeypatch.setenv("WORDBRUSH_MODELS", os.pathsep.join([str(webui), str(tmp_path / "gone")]))
    folders = library_folders()
    assert [(folder.path, folder.configured) for folder in folders] == [
        (tmp_path, True), (webui, False), (tmp_path / "gone", False),
    ]  # fmt: skip
    assert len(Library.default().checkpoints()) == 3
    with pytest.raises(RequestError, match=r"is not one of the library's folders"):
        remove_folder(webui)
    with pytest.raises(RequestError, match="there is no folder"):
        add_folder(tmp_path / "nowhere")


def test_settings_beside_the_folders_are_kept_and_damaged_ones_named(tmp_path: Path) -> None:
    config_file().parent.mkdir(parents=True, exist_ok=True)
    config_file().write_text(json.dumps({"other": 1, "model_folders": [str(tmp_path)]}), encoding="utf-8")
    add_folder(tmp_path, "vae")
    assert json.loads(config_file().read_text(encoding="utf-8")) == {
        "other": 1, "model_folders": [{"path": str(tmp_path), "kind": "vae"}],
    }  # fmt: skip
    for text in ("{", "[]", '{"model_folders": [1]}'):
        config_file().write_text(text, encoding="utf-8")
        with pytest.raises(ModelFileError, match=r"config\.json"):
            library_folders()


def cached(cache: Path, name: str, commit: str, source: Path) -> Path:
    """A repository as huggingface_hub keeps it: refs, and a snapshot of links into blobs."""
    repository = cache / f"models--{name.replace('/', '--')}"
    (repository / "refs").mkdir(parents=True)
    (repository / "refs" / "main").write_text(commit, encoding="utf-8")
    snapshot, blobs = repository / "snapshots" / commit, repository / "blobs"
    blobs.mkdir()
    for number, path in enumerate(sorted(path for path in source.rglob("*") if path.is_file())):
        place = snapshot / path.relative_to(source)
        place.parent.mkdir(parents=True, exist_ok=True)
        (blobs / f"blob{number}").write_bytes(path.read_bytes())
        place.symlink_to(os.path.relpath(blobs / f"blob{number}", place.parent))
    return snapshot


def test_what_was_pulled_opens_without_a_socket(
    hub: Path, tiny_sd_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    snapshot = cached(hub, "owner/tiny", "a" * 40, tiny_sd_folder)

    def refuse(*_: object, **__: object) -> None:
        raise AssertionError("a socket was opened")

    monkeypatch.setattr(socket, "socket", refuse)
    monkeypatch.setattr(socket, "getaddrinfo", refuse)
    assert Library.default().find_checkpoint("owner/tiny") == locate_model("owner/tiny", fetch=True) == snapshot
    assert locate_model("owner/tiny", revision="a" * 40) == locate_model("owner/tiny", revision="main") == snapshot
    result = wordbrush.load("owner/tiny", dtype="float32")("a fox", seed=1, steps=1)
    assert len(result.images) == 1


def test_an_interrupted_pull_is_not_a_model(hub: Path, tiny_sd_folder: Path) -> None:
    snapshot = cached(hub, "owner/tiny", "b" * 40, tiny_sd_folder)
    for missing in ("unet/diffusion_pytorch_model.safetensors", "scheduler/scheduler_config.json", "tokenizer", "vae"):
        hidden = snapshot.parent / "hidden"
        (snapshot / missing).rename(hidden)
        assert names(Library([]).checkpoints()) == [EMBEDDED]
        with pytest.raises(ModelFileError, match="models pull owner/tiny"):
            locate_model("owner/tiny")
        hidden.rename(snapshot / missing)
    assert names(Library([]).checkpoints()) == ["owner/tiny", EMBEDDED]


def test_single_files_of_the_hub(hub: Path, tmp_path: Path) -> None:
    write(tmp_path / "repository" / "sub" / "ink.safetensors", LORA)
    write(tmp_path / "repository" / "model-00001-of-00002.safetensors", ENCODER)
    (tmp_path / "repository" / "training_args.bin").write_bytes(b"PK")
    snapshot = cached(hub, "owner/loras", "c" * 40, tmp_path / "repository")
    found = Library([])
    assert found.find_lora("owner/loras/sub/ink.safetensors") == snapshot / "sub" / "ink.safetensors"
    assert found.find_lora("ink").exists()
    assert found.text_encoders() == found.embeddings() == ()


def test_hashes_are_those_of_the_field_and_are_remembered(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = write(tmp_path / "x.safetensors", {"weight": torch.arange(600_000, dtype=torch.float32)})
    data = path.read_bytes()
    whole = hashlib.sha256(data).hexdigest()
    body = hashlib.sha256(data[8 + int.from_bytes(data[:8], "little") :]).hexdigest()
    assert hashes.cached_sha256(path) is None
    read: list[int] = []
    assert hashes.file_sha256(path, read.append) == whole
    assert sum(read) == len(data)
    assert (hashes.short_hash(whole), hashes.autov2(whole)) == (whole[:10], whole[:10].upper())
    assert hashes.lora_hash(path) == body[:12]
    assert hashes.legacy_hash(path) == hashlib.sha256(data[0x100000:0x110000]).hexdigest()[:8]
    monkeypatch.setattr(hashes, "_compute", None)
    assert (hashes.file_sha256(path), hashes.lora_hash(path)) == (whole, body[:12])


def test_a_changed_file_is_hashed_again(tmp_path: Path) -> None:
    path = tmp_path / "x.ckpt"
    path.write_bytes(b"one")
    first = hashes.file_sha256(path)
    path.write_bytes(b"two")
    os.utime(path, ns=(1, 1))
    assert hashes.cached_sha256(path) is None
    assert hashes.file_sha256(path) == hashlib.sha256(b"two").hexdigest() != first


def test_the_hash_in_a_loras_metadata_counts(tmp_path: Path) -> None:
    path = write(tmp_path / "x.safetensors", LORA, sshs_model_hash="0123456789abcdef" * 4)
    assert hashes.lora_hash(path) == hashes.cached_lora_hash(path) == "0123456789ab"


def test_two_processes_remember_at_once(tmp_path: Path) -> None:
    paths = [tmp_path / f"{number}.bin" for number in range(20)]
    for path in paths:
        path.write_bytes(path.name.encode())
    program = (
        "import sys; from pathlib import Path; from wordbrush.formats.hashes import file_sha256\n"
        "for name in sys.argv[1:]: file_sha256(Path(name))"
    )
    home = Path(wordbrush.__file__).parents[1]
    command = [sys.executable, "-c", program, *map(str, paths)]
    running = [subprocess.Popen(command, env={**os.environ, "PYTHONPATH": str(home)}) for _ in range(2)]
    assert [process.wait(120) for process in running] == [0, 0]
    assert [hashes.cached_sha256(path) for path in paths] == [
        hashlib.sha256(path.name.encode()).hexdigest() for path in paths
    ]


@pytest.mark.parametrize("name", ["./a/b", "~/a", r"a\b", "owner/file.safetensors", "here/b", "nowhere"])
def test_what_looks_like_a_path_is_never_downloaded(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import huggingface_hub

    monkeypatch.chdir(tmp_path)
    (tmp_path / "here").mkdir()
    monkeypatch.setattr(huggingface_hub, "snapshot_download", lambda *_, **__: pytest.fail("a download was tried"))
    with pytest.raises(ModelFileError, match="there is no model"):
        locate_model(name, fetch=True)
