"""Which model a client means: one of the catalogue, or a hosted one's name that stands for one of the catalogue."""

from __future__ import annotations

from fnmatch import fnmatchcase
from typing import TYPE_CHECKING

from wordbrush.errors import RequestError
from wordbrush.serving.errors import Refused

if TYPE_CHECKING:
    from wordbrush.serving.server import Server


def model_named(name: str | None, server: Server) -> str | None:
    """The catalogue's name of a model; None is the default one.

    Names of the catalogue come first, then `settings.openai_aliases`.

    Raises:
        Refused: 404 when it is neither.
    """
    if not name:
        return None
    try:
        return server.catalogue.model(name).name
    except RequestError as error:
        for pattern, stands_for in server.settings.openai_aliases.items():
            if fnmatchcase(name.lower(), pattern.lower()):
                return stands_for or None
        raise Refused(404, "model_not_found", str(error), param="model") from error


def own_size(model: str | None, server: Server) -> tuple[int, int] | None:
    """(width, height) that a model of the catalogue paints by itself; None where its files do not say.

    Raises:
        Refused: 404 when it is not there, which is an alias that stands for nothing.
    """
    try:
        return server.catalogue.own_size(model)
    except RequestError as error:
        raise Refused(404, "model_not_found", str(error), param="model") from error


def canonical(name: str | None, server: Server) -> str | None:
    """The catalogue's name of a model, the default one's for None; None when there is none."""
    try:
        return server.catalogue.model(name).name
    except RequestError:
        return None
