"""The code in README.md and in examples/, run against a real gunicorn."""

import asyncio
import json
import os
import shutil
import socket
import subprocess
import sys
import uuid
from collections.abc import Callable, Iterator
from io import BytesIO
from pathlib import Path
from ssl import PROTOCOL_TLS_CLIENT, PROTOCOL_TLS_SERVER, SSLContext
from typing import Any

import aiohttp
import pytest
import trustme
from aiohttp import web
from aiohttp.abc import AbstractResolver, ResolveResult
from PIL import Image

from augu_api.client import Client
from augu_api.config import ROOT
from examples.discord_bot import MAX_SIDE, make_bot
from tests.canned import HTML, TOKEN, canned, envelope, http
from tests.helpers import free_port, missing, png_of
from tests.readme import BLOCK
from tests.servers import Server, add, serving

STREET = ROOT / "examples" / "street.png"
FOUND = {"stop sign": "100.0", "traffic light": "96.75"}
SECTION = (ROOT / "README.md").read_text().partition("## From your program\n")[2].partition("\n#")[0]
BLOCKS = [block for _, block in BLOCK.findall(SECTION)]


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """One server with the bundled model for the tests of this file."""
    with serving(tmp_path_factory.mktemp("examples")) as start:
        yield start(WEB_CONCURRENCY="1")


@pytest.fixture
def api(server: Server) -> Client:
    """A client of the server, as a new user."""
    return Client(server.url, add(server, uuid.uuid4().hex))


def run(api: Client, *command: str, **env: str) -> subprocess.CompletedProcess[str]:
    """Run a program with the address and the token in its environment."""
    for program in ("curl", "jq", "node"):
        if shutil.which(program) is None:
            missing(program)
    environ = os.environ | {"AUGU_URL": api.url, "AUGU_TOKEN": api.token} | env
    return subprocess.run(command, cwd=ROOT, env=environ, capture_output=True, text=True, check=False, timeout=120)


def test_readme(api: Client) -> None:
    """The Python code and the commands in README.md print the objects of the street."""
    python, commands = BLOCKS
    shown = [run(api, sys.executable, "-c", python)]
    shown += [run(api, *command.split("#")[0].split()) for command in commands.splitlines()]
    assert len(shown) == 3
    for done in shown:
        assert (done.returncode, done.stderr) == (0, "")
        lines = done.stdout.splitlines()
        assert [line.startswith(f"{name} {score} ") for line, (name, score) in zip(lines, FOUND.items(), strict=True)]


SCRIPTS = [("bash", "examples/objects.sh"), ("node", "examples/objects.mjs")]


def test_a_script_that_is_refused(api: Client) -> None:
    """A script whose call fails says why, and exits with an error."""
    for script in SCRIPTS:
        done = run(api, *script, str(STREET), AUGU_TOKEN="wrong")
        assert done.returncode != 0
        assert "You are not authorized." in done.stdout + done.stderr
        done = run(api, *script, "README.md")
        assert done.returncode != 0
        assert "Invalid request body." in done.stdout + done.stderr


BUSY = http(503, envelope(503, '"error":"Service Unavailable","message":"Busy."'), "Retry-After: 1")
CAT = http(
    200,
    envelope(200, '"error":null,"data":{"objects":[{"name":"cat","score":9,"x":1,"y":2,"width":3,"height":4}]}'),
)


@pytest.mark.parametrize("script", SCRIPTS, ids=[program for program, _ in SCRIPTS])
def test_a_script_that_waits(script: tuple[str, str]) -> None:
    """A script that gets a Retry-After of one second retries with the same photo and token."""
    with canned(BUSY, CAT) as server:
        done = run(Client(server.url, TOKEN), *script, str(STREET))
    assert done.returncode == 0
    assert done.stdout.splitlines()[-1] == "cat 9 1 2 3 4"
    first, second = server.seen
    assert first == second
    assert f"authorization: bearer {TOKEN}".encode() in first.lower()
    assert f"content-length: {STREET.stat().st_size}".encode() in first.lower()


def test_the_shell_without_jq(api: Client, tmp_path: Path) -> None:
    """Without jq the reply is printed as it is."""
    for program in ("bash", "cat", "curl"):
        (tmp_path / program).symlink_to(str(shutil.which(program)))
    done = run(api, "bash", "examples/objects.sh", str(STREET), PATH=str(tmp_path))
    assert [item["name"] for item in json.loads(done.stdout)["data"]["objects"]] == list(FOUND)


