"""The command line: what each command prints, and that a foreseeable failure is a single line."""

import hashlib
import json
import re
import shutil
import sqlite3
import subprocess
import threading
from collections.abc import Callable, Iterator
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
from click.testing import CliRunner, Result
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from augu_api import tokens
from augu_api.config import ROOT, Settings
from augu_api.detection import Detection, ModelUnavailable
from augu_api.detection.catalogue import PUBLISHED, Model, find
from augu_api.detection.drawing import annotate, colour_of, ink_on
from augu_api.detection.pull import BLOCK, pull
from augu_api.flags import DEFAULT_FLAGS
from augu_api.operating.cli import main, users
from tests.helpers import BIN, FakeDetector, free_port, picture

Run = Callable[..., Result]


@pytest.fixture
def run(tmp_path: Path) -> Run:
    """Run a command with a temporary data folder: `run("users", "list", AUGU_QUEUE="1")`."""
    folder = str(tmp_path / "data")
    return lambda *command, **env: CliRunner().invoke(main, [*command], env={"AUGU_DATA_DIR": folder} | env)


@pytest.fixture
def alice(run: Run) -> str:
    """A user's token."""
    return done(run("users", "add", "alice", "--id", "42"))


def done(result: Result) -> str:
    """Assert that a command succeeded; its standard output."""
    assert result.exit_code == 0, result.output
    return result.stdout


def shown(run: Run, name: str = "alice") -> dict[str, object]:
    return dict(json.loads(done(run("users", "show", name, "--json"))))


def claims(run: Run, text: str, tmp_path: Path) -> tokens.Token:
    """The claims of a printed token."""
    assert text.count("\n") == 1
    return tokens.read(Settings.from_env({"AUGU_DATA_DIR": str(tmp_path / "data")}).secret_keys, text.strip())


# --- users


def test_add(run: Run, tmp_path: Path) -> None:
    """`users add` prints only the token on standard output, so that it can be piped."""
    command = ("users", "add", "alice", "--grant", "images_objects", "--grant", "EXPERIMENTAL", "--coefficient", "2")
    done(run("users", "list"))
    result = run(*command, "--id", "42")
    assert claims(run, done(result), tmp_path).user_id == 42
    assert result.stderr == "Added alice with the id 42.\n"
    assert shown(run) == {
        "id": "42",
        "name": "alice",
        "flags": ["TEXT", "IMAGES", "IMAGES_OBJECTS", "INFORMATION", "EXPERIMENTAL"],
        "coefficient": 2.0,
        "banned_until": None,
        "quota": {"limit": 120, "remaining": 120, "reset": 0},
    }
    heading = ["id", "name", "flags", "coefficient", "banned", "until", "requests", "left", "for"]
    assert done(run("users", "show", "42")).splitlines()[0].split() == heading


def test_list(run: Run, alice: str) -> None:
    """All users are listed by name, as a table or as JSON, with every digit of their ids."""
    done(run("users", "add", "Bob", "--id", str(2**63 - 1)))
    rows = json.loads(done(run("users", "list", "--json")))
    assert [(row["name"], row["id"]) for row in rows] == [("Bob", str(2**63 - 1)), ("alice", "42")]
    heading, _, *lines = done(run("users", "list")).splitlines()
    assert heading.split() == ["id", "name", "flags", "coefficient", "banned", "until"]
    assert [line.split()[:2] for line in lines] == [[str(2**63 - 1), "Bob"], ["42", "alice"]]


CHANGES: dict[str, tuple[list[str], str, object]] = {
    "grant": (["grant", "alice", "EXPERIMENTAL", "text"], "flags", ["TEXT", "IMAGES", "INFORMATION", "EXPERIMENTAL"]),
    "revoke": (["revoke", "alice", "TEXT", "EXPERIMENTAL"], "flags", ["IMAGES", "INFORMATION"]),
    "quota": (["quota", "alice", "0.5"], "quota", {"limit": 30, "remaining": 30, "reset": 0}),
    "ban": (["ban", "42"], "flags", ["TEXT", "IMAGES", "BANNED", "INFORMATION"]),
    "rename": (["rename", "42", "alice"], "name", "alice"),
}


@pytest.mark.parametrize(("command", "column", "value"), CHANGES.values(), ids=CHANGES)
def test_change(run: Run, alice: str, command: list[str], column: str, value: object) -> None:
    """A change is saved, and the changed user is shown."""
    assert "alice" in done(run("users", *command))
    assert shown(run)[column] == value


