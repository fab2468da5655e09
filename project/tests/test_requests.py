"""Requests as nobody should send them, and what holds for every answer."""

import gzip
import io
import json
import re
import time
from unittest import mock

from project import create_app
from project.config import TestingConfig
from project.tests.base import ADMIN, LEARNER, BaseTestCase, users_service
from project.tests.utils import add_counter, add_score

SCORE = b'{"exercise_id": 1, "correct": true}'
SCORE_WRITES = [
    ("POST", "/scores"),
    ("PUT", "/scores/1"),
    ("PATCH", "/scores"),
    ("PATCH", "/scores/1"),
]
INCREMENT = ("POST", "/counters/visits/increment")
WRITES = [*SCORE_WRITES, INCREMENT]
LIMIT_BYTES = 1024 * 1024
LARGEST = 2**63 - 1
# How long the worst of them may take on a busy machine: it should be milliseconds.
PATIENCE_SECONDS = 5

NO_JSON_OBJECT = {
    "spaces": b"   ",
    "array": b"[]",
    "array of one": b'[{"exercise_id": 1, "correct": true}]',
    "string": b'"exercise_id"',
    "number": b"7",
    "true": b"true",
    "null": b"null",
    "invalid JSON": b'{"exercise_id": 1, "correct": true',
    "a comma too many": b'{"exercise_id": 1, "correct": true,}',
    "single quotes": b"{'exercise_id': 1, 'correct': true}",
    "two values": SCORE + SCORE,
    "invalid UTF-8": b'{"exercise_id": 1, "correct": true, "\xff\xfe": 1}',
    "a surrogate as UTF-8": b'{"exercise_id": 1, "correct": true, "\xed\xa0\x80": 1}',
    "UTF-16": SCORE.decode().encode("utf-16"),
    "UTF-16, little end first": SCORE.decode().encode("utf-16-le"),
    "UTF-16, big end first": SCORE.decode().encode("utf-16-be"),
    "UTF-32": SCORE.decode().encode("utf-32"),
    "a name twice": b'{"exercise_id": 1, "correct": true, "by": 1, "by": 1, "correct": true}',
    "a name twice, nested": b'{"exercise_id": {"a": 1, "a": 2}, "correct": true, "by": 1}',
    "a name twice, once escaped": b'{"by": 1, "\\u0062y": 1}',
    "a strange name twice": b'{"\\ud800": 1, "\\ud800": 1}',
    "100 000 arrays deep": b'{"by": ' + b"[" * 100_000 + b"]" * 100_000 + b"}",
    "100 000 objects deep": b'{"by": ' * 100_000 + b"1" + b"}" * 100_000,
    "100 000 arrays deep and no end": b'{"by": ' + b"[" * 100_000,
    "NaN": b'{"exercise_id": NaN, "correct": true, "by": NaN}',
    "Infinity": b'{"exercise_id": Infinity, "correct": true, "by": Infinity}',
    "-Infinity": b'{"exercise_id": -Infinity, "correct": true, "by": -Infinity}',
    "a number of 5000 digits": b'{"exercise_id": %s, "by": %s}' % (b"7" * 5000, b"7" * 5000),
}

# As they stand in the text: no parser of ours takes part.
NO_INTEGERS = {
    "a float": "7.0",
    "a float with an exponent": "1e3",
    "a float beyond all floats": "1e400",
    "a fraction": "0.5",
    "a bool": "true",
    "a string": '"7"',
    "a lone surrogate": '"\\ud800"',
    "null": "null",
    "an array": "[7]",
    "500 arrays deep": "[" * 500 + "]" * 500,
    "an object": '{"a": 7}',
    "beyond 64 bits": str(2**63),
    "far beyond 64 bits": str(2**64 + 1),
    "below 64 bits": str(-(2**63) - 1),
    "4000 digits": "7" * 4000,
    "zero": "0",
    "zero below zero": "-0",
}


class RequestsTestCase(BaseTestCase):
    def send(self, method, path, body=None, content_type="application/json", **options):
        """Return the answer to a body as it is, which has come in time."""
        started_at = time.monotonic()
        answer = self.client.open(
            path,
            method=method,
            data=body,
            content_type=content_type,
            headers=options.pop("headers", LEARNER),
            **options,
        )
        self.assertLess(time.monotonic() - started_at, PATIENCE_SECONDS)
        return answer

    def assert_refuses(self, answer, *fields):
        """Assert that a body was refused because of these fields, in any order."""
        body = self.assert_fails(answer, 400, "invalid_payload")
        self.assertEqual(body["message"], "Invalid payload.")
        self.assertEqual(sorted(body["errors"]), sorted(fields), body)

    def assert_refuses_query(self, answer, *parameters):
        body = self.assert_fails(answer, 400, "invalid_query")
        self.assertEqual(body["message"], "Invalid query.")
        self.assertEqual(sorted(body["errors"]), sorted(parameters), body)

    def assert_nothing_was_written(self):
        scores = self.client.get("/scores").get_json()["data"]["scores"]
        counters = self.client.get("/counters").get_json()["data"]["counters"]
        self.assertEqual((scores, counters), ([], []))


