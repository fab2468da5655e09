"""Scores into and out of the tables by the million: everything in one transaction, by COPY.

Rows go into the temporary table `incoming`, are held against each other and against what is
there, and become scores by one statement; their attempts and sums follow.
"""

import os
import signal
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor, wait
from contextlib import contextmanager, suppress
from typing import Any, NamedTuple, Self, TypeVar

import psycopg2
from psycopg2.errors import LockNotAvailable

from project.api.scores import totals
from project.api.scores.queries import TAKE_IN_EXCLUDED
from project.extensions import OutcomeUnknown, db
from project.statements import Connection

# A million rows take longer than a request may. Where the client is killed, PostgreSQL notices
# during a long statement only if it looks. 4 MB, the default, is little to sort a million rows.
PATIENCE = """
    SET LOCAL statement_timeout = 0;
    SET LOCAL lock_timeout = 0;
    SET LOCAL idle_in_transaction_session_timeout = 0;
    SET LOCAL client_connection_check_interval = '1s';
    SET LOCAL work_mem = '64MB'
"""

# Two imports run one after the other, while requests go on writing.
PREPARE = """
    LOCK TABLE scores IN SHARE UPDATE EXCLUSIVE MODE;
    CREATE TEMP TABLE incoming (
        line bigint, id bigint, user_id bigint, exercise_id bigint, correct boolean,
        attempts bigint, correct_attempts bigint, solved_at timestamptz, created_at timestamptz,
        updated_at timestamptz, at timestamptz
    ) ON COMMIT DROP;
    CREATE TEMP TABLE refused (line bigint PRIMARY KEY, reasons text) ON COMMIT DROP;
    CREATE TEMP TABLE answers (
        user_id bigint, exercise_id bigint, line bigint, at timestamptz, correct boolean
    ) ON COMMIT DROP;
    CREATE TEMP TABLE changed (
        user_id bigint, exercise_id bigint, attempts bigint, correct_attempts bigint,
        correct boolean, solved_at timestamptz, answered_at timestamptz, updated_at timestamptz,
        is_new boolean, added bigint, is_solved_now boolean, is_solved_earlier boolean
    ) ON COMMIT DROP
"""

# What can be wrong with the values of one line, and the condition in SQL for each.
CONTRADICTIONS = {
    "correct_attempts: write at most attempts": "correct_attempts > attempts",
    "correct_attempts: write at least 1 if correct is true": "correct AND correct_attempts = 0",
    "correct_attempts: write less than attempts if correct is false": (
        "NOT correct AND correct_attempts = attempts"
    ),
    "solved_at: write a time if correct_attempts is not 0, else nothing": (
        "(solved_at IS NULL) <> (correct_attempts = 0)"
    ),
    "updated_at: write created_at or a later time": "updated_at < created_at",
    "updated_at: write solved_at or a later time": "updated_at < solved_at",
}
TIMES = ("at", "solved_at", "created_at", "updated_at")
CONTRADICTIONS |= {
    # Python, which reads times for the responses, has no earlier ones.
    f"{name}: write a time from the year 1 on, in UTC": f"{name} < '0001-01-01 00:00+00'"
    for name in TIMES
}
CONTRADICTIONS |= {
    # The clock that wrote the file may be a little ahead of the clock of PostgreSQL.
    f"{name}: write a time that is not in the future": f"{name} > now() + interval '5 minutes'"
    for name in TIMES
}
REASONS = ", ".join(f"CASE WHEN {so} THEN '{why}' END" for why, so in CONTRADICTIONS.items())
CONTRADICTORY = f"""
    SELECT line, concat_ws('; ', {REASONS})
      FROM incoming
     WHERE {" OR ".join(CONTRADICTIONS.values())}
"""
REPEATED = """
    SELECT line, '{name}: Line ' || first || ' has the same'
      FROM incoming
      JOIN (SELECT {key}, min(line) AS first
              FROM incoming
             GROUP BY {key}
            HAVING count(*) > 1) AS repeated
     USING ({key})
     WHERE line > first
"""
REPEATED_PAIR = REPEATED.format(name="user_id, exercise_id", key="user_id, exercise_id")
REPEATED_ID = REPEATED.format(name="id", key="id")
# One line can be wrong in both ways, and is refused once.
STRANGE_ID = """
    SELECT i.line, concat_ws('; ',
           'id: It is that of user ' || s.user_id || ' and exercise ' || s.exercise_id,
           'id: The score of this user and exercise has the id ' || own.id)
      FROM incoming AS i
      LEFT JOIN scores AS s
        ON s.id = i.id AND (s.user_id, s.exercise_id) <> (i.user_id, i.exercise_id)
      LEFT JOIN scores AS own
        ON own.user_id = i.user_id AND own.exercise_id = i.exercise_id AND own.id <> i.id
     WHERE s.id IS NOT NULL OR own.id IS NOT NULL
"""

