"""The clock of a running service is set back by an hour, under load."""

import json
import shutil
import subprocess
import tempfile
import time
import unittest
from datetime import datetime, timedelta
from pathlib import Path

from project.tests.faults import harness
from project.tests.faults.harness import (
    LOAD_SECONDS,
    SECRET,
    FaultTestCase,
    Postgres,
    Service,
    visitors,
)
from project.tokens import Tokens
from project.users import User

SOURCE = Path(__file__).with_name("set_back.c")


def setUpModule():
    if shutil.which("gcc") is None:
        raise unittest.SkipTest("needs gcc, for what sets the clock of a process back")
    folder = Path(unittest.enterModuleContext(tempfile.TemporaryDirectory(prefix="eval-clock-")))
    subprocess.run(["gcc", "-shared", "-fPIC", "-o", folder / "set_back.so", SOURCE], check=True)
    TestClock.signal = folder / "now"
    FaultTestCase.postgres = Postgres()
    unittest.addModuleCleanup(FaultTestCase.postgres.stop)
    harness.CountsTestCase.service = Service(
        FaultTestCase.postgres,
        LD_PRELOAD=str(folder / "set_back.so"),
        SET_BACK=str(TestClock.signal),
    )
    unittest.addModuleCleanup(harness.CountsTestCase.service.stop)


class TestClock(harness.CountsTestCase):
    signal: Path

    def test_set_back_fails_no_request_and_repeats_none(self):
        with (
            self.under_load() as books,
            visitors(self.service, "/health", "/ready", "/counters/hot") as visits,
        ):
            workers = {worker.pid for worker in self.service.workers}
            self.signal.touch()
            # Issued in what is the service's future, as every token of the last hour is.
            token = Tokens(SECRET).issue(User(8), days=1)
            time.sleep(2 * LOAD_SECONDS)
            self.assertEqual(self.service.get("/ping", token)[0], 200)

        self.assertEqual(books.failed, 0)
        self.assert_answered(visits, "/health", "/ready", "/counters/hot")
        self.assertEqual({worker.pid for worker in self.service.workers}, workers)
        times = [datetime.fromisoformat(line["time"]) for line in self.lines()]
        self.assertLess(times[-1], times[0] - timedelta(minutes=30), "it was not set back")

    def lines(self):
        return [json.loads(line) for line in self.service.output().splitlines()]
