"""Faults of users-service, and attacks on it: requests that do not need it are unaffected."""

import http.client
import itertools
import json
import secrets
import sys
import threading
import time
import unittest
from collections import Counter
from contextlib import contextmanager, suppress

from project.tests import users_service as fakes
from project.tests.faults import harness
from project.tests.faults.harness import (
    ANSWER_SECONDS,
    RECOVERY_SECONDS,
    FaultTestCase,
    Postgres,
    Service,
    load,
    visitors,
)
from project.tests.processes import wait_until

# So many that one of the workers has seen enough of them fail, before any is refused at once.
CALLERS = 4 * harness.WORKERS
# Twice as many as a worker has threads.
CROWD = 64
FAULTS = {
    "hung": fakes.hang,
    "sent its head byte by byte": fakes.drip_header,
    "sent its body byte by byte": fakes.drip_body,
    "closed": fakes.close_at_once,
    "answered 500": fakes.answers(500, {"status": "error"}),
    "answered HTML": fakes.answers(200, b"<h1>Welcome</h1>", "text/html"),
    "answered 10 MB": fakes.flood,
    "answered with a redirect": fakes.redirects_to("http://127.0.0.1:9/auth/status"),
}


def setUpModule():
    FaultTestCase.postgres = Postgres()
    unittest.addModuleCleanup(FaultTestCase.postgres.stop)
    TestUsersService.fake = fakes.FakeUsersService().start()
    unittest.addModuleCleanup(TestUsersService.fake.stop)
    harness.CountsTestCase.service = Service(
        FaultTestCase.postgres, USERS_SERVICE_URL=TestUsersService.fake.url
    )
    unittest.addModuleCleanup(harness.CountsTestCase.service.stop)


class TestUsersService(harness.CountsTestCase):
    fake: fakes.FakeUsersService
    strangers = (f"stranger-{number}" for number in itertools.count())

    def ask(self, service=None):
        """Send a token that was not sent before; return the status and the seconds it took."""
        token = next(self.strangers)
        self.fake.tokens[token] = fakes.person(7, "learner")
        began = time.monotonic()
        status, _ = (service or self.service).get("/ping", token)
        return status, time.monotonic() - began

    @contextmanager
    def callers(self, service=None, count=CALLERS):
        """Send new tokens without a pause while the block runs; yield the list of results."""
        asked, ended = [], threading.Event()

        def call():
            while not ended.wait(0.02):
                asked.append(self.ask(service))

        crew = [threading.Thread(target=call, daemon=True) for _ in range(count)]
        for caller in crew:
            caller.start()
        try:
            yield asked
        finally:
            ended.set()
            for caller in crew:
                caller.join(30)

    def knows_everybody(self):
        """Return whether tokens are taken, most likely by each of the workers."""
        return all(self.ask()[0] == 200 for _ in range(CALLERS))

    def test_costs_only_those_who_need_it_and_is_trusted_again_soon(self):
        wait_until(self.knows_everybody)
        for what, behaviour in FAULTS.items():
            with self.subTest(what):
                self.look_at(f"a users-service that {what}", behaviour)
        self.assert_said_once()

    def look_at(self, what, behaviour):
        with (
            load(self.service, 8) as books,
            visitors(self.service, "/health", "/counters/hot") as visits,
        ):
            self.fake.behaviour = behaviour
            with self.callers() as asked:
                wait_until(lambda: len(asked) > 4 * CALLERS)
            self.fake.behaviour = fakes.answer_truly
            began = time.monotonic()
            wait_until(self.knows_everybody, seconds=RECOVERY_SECONDS)
            self.report(f"after {what} a token was taken", time.monotonic() - began)

        slowest = max(seconds for _, seconds in asked)
        self.report(f"from {what} the slowest answer took", slowest)
        self.assertEqual({status for status, _ in asked}, {503})
        self.assertLess(slowest, ANSWER_SECONDS)
        self.assert_answered(visits, "/health", "/counters/hot")
        self.assertEqual(books.failed, 0)
        self.assert_nothing_lost(books)
        self.empty()

    def test_hung_users_service_costs_no_request_that_does_not_need_it(self):
        """Before the breaker opens, more callers wait for it than the service has threads."""
        wait_until(self.knows_everybody)
        service = Service(FaultTestCase.postgres, USERS_SERVICE_URL=self.fake.url, WORKERS="1")
        self.addCleanup(service.stop)
        self.fake.behaviour = fakes.hang
        self.addCleanup(setattr, self.fake, "behaviour", fakes.answer_truly)
        with (
            load(service, 8) as books,
            visitors(service, "/health", "/counters/hot", "/scores") as visits,
            self.callers(service, CROWD) as asked,
        ):
            wait_until(lambda: any(seconds > 1 for _, seconds in asked))  # the breaker opens

        self.assertEqual({status for status, _ in asked}, {503})
        self.assertLess(max(seconds for _, seconds in asked), ANSWER_SECONDS)
        self.assert_answered(visits, "/health", "/counters/hot", "/scores")
        self.assertEqual(books.failed, 0)
        self.assertEqual(books.strange, [])

    def assert_said_once(self):
        """Each worker has said of each fault that it is there, and said it once."""
        lines = self.service.output().splitlines()
        away = [json.loads(line)["message"] for line in lines if "users-service is away" in line]
        self.assertTrue(away)
        [(_, most)] = Counter(away).most_common(1)
        self.assertLessEqual(most, harness.WORKERS, away)