class TestBody(RequestsTestCase):
    def test_is_needed_by_scores(self):
        """Missing or empty, each field that is needed is named."""
        for method, path in SCORE_WRITES:
            for body in (None, b"", b"{}"):
                with self.subTest(method=method, path=path, body=body):
                    answer = self.send(method, path, body)

                    self.assert_refuses(answer, "exercise_id", "correct")
        self.assert_nothing_was_written()

    def test_is_needed_by_scores_whatever_it_says_it_is(self):
        for content_type in (None, "text/plain"):
            with self.subTest(content_type=content_type):
                answer = self.send("POST", "/scores", content_type=content_type)

                self.assert_refuses(answer, "exercise_id", "correct")

    def test_is_refused_where_it_is_no_json_object(self):
        """Whatever it is instead, it is a 400 everywhere, and nothing is written."""
        for method, path in WRITES:
            for name, body in NO_JSON_OBJECT.items():
                with self.subTest(name, method=method, path=path):
                    self.assert_refuses(self.send(method, path, body), "body")
        self.assert_nothing_was_written()

    def test_names_the_name_that_stands_twice(self):
        answer = self.send("POST", "/scores", b'{"correct": true, "correct": false}')

        self.assertIn("correct", answer.get_json()["errors"]["body"][0])

    def test_is_refused_in_time_where_one_of_many_names_stands_twice(self):
        """A body within the limit cannot keep a thread busy for long."""
        names = [f'"{number}": 0' for number in [*range(30_000), 29_999]]
        body = f"{{{', '.join(names)}}}".encode()
        self.assertLess(len(body), LIMIT_BYTES)

        answer = self.send(*INCREMENT, body)

        self.assert_refuses(answer, "body")

    def test_is_refused_in_time_where_it_has_many_unknown_names(self):
        names = [f'"{number}": 0' for number in range(60_000)]

        answer = self.send(*INCREMENT, f"{{{', '.join(names)}}}".encode())

        self.assert_fails(answer, 400, "invalid_payload")

    def test_is_taken_whatever_the_order_and_the_space(self):
        answer = self.send("POST", "/scores", b'\r\n{ "correct" :false,\t"exercise_id":1}\n')

        self.assertEqual(answer.status_code, 201)


class TestFields(RequestsTestCase):
    def test_takes_integers_only_for_an_exercise(self):
        for method, path in SCORE_WRITES:
            for name, text in {**NO_INTEGERS, "negative": "-1"}.items():
                with self.subTest(name, method=method, path=path):
                    body = f'{{"exercise_id": {text}, "correct": true}}'.encode()

                    self.assert_refuses(self.send(method, path, body), "exercise_id")
        self.assert_nothing_was_written()

    def test_takes_integers_only_for_a_user(self):
        for name, text in {**NO_INTEGERS, "negative": "-1"}.items():
            with self.subTest(name):
                body = f'{{"exercise_id": 1, "correct": true, "user_id": {text}}}'.encode()

                self.assert_refuses(self.send("POST", "/scores", body, headers=ADMIN), "user_id")
        self.assert_nothing_was_written()

    def test_takes_integers_only_for_a_step(self):
        for name, text in NO_INTEGERS.items():
            with self.subTest(name):
                self.assert_refuses(self.send(*INCREMENT, f'{{"by": {text}}}'.encode()), "by")
        self.assert_nothing_was_written()

    def test_takes_true_and_false_only_for_correct(self):
        for method, path in SCORE_WRITES:
            for text in ("1", "0", "1.0", '"true"', '""', "null", "[]", "[true]", "{}"):
                with self.subTest(text, method=method, path=path):
                    body = f'{{"exercise_id": 1, "correct": {text}}}'.encode()

                    self.assert_refuses(self.send(method, path, body), "correct")
        self.assert_nothing_was_written()

    def test_takes_the_largest_ids(self):
        body = f'{{"exercise_id": {LARGEST}, "correct": true, "user_id": {LARGEST}}}'.encode()

        answer = self.send("POST", "/scores", body, headers=ADMIN)

        score = answer.get_json()["data"]
        self.assertEqual((score["exercise_id"], score["user_id"]), (LARGEST, LARGEST))

    def test_names_each_field_that_is_missing_or_wrong(self):
        """All at once, so that nobody mends them one by one."""
        for sent, fields in [
            ({"correct": True}, ["exercise_id"]),
            ({"exercise_id": 1}, ["correct"]),
            ({"exercise_id": "1", "correct": 1, "x": 1}, ["exercise_id", "correct", "x"]),
        ]:
            with self.subTest(sent=sent):
                answer = self.send("POST", "/scores", json.dumps(sent))

                self.assert_refuses(answer, *fields)

    def test_refuses_an_unknown_one_by_name(self):
        """Also one that only looks like a known one."""
        names = ["colour", "Correct", "correct ", "user", "\N{SNOWMAN}", "a.b", "0", "a\0b"]
        for method, path in WRITES:
            known = {"by": 1} if (method, path) == INCREMENT else json.loads(SCORE)
            for name in names:
                with self.subTest(name, method=method, path=path):
                    answer = self.send(method, path, json.dumps({**known, name: 1}))

                    self.assert_refuses(answer, name)
        self.assert_nothing_was_written()

    def test_errors_name_nested_fields_by_path(self):
        """As JSONPath writes it; the name of a field of the body itself stays as it is."""
        for path, body, field in [
            ("/scores/batch", {"scores": [{"user_id": 1}]}, "scores[0].correct"),
            ("/scores/batch", {"scores": [7]}, "scores[0]"),
            ("/scores/batch", {"scores": 7}, "scores"),
            ("/scores/batch", {"scores": [{"a.b": 1}]}, "scores[0]['a.b']"),
            ("/counters/increment", {"increments": {"visits": 0}}, "increments.visits"),
            ("/counters/increment", {"increments": {"0": 0}}, "increments['0']"),
            ("/counters/increment", {"increments": {"a.b:c": 0}}, "increments['a.b:c']"),
            ("/counters/increment", {"increments": {"a/b": 1}}, "increments['a/b']"),
            ("/counters/increment", {"increments": {"a'\\": 1}}, "increments['a\\'\\\\']"),
            ("/counters/increment", {"increments": {"[key]": 1}}, "increments['[key]']"),
            ("/counters/increment", {"increments": {"": 1}}, "increments['']"),
            ("/counters/increment", {"a.b": 1}, "a.b"),
        ]:
            with self.subTest(field):
                answer = self.send("POST", path, json.dumps(body), headers=ADMIN)

                self.assertIn(field, self.assert_fails(answer, 400, "invalid_payload")["errors"])

    def test_error_names_the_item_of_a_long_batch(self):
        scores = [{"user_id": 1, "exercise_id": 1, "correct": True}] * 500
        scores[400] = scores[400] | {"user_id": "7"}

        answer = self.send("POST", "/scores/batch", json.dumps({"scores": scores}), headers=ADMIN)

        self.assert_refuses(answer, "scores[400].user_id")

    def test_refuses_a_name_that_is_no_text(self):
        """A lone surrogate is JSON, but cannot be written back as UTF-8."""
        for method, path in WRITES:
            known = {"by": 1} if (method, path) == INCREMENT else json.loads(SCORE)
            with self.subTest(method=method, path=path):
                answer = self.send(method, path, json.dumps({**known, "\ud800": 1}))

                self.assert_refuses(answer, "body")
        self.assert_nothing_was_written()


