"""`augu-api usage`: what it counts in a request log, and that forged lines cannot mislead it."""

import gzip
import io
import json
import resource
import subprocess
import sys
import tracemalloc
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result
from hypothesis import given
from hypothesis import strategies as st

from augu_api.config import ROOT
from augu_api.operating import usage
from augu_api.operating.cli import main
from augu_api.operating.usage import MAX_LINE, Usage
from tests.helpers import OBJECTS

Run = Callable[..., Result]
NOON = datetime(2026, 11, 24, 12, tzinfo=UTC)


def line(**changes: Any) -> bytes:
    """A line as the service writes it, with some fields changed."""
    fields = {
        "time": NOON.isoformat(),
        "level": "INFO",
        "logger": "augu_api.requests",
        "message": "request",
        "id": "a",
        "user": "42",
        "agent": "bot/1.0",
        "method": "POST",
        "route": OBJECTS,
        "status": 200,
        "milliseconds": 20.0,
    }
    return json.dumps(fields | changes).encode() + b"\n"


def rows_of(log: bytes, since: datetime | None = None) -> list[dict[str, Any]]:
    used = Usage(since)
    used.add(usage.lines(io.BytesIO(log)))
    return used.rows({42: "alice"})


@pytest.fixture
def run(tmp_path: Path) -> Run:
    """Run the command on a log: `run(log, "--json")`."""
    env = {"AUGU_DATA_DIR": str(tmp_path / "data")}
    return lambda log, *options: CliRunner().invoke(main, ["usage", *options], input=log, env=env)


def done(result: Result) -> str:
    assert result.exit_code == 0, result.output
    return result.stdout


# --- what is counted


def test_the_services_own_log(tmp_path: Path, run: Run) -> None:
    """The log of a real application is understood, its users are named, and other lines are skipped."""
    command = [sys.executable, "-m", "tests.logged", str(tmp_path / "data")]
    log = subprocess.run(command, cwd=ROOT, capture_output=True, check=True).stdout
    result = run(log, "--json")
    alice, nobody = sorted(json.loads(done(result)), key=lambda row: str(row["user"]))
    assert (alice["user"], alice["requests"], alice["refused"]) == ("alice", 3, {"400": 1, "500": 1})
    assert (nobody["user"], nobody["requests"], nobody["refused"]) == ("nobody", 2, {"401": 1, "404": 1})
    assert alice["agents"] == {"bot": 3}
    assert 0 < alice["p50 ms"] <= alice["p95 ms"]
    assert nobody["p50 ms"] is None
    assert datetime.fromisoformat(alice["last seen"]) <= datetime.now(UTC)
    assert result.stderr == "Skipped 1 of 6 lines that are not request log entries.\n"


def test_table(tmp_path: Path, run: Run) -> None:
    """In a table each user is one line; users outside the database are shown by id, and no database is created."""
    log = line() + line(status=429) + line(status=429) + line(status=503, agent="curl/8") + line(user=None, status=401)
    result = run(log)
    heading, _, *rows = (" ".join(line.split()) for line in done(result).splitlines())
    assert heading == "user requests refused p50 ms p95 ms agents last seen"
    assert rows[0] == "42 4 429: 2, 503: 1 20.1 20.1 bot: 3, curl: 1 2026-11-24 12:00:00+00:00"
    assert rows[1].startswith("nobody 1 401: 1 ")
    assert "by id" in result.stderr
    assert "42 got 2 replies of 429: `augu-api users quota 42 …` sets another quota." in result.stderr
    assert not (tmp_path / "data").exists()


def test_files(tmp_path: Path, run: Run) -> None:
    """Several logs can be named and are counted together; `-` is standard input."""
    paths = [tmp_path / "1.log", tmp_path / "2.log"]
    for path in paths:
        path.write_bytes(line())
    [row] = json.loads(done(run(line(), *map(str, paths), "-", "--json")))
    assert row["requests"] == 3
    assert run(b"", str(tmp_path / "nowhere.log")).exit_code == 2