def test_ban_for_minutes(run: Run, alice: str) -> None:
    """A ban can end by itself or be lifted, and even the longest one can be shown."""
    for minutes in ("30", str(2**31 - 1)):
        done(run("users", "ban", "alice", "--minutes", minutes))
        assert str(shown(run)["banned_until"]).endswith("+00:00")
    done(run("users", "unban", "alice"))
    assert shown(run)["banned_until"] is None


def test_remove(run: Run, alice: str) -> None:
    """A removed user is gone."""
    assert done(run("users", "remove", "alice")) == ""
    assert json.loads(done(run("users", "list", "--json"))) == []


def test_regenerate(run: Run, alice: str, tmp_path: Path) -> None:
    """`tokens regenerate` prints only the new token."""
    result = run("tokens", "regenerate", "alice")
    old, new = claims(run, alice, tmp_path), claims(run, done(result), tmp_path)
    assert old.user_id == new.user_id
    assert old.issued_at < new.issued_at
    assert result.stderr == ""


def test_demo(run: Run) -> None:
    """`demo` creates its user once, and prints each time how to call the API with the same token."""
    first = done(run("demo", PORT="1234"))
    assert done(run("demo", PORT="1234")) == first
    token = next(line.split()[-1] for line in first.splitlines() if line.startswith("Demo token:"))
    assert f"-H 'Authorization: Bearer {token}'" in first
    assert "http://127.0.0.1:1234/images/classify/objects" in first
    assert shown(run, "demo")["flags"] == ["TEXT", "IMAGES", "IMAGES_OBJECTS", "INFORMATION", "EXPERIMENTAL"]


def test_db(run: Run) -> None:
    """The tables can be upgraded and downgraded, and their revision can be shown."""
    assert done(run("db", "current")) == "none\n"
    for command, at in ((["upgrade"], "0001"), (["downgrade", "base"], "none"), (["upgrade", "0001"], "0001")):
        done(run("db", *command))
        assert done(run("db", "current")) == f"{at}\n"


USER = {
    "id": "42",
    "name": "alice",
    "flags": ["TEXT", "IMAGES", "INFORMATION"],
    "coefficient": 0.8,
    "banned_until": None,
}
IN_JSON: dict[str, tuple[list[str], dict[str, object]]] = {
    "show": (["users", "show", "42"], {"quota": {"limit": 48, "remaining": 48, "reset": 0}}),
    "rename": (["users", "rename", "alice", "carol"], {"name": "carol"}),
    "grant": (["users", "grant", "alice", "EXPERIMENTAL"], {"flags": [*DEFAULT_FLAGS.names, "EXPERIMENTAL"]}),
    "revoke": (["users", "revoke", "alice", "TEXT"], {"flags": ["IMAGES", "INFORMATION"]}),
    "quota": (["users", "quota", "alice", "2"], {"coefficient": 2.0}),
    "ban": (["users", "ban", "alice"], {"flags": ["TEXT", "IMAGES", "BANNED", "INFORMATION"]}),
    "unban": (["users", "unban", "alice"], {}),
    "remove": (["users", "remove", "alice"], {}),
}


@pytest.mark.parametrize(("command", "changed"), IN_JSON.values(), ids=IN_JSON)
def test_json(run: Run, alice: str, command: list[str], changed: dict[str, object]) -> None:
    """With --json, each command for a user prints one object: the user after the change."""
    assert json.loads(done(run(*command, "--json"))) == USER | changed


def test_documented_json() -> None:
    """docs/operating.md shows the object that --json prints."""
    [shown] = re.findall(r"```json\n(.*?)```", (ROOT / "docs" / "operating.md").read_text(), re.DOTALL)
    assert json.loads(shown) == USER


def test_json_of_tokens(run: Run, tmp_path: Path) -> None:
    """With --json, a new token is a field of its user; `users list` prints an array of users."""
    added = json.loads(done(run("users", "add", "alice", "--id", "42", "--json")))
    renewed = json.loads(done(run("tokens", "regenerate", "alice", "--json")))
    assert [claims(run, made["token"] + "\n", tmp_path).user_id for made in (added, renewed)] == [42, 42]
    assert added.pop("token") != renewed.pop("token")
    assert added == renewed == USER
    assert json.loads(done(run("users", "list", "--json"))) == [USER]
    until = json.loads(done(run("users", "ban", "alice", "--minutes", "5", "--json")))["banned_until"]
    assert datetime.now(UTC) < datetime.fromisoformat(until) < datetime.now(UTC) + timedelta(minutes=5.1)