# --- Discord

Posted = dict[str, Any]
USER = {"id": "1", "username": "augu", "discriminator": "0", "avatar": None, "bot": True}
PERSON = {"id": "4", "username": "alice", "discriminator": "0", "avatar": None}
APPLICATION = {
    "id": "1", "name": "augu", "description": "", "icon": None, "bot_public": True, "bot_require_code_grant": False,
    "verify_key": "", "flags": 0, "owner": PERSON,
}  # fmt: skip
GUILD = {
    "id": "2", "name": "streets", "owner_id": "4", "roles": [], "emojis": [], "features": [], "members": [],
    "channels": [{"id": "3", "type": 0, "name": "photos", "position": 0, "permission_overwrites": []}],
}  # fmt: skip


def message(content: str, attachments: list[dict[str, Any]], id: int = 5) -> dict[str, Any]:
    """A message of a person in the guild, as Discord's gateway sends it."""
    return {
        "id": str(id), "channel_id": "3", "guild_id": "2", "type": 0, "content": content, "attachments": attachments,
        "author": PERSON,
        "member": {"roles": [], "joined_at": "2026-01-01T00:00:00+00:00", "deaf": False, "mute": False, "flags": 0},
        "timestamp": "2026-01-01T00:00:00+00:00", "edited_timestamp": None, "tts": False, "pinned": False,
        "mention_everyone": False, "mentions": [], "mention_roles": [], "embeds": [],
    }  # fmt: skip


def as_discord(data: Any) -> web.Response:
    """JSON with the content type that discord.py expects, without a charset."""
    return web.Response(body=json.dumps(data).encode(), content_type="application/json")


class Discord:
    """Discord as a bot sees it: its HTTP API, the events of its gateway, and the files that people post."""

    def __init__(self, content: str, file: bytes | None) -> None:
        url = "https://cdn.discordapp.com/attachments/photo"
        attachment = {"id": "6", "filename": "photo", "size": len(file or b""), "url": url, "proxy_url": url}
        self.message, self.file = message(content, [] if file is None else [attachment]), file
        self.posted: asyncio.Queue[Posted] = asyncio.Queue()

    def app(self) -> web.Application:
        app = web.Application()
        app.add_routes(
            [
                web.get("/api/v10/users/@me", self.answer(USER)),
                web.get("/api/v10/oauth2/applications/@me", self.answer(APPLICATION)),
                web.get("/attachments/photo", self.photo),
                web.post("/api/v10/channels/3/messages", self.post),
                web.get("/", self.gateway),
            ]
        )
        return app

    def answer(self, data: Any) -> Callable[[web.Request], Any]:
        async def handle(request: web.Request) -> web.Response:
            assert request.headers["Authorization"] == "Bot the bot's token"
            return as_discord(data)

        return handle

    async def photo(self, _: web.Request) -> web.Response:
        return web.Response(body=self.file)

    async def gateway(self, request: web.Request) -> web.WebSocketResponse:
        """Say hello, let the bot identify itself, and send it its guild and the message."""
        connection = web.WebSocketResponse()
        await connection.prepare(request)
        await connection.send_json({"op": 10, "d": {"heartbeat_interval": 40_000}})
        while (said := await connection.receive_json())["op"] != 2:  # a heartbeat may come first
            pass
        identity = said["d"]
        assert identity["token"] == "the bot's token"
        assert identity["intents"] & 1 << 15, "without this Discord sends no contents"
        url = "wss://gateway.discord.gg/"
        ready = {"v": 10, "user": USER, "session_id": "7", "guilds": [], "application": {"id": "1", "flags": 0}}
        events = {"READY": ready | {"resume_gateway_url": url}, "GUILD_CREATE": GUILD, "MESSAGE_CREATE": self.message}
        for number, (name, data) in enumerate(events.items()):
            await connection.send_json({"op": 0, "s": number, "t": name, "d": data})
        async for _ in connection:  # heartbeats, until the bot leaves
            pass
        return connection

    async def post(self, request: web.Request) -> web.Response:
        """Take the bot's message, with its file if it has one."""
        if request.content_type == "application/json":
            said, file = await request.json(), None
        else:
            form = await request.post()
            part = form["files[0]"]
            assert isinstance(part, web.FileField)
            said, file = json.loads(str(form["payload_json"])), part.file.read()
        assert str(said["message_reference"]["message_id"]) == self.message["id"]
        self.posted.put_nowait({"content": said.get("content"), "file": file})
        return as_discord(message("", [], 8))


