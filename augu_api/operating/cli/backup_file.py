"""The FILE of `augu-api backup` and `augu-api restore`, or a stream."""

import sys
import tempfile
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from shutil import copyfileobj
from typing import BinaryIO

import click

from augu_api.folders import replacing
from augu_api.store.archive import BackupError, NotABackup, read_header

STREAM = Path("-")
file_argument = click.argument("file", type=click.Path(path_type=Path, allow_dash=True))


@contextmanager
def explaining(file: Path) -> Iterator[None]:
    """Name the file in an error about it."""
    try:
        yield
    except OSError as error:
        raise BackupError(f"{file}: {error.strerror}") from error
    except BackupError as error:
        raise BackupError(f"{file}: {error}") from error


def check_place(file: Path, *, overwrite: bool) -> None:
    """Raise an error if a backup must not be written there."""
    if file == STREAM:
        if sys.stdout.isatty():
            raise click.UsageError("Standard output is a terminal: redirect it, or name a file.")
        return
    with explaining(file):
        if not file.exists():
            return
        if not file.is_file():
            raise BackupError("this is not a file: to write to another program, use - and a pipe")
        if not overwrite:
            raise BackupError("this file exists already: name another, or replace it with --overwrite")
        _check_old(file)


def _check_old(file: Path) -> None:
    with file.open("rb") as old:
        try:
            read_header(old)
        except NotABackup:
            raise BackupError("this is not a backup, so it is not overwritten") from None


@contextmanager
def created(file: Path) -> Iterator[BinaryIO]:
    """FILE, which appears when it is complete, or standard output."""
    with explaining(file):
        if file != STREAM:
            with replacing(file) as out:
                yield out
        else:
            yield sys.stdout.buffer
            sys.stdout.buffer.flush()


@contextmanager
def opened(file: Path) -> Iterator[BinaryIO]:
    """FILE, or a copy of standard input or of a pipe, which can be read only once."""
    if file == STREAM and sys.stdin.isatty():
        raise click.UsageError("Standard input is a terminal: pipe a backup in, or name a file.")
    with explaining(file):
        backup: BinaryIO = sys.stdin.buffer if file == STREAM else file.open("rb")
        if not backup.seekable():
            backup = _copied(backup)
    with backup:
        yield backup


def _copied(stream: BinaryIO) -> BinaryIO:
    copy = tempfile.TemporaryFile()  # noqa: SIM115 - the caller closes it; it has no name, and mode 0600
    copyfileobj(stream, copy)
    return copy


def counted(rows: Counter[str]) -> str:
    """How many rows a backup has, in words."""
    return " and ".join(f"{rows[name]} {name.removesuffix('s' * (rows[name] == 1))}" for name in ("users", "counts"))
