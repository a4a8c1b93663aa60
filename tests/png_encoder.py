"""A PNG encoder for the tests, so that the expected pixels do not depend on the decoder."""

import random
import struct
import zlib
from collections.abc import Sequence

from augu_api.photos.png import CHANNELS, SIGNATURE

Samples = tuple[int, ...]
Rows = Sequence[Sequence[Samples]]
RGB = tuple[int, int, int]
PASSES = ((0, 0, 8, 8), (4, 0, 8, 8), (0, 4, 4, 8), (2, 0, 4, 4), (0, 2, 2, 4), (1, 0, 2, 2), (0, 1, 1, 2))
WHOLE = ((0, 0, 1, 1),)
PALETTE = [(n * 53 % 256, n * 101 % 256, n * 197 % 256) for n in range(256)]
WHITE, GREY, RGB_COLOUR, INDEXED, GREY_ALPHA, RGBA = (255, 255, 255), 0, 2, 3, 4, 6


def chunk(kind: bytes, body: bytes = b"") -> bytes:
    """A chunk with its length and checksum."""
    return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))


def ihdr(width: int, height: int, depth: int = 8, colour: int = RGB_COLOUR, interlaced: int = 0, *rest: int) -> bytes:
    """The header; `rest` is its compression and filter method."""
    return chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, depth, colour, *(rest or (0, 0)), interlaced))


def scanlines(rows: Rows, depth: int, interlaced: bool = False) -> bytes:
    """Filter type 0 and the samples packed from the high bit, row after row and pass after pass."""
    packed = bytearray()
    for x, y, dx, dy in PASSES if interlaced else WHOLE:
        for row in rows[y::dy]:
            bits = "".join(f"{sample:0{depth}b}" for pixel in row[x::dx] for sample in pixel)
            if bits:
                padded = bits.ljust(-(-len(bits) // 8) * 8, "0")
                packed += b"\0" + int(padded, 2).to_bytes(len(padded) // 8, "big")
    return bytes(packed)


def plte(colours: list[RGB]) -> bytes:
    return chunk(b"PLTE", b"".join(map(bytes, colours)))


def png(*chunks: bytes) -> bytes:
    return SIGNATURE + b"".join(chunks)


def encode(
    rows: Rows,
    colour: int = RGB_COLOUR,
    depth: int = 8,
    interlaced: bool = False,
    before: bytes = b"",
    after: bytes = b"",
) -> bytes:
    """A PNG of the samples, with optional chunks before and after its pixels, and its palette first if it has one."""
    palette = plte(PALETTE[: 2**depth]) if colour == INDEXED else b""
    header = ihdr(len(rows[0]), len(rows), depth, colour, interlaced)
    pixels = chunk(b"IDAT", zlib.compress(scanlines(rows, depth, interlaced)))
    return SIGNATURE + header + palette + before + pixels + after + chunk(b"IEND")


def noise(colour: int, depth: int, width: int, height: int, seed: int = 0) -> list[list[Samples]]:
    """Samples over the whole range."""
    dice = random.Random(seed)
    return [
        [tuple(dice.getrandbits(depth) for _ in range(CHANNELS[colour])) for _ in range(width)] for _ in range(height)
    ]


def filtered(raw: bytes, stride: int, step: int, kinds: list[int]) -> bytes:
    """Rows of `stride` bytes under the filter types in turn; a sample is `step` bytes from the one to its left."""
    packed, above = bytearray(), bytes(stride)
    for number, at in enumerate(range(0, len(raw), stride + 1)):
        row, kind = raw[at + 1 : at + 1 + stride], kinds[number % len(kinds)]
        left, corner = bytes(step) + row[:-step], bytes(step) + above[:-step]
        guesses = [prediction(kind, *around) for around in zip(left, above, corner, strict=False)]
        packed += bytes([kind, *((sample - guess) % 256 for sample, guess in zip(row, guesses, strict=True))])
        above = row
    return bytes(packed)


def prediction(kind: int, left: int, above: int, corner: int) -> int:
    """What a filter type (section 9.2) expects of a sample; for Paeth's, 4, the closest to left + above - corner."""
    near = min((left, above, corner), key=lambda value: abs(left + above - corner - value))
    return (0, left, above, (left + above) // 2, near)[kind]


def black(side: int) -> bytes:
    """A black photo of side x side pixels, each one bit."""
    packed = zlib.compress(bytes(side * (1 + (side + 7) // 8)))
    return png(ihdr(side, side, 1, GREY), chunk(b"IDAT", packed), chunk(b"IEND"))