class Everywhere(AbstractResolver):
    """Resolves every host to one local port."""

    def __init__(self, port: int) -> None:
        self.port = port

    async def resolve(self, host: str, port: int = 0, family: int = socket.AF_INET) -> list[ResolveResult]:
        return [ResolveResult(hostname=host, host="127.0.0.1", port=self.port, family=socket.AF_INET, proto=0, flags=0)]

    async def close(self) -> None:
        pass


def reply_to(content: str, file: bytes | None, api: Client) -> Posted:
    """The reply of the bot, logged in to a local Discord, to a message with a file."""
    authority, ours, theirs = trustme.CA(), SSLContext(PROTOCOL_TLS_SERVER), SSLContext(PROTOCOL_TLS_CLIENT)
    authority.issue_cert("discord.com", "gateway.discord.gg", "cdn.discordapp.com").configure_cert(ours)
    authority.configure_trust(theirs)

    async def converse() -> Posted:
        discord, port = Discord(content, file), free_port()
        runner = web.AppRunner(discord.app())
        await runner.setup()
        await web.TCPSite(runner, "127.0.0.1", port, ssl_context=ours).start()
        bot = make_bot(api, connector=aiohttp.TCPConnector(resolver=Everywhere(port), ssl=theirs))
        running = asyncio.create_task(bot.start("the bot's token"))
        posted = asyncio.create_task(discord.posted.get())
        try:
            await asyncio.wait((running, posted), timeout=60, return_when=asyncio.FIRST_COMPLETED)
            assert posted.done(), running
            return posted.result()
        finally:
            await bot.close()
            await running
            await runner.cleanup()

    return asyncio.run(converse())


def jpeg_of(image: Image.Image, **options: Any) -> bytes:
    file = BytesIO()
    image.save(file, "JPEG", **options)
    return file.getvalue()


def test_the_bot_finds_objects(api: Client) -> None:
    """The reply to `!objects` is the annotated photo, the reply to `!objects names` is text."""
    street = STREET.read_bytes()
    assert reply_to("!objects", street, api) == {"content": None, "file": api.annotated(street)}
    assert reply_to("!objects names", street, api)["content"] == "stop sign (100 %), traffic light (97 %)"
    assert (
        reply_to("!objects names", png_of(Image.new("RGB", (64, 64))), api)["content"] == "I found nothing that I know."
    )


def test_the_bot_takes_photos_of_phones(api: Client) -> None:
    """A large JPEG that must be rotated is shown upright, and small enough for the service."""
    with Image.open(STREET) as street:
        lying = street.convert("RGB").resize((4000, 3000)).transpose(Image.Transpose.ROTATE_90)
    exif = Image.Exif()
    exif[0x0112] = 6  # turn it clockwise to see it
    file = reply_to("!objects", jpeg_of(lying, exif=exif), api)["file"]
    with Image.open(BytesIO(file)) as picture:
        assert picture.size == (MAX_SIDE, MAX_SIDE * 3 // 4)
    assert "stop sign" in reply_to("!objects names", jpeg_of(lying, exif=exif), api)["content"]


@pytest.mark.parametrize("file", [b"", b"MZ", b"GIF89a" + bytes(99), png_of(Image.new("1", (8000, 8000)))])
def test_the_bot_refuses_other_files(file: bytes) -> None:
    """A file that is not a photo, or has too many pixels, is not decoded."""
    api = Client(f"http://127.0.0.1:{free_port()}", TOKEN)
    assert reply_to("!objects", file, api)["content"] == "I cannot open this photo."


def test_the_bot_says_what_is_wrong(png: bytes) -> None:
    """The bot says that there is no photo, or that the service does not answer, but not the service's address."""
    api = Client(f"http://127.0.0.1:{free_port()}", TOKEN)
    assert reply_to("!objects", None, api)["content"] == "Attach a photo."
    assert reply_to("!objects", png, api)["content"] == "That did not work: No reply."
    with canned(http(502, HTML)) as server:
        assert (
            reply_to("!objects names", png, Client(server.url, TOKEN))["content"] == "That did not work: Bad Gateway."
        )
