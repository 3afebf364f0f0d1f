"""What the server has, by name: models, VAEs, LoRAs, embeddings, upscalers. Nothing else gets through.

A client's words name things of this list and are never taken for a path or an address: what is not in the list is
refused here, before a job is made of it, and a worker looks again at what a prompt became (`refuse_unknown_loras`).
"""

from __future__ import annotations

import difflib
import threading
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from wordbrush.conditioning.prompt.program import PromptProgram
from wordbrush.errors import ModelFileError, RequestError
from wordbrush.formats import hashes
from wordbrush.formats.inspect import hashed_file, inspect_model
from wordbrush.formats.json_file import read_json
from wordbrush.formats.library import CHECKPOINT, EMBEDDED, EMBEDDING, LORA, VAE, Library, LibraryEntry
from wordbrush.formats.library_scan import KINDS, UPSCALER
from wordbrush.request import GenerationRequest
from wordbrush.request_fields import FILTERS, LATENT_UPSCALERS, SAMPLER_NAMES, SCHEDULE_NAMES, SHIPPED_UPSCALER, Lora
from wordbrush.serving.settings import Settings
from wordbrush.serving.work import AnyWork, Describe, Upscale

# Files up to this size are hashed when their hash is asked for; of larger ones it is told if it is known already.
_SMALL = 256 << 20

# A name that is not there is looked for on the disk again, but not more often than this.
_AGAIN_AFTER = 5.0

# What a family is painted at where its files do not say.
_USUAL_SIDE = {"sd1": 512, "sd2": 768, "sdxl": 1024, "sdxl-refiner": 1024, "flux-dev": 1024, "flux-schnell": 1024}

# Signs of alternatives and wildcards: what stands between them is only known when they have been drawn.
_DRAWN = ("{", "}", "|", "__")


@dataclass(frozen=True, kw_only=True)
class Known:
    """One thing of the catalogue.

    Attributes:
        name: what requests call it.
        kind: "checkpoint", "vae", "lora", "embedding" or "upscaler".
        origin: "embedded", "hub" or "library".
        file: the file's or folder's own name, or the hub's.
        path: where it lies; None for what is no file. It is nobody's business outside the server.
    """

    name: str
    kind: str
    origin: str
    file: str
    path: Path | None

    @cached_property
    def sha256(self) -> str | None:
        """Of the file, or of the file of weights of a folder's network that denoises; None where that takes long."""
        try:
            file = None if self.path is None else hashed_file(self.path)
            if file is None:
                return None
            return hashes.file_sha256(file) if file.stat().st_size <= _SMALL else hashes.cached_sha256(file)
        except (ModelFileError, OSError):
            return None

    @property
    def title(self) -> str:
        """As the A1111 web UI writes it: "file.safetensors [0123456789]"; without the hash where it is not known."""
        return self.file if self.sha256 is None else f"{self.file} [{hashes.short_hash(self.sha256)}]"

    @cached_property
    def about(self) -> dict[str, Any]:
        """What headers and configs tell of it (`wordbrush models inspect`), without where it lies; {} if damaged."""
        try:
            found = {} if self.path is None else inspect_model(self.path)
        except (ModelFileError, OSError):
            return {}
        return {key: value for key, value in found.items() if key != "path"}

    @cached_property
    def defaults(self) -> dict[str, Any]:
        """What a model of our own wants where a request is silent; {} where its files do not say."""
        try:
            stated = {} if self.path is None else read_json(self.path / "wordbrush.json").get("defaults", {})
        except (ModelFileError, OSError):
            return {}
        return stated if isinstance(stated, dict) else {}