def test_every_command_has_json() -> None:
    """Each command for users has --json, so that no script has to read a table."""
    for group in (users.users, users.tokens):
        for name, command in group.commands.items():
            assert "--json" in {option for one in command.params for option in one.opts}, name


def test_what_is_made_is_said(run: Run, tmp_path: Path) -> None:
    """The first command says which secret and which database it has made; the next ones make none."""
    folder = tmp_path / "data"
    made = f"Made a new secret: {folder / 'secret_key'}\nMade a new database: {folder / 'augu.db'}\n"
    for command in (["users", "list"], ["demo"], ["db", "upgrade"], ["users", "add", "bob"], ["users", "show", "x"]):
        assert run(*command).stderr.startswith(made), command
        assert "Made" not in run(*command).stderr
        shutil.rmtree(folder)
    assert run("users", "list", AUGU_SECRET_KEY="s" * 32).stderr == made.splitlines(keepends=True)[1]


@pytest.mark.parametrize("command", [["db", "current"], ["weights", "list"], ["usage", "/dev/null"], ["doctor"]])
def test_nothing_is_made(run: Run, command: list[str], tmp_path: Path) -> None:
    """A command that only looks makes neither a secret nor a database."""
    assert run(*command).exit_code in (0, 1)
    assert not (tmp_path / "data").exists()


# --- failures

BAD_USE: dict[str, tuple[list[str], dict[str, str], str]] = {
    "unknown flag": (["users", "grant", "alice", "FLY"], {}, "'FLY' is not one of"),
    "unknown flag of a new user": (["users", "add", "bob", "--grant", "FLY"], {}, "'FLY' is not one of"),
    "no flags": (["users", "grant", "alice"], {}, "Missing argument 'FLAG...'"),
    "no minutes": (["users", "ban", "alice", "--minutes", "0"], {}, "0 is not in the range"),
    "endless minutes": (["users", "ban", "alice", "--minutes", "9" * 15], {}, "is not in the range"),
    "unknown model to pull": (["weights", "pull", "yolo"], {}, "'yolo' is not one of"),
    "no photo": (["detect", "nowhere.jpg"], {}, "'nowhere.jpg' does not exist"),
    "a picture of no kind": (["detect", __file__, "--annotate", "a.text"], {}, "a.text has no image file extension"),
}
FAILURES = {
    "unknown user": (["users", "show", "bob"], {}, "There is no user bob."),
    "unknown id": (["users", "ban", "9" * 19], {}, f"There is no user {'9' * 19}."),
    "unknown user to remove": (["users", "remove", "bob"], {}, "There is no user bob."),
    "unknown user's token": (["tokens", "regenerate", "bob"], {}, "There is no user bob."),
    "name taken": (["users", "add", "alice"], {}, "There is a user alice"),
    "bad name": (["users", "add", "12"], {}, "A name has 1 to 64"),
    "a name like an option": (["users", "add", "--", "--help"], {}, "does not start with -"),
    "a name like another": (["users", "add", "Alice"], {}, "There is a user alice already, and Alice looks like"),
    "a name of two lines": (["users", "show", "a\nb"], {}, "There is no user a b."),
    "a name of bytes": (["users", "show", "a\udcffb"], {}, "There is no user a?b."),
    "bad id": (["users", "add", "bob", "--id", "9" * 20], {}, "An id is a whole number"),
    "bad coefficient": (["users", "quota", "alice", "nan"], {}, "A coefficient is a number"),
    "bad setting": (["users", "list"], {"AUGU_QUEUE": "many"}, "AUGU_QUEUE: "),
    "no secret": (["users", "list"], {"AUGU_ENV": "production"}, "AUGU_SECRET_KEY: "),
    "no folder": (["users", "list"], {"AUGU_DATA_DIR": "/dev/null/data"}, "AUGU_DATA_DIR: "),
    "bad database": (["users", "list"], {"DATABASE_URL": "mysql://localhost/x"}, "DATABASE_URL: "),
    "bad database to migrate": (["db", "current"], {"DATABASE_URL": "sqlite://augu.db"}, "DATABASE_URL: "),
    "database in no folder": (["db", "upgrade"], {"DATABASE_URL": "sqlite:////nowhere/augu.db"}, "The database cannot"),
    "not a database": (["users", "list"], {"DATABASE_URL": f"sqlite:///{__file__}"}, "The database cannot"),
    "no such revision": (["db", "upgrade", "9999"], {}, "9999"),
    "no such revision to go back to": (["db", "downgrade", "9999"], {}, "9999"),
    "not a photo": (["detect", __file__], {}, "Not an image of an accepted format."),
}


