"""Which route a request took, and which trace of somebody else's it belongs to.

A caller may send `traceparent` and `tracestate` (W3C Trace Context). Without OpenTelemetry this
service records no spans, so it passes both on to users-service as they came, which is what the
recommendation asks of who only passes on; what is malformed is taken for not sent. With the extra
`otel` and OTEL_TRACES_EXPORTER a request is a span of its own.
"""

import re
from collections.abc import Mapping
from functools import cache

from flask import Request

CONVERTER = re.compile("<[^:<>]+:")
# Version 00 ends here; later ones may go on. All zeros are no id (section 3.2.2).
TRACEPARENT = re.compile(
    "(?:00-(?P<trace>(?!0{32})[0-9a-f]{32})-(?!0{16})[0-9a-f]{16}-[0-9a-f]{2}"
    "|(?!00|ff)[0-9a-f]{2}-(?P<later>(?!0{32})[0-9a-f]{32})-(?!0{16})[0-9a-f]{16}-[0-9a-f]{2}"
    "(?:-[\x21-\x7e]{1,200})?)"
)
TRACESTATE = re.compile("[\x20-\x7e]{1,512}")


def route_of(request: Request) -> str | None:
    """Return the path that a request matched as people write it, like `/scores/<score_id>`."""
    rule = request.url_rule
    return _plain(rule.rule) if rule else None


@cache
def _plain(rule: str) -> str:
    return CONVERTER.sub("<", rule)


def trace_id(environ: Mapping[str, str]) -> str | None:
    """Return the id of the trace that a request belongs to, or None where it names none."""
    sent = environ.get("HTTP_TRACEPARENT")
    if sent is None:
        return None
    found = TRACEPARENT.fullmatch(sent)
    return (found["trace"] or found["later"]) if found else None


def passed_on(environ: Mapping[str, str]) -> dict[str, str]:
    """Return the headers that carry a request's trace to the next service."""
    if trace_id(environ) is None:
        return {}
    headers = {"traceparent": environ["HTTP_TRACEPARENT"]}
    state = environ.get("HTTP_TRACESTATE", "")
    if TRACESTATE.fullmatch(state):
        headers["tracestate"] = state
    return headers
