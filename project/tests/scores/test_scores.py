from datetime import UTC, datetime

from project import db
from project.api.scores.models import Score
from project.tests.base import ADMIN, LEARNER, OTHER, BaseTestCase
from project.tests.utils import add_score

LEARNER_ID = 7
ADMIN_ID = 998877


class TestListScores(BaseTestCase):
    def list(self, query="", headers=None, path="/scores"):
        answer = self.client.get(f"{path}{query}", headers=headers)
        self.assertEqual(answer.status_code, 200, answer.get_json())
        return answer.get_json()["data"], answer

    def test_is_empty_where_there_are_none(self):
        data, answer = self.list()

        self.assertEqual(data, {"scores": [], "next_cursor": None})
        self.assertNotIn("Link", answer.headers)

    def test_shows_scores_in_the_order_of_their_ids(self):
        for user_id in (3, 1, 2):
            add_score(user_id, 1, True)

        data, _ = self.list()

        self.assertEqual([score["id"] for score in data["scores"]], [1, 2, 3])
        self.assertEqual([score["user_id"] for score in data["scores"]], [3, 1, 2])
        self.assertEqual(
            list(data["scores"][0]),
            ["id", "user_id", "exercise_id", "correct", "attempts", "solved_at", "created_at",
             "updated_at"],
        )  # fmt: skip

    def test_filters_by_each_parameter_and_by_all(self):
        add_score(1, 1, True, created_at=datetime(2020, 1, 1, tzinfo=UTC))
        add_score(1, 2, False)
        add_score(2, 1, False)

        for query, ids in (
            ("?user_id=1", [1, 2]),
            ("?exercise_id=1", [1, 3]),
            ("?correct=true", [1]),
            ("?correct=false", [2, 3]),
            ("?updated_since=2020-01-01T00:00:00Z", [1, 2, 3]),
            ("?updated_since=2020-01-01T01:00:00%2B01:00", [1, 2, 3]),
            ("?updated_since=2020-01-01T00:00:00.000001Z", [2, 3]),
            ("?user_id=1&exercise_id=2&correct=false", [2]),
            ("?user_id=3", []),
        ):
            with self.subTest(query=query):
                data, _ = self.list(query)

                self.assertEqual([score["id"] for score in data["scores"]], ids)

    def test_pages_through_everything_once(self):
        for user_id in range(1, 8):
            add_score(user_id, 1, user_id % 2 == 0)

        seen, next_page = [], "/scores?limit=3&exercise_id=1"
        while next_page:
            data, answer = self.list(path=next_page)
            seen += [score["id"] for score in data["scores"]]
            link = answer.headers.get("Link", "")
            next_page = link.partition("<")[2].partition(">")[0]
            self.assertEqual(bool(link), data["next_cursor"] is not None)

        self.assertEqual(seen, [1, 2, 3, 4, 5, 6, 7])

    def test_offers_no_next_page_behind_the_last_full_one(self):
        for user_id in range(1, 5):
            add_score(user_id, 1, True)

        first, _ = self.list("?limit=2")
        second, _ = self.list(f"?limit=2&cursor={first['next_cursor']}")

        self.assertEqual([score["id"] for score in second["scores"]], [3, 4])
        self.assertIsNone(second["next_cursor"])

    def test_neither_skips_nor_repeats_where_rows_come_and_go(self):
        for user_id in range(1, 5):
            add_score(user_id, 1, True)
        first, _ = self.list("?limit=2")

        db.session.delete(db.session.get(Score, (1, 1)))
        db.session.commit()
        add_score(5, 1, True)
        second, _ = self.list(f"?limit=3&cursor={first['next_cursor']}")

        self.assertEqual([score["id"] for score in second["scores"]], [3, 4, 5])

    def test_shows_the_caller_only_its_own(self):
        add_score(LEARNER_ID, 1, True)
        add_score(8, 1, True)

        data, _ = self.list(headers=LEARNER, path="/scores/user")

        self.assertEqual([score["user_id"] for score in data["scores"]], [LEARNER_ID])

    def test_refuses_the_cursor_of_another_user(self):
        for exercise_id in (1, 2):
            add_score(LEARNER_ID, exercise_id)
            add_score(8, exercise_id)
        data, _ = self.list("?limit=1", LEARNER, "/scores/user")

        answer = self.client.get(f"/scores/user?cursor={data['next_cursor']}", headers=OTHER)

        self.assert_fails(answer, 400, "invalid_query")


