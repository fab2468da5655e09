"""Where learners and exercises stand: leaderboard, progress, statistics, history; and batches."""

from datetime import UTC, datetime, timedelta

from project import db
from project.api.scores import totals
from project.tests.base import ADMIN, LEARNER, OTHER, BaseTestCase
from project.tests.utils import add_score

LEARNER_ID = 7
OTHER_ID = 8
ADMIN_ID = 998877


def ago(**time):
    return datetime.now(UTC) - timedelta(**time)


class StandingsTestCase(BaseTestCase):
    def get(self, path, headers=None):
        answer = self.client.get(path, headers=headers)
        self.assertEqual(answer.status_code, 200, answer.get_json())
        return answer.get_json()["data"]

    def solve(self, user_id, count, created_at=None):
        """Have a user solve the exercises 1 to `count`."""
        for exercise_id in range(1, count + 1):
            add_score(user_id, exercise_id, created_at=created_at)


class TestWriteBatch(StandingsTestCase):
    def write(self, *scores, headers=ADMIN, **more):
        names = ("user_id", "exercise_id", "correct")
        body = {"scores": [dict(zip(names, score, strict=True)) for score in scores]}
        return self.client.post("/scores/batch", json=body, headers=headers | more)

    def test_gives_for_each_in_its_order_its_id_and_whether_it_is_new(self):
        known = add_score(2, 1)

        answer = self.write((3, 1, True), (2, 1, False), (1, 1, True))

        self.assertEqual(answer.status_code, 200)
        results = answer.get_json()["data"]["results"]
        self.assertEqual([result["created"] for result in results], [True, False, True])
        self.assertEqual(results[1]["id"], known.id)
        stored = {score["id"]: score for score in self.get("/scores")["scores"]}
        self.assertEqual([stored[result["id"]]["user_id"] for result in results], [3, 2, 1])

    def test_writes_the_same_pair_as_often_as_it_stands_in_it(self):
        answer = self.write((1, 1, False), (1, 1, True), (1, 1, False))

        results = answer.get_json()["data"]["results"]
        self.assertEqual([result["created"] for result in results], [True, False, False])
        [score] = self.get("/scores")["scores"]
        self.assertEqual((score["attempts"], score["correct"]), (3, False))
        self.assertIsNotNone(score["solved_at"])
        history = self.get(f"/scores/{score['id']}/history", ADMIN)["attempts"]
        self.assertEqual([attempt["correct"] for attempt in history], [False, True, False])

    def test_batch_names_bad_fields_by_path_and_writes_nothing(self):
        answer = self.write((1, 1, True), (0, 1, True), (1, "1", None))

        errors = self.assert_fails(answer, 400, "invalid_payload")["errors"]
        self.assertEqual(
            sorted(errors), ["scores[1].user_id", "scores[2].correct", "scores[2].exercise_id"]
        )
        self.assertEqual(
            errors["scores[1].user_id"], ["Input should be greater than or equal to 1"]
        )
        self.assertEqual(self.get("/scores")["scores"], [])

    def test_takes_one_to_a_thousand(self):
        for count, status in ((0, 400), (1, 200), (1000, 200), (1001, 400)):
            with self.subTest(count=count):
                answer = self.write(*((user_id, 1, True) for user_id in range(1, count + 1)))

                self.assertEqual(answer.status_code, status)

    def test_takes_a_body_that_is_too_large_for_others_and_no_larger_one(self):
        padding = {"Content-Type": "application/json"} | ADMIN
        body = b'{"scores": [{"user_id": 1, "exercise_id": 1, "correct": true}]}'

        large = self.client.post("/scores/batch", data=body + b" " * 7_000_000, headers=padding)
        larger = self.client.post("/scores/batch", data=body + b" " * 9_000_000, headers=padding)
        other = self.client.post("/scores", data=body + b" " * 7_000_000, headers=padding)

        self.assertEqual(large.status_code, 200)
        self.assert_fails(larger, 413, "payload_too_large")
        self.assert_fails(other, 413, "payload_too_large")

    def test_is_for_services_and_administrators(self):
        own_score = (LEARNER_ID, 1, True)

        self.assert_fails(self.write(own_score, headers=LEARNER), 403, "forbidden")
        self.assert_fails(self.write(own_score, headers={}), 403, "token_required")

    def test_is_done_once_with_a_key(self):
        first = self.write((1, 1, True), **{"Idempotency-Key": "a"})
        again = self.write((1, 1, True), **{"Idempotency-Key": "a"})
        other = self.write((1, 1, False), **{"Idempotency-Key": "a"})

        self.assertEqual(again.data, first.data)
        self.assertEqual(again.headers["Idempotency-Replayed"], "true")
        self.assert_fails(other, 422, "idempotency_key_reused")
        self.assertEqual(self.get("/scores/1")["attempts"], 1)


