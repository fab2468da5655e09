"""Callers that may not do something are rejected before their body is read, and errors are few."""

import io
from unittest.mock import patch

from project.api.errors import MAX_ERRORS, MAX_FIELD_LENGTH
from project.api.limits import AddressLimit
from project.slow_clients import BodySlots
from project.tests.base import ADMIN, LEARNER, BaseTestCase
from project.tests.security.operations import operations

REJECTIONS = {"token_required", "invalid_token", "forbidden", "rate_limited"}
CALLERS = {
    "anonymous": {},
    "unknown": {"Authorization": "Bearer nobody"},
    "learner": LEARNER,
    "admin": ADMIN,
}


class UnreadableBody(io.RawIOBase):
    """A body that notes whether it was read."""

    was_read = False

    def readable(self):
        return True

    def readinto(self, _buffer):
        self.was_read = True
        return 0


class TestOrder(BaseTestCase):
    def setUp(self):
        super().setUp()
        limit = AddressLimit("anonymous", "1/minute", "memory://")
        self.enterContext(patch.dict(self.app.extensions, anonymous_limit=limit))

    def test_callers_are_rejected_before_their_body_is_read(self):
        """A caller that is rejected with a valid body is rejected without reading it."""
        rejected = set()
        for operation in operations(self.client.get("/openapi.json").get_json()):
            if operation.body is None:
                continue
            request = operation.request()
            request["path"] = request["path"].replace("/visits/increment", "/public:home/increment")
            for name, caller in CALLERS.items():
                self.client.open(**(request | {"headers": caller}))  # takes the only anonymous one
                valid = self.client.open(**(request | {"headers": caller}))
                if valid.get_json().get("code") not in REJECTIONS:
                    continue
                rejected.add((operation.id, name))
                body = UnreadableBody()

                answer = self.client.open(
                    request["path"],
                    method=operation.method,
                    headers=caller,
                    content_type="application/json",
                    environ_overrides={"wsgi.input": body, "CONTENT_LENGTH": "1000000000"},
                )

                with self.subTest(operation=operation.id, caller=name):
                    self.assertEqual(answer.status_code, valid.status_code)
                    self.assertEqual(answer.get_json()["code"], valid.get_json()["code"])
                    self.assertFalse(body.was_read)
        expected = {
            ("increment_counter", "anonymous"),
            ("increment_counters", "anonymous"),
            ("set_counter", "learner"),
            ("upsert_scores", "learner"),
            ("add_score", "unknown"),
        }
        self.assertLessEqual(expected, rejected)

    def test_rejected_bodies_count_against_the_limit_of_the_address(self):
        path = "/counters/public:home/increment"

        invalid = self.client.post(path, data="{", content_type="application/json")
        next_one = self.client.post(path)

        self.assert_fails(invalid, 400, "invalid_payload")
        self.assert_fails(next_one, 429, "rate_limited")


class TestErrors(BaseTestCase):
    def post(self, path, body):
        return self.assert_fails(
            self.client.post(path, json=body, headers=ADMIN), 400, "invalid_payload"
        )

    def test_errors_are_listed_up_to_a_number(self):
        wrong = {"user_id": 0, "exercise_id": 1, "correct": True}

        answer = self.post("/scores/batch", {"scores": [wrong] * 100})

        self.assertEqual(len(answer["errors"]), MAX_ERRORS)
        self.assertIn(f"The first {MAX_ERRORS} of 100 errors", answer["message"])

    def test_unknown_fields_are_named_if_they_are_few(self):
        answer = self.post("/scores", {"exercise_id": 1, "correct": True, "a": 1, "b": 2})

        self.assertEqual(set(answer["errors"]), {"a", "b"})

    def test_unknown_fields_are_counted_if_they_are_many(self):
        fields = {f"field{number}": 0 for number in range(1000)}

        answer = self.post("/scores", fields | {"exercise_id": 1, "correct": True})
        nested = self.post("/scores/batch", {"scores": [fields]})

        self.assertEqual(
            answer["errors"], {"body": ["There are 1000 unknown fields. Remove them."]}
        )
        self.assertEqual(set(nested["errors"]), {"scores[0]"})

    def test_items_are_counted_before_they_are_validated(self):
        batch = self.post("/scores/batch", {"scores": [{}] * 1001})
        increments = self.post(
            "/counters/increment", {"increments": {f"!{name}": 0 for name in range(1001)}}
        )

        for answer, field in ((batch, "scores"), (increments, "increments")):
            with self.subTest(field):
                self.assertEqual(set(answer["errors"]), {field})
                self.assertIn("at most 1000 items", answer["errors"][field][0])

    def test_names_of_fields_are_shortened(self):
        unknown = self.post("/scores", {"x" * 100_000: 1})
        twice = self.client.post(
            "/scores",
            data='{"%s": 1, "%s": 1}' % (("x" * 100_000,) * 2),
            content_type="application/json",
            headers=ADMIN,
        )

        self.assertLessEqual(max(map(len, unknown["errors"])), MAX_FIELD_LENGTH + 1)
        self.assertLess(len(twice.get_data()), 1000)

    def test_unknown_query_parameters_are_listed_up_to_a_number(self):
        query = "&".join(f"p{number}=1" for number in range(1000))

        answer = self.assert_fails(self.client.get(f"/scores?{query}"), 400, "invalid_query")

        self.assertEqual(len(answer["errors"]), MAX_ERRORS)
        self.assertIn(f"The first {MAX_ERRORS} of 1000 errors", answer["message"])

    def test_body_that_is_shorter_than_its_length_is_rejected(self):
        answer = self.client.post(
            "/counters/visits/increment",
            data='{"by": 1}',
            content_type="application/json",
            environ_overrides={"CONTENT_LENGTH": "1000"},
            headers=LEARNER,
        )

        self.assert_fails(answer, 400, "invalid_payload")
        self.assertEqual(self.client.get("/counters/visits").status_code, 404)


class TestReadiness(BaseTestCase):
    def test_ready_fails_if_no_body_slot_becomes_free(self):
        slots = BodySlots(1)
        self.enterContext(patch.dict(self.app.extensions, body_slots=slots))

        with slots.slot("192.0.2.1", "192.0.2.1", large=False) as read:
            before = self.client.get("/ready")
            read.started -= 60  # as if it had begun a minute ago
            during = self.client.get("/ready")
        after = self.client.get("/ready")

        self.assertEqual((before.status_code, after.status_code), (200, 200))
        failure = self.assert_fails(during, 503, "unavailable")
        self.assertIn("No slot for reading a request body", failure["message"])
