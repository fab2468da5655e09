"""What a caller writes stays a value, and becomes no SQL, header, markup or line of a log."""

import logging
import re
import time
import xml.etree.ElementTree as ET
from contextlib import ExitStack
from unittest import mock
from urllib.parse import quote

import psycopg2

from project import create_app, db
from project.config import ProductionConfig, SettingError, TestingConfig
from project.tests import users_service as fakes
from project.tests.base import ADMIN, LEARNER, BaseTestCase, users_service
from project.tests.security.operations import operations
from project.tests.utils import add_counter, add_score
from project.tokens import Tokens
from project.users import User

SQL = [
    "'",
    '"',
    "1' OR '1'='1",
    "1 OR 1=1",
    "'; DROP TABLE scores; --",
    "1); SELECT pg_sleep(60); --",
    "' UNION SELECT current_user --",
    "\\'; --",
    "$1",
    "$$; DROP TABLE counters; $$",
    ":names",
    "%(names)s %s %",
    "%27%20OR%201=1",
    "{{7*7}}${7*7}",
    "/**/",
]
# What a header cannot carry, but a path, a query and JSON can.
UNPRINTABLE = ["\0", "a\0b", "\r\nX-Injected: yes", "\u2028", "\x1b[31m", "é", "\U0001f600"]
# What SQL tells to sleep; with hundreds of texts, one that is obeyed is enough.
SLEPT_SECONDS = 60
SPACE = "{http://www.w3.org/2000/svg}"


class InjectionTestCase(BaseTestCase):
    def setUp(self):
        super().setUp()
        add_score(user_id=7, exercise_id=1)
        add_counter("visits")
        self.document = self.client.get("/openapi.json").get_json()

    def in_each_place(self, texts, check):
        """Send each of the texts in each place of each operation, and check the answers."""
        for operation in operations(self.document):
            for place, name in operation.places:
                for text in texts:
                    if place == "header" and not (text.isprintable() and text.isascii()):
                        continue
                    request = operation.request(place, name, text)
                    request["headers"] = {**ADMIN, **request["headers"]}
                    with self.subTest(operation.id, place=place, name=name, text=text):
                        check(self.client.open(**request))


class TestSql(InjectionTestCase):
    def test_is_no_parameter_of_any_operation(self):
        """Whatever is sent where, the answer is no 500, comes at once, and says nothing of SQL."""

        def check(answer):
            self.assertLess(answer.status_code, 500, answer.data)
            if answer.status_code >= 400:
                for word in (b"psycopg", b"syntax error", b"relation", b"LINE 1"):
                    self.assertNotIn(word, answer.data)

        began = time.monotonic()
        with self.assertNoLogs(level="ERROR"):
            self.in_each_place(SQL + UNPRINTABLE, check)

        self.assertLess(time.monotonic() - began, SLEPT_SECONDS)
        with db.engine.connect() as connection:
            for table in db.metadata.sorted_tables:
                connection.execute(table.select().limit(1))

    def test_is_no_name_of_a_counter(self):
        for text in SQL + UNPRINTABLE:
            with self.subTest(text):
                answer = self.client.post(
                    "/counters/increment", json={"increments": {text: 1}}, headers=ADMIN
                )

                self.assertIn(answer.status_code, (200, 400))
        names = [row["name"] for row in self.client.get("/counters").get_json()["data"]["counters"]]
        self.assertEqual(set(names) - {":names", "visits"}, set())

    def test_is_no_filter(self):
        """A filter that is always true would show what it should hide."""
        add_score(user_id=8, exercise_id=1)
        for text in ("7 OR 1=1", "7' OR '1'='1", "7--", "7;", "7 "):
            answer = self.client.get("/scores", query_string={"user_id": text})
            self.assert_fails(answer, 400, "invalid_query")
        for text in ("%", "_", "visit_", "v%", "\\"):
            answer = self.client.get("/counters", query_string={"prefix": text})
            found = answer.get_json().get("data", {"counters": []})["counters"]
            self.assertEqual(found, [])

    def test_is_kept_as_it_is_where_it_is_a_key(self):
        for text in SQL:
            with self.subTest(text):
                headers = LEARNER | {"Idempotency-Key": text}
                first = self.client.post("/counters/c/increment", headers=headers)
                again = self.client.post("/counters/c/increment", headers=headers)

                if first.status_code == 200:
                    self.assertEqual((first.data, again.data), (first.data, first.data))
                else:
                    self.assert_fails(first, 400, "invalid_payload")


