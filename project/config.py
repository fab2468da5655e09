"""Settings: one class for each environment, and `Settings`, which declares each setting once.

A setting is read from the environment, from the file that `<NAME>_FILE` names (a Docker or
Kubernetes secret), or from `.env` in the project folder. A wrong or missing value raises
SettingError, whose message is one sentence that names the setting.
"""

import os
import re
import secrets
from contextlib import suppress
from pathlib import Path
from typing import Annotated, Any, Literal, Self
from urllib.parse import unquote, urlsplit

from click import ClickException
from dotenv import load_dotenv
from limits import parse
from psycopg2 import ProgrammingError
from psycopg2.extensions import make_dsn
from pydantic import AfterValidator, BaseModel, ConfigDict, Field, ValidationError
from sqlalchemy.engine import URL, make_url
from sqlalchemy.exc import ArgumentError

DOTENV = Path(__file__).parent.parent / ".env"
DEFAULT_CONFIGURATION = "project.config.DevelopmentConfig"
SHORTEST_SECRET = 32  # bytes: as long as what HS256 makes of it (RFC 7518, section 3.2)
# What stands in secrets that were copied from an example, and in hardly any that was drawn.
EXAMPLES = ("change", "default", "example", "insecure", "password", "placeholder", "precious",
            "secret-key", "secret_key", "secretkey", "your")  # fmt: skip
FEWEST_CHARACTERS = 10
# A URL with several hosts, which libpq takes and SQLAlchemy cannot read. What comes before a @ is
# never a host, even if the password contains a comma.
SEVERAL_HOSTS = re.compile(r"(?P<user>[^/]+://(?:[^@]*@)?+)(?P<hosts>[^/?]*,[^/?]*)(?P<rest>.*)")
SESSION_SETTING = re.compile(r"(?:-c|--)([A-Za-z_][\w.-]*)=(.*)", re.DOTALL)


class SettingError(ClickException):
    """A setting is missing or wrong; the message is one sentence that names it."""


class BaseConfig:
    """What holds in every environment.

    A subclass may also have any field of `Settings` as an attribute in capitals, like
    `WORKERS = 4`; it takes precedence over the environment.
    """

    DEBUG = False
    TESTING = False
    # If true, the environment starts with no setting: it keeps a database and a secret of its
    # own under instance/.
    SELF_SUFFICIENT = False

    MAX_CONTENT_LENGTH = 1024 * 1024  # bytes


class DevelopmentConfig(BaseConfig):
    """A developer's own machine: starts with nothing set."""

    DEBUG = True
    SELF_SUFFICIENT = True


class TestingConfig(DevelopmentConfig):
    """The test suite: a database of its own (DATABASE_TEST_URL), which the tests empty."""

    TESTING = True


class StagingConfig(BaseConfig):
    """Like production, with other data."""


class ProductionConfig(BaseConfig):
    """Production: secret, database and origins must be set."""


def load_environment() -> None:
    """Add the variables of `.env` to the environment, which takes precedence."""
    try:
        load_dotenv(DOTENV)
    except (OSError, UnicodeDecodeError) as error:
        raise SettingError(f"The file {DOTENV} cannot be read ({_reason(error)}).") from None


def read(name: str) -> str | None:
    """Return a setting from the environment, or from the file that `<name>_FILE` names.

    White space around the value is removed; an empty value is no value.
    """
    value = os.environ.get(name, "").strip()
    file = os.environ.get(f"{name}_FILE", "").strip()
    if value and file:
        raise SettingError(f"The settings {name} and {name}_FILE are both set: remove one.")
    if file:
        try:
            value = Path(file).read_text().strip()
        except (OSError, UnicodeDecodeError) as error:
            raise SettingError(
                f"The setting {name}_FILE is wrong: {file} cannot be read ({_reason(error)})."
            ) from None
    return value or None


def _reason(error: OSError | UnicodeDecodeError) -> str:
    return str(error.strerror) if isinstance(error, OSError) else "not UTF-8"


def chosen() -> str:
    """Return the name of the configuration class that the environment chooses."""
    return read("APP_SETTINGS") or DEFAULT_CONFIGURATION