@pytest.mark.parametrize(("command", "env", "message"), BAD_USE.values(), ids=BAD_USE)
def test_bad_use(run: Run, alice: str, command: list[str], env: dict[str, str], message: str) -> None:
    """A command that is used wrongly says what is wrong."""
    result = run(*command, **env)
    assert result.exit_code == 2, result.exception
    assert result.stdout == ""
    assert message in result.stderr


def assert_one_line(result: Result, message: str) -> None:
    assert result.exit_code == 1
    assert isinstance(result.exception, SystemExit), result.exception
    assert result.stdout == ""
    [line] = result.stderr.splitlines()
    assert line.startswith("Error: ")
    assert message in line


@pytest.mark.parametrize(("command", "env", "message"), FAILURES.values(), ids=FAILURES)
def test_failure(run: Run, alice: str, command: list[str], env: dict[str, str], message: str) -> None:
    """An operator's mistake ends a command with one line that says what it is."""
    assert_one_line(run(*command, **env), message)


UNREACHABLE = [
    ("DATABASE_URL", "postgresql", "The database"),
    ("AUGU_RATELIMIT_STORAGE", "redis", "The rate limit storage (AUGU_RATELIMIT_STORAGE)"),
]


@pytest.mark.parametrize(("variable", "scheme", "part"), UNREACHABLE)
def test_unreachable(run: Run, alice: str, variable: str, scheme: str, part: str) -> None:
    """If PostgreSQL or Redis does not answer, one line says which one."""
    result = run("users", "show", "alice", **{variable: f"{scheme}://127.0.0.1:{free_port()}"})
    assert_one_line(result, "refused")
    assert f"Error: {part} cannot be used: " in result.stderr


def test_a_newer_database(run: Run, alice: str, tmp_path: Path) -> None:
    """An older release says that it does not know the tables of a newer one."""
    connection = sqlite3.connect(tmp_path / "data" / "augu.db")
    connection.execute("UPDATE alembic_version SET version_num = '9999'")
    connection.commit()
    connection.close()
    assert_one_line(run("users", "list"), "9999")


def test_a_huge_photo(run: Run, tmp_path: Path) -> None:
    """A photo that claims more pixels than fit into memory is refused before it is decoded."""
    photo = tmp_path / "huge.jpg"
    Image.new("RGB", (16, 16)).save(photo)
    written = photo.read_bytes()
    photo.write_bytes(written.replace(b"\x00\x10\x00\x10\x03", b"\xff\xdc\xff\xdc\x03"))
    assert_one_line(run("detect", str(photo)), "pixels")


def test_help(run: Run, tmp_path: Path) -> None:
    """The commands are listed even if a setting is bad, and nothing is created."""
    result = run("--help", AUGU_QUEUE="0")
    listed = [line.split()[0] for line in done(result).partition("Commands:\n")[2].splitlines()]
    known = "backup db demo detect doctor restore serve tokens usage users weights"
    assert listed == known.split()
    assert result.stderr == ""
    assert not (tmp_path / "data").exists()


