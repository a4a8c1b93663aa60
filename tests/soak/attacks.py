"""What one user, or one address without a token, can do to the others: attacks from a process of low priority.

All come from ATTACKER, an address of this machine. A connection that ends is opened again.
"""

import asyncio
import base64
import os
import random
import socket
import time
import zlib
from collections import Counter
from collections.abc import Awaitable, Callable
from contextlib import suppress
from functools import cache
from typing import NamedTuple

from tests.helpers import DETECTION, LOOPBACK, OBJECTS, picture, png_of
from tests.hostile import MB, get, post
from tests.png_encoder import RGBA, chunk, ihdr, png

ATTACKER = "127.0.0.2"
BOTH = DIRECT, FRONTED = "direct", "behind nginx"
ORDINARY = 0.8  # a new user's coefficient: 48 requests a minute
AMPLE = 1000.0
REFUSED = {403, 429, 503}
SMALL_BUFFER = 4096
WRONG_TOKEN = "x"


class Target(NamedTuple):
    """Where the connections go, until when (Unix time), and the requests, of which each connection sends one."""

    port: int
    until: float
    requests: tuple[bytes, ...]


Seen = Counter[int | str]


class Connection:
    """A connection of an attacker; `seen` counts the replies by status."""

    def __init__(self, number: int, target: Target, seen: Seen) -> None:
        self.number, self.port, self.seen = number, target.port, seen
        self.request = target.requests[number % len(target.requests)]
        self.reader: asyncio.StreamReader
        self.writer: asyncio.StreamWriter

    async def open(self, buffer: int = 0) -> None:
        """Connect, with a receive buffer of that many bytes if it is given."""
        client = socket.socket()
        client.setblocking(False)
        if buffer:
            client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, buffer)
        try:
            client.bind((ATTACKER, 0))
            await asyncio.get_running_loop().sock_connect(client, (LOOPBACK, self.port))
            self.reader, self.writer = await asyncio.open_connection(sock=client, limit=buffer or MB)
        except OSError:
            client.close()
            raise
        self.seen["connections"] += 1

    async def send(self, request: bytes) -> None:
        self.writer.write(request)
        await self.writer.drain()

    async def reply(self) -> int:
        """Read a reply to its end; its status."""
        head = await self.reader.readuntil(b"\r\n\r\n")
        status = int(head.split()[1])
        left = int(head.lower().partition(b"content-length:")[2].split()[0])
        while left:
            read = await self.reader.read(left)
            if not read:
                raise ConnectionResetError
            left -= len(read)
        self.seen[status] += 1
        return status

    async def call_again_and_again(self) -> None:
        """Send the request again as soon as it is answered, or a little after a refusal."""
        await self.open()
        while True:
            await self.send(self.request)
            if await self.reply() in REFUSED:
                await asyncio.sleep(0.05)

    async def send_slowly(self) -> None:
        """Send the body at a byte a second, or, every other connection, at 10 KB a minute."""
        await self.open()
        head, _, body = self.request.partition(b"\r\n\r\n")
        await self.send(head + b"\r\n\r\n")
        step = 1 if self.number % 2 else 170
        for at in range(0, len(body), step):
            await self.send(body[at : at + step])
            await asyncio.sleep(1)
        await self.reply()

    async def send_in_part(self) -> None:
        """Send the head and the start of the body, then wait to be disconnected."""
        await self._send_only(self.request[: self.request.index(b"\r\n\r\n") + 1000])

    async def stay_silent(self) -> None:
        """Wait to be disconnected: 5 of 6 connections send nothing, the others a part of a head or of a body."""
        request = self.request
        if self.number % 2:
            request = without_token(request)
        part = 0 if self.number % 6 > 1 else 50 if self.number % 12 > 5 else request.index(b"\r\n\r\n") + 1000
        await self._send_only(request[:part])

    async def _send_only(self, part: bytes) -> None:
        await self.open()
        await self.send(part)
        await self.reader.read()

    async def read_slowly(self) -> None:
        """Read the reply at 1 KB a second."""
        await self.open(SMALL_BUFFER)
        await self.send(self.request)
        while True:
            if not await self.reader.read(1024):
                return
            await asyncio.sleep(1)

    def close(self) -> None:
        if hasattr(self, "writer"):
            self.writer.transport.abort()


Act = Callable[[Connection], Awaitable[None]]


class Attack(NamedTuple):
    """Connections that send the request of a token; `act` is what each does."""

    connections: int
    act: Act
    request: Callable[[str], bytes]
    coefficient: float = AMPLE
    ways: tuple[str, ...] = BOTH
    busy: bool = False
    """Whether the others' calls follow each other without pauses, so that their rate can be compared."""


