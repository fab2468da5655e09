"""Whatever is written, all that can be read is what plain Python makes of the attempts."""

import uuid
from concurrent.futures import ThreadPoolExecutor
from contextlib import redirect_stdout
from datetime import UTC, datetime, timedelta
from io import StringIO
from tempfile import NamedTemporaryFile
from typing import NamedTuple

from hypothesis import Phase, given, settings
from hypothesis import strategies as st
from sqlalchemy import text

from project import db
from project.api.scores import models, totals, transfer
from project.statements import Statement
from project.tests.base import ADMIN, BaseTestCase, empty_tables
from project.tests.scores import reckoning
from project.tests.scores.reckoning import TIES, WINDOWS, Attempt, Entry
from project.users import User

USERS = (1, 2, 3, 4)
EXERCISES = (1, 2, 3)
SECOND = timedelta(seconds=1)
PAIRS = [(user_id, exercise_id) for user_id in USERS for exercise_id in EXERCISES]
ABSENT = 999_999  # the id of no score
SHOWN = ("user_id", "exercise_id", "correct", "attempts", "solved_at", "created_at", "updated_at")


def examples(count):
    """Try so many examples, the same every time; they are small, and shrinking takes minutes."""
    phases = (Phase.explicit, Phase.generate)
    return settings(
        max_examples=count, derandomize=True, deadline=None, database=None, phases=phases
    )


class Write(NamedTuple):
    """A write of a pair, for the score of the pair `of` where its path has an id."""

    method: str
    pair: tuple
    correct: bool
    of: tuple | None = None
    has_key: bool = False


class Batch(NamedTuple):
    """A batch of answers: (pair, correct, how long ago or None)."""

    scores: list
    has_key: bool = False


class Import(NamedTuple):
    """A file of answers: (pair, correct, how long ago or None)."""

    answers: list


class Delete(NamedTuple):
    pair: tuple


class Wait(NamedTuple):
    """Time goes by: all that was is longer ago."""

    time: timedelta


pairs = st.sampled_from(PAIRS)
singles = st.builds(Write, st.sampled_from(("POST", "PATCH")), pairs, st.booleans(), st.none(),
                    st.booleans())  # fmt: skip
by_id = st.builds(Write, st.sampled_from(("PUT", "PATCH")), pairs, st.booleans(), pairs,
                  st.booleans())  # fmt: skip
of_its_own = by_id.map(lambda write: write._replace(of=write.pair))
# Few different times, so that answers of a score share some of them.
ages = st.one_of(
    st.none(), st.sampled_from([timedelta(hours=hours, seconds=1) for hours in (1, 5, 30, 200)])
)
answers = st.lists(st.tuples(pairs, st.booleans(), ages), min_size=1, max_size=6)
batches = st.builds(Batch, answers, st.booleans())
imports = st.builds(Import, answers)
deletes = st.builds(Delete, pairs)
# With odd minutes, so that no sum of a few of them is the length of a window.
waits = st.sampled_from((7, 25, 73, 197)).map(lambda hours: Wait(timedelta(hours=hours, minutes=1)))
writes = st.one_of(singles, of_its_own, by_id, batches)

CHANGES_OF_CLOCKS = [
    datetime(2026, 3, 29, 1, tzinfo=UTC),  # Berlin, to summer time
    datetime(2026, 10, 25, 1, tzinfo=UTC),  # and back
    datetime(2026, 3, 8, 5, 30, tzinfo=UTC),  # St John's, to summer time
    datetime(2026, 11, 1, 4, 30, tzinfo=UTC),  # and back
    datetime(2011, 12, 30, 10, tzinfo=UTC),  # Apia, where 30 December was left out
]
ZONES = ("UTC", "Europe/Berlin", "America/St_Johns", "Pacific/Apia", "Asia/Kathmandu")
a_few_days = st.integers(-4 * 24 * 12, 4 * 24 * 12).map(
    lambda steps: timedelta(minutes=5 * steps, seconds=1)
)
long_ago = st.builds(datetime.__add__, st.sampled_from(CHANGES_OF_CLOCKS), a_few_days)
# How long ago, which the length of a window never is.
lately = st.integers(0, 5 * 24).map(lambda hours: timedelta(hours=hours, minutes=10))


