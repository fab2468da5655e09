"""Import and export: scores as CSV or JSON Lines, in constant memory.

A file has one of two forms, which its columns tell: "answers" say what users answered, "scores"
are what export writes. Each line is a row; one that cannot be is refused by its number.
"""

import csv
import gzip
import os
import shutil
import sys
import tempfile
import zlib
from collections.abc import Iterator, Sequence
from contextlib import closing, contextmanager, suppress
from pathlib import Path
from typing import IO, Any, NamedTuple

import psycopg2
from click import ClickException, UsageError, echo
from pydantic_core import ValidationError
from tqdm import tqdm

from project.api.scores import loading
from project.api.scores.formats import (
    ANSWER,
    FORMATS,
    T_FOR_SPACE,
    TEXTS_OF_TIMES,
    Format,
    Row,
    refuse_other_forms,
    rows_of,
)
from project.api.scores.loading import Load, Transaction, Written
from project.extensions import AWAY, OutcomeUnknown

BLOCK = 1 << 20  # bytes; no line of ours is longer
SHOWN_LINES = 20
BYTE_ORDER_MARK = b"\xef\xbb\xbf"
# Exit codes, as of processes that SIGINT and SIGPIPE ended.
INTERRUPTED, PIPE_BROKEN = 130, 141

ENDINGS = {".csv": "csv", ".jsonl": "jsonl", ".ndjson": "jsonl"}
Lines = list[tuple[int, bytes]]  # by their numbers, without their ends


class File(NamedTuple):
    """A file that was named on the command line; `-` is standard input or output."""

    path: Path
    format: Format
    is_packed: bool

    @classmethod
    def named(cls, name: str, format_name: str | None) -> "File":
        """Return the file; its name tells the format where the format is not said."""
        path = Path(name)
        is_packed = path.suffix.lower() == ".gz"
        endings = [e.lower() for e in path.suffixes if e.lower() not in {".gz", ".rejected"}]
        found = "csv" if name == "-" else ENDINGS.get(endings[-1] if endings else "")
        chosen = format_name or found
        if chosen is None:
            raise UsageError(
                f"The name {name} does not tell the format: add --format csv or jsonl."
            )
        return cls(path, FORMATS[chosen], is_packed)

    @property
    def is_standard(self) -> bool:
        """Whether it is standard input or output."""
        return str(self.path) == "-"

    @property
    def rejected(self) -> Path:
        """Where the lines are left that were refused."""
        return Path(f"{'stdin' if self.is_standard else self.path}.rejected")


def import_scores(name: str, format_name: str | None, *, skip_invalid: bool) -> int:
    """Import a file and say what happened; return the exit code, 0 where no line was refused."""
    file = File.named(name, format_name)
    with in_one_sentence("The database is as it was."):
        with _source(file) as source, Transaction() as transaction:
            reading = Reading(file, source)
            load = Load(transaction, reading.columns)
            with tempfile.TemporaryFile() as reasons:
                load.take(reading.rows(reasons))
                reasons.seek(0)
                load.refuse(iter(lambda: reasons.read(BLOCK), b""))
            load.check(whole=not skip_invalid)
            refused = load.refused()
            _show(load.first_refused(SHOWN_LINES), refused)
            if refused and not skip_invalid:
                echo(
                    f"{refused} of {reading.count} lines are refused; nothing is written.", err=True
                )
                return 1
            written = load.write()
            _reject(file, reading, load.each_refused())
            transaction.commit()
        _report(reading.count, written, refused)
    if reading.count > loading.MANY:
        with in_one_sentence("All is written; PostgreSQL will tidy up by itself."):
            loading.tidy()
    return 1 if refused else 0


def export_scores(name: str, format_name: str | None) -> None:
    """Write all scores into a file, as they are at one moment."""
    file = File.named(name, format_name)
    with (
        in_one_sentence("Nothing is exported."),
        Transaction() as transaction,
        _target(file) as target,
        tqdm(unit=" scores", unit_scale=True, disable=None) as progress,
    ):
        transaction.run(TEXTS_OF_TIMES)
        with closing(transaction.copy_out(file.format.export)) as blocks:
            for block in blocks:
                target.write(block.translate(T_FOR_SPACE))
                progress.update(block.count(b"\n"))
        target.flush()