def test_compressed_files(tmp_path: Path, run: Run) -> None:
    """Logs that gzip has compressed are read, whatever their names, also from standard input."""
    plain, compressed = tmp_path / "augu.log", tmp_path / "augu.log.1"
    plain.write_bytes(line())
    compressed.write_bytes(gzip.compress(line()) + gzip.compress(line()))
    [row] = json.loads(done(run(gzip.compress(line()), str(plain), str(compressed), "-", "--json")))
    assert row["requests"] == 4


def test_many_files(tmp_path: Path, run: Run) -> None:
    """Only one of the files is open at a time."""
    paths = [tmp_path / f"{number}.log" for number in range(300)]
    for path in paths:
        path.write_bytes(line())
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (200, hard))
    try:
        [row] = json.loads(done(run(b"", *map(str, paths), "--json")))
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    assert row["requests"] == 300


@pytest.mark.parametrize(
    "spoil", [lambda log: log[:-20], lambda log: log + b"rest", lambda log: log[:200] + b"\xff" * 99]
)
def test_a_damaged_file(tmp_path: Path, run: Run, spoil: Callable[[bytes], bytes]) -> None:
    """What can be read of a damaged file is counted, the other files are read, and one line names it."""
    damaged, whole = tmp_path / "1.gz", tmp_path / "2.log"
    damaged.write_bytes(spoil(gzip.compress(b"".join(line(id=str(n) * 9) for n in range(5000)))))
    whole.write_bytes(line())
    result = run(b"", str(damaged), str(whole), "--json")
    [row] = json.loads(done(result))
    assert 1 <= row["requests"] <= 5001
    assert f"{damaged} is damaged, and read up to there: " in result.stderr


def test_a_bomb(tmp_path: Path) -> None:
    """A small file that decompresses to much more takes no more memory than a log."""
    path = tmp_path / "bomb.gz"
    path.write_bytes(gzip.compress(b"x" * 100_000_000, 1) + gzip.compress(line()))
    used = Usage()
    tracemalloc.start()
    with path.open("rb") as file:
        used.add(usage.lines(usage.plain(file)))
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert used.read == 1
    assert peak < 2_000_000


@pytest.mark.parametrize(
    ("since", "counted"),
    [
        ("2026-11-24", 3),
        ("2026-11-24T12:00", 2),
        ("2026-11-24T13:00:00+01:00", 2),
        ("2026-11-24T12:00:01", 1),
        ("1m", 1),
    ],
)
def test_since(run: Run, since: str, counted: int) -> None:
    """Only requests after --since are counted; it is in UTC unless it names a zone, or a number of minutes ago."""
    moments = [datetime(2026, 11, 24, 1, tzinfo=UTC), NOON, datetime.now(UTC) + timedelta(days=1)]
    log = b"".join(line(time=moment.isoformat()) for moment in moments)
    [row] = json.loads(done(run(log, "--since", since, "--json")))
    assert row["requests"] == counted


@pytest.mark.parametrize("since", ["yesterday", "5", "5w", "2026-13-01", "٣h", ""])
def test_bad_since(run: Run, since: str) -> None:
    """An invalid time is refused."""
    result = run(line(), "--since", since)
    assert result.exit_code == 2
    assert "--since" in result.stderr


@pytest.mark.parametrize(
    "prefix",
    [
        "",
        "2026-11-24T12:00:00.123456+00:00 app[web.1]: ",
        "Nov 24 12:00:00 host augu-api[123]: ",
        "web-1  | ",
    ],
)
def test_prefixes(prefix: str) -> None:
    """What a platform, syslog or a container's log writes before a line is ignored."""
    [row] = rows_of(prefix.encode() + line())
    assert row["requests"] == 1


