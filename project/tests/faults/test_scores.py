"""Scores and their sums are what was answered, whoever writes at once and whatever is killed."""

import http.client
import json
import random
import threading
import time
import unittest
from collections import Counter
from contextlib import contextmanager

from project.api.scores import totals
from project.tests.faults.harness import (
    SECRET,
    TOKEN,
    Books,
    Client,
    FaultTestCase,
    Postgres,
    Service,
)
from project.tests.processes import wait_until
from project.tokens import Tokens
from project.users import User

LOAD_SECONDS = 1.0
ADMIN_TOKEN = Tokens(SECRET).issue(User(1, is_admin=True), days=1)
USERS = EXERCISES = 6
BATCH = 5
# No two clients write these exercises, which are deleted again.
PASSING = 1000


def setUpModule():
    FaultTestCase.postgres = Postgres()
    unittest.addModuleCleanup(FaultTestCase.postgres.stop)


def score(user_id, exercise_id, correct=True):
    return {"user_id": user_id, "exercise_id": exercise_id, "correct": correct}


class ScoreClient(Client):
    """Writes scores and keeps the books: one value for each attempt that was acknowledged."""

    def __init__(self, port, books, number):
        super().__init__(port, books, name="")
        self.number = number
        self._chance = random.Random(number)

    def run(self):
        while not self.stopping.is_set():
            self._write_in_all_ways()

    def _write_in_all_ways(self):
        known = self.write("PATCH", "/scores", self._any_score())
        self.write("POST", "/scores", self._any_score())
        self.write("POST", "/scores/batch", {"scores": [self._any_score() for _ in range(BATCH)]})
        if known:
            again = {name: known[name] for name in ("user_id", "exercise_id")}
            for method in ("PUT", "PATCH"):
                body = again | {"correct": self._chance.random() < 0.5}
                self.write(method, f"/scores/{known['id']}", body)
        self._come_and_go()

    def _come_and_go(self):
        """Add a score that nobody else writes, and delete it."""
        passing = score(self._chance.randint(1, USERS), PASSING + self.number)
        added = self.send("PATCH", "/scores", passing)
        if added:
            self.send("DELETE", f"/scores/{added[1]['data']['id']}", token=ADMIN_TOKEN)

    def _any_score(self):
        user_id, exercise_id = self._chance.randint(1, USERS), self._chance.randint(1, EXERCISES)
        return score(user_id, exercise_id, self._chance.random() < 0.3)

    def write(self, method, path, body):
        """Return the data of the answer, or None where nothing is known to be written."""
        answer = self.send(method, path, body)
        if answer is None or answer[0] == 400:
            return None
        for _ in body.get("scores", [body]):
            self._books.note(answer)
        return answer[1]["data"]

    def send(self, method, path, body=None, token=TOKEN):
        """Return status and body, or None where no answer came."""
        if self._connection is None:
            self._connection = http.client.HTTPConnection("127.0.0.1", self._port, timeout=10)
        headers = {"Authorization": f"Bearer {token}", "Content-Type": "application/json"}
        try:
            self._connection.request(method, path, body and json.dumps(body), headers)
            response = self._connection.getresponse()
            status, answer = response.status, json.loads(response.read())
        except (OSError, http.client.HTTPException, ValueError):
            self._connection = None
            self._books.note_unknown()
            return None
        if status in {200, 201} or answer["code"] == "score_exists":
            return status, answer
        self._books.note_strange(status, answer)
        return None


class TestScores(FaultTestCase):
    """One service of two workers for all tests: to start it takes longer than they do."""

    @classmethod
    def setUpClass(cls):
        cls.service = Service(cls.postgres)
        cls.addClassCleanup(cls.service.stop)

    def setUp(self):
        self.empty()

    def differences(self):
        """Return which sums are not what the scores say."""
        with self.postgres.app():
            return totals.select_differences()

    @contextmanager
    def writing(self, clients):
        """Have clients write for as long as the block lasts; then let each finish."""
        books = Books()
        crew = [ScoreClient(self.service.port, books, number) for number in range(clients)]
        for client in crew:
            client.start()
        try:
            yield books
            time.sleep(LOAD_SECONDS)
        finally:
            for client in crew:
                client.stopping.set()
            for client in crew:
                client.join(30)

    def assert_whole(self):
        """Assert that every score has its attempts, 1 to N, and that all sums are right."""
        gaps = self.sql("""
            SELECT user_id, exercise_id, s.attempts, count(seq), min(seq), max(seq)
              FROM scores AS s
              FULL JOIN attempts
             USING (user_id, exercise_id)
             GROUP BY user_id, exercise_id, s.attempts
            HAVING (count(seq), min(seq), max(seq)) IS DISTINCT FROM (s.attempts, 1, s.attempts)
        """)
        self.assertEqual(gaps, [])
        self.assertEqual(self.differences(), [])

    def stored(self):
        [(attempts,)] = self.sql("SELECT sum(attempts) FROM scores WHERE exercise_id < 1000")
        return attempts

    def test_has_one_of_many_first_writes_at_once_add_it(self):
        """A PATCH or a POST of each of 32 clients, on 2 workers: one adds, none is lost."""
        books = Books()
        crew = [ScoreClient(self.service.port, books, number) for number in range(32)]
        together = threading.Barrier(len(crew))
        pairs = [(user_id, exercise_id) for user_id in (1, 2) for exercise_id in range(1, 7)]
        answers = []

        def write_each(client):
            for place, pair in enumerate(pairs):
                method = "PATCH" if (client.number + place) % 2 else "POST"
                together.wait(30)
                answers.append((pair, method, client.send(method, "/scores", score(*pair))))

        threads = [threading.Thread(target=write_each, args=(client,)) for client in crew]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(60)

        self.assertEqual((books.strange, books.unknown), ([], 0), self.service.output())
        for pair in pairs:
            came = Counter((method, answer[0]) for of, method, answer in answers if of == pair)
            acknowledged = came["PATCH", 200] + came["PATCH", 201] + came["POST", 201]
            self.assertEqual(came["PATCH", 201] + came["POST", 201], 1)
            self.assertEqual(came["PATCH", 200] + came["PATCH", 201], 16)
            self.assertEqual(self.history(crew[0], pair), list(range(1, acknowledged + 1)))
        self.assert_whole()

    def history(self, client, pair):
        """Return the numbers of the attempts at an exercise."""
        user_id, exercise_id = pair
        _, page = client.send("GET", f"/scores?user_id={user_id}&exercise_id={exercise_id}")
        [found] = page["data"]["scores"]
        _, history = client.send("GET", f"/scores/{found['id']}/history")
        self.assertEqual(found["attempts"], len(history["data"]["attempts"]))
        return [attempt["seq"] for attempt in history["data"]["attempts"]]

    def test_stores_and_sums_all_writes_of_all_kinds(self):
        with self.writing(32) as books:
            pass

        self.assertEqual((books.strange, books.unknown), ([], 0), self.service.output())
        self.assertEqual(self.stored(), len(books.values))
        self.assert_whole()

    def test_keeps_what_was_answered_where_a_worker_is_killed(self):
        before = {worker.pid for worker in self.service.workers}

        with self.writing(32) as books:
            wait_until(lambda: len(books.values) > 100)
            self.service.kill_worker()
            wait_until(lambda: {worker.pid for worker in self.service.workers} - before)

        self.assertEqual(books.strange, [], self.service.output())
        self.assertLessEqual(len(books.values), self.stored())
        self.assertLessEqual(self.stored(), len(books.values) + BATCH * books.unknown)
        self.assert_whole()
