"""Callers that may not do something are rejected before their body is read."""

import io
from unittest.mock import patch

from project.api.limits import AnonymousLimit
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
        limit = AnonymousLimit("1/minute", "memory://")
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
