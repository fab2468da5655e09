"""Error pages: a browser gets HTML if it asks for a page, every other client JSON."""

from http import HTTPStatus
from unittest import mock

from sqlalchemy import text

from project import db
from project.pages import POLICY
from project.tests.base import ADMIN, LEARNER, BaseTestCase
from project.tests.test_pages import Elements

# What Chromium and Firefox send when the address of a page is opened.
BROWSER = {
    "Accept": "text/html,application/xhtml+xml,application/xml;q=0.9,image/avif,image/webp,"
    "image/apng,*/*;q=0.8"
}
HTML = "text/html; charset=utf-8"
# One request for each kind of error.
REQUESTS = [
    ("GET", "/scores?limit=0", {}, 400, "invalid_query"),
    ("POST", "/scores", LEARNER, 400, "invalid_payload"),
    ("GET", "/ping", {"Authorization": "Bearer"}, 401, "invalid_token"),
    ("GET", "/ping", {}, 403, "token_required"),
    ("DELETE", "/scores/1", LEARNER, 403, "forbidden"),
    ("GET", "/nothing", {}, 404, "not_found"),
    ("GET", "/scores/1", {}, 404, "score_not_found"),
    ("GET", "/counters/nothing/badge.svg", {}, 404, "counter_not_found"),
    ("DELETE", "/dashboard", {}, 405, "method_not_allowed"),
    ("PUT", "/counters/visits", ADMIN, 428, "precondition_required"),
]


class ErrorPagesTestCase(BaseTestCase):
    def ask(self, method, path, headers=(), **options):
        body = {"value": 1} if method == "PUT" else {}
        return self.client.open(
            path, method=method, json=body, headers=BROWSER | dict(headers), **options
        )

    def assert_page(self, answer, status, code):
        """Assert that an answer is the error page of this status and code; return its text."""
        self.assertEqual((answer.status_code, answer.content_type), (status, HTML))
        self.assertIn(f"<h1>{status} {HTTPStatus(status).phrase}</h1>", answer.text)
        self.assertIn(f"<code>{code}</code>", answer.text)
        return answer.text


class TestErrorPages(ErrorPagesTestCase):
    def test_browser_gets_a_page_with_every_error(self):
        for method, path, headers, status, code in REQUESTS:
            with self.subTest(code, path=path):
                answer = self.ask(method, path, headers)

                self.assert_page(answer, status, code)
                self.assertEqual(answer.headers["Content-Security-Policy"], POLICY)
                self.assertEqual(answer.headers["Cache-Control"], "no-store")
                self.assertIn("Accept", answer.headers.getlist("Vary"))

    def test_page_has_the_headers_of_the_error(self):
        not_allowed = self.ask("DELETE", "/dashboard")
        no_token = self.ask("GET", "/ping", {"Authorization": "Bearer"})

        self.assertEqual(set(not_allowed.headers["Allow"].split(", ")), {"GET", "HEAD", "OPTIONS"})
        self.assertEqual(no_token.headers["WWW-Authenticate"], "Bearer")

    def test_page_names_the_request_if_the_service_is_at_fault(self):
        bug = mock.patch("project.api.scores.queries.select_score", side_effect=RuntimeError("x"))
        with bug, self.assertLogs(self.app.logger, "ERROR"):
            answer = self.ask("GET", "/scores/1", {"X-Request-ID": "abc-123"})

        self.assertIn("abc-123", self.assert_page(answer, 500, "internal"))
        self.assertNotIn("RuntimeError", answer.text)

    def test_page_says_what_to_do_if_the_database_is_slow(self):
        with db.engine.begin() as connection, self.assertLogs(self.app.logger, "WARNING"):
            connection.execute(text("LOCK TABLE counters"))
            answer = self.ask("GET", "/dashboard")

        page = self.assert_page(answer, 503, "unavailable")
        self.assertIn("The data is locked by another transaction. Try again later.", page)
        self.assertEqual(answer.headers["Retry-After"], "1")

    def test_page_escapes_what_the_request_says(self):
        answer = self.ask("GET", "/scores?<script>alert(1)</script>=1&'\"%26=%00")

        self.assert_page(answer, 400, "invalid_query")
        self.assertIn("&lt;script&gt;alert(1)&lt;/script&gt;", answer.text)
        self.assertNotIn("<script>alert", answer.text)

    def test_page_has_no_script_or_style_of_its_own(self):
        elements = Elements(self.ask("GET", "/nothing").text)

        self.assertEqual(elements.inline.strip(), "")
        names = {name for _, attributes in elements.found for name in attributes}
        self.assertEqual([name for name in names if name == "style" or name[:2] == "on"], [])
        for tag, attributes in elements.found:
            file = attributes.get("src") or (tag == "link" and attributes["href"])
            if file:
                self.assertEqual(self.client.get(file).status_code, 200)

    def test_head_has_the_headers_of_the_page(self):
        page, head = self.ask("GET", "/nothing"), self.ask("HEAD", "/nothing")

        self.assertEqual((head.status_code, head.data), (404, b""))
        for name in ("Content-Type", "Content-Length"):
            self.assertEqual(head.headers[name], page.headers[name])


