"""Answers that arrive in another order than they were given: in batches and in imported files."""

import json
from contextlib import redirect_stdout
from datetime import UTC, datetime, timedelta
from io import StringIO
from pathlib import Path
from tempfile import TemporaryDirectory

from project import db
from project.api.scores import totals, transfer
from project.tests.base import ADMIN, LEARNER, BaseTestCase

LEARNER_ID = 7
JANUARY = "2026-01-05T08:00:00.000000Z"
MARCH = "2026-03-05T08:00:00.000000Z"


class OrderTestCase(BaseTestCase):
    def tearDown(self):
        self.assertEqual(totals.select_differences(), [])
        super().tearDown()

    def answer(self, correct, exercise_id=1):
        """Record an answer that is given now."""
        body = {"exercise_id": exercise_id, "correct": correct}
        return self.client.patch("/scores", json=body, headers=LEARNER).get_json()["data"]

    def send_batch(self, *answers):
        """Send answers of the learner, (correct, at), as a batch."""
        scores = [
            {"user_id": LEARNER_ID, "exercise_id": 1, "correct": correct}
            | ({"at": at} if at else {})
            for correct, at in answers
        ]
        response = self.client.post("/scores/batch", json={"scores": scores}, headers=ADMIN)
        self.assertEqual(response.status_code, 200, response.get_json())

    def import_file(self, *answers):
        """Import answers of the learner, (correct, at), from a file."""
        lines = [
            json.dumps({"user_id": LEARNER_ID, "exercise_id": 1, "correct": correct, "at": at})
            for correct, at in answers
        ]
        with TemporaryDirectory() as folder, redirect_stdout(StringIO()):
            path = Path(folder) / "answers.jsonl"
            path.write_text("\n".join(lines))
            self.assertEqual(transfer.import_scores(str(path), None, skip_invalid=False), 0)

    def score(self):
        [score] = self.client.get("/scores?exercise_id=1").get_json()["data"]["scores"]
        return score

    def history(self):
        path = f"/scores/{self.score()['id']}/history"
        attempts = self.client.get(path, headers=ADMIN).get_json()["data"]["attempts"]
        return [(attempt["seq"], attempt["correct"], attempt["at"]) for attempt in attempts]