class TestContentType(RequestsTestCase):
    def test_is_json_or_the_body_is_refused(self):
        others = [
            None,
            "",
            "json",
            "text/plain",
            "text/json",
            "application/jsonp",
            "application/xml",
            "application/problem+json",
            "application/merge-patch+json",
            "application/x-www-form-urlencoded",
            "multipart/form-data; boundary=x",
            "multipart/form-data",
            "x" * 10_000,
            "text/plain; application/json",
        ]
        for method, path in WRITES:
            for content_type in others:
                with self.subTest(content_type, method=method, path=path):
                    answer = self.send(method, path, SCORE, content_type)

                    self.assert_fails(answer, 415, "unsupported_media_type")
        self.assert_nothing_was_written()

    def test_body_is_rejected_when_it_has_a_content_encoding(self):
        """Whether or not the body is really compressed."""
        for coding in (
            "gzip",
            "GZIP",
            "x-gzip",
            "deflate",
            "br",
            "zstd",
            "gzip, gzip",
            "aws-chunked",
        ):
            for body in (gzip.compress(SCORE), SCORE):
                for method, path in WRITES:
                    with self.subTest(coding, method=method, path=path):
                        headers = {**ADMIN, "Content-Encoding": coding}

                        answer = self.send(method, path, body, headers=headers)

                        body_ = self.assert_fails(answer, 415, "unsupported_media_type")
                        self.assertIn("without Content-Encoding", body_["message"])
                        self.assertEqual(answer.headers["Accept-Encoding"], "identity")
        self.assert_nothing_was_written()

    def test_body_is_accepted_when_its_content_encoding_is_identity(self):
        for number, coding in enumerate(("identity", "Identity", ""), start=1):
            with self.subTest(coding):
                body = b'{"exercise_id": %d, "correct": true}' % number
                headers = {**ADMIN, "Content-Encoding": coding}

                answer = self.send("POST", "/scores", body, headers=headers)

                self.assertEqual(answer.status_code, 201)

    def test_may_name_its_charset(self):
        for number, content_type in enumerate(
            [
                "application/json; charset=utf-8",
                "application/json;charset=UTF-8",
                "Application/JSON",
            ]
        ):
            with self.subTest(content_type):
                by_patch = self.send("PATCH", "/scores", SCORE, content_type)
                counted = self.send(*INCREMENT, b'{"by": 1}', content_type)

                self.assertIn(by_patch.status_code, (200, 201))
                self.assertEqual(counted.get_json()["data"]["value"], number + 1)