def _postgres_url(text: str) -> URL:
    several = SEVERAL_HOSTS.match(text)
    try:
        url = make_url(several["user"] + several["rest"] if several else text)
    except (ArgumentError, ValueError):
        raise ValueError("should look like postgresql://user:password@host:5432/name") from None
    if url.get_backend_name() not in {"postgres", "postgresql"}:
        raise ValueError(f"should begin with postgresql://, not {url.drivername}://")
    for name in url.query:
        _check_parameter(name)
    session_settings(url)
    if several:
        url = url.update_query_dict({"host": several["hosts"].split(",")})
    elif url.host and url.host.startswith(("%2F", "%2f")):  # the folder of a socket
        url = url.set(host=None).update_query_dict({"host": unquote(url.host)})
    # Explicit, since a bare postgresql:// means another driver from SQLAlchemy 2.1 on.
    return url.set(drivername="postgresql+psycopg2")


def _check_parameter(name: str) -> None:
    """Raise ValueError if libpq has no parameter of that name."""
    try:
        make_dsn(**{name: ""})
    except (ProgrammingError, TypeError):
        advice = "use sslmode=require" if name == "ssl" else "remove it"
        raise ValueError(
            f"has the parameter {name}, which PostgreSQL's libpq does not know: {advice}"
        ) from None


def session_settings(url: URL) -> dict[str, str]:
    """Return the settings of a session that the parameter `options` of a URL contains."""
    options = url.query.get("options", "")
    text = options if isinstance(options, str) else " ".join(options)
    # Words as PostgreSQL splits them: a backslash escapes a space.
    words = [re.sub(r"\\(.)", r"\1", word) for word in re.findall(r"(?:\\.|[^\s\\])+", text)]
    settings = {}
    while words:
        word = words.pop(0)
        if word == "-c" and words:
            word += words.pop(0)
        if not (setting := SESSION_SETTING.fullmatch(word)):
            raise ValueError("has options other than -c name=value")
        settings[setting[1].replace("-", "_")] = setting[2]
    return settings


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
ORIGIN = re.compile(r"([a-z][a-z0-9.-]*)://[a-z0-9.-]+(:[0-9]{1,5})?")
DEFAULT_PORTS = {"http": ":80", "https": ":443"}


def _origins(text: str) -> list[str]:
    """Return the origins as browsers send them: in lower case, without a default port."""
    if text.strip() == "*":
        return ["*"]
    origins = []
    for listed in text.split(","):
        origin = ORIGIN.fullmatch(listed.strip().rstrip("/").lower())
        if origin is None:
            raise ValueError(
                "should be *, or origins like https://learn.example.org, separated by commas"
            )
        origins.append(origin[0].removesuffix(DEFAULT_PORTS.get(origin[1], "")))
    return origins


