import re
from datetime import UTC, datetime, timedelta
from unittest.mock import patch
from xml.etree import ElementTree

from sqlalchemy import text

from project import db
from project.api.counter import badge, queries, writes
from project.api.counter.writes import Addition
from project.api.errors import CounterOverflow
from project.api.idempotency.keys import Write
from project.api.limits import AddressLimit
from project.tests.base import ADMIN, LEARNER, BaseTestCase
from project.tests.utils import add_counter

LARGEST = 2**63 - 1
TEXT = "{http://www.w3.org/2000/svg}text"


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
        add_counter("public:visits")

        refused = self.increment(headers=None)
        public = self.increment("public:visits", headers=None)

        self.assert_fails(refused, 403, "token_required")
        self.assertEqual(public.get_json()["data"]["value"], 2)

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


class TestIncrementMany(CounterTestCase):
    def increment_many(self, **increments):
        return self.client.post(
            "/counters/increment", json={"increments": increments}, headers=LEARNER
        )

    def test_adds_to_all_and_gives_their_values(self):
        add_counter("a", 10)

        answer = self.increment_many(a=1, b=-5)

        self.assertEqual(answer.get_json()["data"], {"counters": {"a": 11, "b": -5}})

    def test_adds_to_none_where_one_would_overflow(self):
        add_counter("b", LARGEST)

        answer = self.increment_many(a=1, b=1)

        self.assert_fails(answer, 409, "counter_overflow")
        self.assert_fails(self.client.get("/counters/a"), 404, "counter_not_found")

    def test_needs_a_token_whatever_the_names(self):
        answer = self.client.post("/counters/increment", json={"increments": {"public:a": 1}})

        self.assert_fails(answer, 403, "token_required")

    def test_refuses_what_it_cannot_add(self):
        for increments in ({}, {"a/b": 1}, {"a": 0}, {"a": 1.5}, {"x" * 129: 1}, [["a", 1]], None):
            with self.subTest(increments=increments):
                answer = self.client.post(
                    "/counters/increment", json={"increments": increments}, headers=LEARNER
                )

                body = self.assert_fails(answer, 400, "invalid_payload")
                self.assertTrue(next(iter(body["errors"])).startswith("increments"))

    def test_takes_a_thousand_names_and_no_more(self):
        fits = self.increment_many(**{f"c{number}": 1 for number in range(1000)})
        too_many = self.increment_many(**{f"c{number}": 1 for number in range(1001)})

        self.assertEqual(len(fits.get_json()["data"]["counters"]), 1000)
        self.assert_fails(too_many, 400, "invalid_payload")

    def test_keeps_single_and_many_apart_when_they_come_at_once(self):
        def add(number):
            return self.increment_many(a=1, b=2) if number % 2 else self.increment("a")

        answers = self.at_once(32, add)

        values = [
            answer.get_json()["data"].get("value") or answer.get_json()["data"]["counters"]["a"]
            for answer in answers
        ]
        self.assertEqual(sorted(values), list(range(1, 33)))
        self.assertEqual((self.value("a"), self.value("b")), (32, 32))


class TestOverflowAmongNeighbours(CounterTestCase):
    def test_harms_nobody_who_comes_at_the_same_time(self):
        add_counter("full", LARGEST)

        answers = self.at_once(
            32, lambda number: self.increment("full" if number % 4 == 0 else "visits")
        )

        self.assertEqual(sorted(answer.status_code for answer in answers), [200] * 24 + [409] * 8)
        self.assertEqual((self.value("full"), self.value()), (LARGEST, 24))

    def test_is_found_on_the_way_even_where_the_sum_of_a_batch_fits(self):
        add_counter("full", LARGEST)
        batch = [Write(Addition({"full": 1})), Write(Addition({"full": -1}))]

        with self.assertRaises(CounterOverflow):
            writes._flush(batch)

        self.assertEqual(self.value("full"), LARGEST)
        self.assertTrue(self.client.get("/counters/full/audit").get_json()["data"]["consistent"])


