"""Recipes as files: YAML in which no table has a key twice."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import yaml

from wordbrush.errors import RequestError


class _Loader(yaml.SafeLoader):
    """YAML forbids a key that comes twice, but PyYAML takes the last one without a word."""

    def compose_mapping_node(self, anchor: dict[Any, yaml.Node]) -> yaml.MappingNode:
        node = super().compose_mapping_node(anchor)
        lines: dict[tuple[str, str], int] = {}
        for key in (key for key, _ in node.value if isinstance(key, yaml.ScalarNode)):
            name, line = (key.tag, key.value), key.start_mark.line + 1
            if name in lines:
                raise yaml.YAMLError(f"the key {key.value} of line {lines[name]} comes again in line {line}; keep one")
            lines[name] = line
        return node


def read_yaml(path: Path) -> Any:
    """What a recipe file holds.

    Raises:
        RequestError: it cannot be read, is not YAML, or has a key twice; the sentence names the file.
    """
    try:
        return yaml.load(path.read_text(encoding="utf-8"), _Loader)
    except OSError as error:
        raise RequestError(f"the recipe {path} cannot be read: {error.strerror}") from error
    except (yaml.YAMLError, ValueError, RecursionError) as error:  # letters that are not UTF-8; a day that there is not
        raise RequestError(f"the recipe {path} is not valid YAML: {' '.join(str(error).split())}") from error