# The lock that this takes makes nextval() wait, so nobody draws an id meanwhile; and it waits for
# every transaction that has drawn one, so what such a one wrote can be seen from here on.
HOLD_IDS = "ALTER SEQUENCE scores_id_seq INCREMENT BY 1"

# An answer with a time is known if the history has it; a file may repeat it, too.
DATED_ANSWERS = """
    INSERT INTO answers
    SELECT DISTINCT ON (user_id, exercise_id, at, correct) user_id, exercise_id, line, at, correct
      FROM incoming AS i
     WHERE at IS NOT NULL
       AND NOT EXISTS (SELECT FROM attempts AS a
                        WHERE a.user_id = i.user_id AND a.exercise_id = i.exercise_id
                          AND a.at = i.at AND a.correct = i.correct)
     ORDER BY user_id, exercise_id, at, correct, line
"""
# Answers without a time are given now. They add nothing if the last one of them is what the score
# says already: so a file that is imported twice is imported once.
UNDATED_ANSWERS = """
    INSERT INTO answers
    SELECT user_id, exercise_id, line, NULL, i.correct
      FROM (SELECT *, first_value(correct) OVER (PARTITION BY user_id, exercise_id
                                                     ORDER BY line DESC) AS last
              FROM incoming
             WHERE at IS NULL) AS i
      LEFT JOIN scores AS s
     USING (user_id, exercise_id)
     WHERE s.correct IS DISTINCT FROM last
"""
# Sorted by key, as every writer of scores does it: so no two writers deadlock.
WRITE_ANSWERS = f"""
    WITH added AS MATERIALIZED (
        SELECT user_id, exercise_id, count(*) AS attempts,
               count(*) FILTER (WHERE correct) AS correct_attempts,
               (array_agg(correct ORDER BY at DESC NULLS FIRST, line DESC))[1] AS correct,
               CASE WHEN NOT bool_or(at IS NULL) THEN max(at) END AS answered_at,
               min(at) AS first_given_at,
               max(at) AS latest_given_at,
               min(at) FILTER (WHERE correct) AS first_correct_at
          FROM answers
         GROUP BY user_id, exercise_id
    ), written AS (
        INSERT INTO scores AS s (user_id, exercise_id, correct, attempts, correct_attempts,
                                 solved_at, answered_at, created_at, updated_at)
        SELECT user_id, exercise_id, correct, attempts, correct_attempts,
               CASE WHEN correct_attempts > 0
                    THEN coalesce(first_correct_at, greatest(moment, latest_given_at)) END,
               answered_at, coalesce(first_given_at, moment), greatest(moment, latest_given_at)
          FROM added, now() AS moment
         ORDER BY user_id, exercise_id
            ON CONFLICT (user_id, exercise_id) DO UPDATE
           SET {TAKE_IN_EXCLUDED}
     RETURNING s.*
    )
    INSERT INTO changed
    SELECT user_id, exercise_id, w.attempts, w.correct_attempts, w.correct, w.solved_at,
           w.answered_at, w.updated_at,
           w.attempts = added.attempts,
           added.attempts,
           w.solved_at IS NOT NULL AND w.correct_attempts = added.correct_attempts,
           w.correct_attempts > added.correct_attempts AND w.solved_at = first_correct_at
      FROM written AS w
      JOIN added
     USING (user_id, exercise_id)
"""
LOG_ANSWERS = """
    INSERT INTO attempts (user_id, exercise_id, seq, at, recorded_at, correct)
    SELECT user_id, exercise_id,
           c.attempts - c.added
               + row_number() OVER (PARTITION BY user_id, exercise_id ORDER BY a.at, line),
           coalesce(a.at, c.updated_at),
           CASE WHEN a.at IS NOT NULL THEN c.updated_at END,
           a.correct
      FROM answers AS a
      JOIN changed AS c
     USING (user_id, exercise_id)
"""

