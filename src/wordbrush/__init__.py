"""Wordbrush turns text into pictures, and is the whole workshop around that.

    import wordbrush

    pipe = wordbrush.load()
    result = pipe("a fox on a blue background", seed=7)
    result.images[0].save("fox.png")

The names below are loaded when first used, so that importing the package, and `wordbrush --help`, take no time.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from wordbrush.errors import ModelFileError, RequestError, WordbrushError, WorkFailed
    from wordbrush.pipeline import GenerationResult, Pipeline, load
    from wordbrush.request import GenerationRequest

__all__ = [
    "GenerationRequest",
    "GenerationResult",
    "ModelFileError",
    "Pipeline",
    "RequestError",
    "WordbrushError",
    "WorkFailed",
    "__version__",
    "load",
]

_HOMES = {
    "GenerationRequest": "wordbrush.request",
    "GenerationResult": "wordbrush.pipeline",
    "ModelFileError": "wordbrush.errors",
    "Pipeline": "wordbrush.pipeline",
    "RequestError": "wordbrush.errors",
    "WordbrushError": "wordbrush.errors",
    "WorkFailed": "wordbrush.errors",
    "load": "wordbrush.pipeline",
}


def __getattr__(name: str) -> object:
    if name == "__version__":
        from importlib.metadata import PackageNotFoundError, version

        try:
            return version("wordbrush")
        except PackageNotFoundError:  # run from a source tree that was never installed
            return "0+unknown"
    if name in _HOMES:
        return getattr(import_module(_HOMES[name]), name)
    raise AttributeError(f"module 'wordbrush' has no attribute {name!r}; it has {', '.join(__all__)}")


def __dir__() -> list[str]:
    return sorted(__all__)
