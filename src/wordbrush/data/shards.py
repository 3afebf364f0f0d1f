"""What is in the tar files of a WebDataset, found out once: where each member of each example lies.

A tar file has no directory, so its headers are read from end to end; the result is kept in the user's cache for as long
as the file has the same size and modification time. From then on any example can be read alone.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import re
import tarfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from wordbrush.errors import RequestError, WorkFailed
from wordbrush.formats.user_folders import cache_folder
from wordbrush.metadata import write_whole

Members = dict[str, tuple[int, int]]
"""Extension, in small letters without the dot -> first byte and number of bytes."""

_FORM = 1
_BLOCK = 512
_REMOTE = re.compile(r"^(pipe:|[a-z][a-z0-9+.-]+://)", re.IGNORECASE)
_PACKED = (".gz", ".tgz", ".bz2", ".xz", ".zst", ".lz4", ".zip")


@dataclass(frozen=True)
class Shard:
    """One tar file: its examples in the order they stand in. number: its place among those named, for messages."""

    path: Path
    number: int
    keys: list[str]
    members: list[Members]


def shard_paths(named: Sequence[str]) -> list[Path]:
    """The files that names with braces and stars mean, in order, each once.

    Raises:
        RequestError: a file is missing, is packed, or is not on this machine.
    """
    found: list[Path] = []
    for name in named:
        if _REMOTE.match(name):
            raise RequestError(f"the shards {name!r} are not files of this machine; copy them here first")
        for expanded in expand_braces(name):
            found.extend(_matching(expanded))
    for path in found:
        if path.suffix.lower() in _PACKED:
            raise RequestError(f"the shard {str(path)!r} is packed and cannot be read at random; unpack it to a .tar")
        if not path.is_file():
            raise RequestError(f"there is no shard {str(path)!r}")
    return list(dict.fromkeys(found))


def _matching(name: str) -> list[Path]:
    if not any(letter in name for letter in "*?["):
        return [Path(name)]
    path = Path(name)
    below = path.relative_to(path.anchor) if path.anchor else path
    matches = sorted(Path(path.anchor or ".").glob(str(below)))
    if not matches:
        raise RequestError(f"no shard matches {name!r}")
    return matches


def expand_braces(text: str) -> list[str]:
    """ "a-{00..02}.tar" -> a-00.tar, a-01.tar, a-02.tar; "{x,y}" -> x, y; as a shell does, nested too."""
    match = re.search(r"\{([^{}]*)\}", text)
    if match is None:
        return [text]
    inside = match[1]
    numbers = re.fullmatch(r"(\d+)\.\.(\d+)", inside)
    if numbers is not None:
        first, last = int(numbers[1]), int(numbers[2])
        padded = any(len(end) > 1 and end[0] == "0" for end in numbers.groups())
        width = max(map(len, numbers.groups())) if padded else 0
        choices = [str(number).zfill(width) for number in range(first, last + 1)]
        choices = choices or [str(number).zfill(width) for number in range(first, last - 1, -1)]
    elif "," in inside:
        choices = inside.split(",")
    else:
        raise RequestError(f"the braces {{{inside}}} in {text!r} are neither {{000..063}} nor {{a,b}}")
    before, after = text[: match.start()], text[match.end() :]
    found = [whole for choice in choices for whole in expand_braces(before + choice + after)]
    return list(dict.fromkeys(found))  # braces within braces give a choice again for each of the inner ones


def read_shard(path: Path, number: int) -> Shard:
    """The examples of a shard.

    number: its place among the shards, for messages.

    Raises:
        RequestError: the file is no tar file, or is damaged or cut short, or an example comes twice.
    """
    state = path.stat()
    stamp = {"form": _FORM, "path": str(path.resolve()), "size": state.st_size, "time": state.st_mtime_ns}
    name = hashlib.sha256(str(path.resolve()).encode("utf-8", "surrogateescape")).hexdigest()[:32]
    kept = cache_folder() / "shards" / f"{name}.json"
    with contextlib.suppress(OSError, ValueError, KeyError, TypeError, AttributeError):
        record: dict[str, Any] = json.loads(kept.read_bytes())
        if all(record[key] == value for key, value in stamp.items()):
            members = [{ext: (start, size) for ext, (start, size) in each.items()} for each in record["members"]]
            return Shard(path, number, list(record["keys"]), members)
    examples = _scan(path, number, state.st_size)
    shard = Shard(path, number, list(examples), list(examples.values()))
    with contextlib.suppress(WorkFailed):  # without a cache it is read again next time
        write_whole(kept, json.dumps({**stamp, "keys": shard.keys, "members": shard.members}).encode())
    return shard


def _scan(path: Path, number: int, size: int) -> dict[str, Members]:
    what = f"shard {number} ({path.name})"
    examples: dict[str, Members] = {}
    last = ""
    for member in _members(path, what):
        if not member.isreg() or member.issparse():
            continue
        folder, _, name = member.name.rpartition("/")
        stem, dot, extension = name.partition(".")
        if not stem or not dot or (stem.startswith("__") and stem.endswith("__")):
            continue
        key = f"{folder}/{stem}" if folder else stem
        if member.offset_data + member.size > size:
            raise RequestError(f"{what} is cut short within {member.name!r}; copy it again: {path}")
        if key in examples and key != last:
            raise RequestError(f"{what} has the example {key!r} twice; the members of an example follow each other")
        extension = extension.lower()
        if extension in examples.setdefault(key, {}):
            raise RequestError(f"{what} has {member.name!r} twice")
        examples[key][extension] = member.offset_data, member.size
        last = key
    return examples


def _members(path: Path, what: str) -> Iterator[tarfile.TarInfo]:
    """All members. Python's tarfile takes a damaged header for the end, so where it ends is looked at."""
    try:
        with tarfile.open(path, "r:") as archive:
            while (member := archive.next()) is not None:
                yield member
            with path.open("rb") as file:
                file.seek(archive.offset)
                rest = file.read(_BLOCK)
    except (tarfile.TarError, OSError, ValueError) as error:
        if "unexpected end" in str(error):
            raise RequestError(f"{what} is cut short; copy it again: {path}") from error
        raise RequestError(f"{what} cannot be read as a tar file ({error}): {path}") from error
    if rest.strip(b"\0"):
        raise RequestError(f"{what} is damaged at byte {archive.offset}, where no member begins; copy it again: {path}")