class Reading:
    """The lines of a file on their way to PostgreSQL."""

    def __init__(self, file: File, source: IO[bytes]) -> None:
        self.count = 0
        self._format = file.format
        self._source = source
        self._is_packed = file.is_packed
        self._header, self.columns = self._first()
        self._plain = file.format.plain(self.columns)
        self._validator = rows_of(file.format, self.columns)

    def rows(self, reasons: IO[bytes]) -> Iterator[bytes]:
        """Yield good lines as CSV behind their numbers; write those of the others to `reasons`."""
        text = self._format.text
        with self._progress() as progress:
            for lines in self._lines():
                progress.update(self._source.tell() - progress.n)
                self.count += len(lines)
                plain = self._plain.fullmatch
                yield b"".join(b"%d,%b\n" % line for line in lines if plain(line[1]))
                rows, refused = self._checked([line for line in lines if not plain(line[1])])
                csv.writer(_Encoder(reasons)).writerows(refused.items())
                yield "".join(f"{number},{text(row)}\n" for number, row in rows.items()).encode()

    def raw(self) -> Iterator[tuple[int, bytes]]:
        """Yield the lines once more, as they are."""
        for lines in self._lines():
            yield from lines

    @property
    def header(self) -> bytes:
        """The line that names the columns, where it holds no row."""
        return self._header[1] + b"\n" if self._format.has_header else b""

    def _first(self) -> tuple[tuple[int, bytes], list[str]]:
        """Return the first line and the columns that it names; refuse what is of no form."""
        for lines in self._blocks():
            for number, line in lines:
                if _is_row(line):
                    try:
                        columns = self._format.columns(line.rstrip(b"\r"))
                    except ValueError as error:
                        raise ClickException(f"Line {number} names no columns: {error}.") from None
                    refuse_other_forms(columns)
                    return (number, line), columns
        if self._format.has_header:
            raise ClickException("The file has no header line.")
        return (0, b""), list(ANSWER)

    def _lines(self) -> Iterator[Lines]:
        """Yield the lines behind the header, some thousand at a time."""
        begin = self._header[0] if self._format.has_header else 0
        for lines in self._blocks():
            yield [line for line in lines if line[0] > begin and _is_row(line[1])]

    def _blocks(self) -> Iterator[Lines]:
        self._source.seek(0)
        source = gzip.GzipFile(fileobj=self._source) if self._is_packed else self._source
        number, rest = 1, source.read(len(BYTE_ORDER_MARK)).removeprefix(BYTE_ORDER_MARK)
        while block := source.read(BLOCK):
            *lines, rest = (rest + block).split(b"\n")
            if len(rest) > BLOCK:
                raise ClickException(f"Line {number + len(lines)} is longer than a megabyte.")
            yield list(enumerate(lines, number))
            number += len(lines)
        yield [(number, rest)]

    def _checked(self, lines: Lines) -> tuple[dict[int, Row], dict[int, str]]:
        """Return the good rows by their numbers, and the reasons against the others."""
        rows: dict[int, Row] = {}
        refused: dict[int, str] = {}
        for number, line in lines:
            try:
                rows[number] = self._format.row(line.rstrip(b"\r"), self.columns)
            except ValueError as error:
                refused[number] = str(error)
        try:
            self._validator.validate_python(list(rows.values()))
        except ValidationError as error:
            numbers = list(rows)
            for problem in error.errors(include_url=False, include_input=False):
                place, column = problem["loc"][:2]
                number, reason = (
                    numbers[int(place)],
                    f"{self.columns[int(column)]}: {problem['msg']}",
                )
                refused[number] = f"{refused[number]}; {reason}" if number in refused else reason
            rows = {number: row for number, row in rows.items() if number not in refused}
        return rows, refused

    def _progress(self) -> "tqdm[Any]":
        size = os.fstat(self._source.fileno()).st_size
        return tqdm(total=size, unit="B", unit_scale=True, disable=None)


