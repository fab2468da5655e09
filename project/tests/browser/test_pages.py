"""The pages in a browser: what people see, and that it stays true."""

import re
import time
from datetime import datetime
from functools import partial
from hashlib import sha256
from io import BytesIO
from itertools import product
from urllib.parse import quote

from project.tests.browser.browsing import SCHEMES, WIDTHS, BrowserTestCase, Image
from project.tests.processes import LATENESS_SECONDS, wait_until
from project.tests.utils import add_counter, add_score
from project.users import User

MOVES_WITHIN_SECONDS = 2 + LATENESS_SECONDS


# Notes where each text of a canvas is drawn, in pixels of the canvas.
RECORD_TEXT = """
    globalThis.drawnTexts = [];
    const draw = CanvasRenderingContext2D.prototype.fillText;
    CanvasRenderingContext2D.prototype.fillText = function (text, x, y) {
        const at = this.getTransform().transformPoint({ x, y });
        const { actualBoundingBoxLeft, actualBoundingBoxRight } = this.measureText(text);
        const turned = this.getTransform().b !== 0;
        if (!turned) drawnTexts.push({
            text,
            left: at.x - actualBoundingBoxLeft,
            right: at.x + actualBoundingBoxRight,
            width: this.canvas.width,
        });
        return draw.call(this, text, x, y);
    };
"""
# The custom properties of the page that are colors.
COLORS = """() => {
    const style = getComputedStyle(document.documentElement);
    const names = ["ground", "surface", "line", "quiet", "accent", "accent-pale", "wrong", "well"];
    return Object.fromEntries(names.map(
        (name) => [`--${name}`, style.getPropertyValue(`--${name}`).trim()]));
}"""
# Every color that the chart has at least one opaque pixel of.
PAINTED = """() => {
    const canvas = document.querySelector("#chart canvas");
    const { data } = canvas.getContext("2d").getImageData(0, 0, canvas.width, canvas.height);
    const found = new Set();
    for (let at = 0; at < data.length; at += 4)
        if (data[at + 3] === 255)
            found.add("#" + [0, 1, 2].map(
                (part) => data[at + part].toString(16).padStart(2, "0")).join(""));
    return [...found];
}"""


def contrast(color, other):
    """Return the contrast ratio of two colors (#rrggbb), as WCAG 2.2 defines it."""
    lighter, darker = sorted((luminance(color), luminance(other)), reverse=True)
    return (lighter + 0.05) / (darker + 0.05)


def luminance(color):
    """Return the relative luminance of a color (#rrggbb), as WCAG 2.2 defines it."""
    parts = [part / 255 for part in bytes.fromhex(color.removeprefix("#"))]
    red, green, blue = (
        part / 12.92 if part <= 0.04045 else ((part + 0.055) / 1.055) ** 2.4 for part in parts
    )
    return 0.2126 * red + 0.7152 * green + 0.0722 * blue


class TestHome(BrowserTestCase):
    def counted(self):
        answer = self.client.get("/counters/public:home")
        return answer.get_json()["data"]["value"] if answer.status_code == 200 else 0

    def test_counts_each_time_it_is_looked_at(self):
        page = self.open("/")
        seen = [page.inner_text("h1")]
        for _ in range(2):
            page.reload()
            seen.append(page.inner_text("h1"))

        self.assertEqual(seen, ["Counter: 1", "Counter: 2", "Counter: 3"])
        self.assertEqual(self.counted(), 3)

    def test_does_not_count_what_the_browser_fetches_on_suspicion(self):
        self.excused = ("Failed to load resource",)  # the icon of a page that has none
        page = self.open("/health")  # no page of ours, since those forbid to fetch ahead

        with page.expect_request_finished(lambda request: request.url == f"{self.address}/"):
            page.evaluate("""() => {
                const link = document.createElement("link");
                link.rel = "prefetch";
                link.href = "/";
                document.head.append(link);
            }""")

        self.assertEqual(self.counted(), 0)

    def test_leads_to_the_dashboard_and_the_docs(self):
        for name, path in (("Dashboard", "/dashboard"), ("API", "/docs")):
            with self.subTest(name):
                page = self.open("/")
                page.get_by_role("main").get_by_role("link", name=name).click()

                page.wait_for_url(f"**{path}")

    def test_is_accessible(self):
        page = self.open("/")
        for scheme in SCHEMES:
            with self.subTest(scheme):
                page.emulate_media(color_scheme=scheme)

                self.assert_accessible(page)


