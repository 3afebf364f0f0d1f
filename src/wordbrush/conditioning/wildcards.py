"""Wildcards: named lists of texts in files, a text a line, of which a prompt draws one by `__name__`.

Lists lie in the user's `wildcards` folder, also in folders inside it (`__animals/farm__`); some ship with Wordbrush. A
list of the user's takes the place of a shipped one of the same name.
"""

from __future__ import annotations

import difflib
from collections.abc import Sequence
from fnmatch import fnmatchcase
from functools import cached_property
from pathlib import Path

from wordbrush.errors import RequestError
from wordbrush.formats.user_folders import config_folder, shipped_folder


class Wildcards:
    """The lists in some folders; a name in an earlier folder hides that in a later one."""

    def __init__(self, folders: Sequence[Path]) -> None:
        self.folders = tuple(folders)

    @classmethod
    def default(cls) -> Wildcards:
        """The user's lists and the shipped ones."""
        return cls((config_folder() / "wildcards", shipped_folder() / "wildcards"))

    @cached_property
    def files(self) -> dict[str, Path]:
        """Name -> file; a name is the path in its folder without the ending, with / between its parts."""
        found: dict[str, Path] = {}
        for folder in self.folders:
            for path in sorted(folder.rglob("*.txt")):
                found.setdefault(path.relative_to(folder).with_suffix("").as_posix(), path)
        return dict(sorted(found.items()))

    def texts(self, name: str) -> list[str]:
        """The texts of a list, or of all lists that a name with `*` fits. Empty lines and `# comments` are left out.

        Raises:
            RequestError: there is no such list, it is empty, or it cannot be read.
        """
        names = [known for known in self.files if fnmatchcase(known, name)] if "*" in name else [name]
        names = [known for known in names if known in self.files]
        if not names:
            close = difflib.get_close_matches(name, self.files, n=1)
            hint = f"did you mean __{close[0]}__? " if close else ""
            raise RequestError(
                f"there is no wildcard __{name}__; {hint}there are {', '.join(self.files) or 'none'}, and more can be "
                f"put as text files into {self.folders[0]}. Write \\__{name}__ for the word itself"
            )
        texts = [text for known in names for text in self._lines(self.files[known])]
        if not texts:
            raise RequestError(f"the wildcard __{name}__ has no text in {self.files[names[0]]}")
        return texts

    def _lines(self, path: Path) -> list[str]:
        try:
            lines = [line.strip() for line in path.read_text(encoding="utf-8-sig").splitlines()]
        except (OSError, UnicodeDecodeError) as error:
            raise RequestError(f"the wildcard file {path} cannot be read: {error}") from error
        return [line for line in lines if line and not line.startswith("#")]
