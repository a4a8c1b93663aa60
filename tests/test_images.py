"""Decoding PNG: accepted files have the pixels that the format defines, others are refused with a reason.

The files are written by tests/png_encoder.py, so the expected colours do not depend on the decoder.
"""

import os
import struct
import subprocess
import sys
import zlib
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from augu_api.photos import MAX_BYTES, ImageRejected, decode, decode_upright
from augu_api.photos.checks import MAX_SEGMENTS
from augu_api.photos.png import CHANNELS, DEPTHS, MAX_WIDTH, SIGNATURE, STRIP
from tests.helpers import BIN, file_of
from tests.png_encoder import (
    GREY,
    GREY_ALPHA,
    INDEXED,
    PALETTE,
    RGB,
    RGB_COLOUR,
    RGBA,
    WHITE,
    Samples,
    black,
    chunk,
    encode,
    filtered,
    ihdr,
    noise,
    plte,
    png,
    scanlines,
)

MAX_PIXELS = 10_000
KINDS = [(colour, depth) for colour, depths in DEPTHS.items() for depth in depths]


# --- the encoder


def seen(samples: Samples, colour: int, depth: int) -> RGB:
    """The colour over white, as the format defines it."""
    if colour == INDEXED:
        return PALETTE[samples[0]]
    *colours, alpha = samples if colour in (GREY_ALPHA, RGBA) else (*samples, 2**depth - 1)
    top = 2**depth - 1
    shown = [255 * (sample * alpha + top * (top - alpha)) / top**2 for sample in colours]
    red, green, blue = (round(value) for value in (shown * 3)[:3])
    return red, green, blue


def shown(data: bytes, max_pixels: int = MAX_PIXELS) -> list[list[RGB]]:
    """The decoded pixels by row."""
    photo = decode(data, max_pixels)
    assert photo.dtype == np.uint8
    return [[(red, green, blue) for red, green, blue in row] for row in photo.tolist()]


def off(data: bytes, expected: list[list[RGB]]) -> int:
    """The largest difference of any channel."""
    pairs = zip(shown(data), expected, strict=True)
    return max(
        abs(a - b) for row in pairs for got, want in zip(*row, strict=True) for a, b in zip(got, want, strict=True)
    )


# --- what is accepted


@pytest.mark.parametrize("interlaced", [False, True], ids=["rows", "adam7"])
@pytest.mark.parametrize(("colour", "depth"), KINDS)
def test_every_colour_type_and_depth(colour: int, depth: int, interlaced: bool) -> None:
    """Each colour type and depth gives the right colours, with transparency over white, interlaced or not.

    Up to 8 bits without alpha are exact; 16 bits and alpha may be off by one.
    """
    rows = noise(colour, depth, 11, 9)
    expected = [[seen(samples, colour, depth) for samples in row] for row in rows]
    exact = depth <= 8 and colour in (GREY, RGB_COLOUR, INDEXED)
    assert off(encode(rows, colour, depth, interlaced), expected) <= (0 if exact else 1)


