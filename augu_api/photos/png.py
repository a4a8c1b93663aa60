"""Decode PNG.

A file is checked before anything is decoded: signature, header, and every chunk's length and checksum. Only the chunks
that make pixels reach the decoder, so texts, colour profiles and animations in a file cost nothing. Source of the
format: PNG (Third Edition), W3C, https://www.w3.org/TR/png-3/.
"""

import struct
from collections.abc import Iterable, Iterator
from io import BytesIO
from itertools import takewhile
from typing import NamedTuple

import numpy as np
from isal import isal_zlib
from isal.igzip_lib import IsalError
from kornia_rs.io import decode_image_png_u8
from numpy.typing import NDArray
from PIL import Image

from augu_api.photos.checks import MAX_SEGMENTS, ImageRejected, check_length, check_pixels

SIGNATURE = b"\x89PNG\r\n\x1a\n"
INFLATED = 1 << 24  # bytes at a time: large pieces of memory go back to the system, small ones stay with the process
MAX_STORED = 0xFFFF  # bytes in one stored block
END = b"\0\0\0\0IEND\xae\x42\x60\x82"
PIXEL_CHUNKS = frozenset((b"IHDR", b"PLTE", b"tRNS", b"IDAT", b"IEND"))
UNIQUE = {b"IHDR": "header", b"PLTE": "palette", b"tRNS": "transparency"}
CHANNELS = {0: 1, 2: 3, 3: 1, 4: 2, 6: 4}  # by colour type
WHOLE_BYTES = {0: ("mono", "L"), 2: ("rgb", "RGB"), 6: ("rgba", "RGBA")}  # by colour type: kornia-rs's name, Pillow's
DEPTHS = {0: (1, 2, 4, 8, 16), 2: (8, 16), 3: (1, 2, 4, 8), 4: (8, 16), 6: (8, 16)}
ADAM7 = ((0, 0, 8, 8), (4, 0, 8, 8), (0, 4, 4, 8), (2, 0, 4, 4), (0, 2, 2, 4), (1, 0, 2, 2), (0, 1, 1, 2))


