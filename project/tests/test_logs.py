"""The log: what a line says, what no line ever says, and that nobody waits for its reader."""

import json
import logging
import os
import tempfile
import threading
from unittest import TestCase, mock

from project import logs, tracing
from project.logs import Log, Served
from project.tests.base import LEARNER, BaseTestCase, users_service
from project.tests.faults.harness import SECRET, TOKEN, Postgres, Service

TRACE = "4bf92f3577b34da6a3ce929d0e0e4736"
TRACEPARENT = f"00-{TRACE}-00f067aa0ba902b7-01"
SERVED = Served(0.0, "abc", None, "GET", "/health", 200, 0.0015, None)


class TestLines(BaseTestCase):
    def setUp(self):
        super().setUp()
        self.lines = []
        self.app.log_request = self.lines.append
        self.addCleanup(delattr, self.app, "log_request")

    def line(self, *arguments, **options):
        """Send a request and return the one line that it makes."""
        self.lines.clear()
        self.client.open(*arguments, **options)
        [line] = self.lines
        return json.loads(line.as_json())

    def test_say_what_was_asked_and_answered_and_by_whom(self):
        line = self.line("/ping?", headers={**LEARNER, "X-Request-ID": "mine"})

        self.assertRegex(line.pop("time"), r"^\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d+\+00:00$")
        self.assertGreater(line.pop("milliseconds"), 0)
        self.assertEqual(
            line,
            {
                "level": "INFO",
                "message": "request",
                "request_id": "mine",
                "method": "GET",
                "route": "/ping",
                "status": 200,
                "user_id": 7,
            },
        )

    def test_name_the_route_and_not_the_path(self):
        self.assertEqual(self.line("/scores/17")["route"], "/scores/<score_id>")
        self.assertIsNone(self.line("/nowhere/secret")["route"])

    def test_know_nobody_where_nobody_was_let_in(self):
        for headers in ({}, {"Authorization": "Bearer nobody's"}):
            with self.subTest(headers):
                line = self.line("/ping", headers=headers)

                self.assertIsNone(line["user_id"])
                self.assertIn(line["status"], {401, 403})

    def test_hold_no_token_wherever_it_was_sent(self):
        """In its header, where it does not belong, or in what is refused."""
        token = "Bearer s3cr3t-t0k3n"
        for options in (
            {"headers": {"Authorization": token}},
            {"headers": {"Authorization": f"Basic {token}"}},
            {"headers": {"Idempotency-Key": token, "traceparent": token, "tracestate": token}},
            {"headers": {"X-Request-ID": token}},
            {"query_string": {"token": token}},
            {"json": {"token": token}, "method": "POST"},
        ):
            for path in ("/ping", "/scores", f"/scores/{token}", f"/{token}"):
                with self.subTest(path, **options):
                    self.assertNotIn("s3cr3t", json.dumps(self.line(path, **options)))

    def test_are_one_line_each_whatever_is_sent(self):
        for text in ("a\\nb", 'a"b', "a\tb", "\x1b[31m"):
            with self.subTest(text):
                self.line("/health", headers={"X-Request-ID": text})

                self.assertEqual(self.lines[0].as_json().count(b"\n"), 1)
                self.assertNotIn(b"\x1b", self.lines[0].as_text())

    def test_are_text_for_people_in_development(self):
        self.line("/ping", headers={**LEARNER, "X-Request-ID": "mine"})

        self.assertRegex(
            self.lines[0].as_text().decode(),
            r"^\d\d:\d\d:\d\d INFO 200 GET /ping, \d+\.\d ms user 7 \[mine\]\n$",
        )

    def test_name_the_trace(self):
        self.assertEqual(
            self.line("/health", headers={"traceparent": TRACEPARENT})["trace_id"], TRACE
        )
        self.assertNotIn("trace_id", self.line("/health", headers={"traceparent": "nonsense"}))

    def test_of_other_records_name_the_request(self):
        record = logging.makeLogRecord({"msg": "It broke: %s", "args": ("x\ny",), "name": "n"})
        with self.app.test_request_context(headers={"X-Request-ID": "mine"}):
            line = json.loads(logs.JsonFormatter().format(record))

        self.assertEqual((line["message"], line["request_id"]), ("It broke: x\ny", "mine"))


