"""The code in README.md and in examples/, run against a real gunicorn."""

import asyncio
import json
import os
import re
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
from examples.discord_bot import MAX_BYTES, make_bot
from tests.canned import HTML, TOKEN, canned, envelope, http
from tests.helpers import file_of, free_port, missing, png_of
from tests.readme import BLOCK
from tests.servers import Server, add, serving

STREET = ROOT / "examples" / "street.png"
CLIENTS = ROOT / "docs" / "clients.md"
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


@pytest.fixture(scope="module")
def phone() -> bytes:
    """The street as a phone stores it: a JPEG of 12 megapixels that lies on its side."""
    with Image.open(STREET) as street:
        lying = street.convert("RGB").resize((4000, 3000)).transpose(Image.Transpose.ROTATE_90)
    exif = Image.Exif()
    exif[0x0112] = 6  # turn it clockwise to see it
    return file_of(lying, "JPEG", exif=exif)


def test_a_photo_of_a_phone(api: Client, phone: bytes) -> None:
    """The objects in a photo that is turned and made smaller are those of the same photo as it is, with its boxes."""
    with Image.open(STREET) as street:
        wider, higher = 4000 / street.width, 3000 / street.height
    expected, found = api.objects(STREET).objects, api.objects(phone).objects
    assert [item.name for item in found] == [item.name for item in expected] == list(FOUND)
    for item, small in zip(found, expected, strict=True):
        assert item.score == pytest.approx(small.score, abs=3)
        box = (small.x * wider, small.y * higher, small.width * wider, small.height * higher)
        assert (item.x, item.y, item.width, item.height) == pytest.approx(box, abs=30)
    with Image.open(BytesIO(api.annotated(phone))) as picture:
        assert picture.width * 3 == pytest.approx(picture.height * 4, rel=0.01)


SCRIPTS = [("bash", "examples/objects.sh"), ("node", "examples/client.mjs")]


def fails(api: Client, *command: str, **env: str) -> str:
    """The one line with which a program fails."""
    done = run(api, *command, **env)
    assert done.returncode == 1
    assert done.stdout == ""
    (line,) = done.stderr.splitlines()
    return line


@pytest.mark.parametrize("script", SCRIPTS, ids=[program for program, _ in SCRIPTS])
def test_a_script_that_is_refused(api: Client, script: tuple[str, str], tmp_path: Path) -> None:
    """A script whose call fails says why in one line, with the details, and exits with an error."""
    assert fails(api, *script, str(STREET), AUGU_TOKEN="wrong").startswith("401 Unauthorized: You are not authorized.")
    (tmp_path / "half.png").write_bytes(STREET.read_bytes()[:-20])
    refusal = fails(api, *script, str(tmp_path / "half.png"))
    assert refusal.startswith("400 Bad request: Invalid request body. data: Truncated PNG image.")
    with canned(http(404, HTML)) as server:
        assert "404" in fails(Client(server.url, TOKEN), *script, str(STREET))


@pytest.mark.parametrize("script", SCRIPTS, ids=[program for program, _ in SCRIPTS])
def test_a_script_that_misses_something(script: tuple[str, str]) -> None:
    """A script says in one line which setting or file is missing, and sends nothing."""
    with canned(http(500, b"")) as server:
        api = Client(server.url, TOKEN)
        assert fails(api, *script, str(STREET), AUGU_URL="").startswith("Set AUGU_URL to ")
        assert fails(api, *script, str(STREET), AUGU_TOKEN="").startswith("Set AUGU_TOKEN to ")
        assert fails(api, *script).startswith("Usage: ")
        assert "none.png" in fails(api, *script, "none.png")
        assert fails(api, *script, "examples")
        assert server.seen == []


def test_the_bot_misses_something(api: Client) -> None:
    """The bot says in one line which settings are missing or cannot be used."""
    bot = (sys.executable, "-m", "examples.discord_bot")
    line = fails(api, *bot, AUGU_TOKEN="", DISCORD_TOKEN="")
    assert line.startswith("Set AUGU_TOKEN to the token for the service, DISCORD_TOKEN to ")
    assert fails(api, *bot, AUGU_URL="localhost", DISCORD_TOKEN="d").startswith("The url must look like ")


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
    for program in ("bash", "cat", "curl", "head", "mktemp", "rm"):
        (tmp_path / program).symlink_to(str(shutil.which(program)))
    done = run(api, "bash", "examples/objects.sh", str(STREET), PATH=str(tmp_path))
    assert [item["name"] for item in json.loads(done.stdout)["data"]["objects"]] == list(FOUND)
    done = run(api, "bash", "examples/objects.sh", "README.md", PATH=str(tmp_path))
    assert done.returncode == 1
    assert done.stderr.startswith('400 {"statusCode":400,')


# --- the client for Node

SET_UP = """
import { readFile } from "node:fs/promises";
import { pathToFileURL } from "node:url";
import { CallFailed, Client, InvalidPhoto } from "./examples/client.mjs";
const slept = [];
const client = new Client(process.env.AUGU_URL, process.env.AUGU_TOKEN, {
  sleep: async (seconds) => slept.push(seconds), ...JSON.parse(process.env.OPTIONS ?? "{}"),
});
const png = await readFile("examples/street.png");
const failure = (call) => call.then(() => null, ({ name, message, status, error, reason, details, retryAfter }) =>
  ({ name, message, status, error, reason, details, retryAfter }));
"""


