"""The clock of this machine is set back by an hour."""

from datetime import UTC, datetime, timedelta

import time_machine

from project.tests.base import LEARNER, BaseTestCase
from project.users import User


class TestClockSetBack(BaseTestCase):
    def setUp(self):
        super().setUp()
        token = self.app.extensions["tokens"].issue(User(7), days=1)
        self.ours = {"Authorization": f"Bearer {token}"}

    def set_back(self):
        """Set the clock back; what is measured in this process by a monotonic clock goes on."""
        past = datetime.now(UTC) - timedelta(hours=1)
        self.enterContext(time_machine.travel(past, tick=True))

    def increment(self, caller):
        return self.client.post("/counters/hot/increment", headers=caller)

    def test_leaves_tokens_valid_that_were_issued_before(self):
        self.set_back()

        for caller in (self.ours, LEARNER):
            self.assertEqual(self.client.get("/ping", headers=caller).status_code, 200)

    def test_stops_no_write_and_no_read_and_repeats_none(self):
        key = self.ours | {"Idempotency-Key": "once"}
        self.assertEqual(self.increment(key).get_json()["data"]["value"], 1)
        self.set_back()

        again, other = self.increment(key), self.increment(LEARNER)

        self.assertEqual(again.headers["Idempotency-Replayed"], "true")
        self.assertEqual(other.get_json()["data"]["value"], 2)
        self.assertEqual(self.client.get("/ready").status_code, 200)
        self.assertTrue(self.client.get("/counters/hot/audit").get_json()["data"]["consistent"])

    def test_leaves_the_times_of_rows_in_order(self):
        """They are PostgreSQL's, and never run backwards in a row."""
        self.increment(self.ours)
        before = self.client.get("/counters/hot").get_json()["data"]["updated_at"]
        self.set_back()

        self.increment(self.ours)

        after = self.client.get("/counters/hot").get_json()["data"]["updated_at"]
        self.assertLessEqual(before, after)
