"""The scripts that install and start the service, and how they fail."""

import os
import re
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path
from unittest import TestCase

from project.config import SettingError
from project.embedded import EmbeddedPostgres
from project.tests.processes import ROOT

NOBODY = 65534


class ScriptTestCase(TestCase):
    def setUp(self):
        self.folder = Path(self.enterContext(tempfile.TemporaryDirectory()))
        self.folder.chmod(0o755)

    def run_script(self, *command, user=None, **environment):
        """Run a script by sh; return what it did and what it wrote to stderr, line by line."""
        kept = {name: text for name, text in os.environ.items() if not name.startswith("PIP_")}
        done = subprocess.run(
            ["sh", *command],
            env=kept | environment,
            user=user,
            capture_output=True,
            check=False,
            text=True,
            timeout=60,
        )
        return done, done.stderr.splitlines()


class TestRun(ScriptTestCase):
    def setUp(self):
        super().setUp()
        shutil.copy(ROOT / "run.sh", self.folder)
        shutil.copytree(ROOT / "scripts", self.folder / "scripts")

    def test_run_rejects_options_and_names_the_settings(self):
        for option in ("--port", "-p", "--host=0.0.0.0", "serve"):
            with self.subTest(option):
                done, [line] = self.run_script(self.folder / "run.sh", option, "8000")

                self.assertEqual(done.returncode, 1)
                self.assertIn(f"does not take {option}. Set PORT, HOST", line)
                self.assertIn("PORT=8000 sh run.sh", line)

    def test_run_says_that_python_was_not_found(self):
        done, [line] = self.run_script(self.folder / "run.sh", PYTHON="nosuch")

        self.assertEqual(done.returncode, 1)
        self.assertIn("PYTHON is nosuch, which was not found.", line)

    def test_run_rejects_a_python_that_is_not_one(self):
        done, [line] = self.run_script(self.folder / "run.sh", PYTHON="/usr/bin/env")

        self.assertEqual(done.returncode, 1)
        self.assertIn("not a Python 3.11 or newer", line)

    def test_run_names_the_folder_that_it_cannot_write_to(self):
        venv = self.folder / ".venv"
        for read_only in (self.folder, venv):
            with self.subTest(read_only):
                venv.mkdir(exist_ok=True)
                self.folder.chmod(0o777)
                read_only.chmod(0o555)

                done, [line] = self.run_script(
                    self.folder / "run.sh", user=NOBODY if os.getuid() == 0 else None
                )

                self.assertEqual(done.returncode, 1)
                self.assertIn(f"Cannot write to {read_only},", line)


class TestInstall(ScriptTestCase):
    def install(self, requirement, **environment):
        lock = self.folder / "lock.txt"
        lock.write_text(requirement)
        return self.run_script(
            ROOT / "scripts" / "install.sh",
            lock,
            sys.executable,
            **{"PIP_CONFIG_FILE": os.devnull, "PIP_RETRIES": "1"} | environment,
        )

    def test_install_names_network_and_proxy_if_nothing_answers(self):
        done, [line] = self.install(
            f"no-such-package==1.0 --hash=sha256:{'0' * 64}\n", PIP_INDEX_URL="http://127.0.0.1:9/"
        )

        self.assertEqual(done.returncode, 1)
        self.assertRegex(line, r"lock.txt \(\[Errno \d+\] Connection refused\)")
        self.assertIn("check the network, and set HTTPS_PROXY", line)

    def test_install_shows_other_errors_of_pip(self):
        done, [line, *_] = self.install("not a requirement\n")

        self.assertEqual(done.returncode, 1)
        self.assertIn("ERROR: Invalid requirement", line)

    def test_lock_files_are_installed_by_one_script(self):
        """A plain `pip install -r` resolves, and pip 23.0 to 23.2 resolve past the lock."""
        files = [path for name in FILES for path in ROOT.glob(name) if path.is_file()]
        texts = {path.name: path.read_text() for path in files}

        self.assertGreater(len(files), 10)
        for name in ("venv.sh", "matrix", "run", "CONTRIBUTING.md", *DOCKERFILES):
            self.assertIn("install.sh", texts[name])
        for name, text in texts.items():
            if name != "install.sh":
                with self.subTest(name):
                    self.assertNotRegex(re.sub(r"\\\n", "", text), r"pip .*install .*-r [\w/\"$]")


DOCKERFILES = ("Dockerfile", "Dockerfile-local")
FILES = (
    "*.md", "*.sh", "*.yml", ".*.yml", "Dockerfile*", "docs/**/*.md", "scripts/*", ".ci/*",
    ".github/workflows/*",
)  # fmt: skip


class TestEmbeddedPostgres(TestCase):
    def test_start_names_the_folder_that_it_cannot_write_to(self):
        folder = Path("/proc/eval-service")  # where root cannot write either

        with self.assertRaises(SettingError) as raised:
            _ = EmbeddedPostgres(folder).url

        self.assertIn(f"cannot write to {folder}:", raised.exception.message)
        self.assertIn("DATABASE_URL", raised.exception.message)