class Header(NamedTuple):
    """A PNG's IHDR."""

    width: int
    height: int
    depth: int
    colour: int
    compression: int
    filtering: int
    interlaced: int

    @property
    def size(self) -> int:
        """How many bytes the pixels take before compression: for each row a filter byte and the packed samples."""
        bits = self.depth * CHANNELS[self.colour]
        passes = ADAM7 if self.interlaced else ((0, 0, 1, 1),)
        sides = ((-(-(self.width - x) // dx), -(-(self.height - y) // dy)) for x, y, dx, dy in passes)
        return sum(rows * (1 + (columns * bits + 7) // 8) for columns, rows in sides if columns > 0 and rows > 0)


def decode(data: bytes, max_pixels: int) -> NDArray[np.uint8]:
    """Decode a PNG into an RGB photo (H, W, 3) of at most `max_pixels` pixels; transparency is laid over white.

    Any colour type and depth, interlaced or not; of an animated file, the still image. Orientation and colour
    profiles are left as stored. Raises ImageRejected.
    """
    header = _header(data, max_pixels)
    chunks = list(_chunks(data))
    kinds = [kind for kind, _ in chunks]
    _check_order(header, kinds)
    pixels = _inflated(header, chunks)
    quick = header.depth == 8 and header.colour in WHOLE_BYTES and b"tRNS" not in kinds
    photo = _by_png_crate(pixels, header) if quick else None
    return np.asarray(_by_pillow(pixels, header)) if photo is None else photo


def _header(data: bytes, max_pixels: int) -> Header:
    check_length(data)
    if not data.startswith(SIGNATURE):
        raise ImageRejected("Not a PNG image.")
    if len(data) < 33:
        raise ImageRejected("Truncated PNG image.")
    if data[8:16] != b"\0\0\0\rIHDR":
        raise ImageRejected("Corrupt PNG image: it does not start with a header.")
    header = Header(*struct.unpack_from(">IIBBBBB", data, 16))
    if not (0 < header.width < 2**31 and 0 < header.height < 2**31):
        raise ImageRejected("Corrupt PNG image: its width or height is invalid.")
    check_pixels(header.width, header.height, max_pixels)
    if header.depth not in DEPTHS.get(header.colour, ()) or header.interlaced > 1:
        raise ImageRejected("Corrupt PNG image: invalid bit depth, colour type or interlacing.")
    if header.compression or header.filtering:
        raise ImageRejected("Corrupt PNG image: unknown compression or filter method.")
    return header


def _chunks(data: bytes) -> Iterator[tuple[bytes, memoryview]]:
    """Yield each chunk's type and all its bytes, up to and including IEND, after verifying its checksum."""
    view, at = memoryview(data), len(SIGNATURE)
    for _ in range(MAX_SEGMENTS):
        if at + 12 > len(data):
            raise ImageRejected("Truncated PNG image.")
        length, kind = struct.unpack_from(">I4s", data, at)
        end = at + 12 + length
        if end > len(data):
            raise ImageRejected("Truncated PNG image.")
        if struct.unpack_from(">I", data, end - 4)[0] != isal_zlib.crc32(view[at + 4 : end - 4]):
            raise ImageRejected("Corrupt PNG image: a checksum is wrong.")
        if not kind[0] & 0x20 and kind not in PIXEL_CHUNKS:
            raise ImageRejected("Corrupt PNG image: an unknown critical chunk.")
        yield kind, view[at:end]
        if kind == b"IEND":
            return
        at = end
    raise ImageRejected(f"More than {MAX_SEGMENTS} chunks.")


def _check_order(header: Header, kinds: list[bytes]) -> None:
    """Refuse what decoders disagree about: a second header, palette or transparency, or one after the pixels."""
    before = list(takewhile(lambda kind: kind != b"IDAT", kinds))
    for kind, name in UNIQUE.items():
        if kinds.count(kind) > 1:
            raise ImageRejected(f"Corrupt PNG image: a second {name}.")
        if kind in kinds and kind not in before:
            raise ImageRejected(f"Corrupt PNG image: its {name} comes after its pixels.")
    if header.colour == 3 and b"PLTE" not in before:
        raise ImageRejected("Corrupt PNG image: its palette is missing.")


def _inflated(header: Header, chunks: list[tuple[bytes, memoryview]]) -> bytes:
    """The same PNG with nothing but its pixels, uncompressed.

    Decoders may show missing rows as black, so the bytes must be counted; ISA-L inflates them twice as fast as Pillow.
    """
    before = [raw for kind, raw in chunks if kind in UNIQUE]
    try:
        blocks = list(_stored(header.size, (raw[8:-4] for kind, raw in chunks if kind == b"IDAT")))
    except IsalError as error:  # type: ignore[misc]  # the library types it as an instance
        raise ImageRejected("Corrupt PNG image: its pixels cannot be decompressed.") from error
    length, checksum = sum(map(len, blocks)), isal_zlib.crc32(b"IDAT")
    for block in blocks:
        checksum = isal_zlib.crc32(block, checksum)
    return b"".join([SIGNATURE, *before, struct.pack(">I", length), b"IDAT", *blocks, checksum.to_bytes(4), END])


def _stored(size: int, compressed: Iterable[memoryview]) -> Iterator[bytes | memoryview]:
    """Inflate `size` bytes, and yield them as a zlib stream of stored blocks (RFC 1950, RFC 1951 section 3.2.4)."""
    inflate, checksum, left = isal_zlib.decompressobj(), 1, size
    yield b"\x78\x01"
    for data in compressed:
        rest: bytes | memoryview = data
        while left and (pixels := inflate.decompress(rest, min(left, INFLATED))):
            rest, left = inflate.unconsumed_tail, left - len(pixels)
            checksum = isal_zlib.adler32(pixels, checksum)
            for at in range(0, len(pixels), MAX_STORED):
                block = memoryview(pixels)[at : at + MAX_STORED]
                yield struct.pack("<BHH", 0, len(block), ~len(block) & 0xFFFF)
                yield block
    if left:
        raise ImageRejected("Truncated PNG image: rows are missing.")
    yield struct.pack("<BHH", 1, 0, 0xFFFF)
    yield struct.pack(">I", checksum)


def _by_png_crate(pixels: bytes, header: Header) -> NDArray[np.uint8] | None:
    """A photo of 8-bit samples without palette or transparent colour; None if its filters are wrong.

    The png crate, in memory-safe Rust, undoes the filters four times as fast as Pillow.
    """
    theirs, mode = WHOLE_BYTES[header.colour]
    try:
        samples: NDArray[np.uint8] = decode_image_png_u8(pixels, (header.height, header.width), theirs)
    except (KeyboardInterrupt, SystemExit):
        raise
    except BaseException:  # noqa: BLE001 - a panic of Rust is no Exception, and its class is not public
        return None
    if mode == "RGB":
        return samples
    return np.asarray(on_white(Image.frombuffer(mode, (header.width, header.height), samples, "raw", mode, 0, 1)))


def _by_pillow(pixels: bytes, header: Header) -> Image.Image:
    try:
        with Image.open(BytesIO(pixels), formats=["PNG"]) as image:
            image.load()
            return _to_rgb(image, header)
    except (Image.DecompressionBombError, OSError, ValueError, SyntaxError, struct.error, IndexError) as error:
        raise ImageRejected("Corrupt PNG image.") from error


def _to_rgb(image: Image.Image, header: Header) -> Image.Image:
    key = image.info.get("transparency")
    if image.mode == "I;16":
        return _grey16_to_rgb(image, key)
    if key is not None and header.colour == 0:  # Pillow gives the key in the file's depth, the samples in 8 bits
        image = image.convert("L")
        image.info["transparency"] = key if header.depth == 1 else key * 255 // (2**header.depth - 1)
    if key is not None and header.depth == 16 and header.colour == 2:  # Pillow keeps the high bytes of such samples
        image.info["transparency"] = tuple(sample >> 8 for sample in key)
    return on_white(image)


def on_white(image: Image.Image) -> Image.Image:
    """The image in RGB; transparency is laid over white."""
    if not image.has_transparency_data:
        return image if image.mode == "RGB" else image.convert("RGB")
    image = image.convert("RGBA")
    white = Image.new("RGB", image.size, "white")
    white.paste(image, mask=image.getchannel("A"))
    return white


def _grey16_to_rgb(image: Image.Image, key: int | None) -> Image.Image:
    """Scale 16 bits to 8: Pillow's own conversion clips at 255 instead."""
    samples = np.asarray(image)
    grey = (samples // 257).astype(np.uint8)
    if key is not None:
        grey[samples == key] = 255
    return Image.fromarray(grey).convert("RGB")
