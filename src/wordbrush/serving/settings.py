"""What can be set about the server: flags, then environment variables, then one file, then the defaults here.

The file is `config.json` in the settings folder (the one that also lists the model folders), under the key "serve", or
another that `--config` or WORDBRUSH_SERVE_CONFIG names. An environment variable is WORDBRUSH_SERVE_ and the name of the
setting: WORDBRUSH_SERVE_PORT=8000. Lists are written with commas there: WORDBRUSH_SERVE_PRELOAD=one,two.
"""

from __future__ import annotations

import ipaddress
import json
import os
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, ByteSize, Field, ValidationError, field_validator
from pydantic.fields import FieldInfo
from pydantic_settings import BaseSettings, NoDecode, PydanticBaseSettingsSource, SettingsConfigDict

from wordbrush.errors import RequestError
from wordbrush.formats.library_folders import config_file
from wordbrush.formats.user_folders import data_folder
from wordbrush.request_fields import one_sentence

PREFIX = "WORDBRUSH_SERVE_"
SECTION = "serve"


def _listed(value: Any) -> Any:
    """A text with commas is a list."""
    return tuple(part.strip() for part in value.split(",") if part.strip()) if isinstance(value, str) else value


Names = Annotated[tuple[str, ...], NoDecode, BeforeValidator(_listed)]
"""A list of texts, in the environment and on the command line with commas between them."""

LOOPBACK_NAMES = ("localhost", "127.0.0.1", "::1")


