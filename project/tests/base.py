"""What every test stands on: the app, an empty database, and a users-service that answers."""

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import cache
from typing import Any, TypeVar

from apiflask import APIFlask
from flask.testing import FlaskClient
from flask_testing import TestCase
from sqlalchemy import URL, make_url, text

from project import create_app, db, migration
from project.config import TestingConfig
from project.heavy_reads import HeavyReads
from project.tests.users_service import FakeUsersService

Answer = Any
Result = TypeVar("Result")

ADMIN = {"Authorization": "Bearer test"}  # user 998877, as users-service knows it
LEARNER = {"Authorization": "Bearer learner"}  # user 7
OTHER = {"Authorization": "Bearer other"}  # user 8


@cache
def users_service() -> FakeUsersService:
    """Return the users-service of this run; it lives as long as the process."""
    service = FakeUsersService()
    service.start()
    return service


@cache
def shared_app() -> APIFlask:
    """Return the app of this run, on a database with the schema of this code."""
    known = {"USERS_SERVICE_URL": users_service().url, "INVALID_TOKEN_LIMIT": "1000000/minute"}
    app = create_app(type("SuiteConfig", (TestingConfig,), known))
    # Tests read right after they write.
    app.extensions["heavy_reads"] = HeavyReads(callers=8, reuse_seconds=0)
    with app.app_context():
        migration.recreate()
    return app


def database_url() -> URL:
    """Return where the database of this run is."""
    known = shared_app().extensions
    embedded = known["embedded_postgres"]
    return make_url(known["settings"].postgres_url) if embedded is None else embedded.url


def empty_tables() -> None:
    """Empty every table; ids begin at 1 again."""
    tables = ", ".join(table.name for table in db.metadata.sorted_tables)
    with db.engine.begin() as connection:
        connection.execute(text(f"TRUNCATE {tables} RESTART IDENTITY"))
        connection.execute(text("ALTER SEQUENCE scores_id_seq RESTART"))


class BaseTestCase(TestCase):
    """A test of the service, on a real PostgreSQL with empty tables."""

    client: FlaskClient
    maxDiff = None

    def create_app(self) -> APIFlask:
        return shared_app()

    def setUp(self) -> None:
        empty_tables()

    def tearDown(self) -> None:
        db.session.remove()

    def at_once(self, count: int, call: Callable[[int], Result]) -> list[Result]:
        """Return what `call(0)` to `call(count - 1)` gave, each in a thread of its own."""
        with ThreadPoolExecutor(count) as pool:
            return list(pool.map(call, range(count)))

    def assert_fails(self, answer: Answer, status: int, code: str) -> dict[str, Any]:
        """Assert that an answer is the envelope of this failure; return it."""
        body: dict[str, Any] = answer.get_json()
        self.assertEqual((answer.status_code, body.get("code")), (status, code), body)
        kind = "error" if status in {401, 403} or status >= 500 else "fail"
        self.assertEqual(body["status"], kind)
        self.assertTrue(body["message"])
        self.assertEqual(answer.mimetype, "application/json")
        return body