class TestDashboard(BrowserTestCase):
    def setUp(self):
        super().setUp()
        for user_id, exercise_id in ((1, 1), (2, 1), (2, 2), (3, 1), (3, 2), (3, 3)):
            add_score(user_id, exercise_id, correct=exercise_id != 2)
        add_counter("visits", 41)

    def ask(self, path):
        return self.client.get(path).get_json()["data"]

    def test_shows_what_the_api_says(self):
        page = self.open("/dashboard")

        activity = self.ask("/scores/activity?window=day")
        today = activity["today"]
        for name in ("attempts", "solved", "users"):
            self.assertEqual(page.inner_text(f"#today-{name}"), f"{today[name]:,}")
        points = page.locator("#activity tr").all()
        self.assertEqual(
            [
                (datetime.fromisoformat(row.locator("time").get_attribute("datetime")),
                 *map(int, row.locator("td").all_text_contents()))
                for row in points
            ],
            [(datetime.fromisoformat(point["at"]), point["attempts"], point["solved"])
             for point in activity["points"]],
        )  # fmt: skip
        leaders = self.ask("/scores/leaderboard?window=day&limit=8")["entries"]
        self.assertEqual(
            [row.inner_text().split() for row in page.locator("#leaders tbody tr").all()],
            [[str(entry[n]) for n in ("rank", "user_id", "solved")] for entry in leaders],
        )
        failures = self.ask("/scores/failures?window=day&limit=8")["exercises"]
        self.assertEqual(
            [row.inner_text().split()[:2] for row in page.locator("#failures tbody tr").all()],
            [[str(one["exercise_id"]), str(one["failed"])] for one in failures],
        )
        self.assertEqual(
            page.inner_text(".counters .value"), str(self.ask("/counters/visits")["value"])
        )

    def test_moves_soon_after_something_happens(self):
        page = self.open("/dashboard")
        page.locator("#seen:not(:empty)").wait_for()

        add_counter("visits")
        began = time.monotonic()
        page.locator(".counters .value", has_text="42").wait_for()
        moved_after = time.monotonic() - began
        add_score(user_id=4, exercise_id=1)
        page.locator("#today-users", has_text="4").wait_for()

        self.assertLess(moved_after, MOVES_WITHIN_SECONDS)

    def test_asks_for_no_more_than_it_has_to(self):
        page = self.open("/dashboard")
        answers = []
        page.on("response", lambda answer: answers.append((answer.url, answer.status)))

        wait_until(lambda: page.wait_for_timeout(50) or len(asked(answers)) > 2)

        # One for each of the two forms of the page, whole and brief; then nothing but 304.
        statuses = asked(answers)
        self.assertLessEqual(statuses.count(200), 2)
        self.assertEqual(statuses[-1], 304)

    def test_stands_still_where_it_is_told_to(self):
        page = self.open("/dashboard")
        page.get_by_role("button", name="Pause").press("Enter")
        asked = []
        page.on("request", lambda request: asked.append(request.url))

        page.wait_for_timeout(1200)
        stood = list(asked)
        page.get_by_role("button", name="Go on").press("Enter")
        wait_until(lambda: page.wait_for_timeout(50) or asked)

        self.assertEqual(stood, [])
        self.assertEqual(page.inner_text("#state"), "Live")

    def test_says_when_the_service_is_away_and_finds_it_again(self):
        self.excused = ("Failed to load resource",)
        page = self.open("/dashboard")

        page.route("**/dashboard*", lambda route: route.abort())
        page.get_by_text("No answer, trying again").wait_for()
        page.unroute("**/dashboard*")

        page.get_by_text("Live", exact=True).wait_for()

    def test_can_be_used_by_keyboard(self):
        page = self.open("/dashboard")

        page.keyboard.press("Tab")
        self.assertEqual(page.evaluate("document.activeElement.textContent"), "Skip to the content")
        page.get_by_role("link", name="Week").press("Enter")
        page.wait_for_url("**window=week*")
        page.get_by_label("Names that begin with").fill("nobody")
        page.keyboard.press("Enter")
        page.wait_for_url("**prefix=nobody*")
        page.locator("summary").press("Enter")

        self.assertEqual(page.locator(".windows [aria-current]").inner_text(), "Week")
        self.assertIn("No counter begins with", page.inner_text("#counters"))
        self.assertEqual(page.locator("#activity tr:visible").count(), 28)

    def test_is_readable_without_javascript(self):
        page = self.open("/dashboard", java_script_enabled=False)

        self.assertEqual(page.locator("#activity tr:visible").count(), 24)
        self.assertIn("41", page.inner_text(".counters .value"))
        self.assertFalse(page.locator("#live").is_visible())
        self.assertFalse(page.locator("#chart").is_visible())

    def test_draws_what_the_table_says(self):
        page = self.open("/dashboard")

        drawn = page.locator("#chart canvas").evaluate("""canvas => new Set(
            new Uint32Array(canvas.getContext("2d").getImageData(
                0, 0, canvas.width, canvas.height).data.buffer)).size""")
        plot = page.locator(".u-over")
        plot.hover(position={"x": plot.bounding_box()["width"] - 8, "y": 50})

        self.assertGreater(drawn, 5)
        self.assertRegex(page.inner_text("#readout"), r"6 attempts, 4 solved")

    def test_chart_shows_every_label_whole(self):
        """Whatever the numbers, the width of the window and the length of a date."""
        numbers = (0, 100_000, 1_234_567, 987_654_321, 12_345_678_901_234)
        cases = [*product(numbers, ["day"], (360, 1440)), *product([7], ["week", "month"], WIDTHS)]
        page = self.open("about:blank")
        page.add_init_script(RECORD_TEXT)
        for number, window, width in cases:
            with self.subTest(number=number, window=window, width=width):
                page.set_viewport_size({"width": width, "height": 800})
                page.route("**/dashboard?*", partial(self.answer_with, number))
                page.goto(f"/dashboard?window={window}")
                page.locator("#seen:not(:empty)").wait_for()

                labels = page.evaluate("drawnTexts")
                page.unroute_all(behavior="wait")
                outside = [one for one in labels if one["left"] < 0 or one["right"] > one["width"]]
                self.assertEqual(outside, [])
                numbered = [one for one in labels if re.fullmatch("[0-9,]+", one["text"])]
                self.assertGreaterEqual(len(numbered), 2)
                self.assertGreaterEqual(len(labels) - len(numbered), 2)

    def answer_with(self, number, route):
        """Answer a request for the dashboard with a page whose attempts are another number."""
        answer = route.fetch()
        page = re.sub("</th><td>[0-9,]+</td>", f"</th><td>{number:,}</td>", answer.text())
        route.fulfill(response=answer, body=page)

    def test_chart_and_bars_have_contrast(self):
        """WCAG 2.2, 1.4.11: 3:1 between what a graphic shows and what is next to it."""
        page = self.open("/dashboard")
        for scheme in SCHEMES:
            page.emulate_media(color_scheme=scheme)
            colors = page.evaluate(COLORS)
            for color, neighbor in (
                ("--accent-pale", "--surface"),  # attempts
                ("--accent", "--accent-pale"),  # solved, in front of attempts
                ("--accent", "--surface"),  # lines of counters
                ("--accent", "--line"),  # the leaderboard
                ("--wrong", "--line"),  # the exercises that fail
                ("--well", "--ground"),
                ("--wrong", "--ground"),
                ("--quiet", "--surface"),  # the border of the input
            ):
                with self.subTest(scheme, color=color, neighbor=neighbor):
                    ratio = contrast(colors[color], colors[neighbor])

                    self.assertGreaterEqual(ratio, 3)

    def test_chart_paints_the_colors_of_its_legend(self):
        page = self.open("/dashboard")
        for scheme in SCHEMES:
            with self.subTest(scheme):
                page.emulate_media(color_scheme=scheme)
                wanted = [page.evaluate(COLORS)[name] for name in ("--accent-pale", "--accent")]

                wait_until(
                    lambda wanted=wanted: (
                        page.wait_for_timeout(50) or set(wanted) <= set(page.evaluate(PAINTED))
                    )
                )
                legend = page.evaluate("""() => [...document.querySelectorAll("#legend li")].map(
                    (item) => getComputedStyle(item, "::before").backgroundColor)""")
                self.assertEqual(
                    [tuple(map(int, re.findall(r"\d+", color))) for color in legend],
                    [tuple(bytes.fromhex(color[1:])) for color in wanted],
                )

    def test_fits_every_width_and_is_accessible_there(self):
        page = self.open("/dashboard")
        for scheme, width in product(SCHEMES, WIDTHS):
            with self.subTest(scheme, width=width):
                page.emulate_media(color_scheme=scheme)
                page.set_viewport_size({"width": width, "height": 800})

                # The chart is drawn anew a moment after the window has its width.
                wait_until(
                    lambda most=width: page.evaluate("document.documentElement.scrollWidth") <= most
                )
                self.assert_accessible(page)

    def test_weighs_little(self):
        page = self.open("/dashboard")

        loaded = page.evaluate("""() => [
            ...performance.getEntriesByType("navigation"),
            ...performance.getEntriesByType("resource").filter(
                (entry) => entry.initiatorType !== "fetch"),
        ].reduce((sum, entry) => sum + entry.transferSize, 0)""")

        self.assertLess(loaded, 100_000)


