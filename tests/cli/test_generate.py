"""`wordbrush generate`: files, names, notes, errors and exit codes."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image, ImageStat
from safetensors.torch import load_file, save_file

from wordbrush import pipeline as pipeline_module
from wordbrush.cli import generate as module
from wordbrush.cli.output import Output, slug
from wordbrush.errors import RequestError
from wordbrush.metadata import read_metadata

from .conftest import Run


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def test_paints_into_a_folder_with_a_contact_sheet(run: Run, tiny_v_folder: Path, tmp_path: Path) -> None:
    out = tmp_path / "new" / "out"
    result = run("generate", "a fox, on a blue background!", "-n", 2, "--seed", 7, "-m", tiny_v_folder, "-o", out)
    assert result.exit_code == 0, result.output
    assert names(out) == ["a-fox-on-a-blue-background-7.png", "a-fox-on-a-blue-background-8.png", "contact-sheet.png"]
    for name in names(out)[:2]:
        assert str(out / name) in result.stdout
        metadata = read_metadata(out / name)
        assert metadata.request.prompt == "a fox, on a blue background!"
        assert metadata.request.seed == int(name[-5])
        assert metadata.origin.model_hash is not None
    assert "2 pictures in" in result.stderr


def test_a_file_is_taken_by_its_name_and_replaced(run: Run, tiny_v_folder: Path, tmp_path: Path) -> None:
    for seed in (1, 2):
        result = run("generate", "a fox", "--seed", seed, "-m", tiny_v_folder, "-o", tmp_path / "x.png")
        assert result.exit_code == 0, result.output
    assert names(tmp_path) == ["x.png"]
    assert read_metadata(tmp_path / "x.png").request.seed == 2
    run("generate", "a fox", "-n", 2, "--no-sheet", "-m", tiny_v_folder, "-o", tmp_path / "y.png")
    assert names(tmp_path) == ["x.png", "y-1.png", "y-2.png"]


def test_in_a_folder_nothing_is_replaced(run: Run, tiny_v_folder: Path, tmp_path: Path) -> None:
    for _ in range(2):
        run("generate", "a fox", "--seed", 1, "-m", tiny_v_folder, "-o", tmp_path)
    assert names(tmp_path) == ["a-fox-1-2.png", "a-fox-1.png"]
    first, second = (Image.open(tmp_path / name).tobytes() for name in names(tmp_path))
    assert first == second


def test_every_flag_reaches_the_request(run: Run, tiny_v_folder: Path, tmp_path: Path) -> None:
    flags = (
        "--negative", "a red car", "--steps", 3, "--guidance", 2.5, "--guidance-rescale", 0.5, "--guidance-interval",
        "0.25,1", "--sampler", "euler_a", "--schedule", "karras", "--size", "40x24", "--seed", 3, "--dtype", "float32",
        "--device", "cpu", "--json",
    )  # fmt: skip
    result = run("generate", "a fox", "-m", tiny_v_folder, "-o", tmp_path / "x.png", *flags)
    assert result.exit_code == 0, result.output
    content = json.loads(result.stdout)
    assert content["request"] == {
        "prompt": "a fox", "negative_prompt": "a red car", "model": str(tiny_v_folder), "seed": 3, "count": 1,
        "steps": 3, "guidance": 2.5, "guidance_rescale": 0.5, "guidance_interval": [0.25, 1.0], "sampler": "euler_a",
        "schedule": "karras", "width": 40, "height": 24,
    }  # fmt: skip
    assert content["dtype"] == "float32"
    assert content["pictures"] == [{"file": str(tmp_path / "x.png"), "prompt": "a fox", "seed": 3}]
    assert Image.open(tmp_path / "x.png").size == (40, 24)


def test_timesteps_flag(run: Run, tiny_v_folder: Path, tmp_path: Path) -> None:
    result = run("generate", "a fox", "-m", tiny_v_folder, "-o", tmp_path / "x.png", "--timesteps", "900,100", "--json")
    assert json.loads(result.stdout)["request"]["timesteps"] == [900, 100]


@pytest.mark.parametrize("source", ["argument", "option", "file"])
def test_prompts_from_standard_input_or_a_file(run: Run, tiny_v_folder: Path, tmp_path: Path, source: str) -> None:
    text = "\ufeffa fox\n\n  three cats  \r\n狐\n".encode()
    (tmp_path / "prompts.txt").write_bytes(text)
    chosen = {"argument": ("-",), "option": ("--prompts", "-"), "file": ("--prompts", tmp_path / "prompts.txt")}[source]
    out = tmp_path / "out"
    result = run("generate", *chosen, "--seed", 1, "-m", tiny_v_folder, "-o", out, input=text)
    assert result.exit_code == 0, result.output
    assert names(out) == ["a-fox-1.png", "contact-sheet.png", "three-cats-2.png", "狐-3.png"]


def test_words_the_model_cannot_read_are_said(run: Run, tiny_v_folder: Path, tmp_path: Path) -> None:
    result = run("generate", "a zebra 🦊 " + "word " * 10_000, "-m", tiny_v_folder, "-o", tmp_path)
    assert result.exit_code == 0, result.output
    assert "note: the model has never seen, and will only guess at: 'zebra', '🦊'" in result.stderr
    assert len(names(tmp_path)[0].encode()) < 255


@pytest.mark.parametrize(
    ("flags", "code", "words"),
    [
        ((), 2, "give a prompt"),
        (("a fox", "--prompts", "x"), 2, "not both"),
        (("--prompts", "no such file"), 2, "no such file"),
        (("a fox", "--steps", 0), 2, "steps=0"),
        (("a fox", "--steps", "many"), 2, "--steps"),
        (("a fox", "--sampler", "eulr"), 2, "euler_a"),
        (("a fox", "--schedule", "x"), 2, "karras"),
        (("a fox", "--size", "big"), 2, "128x128"),
        (("a fox", "--size", "33x32"), 2, "width=33"),
        (("a fox", "--timesteps", "a"), 2, "999,749"),
        (("a fox", "--guidance-interval", "1"), 2, "LOW,HIGH"),
        (("a fox", "--wobble"), 2, "--wobble"),
        (("a fox", "--device", "tpu"), 2, "tpu"),
        (("a fox", "-m", "no such model"), 2, "no such model"),
        (("a fox", "-o", "x.jpg"), 2, ".png"),
        (("a fox", "-n", 0), 2, "count=0"),
    ],
)
def test_a_wrong_request_is_one_sentence_and_exit_code_2(
    run: Run,
    tiny_v_folder: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    flags: tuple[Any, ...],
    code: int,
    words: str,
) -> None:
    monkeypatch.chdir(tmp_path)
    model = () if "-m" in flags else ("-m", tiny_v_folder)
    result = run("generate", *flags, *model)
    assert result.exit_code == code
    assert words in result.stderr
    assert result.stdout == ""
    assert "Traceback" not in result.stderr
    assert not list(tmp_path.rglob("*.png"))


def test_a_folder_that_cannot_be_written_fails_before_any_painting(run: Run, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    result = run("generate", "a fox", "-m", "never looked at", "-o", tmp_path / "file" / "out")
    assert result.exit_code == 1
    assert "cannot write to the folder" in result.stderr


def test_a_model_that_is_not_there_leaves_no_folder(run: Run, tmp_path: Path) -> None:
    result = run("generate", "a fox", "-m", tmp_path / "bad", "-o", tmp_path / "new" / "out" / "x.png")
    assert result.exit_code == 2
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("count", [4, 2])  # with two it is the contact sheet that has no room
def test_a_disk_that_fills_up_keeps_what_is_finished(
    run: Run, tiny_v_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, count: int
) -> None:
    run("generate", "a fox", "-m", tiny_v_folder, "-o", tmp_path / "first")  # the model's hash is now remembered
    shutil.rmtree(tmp_path / "first")
    real, written = os.fsync, []

    def fills_up(descriptor: int) -> None:
        written.append(descriptor)
        if len(written) > 2:
            raise OSError(28, "No space left on device")
        real(descriptor)

    monkeypatch.setattr(os, "fsync", fills_up)
    result = run("generate", "a fox", "-n", count, "--seed", 1, "-m", tiny_v_folder, "-o", tmp_path)
    assert result.exit_code == 1
    assert "No space left on device" in result.stderr
    assert f"2 of {count} pictures are finished" in result.stderr
    assert names(tmp_path) == ["a-fox-1.png", "a-fox-2.png"]


def test_pictures_are_saved_batch_by_batch_and_the_same(
    run: Run, tiny_v_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    flags = ("-n", 5, "--seed", 1, "-m", tiny_v_folder, "--no-sheet")
    run("generate", "a fox", *flags, "-o", tmp_path / "whole")
    monkeypatch.setattr(pipeline_module.Pipeline, "batch_size", lambda *_: 2)
    run("generate", "a fox", *flags, "-o", tmp_path / "pieces")
    assert names(tmp_path / "whole") == names(tmp_path / "pieces")
    for name in names(tmp_path / "whole"):
        assert (tmp_path / "whole" / name).read_bytes() == (tmp_path / "pieces" / name).read_bytes()


def test_an_interrupt_leaves_finished_pictures_and_says_so(
    run: Run, tiny_v_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = pipeline_module.Pipeline.finish
    calls: list[int] = []

    def interrupted(*arguments: Any) -> Any:
        calls.append(1)
        if len(calls) == 2:
            raise KeyboardInterrupt
        return real(*arguments)

    monkeypatch.setattr(pipeline_module.Pipeline, "batch_size", lambda *_: 2)
    monkeypatch.setattr(pipeline_module.Pipeline, "finish", interrupted)
    result = run("generate", "a fox", "-n", 6, "--seed", 1, "-m", tiny_v_folder, "-o", tmp_path)
    assert result.exit_code == 130
    assert result.stderr.strip().splitlines()[-1] == f"error: interrupted; 2 of 6 pictures are finished, in {tmp_path}"
    assert names(tmp_path) == ["a-fox-1.png", "a-fox-2.png"]


def test_ctrl_c_in_a_real_process(tiny_v_folder: Path, tmp_path: Path) -> None:
    command = [
        sys.executable, "-m", "wordbrush", "generate", "a fox", "-n", "5000", "--steps", "50", "-m", str(tiny_v_folder),
        "-o", str(tmp_path),
    ]  # fmt: skip
    heed = partial(signal.signal, signal.SIGINT, signal.SIG_DFL)  # who started the tests with & ignores Ctrl-C
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, preexec_fn=heed)
    until = time.monotonic() + 120
    while not list(tmp_path.glob("a-fox-*.png")) and time.monotonic() < until and process.poll() is None:
        time.sleep(0.05)
    process.send_signal(signal.SIGINT)
    stdout, stderr = process.communicate(timeout=60)
    assert process.returncode == 130, stderr
    assert stdout == ""
    last = stderr.strip().splitlines()[-1]
    assert "interrupted; " in last
    assert "Traceback" not in stderr
    finished = list(tmp_path.glob("a-fox-*.png"))
    assert f"{len(finished)} of 5000 pictures" in last
    assert not list(tmp_path.glob(".wordbrush-*"))
    for path in finished:
        assert read_metadata(path).request.prompt == "a fox"


def test_a_log_gets_plain_lines_with_the_time_left(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(module.console, "LOG_INTERVAL", 0.0)
    with module.console.progress("painting 1 picture", 3) as advance:
        for _ in range(3):
            advance()
    lines = capsys.readouterr().err.splitlines()
    assert [line.split(", about")[0] for line in lines] == [
        "painting 1 picture: step 1 of 3",
        "painting 1 picture: step 2 of 3",
    ]
    assert [line.endswith("left") for line in lines] == [False, True]  # the first step says nothing of the others


@pytest.mark.parametrize(
    ("seconds", "text"), [(0.04, "0.0 s"), (9.94, "9.9 s"), (59.4, "59 s"), (185, "3 min 5 s"), (7800, "2 h 10 min")]
)
def test_durations(seconds: float, text: str) -> None:
    assert module.console.duration(seconds) == text


@pytest.mark.parametrize(
    ("prompt", "name"),
    [("A fox!", "a-fox"), ("../../etc/passwd", "etc-passwd"), ("🦊", "picture"), ("", "picture"), ("狐 狸", "狐-狸")],
)
def test_names_of_files(prompt: str, name: str) -> None:
    assert slug(prompt) == name


def test_long_names_stay_within_what_file_systems_take() -> None:
    assert len(slug("狐" * 500).encode()) <= 180
    assert len(slug("word " * 500)) <= 60


def test_output_means_a_file_by_its_ending(tmp_path: Path) -> None:
    assert Output.parse("a/b.png").file == Path("a/b.png")
    assert Output.parse("v1.5").file is None
    (tmp_path / "odd.png").mkdir()
    assert Output.parse(str(tmp_path / "odd.png")).file is None
    with pytest.raises(RequestError, match="PNG"):
        Output.parse("a.webp")


def test_loras_and_the_reading_of_prompts_are_part_of_the_request(
    run: Run, tiny_v_folder: Path, tmp_path: Path
) -> None:
    layer = "unet.mid_block.attentions.0.transformer_blocks.0.attn2.to_k.lora_{}.weight"
    lora = tmp_path / "style.safetensors"
    save_file({layer.format("A"): torch.ones(2, 32), layer.format("B"): torch.ones(64, 2)}, lora)
    result = run(
        "generate", "a (red:1.3) fox", "--lora", f"{lora}:0.5:0", "--clip-skip", 2, "--emphasis", "no norm", "--steps",
        2, "--seed", 1, "-m", tiny_v_folder, "-o", tmp_path / "out",
    )  # fmt: skip
    assert result.exit_code == 0, result.output
    assert "LoRA style: matched 2 of 2 keys" in result.stderr
    metadata = read_metadata(tmp_path / "out" / names(tmp_path / "out")[0])
    request = metadata.request
    assert [(found.name, found.unet, found.text) for found in request.loras] == [(str(lora), 0.5, 0.0)]
    assert (request.clip_skip, request.emphasis) == (2, "no norm")
    assert (metadata.origin.lora_hashes or "").startswith("style: ")
    result = run("generate", "a fox", "--lora", "nothing:1", "-m", tiny_v_folder, "-o", tmp_path / "out")
    assert result.exit_code == 2
    assert "nothing" in result.stderr
    result = run("generate", "a fox", "--true-guidance", 3, "-m", tiny_v_folder, "-o", tmp_path / "out")
    assert result.exit_code == 2
    assert "true_guidance=3.0" in result.stderr


def test_a_vae_may_take_the_place_of_the_models_own(run: Run, tiny_v_folder: Path, tmp_path: Path) -> None:
    weights = load_file(tiny_v_folder / "vae" / "diffusion_pytorch_model.safetensors")
    weights["decoder.conv_out.bias"] += 0.5
    shutil.copytree(tiny_v_folder / "vae", tmp_path / "brighter")
    save_file(weights, tmp_path / "brighter" / "diffusion_pytorch_model.safetensors")
    common = ("generate", "a fox", "--seed", 1, "-m", tiny_v_folder, "-o")
    assert run(*common, tmp_path / "own.png").exit_code == 0
    result = run(*common, tmp_path / "other.png", "--vae", tmp_path / "brighter")
    assert result.exit_code == 0, result.output
    means = [ImageStat.Stat(Image.open(tmp_path / name)).mean[0] for name in ("own.png", "other.png")]
    assert means[1] > means[0] + 10
    metadata = read_metadata(tmp_path / "other.png")
    assert metadata.request.vae == str(tmp_path / "brighter")
    assert f"VAE: {tmp_path / 'brighter'}" in Image.open(tmp_path / "other.png").info["parameters"]
    again = run("replay", tmp_path / "other.png", "-o", tmp_path / "again.png")
    assert again.exit_code == 0, again.output
    assert "identical" in again.stderr
