"""`wordbrush serve`: the web studio and the HTTP APIs."""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path
from typing import Annotated, Any

import typer

from wordbrush.errors import RequestError
from wordbrush.serving.checkup import NEEDED

Texts = list[str] | None


def register(app: typer.Typer) -> None:
    """Adds the command."""
    example = "wordbrush serve --port 7860"
    app.command(epilog=f"Example: {example}")(serve)


def serve(
    host: Annotated[
        str | None,
        typer.Option("--host", help="Address to listen on; another than this machine's own demands an API key.",
                     show_default="127.0.0.1"),
    ] = None,
    port: Annotated[int | None, typer.Option("--port", help="0 takes any free one.", show_default="7860")] = None,
    data: Annotated[
        Path | None, typer.Option("--data", help="Folder of the jobs and pictures.", show_default="the user's own")
    ] = None,
    database: Annotated[
        str | None, typer.Option("--database", help="SQLAlchemy URL.", show_default="an SQLite file in the data folder")
    ] = None,
    workers: Annotated[
        int | None, typer.Option("--workers", help="Processes that paint.", show_default="one for each GPU, or one")
    ] = None,
    device: Annotated[str | None, typer.Option("--device", help="auto, cpu, cuda, mps.", show_default="auto")] = None,
    dtype: Annotated[
        str | None, typer.Option("--dtype", help="auto, float32, bfloat16, float16.", show_default="auto")
    ] = None,
    threads: Annotated[
        int | None, typer.Option("--threads", help="CPU threads of one worker.", show_default="all cores, shared")
    ] = None,
    batch: Annotated[int | None, typer.Option("--batch", help="Most pictures at once.", show_default="16")] = None,
    queue_limit: Annotated[
        int | None, typer.Option("--queue-limit", help="Most jobs that wait.", show_default="256")
    ] = None,
    cache_bytes: Annotated[
        str | None,
        typer.Option("--cache-bytes", help="Memory for models in a worker, such as 4GiB.", show_default="a share"),
    ] = None,
    preload: Annotated[Texts, typer.Option("--preload", help="A model to load at the start; may be repeated.")] = None,
    retention_days: Annotated[
        float | None, typer.Option("--retention-days", help="Delete ended jobs after so long.", show_default="never")
    ] = None,
    retention_bytes: Annotated[
        str | None, typer.Option("--retention-bytes", help="Delete the oldest beyond this, such as 20GiB.")
    ] = None,
    rate: Annotated[
        str | None, typer.Option("--rate", help="Most requests of a key, such as 120/minute, or none.")
    ] = None,
    public_url: Annotated[
        str | None, typer.Option("--public-url", help="What it is called from outside, behind a proxy.")
    ] = None,
    allowed_host: Annotated[
        Texts, typer.Option("--allowed-host", help="Another name it goes by; may be repeated.")
    ] = None,
    allowed_origin: Annotated[
        Texts, typer.Option("--allowed-origin", help="A web page that may call it; may be repeated.")
    ] = None,
    studio: Annotated[bool | None, typer.Option("--studio/--no-studio", help="The web page to paint with.")] = None,
    shutdown_grace: Annotated[
        float | None, typer.Option("--shutdown-grace", help="Seconds that running jobs get.", show_default="30")
    ] = None,
    log_format: Annotated[str | None, typer.Option("--log-format", help="auto, text, json.")] = None,
    log_level: Annotated[str | None, typer.Option("--log-level", help="debug, info, warning, error.")] = None,
    config: Annotated[
        Path | None, typer.Option("--config", help="File of settings, JSON.", show_default="the user's config.json")
    ] = None,
) -> None:
    """Start the web studio and the HTTP APIs, here at http://127.0.0.1:7860.

    Every setting can also stand in the environment (WORDBRUSH_SERVE_PORT) or in a file, under "serve";
    docs/serving.md lists them all.
    """
    lacks = [name for name in NEEDED if find_spec(name) is None]
    if lacks:
        raise RequestError(f"serving needs {', '.join(lacks)}: pip install 'wordbrush[studio]'")
    from wordbrush.serving.running import run
    from wordbrush.serving.settings import Settings

    flags: dict[str, Any] = {
        "host": host, "port": port, "data": data, "database": database, "workers": workers, "device": device,
        "dtype": dtype, "threads": threads, "batch": batch, "queue_limit": queue_limit, "cache_bytes": cache_bytes,
        "preload": preload or None, "retention_days": retention_days, "retention_bytes": retention_bytes,
        "rate": rate, "public_url": public_url, "allowed_hosts": allowed_host or None,
        "allowed_origins": allowed_origin or None, "studio": studio, "shutdown_grace": shutdown_grace,
        "log_format": log_format, "log_level": log_level, "config": config,
    }  # fmt: skip
    run(Settings(**{name: value for name, value in flags.items() if value is not None}))