def attack(connections: int, act: Act, target: Target) -> Seen:
    """Run an attack until it is over; what its connections have seen."""
    os.setpriority(os.PRIO_PROCESS, 0, 5)
    return asyncio.run(_attack(connections, act, target))


async def _attack(connections: int, act: Act, target: Target) -> Seen:
    seen: Seen = Counter()

    async def again(number: int) -> None:
        while time.time() < target.until:
            connection = Connection(number, target, seen)
            with suppress(OSError, asyncio.IncompleteReadError):  # TimeoutError is an OSError
                async with asyncio.timeout(target.until - time.time()):
                    await act(connection)
            connection.close()
            await asyncio.sleep(0.1)

    await asyncio.gather(*(again(number) for number in range(connections)))
    return seen


# --- the requests


def without_token(request: bytes) -> bytes:
    """The request without its Authorization header."""
    before, _, rest = request.partition(b"Authorization:")
    return before + rest.partition(b"\r\n")[2]


def photo_of(body: bytes, token: str, **headers: str) -> bytes:
    return post(body, {"Authorization": f"Bearer {token}", "Content-Type": "image/png", **headers})


@cache
def deep_photo() -> bytes:
    """A 25-megapixel PNG of 16-bit RGBA in 1.5 MB: each row has some noise, and Paeth's filter."""
    packing, dice, packed = zlib.compressobj(1), random.Random(1), bytearray()
    for _ in range(5000):
        packed += packing.compress(b"\4" + dice.randbytes(220) + bytes(5000 * 8 - 220))
    packed += packing.flush()
    return png(ihdr(5000, 5000, 16, RGBA), chunk(b"IDAT", bytes(packed)), chunk(b"IEND"))


@cache
def plain_photo() -> bytes:
    """A 24-megapixel PNG of RGBA in some 100 KB."""
    rows = (b"\0" + b"\x10\x20\x30\x80" * 4900) * 4900
    return png(ihdr(4900, 4900, 8, RGBA), chunk(b"IDAT", zlib.compress(rows, 9)), chunk(b"IEND"))


def small_photo(token: str) -> bytes:
    """A photo whose body is 120 KB."""
    body = base64.b64encode(png_of(picture("chelsea").resize((270, 180)))).ljust(120_000)
    return photo_of(body, token).replace(b"image/png", b"text/plain")


def large_reply(token: str) -> bytes:
    """A request whose reply is a picture of a few MB."""
    return photo_of(png_of(picture("astronaut").resize((1400, 1400))), token, Accept="image/png")


def brackets(token: str) -> bytes:
    """8 MB of small arrays in JSON."""
    body = b"[" + b"[[]]," * ((8 * MB - 10) // 5) + b"1]"
    return post(body, {"Authorization": f"Bearer {token}", "Content-Type": "application/json"})


def parameters(_: str) -> bytes:
    """A form without a token, whose 8 parts have 11,000 parameters each."""
    part = b'--b\r\nContent-Disposition: form-data; name="a"' + b"; a=b" * 11_000 + b"\r\n\r\n1\r\n"
    return post(part * 8 + b"--b--\r\n", {"Content-Type": "multipart/form-data; boundary=b"}, DETECTION)


def upload(token: str, size: int = 6_200_000) -> bytes:
    return post(b"A" * size, {"Authorization": f"Bearer {token}", "Content-Type": "text/plain"}, OBJECTS)


ATTACKS = {
    "24 connections of one user send slowly": Attack(24, Connection.send_slowly, upload, ORDINARY),
    "18 connections of one user read slowly": Attack(18, Connection.read_slowly, large_reply),
    "18 connections of one user want 25 megapixels drawn": Attack(
        18, Connection.call_again_and_again, lambda token: photo_of(deep_photo(), token, Accept="image/png")
    ),
    "6 connections of one user send 24 megapixels with transparency": Attack(
        6, Connection.call_again_and_again, lambda token: photo_of(plain_photo(), token)
    ),
    "12 connections of one user send 8 MB of brackets": Attack(12, Connection.call_again_and_again, brackets),
    "30 connections of one user send small photos": Attack(30, Connection.call_again_and_again, small_photo),
    "8 callers without a token send parts with 11,000 parameters": Attack(
        8, Connection.call_again_and_again, parameters
    ),
    "2 callers upload 6.2 MB with a wrong token": Attack(
        2, Connection.call_again_and_again, lambda _: upload(WRONG_TOKEN), busy=True
    ),
    "200 callers without a valid token read /docs": Attack(
        200, Connection.call_again_and_again, lambda _: get("/docs", Authorization="x")
    ),
    "1,000 idle connections and 200 that send a part": Attack(1200, Connection.stay_silent, upload, ways=(DIRECT,)),
    "2,100 connections without a token send a part": Attack(
        2100, Connection.send_in_part, lambda _: without_token(upload(WRONG_TOKEN)), ways=(FRONTED,)
    ),
}