@given(
    st.sampled_from(KINDS), st.lists(st.integers(0, 4), min_size=1, max_size=9), st.integers(1, 20), st.integers(0, 99)
)
def test_filters_do_not_change_the_pixels(kind: tuple[int, int], filters: list[int], width: int, seed: int) -> None:
    """The pixels do not depend on the rows' filters, for every colour type and depth."""
    colour, depth = kind
    rows = noise(colour, depth, width, 9, seed)
    bits = depth * CHANNELS[colour]
    packed = filtered(scanlines(rows, depth), -(-width * bits // 8), max(1, bits // 8), filters)
    palette = plte(PALETTE[: 2**depth]) if colour == INDEXED else b""
    file = png(ihdr(width, 9, depth, colour), palette, chunk(b"IDAT", zlib.compress(packed)), END)
    assert shown(file) == shown(encode(rows, colour, depth))


@settings(deadline=None, max_examples=20)
@given(
    st.sampled_from(KINDS), st.lists(st.integers(0, 4), min_size=1, max_size=9), st.integers(1, 5), st.integers(0, 99)
)
def test_pixels_do_not_depend_on_the_strips(kind: tuple[int, int], filters: list[int], high: int, seed: int) -> None:
    """A photo of many strips has the pixels of each of its parts, whose rows are decoded on their own."""
    colour, depth = kind
    rows = noise(colour, depth, 8, high, seed) * (STRIP // 8 // high + 2)
    bits = depth * CHANNELS[colour]
    stride = -(-8 * bits // 8)
    cycle = scanlines(rows[: high * len(filters)], depth)
    packed = filtered(cycle, stride, max(1, bits // 8), filters)
    # the second cycle's first row refers to the last row of the one before, so its filters are 0
    block = packed if filters[0] == 0 else b"\0" + cycle[1 : stride + 1] + packed[stride + 1 :]
    count = len(rows) // (high * len(filters))
    palette = plte(PALETTE[: 2**depth]) if colour == INDEXED else b""
    idat = chunk(b"IDAT", zlib.compress(block * count, 1))
    height = count * high * len(filters)
    photo = decode(png(ihdr(8, height, depth, colour), palette, idat, END), 2 * STRIP)
    few = decode(encode(rows[: high * len(filters)], colour, depth), 2 * STRIP)
    assert np.array_equal(photo, np.tile(few, (count, 1, 1)))


def test_a_row_is_bounded() -> None:
    """Two rows are needed at a time, so a photo may not be as wide as its number of pixels allows."""
    wide = png(ihdr(MAX_WIDTH, 1, 1, GREY), chunk(b"IDAT", zlib.compress(bytes(1 + MAX_WIDTH // 8))), END)
    assert decode(wide, MAX_WIDTH).shape == (1, MAX_WIDTH, 3)
    assert reason(png(ihdr(MAX_WIDTH + 1, 1, 1, GREY), END), 2 * MAX_WIDTH).startswith(f"Wider than {MAX_WIDTH} pixels")


@pytest.mark.parametrize(("width", "height"), [(1, 1), (1, 7), (7, 1), (2, 3), (5, 8), (9, 1)])
def test_small_interlaced_images_have_empty_passes(width: int, height: int) -> None:
    """An empty Adam7 pass takes no bytes, and the image is complete."""
    rows = noise(RGB_COLOUR, 8, width, height)
    assert shown(encode(rows, interlaced=True)) == rows


@pytest.mark.parametrize(
    ("colour", "depth", "key", "others"),
    [
        (GREY, 1, (0,), [(1,)]),
        (GREY, 1, (1,), [(0,)]),
        (GREY, 2, (1,), [(0,), (2,), (3,)]),
        (GREY, 4, (9,), [(8,), (10,), (15,)]),
        (GREY, 8, (100,), [(99,), (101,), (0,)]),
        (GREY, 16, (0x1234,), [(0x1235,), (0x1233,), (0x3412,)]),
        (RGB_COLOUR, 8, (1, 2, 3), [(1, 2, 4), (3, 2, 1), (0, 0, 0)]),
        (RGB_COLOUR, 16, (0x0102, 0x0304, 0x0506), [(0x0302, 0x0304, 0x0506), (0, 0, 0), (0x0201, 0x0403, 0x0605)]),
    ],
)
def test_the_transparent_colour_is_white(colour: int, depth: int, key: Samples, others: list[Samples]) -> None:
    """The colour that tRNS names becomes white, and similar colours do not."""
    trns = chunk(b"tRNS", struct.pack(f">{len(key)}H", *key))
    expected = [[WHITE, *(seen(samples, colour, depth) for samples in others)]]
    assert off(encode([[key, *others]], colour, depth, before=trns), expected) <= (1 if depth == 16 else 0)


@pytest.mark.parametrize("depth", [1, 2, 4, 8])
@pytest.mark.parametrize("alphas", [b"\0", b"\x80", b"\x40\xc0"])
def test_a_palette_has_alphas(depth: int, alphas: bytes) -> None:
    """The tRNS of a palette gives alpha to its first colours; the others are opaque."""
    indices = [(0,), (1,), (2**depth - 1,)]
    opacity = [*alphas, *[255] * 256]
    expected = [[seen((*PALETTE[n], opacity[n]), RGBA, 8) for (n,) in indices]]
    assert off(encode([indices], INDEXED, depth, before=chunk(b"tRNS", alphas)), expected) <= 1


@pytest.mark.parametrize("pieces", [1, 3, 100])
def test_pixels_may_come_in_pieces(pieces: int) -> None:
    """An image may have any number of IDAT chunks, including empty ones."""
    rows = noise(RGB_COLOUR, 8, 10, 10)
    packed = zlib.compress(scanlines(rows, 8))
    idats = [
        chunk(b"IDAT", packed[at : at + len(packed) // pieces + 1])
        for at in range(0, len(packed), len(packed) // pieces + 1)
    ]
    assert shown(SIGNATURE + ihdr(10, 10) + chunk(b"IDAT").join(idats) + chunk(b"IEND")) == rows


BOMB = zlib.compress(bytes(2**24))
EXTRAS = {
    "text bomb": chunk(b"zTXt", b"a\0\0" + BOMB) * 3,
    "international text bomb": chunk(b"iTXt", b"a\0\1\0\0\0" + BOMB),
    "profile bomb": chunk(b"iCCP", b"a\0\0" + BOMB),
    "broken profile": chunk(b"iCCP", b"\0\0\0\0"),
    "broken time": chunk(b"tIME", b"1"),
    "orientation": chunk(b"eXIf", b"MM\0*\0\0\0\x08\0\1\x01\x12\0\3\0\0\0\1\0\6\0\0\0\0\0\0"),
    "gamma": chunk(b"gAMA", struct.pack(">I", 1)),
    "our own": chunk(b"prVt", bytes(1000)),
    "many": chunk(b"tEXt", b"a\0b") * 1000,
}


@pytest.mark.parametrize("extra", EXTRAS.values(), ids=EXTRAS)
def test_chunks_that_make_no_pixels_are_ignored(extra: bytes) -> None:
    """Texts, profiles, times and orientation are ignored, even if they are decompression bombs."""
    rows = noise(RGB_COLOUR, 8, 3, 2)
    assert shown(encode(rows, before=extra, after=extra)) == rows


def test_an_animation_gives_its_still_image() -> None:
    """An APNG gives the image in IDAT; its frames are ignored, even those of other sizes."""
    rows, other = noise(RGB_COLOUR, 8, 4, 3), noise(RGB_COLOUR, 8, 4, 3, seed=1)
    control = struct.pack(">IIIIHHBB", 4, 3, 0, 0, 1, 10, 0, 0)
    start = chunk(b"acTL", struct.pack(">II", 2, 0)) + chunk(b"fcTL", struct.pack(">I", 0) + control)
    frame = chunk(b"fcTL", struct.pack(">I", 1) + control)
    frame += chunk(b"fdAT", struct.pack(">I", 2) + zlib.compress(scanlines(other, 8)))
    assert shown(encode(rows, before=start, after=frame)) == rows
    assert shown(encode(rows, before=chunk(b"acTL", struct.pack(">II", 1, 0)), after=frame)) == rows


def test_bytes_after_the_end_are_ignored() -> None:
    """What follows IEND is not part of the image."""
    rows = noise(RGB_COLOUR, 8, 2, 2)
    assert shown(encode(rows) + b"PK\3\4 something else") == rows


def test_a_photo_may_have_as_many_pixels_as_are_allowed() -> None:
    """The limit on pixels is inclusive."""
    assert decode(encode(noise(GREY, 1, 100, 100), GREY, 1), 10_000).shape == (100, 100, 3)


# --- what is refused

ROWS = noise(RGB_COLOUR, 8, 4, 4)
GOOD = encode(ROWS)
IDAT = chunk(b"IDAT", zlib.compress(scanlines(ROWS, 8)))
END = chunk(b"IEND")
RAW = scanlines(ROWS, 8)


def reason(data: bytes, max_pixels: int = MAX_PIXELS) -> str:
    """Why the bytes are refused."""
    with pytest.raises(ImageRejected) as refusal:
        decode(data, max_pixels)
    return str(refusal.value)


@pytest.mark.parametrize("length", range(len(SIGNATURE), len(GOOD)))
def test_a_truncated_file_is_refused(length: int) -> None:
    """A file that is truncated anywhere is refused."""
    assert "Truncated PNG image" in reason(GOOD[:length])


def test_a_damaged_bit_is_noticed() -> None:
    """A file with one changed bit anywhere is refused, by a checksum or by an earlier check."""
    for at in range(8 * len(GOOD)):
        assert reason(GOOD[: at // 8] + bytes([GOOD[at // 8] ^ 1 << at % 8]) + GOOD[at // 8 + 1 :])


@pytest.mark.parametrize("kind", ["iCCP", "iTXt", "tEXt", "zTXt", "eXIf", "pHYs", "gAMA", "acTL", "abCd"])
def test_a_wrong_checksum_without_pixels_is_ignored(kind: str) -> None:
    """A broken chunk that makes no pixels changes nothing, as in browsers."""
    broken = chunk(kind.encode(), b"Exif and other texts")[:-4] + b"\0\0\0\0"
    assert (decode_upright(GOOD[:33] + broken + GOOD[33:], MAX_PIXELS) == decode(GOOD, MAX_PIXELS)).all()


@pytest.mark.parametrize("kind", ["IHDR", "PLTE", "tRNS", "IDAT", "IEND"])
def test_a_wrong_checksum_of_pixels_is_refused(kind: str) -> None:
    """The chunks that make pixels have to be sound."""
    whole = encode([[(0,)]], INDEXED, 8, before=chunk(b"tRNS", b"\0"))
    end = whole.index(kind.encode()) + 4 + int.from_bytes(whole[whole.index(kind.encode()) - 4 :][:4])
    assert reason(whole[:end] + bytes([whole[end] ^ 1]) + whole[end + 1 :]) == "Corrupt PNG image: a checksum is wrong."


HEADER = "it does not start with a header"
BAD_TYPE = "invalid bit depth, colour type or interlacing"
BAD_SIZE = "its width or height is invalid"
BROKEN = "its pixels cannot be decompressed"
ROWS_MISSING = "rows are missing"
CORRUPT = "Corrupt PNG image."
REFUSED = {
    "nothing": (b"", "Not a PNG image."),
    "a JPEG": (b"\xff\xd8\xff\xe0" + bytes(100), "Not a PNG image."),
    "half a signature": (SIGNATURE[:7], "Not a PNG image."),
    "newlines converted": (GOOD.replace(b"\r\n", b"\n"), "Not a PNG image."),
    "pixels first": (png(IDAT, ihdr(4, 4), END), HEADER),
    "a long header": (png(chunk(b"IHDR", bytes(14)), IDAT, END), HEADER),
    "a text first": (png(chunk(b"tEXt", b"0123456789abc"), ihdr(4, 4), IDAT, END), HEADER),
    "no width": (png(ihdr(0, 4), IDAT, END), BAD_SIZE),
    "no height": (png(ihdr(4, 0), IDAT, END), BAD_SIZE),
    "a negative width": (png(ihdr(2**31, 4), IDAT, END), BAD_SIZE),
    "a negative height": (png(ihdr(4, 2**32 - 1), IDAT, END), BAD_SIZE),
    "interlacing 2": (png(ihdr(4, 4, 8, 2, 2), IDAT, END), BAD_TYPE),
    "compression 1": (png(ihdr(4, 4, 8, 2, 0, 1, 0), IDAT, END), "unknown compression or filter method"),
    "filter method 1": (png(ihdr(4, 4, 8, 2, 0, 0, 1), IDAT, END), "unknown compression or filter method"),
    "no pixels": (png(ihdr(4, 4), END), ROWS_MISSING),
    "empty pixels": (png(ihdr(4, 4), chunk(b"IDAT"), END), ROWS_MISSING),
    "one row too few": (png(ihdr(4, 5), IDAT, END), ROWS_MISSING),
    "one byte too few": (png(ihdr(4, 4), chunk(b"IDAT", zlib.compress(RAW[:-1])), END), ROWS_MISSING),
    "half the stream": (png(ihdr(4, 4), chunk(b"IDAT", zlib.compress(RAW, 0)[:30]), END), ROWS_MISSING),
    "interlaced but too short": (
        png(ihdr(4, 4, 8, 2, 1), chunk(b"IDAT", zlib.compress(bytes(len(RAW)))), END),
        ROWS_MISSING,
    ),
    "not zlib": (png(ihdr(4, 4), chunk(b"IDAT", b"these are not compressed"), END), BROKEN),
    "gzip": (png(ihdr(4, 4), chunk(b"IDAT", zlib.compress(RAW, wbits=31)), END), BROKEN),
    "a preset dictionary": (png(ihdr(4, 4), chunk(b"IDAT", b"\x78\xbb\0\0\0\0"), END), BROKEN),
    "filter 5": (png(ihdr(4, 4), chunk(b"IDAT", zlib.compress(b"\5" + RAW[1:])), END), CORRUPT),
    "filter 255 in the last row": (
        png(ihdr(4, 4), chunk(b"IDAT", zlib.compress(RAW[:-13] + b"\xff" + RAW[-12:])), END),
        CORRUPT,
    ),
    "an unknown critical chunk": (png(ihdr(4, 4), chunk(b"CgBI", b"1234"), IDAT, END), "an unknown critical chunk"),
    "no palette": (png(ihdr(4, 4, 8, INDEXED), IDAT, END), "its palette is missing"),
    "a late palette": (png(ihdr(4, 4, 8, INDEXED), IDAT, plte(PALETTE), END), "its palette comes after its pixels"),
    "a second palette": (png(ihdr(4, 4, 8, INDEXED), plte(PALETTE), plte(PALETTE), IDAT, END), "a second palette"),
    "a second tRNS": (png(ihdr(4, 4), chunk(b"tRNS", bytes(6)) * 2, IDAT, END), "a second transparency"),
    "a late tRNS": (png(ihdr(4, 4), IDAT, chunk(b"tRNS", bytes(6)), END), "its transparency comes after its pixels"),
    "a long palette": (png(ihdr(4, 4, 8, INDEXED), plte(PALETTE + PALETTE), IDAT, END), CORRUPT),
    "a long tRNS": (png(ihdr(4, 4, 8, INDEXED), plte(PALETTE), chunk(b"tRNS", bytes(257)), IDAT, END), CORRUPT),
    "an empty tRNS": (png(ihdr(4, 4), chunk(b"tRNS"), IDAT, END), CORRUPT),
    "a second header": (png(ihdr(4, 4), ihdr(4, 4), IDAT, END), "a second header"),
    "a header in the end": (png(ihdr(4, 4), IDAT, ihdr(4, 4), END), "a second header"),
    "a chunk of 4 GB": (png(ihdr(4, 4), b"\xff\xff\xff\xffIDAT", bytes(100)), "Truncated PNG image."),
    "too many chunks": (png(ihdr(4, 4), IDAT, chunk(b"tEXt") * MAX_SEGMENTS, END), f"More than {MAX_SEGMENTS} chunks."),
    "too many bytes": (GOOD + bytes(MAX_BYTES + 1 - len(GOOD)), f"Larger than {MAX_BYTES} bytes."),
}


@pytest.mark.parametrize(("data", "why"), REFUSED.values(), ids=REFUSED)
def test_a_bad_file_is_refused_with_the_reason(data: bytes, why: str) -> None:
    """Each broken rule of the format has its own message."""
    assert why in reason(data)


@pytest.mark.parametrize(
    ("colour", "depth"), [(c, d) for c in range(8) for d in (0, 1, 2, 3, 4, 8, 16, 32, 255) if (c, d) not in KINDS]
)
def test_other_colour_types_and_depths_are_refused(colour: int, depth: int) -> None:
    """Only the combinations of colour type and depth that the format lists are accepted."""
    assert BAD_TYPE in reason(png(ihdr(4, 4, depth, colour), IDAT, END))


@pytest.mark.parametrize("sides", [(101, 100), (1, 10_001), (2**31 - 1, 2**31 - 1), (2**31 - 1, 1)])
def test_too_many_pixels_are_refused_before_anything_is_decoded(sides: tuple[int, int]) -> None:
    """The size in the header is checked before any other chunk."""
    assert reason(png(ihdr(*sides), b"not chunks")) == f"More than {MAX_PIXELS} pixels: {sides[0]} x {sides[1]}."


def test_a_second_header_cannot_bring_more_pixels() -> None:
    """The limit on pixels applies to the decoded image, not only to the first header."""
    packed = chunk(b"IDAT", zlib.compress(bytes(200 * 26)))
    assert "a second header" in reason(png(ihdr(2, 2, 1, GREY), ihdr(200, 200, 1, GREY), packed, END))


def test_the_callers_limit_on_pixels_is_the_only_one() -> None:
    """A limit of 200 million pixels is not lowered by a decoder's own limit: the file is refused for its bad filter."""
    side = 13_500
    packed = zlib.compress(b"\xff" * side * (1 + (side + 7) // 8))
    assert reason(png(ihdr(side, side, 1, GREY), chunk(b"IDAT", packed), END), 200_000_000) == CORRUPT


def test_pillows_limit_on_pixels_refuses_a_photo(monkeypatch: pytest.MonkeyPatch) -> None:
    """A program that has not called `configure` gets ImageRejected for a photo above Pillow's own limit."""
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 4)
    assert reason(encode(noise(GREY, 1, 3, 3), GREY, 1)) == CORRUPT
    with pytest.raises(ImageRejected):
        decode_upright(file_of(Image.new("RGB", (3, 3)), "JPEG"), MAX_PIXELS)


def test_an_import_changes_no_global_setting() -> None:
    """Importing the decoders does not change Pillow's limit on pixels or the warning filters."""
    code = "import numpy, warnings; from PIL import Image; before = Image.MAX_IMAGE_PIXELS, warnings.filters[:]\n"
    code += "import augu_api.photos; assert (Image.MAX_IMAGE_PIXELS, warnings.filters[:]) == before"
    subprocess.run([sys.executable, "-c", code], check=True)


def test_the_command_line_takes_large_photos(tmp_path: Path) -> None:
    """`augu-api detect` accepts AUGU_MAX_PIXELS pixels without a warning."""
    (tmp_path / "large.png").write_bytes(black(9_500))
    command = [str(BIN / "augu-api"), "detect", str(tmp_path / "large.png")]
    env = os.environ | {"AUGU_DATA_DIR": str(tmp_path / "data"), "AUGU_MAX_PIXELS": "100000000"}
    done = subprocess.run(command, env=env, capture_output=True, text=True, check=True)
    assert done.stderr == ""


# --- random and mutated files


def accepted_or_refused(data: bytes) -> None:
    """Any bytes give an image of the header's size or ImageRejected."""
    with suppress(ImageRejected):
        photo = decode(data, MAX_PIXELS)
        assert (photo.shape[1::-1], photo.shape[2:]) == (struct.unpack_from(">II", data, 16), (3,))


@given(st.binary(max_size=200), st.booleans())
def test_arbitrary_bytes_are_accepted_or_refused(data: bytes, signed: bool) -> None:
    """Any bytes give an image of the header's size or ImageRejected, and nothing else."""
    accepted_or_refused(SIGNATURE + data if signed else data)


def chunks_of(data: bytes) -> Iterator[tuple[bytes, bytes]]:
    at = len(SIGNATURE)
    while at < len(data):
        (length,) = struct.unpack_from(">I", data, at)
        yield data[at + 4 : at + 8], data[at + 8 : at + 8 + length]
        at += 12 + length


KNOWN = [b"IHDR", b"PLTE", b"tRNS", b"IDAT", b"IEND", b"fcTL", b"fdAT", b"acTL", b"gAMA", b"cHRM", b"sRGB", b"pHYs"]


@st.composite
def mutated(draw: st.DrawFn) -> bytes:
    """A PNG with some chunks changed, doubled, dropped or swapped, all with valid checksums."""
    colour, depth = draw(st.sampled_from(KINDS))
    width, height = draw(st.integers(1, 9)), draw(st.integers(1, 9))
    trns = chunk(b"tRNS", draw(st.binary(max_size=8))) if draw(st.booleans()) else b""
    whole = encode(noise(colour, depth, width, height), colour, depth, draw(st.booleans()), before=trns)
    parts = list(chunks_of(whole))
    for _ in range(draw(st.integers(1, 4))):
        at = draw(st.integers(0, len(parts) - 1))
        kind, body = parts[at]
        change = draw(st.sampled_from(["byte", "cut", "drop", "double", "swap", "kind", "new", "pixels"]))
        if change == "byte" and body:
            where = draw(st.integers(0, len(body) - 1))
            parts[at] = kind, body[:where] + draw(st.binary(min_size=1, max_size=1)) + body[where + 1 :]
        elif change == "cut":
            parts[at] = kind, body[: draw(st.integers(0, len(body)))]
        elif change == "drop" and len(parts) > 1:
            del parts[at]
        elif change == "double":
            parts.insert(at, parts[at])
        elif change == "swap":
            parts.append(parts.pop(at))
        elif change == "kind":
            parts[at] = draw(st.sampled_from(KNOWN)), body
        elif change == "new":
            parts.insert(at, (draw(st.sampled_from(KNOWN)), draw(st.binary(max_size=30))))
        elif change == "pixels":
            parts.insert(at, (b"IDAT", zlib.compress(draw(st.binary(max_size=200)))))
    return png(*(chunk(kind, body) for kind, body in parts))


@settings(max_examples=500, deadline=None)
@given(mutated())
def test_mutated_files_are_accepted_or_refused(data: bytes) -> None:
    """A PNG with wrong chunks but valid checksums gives an image of the header's size or ImageRejected."""
    accepted_or_refused(data)