class TestNegotiation(ErrorPagesTestCase):
    def test_error_has_the_type_that_the_client_prefers(self):
        json, problem = "application/json", "application/problem+json"
        for accept, content_type in [
            (None, json),
            ("", json),
            ("*/*", json),
            ("application/json", json),
            ("application/json, text/plain, */*", json),
            ("application/*", json),
            ("application/json, text/html;q=0.9", json),
            ("text/html;q=0.5, application/json", json),
            ("application/json, text/html", json),
            ("text/html, application/json", json),
            ("image/avif,image/webp,*/*;q=0.8", json),
            ("text/css,*/*;q=0.1", json),
            ("image/png", json),
            ("nonsense;;q=x", json),
            ("text/html;q=0", json),
            (problem, problem),
            (f"{problem}, application/json;q=0.5", problem),
            (f"text/html;q=0.5, {problem}", problem),
            ("text/html", HTML),
            ("TEXT/HTML", HTML),
            ("text/*", HTML),
            ("text/html, */*;q=0.01", HTML),
            ("text/html, application/json;q=0.9", HTML),
            (BROWSER["Accept"], HTML),
        ]:
            with self.subTest(accept):
                headers = {} if accept is None else {"Accept": accept}
                answer = self.client.get("/nothing", headers=headers)

                self.assertEqual((answer.status_code, answer.content_type), (404, content_type))

    def test_success_is_not_negotiated(self):
        self.assertEqual(self.ask("GET", "/health").mimetype, "application/json")


class TestQueryOfPages(ErrorPagesTestCase):
    def test_page_rejects_parameters_that_it_does_not_know(self):
        for path, parameter in (
            ("/dashboard?window=year", "window"),
            ("/dashboard?window=", "window"),
            ("/dashboard?window=Day", "window"),
            ("/dashboard?window=day&window=week", "window"),
            ("/dashboard?windows=week", "windows"),
            ("/dashboard?prefix=n%20o", "prefix"),
            ("/dashboard?prefix=%25", "prefix"),
            (f"/dashboard?prefix={'x' * 129}", "prefix"),
            ("/dashboard?brief=yes", "brief"),
            ("/?utm_source=letter", "utm_source"),
            ("/docs?x=1", "x"),
            ("/counters/visits/badge.svg?colour=red", "colour"),
            ("/counters/visits/badge.svg?color=reddish", "color"),
            ("/openapi.json?x=1", "x"),
        ):
            with self.subTest(path):
                answer = self.ask("GET", path)

                page = self.assert_page(answer, 400, "invalid_query")
                self.assertIn(f"<dt><code>{parameter}</code></dt>", page)

    def test_page_names_the_values_that_it_takes(self):
        page = self.ask("GET", "/dashboard?window=year").text

        self.assertIn("&#39;day&#39;, &#39;week&#39; or &#39;month&#39;", page)

    def test_rejected_visit_is_not_counted(self):
        self.ask("GET", "/?x=1")

        self.assertEqual(self.client.get("/counters/public:home").status_code, 404)

    def test_dashboard_takes_its_own_defaults(self):
        """Its links and its form send parameters that are empty."""
        for query in ("", "?window=day&prefix=", "?window=month&prefix=a.b:c-d_E", "?brief="):
            with self.subTest(query):
                self.assertEqual(self.client.get(f"/dashboard{query}").status_code, 200)
