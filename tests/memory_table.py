"""Measure a worker's memory with the largest photo of every kind: `python -m tests.memory_table`."""

import base64
import gzip
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
LONGEST = 10 * 2**20  # bytes of a file, with AUGU_DEEPSTACK_MB=10
USERS = 6  # whose bodies together take all the room that there is for bodies
SETTINGS = {"WEB_CONCURRENCY": "1", "AUGU_DEEPSTACK": "1", "AUGU_DEEPSTACK_MB": "10", "AUGU_MAX_PIXELS": str(PIXELS)}
ANNOTATED = f"{OBJECTS}?max_side=3072"
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
    for mode in ("1", "P"):
        found[f"BMP in {mode}, a quarter"] = DETECTION, partial(uploaded, mode, "BMP", QUARTER, pixels)
    found["BMP in RGB of 10 MB"] = DETECTION, partial(uploaded, "RGB", "BMP", 8, pixels)
    found["GIF, a quarter"] = DETECTION, partial(uploaded, "P", "GIF", QUARTER, pixels)
    found["GIF, transparent, a quarter"] = DETECTION, partial(uploaded, "P", "GIF", QUARTER, pixels, transparency=0)
    for mode in ("1", "L", "P", "RGB", "RGBA", "CMYK"):
        for compression in ("tiff_lzw", "tiff_adobe_deflate"):
            make = partial(uploaded, mode, "TIFF", QUARTER, pixels, compression=compression)
            found[f"TIFF in {mode}, {compression}, a quarter"] = DETECTION, make
    found["TIFF in L, a quarter"] = DETECTION, partial(uploaded, "L", "TIFF", QUARTER, pixels)
    found["JPEG without its end, a quarter"] = DETECTION, lambda: uploaded("RGB", "JPEG", QUARTER, pixels)[:-2]
    whole = partial(plain, 6, 16, True, pixels=pixels)
    found["PNG in a body of gzip"] = OBJECTS, lambda: gzip.compress(in_json(whole()), 1)
    found["PNG in a body of deflate"] = OBJECTS, lambda: zlib.compress(in_json(whole()), 1)
    found["PNG, annotated"] = ANNOTATED, partial(plain, 6, 8, False, pixels=pixels)
    return found


def in_json(file: bytes) -> bytes:
    """The largest JSON with a photo in it."""
    return b'{"data":"%b"}' % base64.b64encode(file.ljust(5 * 2**20, b"\0"))


def peak(server: Server) -> float:
    """The most memory, in MB, that the worker had at any time since `forget`."""
    [worker] = server.workers
    [kilobytes] = re.findall(r"VmHWM:\s+(\d+)", Path(f"/proc/{worker}/status").read_text())
    return int(kilobytes) * 1024 / BYTES


def forget(server: Server) -> None:
    """Start a new measurement of the peak."""
    [worker] = server.workers
    Path(f"/proc/{worker}/clear_refs").write_text("5")


def padded(path: str, file: bytes) -> bytes:
    """The file with bytes behind its end, which all decoders ignore, so that its body is as long as it may be."""
    return file.ljust(LONGEST if path == DETECTION else 5 * 2**20, b"\0") if file[0] not in (0x1F, 0x78) else file


def post(server: Server, token: str, path: str, file: bytes) -> int:
    """The status of the reply to a photo."""
    if path == DETECTION:
        kind = "multipart/form-data; boundary=b"
        return call(server.port, path, FORM % file, token, **{"Content-Type": kind}).status
    coding = "gzip" if file.startswith(b"\x1f\x8b") else "deflate" if file.startswith(b"\x78") else "identity"
    headers = {"Content-Encoding": coding, "Accept": "image/png" if path == ANNOTATED else "application/json"}
    return call(server.port, path, base64.b64encode(file) if coding == "identity" else file, token, **headers).status


def measured(server: Server, tokens: list[str], path: str, file: bytes) -> tuple[set[int], float]:
    """The statuses and the peak of a photo of each of these users at once."""
    forget(server)
    with ThreadPoolExecutor(len(tokens)) as pool:
        statuses = set(pool.map(lambda token: post(server, token, path, file), tokens))
    return statuses, peak(server)


def rows(only: str) -> Iterator[tuple[str, set[int], float]]:
    """Yield each kind whose name has `only` in it, the statuses and the peak; files are as long as they may be."""
    with tempfile.TemporaryDirectory() as folder, serving(Path(folder)) as start:
        server = start(**SETTINGS)
        tokens = [add(server, f"user{number}", coefficient=1000) for number in range(USERS)]
        post(server, tokens[0], OBJECTS, plain(2, 8, False, pixels=640 * 480))
        yield "640 x 480", set(), peak(server)
        for name, (path, make) in kinds(PIXELS).items():
            if only in name:
                yield name, *measured(server, tokens, path, padded(path, make()))


if __name__ == "__main__":
    for name, statuses, megabytes in rows(" ".join(sys.argv[1:])):
        sys.stdout.write(f"| {name} | {' '.join(map(str, sorted(statuses)))} | {megabytes:.0f} |\n")
