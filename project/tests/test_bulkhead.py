"""The fair bulkhead, with real threads."""

import threading
import time
import unittest
from concurrent.futures import ThreadPoolExecutor

from project.bulkhead import BulkheadFull, FairBulkhead
from project.tests.processes import wait_until

SOON_SECONDS = 10.0


class TestFairBulkhead(unittest.TestCase):
    def setUp(self) -> None:
        self.pool = ThreadPoolExecutor(40)
        self.addCleanup(self.pool.shutdown)
        self.go = threading.Event()
        self.addCleanup(self.go.set)
        self.held: list[str] = []

    def hold(self, bulkhead: FairBulkhead, client: str, name: str | None = None) -> None:
        """Hold a slot until the test lets go."""
        with bulkhead.slot(client, SOON_SECONDS):
            self.held.append(name or client)
            self.go.wait(SOON_SECONDS)

    def test_bulkhead_rejects_a_client_that_has_its_share_and_admits_another(self) -> None:
        bulkhead = FairBulkhead(3, slots_per_client=2)
        for _ in range(2):
            self.pool.submit(self.hold, bulkhead, "a")
        wait_until(lambda: len(self.held) == 2)

        with self.assertRaises(BulkheadFull), bulkhead.slot("a", 0):
            pass
        with bulkhead.slot("b", 0):
            pass

    def test_bulkhead_rejects_every_client_if_it_is_full(self) -> None:
        bulkhead = FairBulkhead(2, slots_per_client=1)
        for client in ("a", "b"):
            self.pool.submit(self.hold, bulkhead, client)
        wait_until(lambda: len(self.held) == 2)
        began = time.monotonic()

        with self.assertRaises(BulkheadFull), bulkhead.slot("c", 0.1):
            pass

        self.assertGreaterEqual(time.monotonic() - began, 0.1)

    def test_bulkhead_reserves_slots_for_preferred_callers(self) -> None:
        bulkhead = FairBulkhead(3, slots_per_client=1, reserved=1)
        for client in ("a", "b"):
            self.pool.submit(self.hold, bulkhead, client)
        wait_until(lambda: len(self.held) == 2)

        with self.assertRaises(BulkheadFull), bulkhead.slot("c", 0):
            pass
        with (
            bulkhead.slot("d", 0, preferred=True),
            self.assertRaises(BulkheadFull),
            bulkhead.slot("e", 0, preferred=True),
        ):
            pass

    def test_bulkhead_frees_the_slot_of_a_block_that_raises(self) -> None:
        bulkhead = FairBulkhead(1, slots_per_client=1)
        for _ in range(3):
            with self.assertRaises(ZeroDivisionError), bulkhead.slot("a", 0):
                raise ZeroDivisionError

    def test_bulkhead_serves_a_client_in_order(self) -> None:
        bulkhead = FairBulkhead(4, slots_per_client=1)
        order: list[int] = []

        def take(number: int) -> None:
            with bulkhead.slot("a", SOON_SECONDS):
                order.append(number)
                time.sleep(0.001)

        self.pool.submit(self.hold, bulkhead, "a")
        wait_until(lambda: len(self.held) == 1)
        for number in range(30):
            self.pool.submit(take, number)
            time.sleep(0.005)
        self.go.set()

        wait_until(lambda: len(order) == 30)
        self.assertEqual(order, list(range(30)))

    def test_bulkhead_serves_the_next_if_the_first_gives_up(self) -> None:
        bulkhead = FairBulkhead(1, slots_per_client=1)
        self.pool.submit(self.hold, bulkhead, "a")
        wait_until(lambda: len(self.held) == 1)

        def give_up() -> None:
            with bulkhead.slot("a", 0.1):
                pass

        first = self.pool.submit(give_up)
        time.sleep(0.05)
        self.pool.submit(self.hold, bulkhead, "a", "second")
        self.assertIsInstance(first.exception(), BulkheadFull)
        self.go.set()

        wait_until(lambda: "second" in self.held)


if __name__ == "__main__":
    unittest.main()
