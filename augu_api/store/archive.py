"""The file of a backup: lines of JSON, packed with gzip, that hold the secrets and the rows of every table.

The first line is the header. Each line after it is a row, `["users", {"id": 42, …}]`, and the last one has the sha256
of all lines before it. A file is read line by line and may come from anyone: nothing in it names a file, and nothing is
used before the last line has been checked.
"""

import gzip
import json
import zlib
from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass
from datetime import datetime
from hashlib import sha256
from typing import Any, BinaryIO

from augu_api import parsers

FORMAT, VERSION = "augu-api backup", 1
MAGIC = b"\x1f\x8b"  # of gzip
MAX_LINE = 2**20  # bytes
Row = tuple[str, dict[str, Any]]
"""The name of a table, and the values of a row by column."""


class BackupError(Exception):
    """A backup cannot be made, read or restored; the message says why."""


class NotABackup(BackupError):
    """The file is something else, or of a newer release."""


class Damaged(BackupError):
    """The file was a backup."""

    def __init__(self, what: str) -> None:
        super().__init__(f"the backup is damaged: {what}")


@dataclass(frozen=True)
class Header:
    """The first line: when the backup was made, the revision of its tables, and the secrets, of which the first signs.

    Raises ValueError if a secret or the time is none.
    """

    revision: str
    made_at: str
    secrets: tuple[str, ...]
    format: str = FORMAT
    version: int = VERSION

    def __post_init__(self) -> None:
        datetime.fromisoformat(self.made_at)
        if not 0 < len(self.secrets) <= parsers.MAX_SECRETS:
            raise ValueError("there is no secret")
        for secret in self.secrets:
            parsers.secret(secret)


def write(file: BinaryIO, header: Header, rows: Iterable[Row]) -> None:
    """Write a backup. Raises BackupError if a row is too long to be read again."""
    digest = sha256()
    with gzip.GzipFile(filename="", mode="wb", compresslevel=6, fileobj=file) as packed:
        for entry in _entries(header, rows):
            line = _line(entry)
            digest.update(line)
            packed.write(line)
        packed.write(_line({"sha256": digest.hexdigest()}))


def _entries(header: Header, rows: Iterable[Row]) -> Iterator[Any]:
    yield asdict(header)
    yield from rows


def _line(entry: Any) -> bytes:
    line = json.dumps(entry, separators=(",", ":")).encode() + b"\n"
    if len(line) > MAX_LINE:
        raise BackupError(f"a secret or a row has more than {MAX_LINE} bytes")
    return line


def read_header(file: BinaryIO) -> Header:
    """The header of a backup, which can be read again from its start. Raises NotABackup or Damaged."""
    for line in _lines(file):
        return _header(_parsed(line))
    raise Damaged("it has no lines")


def read_rows(file: BinaryIO) -> Iterator[Row]:
    """Yield the rows of a backup. Raises Damaged, at the end if they are not what was written."""
    digest, last = sha256(), None
    for number, line in enumerate(_lines(file)):
        if last:
            raise Damaged("something follows its end")
        entry = _parsed(line)
        if number and isinstance(entry, dict):
            last = entry
            continue
        digest.update(line)
        if number:
            yield _row(entry)
    if last is None:
        raise Damaged("its end is missing")
    if last != {"sha256": digest.hexdigest()}:
        raise Damaged("its lines do not match their sha256")


def _lines(file: BinaryIO) -> Iterator[bytes]:
    """Yield the lines of a file from its start."""
    file.seek(0)
    if file.read(len(MAGIC)) != MAGIC:
        raise NotABackup("this is not a backup that augu-api made")
    file.seek(0)
    with gzip.GzipFile(fileobj=file) as packed:
        while line := _unpacked(packed):
            yield line


def _unpacked(packed: gzip.GzipFile) -> bytes:
    """The next line, or nothing at the end."""
    try:
        line = packed.readline(MAX_LINE)
    except EOFError:
        raise Damaged("its end is missing") from None
    except (gzip.BadGzipFile, zlib.error) as error:
        raise Damaged(str(error)) from None
    if line and not line.endswith(b"\n"):
        raise NotABackup("this is not a backup that augu-api made: it has a line that is too long or has no end")
    return line


def _parsed(line: bytes) -> Any:
    try:
        return json.loads(line.decode())
    except (ValueError, RecursionError):
        raise NotABackup("this is not a backup that augu-api made: it has a line that is not JSON") from None


def _header(entry: Any) -> Header:
    if not isinstance(entry, dict) or entry.get("format") != FORMAT:
        raise NotABackup("this is not a backup that augu-api made")
    if entry.get("version") != VERSION:
        raise NotABackup("the backup was made by a newer release: restore it with that one")
    try:
        return Header(**entry | {"secrets": tuple(map(_text, entry["secrets"])), "revision": _text(entry["revision"])})
    except (KeyError, TypeError, ValueError):
        raise Damaged("its header cannot be used") from None


def _text(value: Any) -> str:
    """A text that can be written as UTF-8. Raises TypeError or ValueError."""
    if not isinstance(value, str):
        raise TypeError
    value.encode()
    return value


def _row(entry: Any) -> Row:
    match entry:
        case [str(table), dict(values)]:
            return table, values
    raise Damaged("it has a line that is no row")