class TestSetCounter(CounterTestCase):
    def put(self, value, name="visits", headers=ADMIN, **conditions):
        names = {name.replace("_", "-"): value for name, value in conditions.items()}
        return self.client.put(f"/counters/{name}", json={"value": value}, headers=headers | names)

    def audit(self, name="visits"):
        return self.client.get(f"/counters/{name}/audit").get_json()["data"]

    def test_creates_with_if_none_match_where_there_is_none(self):
        created = self.put(5, If_None_Match="*")
        again = self.put(6, If_None_Match="*")

        self.assertEqual((created.status_code, created.get_json()["data"]["value"]), (201, 5))
        self.assertEqual(
            created.headers["ETag"], self.client.get("/counters/visits").headers["ETag"]
        )
        self.assert_fails(again, 412, "precondition_failed")
        self.assertEqual(self.audit(), {"value": 5, "ledger_sum": 5, "consistent": True})

    def test_sets_with_the_etag_that_was_seen_and_with_no_other(self):
        add_counter("visits", 3)
        etag = self.client.get("/counters/visits").headers["ETag"]

        seen = self.put(10, If_Match=etag)
        stale = self.put(20, If_Match=etag)

        self.assertEqual((seen.status_code, seen.get_json()["data"]["value"]), (200, 10))
        self.assert_fails(stale, 412, "precondition_failed")
        self.assertEqual(self.value(), 10)

    def test_sets_with_a_star_whatever_there_is_but_not_where_there_is_none(self):
        add_counter("visits", 3)

        self.assertEqual(self.put(0, If_Match="*").status_code, 200)
        self.assert_fails(self.put(0, "nothing", If_Match="*"), 412, "precondition_failed")
        self.assertEqual(self.audit(), {"value": 0, "ledger_sum": 0, "consistent": True})

    def test_refuses_an_etag_from_before_a_deletion(self):
        add_counter("visits", 1)
        etag = self.client.get("/counters/visits").headers["ETag"]
        self.client.delete("/counters/visits", headers=ADMIN)
        add_counter("visits", 1)

        self.assert_fails(self.put(9, If_Match=etag), 412, "precondition_failed")

    def test_asks_for_a_precondition(self):
        add_counter("visits", 3)

        self.assert_fails(self.put(1), 428, "precondition_required")
        self.assertEqual(self.value(), 3)

    def test_is_for_administrators(self):
        self.assert_fails(self.put(1, headers=LEARNER, If_None_Match="*"), 403, "forbidden")

    def test_goes_from_one_end_of_its_range_to_the_other(self):
        self.put(-LARGEST - 1, If_None_Match="*")

        answer = self.put(LARGEST, If_Match="*")

        self.assertEqual(answer.get_json()["data"]["value"], LARGEST)
        self.assertTrue(self.audit()["consistent"])

    def test_lets_one_of_many_with_the_same_etag_win(self):
        add_counter("visits", 3)
        etag = self.client.get("/counters/visits").headers["ETag"]

        answers = self.at_once(16, lambda number: self.put(100 + number, If_Match=etag))

        winners = [answer for answer in answers if answer.status_code == 200]
        self.assertEqual(len(winners), 1)
        self.assertEqual(self.value(), winners[0].get_json()["data"]["value"])
        self.assertTrue(self.audit()["consistent"])

    def test_stays_true_to_its_ledger_when_it_is_counted_and_set_at_once(self):
        add_counter("visits", 1)

        self.at_once(
            24,
            lambda number: self.put(number, If_Match="*") if number % 3 == 0 else self.increment(),
        )

        self.assertTrue(self.audit()["consistent"], self.audit())


class TestDeleteCounter(CounterTestCase):
    def delete(self, headers=ADMIN):
        return self.client.delete("/counters/visits", headers=headers)

    def test_leaves_nothing_behind(self):
        add_counter("visits", 3)

        deleted = self.delete()

        self.assertEqual(deleted.get_json()["message"], "Counter was deleted!")
        self.assert_fails(self.client.get("/counters/visits"), 404, "counter_not_found")
        self.assert_fails(self.delete(), 404, "counter_not_found")
        self.assertEqual(add_counter("visits", 1), 1)
        audit = self.client.get("/counters/visits/audit").get_json()["data"]
        self.assertEqual(audit, {"value": 1, "ledger_sum": 1, "consistent": True})

    def test_is_for_administrators(self):
        add_counter("visits", 3)

        self.assert_fails(self.delete(LEARNER), 403, "forbidden")
        self.assertEqual(self.value(), 3)

    def test_stays_true_to_its_ledger_when_it_is_counted_and_deleted_at_once(self):
        self.at_once(24, lambda number: self.delete() if number % 4 == 0 else self.increment())
        add_counter("visits", 1)

        audit = self.client.get("/counters/visits/audit").get_json()["data"]
        self.assertTrue(audit["consistent"], audit)


