"""The repository keeps its own rules: layers, budgets, a README whose commands exist, nothing of one machine in it."""

from __future__ import annotations

import ast
import os
import re
import shlex
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
PACKAGE = ROOT / "src" / "wordbrush"
README = ROOT / "README.md"
LINT_IMPORTS = [sys.executable, "-c", "from importlinter.cli import lint_imports_command as run; run()"]

LONGEST_FILE = 420  # lines; STYLE: "about 400"
LONGEST_FUNCTION = 60  # lines, without its docstring
MODEL_MEGABYTES = 40  # one shipped model, all its parts
SHIPPED_MEGABYTES = 60  # everything under wordbrush/models

DATA_TABLES: set[str] = set()  # source files that are tables of data, and so may be longer
LONG_FUNCTIONS: dict[str, str] = {}  # "file.py:function" -> why it reads better in one piece


@cache
def repository_files() -> tuple[Path, ...]:
    """What is, or would be, committed: tracked files and those git does not ignore."""
    command = ["git", "-C", str(ROOT), "ls-files", "-z", "--cached", "--others", "--exclude-standard"]
    try:
        listing = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    except (OSError, subprocess.CalledProcessError):
        pytest.skip("not a git work tree")
    return tuple(path for name in sorted(set(listing.split("\0"))) if name and (path := ROOT / name).is_file())


@cache
def source_trees() -> dict[str, ast.Module]:
    """Every Python file of the package, parsed; keyed by its path inside the package."""
    return {
        path.relative_to(PACKAGE).as_posix(): ast.parse(path.read_text(encoding="utf-8"))
        for path in sorted(PACKAGE.rglob("*.py"))
    }


def text_files() -> Iterator[tuple[Path, str]]:
    for path in repository_files():
        content = path.read_bytes()
        if b"\0" not in content:
            yield path, content.decode("utf-8")


def test_imports_point_one_way() -> None:
    result = subprocess.run([*LINT_IMPORTS, "--no-cache"], cwd=ROOT, capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stdout + result.stderr


def test_the_layer_check_sees_a_wrong_import(tmp_path: Path) -> None:
    """The contract is worth something: an import against the grain breaks it."""
    package = tmp_path / "wordbrush"
    for name in ("networks", "pipeline"):
        (package / name).mkdir(parents=True)
        (package / name / "__init__.py").touch()
    (package / "__init__.py").touch()
    (package / "errors.py").touch()
    (package / "networks" / "__init__.py").write_text("import wordbrush.pipeline\n", encoding="utf-8")
    result = subprocess.run(
        [*LINT_IMPORTS, "--no-cache", "--config", str(ROOT / "pyproject.toml")],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, "PYTHONPATH": str(tmp_path)},
    )
    assert result.returncode == 1, result.stdout + result.stderr
    assert "wordbrush.networks is not allowed to import wordbrush.pipeline" in result.stdout


def test_no_file_names_a_machine() -> None:
    """No path of the machine it was written on, and no host name."""
    folders = r"(?:work|root|home/\w+|Users/\w+|tmp/w)"
    pattern = re.compile(rf"(?<![\w.]){os.sep}{folders}/[\w.]|\b[\w-]+\.(?:internal|intranet|localdomain)\b")
    found = [
        f"{path.relative_to(ROOT)}:{number}: {line.strip()[:100]}"
        for path, text in text_files()
        for number, line in enumerate(text.splitlines(), 1)
        if pattern.search(line)
    ]
    assert not found, "\n".join(found)


def test_files_stay_within_their_budget() -> None:
    lengths = {
        name: len((PACKAGE / name).read_text(encoding="utf-8").splitlines())
        for name in source_trees()
        if name not in DATA_TABLES
    }
    assert {name: lines for name, lines in lengths.items() if lines > LONGEST_FILE} == {}


def test_functions_stay_within_their_budget() -> None:
    found = {}
    for name, tree in source_trees().items():
        for node in ast.walk(tree):
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
                has_docstring = ast.get_docstring(node) is not None and len(node.body) > 1
                body = node.body[1:] if has_docstring else node.body
                lines = (body[0].lineno - node.body[0].lineno) if has_docstring else 0
                # a command's signature is its table of flags, one a line
                first = body[0].lineno - lines if name.startswith("cli/") else node.lineno
                length = (node.end_lineno or node.lineno) - first + 1 - lines
                if length > LONGEST_FUNCTION and f"{name}:{node.name}" not in LONG_FUNCTIONS:
                    found[f"{name}:{node.name}"] = length
    assert found == {}