class TestOlderAnswers(OrderTestCase):
    def both_ways(self):
        """Give each way of sending answers with times, on empty tables."""
        for send in (self.send_batch, self.import_file):
            with self.subTest(send.__name__):
                self.setUp()
                yield send

    def test_older_answer_does_not_replace_the_latest(self):
        for send in self.both_ways():
            live = self.answer(correct=True)

            send((False, JANUARY))

            score = self.score()
            self.assertTrue(score["correct"])
            self.assertEqual(score["attempts"], 2)
            self.assertEqual(score["solved_at"], live["solved_at"])
            self.assertEqual(score["created_at"], JANUARY)
            self.assertGreater(score["updated_at"], live["updated_at"])

    def test_older_correct_answer_moves_solved_at_back(self):
        for send in self.both_ways():
            self.answer(correct=False)

            send((True, JANUARY))

            self.assertFalse(self.score()["correct"])
            self.assertEqual(self.score()["solved_at"], JANUARY)

    def test_older_correct_answer_moves_the_last_solve_of_the_user_back(self):
        for send in self.both_ways():
            self.answer(correct=True)

            send((True, JANUARY))

            [entry] = self.client.get("/scores/leaderboard").get_json()["data"]["entries"]
            self.assertEqual((entry["solved"], entry["last_solved_at"]), (1, JANUARY))

    def test_last_solve_of_the_user_stays_if_another_exercise_was_solved_later(self):
        for send in self.both_ways():
            self.answer(correct=True)
            other = self.answer(correct=True, exercise_id=2)

            send((True, JANUARY))

            [entry] = self.client.get("/scores/leaderboard").get_json()["data"]["entries"]
            self.assertEqual((entry["solved"], entry["last_solved_at"]), (2, other["solved_at"]))

    def test_progress_counts_the_day_of_the_earliest_correct_answer(self):
        for send in self.both_ways():
            self.answer(correct=True)

            send((True, JANUARY))

            path = "/scores/user/progress"
            days = self.client.get(path, headers=LEARNER).get_json()["data"]["days"]
            self.assertEqual(days, {"2026-01-05": 1})

    def test_newer_answer_replaces_an_imported_one(self):
        for send in self.both_ways():
            send((True, MARCH))

            send((False, JANUARY))
            after_older = self.score()
            live = self.answer(correct=False)

            self.assertTrue(after_older["correct"])
            self.assertFalse(live["correct"])
            self.assertEqual(live["solved_at"], MARCH)

    def test_history_is_in_order_of_time(self):
        for send in self.both_ways():
            live = self.answer(correct=True)

            send((False, MARCH), (True, JANUARY))

            number = {False: 2, True: 3} if send == self.send_batch else {False: 3, True: 2}
            self.assertEqual(
                self.history(),
                [
                    (number[True], True, JANUARY),
                    (number[False], False, MARCH),
                    (1, True, live["updated_at"]),
                ],
            )

    def test_history_can_be_paged_in_order_of_time(self):
        self.send_batch((False, MARCH), (True, JANUARY), (False, JANUARY), (True, MARCH))
        path = f"/scores/{self.score()['id']}/history"

        seen, cursor = [], ""
        while cursor is not None:
            page = self.client.get(f"{path}?limit=1{cursor}", headers=ADMIN).get_json()["data"]
            seen += [attempt["seq"] for attempt in page["attempts"]]
            cursor = page["next_cursor"] and f"&cursor={page['next_cursor']}"

        self.assertEqual(seen, [2, 3, 1, 4])

    def test_score_is_the_same_in_every_order_of_arrival(self):
        answers = [(False, JANUARY), (True, "2026-02-05T08:00:00Z"), (False, MARCH)]
        scores = []
        for send in self.both_ways():
            for order in ((0, 1, 2), (2, 1, 0), (1, 2, 0), (1, 0, 2)):
                self.setUp()
                for place in order:
                    send(answers[place])
                scores.append(self.score() | {"updated_at": None})

        for score in scores:
            self.assertEqual(score, scores[0])
        self.assertFalse(scores[0]["correct"])
        self.assertEqual(scores[0]["solved_at"], "2026-02-05T08:00:00.000000Z")

    def test_list_of_updates_contains_older_answers_that_were_written_since(self):
        for send in self.both_ways():
            since = datetime.now(UTC).isoformat()

            send((True, JANUARY))

            found = self.client.get("/scores", query_string={"updated_since": since})
            self.assertEqual(len(found.get_json()["data"]["scores"]), 1)

    def test_of_answers_without_a_time_in_a_batch_the_last_one_is_the_latest(self):
        soon = (datetime.now(UTC) + timedelta(minutes=2)).isoformat()

        self.send_batch((False, None), (True, None), (True, JANUARY), (False, soon))

        self.assertTrue(self.score()["correct"])
        self.assertEqual(self.score()["solved_at"], JANUARY)
        self.assertEqual([correct for _, correct, _ in self.history()], [True, False, False, True])


class TestImportedAnswers(OrderTestCase):
    def test_import_adds_nothing_the_second_time(self):
        files = [
            [(False, JANUARY), (True, MARCH)],
            [(False, None), (True, None)],
            [(False, MARCH), (True, None)],
            [(True, JANUARY), (True, JANUARY)],
        ]
        for answers in files:
            with self.subTest(answers):
                self.setUp()
                self.import_file(*answers)
                before = self.score(), self.history()

                self.import_file(*answers)

                self.assertEqual((self.score(), self.history()), before)

    def test_import_takes_several_answers_to_an_exercise(self):
        self.import_file((False, MARCH), (True, "2026-02-05T08:00:00Z"), (False, JANUARY))

        self.assertEqual(self.score()["attempts"], 3)
        self.assertFalse(self.score()["correct"])
        self.assertEqual([correct for _, correct, _ in self.history()], [False, True, False])

    def test_answers_without_a_time_are_given_in_the_order_of_the_file(self):
        self.import_file((False, None), (False, None), (True, None))

        self.assertEqual(self.score()["attempts"], 3)
        self.assertTrue(self.score()["correct"])
        self.assertEqual(self.score()["solved_at"], self.score()["updated_at"])

    def test_answer_without_a_time_adds_nothing_if_the_score_says_so_already(self):
        before = self.answer(correct=True)

        self.import_file((True, None))

        self.assertEqual(self.score(), before)