def node(api: Client, code: str, **options: int) -> Any:
    """What a program with the client returns."""
    program = f"{SET_UP}const run = async () => {{ {code} }};\nconsole.log(JSON.stringify(await run()));"
    done = run(api, "node", "--input-type=module", "--eval", program, OPTIONS=json.dumps(options))
    assert (done.returncode, done.stderr) == (0, "")
    return json.loads(done.stdout)


def test_node_objects(api: Client) -> None:
    """The client for Node finds the same objects as the Python client, whatever holds the PNG."""
    kinds = "png, new Uint8Array(png), new Uint8Array(png).buffer, new Blob([png]), 'examples/street.png'"
    kinds += ", pathToFileURL('examples/street.png')"
    found = node(api, f"return Promise.all([{kinds}].map((photo) => client.objects(photo)))", retries=9)
    expected = [vars(item) for item in api.objects(STREET).objects]
    assert [data["objects"] for data in found] == [expected] * 6
    assert found[0]["took"] >= 0


def test_node_documented(api: Client) -> None:
    """The code for Node in docs/clients.md finds the objects."""
    (code,) = [block for language, block in BLOCK.findall(CLIENTS.read_text()) if language == "js"]
    code = code.replace("./client.mjs", "./examples/client.mjs").replace("photo.png", str(STREET))
    done = run(
        api, "node", "--input-type=module", "--eval", f"{code}console.log(objects.map(({{name}}) => name).join())"
    )
    assert (done.stdout, done.stderr) == (f"{','.join(FOUND)}\n", "")


@pytest.mark.parametrize(
    ("parameters", "of_node"),
    [
        ({"min_score": 99}, {"minScore": 99}),
        ({"limit": 1}, {"limit": 1}),
        ({"names": ["traffic light", "cat"]}, {"names": ["traffic light", "cat"]}),
        ({"names": "cat"}, {"names": "cat"}),
    ],
)
def test_node_parameters(api: Client, parameters: dict[str, Any], of_node: dict[str, Any]) -> None:
    """Each parameter does the same as in the Python client."""
    found = node(api, f"return client.objects(png, {json.dumps(of_node)})")
    assert [item["name"] for item in found["objects"]] == [
        item.name for item in api.objects(STREET, **parameters).objects
    ]


def test_node_annotated(api: Client) -> None:
    """The client for Node gets the photo with its boxes."""
    drawn = node(api, "return (await client.annotated(png, { maxSide: 100 })).toString('hex')")
    assert bytes.fromhex(drawn) == api.annotated(STREET, max_side=100)


def test_node_refuses_other_photos() -> None:
    """What is no PNG is refused before anything is sent, and the message has commands that make one."""
    code = "return Promise.all([{}].map((photo) => failure(client.objects(photo))))"
    api = Client(f"http://127.0.0.1:{free_port()}", TOKEN)
    photos = "'README.md', png.subarray(1), new Blob([]), 'none.png', 5, null"
    text, jpeg, empty, none, number, null = node(api, code.replace("{}", photos))
    assert {failure["name"] for failure in (text, jpeg, empty, none, number, null)} == {"InvalidPhoto"}
    assert "magick README.md -auto-orient -resize 1280x1280 photo.png" in text["message"]
    assert "sharp" in jpeg["message"]
    assert empty["message"] == "The photo is empty."
    assert "no such file" in none["message"]
    assert number["message"] == null["message"] == "A photo is a path, an ArrayBuffer, an array of bytes or a Blob."


FAILED = envelope(400, '"error":"Bad request","message":"M.","details":{"data":["One.","Two."],"limit":["Three."]}')


def test_node_failures() -> None:
    """A failure has the status, the message, the details and the seconds to wait, and its text has all reasons."""
    with canned(http(400, FAILED, "Retry-After: 5")) as server:
        failure = node(Client(server.url, TOKEN), "return failure(client.objects(png))")
    assert failure == {
        "name": "CallFailed",
        "message": "400 Bad request: M. data: One. Two.; limit: Three.",
        "status": 400,
        "error": "Bad request",
        "reason": "M.",
        "details": {"data": ["One.", "Two."], "limit": ["Three."]},
        "retryAfter": 5,
    }


@pytest.mark.parametrize(
    ("options", "slept"), [({}, [7, 7, 7]), ({"retries": 5}, [7] * 5), ({"retries": 0}, []), ({"maxWait": 6}, [])]
)
@pytest.mark.parametrize("status", [429, 503])
def test_node_retries(status: int, options: dict[str, int], slept: list[int]) -> None:
    """The client for Node retries as the Python client does."""
    with canned(http(status, envelope(status, '"error":"E","message":"M."'), "Retry-After: 7")) as server:
        failure, seconds = node(
            Client(server.url, TOKEN), "return [await failure(client.objects(png)), slept]", **options
        )
    assert (failure["message"], failure["retryAfter"], seconds) == (f"{status} E: M.", 7, slept)
    assert len(server.seen) == len(slept) + 1


