"""Tries docker-compose.scale.yml on a real engine: replicas killed and replaced under load.

    python -m project.tests.containers [--keep]

Not a part of the suite: it builds images, and takes a minute or two. Exits with 0 only where all
of it held. --keep leaves the containers, to look at them.
"""

import argparse
import http.client
import json
import os
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress

from project.tests.faults.harness import SECRET, Books, Client
from project.tests.processes import ROOT, free_port, wait_until

FILE = "docker-compose.scale.yml"
REPLICAS = [f"eval-service-{number}" for number in (1, 2, 3)]
# Of each kind; all of it on the cores that the replicas have, too.
CLIENTS = 4
LOAD_SECONDS = 2.0
START_SECONDS = 240


class Reader(threading.Thread):
    """Reads until it is told to stop, and notes every answer that is not 200."""

    def __init__(self, port: int, path: str) -> None:
        super().__init__(daemon=True)
        self._port, self._path = port, path
        self.stopping = threading.Event()
        self.answered = 0
        self.failed: list[str] = []

    def run(self) -> None:
        connection = http.client.HTTPConnection("127.0.0.1", self._port, timeout=20)
        while not self.stopping.is_set():
            try:
                connection.request("GET", self._path)
                response = connection.getresponse()
                body = response.read()
            except (OSError, http.client.HTTPException) as error:
                self.failed.append(repr(error))
                connection.close()
                continue
            self.answered += 1
            if response.status != 200:
                self.failed.append(f"{response.status} {body!r}")


class Stack:
    """The containers of docker-compose.scale.yml, under a name, port and subnet of their own."""

    def __init__(self) -> None:
        self.port = free_port()
        self._environment = os.environ | {
            "COMPOSE_PROJECT_NAME": "eval-trial",
            "SECRET_KEY": SECRET,
            "POSTGRES_PASSWORD": "a-password-of-the-trial",
            "PORT": str(self.port),
            "SUBNET": "10.53.3",
        }

    def run(self, *command: str) -> str:
        """Run a command and return what it printed; raise CalledProcessError where it fails."""
        return subprocess.run(
            command, env=self._environment, cwd=ROOT, check=True, text=True, stdout=subprocess.PIPE
        ).stdout

    def compose(self, *arguments: str) -> str:
        return self.run("docker", "compose", "--progress", "quiet", "-f", FILE, *arguments)

    def get(self, path: str, headers: dict[str, str] | None = None, method: str = "GET"):
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=20)
        connection.request(method, path, headers=headers or {})
        response = connection.getresponse()
        return response, json.loads(response.read())

    def is_ready(self) -> bool:
        with suppress(OSError, http.client.HTTPException, ValueError):
            return self.get("/ready")[0].status == 200
        return False

    def is_healthy(self, service: str) -> bool:
        identity = self.compose("ps", "-q", service).strip()
        state = self.run("docker", "inspect", "-f", "{{.State.Health.Status}}", identity)
        return state.strip() == "healthy"

    def value(self, name: str) -> int:
        return int(self.get(f"/counters/{name}")[1]["data"]["value"])

    def is_consistent(self, name: str) -> bool:
        return bool(self.get(f"/counters/{name}/audit")[1]["data"]["consistent"])


class Load:
    """Clients of three kinds, and what they saw."""

    def __init__(self, port: int, name: str) -> None:
        self.plain_name, self.keyed_name = f"{name}-plain", f"{name}-keyed"
        self.plain, self.keyed = Books(), Books()
        kinds = ((self.plain, self.plain_name, False), (self.keyed, self.keyed_name, True))
        self._writers = [
            Client(port, books, name=counter, keys=keys)
            for books, counter, keys in kinds
            for _ in range(CLIENTS)
        ]
        self._readers = [Reader(port, "/counters?limit=1") for _ in range(CLIENTS)]

    def start(self) -> None:
        for thread in (*self._writers, *self._readers):
            thread.start()
        wait_until(lambda: len(self.plain.values) > 20 and len(self.keyed.values) > 20)

    def stop(self) -> None:
        for thread in (*self._writers, *self._readers):
            thread.stopping.set()
        for thread in (*self._writers, *self._readers):
            thread.join(30)

    @property
    def failed_reads(self) -> list[str]:
        return [failure for reader in self._readers for failure in reader.failed]

    @property
    def figures(self) -> str:
        reads = sum(reader.answered for reader in self._readers)
        return (
            f"{len(self.plain.values)} increments ({self.plain.failed} failed), "
            f"{len(self.keyed.values)} with keys ({self.keyed.failed} repeated by the client), "
            f"{reads} reads ({len(self.failed_reads)} failed)"
        )


def check(holds: bool, what: str) -> None:
    if not holds:
        raise AssertionError(what)