def asked(answers):
    return [status for url, status in answers if "/dashboard" in url and "/static" not in url]


class TestErrorPage(BrowserTestCase):
    def setUp(self):
        super().setUp()
        self.excused = ("Failed to load resource",)

    def test_error_page_is_shown_for_a_wrong_query(self):
        page = self.open("/dashboard?window=year")

        self.assertEqual(page.inner_text("h1"), "400 Bad Request")
        self.assertIn("'day', 'week' or 'month'", page.inner_text("dl"))
        page.get_by_role("main").get_by_role("link", name="Dashboard").click()
        page.locator("#seen:not(:empty)").wait_for()

    def test_error_page_fits_every_width_and_is_accessible(self):
        for path in ("/nothing", "/dashboard?window=year", f"/scores?{'x' * 200}=1"):
            page = self.open(path)
            for scheme, width in product(SCHEMES, WIDTHS):
                with self.subTest(path[:20], scheme=scheme, width=width):
                    page.emulate_media(color_scheme=scheme)
                    page.set_viewport_size({"width": width, "height": 800})

                    self.assertLessEqual(
                        page.evaluate("document.documentElement.scrollWidth"), width
                    )
                    self.assert_accessible(page)

    def test_form_rejects_a_prefix_that_no_counter_can_have(self):
        page = self.open("/dashboard")
        page.get_by_label("Names that begin with").fill("n o")
        page.keyboard.press("Enter")

        self.assertFalse(page.evaluate("document.querySelector('#prefix').checkValidity()"))
        self.assertNotIn("prefix", page.url)