def test_shipped_models_are_small() -> None:
    megabytes: dict[Path, float] = {}
    for weights in (PACKAGE / "models").rglob("*.safetensors"):
        model = PACKAGE / "models" / weights.relative_to(PACKAGE / "models").parts[0]
        megabytes[model] = megabytes.get(model, 0.0) + weights.stat().st_size / 1e6
    assert all(size <= MODEL_MEGABYTES for size in megabytes.values()), megabytes
    assert sum(megabytes.values()) <= SHIPPED_MEGABYTES, megabytes


def test_only_safetensors_are_shipped() -> None:
    pickled = [path for path in repository_files() if path.suffix in {".pt", ".pth", ".ckpt", ".pkl", ".bin"}]
    assert pickled == []


def fenced_commands(path: Path) -> list[str]:
    """The lines of the shell blocks of a Markdown page, continued lines joined, comments left out."""
    commands: list[str] = []
    for block in re.findall(r"```(?:sh|bash|console)\n(.*?)```", path.read_text(encoding="utf-8"), flags=re.DOTALL):
        for line in block.replace("\\\n", " ").splitlines():
            command = " ".join(shlex.split(line, comments=True))
            if command:
                commands.append(line)
    return commands


def pages() -> list[Path]:
    return [README, *sorted((ROOT / "docs").rglob("*.md"))]


def test_make_targets_in_the_pages_exist() -> None:
    rules = re.findall(r"^([\w-]+):", (ROOT / "Makefile").read_text(encoding="utf-8"), flags=re.MULTILINE)
    named = {
        words[words.index("make") + 1]
        for page in pages()
        for command in fenced_commands(page)
        if "make" in (words := shlex.split(command, comments=True))
    }
    assert {"demo", "test"} <= named
    assert named <= set(rules)


def wordbrush_commands() -> list[tuple[str, ...]]:
    commands = set()
    for page in pages():
        for line in fenced_commands(page):
            words = shlex.split(line, comments=True)
            if words and words[0] == "wordbrush":
                commands.add(tuple(words[1:]))
    for line in (ROOT / "Makefile").read_text(encoding="utf-8").splitlines():
        _, called, arguments = line.partition("$(BIN)/wordbrush ")
        if called:
            commands.add(tuple(shlex.split(arguments)))
    return sorted(commands)


@pytest.mark.parametrize("words", wordbrush_commands(), ids=" ".join)
def test_wordbrush_commands_in_the_pages_exist(words: tuple[str, ...]) -> None:
    """Each `wordbrush …` line (pages, Makefile) names a command that is there, and options that its --help lists."""
    names = []
    for word in words:
        if not re.fullmatch(r"[a-z]+", word):
            break
        names.append(word)
    result = subprocess.run(
        [sys.executable, "-c", "from wordbrush.cli import main; main()", *names, "--help"],
        capture_output=True, text=True, check=False,
        env={**os.environ, "COLUMNS": "200", "TERM": "dumb", "NO_COLOR": "1"},
    )  # fmt: skip
    assert result.returncode == 0, result.stdout + result.stderr
    options = [word.partition("=")[0] for word in words if re.match(r"--?[a-z]", word)]
    missing = [option for option in options if not re.search(rf"(?<![\w-]){option}(?![\w-])", result.stdout)]
    assert not missing, f"{' '.join(names)} --help does not list {missing}:\n{result.stdout}"


def test_links_in_the_pages_lead_somewhere() -> None:
    broken = [
        f"{page.relative_to(ROOT)}: {target}"
        for page in pages()
        for target in re.findall(r"\]\(([^)#\s]+)", page.read_text(encoding="utf-8"))
        if "://" not in target and not (page.parent / target).exists()
    ]
    assert broken == []


def test_no_figure_is_left_to_fill_in() -> None:
    """Figures come from commands; a page that still waits for one is not finished."""
    mark = "FILL" + "-IN"
    waiting = [str(path.relative_to(ROOT)) for path, text in text_files() if mark in text]
    assert waiting == []


def test_every_dependency_is_pinned() -> None:
    pins = {}
    for line in (ROOT / "constraints.txt").read_text(encoding="utf-8").splitlines():
        if not line.startswith("#"):
            name, _, version = line.partition("==")
            assert re.fullmatch(r"[\w.]+", version), f"{line!r} is not a plain name==version"
            pins[re.sub(r"[-_.]+", "-", name).lower()] = version
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    extras = project["optional-dependencies"].values()
    wanted = [*project["dependencies"], *(name for extra in extras for name in extra)]
    names = {re.sub(r"[-_.]+", "-", re.split(r"[\[<>=!~; ]", line)[0]).lower() for line in wanted} - {"wordbrush"}
    assert names - set(pins) == set()
    assert pins["torch"] == "2.13.0"


def test_continuous_integration_runs_the_readmes_test_command() -> None:
    script = ROOT / ".ci" / "run"
    assert os.access(script, os.X_OK)
    assert "make test" in script.read_text(encoding="utf-8")
    subprocess.run(["bash", "-n", str(script)], check=True)