class Settings(BaseSettings):
    """Everything that can be set. Raises `RequestError`, one sentence, when a value does not fit.

    Sizes are bytes, or texts such as "64MiB". None means: decided by what is there.
    """

    model_config = SettingsConfigDict(env_prefix=PREFIX, frozen=True, extra="forbid")

    config: Path | None = None
    """A file of settings in place of `config.json`."""

    # Where it listens, and what it is called from outside.
    host: str = "127.0.0.1"
    """The address to listen on. One that is not this machine's own demands an API key."""
    port: int = Field(default=7860, ge=0, le=65535)
    """0 takes any free one."""
    public_url: str | None = Field(default=None, pattern=r"^https?://[^\s/?#]+(/[^\s?#]*)?$")
    """What pictures' addresses begin with in answers, where that is not what the client called (behind a proxy)."""
    allowed_hosts: Names = ()
    """More names that may stand in Host, beside `host` and, on a loopback address, localhost."""
    allowed_origins: Names = ()
    """Origins of other web pages that may call the APIs (https://app.example); "*" is any."""

    # What it keeps.
    data: Path = Field(default_factory=lambda: data_folder() / "serve")
    """The folder of the database and the picture files."""
    database: str | None = None
    """A SQLAlchemy URL; None is an SQLite file in `data`."""
    retention_days: float | None = Field(default=None, gt=0)
    """Ended jobs that are older are deleted; None keeps them."""
    retention_bytes: ByteSize | None = Field(default=None, gt=0)
    """The oldest ended jobs are deleted while the pictures take more; None keeps them."""

    # Who paints.
    workers: int | None = Field(default=None, ge=0, le=64)
    """Processes that paint; None is one for each GPU, or one on a CPU; 0 only takes jobs in."""
    device: str = "auto"
    """"auto", "cpu", "cuda", "cuda:1", "mps"."""
    dtype: Literal["auto", "float32", "bfloat16", "float16"] = "auto"
    threads: int | None = Field(default=None, ge=1, le=1024)
    """CPU threads of one worker; None shares the cores among the workers."""
    batch: int = Field(default=16, ge=1, le=1024)
    """Most pictures that are painted at once."""
    cache_bytes: ByteSize | None = Field(default=None, ge=0)
    """How much memory the models that a worker keeps may take; None is a share of what the machine has."""
    preload: Names = ()
    """Models that every worker loads at the start."""
    queue_limit: int = Field(default=256, ge=1, le=1_000_000)
    """Most jobs that wait; then clients get 429."""
    shutdown_grace: float = Field(default=30.0, ge=0, le=3600)
    """Seconds that running jobs have to finish when the server is told to end; then they go back to the queue."""

    # What one request may be.
    max_body: ByteSize = Field(default=ByteSize(64 * 1024**2), ge=1024)
    """Largest body of a request."""
    max_pixels: int = Field(default=64_000_000, ge=1)
    """Largest picture that may be uploaded or painted, width times height."""
    max_side: int = Field(default=4096, ge=8, le=16384)
    """Largest width or height that may be painted."""
    max_pictures: int = Field(default=64, ge=1, le=100_000)
    """Most pictures of one job."""
    max_steps: int = Field(default=250, ge=1, le=1000)
    """Most sampling steps of one job."""
    rate: str | None = "600/minute"
    """Most requests of one key: "120/minute", "10/second"; None (or "none") is no limit."""

    # For other programs' clients.
    openai_aliases: dict[str, str] = Field(
        default_factory=lambda: {"gpt-image-*": "", "chatgpt-image-*": "", "dall-e-*": ""}
    )
    """Names of hosted models (with * and ?) that programs ask for, and the model here that each stands for; "" is the
    default one. Without any, such a request is answered 404. In the environment: a JSON object."""

    # The page and the logs.
    studio: bool = True
    """Whether there is a web page to paint with, where Gradio is installed."""
    log_format: Literal["auto", "json", "text"] = "auto"
    """auto is text on a terminal and JSON elsewhere."""
    log_level: Literal["debug", "info", "warning", "error"] = "info"
    log_prompts: bool = False
    """Whether prompts may stand in the log."""

    def __init__(self, **values: Any) -> None:
        try:
            super().__init__(**values)
        except ValidationError as error:
            raise RequestError(f"the server's settings are wrong: {one_sentence(error, type(self))}") from error

    @field_validator("rate")
    @classmethod
    def _rate_reads(cls, value: str | None) -> str | None:
        return None if value is None or value.strip().lower() in ("", "none") else value

    @field_validator("data", "config")
    @classmethod
    def _home(cls, value: Path | None) -> Path | None:
        return None if value is None else value.expanduser().absolute()

    @property
    def loopback(self) -> bool:
        """Whether only this machine can reach the server."""
        if self.host.lower() == "localhost":
            return True
        try:
            return ipaddress.ip_address(self.host.strip("[]")).is_loopback
        except ValueError:
            return False

    @property
    def database_url(self) -> str:
        """The SQLAlchemy URL."""
        return self.database or f"sqlite:///{self.data / 'wordbrush.db'}"

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,
        dotenv_settings: PydanticBaseSettingsSource,
        file_secret_settings: PydanticBaseSettingsSource,
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        """Flags, environment, file."""
        del dotenv_settings, file_secret_settings
        named = init_settings().get("config") or os.environ.get(f"{PREFIX}CONFIG")
        return init_settings, env_settings, _FileSource(settings_cls, Path(named).expanduser() if named else None)


class _FileSource(PydanticBaseSettingsSource):
    """The values of a JSON file: the object under "serve"."""

    def __init__(self, settings_cls: type[BaseSettings], named: Path | None) -> None:
        super().__init__(settings_cls)
        self._named = named

    def get_field_value(self, field: FieldInfo, field_name: str) -> tuple[Any, str, bool]:
        """Not asked: `__call__` gives all at once."""
        raise NotImplementedError

    def __call__(self) -> dict[str, Any]:
        path = self._named or config_file()
        try:
            content = json.loads(path.read_text(encoding="utf-8"))
        except FileNotFoundError as error:
            if self._named is None:
                return {}
            raise RequestError(f"there is no file of settings {str(path)!r}") from error
        except (OSError, ValueError) as error:
            raise RequestError(f"the settings in {path} cannot be read: {error}; correct the file") from error
        section = content.get(SECTION, {}) if isinstance(content, dict) else None
        if not isinstance(section, dict):
            raise RequestError(f"the settings in {path} do not hold an object under {SECTION!r}; correct the file")
        return section
