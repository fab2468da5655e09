"""What one caller may add to the database in a day."""

from contextlib import contextmanager
from unittest import mock

from sqlalchemy import text

from project import db
from project.api.counter import queries, writes
from project.api.counter.schemas import LARGEST_STEP, MOST_NAMES
from project.api.counter.writes import Addition, KnownCounters
from project.api.errors import RateLimited
from project.api.idempotency import queries as keys
from project.api.idempotency.keys import Write
from project.tests.base import ADMIN, LEARNER, OTHER, BaseTestCase
from project.tests.utils import add_counter
from project.users import User

LIMITS = {
    "new_counters_per_day": 3,
    "stored_responses_per_day": 3,
    "stored_response_bytes_per_day": 10_000,
}


class QuotaTestCase(BaseTestCase):
    def setUp(self):
        super().setUp()
        self.enterContext(self.limited(**LIMITS))
        known = mock.patch.dict(self.app.extensions, known_counters=KnownCounters())
        self.enterContext(known)

    def limited(self, **limits):
        settings = self.app.extensions["settings"].model_copy(update=limits)
        return mock.patch.dict(self.app.extensions, settings=settings)

    def increment(self, name, headers=LEARNER, key=None, **options):
        sent = headers | ({"Idempotency-Key": key} if key else {})
        return self.client.post(f"/counters/{name}/increment", headers=sent, **options)

    def increment_many(self, *names, headers=LEARNER):
        body = {"increments": dict.fromkeys(names, 1)}
        return self.client.post("/counters/increment", json=body, headers=headers)

    def rows(self, statement):
        with db.engine.connect() as connection:
            return connection.execute(text(statement)).scalar_one()

    def counters(self):
        return self.rows("SELECT count(*) FROM counters")

    def assert_over_quota(self, answer):
        body = self.assert_fails(answer, 429, "rate_limited")
        self.assertIn("midnight UTC", body["message"])
        self.assertRegex(answer.headers["Retry-After"], r"^\d{1,5}$")

    def service(self):
        token = self.app.extensions["tokens"].issue(User(5, is_service=True), days=1)
        return {"Authorization": f"Bearer {token}"}