class Catalogue:
    """The names there are. Any thread may ask; the disk is looked through when a kind is first asked for."""

    samplers = SAMPLER_NAMES
    schedules = SCHEDULE_NAMES

    def __init__(self, settings: Settings | None = None) -> None:
        """settings: nothing of it is needed today; the catalogue is that of the user's library."""
        del settings
        self._lock = threading.RLock()
        self._library = Library.default()
        self._known: dict[str, tuple[Known, ...]] = {}
        self._read_at = time.monotonic()

    def refresh(self) -> None:
        """Looks through the folders again. Raises `ModelFileError` when the settings that list them are damaged."""
        library = Library.default()
        with self._lock:
            self._library, self._known, self._read_at = library, {}, time.monotonic()

    @property
    def models(self) -> tuple[Known, ...]:
        """The embedded one first."""
        found = self.known(CHECKPOINT)
        return tuple(sorted(found, key=lambda one: one.origin != "embedded"))

    @property
    def vaes(self) -> tuple[Known, ...]:
        """Separate VAEs."""
        return self.known(VAE)

    @property
    def loras(self) -> tuple[Known, ...]:
        """LoRAs."""
        return self.known(LORA)

    @property
    def embeddings(self) -> tuple[Known, ...]:
        """Textual inversions; a prompt says their names."""
        return self.known(EMBEDDING)

    @property
    def upscalers(self) -> tuple[Known, ...]:
        """The one that ships, filters, and those of the library; what enlarges latents is in `latent_upscalers`."""
        own = (SHIPPED_UPSCALER, *FILTERS)
        shipped = (Known(name=name, kind=UPSCALER, origin="embedded", file=name, path=None) for name in own)
        return (*shipped, *self.known(UPSCALER))

    @property
    def latent_upscalers(self) -> tuple[str, ...]:
        """For the second loop of high-resolution fix alone."""
        return LATENT_UPSCALERS

    def known(self, kind: str) -> tuple[Known, ...]:
        """Everything of a kind of the library, by name."""
        with self._lock:
            if kind not in self._known:
                self._known[kind] = _named(self._library.entries(kind))
            return self._known[kind]

    def find(self, kind: str, name: str) -> Known:
        """What a client's name stands for: its name here, its file's, the web UI's title, or a hash that is known.

        Raises:
            RequestError: nothing or several things have that name.
        """
        found = self._matches(kind, name)
        if not found and name.strip() and time.monotonic() - self._read_at > _AGAIN_AFTER:
            self.refresh()
            found = self._matches(kind, name)
        if len(found) == 1:
            return found[0]
        what, shown = KINDS[kind], repr(name[:80])
        if found:
            names = ", ".join(one.name for one in found)
            raise RequestError(f"{shown} is the name of {len(found)} {what}s here; say one of {names}")
        raise RequestError(f"there is no {what} {shown} here; {_instead(name, [one.name for one in self.known(kind)])}")

    def model(self, name: str | None) -> Known:
        """The model of a name; None is the embedded one. Raises as `find`."""
        return self.find(CHECKPOINT, EMBEDDED if name is None else name)

    def own_size(self, model: str | None) -> tuple[int, int] | None:
        """(width, height) in pixels that a model paints by itself, where that can be told without opening it.

        Raises as `find`.
        """
        own = self.defaults_of(model)
        return (own["width"], own["height"]) if "width" in own and "height" in own else None

    def defaults_of(self, model: str | None) -> dict[str, Any]:
        """What a model wants where a request is silent (width, height, steps, guidance …), as far as its files say.

        Raises as `find`.
        """
        found = self.model(model)
        about = found.about
        side = about.get("native_size") or _USUAL_SIDE.get(str(about.get("family")))
        usual = {} if side is None else {"width": side, "height": side}
        return usual | found.defaults

    def has_clip(self, model: Known) -> bool:
        """Whether a model brings a CLIP that sees pictures."""
        return model.path is not None and (model.path / "clip" / "config.json").is_file()

    def checked(self, work: AnyWork) -> AnyWork:
        """The work with every name in it as it is spelt here.

        Raises:
            RequestError: something in it is not here.
        """
        if isinstance(work, Upscale):
            return work.model_copy(update={"upscaler": self._upscaler(work.upscaler)})
        if isinstance(work, Describe):
            model = self.model(work.model)
            if not self.has_clip(model):
                raise RequestError(f"the model {model.name!r} brings no CLIP that sees pictures; leave model out")
            return work.model_copy(update={"model": model.name})
        return work.model_copy(update={"request": self._request(work.request)})

    def _request(self, request: GenerationRequest) -> GenerationRequest:
        changed: dict[str, Any] = {"model": self.model(request.model).name}
        if request.vae is not None:
            changed["vae"] = self.find(VAE, request.vae).name
        if request.loras:
            changed["loras"] = tuple(
                Lora(name=self.find(LORA, lora.name).name, unet=lora.unet, text=lora.text) for lora in request.loras
            )
        if request.upscaler is not None:
            changed["upscaler"] = self._upscaler(request.upscaler)
        if request.hires is not None and request.hires.upscaler not in LATENT_UPSCALERS:
            named = self._upscaler(request.hires.upscaler)
            changed["hires"] = request.hires.model_copy(update={"upscaler": named})
        if request.clip is not None:
            raise RequestError("clip: this server steers by the CLIP that comes with the model; leave it out")
        if getattr(request.expand, "model", None) is not None:
            raise RequestError("expand.model: this server expands by what comes with the model; leave it out")
        self.refuse_unknown_loras(request)
        return request.model_copy(update=changed)

    def refuse_unknown_loras(self, request: GenerationRequest) -> None:
        """Looks at the LoRAs that prompts name, but for names that have still to be drawn.

        Raises:
            RequestError: one is not here, or its tag cannot be read.
        """
        for prompt in dict.fromkeys(request.prompts):
            for tag in PromptProgram.parse(prompt).loras:
                if request.written is not None or not any(sign in tag.name for sign in _DRAWN):
                    self.find(LORA, tag.name)

    def _upscaler(self, name: str | None) -> str:
        if name is None or name in (SHIPPED_UPSCALER, *FILTERS):
            return name or SHIPPED_UPSCALER
        lowered = name.lower()
        if lowered in (SHIPPED_UPSCALER, *FILTERS):
            return lowered
        try:
            return self.find(UPSCALER, name).name
        except RequestError as error:
            own = ", ".join((SHIPPED_UPSCALER, *FILTERS))
            raise RequestError(f"{error}; without any file there are {own}") from error

    def _matches(self, kind: str, name: str) -> list[Known]:
        if not name.strip():
            return []
        with self._lock:
            known = self.known(kind)
            for spelt in (str, str.lower):
                if found := [one for one in known if spelt(one.name) == spelt(name)]:
                    return found
            if titled := _titled(known, name):
                return titled
            try:
                entries = self._library.matches(kind, name)
            except ModelFileError:  # a title whose hash is of another version
                return []
            paths = {entry.path for entry in entries}
            return [one for one in known if one.path in paths]