def test_no_traceback(tmp_path: Path) -> None:
    """A failing command exits with 1 and prints one line on standard error."""
    env = {"AUGU_DATA_DIR": str(tmp_path), "AUGU_QUEUE": "0"}
    done = subprocess.run([BIN / "augu-api", "users", "list"], env=env, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr == "Error: AUGU_QUEUE: must be a whole number above 0\n"


# --- models


def test_weights_list(run: Run) -> None:
    """`weights list` shows the bundled model and the published ones, each with its facts."""
    rows = json.loads(done(run("weights", "list", "--json")))
    assert {row["name"]: row["downloaded"] for row in rows} == {"bundled": "yes"} | dict.fromkeys(PUBLISHED, "no")
    assert all(0 < row["AP"] < 1 and row["MB"] > 0 for row in rows)
    assert "resnet50_v2" in done(run("weights", "list"))


def test_detect(run: Run, tmp_path: Path) -> None:
    """Objects are detected in a PNG and in a rotated JPEG without a server, and their boxes drawn."""
    png, jpeg, drawn = (tmp_path / name for name in ("astronaut.png", "cat.jpg", "boxes.png"))
    picture("astronaut").save(png)
    cat, exif = picture("chelsea"), Image.Exif()
    exif[0x0112] = 6  # turn by 90 degrees to see it upright
    cat.rotate(90, expand=True).save(jpeg, exif=exif, quality=95)
    assert "person" in done(run("detect", str(png)))
    found = json.loads(done(run("detect", str(jpeg), "--annotate", str(drawn), "--json")))
    assert found[0]["name"] == "cat"
    picture("astronaut").resize((3500, 3500)).save(jpeg, quality=95)  # larger than 5 MB as a PNG
    assert "person" in done(run("detect", str(jpeg)))
    assert list(found[0]) == ["name", "x", "y", "width", "height", "score"]
    with Image.open(drawn) as boxes:
        assert boxes.size == cat.size
        assert colour_of("cat") in {colour for _, colour in boxes.getcolors(cat.width * cat.height) or []}
    assert json.loads(done(run("detect", str(jpeg), "--min-score", "100", "--json"))) == []


def test_detect_has_all_cores(detector: FakeDetector, png: bytes, tmp_path: Path) -> None:
    """On the command line the detector uses all cores, as no other request waits for them."""
    photo, env = tmp_path / "photo.png", {"AUGU_DATA_DIR": str(tmp_path / "data")}
    photo.write_bytes(png)
    assert "person" in done(CliRunner().invoke(main, ["detect", str(photo)], env=env, obj=detector))
    assert detector.all_cores == [True]


class Mirror(ThreadingHTTPServer):
    """Serves `content` at every path, with or without ranges; disconnects after `break_after` bytes if that is set."""

    content = bytes(range(256)) * (10 * BLOCK // 1024)
    ranges = True
    break_after: int | None = None

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.asked: list[str | None] = []

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_port}/models"


class Handler(BaseHTTPRequestHandler):
    server: Mirror

    def do_GET(self) -> None:
        mirror, asked = self.server, self.headers["Range"]
        mirror.asked.append(asked)
        start = int(asked.removeprefix("bytes=").removesuffix("-")) if asked and mirror.ranges else 0
        if start >= len(mirror.content):
            self.send_error(416)
            return
        rest = mirror.content[start:]
        self.send_response(206 if asked and mirror.ranges else 200)
        self.send_header("Content-Length", str(len(rest)))
        self.end_headers()
        self.wfile.write(rest[: mirror.break_after])

    def log_message(self, *_: object) -> None:
        """Say nothing."""


@pytest.fixture
def mirror() -> Iterator[Mirror]:
    with Mirror() as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.01,))
        thread.start()
        yield server
        server.shutdown()
        thread.join()


@pytest.fixture
def model(tmp_path: Path) -> Model:
    """A model whose weights are what the mirror serves."""
    published = find("mobilenet", Settings.from_env({"AUGU_DATA_DIR": str(tmp_path)}))
    return replace(published, file="m.pth", sha256=hashlib.sha256(Mirror.content).hexdigest()[:8])


def test_pull(mirror: Mirror, model: Model) -> None:
    """A download is saved under its name, reports its progress, and leaves no other file."""
    told: list[tuple[int, int]] = []
    pull(model, mirror.url, lambda *progress: told.append(progress))
    assert model.weights.read_bytes() == mirror.content
    assert told == [(min(n * BLOCK, len(mirror.content)), len(mirror.content)) for n in (1, 2, 3)]
    assert list(model.folder.iterdir()) == [model.weights]


@pytest.mark.parametrize("ranges", [True, False])
def test_pull_again(mirror: Mirror, model: Model, ranges: bool) -> None:
    """An interrupted download says so, and is resumed, or restarted if the server cannot send a part."""
    mirror.break_after, mirror.ranges = 1_500_000, ranges
    with pytest.raises(ModelUnavailable, match=r"could not be downloaded: .*Run the command again"):
        pull(model, mirror.url, lambda *_: None)
    assert not model.weights.exists()
    mirror.break_after, told = None, []
    pull(model, mirror.url, lambda *progress: told.append(progress))
    assert mirror.asked == ["bytes=0-", "bytes=1500000-"]
    assert model.weights.read_bytes() == mirror.content
    assert told[-1] == (len(mirror.content), len(mirror.content))
    assert (told[0][0] > 1_500_000) == ranges


def test_pull_with_nothing_left(mirror: Mirror, model: Model) -> None:
    """A download interrupted after its last byte is complete, although the server answers 416."""
    model.folder.mkdir()
    (model.folder / "m.pth.part").write_bytes(mirror.content)
    pull(model, mirror.url, lambda *_: None)
    assert model.weights.read_bytes() == mirror.content