class TestHeaders(InjectionTestCase):
    """No caller writes a header of an answer, or makes an answer of two."""

    def assert_sound(self, answer):
        self.assertNotIn("X-Injected", answer.headers)
        self.assertNotIn("Set-Cookie", answer.headers)
        for name, value in answer.headers:
            self.assertRegex(f"{name}: {value}", r"\A[\x20-\x7e]*\Z")

    def test_are_written_by_no_parameter(self):
        self.in_each_place(["a\r\nX-Injected: yes", "a\nSet-Cookie: a=b"], self.assert_sound)

    def test_are_written_by_no_header(self):
        """As a lenient server in front might pass them on."""
        hostile = "a\r\nX-Injected: yes"
        for name in ("X_REQUEST_ID", "IDEMPOTENCY_KEY", "ORIGIN", "IF_NONE_MATCH", "ACCEPT",
                     "HOST", "ACCESS_CONTROL_REQUEST_HEADERS", "AUTHORIZATION"):  # fmt: skip
            for method in ("GET", "POST", "OPTIONS"):
                with self.subTest(name, method=method):
                    answer = self.client.open(
                        "/scores",
                        method=method,
                        environ_overrides={
                            "HTTP_ORIGIN": "https://a.example",
                            f"HTTP_{name}": hostile,
                        },
                    )

                    self.assertLess(answer.status_code, 500)
                    self.assert_sound(answer)

    def test_lead_nowhere_else(self):
        """Cache poisoning: nothing of an answer depends on what no cache looks at."""
        add_score(user_id=8, exercise_id=1)
        path = "/scores?limit=1"
        clean = self.client.get(path)
        for name in ("X-Forwarded-Host", "X-Forwarded-Proto", "X-Forwarded-Prefix", "Forwarded",
                     "X-Original-URL", "X-Rewrite-URL", "X-Host", "Host", "User-Agent",
                     "Accept-Language", "Cookie", "X-Forwarded-Scheme"):  # fmt: skip
            with self.subTest(name):
                answer = self.client.get(path, headers={name: "evil.example"})

                self.assertEqual(answer.data, clean.data)
                self.assertEqual(
                    {k: v for k, v in answer.headers if k != "X-Request-ID"},
                    {k: v for k, v in clean.headers if k != "X-Request-ID"},
                )
        self.assertTrue(clean.headers["Link"].startswith("</scores?"))


class TestCaches(InjectionTestCase):
    def test_keep_nothing_that_came_with_a_token(self):
        for method, path, body in (
            ("GET", "/scores/user", None),
            ("GET", "/scores/user/1", None),
            ("GET", "/scores/user/progress", None),
            ("GET", "/scores/1/history", None),
            ("GET", "/scores/leaderboard?around=me", None),
            ("GET", "/scores/1", None),
            ("PATCH", "/scores", {"exercise_id": 1, "correct": True}),
            ("GET", "/scores/user/99", None),
        ):
            with self.subTest(path):
                answer = self.client.open(path, method=method, json=body, headers=LEARNER)

                self.assertEqual(answer.headers.getlist("Cache-Control"), ["no-store"])
                tag = answer.headers.get("ETag", "")
                again = self.client.get(path, headers=LEARNER | {"If-None-Match": tag})
                self.assertEqual(again.headers.getlist("Cache-Control"), ["no-store"])

    def test_ask_again_before_they_show_what_is_open(self):
        for path in ("/scores", "/scores/1", "/scores/leaderboard", "/counters/visits", "/metrics",
                     "/health", "/counters/visits/badge.svg", "/openapi.json"):  # fmt: skip
            with self.subTest(path):
                self.assertEqual(
                    self.client.get(path).headers.getlist("Cache-Control"), ["no-cache"]
                )
        self.assertEqual(self.client.get("/").headers.getlist("Cache-Control"), ["no-store"])

    def test_keep_no_error(self):
        for method, path, body in (
            ("GET", "/scores/99", None),
            ("GET", "/nothing", None),
            ("GET", "/scores?limit=0", None),
            ("DELETE", "/scores", None),
            ("GET", "/ping", None),
            ("POST", "/scores", {}),
        ):
            with self.subTest(path):
                answer = self.client.open(path, method=method, json=body)

                self.assertEqual(answer.headers.getlist("Cache-Control"), ["no-store"])

    def test_tell_origins_apart(self):
        known = {"CORS_ORIGINS": "https://a.example,https://b.example", "USERS_SERVICE_URL": None}
        client = create_app(type("Two", (TestingConfig,), known)).test_client()

        for headers in ({}, {"Origin": "https://a.example"}, {"Origin": "https://evil.example"}):
            with self.subTest(headers):
                answer = client.get("/scores", headers=headers)

                self.assertEqual(answer.headers.getlist("Vary"), ["Origin"])


