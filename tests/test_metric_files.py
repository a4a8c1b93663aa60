"""The files by which workers share their metrics: they outlive workers, cleaners and full disks."""

import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

import pytest
from prometheus_client.mmap_dict import MmapedDict, mmap_key

from augu_api.web.metric_files import SIZE, ServerFolder, SharedMetrics, WorkerFiles
from tests.helpers import missing

KEY = mmap_key("augu_x", "augu_x_total", [], [], "help")


@contextmanager
def counter(folder: Path, files: WorkerFiles) -> Iterator[Any]:
    """The file of a worker's counters, as prometheus_client opens it."""
    path = str(folder / f"counter_{files.name()}.db")
    with closing(MmapedDict(path)) as mapped:  # type: ignore[no-untyped-call]  # has no types
        yield mapped


def look_again(files: WorkerFiles) -> str:
    """The name of the files after the second in which they are not looked for."""
    files._checked -= 10
    return files.name()


def total(folder: Path) -> float:
    return sum(sample.value for metric in SharedMetrics(folder).collect() for sample in metric.samples)


def test_a_worker_continues_the_counts_of_the_one_before(tmp_path: Path) -> None:
    """The next worker with a number counts on in the same files, so dead workers leave none behind."""
    for count in (1, 2, 3):
        files = WorkerFiles(tmp_path, 0)
        with counter(tmp_path, files) as mapped:
            mapped.write_value(KEY, mapped.read_value(KEY)[0] + 1, 0)
        assert total(tmp_path) == count
    assert len(list(tmp_path.iterdir())) == 3


@pytest.mark.parametrize("pattern", ["", "*.db", "counter*", "gauge*"], ids=["folder", "files", "counters", "gauges"])
def test_removed_files_are_made_again(tmp_path: Path, pattern: str) -> None:
    """Whatever of a worker's files is removed, they are made again under a new name, with the same counts."""
    folder = tmp_path / "metrics"
    files = WorkerFiles(folder, 0)
    before = files.name()
    with counter(folder, files) as mapped:
        for number in range(2000):  # the file grows
            mapped.write_value(mmap_key("augu_x", "augu_x_total", ["n"], [str(number)], "help" * 20), 1, 0)
        if pattern:
            for path in folder.glob(pattern):
                path.unlink()
        else:
            shutil.rmtree(folder)
            assert total(folder) == 0
        assert look_again(files) != before
    assert total(folder) == 2000
    assert len(list(folder.iterdir())) == 3
    with counter(folder, files) as mapped:
        assert len(list(mapped.read_all_values())) == 2000
    assert look_again(files) == files.name()


def test_while_the_folder_cannot_be_made(tmp_path: Path) -> None:
    """As long as the removed files cannot be made, the worker goes on with those it has."""
    folder = tmp_path / "metrics"
    files = WorkerFiles(folder, 0)
    before = files.name()
    shutil.rmtree(folder)
    folder.touch()
    assert look_again(files) == before
    folder.unlink()
    assert look_again(files) != before


def test_files_have_their_space(tmp_path: Path) -> None:
    """The disk has room for the files from the start: writing to a mapped file on a full disk kills the process."""
    WorkerFiles(tmp_path, 0)
    for path in tmp_path.iterdir():
        assert path.stat().st_blocks * 512 >= SIZE


MAKE = "import sys, pathlib; from augu_api.web.metric_files import ServerFolder; f = ServerFolder(pathlib.Path('.'))"


def running(folder: Path) -> subprocess.Popen[str]:
    """A process that has made a server's folder."""
    code = f"{MAKE}; print(f.path, flush=True); input()"
    process = subprocess.Popen(
        [sys.executable, "-c", code], cwd=folder, text=True, stdin=subprocess.PIPE, stdout=subprocess.PIPE
    )
    assert process.stdout
    assert process.stdout.readline()
    return process


def test_folders_of_killed_servers_are_removed(tmp_path: Path) -> None:
    """A start removes the folders of servers that were killed, and keeps those of running ones and of other users."""
    killed, kept = running(tmp_path), running(tmp_path)
    try:
        assert len(list(tmp_path.glob("augu-metrics-*"))) == 2
        os.kill(killed.pid, signal.SIGKILL)
        killed.wait()
        (tmp_path / "elsewhere").mkdir()
        (tmp_path / "augu-metrics-link").symlink_to(tmp_path / "elsewhere")
        before = set(tmp_path.iterdir())
        folder = ServerFolder(tmp_path)
        assert len(before - set(tmp_path.iterdir())) == 1
        assert (tmp_path / "elsewhere").exists()
        folder.remove()
        assert len(list(tmp_path.glob("augu-metrics-*"))) == 2  # the running one's and the link
    finally:
        for process in (killed, kept):
            process.kill()
            process.communicate()


def test_systemd_keeps_the_folder(tmp_path: Path) -> None:
    """systemd-tmpfiles, which cleans the temporary files, leaves the folder of a running server alone."""
    if shutil.which("systemd-tmpfiles") is None:
        missing("systemd-tmpfiles")
    parent = tmp_path / "parent"
    folder = ServerFolder(parent)
    WorkerFiles(folder.path, 0)
    (parent / "other").touch()
    for path in (*folder.path.iterdir(), folder.path, parent / "other"):
        os.utime(path, (0, 0))
    (tmp_path / "clean.conf").write_text(f"e {parent} - - - mM:1h\n")
    subprocess.run(["systemd-tmpfiles", "--clean", tmp_path / "clean.conf"], check=True)
    assert not (parent / "other").exists()
    assert len(list(folder.path.iterdir())) == 3
