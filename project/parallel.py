"""Tests in several processes at once, each with an embedded PostgreSQL of its own.

A process is handed the tests of one class at a time, so that what a class sets up is set up once;
a module that sets something up stays together. Whoever is done gets the next ones. What became of
a test is told to the result of this process, which prints and counts it as if it had run here.
"""

import multiprocessing
import signal
import sys
import unittest
from collections import deque
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from multiprocessing.connection import Connection, wait
from typing import Any, NamedTuple

# A fresh interpreter has no half of another one's threads and connections, and stops at its exit
# what is to be stopped then, which a fork would not.
SPAWN = multiprocessing.get_context("spawn")


@dataclass(frozen=True)
class Told:
    """A test of another process, as far as a result asks about it."""

    name: str
    title: str
    description: str | None = None

    def id(self) -> str:
        """Return the dotted name."""
        return self.name

    def shortDescription(self) -> str | None:  # noqa: N802  unittest's name
        """Return the first line of the docstring."""
        return self.description

    def __str__(self) -> str:
        return self.title


class Event(NamedTuple):
    """A call of a method of `unittest.TestResult`; an error is the text of its traceback."""

    method: str
    test: Told
    details: tuple[str, ...] = ()


class Result(unittest.TextTestResult):
    """A result that also takes what another process tells."""

    def hear(self, event: Event) -> None:
        """Count and print what happened there."""
        getattr(self, event.method)(event.test, *event.details)

    def _exc_info_to_string(self, error: Any, test: unittest.TestCase) -> str:
        if isinstance(error, str):
            return error
        return super()._exc_info_to_string(error, test)  # type: ignore[misc,no-any-return]


class ParallelSuite(unittest.TestSuite):
    """Groups of tests, by their names, that run in up to `jobs` processes besides this one."""

    def __init__(self, groups: Sequence[list[str]], jobs: int) -> None:
        super().__init__()
        self._groups = groups
        self._jobs = jobs

    def run(self, result: Result, debug: bool = False) -> Result:  # type: ignore[override]  # noqa: ARG002
        """Run the tests and return the result, until it says that they should stop.

        If a process ends by itself, that is an error of the test that it was running.
        """
        waiting = deque(self._groups)
        busy: dict[Any, _Worker] = {}
        try:
            while (waiting or busy) and not result.shouldStop:
                while waiting and len(busy) < self._jobs:
                    worker = _Worker(result, waiting)
                    busy[worker.connection] = worker
                for connection in wait(busy):
                    if not busy[connection].listen():
                        del busy[connection]
        finally:
            for worker in busy.values():
                worker.process.terminate()
            for worker in busy.values():
                worker.process.join()
        return result


def in_groups(tests: Sequence[unittest.TestCase]) -> list[list[str]]:
    """Return the names of the tests by what stays together, what sets something up first.

    That takes long, and who begins with what takes long waits for nobody in the end.
    """
    groups: dict[str, list[str]] = {}
    quick = set()
    for test in tests:
        case = type(test)
        place = case.__module__
        if not hasattr(sys.modules[place], "setUpModule"):
            place = f"{place}.{case.__qualname__}"
            if "setUpClass" not in vars(case):
                quick.add(place)
        groups.setdefault(place, []).append(test.id())
    return [groups[place] for place in sorted(groups, key=quick.__contains__)]


