"""The files by which gunicorn's workers share their metrics, in prometheus_client's format.

Each server has a folder, and each worker a number in it that no other running worker has. A worker continues the files
of the one that had its number before, so counts outlive a worker, and there are never more files than workers at once.
"""

import fcntl
import os
import shutil
import tempfile
import time
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path

from prometheus_client import Metric, values
from prometheus_client.multiprocess import MultiProcessCollector, mark_process_dead
from prometheus_client.registry import Collector

PREFIX = "augu-metrics-"
KINDS = ("counter", "histogram", "gauge_livemax")
SIZE = 1 << 18  # bytes; written at once, because a full disk kills a process that writes to a hole in a mapped file
CHECK_SECONDS = 1.0


class ServerFolder:
    """The folder of a server, made by its main process in `parent`; those of servers that were killed are removed.

    A lock on the folder shows that its server is running, to other servers and to systemd-tmpfiles. Raises OSError.
    """

    def __init__(self, parent: Path) -> None:
        parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        for path in parent.glob(f"{PREFIX}*"):
            with suppress(OSError):  # its server is running, or it belongs to another user
                os.close(_locked(path))
                shutil.rmtree(path)
        made = Path(tempfile.mkdtemp(prefix=f".{PREFIX}", dir=parent))
        with suppress(OSError):  # some network file systems have no locks
            _locked(made)  # until the last process of this server ends
        self.path = made.rename(parent / made.name.removeprefix("."))  # now other servers see it, with its lock

    def forget(self, number: int) -> None:
        """Forget the gauges of a worker that is gone."""
        with suppress(OSError):
            mark_process_dead(f"{number}.*", str(self.path))  # type: ignore[no-untyped-call]  # has no types

    def remove(self) -> None:
        """Leave no metrics behind."""
        shutil.rmtree(self.path, ignore_errors=True)


def _locked(folder: Path) -> int:
    """A descriptor of one's own folder that holds its lock. Raises OSError."""
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW)
    try:
        if os.fstat(descriptor).st_uid != os.geteuid():
            raise PermissionError(folder)
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        os.close(descriptor)
        raise
    return descriptor


class WorkerFiles:
    """The files of one worker. If they are removed, it makes them again, with the same counts. Raises OSError."""

    def __init__(self, folder: Path, number: int) -> None:
        self._folder, self._number, self._generation = folder, number, 0
        self._files: dict[str, int] = {}
        left = (path.stem.rpartition(".")[2] for path in folder.glob(f"counter_{number}.*.db"))
        self._make(max(map(int, left), default=0))
        self._checked = time.monotonic()

    def name(self) -> str:
        """The name of the files; prometheus_client asks at each change, and opens the files again if it is new."""
        if time.monotonic() > self._checked + CHECK_SECONDS:
            if not all(self._path(kind, self._generation).exists() for kind in KINDS):
                with suppress(OSError):  # then it counts where nobody sees it, until the folder can be made
                    self._make(self._generation + 1)
            self._checked = time.monotonic()
        return f"{self._number}.{self._generation}"

    def _path(self, kind: str, generation: int) -> Path:
        return self._folder / f"{kind}_{self._number}.{generation}.db"

    def _make(self, generation: int) -> None:
        self._folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        made = {kind: self._made(kind, self._path(kind, generation)) for kind in KINDS}
        for kind, file in self._files.items():
            self._path(kind, self._generation).unlink(missing_ok=True)
            os.close(file)
        self._files, self._generation = made, generation

    def _made(self, kind: str, path: Path) -> int:
        """A descriptor of a file, which has the counts so far, or those of the worker before, when it gets its name."""
        if self._files or not path.exists():
            content = os.pread(self._files[kind], 1 << 30, 0) if self._files else bytes(SIZE)
            part = path.with_suffix(".part")
            part.write_bytes(content)
            part.rename(path)
        return os.open(path, os.O_RDONLY)


def share(folder: Path | None, number: int) -> None:
    """Keep what this process measures from now on in a folder, or in its memory if there is none. Raises OSError.

    prometheus_client reads the folder from PROMETHEUS_MULTIPROC_DIR as well.
    """
    values.ValueClass = values.MutexValue
    if folder:
        files = WorkerFiles(folder, number)
        values.ValueClass = values.MultiProcessValue(files.name)  # type: ignore[no-untyped-call]  # has no types


class SharedMetrics(Collector):
    """The metrics of all workers, from the files in a folder."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def collect(self) -> Iterable[Metric]:
        """The sums over the workers."""
        while True:
            with suppress(FileNotFoundError):  # removed since the folder was listed
                files = [str(path) for path in self._folder.glob("*.db")]
                merged: Iterable[Metric] = MultiProcessCollector.merge(files)  # type: ignore[no-untyped-call]  # has no types
                return merged