# Scores become what the lines say, even if an exercise is not solved any more. A score that is so
# already is left out at once, since ON CONFLICT would lock it and write its page; and checked again
# there, since others write meanwhile. `updated_at` of a line is the time of the latest answer;
# `updated_at` of the score becomes the time of the import.
DIFFERS = """
    (s.correct, s.attempts, s.correct_attempts, s.solved_at, s.created_at,
     coalesce(s.answered_at, s.updated_at))
    IS DISTINCT FROM ({new}.correct, {new}.attempts, {new}.correct_attempts, {new}.solved_at,
                      {new}.created_at, {new}.answered_at)
"""
INSERT_SCORES = """
    WITH written AS (
        INSERT INTO scores AS s (id, user_id, exercise_id, correct, attempts, correct_attempts,
                                 solved_at, answered_at, created_at, updated_at)
        SELECT coalesce(new.id, nextval('scores_id_seq')), new.user_id, new.exercise_id,
               new.correct, new.attempts, new.correct_attempts, new.solved_at, new.answered_at,
               new.created_at, greatest(now(), new.answered_at)
          FROM (SELECT *, updated_at AS answered_at FROM incoming) AS new
          LEFT JOIN scores AS s
         USING (user_id, exercise_id)
         WHERE s.user_id IS NULL OR {differs}
         ORDER BY new.user_id, new.exercise_id
            ON CONFLICT (user_id, exercise_id) DO {conflict}
     RETURNING s.*, s.xmax = 0 AS is_new
    )
    INSERT INTO changed
    SELECT user_id, exercise_id, attempts, correct_attempts, correct, solved_at, answered_at,
           updated_at, is_new, attempts, is_new AND solved_at IS NOT NULL, false
      FROM written
"""
REPLACE = f"""
    UPDATE
       SET correct = excluded.correct,
           attempts = excluded.attempts,
           correct_attempts = excluded.correct_attempts,
           solved_at = excluded.solved_at,
           answered_at = excluded.answered_at,
           created_at = excluded.created_at,
           updated_at = greatest(s.updated_at, excluded.updated_at)
     WHERE {DIFFERS.format(new="excluded")}
"""
WRITE_SCORES = INSERT_SCORES.format(differs=DIFFERS.format(new="new"), conflict=REPLACE)
ADD_SCORES = INSERT_SCORES.format(differs="false", conflict="NOTHING")
# Answers that a replaced score does not count, or that are later than its latest one.
FORGET = """
    DELETE FROM attempts AS a
     USING changed AS c
     WHERE NOT c.is_new AND a.user_id = c.user_id AND a.exercise_id = c.exercise_id
       AND (a.seq >= c.attempts OR a.at > c.answered_at)
"""
# Of all answers of an imported score, only the latest one is known.
LOG_LATEST = """
    INSERT INTO attempts (user_id, exercise_id, seq, at, recorded_at, correct)
    SELECT user_id, exercise_id, attempts, answered_at, updated_at, correct
      FROM changed
"""

SUM_UP = f"""
    WITH gained AS (SELECT * FROM changed WHERE {{gained}}), {totals.GAINED}
    SELECT
"""
REPLACED_SCORES = "(SELECT * FROM changed WHERE NOT is_new) AS replaced"
SOLVED_EARLIER = "IN (SELECT user_id FROM changed WHERE is_solved_earlier)"

# How many lines had an effect, each form by its own table.
USED_ANSWERS = "SELECT count(*) FROM answers"
USED_SCORES = "SELECT count(*) FROM changed"
COUNT = """
    SELECT count(*) FILTER (WHERE is_new), count(*) FILTER (WHERE NOT is_new),
           (SELECT count(*) FROM incoming) - ({used})
      FROM changed
"""

# From how many rows on autovacuum is not waited for.
MANY = 100_000
TIDY = "VACUUM (ANALYZE) scores, attempts, user_totals, solved_counts, exercise_totals"

BLOCK = 1 << 18  # bytes

Result = TypeVar("Result")


class Written(NamedTuple):
    """The scores that were written, and the lines that were accepted but changed nothing."""

    new: int
    changed: int
    without_effect: int


