"""The list of commands, and what becomes of an error: one line on standard error and an exit code."""

from __future__ import annotations

from typing import Annotated, Any

import typer
from typer.core import TyperGroup

from wordbrush.cli import (
    bench,
    console,
    data,
    doctor,
    edit,
    evaluate,
    explain,
    finetune,
    generate,
    keys,
    models,
    plot,
    prompts,
    replay,
    serve,
    train,
    travel,
    upscale,
    vary,
)
from wordbrush.errors import ModelFileError, RequestError, WordbrushError

# Each module adds its commands with `register(app)`; the order is that of `wordbrush --help`.
COMMANDS = (
    generate, edit, vary, travel, upscale, replay, plot, prompts, explain,
    models, data, train, finetune, evaluate, bench, doctor, serve, keys,
)  # fmt: skip

WORK_FAILED, REQUEST_WRONG, INTERRUPTED = 1, 2, 130
NO_MEMORY = "there is not enough memory; ask for fewer or smaller pictures"


class _Group(TyperGroup):
    """Turns our exceptions into exit codes: a user sees one sentence, never a traceback for a mistake of their own."""

    def invoke(self, ctx: Any) -> Any:
        try:
            return super().invoke(ctx)
        except (RequestError, ModelFileError) as error:
            console.error(str(error))
            raise typer.Exit(REQUEST_WRONG) from error
        except WordbrushError as error:
            console.error(str(error))
            raise typer.Exit(WORK_FAILED) from error
        except MemoryError as error:
            console.error(NO_MEMORY)
            raise typer.Exit(WORK_FAILED) from error
        except OSError as error:  # of a question on the way, such as whether a file is there already, or of printing
            if isinstance(error, BrokenPipeError):  # the reader has read enough: typer ends quietly
                raise
            console.error(f"{error.filename or 'a file or the output'} cannot be used: {error.strerror or error}")
            raise typer.Exit(WORK_FAILED) from error
        except RuntimeError as error:  # torch has no class of its own for a CPU without memory
            if "can't allocate memory" not in str(error) and "out of memory" not in str(error):
                raise
            console.error(NO_MEMORY)
            raise typer.Exit(WORK_FAILED) from error
        except KeyboardInterrupt as error:
            console.error("interrupted")
            raise typer.Exit(INTERRUPTED) from error


def make_app() -> typer.Typer:
    """The whole command line."""
    app = typer.Typer(
        cls=_Group,
        name="wordbrush",
        help="Turns text into pictures.",
        epilog='Start with: wordbrush generate "a fox on a blue background" -o fox.png',
        no_args_is_help=True,
        add_completion=False,
        rich_markup_mode=None,
        pretty_exceptions_enable=False,
        context_settings={"help_option_names": ["-h", "--help"]},
    )

    @app.callback()
    def options(
        version: Annotated[
            bool, typer.Option("--version", help="Print the version and stop.", is_eager=True, callback=_print_version)
        ] = False,
    ) -> None:
        del version  # its callback has done all there is to do

    for module in COMMANDS:
        module.register(app)
    return app


def _print_version(wanted: bool) -> None:
    if wanted:
        import wordbrush

        typer.echo(f"wordbrush {wordbrush.__version__}")
        raise typer.Exit