def parsed(time):
    return datetime.fromisoformat(time) if time else None


class ReckonedTestCase(BaseTestCase):
    """Compares all that can be read with the reckoning."""

    def get(self, path, headers=ADMIN, **query):
        answer = self.client.get(path, query_string=query, headers=headers)
        self.assertEqual(answer.status_code, 200, answer.get_json())
        return answer.get_json()["data"]

    def pages(self, path, headers=ADMIN, **query):
        """Yield the data of each page; fail where a page leads back to one before it."""
        seen, cursor = set(), {}
        while cursor is not None:
            data = self.get(path, headers, **query, **cursor)
            yield data
            self.assertNotIn(data["next_cursor"], seen)
            seen |= {data["next_cursor"]} - {None}
            cursor = {"cursor": data["next_cursor"]} if data["next_cursor"] else None

    def walk(self, path, name, headers=ADMIN, **query):
        """Return the rows of all pages."""
        return [row for data in self.pages(path, headers, **query) for row in data[name]]

    def token_of(self, user_id):
        token = self.app.extensions["tokens"].issue(User(user_id), days=1)
        return {"Authorization": f"Bearer {token}"}

    def attempts(self):
        rows = db.read(
            Statement(
                "SELECT user_id, exercise_id, seq, correct, at, coalesce(recorded_at, at)"
                "  FROM attempts ORDER BY 1, 2, 3"
            )
        )
        return [Attempt(*row) for row in rows]

    def entries(self, **query):
        entries = self.walk("/scores/leaderboard", "entries", **query)
        return [as_entry(entry) for entry in entries]

    def store(self, answers):
        """Store attempts as they would be had they been made then: (pair, correct, at)."""
        made = {}
        for pair, correct, at in sorted(answers, key=lambda answer: answer[2]):
            of_pair = made.setdefault(pair, [])
            of_pair.append(Attempt(*pair, len(of_pair) + 1, correct, at, at))
        attempts = [attempt for of_pair in made.values() for attempt in of_pair]
        scores = reckoning.scores(attempts)
        db.session.add_all(models.Score(**score._asdict()) for score in scores)
        db.session.add_all(models.Attempt(**attempt._asdict()) for attempt in attempts)
        db.session.commit()
        db.transact(totals.mend)

    def assert_all_is_as_reckoned(self, limit=2, time_zone="UTC"):
        attempts = self.attempts()
        scores = reckoning.scores(attempts)
        self.assert_numbered(attempts)
        ids = self.assert_scores(scores, limit)
        self.assert_totals(scores)
        self.assert_leaderboards(scores, limit)
        self.assert_progress(scores, time_zone)
        self.assert_stats(scores)
        self.assert_histories(attempts, ids, limit)
        self.assertEqual(totals.select_differences(), [])

    def assert_numbered(self, attempts):
        """Assert that attempts of a pair are numbered 1, 2, 3, in order of arrival."""
        for score in reckoning.scores(attempts):
            made = [attempt for attempt in attempts if attempt.pair == score[:2]]
            self.assertEqual([attempt.seq for attempt in made], list(range(1, len(made) + 1)))
            recorded = [attempt.recorded_at for attempt in made]
            self.assertEqual(recorded, sorted(recorded))

    def assert_scores(self, scores, limit):
        """Return the id of each pair's score."""
        rows = self.walk("/scores", "scores", limit=limit)
        shown = {as_pair(row): as_score(row) for row in rows}
        expected = {score[:2]: shown_of(score) for score in scores}
        self.assertEqual(shown, expected)
        ids = [row["id"] for row in rows]
        self.assertEqual(ids, sorted(set(ids)))
        for filters in ({"user_id": 1}, {"exercise_id": 2}, {"correct": True},
                        {"user_id": 2, "correct": False}):  # fmt: skip
            self.assert_filtered(scores, limit, **filters)
        for since in sorted({score.updated_at for score in scores})[-2:]:
            rows = self.walk("/scores", "scores", limit=limit, updated_since=since.isoformat())
            expected_pairs = {score[:2] for score in scores if score.updated_at >= since}
            self.assertEqual({as_pair(row) for row in rows}, expected_pairs)
        return dict(zip(map(as_pair, self.walk("/scores", "scores")), ids, strict=True))

    def assert_filtered(self, scores, limit, **filters):
        sent = {name: str(value).lower() for name, value in filters.items()}
        rows = self.walk("/scores", "scores", limit=limit, **sent)
        expected = {
            score[:2]
            for score in scores
            if all(getattr(score, name) == value for name, value in filters.items())
        }
        self.assertEqual(len(rows), len(expected))
        self.assertEqual({as_pair(row) for row in rows}, expected)

    def assert_totals(self, scores):
        rows = db.read(Statement("SELECT user_id, solved, last_solved_at FROM user_totals"))
        kept = {row.user_id: (row.solved, row.last_solved_at) for row in rows if row.solved}
        self.assertEqual(kept, reckoning.totals(scores))
        self.assertEqual({row.last_solved_at for row in rows if not row.solved} - {None}, set())

    def assert_leaderboards(self, scores, limit):
        now = datetime.now(UTC)
        kept = [(tie, "all") for tie in TIES]
        counted = [(TIES[limit % len(TIES)], window) for window in WINDOWS if window != "all"]
        for tie, window in kept + counted:
            expected = reckoning.leaderboard(scores, tie, window, now)
            self.assertEqual(self.entries(tie=tie, window=window, limit=limit), expected)
            user_id, span = USERS[(limit + len(expected)) % len(USERS)], limit - 1
            self.assert_neighbours(expected, user_id, span, tie=tie, window=window)

    def assert_neighbours(self, expected, user_id, span, **query):
        data = self.get("/scores/leaderboard", around=user_id, span=span, **query)
        entries = [as_entry(entry) for entry in data["entries"]]
        me = [as_entry(data["me"])] if data["me"] else []
        self.assertEqual(entries, reckoning.neighbours(expected, user_id, span))
        self.assertEqual(me, reckoning.neighbours(expected, user_id, 0))

    def assert_progress(self, scores, time_zone):
        for user_id in USERS:
            before = datetime.now(UTC)
            shown = self.get("/scores/user/progress", self.token_of(user_id), tz=time_zone)
            moments = (before, datetime.now(UTC))  # between which midnight may lie
            expected = [reckoning.progress(scores, user_id, time_zone, now) for now in moments]
            self.assertIn(shown, expected)

    def assert_stats(self, scores):
        for exercise_id in EXERCISES:
            shown = self.get(f"/scores/exercise/{exercise_id}/stats")
            if shown["first_solved"]:
                shown["first_solved"]["at"] = parsed(shown["first_solved"]["at"])
            self.assertEqual(shown, reckoning.stats(scores, exercise_id))

    def assert_histories(self, attempts, ids, limit):
        for pair, score_id in ids.items():
            rows = self.walk(f"/scores/{score_id}/history", "attempts", limit=limit)
            shown = [(parsed(row["at"]), row["seq"], row["correct"]) for row in rows]
            expected = [(each.at, each.seq, each.correct) for each in attempts if each.pair == pair]
            self.assertEqual(shown, sorted(expected))


