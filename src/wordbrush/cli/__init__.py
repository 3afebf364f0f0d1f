"""The `wordbrush` command: one thin file a command group. Parse into a request, call the library, show the result.

app.py       the list of commands, and errors to exit codes
console.py   what all commands share: notes, progress, JSON
generate.py  generate     replay.py  replay     explain.py  explain     models.py  models
"""

from __future__ import annotations


def main() -> None:
    """Runs this process's command line and exits: 0 done, 1 the work failed, 2 the request was wrong."""
    from wordbrush.cli.app import make_app

    make_app()(prog_name="wordbrush")
