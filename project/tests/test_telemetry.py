"""Spans, as an exporter gets them, and over HTTP."""

import subprocess
import sys
import tempfile
import unittest
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from threading import Thread
from unittest import TestCase, mock

from project import db
from project.config import SettingError
from project.server import accompany
from project.statements import Statement
from project.tests.base import LEARNER, BaseTestCase, users_service
from project.tests.faults.harness import Postgres, Service
from project.tests.processes import GRACE_SECONDS, ROOT, environment, free_port

try:
    from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
    from opentelemetry.sdk.trace import TracerProvider
    from opentelemetry.sdk.trace.export import SimpleSpanProcessor
    from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
    from opentelemetry.trace import SpanKind

    from project import telemetry
except ImportError as missing:
    raise unittest.SkipTest("the extra otel is not installed") from missing

TRACE = "4bf92f3577b34da6a3ce929d0e0e4736"
PARENT = "00f067aa0ba902b7"
TRACEPARENT = {"traceparent": f"00-{TRACE}-{PARENT}-01"}


class TestSpans(BaseTestCase):
    def setUp(self):
        super().setUp()
        self.exporter = InMemorySpanExporter()
        provider = TracerProvider()
        provider.add_span_processor(SimpleSpanProcessor(self.exporter))
        kept = {name: getattr(self.app, name) for name in ("complete", "asking")}
        self.addCleanup(delattr, self.app, "wsgi_app")
        for name, value in kept.items():
            self.addCleanup(setattr, self.app, name, value)
        self.enterContext(mock.patch.object(Statement, "run", Statement.run))
        telemetry.watch(self.app, provider)

    def spans(self, path, **options):
        """Return the span of a request, and those within it."""
        self.client.get(path, **options)
        *within, span = self.exporter.get_finished_spans()
        self.assertIs(span.kind, SpanKind.SERVER)
        for inner in within:
            self.assertEqual(inner.parent.span_id, span.context.span_id)
        return span, within

    def span(self, path, **options):
        return self.spans(path, **options)[0]

    def test_are_one_for_each_request_and_named_after_its_route(self):
        span = self.span("/scores/17", headers={"X-Request-ID": "mine"})

        self.assertEqual(span.name, "GET /scores/<score_id>")
        self.assertEqual(
            dict(span.attributes),
            {
                "http.request.method": "GET",
                "http.response.status_code": 404,
                "http.route": "/scores/<score_id>",
                "eval.request_id": "mine",
            },
        )

    def test_belong_to_the_trace_of_the_caller(self):
        span = self.span("/health", headers=TRACEPARENT)

        self.assertEqual(f"{span.context.trace_id:032x}", TRACE)
        self.assertEqual(f"{span.parent.span_id:016x}", PARENT)

    def test_are_what_users_service_is_asked_within(self):
        self.app.extensions["callers"]._users_service._cache.clear()

        span, [question] = self.spans("/ping", headers={**LEARNER, **TRACEPARENT})

        asked = {name.lower(): value for name, value in users_service().last_question.items()}
        self.assertEqual(asked["traceparent"], f"00-{TRACE}-{question.context.span_id:016x}-01")
        self.assertIs(question.kind, SpanKind.CLIENT)
        self.assertEqual(span.attributes["user.id"], "7")

    def test_are_what_statements_are_run_within(self):
        _, [statement] = self.spans("/scores/17")

        self.assertIs(statement.kind, SpanKind.CLIENT)
        self.assertEqual(statement.attributes["db.system.name"], "postgresql")
        self.assertIn("FROM scores", statement.attributes["db.query.text"])
        self.assertNotIn("17", statement.attributes["db.query.text"])

    def test_say_which_statement_failed_and_not_of_what(self):
        broken = Statement("SELECT CAST(:text AS bigint)", text="text")
        view = self.app.view_functions["eval.health"]
        self.addCleanup(self.app.view_functions.__setitem__, "eval.health", view)
        self.app.view_functions["eval.health"] = lambda: db.read(broken, text="s3cr3t")

        with self.assertLogs(self.app.logger, "ERROR"):
            _, [statement] = self.spans("/health")

        self.assertFalse(statement.status.is_ok)
        self.assertEqual(statement.attributes["db.response.status_code"], "22P02")
        self.assertNotIn("s3cr3t", statement.to_json())

    def test_are_none_outside_of_requests(self):
        db.read(Statement("SELECT 1"))

        self.assertEqual(self.exporter.get_finished_spans(), ())

    def test_say_where_the_service_failed(self):
        view = self.app.view_functions["eval.health"]
        self.addCleanup(self.app.view_functions.__setitem__, "eval.health", view)
        self.app.view_functions["eval.health"] = mock.Mock(side_effect=RuntimeError)

        with self.assertLogs(self.app.logger, "ERROR"):
            span = self.span("/health")

        self.assertFalse(span.status.is_ok)

    def test_hold_no_token(self):
        span = self.span("/scores?token=s3cr3t", headers={"Authorization": "Bearer s3cr3t"})

        self.assertNotIn("s3cr3t", span.to_json())


