"""`wordbrush prompts`: presets, styles and wildcards at hand, and what becomes of a prompt, without painting."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer

from wordbrush.cli import console, options
from wordbrush.errors import RequestError
from wordbrush.metadata import write_whole
from wordbrush.request import GenerationRequest


def register(app: typer.Typer) -> None:
    """Adds the command group."""
    group = console.command_group(app, "prompts", "Presets, styles and wildcards; what becomes of a prompt.")
    group.command(name="list", epilog="Example: wordbrush prompts list")(list_words)
    group.command(name="import", epilog="Example: wordbrush prompts import styles.csv")(import_styles)
    group.command(name="write", epilog='Example: wordbrush prompts write "a __colour__ fox" --expand -n 5')(write)


def list_words(as_json: options.AsJson = False) -> None:
    """List the presets, styles and wildcards there are, yours and those that came with Wordbrush."""
    from wordbrush.conditioning.styles import known_styles
    from wordbrush.conditioning.wildcards import Wildcards
    from wordbrush.editing.presets import preset_files, read_preset
    from wordbrush.formats.user_folders import config_folder

    presets = {name: read_preset(path).about for name, path in preset_files().items()}
    styles, wildcards = known_styles(), Wildcards.default()
    if as_json:
        console.json_result(
            {
                "folder": str(config_folder()),
                "presets": presets,
                "styles": [asdict(style) for style in styles.values()],
                "wildcards": {name: str(path) for name, path in wildcards.files.items()},
            }
        )
        return
    for name, about in presets.items():
        console.result(f"preset    {name:<14} {about}")
    for style in styles.values():
        console.result(f"style     {style.name:<14} {style.prompt or '(negative) ' + style.negative}")
    for name in wildcards.files:
        console.result(f"wildcard  __{name + '__':<12} {len(wildcards.texts(name))} texts")
    console.note(f"yours go into {config_folder()}: presets/NAME.yaml, styles.csv, wildcards/NAME.txt")


def import_styles(
    file: Annotated[Path, typer.Argument(metavar="CSV", help="A styles.csv of the A1111 web UI.")],
) -> None:
    """Add the styles of a file to yours; one of the same name takes the place of yours."""
    from wordbrush.conditioning.styles import read_styles, styles_csv, user_styles

    new = read_styles(file)
    if not new:
        raise RequestError(f"there is no style in {str(file)!r}")
    place = user_styles()
    kept = {style.name: style for style in (read_styles(place) if place.is_file() else [])}
    write_whole(place, styles_csv((kept | {style.name: style for style in new}).values()).encode())
    console.result(f"{len(new)} {'style' if len(new) == 1 else 'styles'} added to {place}")


def write(
    prompt: Annotated[str, typer.Argument(metavar="PROMPT", help="With alternatives, wildcards …")],
    count: Annotated[int, typer.Option("--count", "-n", help="How many.")] = 5,
    seed: options.Seed = None,
    preset: options.Preset = None,
    style: options.Styles = None,
    expand: options.Expand = None,
    expander: options.Expander = None,
    expand_with: options.ExpandWith = None,
    model: options.Model = None,
    as_json: options.AsJson = False,
) -> None:
    """Say what a prompt becomes, with the seeds that `generate` would take, and paint nothing."""
    from wordbrush.conditioning.writing import PromptWriter
    from wordbrush.editing.presets import preset_named
    from wordbrush.editing.setup import with_seed
    from wordbrush.formats.gpt2_folder import expander_folder
    from wordbrush.formats.open import EMBEDDED, locate_model

    wanted = options.expansion(expand, expander, expand_with)
    fields = {} if preset is None else preset_named(preset).fields
    request = with_seed(
        GenerationRequest(
            prompt=prompt, count=count, seed=seed,
            styles=tuple(style or fields.get("styles", ())), expand=fields.get("expand") if wanted is None else wanted,
        )
    )  # fmt: skip
    found = PromptWriter(model or EMBEDDED, expander_folder(locate_model(model))).written(request)
    if as_json:
        listed = [{"seed": (request.seed or 0) + index, "prompt": text} for index, text in enumerate(found.prompts)]
        console.json_result({"written": prompt, "prompts": listed})
        return
    for index, text in enumerate(found.prompts):
        console.result(f"{(request.seed or 0) + index}: {text}")
