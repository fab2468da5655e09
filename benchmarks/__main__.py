"""The command line of the benchmarks: measure, check, print, save.

With `scale` as its first word it measures reading and bulk where there are many scores.
"""

import argparse
import os
import signal
import subprocess
import sys
from collections.abc import Sequence
from itertools import product

from benchmarks import report
from benchmarks.candidates import CANDIDATES, Candidate
from benchmarks.load import Failed, check_every_answer, pgbench
from benchmarks.report import COMMAND, DISKS, Run
from benchmarks.scale import command as scale
from benchmarks.servers import NotReady, Place, redis_program

QUICK = {"connections": [1, 32, 64], "rounds": 1, "seconds": 1, "disk": "plain"}
FULL = {"connections": [1, 8, 32, 64], "rounds": 5, "seconds": 3, "disk": "both"}
# A flush takes a millisecond or more on the slow disk.
MOST_SLOW_COMMITS = 1000


def main() -> int:
    """Run what the command line asks for; return the exit code."""
    if sys.argv[1:2] == ["scale"]:
        return scale.main(sys.argv[2:])
    options = _options()
    if options.install:
        _install()
    chosen = _chosen(options.only)
    run = Run(options.command, options.rounds, options.seconds, options.connections)
    print(f"Load before the run: {os.getloadavg()[0]:.2f}", file=sys.stderr)
    for disk in DISKS if options.disk == "both" else [options.disk]:
        with Place(disk) as place:
            _measure(place, chosen, run)
    print(report.text(run))
    for path in report.save(run, complete=options.complete):
        print(f"Saved {path}", file=sys.stderr)
    return 0


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(COMMAND, description=__doc__)
    keys = [candidate.key for candidate in CANDIDATES]
    parser.add_argument("--quick", action="store_true", help="less of everything: a minute")
    parser.add_argument("--only", type=_words, default=keys, metavar=",".join(keys))
    parser.add_argument("--connections", type=_numbers, metavar="1,8,32,64")
    parser.add_argument("--rounds", type=int, metavar="5")
    parser.add_argument("--seconds", type=int, metavar="3", help="of each measurement")
    parser.add_argument("--disk", choices=[*DISKS, "both"])
    parser.add_argument("--install", action="store_true", help="wrk and Redis, from Debian")
    options = parser.parse_args()
    if unknown := set(options.only) - set(keys):
        parser.error(f"there is no candidate {', '.join(sorted(unknown))}")
    for name, value in (QUICK if options.quick else FULL).items():
        if getattr(options, name) is None:
            setattr(options, name, value)
    options.command = " ".join([COMMAND, *sys.argv[1:]])
    # What the documentation shows is all of it.
    options.complete = options.disk == "both" and options.only == keys and not options.quick
    return options


def _words(text: str) -> list[str]:
    return text.split(",")


def _numbers(text: str) -> list[int]:
    return [int(word) for word in text.split(",")]


def _install() -> None:
    # Redis' tools hold its server as well, and the package does not start it.
    command = ["apt-get", "install", "--yes", "--no-install-recommends", "wrk", "redis-tools"]
    subprocess.run(command, check=True, stdout=sys.stderr)


def _chosen(keys: Sequence[str]) -> list[Candidate]:
    chosen = [candidate for candidate in CANDIDATES if candidate.key in keys]
    if redis_program() is None:
        print("Redis is not installed, and left out (--install installs it).", file=sys.stderr)
        chosen = [candidate for candidate in chosen if candidate.key != "redis"]
    return chosen


def _measure(place: Place, candidates: Sequence[Candidate], run: Run) -> None:
    """Measure the candidates in turn, so that whatever disturbs the machine disturbs them all."""
    if place.disk == "slow" and (rate := pgbench(place, 1, 1).rate) > MOST_SLOW_COMMITS:
        raise Failed(f"The slow disk is not slow: {rate:.0f} commits a second")
    run.postgres = place.ask("SHOW server_version")
    for candidate in candidates:
        candidate.warm_up(place)
    for connections, round_ in product(run.connections, range(run.rounds)):
        for candidate in candidates:
            measured = candidate.measure(place, connections, run.seconds)
            run.add(place.disk, candidate, connections, measured)
            print(
                f"{place.disk}, {connections} connections, round {round_ + 1}: "
                f"{candidate.title} {measured.rate:.0f}/s",
                file=sys.stderr,
            )
    run.checked[place.disk] = check_every_answer(place)


def _terminated(*_: object) -> None:
    sys.exit(128 + signal.SIGTERM)


if __name__ == "__main__":
    signal.signal(signal.SIGTERM, _terminated)
    try:
        sys.exit(main())
    except (Failed, NotReady) as problem:
        sys.exit(f"The run failed. {problem}")
    except KeyboardInterrupt:
        sys.exit(128 + signal.SIGINT)
