"""What the command-line tests share."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from typer.testing import CliRunner, Result

from wordbrush.cli.app import make_app

Run = Callable[..., Result]


@pytest.fixture
def run() -> Run:
    """Runs a command line in this process: `run("generate", "a fox", input="...")`."""

    def call(*arguments: object, input: str | bytes | None = None) -> Result:
        return CliRunner().invoke(make_app(), [str(argument) for argument in arguments], input=input)

    return call
