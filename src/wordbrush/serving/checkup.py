"""What `wordbrush doctor` looks at for `wordbrush serve`: settings, data, the address. Importing it needs no extra."""

from __future__ import annotations

import os
import shutil
import socket
from collections.abc import Iterator
from importlib.util import find_spec
from typing import TYPE_CHECKING

from wordbrush.cli.checkup import LEAST_DISK, Finding

if TYPE_CHECKING:
    from wordbrush.serving.settings import Settings

NEEDED = (
    "fastapi", "fastapi_offline", "filelock", "limits", "multipart", "prometheus_client", "pydantic_settings",
    "sqlalchemy", "structlog", "uvicorn",
)  # fmt: skip
"""Packages of the extra `serve`, as they are imported."""


def server() -> Iterator[Finding]:
    """Whether `wordbrush serve` would start here, with the settings of the file and the environment."""
    lacks = [name for name in NEEDED if find_spec(name) is None]
    if lacks:
        mend = "if you want to serve: pip install 'wordbrush[studio]'"
        yield Finding("server", "note", f"`wordbrush serve` lacks {', '.join(lacks)}", mend)
        return
    from wordbrush.serving.settings import Settings

    settings = Settings()
    yield from _data(settings)
    yield from _address(settings)
    if settings.studio and find_spec("gradio") is None:
        mend = "if you want the web page: pip install 'wordbrush[studio]'"
        yield Finding("studio", "note", "gradio is not installed, so the server has no web page", mend)


def _data(settings: Settings) -> Iterator[Finding]:
    home = next(folder for folder in (settings.data, *settings.data.parents) if folder.exists())
    if not home.is_dir() or not os.access(home, os.W_OK | os.X_OK):
        mend = f"make {home} writable for you, or name another folder: wordbrush serve --data FOLDER"
        yield Finding("server", "wrong", f"the data folder {settings.data} cannot be written to", mend)
        return
    space = shutil.disk_usage(home).free
    if space < LEAST_DISK:
        said = f"{space / 1e6:.0f} MB are left for pictures, in {settings.data}"
        yield Finding("server", "wrong", said, "free some space, or set retention_days or retention_bytes")
    if settings.database is None and not (settings.data / "wordbrush.db").exists():
        yield Finding("server", "good", f"no data yet; it will be in {settings.data}")
        return
    from wordbrush.serving.store import Store

    store = Store(settings, exclusive=False)  # a server may be running on it
    try:
        store.check()
        keys = store.keys.any()
    finally:
        store.close()
    yield Finding("server", "good", f"the database of {settings.data} is in order")
    if not settings.loopback and not keys:
        mend = "wordbrush keys add NAME"
        yield Finding("server", "wrong", f"{settings.host} is not loopback, and there is no API key", mend)


def _address(settings: Settings) -> Iterator[Finding]:
    family = socket.AF_INET6 if ":" in settings.host else socket.AF_INET
    with socket.socket(family, socket.SOCK_STREAM) as attempt:
        attempt.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            attempt.bind((settings.host.strip("[]"), settings.port))
        except OSError as error:
            mend = "end what uses it (perhaps a server of ours, and all is well), or: wordbrush serve --port ANOTHER"
            said = f"{settings.host}:{settings.port} cannot be listened on: {error.strerror or error}"
            yield Finding("server", "note", said, mend)
            return
    yield Finding("server", "good", f"{settings.host}:{settings.port} is free")


CHECKS = (server,)