class TestLeaderboard(StandingsTestCase):
    def entries(self, query="", headers=None):
        data = self.get(f"/scores/leaderboard{query}", headers)
        return [(entry["rank"], entry["user_id"]) for entry in data["entries"]]

    def test_is_empty_before_anything_is_solved(self):
        add_score(1, 1, correct=False)

        data = self.get("/scores/leaderboard")

        self.assertEqual(data, {"entries": [], "next_cursor": None})

    def test_shows_who_solved_most_and_when_the_last(self):
        self.solve(1, 1)
        self.solve(2, 2, created_at=datetime(2026, 1, 1, tzinfo=UTC))

        first, second = self.get("/scores/leaderboard")["entries"]

        self.assertEqual(
            first,
            {
                "rank": 1,
                "user_id": 2,
                "solved": 2,
                "last_solved_at": "2026-01-01T00:00:00.000000Z",
            },
        )
        self.assertEqual((second["rank"], second["user_id"], second["solved"]), (2, 1, 1))

    def test_ranks_who_share_a_number_by_the_tie_rule(self):
        self.solve(4, 1)
        for user_id in (3, 2):  # of those with as many, who was first comes first
            self.solve(user_id, 2)
        self.solve(1, 3)

        for window in ("all", "week"):
            for tie, ranks in (
                ("competition", [1, 2, 2, 4]),
                ("dense", [1, 2, 2, 3]),
                ("ordinal", [1, 2, 3, 4]),
            ):
                with self.subTest(window=window, tie=tie):
                    entries = self.entries(f"?tie={tie}&window={window}")

                    self.assertEqual(entries, list(zip(ranks, (1, 3, 2, 4), strict=True)))

    def test_counts_what_was_solved_in_the_window(self):
        self.solve(1, 3, created_at=ago(days=40))
        self.solve(2, 2, created_at=ago(days=8))
        self.solve(3, 1, created_at=ago(hours=25))
        add_score(1, 4, created_at=ago(hours=1))

        for window, users in (
            ("all", [1, 2, 3]),
            ("month", [2, 3, 1]),
            ("week", [3, 1]),
            ("day", [1]),
        ):
            with self.subTest(window=window):
                entries = self.entries(f"?window={window}")

                self.assertEqual([user_id for _, user_id in entries], users)

    def test_pages_through_everybody_once(self):
        for user_id in range(1, 8):
            self.solve(user_id, user_id // 2 + 1)

        for query in ("tie=competition", "tie=dense", "tie=ordinal", "tie=ordinal&window=day"):
            with self.subTest(query):
                whole = self.entries(f"?{query}")
                seen, following = [], f"/scores/leaderboard?{query}&limit=2"
                while following:
                    answer = self.client.get(following)
                    entries = answer.get_json()["data"]["entries"]
                    seen += [(entry["rank"], entry["user_id"]) for entry in entries]
                    following = answer.headers.get("Link", "")[1:].partition(">")[0]

                self.assertEqual(seen, whole)
                self.assertEqual(len(seen), 7)

    def test_shows_the_neighbours_of_the_caller_or_of_a_user(self):
        for user_id in range(1, 10):
            self.solve(user_id, 10 - user_id)

        for window in ("all", "month"):
            with self.subTest(window=window):
                mine = self.get(
                    f"/scores/leaderboard?around=me&span=1&window={window}", headers=LEARNER
                )
                others = self.entries(f"?around=2&window={window}")

                self.assertEqual([entry["user_id"] for entry in mine["entries"]], [6, 7, 8])
                self.assertEqual(mine["me"], mine["entries"][1])
                self.assertEqual(mine["me"]["rank"], 7)
                self.assertEqual(others, [(rank, rank) for rank in range(1, 8)])

    def test_leaderboard_ignores_limit_with_around_and_span_without(self):
        """Generated clients send every documented default."""
        for user_id in range(1, 10):
            self.solve(user_id, 10 - user_id)
        cursor = self.get("/scores/leaderboard?limit=1")["next_cursor"]

        for query, same in (
            ("around=me&limit=100", "around=me"),
            ("around=5&limit=1&span=2", "around=5&span=2"),
            ("around=me&limit=100&window=all&tie=competition&span=5", "around=me"),
            ("span=5", ""),
            (f"limit=1&span=5&cursor={cursor}", f"limit=1&cursor={cursor}"),
        ):
            with self.subTest(query):
                self.assertEqual(
                    self.get(f"/scores/leaderboard?{query}", headers=LEARNER),
                    self.get(f"/scores/leaderboard?{same}", headers=LEARNER),
                )

    def test_has_no_place_for_who_solved_nothing(self):
        self.solve(1, 1)
        add_score(LEARNER_ID, 1, correct=False)

        for query in ("around=me", "around=me&window=day", "around=99"):
            with self.subTest(query):
                data = self.get(f"/scores/leaderboard?{query}", headers=LEARNER)

                self.assertEqual(data, {"entries": [], "next_cursor": None, "me": None})

    def test_asks_for_a_token_only_where_it_is_about_the_caller(self):
        anonymous = self.client.get("/scores/leaderboard?around=me")
        wrong = self.client.get("/scores/leaderboard?around=me", headers={"Authorization": "x"})
        open_ = self.client.get("/scores/leaderboard", headers={"Authorization": "x"})

        self.assert_fails(anonymous, 403, "token_required")
        self.assert_fails(wrong, 401, "invalid_token")
        self.assertEqual(open_.status_code, 200)

    def test_names_the_parameter_that_is_wrong(self):
        for query, name in (
            ("window=year", "window"),
            ("tie=none", "tie"),
            ("limit=0", "limit"),
            ("limit=1001", "limit"),
            ("around=you", "around"),
            ("around=0", "around"),
            ("around=9223372036854775808", "around"),
            ("around=1&span=-1", "span"),
            ("around=1&span=101", "span"),
            ("span=101", "span"),
            ("around=1&limit=0", "limit"),
            ("around=1&cursor=ab", "cursor"),
            ("cursor=ab", "cursor"),
        ):
            with self.subTest(query):
                answer = self.client.get(f"/scores/leaderboard?{query}")

                errors = self.assert_fails(answer, 400, "invalid_query")["errors"]
                self.assertEqual(list(errors), [name])

    def test_refuses_the_cursor_of_another_leaderboard(self):
        for user_id in (1, 2):
            self.solve(user_id, 1)
        cursor = self.get("/scores/leaderboard?limit=1")["next_cursor"]

        answer = self.client.get(f"/scores/leaderboard?window=week&cursor={cursor}")

        self.assert_fails(answer, 400, "invalid_query")

    def test_follows_deletion(self):
        self.solve(1, 2, created_at=datetime(2026, 1, 1, tzinfo=UTC))
        self.solve(2, 1)
        latest = add_score(1, 3)

        self.client.delete(f"/scores/{latest.id}", headers=ADMIN)
        self.client.delete("/scores/3", headers=ADMIN)

        [entry] = self.get("/scores/leaderboard")["entries"]
        self.assertEqual((entry["user_id"], entry["solved"]), (1, 2))
        self.assertEqual(entry["last_solved_at"], "2026-01-01T00:00:00.000000Z")
        self.assertEqual(totals.select_differences(), [])


class TestProgress(StandingsTestCase):
    def progress(self, query="", headers=LEARNER):
        return self.get(f"/scores/user/progress{query}", headers)

    def test_is_nothing_before_the_first_attempt(self):
        self.assertEqual(
            self.progress(),
            {
                "solved": 0,
                "attempted": 0,
                "attempts": 0,
                "accuracy": None,
                "streak": {"current": 0, "longest": 0},
                "days": {},
            },
        )

    def test_counts_exercises_and_attempts_of_the_caller(self):
        for exercise_id, correct in ((1, False), (1, True), (1, True), (2, False)):
            body = {"exercise_id": exercise_id, "correct": correct}
            self.client.patch("/scores", json=body, headers=LEARNER)
            self.client.patch("/scores", json=body | {"exercise_id": 9}, headers=OTHER)

        progress = self.progress()

        self.assertEqual(
            (progress["solved"], progress["attempted"], progress["attempts"]), (1, 2, 4)
        )
        self.assertEqual(progress["accuracy"], 0.5)
        self.assertEqual(list(progress["days"].values()), [1])

    def test_keeps_what_was_solved_when_a_later_answer_is_wrong(self):
        for correct in (True, False):
            self.client.patch(
                "/scores", json={"exercise_id": 1, "correct": correct}, headers=LEARNER
            )

        self.assertEqual(self.progress()["solved"], 1)

    def test_tells_days_by_the_time_zone(self):
        add_score(LEARNER_ID, 1, created_at=datetime(2026, 3, 28, 23, 30, tzinfo=UTC))
        add_score(LEARNER_ID, 2, created_at=datetime(2026, 3, 29, 21, 59, tzinfo=UTC))
        add_score(LEARNER_ID, 3, created_at=datetime(2026, 3, 29, 22, 0, tzinfo=UTC))

        for tz, days in (
            ("UTC", {"2026-03-28": 1, "2026-03-29": 2}),
            ("Europe/Berlin", {"2026-03-29": 2, "2026-03-30": 1}),
            ("America/New_York", {"2026-03-28": 1, "2026-03-29": 2}),
        ):
            with self.subTest(tz):
                self.assertEqual(self.progress(f"?tz={tz}")["days"], days)

    def test_counts_streaks_that_end_today_or_yesterday(self):
        for days, streak in (
            ((0,), (1, 1)),
            ((1,), (1, 1)),
            ((2,), (0, 1)),
            ((0, 1, 2), (3, 3)),
            ((1, 2, 4, 5, 6), (2, 3)),
            ((3, 4, 5), (0, 3)),
        ):
            with self.subTest(days=days):
                self.setUp()
                for number, day in enumerate(days, start=1):
                    add_score(LEARNER_ID, number, created_at=ago(days=day))

                found = self.progress()["streak"]

                self.assertEqual((found["current"], found["longest"]), streak)

    def test_refuses_what_is_no_time_zone(self):
        for tz in ("Mars/Olympus", "localtime", "UTC+1", "", "x" * 100, "../etc/passwd"):
            with self.subTest(tz):
                answer = self.client.get(
                    "/scores/user/progress", query_string={"tz": tz}, headers=LEARNER
                )

                errors = self.assert_fails(answer, 400, "invalid_query")["errors"]
                self.assertEqual(list(errors), ["tz"])


class TestStats(StandingsTestCase):
    def stats(self, exercise_id=1):
        return self.get(f"/scores/exercise/{exercise_id}/stats")

    def test_are_zero_where_nobody_tried(self):
        self.assertEqual(
            self.stats(),
            {
                "attempted": 0,
                "solved": 0,
                "attempts": 0,
                "pass_rate": None,
                "first_solved": None,
            },
        )

    def test_tell_how_it_went_with_everybody(self):
        add_score(1, 1, correct=False)
        add_score(2, 1, created_at=datetime(2026, 1, 2, tzinfo=UTC))
        add_score(3, 1, created_at=datetime(2026, 1, 1, tzinfo=UTC))
        add_score(4, 2)
        self.client.patch("/scores", json={"exercise_id": 1, "correct": False}, headers=LEARNER)
        self.client.patch("/scores", json={"exercise_id": 1, "correct": False}, headers=LEARNER)

        self.assertEqual(
            self.stats(),
            {
                "attempted": 4,
                "solved": 2,
                "attempts": 5,
                "pass_rate": 0.5,
                "first_solved": {"user_id": 3, "at": "2026-01-01T00:00:00.000000Z"},
            },
        )

    def test_follow_deletion(self):
        score = add_score(1, 1)

        self.client.delete(f"/scores/{score.id}", headers=ADMIN)

        self.assertEqual(self.stats()["attempted"], 0)
        self.assertIsNone(self.stats()["pass_rate"])

    def test_are_not_found_for_what_is_no_id(self):
        for exercise_id in ("0", "abc", "-1", "9223372036854775808"):
            with self.subTest(exercise_id):
                answer = self.client.get(f"/scores/exercise/{exercise_id}/stats")

                self.assert_fails(answer, 404, "not_found")


class TestHistory(StandingsTestCase):
    def setUp(self):
        super().setUp()
        for correct, headers in ((False, LEARNER), (True, ADMIN), (False, LEARNER)):
            body = {"exercise_id": 1, "correct": correct, "user_id": LEARNER_ID}
            self.client.patch("/scores", json=body, headers=headers)

    def test_shows_every_attempt_in_order_and_who_wrote_it(self):
        attempts = self.get("/scores/1/history", LEARNER)["attempts"]

        self.assertEqual(
            [(attempt["seq"], attempt["correct"], attempt["actor"]) for attempt in attempts],
            [(1, False, LEARNER_ID), (2, True, ADMIN_ID), (3, False, LEARNER_ID)],
        )
        self.assertEqual(attempts[2]["at"], self.get("/scores/1")["updated_at"])

    def test_comes_in_pages(self):
        first = self.get("/scores/1/history?limit=2", LEARNER)
        second = self.get(f"/scores/1/history?limit=2&cursor={first['next_cursor']}", LEARNER)

        self.assertEqual([attempt["seq"] for attempt in first["attempts"]], [1, 2])
        self.assertEqual([attempt["seq"] for attempt in second["attempts"]], [3])
        self.assertIsNone(second["next_cursor"])

    def test_is_for_the_owner_services_and_administrators(self):
        self.assertEqual(self.client.get("/scores/1/history", headers=ADMIN).status_code, 200)
        self.assert_fails(self.client.get("/scores/1/history", headers=OTHER), 403, "forbidden")
        self.assert_fails(self.client.get("/scores/1/history"), 403, "token_required")

    def test_is_not_found_where_there_is_no_score(self):
        answer = self.client.get("/scores/2/history", headers=ADMIN)

        self.assert_fails(answer, 404, "score_not_found")

    def test_goes_with_its_score(self):
        self.client.delete("/scores/1", headers=ADMIN)
        body = {"exercise_id": 1, "correct": True}
        again = self.client.patch("/scores", json=body, headers=LEARNER).get_json()["data"]

        attempts = self.get(f"/scores/{again['id']}/history", LEARNER)["attempts"]

        self.assertEqual([attempt["seq"] for attempt in attempts], [1])


class TestListVersions(StandingsTestCase):
    def test_are_answered_304_to_who_has_them_until_something_changes(self):
        self.solve(LEARNER_ID, 2)
        for path in (
            "/scores",
            "/scores?limit=1",
            "/scores?user_id=7&correct=true",
            "/scores/user",
            "/scores/1/history",
            "/scores/leaderboard",
            "/scores/leaderboard?window=week&tie=dense",
            "/scores/leaderboard?around=me",
        ):
            with self.subTest(path):
                first = self.client.get(path, headers=LEARNER)
                has = {"If-None-Match": f'"other", W/{first.headers["ETag"]}'} | LEARNER
                same = self.client.get(path, headers=has)

                self.assertEqual((same.status_code, same.data), (304, b""))
                self.assertEqual(same.headers["ETag"], first.headers["ETag"])

                self.client.post(
                    "/scores/batch",
                    json={
                        "scores": [
                            {"user_id": LEARNER_ID, "exercise_id": exercise_id, "correct": True}
                            for exercise_id in (1, 100 + len(path))
                        ]
                    },
                    headers=ADMIN,
                )
                changed = self.client.get(path, headers=has)

                self.assertEqual(changed.status_code, 200)
                self.assertNotEqual(changed.headers["ETag"], first.headers["ETag"])

    def test_tell_apart_whether_there_is_a_next_page(self):
        self.solve(1, 1)
        only = self.client.get("/scores?limit=1")

        add_score(2, 1)
        first = self.client.get("/scores?limit=1", headers={"If-None-Match": only.headers["ETag"]})

        self.assertEqual(first.status_code, 200)
        self.assertIsNotNone(first.get_json()["data"]["next_cursor"])

    def test_are_no_matter_where_the_header_names_none(self):
        for header in ('W/""', '""', "", '"other"', "\x00"):
            with self.subTest(header):
                answer = self.client.get("/scores", headers={"If-None-Match": header})

                self.assertEqual(answer.status_code, 200)

    def test_are_all_had_by_who_has_any(self):
        answer = self.client.get("/scores", headers={"If-None-Match": "*"})

        self.assertEqual(answer.status_code, 304)


class TestTimes(StandingsTestCase):
    def test_are_written_alike_wherever_they_stand(self):
        for number, fraction in enumerate((0, 1, 10, 320060, 500000, 999999), start=1):
            at = datetime(2026, 11, 20, 8, 30, 0, fraction, tzinfo=UTC)
            score = add_score(LEARNER_ID, number, created_at=at)

            with self.subTest(at):
                listed = self.get(f"/scores?exercise_id={number}")["scores"][0]
                history = self.get(f"/scores/{score.id}/history", LEARNER)["attempts"]
                one = self.get(f"/scores/{score.id}")

                self.assertEqual(listed, one)
                self.assertEqual(history[0]["at"], one["created_at"])
                self.assertEqual(datetime.fromisoformat(one["created_at"]), at)


class TestTotals(StandingsTestCase):
    def test_are_found_out_and_mended_where_they_are_wrong(self):
        self.solve(1, 2)
        self.solve(2, 1)
        for lie in (
            "UPDATE user_totals SET solved = solved + 1 WHERE user_id = 1",
            "UPDATE user_totals SET last_solved_at = last_solved_at - interval '1 day'",
            "DELETE FROM user_totals WHERE user_id = 2",
            "UPDATE exercise_totals SET attempts = attempts + 1 WHERE exercise_id = 1",
            "DELETE FROM exercise_totals",
            "UPDATE solved_counts SET users = users + 1",
            "INSERT INTO solved_counts VALUES (9, 0, 3)",
            "INSERT INTO user_totals VALUES (99, 5, now())",
        ):
            with self.subTest(lie):
                board = self.get("/scores/leaderboard")
                db.session.execute(db.text(lie))
                db.session.commit()

                differences = totals.select_differences()
                db.transact(totals.mend)

                self.assertNotEqual(differences, [])
                self.assertEqual(totals.select_differences(), [])
                self.assertEqual(self.get("/scores/leaderboard"), board)