class TestExtra(BaseTestCase):
    def test_is_asked_for_by_name_where_it_is_missing(self):
        settings = self.app.extensions["settings"].model_copy(
            update={"otel_traces_exporter": "otlp"}
        )
        with (
            mock.patch.dict(self.app.extensions, {"settings": settings}),
            mock.patch.dict("sys.modules", {"project.telemetry": None}),
            self.assertRaisesRegex(SettingError, "OTEL_TRACES_EXPORTER.*otel"),
        ):
            accompany(self.app)

    def test_missing_extra_stops_serve_and_run_with_one_sentence(self):
        folder = Path(self.enterContext(tempfile.TemporaryDirectory()))
        (folder / "opentelemetry.py").write_text("raise ImportError('it is not here')")
        for command in ("serve", "run"):
            with self.subTest(command):
                end = subprocess.run(
                    [sys.executable, "manage.py", command],
                    cwd=ROOT,
                    env=environment(
                        PYTHONPATH=str(folder),
                        OTEL_TRACES_EXPORTER="otlp",
                        PORT=str(free_port()),
                        DATABASE_URL="postgresql://127.0.0.1:1/unused",
                    ),
                    check=False,
                    capture_output=True,
                    text=True,
                    timeout=GRACE_SECONDS,
                )

                self.assertEqual((end.returncode, end.stdout), (1, ""))
                [line] = end.stderr.splitlines()
                self.assertRegex(line, r"OTEL_TRACES_EXPORTER.*pip install '\.\[otel\]'")


class TestExport(TestCase):
    """The service itself, with a receiver of OTLP over HTTP on loopback."""

    def test_reaches_the_receiver_also_when_the_service_ends(self):
        received = []

        class Receiver(BaseHTTPRequestHandler):
            def do_POST(self):
                body = self.rfile.read(int(self.headers["Content-Length"]))
                received.append((self.path, ExportTraceServiceRequest.FromString(body)))
                self.send_response(200)
                self.end_headers()

            def log_message(self, *_):
                pass

        receiver = HTTPServer(("127.0.0.1", 0), Receiver)
        Thread(target=receiver.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True).start()
        self.addCleanup(receiver.server_close)
        self.addCleanup(receiver.shutdown)
        postgres = Postgres()
        self.addCleanup(postgres.stop)
        service = Service(
            postgres,
            OTEL_TRACES_EXPORTER="otlp",
            OTEL_EXPORTER_OTLP_ENDPOINT=f"http://127.0.0.1:{receiver.server_port}",
            OTEL_EXPORTER_OTLP_COMPRESSION="none",
        )
        self.addCleanup(service.stop)
        for _ in range(5):
            service.get("/health")

        self.assertEqual(service.terminate(), 0, service.output())

        spans = [
            ({a.key: a.value.string_value for a in sent.resource.attributes}, span.name)
            for path, request in received
            if path == "/v1/traces"
            for sent in request.resource_spans
            for scope in sent.scope_spans
            for span in scope.spans
        ]
        named = [resource for resource, name in spans if name == "GET /health"]
        self.assertEqual(len(named), 5)
        self.assertEqual(named[0]["service.name"], "eval-service")
