"""No documented query reads a big table from end to end, nor many more pages than it needs."""

from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from itertools import compress, product
from unittest.mock import patch

from sqlalchemy import text

from project import db
from project.api.scores import queries, standings, time_zones, totals
from project.api.scores.queries import NewAttempt
from project.statements import Statement
from project.tests.base import ADMIN, BaseTestCase, empty_tables, shared_app
from project.tests.scores.reckoning import TIES
from project.users import User

SCORES, EXERCISES = 200_000, 500
USER_ID, EXERCISE_ID, SCORE_ID = 12_345, 250, 123_456
VETERAN_ID = 30_000  # solved a hundred exercises, and nothing since
BIG = {"scores", "attempts", "user_totals"}
LATE_SCORE = {"after": 150_000}
LATE_ATTEMPT = {"after": 1}
LATE_STANDING = {"solved": 2}
# Ordinal ranks are counted among those who solved as many: up to a quarter of the users here.
ONE_NUMBER = 6000
# Of these some are solved, each is a row, and several are a page.
A_DAY = SCORES // 300

# Each user tried ten exercises within the last 300 days, in no order: two of three with success.
SCORES_AT_SIZE = f"""
    INSERT INTO scores (user_id, exercise_id, correct, attempts, correct_attempts, solved_at,
                        created_at, updated_at)
    SELECT user_id, exercise_id, correct, 1, CAST(correct AS integer),
           CASE WHEN correct THEN at END, at, at
      FROM generate_series(1, {SCORES}) AS n,
           LATERAL (SELECT CAST(n AS bigint) * 7919 % {SCORES} AS s) AS shuffled,
           LATERAL (SELECT 1 + s / 10 AS user_id,
                           1 + (s / 10 * 7 + s % 10 * 49) % {EXERCISES} AS exercise_id,
                           hashint8(s) % 3 <> 0 AS correct,
                           now() - interval '300 days' * ({SCORES} - n) / {SCORES} AS at) AS made
     UNION ALL
    SELECT {VETERAN_ID}, exercise_id, true, 1, 1, at, at, at
      FROM generate_series(1, 100) AS exercise_id,
           LATERAL (SELECT now() - interval '400 days' AS at) AS made
"""  # noqa: S608
ATTEMPTS_AT_SIZE = """
    INSERT INTO attempts (user_id, exercise_id, seq, actor, at, correct)
    SELECT user_id, exercise_id, 1, user_id, updated_at, correct FROM scores ORDER BY id
"""
INDEXES = text("""
    SELECT indexname, indexdef
      FROM pg_indexes
     WHERE tablename IN ('scores', 'attempts') AND indexname NOT LIKE '%\\_pkey'
""")
FORGET_STATISTICS = "DELETE FROM pg_statistic WHERE starelid = CAST('scores' AS regclass)"


def fill_tables():
    """Fill the tables; the indexes are made behind the rows, which takes half the time."""
    with db.engine.begin() as connection:
        connection.execute(text("SET LOCAL statement_timeout = 0"))
        indexes = connection.execute(INDEXES).all()
        for name, _ in indexes:
            connection.execute(text(f"DROP INDEX {name}"))
        connection.execute(text(SCORES_AT_SIZE))
        connection.execute(text(ATTEMPTS_AT_SIZE))
        for _, definition in indexes:
            connection.execute(text(definition))
        connection.execute(text("ANALYZE scores, attempts"))
    db.transact(totals.mend)
    with db.autocommit_engine.connect() as connection:
        connection.execute(
            text("VACUUM (ANALYZE) scores, attempts, user_totals, solved_counts, exercise_totals")
        )


def nodes(plan):
    """Yield a plan and all plans in it."""
    yield plan
    for part in plan.get("Plans", ()):
        yield from nodes(part)


def setUpModule():
    with shared_app().app_context():
        empty_tables()
        fill_tables()


def tearDownModule():
    with shared_app().app_context():
        empty_tables()


class PlansTestCase(BaseTestCase):
    def setUp(self):
        """Leave the tables as they are."""

    @contextmanager
    def noting_statements(self):
        """Give a list of what is sent to PostgreSQL within the block, with its values."""
        sent = []

        def note(statement, connection, **values):
            sent.append((statement._plain, values))
            return run(statement, connection, **values)

        run = Statement.run
        with patch.object(Statement, "run", note):
            yield sent

    def plan(self, statement, values, *before):
        """Return how a statement was run, after others, in a transaction that is undone."""
        with db.engine.connect() as connection:
            for other in before:
                connection.exec_driver_sql(other)
            explain = f"EXPLAIN (ANALYZE, BUFFERS, TIMING OFF, FORMAT JSON) {statement}"
            [explained] = connection.exec_driver_sql(explain, values).scalar()
        return explained["Plan"]

    def lasting_plan(self, statement, values):
        """Return the plan that PostgreSQL may keep after five runs: it knows no values."""
        return self.plan(
            statement._execute,
            values,
            "SET LOCAL plan_cache_mode = force_generic_plan",
            "DEALLOCATE ALL",
            statement._prepare,
        )

    def assert_cheap(self, plan, most):
        self.assertEqual(seq_scans(plan), [])
        self.assertLessEqual(work(plan), most)


