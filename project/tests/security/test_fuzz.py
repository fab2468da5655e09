"""Requests of raw bytes, as no client would send them, straight at the WSGI application.

    FUZZ_CASES=100000 python manage.py test project/tests/security/test_fuzz.py

tries so many, other ones each time. Without it the cases are few, and always the same. What was
found stands as @example, and is tried first.
"""

import io
import json
import os
import re
import time
from functools import cache

from hypothesis import HealthCheck, Phase, example, given, settings
from hypothesis import strategies as st

from project.tests.base import ADMIN, LEARNER, BaseTestCase, shared_app
from project.tests.security.operations import operations
from project.tests.utils import add_counter, add_score

CASES = int(os.environ.get("FUZZ_CASES", "0"))
PATIENCE_SECONDS = 5
FUZZ = settings(
    max_examples=CASES or 200,
    derandomize=not CASES,
    database=None,
    deadline=None,  # assert_sound has one for each request
    suppress_health_check=list(HealthCheck),
    phases=(Phase.explicit, Phase.generate) if not CASES else tuple(Phase),
)
# Header fields that the service or its libraries read, as WSGI names them.
FIELDS = ["ACCEPT", "ACCEPT_ENCODING", "ACCESS_CONTROL_REQUEST_HEADERS", "FORWARDED",
          "ACCESS_CONTROL_REQUEST_METHOD", "AUTHORIZATION", "COOKIE", "EXPECT", "HOST",
          "IDEMPOTENCY_KEY", "IF_MATCH", "IF_MODIFIED_SINCE", "IF_NONE_MATCH", "ORIGIN",
          "PURPOSE", "RANGE", "REFERER", "SEC_PURPOSE", "TRACEPARENT", "TRANSFER_ENCODING",
          "USER_AGENT", "X_FORWARDED_FOR", "X_REQUEST_ID"]  # fmt: skip
TEXTS = ["1", "visits", "public:x", "0", "-1", "9223372036854775808", "me", "true", "NaN", "*",
         '"1-1"', "W/\"1\"", "2026-11-20T08:30:00Z", "0000-00-00T00:00:00Z", "Europe/Berlin",
         "..", "%2e%2e", "%00", "%", "%ff", "+", "Bearer", "Bearer a.b.c", "Basic Og==",
         "bytes=0-", "null", "application/problem+json", "text/html;q=x", "100-continue",
         "00-" + "a" * 32 + "-" + "b" * 16 + "-01", "¹", "\N{ARABIC-INDIC DIGIT ONE}"]  # fmt: skip

# As WSGI has them: each character is a byte (PEP 3333).
raw = st.binary(max_size=40).map(lambda piece: piece.decode("latin-1"))
wire = st.sampled_from([text.encode().decode("latin-1") for text in TEXTS]) | raw
# Line ends and NUL do not get through an HTTP server.
headers = st.dictionaries(
    st.sampled_from(FIELDS), wire.map(lambda text: text.translate(dict.fromkeys(b"\r\n\0"))),
    max_size=5,
)  # fmt: skip
paths = st.builds(
    lambda template, piece: re.sub("{.+}", lambda _: piece, template),
    st.deferred(lambda: st.sampled_from([*(one.path for one in known()), "/static/{}", "/{}"])),
    wire,
)
parameters = st.deferred(
    lambda: st.sampled_from(
        sorted({name for one in known() for place, name in one.places if place == "query"})
    )
)
queries = st.lists(st.tuples(parameters | raw, wire), max_size=4).map(
    lambda pairs: "&".join(f"{name}={value}" for name, value in pairs)
)
methods = st.sampled_from(
    ["GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS", "TRACE", "X"]
)
values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=20),
    lambda inner: st.lists(inner, max_size=4)
    | st.dictionaries(st.text(max_size=8), inner, max_size=4),
    max_leaves=8,
)  # fmt: skip


@cache
def known():
    """Return every operation that the document has, so that a new one is tried as well."""
    return list(operations(shared_app().test_client().get("/openapi.json").get_json()))


callers = st.sampled_from([None, LEARNER, ADMIN])


