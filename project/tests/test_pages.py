"""Pages for people: what they are sent with, and the files that they are made of."""

import gzip
import json
import re
from html.parser import HTMLParser

from project.pages import FOLDER
from project.tests.base import BaseTestCase

PAGES = ("/", "/docs", "/dashboard")


class Elements(HTMLParser):
    """The elements of a page, as (name, attributes); and the text of its scripts and styles."""

    def __init__(self, page):
        super().__init__()
        self.found, self.inline, self._within = [], "", False
        self.feed(page)

    def handle_starttag(self, tag, attrs):
        self.found.append((tag, dict(attrs)))
        self._within = tag in {"script", "style"}

    def handle_endtag(self, _tag):
        self._within = False

    def handle_data(self, data):
        self.inline += data if self._within else ""


class TestPages(BaseTestCase):
    def elements(self, path):
        return Elements(self.client.get(path).get_data(as_text=True))

    def test_forbid_all_that_does_not_come_from_here(self):
        for path in PAGES:
            with self.subTest(path):
                headers = self.client.get(path).headers

                policy = headers["Content-Security-Policy"]
                self.assertIn("default-src 'none'", policy)
                self.assertIn("frame-ancestors 'none'", policy)
                self.assertNotIn("unsafe", policy)
                self.assertNotRegex(policy, r"https?:|\*")
                self.assertEqual(headers["X-Content-Type-Options"], "nosniff")
                self.assertEqual(headers["Referrer-Policy"], "no-referrer")

    def test_have_no_script_or_style_in_themselves(self):
        for path in PAGES:
            with self.subTest(path):
                elements = self.elements(path)

                self.assertEqual(elements.inline.strip(), "")
                names = {name for _, attributes in elements.found for name in attributes}
                self.assertEqual([n for n in names if n == "style" or n.startswith("on")], [])

    def test_find_every_file_that_they_name_and_keep_it(self):
        for path in PAGES:
            for tag, attributes in self.elements(path).found:
                file = attributes.get("src") or (tag == "link" and attributes["href"])
                if file:
                    with self.subTest(path, file=file):
                        answer = self.client.get(file)

                        self.assertEqual(answer.status_code, 200)
                        self.assertIn("immutable", answer.headers["Cache-Control"])

    def test_lead_to_each_other(self):
        for path in PAGES:
            with self.subTest(path):
                links = {a.get("href") for tag, a in self.elements(path).found if tag == "a"}

                self.assertLessEqual({"/dashboard", "/docs"}, links)

    def test_weigh_little(self):
        """The dashboard with all that it loads is below 100 KB, as it goes over the wire."""
        packed = {"Accept-Encoding": "gzip"}
        files = {
            attributes.get("src") or attributes.get("href")
            for tag, attributes in self.elements("/dashboard").found
            if tag in {"script", "link", "img"}
        }
        self.assertGreater(len(files), 4)

        sizes = [len(self.client.get(path, headers=packed).data) for path in {"/dashboard", *files}]

        self.assertLess(sum(sizes), 50_000)


class TestDocument(BaseTestCase):
    def test_is_packed_and_not_sent_again_to_who_has_it(self):
        plain = self.client.get("/openapi.json")
        packed = self.client.get("/openapi.json", headers={"Accept-Encoding": "gzip"})
        again = self.client.get("/openapi.json", headers={"If-None-Match": plain.headers["ETag"]})

        self.assertEqual(json.loads(plain.data)["openapi"], "3.1.0")
        self.assertEqual(gzip.decompress(packed.data), plain.data)
        self.assertLess(len(packed.data), 20_000)
        self.assertEqual((again.status_code, again.data), (304, b""))
        for answer in (plain, packed):
            self.assertEqual(answer.mimetype, "application/json")
            self.assertEqual(answer.headers["Vary"], "Accept-Encoding")
            self.assertEqual(answer.headers["Cache-Control"], "no-cache")


class TestFiles(BaseTestCase):
    def test_are_packed_for_who_can_unpack(self):
        plain = self.client.get("/static/style.css")
        packed = self.client.get("/static/style.css", headers={"Accept-Encoding": "br, gzip"})

        self.assertEqual(packed.headers["Content-Encoding"], "gzip")
        self.assertNotIn("Content-Encoding", plain.headers)
        self.assertEqual(gzip.decompress(packed.data), plain.data)
        self.assertEqual(plain.data, (FOLDER / "style.css").read_bytes())
        for answer in (plain, packed):
            self.assertEqual(answer.headers["Vary"], "Accept-Encoding")
            self.assertEqual(answer.mimetype, "text/css")
            self.assertEqual(answer.headers["X-Content-Type-Options"], "nosniff")

    def test_file_is_sent_whole_when_a_range_is_requested(self):
        """A server may ignore Range (RFC 9110, section 14.2); many small ranges cost nothing."""
        many = ",".join(f"{first}-{first}" for first in range(5000))
        for path in ("/static/style.css", "/openapi.json", "/docs"):
            whole = self.client.get(path).data
            for ranges in ("0-10", "-1", "99999999-", f"{2**64}-", "9-1", "a-b", "0-,0-", many):
                with self.subTest(path, ranges=ranges[:20]):
                    answer = self.client.get(path, headers={"Range": f"bytes={ranges}"})

                    self.assertEqual((answer.status_code, answer.data), (200, whole))

    def test_file_is_compressed_only_when_the_client_accepts_gzip(self):
        for accepted, coding in [
            ("*", "gzip"),
            ("GZIP", "gzip"),
            ("br, gzip;q=0.1", "gzip"),
            ("gzip;q=0", None),
            ("gzip;q=x", None),
            ("*;q=0", None),
            ("br, zstd", None),
            ("", None),
            ("a;q=0.1," * 5000, None),
        ]:
            with self.subTest(accepted[:20]):
                answer = self.client.get("/openapi.json", headers={"Accept-Encoding": accepted})

                self.assertEqual(answer.headers.get("Content-Encoding"), coding)
                self.assertEqual(answer.headers["Vary"], "Accept-Encoding")

    def test_are_kept_only_by_the_address_of_this_version(self):
        for query in ("", "?v=", "?v=0123456789abcdef"):
            with self.subTest(query):
                answer = self.client.get(f"/static/style.css{query}")

                self.assertEqual(answer.headers["Cache-Control"], "no-cache")

    def test_are_not_sent_again_to_who_has_them(self):
        etag = self.client.get("/static/style.css").headers["ETag"]

        answer = self.client.get("/static/style.css", headers={"If-None-Match": etag})

        self.assertEqual((answer.status_code, answer.data), (304, b""))

    def test_are_only_those_of_the_folder(self):
        for path in ("nothing.css", "../config.py", "%2e%2e/config.py", "/etc/passwd", "uplot",
                     "a" * 5000, "%00"):  # fmt: skip
            with self.subTest(path[:20]):
                answer = self.client.get(f"/static/{path}")

                self.assert_fails(answer, 404, "not_found")

    def test_load_nothing_from_elsewhere(self):
        """What was written by others may name addresses, but no style of it may load one."""
        for file in FOLDER.rglob("*.css"):
            with self.subTest(file.name):
                loaded = re.findall(
                    r"(?:url\(|@import)\s*['\"]?([^'\")\s]{1,20})", file.read_text()
                )

                self.assertEqual([one for one in loaded if not one.startswith("data:")], [])