def parts(plan):
    """Yield a plan and all plans in it."""
    yield plan
    for part in plan.get("Plans", ()):
        yield from parts(part)


def seq_scans(plan):
    """Return which big tables are read from end to end."""
    return [
        part["Relation Name"]
        for part in parts(plan)
        if part["Node Type"].endswith("Seq Scan") and part["Relation Name"] in BIG
    ]


def work(plan):
    """Return how many rows of big tables and how many pages of all were looked at."""
    rows = sum(
        part["Actual Loops"] * (part["Actual Rows"] + part.get("Rows Removed by Filter", 0))
        for part in parts(plan)
        if part.get("Relation Name") in BIG
    )
    return round(rows) + plan["Shared Hit Blocks"] + plan["Shared Read Blocks"]


class TestReads(PlansTestCase):
    def ask(self, path, **query):
        """Return what the service sends to answer this, and the data of the answer."""
        token = shared_app().extensions["tokens"].issue(User(USER_ID), days=1)
        headers = {"Authorization": f"Bearer {token}"}
        with self.noting_statements() as sent:
            answer = self.client.get(path, query_string=query, headers=headers)
        self.assertEqual(answer.status_code, 200, answer.get_json())
        self.assertTrue(sent)
        return sent, answer.get_json()["data"]

    def assert_reads(self, most, path, late=None, **query):
        """Assert that to answer this no more is looked at, also with the values of a late page."""
        sent, data = self.ask(path, **query)
        with self.subTest(path=path, **query):
            for statement, values in sent:
                self.assert_cheap(self.plan(statement, values), most)
                if late:
                    self.assert_cheap(self.plan(statement, values | late), most)
        return data

    def test_of_the_list_find_their_page_whatever_is_asked_for(self):
        since = (datetime.now(UTC) - timedelta(hours=3)).isoformat()
        filters = {"user_id": USER_ID, "exercise_id": EXERCISE_ID, "updated_since": since}
        corrects = ({}, {"correct": "true"}, {"correct": "false"})

        for chosen in product((False, True), repeat=len(filters)):
            for correct in corrects:
                query = dict(compress(filters.items(), chosen)) | correct
                # All that was written since is sorted by id; older PostgreSQLs look twice.
                most = 2000 if "updated_since" in query else 300

                data = self.assert_reads(most, "/scores", LATE_SCORE, limit=20, **query)

                if data["next_cursor"]:
                    cursor = data["next_cursor"]
                    self.assert_reads(most, "/scores", limit=20, cursor=cursor, **query)

    def test_of_the_callers_list_find_its_scores(self):
        since = (datetime.now(UTC) - timedelta(hours=3)).isoformat()

        for query in ({}, {"exercise_id": EXERCISE_ID}, {"correct": "true"},
                      {"updated_since": since}):  # fmt: skip
            self.assert_reads(300, "/scores/user", LATE_SCORE, **query)

    def test_of_one_score_find_it(self):
        _, data = self.ask("/scores/user")
        own = data["scores"][0]["id"]

        self.assert_reads(50, f"/scores/{SCORE_ID}")
        self.assert_reads(50, f"/scores/user/{own}")
        self.assert_reads(50, f"/scores/{own}/history", LATE_ATTEMPT)

    def test_of_progress_find_the_users_scores(self):
        self.assert_reads(50, "/scores/user/progress", tz="Europe/Berlin")

    def test_of_stats_find_who_was_first(self):
        self.assert_reads(20, f"/scores/exercise/{EXERCISE_ID}/stats")

    def test_that_are_prepared_find_their_rows_whatever_the_values(self):
        user, exercise = {"user_id": USER_ID}, {"exercise_id": EXERCISE_ID}

        for statement, values in (
            (queries.SELECT, {"score_id": SCORE_ID}),
            (queries.SELECT_OWN, {"score_id": SCORE_ID} | user),
            (standings.PROGRESS, time_zones.offsets("Europe/Berlin")._asdict() | user),
            (standings.STATS, exercise),
        ):
            with self.subTest(statement=statement._name):
                self.assert_cheap(self.lasting_plan(statement, values), most=50)

    def test_of_the_leaderboard_find_their_page(self):
        path = "/scores/leaderboard"

        for tie, most in (("competition", 100), ("dense", 100), ("ordinal", ONE_NUMBER)):
            data = self.assert_reads(most, path, tie=tie, limit=10)
            cursor = data["next_cursor"]
            self.assert_reads(most, path, LATE_STANDING, tie=tie, limit=10, cursor=cursor)

    def test_of_neighbours_find_them(self):
        path = "/scores/leaderboard"

        for tie, most in (("competition", 100), ("dense", 100), ("ordinal", ONE_NUMBER)):
            for user_id in (USER_ID, VETERAN_ID):
                self.assert_reads(most, path, tie=tie, around=user_id)

    def test_of_a_window_look_at_what_was_solved_in_it(self):
        path = "/scores/leaderboard"

        for tie, (window, most) in product(TIES, (("day", A_DAY), ("week", 7 * A_DAY))):
            data = self.assert_reads(most, path, tie=tie, window=window, limit=10)
            cursor = data["next_cursor"]
            self.assert_reads(most, path, tie=tie, window=window, limit=10, cursor=cursor)
            self.assert_reads(most, path, tie=tie, window=window, around=USER_ID)

    def test_of_activity_and_failures_look_at_what_happened_in_the_window(self):
        for path in ("/scores/activity", "/scores/failures"):
            for window, days in (("day", 2), ("week", 8)):
                # Twice: of activity, attempts and scores; of failures, rows and their pages.
                self.assert_reads(2 * days * A_DAY, path, window=window)

    def test_would_not_pass_without_the_index(self):
        now = datetime.now(UTC).isoformat()
        for index, most, path, query in (
            ("scores_exercise_id_id_idx", 300, "/scores", {"exercise_id": EXERCISE_ID}),
            ("attempts_at_idx", 800, "/scores", {"updated_since": now}),
            ("user_totals_standing_idx", 100, "/scores/leaderboard", {}),
            ("scores_solved_at_idx", A_DAY, "/scores/leaderboard", {"window": "day"}),
            ("attempts_at_idx", 4 * A_DAY, "/scores/failures", {"window": "day"}),
        ):
            with self.subTest(index=index):
                [(statement, values)], _ = self.ask(path, **query, limit=20)

                plan = self.plan(statement, values, f"DROP INDEX {index}")

                with self.assertRaises(AssertionError):
                    self.assert_cheap(plan, most)


