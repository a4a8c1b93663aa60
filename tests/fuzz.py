"""Fuzz the reading of request bodies with atheris (libFuzzer): `make fuzz ARGS="-max_total_time=3600 corpus"`.

It starts with the seeds of tests/test_fuzz.py. A finding is written as crash-… to the current folder.
"""

import random
import struct
import sys
import tempfile
import zlib
from contextlib import suppress

import atheris

with atheris.instrument_imports(include=["augu_api", "werkzeug", "PIL"]):
    from augu_api.photos.png import SIGNATURE
    from tests.fuzz_target import SEEDS, application, look_at

HEADER = struct.Struct(">I4s")


def mutated(data: bytes, max_size: int, seed: int) -> bytes:
    """A mutated input; most mutations of a PNG change its content and keep lengths, checksums and compression valid."""
    dice = random.Random(seed)
    if data[1:9] != SIGNATURE or dice.random() < 0.2:
        return bytes(atheris.Mutate(data, max_size))
    chunks = _chunks(data[9:])
    if not chunks:
        return bytes(atheris.Mutate(data, max_size))
    at = dice.randrange(len(chunks))
    kind, body = chunks[at]
    action = dice.random()
    if action < 0.1:
        chunks.insert(dice.randrange(len(chunks) + 1), chunks[at])
    elif action < 0.2:
        del chunks[at]
    elif kind == b"IDAT" and action < 0.7:
        with suppress(zlib.error):
            body = zlib.decompress(body)
        chunks[at] = kind, zlib.compress(atheris.Mutate(body or b"\0", 1 << 16))
    else:
        chunks[at] = kind, atheris.Mutate(body or b"\0", 1 << 16)
    whole = [HEADER.pack(len(body), kind) + body + struct.pack(">I", zlib.crc32(kind + body)) for kind, body in chunks]
    return (data[:9] + b"".join(whole))[:max_size]


def _chunks(data: bytes) -> list[tuple[bytes, bytes]]:
    chunks, at = [], 0
    while at + 12 <= len(data):
        length, kind = HEADER.unpack_from(data, at)
        chunks.append((kind, data[at + 8 : at + 8 + length]))
        at += 12 + length
    return chunks


def main() -> None:
    """Fuzz for as long as the arguments say, starting with the seeds."""
    app = application()
    options = ["-timeout=10", "-rss_limit_mb=1500", "-max_len=20000", "-print_final_stats=1"]
    with tempfile.TemporaryDirectory() as folder:
        corpus = [*(argument for argument in sys.argv[1:] if not argument.startswith("-")), folder, str(SEEDS)]
        flags = [argument for argument in sys.argv[1:] if argument.startswith("-")]
        atheris.Setup([sys.argv[0], *options, *flags, *corpus], lambda data: look_at(app, data), custom_mutator=mutated)
        atheris.Fuzz()


if __name__ == "__main__":
    main()
