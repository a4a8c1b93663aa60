"""Labels for user agents, few enough for metrics."""

import fcntl
import re
import threading
import weakref
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from io import FileIO
from pathlib import Path

MAX_AGENTS = 50
MAX_FILE = MAX_AGENTS * 41  # bytes: 40 characters and the end of the line
OTHER = "other"
PRODUCT = re.compile(r"[A-Za-z0-9!#$%&'*+.^_`|~-]{1,40}(?=[/ ]|$)")


def product(user_agent: str) -> str:
    """The first product name of User-Agent, plain ASCII, or `other` if it has none of a sane length."""
    found = PRODUCT.match(user_agent)
    return found[0] if found else OTHER


class Agents:
    """Labels for user agents: the first product name of User-Agent, at most 50 in all workers, then `other`.

    The names are kept in a file of the workers' shared folder. Without one, each process has names of its own.
    """

    def __init__(self, folder: Path | None) -> None:
        self._file: FileIO | None = None
        if folder:
            with suppress(OSError):  # it was removed, or its disk is full
                self._file = (folder / "agents").open("ab+", buffering=0)
                weakref.finalize(self, self._file.close)
        self._lock = threading.Lock()
        self._known: set[str] = set()

    def label(self, user_agent: str, *, may_be_new: bool) -> str:
        """The label for a User-Agent; only an authenticated caller's (`may_be_new`) is added."""
        name = product(user_agent)
        if name not in self._known and may_be_new and len(self._known) < MAX_AGENTS:
            with suppress(OSError):  # a name that cannot be written down, because the disk is full, is not added
                self._add(name)
        return name if name in self._known else OTHER

    def _add(self, name: str) -> None:
        with self._lock, _locked(self._file) as file:
            if file:
                file.seek(0)
                self._known = set(file.read(MAX_FILE).decode().split())
            if name not in self._known and len(self._known) < MAX_AGENTS:
                if file:
                    file.write(f"{name}\n".encode())
                self._known.add(name)


@contextmanager
def _locked(file: FileIO | None) -> Iterator[FileIO | None]:
    """The file, if there is one, while no other process has it."""
    if not file:
        yield None
        return
    fcntl.flock(file, fcntl.LOCK_EX)
    try:
        yield file
    finally:
        fcntl.flock(file, fcntl.LOCK_UN)