class TestSize(RequestsTestCase):
    def padded(self, size):
        return SCORE + b" " * (size - len(SCORE))

    def chunked(self, method, path, body):
        """Send a body as a server hands on chunks: it ends where it ends, and nobody knew when."""
        return self.send(
            method,
            path,
            input_stream=io.BytesIO(body),
            environ_overrides={"HTTP_TRANSFER_ENCODING": "chunked", "wsgi.input_terminated": True},
        )

    def test_may_be_a_mebibyte(self):
        whole = self.send("POST", "/scores", self.padded(LIMIT_BYTES))
        in_chunks = self.chunked("PATCH", "/scores", self.padded(LIMIT_BYTES))

        self.assertEqual((whole.status_code, in_chunks.status_code), (201, 200))

    def test_is_refused_beyond_that(self):
        for method, path in WRITES:
            with self.subTest(method=method, path=path):
                whole = self.send(method, path, self.padded(LIMIT_BYTES + 1))
                in_chunks = self.chunked(method, path, self.padded(LIMIT_BYTES + 1))

                self.assert_fails(whole, 413, "payload_too_large")
                self.assert_fails(in_chunks, 413, "payload_too_large")
        self.assert_nothing_was_written()

    def test_is_refused_by_what_it_says_before_it_is_read(self):
        class Unread(io.BytesIO):
            def read(self, *_):
                raise AssertionError("the body was read")

            readinto = readline = read

        terabyte = {"CONTENT_LENGTH": str(10**12)}

        answer = self.send("POST", "/scores", input_stream=Unread(), environ_overrides=terabyte)

        self.assert_fails(answer, 413, "payload_too_large")


class TestPath(RequestsTestCase):
    NO_IDS = (
        "blah",
        "0",
        "-1",
        "+1",
        "1.0",
        "1e3",
        "0x1",
        "1_000",
        "%201",
        "1%0A",
        "%00",
        "%ff",
        str(2**63),
        "99999999999999999999",
        "7" * 5000,
        "٣",
        "²",
        "\N{SNOWMAN}",
        "1;DROP TABLE scores",
    )

    def test_names_no_score_where_it_has_no_id(self):
        add_score(user_id=7, exercise_id=1)
        for name in self.NO_IDS:
            for method in ("GET", "PUT", "PATCH", "DELETE"):
                with self.subTest(name[:30], method=method):
                    answer = self.send(method, f"/scores/{name}", SCORE, headers=ADMIN)

                    body = self.assert_fails(answer, 404, "score_not_found")
                    self.assertEqual(body["message"], "Score does not exist")
            with self.subTest(name[:30], path="/scores/user"):
                answer = self.send("GET", f"/scores/user/{name}")

                self.assert_fails(answer, 404, "score_not_found")

    def test_names_no_counter_where_the_name_cannot_be_one(self):
        """Nobody can increment it, and nobody finds it."""
        for name in ("%00", "a%00b", "a" * 129, "a%20b", "%20", "é", "a%0A", "a+b", "a%25", "a*"):
            for prefix, headers in (("", LEARNER), ("public:", None)):
                with self.subTest(prefix + name[:30]):
                    path = f"/counters/{prefix}{name}"
                    incremented = self.send("POST", f"{path}/increment", headers=headers)
                    looked_up = self.send("GET", path)

                    self.assert_refuses(incremented, "name")
                    self.assert_fails(looked_up, 404, "counter_not_found")
        self.assert_nothing_was_written()

    def test_does_not_exist_with_a_slash_in_the_name(self):
        for name in ("a/b", "a%2Fb", "/", "a/", "/a", "", "..%2Fa"):
            with self.subTest(name):
                answer = self.send("POST", f"/counters/{name}/increment")

                self.assert_fails(answer, 404, "not_found")
        self.assert_nothing_was_written()

    def test_takes_every_character_that_a_name_may_have(self):
        for name in ("a", "A-z_0.9:x", "..a", "a..", ".:.", "a" * 128):
            with self.subTest(name):
                answer = self.send("POST", f"/counters/{name}/increment")

                self.assertEqual(answer.get_json()["data"], {"name": name, "value": 1})

    def test_counter_name_has_not_only_dots(self):
        """Clients and proxies resolve `.` and `..` in a path; longer ones look too much like it."""
        for name in (".", "..", "...", "." * 128):
            with self.subTest(name):
                one = self.send("POST", f"/counters/{name}/increment")
                many = self.send(
                    "POST", "/counters/increment", json.dumps({"increments": {name: 1}})
                )
                put = self.send(
                    "PUT", f"/counters/{name}", b'{"value": 1}',
                    headers=ADMIN | {"If-None-Match": "*"},
                )  # fmt: skip

                self.assert_refuses(one, "name")
                self.assert_refuses(many, f"increments['{name}']")
                self.assert_refuses(put, "name")
        self.assert_nothing_was_written()

    def test_counter_of_dots_can_still_be_read_and_deleted(self):
        """It may have been made before its name was refused."""
        add_counter("...")

        self.assertEqual(self.send("GET", "/counters/...").status_code, 200)
        self.assertEqual(self.send("GET", "/counters?prefix=..").status_code, 200)
        self.assertEqual(self.send("DELETE", "/counters/...", headers=ADMIN).status_code, 200)
        self.assert_nothing_was_written()

    def test_is_answered_in_json_where_it_is_unknown(self):
        for path in (
            "/nothing",
            "/scores/",
            "/scores//",
            "/scores/1/2",
            "/counters/",
            "/%ff",
            "/a b",
        ):
            for method in ("GET", "POST", "DELETE"):
                with self.subTest(path, method=method):
                    body = self.assert_fails(self.send(method, path), 404, "not_found")

                    self.assertEqual(body["message"], "Not found.")


