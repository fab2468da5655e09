from project import db, durability
from project.api.counter import queries
from project.statements import Statement
from project.tests.base import BaseTestCase
from project.tests.utils import add_counter


class TestStatement(BaseTestCase):
    def prepared(self):
        """Return the names of what the connection that comes next has prepared."""
        return {row.name for row in db.read(Statement("SELECT name FROM pg_prepared_statements"))}

    def test_is_planned_once_by_a_connection(self):
        add_counter("visits")
        once = self.prepared()
        add_counter("visits")

        self.assertIn(queries.ADD._name, once)
        self.assertEqual(self.prepared(), once)

    def test_is_sent_as_it_is_to_a_connection_that_forgot_it(self):
        """As behind a pooler, which gives another connection each time."""
        add_counter("visits")
        with db.autocommit_engine.connect() as connection:
            connection.exec_driver_sql("DEALLOCATE ALL")

        self.assertEqual(add_counter("visits"), 2)
        self.assertEqual(add_counter("visits"), 3)
        self.assertEqual(self.prepared(), set())

    def test_may_have_been_prepared_by_somebody_else(self):
        add_counter("visits")
        with db.autocommit_engine.connect() as connection:
            connection.connection.info.pop("prepared")
            connection.connection.info.pop("forgets", None)

        self.assertEqual(add_counter("visits"), 2)

    def tearDown(self):
        db.autocommit_engine.dispose()
        super().tearDown()


class TestDurability(BaseTestCase):
    def tearDown(self):
        db.autocommit_engine.dispose()
        super().tearDown()

    def test_has_nothing_to_warn_of(self):
        data = self.client.get("/ready").get_json()["data"]

        self.assertEqual((data["durable"], data["warnings"]), (True, []))

    def test_warns_of_what_can_lose_answered_writes(self):
        with db.autocommit_engine.connect() as connection:
            connection.exec_driver_sql("SET synchronous_commit = off")

        data = self.client.get("/ready").get_json()["data"]

        self.assertFalse(data["durable"])
        self.assertIn("synchronous_commit = off", data["warnings"][0])
        self.assertEqual(durability.warnings(), data["warnings"])
