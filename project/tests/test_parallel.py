"""Tests in several processes: all are told of, wherever they ran and however that ended."""

import re
import signal
import subprocess
import sys
import tempfile
from pathlib import Path
from unittest import TestCase, TestLoader

import psutil

from project.parallel import in_groups
from project.suite import _find, _flat
from project.tests.processes import GRACE_SECONDS, ROOT, environment, is_alive, wait_until

# As `manage.py test`, but for the rest of the service, which takes longer to import than all this.
RUN = """
import sys
from types import ModuleType
sys.modules["project"] = ModuleType("project")
sys.modules["project"].__path__ = ["project"]
from project import suite
if __name__ == "__main__":
    jobs, *names = sys.argv[1:]
    options = suite.Options(verbose=True, jobs=int(jobs), failfast="-f" in names)
    sys.exit(suite.run([name for name in names if name != "-f"], options))
"""
PASSING = "def test_passes(self): pass"
OUTCOMES = """def test_a_passes(self):
        "That is what it does."
    def test_b_fails(self):
        self.assertEqual(1, 2, "as it was told")
    def test_c_errs(self):
        raise RuntimeError("as it was told, too")
    @unittest.skip("for no reason")
    def test_d_is_skipped(self): pass
    @unittest.expectedFailure
    def test_e_is_expected_to_fail(self): self.fail()
    @unittest.expectedFailure
    def test_f_is_not_expected_to_pass(self): pass
    def test_g_fails_in_parts(self):
        for part in 1, 2, 3:
            with self.subTest(part=part): self.assertEqual(part, 2)
    def test_h_errs_in_parts(self):
        with self.subTest("one"): raise RuntimeError
"""
SETTING_UP_FAILS = """@classmethod
    def setUpClass(cls): raise RuntimeError("nothing is set up")
    def test_it(self): pass
"""
DYING = """def test_a_passes(self): pass
    def test_b_dies(self): os.kill(os.getpid(), signal.SIGKILL)
    def test_c_never_comes(self): pass
"""
DYING_QUIETLY = """@classmethod
    def tearDownClass(cls): os._exit(0)
    def test_passes(self): pass
"""
LEAVING_ITS_NUMBER = """def test_it(self):
        pathlib.Path("{folder}", str(os.getpid())).touch()
"""
WAITING = """def test_waits(self):
        self.addCleanup(pathlib.Path("{folder}", "cleaned-" + str(os.getpid())).touch)
        pathlib.Path("{folder}", str(os.getpid())).touch()
        time.sleep(600)
"""