class TestQuery(RequestsTestCase):
    def test_is_refused_where_a_value_is_wrong(self):
        """Everywhere alike, and the parameter is named."""
        no_integers = ["", "0", "-1", "abc", "1.0", "1e2", "+1", "%201", "٣", "true", "7" * 5000]
        wrong = {
            "limit": [*no_integers, "1001", "99999", str(2**64)],
            "cursor": ["", "xyz", "0" * 1002],
            "user_id": [*no_integers, str(2**63), "9" * 19],
            "exercise_id": [*no_integers, str(2**63)],
            "correct": ["", "1", "0", "True", "yes", "null"],
            "updated_since": [
                "",
                "now",
                "1767225600",
                "1767225600.5",
                "2026-01-01",
                "2026-01-01T00:00:00",
                "2026-01-01%2000:00:00Z",
                "2026-01-01T00:00Z",
                "2026-02-30T00:00:00Z",
                "2026-01-01T24:30:00Z",
                "0000-01-01T00:00:00Z",
                "2026-01-01T00:00:00%2B99:00",
                "2026-01-01T00:00:00.Z",
                "2026-01-01T00:00:00Z%00",
                "٢026-01-01T00:00:00Z",
            ],
            "prefix": ["", "a%20b", "a" * 129, "%00", "é", "a/b", "%25"],
        }
        lists = {
            "/scores": ["limit", "cursor", "user_id", "exercise_id", "correct", "updated_since"],
            "/scores/user": ["limit", "cursor", "exercise_id", "correct", "updated_since"],
            "/counters": ["limit", "cursor", "prefix"],
        }
        for path, parameters in lists.items():
            for parameter in parameters:
                for value in wrong[parameter]:
                    with self.subTest(path, parameter=parameter, value=value[:30]):
                        answer = self.send("GET", f"{path}?{parameter}={value}")

                        self.assert_refuses_query(answer, parameter)

    def test_takes_every_time_that_has_a_zone(self):
        add_score()
        for moment, shown in [
            ("2026-01-01T00:00:00Z", 1),
            ("2026-01-01t00:00:00z", 1),
            ("2026-01-01T00:00:00.123456789%2B05:30", 1),
            ("2026-01-01T00:00:00-23:59", 1),
            ("2026-01-01T00:00:00%2B23:59", 1),
            ("0001-01-01T00:00:00Z", 1),
            ("9999-12-31T23:59:59.999999Z", 0),
        ]:
            with self.subTest(moment):
                answer = self.send("GET", f"/scores?updated_since={moment}")

                self.assertEqual(answer.status_code, 200)
                self.assertEqual(len(answer.get_json()["data"]["scores"]), shown)

    def test_survives_the_ends_of_the_calendar(self):
        """In UTC these lie in the years 0 and 10000, which may be refused."""
        for moment in ("0001-01-01T00:00:00%2B23:59", "9999-12-31T23:59:59-23:59"):
            with self.subTest(moment):
                answer = self.send("GET", f"/scores?updated_since={moment}")

                self.assertIn(answer.status_code, (200, 400))

    def test_is_refused_where_a_parameter_stands_twice(self):
        for path in ("/scores", "/scores/user", "/counters"):
            with self.subTest(path):
                answer = self.send("GET", f"{path}?limit=1&limit=2")

                self.assert_refuses_query(answer, "limit")

    def test_is_refused_where_a_parameter_is_unknown(self):
        """By name, on lists as well as where there are no parameters at all."""
        add_score(user_id=7)
        add_counter("visits")
        for method, path in [
            ("GET", "/scores"),
            ("GET", "/scores/user"),
            ("GET", "/scores/user/1"),
            ("GET", "/scores/1"),
            ("GET", "/counters"),
            ("GET", "/counters/visits"),
            ("GET", "/ping"),
            ("GET", "/health"),
            ("GET", "/ready"),
            ("DELETE", "/scores/1"),
            *WRITES,
        ]:
            for query, named in [
                ("colour=1", "colour"),
                ("Limit=1", "Limit"),
                ("colour", "colour"),
                ("=1", ""),
                ("a%5B%5D=1", "a[]"),
                ("%ff=1", "%FF"),
                ("%00=1", "\0"),
            ]:
                with self.subTest(query, method=method, path=path):
                    answer = self.send(method, f"{path}?{query}", headers=ADMIN)

                    self.assert_refuses_query(answer, named)


