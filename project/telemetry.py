"""Spans by OpenTelemetry; loaded only where OTEL_TRACES_EXPORTER asks for them.

One for each request, and within it one for each statement that PostgreSQL runs for it, and for its
question to users-service. Where requests are written together, that is within one of them.

Where they go, and how many, is said in OpenTelemetry's own settings: OTEL_EXPORTER_OTLP_ENDPOINT,
OTEL_TRACES_SAMPLER, OTEL_RESOURCE_ATTRIBUTES and others.
"""

import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import psycopg2
from flask import Response
from opentelemetry import propagate, trace
from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
from opentelemetry.sdk.resources import OTELResourceDetector, Resource
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor, ConsoleSpanExporter, SpanExporter
from opentelemetry.trace import SpanKind, StatusCode, Tracer

from project import tracing
from project.app import Service
from project.statements import Connection, Row, Statement

EXPORTERS: dict[str, Callable[[], SpanExporter]] = {
    "otlp": OTLPSpanExporter,
    "console": ConsoleSpanExporter,
}


def start(app: Service, exporter: str) -> None:
    """Have every request of the app be a span, which goes to that exporter."""
    resource = Resource({"service.name": "eval-service", "service.version": str(app.version)})
    provider = TracerProvider(resource=resource.merge(OTELResourceDetector().detect()))
    provider.add_span_processor(BatchSpanProcessor(EXPORTERS[exporter]()))
    # No daemon: an interpreter that ends waits for it, and so the last spans are sent.
    threading.Thread(target=_shut_down, args=(provider,), name="spans", daemon=False).start()
    watch(app, provider)


def _shut_down(provider: TracerProvider) -> None:
    threading.main_thread().join()
    provider.shutdown()


def watch(app: Service, provider: TracerProvider) -> None:
    """Have every request of the app, and what it asks others, be spans of that provider."""
    tracer = provider.get_tracer(__name__)
    answer, complete = app.wsgi_app, app.complete

    def traced(environ: Any, start_response: Any) -> Any:
        parent = propagate.extract(tracing.passed_on(environ))
        with tracer.start_as_current_span("HTTP", parent, SpanKind.SERVER):
            return answer(environ, start_response)

    def named(request: Any, response: Response) -> None:
        complete(request, response)
        span = trace.get_current_span()
        route = tracing.route_of(request)
        span.update_name(f"{request.method} {route}" if route else request.method)
        span.set_attributes(
            {
                "http.request.method": request.method,
                "http.response.status_code": response.status_code,
                "eval.request_id": request.id,
            }
        )
        if route:
            span.set_attribute("http.route", route)
        if request.caller is not None:
            span.set_attribute("user.id", str(request.caller.user_id))
        if response.status_code >= 500:
            span.set_status(StatusCode.ERROR)

    app.wsgi_app = traced  # type: ignore[method-assign]
    app.complete = named
    app.asking = lambda: _question(tracer)
    _watch_statements(tracer)


@contextmanager
def _question(tracer: Tracer) -> Iterator[Mapping[str, str]]:
    """Have a question to another service be a span; give the headers that make it its parent."""
    headers: dict[str, str] = {}
    known = {"http.request.method": "GET", "peer.service": "users-service"}
    with tracer.start_as_current_span("GET", kind=SpanKind.CLIENT, attributes=known):
        propagate.inject(headers)
        yield headers


def _watch_statements(tracer: Tracer) -> None:
    """Have every statement within a request be a span, without its values."""
    run = Statement.run

    def traced(self: Statement, connection: Connection, **values: Any) -> list[Row]:
        if not trace.get_current_span().is_recording():
            return run(self, connection, **values)
        known = {"db.system.name": "postgresql", "db.query.text": self.sql}
        with tracer.start_as_current_span(
            "postgresql",
            kind=SpanKind.CLIENT,
            attributes=known,
            record_exception=False,  # whose message holds values
            set_status_on_exception=False,
        ) as span:
            try:
                return run(self, connection, **values)
            except psycopg2.Error as error:
                span.set_status(StatusCode.ERROR)
                span.set_attribute("db.response.status_code", error.pgcode or "")
                raise

    Statement.run = traced  # type: ignore[method-assign]
