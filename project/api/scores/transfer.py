"""Import and export of scores as CSV or JSON Lines, in constant memory.

A file holds either answers of users or whole scores, as export writes them; its columns show which.
Each line is a row. A row that cannot be imported is reported with its line number.
"""

import csv
import gzip
import itertools
import os
import re
import secrets
import shutil
import stat
import sys
import tempfile
import time
import zlib
from collections.abc import Iterator, Sequence
from contextlib import closing, contextmanager, nullcontext, suppress
from pathlib import Path
from typing import IO, Any, NamedTuple

import psycopg2
from click import ClickException, UsageError, echo, format_filename
from psycopg2.errors import InsufficientPrivilege, UndefinedTable
from tqdm import tqdm

from project.api.scores import loading
from project.api.scores.formats import FORMATS, T_FOR_SPACE, TEXTS_OF_TIMES, Format
from project.api.scores.loading import Load, Transaction, Written
from project.extensions import AWAY, OutcomeUnknown

BLOCK = 1 << 20  # bytes; no line may be longer
SHOWN_LINES = 20
# Exit codes, as of processes that SIGINT and SIGPIPE ended.
INTERRUPTED, PIPE_BROKEN = 130, 141

ENDINGS = {".csv": "csv", ".jsonl": "jsonl", ".ndjson": "jsonl"}
BYTE_ORDER_MARK = b"\xef\xbb\xbf"
GZIP = b"\x1f\x8b"
# How files begin that are not text in UTF-8. UTF-16 also comes without its mark.
FOREIGN = {
    b"PK\x03\x04": "an Excel workbook or a zip archive",
    b"\xd0\xcf\x11\xe0": "an Excel workbook",
    b"(\xff\xfe|\xfe\xff|\0|.\0)": "text in UTF-16",
}
# Excel reads the delimiter from such a line before the header, and the header shows it as well.
SEPARATOR_LINE = re.compile(b'"?sep=.?"?', re.IGNORECASE)
# A line of these only is blank: spreadsheets write empty rows, and DOS ends a file with Ctrl-Z.
BLANK = b' \t,;|"\x1a'

Lines = list[tuple[int, bytes]]  # by their numbers, without their ends


class File(NamedTuple):
    """A file that was named on the command line; `-` is standard input or output."""

    path: Path
    format: type[Format]

    @classmethod
    def named(cls, name: str, format_name: str | None) -> "File":
        """Return the file; its name shows the format unless `format_name` does."""
        path = Path(name)
        endings = [ending.lower() for ending in path.suffixes]
        while endings and re.fullmatch("[.](gz|rejected|[0-9]+)", endings[-1]):
            endings.pop()
        found = "csv" if name == "-" else ENDINGS.get(endings[-1] if endings else "")
        chosen = format_name or found
        if chosen is None:
            raise UsageError(
                f"The name {name} does not show the format: add --format csv or --format jsonl."
            )
        return cls(path, FORMATS[chosen])

    @property
    def is_standard(self) -> bool:
        """Whether it is standard input or output."""
        return str(self.path) == "-"


def import_scores(name: str, format_name: str | None, *, skip_invalid: bool) -> int:
    """Import a file and print the outcome; return the exit code, 0 if no line was refused."""
    file = File.named(name, format_name)
    with (
        in_one_sentence("The database is as it was."),
        _source(file) as source,
        Transaction() as transaction,
    ):
        reading = Reading(file.format, source)
        load = Load(transaction, reading.columns)
        with tempfile.TemporaryFile("w+", encoding="utf-8", newline="") as reasons:
            load.take(reading.rows(reasons))
            reasons.seek(0)
            load.refuse(line.encode() for line in reasons)
        load.check(whole=not skip_invalid)
        refused = load.refused()
        _show(load.first_refused(SHOWN_LINES), refused)
        if refused and not skip_invalid:
            echo(f"{refused} of {reading.count} lines are refused; nothing is written.", err=True)
            return 1
        written = load.write()
        rejecting = _rejected(file, reading, load.each_refused()) if refused else nullcontext()
        with rejecting as rejected:
            transaction.commit()
    _report(reading.count, written, refused)
    if rejected:
        path = format_filename(rejected)
        echo(f"The refused lines are in {path}: correct and import them.", err=True)
    if reading.count > loading.MANY:
        with in_one_sentence("All is written; PostgreSQL will tidy up by itself."):
            loading.tidy()
    return 1 if refused else 0


def export_scores(name: str, format_name: str | None) -> None:
    """Write all scores into a file, as they are at one moment, and print a summary."""
    started_at = time.monotonic()
    file = File.named(name, format_name)
    lines = size = 0
    with (
        in_one_sentence("Nothing is exported."),
        Transaction() as transaction,
        _target(file) as target,
        tqdm(unit=" scores", unit_scale=True, disable=None) as progress,
    ):
        transaction.run(TEXTS_OF_TIMES)
        with closing(transaction.copy_out(file.format.export)) as blocks:
            for block in blocks:
                size += target.write(block.translate(T_FOR_SPACE))
                lines += block.count(b"\n")
                progress.update(lines - progress.n)
        target.flush()
    if file.path.is_file() and not file.is_standard:
        size = file.path.stat().st_size
    echo(
        f"Exported {lines - file.format.has_header} scores to "
        f"{'standard output' if file.is_standard else format_filename(name)}: "
        f"{tqdm.format_sizeof(size, 'B')}, "
        f"{time.monotonic() - started_at:.1f} s.",
        err=file.is_standard,
    )


