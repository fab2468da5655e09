from contextlib import contextmanager
from datetime import timedelta
from threading import Barrier

from sqlalchemy import text

from project import db
from project.api.idempotency import queries
from project.api.idempotency.models import IdempotencyKey
from project.tests.base import ADMIN, LEARNER, OTHER, BaseTestCase
from project.tests.utils import add_counter


class KeyTestCase(BaseTestCase):
    def send(self, key="key-1", method="POST", path="/counters/visits/increment", **options):
        headers = options.pop("headers", LEARNER) | ({"Idempotency-Key": key} if key else {})
        body = options.pop("json", {"by": 1})
        return self.client.open(path, method=method, json=body, headers=headers, **options)

    def value(self, name="visits"):
        return self.client.get(f"/counters/{name}").get_json()["data"]["value"]

    def assert_replays(self, first, second):
        self.assertEqual((second.status_code, second.data), (first.status_code, first.data))
        self.assertEqual(second.headers["Idempotency-Replayed"], "true")
        self.assertNotIn("Idempotency-Replayed", first.headers)


class TestReplay(KeyTestCase):
    def test_counts_once_and_answers_alike(self):
        first, second = self.send(), self.send()

        self.assert_replays(first, second)
        self.assertEqual(self.value(), 1)

    def test_holds_for_every_write(self):
        for method, path, body, headers in (
            ("POST", "/counters/increment", {"increments": {"a": 1, "b": 2}}, LEARNER),
            ("PUT", "/counters/set", {"value": 5}, ADMIN | {"If-None-Match": "*"}),
            ("PUT", "/counters/set", {"value": 6}, ADMIN | {"If-Match": "*"}),
            ("POST", "/scores", {"exercise_id": 1, "correct": True}, LEARNER),
            ("PUT", "/scores/1", {"exercise_id": 1, "correct": False}, LEARNER),
            ("PATCH", "/scores/1", {"exercise_id": 1, "correct": True}, LEARNER),
            ("PATCH", "/scores", {"exercise_id": 1, "correct": True}, LEARNER),
            ("PATCH", "/scores", {"exercise_id": 2, "correct": True}, LEARNER),
        ):
            with self.subTest(method=method, path=path, body=body):
                key = f"{method} {path} {body}"
                first = self.send(key, method, path, json=body, headers=headers)
                second = self.send(key, method, path, json=body, headers=headers)

                self.assertLess(first.status_code, 300)
                self.assert_replays(first, second)
                for name in ("Location", "ETag"):
                    self.assertEqual(first.headers.get(name), second.headers.get(name))
        self.assertEqual((self.value("a"), self.value("b"), self.value("set")), (1, 2, 6))
        scores = self.client.get("/scores").get_json()["data"]["scores"]
        self.assertEqual([score["attempts"] for score in scores], [4, 1])

    def test_gives_a_refusal_again_even_where_it_would_not_be_refused_now(self):
        first = self.send(path="/scores", json={"exercise_id": 1, "correct": True})
        refused = self.send("key-2", path="/scores", json={"exercise_id": 1, "correct": True})
        score_id = first.get_json()["data"]["id"]
        self.client.delete(f"/scores/{score_id}", headers=ADMIN)

        again = self.send("key-2", path="/scores", json={"exercise_id": 1, "correct": True})

        self.assert_fails(refused, 400, "score_exists")
        self.assert_replays(refused, again)

    def test_gives_an_overflow_again(self):
        add_counter("visits", 2**63 - 1)

        first, second = self.send(), self.send()

        self.assert_fails(first, 409, "counter_overflow")
        self.assert_replays(first, second)

    def test_keeps_nothing_of_what_never_came_to_a_write(self):
        invalid = self.send(json={"by": 0})
        valid = self.send(json={"by": 1})

        self.assert_fails(invalid, 400, "invalid_payload")
        self.assertEqual(valid.status_code, 200)

    def test_takes_a_key_bare_or_quoted_as_the_same(self):
        first, second = self.send("abc"), self.send('"abc"')

        self.assert_replays(first, second)

    def test_knows_a_key_for_its_principal_only(self):
        add_counter("public:a")
        self.send()
        other = self.send(headers=OTHER)
        nobody = self.send(path="/counters/public:a/increment", headers={})
        neighbour = self.send(
            path="/counters/public:a/increment",
            headers={},
            environ_base={"REMOTE_ADDR": "10.0.0.9"},
        )

        self.assertEqual(other.get_json()["data"]["value"], 2)
        self.assertEqual(nobody.get_json()["data"]["value"], 2)
        self.assertEqual(neighbour.get_json()["data"]["value"], 3)

    def test_refuses_the_key_for_another_request(self):
        self.send()

        for options in (
            {"json": {"by": 2}},
            {"path": "/counters/other/increment"},
            {"method": "PATCH", "path": "/scores", "json": {"exercise_id": 1, "correct": True}},
        ):
            with self.subTest(**options):
                self.assert_fails(self.send(**options), 422, "idempotency_key_reused")
        self.assertEqual(self.value(), 1)

    def test_key_is_rejected_for_another_precondition(self):
        add_counter("visits", 5)
        path = "/counters/visits"
        first = self.client.get(path).headers["ETag"]
        conditions = [{"If-Match": first}, {"If-Match": "*"}, {"If-None-Match": "*"}, {}]

        answers = [
            self.send(method="PUT", path=path, json={"value": 9}, headers=ADMIN | condition)
            for condition in conditions
        ]
        again = self.send(method="PUT", path=path, json={"value": 9}, headers=ADMIN | conditions[0])

        self.assertEqual(answers[0].status_code, 200)
        for answer in answers[1:3]:
            self.assert_fails(answer, 422, "idempotency_key_reused")
        self.assert_fails(answers[3], 428, "precondition_required")
        self.assert_replays(answers[0], again)

    def test_refuses_what_is_no_key(self):
        for key in ("", " ", "x" * 256, '"', '""', '"a', 'a"b\\', "ä", "a\tb", '"a\\b"'):
            with self.subTest(key=key):
                answer = self.client.post(
                    "/counters/visits/increment",
                    headers=[*LEARNER.items(), ("Idempotency-Key", key)],
                )

                if key == 'a"b\\':
                    self.assertEqual(answer.status_code, 200)
                    continue
                body = self.assert_fails(answer, 400, "invalid_payload")
                self.assertEqual(list(body["errors"]), ["Idempotency-Key"])
        self.assertEqual(self.send("x" * 255).status_code, 200)