class TestBrowsers(InjectionTestCase):
    """CSRF, CORS and sniffing: another site gets nothing, and has nothing done."""

    def test_are_told_not_to_guess_and_not_to_tell(self):
        for path in ("/scores", "/nothing", "/", "/docs", "/metrics", "/openapi.json",
                     "/static/style.css", "/counters/visits/badge.svg"):  # fmt: skip
            for method in ("GET", "HEAD", "OPTIONS", "POST"):
                with self.subTest(path, method=method):
                    answer = self.client.open(path, method=method)

                    guarded = answer.headers.getlist("X-Content-Type-Options")
                    self.assertEqual(guarded, ["nosniff"])
                    [policy] = answer.headers.getlist("Referrer-Policy")
                    self.assertIn(policy, ("no-referrer", "same-origin"))

    def test_write_nothing_from_a_form_of_another_site(self):
        """What a browser sends without asking first: these types, no header of ours, cookies."""
        self.client.set_cookie("Authorization", LEARNER["Authorization"])
        for content_type in (
            "application/x-www-form-urlencoded",
            "multipart/form-data",
            "text/plain",
        ):
            for path in ("/scores", "/counters/c/increment", "/counters/increment"):
                with self.subTest(path, content_type=content_type):
                    answer = self.client.post(
                        path, data=b'{"exercise_id": 1, "correct": true}', content_type=content_type
                    )

                    self.assert_fails(answer, 403, "token_required")
        with_token = self.client.post(
            "/scores", data=b"{}", content_type="text/plain", headers=LEARNER
        )
        self.assert_fails(with_token, 415, "unsupported_media_type")

    def test_are_given_no_cookie(self):
        for path in ("/", "/docs", "/scores"):
            self.assertNotIn("Set-Cookie", self.client.get(path, headers=ADMIN).headers)

    def test_tell_another_origin_nothing(self):
        known = {"CORS_ORIGINS": "https://a.example", "USERS_SERVICE_URL": None}
        client = create_app(type("One", (TestingConfig,), known)).test_client()
        for origin in (
            "https://evil.example",
            "https://a.example.evil.example",
            "null",
            "https://aXexample",
            "http://a.example",
            "https://a.example:8443",
        ):
            for method in ("GET", "OPTIONS", "POST"):
                with self.subTest(origin, method=method):
                    answer = client.open(
                        "/scores",
                        method=method,
                        headers={"Origin": origin, "Access-Control-Request-Method": "POST"},
                    )

                    ours = [name for name, _ in answer.headers if name.startswith("Access-Control")]
                    self.assertEqual(ours, [])

    def test_never_send_credentials_of_their_own(self):
        for origins in ("*", "https://a.example"):
            known = {"CORS_ORIGINS": origins, "USERS_SERVICE_URL": None}
            client = create_app(type("Any", (TestingConfig,), known)).test_client()
            answer = client.get("/scores", headers={"Origin": "https://a.example"})

            self.assertEqual(answer.headers["Access-Control-Allow-Origin"], origins)
            self.assertNotIn("Access-Control-Allow-Credentials", answer.headers)

    def test_are_let_in_by_no_pattern(self):
        """A pattern in CORS_ORIGINS would let in more than whoever wrote it thinks."""
        for origins in (
            "https://*.example.org",
            "https://.*",
            "https://a.example$",
            "https://[::1]",
            "https://a.example/path",
            "https://a(b)?.example",
            "https://user@a.example",
        ):
            with self.subTest(origins), self.assertRaises(SettingError) as refused:
                create_app(type("Pattern", (TestingConfig,), {"CORS_ORIGINS": origins}))
            self.assertIn("CORS_ORIGINS", refused.exception.message)


