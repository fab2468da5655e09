"""Serving: granian for use, Flask's own server for developing."""

import atexit
import logging
import multiprocessing
import os
import random
import shutil
import signal
import socket
import sys
import tempfile
import threading
import time
import urllib.request
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from importlib import import_module
from logging.config import dictConfig
from pathlib import Path
from typing import Any

import click
from apiflask import APIFlask
from granian.constants import HTTPModes, Interfaces
from granian.http import HTTP1Settings
from granian.log import LogLevels
from granian.server import MPServer
from werkzeug.serving import run_simple

from project import durability, heartbeats, logs, metrics, migration, postgres, storage
from project.api.counter import queries as counters
from project.api.idempotency import queries as keys
from project.app import Service
from project.config import SettingError, Settings
from project.embedded import EmbeddedPostgres
from project.extensions import AWAY, db
from project.supervisor import RestartSchedule
from project.users import User

ROOT = Path(__file__).parent.parent
# What a change to restarts the server while developing, besides the code.
SHOWN = ("static", "templates")
# How long a worker may finish its requests before it is killed.
GRACE_SECONDS = 10
READY_SECONDS = 60
KEEP_SECONDS = 0.25
PRUNE_SECONDS = 60
STORAGE_SECONDS = 60
PRUNE_PAUSE_SECONDS = 0.1
LOOK_AROUND_SECONDS = 1
# How many connections a worker holds open; most are idle, and wait for no thread.
CONNECTIONS = 16384
# HTTP/2 is off: granian does not end the bodies of its streams when their connection is lost.
# A connection is closed if no head arrives in time, also between two requests. The buffer of a
# connection is as large as the largest head, and limits what it holds of an unread body.
HTTP1 = HTTP1Settings(header_read_timeout=10_000, max_buffer_size=16 * 1024)
# What tells a process to end.
ENDING = (signal.SIGTERM, signal.SIGINT)


def serve(app: APIFlask) -> None:
    """Serve until SIGTERM or SIGINT; what was accepted until then is answered."""
    settings: Settings = app.extensions["settings"]
    log_configuration = logs.configuration(settings.log_level, as_json=not settings.self_sufficient)
    dictConfig(log_configuration)
    _refuse_taken_port(settings)
    _prepare(app)
    listener = heartbeats.Listener(_share_folder())
    # A worker begins with a fresh interpreter, and so without this one's threads and sockets.
    multiprocessing.set_start_method("spawn")
    if settings.self_sufficient:
        threading.Thread(target=_welcome, args=(app.extensions,), daemon=True).start()
    threading.Thread(target=listener.listen, daemon=True).start()
    server = MPServer(
        "manage:worker",
        factory=True,
        working_dir=ROOT,
        interface=Interfaces.WSGI,
        address=settings.host,
        port=settings.port,
        workers=settings.workers,
        blocking_threads=settings.threads,
        http=HTTPModes.http1,
        http1_settings=HTTP1,
        websockets=False,  # WSGI has none
        backpressure=CONNECTIONS,
        respawn_failed_workers=True,
        workers_kill_timeout=GRACE_SECONDS,
        log_level=LogLevels(settings.log_level.lower()),
        log_dictconfig=log_configuration,
    )
    server.main_loop_interrupt = RestartSchedule(server, listener.has_heard)
    logging.getLogger("_granian").addFilter(_is_about_this_service)
    with _kept_running(app.extensions["embedded_postgres"], app.logger):
        server.serve()


def _is_about_this_service(record: logging.LogRecord) -> bool:
    """Return False for granian's warning about threads: ours wait for PostgreSQL, not for a CPU."""
    return not record.getMessage().startswith("Configuration allows spawning")


