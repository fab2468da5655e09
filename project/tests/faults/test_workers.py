"""Workers that hang or run out of memory, and a PostgreSQL that the service starts itself."""

import http.client
import json
import os
import resource
import signal
import subprocess
import sys
import tempfile
import time
import unittest
from collections import Counter
from contextlib import suppress

import psutil

from project import metrics
from project.tests.faults import harness
from project.tests.faults.harness import (
    ANSWER_SECONDS,
    RECOVERY_SECONDS,
    SECRET,
    TOKEN,
    FaultTestCase,
    Postgres,
    Service,
    visitors,
    workers_of,
)
from project.tests.processes import (
    GRACE_SECONDS,
    ROOT,
    environment,
    free_port,
    house,
    postmaster,
    wait_until,
)


def setUpModule():
    FaultTestCase.postgres = Postgres()
    unittest.addModuleCleanup(FaultTestCase.postgres.stop)
    harness.CountsTestCase.service = Service(FaultTestCase.postgres)
    unittest.addModuleCleanup(harness.CountsTestCase.service.stop)


class WorkerTestCase(harness.CountsTestCase):
    def setUp(self):
        super().setUp()
        self.before = {worker.pid for worker in self.service.workers}

    def replaced(self):
        return {worker.pid for worker in self.service.workers} - self.before


class TestHung(WorkerTestCase):
    def test_worker_is_replaced_and_costs_nothing_that_was_answered(self):
        with self.under_load() as books:
            with visitors(self.service, "/health", "/counters/hot") as visits:
                self.service.workers[0].suspend()
                began = time.monotonic()
                wait_until(self.replaced, seconds=RECOVERY_SECONDS)
                seconds = time.monotonic() - began
            self.assert_recovers(books, "a worker that hung")

        self.report("a hung worker was replaced after", seconds)
        # Who had asked this worker was not answered, but hung up on.
        self.assertLessEqual({visit.status for visit in visits}, {0, 200})
        for visit in visits:
            self.assertLess(visit.seconds, ANSWER_SECONDS, visit)


class TestCrashLoop(FaultTestCase):
    KILLS = 4

    def setUp(self):
        self.service = Service(self.postgres)
        self.addCleanup(self.service.stop)

    def test_worker_that_dies_again_and_again_leaves_the_others_alone(self):
        """Each replacement is killed as soon as there is one."""
        healthy = self.service.workers[1]
        began = time.monotonic()

        with visitors(self.service, "/health") as visits:
            for _ in range(self.KILLS):
                self.kill_replacement_of(healthy)
            killing_seconds = time.monotonic() - began
            self.replacement_of(healthy)
            wait_until(self.service.is_ready)

        self.assertTrue(healthy.is_running())
        self.assertIsNone(self.service.process.poll())
        self.assertIn(200, {visit.status for visit in visits})
        output = self.service.output()
        self.assertNotIn("crash loop", output)
        for seconds in ("0.5", "1", "2"):
            self.assertIn(f"Worker 1 died again; its restart is in {seconds} s.", output)
        self.assertGreater(killing_seconds, 0.5 + 1)

    def kill_replacement_of(self, healthy):
        """Kill the other worker and wait for its end, so that it is not killed twice."""
        worker = self.replacement_of(healthy)
        worker.kill()
        worker.wait(GRACE_SECONDS)

    def replacement_of(self, healthy):
        """Return the worker beside the healthy one, once it is there and not dead."""

        def other():
            found = [one for one in self.service.workers if one.pid != healthy.pid]
            return [one for one in found if one.status() != psutil.STATUS_ZOMBIE]

        [worker] = wait_until(other)
        return worker

    def test_service_ends_in_order_while_a_worker_waits_for_its_restart(self):
        healthy = self.service.workers[1]
        for _ in range(self.KILLS):
            self.kill_replacement_of(healthy)
        wait_until(lambda: "restart is in 2 s" in self.service.output())

        code = self.service.terminate()

        self.assertEqual(code, 0, self.service.output())


class TestFailingStart(FaultTestCase):
    def test_service_ends_when_its_workers_die_before_they_are_ready(self):
        service = subprocess.Popen(
            [sys.executable, "manage.py", "serve"],
            cwd=ROOT,
            env=environment(DATABASE_URL=self.postgres.url, PORT=str(free_port())),
            stderr=subprocess.PIPE,
            text=True,
        )
        self.addCleanup(service.stderr.close)
        self.addCleanup(service.kill)

        wait_until(lambda: workers_of(service.pid))[0].kill()
        _, errors = service.communicate(timeout=GRACE_SECONDS)

        self.assertEqual(service.returncode, 1, errors)
        self.assertIn("A worker died before it was ready: the start has failed.", errors)
        self.assertNotIn("Respawning", errors)