class Transaction:
    """A transaction as long as it takes, which Ctrl-C ends at any time.

    The library waits for PostgreSQL without looking at signals. So it waits in a thread of its
    own, and the main thread, where signals arrive, cancels what is running.
    """

    def __init__(self) -> None:
        self._connection: Connection = db.engine.raw_connection()
        self._thread = ThreadPoolExecutor(1)

    def __enter__(self) -> Self:
        self.run(PATIENCE)
        return self

    def __exit__(self, *_: object) -> None:
        """Roll back what was not committed."""
        self._thread.shutdown()
        with suppress(Exception):  # whatever it is, the connection is lost, and all is undone
            self._connection.rollback()
        self._connection.close()

    def call(self, work: Callable[[Connection], Result]) -> Result:
        """Return what `work` returns."""
        return self._result(self._thread.submit(work, self._connection))

    def run(self, sql: str, *values: Any) -> int:
        """Run statements; return how many rows the last one wrote or found."""

        def execute(connection: Connection) -> int:
            with connection.cursor() as cursor:
                cursor.execute(sql, values or None)
                return int(cursor.rowcount)

        return self.call(execute)

    def read(self, sql: str) -> list[Any]:
        """Return the rows of a statement."""

        def execute(connection: Connection) -> list[Any]:
            with connection.cursor() as cursor:
                cursor.execute(sql)
                rows: list[Any] = cursor.fetchall()
                return rows

        return self.call(execute)

    def copy_in(self, sql: str, blocks: Iterable[bytes]) -> None:
        """Send blocks to a COPY … FROM STDIN."""
        outlet, inlet = os.pipe()

        def copy(connection: Connection) -> None:
            with open(outlet, "rb", buffering=0) as source, connection.cursor() as cursor:
                cursor.copy_expert(sql, source, BLOCK)

        copying = self._thread.submit(copy, self._connection)
        # Where PostgreSQL refuses, nobody reads any more; the result says why.
        with self._watching(copying), suppress(BrokenPipeError), open(inlet, "wb") as target:
            target.writelines(blocks)
        self._result(copying)

    def copy_out(self, sql: str) -> Generator[bytes, None, None]:
        """Yield what a COPY … TO STDOUT sends."""
        outlet, inlet = os.pipe()

        def copy(connection: Connection) -> None:
            with open(inlet, "wb", buffering=BLOCK) as target, connection.cursor() as cursor:
                cursor.copy_expert(sql, target)

        copying = self._thread.submit(copy, self._connection)
        with self._watching(copying), open(outlet, "rb", buffering=0) as source:
            while block := source.read(BLOCK):
                yield block
        self._result(copying)

    def commit(self) -> None:
        """Commit; a Ctrl-C that comes now comes too late."""
        before = signal.signal(signal.SIGINT, signal.SIG_IGN)
        try:
            self._connection.commit()
        except (psycopg2.OperationalError, psycopg2.InterfaceError) as error:
            raise OutcomeUnknown from error
        finally:
            signal.signal(signal.SIGINT, before)

    def _result(self, running: Future[Result]) -> Result:
        with self._watching(running):
            return running.result()

    @contextmanager
    def _watching(self, running: Future[Any]) -> Iterator[None]:
        """Cancel what is running where the block is left by an exception."""
        try:
            yield
        except BaseException:
            # Again and again: a request that comes between two statements cancels neither.
            while not running.done():
                self._connection.cancel()
                wait([running], timeout=0.1)
            raise