class TestGetScore(BaseTestCase):
    def test_gives_the_score(self):
        score = add_score(1, 2, False)

        answer = self.client.get(f"/scores/{score.id}")

        self.assertEqual(answer.status_code, 200)
        data = answer.get_json()["data"]
        self.assertEqual((data["user_id"], data["exercise_id"], data["correct"]), (1, 2, False))
        self.assertIsNone(data["solved_at"])

    def test_says_so_where_there_is_none(self):
        self.assert_fails(self.client.get("/scores/1"), 404, "score_not_found")

    def test_answers_304_to_who_has_this_version_until_it_changes(self):
        score = add_score(LEARNER_ID, 1, True)
        etag = self.client.get(f"/scores/{score.id}").headers["ETag"]

        same = self.client.get(f"/scores/{score.id}", headers={"If-None-Match": etag})
        self.client.patch("/scores", json={"exercise_id": 1, "correct": True}, headers=LEARNER)
        changed = self.client.get(f"/scores/{score.id}", headers={"If-None-Match": etag})

        self.assertEqual((same.status_code, same.data), (304, b""))
        self.assertEqual(same.headers["ETag"], etag)
        self.assertEqual(changed.status_code, 200)

    def test_shows_the_caller_only_its_own(self):
        own, others = add_score(LEARNER_ID, 1), add_score(8, 1)

        found = self.client.get(f"/scores/user/{own.id}", headers=LEARNER)
        hidden = self.client.get(f"/scores/user/{others.id}", headers=LEARNER)

        self.assertEqual(found.get_json()["data"]["id"], own.id)
        self.assert_fails(hidden, 404, "score_not_found")


class WritesScores(BaseTestCase):
    def write(self, method, path="/scores", headers=LEARNER, **body):
        return self.client.open(
            path, method=method, json={"exercise_id": 1, "correct": True} | body, headers=headers
        )


class TestAddScore(WritesScores):
    def test_adds_the_callers_score(self):
        answer = self.write("POST", exercise_id=5)

        body = answer.get_json()
        self.assertEqual((answer.status_code, body["message"]), (201, "New score was added!"))
        self.assertEqual(answer.headers["Location"], f"/scores/{body['data']['id']}")
        self.assertEqual(body["data"]["user_id"], LEARNER_ID)
        self.assertEqual(body["data"]["attempts"], 1)
        self.assertEqual(body["data"]["solved_at"], body["data"]["created_at"])
        self.assertEqual(
            self.client.get(answer.headers["Location"]).get_json()["data"], body["data"]
        )

    def test_refuses_a_second_score_for_the_pair_and_changes_nothing(self):
        score = self.write("POST").get_json()["data"]

        answer = self.write("POST", correct=False)

        self.assert_fails(answer, 400, "score_exists")
        self.assertEqual(self.client.get(f"/scores/{score['id']}").get_json()["data"], score)

    def test_adds_for_another_user_where_an_admin_says_so(self):
        answer = self.write("POST", headers=ADMIN, user_id=5)

        self.assertEqual(answer.get_json()["data"]["user_id"], 5)

    def test_refuses_to_add_for_another_user(self):
        self.assert_fails(self.write("POST", user_id=8), 403, "forbidden")
        self.assertEqual(self.write("POST", user_id=LEARNER_ID).status_code, 201)

    def test_lets_one_of_many_at_once_win(self):
        answers = self.at_once(16, lambda _: self.write("POST"))

        statuses = sorted(answer.status_code for answer in answers)
        self.assertEqual(statuses, [201] + [400] * 15)
        self.assertEqual(db.session.get(Score, (LEARNER_ID, 1)).attempts, 1)