class _Encoder:
    """A text file that is written in UTF-8, for csv.writer."""

    def __init__(self, file: IO[bytes]) -> None:
        self._file = file

    def write(self, text: str) -> None:
        """Write the text."""
        self._file.write(text.encode())


def _is_row(line: bytes) -> bool:
    return not line.startswith(b"#") and not line.isspace() and line != b""


@contextmanager
def _source(file: File) -> Iterator[IO[bytes]]:
    """Give the file to read, from a copy where it could be read only once."""
    if not file.is_standard and file.path.is_file():
        with file.path.open("rb") as source:
            yield source
        return
    with tempfile.TemporaryFile() as copy:
        if file.is_standard:
            shutil.copyfileobj(sys.stdin.buffer, copy)
        else:
            with file.path.open("rb") as source:
                shutil.copyfileobj(source, copy)
        yield copy


@contextmanager
def _target(file: File) -> Iterator[IO[bytes]]:
    """Give the file to write, packed where its name says so, and there only once it is whole."""
    if file.is_standard:
        yield sys.stdout.buffer
        return
    with _appearing(file.path) as target:
        if not file.is_packed:
            yield target
            return
        # Without name and time, so that the same scores are the same bytes.
        with gzip.GzipFile("", "wb", 6, target, mtime=0) as packed:
            yield packed  # type: ignore[misc]  # it is one


@contextmanager
def _appearing(path: Path) -> Iterator[IO[bytes]]:
    """Give a file that takes its name at the end of the block, and vanishes where that fails."""
    if path.exists() and not path.is_file():  # a device, say, or a pipe
        with path.open("wb") as target:
            yield target
        return
    whole = path.resolve()
    part = whole.with_name(f".{whole.name}.{os.getpid()}.part")
    try:
        with part.open("wb") as target:
            yield target
            target.flush()
            os.fsync(target.fileno())
        part.replace(whole)
    finally:
        part.unlink(missing_ok=True)


def _reject(file: File, reading: Reading, refused: Iterator[tuple[int, str]]) -> None:
    """Leave the lines that were refused in a file, each behind a comment that says why."""
    awaited = next(refused, None)
    if awaited is None:
        file.rejected.unlink(missing_ok=True)
        return
    with _appearing(file.rejected) as target:
        target.write(reading.header)
        for number, line in reading.raw():
            if awaited and number == awaited[0]:
                target.write(f"# line {number}: {awaited[1]}\n".encode() + line + b"\n")
                awaited = next(refused, None)


def _show(refused: Sequence[tuple[int, str]], count: int) -> None:
    for number, reasons in refused:
        echo(f"line {number}: {reasons}", err=True)
    if count > len(refused):
        echo(f"… and {count - len(refused)} more", err=True)


def _report(count: int, written: Written, refused: int) -> None:
    same = count - refused - sum(written)
    echo(
        f"{count} lines: {written.new} new, {written.changed} changed, {same} as they were, "
        f"{refused} refused."
    )


@contextmanager
def in_one_sentence(then: str) -> Iterator[None]:
    """Have what may end the block say so in one sentence, and `then` what that comes to."""
    try:
        yield
    except KeyboardInterrupt:
        echo(f"Interrupted. {then}", err=True)
        sys.exit(INTERRUPTED)
    except BrokenPipeError:
        # Whoever read has enough. Python would complain when it closes what nobody reads.
        with suppress(OSError):
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(PIPE_BROKEN)
    except OutcomeUnknown:
        raise ClickException(
            "PostgreSQL was lost during the commit. Import again: what is written stays."
        ) from None
    except (*AWAY, psycopg2.Error) as error:
        raise ClickException(f"PostgreSQL: {str(error).splitlines()[0]}. {then}") from None
    except (EOFError, OSError, zlib.error) as error:
        raise ClickException(f"{error}. {then}") from None