class TestHistory(CounterTestCase):
    def points(self, query=""):
        answer = self.client.get(f"/counters/visits/history{query}")
        self.assertEqual(answer.status_code, 200, answer.get_json())
        return answer.get_json()["data"]["points"]

    def backdate(self, hours):
        """Move what was counted so far into the past."""
        with db.engine.begin() as connection:
            statement = text("UPDATE counter_hours SET hour = hour - :hours * interval '1 hour'")
            connection.execute(statement, {"hours": hours})

    def test_fills_the_gaps_between_hours(self):
        add_counter("visits", 2)
        self.backdate(2)
        add_counter("visits", 3)

        points = self.points("?interval=hour")

        self.assertEqual(len(points), 25)
        self.assertEqual([point["added"] for point in points[-3:]], [2, 0, 3])
        now = datetime.now(UTC)
        self.assertLess(now - datetime.fromisoformat(points[-1]["at"]), timedelta(hours=1))

    def test_sums_the_hours_of_a_day(self):
        add_counter("visits", 1)
        self.backdate(48)
        add_counter("visits", 5)
        self.client.post("/counters/visits/increment", json={"by": -2}, headers=LEARNER)

        points = self.points()

        self.assertEqual(len(points), 31)
        self.assertEqual([point["added"] for point in points[-3:]], [1, 0, 3])

    def test_begins_and_ends_where_it_is_told(self):
        add_counter("visits", 1)

        points = self.points("?interval=hour&since=2020-01-01T10:59:00Z&until=2020-01-01T13:00:00Z")

        self.assertEqual(
            points,
            [{"at": f"2020-01-01T{hour}:00:00.000000Z", "added": 0} for hour in (10, 11, 12)],
        )

    def test_leaves_out_what_was_set_and_not_added(self):
        add_counter("visits", 1)
        self.client.put("/counters/visits", json={"value": 500}, headers=ADMIN | {"If-Match": "*"})

        self.assertEqual(self.points()[-1]["added"], 1)

    def test_has_an_end(self):
        add_counter("visits", 1)

        answer = self.client.get("/counters/visits/history?since=1970-01-01T00:00:00Z")

        self.assert_fails(answer, 400, "invalid_query")

    def test_shows_more_than_64_bits_can_hold(self):
        add_counter("visits", 1)
        with db.engine.begin() as connection:
            connection.execute(text("UPDATE counter_hours SET added = 12345678901234567890123"))

        self.assertIn(b'"added":12345678901234567890123', self.client.get(
            "/counters/visits/history").data)  # fmt: skip


class TestAudit(CounterTestCase):
    def test_finds_a_difference(self):
        add_counter("visits", 3)
        with db.engine.begin() as connection:
            connection.execute(text("UPDATE counters SET value = 4"))

        answer = self.client.get("/counters/visits/audit")

        self.assertEqual(
            answer.get_json()["data"], {"value": 4, "ledger_sum": 3, "consistent": False}
        )

    def test_is_of_one_moment(self):
        """While the counter runs, every audit is consistent."""

        def work(number):
            if number % 2:
                return [self.increment() for _ in range(5)] and True
            audits = [self.client.get("/counters/visits/audit").get_json() for _ in range(10)]
            return all(audit["data"]["consistent"] for audit in audits)

        add_counter("visits", 1)

        self.assertTrue(all(self.at_once(8, work)))


