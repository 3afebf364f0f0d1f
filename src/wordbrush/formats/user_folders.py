"""Where a user's settings and caches lie, by the custom of each operating system. Nothing is made by asking."""

from __future__ import annotations

import os
import sys
from pathlib import Path

HOME = "WORDBRUSH_HOME"
"""Environment variable: one folder for settings and caches together, instead of the system's own places."""


def config_folder() -> Path:
    """The folder of `config.json`."""
    return _place("XDG_CONFIG_HOME", ".config", windows="APPDATA", mac="Library/Application Support")


def cache_folder() -> Path:
    """The folder of what can be computed again."""
    home = os.environ.get(HOME)
    if home:
        return Path(home).expanduser() / "cache"
    place = _place("XDG_CACHE_HOME", ".cache", windows="LOCALAPPDATA", mac="Library/Caches")
    return place / "cache" if sys.platform == "win32" else place


def data_folder() -> Path:
    """The folder of what a user has made and wants kept, such as the server's jobs and pictures."""
    return _place("XDG_DATA_HOME", ".local/share", windows="LOCALAPPDATA", mac="Library/Application Support")


def hub_cache() -> Path:
    """Where huggingface_hub keeps what it has downloaded; the rules are that library's."""
    default = Path("~/.cache").expanduser()
    home = os.environ.get("HF_HOME") or str(Path(os.environ.get("XDG_CACHE_HOME") or default) / "huggingface")
    named = os.environ.get("HF_HUB_CACHE") or os.environ.get("HUGGINGFACE_HUB_CACHE")
    return Path(os.path.expandvars(named or str(Path(home) / "hub"))).expanduser()


def _place(variable: str, folder: str, *, windows: str, mac: str) -> Path:
    home = os.environ.get(HOME)
    if home:
        return Path(home).expanduser()
    if sys.platform == "win32":
        base = Path(os.environ.get(windows) or Path.home())
    elif sys.platform == "darwin":
        base = Path.home() / mac
    else:
        named = Path(os.environ.get(variable) or "")
        base = named if named.is_absolute() else Path.home() / folder  # the XDG rule: a relative value is not valid
    return base / "wordbrush"


def shipped_folder() -> Path:
    """Presets, styles and wildcards that come with Wordbrush, laid out as a user's own are in `config_folder`."""
    return Path(__file__).resolve().parent.parent / "presets"
