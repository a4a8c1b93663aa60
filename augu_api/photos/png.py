"""Decode PNG.

A file is checked before anything is decoded: signature, header, every chunk's length, and the checksums of the chunks
that make pixels. Only those reach the decoder, so texts, colour profiles and animations in a file cost nothing, and may
be broken. The rows are decoded in strips: beside the photo, only a few megabytes are in use at any time, whatever kind
of PNG it is. Source of the format: PNG (Third Edition), W3C, https://www.w3.org/TR/png-3/.
"""

import struct
from collections.abc import Callable, Iterator
from functools import partial
from io import BytesIO
from itertools import takewhile
from typing import NamedTuple

import numpy as np
from isal import isal_zlib
from numpy.typing import NDArray
from PIL import Image, ImageFile

from augu_api.photos.checks import MAX_BYTES, MAX_SEGMENTS, ImageRejected, check_length, check_pixels
from augu_api.photos.scanlines import CORRUPT, Inflated, Layout, png, strips
from augu_api.photos.scanlines import SIGNATURE as FIRST

SIGNATURE = FIRST
STRIP = 1 << 16  # pixels, which stay in the processor's cache and block other threads for a millisecond at most
MAX_EXIF = 1 << 16  # bytes
MAX_WIDTH = 1 << 19  # a row of 64-bit pixels takes 4 MB, and two rows are needed at a time
PIXEL_CHUNKS = frozenset((b"IHDR", b"PLTE", b"tRNS", b"IDAT", b"IEND"))
UNIQUE = {b"IHDR": "header", b"PLTE": "palette", b"tRNS": "transparency"}
CHANNELS = {0: 1, 2: 3, 3: 1, 4: 2, 6: 4}  # by colour type
WHOLE_BYTES = {0: "L", 2: "RGB", 6: "RGBA"}  # by colour type: Pillow's mode for samples of a byte
DEPTHS = {0: (1, 2, 4, 8, 16), 2: (8, 16), 3: (1, 2, 4, 8), 4: (8, 16), 6: (8, 16)}
BROKEN = (OSError, ValueError, SyntaxError, struct.error, IndexError)  # what Pillow raises
ROWS = ((0, 0, 1, 1),)  # not interlaced: one pass over all pixels; x, y, and the steps to the next ones
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
    def bits(self) -> int:
        """The bits of a pixel."""
        return self.depth * CHANNELS[self.colour]

    @property
    def halved(self) -> bool:
        """Whether only the high bytes of its samples of 16 bits are used: all but grey ones, which are rounded."""
        return self.depth == 16 and self.colour != 0


Convert = Callable[[NDArray[np.uint8], Header], NDArray[np.uint8]]
"""From packed samples (H, stride) to RGB pixels (H, W, 3); the header describes this strip."""


def decode(data: bytes, max_pixels: int, max_bytes: int = MAX_BYTES) -> NDArray[np.uint8]:
    """Decode a PNG into an RGB photo (H, W, 3) of at most `max_pixels` pixels; transparency is laid over white.

    Any colour type and depth, interlaced or not; of an animated file, the still image. Orientation and colour
    profiles are left as stored. Raises ImageRejected.
    """
    header = _header(data, max_pixels, max_bytes)
    chunks = list(_chunks(data))
    _check_order(header, [kind for kind, _ in chunks])
    inflated = Inflated(b"".join(raw[8:-4] for kind, raw in chunks if kind == b"IDAT"))
    convert = _converter(header, chunks)
    photo = np.empty((header.height, header.width, 3), np.uint8)
    for x, y, dx, dy in ADAM7 if header.interlaced else ROWS:
        part, at = photo[y::dy, x::dx], 0
        for strip in _strips(header._replace(width=part.shape[1], height=len(part)), inflated, convert):
            if strip.shape == photo.shape:  # a small photo, which needs no copy
                return strip
            part[at : at + len(strip)] = strip
            at += len(strip)
    return photo


def exif(data: bytes) -> bytes:
    """The content of the first sound eXIf chunk of a PNG that `decode` accepts, if it is as short as in a JPEG."""
    at = len(SIGNATURE)
    while data[at + 4 : at + 8] != b"IEND":
        length, kind = struct.unpack_from(">I4s", data, at)
        end = at + 12 + length
        if kind == b"eXIf" and length <= MAX_EXIF and _checksum(data, end) == isal_zlib.crc32(data[at + 4 : end - 4]):
            return data[at + 8 : end - 4]
        at = end
    return b""