class TestCursor(RequestsTestCase):
    def setUp(self):
        super().setUp()
        for exercise_id in (1, 2, 3):
            add_score(user_id=7, exercise_id=exercise_id)
            add_counter(f"visits:{exercise_id}")

    def cursor(self, path):
        cursor = self.send("GET", path).get_json()["data"]["next_cursor"]
        self.assertRegex(cursor, "^[0-9a-f]+$")
        return cursor

    def assert_foreign(self, path, cursor):
        separator = "&" if "?" in path else "?"
        answer = self.send("GET", f"{path}{separator}limit=1&cursor={cursor}")
        self.assert_refuses_query(answer, "cursor")

    def test_goes_on_where_the_page_before_ended(self):
        cursor = self.cursor("/scores?limit=1")

        answer = self.send("GET", f"/scores?limit=1&cursor={cursor}")

        self.assertEqual([score["id"] for score in answer.get_json()["data"]["scores"]], [2])

    def test_belongs_to_its_list_and_filters(self):
        lists = [
            "/scores",
            "/scores?user_id=7",
            "/scores?exercise_id=7",
            "/scores?correct=true",
            "/scores?correct=true&user_id=7",
            "/scores?updated_since=2026-01-01T00:00:00Z",
            "/scores?updated_since=2026-01-02T00:00:00Z",
            "/scores/user",
            "/scores/user?correct=true",
            "/counters",
            "/counters?prefix=visits",
            "/counters?prefix=visits:",
        ]
        for given in lists:
            if given == "/scores?exercise_id=7":
                continue  # it has one page only
            cursor = self.cursor(given + ("&" if "?" in given else "?") + "limit=1")
            for other in lists:
                if other != given:
                    with self.subTest(given=given, other=other):
                        self.assert_foreign(other, cursor)

    def test_belongs_to_its_user(self):
        cursor = self.cursor("/scores/user?limit=1")

        answer = self.send("GET", f"/scores/user?limit=1&cursor={cursor}", headers=ADMIN)

        self.assert_refuses_query(answer, "cursor")

    def test_is_refused_where_it_was_changed(self):
        """In upper case, cut, prolonged, or with one bit flipped, wherever that is."""
        for path in ("/scores", "/counters"):
            cursor = self.cursor(f"{path}?limit=1")
            raw = bytes.fromhex(cursor)
            flipped = [
                (raw[:place] + bytes([raw[place] ^ bit]) + raw[place + 1 :]).hex()
                for place in range(len(raw))
                for bit in (1, 128)
            ]
            cut = [cursor[:length] for length in range(1, len(cursor))]
            longer = [f"{cursor}0", f"{cursor}00", f"{cursor}31", f"00{cursor}", cursor * 2]
            for wrong in [cursor.upper(), f"%20{cursor}", *flipped, *cut, *longer]:
                with self.subTest(path, wrong=wrong):
                    self.assert_foreign(path, wrong)


class TestMethod(RequestsTestCase):
    def test_is_refused_with_those_that_are_allowed(self):
        for method, path, allowed in [
            ("DELETE", "/scores", {"GET", "HEAD", "OPTIONS", "PATCH", "POST"}),
            ("BREW", "/scores", {"GET", "HEAD", "OPTIONS", "PATCH", "POST"}),
            ("POST", "/scores/1", {"GET", "HEAD", "OPTIONS", "PUT", "PATCH", "DELETE"}),
            ("POST", "/health", {"GET", "HEAD", "OPTIONS"}),
            ("TRACE", "/ping", {"GET", "HEAD", "OPTIONS"}),
            ("POST", "/", {"GET", "HEAD", "OPTIONS"}),
        ]:
            with self.subTest(method=method, path=path):
                answer = self.send(method, path)

                self.assert_fails(answer, 405, "method_not_allowed")
                self.assertEqual(set(answer.headers["Allow"].split(", ")), allowed)

    def test_may_be_head_wherever_it_may_be_get(self):
        """The same header fields, and no body."""
        add_score()
        add_counter("visits")
        for path in ("/health", "/ping", "/scores", "/scores/1", "/counters/visits", "/nothing"):
            with self.subTest(path):
                got = self.send("GET", path)
                head = self.send("HEAD", path)

                self.assertEqual((head.status_code, head.data), (got.status_code, b""))
                for name in ("Content-Type", "Content-Length", "ETag"):
                    self.assertEqual(head.headers.get(name), got.headers.get(name))

    def test_may_be_options_without_a_token(self):
        for path in ("/scores", "/scores/1", "/ping", "/counters/visits/increment"):
            with self.subTest(path):
                answer = self.send("OPTIONS", path, headers=None)

                self.assertEqual(answer.status_code, 200)
                self.assertIn("OPTIONS", answer.headers["Allow"])


# One request for each kind of answer.
ANSWERS = [
    ("GET", "/health", None, 200),
    ("GET", "/", None, 200),
    ("GET", "/openapi.json", None, 200),
    ("OPTIONS", "/scores", None, 200),
    ("HEAD", "/health", None, 200),
    ("PATCH", "/scores", LEARNER, 201),
    ("GET", "/scores?limit=0", None, 400),
    ("POST", "/scores?x=1", LEARNER, 400),
    ("GET", "/ping", {"Authorization": "Bearer"}, 401),
    ("GET", "/ping", None, 403),
    ("DELETE", "/scores/1", LEARNER, 403),
    ("GET", "/scores/blah", None, 404),
    ("GET", "/nothing", None, 404),
    ("DELETE", "/scores", None, 405),
]


class TestRequestId(RequestsTestCase):
    def test_is_on_every_answer(self):
        for method, path, headers, status in ANSWERS:
            with self.subTest(method=method, path=path):
                new = self.send(method, path, SCORE, headers=headers)
                sent = {**(headers or {}), "X-Request-ID": "abc-123"}
                echoed = self.send(method, path, SCORE, headers=sent)

                self.assertEqual(new.status_code, status)
                self.assertRegex(new.headers["X-Request-ID"], "^[!-~]{16,64}$")
                self.assertEqual(echoed.headers.getlist("X-Request-ID"), ["abc-123"])

    def test_is_a_new_one_every_time(self):
        ids = {self.send("GET", "/health").headers["X-Request-ID"] for _ in range(50)}

        self.assertEqual(len(ids), 50)

    def test_is_replaced_where_it_is_long_or_unprintable(self):
        for sent in ("", "x" * 1000, "x" * 100_000, "a\x07b", "a\x7fb", "é", "\x1b[31m", "a\tb"):
            with self.subTest(sent[:10]):
                answer = self.send("GET", "/health", headers={"X-Request-ID": sent})

                self.assertRegex(answer.headers["X-Request-ID"], "^[0-9a-zA-Z-]{16,64}$")