def hear_signals() -> None:
    """Have a thread of its own hear that this worker process is to end; called before all else.

    Python runs a handler in the main thread, which the signal itself has to wake. One that comes
    just before that thread begins to wait wakes nobody, and the worker serves on until it is
    killed. Where many threads want the interpreter, "just before" lasts for milliseconds.
    """
    # Python has a handler for this one, which would be taken for granian's.
    signal.signal(signal.SIGINT, signal.SIG_DFL)
    # Threads take this over from the one that starts them: only the one that waits will hear.
    signal.pthread_sigmask(signal.SIG_BLOCK, ENDING)
    threading.Thread(target=_handle_signals, daemon=True).start()


def _handle_signals() -> None:
    while True:
        number = signal.sigwait(ENDING)
        handle = signal.getsignal(number)
        if not callable(handle):  # granian has set none yet, and so there is nothing to finish
            os._exit(128 + number)
        handle(number, None)


def accompany(app: Service) -> None:
    """Start what a worker process does besides serving.

    It logs and measures, looks after PostgreSQL and slow clients, tidies up, shows that it lives,
    and ends with its parent.
    """
    _observe(app)
    app.extensions["watchdog"].start()
    app.extensions["body_slots"].start(app.extensions["settings"].port)
    folder = Path(os.environ[metrics.FOLDER])
    threading.Thread(target=heartbeats.beat, args=(folder,), daemon=True).start()
    threading.Thread(target=_prune, args=(app,), daemon=True).start()
    threading.Thread(target=_look_around, args=(app,), daemon=True).start()
    if metrics.is_first_worker():
        threading.Thread(target=_sample_storage, args=(app,), daemon=True).start()
    threading.Thread(target=_end_with_parent, daemon=True).start()


def _end_with_parent() -> None:
    """End this worker when its parent was killed: it would hold the port for ever."""
    parent = multiprocessing.parent_process()
    if parent is not None:
        parent.join()
        os.kill(os.getpid(), signal.SIGTERM)


def _look_around(app: APIFlask) -> None:
    """Note again and again how this worker is: another one may be asked for the metrics."""
    while True:
        with app.app_context():
            metrics.look_around(db.pools)
        time.sleep(LOOK_AROUND_SECONDS)


def _sample_storage(app: APIFlask) -> None:
    """Measure the size of the database again and again, in one worker."""
    while True:
        with app.app_context(), suppress(*AWAY):
            storage.sample()
        time.sleep(STORAGE_SECONDS)


def _prune(app: APIFlask) -> None:
    """Delete old idempotency keys and the usage of past days, a small batch at a time."""
    while True:
        # Not all workers at once.
        time.sleep(PRUNE_SECONDS * random.uniform(0.5, 1.5))  # noqa: S311
        with app.app_context(), suppress(*AWAY):
            for prune in (keys.prune, keys.prune_usage, counters.prune_usage):
                while prune():
                    time.sleep(PRUNE_PAUSE_SECONDS)


def _observe(app: Service) -> None:
    """Log requests, and trace them if OTEL_TRACES_EXPORTER is set."""
    settings: Settings = app.extensions["settings"]
    start_spans = _tracer(settings)
    if start_spans is not None:
        start_spans(app, settings.otel_traces_exporter)
    app.log_request = logs.start(settings.log_level, as_json=not settings.self_sufficient)


def _tracer(settings: Settings) -> Callable[[Service, str], None] | None:
    """Return the function that starts tracing, or None if it is off."""
    exporter = settings.otel_traces_exporter
    if exporter == "none":
        return None
    try:
        start: Callable[[Service, str], None] = import_module("project.telemetry").start
    except ImportError as error:
        raise SettingError(
            f"The setting OTEL_TRACES_EXPORTER is {exporter}, but the extra otel is not installed: "
            f"pip install '.[otel]' ({error})."
        ) from None
    return start