@unittest.skipUnless(sys.platform == "linux", "each caller needs an address of its own")
class TestRandomTokens(unittest.TestCase):
    """40 connections from one address send random tokens for a few seconds.

    users-service has one worker and takes 100 ms for an answer, so it can look up a small part of
    them only.
    """

    CONNECTIONS = 40
    SECONDS = 6.0
    ANSWER_SECONDS = 0.1
    ATTACKER = "127.0.0.2"

    def setUp(self):
        self.fake = self.enterContext(fakes.FakeUsersService())
        worker = threading.Lock()

        def answer_with_one_worker(handler):
            with worker:
                time.sleep(self.ANSWER_SECONDS)
            fakes.answer_truly(handler)

        self.fake.behaviour = answer_with_one_worker
        self.ended = threading.Event()
        self.addCleanup(self.ended.set)

    def start_service(self, **settings):
        service = Service(FaultTestCase.postgres, USERS_SERVICE_URL=self.fake.url, **settings)
        self.addCleanup(service.stop)
        return service

    def ask(self, service, address, token):
        """Send a token from an address; return the status, the seconds it took, and the headers."""
        connection = http.client.HTTPConnection(
            "127.0.0.1", service.port, timeout=10, source_address=(address, 0)
        )
        began = time.monotonic()
        try:
            connection.request("GET", "/ping", headers={"Authorization": f"Bearer {token}"})
            answer = connection.getresponse()
            answer.read()
            return answer.status, time.monotonic() - began, answer.headers
        finally:
            connection.close()

    def attack(self, service, count=CONNECTIONS):
        """Start to send random tokens from one address; return the list of the answers."""
        answers = []

        def send():
            while not self.ended.is_set():
                with suppress(OSError, http.client.HTTPException):
                    answers.append(self.ask(service, self.ATTACKER, secrets.token_hex(16)))

        self.run_threads(send, count)
        return answers

    def run_threads(self, call, count):
        threads = [threading.Thread(target=call, daemon=True) for _ in range(count)]
        for thread in threads:
            thread.start()
        for thread in threads:
            self.addCleanup(thread.join, 30)
        self.addCleanup(self.ended.set)

    def test_random_tokens_from_one_address_do_not_affect_good_tokens(self):
        service = self.start_service()
        attack = self.attack(service)
        wait_until(lambda: len(attack) > self.CONNECTIONS)
        good = []
        deadline = time.monotonic() + self.SECONDS

        def call(number):
            token, address = f"good-{number}", f"127.0.1.{number}"
            self.fake.tokens[token] = fakes.person(number, token)
            while time.monotonic() < deadline:
                good.append(self.ask(service, address, token))
                time.sleep(0.1)

        callers = [threading.Thread(target=call, args=(number,)) for number in (1, 2, 3)]
        for caller in callers:
            caller.start()
        for caller in callers:
            caller.join()

        self.assertEqual({status for status, *_ in good}, {200})
        self.assertLess(max(seconds for _, seconds, _ in good), 1.0)
        self.assertNotIn("users-service is away", service.output())
        self.assertLessEqual({status for status, *_ in attack}, {401, 429, 503})

    def test_token_that_was_valid_before_is_unaffected_by_an_attack_from_its_address(self):
        """Many clients may share one address, behind a NAT or a proxy."""
        service = self.start_service(WORKERS="1", INVALID_TOKEN_LIMIT="5/minute")
        self.fake.tokens["good"] = fakes.person(7, "good")
        self.ask(service, self.ATTACKER, "good")
        attack = self.attack(service)

        wait_until(lambda: any(status == 429 for status, *_ in attack))
        good = self.ask(service, self.ATTACKER, "good")
        new = self.ask(service, self.ATTACKER, "new")

        self.assertEqual(good[0], 200)
        self.assertLess(good[1], 1.0)
        self.assertEqual(new[0], 429)
        self.assertRegex(new[2]["Retry-After"], r"^[1-9]\d?$")
