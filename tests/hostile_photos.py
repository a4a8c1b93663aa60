"""Photos that take long to decode, or much memory, without precautions."""

import struct
from collections.abc import Iterator
from zlib import crc32

from PIL import Image

from augu_api.photos import MAX_BYTES
from augu_api.photos.checks import MAX_SEGMENTS
from augu_api.photos.jpeg import MAX_SCANS
from augu_api.photos.tiff import MAX_VALUES
from tests.helpers import file_of

NAVY = Image.new("RGB", (8, 8), "navy")
JPEG, PNG = file_of(NAVY, "JPEG"), file_of(NAVY, "PNG")
ABSURD = JPEG.replace(b"\0\x08\0\x08\3", b"\xff\xdc\xff\xdc\3")
TABLE = JPEG[JPEG.index(b"\xff\xdb") :][:69]  # of quantization, with 64 numbers
LARGE = Image.new("RGB", (5000, 5000), (90, 120, 30))
MB = 2**20


def scans_of(jpeg: bytes) -> tuple[bytes, list[bytes]]:
    """A JPEG's header and its scans, each with the tables before it."""
    at, seam, head, scans = 2, 2, b"", []
    while jpeg[at + 1] != 0xD9:
        marker = jpeg[at + 1]
        at += 2 + int.from_bytes(jpeg[at + 2 : at + 4])
        if marker in (0xC0, 0xC2):
            head, seam = jpeg[:at], at
        elif marker == 0xDA:
            while jpeg[at] != 0xFF or jpeg[at + 1] == 0:
                at += 1
            scans.append(jpeg[seam:at])
            seam = at
    return head, scans


def repeated(image: Image.Image, count: int) -> bytes:
    """A progressive JPEG with this many scans: the last one is repeated, and changes nothing."""
    head, scans = scans_of(file_of(image, "JPEG", progressive=True, subsampling=0))
    return head + b"".join(scans) + scans[-1] * (count - len(scans)) + b"\xff\xd9"


def canvas(width: int, height: int) -> bytes:
    """An animated WebP that claims this size and has one small frame."""
    sides = (width - 1).to_bytes(3, "little") + (height - 1).to_bytes(3, "little")
    frame = bytes(6) + b"\7\0\0\7\0\0" + bytes(4) + file_of(NAVY, "WEBP", lossless=True)[12:]
    chunks = {b"VP8X": b"\2\0\0\0" + sides, b"ANIM": bytes(6), b"ANMF": frame}
    body = b"WEBP" + b"".join(kind + struct.pack("<I", len(chunk)) + chunk for kind, chunk in chunks.items())
    return b"RIFF" + struct.pack("<I", len(body)) + body


def rle(side: int) -> bytes:
    """A BMP that claims to be compressed."""
    bmp = file_of(Image.new("L", (side, side)), "BMP")
    return bmp[:30] + b"\1" + bmp[31:]


def gif(width: int, height: int) -> bytes:
    """A GIF that claims this size, and that its one image is removed in the end."""
    size, whole = struct.pack("<HH", width, height), file_of(NAVY, "GIF")
    at = whole.index(b",", 13)
    return whole[:6] + size + whole[10:at] + b"!\xf9\4\x08\0\0\0\0" + whole[at : at + 5] + size + whole[at + 9 :]


def tags(count: int) -> bytes:
    """EXIF with many tags, each of which claims the whole length."""
    entries = b"".join(struct.pack("<HHII", tag, 7, MB, 0) for tag in range(1, count + 1))
    return b"II*\0" + struct.pack("<IH", 8, count) + entries + bytes(MB)


def png_with(kind: bytes, content: bytes) -> bytes:
    """A PNG with one more chunk."""
    chunk = struct.pack(">I", len(content)) + kind + content
    return PNG[:33] + chunk + struct.pack(">I", crc32(chunk[4:])) + PNG[33:]


def commented(block: bytes, count: int) -> bytes:
    """A GIF with a comment of many blocks."""
    whole = file_of(NAVY, "GIF")
    at = whole.index(b",", 13)
    return whole[:at] + b"!\xfe" + block * count + b"\0" + whole[at:]


