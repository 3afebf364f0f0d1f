"""What `wordbrush doctor` finds: nothing in an installation that works, and each thing that is broken on purpose."""

from __future__ import annotations

import json
import socket
from importlib import metadata
from pathlib import Path

import pytest
from typer.testing import CliRunner

from wordbrush.cli import checkup
from wordbrush.cli.app import make_app
from wordbrush.cli.checkup import Finding, examined

SERVE = "WORDBRUSH_SERVE_"


@pytest.fixture(autouse=True)
def _home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WORDBRUSH_HOME", str(tmp_path / "home"))
    monkeypatch.setenv(f"{SERVE}DATA", str(tmp_path / "data"))
    monkeypatch.setenv(f"{SERVE}PORT", "0")


def findings(*flags: str) -> tuple[int, list[Finding]]:
    outcome = CliRunner().invoke(make_app(), ["doctor", "--json", *flags])
    answer = json.loads(outcome.stdout)
    found = [Finding(**one) for one in answer["findings"]]
    assert answer["wrong"] == sum(one.level == "wrong" for one in found)
    assert all((one.mend is None) == (one.level == "good") for one in found)
    return outcome.exit_code, found


def wrong(*flags: str) -> list[Finding]:
    code, found = findings(*flags)
    bad = [one for one in found if one.level == "wrong"]
    assert code == (1 if bad else 0)
    return bad


def test_nothing_is_wrong_here_and_a_picture_is_painted() -> None:
    code, found = findings()
    assert code == 0, [one for one in found if one.level == "wrong"]
    assert {one.about for one in found} >= {"python", "packages", "device", "memory", "models", "picture", "server"}


def test_the_text_says_how_to_mend(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("WORDBRUSH_MODELS", str(tmp_path / "nowhere"))
    outcome = CliRunner().invoke(make_app(), ["doctor", "--no-paint"])
    assert outcome.exit_code == 0
    assert f"note   models: the model folder {tmp_path / 'nowhere'} is not there" in outcome.stdout
    assert f"→ take it out of WORDBRUSH_MODELS: {tmp_path / 'nowhere'}" in outcome.stdout


def test_a_package_that_is_too_old(monkeypatch: pytest.MonkeyPatch) -> None:
    true = metadata.version
    monkeypatch.setattr(checkup.metadata, "version", lambda name: "1.0" if name == "pillow" else true(name))
    monkeypatch.setattr(checkup.metadata, "requires", lambda _: ["pillow>=11", "numpy>=2.0"])
    [one] = wrong("--no-paint", "--no-serve")
    assert one.says == "pillow 1.0 is installed, >=11 is needed"


def test_settings_that_do_not_read(tmp_path: Path) -> None:
    file = tmp_path / "home" / "config.json"
    file.parent.mkdir(parents=True)
    file.write_text("{")
    found = wrong("--no-paint")
    assert {one.about for one in found} == {"library", "server"}
    assert all(str(file) in one.says for one in found)


def test_an_address_that_is_taken_is_only_noted(monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        monkeypatch.setenv(f"{SERVE}PORT", str(taken.getsockname()[1]))
        code, found = findings("--no-paint")
    assert code == 0
    assert any(one.level == "note" and "cannot be listened on" in one.says for one in found)


def test_a_database_of_a_newer_version(tmp_path: Path) -> None:
    from sqlalchemy import update

    from wordbrush.serving.settings import Settings
    from wordbrush.serving.store import Store
    from wordbrush.serving.store.tables import META

    store = Store(Settings())
    with store.database.write() as connection:
        connection.execute(update(META).values(value="99"))
    store.close()
    [one] = wrong("--no-paint")
    assert "was written by a newer Wordbrush" in one.says


def test_a_foreign_address_without_a_key(monkeypatch: pytest.MonkeyPatch) -> None:
    from wordbrush.serving.settings import Settings
    from wordbrush.serving.store import Store

    Store(Settings()).close()
    monkeypatch.setenv(f"{SERVE}HOST", "0.0.0.0")
    [one] = wrong("--no-paint")
    assert one.mend == "wordbrush keys add NAME"


def test_a_gpu_that_torch_does_not_use(monkeypatch: pytest.MonkeyPatch) -> None:
    import torch

    if torch.cuda.is_available():
        pytest.skip("torch uses the GPU here")
    monkeypatch.setattr(checkup, "_nvidia_is_here", lambda: True)
    [one] = wrong("--no-paint", "--no-serve")
    assert one.about == "device"
    assert "there is an NVIDIA GPU" in one.says


def test_a_check_that_breaks_is_a_finding() -> None:
    def memory_of_the_moon():
        yield Finding("moon", "good", "far")
        raise OSError("too far")

    found = list(examined((memory_of_the_moon,)))
    assert [one.level for one in found] == ["good", "wrong"]
    assert found[1].says == "too far"
