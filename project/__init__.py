"""The whole service on one page: `create_app()` puts it together; `db` is handed on."""

import re
from collections.abc import Callable, Iterable
from functools import partial
from pathlib import Path
from typing import Any

from limits.errors import ConfigurationError
from werkzeug.middleware.proxy_fix import ProxyFix
from werkzeug.utils import import_string

from project import config, pages, postgres
from project.api import documents, errors, requests
from project.api.auth import Callers
from project.api.counter import models as counter_models
from project.api.counter import writes as counter_writes
from project.api.counter.views import counter_blueprint
from project.api.eval import eval_blueprint
from project.api.idempotency import models as key_models
from project.api.idempotency.keys import KeysUnderway
from project.api.limits import AddressLimit
from project.api.pagination import Cursors
from project.api.responses import OrjsonProvider
from project.api.scores import models as score_models
from project.api.scores import writes as score_writes
from project.api.scores.views import scores_blueprint
from project.app import Service
from project.bulkhead import FairBulkhead
from project.config import SettingError, Settings
from project.dashboard.views import dashboard_blueprint
from project.embedded import embedded_postgres
from project.extensions import cors, db, migrate
from project.heavy_reads import HeavyReads
from project.metrics import UsersMetrics
from project.places import Places
from project.slow_clients import BodySlots
from project.tokens import Tokens
from project.users import UsersService

__all__ = ["create_app", "db"]

VERSION = "0.1.0"

WSGIApplication = Callable[[dict[str, Any], Any], Iterable[bytes]]

# What Alembic holds the schema against: the tables of `db` are known once these are loaded.
MODELS = (counter_models, key_models, score_models)

# So many threads of a process never wait for PostgreSQL; and what is answered by them.
SPARE_THREADS = 2
# The share of the others that may wait for users-service at a time; a client may use half of it.
LOOKUP_SHARE = 7 / 8
ASKING_NOBODY = {
    "eval.health",
    "eval.metrics_of_all_workers",
    "eval.docs",
    documents.ENDPOINT,
    "static",
}

# A path prefix, without the slashes at its ends: it becomes part of headers and pages.
PREFIX = re.compile(r"[\w.~-]+(/[\w.~-]+)*", re.ASCII)

EXPOSED_HEADERS = [
    "ETag",
    "Link",
    "Location",
    "Retry-After",
    "Idempotency-Replayed",
    "X-Request-ID",
    "RateLimit",
    "RateLimit-Policy",
]


