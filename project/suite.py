"""The test suite, as `python manage.py test` and `cov` run it."""

import os
import subprocess
import sys
import unittest
from collections.abc import Sequence
from pathlib import Path

ROOT = Path(__file__).parent.parent
TESTS = ROOT / "project" / "tests"


def run(places: Sequence[str] = (), *, verbose: bool = False) -> int:
    """Run the tests in `places`, or all; return the exit code, 0 only when all went well."""
    os.environ["APP_SETTINGS"] = "project.config.TestingConfig"
    sys.path.insert(0, str(ROOT))
    suite = unittest.TestSuite(_find(place) for place in places or [str(TESTS)])
    result = unittest.TextTestRunner(verbosity=2 if verbose else 1).run(suite)
    return 0 if result.wasSuccessful() and result.testsRun else 1


def _find(place: str) -> unittest.TestSuite:
    """Return the tests in a folder, a file, or under a dotted name."""
    loader = unittest.TestLoader()
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
