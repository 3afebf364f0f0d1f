"""The log: one line an event, as JSON or for people, with the ids of the job and the request it belongs to.

Prompts are left out unless `log_prompts` says otherwise; keys and secrets always are.
"""

from __future__ import annotations

import logging
import sys
from collections.abc import MutableMapping
from typing import TYPE_CHECKING, Any

import structlog
from structlog.dev import plain_traceback

if TYPE_CHECKING:
    from wordbrush.serving.settings import Settings

_WORDS = ("prompt", "negative_prompt", "request", "work", "written", "blend_prompt")
_SECRETS = ("authorization", "cookie", "secret", "token", "password", "api_key", "x-api-key")

Record = MutableMapping[str, Any]


def configure(settings: Settings) -> None:
    """Sets up this process's log, on standard error; the standard library's loggers go the same way."""
    level = getattr(logging, settings.log_level.upper())
    as_text = settings.log_format == "text" or (settings.log_format == "auto" and sys.stderr.isatty())
    shared: list[Any] = [
        structlog.contextvars.merge_contextvars,
        structlog.stdlib.add_log_level,
        structlog.stdlib.add_logger_name,
        structlog.processors.TimeStamper(fmt="iso", utc=True),
        without_secrets if settings.log_prompts else without_words,
    ]
    last: list[Any] = (
        # Not the pretty tracebacks: they show local variables, keys among them, and take minutes for large ones.
        [structlog.dev.ConsoleRenderer(colors=sys.stderr.isatty(), exception_formatter=plain_traceback)]
        if as_text
        else [structlog.processors.format_exc_info, structlog.processors.JSONRenderer()]
    )
    structlog.configure(
        processors=[*shared, structlog.stdlib.ProcessorFormatter.wrap_for_formatter],
        logger_factory=structlog.stdlib.LoggerFactory(),
        wrapper_class=structlog.stdlib.BoundLogger,
        cache_logger_on_first_use=False,
    )
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(
        structlog.stdlib.ProcessorFormatter(
            foreign_pre_chain=shared,
            processors=[structlog.stdlib.ProcessorFormatter.remove_processors_meta, *last],
        )
    )
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(max(level, logging.INFO))
    logging.getLogger("wordbrush").setLevel(level)
    for name in ("uvicorn", "uvicorn.error", "uvicorn.access"):
        logger = logging.getLogger(name)
        logger.handlers.clear()
        logger.propagate = name != "uvicorn.access"  # every request has a line of our own
    for name in ("httpx", "httpx2", "httpcore", "PIL", "asyncio", "multipart", "python_multipart"):
        logging.getLogger(name).setLevel(logging.WARNING)


def without_words(logger: object, method: str, record: Record) -> Record:
    """Leaves out what people wrote, and secrets."""
    for name in _WORDS:
        record.pop(name, None)
    return without_secrets(logger, method, record)


def without_secrets(logger: object, method: str, record: Record) -> Record:
    """Leaves out what opens doors."""
    del logger, method
    for name in [name for name in record if name.lower() in _SECRETS]:
        del record[name]
    return record