class TestBadge(CounterTestCase):
    def badge(self, query=""):
        return self.client.get(f"/counters/visits/badge.svg{query}")

    def test_shows_name_and_value_and_never_counts(self):
        add_counter("visits", 1234)

        answers = [self.badge() for _ in range(2)]

        self.assertEqual(answers[0].mimetype, "image/svg+xml")
        self.assertEqual(answers[0].headers["Cache-Control"], "no-cache")
        picture = ElementTree.fromstring(answers[1].data)
        self.assertEqual(picture.get("aria-label"), "visits: 1.2k")
        self.assertEqual(self.value(), 1234)

    def test_writes_any_label_as_text(self):
        add_counter("visits", 1)

        answer = self.badge("?label=%3Cscript%3Ealert(1)%3C/script%3E%22%27%26")

        picture = ElementTree.fromstring(answer.data)
        self.assertEqual(picture.get("aria-label"), "<script>alert(1)</script>\"'&: 1")
        self.assertNotIn(b"<script>", answer.data)

    def test_takes_colours_by_name_and_in_hexadecimal(self):
        add_counter("visits", 1)

        for color, painted in (("red", "#e05d44"), ("ff8800", "#ff8800"), ("%23abc", "#abc")):
            self.assertIn(f'fill="{painted}"', self.badge(f"?color={color}").text)
        for color in ("javascript", "%23abcd", "url(x)", ""):
            self.assert_fails(self.badge(f"?color={color}"), 400, "invalid_query")

    def test_writes_dark_letters_on_light_colours(self):
        add_counter("visits", 1)

        for color, ink in (("fff", "#333"), ("ffee00", "#333"), ("000", "#fff"), ("blue", "#fff")):
            with self.subTest(color):
                message = list(
                    ElementTree.fromstring(self.badge(f"?color={color}").data).iter(TEXT)
                )

                self.assertEqual([one.get("fill") for one in message[1::2]], ["#fff", ink])

    def test_refuses_a_label_that_no_picture_can_show(self):
        add_counter("visits", 1)

        for label in ("", "%00", "%0A", "a%1Bb", "%EF%BF%BF", "x" * 65):
            self.assert_fails(self.badge(f"?label={label}"), 400, "invalid_query")

    def test_is_as_wide_as_its_text(self):
        for label, pixels in {"": 0, "iii": 9, "WWW": 33, "visits": 28, "\u8a55\u4fa1": 22}.items():
            self.assertEqual(badge.width(label), pixels)
        self.assertEqual(badge.width("e\u0301te\u0301"), badge.width("ete"))
        self.assertEqual(badge.width("\u00e9t\u00e9"), badge.width("ete"))

    def test_is_not_sent_again_until_it_changes_and_runs_nothing(self):
        add_counter("visits", 1)
        first = self.badge()
        known = {"If-None-Match": first.headers["ETag"]}

        same = self.client.get("/counters/visits/badge.svg", headers=known)
        add_counter("visits", 1)
        other = self.client.get("/counters/visits/badge.svg", headers=known)

        self.assertEqual((same.status_code, other.status_code), (304, 200))
        self.assertEqual(first.headers["Content-Security-Policy"], "default-src 'none'")
        self.assertEqual(first.headers["X-Content-Type-Options"], "nosniff")

    def test_writes_numbers_as_people_do(self):
        for value, written in (
            (0, "0"), (-7, "-7"), (999, "999"), (1000, "1k"), (1250, "1.2k"), (9999, "9.9k"),
            (10_500, "10k"), (999_999, "999k"), (1_000_000, "1M"), (-1_500_000, "-1.5M"),
            (LARGEST, "9.2E"),
        ):  # fmt: skip
            self.assertEqual(badge.short(value), written)

    def test_says_so_where_there_is_none(self):
        self.assert_fails(self.badge(), 404, "counter_not_found")