def as_entry(entry):
    return Entry(entry["rank"], entry["user_id"], entry["solved"], parsed(entry["last_solved_at"]))


def as_pair(row):
    return row["user_id"], row["exercise_id"]


def as_score(row):
    return {name: parsed(row[name]) if name.endswith("_at") else row[name] for name in SHOWN}


def shown_of(score):
    return {name: getattr(score, name) for name in SHOWN}


class Writer:
    """Writes over HTTP, and keeps its own books of what was acknowledged."""

    def __init__(self, case):
        self._case = case
        self._client = case.app.test_client()
        self.ids = {}
        self.made = {}

    def do(self, operation):
        """Write; assert that the answer is what the books say."""
        getattr(self, f"_{type(operation).__name__.lower()}")(operation)

    def send(self, operation):
        """Send a write and return its answer."""
        headers = ADMIN | ({"Idempotency-Key": uuid.uuid4().hex} if operation.has_key else {})
        if isinstance(operation, Batch):
            sent = [as_sent(*answer) for answer in operation.scores]
            return self._client.post("/scores/batch", json={"scores": sent}, headers=headers)
        path = f"/scores/{self.ids.get(operation.of, ABSENT)}" if operation.of else "/scores"
        body = as_sent(operation.pair, operation.correct)
        return self._client.open(path, method=operation.method, json=body, headers=headers)

    def _write(self, write):
        answer = self.send(write)
        made = self.made.get(write.pair, [])
        refused = (write.of not in {None, write.pair} or not made) if write.of else (
            write.method == "POST" and made
        )  # fmt: skip
        status = 400 if refused else 200 if made else 201
        self._case.assertEqual(answer.status_code, status, answer.get_json())
        if not refused:
            self._note(write.pair, write.correct, answer.get_json()["data"]["id"])
            shown = answer.get_json()["data"]
            self._case.assertEqual(shown["attempts"], len(self.made[write.pair]))
            self._case.assertEqual(bool(shown["solved_at"]), any(self.made[write.pair]))
            self._case.assertEqual(shown["correct"], write.correct)

    def _batch(self, batch):
        answer = self.send(batch)
        self._case.assertEqual(answer.status_code, 200, answer.get_json())
        results = answer.get_json()["data"]["results"]
        created = set()
        for (pair, *_), result in zip(batch.scores, results, strict=True):
            self._case.assertEqual(
                result["created"], pair not in self.made | dict.fromkeys(created)
            )
            self._case.assertEqual(self.ids.setdefault(pair, result["id"]), result["id"])
            created.add(pair)
        # Answers without a time are given now, and so come last.
        for pair, correct, _ in sorted(batch.scores, key=lambda answer: answer[2] is None):
            self.made.setdefault(pair, []).append(correct)

    def _delete(self, delete):
        status = self.delete(delete)
        self._case.assertEqual(status, 200 if self.made.pop(delete.pair, None) else 404)
        self.ids.pop(delete.pair, None)

    def delete(self, delete):
        path = f"/scores/{self.ids.get(delete.pair, ABSENT)}"
        return self._client.delete(path, headers=ADMIN).status_code

    def _import(self, file):
        moment = datetime.now(UTC)
        before = {pair: self.correct(pair) for pair, _, _ in file.answers}
        lines = [
            f"{pair[0]},{pair[1]},{correct},{'' if age is None else moment - age}".lower()
            for pair, correct, age in file.answers
        ]
        with NamedTemporaryFile("w", suffix=".csv") as sent, redirect_stdout(StringIO()):
            lines = [line.replace(" ", "T") for line in lines]
            print("user_id,exercise_id,correct,at", *lines, sep="\n", file=sent, flush=True)
            code = transfer.import_scores(sent.name, None, skip_invalid=False)
        self._case.assertEqual(code, 0)
        dated = dict.fromkeys(answer for answer in file.answers if answer[2] is not None)
        for pair, correct, _ in sorted(dated, key=lambda answer: -answer[2]):
            self.made.setdefault(pair, []).append(correct)
        for pair, correct in before.items():
            undated = [answer[1] for answer in file.answers if answer[::2] == (pair, None)]
            if undated and undated[-1] is not correct:
                self.made.setdefault(pair, []).extend(undated)
        self.learn_ids()

    def correct(self, pair):
        """Return what the score of a pair says, or None if there is no score."""
        rows = db.read(Statement("SELECT user_id, exercise_id, correct FROM scores"))
        return {(row.user_id, row.exercise_id): row.correct for row in rows}.get(pair)

    def _wait(self, wait):
        moved = {
            "scores": ("solved_at", "answered_at", "created_at", "updated_at"),
            "attempts": ("at", "recorded_at"),
            "user_totals": ("last_solved_at",),
        }
        with db.engine.begin() as connection:
            for table, columns in moved.items():
                earlier = ", ".join(f"{column} = {column} - :time" for column in columns)
                connection.execute(text(f"UPDATE {table} SET {earlier}"), {"time": wait.time})  # noqa: S608

    def _note(self, pair, correct, score_id):
        self._case.assertEqual(self.ids.setdefault(pair, score_id), score_id)
        self.made.setdefault(pair, []).append(correct)

    def change(self, operation):
        """Write or delete, whatever comes of it; return the users that it may have changed."""
        self.status_of(operation)
        if isinstance(operation, Delete):
            return {operation.pair[0]}
        return {pair[0] for pair, *_ in sent_by(operation)}

    def status_of(self, operation):
        """Write or delete, whatever comes of it; return the status of the answer."""
        if isinstance(operation, Delete):
            return self.delete(operation)
        return self.send(operation).status_code

    def learn(self):
        """Learn what there is."""
        self.learn_ids()
        for attempt in self._case.attempts():
            self.made.setdefault(attempt.pair, []).append(attempt.correct)

    def learn_ids(self):
        rows = db.read(Statement("SELECT user_id, exercise_id, id FROM scores"))
        self.ids = {(user_id, exercise_id): score_id for user_id, exercise_id, score_id in rows}