def create_app(configuration: str | type | None = None) -> Service:
    """Return the service as a WSGI application.

    `configuration` is a class like those of `project.config`, or the name of one; without it,
    APP_SETTINGS names one. Raise SettingError if a setting is missing or wrong. This connects to
    no database.

    If TestingConfig is loaded into the app later, before its first request, the app changes to the
    testing database and stays there.
    """
    app = Service(
        __name__,
        "eval-service",
        VERSION,
        docs_path=None,
        json_errors=False,
        static_folder=None,  # type: ignore[arg-type]
    )
    config.load_environment()
    settings = _settings(app, configuration or config.chosen())

    app.json = OrjsonProvider(app)
    app.url_map.merge_slashes = False  # a redirect is no answer to a call
    documents.register(app)
    requests.register(app, settings.cors_origins)
    errors.register(app)
    pages.register(app)

    _connect(app, settings)
    migrate.init_app(app, db)
    cors.init_app(
        app,
        origins=settings.cors_origins,
        allow_headers="*",  # those that the preflight asks for
        expose_headers=EXPOSED_HEADERS,
        supports_credentials=False,
        always_send=False,  # who sends no origin needs none
        send_wildcard=True,  # for `*`, and not the origin, which would have to vary
        vary_header=False,  # requests.py says it, also to origins that get nothing
        max_age=600,
    )
    users = None
    if settings.users_service_url:
        users = UsersService(
            settings.users_service_url,
            timeout_seconds=settings.users_service_timeout_seconds,
            observer=UsersMetrics(),
        )
    secrets = (settings.secret_key, *settings.secret_key_fallbacks)
    tokens = Tokens(*secrets)
    app.extensions["anonymous_limit"] = _address_limit(
        settings, "anonymous", settings.anonymous_limit
    )
    invalid_tokens = _address_limit(
        settings,
        "invalid-tokens",
        settings.invalid_token_limit,
        "Too many invalid tokens came from your address. Try again later.",
    )
    app.extensions["increments"] = counter_writes.new_combiner()
    app.extensions["known_counters"] = counter_writes.KnownCounters()
    app.extensions["score_writes"] = score_writes.new_combiners()
    app.extensions["keys_underway"] = KeysUnderway()
    app.extensions["body_slots"] = BodySlots(max(1, settings.threads * 3 // 4))
    places = max(1, settings.threads - SPARE_THREADS)
    slots = max(1, int(places * LOOKUP_SHARE))
    lookups = FairBulkhead(slots, slots_per_client=max(1, slots // 2), reserved=slots // 4)
    app.places = Places(places)
    app.extensions["heavy_reads"] = HeavyReads(callers=max(1, places // 2))
    app.unbounded = ASKING_NOBODY
    app.extensions["tokens"] = tokens
    app.extensions["callers"] = Callers(tokens, users, lookups, invalid_tokens)
    app.extensions["cursors"] = Cursors(*secrets)

    app.register_blueprint(eval_blueprint)
    app.register_blueprint(scores_blueprint)
    app.register_blueprint(counter_blueprint)
    app.register_blueprint(dashboard_blueprint)
    _trust_proxies(app, settings.trusted_proxies)
    app.config.on_load = partial(_change_to_testing, app)
    return app


def _settings(app: Service, configuration: str | type) -> Settings:
    try:
        known = import_string(configuration) if isinstance(configuration, str) else configuration
    except (ImportError, ValueError):
        known = None
    if not (isinstance(known, type) and issubclass(known, config.BaseConfig)):
        raise SettingError(
            f"The setting APP_SETTINGS is wrong: there is no configuration {configuration}."
        )
    app.config.from_object(known)
    for name in ("SECRET_KEY", "RATELIMIT_STORAGE_URI"):
        app.config[name] = None  # a class may have them; only the settings keep them, unprinted
    return Settings.of(known, Path(app.instance_path))


def _change_to_testing(app: Service, configuration: Any) -> None:
    """Bind the app to the testing database if TestingConfig was loaded into it."""
    loaded = import_string(configuration) if isinstance(configuration, str) else configuration
    is_testing = isinstance(loaded, type) and issubclass(loaded, config.TestingConfig)
    if not is_testing or app.extensions["settings"].testing:
        return
    settings = Settings.of(loaded, Path(app.instance_path))
    del app.extensions["sqlalchemy"]  # so that init_app() replaces the engines
    try:
        _connect(app, settings)
    except AssertionError:  # Flask's, for any setup after the first request
        raise RuntimeError(
            "This app has answered requests on another database: load project.config.TestingConfig "
            "before its first request."
        ) from None


def _trust_proxies(app: Service, count: int) -> None:
    """Take the client's address and the external URL from the headers of the last `count` proxies.

    The client may have sent earlier values of X-Forwarded-*, so they are ignored.
    """
    if count:
        app.wsgi_app = ProxyFix(  # type: ignore[method-assign]
            _normalize_prefix(app.wsgi_app),
            x_for=count,
            x_proto=count,
            x_host=count,
            x_prefix=count,
        )


def _normalize_prefix(application: WSGIApplication) -> WSGIApplication:
    """Return the application with `/prefix` as SCRIPT_NAME, or none if it is not a plain path."""

    def normalized(environ: dict[str, Any], start_response: Any) -> Iterable[bytes]:
        prefix = environ.get("SCRIPT_NAME", "").strip("/")
        environ["SCRIPT_NAME"] = f"/{prefix}" if PREFIX.fullmatch(prefix) else ""
        return application(environ, start_response)

    return normalized


def _address_limit(
    settings: Settings, policy: str, limit: str, message: str | None = None
) -> AddressLimit:
    try:
        return AddressLimit(policy, limit, settings.ratelimit_storage_uri, message)
    except (ConfigurationError, ImportError, ValueError):
        kind = settings.ratelimit_storage_uri.partition("://")[0]  # what follows has a password
        raise SettingError(
            f"The setting RATELIMIT_STORAGE_URI is wrong: there is no storage {kind}, or its "
            "library is not installed."
        ) from None


def _connect(app: Service, settings: Settings) -> None:
    """Bind `db` to the PostgreSQL of the settings; the first query connects."""
    server = None
    if settings.postgres_url is None:
        server = embedded_postgres(settings, Path(app.instance_path))
    url = settings.postgres_url or "postgresql+psycopg2://"
    options = postgres.engine_options(settings, server)
    watchdog = postgres.watchdog(settings, server)
    app.config["SQLALCHEMY_DATABASE_URI"] = url
    app.config["SQLALCHEMY_ENGINE_OPTIONS"] = options
    db.init_app(app)
    app.extensions["settings"] = settings
    app.extensions["embedded_postgres"] = server
    app.extensions["watchdog"] = watchdog
    app.extensions["autocommit_engine"] = postgres.autocommit_engine(url, options, settings.threads)
    with app.app_context():
        for engine in (db.engine, db.autocommit_engine):
            postgres.connect_as_told(engine, settings)
            watchdog.guard(engine)
            postgres.distrust_idle_connections(engine, watchdog)