class TestUpdateScore(WritesScores):
    def test_keeps_when_it_was_solved_first(self):
        first = self.write("POST", correct=True).get_json()["data"]

        answer = self.write("PUT", f"/scores/{first['id']}", correct=False)

        body = answer.get_json()
        self.assertEqual((answer.status_code, body["message"]), (200, "Score was updated!"))
        self.assertFalse(body["data"]["correct"])
        self.assertEqual(body["data"]["attempts"], 2)
        self.assertEqual(body["data"]["solved_at"], first["solved_at"])
        self.assertEqual(body["data"]["created_at"], first["created_at"])
        self.assertGreater(body["data"]["updated_at"], first["updated_at"])

    def test_solves_at_the_first_correct_answer(self):
        first = self.write("POST", correct=False).get_json()["data"]

        second = self.write("PUT", f"/scores/{first['id']}").get_json()["data"]

        self.assertIsNone(first["solved_at"])
        self.assertEqual(second["solved_at"], second["updated_at"])

    def test_refuses_an_id_that_is_not_the_callers_score_for_that_exercise(self):
        own = self.write("POST").get_json()["data"]
        others = add_score(8, 1)

        for method in ("PUT", "PATCH"):
            for path, exercise_id in (
                (f"/scores/{own['id']}", 2),
                (f"/scores/{others.id}", 1),
                ("/scores/999", 1),
                ("/scores/999", 77),
            ):
                with self.subTest(method=method, path=path, exercise_id=exercise_id):
                    answer = self.write(method, path, exercise_id=exercise_id)

                    self.assert_fails(answer, 400, "score_mismatch")
        self.assertEqual(self.client.get(f"/scores/{own['id']}").get_json()["data"], own)

    def test_updates_by_patch_as_well(self):
        own = self.write("POST").get_json()["data"]

        answer = self.write("PATCH", f"/scores/{own['id']}", correct=False)

        self.assertEqual(answer.get_json()["message"], "Score was updated!")
        self.assertEqual(answer.get_json()["data"]["attempts"], 2)


class TestUpsertScore(WritesScores):
    def test_adds_and_then_updates(self):
        added, updated = self.write("PATCH"), self.write("PATCH", correct=False)

        self.assertEqual((added.status_code, updated.status_code), (201, 200))
        self.assertEqual(added.get_json()["message"], "New score was added!")
        self.assertEqual(updated.get_json()["message"], "Score was updated!")
        self.assertEqual(added.get_json()["data"]["id"], updated.get_json()["data"]["id"])
        self.assertIn("Location", added.headers)

    def test_loses_nothing_when_many_come_at_once(self):
        """Of 32 writes of one pair one adds, the others update, and each counts."""
        answers = self.at_once(32, lambda _: self.write("PATCH"))

        self.assertEqual(
            sorted(answer.get_json()["data"]["attempts"] for answer in answers),
            list(range(1, 33)),
        )
        self.assertEqual(sorted(answer.status_code for answer in answers), [200] * 31 + [201])
        self.assertEqual(db.session.query(Score).count(), 1)
        self.assertEqual(db.session.get(Score, (LEARNER_ID, 1)).attempts, 32)


class TestDeleteScore(BaseTestCase):
    def test_is_for_administrators(self):
        score = add_score(LEARNER_ID, 1)

        refused = self.client.delete(f"/scores/{score.id}", headers=LEARNER)
        deleted = self.client.delete(f"/scores/{score.id}", headers=ADMIN)
        again = self.client.delete(f"/scores/{score.id}", headers=ADMIN)

        self.assert_fails(refused, 403, "forbidden")
        self.assertEqual(deleted.get_json()["message"], "Score was deleted!")
        self.assert_fails(again, 404, "score_not_found")
