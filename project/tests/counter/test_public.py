"""Counters whose names begin with `public:`, and what callers without a token may do to them."""

from project import db
from project.api.counter import queries, writes
from project.api.counter.writes import Addition
from project.api.errors import CounterNotFound
from project.api.idempotency.keys import Write
from project.tests.base import ADMIN, LEARNER, BaseTestCase
from project.tests.utils import add_counter
from project.users import User

KEY = {"Idempotency-Key": "k"}


class PublicTestCase(BaseTestCase):
    def increment(self, name="public:a", headers=(), **body):
        return self.client.post(f"/counters/{name}/increment", json=body, headers=dict(headers))

    def increment_many(self, headers=LEARNER, **increments):
        return self.client.post(
            "/counters/increment", json={"increments": increments}, headers=headers
        )

    def assert_value(self, value, name="public:a"):
        """Assert what a counter is at, and that its ledger says the same; None is no counter."""
        audit = self.client.get(f"/counters/{name}/audit")
        if value is None:
            self.assert_fails(audit, 404, "counter_not_found")
        else:
            data = audit.get_json()["data"]
            self.assertEqual(data, {"value": value, "ledger_sum": value, "consistent": True})

    def assert_no_ledger(self):
        with db.engine.connect() as connection:
            rows = connection.exec_driver_sql("SELECT count(*) FROM counter_hours").scalar_one()
        self.assertEqual(rows, 0)


class TestAnonymousIncrement(PublicTestCase):
    def test_anonymous_increment_adds_one_to_a_counter_that_exists(self):
        add_counter("public:a", 5)

        without_body = self.client.post("/counters/public:a/increment")
        answer = self.increment(by=1)

        self.assertEqual(without_body.get_json()["data"], {"name": "public:a", "value": 6})
        self.assertEqual(answer.get_json()["data"], {"name": "public:a", "value": 7})
        self.assert_value(7)

    def test_anonymous_increment_creates_no_counter(self):
        for _ in range(2):
            self.assert_fails(self.increment(), 404, "counter_not_found")

        self.assert_value(None)
        self.assert_no_ledger()

    def test_anonymous_increment_needs_a_token_for_other_steps(self):
        add_counter("public:a", 5)

        for by in (2, -1, 10**12, -(10**12)):
            with self.subTest(by):
                self.assert_fails(self.increment(by=by), 403, "token_required")
        self.assert_fails(self.increment(by=0), 400, "invalid_payload")
        self.assert_value(5)

    def test_anonymous_increment_is_possible_once_a_caller_with_a_token_has_made_one(self):
        before = self.increment()
        created = self.increment(headers=LEARNER, by=3)
        after = self.increment()

        self.assert_fails(before, 404, "counter_not_found")
        self.assertEqual(created.get_json()["data"]["value"], 3)
        self.assertEqual(after.get_json()["data"]["value"], 4)

    def test_anonymous_increment_of_the_home_page_always_works(self):
        first = self.increment("public:home")
        self.client.delete("/counters/public:home", headers=ADMIN)
        second = self.increment("public:home")

        self.assertEqual(first.get_json()["data"]["value"], 1)
        self.assertEqual(second.get_json()["data"]["value"], 1)
        self.assert_fails(self.increment("public:home", by=2), 403, "token_required")

    def test_anonymous_increment_replays_its_outcome(self):
        """A key stands for one outcome, also if that was that there is no counter."""
        refused = [self.increment(headers=KEY) for _ in range(2)]
        add_counter("public:a", 1)
        refused.append(self.increment(headers=KEY))
        done = [self.increment(headers={"Idempotency-Key": "other"}) for _ in range(3)]

        for answer in refused:
            self.assert_fails(answer, 404, "counter_not_found")
        self.assertEqual(
            [answer.headers.get("Idempotency-Replayed") for answer in refused],
            [None, "true", "true"],
        )
        self.assertEqual([answer.get_json()["data"]["value"] for answer in done], [2, 2, 2])
        self.assert_value(2)

    def test_missing_counter_fails_alone_among_others(self):
        add_counter("public:a", 1)

        def send(number):
            if number % 3 == 0:
                return self.increment("public:missing")
            return self.increment() if number % 3 == 1 else self.increment("own", LEARNER, by=2)

        answers = self.at_once(24, send)

        statuses = sorted(answer.status_code for answer in answers)
        self.assertEqual(statuses, [200] * 16 + [404] * 8)
        self.assert_value(9)
        self.assert_value(16, "own")
        self.assert_value(None, "public:missing")

    def test_batch_refuses_only_the_increment_of_a_missing_counter(self):
        """One flush with everything in it: with keys and without, anonymous and not."""
        add_counter("public:a", 1)
        add_counter("public:b", 1)
        batch = [
            Write(Addition({"public:missing": 1}, must_exist=True)),
            Write(Addition({"public:a": 1}, must_exist=True)),
            Write(Addition({"public:new": 5})),
            Write(Addition({"public:new": 1}, must_exist=True)),
            Write(Addition({"public:a": 10, "own": 1}, several=True)),
            Write(Addition({"public:b": 1}, must_exist=True)),
        ]

        outcomes = writes._flush(batch)

        self.assertIsInstance(outcomes[0], CounterNotFound)
        # All of a batch see the counters that were there before it.
        self.assertIsInstance(outcomes[3], CounterNotFound)
        self.assertEqual(
            [outcome.data for outcome in (outcomes[1], outcomes[2], outcomes[4], outcomes[5])],
            [
                {"name": "public:a", "value": 2},
                {"name": "public:new", "value": 5},
                {"counters": {"public:a": 12, "own": 1}},
                {"name": "public:b", "value": 2},
            ],
        )
        self.assert_value(5, "public:new")
        self.assert_value(None, "public:missing")

    def test_anonymous_increment_never_brings_a_deleted_counter_back(self):
        """Only a caller with a token creates a deleted counter again, under any interleaving."""
        for _ in range(15):
            add_counter("public:a", 1)

            answers = self.at_once(
                8,
                lambda number: (
                    self.client.delete("/counters/public:a", headers=ADMIN)
                    if number == 4
                    else self.increment()
                ),
            )

            self.assertLessEqual({answer.status_code for answer in answers}, {200, 404})
            self.assert_value(None)
            self.assert_no_ledger()

    def test_anonymous_increment_waits_for_a_deletion_under_way(self):
        """The deletion is not committed yet, so a look at the counter would still find it."""
        add_counter("public:a", 1)
        with db.engine.connect() as connection:
            connection.exec_driver_sql("DELETE FROM counter_hours")
            connection.exec_driver_sql("DELETE FROM counters")

            def send(number):
                if number:
                    return self.increment()
                # Once the increment waits for the row, or has not begun; either is fine.
                connection.exec_driver_sql("SELECT pg_sleep(0.2)")
                return connection.commit()

            _, answer = self.at_once(2, send)

        self.assert_fails(answer, 404, "counter_not_found")
        self.assert_no_ledger()