class TestNewCounters(QuotaTestCase):
    def test_new_counters_are_rejected_over_the_quota_and_existing_ones_are_not(self):
        created = [self.increment(name) for name in "abc"]
        refused = [self.increment("d"), self.increment_many("a", "e")]
        existing = [self.increment("a"), self.increment_many("a", "b", "c")]

        self.assertEqual({answer.status_code for answer in (*created, *existing)}, {200})
        for answer in refused:
            self.assert_over_quota(answer)
        self.assertEqual(self.counters(), 3)
        self.assertEqual(self.client.get("/counters/a").get_json()["data"]["value"], 3)

    def test_quota_belongs_to_its_principal(self):
        self.increment_many("a", "b", "c")

        self.assert_over_quota(self.increment("d"))
        self.assertEqual(self.increment("d", OTHER).status_code, 200)

    def test_request_with_more_new_counters_than_left_creates_none(self):
        self.increment("a")

        self.assert_over_quota(self.increment_many("x", "y", "z"))
        self.assertEqual(self.counters(), 1)
        self.assertEqual(self.increment_many("x", "y").status_code, 200)

    def test_admins_and_services_have_no_quota(self):
        for headers in (ADMIN, self.service()):
            names = [f"{headers['Authorization'][:12]}{number}".replace(" ", "_")
                     for number in range(9)]  # fmt: skip
            self.assertEqual(self.increment_many(*names, headers=headers).status_code, 200)

        self.assertEqual(self.rows("SELECT count(*) FROM counter_usage"), 0)

    def test_quota_starts_again_on_the_next_day(self):
        self.increment_many("a", "b", "c")
        with db.engine.begin() as connection:
            connection.execute(text("UPDATE counter_usage SET day = day - 1"))

        again = self.increment_many("d", "e", "f")

        self.assertEqual(again.status_code, 200)
        self.assertEqual((queries.prune_usage(), queries.prune_usage()), (1, 0))
        self.assert_over_quota(self.increment("g"))

    def test_quota_holds_for_concurrent_requests(self):
        answers = self.at_once(32, lambda number: self.increment(f"new-{number}"))

        statuses = sorted(answer.status_code for answer in answers)
        self.assertEqual(statuses, [200] * 3 + [429] * 29)
        self.assertEqual(self.counters(), 3)

    def test_quota_holds_for_concurrent_transactions(self):
        """Each in a transaction of its own, as those of several processes are."""

        def create(number):
            with self.app.app_context():
                return writes._flush([Write(Addition({f"n{number}": 1}, creator="user:7"))])[0]

        outcomes = self.at_once(8, create)

        self.assertEqual(sum(isinstance(outcome, RateLimited) for outcome in outcomes), 5)
        self.assertEqual(self.counters(), 3)

    def test_item_over_its_quota_fails_alone_in_a_batch(self):
        add_counter("public:a", 1)
        batch = [
            Write(Addition({"a": 1, "b": 1}, several=True, creator="user:7")),
            Write(Addition({"c": 1, "d": 1}, several=True, creator="user:7")),
            Write(Addition({"b": 1, "c": 1}, several=True, creator="user:7")),
            Write(Addition({"d": 5}, creator="user:8")),
            Write(Addition({"public:a": 1}, must_exist=True)),
            Write(Addition({"e": 1}, creator="user:7")),
            Write(Addition({"f": 1})),
        ]

        outcomes = writes._flush(batch)

        self.assertEqual(
            [isinstance(outcome, RateLimited) for outcome in outcomes],
            [False, True, False, False, False, True, False],
        )
        self.assertEqual(outcomes[2].data, {"counters": {"b": 2, "c": 1}})
        self.assertEqual(outcomes[3].data, {"name": "d", "value": 5})
        self.assertEqual(self.counters(), 6)
        self.assertEqual(
            self.rows("SELECT counters FROM counter_usage WHERE principal = 'user:7'"), 3
        )

    def test_known_counters_are_bounded(self):
        known = KnownCounters(size=3)

        known.add({"a", "b"})
        both = known.include({"a", "b"})
        known.add({"c", "d"})

        self.assertTrue(both)
        self.assertTrue(known.include({"c", "d"}))
        self.assertFalse(known.include({"a", "c"}))

    def test_known_counter_can_be_created_again_after_its_deletion(self):
        for _ in range(2):
            self.increment("a")
        self.client.delete("/counters/a", headers=ADMIN)
        again = self.increment("a")
        self.increment_many("b", "c")

        self.assertEqual(again.get_json()["data"]["value"], 1)
        self.assert_over_quota(self.increment("d"))

    def test_request_over_the_quota_can_be_repeated_with_its_key(self):
        self.increment_many("a", "b", "c")

        refused = [self.increment("d", key="k") for _ in range(2)]
        with self.limited(**LIMITS | {"new_counters_per_day": 4}):
            done = self.increment("d", key="k")

        for answer in refused:
            self.assert_over_quota(answer)
            self.assertNotIn("Idempotency-Replayed", answer.headers)
        self.assertEqual(done.status_code, 200)