class TestWrites(PlansTestCase):
    def statements_of(self, method, path, body=None):
        with self.noting_statements() as sent:
            answer = self.client.open(path, method=method, json=body, headers=ADMIN)
        self.assertLess(answer.status_code, 300, answer.get_json())
        return sent

    def first_score_of(self, user_id):
        answer = self.client.get(f"/scores?user_id={user_id}&limit=1")
        return answer.get_json()["data"]["scores"][0]

    def test_of_a_batch_find_its_rows(self):
        sent = self.statements_of(
            "POST",
            "/scores/batch",
            {
                "scores": [
                    {"user_id": 37 * place, "exercise_id": place, "correct": place % 2 == 0}
                    for place in range(1, 201)
                ]
            },
        )

        for statement, values in sent:
            self.assert_cheap(self.plan(statement, values), most=40 * 200)

    def test_of_one_score_find_it(self):
        new = {"user_id": USER_ID, "exercise_id": EXERCISES, "correct": True}
        old = self.first_score_of(77)
        same = {name: old[name] for name in new}

        sent = [
            *self.statements_of("POST", "/scores", new),
            *self.statements_of("PATCH", "/scores", same),
            *self.statements_of("PUT", f"/scores/{old['id']}", same),
        ]

        for statement, values in sent:
            self.assert_cheap(self.plan(statement, values), most=100)

    def test_that_delete_find_the_score_and_when_its_user_solved_last(self):
        for user_id in (77, VETERAN_ID):
            with self.subTest(user_id=user_id):
                score = self.first_score_of(user_id)

                sent = self.statements_of("DELETE", f"/scores/{score['id']}")

                for statement, values in sent:
                    self.assert_cheap(self.plan(statement, values), most=300)

    def test_that_delete_find_it_also_where_nothing_was_analyzed_yet(self):
        score = self.first_score_of(VETERAN_ID)

        sent = self.statements_of("DELETE", f"/scores/{score['id']}")

        for statement, values in sent:
            self.assert_cheap(self.plan(statement, values, FORGET_STATISTICS), most=300)

    def test_that_are_prepared_find_their_rows_whatever_their_number(self):
        for statement in (queries.UPSERT, queries.INSERT, queries.UPDATE):
            with self.subTest(statement=statement._name):
                attempts = [NewAttempt(37 * place, place, True, 1) for place in range(1, 101)]
                values = queries._arrays([[attempt] for attempt in attempts])

                self.assert_cheap(self.lasting_plan(statement, values), most=40 * 100)