@contextmanager
def load(stack: Stack, name: str) -> Iterator[Load]:
    """Count and read for as long as the block lasts; then hold the books against the database."""
    running = Load(stack.port, name)
    running.start()
    try:
        yield running
        time.sleep(LOAD_SECONDS)
    finally:
        running.stop()
    print(f"  {running.figures}", flush=True)
    plain, keyed = running.plain, running.keyed
    check(not plain.strange and not keyed.strange, f"{plain.strange[:3]} {keyed.strange[:3]}")
    check(not running.failed_reads, f"reads failed: {running.failed_reads[:3]}")
    stored = stack.value(running.plain_name)
    check(len(set(plain.values)) == len(plain.values), "a value was given twice")
    check(
        len(plain.values) <= stored <= len(plain.values) + plain.unknown,
        f"{len(plain.values)} answered, {plain.unknown} unknown, {stored} stored",
    )
    check(
        sorted(keyed.values) == list(range(1, len(keyed.values) + 1)),
        "a keyed increment was lost or done twice",
    )
    check(stack.value(running.keyed_name) == len(keyed.values), "more was stored than answered")
    for counter in (running.plain_name, running.keyed_name):
        check(stack.is_consistent(counter), f"{counter} differs from its ledger")


def all_start_at_once(stack: Stack) -> None:
    """Start on an empty database: one migrates, the others wait and find nothing left to do."""
    stack.compose("up", "-d", "--no-build")
    wait_until(stack.is_ready, START_SECONDS)

    [versions] = stack.compose(
        "exec", "-T", "eval-db", "psql", "-U", "postgres", "-d", "eval_prod", "-Atc",
        "SELECT count(*) FROM alembic_version",
    ).split()  # fmt: skip
    errors = [line for line in stack.compose("logs", "eval-db").splitlines() if "ERROR:" in line]
    check(versions == "1" and not errors, f"{versions} versions; {errors}")
    restarts = stack.run(
        "docker", "inspect", "-f", "{{.RestartCount}}", *stack.compose("ps", "-q").split()
    )
    check(set(restarts.split()) == {"0"}, f"containers were started again: {restarts.split()}")


def replicas_have_no_privileges(stack: Stack) -> None:
    """Give the service no capabilities, and no programs that run as another user."""
    run = ("exec", "-T", REPLICAS[0])
    status = stack.compose(*run, "cat", "/proc/1/status")
    check("CapBnd:\t0000000000000000" in status and "Uid:\t10001" in status, status)
    # find fails on folders that this user cannot read.
    find = "find / -xdev -type f -perm /6000 2>/dev/null || true"
    setuid = stack.compose(*run, "sh", "-c", find)
    check(not setuid, f"setuid programs: {setuid}")


def a_replica_is_killed(stack: Stack) -> None:
    """Lose nothing that was answered, and answer keyed writes and reads on the first try."""
    with load(stack, "killed") as running:
        time.sleep(LOAD_SECONDS)
        stack.compose("kill", REPLICAS[1])
        time.sleep(2 * LOAD_SECONDS)
        stack.compose("start", REPLICAS[1])
        wait_until(lambda: stack.is_healthy(REPLICAS[1]), START_SECONDS)
    check(running.keyed.failed == 0, f"{running.keyed.failed} keyed increments failed at first")


def replicas_are_replaced(stack: Stack) -> None:
    """Replace one after the other; not one request fails, with a key or without."""
    with load(stack, "rolled") as running:
        stack.run("sh", "deploy/roll.sh")
    check(running.plain.failed == running.keyed.failed == 0, "a request failed")


def limits_are_shared(stack: Stack) -> None:
    """Hold an address to one limit with all replicas, whatever it says of where it comes from."""
    left = []
    for number in range(6):
        forged = {"X-Forwarded-For": f"192.0.2.{number}", "Forwarded": f"for=192.0.2.{number}"}
        response, _ = stack.get("/counters/public:home/increment", forged, "POST")
        left.append(int(response.headers["RateLimit"].split("r=")[1].split(";")[0]))
    check(left == list(range(left[0], left[0] - 6, -1)), f"left of the limit: {left}")


def errors_are_json(stack: Stack) -> None:
    """Have nginx say what it says itself as the service would."""
    stack.compose("kill", *REPLICAS)
    response, body = stack.get("/counters")
    check(
        (response.status, body["code"], response.headers["Retry-After"])
        == (503, "unavailable", "1"),
        f"{response.status} {body}",
    )


TRIALS = [
    all_start_at_once,
    replicas_have_no_privileges,
    limits_are_shared,
    a_replica_is_killed,
    replicas_are_replaced,
    errors_are_json,
]


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m project.tests.containers")
    parser.add_argument("--keep", action="store_true", help="leave the containers")
    keep = parser.parse_args().keep
    stack = Stack()
    stack.compose("down", "--volumes")  # what another run may have left
    stack.compose("build", "--quiet")
    try:
        for trial in TRIALS:
            print(trial.__name__.replace("_", " "), flush=True)
            began = time.monotonic()
            trial(stack)
            print(f"  ok, {time.monotonic() - began:.1f} s", flush=True)
    except (AssertionError, subprocess.CalledProcessError) as error:
        print(f"  FAILED: {error}", flush=True)
        print(stack.compose("logs", "--tail", "30"))
        return 1
    finally:
        if not keep:
            stack.compose("down", "--volumes", "--timeout", "5")
    return 0


if __name__ == "__main__":
    sys.exit(main())