def run(app: Service) -> None:
    """Serve for developing: one process, which reloads when the code changes."""
    settings: Settings = app.extensions["settings"]
    # The reloader runs this command again in a child, for which the parent has prepared.
    if "WERKZEUG_RUN_MAIN" not in os.environ:
        _refuse_taken_port(settings)
        _prepare(app)
        _say(f"Serving at {_address(settings)}")
    else:
        _observe(app)
    files = [str(path) for name in SHOWN for path in (ROOT / "project" / name).rglob("*.*")]
    run_simple(
        settings.host, settings.port, app, use_reloader=True, threaded=True, extra_files=files
    )


def _prepare(app: APIFlask) -> None:
    """Check the settings, migrate the database, and pass its address to the processes to come."""
    settings: Settings = app.extensions["settings"]
    _tracer(settings)
    postgres.wait_for_server(settings.startup_wait_seconds, app.logger)
    migration.upgrade()
    postgres.refuse_too_few_connections(settings)
    for warning in durability.warnings():
        app.logger.warning(warning)
    db.engine.dispose()
    db.autocommit_engine.dispose()
    embedded = app.extensions["embedded_postgres"]
    if embedded is not None:
        name = "DATABASE_TEST_URL" if app.testing else "DATABASE_URL"
        os.environ[name] = embedded.url.render_as_string(hide_password=False)
    os.environ["SECRET_KEY"] = settings.secret_key
    os.environ["SECRET_KEY_FILE"] = ""  # may change while workers run, and .env may name it


def _share_folder() -> Path:
    """Return the folder, empty at first, where all workers keep their metrics and heartbeats."""
    folder = Path(tempfile.mkdtemp(prefix="eval-metrics-"))
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    os.environ[metrics.FOLDER] = str(folder)
    return folder


@contextmanager
def _kept_running(embedded: EmbeddedPostgres | None, logger: logging.Logger) -> Iterator[None]:
    """Start the embedded PostgreSQL again whenever it dies before the block ends."""
    ended = threading.Event()

    def keep(postgres: EmbeddedPostgres) -> None:
        while not ended.wait(KEEP_SECONDS):
            try:
                if postgres.keep_running():
                    logger.warning("The embedded PostgreSQL had died, and was started again.")
            except Exception as error:  # noqa: BLE001  whatever it is: the next try may succeed
                logger.warning("The embedded PostgreSQL cannot be started: %s", error)

    keeper = threading.Thread(target=keep, args=(embedded,), daemon=True)
    if embedded is not None:
        keeper.start()
    try:
        yield
    finally:
        ended.set()
        if embedded is not None:
            keeper.join()


def _refuse_taken_port(settings: Settings) -> None:
    """Raise SettingError where the port is taken: several servers could share it silently."""
    family = socket.AF_INET6 if ":" in settings.host else socket.AF_INET
    with socket.socket(family) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((settings.host, settings.port))
        except OSError as error:
            raise SettingError(
                f"The port {settings.port} of {settings.host} cannot be used ({error.strerror}): "
                "set PORT or HOST to others."
            ) from None


def _address(settings: Settings) -> str:
    host = "localhost" if settings.host in {"127.0.0.1", "0.0.0.0"} else settings.host  # noqa: S104
    return f"http://{host}:{settings.port}"


def _welcome(extensions: Mapping[str, Any]) -> None:
    """Say, once the service answers, where it is and what to try."""
    address = _address(extensions["settings"])
    deadline = time.monotonic() + READY_SECONDS
    while time.monotonic() < deadline:
        with suppress(OSError), urllib.request.urlopen(f"{address}/health", timeout=1):  # noqa: S310
            break
        time.sleep(0.05)
    token = extensions["tokens"].issue(User(1, is_admin=True), days=1)
    _say(f"""
eval-service is ready.

  address    {address}
  the API    {address}/docs
  dashboard  {address}/dashboard
  a token    {token}
             (user 1, an administrator, for a day)

Try it:

curl -X PATCH {address}/scores -H 'Content-Type: application/json' \\
  -H 'Authorization: Bearer {token}' \\
  -d '{{"exercise_id": 1, "correct": true}}'
""")


def _say(text: str) -> None:
    click.echo(text)
    sys.stdout.flush()
