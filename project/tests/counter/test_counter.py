from project.tests.base import LEARNER, BaseTestCase
from project.tests.utils import add_counter

LARGEST = 2**63 - 1


class CounterTestCase(BaseTestCase):
    def increment(self, name="visits", headers=LEARNER, **body):
        return self.client.post(f"/counters/{name}/increment", json=body or None, headers=headers)

    def value(self, name="visits"):
        return self.client.get(f"/counters/{name}").get_json()["data"]["value"]


class TestIncrement(CounterTestCase):
    def test_begins_at_the_first_one(self):
        answer = self.increment()

        self.assertEqual(answer.status_code, 200)
        self.assertEqual(
            answer.get_json(), {"status": "success", "data": {"name": "visits", "value": 1}}
        )

    def test_adds_what_it_is_told(self):
        values = [self.increment(by=by).get_json()["data"]["value"] for by in (5, -7, 10**12)]

        self.assertEqual(values, [5, -2, 10**12 - 2])

    def test_takes_no_body_as_one(self):
        answer = self.client.post("/counters/visits/increment", headers=LEARNER)

        self.assertEqual(answer.get_json()["data"]["value"], 1)

    def test_refuses_a_step_of_nothing_or_too_far(self):
        for by in (0, 10**12 + 1, -(10**12) - 1, 1.0, "1", True, None):
            with self.subTest(by=by):
                body = self.assert_fails(self.increment(by=by), 400, "invalid_payload")

                self.assertEqual(list(body["errors"]), ["by"])
        self.assert_fails(self.client.get("/counters/visits"), 404, "counter_not_found")

    def test_needs_a_token_but_for_public_names(self):
        refused = self.increment(headers=None)
        public = self.increment("public:visits", headers=None)

        self.assert_fails(refused, 403, "token_required")
        self.assertEqual(public.get_json()["data"]["value"], 1)

    def test_refuses_to_leave_64_bits_and_changes_nothing(self):
        add_counter("visits", LARGEST - 1)
        add_counter("depth", -LARGEST - 1)

        fits = self.increment(by=1)
        above = self.increment(by=1)
        below = self.increment("depth", by=-1)

        self.assertEqual(fits.get_json()["data"]["value"], LARGEST)
        self.assert_fails(above, 409, "counter_overflow")
        self.assert_fails(below, 409, "counter_overflow")
        self.assertEqual((self.value(), self.value("depth")), (LARGEST, -LARGEST - 1))

    def test_gives_no_value_twice_when_many_come_at_once(self):
        """Of 96 increments by 32 threads each gets a value of its own, 1 to 96."""
        answers = self.at_once(32, lambda _: [self.increment() for _ in range(3)])

        values = sorted(answer.get_json()["data"]["value"] for three in answers for answer in three)
        self.assertEqual(values, list(range(1, 97)))
        self.assertEqual(self.value(), 96)


class TestGetCounter(CounterTestCase):
    def test_never_counts(self):
        add_counter("visits", 3)

        answers = [self.client.get("/counters/visits") for _ in range(3)]

        self.assertEqual({answer.get_json()["data"]["value"] for answer in answers}, {3})
        self.assertEqual(
            list(answers[0].get_json()["data"]), ["name", "value", "created_at", "updated_at"]
        )

    def test_says_so_where_there_is_none(self):
        self.assert_fails(self.client.get("/counters/visits"), 404, "counter_not_found")

    def test_answers_304_until_it_changes_even_where_the_value_comes_back(self):
        add_counter("visits", 3)
        etag = self.client.get("/counters/visits").headers["ETag"]

        same = self.client.get("/counters/visits", headers={"If-None-Match": etag})
        add_counter("visits", 1)
        add_counter("visits", -1)
        changed = self.client.get("/counters/visits", headers={"If-None-Match": etag})

        self.assertEqual((same.status_code, same.data), (304, b""))
        self.assertEqual(changed.get_json()["data"]["value"], 3)


class TestListCounters(CounterTestCase):
    def names(self, query=""):
        data = self.client.get(f"/counters{query}").get_json()["data"]
        return [counter["name"] for counter in data["counters"]], data["next_cursor"]

    def test_shows_them_in_the_order_of_their_bytes(self):
        for name in ("b", "A:1", "a", "_", "a.b", "B"):
            add_counter(name)

        names, cursor = self.names()

        self.assertEqual(names, ["A:1", "B", "_", "a", "a.b", "b"])
        self.assertIsNone(cursor)

    def test_filters_by_prefix(self):
        for name in ("lesson", "lesson:1", "lesson:2", "lessons", "less", "Lesson:1"):
            add_counter(name)

        self.assertEqual(self.names("?prefix=lesson:")[0], ["lesson:1", "lesson:2"])
        self.assertEqual(self.names("?prefix=lesson")[0][0], "lesson")
        self.assertEqual(self.names("?prefix=zzz")[0], [])

    def test_pages_through_everything_once(self):
        expected = [f"c{number:02}" for number in range(7)]
        for name in expected:
            add_counter(name)

        seen, cursor = self.names("?limit=3&prefix=c")
        while cursor:
            page, cursor = self.names(f"?limit=3&prefix=c&cursor={cursor}")
            seen += page

        self.assertEqual(seen, expected)


class TestHome(CounterTestCase):
    def visit(self, method="GET", **headers):
        names = {name.replace("_", "-"): value for name, value in headers.items()}
        return self.client.open("/", method=method, headers=names)

    def test_counts_and_shows_each_visit(self):
        pages = [self.visit().get_data(as_text=True) for _ in range(2)]

        self.assertIn("<h1>Counter: 1</h1>", pages[0])
        self.assertIn("<h1>Counter: 2</h1>", pages[1])
        self.assertEqual(self.value("public:home"), 2)

    def test_does_not_count_who_only_looks_ahead(self):
        self.visit()

        for answer in (
            self.visit("HEAD"),
            self.visit(Sec_Purpose="prefetch;prerender"),
            self.visit(Purpose="prefetch"),
            self.client.get("/favicon.ico"),
        ):
            self.assertLess(answer.status_code, 500)

        self.assertIn("<h1>Counter: 1</h1>", self.visit(Purpose="prefetch").text)
        self.assertEqual(self.value("public:home"), 1)

    def test_is_not_kept_by_caches(self):
        self.assertEqual(self.visit().headers["Cache-Control"], "no-store")