def _named(entries: Sequence[LibraryEntry]) -> tuple[Known, ...]:
    """Short names where one file alone has them, else the path below the library's folder."""
    stems = Counter(entry.stem.lower() for entry in entries)
    found = []
    for entry in entries:
        name = entry.stem if stems[entry.stem.lower()] == 1 else entry.name
        origin = entry.origin if entry.origin in ("embedded", "hub") else "library"
        file = entry.name if entry.origin in ("embedded", "hub") else entry.name.rpartition("/")[2]
        found.append(Known(name=name, kind=entry.kind, origin=origin, file=file, path=entry.path))
    return tuple(found)


def _titled(known: Sequence[Known], name: str) -> list[Known]:
    """What a title with a hash, as `Known.title` is written, stands for."""
    base, opened, digits = name.strip().rpartition(" [")
    if not opened or len(digits) < 9 or digits[-1] != "]":
        return []
    named = [one for one in known if base.lower() in (one.name.lower(), one.file.lower())]
    return [one for one in named if (one.sha256 or "").startswith(digits[:-1].lower())]


def _instead(name: str, names: list[str]) -> str:
    close = difflib.get_close_matches(name[:200], names, n=3, cutoff=0.6)
    if close:
        return f"close to it: {', '.join(close)}"
    if not names:
        return "there is none at all"
    return f"there are {', '.join(names[:8])}{' and more' if len(names) > 8 else ''}"
