"""Behind a path prefix: every URL that the service writes works for its clients."""

import re

from project import create_app
from project.config import TestingConfig
from project.tests.base import LEARNER, BaseTestCase, users_service
from project.tests.test_pages import PAGES, Elements
from project.tests.utils import add_counter, add_score

PREFIX = "/eval"
FORWARDED = {
    "X-Forwarded-For": "203.0.113.5",
    "X-Forwarded-Proto": "https",
    "X-Forwarded-Host": "learn.example.org",
    "X-Forwarded-Prefix": PREFIX,
}


class PrefixTestCase(BaseTestCase):
    proxies = "1"

    @classmethod
    def setUpClass(cls):
        settings = {"TRUSTED_PROXIES": cls.proxies, "USERS_SERVICE_URL": users_service().url}
        cls.proxied_app = create_app(type("Proxied", (TestingConfig,), settings))

    def setUp(self):
        super().setUp()
        self.client = self.proxied_app.test_client()

    def send(self, method, path, prefix=PREFIX, headers=None, **options):
        """Send a request as a proxy does that removes the prefix from the path."""
        sent = {**FORWARDED, "X-Forwarded-Prefix": prefix, **(headers or {})}
        return self.client.open(path, method=method, headers=sent, **options)

    def get(self, path, **options):
        return self.send("GET", path, **options)

    def follow(self, url):
        """Return the response to a URL that the service wrote, which must have the prefix."""
        self.assertTrue(url.startswith(f"{PREFIX}/"), url)
        return self.get(url.removeprefix(PREFIX))


class TestPrefix(PrefixTestCase):
    def test_every_url_of_a_page_has_the_prefix_and_works(self):
        add_counter("visits")
        for number in range(20):
            add_counter(f"counter-{number}")
        for path in PAGES:
            page = self.get(path).get_data(as_text=True)
            urls = [
                value
                for _, attributes in Elements(page).found
                for name, value in attributes.items()
                if name in {"href", "src", "action", "data-document"} and value[0] not in "#?"
            ]
            self.assertGreater(len(urls), 4)
            for url in urls:
                with self.subTest(path, url=url):
                    self.assertEqual(self.follow(url).status_code, 200)

    def test_page_marks_itself_as_current(self):
        for path in ("/dashboard", "/docs"):
            [link] = re.findall(
                r'href="([^"]+)" aria-current="page"', self.get(path).get_data(as_text=True)
            )
            self.assertEqual(link, PREFIX + path)

    def test_link_leads_to_the_next_page(self):
        for number in (1, 2):
            add_score(user_id=number, exercise_id=1)
            add_counter(f"counter-{number}")
        for path in ("/scores", "/counters", "/scores/leaderboard"):
            with self.subTest(path):
                link = self.get(f"{path}?limit=1").headers["Link"]

                url = re.fullmatch(r'<(.*)>; rel="next"', link)[1]
                self.assertTrue(url.startswith(f"{PREFIX}{path}?"))
                self.assertEqual(self.follow(url).status_code, 200)

    def test_location_leads_to_the_new_score_also_in_a_replay(self):
        """What is stored for a replay does not have the prefix of the first request."""
        headers = {**LEARNER, "Idempotency-Key": "k"}
        body = {"exercise_id": 1, "correct": True}

        added = self.send("POST", "/scores", headers=headers, json=body)
        replay = self.send("POST", "/scores", headers=headers, json=body)
        elsewhere = self.send("POST", "/scores", headers=headers, json=body, prefix="")

        self.assertEqual([added.status_code, replay.status_code], [201, 201])
        for answer in (added, replay):
            data = self.follow(answer.headers["Location"]).get_json()["data"]
            self.assertEqual(data["id"], added.get_json()["data"]["id"])
        self.assertEqual(PREFIX + elsewhere.headers["Location"], added.headers["Location"])

    def test_openapi_document_names_the_prefix_as_server(self):
        for prefix in (PREFIX, "", "/a/b", PREFIX):
            document = self.get("/openapi.json", prefix=prefix).get_json()

            self.assertEqual(document.get("servers"), [{"url": prefix}] if prefix else None)
            self.assertEqual(document["openapi"], "3.1.0")

    def test_prefix_is_normalized(self):
        for sent, prefix in [
            ("/eval/", "/eval"),
            ("eval", "/eval"),
            ("/", ""),
            ("", ""),
            ("//evil.example", "/evil.example"),
            ("/evil, /eval", "/eval"),
            ("javascript:alert(1)", ""),
            ("/a b", ""),
            ("/a//b", ""),
            ("/a?b", ""),
            ('/"><script>', ""),
            ("/\N{LATIN SMALL LETTER E WITH ACUTE}", ""),
        ]:
            with self.subTest(sent):
                document = self.get("/openapi.json", prefix=sent).get_json()

                self.assertEqual(document.get("servers"), [{"url": prefix}] if prefix else None)


class TestNoTrustedProxy(PrefixTestCase):
    proxies = "0"

    def test_headers_of_a_client_change_no_url(self):
        add_score(user_id=1)
        add_score(user_id=2)
        for path in (*PAGES[1:], "/openapi.json", "/scores?limit=1"):
            with self.subTest(path):
                forged, clean = self.get(path), self.client.get(path)

                self.assertNotIn(PREFIX, str(forged.headers) + forged.get_data(as_text=True))
                self.assertEqual(forged.headers.get("Link"), clean.headers.get("Link"))
