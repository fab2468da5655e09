"""The dashboard without a browser: what it says, and when it is sent."""

import re
from datetime import UTC, datetime

from project.api.counter import queries as counters
from project.dashboard.sparkline import line
from project.seeds import history
from project.tests.base import ADMIN, BaseTestCase
from project.tests.utils import add_counter, add_score


class TestDashboard(BaseTestCase):
    def show(self, query=""):
        answer = self.client.get(f"/dashboard{query}")
        self.assertEqual(answer.status_code, 200)
        return answer.get_data(as_text=True)

    def test_shows_what_happened_today(self):
        add_score(user_id=1, exercise_id=1)
        add_score(user_id=1, exercise_id=2, correct=False)
        add_score(user_id=2, exercise_id=1, correct=False)

        page = self.show()

        for name, figure in (("attempts", "3"), ("correct", "33 %"), ("solved", "1"),
                             ("users", "2")):  # fmt: skip
            self.assertIn(f'<dd id="today-{name}" data-live>{figure}</dd>', page)

    def test_shows_an_empty_service(self):
        page = self.show()

        self.assertIn("Nobody has solved anything in the last 24 hours.", page)
        self.assertIn("No answer was wrong in the last 24 hours.", page)
        self.assertIn("Nothing has been counted yet.", page)

    def test_ranks_learners_and_exercises(self):
        for exercise_id in (1, 2, 3):
            add_score(user_id=7, exercise_id=exercise_id)
        add_score(user_id=8, exercise_id=31, correct=False)

        page = self.show("?window=week")

        self.assertRegex(page, r'<td class="left rank">1</td><th class="left" scope="row">7</th>')
        self.assertRegex(page, r'<th class="left" scope="row">31</th>.*?100 %')

    def test_shows_counters_by_prefix(self):
        add_counter("visits", 1234567)
        add_counter("likes", -5)

        self.assertIn(">1,234,567<", self.show())
        self.assertIn(">-5<", self.show())
        self.assertNotIn(">1,234,567<", self.show("?prefix=lik"))
        self.assertIn("No counter begins with “nobody”.", self.show("?prefix=nobody"))

    def test_says_where_there_are_more_counters(self):
        for number in range(13):
            add_counter(f"visits{number:02}")

        page = self.show()

        self.assertIn("These are the first 12 by name", page)
        self.assertNotIn("visits12", page)

    def test_adds_up_what_counters_gained(self):
        add_counter("visits", 2)
        add_counter("visits", 3)
        self.client.put("/counters/visits", json={"value": 100},
                        headers=ADMIN | {"If-Match": "*"})  # fmt: skip

        for window in ("day", "week", "month"):
            with self.subTest(window):
                page = self.show(f"?window={window}")

                self.assertIn(">100</p>", page)
                self.assertIn(">+5</p>", page)

    def test_is_not_sent_again_until_something_changes(self):
        known = {"If-None-Match": self.client.get("/dashboard").headers["ETag"]}

        same = self.client.get("/dashboard", headers=known)
        add_counter("visits")
        other = self.client.get("/dashboard", headers=known)

        self.assertEqual((same.status_code, same.data), (304, b""))
        self.assertEqual(other.status_code, 200)

    def test_leaves_out_what_costs_much_where_it_is_asked_to_be_brief(self):
        add_score()
        add_counter("visits", 41)

        page = self.show("?brief")

        self.assertIn(">41<", page)
        self.assertIn('<dd id="today-attempts" data-live>1</dd>', page)
        for name in ("activity", "leaders", "failures"):
            self.assertNotIn(f'id="{name}"', page)

    def test_names_what_moves(self):
        """What the script takes over, it finds by its id."""
        live = re.findall(r"<(\w+)([^>]*) data-live>", self.show())

        self.assertGreater(len(live), 8)
        for _, attributes in live:
            self.assertIn(' id="', attributes)


class TestSparkline(BaseTestCase):
    def test_goes_from_edge_to_edge_and_has_zero_within(self):
        self.assertEqual(line([0, 5, 10]), "0,40 50,20 100,0")
        self.assertEqual(line([-10, 0, 10]), "0,40 50,20 100,0")
        self.assertEqual(line([0, 0]), "0,40 100,40")
        self.assertEqual(line([-4, -2]), "0,40 100,20")


class TestHistoryOfSeeds(BaseTestCase):
    def test_adds_up_to_the_counters_value(self):
        now = datetime.now(UTC)

        seeded = history("visits", 5310, now)
        counters.create_past("visits", seeded)

        self.assertEqual(sum(seeded.values()), 5310)
        self.assertTrue(all(isinstance(gain, int) and gain >= 0 for gain in seeded.values()))
        audit = self.client.get("/counters/visits/audit").get_json()["data"]
        self.assertEqual(audit, {"value": 5310, "ledger_sum": 5310, "consistent": True})
