"""`wordbrush prompts`, and the options by which `generate` writes prompts out."""

from __future__ import annotations

import json
from pathlib import Path

from wordbrush.conditioning.styles import user_styles
from wordbrush.metadata import read_metadata

from .conftest import Run


def test_lists_what_there_is(run: Run) -> None:
    user_styles().parent.mkdir(parents=True)
    (user_styles().parent / "wildcards").mkdir()
    (user_styles().parent / "wildcards" / "mine.txt").write_text("a\nb\n")
    result = run("prompts", "list")
    assert result.exit_code == 0, result.output
    for words in ("quality", "pixel art", "__mine__", "2 texts", "__animal__"):
        assert words in result.stdout
    found = json.loads(run("prompts", "list", "--json").stdout)
    assert set(found) == {"folder", "presets", "styles", "wildcards"}


def test_imports_styles(run: Run, tmp_path: Path) -> None:
    file = tmp_path / "styles.csv"
    for text in ("name,prompt,negative_prompt\na,one {prompt},\nb,two,x\n", "name,prompt,negative_prompt\nb,three,\n"):
        file.write_text(text)
        result = run("prompts", "import", file)
        assert result.exit_code == 0, result.output
    assert user_styles().read_text() == "name,prompt,negative_prompt\na,one {prompt},\nb,three,\n"
    file.write_text("name,prompt\n")
    assert run("prompts", "import", file).exit_code == 2


def test_says_what_a_prompt_becomes(run: Run) -> None:
    arguments = ("prompts", "write", "a {fox|cat}", "-n", 3, "--seed", 5, "--style", "sepia", "--expand")
    found = json.loads(run(*arguments, "--json").stdout)["prompts"]
    assert [one["seed"] for one in found] == [5, 6, 7]
    assert all(one["prompt"].startswith(("a fox ", "a cat ", "a fox,", "a cat,")) for one in found)
    assert all(one["prompt"].endswith(", sepia picture") for one in found)
    assert run(*arguments).stdout.splitlines()[0] == f"5: {found[0]['prompt']}"
    assert run("prompts", "write", "a {fox", "--seed", 1).exit_code == 2


def test_generate_writes_prompts_out_and_replay_repeats_them(run: Run, tiny_v_folder: Path, tmp_path: Path) -> None:
    from wordbrush.formats.library import embedded_folder

    expander = embedded_folder().with_name("scenes-expander")
    words = ("--style", "pixel art", "--expander", expander, "--expand-with", "tokens=4,top_k=5")
    options = ("--preset", "fast", "--steps", 2, "--seed", 3, "-m", tiny_v_folder, "--dtype", "float32")
    result = run("generate", "a __colour__ fox", *words, *options, "-n", 2, "-o", tmp_path, "--no-sheet")
    assert result.exit_code == 0, result.output
    assert "the prompt became: pixel art of a " in result.stderr
    for file in tmp_path.glob("*.png"):
        request = read_metadata(file).request
        assert (request.written, request.steps) == ("a __colour__ fox", 2)
        assert (request.preset, request.preset_set) == ("fast", ())
        again = run("replay", file, "-o", tmp_path / "again" / file.name, "-m", tiny_v_folder)
        assert "identical to" in again.stderr, again.output
        assert "not identical" not in again.stderr


def test_contradicting_options_are_refused(run: Run, tmp_path: Path) -> None:
    for extra, words in (
        (("--no-expand", "--expand-with", "tokens=3"), "contradicts"),
        (("--expand-with", "tokens"), "NAME=NUMBER"),
        (("--expand-with", "tokens=many"), "tokens='many'"),
        (("--expand-with", "heat=1"), "unknown option 'heat'"),
        (("--preset", "qualty"), "did you mean quality"),
    ):
        result = run("generate", "a fox", *extra, "-o", tmp_path)
        assert result.exit_code == 2, result.output
        assert words in result.stderr
