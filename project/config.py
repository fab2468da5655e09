"""The settings: one class for each environment, read from the environment here and nowhere else.

The classes hold what the environment says, as text. `Settings` checks that text and gives it
its types, so that a wrong value stops the start with one sentence that names it.
"""

import os
import re
import secrets
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Annotated, Any, Literal, Self
from urllib.parse import urlsplit

from click import ClickException
from limits import parse
from pydantic import AfterValidator, BaseModel, ConfigDict, Field, ValidationError
from sqlalchemy.engine import URL, make_url
from sqlalchemy.exc import ArgumentError

SHORTEST_SECRET = 32  # bytes: as long as what HS256 makes of it (RFC 7518, section 3.2)
# What stands in secrets that were copied from an example, and in hardly any that was drawn.
EXAMPLES = ("change", "default", "example", "insecure", "password", "placeholder", "precious",
            "secret-key", "secret_key", "secretkey", "your")  # fmt: skip
FEWEST_CHARACTERS = 10


class SettingError(ClickException):
    """A setting is missing or wrong; the message is one sentence that names it."""


class BaseConfig:
    """What holds in every environment unless one of the classes below says otherwise."""

    DEBUG = False
    TESTING = False
    # An environment that keeps a database and a secret of its own under instance/ starts
    # with nothing set; the others are told, and stop where they are not.
    SELF_SUFFICIENT = False

    SECRET_KEY = os.environ.get("SECRET_KEY")
    SECRET_KEY_FALLBACKS = os.environ.get("SECRET_KEY_FALLBACKS", "")
    SQLALCHEMY_DATABASE_URI = os.environ.get("DATABASE_URL")
    USERS_SERVICE_URL = os.environ.get("USERS_SERVICE_URL")
    CORS_ORIGINS = os.environ.get("CORS_ORIGINS")
    HOST = os.environ.get("HOST", "127.0.0.1")
    PORT = os.environ.get("PORT", "5002")
    WORKERS = os.environ.get("WORKERS", "2")
    THREADS = os.environ.get("THREADS", "32")
    TRUSTED_PROXIES = os.environ.get("TRUSTED_PROXIES", "0")
    LOG_LEVEL = os.environ.get("LOG_LEVEL", "INFO")
    RATELIMIT_STORAGE_URI = os.environ.get("RATELIMIT_STORAGE_URI", "memory://")
    ANONYMOUS_LIMIT = os.environ.get("ANONYMOUS_LIMIT", "600/minute")
    OTEL_TRACES_EXPORTER = os.environ.get("OTEL_TRACES_EXPORTER", "none")
    STATEMENT_TIMEOUT_SECONDS = os.environ.get("STATEMENT_TIMEOUT_SECONDS", "2.5")

    MAX_CONTENT_LENGTH = 1024 * 1024  # bytes


class DevelopmentConfig(BaseConfig):
    """A developer's own machine: starts with nothing set."""

    DEBUG = True
    SELF_SUFFICIENT = True
    CORS_ORIGINS = os.environ.get("CORS_ORIGINS", "*")


class TestingConfig(DevelopmentConfig):
    """The test suite: a database of its own, which is thrown away."""

    TESTING = True
    SQLALCHEMY_DATABASE_URI = os.environ.get("DATABASE_TEST_URL")


class StagingConfig(BaseConfig):
    """Like production, with other data."""


class ProductionConfig(BaseConfig):
    """Where it counts: nothing is guessed."""


def chosen() -> str:
    """Return the name of the configuration class that the environment chooses."""
    return os.environ.get("APP_SETTINGS") or "project.config.DevelopmentConfig"


def _postgres_url(text: str) -> URL:
    try:
        url = make_url(text)
    except (ArgumentError, ValueError):
        raise ValueError("should look like postgresql://user:password@host:5432/name") from None
    if url.get_backend_name() not in {"postgres", "postgresql"}:
        raise ValueError(f"should begin with postgresql://, not {url.drivername}://")
    # Written in, since a bare postgresql:// means another driver from SQLAlchemy 2.1 on.
    return url.set(drivername="postgresql+psycopg2")


def _http_url(text: str) -> str:
    if not text.startswith(("http://", "https://")):
        raise ValueError("should begin with http:// or https://")
    try:
        names_a_host = bool(urlsplit(text).hostname) and urlsplit(text).port != 0
    except ValueError:
        names_a_host = False
    if not names_a_host:
        raise ValueError("should name a host, like http://host:5000")
    return text.rstrip("/")


def _long_enough(secret: str) -> str:
    if len(secret.encode()) < SHORTEST_SECRET:
        raise ValueError(f"should have {SHORTEST_SECRET} bytes or more")
    return secret


def _is_guessable(secret: str) -> bool:
    """Return whether a secret is of an example, or of a few characters again and again."""
    copied = any(word in secret.lower() for word in EXAMPLES)
    return copied or len(set(secret)) < FEWEST_CHARACTERS


def _refuse_guessable(name: str, *secrets: str) -> None:
    if any(_is_guessable(secret) for secret in secrets):
        raise SettingError(
            f"The setting {name} is wrong: it can be guessed; draw one, say with "
            "`openssl rand -hex 32`."
        )