class ParallelTestCase(TestCase):
    def setUp(self):
        self.folder = Path(self.enterContext(tempfile.TemporaryDirectory()))
        (self.folder / "run.py").write_text(RUN)

    def module(self, name, *bodies, before=""):
        """Write a module with a class of each of the bodies, and return its name.

        No two have one name: Python would take the second, as long and of the same second, for the
        first, which it has compiled.
        """
        lines = ["import os, pathlib, signal, time, unittest", before]
        for number, body in enumerate(bodies, start=1):
            lines += [f"class Test{number}(unittest.TestCase):", f"    {body}"]
        with (self.folder / f"{name}.py").open("x") as file:
            file.write("\n".join(lines))
        return name

    def start(self, *names, jobs=2, **settings):
        process = subprocess.Popen(
            [sys.executable, str(self.folder / "run.py"), str(jobs), *names],
            cwd=ROOT,
            env=environment(**settings),
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        self.addCleanup(process.communicate)
        self.addCleanup(process.kill)
        return process

    def run_tests(self, *names, **options):
        """Return the exit code and what was said."""
        process = self.start(*names, **options)
        said, _ = process.communicate(timeout=2 * GRACE_SECONDS)
        return process.returncode, said


class TestOutcomes(ParallelTestCase):
    def reports(self, said):
        """Return the reports of single tests in the order of the alphabet."""
        reports, _, _ = said.partition("\nRan ")
        return sorted(report.strip(" \n-") for report in reports.split("=" * 70)[1:])

    def test_are_told_as_one_process_tells_them(self):
        """Reports, tracebacks and closing lines; only the order of what comes at once differs."""
        names = self.module("outcomes", OUTCOMES, SETTING_UP_FAILS), self.module("more", PASSING)
        missing = "no_such_tests"

        together = self.run_tests(*names, missing)
        alone = self.run_tests(*names, missing, jobs=1)

        self.assertEqual((together[0], alone[0]), (1, 1))
        self.assertEqual(self.reports(together[1]), self.reports(alone[1]))
        self.assertIn('outcomes.py", line', together[1])
        closing = r"Ran 10 tests in [\d.]+s\n\n(FAILED .*)\n$"
        closings = [re.search(closing, said) for _, said in (together, alone)]
        self.assertEqual(closings[0][1], closings[1][1])
        self.assertIn("(failures=3, errors=4, skipped=1, ", closings[0][1])

    def test_of_tests_that_pass_are_0(self):
        code, said = self.run_tests(self.module("two", PASSING, PASSING))

        self.assertEqual(code, 0, said)
        for number in (1, 2):
            self.assertIn(f"test_passes (two.Test{number}.test_passes) ... ok\n", said)
        self.assertRegex(said, r"\nRan 2 tests in [\d.]+s\n\nOK\n$")


class TestDeath(ParallelTestCase):
    def test_of_a_process_is_an_error_and_the_others_go_on(self):
        dying = self.module("dying", DYING, DYING_QUIETLY)
        passing = self.module("passing", PASSING, PASSING)

        code, said = self.run_tests(dying, passing)

        self.assertEqual(code, 1, said)
        self.assertIn("ERROR: test_b_dies (dying.Test1.test_b_dies)", said)
        self.assertIn("exit code -9. These were not run: dying.Test1.test_c_never_comes.", said)
        self.assertIn("exit code 0.", said)
        self.assertRegex(said, r"\nRan 5 tests in [\d.]+s\n\nFAILED \(errors=2\)\n$")

    def test_comes_to_all_where_one_is_interrupted(self):
        """Each has cleaned up what its test had begun, though only the first was told."""
        folder = Path(self.enterContext(tempfile.TemporaryDirectory()))
        body = WAITING.format(folder=folder)
        process = self.start(self.module("waiting", body, body))
        wait_until(lambda: len(list(folder.iterdir())) == 2)
        pids = [path.name for path in folder.iterdir()]
        family = psutil.Process(process.pid).children(recursive=True)

        process.send_signal(signal.SIGINT)
        process.communicate(timeout=GRACE_SECONDS)

        self.assertNotEqual(process.returncode, 0)
        wait_until(lambda: not any(is_alive(one.pid) for one in family))
        cleaned = [path.name for path in folder.glob("cleaned-*")]
        self.assertEqual(sorted(cleaned), sorted(f"cleaned-{pid}" for pid in pids))


class TestFailfast(ParallelTestCase):
    def test_failure_ends_all_processes_and_runs_no_further_test(self):
        """The other process is at a test that would take minutes, and cleans up."""
        waiting = WAITING.format(folder=self.folder)
        after = f"""def test_fails(self):
        while not list(pathlib.Path("{self.folder}").glob("[0-9]*")): time.sleep(0.01)
        self.fail()
"""
        name = self.module("failing_fast", waiting, after, PASSING)

        code, said = self.run_tests(name, "-f")

        self.assertEqual(code, 1, said)
        self.assertRegex(said, r"\nRan 1 test in [\d.]+s\n\nFAILED \(failures=1\)\n$")
        self.assertEqual(len(list(self.folder.glob("cleaned-*"))), 1)


class TestProcesses(ParallelTestCase):
    def test_are_as_many_as_there_are_jobs_and_databases(self):
        for name, jobs, settings, processes in (
            ("two_jobs", 2, {}, 2),
            ("one_job", 1, {}, 1),
            ("one_database", 2, {"DATABASE_TEST_URL": "postgresql://localhost/one"}, 1),
        ):
            with self.subTest(name):
                folder = Path(self.enterContext(tempfile.TemporaryDirectory()))
                body = LEAVING_ITS_NUMBER.format(folder=folder)

                code, said = self.run_tests(self.module(name, body, body), jobs=jobs, **settings)

                self.assertEqual(code, 0, said)
                self.assertEqual(len(list(folder.iterdir())), processes)


class TestGroups(ParallelTestCase):
    def groups(self, *names):
        sys.path.insert(0, str(self.folder))
        self.addCleanup(sys.path.remove, str(self.folder))
        for name in names:
            self.addCleanup(sys.modules.pop, name)
        return in_groups(list(_flat(_find(TestLoader(), name) for name in names)))

    def test_are_classes_or_modules_that_set_something_up_and_those_come_first(self):
        self.module("g_plain", PASSING, PASSING + "\n    def test_too(self): pass")
        self.module("g_class", PASSING, "@classmethod\n    def setUpClass(cls): ''\n    " + PASSING)
        self.module("g_module", PASSING, PASSING, before="def setUpModule(): pass")

        self.assertEqual(
            self.groups("g_plain", "g_class", "g_module"),
            [
                ["g_class.Test2.test_passes"],
                ["g_module.Test1.test_passes", "g_module.Test2.test_passes"],
                ["g_plain.Test1.test_passes"],
                ["g_plain.Test2.test_passes", "g_plain.Test2.test_too"],
                ["g_class.Test1.test_passes"],
            ],
        )