class Load:
    """Rows on their way into the tables, in a transaction; `columns` are those of each row.

    Rows with a column `attempts` are whole scores; others are answers.
    """

    def __init__(self, transaction: Transaction, columns: Sequence[str]) -> None:
        self._transaction = transaction
        self._columns = columns
        self._are_scores = "attempts" in columns
        transaction.run(PREPARE)

    def take(self, rows: Iterable[bytes]) -> None:
        """Take rows in as CSV, each with the number of its line before the columns."""
        columns = ", ".join(("line", *self._columns))
        self._transaction.copy_in(f"COPY incoming ({columns}) FROM STDIN (FORMAT csv)", rows)
        self._transaction.run("ANALYZE incoming")

    def refuse(self, reasons: Iterable[bytes]) -> None:
        """Note why lines were not among the rows, as CSV."""
        self._transaction.copy_in("COPY refused FROM STDIN (FORMAT csv)", reasons)

    def check(self, *, whole: bool) -> None:
        """Refuse rows that contradict themselves, each other, or what is there.

        With `whole` they are to be written only if none is refused.
        """
        self._refuse_all(CONTRADICTORY)
        if self._are_scores:
            self._refuse_all(REPEATED_PAIR)
        if "id" in self._columns:
            self._refuse_all(REPEATED_ID)
            if not (whole and self.refused()):
                self._reserve_ids()
            self._refuse_all(STRANGE_ID)

    def refused(self) -> int:
        """Return how many lines were refused."""
        return int(self._transaction.read("SELECT count(*) FROM refused")[0][0])

    def first_refused(self, count: int) -> list[tuple[int, str]]:
        """Return the first lines that were refused, and why."""
        return self._transaction.read(
            f"SELECT line, reasons FROM refused ORDER BY line LIMIT {count:d}"
        )

    def each_refused(self) -> Iterator[tuple[int, str]]:
        """Yield every line that was refused, in order, and why."""
        rest = -1
        while page := self._transaction.read(
            f"SELECT line, reasons FROM refused WHERE line > {rest:d} ORDER BY line LIMIT 10000"
        ):
            yield from page
            rest = page[-1][0]

    def write(self) -> Written:
        """Write the rows as scores, with their answers and sums."""
        return self._write_scores(WRITE_SCORES) if self._are_scores else self._write_answers()

    def add(self) -> Written:
        """Write the rows whose scores do not exist yet, and leave the other scores as they are."""
        return self._write_scores(ADD_SCORES)

    def _write_answers(self) -> Written:
        run = self._transaction.run
        run(DATED_ANSWERS)
        run(UNDATED_ANSWERS)
        run("ANALYZE answers")
        run(WRITE_ANSWERS)
        run("ANALYZE changed")
        run(LOG_ANSWERS)
        run(SUM_UP.format(gained="true"))
        run(totals.RECOMPUTE_LAST_SOLVED.format(users=SOLVED_EARLIER))
        return self._written(USED_ANSWERS)

    def _write_scores(self, statement: str) -> Written:
        run = self._transaction.run
        run(statement)
        run("ANALYZE changed")
        run(FORGET)
        run(LOG_LATEST)
        run(SUM_UP.format(gained="is_new"))
        written = self._written(USED_SCORES)
        if written.changed:
            # What a replaced score added to the sums is not known any more.
            self._transaction.call(lambda connection: totals.mend(connection, REPLACED_SCORES))
        return written

    def _written(self, used: str) -> Written:
        [counts] = self._transaction.read(COUNT.format(used=used))
        return Written._make(counts)

    def _refuse_all(self, check: str) -> None:
        if self._transaction.run(f"INSERT INTO refused {check}"):
            self._transaction.run(
                "DELETE FROM incoming AS i USING refused AS r WHERE i.line = r.line"
            )

    def _reserve_ids(self) -> None:
        """Let nobody draw an id of these rows any more, and wait for whoever may have."""
        [[largest]] = self._transaction.read("SELECT max(id) FROM incoming")
        if largest is None:
            return
        while not _is_past(largest):
            pass


def _is_past(largest: int) -> bool:
    """Bring the sequence of ids past the largest; return False where it was not to be had.

    In a transaction of its own, since all who draw ids wait for its end: and with the usual
    timeout, since they wait also while it does.
    """

    def move(connection: Connection) -> None:
        with connection.cursor() as cursor:
            cursor.execute(HOLD_IDS)
            cursor.execute("SELECT last_value FROM scores_id_seq")
            if cursor.fetchone()[0] <= largest:
                cursor.execute("ALTER SEQUENCE scores_id_seq RESTART WITH %s", (largest + 1,))

    try:
        db.transact(move)
    except LockNotAvailable:
        return False
    return True


def tidy() -> None:
    """Have the tables vacuumed and analyzed, so that an index alone can answer again."""
    connection: Any = db.autocommit_engine.raw_connection()
    connection.detach()  # its settings are not those of the pool from here on
    try:
        connection.dbapi_connection.lift_timeouts()
        # VACUUM has to come alone, and so not with settings for a pooler.
        with connection.cursor(cursor_factory=psycopg2.extensions.cursor) as cursor:
            cursor.execute(TIDY)
    finally:
        connection.close()