def as_sent(pair, correct, age=None):
    sent = {"user_id": pair[0], "exercise_id": pair[1], "correct": correct}
    return sent if age is None else sent | {"at": (datetime.now(UTC) - age).isoformat()}


class TestAnySequenceOfWrites(ReckonedTestCase):
    @examples(12)
    @given(
        st.lists(st.one_of(writes, writes, imports, deletes, waits), min_size=4, max_size=16),
        st.integers(1, 4),
        st.sampled_from(ZONES),
    )
    def test_can_be_read_as_reckoned(self, operations, limit, time_zone):
        empty_tables()
        writer = Writer(self)

        for operation in operations:
            writer.do(operation)

        written = {
            (*pair, seq, correct)
            for pair, made in writer.made.items()
            for seq, correct in enumerate(made, start=1)
        }
        self.assertEqual({attempt[:4] for attempt in self.attempts()}, written)
        self.assert_all_is_as_reckoned(limit, time_zone)


class TestAnyInterleavingOfWrites(ReckonedTestCase):
    def write_at_once(self, operations):
        """Do all operations on a few threads, each with a client of its own."""
        before = Writer(self)
        before.learn_ids()

        def do(operation):
            writer = Writer(self)
            writer.ids = before.ids
            return writer.status_of(operation)

        with ThreadPoolExecutor(8) as pool:
            return list(pool.map(do, operations))

    @examples(6)
    @given(st.lists(writes, min_size=30, max_size=40), st.integers(1, 4))
    def test_keeps_each_write_that_was_acknowledged(self, operations, limit):
        empty_tables()
        Writer(self).do(Batch([(pair, False, None) for pair in PAIRS[::2]]))

        statuses = self.write_at_once(operations)

        made = [(pair, False) for pair in PAIRS[::2]]
        for operation, status in zip(operations, statuses, strict=True):
            self.assertIn(status, {200, 201, 400})
            if status != 400:
                made += [answer[:2] for answer in sent_by(operation)]
        stored = [(attempt.pair, attempt.correct) for attempt in self.attempts()]
        self.assertEqual(sorted(stored), sorted(made))
        self.assert_all_is_as_reckoned(limit)

    @examples(6)
    @given(st.lists(st.one_of(writes, deletes), min_size=30, max_size=40), st.integers(1, 4))
    def test_can_be_read_as_reckoned_where_scores_are_deleted(self, operations, limit):
        empty_tables()
        Writer(self).do(Batch([(pair, pair[0] < 3, None) for pair in PAIRS]))

        statuses = self.write_at_once(operations)

        self.assertLessEqual(set(statuses), {200, 201, 400, 404})
        self.assert_all_is_as_reckoned(limit)