class TestAnyRequest(BaseTestCase):
    def setUp(self):
        super().setUp()
        add_score(user_id=7)
        add_counter("visits")

    def request(self, method, path, query="", fields=None, body=b"", length=None, kind=None):
        """Answer a request as a server would hand it on; return status, fields, body."""
        environ = {
            "REQUEST_METHOD": method,
            "SCRIPT_NAME": "",
            "PATH_INFO": path,
            "QUERY_STRING": query,
            "SERVER_NAME": "localhost",
            "SERVER_PORT": "5002",
            "SERVER_PROTOCOL": "HTTP/1.1",
            "REMOTE_ADDR": "127.0.0.1",
            "CONTENT_LENGTH": str(len(body)) if length is None else length,
            "CONTENT_TYPE": kind or "application/json",
            "wsgi.version": (1, 0),
            "wsgi.url_scheme": "http",
            "wsgi.input": io.BytesIO(body),
            "wsgi.input_terminated": True,
            "wsgi.errors": io.StringIO(),
            "wsgi.multithread": True,
            "wsgi.multiprocess": True,
            "wsgi.run_once": False,
        } | {f"HTTP_{name}": value for name, value in (fields or {}).items()}
        told = []
        parts = self.app(environ, lambda status, fields, _=None: told.append((status, fields)))
        try:
            sent = b"".join(parts)
        finally:
            getattr(parts, "close", lambda: None)()
        [(status, answered)] = told
        return int(status[:3]), answered, sent

    def assert_sound(self, method, *rest, **others):
        """Assert that the answer is one of ours, and came in time."""
        began = time.monotonic()
        status, fields, body = self.request(method, *rest, **others)

        self.assertLess(time.monotonic() - began, PATIENCE_SECONDS)
        self.assertLess(status, 500, body)
        for name, value in fields:
            self.assertRegex(f"{name}: {value}", r"\A[\x20-\x7e]*\Z")
        named = {name.lower(): value for name, value in fields}
        self.assertRegex(named["x-request-id"], r"\A[!-~]{1,128}\Z")
        self.assertEqual(named["x-content-type-options"], "nosniff")
        if status >= 400 and method != "HEAD":
            told = json.loads(body)
            problem = named["content-type"] == "application/problem+json"
            self.assertTrue({"type", "title", "status"} <= told.keys() if problem else
                            {"status", "message"} <= told.keys())  # fmt: skip
            self.assertRegex(told["code"], "^[a-z_]+$")

    @FUZZ
    @example("GET", "/scores", "\x80=1", {}, None)
    @example("GET", "/scores", "limit=\x80", {}, None)
    @given(methods, paths, queries, headers, callers)
    def test_is_answered_whatever_its_line_and_its_headers(
        self, method, path, query, fields, caller
    ):
        token = {"AUTHORIZATION": caller["Authorization"]} if caller else {}
        self.assert_sound(method, path, query, token | fields)

    @FUZZ
    @given(methods, paths, st.binary(max_size=200), wire, wire | st.none())
    def test_is_answered_whatever_its_body(self, method, path, body, kind, length):
        fields = {"AUTHORIZATION": ADMIN["Authorization"]}
        self.assert_sound(method, path, "", fields, body, length=length)
        self.assert_sound(method, path, "", fields, body, kind=kind)

    @FUZZ
    @given(st.data())
    def test_is_answered_whatever_a_field_holds(self, data):
        """JSON that is right, but for one field; in each operation that takes a body."""
        operation = data.draw(st.sampled_from([one for one in known() if one.body]))
        name = data.draw(st.sampled_from([*operation.body, "unknown"]))
        value = data.draw(values)
        if name in operation.body and isinstance(operation.body[name], list):
            value = (
                [operation.body[name][0] | {"user_id": value}]
                if data.draw(st.booleans())
                else value
            )
        elif name in operation.body and isinstance(operation.body[name], dict):
            value = {"visits": value} if data.draw(st.booleans()) else value
        request = operation.request("body", name, value)
        body = json.dumps(request["json"]).encode()
        fields = {"AUTHORIZATION": ADMIN["Authorization"], "IF_MATCH": "*"}
        fields |= data.draw(headers)

        self.assert_sound(request["method"], request["path"], "", fields, body)
