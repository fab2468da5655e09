"""What happened when, and where attempts fail: held against a plain recount."""

import random
from collections import Counter
from datetime import UTC, datetime, timedelta

from project.api.scores import activity
from project.tests.base import ADMIN, BaseTestCase
from project.tests.utils import add_score

HOUR = timedelta(hours=1)
STEPS = {"day": (24, HOUR), "week": (28, 6 * HOUR), "month": (30, 24 * HOUR)}


class ActivityTestCase(BaseTestCase):
    def ask(self, path, **query):
        answer = self.client.get(path, query_string=query)
        self.assertEqual(answer.status_code, 200, answer.get_json())
        return answer.get_json()["data"]

    def points(self, window):
        return self.ask("/scores/activity", window=window)["points"]


class TestGetActivity(ActivityTestCase):
    def test_counts_every_attempt_and_solve_in_its_interval(self):
        chance = random.Random(1)
        now = datetime.now(UTC)
        made = [
            (now - chance.random() * timedelta(days=40), chance.random() < 0.6) for _ in range(60)
        ]
        for number, (at, correct) in enumerate(made, start=1):
            add_score(user_id=number, correct=correct, created_at=at)

        for window, (count, step) in STEPS.items():
            with self.subTest(window):
                points = self.points(window)

                begins = [datetime.fromisoformat(point["at"]) for point in points]
                self.assertEqual(len(points), count)
                for begin, point in zip(begins, points, strict=True):
                    within = [c for at, c in made if begin <= at < begin + step]
                    self.assertEqual(point["attempts"], len(within))
                    self.assertEqual(point["solved"], sum(within))

    def test_ends_with_the_interval_that_is_not_over(self):
        for window, (count, step) in STEPS.items():
            with self.subTest(window):
                points = self.points(window)

                begins = [datetime.fromisoformat(point["at"]) for point in points]
                self.assertLess(datetime.now(UTC) - begins[-1], step + HOUR)
                self.assertLessEqual(begins[-1], datetime.now(UTC))
                self.assertEqual(begins, [begins[0] + n * step for n in range(count)])
                self.assertEqual(begins[-1].hour % (step // HOUR), 0)

    def test_counts_each_attempt_but_only_the_first_solve(self):
        for correct in (False, True, False, True):
            body = {"exercise_id": 1, "correct": correct}
            self.client.patch("/scores", json=body, headers=ADMIN)

        data = self.ask("/scores/activity")

        self.assertEqual(sum(point["attempts"] for point in data["points"]), 4)
        self.assertEqual(sum(point["solved"] for point in data["points"]), 1)

    def test_counts_once_what_happened_where_two_intervals_meet(self):
        for window in STEPS:
            second = datetime.fromisoformat(self.points(window)[1]["at"])
            add_score(exercise_id=len(window), created_at=second)

            points = self.points(window)

            self.assertGreater(points[1]["attempts"], points[0]["attempts"], window)
            self.assertEqual((points[0]["attempts"], points[0]["solved"]), (0, 0), window)

    def test_tells_what_happened_today(self):
        midnight = datetime.now(UTC).replace(hour=0, minute=0, second=0, microsecond=0)
        add_score(user_id=1, exercise_id=1, created_at=midnight)
        add_score(user_id=1, exercise_id=2, correct=False, created_at=midnight)
        add_score(user_id=2, exercise_id=1, created_at=midnight)
        add_score(user_id=3, exercise_id=1, created_at=midnight - timedelta(microseconds=1))

        today = self.ask("/scores/activity")["today"]

        self.assertEqual(today, {"attempts": 3, "correct": 2, "users": 2, "solved": 2})

    def test_forgets_what_was_deleted(self):
        score = add_score()
        self.client.delete(f"/scores/{score.id}", headers=ADMIN)

        data = self.ask("/scores/activity")

        self.assertEqual(data["today"], {"attempts": 0, "correct": 0, "users": 0, "solved": 0})
        self.assertEqual({(p["attempts"], p["solved"]) for p in data["points"]}, {(0, 0)})

    def test_is_not_sent_again_until_something_happens(self):
        etag = self.client.get("/scores/activity").headers["ETag"]
        known = {"If-None-Match": etag}

        same = self.client.get("/scores/activity", headers=known)
        add_score()
        other = self.client.get("/scores/activity", headers=known)

        self.assertEqual((same.status_code, same.data), (304, b""))
        self.assertEqual(other.status_code, 200)

    def test_refuses_a_window_that_it_does_not_know(self):
        answer = self.client.get("/scores/activity?window=year")

        self.assertIn("window", self.assert_fails(answer, 400, "invalid_query")["errors"])

    def test_is_a_word_and_no_score(self):
        for path in ("/scores/activity", "/scores/failures"):
            with self.subTest(path):
                answer = self.client.delete(path, headers=ADMIN)

                self.assert_fails(answer, 405, "method_not_allowed")


class TestIntervals(ActivityTestCase):
    def test_begin_at_whole_hours_quarters_of_days_and_days(self):
        now = datetime(2026, 3, 29, 13, 59, 59, tzinfo=UTC)
        expected = {
            "day": (datetime(2026, 3, 28, 14, tzinfo=UTC), datetime(2026, 3, 29, 13, tzinfo=UTC)),
            "week": (datetime(2026, 3, 22, 18, tzinfo=UTC), datetime(2026, 3, 29, 12, tzinfo=UTC)),
            "month": (datetime(2026, 2, 28, tzinfo=UTC), datetime(2026, 3, 29, tzinfo=UTC)),
        }

        for window, ends in expected.items():
            with self.subTest(window):
                self.assertEqual(activity.intervals(window, now), ends)


class TestListFailures(ActivityTestCase):
    def failures(self, **query):
        return self.ask("/scores/failures", **query)["exercises"]

    def test_counts_wrong_answers_by_exercise_the_worst_first(self):
        chance = random.Random(2)
        wrong, all_ = Counter(), Counter()
        for user_id in range(1, 61):
            exercise_id, correct = chance.randrange(1, 6), chance.random() < 0.5
            add_score(user_id, exercise_id, correct)
            all_[exercise_id] += 1
            wrong[exercise_id] += not correct

        listed = self.failures(window="week")

        order = sorted(wrong, key=lambda exercise: (-wrong[exercise], all_[exercise], exercise))
        self.assertEqual(
            listed,
            [{"exercise_id": one, "failed": wrong[one], "attempts": all_[one]} for one in order],
        )

    def test_looks_at_the_window_only(self):
        now = datetime.now(UTC)
        for user_id, days in ((1, 0.5), (2, 3), (3, 20), (4, 40)):
            add_score(user_id, user_id, correct=False, created_at=now - timedelta(days=days))

        listed = {
            window: [row["exercise_id"] for row in self.failures(window=window)] for window in STEPS
        }

        self.assertEqual(listed, {"day": [1], "week": [1, 2], "month": [1, 2, 3]})

    def test_leaves_out_what_nobody_got_wrong_and_shows_no_more_than_asked(self):
        add_score(user_id=1, exercise_id=1)
        for exercise_id in (2, 3, 4):
            add_score(user_id=1, exercise_id=exercise_id, correct=False)

        self.assertEqual([row["exercise_id"] for row in self.failures(limit=2)], [2, 3])
        self.assertEqual([row["exercise_id"] for row in self.failures()], [2, 3, 4])

    def test_refuses_limits_out_of_range(self):
        for limit in ("0", "101", "x"):
            with self.subTest(limit):
                answer = self.client.get(f"/scores/failures?limit={limit}")

                self.assert_fails(answer, 400, "invalid_query")

    def test_is_not_sent_again_until_something_fails(self):
        etag = self.client.get("/scores/failures").headers["ETag"]

        same = self.client.get("/scores/failures", headers={"If-None-Match": etag})
        add_score(correct=False)
        other = self.client.get("/scores/failures", headers={"If-None-Match": etag})

        self.assertEqual((same.status_code, other.status_code), (304, 200))