def sent_by(operation):
    if isinstance(operation, Batch):
        return operation.scores
    return [(operation.pair, operation.correct, None)]


class TestClockSetBack(ReckonedTestCase):
    """As with two writes at once: who began first need not be the first to hold the row."""

    def test_lets_no_score_be_solved_before_its_first_correct_attempt(self):
        soon = datetime.now(UTC) + timedelta(minutes=2)
        self.store(((user_id, 1), False, soon) for user_id in (1, 2, 3, 4))
        writer = Writer(self)
        writer.learn()

        for operation in (
            Write("PATCH", (1, 1), True),
            Write("PUT", (2, 1), True, of=(2, 1)),
            Batch([((3, 1), False, None), ((3, 1), True, None)]),
            Import([((4, 1), True, None)]),
        ):
            writer.do(operation)

        self.assert_all_is_as_reckoned()

    def test_leaves_the_last_solve_of_a_user_the_last(self):
        self.store([((1, 1), True, datetime.now(UTC) + timedelta(minutes=2))])
        writer = Writer(self)
        writer.learn()

        for operation in (Write("PATCH", (1, 2), True), Import([((1, 3), True, None)])):
            writer.do(operation)

        self.assert_all_is_as_reckoned()


class TestAnyMoments(ReckonedTestCase):
    @examples(12)
    @given(
        st.lists(st.tuples(pairs, st.booleans(), st.one_of(long_ago, lately)), max_size=30),
        st.integers(1, 4),
        st.sampled_from(ZONES),
    )
    def test_can_be_read_as_reckoned(self, answers, limit, time_zone):
        empty_tables()
        now = datetime.now(UTC)

        self.store(
            (pair, correct, now - moment if isinstance(moment, timedelta) else moment)
            for pair, correct, moment in answers
        )

        self.assert_all_is_as_reckoned(limit, time_zone)