class TestMarkup(InjectionTestCase):
    """What is drawn or shown of a caller's text is text."""

    def test_is_not_made_by_the_label_of_a_badge(self):
        for label in (
            "<script>alert(1)</script>",
            '"/><script>alert(1)</script>',
            '" onload="alert(1)',
            "</text></svg><svg onload=alert(1)>",
            "]]><![CDATA[",
            "&lt;script&gt;&#0;&xxe;",
            "<!DOCTYPE svg [<!ENTITY x SYSTEM 'file:///etc/passwd'>]>",
            "javascript:alert(1)",
            "{{ 7 * 7 }}{% raw %}",
            "\u202egnp.exe",
        ):
            with self.subTest(label):
                answer = self.client.get(
                    "/counters/visits/badge.svg", query_string={"label": label}
                )

                self.assertEqual(answer.mimetype, "image/svg+xml")
                picture = ET.fromstring(answer.data)
                tags = {element.tag.removeprefix(SPACE) for element in picture.iter()}
                self.assertLessEqual(tags, DRAWN)
                names = {name for element in picture.iter() for name in element.attrib}
                self.assertEqual({name for name in names if name.startswith("on")}, set())
                self.assertEqual(picture.find(f"{SPACE}title").text, f"{label}: 1")

    def test_is_well_formed_whatever_the_label(self):
        """XML knows no control characters, not even escaped: such a label is refused."""
        for number in (*range(32), 0x7F, 0xFFFE, 0xFFFF):
            with self.subTest(number):
                answer = self.client.get(f"/counters/visits/badge.svg?label=a{quote(chr(number))}b")

                if answer.status_code == 200:
                    ET.fromstring(answer.data)
                else:
                    self.assert_fails(answer, 400, "invalid_query")

    def test_is_not_made_by_a_color(self):
        for color in (
            'red"/><script>',
            "#fff;x",
            "url(http://evil.example)",
            "#ggg",
            "expression(1)",
        ):
            answer = self.client.get("/counters/visits/badge.svg", query_string={"color": color})

            self.assert_fails(answer, 400, "invalid_query")

    def test_runs_nothing_where_a_badge_is_opened_by_itself(self):
        policy = self.client.get("/counters/visits/badge.svg").headers["Content-Security-Policy"]

        self.assertIn("default-src 'none'", policy)

    def pages(self):
        for path, item in self.document["paths"].items():
            if "text/html" in item.get("get", NO_PAGE)["responses"]["200"].get("content", {}):
                yield path

    def test_runs_on_a_page_only_where_it_is_ours(self):
        """Whatever is written into a page, its policy lets nothing run but the files of it."""
        pages = list(self.pages())
        self.assertLessEqual({"/", "/docs", "/dashboard"}, set(pages))
        for path in pages:
            with self.subTest(path):
                policy = self.client.get(path).headers["Content-Security-Policy"]

                for rule in ("default-src 'none'", "base-uri 'none'", "frame-ancestors 'none'"):
                    self.assertIn(rule, policy)
                scripts = re.search("script-src ([^;]*)", policy)
                self.assertEqual(scripts and scripts[1], "'self'")

    def test_is_not_made_by_what_a_page_is_asked_for(self):
        for path in self.pages():
            for name in ("window", "prefix", "limit", "page", "q", "<script>"):
                for text in ("<script>alert(1)</script>", "\"'><img src=x onerror=alert(1)>"):
                    with self.subTest(path, name=name):
                        shown = self.client.get(path, query_string={name: text}).data

                        self.assertNotIn(b"<script>alert", shown)
                        self.assertNotIn(b"<img src=x", shown)

    def test_is_not_made_by_a_name(self):
        """A counter's name has no character that HTML or SVG give a meaning."""
        for character in "<>\"'&/\\`{}()=;%? \t\n\0é":
            name = f"public:{character}"
            answer = self.client.post(f"/counters/{quote(name, safe='')}/increment")

            self.assertIn(answer.status_code, (400, 404), character)

    def test_is_not_made_by_what_is_refused(self):
        """An error page escapes what the request says, and its policy lets no script of it run."""
        for path in ("/<script>alert(1)</script>", "/scores?<script>=1", "/scores/<b>"):
            answer = self.client.get(path, headers={"Accept": "text/html"})

            self.assertEqual(answer.mimetype, "text/html")
            self.assertNotRegex(answer.text, "<script|<b>")
            self.assertNotIn("unsafe", answer.headers["Content-Security-Policy"])


NO_PAGE = {"responses": {"200": {}}}
DRAWN = {"svg", "title", "path", "g", "text"}