class TestProblem(RequestsTestCase):
    def test_is_given_to_who_asks_for_it(self):
        """RFC 9457, with the code and the errors of the envelope."""
        answer = self.send(
            "POST", "/scores", b"{}", headers={**LEARNER, "Accept": "application/problem+json"}
        )

        body = answer.get_json()
        self.assertEqual(answer.mimetype, "application/problem+json")
        self.assertEqual(answer.status_code, 400)
        self.assertEqual(body["type"], "/problems/invalid_payload")
        self.assertEqual((body["status"], body["title"]), (400, "Invalid payload."))
        self.assertEqual(body["code"], "invalid_payload")
        self.assertEqual(sorted(body["errors"]), ["correct", "exercise_id"])

    def test_is_given_with_every_error(self):
        for method, path, headers, status in ANSWERS:
            if status < 400:
                continue
            with self.subTest(method=method, path=path):
                accept = {**(headers or {}), "Accept": "application/problem+json"}
                answer = self.send(method, path, SCORE, headers=accept)

                self.assertEqual(answer.status_code, status)
                self.assertEqual(answer.mimetype, "application/problem+json")
                self.assertEqual(answer.get_json()["status"], status)
                self.assertTrue(answer.get_json()["type"].startswith("/problems/"))

    def test_is_given_to_who_likes_it_best(self):
        for accept, mimetype in [
            ("application/problem+json, application/json;q=0.5", "application/problem+json"),
            ("application/json, application/problem+json;q=0.5", "application/json"),
            ("*/*", "application/json"),
            ("nonsense;;q=x", "application/json"),
            ("", "application/json"),
        ]:
            with self.subTest(accept):
                answer = self.send("GET", "/nothing", headers={"Accept": accept})

                self.assertEqual((answer.status_code, answer.mimetype), (404, mimetype))

    def test_is_no_form_of_success(self):
        answer = self.send("GET", "/health", headers={"Accept": "application/problem+json"})

        self.assertEqual((answer.status_code, answer.mimetype), (200, "application/json"))


class TestInternalError(RequestsTestCase):
    def fail(self, **headers):
        """Return the answer of a view that has a bug, and the records that it logged."""
        bug = RuntimeError("hunter2 is the password")
        with (
            mock.patch("project.api.scores.queries.select_score", side_effect=bug),
            self.assertLogs(self.app.logger, "WARNING") as logs,
        ):
            return self.send("GET", "/scores/1", headers=headers), logs.records

    def test_gives_the_id_of_the_request_and_no_trace(self):
        for headers in ({}, {"X-Request-ID": "abc-123"}):
            with self.subTest(headers=headers):
                answer, _ = self.fail(**headers)

                body = self.assert_fails(answer, 500, "internal")
                self.assertEqual(body["request_id"], answer.headers["X-Request-ID"])
                for word in (b"hunter2", b"RuntimeError", b"Traceback", b".py"):
                    self.assertNotIn(word, answer.data)

    def test_gives_a_problem_to_who_asks_for_one(self):
        answer, _ = self.fail(Accept="application/problem+json")

        self.assertEqual((answer.status_code, answer.mimetype), (500, "application/problem+json"))
        self.assertEqual(answer.get_json()["request_id"], answer.headers["X-Request-ID"])

    def test_is_logged_once_with_its_trace(self):
        answer, records = self.fail()

        [record] = records
        self.assertEqual(record.levelname, "ERROR")
        self.assertIn(answer.headers["X-Request-ID"], record.getMessage())
        self.assertIn("hunter2", str(record.exc_info[1]))

    def test_leaves_the_service_as_it_was(self):
        add_score()
        self.fail()

        self.assertEqual(self.send("GET", "/scores/1").status_code, 200)


ALLOWED = "https://learn.example.org"
EXPOSED = {
    "etag",
    "link",
    "location",
    "retry-after",
    "idempotency-replayed",
    "x-request-id",
    "ratelimit",
    "ratelimit-policy",
}