class TestProgress(ReckonedTestCase):
    def progress_after(self, *moments, time_zone="UTC"):
        """Return the progress of a user who solved an exercise at each of these moments."""
        empty_tables()
        self.store(((1, place), True, at) for place, at in enumerate(moments, start=1))
        return self.get("/scores/user/progress", self.token_of(1), tz=time_zone)

    def test_begins_a_day_at_midnight_there(self):
        for time_zone, last_second, longest in (
            ("UTC", "2026-03-28T23:59:59Z", 2),
            ("Europe/Berlin", "2026-03-28T22:59:59Z", 2),  # the day before the change, UTC+1
            ("Europe/Berlin", "2026-03-29T21:59:59Z", 2),  # the day of 23 hours, UTC+2
            ("Europe/Berlin", "2026-10-24T21:59:59Z", 2),
            ("Europe/Berlin", "2026-10-25T22:59:59Z", 2),  # the day of 25 hours
            ("America/St_Johns", "2026-01-16T03:29:59Z", 2),  # UTC-3:30
            ("America/St_Johns", "2026-07-16T02:29:59Z", 2),
            ("Asia/Kathmandu", "2026-05-05T18:14:59Z", 2),  # UTC+5:45
            ("Pacific/Apia", "2026-05-05T10:59:59Z", 2),  # UTC+13
            ("Pacific/Apia", "2011-12-30T09:59:59Z", 1),  # what followed the 29th was the 31st
        ):
            with self.subTest(time_zone=time_zone, last_second=last_second):
                last = datetime.fromisoformat(last_second)

                shown = self.progress_after(last, last + SECOND, time_zone=time_zone)

                self.assertEqual(list(shown["days"].values()), [1, 1])
                self.assertEqual(shown["streak"]["longest"], longest)

    def test_counts_the_whole_day_however_long_it_is(self):
        for first, last, hours in (
            ("2026-03-28T23:00:00Z", "2026-03-29T21:59:59Z", 23),
            ("2026-10-24T22:00:00Z", "2026-10-25T22:59:59Z", 25),
        ):
            moments = datetime.fromisoformat(first), datetime.fromisoformat(last)

            shown = self.progress_after(*moments, time_zone="Europe/Berlin")

            self.assertEqual(moments[1] - moments[0] + SECOND, timedelta(hours=hours))
            self.assertEqual(list(shown["days"].values()), [2])

    def test_has_a_current_streak_until_a_whole_day_is_missed(self):
        now = datetime.now(UTC)

        for days_ago, current, longest in (
            ((0,), 1, 1),
            ((1,), 1, 1),
            ((2,), 0, 1),
            ((0, 1, 2), 3, 3),
            ((1, 2, 3), 3, 3),
            ((2, 3, 4), 0, 3),
            ((0, 2, 3), 1, 2),
            ((1, 3, 4, 5), 1, 3),
            ((0, 0, 1, 1), 2, 2),
        ):
            with self.subTest(days_ago=days_ago):
                shown = self.progress_after(*(now - timedelta(days=days) for days in days_ago))

                self.assertEqual(shown["streak"], {"current": current, "longest": longest})