class TestFuture(OrderTestCase):
    def test_batch_rejects_times_in_the_future_by_item_and_writes_nothing(self):
        later = (datetime.now(UTC) + timedelta(minutes=6)).isoformat()
        scores = [
            {"user_id": 1, "exercise_id": 1, "correct": True, "at": at}
            for at in (JANUARY, later, MARCH, "9999-12-31T23:59:59Z")
        ]

        response = self.client.post("/scores/batch", json={"scores": scores}, headers=ADMIN)

        body = self.assert_fails(response, 400, "invalid_payload")
        self.assertEqual(list(body["errors"]), ["scores[1].at", "scores[3].at"])
        self.assertEqual(self.client.get("/scores").get_json()["data"]["scores"], [])

    def test_batch_accepts_the_time_of_a_clock_that_is_ahead(self):
        soon = datetime.now(UTC) + timedelta(minutes=4)

        self.send_batch((True, soon.isoformat()))
        live = self.answer(correct=False)

        self.assertFalse(live["correct"])
        self.assertEqual(datetime.fromisoformat(live["solved_at"]), soon)
        self.assertEqual([seq for seq, _, _ in self.history()], [1, 2])

    def test_stored_times_in_the_future_are_in_no_window(self):
        live = self.answer(correct=True)
        self.answer(correct=False)
        with db.engine.begin() as connection:
            for statement in (
                "UPDATE attempts SET at = '2099-01-01Z'",
                "UPDATE scores SET solved_at = '2099-01-01Z', updated_at = '2099-01-01Z'",
            ):
                connection.exec_driver_sql(statement)
        db.transact(totals.mend)

        def get(path):
            return self.client.get(path, headers=LEARNER).get_json()["data"]

        for window in ("day", "week", "month"):
            with self.subTest(window):
                board = get(f"/scores/leaderboard?window={window}&around={live['user_id']}")
                activity = get(f"/scores/activity?window={window}")
                self.assertIsNone(board["me"])
                self.assertEqual(get(f"/scores/failures?window={window}")["exercises"], [])
                self.assertEqual({point["attempts"] for point in activity["points"]}, {0})
                self.assertEqual({point["solved"] for point in activity["points"]}, {0})
                self.assertEqual(set(activity["today"].values()), {0})
        progress = get("/scores/user/progress")
        self.assertEqual((progress["days"], progress["solved"]), ({}, 1))


class TestTimes(OrderTestCase):
    def test_times_have_six_digits_and_z(self):
        self.send_batch((False, "2026-01-05T08:00:00Z"), (True, "2026-01-05T10:00:00.5+01:00"))
        score_id = self.score()["id"]
        self.client.post("/counters/visits/increment", headers=LEARNER)

        for path in (
            "/scores",
            f"/scores/{score_id}",
            f"/scores/{score_id}/history",
            "/scores/leaderboard",
            "/scores/leaderboard?window=month",
            "/scores/exercise/1/stats",
            "/scores/activity",
            "/counters",
            "/counters/visits",
            "/counters/visits/history",
        ):
            with self.subTest(path):
                text = self.client.get(path, headers=ADMIN).get_data(as_text=True)

                times = [part for part in text.split('"') if part[:2] == "20" and "T" in part]
                for time in times:
                    self.assertRegex(time, r"^\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{6}Z$")
                self.assertTrue(times or "leaderboard?" in path)
        self.assertEqual(self.score()["solved_at"], "2026-01-05T09:00:00.500000Z")

    def test_writes_answer_with_the_same_times_as_reads(self):
        written = self.answer(correct=True)

        self.assertEqual(written, self.score())

    def test_query_takes_any_offset_and_a_plus_that_was_not_escaped(self):
        self.send_batch((True, JANUARY))

        for since in (
            "2026-01-05T08:00:00Z",
            "2026-01-05T13:45:00%2B05:45",
            "2026-01-05T13:45:00+05:45",
            "2026-01-05T04:30:00.000-03:30",
            "2026-01-05t08:00:00z",
        ):
            with self.subTest(since):
                found = self.client.get(f"/counters/visits/history?since={since}")
                listed = self.client.get(f"/scores?updated_since={since}")

                self.assertEqual(found.get_json()["code"], "counter_not_found")
                self.assertEqual(len(listed.get_json()["data"]["scores"]), 1)

    def test_query_rejects_other_times(self):
        for since in (
            "2026-01-05",
            "2026-01-05T08:00:00",
            "2026-01-05 08:00:00Z",
            "2026-02-30T08:00:00Z",
            "2026-01-05T24:00:00Z",
            "2026-01-05T08:00:60Z",
            "2026-01-05T08:00:00+25:00",
            "2026-01-05T08:00:00  05:45",
        ):
            with self.subTest(since):
                found = self.client.get("/scores", query_string={"updated_since": since})

                errors = self.assert_fails(found, 400, "invalid_query")["errors"]
                self.assertIn("like 2026-11-20T08:30:00Z", errors["updated_since"][0])