def _fallbacks(text: str) -> list[str]:
    return [_long_enough(secret.strip()) for secret in text.split(",") if secret.strip()]


def _limit(text: str) -> str:
    try:
        parse(text)
    except ValueError as error:
        raise ValueError("should look like 600/minute") from error
    return text


# Nothing more: what could be a pattern Flask-CORS takes for one, and it lets in too much.
ORIGIN = re.compile(r"https?://[A-Za-z0-9.-]+(:[0-9]{1,5})?")


def _origins(text: str) -> list[str]:
    origins = [origin.strip().rstrip("/") for origin in text.split(",")]
    if origins != ["*"] and not all(ORIGIN.fullmatch(origin) for origin in origins):
        raise ValueError("should be *, or origins like https://learn.example.org, with commas")
    return origins


class Settings(BaseModel):
    """The settings of one process, checked and typed."""

    model_config = ConfigDict(frozen=True, arbitrary_types_allowed=True, hide_input_in_errors=True)

    testing: bool = Field(alias="TESTING")
    self_sufficient: bool = Field(alias="SELF_SUFFICIENT")
    secret_key: Annotated[str, AfterValidator(_long_enough)] = Field(alias="SECRET_KEY", repr=False)
    # What was signed with these still counts; nothing is signed with them any more.
    secret_key_fallbacks: Annotated[Any, AfterValidator(_fallbacks)] = Field(
        "", alias="SECRET_KEY_FALLBACKS", repr=False, validate_default=True
    )
    postgres_url: Annotated[Any, AfterValidator(_postgres_url)] = Field(
        None, alias="SQLALCHEMY_DATABASE_URI", repr=False
    )
    users_service_url: Annotated[str, AfterValidator(_http_url)] | None = Field(
        None, alias="USERS_SERVICE_URL"
    )
    cors_origins: Annotated[Any, AfterValidator(_origins)] = Field(alias="CORS_ORIGINS")
    host: str = Field(alias="HOST")
    port: int = Field(alias="PORT", ge=1, le=65535)
    workers: int = Field(alias="WORKERS", ge=1, le=64)
    threads: int = Field(alias="THREADS", ge=1, le=256)
    trusted_proxies: int = Field(alias="TRUSTED_PROXIES", ge=0, le=8)
    log_level: Literal["DEBUG", "INFO", "WARNING", "ERROR"] = Field(alias="LOG_LEVEL")
    traces_exporter: Literal["none", "otlp", "console"] = Field(alias="OTEL_TRACES_EXPORTER")
    ratelimit_storage_uri: str = Field(alias="RATELIMIT_STORAGE_URI", repr=False)
    anonymous_limit: Annotated[str, AfterValidator(_limit)] = Field(alias="ANONYMOUS_LIMIT")
    statement_timeout_seconds: float = Field(alias="STATEMENT_TIMEOUT_SECONDS", ge=0.1, le=3600)

    @classmethod
    def of(cls, config: Mapping[str, Any], instance: Path) -> Self:
        """Return the settings that an app's config holds, or raise SettingError.

        A self-sufficient environment keeps its secret in the folder `instance`.
        """
        said = {name: value for name, value in config.items() if value not in (None, "")}
        if config["SELF_SUFFICIENT"]:
            said.setdefault("SECRET_KEY", kept_secret(instance))
        elif "SQLALCHEMY_DATABASE_URI" not in said:
            raise SettingError(_missing("DATABASE_URL"))
        try:
            settings = cls.model_validate(said)
        except ValidationError as error:
            raise SettingError(_sentence(error, testing=config["TESTING"])) from None
        if not settings.self_sufficient:
            _refuse_guessable("SECRET_KEY", settings.secret_key)
            _refuse_guessable("SECRET_KEY_FALLBACKS", *settings.secret_key_fallbacks)
        return settings


def _sentence(error: ValidationError, *, testing: bool) -> str:
    problem = error.errors()[0]
    name = str(problem["loc"][0])
    if name == "SQLALCHEMY_DATABASE_URI":
        name = "DATABASE_TEST_URL" if testing else "DATABASE_URL"
    if problem["type"] == "missing":
        return _missing(name)
    reason = problem["msg"].removeprefix("Value error, ").removeprefix("Input ")
    return f"The setting {name} is wrong: it {reason}."


def _missing(name: str) -> str:
    return f"The setting {name} is missing: staging and production need it."


def kept_secret(instance: Path) -> str:
    """Return the secret that is kept in `instance`; make it there the first time."""
    path = instance / "secret_key"
    instance.mkdir(parents=True, exist_ok=True)
    # Written whole under a name of its own and then linked: of several processes that start
    # at once the first wins, and none reads a half-written file.
    draft = instance / f"secret_key.{secrets.token_hex(4)}"
    if not path.exists():
        draft.touch(mode=0o600)
        draft.write_text(secrets.token_hex(SHORTEST_SECRET))
        with suppress(FileExistsError):
            path.hardlink_to(draft)
        draft.unlink()
    return path.read_text().strip()