class TestSubtraction(PublicTestCase):
    def test_only_admins_subtract_from_public_counters(self):
        add_counter("public:a", 10)

        refused = self.increment(headers=LEARNER, by=-1)
        done = self.increment(headers=ADMIN, by=-1)

        self.assert_fails(refused, 403, "forbidden")
        self.assertEqual(done.get_json()["data"]["value"], 9)
        self.assert_value(9)

    def test_only_admins_subtract_from_public_counters_among_many(self):
        refused = self.increment_many(**{"own": 1, "public:a": -1})
        done = self.increment_many(ADMIN, **{"own": 1, "public:a": -1})
        others = self.increment_many(**{"own": -5, "public:a": 1, "Public:b": -1})

        self.assert_fails(refused, 403, "forbidden")
        self.assertEqual(done.get_json()["data"]["counters"], {"own": 1, "public:a": -1})
        self.assertEqual(
            others.get_json()["data"]["counters"], {"own": -4, "public:a": 0, "Public:b": -1}
        )

    def test_subtraction_is_replayed_only_for_admins(self):
        """A replay needs the role as well, also by the user that sent the key as an admin."""
        add_counter("public:a", 10)
        roles = {role: User(7, is_admin=role) for role in (True, False)}
        issue = self.app.extensions["tokens"].issue
        admin, learner = (
            KEY | {"Authorization": f"Bearer {issue(roles[role], days=1)}"}
            for role in (True, False)
        )

        done, replayed = (self.increment(headers=admin, by=-1) for _ in range(2))
        refused = self.increment(headers=learner, by=-1)
        many = {"increments": {"own": 1, "public:a": -1}}
        refused_many = self.client.post("/counters/increment", json=many, headers=learner)

        self.assertEqual((done.data, done.status_code), (replayed.data, 200))
        self.assertEqual(replayed.headers["Idempotency-Replayed"], "true")
        self.assert_fails(refused, 403, "forbidden")
        self.assert_fails(refused_many, 403, "forbidden")
        self.assert_value(9)
        self.assert_value(None, "own")

    def test_services_subtract_from_no_public_counter(self):
        token = self.app.extensions["tokens"].issue(User(5, is_service=True), days=1)
        service = {"Authorization": f"Bearer {token}"}

        self.assert_fails(self.increment(headers=service, by=-1), 403, "forbidden")
        self.assertEqual(self.increment(headers=service, by=2).status_code, 200)


class TestExistingCounters(PublicTestCase):
    def test_lock_existing_returns_the_names_that_exist(self):
        for name in ("a", "b"):
            add_counter(name)

        existing = db.transact(
            lambda connection: queries.lock_existing(connection, {"b", "missing", "a"})
        )

        self.assertEqual(existing, {"a", "b"})
