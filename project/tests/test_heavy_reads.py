"""Expensive reads: shared results, and how many run at a time."""

import threading
import time
import unittest
from concurrent.futures import ThreadPoolExecutor

import psycopg2

from project.heavy_reads import MAX_QUERIES, HeavyReads, TooManyHeavyReads
from project.tests.base import BaseTestCase, shared_app
from project.tests.processes import wait_until


class Query:
    """A query that takes as long as the test wants, and counts its calls."""

    def __init__(self, error=None):
        self.error = error
        self.calls = 0
        self.begun = threading.Event()
        self.may_end = threading.Event()

    def __call__(self, *args):
        self.calls += 1
        self.begun.set()
        self.may_end.wait(10)
        if self.error:
            raise self.error
        return (self.calls, *args)


class TestHeavyReads(unittest.TestCase):
    def setUp(self):
        self.pool = ThreadPoolExecutor(16)
        self.addCleanup(self.pool.shutdown)
        self.query = Query()
        self.addCleanup(self.query.may_end.set)

    def start(self, reads, *args, query=None):
        return self.pool.submit(reads.share, query or self.query, *args)

    def test_equal_reads_share_a_running_query(self):
        reads = HeavyReads(callers=4, reuse_seconds=0)
        first = self.start(reads, "day")
        self.query.begun.wait(10)
        others = [self.start(reads, "day") for _ in range(3)]
        wait_until(lambda: reads._callers._value == 0)

        self.query.may_end.set()

        self.assertEqual({read.result(10) for read in (first, *others)}, {(1, "day")})

    def test_equal_reads_reuse_a_recent_result_until_it_expires(self):
        reads = HeavyReads(callers=1, reuse_seconds=0.3)
        self.query.may_end.set()

        recent = [reads.share(self.query, "day") for _ in range(3)]
        time.sleep(0.3)
        later = reads.share(self.query, "day")

        self.assertEqual(recent, [(1, "day")] * 3)
        self.assertEqual(later, (2, "day"))

    def test_different_reads_share_nothing(self):
        reads = HeavyReads(callers=1)
        self.query.may_end.set()

        results = [reads.share(self.query, window) for window in ("day", "week")]

        self.assertEqual(results, [(1, "day"), (2, "week")])

    def test_each_sharing_request_gets_its_own_exception(self):
        reads = HeavyReads(callers=4)
        query = Query(psycopg2.errors.QueryCanceled("canceling statement due to timeout"))
        first = self.start(reads, query=query)
        query.begun.wait(10)
        others = [self.start(reads, query=query) for _ in range(3)]
        wait_until(lambda: reads._callers._value == 0)

        query.may_end.set()

        errors = [read.exception(10) for read in (first, *others)]
        self.assertEqual({type(error) for error in errors}, {psycopg2.errors.QueryCanceled})
        self.assertEqual(len({id(error) for error in errors}), 4)
        self.assertEqual(query.calls, 1)

    def test_failed_reads_are_not_reused(self):
        reads = HeavyReads(callers=1)
        self.query.may_end.set()
        self.query.error = ValueError("once")
        with self.assertRaises(ValueError):
            reads.share(self.query)
        self.query.error = None

        result = reads.share(self.query)

        self.assertEqual(result, (2,))

    def test_reads_are_rejected_immediately_when_the_bulkhead_is_full(self):
        reads = HeavyReads(callers=1)
        self.start(reads, "day")
        self.query.begun.wait(10)
        began = time.monotonic()

        with self.assertRaises(TooManyHeavyReads):
            reads.share(self.query, "day")
        with self.assertRaises(TooManyHeavyReads), reads.slot():
            self.fail("it got a slot")

        self.assertLess(time.monotonic() - began, 0.5)

    def test_few_queries_run_at_a_time(self):
        reads = HeavyReads(callers=8)
        started = [self.start(reads, number) for number in range(MAX_QUERIES)]
        wait_until(lambda: self.query.calls == MAX_QUERIES)

        with self.assertRaises(TooManyHeavyReads):  # after a while without a free slot
            reads.share(self.query, "another")

        self.query.may_end.set()
        self.assertEqual(len([read.result(10) for read in started]), MAX_QUERIES)
        self.assertEqual(self.query.calls, MAX_QUERIES)


class TestRoutes(BaseTestCase):
    def setUp(self):
        super().setUp()
        known = shared_app().extensions
        self.addCleanup(known.__setitem__, "heavy_reads", known["heavy_reads"])
        known["heavy_reads"] = self.reads = HeavyReads(callers=1)

    def test_expensive_routes_get_503_when_the_bulkhead_is_full(self):
        heavy = (
            "/dashboard",
            "/dashboard?brief=",
            "/scores/activity",
            "/scores/failures",
            "/scores/leaderboard?window=day",
            "/scores/leaderboard?window=day&around=7",
            "/scores?correct=false",
            "/scores?updated_since=2026-11-25T09:00:00Z",
            "/scores?user_id=7&updated_since=2026-11-25T09:00:00Z",
        )
        with self.reads.slot():
            for path in heavy:
                with self.subTest(path):
                    answer = self.client.get(path)

                    self.assert_fails(answer, 503, "unavailable")
                    self.assertEqual(answer.headers["Retry-After"], "1")

    def test_light_routes_are_answered_when_the_bulkhead_is_full(self):
        light = (
            "/scores",
            "/scores?user_id=7&correct=true",
            "/scores/leaderboard",
            "/scores/leaderboard?around=7",
            "/counters",
            "/health",
        )
        with self.reads.slot():
            for path in light:
                with self.subTest(path):
                    self.assert200(self.client.get(path))

    def test_shared_leaderboard_is_not_modified_for_its_etag(self):
        first = self.client.get("/scores/leaderboard?window=day")

        second = self.client.get(
            "/scores/leaderboard?window=day", headers={"If-None-Match": first.headers["ETag"]}
        )

        self.assertEqual((second.status_code, second.data), (304, b""))
        self.assertEqual(second.headers["ETag"], first.headers["ETag"])