class TestCors(RequestsTestCase):
    @classmethod
    def setUpClass(cls):
        known = {
            "CORS_ORIGINS": f"{ALLOWED}:443, http://localhost:3000, capacitor://localhost",
            "USERS_SERVICE_URL": users_service().url,
        }
        cls.strict_app = create_app(type("Strict", (TestingConfig,), known))

    def setUp(self):
        super().setUp()
        self.client = self.strict_app.test_client()

    def test_lets_an_allowed_origin_read_every_answer(self):
        for origin in (ALLOWED, "http://localhost:3000", "capacitor://localhost"):
            for method, path, headers, status in ANSWERS:
                with self.subTest(origin, method=method, path=path):
                    sent = {**(headers or {}), "Origin": origin}
                    answer = self.send(method, path, SCORE, headers=sent)

                    self.assertEqual(answer.headers["Access-Control-Allow-Origin"], origin)
                    self.assertNotIn("Access-Control-Allow-Credentials", answer.headers)
                    self.assertIn("Origin", answer.headers.getlist("Vary"))
                    if method != "OPTIONS":
                        exposed = answer.headers["Access-Control-Expose-Headers"].lower()
                        self.assertLessEqual(EXPOSED, set(exposed.split(", ")))
                        self.assertIn(answer.status_code, (status, 200))

    def test_lets_it_read_the_worst_answers(self):
        """Also those of a bug, of a large body and of a wrong media type."""
        for status, options in [
            (413, {"body": b" " * (LIMIT_BYTES + 1)}),
            (415, {"body": SCORE, "content_type": "text/plain"}),
            (400, {"body": b"{}"}),
        ]:
            with self.subTest(status):
                answer = self.send(
                    "POST", "/scores", headers={**LEARNER, "Origin": ALLOWED}, **options
                )

                self.assertEqual(answer.status_code, status)
                self.assertEqual(answer.headers["Access-Control-Allow-Origin"], ALLOWED)
        bug = mock.patch("project.api.scores.queries.select_page", side_effect=RuntimeError)
        with bug, self.assertLogs(self.app.logger, "ERROR"):
            answer = self.send("GET", "/scores", headers={"Origin": ALLOWED})

        self.assertEqual(answer.status_code, 500)
        self.assertEqual(answer.headers["Access-Control-Allow-Origin"], ALLOWED)

    def test_tells_no_other_origin_anything(self):
        for origin in (
            "https://evil.example",
            f"{ALLOWED}.evil.example",
            f"{ALLOWED}:444",
            "http://learn.example.org",
            "https://learnXexample.org",
            "https://evil.example/https://learn.example.org",
            "http://localhost",
            "null",
            "*",
        ):
            for method, path, headers, _ in ANSWERS:
                with self.subTest(origin, method=method, path=path):
                    sent = {**(headers or {}), "Origin": origin}
                    answer = self.send(method, path, SCORE, headers=sent)

                    self.assertNotIn("Access-Control-Allow-Origin", answer.headers)
                    self.assertNotIn("Access-Control-Allow-Credentials", answer.headers)

    def test_answers_what_a_browser_asks_beforehand(self):
        """Every method and header field that this API has may be used."""
        wanted = "authorization, content-type, idempotency-key, if-match, if-none-match"
        for method, path in [("PUT", "/scores/1"), ("PATCH", "/scores"), INCREMENT]:
            with self.subTest(method=method, path=path):
                asked = {
                    "Access-Control-Request-Method": method,
                    "Access-Control-Request-Headers": wanted,
                }
                yes = self.send("OPTIONS", path, headers={**asked, "Origin": ALLOWED})
                no = self.send("OPTIONS", path, headers={**asked, "Origin": "https://evil.example"})

                self.assertEqual(yes.status_code, 200)
                self.assertEqual(yes.headers["Access-Control-Allow-Origin"], ALLOWED)
                self.assertIn(method, yes.headers["Access-Control-Allow-Methods"])
                fields = yes.headers["Access-Control-Allow-Headers"].lower()
                self.assertLessEqual(set(wanted.split(", ")), set(fields.split(", ")))
                self.assertNotIn("Access-Control-Allow-Origin", no.headers)

    def test_preflight_allows_the_headers_that_it_asks_for(self):
        """Whatever they are: a browser sends only those that the page sets."""
        for wanted in (
            "x-requested-with",
            "authorization,baggage,sentry-trace,x-csrf-token",
            "Cache-Control, Pragma",
            "tracestate",
            ", ".join(f"x-header-{number}" for number in range(100)),
        ):
            with self.subTest(wanted[:40]):
                answer = self.send(
                    "OPTIONS",
                    "/scores",
                    headers={
                        "Origin": ALLOWED,
                        "Access-Control-Request-Method": "PATCH",
                        "Access-Control-Request-Headers": wanted,
                    },
                )

                allowed = answer.headers["Access-Control-Allow-Headers"].split(",")
                self.assertEqual(
                    {name.strip() for name in allowed}, {name.strip() for name in wanted.split(",")}
                )

    def test_preflight_succeeds_on_every_route_with_any_query(self):
        """The query belongs to the request that follows, which may be answered by another view."""
        for rule in self.strict_app.url_map.iter_rules():
            path = re.sub("<[^>]+>", "1", rule.rule)
            for method in rule.methods - {"OPTIONS"}:
                with self.subTest(method=method, path=path):
                    answer = self.send(
                        "OPTIONS",
                        f"{path}?limit=1&prefix=a&cursor=x&window=day&label=b",
                        headers={"Origin": ALLOWED, "Access-Control-Request-Method": method},
                    )

                    self.assertEqual(answer.status_code, 200)
                    self.assertEqual(answer.headers["Access-Control-Allow-Origin"], ALLOWED)

    def test_never_allows_credentials_to_all(self):
        known = {"CORS_ORIGINS": "*", "USERS_SERVICE_URL": users_service().url}
        self.client = create_app(type("Open", (TestingConfig,), known)).test_client()

        for method, path, headers, _ in ANSWERS:
            with self.subTest(method=method, path=path):
                sent = {**(headers or {}), "Origin": "https://any.example"}
                answer = self.send(method, path, SCORE, headers=sent)

                allowed = answer.headers["Access-Control-Allow-Origin"]
                self.assertIn(allowed, ("*", "https://any.example"))
                self.assertNotIn("Access-Control-Allow-Credentials", answer.headers)