class TestLogs(InjectionTestCase):
    """A line of the log is one of ours, and shows no secret."""

    def logged(self, send):
        """Return all that was logged meanwhile, as it would be written, and without traces."""
        lines, texts = [], []

        class Handler(logging.Handler):
            def emit(self, record):
                lines.append(record.getMessage())
                texts.append(self.format(record))

        with ExitStack() as stack:
            for logger in (logging.getLogger(), self.app.logger):
                stack.enter_context(mock.patch.object(logger, "handlers", [Handler()]))
            send()
        return lines, "\n".join(texts)

    def test_begin_no_line_that_a_caller_wrote(self):
        bug = mock.patch("project.api.scores.queries.select_page", side_effect=RuntimeError)
        hostile = "x\r\nERROR: all is well\x1b[2J"

        def attack():
            for name in ("X_REQUEST_ID", "USER_AGENT", "REFERER", "HOST"):
                self.client.get("/scores", environ_overrides={f"HTTP_{name}": hostile})
            self.client.get("/%0aERROR:%20all%20is%20well")

        with bug:
            lines, _ = self.logged(attack)

        self.assertGreaterEqual(len(lines), 4)
        for line in lines:
            self.assertRegex(line, r"\A[\x20-\x7e]*\Z")

    def test_show_no_token_and_no_password(self):
        """Neither do errors and metrics, whatever goes wrong."""
        token, password = "tok-en-that-is-a-secret", "hunter2hunter2"
        headers = {"Authorization": f"Bearer {token}"}
        answers = []
        lost = psycopg2.OperationalError(f"connection lost\npassword={password}")

        def attack():
            get = self.client.get
            answers.append(get("/ping", headers=headers))
            for behaviour in (fakes.close_at_once, fakes.answers(500, token.encode())):
                with mock.patch.object(users_service(), "behaviour", behaviour):
                    answers.append(get("/ping", headers=headers))
            for error in (RuntimeError(token[:3]), lost):
                with mock.patch("project.api.scores.queries.select_page", side_effect=error):
                    answers.append(get("/scores", headers=headers))
            answers.append(get("/metrics"))

        _, text = self.logged(attack)

        self.assertTrue(text)
        for shown in (text, *(answer.get_data(as_text=True) for answer in answers)):
            self.assertNotIn(token, shown)
            self.assertNotIn(password, shown)


class TestSecrets(BaseTestCase):
    SECRET = "Zq8-t5dU1w9_Lm3xR7bV0nK4cF6jH2pS"

    def test_are_in_no_answer_and_no_repr(self):
        known = {"SECRET_KEY": self.SECRET, "USERS_SERVICE_URL": None}
        app = create_app(type("Kept", (TestingConfig,), known))
        token = app.extensions["tokens"].issue(User(7), days=1)
        headers = {"Authorization": f"Bearer {token}"}

        shown = [repr(app), repr(app.config), *map(repr, app.extensions.values()), repr(User(7))]
        for path in ("/metrics", "/openapi.json", "/docs", "/ready", "/ping", "/scores?cursor=0"):
            answer = app.test_client().get(path, headers=headers)
            shown += [answer.get_data(as_text=True), str(answer.headers)]

        for text in shown:
            self.assertNotIn(self.SECRET, text)
            self.assertNotIn(token, text)

    def test_are_in_no_exception_of_a_token(self):
        tokens = Tokens(self.SECRET)
        forged = Tokens(self.SECRET[::-1]).issue(User(7), days=1)

        with self.assertRaises(Exception) as raised:
            tokens.verify(forged)

        chain = [raised.exception, raised.exception.__cause__]
        self.assertNotIn(forged, repr(chain))
        self.assertNotIn(self.SECRET, repr(chain))

    def test_stop_the_start_without_being_shown(self):
        """A wrong setting is named, and not repeated: it may be most of a right one."""
        known = {"SECRET_KEY": self.SECRET, "CORS_ORIGINS": "*",
                 "SQLALCHEMY_DATABASE_URI": "postgresql://localhost/x"}  # fmt: skip
        for name, value in {
            "SECRET_KEY": "hunter2hunter2",
            "SQLALCHEMY_DATABASE_URI": "mysql://somebody:hunter2hunter2@localhost/x",
            "RATELIMIT_STORAGE_URI": "nowhere://:hunter2hunter2@localhost",
            "USERS_SERVICE_URL": "somebody:hunter2hunter2@localhost",
        }.items():
            with self.subTest(name), self.assertRaises(SettingError) as refused:
                create_app(type("Wrong", (ProductionConfig,), known | {name: value}))

            self.assertNotIn("hunter2", refused.exception.message)
