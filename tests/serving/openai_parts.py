"""What the tests of OpenAI's parameters share: the parts of a server that the mapping needs, and one call for it."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

from wordbrush.request import GenerationRequest
from wordbrush.serving.catalogue import Catalogue
from wordbrush.serving.openai.parameters import understood
from wordbrush.serving.openai.requests import works_of
from wordbrush.serving.settings import Settings
from wordbrush.serving.store.files import InputFiles


def parts(data: Path) -> Any:
    """Settings, inputs and a catalogue: no database, no application."""
    settings = Settings(data=data, studio=False)
    store = SimpleNamespace(inputs=InputFiles(data))
    return SimpleNamespace(settings=settings, store=store, catalogue=Catalogue(settings))


def request_of(
    server: Any, given: dict[str, Any], endpoint: Any = "generations", **files: list[bytes]
) -> GenerationRequest:
    """The request that these parameters and files are."""
    (work,) = works_of(understood(given, endpoint), files, server)
    return work.request