class TestBadge(BrowserTestCase):
    def test_has_room_for_its_text_in_every_script(self):
        """Each half is as wide as the browser would write it, without being told how wide."""
        for label in ("visits", "WWW iii", "Größe: ändern", "посещения", "x" * 64):
            with self.subTest(label):
                add_counter("visits", 41)
                page = self.open(f"/counters/visits/badge.svg?label={quote(label)}")
                given, natural = page.evaluate("""() => {
                    const text = document.querySelectorAll("text")[1];
                    const given = Number(text.getAttribute("textLength"));
                    text.removeAttribute("textLength");
                    return [given, text.getComputedTextLength()];
                }""")

                self.assertAlmostEqual(given / natural, 1, delta=0.12)

    def test_badges_look_the_same_inlined_in_one_page(self):
        """Nothing in one badge refers to a part of another one."""
        add_counter("visits", 41)
        add_counter("a-much-longer-name", 1_234_567)
        queries = ("visits/badge.svg?color=red", "a-much-longer-name/badge.svg?color=blue")
        badges = [self.client.get(f"/counters/{query}").text for query in queries]

        alone = [self.pictures_of(badge)[0] for badge in badges]
        together = self.pictures_of("".join(badges * 2))

        self.assertEqual(together, alone * 2)
        self.assertNotEqual(*alone)

    def test_badges_have_no_ids(self):
        add_counter("visits", 41)

        badge = self.client.get("/counters/visits/badge.svg").text

        self.assertNotRegex(badge, r"\bid=|url\(#")

    def pictures_of(self, content):
        """Return a hash of the pixels of each badge in a page."""
        page = self.open("about:blank")
        page.set_content(f"<style>svg {{ display: block }}</style>{content}")
        return [
            sha256(Image.open(BytesIO(badge.screenshot())).tobytes()).hexdigest()
            for badge in page.locator("svg").all()
        ]


