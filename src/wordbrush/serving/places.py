"""Messages without the folders of this machine: a client is told which file is wrong, not where it lies."""

from __future__ import annotations

import os
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

from wordbrush.errors import WordbrushError
from wordbrush.formats.library_folders import library_folders
from wordbrush.formats.user_folders import cache_folder, config_folder, data_folder, hub_cache, shipped_folder


def without_places(message: str, *more: Path) -> str:
    """The message with every known folder left out of its paths; what lies inside of one is named from there on.

    more: folders beside those of the settings, the models, the program and the user.
    """
    if os.sep not in message:
        return message
    folders = {str(folder) for folder in (*more, *_known()) if len(folder.parts) > 1}
    for folder in sorted(folders, key=len, reverse=True):  # the innermost first
        message = message.replace(f"{folder}{os.sep}", "")
    return message


def _known() -> Iterator[Path]:
    yield from (config_folder(), cache_folder(), data_folder(), hub_cache(), shipped_folder())
    yield from (Path(sys.prefix), Path(__file__).resolve().parents[2], Path(tempfile.gettempdir()))
    try:
        yield Path.home()
        yield from (folder.path for folder in library_folders())
    except (WordbrushError, RuntimeError):  # settings that cannot be read, which is perhaps the message; no home
        return
