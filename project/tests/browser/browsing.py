"""A browser in front of the service: Debian's Chromium, headless, driven by Playwright."""

import shutil
import threading
from functools import cache
from unittest import SkipTest

from werkzeug.serving import WSGIRequestHandler, make_server

from project.tests.base import BaseTestCase, shared_app
from project.tests.processes import GRACE_SECONDS

try:
    from axe_playwright_python.base import AXE_SCRIPT
    from PIL import Image
    from playwright.sync_api import sync_playwright
except ImportError:
    Image = sync_playwright = None

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser")
WIDTHS = (360, 768, 1440)
SCHEMES = ("light", "dark")
# What axe-core calls by these: WCAG 2.2 up to AA, and what is good besides.
RULES = ["wcag2a", "wcag2aa", "wcag21a", "wcag21aa", "wcag22aa", "best-practice"]


class _Quiet(WSGIRequestHandler):
    protocol_version = "HTTP/1.1"

    def log_request(self, *_args):
        """Say nothing of each request."""


@cache
def serve():
    """Serve the app of this run for as long as the process lives; return its address."""
    server = make_server("127.0.0.1", 0, shared_app(), threaded=True, request_handler=_Quiet)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    return f"http://localhost:{server.server_port}"


def launch(playwright):
    """Start the browser; as root it can have no sandbox, and all that it meets is ours."""
    arguments = ["--no-sandbox", "--disable-gpu", "--disable-software-rasterizer"]
    return playwright.chromium.launch(executable_path=CHROMIUM, args=arguments)


class BrowserTestCase(BaseTestCase):
    """A test in a browser, to which nothing goes wrong unseen: `excused` names what may.

    Every message of error on the console, every exception of a script, and every request that
    goes anywhere but to the service, fails it.
    """

    @classmethod
    def setUpClass(cls):
        super().setUpClass()
        if sync_playwright is None:
            raise SkipTest("Playwright is not installed: requirements-dev.txt has it.")
        if CHROMIUM is None:
            raise SkipTest("There is no Chromium: on Debian, apt install chromium.")
        cls.browser = launch(cls.enterClassContext(sync_playwright()))
        cls.addClassCleanup(cls.browser.close)
        cls.address = serve()

    def setUp(self):
        super().setUp()
        self.complaints = []
        self.excused = ()

    def open(self, path, **options):
        """Return a new page at a path, in a context of its own."""
        context = self.browser.new_context(base_url=self.address, **options)
        self.addCleanup(context.close)
        context.set_default_timeout(GRACE_SECONDS * 1000)
        page = context.new_page()
        page.on("console", self._listen)
        page.on("pageerror", lambda error: self.complaints.append(str(error)))
        page.on("request", self._watch)
        page.goto(path)
        return page

    def tearDown(self):
        super().tearDown()
        unexcused = [said for said in self.complaints if not said.startswith(self.excused)]
        self.assertEqual(unexcused if self.excused else self.complaints, [])

    def _listen(self, message):
        if message.type in {"error", "warning"}:
            self.complaints.append(message.text)

    def _watch(self, request):
        if not request.url.startswith((self.address, "data:", "blob:")):
            self.complaints.append(f"asked elsewhere: {request.url}")

    def assert_accessible(self, page, without=()):
        """Assert that axe-core finds nothing to complain of, but in what is not ours."""
        if not page.evaluate("'axe' in window"):
            page.evaluate(AXE_SCRIPT)
        found = page.evaluate(
            "([without, values]) => axe.run({exclude: without}, {runOnly: {type: 'tag', values}})",
            [list(without), RULES],
        )
        self.assertGreater(len(found["passes"]), 10)
        violations = [
            f"{rule['id']}: {node['target']} {node['failureSummary']}"
            for rule in found["violations"]
            for node in rule["nodes"]
        ]
        self.assertEqual(violations, [])
