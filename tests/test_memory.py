"""Memory: the limit of a process, what fits into it, and what a worker takes for the largest photos."""

from pathlib import Path

import pytest

from augu_api import memory
from augu_api.config import CORES, Settings
from tests.helpers import OBJECTS
from tests.memory_table import PIXELS, SETTINGS, USERS, kinds, measured, padded, plain, post
from tests.servers import Serve, add

MIB = 1 << 20
NONE = "9223372036854771712"  # version 1's word for no limit


@pytest.mark.parametrize(
    ("own", "files", "expected"),
    [
        ("0::/app", {"app/memory.max": "536870912"}, 512),
        ("0::/app", {"app/memory.max": "max", "app/memory.high": "268435456"}, 256),
        ("0::/a/b/c", {"a/b/c/memory.max": "max", "a/memory.max": "134217728", "memory.max": "268435456"}, 128),
        ("0::/docker/id", {"memory.max": "134217728"}, 128),
        ("4:memory:/app", {"memory/app/memory.limit_in_bytes": "536870912"}, 512),
        ("4:cpu,memory:/a/b", {"cpu,memory/a/memory.limit_in_bytes": "268435456"}, 256),
        ("4:memory:/docker/id", {"memory/memory.limit_in_bytes": "134217728"}, 128),
        ("4:memory:/app\n0::/x", {"memory/app/memory.limit_in_bytes": NONE, "unified/x/memory.max": "67108864"}, 64),
        ("4:memory:/app", {"memory/app/memory.limit_in_bytes": NONE}, None),
        ("4:memory:/app", {"memory/other/memory.limit_in_bytes": "1000"}, None),
        ("0::/app", {"app/memory.max": "max"}, None),
        ("nonsense", {}, None),
    ],
)
def test_the_smallest_limit_counts(tmp_path: Path, own: str, files: dict[str, str], expected: int | None) -> None:
    """The limit is the smallest of the process's own cgroup and those above it, in either version, or the machine's."""
    (tmp_path / "own").write_text(f"{own}\n")
    for name, content in files.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(f"{content}\n")
    machine = memory.limit(tmp_path / "nowhere", tmp_path)
    assert memory.limit(tmp_path / "own", tmp_path) == (machine if expected is None else expected * MIB)


@pytest.mark.parametrize(
    ("environ", "megabytes", "expected"),
    [
        ({}, 100_000, (CORES, 25_000_000)),
        ({}, 512, (1, 25_000_000)),
        ({}, 384, (1, 17_000_000)),
        ({}, 64, (1, 1_000_000)),
        ({"AUGU_MAX_PIXELS": "30000000"}, 64, (1, 30_000_000)),
        ({"WEB_CONCURRENCY": "2"}, 600, (2, 10_000_000)),
        ({"WEB_CONCURRENCY": "9", "AUGU_MAX_PIXELS": "7"}, 64, (9, 7)),
    ],
)
def test_the_defaults_fit_the_memory(environ: dict[str, str], megabytes: int, expected: tuple[int, int]) -> None:
    """With less memory there are fewer workers, then fewer pixels; what is set stays as it is."""
    settings, _ = Settings.examine(environ, megabytes * MIB)
    assert (settings.workers, settings.max_pixels) == expected


WORST = [
    "PNG of type 6, 16 bits, interlaced",
    "PNG of type 6, 8 bits",
    "PNG of type 3, 8 bits, transparency",
    "JPEG",
    "JPEG, progressive, half the pixels",
    "WebP in RGBA, lossless, a quarter",
    "TIFF in CMYK, tiff_lzw, a quarter",
    "JPEG without its end, a quarter",
    "PNG in a body of gzip",
    "PNG, annotated",
]


def test_the_largest_photos_take_little_memory(serve: Serve) -> None:
    """A worker stays under 350 MB with the largest photos of the worst kinds beside as many bodies as have room."""
    server, known = serve(**SETTINGS), kinds(PIXELS)
    tokens = [add(server, f"user{number}", coefficient=1000) for number in range(USERS)]
    assert post(server, tokens[0], OBJECTS, plain(2, 8, False, pixels=640 * 480)) == 200
    found = {
        name: measured(server, tokens, path, padded(path, make())) for name in WORST for path, make in [known[name]]
    }
    assert {name: statuses for name, (statuses, _) in found.items() if not {200} <= statuses <= {200, 503}} == {}
    assert {name: peak for name, (_, peak) in found.items() if peak >= 350} == {}