class Reading:
    """The lines of a file on their way to PostgreSQL."""

    def __init__(self, format_: type[Format], source: IO[bytes]) -> None:
        self.count = 0
        self._source = source
        self._refuse_foreign()
        number, self._first_line, self._format = self._first(format_)
        self._begin = number + format_.has_header

    @property
    def columns(self) -> Sequence[str]:
        """The columns of each row."""
        return self._format.columns

    @property
    def header(self) -> bytes:
        """The line that names the columns, if the format has one."""
        return self._first_line + b"\n" if self._format.has_header else b""

    def rows(self, reasons: IO[str]) -> Iterator[bytes]:
        """Yield good rows as CSV after their line numbers; write the reasons against the others."""
        is_plain = self._format.plain.fullmatch
        with self._progress() as progress:
            for lines in self._blocks(self._begin):
                progress.update(self._source.tell() - progress.n)
                plain = [line for line in lines if is_plain(line[1])]
                self.count += len(plain)
                rows = b"".join(b"%d,%b\n" % line for line in plain)
                yield rows.replace(self._format.delimiter, b",")
                if len(plain) < len(lines):
                    others = [line for line in lines if not is_plain(line[1]) and _is_row(line[1])]
                    self.count += len(others)
                    yield self._checked(others, reasons)

    def raw(self) -> Iterator[tuple[int, bytes]]:
        """Yield the lines after the header once more, as they are."""
        return itertools.chain.from_iterable(self._blocks(self._begin))

    def _refuse_foreign(self) -> None:
        head = self._open().read(4)
        for pattern, what in FOREIGN.items():
            if re.match(pattern, head, re.DOTALL):
                raise ClickException(f"The file is {what}: save it as CSV UTF-8.")

    def _first(self, format_: type[Format]) -> tuple[int, bytes, Format]:
        """Return the number of the first line, the line, and what it says of the others."""
        for number, line in itertools.chain.from_iterable(self._blocks(1)):
            if _is_row(line) and not SEPARATOR_LINE.fullmatch(line):
                try:
                    return number, line, format_(line)
                except ValueError as error:
                    raise ClickException(f"Line {number}: {error}.") from None
        if format_.has_header:
            raise ClickException("The file has no header line: name the columns in its first line.")
        return 0, b"", format_(b"{}")

    def _blocks(self, begin: int) -> Iterator[Lines]:
        """Yield the lines from that number on, some thousand at a time."""
        source = self._open()
        number, rest = 1, source.read(len(BYTE_ORDER_MARK)).removeprefix(BYTE_ORDER_MARK)
        while block := source.read(BLOCK):
            if block.endswith(b"\r"):  # maybe half of a line end
                block += source.read(1)
            text = (rest + block).replace(b"\r\n", b"\n").replace(b"\r", b"\n")
            *lines, rest = text.split(b"\n")
            if len(rest) > BLOCK:
                raise ClickException(f"Line {number + len(lines)} is longer than a megabyte.")
            yield list(enumerate(lines, number))[max(0, begin - number) :]
            number += len(lines)
        yield [(number, rest)][max(0, begin - number) :]

    def _open(self) -> IO[bytes] | gzip.GzipFile:
        self._source.seek(0)
        is_packed = self._source.read(len(GZIP)) == GZIP
        self._source.seek(0)
        return gzip.GzipFile(fileobj=self._source) if is_packed else self._source

    def _checked(self, lines: Lines, reasons: IO[str]) -> bytes:
        rows = []
        refused = csv.writer(reasons)
        for number, line in lines:
            try:
                rows.append(f"{number},{self._format.row(line)}\n")
            except ValueError as error:
                refused.writerow((number, error))
        return "".join(rows).encode()

    def _progress(self) -> "tqdm[Any]":
        size = os.fstat(self._source.fileno()).st_size
        return tqdm(total=size, unit="B", unit_scale=True, disable=None)


def _is_row(line: bytes) -> bool:
    return not line.startswith(b"#") and line.strip(BLANK) != b""


@contextmanager
def _source(file: File) -> Iterator[IO[bytes]]:
    """Give the file to read, from a copy if it can be read only once."""
    if file.path.is_file() and not file.is_standard:
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
    """Give the file to write, compressed if its name says so."""
    if file.is_standard:
        yield sys.stdout.buffer
        return
    _require_own(file.path)
    with _written(file.path, like=file.path) as target:
        if file.path.suffix.lower() != ".gz":
            yield target
            return
        # Without name and time, so that the same scores are the same bytes.
        with gzip.GzipFile("", "wb", 6, target, mtime=0) as packed:
            yield packed  # type: ignore[misc]  # it is one