class TestAtOnce(KeyTestCase):
    @contextmanager
    def another_process_with(self, key):
        """Hold the key in an open transaction, which comes to nothing."""
        other = db.engine.raw_connection()
        queries.claim(other, [queries.Key("user:7", key, b"")])
        yield
        other.rollback()
        other.close()

    def test_does_once_what_comes_many_times_at_once(self):
        """Of 32 equal requests at once one is done; the others get its answer, or 409."""
        together = Barrier(32)

        def send(_):
            together.wait()
            return self.send()

        answers = self.at_once(32, send)

        self.assertEqual(self.value(), 1)
        done = [answer for answer in answers if answer.status_code == 200]
        self.assertEqual({answer.get_json()["data"]["value"] for answer in done}, {1})
        self.assertEqual(sum("Idempotency-Replayed" not in answer.headers for answer in done), 1)
        for answer in answers:
            if answer.status_code != 200:
                self.assert_fails(answer, 409, "request_in_progress")
                self.assertEqual(answer.headers["Retry-After"], "1")

    def test_mixes_with_writes_that_have_no_key(self):
        answers = self.at_once(32, lambda number: self.send(f"k{number}" if number % 2 else None))

        values = sorted(answer.get_json()["data"]["value"] for answer in answers)
        self.assertEqual(values, list(range(1, 33)))

    def test_says_so_where_another_process_is_working_on_the_key(self):
        with self.another_process_with("key-1"):
            answer = self.send()

        self.assert_fails(answer, 409, "request_in_progress")
        self.assertEqual(self.send().status_code, 200)

    def test_harms_no_neighbour_of_a_key_in_progress(self):
        with self.another_process_with("k1"):
            answers = self.at_once(8, lambda number: self.send(f"k{number}"))

        self.assertEqual(sorted(answer.status_code for answer in answers), [200] * 7 + [409])
        self.assertEqual(self.value(), 7)


class TestPrune(KeyTestCase):
    def age(self, hours):
        with db.engine.begin() as connection:
            statement = text("UPDATE idempotency_keys SET created_at = created_at - :age")
            connection.execute(statement, {"age": timedelta(hours=hours)})

    def test_deletes_what_was_kept_for_a_day_and_nothing_younger(self):
        self.send("old")
        self.age(25)
        self.send("young")
        self.age(23.9 - 25 + 1)

        deleted = queries.prune()

        self.assertEqual(deleted, 1)
        self.assertEqual([key.key for key in db.session.query(IdempotencyKey)], ["young"])

    def test_deletes_a_small_batch_at_a_time(self):
        with db.engine.begin() as connection:
            connection.execute(
                text("""
                    INSERT INTO idempotency_keys (principal, key, fingerprint, created_at)
                    SELECT 'user:1', n, '', now() - interval '2 days'
                      FROM generate_series(1, 2500) AS n
                """)
            )

        self.assertEqual([queries.prune() for _ in range(4)], [1000, 1000, 500, 0])