class TestDocs(BrowserTestCase):
    def token(self):
        return self.app.extensions["tokens"].issue(User(7, is_admin=True), days=1)

    def execute(self, page, operation):
        """Try an operation as its example stands there; return what was answered."""
        place = page.locator(f"[id$='-{operation}']")
        place.locator(".opblock-summary-control").click()
        place.get_by_role("button", name="Execute").click()
        answer = place.locator(".live-responses-table .response").first
        answer.wait_for()
        return answer.inner_text()

    def test_calls_the_service_with_the_token_that_it_is_given(self):
        self.excused = ("Failed to load resource",)  # the first answer is 403
        page = self.open("/docs")

        refused = self.execute(page, "ping")
        self.authorize(page)
        page.locator("[id$='-ping']").get_by_role("button", name="Execute").click()
        page.get_by_text("pong!").first.wait_for()
        added = self.execute(page, "upsert_score")

        self.assertIn("token_required", refused)
        self.assertIn("New score was added!", added)

    def authorize(self, page):
        page.get_by_role("button", name="Authorize").click()
        page.get_by_role("textbox", name="auth-bearer-value").fill(self.token())
        page.get_by_role("button", name="Apply credentials").click()
        page.get_by_role("button", name="Close").click()

    def test_docs_store_no_token_in_the_browser(self):
        stored = "[localStorage.length, sessionStorage.length, document.cookie]"
        page = self.open("/docs")
        page.evaluate("localStorage.setItem('authorized', 'of an earlier version')")
        page.reload()

        self.authorize(page)
        while_authorized = page.evaluate(stored)
        page.reload()
        page.locator(".opblock").first.wait_for()
        after_reload = page.evaluate(stored)
        locks = page.locator(".authorization__btn.locked").count()

        self.assertEqual([while_authorized, after_reload], [[0, 0, ""]] * 2)
        self.assertEqual(locks, 0)

    def test_shows_every_operation_and_is_accessible_where_it_is_ours(self):
        page = self.open("/docs")
        page.locator(".opblock").first.wait_for()

        document = self.client.get("/openapi.json").get_json()
        operations = sum(len(item) for item in document["paths"].values())
        self.assertEqual(page.locator(".opblock").count(), operations)
        for scheme in SCHEMES:
            with self.subTest(scheme):
                page.emulate_media(color_scheme=scheme)

                self.assert_accessible(page, without=["#swagger-ui"])