@given(st.lists(st.floats(1, 100_000), min_size=1, max_size=200))
def test_percentiles(milliseconds: list[float]) -> None:
    """A percentile is of successful requests and accurate to 2.5 % (and to 0.05, because it is rounded)."""
    log = b"".join(line(milliseconds=round(ms, 1)) for ms in milliseconds)
    [row] = rows_of(log + line(status=429, milliseconds=1e6) * 300)
    ordered = sorted(round(ms, 1) for ms in milliseconds)
    for percent in (50, 95):
        exact = ordered[-(-len(ordered) * percent // 100) - 1]
        assert row[f"p{percent} ms"] == pytest.approx(exact, abs=0.026 * exact + 0.051)


# --- what is not counted


FORGED = {
    "no JSON": b"[2026-11-24 12:00:00 +0000] [1] [INFO] Booting worker\n",
    "another logger's": line(logger="augu_api.web.envelope"),
    "no user": line().replace(b'"user"', b'"usr"'),
    "a user that is no text": line(user=42),
    "a user that is no number": line(user="root"),
    "a user beyond 64 bits": line(user="9" * 19),
    "digits of another script": line(user="٣"),
    "a status that is none": line(status=99),
    "a status that is true": line(status=True),
    "a status that is text": line(status="200"),
    "endless milliseconds": line(milliseconds=float("inf")),
    "no number of milliseconds": line(milliseconds=float("nan")),
    "negative milliseconds": line(milliseconds=-1),
    "a huge number": line(milliseconds=0).replace(b": 0}", b": 1" + b"0" * 5000 + b"}"),
    "no time": line(time="noon"),
    "a time of no zone": line(time="2026-11-24T12:00:00"),
    "an agent that is a list": line(agent=["bot"]),
    "cut short": line()[:-20] + b"\n",
    "two on one line": line()[:-1] + line(),
    "something after it": line()[:-1] + b" end\n",
    "in another's words": b'heroku[router]: at=info path="/' + line()[:-1] + b'" status=404\n',
    "a quoted path at the end": b'at=info path="/: ' + line(),
    "nested": b"[" * 9000 + b"\n",
    "nested objects": b'{"a":' * 3000 + b"\n",
    "too long": line(id="x" * MAX_LINE),
    "not UTF-8": line().replace(b"bot", b"\xff\xfe"),
    "a list": b"[1, 2]\n",
    "a word": b'"augu_api.requests"\n',
    "empty": b"\n",
}


@pytest.mark.parametrize("forged", FORGED.values(), ids=FORGED)
def test_skipped(forged: bytes) -> None:
    """A line that is not exactly in the format of the request log is skipped; other lines are counted."""
    [row] = rows_of(line() + forged + line())
    assert row["requests"] == 2


@given(st.binary(max_size=300))
def test_any_bytes(noise: bytes) -> None:
    """Whatever a log holds, it is read to the end."""
    used = Usage()
    used.add(usage.lines(io.BytesIO(noise + b"\n" + line())))
    assert used.rows({})[-1]["requests"] == 1
    assert used.read - used.skipped == 1


@pytest.mark.parametrize("agent", ["\x1b[2Jbot", "bot\x1b[2J", "\x9b2J", "bot\u202e/1", "a" * 200, ""])
def test_no_control_characters(run: Run, agent: str) -> None:
    """Of a User-Agent only the product name is shown, in plain ASCII."""
    shown = done(run(line(agent=agent)))
    assert shown.isascii()
    assert not [c for c in shown if not c.isprintable() and c != "\n"]
    assert "other: 1" in shown


def forged_log(n: int) -> Iterator[bytes]:
    """A line for each of `n` users, and `n` lines of one user with different agents and durations."""
    for i in range(n):
        yield line(user=str(i + 1), agent=f"bot{i}/1", milliseconds=i / 7)
        yield line(user="7", agent=f"bot{i}/1", milliseconds=i / 3, status=200 + i % 399)


def test_bounded(tmp_path: Path) -> None:
    """Memory is bounded for any number of users, agents and durations: those above the limits count as `other`."""
    path = tmp_path / "big.log"
    with path.open("wb") as file:
        file.writelines(forged_log(usage.MAX_USERS + 2000))
        file.write(b'{"' + b"x" * 30_000_000 + b"\n")
    used = Usage()
    tracemalloc.start()
    with path.open("rb") as file:
        used.add(usage.lines(file))
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    rows = {row["user"]: row for row in used.rows({})}
    assert len(used.users) == usage.MAX_USERS + 1
    assert rows["other"]["requests"] == 2000
    assert sum(row["requests"] for row in rows.values()) == 2 * (usage.MAX_USERS + 2000)
    assert (len(used.users[7].agents), used.skipped) == (usage.MAX_AGENTS + 1, 1)
    assert peak < 30_000_000
