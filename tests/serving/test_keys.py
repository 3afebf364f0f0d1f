"""API keys: random, shown once, kept as a hash, compared in constant time, and managed by `wordbrush keys`."""

from __future__ import annotations

import hashlib
import hmac
import json
import math
import sqlite3
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from wordbrush.errors import RequestError
from wordbrush.serving.guard import keys as module
from wordbrush.serving.guard.keys import Keys, Limits
from wordbrush.serving.store.database import Database
from wordbrush.serving.work import Caller


@pytest.fixture
def database(tmp_path: Path) -> Iterator[Database]:
    opened = Database(f"sqlite:///{tmp_path / 'wordbrush.db'}", exclusive=False)
    yield opened
    opened.close()


@pytest.fixture
def keys(database: Database) -> Keys:
    return Keys(database)


def test_a_key_has_256_random_bits_and_is_kept_nowhere(keys: Keys, tmp_path: Path) -> None:
    made = [keys.add(f"key {number}") for number in range(20)]
    secrets = {secret for _, secret in made}
    assert len(secrets) == len({key.id for key, _ in made}) == 20
    for key, secret in made:
        random = secret.removeprefix(f"wb_{key.id}_")
        assert len(random) * math.log2(64) >= 256
        assert keys.check(secret) == Caller(id=key.id, name=key.name, admin=False)
    everything = b"".join(path.read_bytes() for path in tmp_path.iterdir())
    for _, secret in made:
        assert secret.encode() not in everything
        assert secret[12:].encode() not in everything
        assert hashlib.sha256(secret.encode()).hexdigest().encode() in everything


def test_a_session_is_kept_as_a_hash_too(keys: Keys, tmp_path: Path) -> None:
    _, secret = keys.add("ann")
    token = keys.log_in(secret)
    assert token is not None
    found = keys.session(token)
    assert found is not None
    assert found.name == "ann"
    assert token.encode() not in b"".join(path.read_bytes() for path in tmp_path.iterdir())
    with sqlite3.connect(tmp_path / "wordbrush.db") as connection:
        connection.execute("update api_sessions set until = 0")
    keys._forget()
    assert keys.session(token) is None


@pytest.mark.parametrize("wrong", ["", "x", "wb_00000000_" + "a" * 43, "wb_" + "é" * 50, "\ud800", "a" * 10**6, "\0"])
def test_wrong_secrets_are_compared_as_well(keys: Keys, wrong: str, monkeypatch: pytest.MonkeyPatch) -> None:
    _, secret = keys.add("ann")
    compared: list[tuple[str, str]] = []
    compare = hmac.compare_digest

    def watched(mine: Any, theirs: Any) -> bool:
        compared.append((mine, theirs))
        return compare(mine, theirs)

    monkeypatch.setattr(module.hmac, "compare_digest", watched)
    for given in (wrong, secret[:-1] + ("A" if secret[-1] != "A" else "B"), secret[:12] + "A" * 43):
        assert keys.check(given) is None
    assert keys.check(secret) is not None
    assert len(compared) == 4
    assert all(len(mine) == len(theirs) == 64 for mine, theirs in compared)  # hashes, never secrets


def test_what_another_process_changes_counts_within_seconds(
    keys: Keys, database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    now = [1000.0]
    monkeypatch.setattr(module.time, "monotonic", lambda: now[0])
    other = Keys(database)
    assert not keys.any()
    _, secret = other.add("ann")
    token = other.log_in(secret)
    assert token is not None
    assert not keys.any()
    now[0] += 2.1
    assert keys.any()
    assert keys.check(secret) is not None
    assert keys.session(token) is not None
    other.remove("ann")
    now[0] += 2.1
    assert keys.check(secret) is None
    assert keys.session(token) is None


def test_when_a_key_was_used_is_noted_once_a_minute(keys: Keys, monkeypatch: pytest.MonkeyPatch) -> None:
    now = [1000.0]
    monkeypatch.setattr(module.time, "monotonic", lambda: now[0])
    _, secret = keys.add("ann")
    assert keys.list()[0].used is None
    keys.check(secret)
    first = keys.list()[0].used
    assert first is not None
    keys.check(secret)
    assert keys.list()[0].used == first
    now[0] += 61
    keys.check(secret)
    later = keys.list()[0].used
    assert later is not None
    assert later > first


def test_names_and_limits_are_checked(keys: Keys) -> None:
    keys.add("ann", limits=Limits(rate="3/second", jobs=2, body=10), admin=True)
    assert keys.list()[0].limits == Limits(rate="3/second", jobs=2, body=10)
    assert keys.list()[0].admin
    with pytest.raises(RequestError, match="already"):
        keys.add("ann")
    for name in ("", " ", "a\nb", "a\0", "x" * 65, "<script>", "a/b"):
        with pytest.raises(RequestError, match="does not fit"):
            keys.add(name)
    for limits in ({"rate": "often"}, {"rate": ""}, {"jobs": 0}, {"body": -1}):
        with pytest.raises(RequestError, match="does not fit"):
            Limits(**limits)  # type: ignore[arg-type]
    with pytest.raises(RequestError, match="there are: ann"):
        keys.remove("bob")


def wordbrush(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "wordbrush", "keys", *arguments], capture_output=True, text=True, check=False, timeout=60
    )


def test_the_command_makes_lists_and_removes(tmp_path: Path) -> None:
    place = ("--data", str(tmp_path / "server"))
    made = wordbrush("add", "ann", "--rate", "5/minute", "--admin", *place)
    assert made.returncode == 0
    secret = made.stdout.strip()
    assert secret.startswith("wb_")
    assert "cannot be shown again" in made.stderr
    listed = wordbrush("list", "--json", *place)
    assert secret not in listed.stdout
    (row,) = json.loads(listed.stdout)["keys"]
    assert (row["name"], row["admin"], row["rate"], row["used"]) == ("ann", True, "5/minute", None)
    twice = wordbrush("add", "ann", *place)
    assert twice.returncode == 2
    assert twice.stderr.startswith("error: there is a key named 'ann' already")
    removed = wordbrush("remove", "ann", *place)
    assert removed.returncode == 0
    assert "the last one" in removed.stderr
    assert wordbrush("remove", "ann", *place).returncode == 2
    assert (tmp_path / "server" / "wordbrush.db").exists()