UNEXPECTED = {
    "a page": http(200, HTML),
    "a redirect": http(302, HTML, "Location: /elsewhere"),
    "other data": http(200, envelope(200, '"data":{}')),
    "another status": http(200, envelope(503, '"error":null')),
    "no body": b"HTTP/1.1 204 No Content\r\n\r\n",
    "an echo": http(502, TOKEN.encode()),
    "much": http(200, b"[" * (2**20 + 1)),
    "nothing": b"",
    "half a body": b"HTTP/1.1 200 OK\r\nContent-Length: 1000\r\n\r\n{",
    "no HTTP": TOKEN.encode() + b"\r\n\r\n",
}


@pytest.mark.parametrize("reply", UNEXPECTED.values(), ids=UNEXPECTED)
def test_node_unexpected_replies(reply: bytes) -> None:
    """A reply that is not from the service fails the call, is not retried, and shows neither itself nor the token."""
    with canned(reply) as server:
        failure = node(Client(server.url, TOKEN), "return failure(client.objects(png))")
    assert failure["name"] == "CallFailed"
    assert server.url in failure["message"]
    assert TOKEN not in str(failure)
    assert "html" not in str(failure)
    assert len(server.seen) == 1


def test_node_hides_the_token() -> None:
    """A token that a server echoes is in no failure, and the client does not show it either."""
    echo = envelope(418, f'"error":"E","message":"{TOKEN}","details":["{TOKEN}"]')
    with canned(http(418, echo)) as server:
        code = "return [await failure(client.objects(png)), JSON.stringify(client)]"
        failure, shown = node(Client(server.url, TOKEN), code)
    assert failure["message"] == "418 E: ... ..."
    assert TOKEN not in shown


@pytest.mark.parametrize(
    ("url", "token", "message"),
    [
        ("localhost:8000", "a", "url"),
        ("http://u:p@localhost", "a", "url"),
        ("http://localhost/?a", "a", "url"),
        ("http://localhost:99999", "a", "url"),
        ("http://localhost", "", "token"),
        ("http://localhost", "a\r\nX: 1", "token"),
    ],
)
def test_node_settings(api: Client, url: str, token: str, message: str) -> None:
    """An address or a token that cannot be used is refused at once."""
    made = f"new Client({json.dumps(url)}, {json.dumps(token)})"
    assert message in node(api, f"try {{ {made} }} catch (error) {{ return error.message }}")


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
        app = web.Application(client_max_size=10 * 2**20)  # as Discord without a subscription
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


def test_the_bot_finds_objects(api: Client) -> None:
    """The reply to `!objects` is the annotated photo, the reply to `!objects names` is text."""
    street = STREET.read_bytes()
    assert reply_to("!objects", street, api) == {"content": None, "file": api.annotated(street)}
    assert reply_to("!objects names", street, api)["content"] == "stop sign (100 %), traffic light (97 %)"
    assert (
        reply_to("!objects names", png_of(Image.new("RGB", (64, 64))), api)["content"] == "I found nothing that I know."
    )


def test_the_bot_takes_photos_of_phones(api: Client, phone: bytes) -> None:
    """A large JPEG that must be turned is shown upright, and small enough for the service."""
    file = reply_to("!objects", phone, api)["file"]
    with Image.open(BytesIO(file)) as picture:
        assert picture.width * 3 == pytest.approx(picture.height * 4, rel=0.01)
    assert "stop sign" in reply_to("!objects names", phone, api)["content"]


@pytest.mark.parametrize("file", [b"", b"MZ", b"GIF89a" + bytes(99), file_of(Image.new("1", (99, 99)), "BMP")])
def test_the_bot_refuses_other_files(file: bytes) -> None:
    """A file that is not a photo, or has too many pixels, is not decoded, and the bot says so."""
    api = Client(f"http://127.0.0.1:{free_port()}", TOKEN, max_decoded=9800)
    content = reply_to("!objects", file, api)["content"]
    assert re.fullmatch(r"I cannot open this photo\. \S.+\.", content)


def test_the_bot_downloads_no_large_file(png: bytes) -> None:
    """A file that is too large is not downloaded."""
    api = Client(f"http://127.0.0.1:{free_port()}", TOKEN)
    assert reply_to("!objects", bytes(MAX_BYTES + 1), api)["content"] == "This file is too large."


def test_the_bot_says_what_is_wrong(api: Client, png: bytes) -> None:
    """The bot says that there is no photo, or why a call failed, but not the service's address."""
    silent = Client(f"http://127.0.0.1:{free_port()}", TOKEN)
    assert reply_to("!objects", None, silent)["content"] == "Attach a photo."
    assert reply_to("!objects", png, silent)["content"] == "That did not work: No reply."
    with canned(http(502, HTML)) as server:
        bad = Client(server.url, TOKEN)
        assert reply_to("!objects names", png, bad)["content"] == "That did not work: Bad Gateway."
    content = reply_to("!objects", png[:-20], api)["content"]
    assert content.startswith("That did not work: Bad request. data: Truncated PNG image.")
