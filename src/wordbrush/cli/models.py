"""`wordbrush models`: what models there are, what a file is, and moving them about."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from wordbrush.cli import console, options
from wordbrush.errors import ModelFileError, RequestError, WorkFailed

if TYPE_CHECKING:
    from wordbrush.formats.library import LibraryEntry

Kind = Literal["checkpoint", "vae", "lora", "embedding", "text_encoder", "upscaler"]

Place = Annotated[
    str | None,
    typer.Argument(
        metavar="MODEL", help="A file, a folder, or a name that `models list` shows.", show_default="the embedded model"
    ),
]
OfKind = Annotated[Kind | None, typer.Option("--kind", help="Only these.", show_default="all")]
Hash = Annotated[bool, typer.Option("--hash", help="Compute the hashes; the first time, this reads the whole file.")]
HubName = Annotated[str, typer.Argument(metavar="NAME", help="A hub id OWNER/NAME, or one file OWNER/NAME/FILE.")]
Revision = Annotated[str | None, typer.Option("--revision", help="A branch, tag or commit.", show_default="main")]
Variant = Annotated[
    str | None, typer.Option("--variant", help="Which weights, such as fp16.", show_default="the plain ones")
]
Source = Annotated[str, typer.Argument(metavar="SRC", help="A file, a diffusers folder, or a name.")]
Target = Annotated[Path, typer.Argument(metavar="DST", help="A .safetensors file, or a folder for a diffusers model.")]
WrittenDtype = Annotated[
    Literal["float32", "bfloat16", "float16"] | None,
    typer.Option("--dtype", help="The number format to write.", show_default="that of the source"),
]
Force = Annotated[bool, typer.Option("--force", help="Replace DST.")]
Named = Annotated[str, typer.Argument(metavar="NAME", help="A name that `models list` shows.")]
Yes = Annotated[bool, typer.Option("--yes", "-y", help="Do not ask.")]
Folder = Annotated[Path, typer.Argument(metavar="FOLDER", help="A WebUI, a ComfyUI, or any folder with model files.")]
FolderKind = Annotated[
    Kind | None, typer.Option("--kind", help="What all files in it are.", show_default="told by folder and header")
]


def register(app: typer.Typer) -> None:
    """Adds the command group."""
    group = console.command_group(app, "models", "List, inspect, fetch, convert and remove models.")
    group.command("list", epilog="Example: wordbrush models list --kind lora")(list_models)
    group.command(epilog="Example: wordbrush models inspect scenes-128 --json")(inspect)
    group.command(epilog="Example: wordbrush models pull stabilityai/stable-diffusion-xl-base-1.0 --variant fp16")(pull)
    group.command(epilog="Example: wordbrush models convert scenes-128 scenes-128.safetensors --dtype float16")(convert)
    group.command(epilog="Example: wordbrush models remove stabilityai/stable-diffusion-xl-base-1.0")(remove)
    folders = console.command_group(group, "folders", "Where models are looked for.")
    folders.command("add", epilog="Example: wordbrush models folders add ~/stable-diffusion-webui")(add_folder)
    folders.command("list", epilog="Example: wordbrush models folders list")(list_folders)
    folders.command("remove", epilog="Example: wordbrush models folders remove ~/stable-diffusion-webui")(remove_folder)


def list_models(kind: OfKind = None, as_json: options.AsJson = False) -> None:
    """List the models, VAEs, LoRAs, embeddings and text encoders that can be named."""
    from wordbrush.formats.library import Library

    library = Library.default()
    rows = [_listed(entry) for entry in library.entries(kind)]
    if as_json:
        console.json_result({"models": rows, "folders": [str(folder.path) for folder in library.folders]})
        return
    for line in console.table(
        ("name", "kind", "family", "size", "dtypes"),
        [(row["name"], row["kind"], row["family"] or "", _size(row["bytes"]), row["dtypes"] or "") for row in rows],
    ):
        console.result(line)
    for row in rows:
        if row["problem"] is not None:
            console.note(row["problem"])


def _listed(entry: LibraryEntry) -> dict[str, Any]:
    """One row: what its headers tell, or why they cannot be read."""
    from wordbrush.formats.inspect import inspect_model

    problem = None
    try:
        content = inspect_model(entry.path)
    except ModelFileError as error:
        content, problem = {}, str(error)
    return {
        "name": entry.name,
        "kind": entry.kind,
        "family": content.get("family") or content.get("base"),
        "variant": content.get("variant"),
        "parameters": content.get("parameters"),
        "bytes": content.get("bytes"),
        "dtypes": content.get("dtypes"),
        "a1111_hash": content.get("hashes", {}).get("a1111"),
        "path": str(entry.path),
        "origin": entry.origin,
        "problem": problem,
    }


def inspect(name: Place = None, hashed: Hash = False, as_json: options.AsJson = False) -> None:
    """Say what a model file or folder is. Only headers are read.

    Family, parts, parameters, number formats, prediction type, licence, how it was trained, and its hashes.
    """
    from wordbrush.formats.hashes import file_sha256, lora_hash
    from wordbrush.formats.inspect import hashed_file, inspect_model

    path = _located(name)
    content = inspect_model(path)  # says what is wrong with a file before it is hashed for a minute
    file = hashed_file(path) if hashed else None
    if file is not None:
        with _reading("hashing", file) as advance:
            file_sha256(file, advance)
        if content["kind"] == "lora":
            lora_hash(file)
        content = inspect_model(path)
    if as_json:
        console.json_result(content)
        return
    for line in _lines({key: value for key, value in content.items() if key != "metadata"}):
        console.result(line)
    if not hashed and content.get("hashes", {}).get("sha256", "") is None:
        console.note("the hashes are not known yet; --hash computes them")


def pull(
    name: HubName, revision: Revision = None, variant: Variant = None, as_json: options.AsJson = False
) -> None:
    """Fetch a model, or one file, from the Hugging Face hub. Needs the network; goes on where it stopped.

    Of a pipeline's weights one form is fetched, the .safetensors where there are any.
    """
    from wordbrush.formats import hub

    file = hub.HUB_FILE.fullmatch(name)
    if file is None and hub.HUB_ID.fullmatch(name) is None:
        raise RequestError(f"{name!r} is neither a hub id OWNER/NAME nor a file OWNER/NAME/FILE.safetensors")
    if file is not None and variant is not None:
        raise RequestError(f"--variant {variant} has no meaning for the single file {name}")
    if hub.is_offline():
        path = _in_cache(name, revision)
    elif file is not None:
        path = hub.download_file(file[1], file[2], revision=revision, **console.download_progress())
    else:
        path = hub.download(name, revision=revision, variant=variant, **console.download_progress())
    if as_json:
        console.json_result({"name": name, "path": str(path)})
    else:
        console.result(str(path))


def convert(
    source: Source,
    target: Target,
    dtype: WrittenDtype = None,
    vae: options.Vae = None,
    text_encoder: options.TextEncoders = None,
    tokenizer: options.Tokenizer = None,
    variant: options.Variant = None,
    prediction: options.Prediction = None,
    force: Force = False,
    as_json: options.AsJson = False,
) -> None:
    """Write a model in the other form: a diffusers folder as one .safetensors file, a file as a diffusers folder.

    Every weight keeps its bits, there and back, unless --dtype changes them. A .ckpt is read, and never run. What a
    file lacks (--vae, --text-encoder, --tokenizer) becomes part of what is written.
    """
    from wordbrush.formats.convert import Opening, convert_model
    from wordbrush.formats.open import locate_model
    from wordbrush.formats.single_file.read import left_out

    place = locate_model(source)
    omitted = left_out(place) if place.is_file() else None
    opening = Opening(
        variant=variant, vae=vae, text_encoders=tuple(text_encoder or ()), tokenizer=tokenizer, prediction=prediction
    )
    size = convert_model(place, target.expanduser(), dtype=dtype, opening=opening, force=force)
    if as_json:
        console.json_result({"path": str(target), "bytes": size, "dtype": dtype, "left_out": omitted})
    else:
        console.result(f"{target}: {_size(size)}")
    if omitted is not None:
        console.note(omitted)


def remove(name: Named, yes: Yes = False, as_json: options.AsJson = False) -> None:
    """Delete a model of the library from the disk: a file, a folder, or what was pulled from the hub."""
    from wordbrush.formats.library import Library
    from wordbrush.formats.removal import plan_removal
    from wordbrush.formats.removal import remove as remove_files

    removal = plan_removal(Library.default(), name)
    places = ", ".join(str(path) for path in removal.paths)
    if not yes:
        if not sys.stdin.isatty():
            raise RequestError(f"removing {places} needs a yes; give --yes")
        if not typer.confirm(f"remove {places} ({_size(removal.bytes)})?", err=True):
            raise typer.Exit(1)
    remove_files(removal)
    if as_json:
        content = {"name": removal.name, "removed": [str(path) for path in removal.paths], "bytes": removal.bytes}
        console.json_result(content)
    else:
        console.result(f"removed {places}, {_size(removal.bytes)}")


def add_folder(folder: Folder, kind: FolderKind = None) -> None:
    """Have models looked for in a folder and all below it."""
    from wordbrush.formats import library_folders
    from wordbrush.formats.library import KINDS, Library

    added = library_folders.add_folder(folder, kind)
    kinds = [entry.kind for entry in Library([added]).entries() if entry.origin == str(added.path)]
    counts = [f"{kinds.count(each)} {KINDS[each]}{'s' * (kinds.count(each) > 1)}" for each in dict.fromkeys(kinds)]
    console.result(f"{added.path}: {', '.join(counts) or 'nothing that is known here'}")


def list_folders(as_json: options.AsJson = False) -> None:
    """List the folders where models are looked for."""
    from wordbrush.formats.library_folders import VARIABLE, config_file, library_folders
    from wordbrush.formats.user_folders import hub_cache

    rows: list[dict[str, Any]] = [
        {
            "path": str(folder.path),
            "kind": folder.kind,
            "from": str(config_file()) if folder.configured else VARIABLE,
            "exists": folder.path.is_dir(),
        }
        for folder in library_folders()
    ]
    rows.append({"path": str(hub_cache()), "kind": None, "from": "the hub's cache", "exists": hub_cache().is_dir()})
    if as_json:
        console.json_result({"folders": rows})
        return
    cells = [(row["path"], row["kind"] or "", row["from"], "" if row["exists"] else "not there") for row in rows]
    for line in console.table(("folder", "kind", "from", ""), cells):
        console.result(line)


def remove_folder(folder: Folder) -> None:
    """No longer look for models in a folder. Nothing in it is deleted."""
    from wordbrush.formats import library_folders

    library_folders.remove_folder(folder)
    console.result(f"{folder} is no longer looked through; its files are where they were")


def _in_cache(name: str, revision: str | None) -> Path:
    """What is there of a hub id or file without the network."""
    from wordbrush.formats import hub

    file = hub.HUB_FILE.fullmatch(name)
    snapshot = hub.cached_snapshot(file[1], revision) if file else hub.cached_model(name, revision)
    path = snapshot / file[2] if file and snapshot is not None else snapshot
    if path is None or not path.exists():
        raise WorkFailed(f"pulling {name!r} needs the network, which HF_HUB_OFFLINE forbids; unset it and try again")
    console.note("HF_HUB_OFFLINE is set; the cache has it, newer or not")
    return path


def _located(name: str | None) -> Path:
    """The path of anything that has a name or a path."""
    from wordbrush.formats.library import EMBEDDED, Library, embedded_folder, on_disk

    if name is None or name == EMBEDDED:
        return embedded_folder()
    return on_disk(name) or Library.default().find(None, name)


@contextmanager
def _reading(title: str, file: Path) -> Iterator[Any]:
    """Progress over the bytes of a file; gives what is to be called with the number of bytes just read."""
    block = 1 << 26
    total = -(-file.stat().st_size // block)
    with console.progress(f"{title} {file.name}", total) as advance:
        done = 0

        def read(count: int) -> None:
            nonlocal done
            before, done = done // block, done + count
            for _ in range(done // block - before):
                advance()

        yield read


def _lines(content: Mapping[str, Any], indent: str = "") -> list[str]:
    lines = []
    for key, value in content.items():
        name = key.replace("_", " ")
        if isinstance(value, dict):
            inner = _lines(value, indent + "  ")
            lines += [f"{indent}{name}:", *inner] if inner else []
        elif value is not None:
            shown = f"{value:,}" if isinstance(value, int) and not isinstance(value, bool) else str(value)
            lines.append(f"{indent}{name}: {' '.join(shown.splitlines())}")
    return lines


def _size(count: int | None) -> str:
    """Bytes as people say them: "3.44 GB"."""
    if count is None:
        return ""
    for unit, size in (("GB", 10**9), ("MB", 10**6), ("kB", 10**3)):
        if count >= size:
            return f"{count / size:.3g} {unit}"
    return f"{count} B"