class TestStoredResponses(QuotaTestCase):
    def setUp(self):
        super().setUp()
        add_counter("public:a")

    def stored(self):
        return self.rows("SELECT count(*) FROM idempotency_keys")

    @contextmanager
    def quota(self, **limits):
        with self.limited(**LIMITS | limits):
            yield

    def test_keys_are_rejected_over_the_quota_and_replays_are_not(self):
        first = [self.increment("public:a", key=f"k{number}") for number in range(3)]
        refused = self.increment("public:a", key="k3")
        replayed = [self.increment("public:a", key=f"k{number}") for number in range(3)]
        without = self.increment("public:a")

        self.assertEqual({answer.status_code for answer in (*first, *replayed, without)}, {200})
        self.assert_over_quota(refused)
        self.assertEqual([a.data for a in replayed], [a.data for a in first])
        self.assertEqual(self.stored(), 3)
        self.assertEqual(without.get_json()["data"]["value"], 5)

    def test_quota_holds_for_every_write(self):
        for number in range(3):
            self.increment("public:a", key=f"k{number}")

        for method, path in (("POST", "/scores"), ("PATCH", "/scores"), ("PUT", "/scores/1")):
            with self.subTest(method=method, path=path):
                answer = self.client.open(
                    path,
                    method=method,
                    json={"exercise_id": 1, "correct": True},
                    headers=LEARNER | {"Idempotency-Key": "new"},
                )

                self.assert_over_quota(answer)
        self.assertEqual(self.rows("SELECT count(*) FROM scores"), 0)

    def test_quota_of_an_anonymous_caller_belongs_to_its_network(self):
        def send(number, address):
            environ = {"REMOTE_ADDR": address}
            return self.increment("public:a", {}, key=f"k{number}", environ_base=environ)

        network = [send(number, f"2001:db8::{number}") for number in range(4)]
        elsewhere = send(9, "2001:db8:0:1::1")

        self.assertEqual([answer.status_code for answer in network], [200] * 3 + [429])
        self.assertEqual(elsewhere.status_code, 200)

    def test_bytes_of_responses_are_limited(self):
        names = [f"{number:0128}" for number in range(60)]
        self.increment_many(*names, headers=ADMIN)
        body = {"increments": dict.fromkeys(names, 1)}

        answers = [
            self.client.post(
                "/counters/increment", json=body, headers=LEARNER | {"Idempotency-Key": f"k{n}"}
            )
            for n in range(2)
        ]

        self.assertEqual(answers[0].status_code, 200)
        self.assert_over_quota(answers[1])
        size = self.rows("SELECT sum(octet_length(body)) FROM idempotency_keys")
        self.assertGreater(size, 7_000)
        self.assertLessEqual(size, self.rows("SELECT bytes FROM idempotency_usage"))

    def test_stored_bytes_never_exceed_those_that_are_counted(self):
        name = "n" * 128
        with self.quota(stored_response_bytes_per_day=10**9, stored_responses_per_day=100):
            add_counter(name, 2**63 - 1 - LARGEST_STEP)
            self.increment(name, key="k1", json={"by": LARGEST_STEP})
            self.increment(name, key="k2", json={"by": LARGEST_STEP})
            names = [f"{number:0128}" for number in range(MOST_NAMES)]
            queries.add_many(dict.fromkeys(names, -(2**63) + LARGEST_STEP))
            self.client.post(
                "/counters/increment",
                json={"increments": dict.fromkeys(names, -LARGEST_STEP)},
                headers=LEARNER | {"Idempotency-Key": "k3"},
            )
            self.client.patch(
                "/scores",
                json={"exercise_id": 2**63 - 1, "correct": False},
                headers=LEARNER | {"Idempotency-Key": "k4"},
            )

        self.assertEqual(self.stored(), 4)
        stored = self.rows(
            "SELECT sum(octet_length(body) + octet_length(CAST(headers AS text)))"
            "  FROM idempotency_keys"
        )
        self.assertLessEqual(stored, self.rows("SELECT bytes FROM idempotency_usage"))

    def test_services_and_admins_have_no_quota(self):
        for headers in (ADMIN, self.service()):
            answers = [self.increment("public:a", headers, key=f"k{n}") for n in range(5)]
            self.assertEqual({answer.status_code for answer in answers}, {200})

        self.assertEqual(self.rows("SELECT count(*) FROM idempotency_usage"), 0)

    def test_quota_holds_for_concurrent_requests(self):
        answers = self.at_once(32, lambda number: self.increment("public:a", key=f"k{number}"))

        statuses = sorted(answer.status_code for answer in answers)
        self.assertEqual(statuses, [200] * 3 + [429] * 29)
        self.assertEqual(self.stored(), 3)
        self.assertEqual(self.rows("SELECT responses FROM idempotency_usage"), 3)

    def test_usage_of_past_days_is_pruned_and_counts_no_more(self):
        self.increment("public:a", key="k")
        with db.engine.begin() as connection:
            connection.execute(text("UPDATE idempotency_usage SET day = day - 1"))

        self.assertEqual((keys.prune_usage(), keys.prune_usage()), (1, 0))
