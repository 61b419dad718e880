"""Settings are environment variables, checked at start.

Each field's description and first example are also what a person reads when the value is wrong, so a
setting without them is refused by a test.
"""

import contextlib
import difflib
import ipaddress
import os
import re
from importlib.util import find_spec
from pathlib import Path
from typing import Annotated, Any, ClassVar, TypeVar

from pydantic import AfterValidator, Field, HttpUrl, TypeAdapter, ValidationError
from pydantic_settings import BaseSettings, SettingsConfigDict

REPOSITORY = Path(__file__).resolve().parents[1]

MAKE_KEY = 'python3 -c "import secrets; print(secrets.token_urlsafe(32))"'
"""A shell command that prints a good API_KEY."""

Port = Annotated[int, Field(ge=1, le=65535)]


class Settings(BaseSettings):
    """Base of every part's settings."""

    model_config = SettingsConfigDict(frozen=True, extra="ignore")

    @classmethod
    def variable(cls, field: str) -> str:
        """The environment variable of a field: its alias, or the prefix and the name."""
        alias = cls.model_fields[field].validation_alias
        return str(alias or f"{cls.model_config['env_prefix']}{field}").upper()

    @classmethod
    def variables(cls) -> dict[str, str]:
        """Environment variable to field name."""
        return {cls.variable(field): field for field in cls.model_fields}


S = TypeVar("S", bound=Settings)


class SettingsFault(Exception):
    """A wrong environment variable; the message is one line that says which, what is wrong, what to write."""


def load(kind: type[S]) -> S:
    """Read and check the environment. Raises SettingsFault."""
    variables = kind.variables()
    prefix = str(kind.model_config["env_prefix"]).upper()
    for name in os.environ:
        if prefix and name.startswith(prefix) and name not in variables:
            near = difflib.get_close_matches(name, variables, n=1, cutoff=0)[0]
            raise SettingsFault(f"{name} is not a setting. Did you mean {near}?")
    try:
        return kind()
    except ValidationError as error:
        fault = error.errors()[0]
        given = str(fault["loc"][0])
        field = variables.get(given.upper(), given)
        info, variable = kind.model_fields[field], kind.variable(field)
        wrong = " ".join(fault["msg"].removeprefix("Value error, ").split())
        example = (info.examples or [info.default])[0]
        # repr=False marks what may hold a password.
        given = f"={os.environ.get(variable, '')!r}" if info.repr else ""
        raise SettingsFault(
            f"{variable}{given} is wrong: {wrong}. Write {info.description} For example {variable}={example}"
        ) from None


_HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]*(/[\w.-]+)?")


def model_name(value: str) -> str:
    """The value, a folder made absolute. Raises ValueError when it can be neither folder nor hub id."""
    """A folder that exists, as an absolute path, or a hub id, or nothing."""
    if not value:
        return value
    # A folder that may not be looked at, a home that nobody has, a name that is too long: no folder.
    with contextlib.suppress(OSError, RuntimeError):
        folder = Path(value).expanduser()
        if folder.is_dir():
            return str(folder.resolve())
    if value.startswith((".", "/", "~")) or not _HUB_ID.fullmatch(value):
        raise ValueError("it is neither a folder that exists nor a hub id")
    return value


ModelName = Annotated[str, AfterValidator(model_name)]
"""A Hugging Face hub id, or a folder that holds a model; a relative folder is resolved at once."""


Revision = Annotated[str | None, AfterValidator(lambda revision: revision or None)]
"""A branch, tag or commit of a model on the hub."""

RegistryFolder = Annotated[Path, AfterValidator(lambda folder: folder.expanduser().resolve())]
"""Where model versions are kept; it need not exist."""


def _api_key(key: str | None) -> str | None:
    """What an Authorization header can carry, or nothing."""
    if key and not re.fullmatch("[!-~]+", key):
        raise ValueError("it may hold ASCII letters, digits and signs only, and no spaces")
    return key or None


def _http_url(value: str) -> str:
    return str(TypeAdapter(HttpUrl).validate_python(value)).rstrip("/")


HttpAddress = Annotated[str, AfterValidator(_http_url)]
"""Where another service answers, without a slash at its end."""

BearerToken = Annotated[str | None, AfterValidator(_api_key)]
"""A secret; an empty one is none."""


_ORIGIN = re.compile(r"https?://[^\s/?#@]+")


def _origins(value: str | None) -> str | None:
    """Origins (RFC 6454) as browsers write them: lower case, no path."""
    origins = (value or "").replace(",", " ").lower().split()
    if wrong := [origin for origin in origins if "*" in origin or not _ORIGIN.fullmatch(origin)]:
        raise ValueError(f"{wrong[0]} is no origin")
    return " ".join(origins) or None


Origins = Annotated[str | None, AfterValidator(_origins)]
"""Origins of web pages, separated by spaces or commas."""


def _collector(url: str | None) -> str | None:
    if not url:
        return None
    TypeAdapter(HttpUrl).validate_python(url)
    if any(find_spec(package) is None for package in ("opentelemetry.sdk", "opentelemetry.exporter")):
        raise ValueError("the packages for it are missing: pip install -c constraints.txt -e '.[otel]'")
    return url.rstrip("/")


Collector = Annotated[str | None, AfterValidator(_collector)]
"""The base of a collector's addresses."""


class ServiceSettings(Settings):
    """What every service can be told."""

    service: ClassVar[str]

    host: str = Field(default="127.0.0.1", min_length=1, description="the address to listen on.")
    port: Port = Field(description="the TCP port to listen on, 1 to 65535.")
    api_key: BearerToken = Field(
        default=None,
        validation_alias="API_KEY",
        repr=False,
        description="a long secret; every call but /health/* then needs it as bearer token.",
        examples=["a-long-random-secret"],
    )
    cors_origins: Origins = Field(
        default=None,
        validation_alias="CORS_ORIGINS",
        description="the other sites whose pages may call: scheme, host and port, separated by commas.",
        examples=["https://my.page,http://127.0.0.1:5173"],
    )
    log_messages: bool = Field(
        default=False,
        validation_alias="LOG_MESSAGES",
        description="true: the log also has what people write and what is answered.",
        examples=[True],
    )
    log_format: str = Field(
        default="json",
        pattern="^(json|text)$",
        validation_alias="LOG_FORMAT",
        description="json (one object a line) or text (for people).",
        examples=["json"],
    )
    otlp_endpoint: Collector = Field(
        default=None,
        validation_alias="OTEL_EXPORTER_OTLP_ENDPOINT",
        repr=False,
        description="the OpenTelemetry collector (OTLP over HTTP) for traces; empty: none are made.",
        examples=["http://127.0.0.1:4318"],
    )

    @property
    def is_exposed(self) -> bool:
        """Whether other machines can reach it and need no key. A name other than localhost counts as one."""
        if self.api_key or self.host == "localhost":
            return False
        try:
            return not ipaddress.ip_address(self.host).is_loopback
        except ValueError:
            return True

    def limits(self) -> dict[str, Any]:
        """What GET /info says of the bounds a caller meets."""
        return {}