def _checksum(data: bytes, end: int) -> int:
    """The checksum that a chunk ends with."""
    return int.from_bytes(data[end - 4 : end])


def _header(data: bytes, max_pixels: int, max_bytes: int) -> Header:
    check_length(data, max_bytes)
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
    if header.width > MAX_WIDTH:
        raise ImageRejected(f"Wider than {MAX_WIDTH} pixels: {header.width} x {header.height}.")
    if header.depth not in DEPTHS.get(header.colour, ()) or header.interlaced > 1:
        raise ImageRejected("Corrupt PNG image: invalid bit depth, colour type or interlacing.")
    if header.compression or header.filtering:
        raise ImageRejected("Corrupt PNG image: unknown compression or filter method.")
    return header


def _chunks(data: bytes) -> Iterator[tuple[bytes, memoryview]]:
    """Yield each chunk's type and all its bytes, up to and including IEND; those that make pixels are verified."""
    view, at = memoryview(data), len(SIGNATURE)
    for _ in range(MAX_SEGMENTS):
        if at + 12 > len(data):
            raise ImageRejected("Truncated PNG image.")
        length, kind = struct.unpack_from(">I4s", data, at)
        end = at + 12 + length
        if end > len(data):
            raise ImageRejected("Truncated PNG image.")
        if kind in PIXEL_CHUNKS and _checksum(data, end) != isal_zlib.crc32(view[at + 4 : end - 4]):
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


def _strips(header: Header, inflated: Inflated, convert: Convert) -> Iterator[NDArray[np.uint8]]:
    """Yield the RGB pixels (H, W, 3) of one pass, whose size the header tells, strip by strip."""
    stride = (header.width * header.bits + 7) // 8
    if stride:  # a pass without columns has no rows either
        rows = max(1, STRIP // header.width)
        layout = Layout(stride, max(1, header.bits // 8), header.halved)
        for strip in strips(inflated, layout, header.height, rows):
            yield convert(strip, header._replace(height=len(strip)))


def _converter(header: Header, chunks: list[tuple[bytes, memoryview]]) -> Convert:
    whole = header.halved or header.depth == 8
    if whole and header.colour in WHOLE_BYTES and all(kind != b"tRNS" for kind, _ in chunks):
        return partial(_of_bytes, WHOLE_BYTES[header.colour])
    return partial(_of_samples, _described(chunks))


def _of_bytes(mode: str, strip: NDArray[np.uint8], header: Header) -> NDArray[np.uint8]:
    """The RGB pixels (H, W, 3) of samples of a byte, without palette or transparent colour."""
    if mode != "RGBA":
        grey = mode == "L"
        return (np.repeat(strip, 3, 1) if grey else strip).reshape(header.height, header.width, 3)
    return np.asarray(on_white(Image.frombuffer(mode, (header.width, header.height), strip, "raw", mode, 0, 1)))


def _described(chunks: list[tuple[bytes, memoryview]]) -> ImageFile.ImageFile:
    """What Pillow makes of the header, the palette and the transparency, without the pixels."""
    before = b"".join(raw for kind, raw in chunks if kind in UNIQUE)
    try:
        return Image.open(BytesIO(png(before)), formats=["PNG"])
    except (Image.DecompressionBombError, *BROKEN) as error:
        raise ImageRejected(CORRUPT) from error


def _of_samples(described: ImageFile.ImageFile, strip: NDArray[np.uint8], header: Header) -> NDArray[np.uint8]:
    """The RGB pixels (H, W, 3) of packed samples of any kind, as Pillow unpacks them."""
    size, packing = (header.width, header.height), str(described.tile[0][3])
    if header.halved:
        packing = packing.removesuffix(";16B")
    try:
        image = Image.frombytes(described.mode, size, strip.ravel(), "raw", packing)
        if described.palette:
            image.putpalette(described.palette.palette)
        image.info = described.info.copy()
        return np.asarray(_to_rgb(image, header))
    except BROKEN as error:
        raise ImageRejected(CORRUPT) from error


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
    if image.mode not in ("LA", "RGBA"):
        image = image.convert("RGBA")
    white = Image.new("RGB", image.size, "white")
    white.paste(image, mask=image)
    return white


def _grey16_to_rgb(image: Image.Image, key: int | None) -> Image.Image:
    """Scale 16 bits to 8: Pillow's own conversion clips at 255 instead."""
    samples = np.asarray(image)
    grey = (samples // 257).astype(np.uint8)
    if key is not None:
        grey[samples == key] = 255
    return Image.fromarray(grey).convert("RGB")
