"""Measure a worker's memory with the largest photo of every kind: `python -m tests.memory_table`."""

import base64
import re
import sys
import tempfile
import zlib
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path

from PIL import Image

from augu_api.photos.png import CHANNELS, DEPTHS
from tests.helpers import DETECTION, OBJECTS, file_of
from tests.png_encoder import INDEXED, PALETTE, PASSES, WHOLE, chunk, ihdr, plte, png
from tests.servers import Server, add, call, serving

PIXELS = 25_000_000
BYTES = 1_000_000
HALF, QUARTER = 2, 4  # the shares of the pixels that a progressive JPEG and a WebP may have
FORM = b'--b\r\nContent-Disposition: form-data; name="image"; filename="a"\r\n\r\n%b\r\n--b--\r\n'
Make = Callable[[], bytes]


def plain(colour: int, depth: int, interlaced: bool, *, key: bytes = b"", pixels: int = PIXELS) -> bytes:
    """A square PNG of one colour, each row of it filtered."""
    side = int(pixels**0.5)
    packer, packed = zlib.compressobj(1), []
    for x, y, dx, dy in PASSES if interlaced else WHOLE:
        columns, rows = -(-(side - x) // dx), -(-(side - y) // dy)
        row = b"\2" + bytes(-(-columns * depth * CHANNELS[colour] // 8))
        packed += [packer.compress(row) for _ in range(rows)]
    before = plte(PALETTE[: 2**depth]) if colour == INDEXED else b""
    before += chunk(b"tRNS", key) if key else b""
    idat = chunk(b"IDAT", b"".join([*packed, packer.flush()]))
    return png(ihdr(side, side, depth, colour, int(interlaced)), before, idat, chunk(b"IEND"))


def uploaded(mode: str, format: str, share: int, pixels: int, **options: object) -> bytes:
    """A square JPEG or WebP of one colour, with `share` times fewer pixels."""
    side = int((pixels // share) ** 0.5)
    return file_of(Image.new(mode, (side, side)), format, **options)


def kinds(pixels: int) -> dict[str, tuple[str, Make]]:
    """For each kind the route and what makes its largest photo."""
    found: dict[str, tuple[str, Make]] = {}
    for colour, depths in DEPTHS.items():
        for depth in depths:
            for interlaced in (False, True):
                name = f"PNG of type {colour}, {depth} bits{', interlaced' * interlaced}"
                found[name] = OBJECTS, partial(plain, colour, depth, interlaced, pixels=pixels)
    found["PNG of type 2, 8 bits, transparent colour"] = OBJECTS, partial(plain, 2, 8, False, key=b"\0" * 6)
    found["PNG of type 3, 8 bits, transparency"] = OBJECTS, partial(plain, 3, 8, False, key=b"\x80" * 256)
    turned = Image.Exif()
    turned[0x0112] = 6
    found["JPEG"] = DETECTION, partial(uploaded, "RGB", "JPEG", 1, pixels, exif=turned)
    found["JPEG, grey"] = DETECTION, partial(uploaded, "L", "JPEG", 1, pixels)
    for name, mode in (("progressive", "RGB"), ("progressive and grey", "L")):
        make = partial(uploaded, mode, "JPEG", HALF, pixels, progressive=True, subsampling=0)
        found[f"JPEG, {name}, half the pixels"] = DETECTION, make
    found["JPEG in CMYK, a quarter"] = DETECTION, partial(uploaded, "CMYK", "JPEG", QUARTER, pixels)
    cmyk = partial(uploaded, "CMYK", "JPEG", QUARTER, pixels, progressive=True, subsampling=0)
    found["JPEG in CMYK, progressive, a quarter"] = DETECTION, cmyk
    for mode, lossless in (("RGB", False), ("RGBA", False), ("RGB", True), ("RGBA", True)):
        make = partial(uploaded, mode, "WEBP", QUARTER, pixels, lossless=lossless, method=0)
        found[f"WebP in {mode}{', lossless' * lossless}, a quarter"] = DETECTION, make
    return found


def peak(server: Server) -> float:
    """The most memory, in MB, that the worker had at any time since `forget`."""
    [worker] = server.workers
    [kilobytes] = re.findall(r"VmHWM:\s+(\d+)", Path(f"/proc/{worker}/status").read_text())
    return int(kilobytes) * 1024 / BYTES


def forget(server: Server) -> None:
    """Start a new measurement of the peak."""
    [worker] = server.workers
    Path(f"/proc/{worker}/clear_refs").write_text("5")


def post(server: Server, token: str, path: str, file: bytes) -> int:
    """The status of the reply to a photo."""
    if path == OBJECTS:
        return call(server.port, path, base64.b64encode(file), token).status
    return call(server.port, path, FORM % file, token, **{"Content-Type": "multipart/form-data; boundary=b"}).status


def measured(server: Server, token: str, path: str, file: bytes, at_once: int = 4) -> tuple[set[int], float]:
    """The statuses and the peak of several photos at once."""
    forget(server)
    with ThreadPoolExecutor(at_once) as pool:
        statuses = set(pool.map(lambda _: post(server, token, path, file), range(at_once)))
    return statuses, peak(server)


def rows(only: str) -> Iterator[tuple[str, set[int], float]]:
    """Yield each kind whose name has `only` in it, the statuses and the peak."""
    with tempfile.TemporaryDirectory() as folder, serving(Path(folder)) as start:
        server = start(WEB_CONCURRENCY="1", AUGU_DEEPSTACK="1", AUGU_MAX_PIXELS=str(PIXELS))
        token = add(server, coefficient=1000)
        post(server, token, OBJECTS, plain(2, 8, False, pixels=640 * 480))
        yield "640 x 480", set(), peak(server)
        for name, (path, make) in kinds(PIXELS).items():
            if only in name:
                yield name, *measured(server, token, path, make())


if __name__ == "__main__":
    for name, statuses, megabytes in rows(" ".join(sys.argv[1:])):
        sys.stdout.write(f"| {name} | {' '.join(map(str, sorted(statuses)))} | {megabytes:.0f} |\n")