class TestDeletionByPrefix(CounterTestCase):
    def delete(self, query="?prefix=ab", headers=ADMIN):
        return self.client.delete(f"/counters{query}", headers=headers)

    def names(self):
        counters = self.client.get("/counters").get_json()["data"]["counters"]
        return [counter["name"] for counter in counters]

    def ledgers(self):
        with db.engine.connect() as connection:
            statement = text("SELECT DISTINCT name FROM counter_hours ORDER BY name")
            return list(connection.execute(statement).scalars())

    def test_deletion_by_prefix_deletes_what_begins_so_and_nothing_else(self):
        others = ["AB", "a", "aa", "ac", "b", "xab"]
        for name in (*others, "ab", "ab.", "ab:c", "abc", "ab" + "z" * 126):
            add_counter(name)

        first, second = self.delete(), self.delete()

        self.assertEqual(
            first.get_json(),
            {"status": "success", "message": "Counters were deleted!", "data": {"deleted": 5}},
        )
        self.assertEqual(second.get_json()["data"], {"deleted": 0})
        self.assertEqual((self.names(), self.ledgers()), (others, others))

    def test_deletion_by_prefix_deletes_any_number_in_batches(self):
        queries.add_many({f"ab{number}": 1 for number in range(2500)} | {"b": 1})

        answer = self.delete()

        self.assertEqual(answer.get_json()["data"], {"deleted": 2500})
        self.assertEqual((self.names(), self.ledgers()), (["b"], ["b"]))

    def test_deletion_by_prefix_needs_a_prefix_and_an_admin(self):
        add_counter("ab")

        for query in ("", "?prefix=", "?prefix=a%25", "?prefix=a&prefix=b", "?prefix=a&limit=1"):
            with self.subTest(query):
                self.assert_fails(self.delete(query), 400, "invalid_query")
        self.assert_fails(self.delete(headers=LEARNER), 403, "forbidden")
        self.assert_fails(self.delete(headers={}), 403, "token_required")
        self.assertEqual(self.names(), ["ab"])

    def test_deletion_by_prefix_keeps_values_exact_among_increments(self):
        def send(number):
            if number % 4 == 0:
                return self.delete()
            return self.increment(f"ab{number % 3}")

        answers = self.at_once(32, send)

        self.assertEqual({answer.status_code for answer in answers}, {200})
        self.assertEqual(list(queries.select_inconsistent()), [])


class TestAnonymousLimit(CounterTestCase):
    def setUp(self):
        super().setUp()
        limit = AddressLimit("anonymous", "3/minute", "memory://")
        patcher = patch.dict(self.app.extensions, anonymous_limit=limit)
        patcher.start()
        self.addCleanup(patcher.stop)
        add_counter("public:a")

    def test_stops_an_address_that_asks_too_often_and_says_until_when(self):
        answers = [self.increment("public:a", headers=None) for _ in range(4)]

        self.assertEqual([answer.status_code for answer in answers], [200, 200, 200, 429])
        self.assert_fails(answers[3], 429, "rate_limited")
        self.assertRegex(answers[3].headers["Retry-After"], r"^[1-9]\d?$")
        self.assertEqual(answers[0].headers["RateLimit-Policy"], '"anonymous";q=3;w=60')
        self.assertRegex(answers[0].headers["RateLimit"], r'^"anonymous";r=2;t=\d+$')
        self.assertEqual(self.value("public:a"), 4)

    def test_home_page_is_shown_without_counting_when_over_the_limit(self):
        pages = [self.client.get("/") for _ in range(5)]
        others = self.client.get("/", environ_base={"REMOTE_ADDR": "203.0.113.9"})
        looked = self.client.head("/")

        self.assertEqual({page.status_code for page in (*pages, others, looked)}, {200})
        shown = [re.search(r"Counter: (\d+)", page.get_data(as_text=True))[1] for page in pages]
        self.assertEqual(shown, ["1", "2", "3", "3", "3"])
        self.assertIn("Counter: 4", others.get_data(as_text=True))
        self.assertEqual(self.value("public:home"), 4)
        self.assertFalse({"Retry-After", "RateLimit"} & set(pages[4].headers.keys()))

    def test_counts_what_is_refused_as_well(self):
        """Else the names of public counters could be guessed without a limit."""
        answers = [self.increment("public:missing", headers=None) for _ in range(4)]

        self.assertEqual([answer.status_code for answer in answers], [404, 404, 404, 429])

    def test_concerns_neither_other_addresses_nor_who_has_a_token(self):
        for _ in range(4):
            self.increment("public:a", headers=None)

        other = self.client.post(
            "/counters/public:a/increment", environ_base={"REMOTE_ADDR": "10.0.0.9"}
        )

        self.assertEqual(other.status_code, 200)
        self.assertEqual(self.increment("public:a").status_code, 200)


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