class TestTrace(BaseTestCase):
    def asked_with(self, **headers):
        """Return the headers with which users-service is asked during a request."""
        self.app.extensions["callers"]._users_service._cache.clear()
        self.client.get("/ping", headers={**LEARNER, **headers})
        return {name.lower(): value for name, value in users_service().last_question.items()}

    def test_is_passed_on_to_users_service(self):
        asked = self.asked_with(traceparent=TRACEPARENT, tracestate="a=1,b=2")

        self.assertEqual((asked["traceparent"], asked["tracestate"]), (TRACEPARENT, "a=1,b=2"))

    def test_is_not_made_up(self):
        self.assertNotIn("traceparent", self.asked_with())
        self.assertNotIn("tracestate", self.asked_with(tracestate="a=1"))

    def test_is_taken_only_as_the_recommendation_writes_it(self):
        parent = "00f067aa0ba902b7"
        for sent, is_one in (
            (TRACEPARENT, True),
            (f"00-{TRACE}-{parent}-00", True),
            (f"01-{TRACE}-{parent}-01", True),
            (f"01-{TRACE}-{parent}-01-more", True),
            (f"00-{TRACE}-{parent}-01-more", False),
            (f"ff-{TRACE}-{parent}-01", False),
            (f"00-{'0' * 32}-{parent}-01", False),
            (f"00-{TRACE}-{'0' * 16}-01", False),
            (f"00-{TRACE.upper()}-{parent}-01", False),
            (f"00-{TRACE[1:]}-{parent}-01", False),
            (f"{TRACEPARENT},{TRACEPARENT}", False),
            (f"{TRACEPARENT}\n", False),
            ("", False),
        ):
            with self.subTest(sent):
                environ = {"HTTP_TRACEPARENT": sent}

                self.assertEqual(tracing.trace_id(environ), TRACE if is_one else None)
                self.assertEqual(bool(tracing.passed_on(environ)), is_one)


class TestLog(TestCase):
    def test_writes_many_lines_at_once_and_in_order(self):
        written = []
        log = Log(written.append, as_json=False)
        for line in (b"one\n", SERVED, b"three\n"):
            log.note(line)

        log.flush()

        [text] = written
        self.assertRegex(text, rb"^one\n.*GET /health, 1.5 ms.*\nthree\n$")

    def test_makes_nobody_wait_where_nobody_reads(self):
        """It keeps what it can, and counts what it loses."""
        stuck, reads = threading.Event(), threading.Event()

        def write(_lines):
            stuck.set()
            reads.wait()

        log = Log(write, as_json=True)
        self.addCleanup(reads.set)
        before = logs.LOG_LINES_LOST._value.get()
        log.note(SERVED)
        threading.Thread(target=log.flush, daemon=True).start()
        stuck.wait()

        for _ in range(logs.MOST_LINES + 7):
            log.note(SERVED)

        self.assertEqual(logs.LOG_LINES_LOST._value.get() - before, 7)

    def test_goes_on_where_stderr_is_closed(self):
        with mock.patch.object(logs, "STDERR", -1):
            before = logs.LOG_LINES_LOST._value.get()

            logs.write_all(b"one\ntwo\n")

        self.assertEqual(logs.LOG_LINES_LOST._value.get() - before, 2)

    def test_writes_all_however_little_is_taken_at_a_time(self):
        taken = []

        def take(_handle, some):
            taken.append(bytes(some[:3]))
            return len(taken[-1])

        with mock.patch.object(os, "write", take):
            logs.write_all(b"0123456789")

        self.assertEqual(b"".join(taken), b"0123456789")


class TestService(TestCase):
    """The service in production, and what it writes until it ends."""

    @classmethod
    def setUpClass(cls):
        cls.postgres = Postgres()
        cls.addClassCleanup(cls.postgres.stop)

    def serve(self, **environment):
        service = Service(self.postgres, **{"WORKERS": "1"} | environment)
        self.addCleanup(service.stop)
        return service

    def lines(self, service):
        return service.output().splitlines()

    def test_writes_json_and_nothing_else_and_no_line_is_missing_at_its_end(self):
        service = self.serve(WORKERS="2")
        for _ in range(50):
            service.get("/health")
        service.get(f"/scores?token={TOKEN}")

        self.assertEqual(service.terminate(), 0)

        read = [json.loads(line) for line in self.lines(service)]
        served = [line for line in read if line["message"] == "request"]
        self.assertEqual(sum(line["route"] == "/health" for line in served), 50)
        self.assertTrue(all(line["time"] and line["level"] for line in read))
        self.assertNotIn(TOKEN, service.output())
        self.assertNotIn(SECRET, service.output())

    def test_is_silent_about_requests_where_only_warnings_are_wanted(self):
        service = self.serve(LOG_LEVEL="WARNING")
        service.get("/health")

        self.assertEqual(service.terminate(), 0)

        self.assertNotIn('"message":"request"', service.output())

    def test_serves_on_while_nobody_reads_the_log(self):
        """A pipe that is full stops no request."""
        reader, writer = os.pipe()
        self.addCleanup(os.close, reader)
        with mock.patch.object(tempfile, "TemporaryFile", return_value=os.fdopen(writer, "wb")):
            service = self.serve(LOG_LEVEL="INFO", SECRET_KEY=SECRET)
        for _ in range(450):  # some 200 bytes each, where a pipe holds 64 KiB
            self.assertEqual(service.get("/health")[0], 200)
        service.kill()
