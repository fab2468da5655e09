"""The test suite, as `python manage.py test` and `cov` run it."""

import os
import signal
import subprocess
import sys
import unittest
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from project import config
from project.parallel import ParallelSuite, Result, in_groups

ROOT = Path(__file__).parent.parent
TESTS = ROOT / "project" / "tests"


@dataclass(frozen=True)
class Options:
    """How to run the tests."""

    verbose: bool = False
    failfast: bool = False
    # As unittest's -k: parts of names, or patterns with wildcards; none match every test.
    patterns: Sequence[str] = ()
    jobs: int = os.cpu_count() or 1


def run(places: Sequence[str], options: Options) -> int:
    """Run the tests in `places`, or all; return the exit code, 0 only if all of them pass.

    They run in several processes, each with a database of its own. With DATABASE_TEST_URL there
    is only one database, so they run one after another in this process, as with one job.
    """
    config.load_environment()
    os.environ["APP_SETTINGS"] = "project.config.TestingConfig"
    sys.path.insert(0, str(ROOT))
    # A script's background job ignores this signal, and so would all processes it starts.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    loader = unittest.TestLoader()
    if options.patterns:
        loader.testNamePatterns = [p if "*" in p else f"*{p}*" for p in options.patterns]
    suite = unittest.TestSuite(_find(loader, place) for place in places or [str(TESTS)])
    if options.jobs > 1 and not config.read("DATABASE_TEST_URL"):
        suite = _in_parallel(suite, options.jobs)
    runner = unittest.TextTestRunner(
        verbosity=2 if options.verbose else 1,
        failfast=options.failfast,
        resultclass=Result,  # type: ignore[arg-type]
    )
    result = runner.run(suite)
    return 0 if result.wasSuccessful() and result.testsRun else 1


def _in_parallel(suite: unittest.TestSuite, jobs: int) -> unittest.TestSuite:
    """Return a suite of the same tests that runs in several processes, where that is of use.

    For what it could not load unittest has a test of its own, which fails, and which only this
    process knows.
    """
    tests = list(_flat(suite))
    unloaded = [test for test in tests if type(test).__module__ == "unittest.loader"]
    groups = in_groups([test for test in tests if test not in unloaded])
    if len(groups) < 2:
        return suite
    return unittest.TestSuite([*unloaded, ParallelSuite(groups, jobs)])


def _flat(tests: Iterable[Any]) -> Iterator[unittest.TestCase]:
    """Yield the tests of suites, of the suites in them, and so on."""
    for test in tests:
        if isinstance(test, unittest.TestSuite):
            yield from _flat(test)
        else:
            yield test


def _find(loader: unittest.TestLoader, place: str) -> unittest.TestSuite:
    """Return the tests in a folder, a file, or under a dotted name."""
    path = Path(place)
    if path.is_dir():
        return loader.discover(str(path), top_level_dir=str(ROOT))
    if path.is_file():
        place = ".".join(path.resolve().relative_to(ROOT).with_suffix("").parts)
    return loader.loadTestsFromName(place)


def cover() -> int:
    """Run all tests and report what they covered; return the exit code.

    The tests run in a process of their own, so that what runs at import is counted as well.
    """
    coverage = [sys.executable, "-m", "coverage"]
    tests = subprocess.run([*coverage, "run", "manage.py", "test"], cwd=ROOT, check=False)  # noqa: S603
    codes = [
        subprocess.run([*coverage, command], cwd=ROOT, check=False).returncode  # noqa: S603
        for command in ("combine", "html", "report")
    ]
    return tests.returncode or max(codes)