class Settings(BaseModel):
    """The settings of one process, checked and typed.

    The name of a field in capitals is the name of the setting; its value, if none is set, is the
    default here.
    """

    model_config = ConfigDict(frozen=True, arbitrary_types_allowed=True, hide_input_in_errors=True)

    testing: bool
    self_sufficient: bool
    secret_key: Annotated[str, AfterValidator(_long_enough)] = Field(repr=False)
    # What was signed with these is still valid; nothing is signed with them any more.
    secret_key_fallbacks: Annotated[Any, AfterValidator(_fallbacks)] = Field(
        "", repr=False, validate_default=True
    )
    database_url: Annotated[Any, AfterValidator(_postgres_url)] = Field(None, repr=False)
    database_test_url: Annotated[Any, AfterValidator(_postgres_url)] = Field(None, repr=False)
    users_service_url: Annotated[str, AfterValidator(_http_url)] | None = None
    users_service_timeout_seconds: float = Field(2.0, ge=0.1, le=60)
    cors_origins: Annotated[Any, AfterValidator(_origins)]
    host: str = "127.0.0.1"
    port: int = Field(5002, ge=1, le=65535)
    workers: int = Field(2, ge=1, le=64)
    threads: int = Field(32, ge=1, le=256)
    trusted_proxies: int = Field(0, ge=0, le=8)
    log_level: Literal["DEBUG", "INFO", "WARNING", "ERROR"] = "INFO"
    otel_traces_exporter: Literal["none", "otlp", "console"] = "none"
    ratelimit_storage_uri: str = Field("memory://", repr=False)
    anonymous_limit: Annotated[str, AfterValidator(_limit)] = "600/minute"
    invalid_token_limit: Annotated[str, AfterValidator(_limit)] = "60/minute"  # noqa: S105
    new_counters_per_day: int = Field(1000, ge=0)
    stored_responses_per_day: int = Field(10_000, ge=0)
    stored_response_bytes_per_day: int = Field(10_000_000, ge=0)
    statement_timeout_seconds: float = Field(2.5, ge=0.1, le=3600)
    startup_wait_seconds: float = Field(30, ge=0, le=3600)

    @property
    def postgres_url(self) -> URL | None:
        """The PostgreSQL to use, or None for an embedded one."""
        url: URL | None = self.database_test_url if self.testing else self.database_url
        return url

    @classmethod
    def of(cls, configuration: type[BaseConfig], instance: Path) -> Self:
        """Return the settings of a configuration class and the environment.

        A self-sufficient environment keeps its secret in the folder `instance`. Raise
        SettingError if a setting is missing or wrong.
        """
        values = {name: _value(configuration, name.upper()) for name in cls.model_fields}
        if hasattr(configuration, "SQLALCHEMY_DATABASE_URI"):  # the name that Flask-SQLAlchemy has
            name = "database_test_url" if configuration.TESTING else "database_url"
            values[name] = configuration.SQLALCHEMY_DATABASE_URI or None
        said = {name: value for name, value in values.items() if value is not None}
        if configuration.SELF_SUFFICIENT:
            if "secret_key" not in said:
                said["secret_key"] = kept_secret(instance)
            said.setdefault("cors_origins", "*")
        elif "database_url" not in said:
            raise SettingError(_missing("DATABASE_URL"))
        try:
            settings = cls.model_validate(said)
        except ValidationError as error:
            raise SettingError(_sentence(error)) from None
        if not settings.self_sufficient:
            _refuse_guessable("SECRET_KEY", settings.secret_key)
            _refuse_guessable("SECRET_KEY_FALLBACKS", *settings.secret_key_fallbacks)
        return settings


def _value(configuration: type[BaseConfig], name: str) -> Any:
    if not hasattr(configuration, name):
        return read(name)
    value = getattr(configuration, name)
    return (value.strip() or None) if isinstance(value, str) else value


def _sentence(error: ValidationError) -> str:
    problem = error.errors()[0]
    name = str(problem["loc"][0]).upper()
    if problem["type"] == "missing":
        return _missing(name)
    reason = problem["msg"].removeprefix("Value error, ").removeprefix("Input ")
    return f"The setting {name} is wrong: it {reason}."


def _missing(name: str) -> str:
    return f"The setting {name} is missing: staging and production need it."


def kept_secret(instance: Path) -> str:
    """Return the secret that the file `secret_key` in `instance` contains; create it if missing."""
    path = instance / "secret_key"
    try:
        instance.mkdir(parents=True, exist_ok=True)
        if not path.exists():
            _create_secret(path)
        secret = path.read_text().strip()
    except (OSError, UnicodeDecodeError) as error:
        raise SettingError(
            f"The file {path} cannot be used ({_reason(error)}): "
            "make it readable, or set SECRET_KEY."
        ) from None
    if len(secret.encode()) < SHORTEST_SECRET:
        raise SettingError(
            f"The file {path} has fewer than {SHORTEST_SECRET} bytes: delete it, or set SECRET_KEY."
        )
    return secret


def _create_secret(path: Path) -> None:
    """Write a new secret, unless another process is first.

    It is written to a draft and then linked, so that no process reads an incomplete one.
    """
    draft = path.with_name(f"secret_key.{secrets.token_hex(4)}")
    draft.touch(mode=0o600)
    draft.write_text(secrets.token_hex(SHORTEST_SECRET))
    with suppress(FileExistsError):
        path.hardlink_to(draft)
    draft.unlink()
