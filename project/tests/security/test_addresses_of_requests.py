"""Paths and Host headers that two programs could read differently."""

from unittest import mock

from project.tests.base import BaseTestCase

HTML = {"Accept": "text/html"}


class TestPaths(BaseTestCase):
    def get(self, path, headers=()):
        """Send the path as it is; the test client would normalize it."""
        return self.client.get("/", environ_overrides={"PATH_INFO": path}, headers=dict(headers))

    def test_path_with_repeated_dotted_or_trailing_slashes_is_not_found(self):
        for path in (
            "//", "///", "//metrics", "///ready", "//docs", "//static/style.css", "//a",
            "//counters/visits", "/metrics/", "/health//", "/counters//visits", "/./metrics",
            "/static//style.css", "/x/../metrics", "/metrics/.", "/static/../__init__.py", "*",
        ):  # fmt: skip
            with self.subTest(path):
                self.assert_fails(self.get(path), 404, "not_found")

    def test_path_with_repeated_slashes_is_an_error_page_for_a_browser(self):
        answer = self.get("//docs", HTML)

        self.assertEqual((answer.status_code, answer.mimetype), (404, "text/html"))
        self.assertIn("Not found.", answer.get_data(as_text=True))


class TestHosts(BaseTestCase):
    def get(self, host, protocol="HTTP/1.1"):
        environ = {"HTTP_HOST": host, "SERVER_PROTOCOL": protocol}
        return self.client.get("/health", environ_overrides=environ)

    def test_host_is_accepted_with_and_without_port(self):
        for host in (
            "localhost", "localhost:5002", "learn.example.org:", "127.0.0.1:80", "[::1]:5002",
            "eval_service:5002", "EVAL-service.", "a" * 253,
        ):  # fmt: skip
            with self.subTest(host):
                self.assertEqual(self.get(host).status_code, 200)

    def test_request_is_rejected_unless_it_has_one_valid_host(self):
        for host in (
            "", " ", "a,b", "a,a", "a b", "a/b", "a?b", "a#b", "user@a", "<script>", "a:b",
            "a:123456", "[::1", "::1", "a" * 254, "\xe4", "a\\b", "a:1:2",
        ):  # fmt: skip
            with self.subTest(host):
                body = self.assert_fails(self.get(host), 400, "invalid_payload")
                self.assertEqual(list(body["errors"]), ["Host"])

    def test_http_1_0_needs_no_host(self):
        for protocol in ("HTTP/1", "HTTP/1.0"):
            self.assertEqual(self.get("", protocol).status_code, 200)

    def test_trusted_hosts_of_flask_restricts_the_host(self):
        with mock.patch.dict(self.app.config, TRUSTED_HOSTS=["learn.example.org", ".intern"]):
            answers = {
                host: self.get(host).status_code
                for host in ("learn.example.org:443", "a.intern", "example.org", "localhost")
            }

        self.assertEqual(
            answers,
            {"learn.example.org:443": 200, "a.intern": 200, "example.org": 400, "localhost": 400},
        )
