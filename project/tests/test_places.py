"""Who gets a place, who waits for one, and who is told to come again."""

import time
import unittest
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack

from project.places import STUCK_SECONDS, NoPlace, Places


class TestPlaces(unittest.TestCase):
    def take(self, places, seconds=0.0):
        with places.taken():
            time.sleep(seconds)

    def test_are_waited_for_as_long_as_others_leave_soon(self):
        """Be there one or more of them, and however long nobody came before."""
        for count in (1, 2):
            with self.subTest(count), ThreadPoolExecutor(10) as pool:
                places = Places(count)
                for visit in [pool.submit(self.take, places, 0.02) for _ in range(10)]:
                    self.assertIsNone(visit.result())

    def test_are_not_waited_for_where_all_are_stuck(self):
        places = Places(2)
        with ExitStack() as stack:
            for _ in range(2):
                stack.enter_context(places.taken())
            for _ in range(2):  # the first one waits to see, and the second knows
                with self.assertRaises(NoPlace):
                    self.take(places)
        self.take(places)

    def test_places_reject_sooner_if_they_are_stuck_sooner(self):
        patient, hasty = Places(1), Places(1, stuck_seconds=0.05)
        for places in (patient, hasty):
            with places.taken():
                began = time.monotonic()
                with self.assertRaises(NoPlace):
                    self.take(places)
                places.waited = time.monotonic() - began

        self.assertGreaterEqual(patient.waited, STUCK_SECONDS - 0.05)
        self.assertLess(hasty.waited, STUCK_SECONDS - 0.05)

    def test_that_were_given_up_after_long_are_no_sign_that_others_will_be(self):
        places = Places(2)
        with ExitStack() as stack:
            stack.enter_context(places.taken())
            with places.taken():
                time.sleep(STUCK_SECONDS)
            stack.enter_context(places.taken())
            self.assertLess(places._moved_at, time.monotonic() - STUCK_SECONDS)
            with self.assertRaises(NoPlace):
                self.take(places)
