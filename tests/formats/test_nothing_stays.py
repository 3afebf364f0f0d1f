"""A bad file leaves nothing behind: no tensor, no network, no mapped file, nothing on the model that it was for."""

from __future__ import annotations

import gc
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from tests.formats.single_files import rewritten, tiny_parts
from torch import Tensor, nn

import wordbrush
from wordbrush.errors import WordbrushError
from wordbrush.formats.diffusers_folder import write_folder
from wordbrush.formats.lora.read import read_lora
from wordbrush.formats.open import open_model
from wordbrush.formats.single_file.write import write_single_file
from wordbrush.formats.textual_inversion import read_embedding
from wordbrush.runtime.policy import Runtime

UNET = "model.diffusion_model."

pytestmark = pytest.mark.skipif(not Path("/proc/self/maps").exists(), reason="Linux says which files are mapped")


@pytest.fixture(autouse=True)
def _only_what_is_new() -> Iterator[None]:
    """What the process held before is not looked through again and again."""
    gc.collect()
    gc.freeze()
    yield
    gc.unfreeze()


def held() -> tuple[int, int, int]:
    """How many new tensors there are in this process, how many bytes they are, and how many networks there are."""
    gc.collect()
    objects = gc.get_objects()
    found = [thing for thing in objects if isinstance(thing, Tensor)]
    modules = sum(isinstance(thing, nn.Module) for thing in objects)
    return len(found), sum(tensor.nbytes for tensor in found if not tensor.is_meta), modules


def assert_nothing_stays(work: Callable[[], Any], folder: Path) -> None:
    """`work` fails, and afterwards memory holds what it held before, and maps no file of the folder."""
    with pytest.raises(WordbrushError):  # imports, and what torch makes once
        work()
    before = held()
    with pytest.raises(WordbrushError):
        work()
    assert held() == before
    assert str(folder) not in Path("/proc/self/maps").read_text(encoding="utf-8")


def _set(name: str, value: float) -> Callable[[dict[str, Tensor]], None]:
    def change(tensors: dict[str, Tensor]) -> None:
        tensors[name] = tensors[name].clone()
        tensors[name].view(-1)[-1] = value

    return change


def _without(start: str) -> Callable[[dict[str, Tensor]], dict[str, Tensor]]:
    return lambda tensors: {name: tensor for name, tensor in tensors.items() if not name.startswith(start)}


@pytest.fixture(scope="module")
def whole(tiny_tokenizer_files: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a model as a folder and as a file."""
    folder = tmp_path_factory.mktemp("whole")
    parts = tiny_parts("sd1", tiny_tokenizer_files, folder)
    write_folder(parts, folder / "model")
    write_single_file(parts, folder / "model.safetensors")
    return folder


@pytest.fixture
def copy(whole: Path, tmp_path: Path) -> Path:
    """The same, to be damaged."""
    return Path(shutil.copytree(whole, tmp_path / "copy"))


# The last tensors that are read are damaged, so that most of the model has been by then.
FILES: dict[str, Callable[[dict[str, Tensor]], Any]] = {
    "a NaN at the end": _set("first_stage_model.quant_conv.weight", float("nan")),
    "an infinity in the network that denoises": _set(f"{UNET}out.2.weight", float("inf")),
    "too large for float16": _set(f"{UNET}out.2.weight", 1e9),
    "a tensor is missing": _without("first_stage_model.decoder.conv_out.bias"),
    "a part is missing": _without("cond_stage_model."),
    "an unexpected tensor": lambda tensors: tensors | {f"{UNET}more": torch.ones(3)},
    "a wrong shape": lambda tensors: tensors | {f"{UNET}out.0.weight": torch.ones(3)},
}


@pytest.mark.parametrize("case", FILES)
def test_of_a_single_file(copy: Path, case: str) -> None:
    path = rewritten(copy / "model.safetensors", FILES[case], keep_metadata=True)
    runtime = Runtime.choose("cpu", "float16" if "float16" in case else "float32")
    assert_nothing_stays(lambda: open_model(path, runtime=runtime), copy)
    if "float16" not in case:
        assert_nothing_stays(lambda: wordbrush.load(path, device="cpu"), copy)


def test_of_a_pickle(copy: Path) -> None:
    tensors = load_file(copy / "model.safetensors")
    tensors.pop("first_stage_model.decoder.conv_out.bias")
    torch.save({"state_dict": tensors}, copy / "model.ckpt")
    del tensors
    assert_nothing_stays(lambda: open_model(copy / "model.ckpt", tokenizer=copy / "model" / "tokenizer"), copy)


@pytest.mark.parametrize("part", ["text_encoder/model", "vae/diffusion_pytorch_model"])
@pytest.mark.parametrize("damage", ["cut", "a NaN", "another config"])
def test_of_a_folder(copy: Path, part: str, damage: str) -> None:
    weights = copy / "model" / f"{part}.safetensors"
    if damage == "cut":
        weights.write_bytes(weights.read_bytes()[:-5])
    elif damage == "a NaN":
        tensors = load_file(weights)
        next(iter(tensors.values())).view(-1)[0] = float("nan")
        save_file(tensors, weights)
        del tensors
    else:
        config = weights.with_name("config.json")
        text = config.read_text(encoding="utf-8")
        for name, count in (("num_hidden_layers", 2), ("layers_per_block", 1)):
            text = text.replace(f'"{name}": {count}', f'"{name}": {count + 1}')
        config.write_text(text, encoding="utf-8")
    assert_nothing_stays(lambda: open_model(copy / "model", runtime=Runtime.choose("cpu", "float32")), copy)


def test_of_a_vae_a_lora_and_an_embedding(copy: Path) -> None:
    vae = load_file(copy / "model" / "vae" / "diffusion_pytorch_model.safetensors")
    save_file(_without("quant_conv.bias")(vae), copy / "vae.safetensors")
    save_file({"a.lora_down.weight": torch.ones(2, 8), "a.lora_up.weight": torch.ones(8, 3)}, copy / "lora.safetensors")
    save_file({"a": torch.ones(2, 8), "b": torch.ones(3)}, copy / "word.safetensors")
    del vae
    assert_nothing_stays(lambda: open_model(copy / "model", vae=copy / "vae.safetensors"), copy)
    assert_nothing_stays(lambda: read_lora(copy / "lora.safetensors"), copy)
    assert_nothing_stays(lambda: read_embedding(copy / "word.safetensors"), copy)


def test_of_a_lora_that_fits_half_of_a_model(copy: Path) -> None:
    names = ("lora_unet_mid_block_attentions_0_proj_in", "lora_unet_no_such_layer")
    ends = {"lora_down.weight": torch.ones(2, 4), "lora_up.weight": torch.ones(4, 2)}
    tensors = {f"{name}.{end}": tensor.clone() for name in names for end, tensor in ends.items()}
    save_file(tensors, copy / "half.safetensors")
    del tensors
    pipe = wordbrush.load(copy / "model", device="cpu", dtype="float32")
    weights = {name: tensor.clone() for name, tensor in pipe.parts.denoiser.state_dict().items()}
    lora = {"name": str(copy / "half.safetensors"), "unet": 1.0}
    request = {"steps": 1, "seed": 1, "width": 16, "height": 16}
    found = []
    for _ in range(3):
        with pytest.raises(WordbrushError, match="no_such_layer"):
            pipe("a fox", loras=[lora], **request)
        found.append(held())
    assert found[1] == found[2]
    state = pipe.parts.denoiser.state_dict()
    assert all(torch.equal(state[name], tensor) for name, tensor in weights.items())
