"""The delays before a worker is restarted."""

from threading import Thread
from types import SimpleNamespace
from unittest import TestCase, mock

from project.supervisor import HEALTHY_SECONDS, MAX_DELAY_SECONDS, Backoff, RestartSchedule


class TestBackoff(TestCase):
    def setUp(self):
        self.now = 1000.0
        clock = mock.patch("time.monotonic", side_effect=lambda: self.now)
        self.enterContext(clock)
        self.backoff = Backoff()

    def test_delays_double_up_to_the_longest(self):
        delays = [self.backoff.schedule() for _ in range(10)]

        self.assertEqual(delays[:5], [0, 0.5, 1, 2, 4])
        self.assertEqual(delays[-1], MAX_DELAY_SECONDS)

    def test_worker_that_lived_for_long_is_restarted_at_once(self):
        for _ in range(4):
            self.backoff.schedule()
        self.now += self.backoff.remaining + HEALTHY_SECONDS + 1

        self.assertEqual(self.backoff.schedule(), 0)

    def test_remaining_counts_down(self):
        self.backoff.schedule()
        self.backoff.schedule()
        self.assertEqual(self.backoff.remaining, 0.5)

        self.now += 0.2
        self.assertAlmostEqual(self.backoff.remaining, 0.3)
        self.now += 1
        self.assertEqual(self.backoff.remaining, 0)


class TestRestartSchedule(TestCase):
    def test_death_is_seen_even_if_the_event_was_cleared_after_it(self):
        server = SimpleNamespace(
            workers=2, interrupt_signal=False, interrupt_children=[1], respawned_wrks={}
        )
        schedule = RestartSchedule(server, is_started=lambda: True)

        waiting = Thread(target=schedule.wait, daemon=True)
        waiting.start()
        waiting.join(timeout=5)

        self.assertFalse(waiting.is_alive())
        self.assertEqual(server.interrupt_children, [1])