@pytest.mark.parametrize("part", [b"", b"\0" * 1000, Mirror.content + b"more"], ids=["none", "other", "longer"])
def test_pull_of_something_else(mirror: Mirror, model: Model, part: bytes) -> None:
    """Bytes with another sha256 are never saved as weights, and the next download starts from the beginning."""
    model.folder.mkdir()
    (model.folder / "m.pth.part").write_bytes(part)
    if not part:
        mirror.content = mirror.content[::-1]
    with pytest.raises(ModelUnavailable, match="its sha256 does not start with"):
        pull(model, mirror.url, lambda *_: None)
    assert list(model.folder.iterdir()) == []
    mirror.content = Mirror.content
    pull(model, mirror.url, lambda *_: None)
    assert model.weights.exists()


def test_pull_without_a_network(model: Model) -> None:
    """Without a network the message names the address, and where to put the file if it is copied by hand."""
    url = f"http://127.0.0.1:{free_port()}"
    with pytest.raises(ModelUnavailable) as raised:
        pull(model, url, lambda *_: None)
    assert f"{url}/m.pth could not be downloaded: " in str(raised.value)
    assert str(model.weights) in str(raised.value)


def test_pull_command(run: Run, mirror: Mirror, tmp_path: Path) -> None:
    """`weights pull` uses the mirror that is set, and refuses a file that is not the published one."""
    result = run("weights", "pull", "mobilenet_320", AUGU_WEIGHTS_URL=mirror.url)
    assert result.exit_code == 1
    assert "its sha256 does not start with 907ea3f9." in result.stderr.splitlines()[-1]
    assert list((tmp_path / "data" / "weights").iterdir()) == []


# --- drawing

WHITE = Image.new("RGB", (300, 200), "white")


def inked(image: Image.Image) -> int:
    """How many pixels are not white."""
    return image.width * image.height - sum(
        count for count, colour in image.getcolors(60_000) or [] if colour == (255, 255, 255)
    )


def test_colours() -> None:
    """A name has the same bright colour in every process, and most names have different colours."""
    names = [f"name {n}" for n in range(80)]
    assert colour_of("person") == (61, 245, 104)
    assert len({colour_of(name) for name in names}) > 60
    assert all(max(colour_of(name)) > 200 for name in names)


def test_annotate() -> None:
    """The boxes are drawn on a copy of the photo, in the colour of their names."""
    photo = WHITE.copy()
    drawn = annotate(photo, [Detection("cat", (100, 100, 200, 150), 0.9)])
    assert photo.tobytes() == WHITE.tobytes()
    assert [drawn.getpixel(at) for at in ((100, 125), (200, 125), (150, 150))] == [colour_of("cat")] * 3
    assert drawn.getpixel((150, 125)) == (255, 255, 255)
    assert annotate(photo, []).tobytes() == WHITE.tobytes()


def test_best_on_top() -> None:
    """Where two boxes cross, the one with the higher score is on top."""
    found = [Detection("cat", (50, 50, 150, 150), 0.9), Detection("dog", (50, 50, 150, 150), 0.8)]
    assert annotate(WHITE, found).getpixel((150, 100)) == colour_of("cat")


@given(st.integers(0, 296), st.integers(0, 196))
def test_labels_stay_inside(x: int, y: int) -> None:
    """A label is completely visible, wherever its box is."""
    label = inked(annotate(WHITE, [Detection("fire hydrant", (150, 100, 151, 101), 0.99)]))
    assert inked(annotate(WHITE, [Detection("fire hydrant", (x, y, x + 1, y + 1), 0.99)])) >= 0.98 * label


@pytest.mark.parametrize("size", [(1, 1), (1, 500), (500, 1)])
def test_tiny_photo(size: tuple[int, int]) -> None:
    """A photo that is too small for a label is drawn on anyway."""
    width, height = size
    assert annotate(Image.new("RGB", size), [Detection("cat", (0, 0, width, height), 0.9)]).size == size


def luminance(colour: tuple[int, int, int]) -> float:
    """The relative luminance of WCAG 2.2, from 0 for black to 1 for white."""
    linear = [
        c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in (channel / 255 for channel in colour)
    ]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


@given(st.text(max_size=30))
def test_a_label_can_be_read(name: str) -> None:
    """The contrast of every label is at least 4.5 to 1 (WCAG 2.2, 1.4.3)."""
    ink = {"black": 0.0, "white": 1.0}[ink_on(colour_of(name))]
    dark, light = sorted([ink, luminance(colour_of(name))])
    assert (light + 0.05) / (dark + 0.05) >= 4.5