class _Worker:
    """A process at work, seen from this one."""

    def __init__(self, result: Result, waiting: deque[list[str]]) -> None:
        self.connection, theirs = SPAWN.Pipe()
        self.process = SPAWN.Process(target=_work, args=(theirs,))
        self.process.start()
        theirs.close()
        self._result = result
        self._waiting = waiting
        self._underway: list[Event] = []
        self._hand_out()

    def _hand_out(self) -> None:
        """Hand it the next tests, or none, which is to say that it may end."""
        self._left = list(self._waiting.popleft()) if self._waiting else []
        self._may_end = not self._left
        with suppress(BrokenPipeError):  # of which `listen()` will hear
            self.connection.send(self._left)

    def listen(self) -> bool:
        """Take in what it tells; return whether there is more to come."""
        try:
            event = self.connection.recv()
        except (EOFError, ConnectionResetError):
            self._bury()
            return False
        if event is None:
            self._hand_out()
        else:
            self._note(event)
        return True

    def _note(self, event: Event) -> None:
        """Pass on what is complete: a test's line is not to be torn by those of others."""
        self._underway.append(event)
        if event.method == "startTest":
            self._left.remove(event.test.name)
        elif event.method == "stopTest" or self._underway[0].method != "startTest":
            for noted in self._underway:
                self._result.hear(noted)
            self._underway.clear()

    def _bury(self) -> None:
        """Wait until the process is gone; note an error where it should not be."""
        self.process.join()
        if self._may_end and self.process.exitcode == 0:
            return
        text = f"Its process ended with exit code {self.process.exitcode}."
        if self._left:
            text += f" These were not run: {', '.join(self._left)}."
        if self._underway:
            test = self._underway[0].test
            self._note(Event("addError", test, (f"{text}\n",)))
            self._note(Event("stopTest", test))
        else:
            self._note(Event("addError", Told("process", "A process of tests"), (f"{text}\n",)))


def _work(parent: Connection) -> None:
    """Run the tests that the parent hands out, until it hands out none; this is the process."""
    recorder = _Recorder(parent)
    # As Ctrl-C does it: unittest would take another exception for an error, and go on.
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        while names := parent.recv():
            recorder = _Recorder(parent)
            unittest.defaultTestLoader.loadTestsFromNames(names).run(recorder)
            parent.send(None)
    except (KeyboardInterrupt, EOFError, BrokenPipeError):  # told to end, or the parent is gone
        for number in (signal.SIGINT, signal.SIGTERM):
            signal.signal(number, signal.SIG_IGN)
        recorder.clean_up()


class _Recorder(unittest.TestResult):
    """Tells the parent what happens to each test."""

    def __init__(self, parent: Connection) -> None:
        super().__init__()
        self._parent = parent
        self._latest: unittest.TestCase | None = None

    def clean_up(self) -> None:
        """Do what unittest leaves undone where it is interrupted."""
        if self._latest is not None:
            self._latest.doCleanups()
            self._latest.doClassCleanups()
            unittest.doModuleCleanups()

    def _tell(self, method: str, test: unittest.TestCase, *details: str) -> None:
        told = Told(test.id(), str(test), test.shortDescription())
        self._parent.send(Event(method, told, details))

    def startTest(self, test: unittest.TestCase) -> None:  # noqa: N802
        self._latest = test
        self._tell("startTest", test)

    def stopTest(self, test: unittest.TestCase) -> None:  # noqa: N802
        self._tell("stopTest", test)

    def addSuccess(self, test: unittest.TestCase) -> None:  # noqa: N802
        self._tell("addSuccess", test)

    def addUnexpectedSuccess(self, test: unittest.TestCase) -> None:  # noqa: N802
        self._tell("addUnexpectedSuccess", test)

    def addSkip(self, test: unittest.TestCase, reason: str) -> None:  # noqa: N802
        self._tell("addSkip", test, reason)

    def addError(self, test: unittest.TestCase, err: Any) -> None:  # noqa: N802
        super().addError(test, err)
        self._tell("addError", test, self.errors[-1][1])

    def addFailure(self, test: unittest.TestCase, err: Any) -> None:  # noqa: N802
        super().addFailure(test, err)
        self._tell("addFailure", test, self.failures[-1][1])

    def addExpectedFailure(self, test: unittest.TestCase, err: Any) -> None:  # noqa: N802
        super().addExpectedFailure(test, err)
        self._tell("addExpectedFailure", test, self.expectedFailures[-1][1])

    def addSubTest(  # noqa: N802
        self, test: unittest.TestCase, subtest: unittest.TestCase, err: Any
    ) -> None:
        if err is not None:
            add = self.addFailure if issubclass(err[0], test.failureException) else self.addError
            add(subtest, err)