class TestOutOfMemory(WorkerTestCase):
    def test_worker_is_replaced_or_goes_on_and_costs_nothing_that_was_answered(self):
        with self.under_load() as books:
            with visitors(self.service, "/health") as visits:
                worker = self.service.workers[0]
                used = worker.memory_info().vms
                worker.rlimit(resource.RLIMIT_AS, (used + 2**20, resource.RLIM_INFINITY))
                came = [self.send_large_batch() for _ in range(10)]
                with suppress(psutil.NoSuchProcess):
                    worker.rlimit(resource.RLIMIT_AS, (resource.RLIM_INFINITY,) * 2)
            self.assert_recovers(books, "a worker without memory")

        # 0 is a connection that broke. The other workers answer with 200.
        print("asked for much memory, the service answered", dict(Counter(came)), flush=True)
        self.assertLessEqual(set(came), {0, 200, 500, 503})
        self.assertIn(200, {visit.status for visit in visits})

    def send_large_batch(self):
        """Send a body of some megabytes, which has to be kept somewhere; return the status."""
        scores = [{"user_id": 1, "exercise_id": n + 1, "correct": True} for n in range(1000)]
        body = json.dumps({"scores": scores}) + " " * 4_000_000
        connection = http.client.HTTPConnection("127.0.0.1", self.service.port, timeout=10)
        headers = {"Authorization": f"Bearer {TOKEN}", "Content-Type": "application/json"}
        try:
            connection.request("POST", "/scores/batch", body, headers)
            return connection.getresponse().status
        except (OSError, http.client.HTTPException):
            return 0
        finally:
            connection.close()


# A worker that never serves: its main thread waits for what no signal interrupts.
DEAF = """
import ctypes, os, signal
from manage import worker

worker()
signal.signal(signal.SIGTERM, lambda *_: os._exit(7))
system, mutex = ctypes.CDLL(None), ctypes.create_string_buffer(128)
system.pthread_mutex_init(mutex, None)
system.pthread_mutex_lock(mutex)
print("waits", flush=True)
system.pthread_mutex_lock(mutex)
"""


class TestDeaf(FaultTestCase):
    def test_worker_ends_though_the_signal_does_not_wake_its_main_thread(self):
        folder = self.enterContext(tempfile.TemporaryDirectory(prefix="eval-deaf-"))
        known = {"DATABASE_TEST_URL": self.postgres.url, metrics.FOLDER: folder}
        worker = subprocess.Popen(
            [sys.executable, "-c", DEAF],
            cwd=ROOT,
            env=environment(APP_SETTINGS="project.config.TestingConfig", **known),
            stdout=subprocess.PIPE,
            text=True,
        )
        self.addCleanup(worker.communicate)
        self.addCleanup(worker.kill)
        self.assertEqual(worker.stdout.readline(), "waits\n")

        worker.terminate()

        self.assertEqual(worker.wait(GRACE_SECONDS), 7)


class Household:
    """Services that keep their own PostgreSQL, all in one folder."""

    def __init__(self, test):
        self.folder = test.enterContext(house())
        self.data = self.folder / "instance" / "postgres"
        self._test = test

    def serve(self):
        """Start one more service; return it once it is ready."""
        service = Service.__new__(Service)
        service.port, service.size = free_port(), 1
        service.log = (self.folder / f"{service.port}.log").open("w+")
        service.process = subprocess.Popen(
            [sys.executable, "-m", "manage", "serve"],
            cwd=self.folder,
            env=environment(PORT=str(service.port), WORKERS=str(service.size), SECRET_KEY=SECRET),
            stdout=service.log,
            stderr=service.log,
        )
        self._test.addCleanup(self.end, service)
        wait_until(service.is_ready)
        return service

    def end(self, service):
        """End a service, and with the last one its PostgreSQL."""
        if service.process.poll() is None:
            service.terminate()
        service.log.close()

    def kill_postgres(self):
        os.kill(postmaster(self.data), signal.SIGKILL)


class TestEmbeddedPostgres(unittest.TestCase):
    def count(self, service):
        connection = http.client.HTTPConnection("127.0.0.1", service.port, timeout=10)
        headers = {"Authorization": f"Bearer {TOKEN}"}
        connection.request("POST", "/counters/hot/increment", headers=headers)
        answer = json.loads(connection.getresponse().read())
        connection.close()
        return answer["data"]["value"]

    def test_serves_two_services_and_is_started_again_whatever_was_killed(self):
        household = Household(self)
        first = household.serve()
        self.assertEqual(self.count(first), 1)
        second = household.serve()
        self.assertEqual(self.count(second), 2)

        household.kill_postgres()
        began = time.monotonic()
        wait_until(lambda: first.is_ready() and second.is_ready(), seconds=2 * RECOVERY_SECONDS)
        print(f"a killed embedded PostgreSQL was back after: {time.monotonic() - began:.2f} s")
        self.assertEqual(self.count(first), 3)
        wait_until(lambda: "was started again" in first.output() + second.output())

        self.assertEqual(first.terminate(), 0, first.output())
        self.assertEqual(self.count(second), 4)

        second.kill()
        household.kill_postgres()
        self.assertIsNotNone(postmaster(household.data))
        began = time.monotonic()
        third = household.serve()
        print(f"after a kill of everything the service was back: {time.monotonic() - began:.2f} s")
        self.assertEqual(self.count(third), 5)
        self.assertEqual(third.terminate(), 0, third.output())
        self.assertIsNone(postmaster(household.data))
