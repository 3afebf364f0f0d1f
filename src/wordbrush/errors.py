"""The exceptions a user of Wordbrush can meet.

    WordbrushError
    ├── RequestError      what was asked for cannot be done as asked (CLI exit code 2, HTTP 422)
    ├── ModelFileError    a model file is missing, damaged or of the wrong kind (exit code 2)
    └── WorkFailed        the work itself failed: disk full, not-a-number, interrupted (exit code 1)

Every message is one sentence that names the value that was wrong and what would be right.
"""


class WordbrushError(Exception):
    """Base of every error that Wordbrush raises on purpose."""


class RequestError(WordbrushError, ValueError):
    """The request was wrong; nothing was computed and nothing was written."""


class ModelFileError(WordbrushError, ValueError):
    """A model file or folder cannot be used; the message names the file and the remedy."""


class WorkFailed(WordbrushError, RuntimeError):
    """The request was right but the work could not be finished."""