def strips(count: int) -> bytes:
    """A TIFF with a strip for each row of a single pixel."""
    head, pixels = b"II*\0", bytes(count)
    places = struct.pack(f"<{count}I", *range(8, 8 + count))
    entries = [(256, 3, 1, 1), (257, 3, 1, count), (258, 3, 1, 8), (262, 3, 1, 1), (273, 4, count, 8 + count)]
    entries += [(277, 3, 1, 1), (278, 3, 1, 1)]
    packed = b"".join(struct.pack("<HHII", *entry) for entry in entries)
    directory = struct.pack("<H", len(entries)) + packed + bytes(4)
    return head + struct.pack("<I", 8 + 5 * count) + pixels + places + directory


def photos() -> Iterator[tuple[str, bytes, int]]:
    """Files that take long to decode without precautions."""
    head, rest = JPEG[:2], JPEG[2:]
    yield "a JPEG of many passes", repeated(LARGE.resize((2500, 2500)), MAX_SCANS), 200
    yield "a progressive JPEG of 25 million pixels", file_of(LARGE, "JPEG", progressive=True), 400
    yield "a JPEG of more passes", repeated(LARGE, 20 * MAX_SCANS), 400
    yield "a JPEG of absurd sides", ABSURD, 400
    yield "a JPEG of a million texts", head + b"\xff\xfe\0\2" * (MB + 200_000) + rest, 400
    yield (
        "a JPEG of as many as are read",
        head + (b"\xff\xe1\0\x2aExif\0\0" + bytes(34)) * (MAX_SEGMENTS - 50) + rest,
        200,
    )
    yield "a JPEG of fill bytes", head + b"\xff" * (MAX_BYTES - 2000) + rest, 200
    yield "a JPEG of no markers", head + b"\xff\0" * (MAX_BYTES // 2 - 2000), 400
    yield "a WebP of 25 million pixels", file_of(LARGE, "WEBP", lossless=True, method=0), 400
    smaller = LARGE.resize((2500, 2500))
    yield "a WebP of as many pixels as are read", file_of(smaller, "WEBP", lossless=True, method=0), 200
    yield "a transparent WebP", file_of(smaller.convert("RGBA"), "WEBP", lossless=True, method=0, exact=True), 200
    yield "a WebP of absurd sides", canvas(65535, 65535), 400
    yield "a WebP of an absurd canvas", canvas(2**24, 2**24), 400
    yield "a WebP of many tags", file_of(NAVY, "WEBP", exif=tags(65_000)), 200
    yield "a PNG of many tags", png_with(b"eXIf", tags(65_000)), 200
    yield "a PNG of many short tags", png_with(b"eXIf", tags(5000)[:60_100]), 200
    yield "a GIF of a megabyte of comments", commented(b"\xff" + bytes(255), 4000 * 3), 200
    yield "a GIF of too many comments", commented(b"\1a", MAX_SEGMENTS + 1), 400
    yield "a GIF of as many pixels as are read", file_of(smaller.quantize(), "GIF"), 200
    yield "a GIF of more", file_of(LARGE.quantize(), "GIF"), 400
    yield "a GIF of absurd sides", gif(65535, 65535), 400
    yield "a BMP of as many pixels as are read", file_of(smaller.convert("1"), "BMP"), 200
    yield "a compressed BMP", rle(2000), 400
    yield "a TIFF of many tags", tags(65_000), 400
    for kind in ("tiff_lzw", "tiff_adobe_deflate"):
        yield f"a TIFF of as many pixels as are read, {kind}", file_of(smaller, "TIFF", compression=kind), 200
        yield f"a TIFF of more, {kind}", file_of(LARGE, "TIFF", compression=kind), 400
    yield "a TIFF of many strips", strips(MAX_VALUES), 200
    yield "a TIFF of more", strips(60_000), 400
    yield "a JPEG of many tables", head + TABLE * 50_000 + rest, 400
    yield "a WebP of many tags in much EXIF", file_of(NAVY, "WEBP", exif=tags(65_000) + bytes(3 * MB)), 200
    yield "a JPEG without its end, but with fill bytes", JPEG[:-2] + b"\xff" * (MAX_BYTES - 2000), 200
    yield "a JPEG without its end, but with fill bytes and more", JPEG[:-2] + b"\xff" * (MAX_BYTES - 2000) + b"\1", 200
    yield "a JPEG without its end", file_of(smaller, "JPEG")[:-2], 200
    yield "half a JPEG", file_of(smaller, "JPEG")[:-1000], 400