class TestTies(ReckonedTestCase):
    def test_are_ranked_as_the_rules_say(self):
        """Of A > B = C > D, as the textbooks have it: 1224, 1223, 1234."""
        now = datetime.now(UTC) - timedelta(minutes=10)
        self.store(
            ((user_id, exercise_id), True, now - user_id * SECOND)
            for user_id, solved in ((4, 3), (3, 2), (2, 2), (1, 1))
            for exercise_id in range(1, solved + 1)
        )

        for tie, ranks in (
            ("competition", [1, 2, 2, 4]),
            ("dense", [1, 2, 2, 3]),
            ("ordinal", [1, 2, 3, 4]),
        ):
            for window in WINDOWS:
                for limit in (1, 2, 3, 4):
                    with self.subTest(tie=tie, window=window, limit=limit):
                        entries = self.entries(tie=tie, window=window, limit=limit)

                        self.assertEqual([entry.user_id for entry in entries], [4, 3, 2, 1])
                        self.assertEqual([entry.rank for entry in entries], ranks)

    def test_of_the_same_instant_go_to_the_smaller_id(self):
        now = datetime.now(UTC) - timedelta(minutes=10)
        self.store(((user_id, 1), True, now) for user_id in (3, 1, 2))

        for window in ("all", "day"):
            entries = self.entries(tie="ordinal", window=window, limit=1)

            self.assertEqual([entry[:2] for entry in entries], [(1, 1), (2, 2), (3, 3)])


class TestPagesOfTheLeaderboard(ReckonedTestCase):
    @examples(12)
    @given(
        st.lists(st.tuples(st.integers(1, 9), st.sampled_from(EXERCISES)), min_size=8, max_size=24),
        st.lists(st.one_of(singles, batches, deletes), min_size=1, max_size=6),
        st.integers(1, 3),
        st.sampled_from(("all", "week")),
    )
    def test_show_each_user_once_who_stays_as_it_was(self, solved, operations, limit, window):
        empty_tables()
        now = datetime.now(UTC) - timedelta(minutes=10)
        self.store((pair, True, now - place % 3 * SECOND) for place, pair in enumerate(solved))
        before = self.entries(window=window)
        writer = Writer(self)
        writer.learn_ids()
        changed = set()

        entries = []
        for data in self.pages("/scores/leaderboard", limit=limit, window=window):
            entries += [as_entry(entry) for entry in data["entries"]]
            if operations and data["next_cursor"]:
                changed |= writer.change(operations.pop())

        same = [entry[1:] for entry in before if entry.user_id not in changed]
        self.assertEqual([entry[1:] for entry in entries if entry.user_id not in changed], same)
