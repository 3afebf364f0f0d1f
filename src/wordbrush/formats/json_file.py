"""The JSON files of a model folder."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from wordbrush.errors import ModelFileError


def read_json(path: Path) -> dict[str, Any]:
    """A JSON object from a model folder. Raises `ModelFileError` when it is missing or is something else."""
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise ModelFileError(f"{path} is missing; its folder is not whole, copy it again") from error
    except OSError as error:
        raise ModelFileError(f"{path} cannot be read: {error.strerror or error}") from error
    except (ValueError, RecursionError) as error:
        raise ModelFileError(f"{path} cannot be read: {error}; get the file again") from error
    if not isinstance(content, dict):
        raise ModelFileError(f"{path} does not hold a JSON object; get the file again")
    return content


def write_json(path: Path, content: Mapping[str, Any]) -> None:
    """Writes a JSON object as the libraries write theirs."""
    path.write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")
