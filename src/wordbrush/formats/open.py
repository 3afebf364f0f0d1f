"""What a model's name means: the embedded model, a path, a name in the library, or a repository on the hub."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

from wordbrush.errors import ModelFileError, RequestError, WorkFailed
from wordbrush.formats.diffusers_folder import read_folder
from wordbrush.formats.fit import check_fit
from wordbrush.formats.hub import HUB_FILE, HUB_ID, cached_model, download
from wordbrush.formats.library import CHECKPOINT, EMBEDDED, SUFFIXES, Library, embedded_folder, on_disk
from wordbrush.formats.parts import ModelParts
from wordbrush.formats.single_file.elsewhere import read_vae
from wordbrush.formats.single_file.read import check_prediction, read_single_file
from wordbrush.runtime.memory import collector_resting
from wordbrush.runtime.policy import Runtime

__all__ = ["EMBEDDED", "embedded_folder", "locate_model", "open_model"]


@collector_resting()
def open_model(
    name: str | Path | None = None,
    *,
    revision: str | None = None,
    variant: str | None = None,
    vae: str | Path | None = None,
    text_encoders: Sequence[str | Path] = (),
    tokenizer: str | Path | None = None,
    prediction: str | None = None,
    runtime: Runtime | None = None,
) -> ModelParts:
    """Opens a model by the name a user gives it.

    Args:
        name: as `locate_model`; a hub id that is not in the cache is downloaded.
        revision: a branch, tag or commit of a hub id.
        variant: which of several forms of the weights in a folder to read, such as "fp16".
        vae: a file, folder or name of a VAE in place of the model's own.
        text_encoders: files, folders or names of the text encoders that a single file does not hold.
        tokenizer: a folder with the tokenizer of a single file.
        prediction: what the network predicts, in place of what the model says or is taken to say.
        runtime: where the model will run: on a CPU, its weights are made ready for that as they are read, which needs
            less time and memory than to do it afterwards. None leaves them as they are stored.

    Raises:
        ModelFileError: there is no such model, it cannot be downloaded, or a file of it is damaged.
        RequestError: an argument has no meaning for this kind of model.
    """
    place = locate_model(name, revision=revision, variant=variant, fetch=True)
    called = EMBEDDED if name is None else str(name)
    own_vae = None if vae is None else _place(vae, Library.find_vae)
    encoders = [_place(one, Library.find_text_encoder) for one in text_encoders]
    if place.is_file():
        if variant is not None:
            raise RequestError(f"variant={variant!r} has a meaning only for folders, and {place} is a file")
        folder = None if tokenizer is None else Path(tokenizer).expanduser()
        parts = read_single_file(
            place, prediction=prediction, tokenizer=folder, vae=own_vae, text_encoders=encoders, name=called,
            runtime=runtime,
        )  # fmt: skip
        return parts if vae is None else replace(parts, vae_name=str(vae))
    for argument, value in (("tokenizer", tokenizer), ("text_encoders", text_encoders)):
        if value:
            raise RequestError(f"{argument}={value!r} has a meaning only for single files, and {place} is a folder")
    parts = read_folder(place, name=called, variant=variant, runtime=runtime)
    if own_vae is not None:
        parts = replace(parts, vae=read_vae(own_vae, parts.family, runtime), vae_name=str(vae))
        check_fit(parts, own_vae)
    return parts if prediction is None else _predicting(parts, prediction)


def _place(name: str | Path, find: Callable[[Library, str | Path], Path]) -> Path:
    """A file or folder by its path, or by its name in the library."""
    return on_disk(name) or find(Library.default(), name)


def _predicting(parts: ModelParts, prediction: str) -> ModelParts:
    """The model with another word on what its network predicts."""
    check_prediction(prediction, parts.family, parts.name)
    scheduler_json = parts.scheduler_json
    if scheduler_json is not None and "flow" not in (prediction, parts.scheduler.prediction):
        scheduler_json = {**scheduler_json, "prediction_type": "v_prediction" if prediction == "v" else prediction}
    return replace(
        parts, scheduler=replace(parts.scheduler, prediction=prediction), scheduler_json=scheduler_json
    )


def locate_model(
    name: str | Path | None = None, *, revision: str | None = None, variant: str | None = None, fetch: bool = False
) -> Path:
    """The file or diffusers folder that a model's name stands for.

    A name is, and is tried as, in this order: None or "scenes-128", the embedded model; a path that exists; a name in
    the library, where the hub's cache is (no socket is opened for it); a hub id, if it may be fetched.

    Args:
        revision: a branch, tag or commit of a hub id.
        variant: which form of the weights is downloaded, if any is.
        fetch: whether a hub id "owner/name" that is not in the cache is downloaded. One that looks like a path is not.

    Raises:
        ModelFileError: there is no such model, or it cannot be downloaded.
        RequestError: a revision was given for something that is not a hub id.
    """
    if revision is not None:
        if name is None or on_disk(name) or not _is_hub_id(name):
            raise RequestError(
                f"revision={revision!r} has a meaning only for a hub id such as 'owner/name', not for {name!r}"
            )
        return cached_model(str(name), revision) or _fetched(str(name), revision, variant, fetch)
    if name is None or name == EMBEDDED:
        return embedded_folder()
    path = on_disk(name)
    if path is not None and (path.is_file() or (path / "model_index.json").is_file() or isinstance(name, Path)):
        return path
    library = Library.default()
    if not library.matches(CHECKPOINT, name):
        if path is not None:
            return path
        if _is_hub_id(name):
            return _fetched(str(name), None, variant, fetch)
        if HUB_FILE.fullmatch(str(name)):
            raise ModelFileError(
                f"there is no file {str(name)!r} here; if it is on the hub, `wordbrush models pull {name}` fetches it"
            )
    return library.entry(CHECKPOINT, name).path


def _is_hub_id(name: str | Path) -> bool:
    """Whether a name can only mean a repository; what looks like a path is one, even where no such file exists."""
    text = str(name)
    if isinstance(name, Path) or HUB_ID.fullmatch(text) is None or text.lower().endswith(SUFFIXES):
        return False
    return on_disk(text.partition("/")[0]) is None


def _fetched(name: str, revision: str | None, variant: str | None, fetch: bool) -> Path:
    if not fetch:
        raise ModelFileError(f"the hub model {name!r} is not in the cache; `wordbrush models pull {name}` fetches it")
    try:
        return download(name, revision=revision, variant=variant)
    except WorkFailed as error:
        raise ModelFileError(f"there is no model {name!r} here; {error}") from error
