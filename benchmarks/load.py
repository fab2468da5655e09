"""What makes the load: wrk over HTTP, pgbench, and threads that look at every answer."""

import http.client
import json
import statistics
import subprocess
from collections.abc import Callable, Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import Any

from benchmarks.servers import HERE, Place

# As wide as the service: more would wait in front of it, fewer would leave threads idle.
CHECKING_THREADS = 32
CHECKED_EACH = 125

PGBENCH = """
INSERT INTO rivals.counters AS c (name, value) VALUES ('hot', 1)
    ON CONFLICT (name) DO UPDATE SET value = c.value + 1
 RETURNING value;
"""


class Failed(Exception):
    """A measurement cannot be believed; the message says why."""


@dataclass(frozen=True)
class Measurement:
    """How it went: what was answered with success, in which time."""

    acknowledged: int
    seconds: float
    p50_ms: float
    p99_ms: float
    # How many of them are in the database; None where nobody looked.
    stored: int | None = None

    @property
    def rate(self) -> float:
        """Requests, or transactions, a second."""
        return self.acknowledged / self.seconds


def http_request(
    method: str,
    path: str,
    token: str | None = None,
    body: Any = None,
    further: Mapping[str, str] | None = None,
) -> bytes:
    """Return a request as it goes over the wire, with `further` header fields."""
    text = "" if body is None else json.dumps(body)
    fields = {"Host": "127.0.0.1", **(further or {})}
    if token is not None:
        fields["Authorization"] = f"Bearer {token}"
    if body is not None:
        fields |= {"Content-Type": "application/json"}
    if method != "GET":
        fields |= {"Content-Length": str(len(text))}
    head = "".join(f"{name}: {value}\r\n" for name, value in fields.items())
    return f"{method} {path} HTTP/1.1\r\n{head}\r\n{text}".encode()


def write_requests(folder: Path, name: str, requests: Iterable[bytes]) -> Path:
    """Keep requests for wrk; return where."""
    path = folder / f"{name}.requests"
    path.write_bytes(b"\0".join(requests))
    return path


def wrk(address: str, requests: Path, connections: int, seconds: float) -> Measurement:
    """Send the requests over and over, by that many keep-alive connections."""
    command = ["wrk", "--threads", "1", "--connections", str(connections), "--timeout", "10s"]
    command += ["--duration", f"{seconds:.0f}s", "--script", str(HERE / "requests.lua")]
    output = subprocess.check_output([*command, f"http://{address}", str(requests)], text=True)
    told = json.loads(output.splitlines()[-1])
    errors = {kind: count for kind, count in told.pop("errors").items() if count}
    if errors or not told["acknowledged"]:
        raise Failed(f"Of {told['acknowledged']} answers of {requests.stem} some failed: {errors}")
    return Measurement(**told)


def pgbench(place: Place, clients: int, seconds: float) -> Measurement:
    """Have each client commit one increment of the same row after the other."""
    script = place.folder / "increment.sql"
    script.write_text(PGBENCH)
    command = [str(place.binaries / "pgbench"), "--host", place.socket_folder]
    command += ["--username", "postgres", "--no-vacuum", "--protocol", "prepared", "--log"]
    command += ["--client", str(clients), "--jobs", "1", "--time", f"{seconds:.0f}"]
    command += ["--file", str(script), "postgres"]
    output = subprocess.run(command, check=True, cwd=place.folder, capture_output=True, text=True)
    if "number of failed transactions: 0 (" not in output.stdout:
        raise Failed(f"Transactions of pgbench failed:\n{output.stdout}")
    [log] = place.folder.glob("pgbench_log.*")
    milliseconds = [int(line.split()[2]) / 1000 for line in log.read_text().splitlines()]
    log.unlink()
    percentiles = statistics.quantiles(milliseconds, n=100)
    return Measurement(len(milliseconds), seconds, percentiles[49], percentiles[98])


def check_every_answer(place: Place) -> int:
    """Increment by many threads, and hold each answer against what it must be; return how many.

    Raise Failed where the values given are not 1 to N, each once, or N is not what is stored.
    """
    total = CHECKING_THREADS * CHECKED_EACH
    headers = {"Authorization": f"Bearer {place.service_token}"}

    def increment_on(_: int) -> list[int]:
        ask = _line(place.service, headers)
        answers = (ask("POST", "/counters/checked/increment") for _ in range(CHECKED_EACH))
        return [answer["value"] for answer in answers]

    with ThreadPoolExecutor(CHECKING_THREADS) as pool:
        values = sorted(chain(*pool.map(increment_on, range(CHECKING_THREADS))))
    if values != list(range(1, total + 1)):
        raise Failed(f"{total} increments were answered {len(set(values))} different values")
    audit = _line(place.service, headers)("GET", "/counters/checked/audit")
    if audit != {"value": total, "ledger_sum": total, "consistent": True}:
        raise Failed(f"After {total} increments the audit says {audit}")
    return total


def _line(address: str, headers: Mapping[str, str]) -> Callable[[str, str], dict[str, Any]]:
    """Return what asks over one connection and returns the data of the answer."""
    connection = http.client.HTTPConnection(address, timeout=30)

    def ask(method: str, path: str) -> dict[str, Any]:
        connection.request(method, path, headers=dict(headers))
        response = connection.getresponse()
        answer: dict[str, Any] = json.load(response)
        if response.status != 200:
            raise Failed(f"{method} {path} was answered {response.status}: {answer}")
        data: dict[str, Any] = answer["data"]
        return data

    return ask
