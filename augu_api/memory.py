"""How much memory there is for the service, and what fits into it."""

import os
from collections.abc import Iterator
from pathlib import Path

OWN, CGROUPS = Path("/proc/self/cgroup"), Path("/sys/fs/cgroup")
LIMITS = ("memory.max", "memory.high", "memory.limit_in_bytes")  # the last one is version 1's
SERVER = 100_000_000  # bytes for gunicorn's own process, the logs and what the kernel counts
WORKER = 200_000_000  # with the bundled model, and the bodies of requests that wait
PIXEL = 6  # bytes in a worker for each pixel of the largest photo, of any kind (tests/memory_table.py)
MIN_PIXELS, MAX_PIXELS = 1_000_000, 25_000_000


def limit(own: Path = OWN, root: Path = CGROUPS) -> int:
    """The bytes of memory of this machine, or of this process's cgroups if they have less; 1 << 62 if unknown."""
    try:
        machine = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    except (OSError, ValueError):
        machine = 1 << 62
    found = (_number(folder / name) for folder in folders("memory", own, root) for name in LIMITS)
    return min([machine, *(number for number in found if number)])


def folders(controller: str, own: Path = OWN, root: Path = CGROUPS) -> Iterator[Path]:
    """Yield the folders of this process's cgroups and of those above them, for either version of cgroups.

    In a container, its own path may not exist, and its limits are those of the topmost folder.
    """
    try:
        lines = [line.split(":", 2) for line in own.read_text().splitlines()]
    except OSError:
        return
    for number, controllers, path in (line for line in lines if len(line) == 3):
        if number == "0" and not controllers:
            tops = [root, root / "unified"]  # the latter beside version 1
        elif controller in controllers.split(","):
            tops = [root / controllers, root / controller]
        else:
            continue
        inner = Path(path.lstrip("/"))
        yield from (top / part for top in tops for part in (inner, *inner.parents))


def _number(file: Path) -> int:
    """The number in a file, 0 if there is none: it may be missing, or say `max`."""
    try:
        return int(file.read_text())
    except (OSError, ValueError):
        return 0


def needed(workers: int, pixels: int, worker: int = WORKER) -> int:
    """The bytes that so many workers need for photos of so many pixels; `worker` is what each takes without them."""
    return SERVER + workers * (worker + PIXEL * pixels)


def fitting(
    memory: int, cores: int, workers: int | None = None, pixels: int | None = None, worker: int = WORKER
) -> tuple[int, int]:
    """The workers and the pixels of the largest photo that fit into the memory; what is given stays as it is.

    There are fewer workers than cores before there are fewer pixels.
    """
    if workers is None:
        each = worker + PIXEL * (pixels or MAX_PIXELS)
        workers = max(1, min(cores, (memory - SERVER) // each))
    if pixels is None:
        most = ((memory - SERVER) // workers - worker) // PIXEL
        pixels = max(MIN_PIXELS, min(MAX_PIXELS, most // MIN_PIXELS * MIN_PIXELS))
    return workers, pixels
