import time
import unittest
from concurrent.futures import ThreadPoolExecutor
from threading import Event, Lock

from project.combiner import LARGEST_BATCH, Combiner, Overdue, StillUnderway


class Away(Exception):
    """The database is away: no item is to blame."""


class Poisoned(Exception):
    """An item is to blame; which one, only trying each can tell."""


class Disk:
    """Writes what it is given, and notes it; a flush can be held up by its number."""

    def __init__(self):
        self.batches = []
        self.entered = [Event() for _ in range(8)]
        self.gates = [Event() for _ in range(8)]
        self.open_gates()
        self.fails_with = None
        self.flushes = 0
        self._lock = Lock()

    def flush(self, items):
        with self._lock:
            number = self.flushes
            self.flushes += 1
        if number < len(self.gates):
            self.entered[number].set()
            self.gates[number].wait(10)
        if self.fails_with is not None:
            raise self.fails_with
        if "poison" in items:
            raise Poisoned
        self.batches.append(list(items))
        return [f"{item} written" for item in items]

    def open_gates(self):
        for gate in self.gates:
            gate.set()


class CombinerTestCase(unittest.TestCase):
    def setUp(self):
        self.disk = Disk()
        self.told = []
        self.combiner = self.new_combiner()
        self.pool = ThreadPoolExecutor(40)
        self.addCleanup(self.pool.shutdown)
        self.addCleanup(self.disk.open_gates)

    def new_combiner(self, **options):
        return Combiner(
            self.disk.flush,
            undivided=(Away,),
            observe=lambda *figures: self.told.append(figures),
            **options,
        )

    def submit_behind(self, first, *others):
        """Have `others` queue up behind the flush of `first`; return the futures of all."""
        self.disk.gates[0].clear()
        futures = [self.pool.submit(self.combiner.submit, first)]
        self.disk.entered[0].wait(10)
        for place, item in enumerate(others, start=1):
            futures.append(self.pool.submit(self.combiner.submit, item))
            self.wait_until(lambda place=place: len(self.combiner._queue) == place)
        return futures

    def wait_until(self, is_so):
        deadline = time.monotonic() + 10
        while not is_so():
            self.assertLess(time.monotonic(), deadline)
            time.sleep(0.001)


class TestSubmit(CombinerTestCase):
    def test_flushes_at_once_where_nothing_is_under_way(self):
        results = [self.combiner.submit(item) for item in ("a", "b")]

        self.assertEqual(results, ["a written", "b written"])
        self.assertEqual(self.disk.batches, [["a"], ["b"]])

    def test_carries_all_who_came_meanwhile_in_one_flush_in_their_order(self):
        futures = self.submit_behind("a", "b", "c", "d")

        self.disk.gates[0].set()
        results = [future.result(10) for future in futures]

        self.assertEqual(self.disk.batches, [["a"], ["b", "c", "d"]])
        self.assertEqual(results, ["a written", "b written", "c written", "d written"])

    def test_answers_nobody_before_the_flush_that_carries_it_is_done(self):
        futures = self.submit_behind("a", "b")

        self.assertFalse(any(future.done() for future in futures))

        self.disk.gates[0].set()
        self.assertEqual([future.result(10) for future in futures], ["a written", "b written"])

    def test_takes_no_more_than_a_batch_at_once_and_leaves_nobody_behind(self):
        count = 3 * LARGEST_BATCH
        pool = ThreadPoolExecutor(64)
        self.addCleanup(pool.shutdown)

        results = list(pool.map(self.combiner.submit, map(str, range(count))))

        self.assertEqual(results, [f"{number} written" for number in range(count)])
        self.assertEqual(sum(len(batch) for batch in self.disk.batches), count)
        self.assertLessEqual(max(len(batch) for batch in self.disk.batches), LARGEST_BATCH)

    def test_tells_of_each_flush(self):
        futures = self.submit_behind("a", "b", "c")
        time.sleep(0.01)
        self.disk.gates[0].set()
        for future in futures:
            future.result(10)

        self.wait_until(lambda: len(self.told) == 2)
        (first_size, first_waited, _), (size, waited, took) = self.told
        self.assertEqual((first_size, first_waited, size), (1, 0.0, 2))
        self.assertGreaterEqual(waited, 0.01)
        self.assertGreaterEqual(took, 0)


class TestFailures(CombinerTestCase):
    def test_gives_everyone_an_exception_of_its_own_where_the_flush_fails_as_a_whole(self):
        self.disk.fails_with = Away("no answer")
        futures = self.submit_behind("a", "b", "c")

        self.disk.gates[0].set()
        errors = [future.exception(10) for future in futures]

        self.assertEqual([type(error) for error in errors], [Away] * 3)
        self.assertEqual({str(error) for error in errors}, {"no answer"})
        self.assertEqual(len({id(error) for error in errors}), 3)

    def test_does_not_try_again_where_the_flush_fails_as_a_whole(self):
        tried = []
        combiner = Combiner(
            lambda items: tried.append(items) or self.fail_away(), undivided=(Away,)
        )

        with self.assertRaises(Away):
            combiner.submit("a")

        self.assertEqual(tried, [["a"]])

    def fail_away(self):
        raise Away

    def test_lets_a_poisoned_item_fail_alone(self):
        futures = self.submit_behind("a", "b", "poison", "c")

        self.disk.gates[0].set()

        self.assertEqual(futures[1].result(10), "b written")
        self.assertEqual(futures[3].result(10), "c written")
        self.assertIsInstance(futures[2].exception(10), Poisoned)
        self.assertEqual(self.disk.batches, [["a"], ["b"], ["c"]])

    def test_goes_on_after_a_failure(self):
        self.disk.fails_with = Away()
        with self.assertRaises(Away):
            self.combiner.submit("a")

        self.disk.fails_with = None

        self.assertEqual(self.combiner.submit("b"), "b written")

    def test_passes_the_lead_on_where_the_leader_dies(self):
        self.disk.fails_with = SystemExit()
        futures = self.submit_behind("a", "b", "c")

        self.disk.gates[0].set()

        self.assertIsInstance(futures[0].exception(10), SystemExit)
        # The second leader dies as well; whom it carried is told that nobody knows.
        self.assertIsInstance(futures[1].exception(10), SystemExit)
        self.assertIsInstance(futures[2].exception(10), StillUnderway)
        self.disk.fails_with = None
        self.assertEqual(self.combiner.submit("d"), "d written")


class TestPatience(CombinerTestCase):
    def test_leaves_the_queue_when_it_takes_too_long_and_is_never_written(self):
        self.combiner = self.new_combiner(patience_seconds=0.05)
        futures = self.submit_behind("a", "b")

        self.assertIsInstance(futures[1].exception(10), Overdue)

        self.disk.gates[0].set()
        self.assertEqual(futures[0].result(10), "a written")
        self.assertEqual(self.combiner.submit("c"), "c written")
        self.assertEqual(self.disk.batches, [["a"], ["c"]])

    def test_does_not_know_where_it_is_on_its_way_for_too_long(self):
        self.combiner = self.new_combiner(patience_seconds=0.1)
        self.disk.gates[1].clear()
        futures = self.submit_behind("a", "b", "c")

        # The second flush has b in the lead and c on board, and does not end.
        self.disk.gates[0].set()

        self.assertIsInstance(futures[2].exception(10), StillUnderway)
        self.disk.gates[1].set()
        self.assertEqual(futures[1].result(10), "b written")
        self.assertEqual(self.disk.batches, [["a"], ["b", "c"]])


if __name__ == "__main__":
    unittest.main()