def _require_own(path: Path) -> None:
    """Raise ClickException if `path` was created by another user in a folder like /tmp.

    It could be a link to any file, a pipe that the other user reads, or a file with its mode. These
    are the rules of fs.protected_symlinks, fs.protected_fifos and fs.protected_regular, which
    not every system sets, and which do not apply to a name that is resolved here.
    """
    if not os.path.lexists(path):
        return
    folder, owner = path.parent.stat(), path.lstat().st_uid
    if folder.st_mode & stat.S_IWOTH and owner not in {os.geteuid(), folder.st_uid}:
        raise ClickException(
            f"{format_filename(path)} belongs to another user, in a folder that all users can "
            "write to. Choose another name or folder. Nothing is exported."
        )


@contextmanager
def _written(path: Path, *, like: Path) -> Iterator[IO[bytes]]:
    """Give a file that replaces `path` at the end of the block, and vanishes if that fails.

    It gets the owner and mode of the file `like`, if there is one.
    """
    if path.exists() and not path.is_file():  # a device, say, or a pipe
        with path.open("wb") as target:
            yield target
        return
    whole = path.resolve()
    part = whole.with_name(f".{secrets.token_hex(8)}.part")
    try:
        model = like.stat() if like.is_file() else None
        mode = 0o600 if model else 0o666  # the second one less the umask
        with open(part, "xb", opener=lambda name, flags: os.open(name, flags, mode)) as target:
            try:
                if model:
                    _copy_owner_and_mode(model, target.fileno())
                yield target
                target.flush()
                os.fsync(target.fileno())
                part.replace(whole)
            except BaseException:
                part.unlink(missing_ok=True)
                raise
    except OSError as error:
        if error.filename == str(part):
            error.filename = str(path)
        raise


def _copy_owner_and_mode(model: os.stat_result, target: int) -> None:
    mode = stat.S_IMODE(model.st_mode)
    try:
        os.fchown(target, model.st_uid, model.st_gid)
    except OSError:
        mode &= ~stat.S_IRWXG  # the group is another one then
    os.fchmod(target, mode)


@contextmanager
def _rejected(file: File, reading: Reading, refused: Iterator[tuple[int, str]]) -> Iterator[Path]:
    """Write the refused lines to a new file, each after a comment with the reasons.

    Give its path. The file vanishes if the block fails.
    """
    path = _reserved(Path(f"{'stdin' if file.is_standard else file.path}.rejected"))
    try:
        with _written(path, like=file.path) as target:
            target.write(reading.header)
            number, reasons = next(refused)
            for line_number, line in reading.raw():
                if line_number == number:
                    target.write(f"# line {number}: {reasons}\n".encode() + line + b"\n")
                    number, reasons = next(refused, (0, ""))
        yield path
    except BaseException:
        path.unlink(missing_ok=True)
        raise


def _reserved(path: Path) -> Path:
    """Create an empty file, with a number after its name if that is taken; return its path."""
    free, number = path, 1
    while True:
        try:
            free.touch(0o600, exist_ok=False)
        except FileExistsError:
            number += 1
            free = path.with_name(f"{path.name}.{number}")
        else:
            return free


def _show(refused: Sequence[tuple[int, str]], count: int) -> None:
    for number, reasons in refused:
        echo(f"line {number}: {reasons}", err=True)
    if count > len(refused):
        echo(f"… and {count - len(refused)} more", err=True)


def _report(count: int, written: Written, refused: int) -> None:
    echo(
        f"{count} lines: {written.new} new and {written.changed} changed scores, "
        f"{written.without_effect} lines without effect, {refused} refused."
    )


@contextmanager
def in_one_sentence(then: str) -> Iterator[None]:
    """Turn errors that may end the block into one sentence, followed by `then`."""
    try:
        yield
    except KeyboardInterrupt:
        echo(f"Interrupted. {then}", err=True)
        sys.exit(INTERRUPTED)
    except BrokenPipeError:
        # The reader has closed its end. Python would complain when it closes standard output.
        with suppress(OSError):
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(PIPE_BROKEN)
    except OutcomeUnknown:
        raise ClickException(
            "PostgreSQL was lost during the commit. Import again: what is written stays."
        ) from None
    except (UndefinedTable, InsufficientPrivilege):
        raise  # the command line says what to do then
    except (*AWAY, psycopg2.Error) as error:
        raise ClickException(f"PostgreSQL: {str(error).splitlines()[0]}. {then}") from None
    except (EOFError, gzip.BadGzipFile, zlib.error) as error:
        raise ClickException(f"The gzip file is damaged ({error}). {then}") from None
    except OSError as error:
        cause = f"{error.filename}: {error.strerror}" if error.filename else error.strerror
        raise ClickException(f"{cause or error}. {then}") from None
