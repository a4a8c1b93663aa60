"""Access control: tokens, gates, security headers, private files and secrets."""

import http.client
import json
import os
import re
import socket
import stat
import subprocess
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from click.testing import CliRunner
from flask import Flask, Response
from sqlalchemy import event
from sqlalchemy.orm import Session

from augu_api import tokens
from augu_api.config import ROOT, Settings, SettingsError
from augu_api.operating.cli import main
from augu_api.store import accounts, database, migrate
from augu_api.store.models import User
from augu_api.store.quotas import Quotas
from augu_api.tokens import Token
from augu_api.web.security_headers import HEADERS
from augu_api.web.service import KEY
from tests.helpers import BAD_TOKEN, BIN, DETECTION, OBJECTS, FakeDetector, MakeApp, free_port, full
from tests.openapi import gated, methods
from tests.servers import Serve

OLD, NEW, OTHER = "o" * 32, "n" * 32, "x" * 32

# --- tokens


class Counted(tuple[str, ...]):
    """A tuple of secrets that counts how many were read."""

    __slots__ = ()
    taken = 0

    def __iter__(self) -> Iterator[str]:
        for secret in super().__iter__():
            Counted.taken += 1
            yield secret


def bearer(secret: str, user_id: int, issued_at: int) -> dict[str, str]:
    return {"Authorization": f"Bearer {tokens.issue(secret, Token(user_id, issued_at))}"}


@pytest.fixture
def rotated(make_app: MakeApp, settings: Settings, detector: FakeDetector) -> Flask:
    """An application that signs with one secret and accepts another, with a user 42."""
    app = make_app(replace(settings, secret_key=NEW, secret_keys=Counted((NEW, OLD))), detector)
    with Session(app.extensions[KEY].engine) as session, session.begin():
        accounts.create(session, "alice", id=42)
    return app


def issued_at(app: Flask) -> int:
    with Session(app.extensions[KEY].engine) as session:
        return accounts.find(session, "alice").issued_at


def test_tokens_stay_valid_when_the_secret_is_changed(rotated: Flask) -> None:
    """A token signed with either secret is valid, one signed with another is not; regenerating invalidates both."""
    client, now = rotated.test_client(), issued_at(rotated)
    assert [client.get("/session", headers=bearer(s, 42, now)).status_code for s in (NEW, OLD, OTHER)] == [
        200,
        200,
        401,
    ]
    with Session(rotated.extensions[KEY].engine) as session, session.begin():
        token = accounts.regenerate(accounts.find(session, "alice"))
    assert [client.get("/session", headers=bearer(s, 42, now)).status_code for s in (NEW, OLD)] == [401, 401]
    assert [client.get("/session", headers=bearer(s, *token)).status_code for s in (NEW, OLD)] == [200, 200]


REFUSED: dict[str, Callable[[int], dict[str, str]]] = {
    "an unknown user": lambda now: bearer(NEW, 43, now),
    "an unknown user, the old secret": lambda now: bearer(OLD, 43, now),
    "a wrong signature": lambda now: bearer(OTHER, 42, now),
    "a wrong signature and user": lambda now: bearer(OTHER, 43, now),
    "a replaced token": lambda now: bearer(NEW, 42, now - 1),
    "a replaced token, the old secret": lambda now: bearer(OLD, 42, now - 1),
    "a token of the future": lambda now: bearer(NEW, 42, now + 1),
}


def seen(app: Flask, sent: dict[str, str]) -> tuple[int, list[str], int, int, dict[str, str], bytes]:
    """The work that a request causes (secrets read, statements, users loaded) and its reply (status, headers, body)."""
    statements: list[str] = []
    loaded: list[User] = []

    def execute(_: object, __: object, statement: str, *___: object) -> None:
        statements.append(statement)

    def load(user: User, _: object) -> None:
        loaded.append(user)

    engine, before = app.extensions[KEY].engine, Counted.taken
    listeners = (engine, "before_cursor_execute", execute), (User, "load", load)
    for listener in listeners:
        event.listen(*listener)
    response = app.test_client().get("/session", headers=sent)
    for listener in listeners:
        event.remove(*listener)
    shown = {name: value for name, value in response.headers if name != "X-Request-Id"}
    return Counted.taken - before, statements, len(loaded), response.status_code, shown, response.data


def test_refused_tokens_cannot_be_told_apart(rotated: Flask) -> None:
    """Every invalid token causes the same work and reply: each secret is tried, one query finds no user, then 401."""
    now = issued_at(rotated)
    outcomes = {name: seen(rotated, make(now)) for name, make in REFUSED.items()}
    signings, statements, loaded, status, _, body = outcomes["an unknown user"]
    assert (signings, len(statements), loaded, status) == (2, 1, 0, 401)
    assert json.loads(body)["message"] == "You are not authorized."
    assert outcomes == dict.fromkeys(REFUSED, outcomes["an unknown user"])
    for good in (bearer(NEW, 42, now), bearer(OLD, 42, now)):
        signings, _, loaded, status, _, _ = seen(rotated, good)
        assert (signings, loaded, status) == (2, 1, 200)


# --- gates

PUBLIC = {
    (f"{OBJECTS}/names", "get"),
    ("/health/live", "get"),
    ("/health/ready", "get"),
    ("/metrics", "get"),  # has a token of its own
    ("/openapi.json", "get"),
    ("/docs", "get"),
    ("/", "get"),
    ("/assets/<name>", "get"),
    ("/v1/status/ping", "get"),
    ("/v1/server/status/ping", "get"),
    ("/v1/status/updateavailable", "get"),
    *(("/v1/vision/custom/list", method) for method in ("get", "post")),
    *(("/v1/vision/list-custom", method) for method in ("get", "post")),
}


@pytest.fixture
def everything(make_app: MakeApp, settings: Settings, detector: FakeDetector) -> Flask:
    """An application with every route that can be switched on."""
    return make_app(replace(settings, deepstack=True), detector)


def routes(app: Flask) -> set[tuple[str, str]]:
    return {(rule.rule, method) for rule in app.url_map.iter_rules() for method in methods(rule)}


def test_a_route_is_gated_or_public(everything: Flask) -> None:
    """A new route needs a token of a user, unless the list above names it."""
    assert routes(everything) - gated(everything) == PUBLIC


def test_gated_routes_need_a_token_and_no_ban(everything: Flask) -> None:
    """Each gated route answers 401 without a token and 403 to a banned user, whatever else is in the request."""
    service = everything.extensions[KEY]
    with Session(service.engine) as session, session.begin():
        user = accounts.create(session, "mallory")
        accounts.ban(user)
        token = accounts.current_token(user)
    banned = bearer(service.settings.secret_key, *token)
    client = everything.test_client()
    assert gated(everything) >= {(OBJECTS, "post"), (DETECTION, "post"), ("/session", "get")}
    for path, method in gated(everything):
        replies = [client.open(path, method=method.upper(), headers=headers) for headers in ({}, BAD_TOKEN, banned)]
        assert [reply.status_code for reply in replies] == [401, 401, 403]


# --- headers


def test_the_headers() -> None:
    """The security headers of every reply that is not a page."""
    assert HEADERS == {
        "Cache-Control": "no-store",
        "Content-Security-Policy": "default-src 'none'; frame-ancestors 'none'",
        "Referrer-Policy": "no-referrer",
        "X-Content-Type-Options": "nosniff",
    }


def test_every_reply_is_protected(everything: Flask, photo: str) -> None:
    """The headers of each route and each failure forbid caching, content sniffing, framing and scripts."""
    service, client = everything.extensions[KEY], everything.test_client()
    with Session(service.engine) as session, session.begin():
        token = accounts.current_token(accounts.create(session, "alice", coefficient=1000))
    auth = bearer(service.settings.secret_key, *token)
    asked = [(path, method.upper(), headers) for path, method in routes(everything) for headers in ({}, auth)]
    asked += [
        ("/nowhere", "GET", {}),
        ("/session", "BREW", auth),
        (OBJECTS, "GET", auth),
        ("/session", "GET", BAD_TOKEN),
    ]
    replies = [client.open(path, method=method, headers=headers) for path, method, headers in asked]
    with full(service):
        replies.append(client.post(OBJECTS, headers=auth, data=photo))
    assert {reply.status_code for reply in replies} >= {200, 401, 403, 404, 405}
    for reply in replies:
        own = (
            {"Content-Security-Policy", "Cache-Control"} if reply.mimetype == "text/html" else set()
        )  # tests/test_page.py
        expected = {name: [value] for name, value in HEADERS.items() if name not in own}
        assert {name: reply.headers.getlist(name) for name in expected} == expected
        reply.close()


def test_a_view_can_override_a_header(app: Flask) -> None:
    """A header that a view has set is kept, and the other headers are added."""
    policy = "default-src 'self'"
    app.add_url_rule("/page", view_func=lambda: Response("", headers={"Content-Security-Policy": policy}))
    headers = app.test_client().get("/page").headers
    assert headers.getlist("Content-Security-Policy") == [policy]
    assert headers["X-Content-Type-Options"] == "nosniff"


# --- what is not HTTP

TOKEN_IN_A_LINE = "eyJhbGciOiJIUzI1NiJ9.c2VjcmV0.secret"
NOT_HTTP = {
    "no protocol": (f"{TOKEN_IN_A_LINE}\r\n\r\n", 400, "InvalidRequestLine"),
    "a header without a colon": (f"GET / HTTP/1.1\r\nAuthorization {TOKEN_IN_A_LINE}\r\n\r\n", 400, "InvalidHeader"),
    "two framings": (
        "POST / HTTP/1.1\r\nContent-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
        400,
        "InvalidHeader",
    ),
    "two lengths": ("POST / HTTP/1.1\r\nContent-Length: 5\r\nContent-Length: 6\r\n\r\n", 400, "InvalidHeader"),
    "an unknown coding": ("POST / HTTP/1.1\r\nTransfer-Encoding: x\r\n\r\n", 501, "UnsupportedTransferCoding"),
    "a long line": (f"GET /{'a' * 9000} HTTP/1.1\r\n\r\n", 414, "LimitRequestLine"),
    "a flood": ("GET / HTTP/1.1\r\n" + "A: b\r\n" * 200 + "\r\n", 431, "LimitRequestHeaders"),
}


def received(port: int, sent: str) -> tuple[int, http.client.HTTPMessage, bytes]:
    with socket.create_connection(("127.0.0.1", port), timeout=30) as connection:
        connection.sendall(sent.encode())
        response = http.client.HTTPResponse(connection)
        response.begin()
        return response.status, response.headers, response.read()


def test_what_is_not_http_is_answered_in_the_envelope(serve: Serve, tiny_model: dict[str, str]) -> None:
    """Gunicorn's own refusals have the envelope, the headers and an id that is logged; the request itself is not."""
    server = serve(WEB_CONCURRENCY="1", **tiny_model)
    for sent, status, kind in NOT_HTTP.values():
        got, headers, body = received(server.port, sent)
        assert (got, headers["Content-Type"], headers["Connection"]) == (status, "application/json", "close")
        assert list(json.loads(body)) == ["statusCode", "error", "message"]
        assert json.loads(body)["statusCode"] == status
        assert {name: headers[name] for name in HEADERS} == HEADERS
        assert f"Not HTTP: {kind} (request {headers['X-Request-Id']})" in server.log.read_text()
    log = server.log.read_text()
    assert TOKEN_IN_A_LINE not in log
    assert "Traceback" not in log


# --- private files


def modes(folder: Path) -> dict[str, str]:
    return {path.name: oct(stat.S_IMODE(path.stat().st_mode)) for path in folder.iterdir()}


def test_files_are_private(tmp_path: Path) -> None:
    """Whatever the umask, only the owner can access the folder, the secret, the database, its log and the lock."""
    folder = tmp_path / "data"
    code = (
        "from augu_api.app import create_app; from augu_api.config import Settings\n"
        "from augu_api.web.service import KEY; import os\n"
        f"app = create_app(Settings.from_env({{'AUGU_DATA_DIR': {str(folder)!r}}}))\n"
        f"print(*(oct(os.stat(f'{folder}/{{name}}').st_mode) for name in sorted(os.listdir({str(folder)!r}))))\n"
        "app.extensions[KEY].engine.dispose()"
    )
    done = subprocess.run(["python", "-c", code], env=os.environ | {"PATH": f"{BIN}:{os.environ['PATH']}"},
                          cwd=ROOT, umask=0, check=True, stdout=subprocess.PIPE, text=True)  # fmt: skip
    assert done.stdout.split() == ["0o100600"] * 5  # augu.db, its -shm and -wal, admission.lock, secret_key
    assert stat.S_IMODE(folder.stat().st_mode) == 0o700


def test_an_existing_database_is_hidden_from_others(tmp_path: Path) -> None:
    """Others lose their access to an existing database and its log; the owner's and the group's stay as they were."""
    path = tmp_path / "augu.db"
    path.touch()
    path.chmod(0o664)
    engine = database.connect(f"sqlite:///{path}")
    migrate.upgrade(engine)
    assert modes(tmp_path) == dict.fromkeys(("augu.db", "augu.db-wal", "augu.db-shm"), "0o660")
    engine.dispose()


# --- secrets

MARKS = (
    "hunter2hunter2hunter2hunter2hunter2",
    "correct-horse-battery-staple-of-old",
    "metrics-metrics-metrics-metrics-m",
)
PASSWORD = "swordfish"


def outcome(program: str, environ: dict[str, str]) -> tuple[int, str]:
    """The exit code of a program and everything it printed; a command runs in this process."""
    if program == "augu-api":
        result = CliRunner().invoke(main, ["users", "list"], env=environ)
        assert isinstance(result.exception, SystemExit), result.exception  # any other would print its traceback
        return result.exit_code, result.output
    done = subprocess.run(
        [BIN / program, "--bind", f"127.0.0.1:{free_port()}"],
        env=os.environ | environ,
        cwd=ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        check=False,
        text=True,
        timeout=60,
    )
    return done.returncode, done.stdout


def unreachable() -> dict[str, str]:
    return {"DATABASE_URL": f"postgresql://augu:{PASSWORD}@127.0.0.1:{free_port()}/augu"}


FAILING: dict[str, Callable[[], dict[str, str]]] = {
    "a short secret": lambda: {"AUGU_SECRET_KEYS": f"{MARKS[0]},{PASSWORD}"},
    "a short secret alone": lambda: {"AUGU_SECRET_KEY": PASSWORD},
    "both": lambda: {"AUGU_SECRET_KEYS": MARKS[0], "AUGU_SECRET_KEY": MARKS[1]},
    "a short metrics token": lambda: {"AUGU_METRICS_TOKEN": PASSWORD},
    "a database that does not answer": unreachable,
    "a password that looks like a port": lambda: {"DATABASE_URL": f"postgresql://augu:{PASSWORD}"},
    "a password with an @": lambda: {"DATABASE_URL": f"postgresql://augu:a@{PASSWORD}@localhost/augu"},
    "a mistyped scheme": lambda: {"DATABASE_URL": f"postgrse://augu:{PASSWORD}@localhost/augu"},
    "a bad option": lambda: {"DATABASE_URL": f"postgresql://augu:{PASSWORD}@localhost/augu?sslmod={PASSWORD}"},
    "a storage of another kind": lambda: {"AUGU_RATELIMIT_STORAGE": f"memcached://augu:{PASSWORD}@localhost:1"},
}


SERVED = "both", "a database that does not answer", "a storage of another kind"  # where a server differs


@pytest.mark.parametrize(
    ("program", "reason"), [("augu-api", reason) for reason in FAILING] + [("gunicorn", reason) for reason in SERVED]
)
def test_a_failing_start_shows_no_secret(tmp_path: Path, program: str, reason: str) -> None:
    """The server and the command line name a bad setting in one line, and show no part of its value."""
    given = {"AUGU_DATA_DIR": str(tmp_path), "WEB_CONCURRENCY": "1"} | FAILING[reason]()
    code, printed = outcome(program, given)
    assert code in (1, 3)
    assert re.search(r"Error: (AUGU_|DATABASE_URL|The database cannot be used: )", printed)
    assert "Traceback" not in printed
    for secret in (*MARKS, PASSWORD):
        assert secret not in printed


def test_a_running_server_shows_no_secret(serve: Serve, postgres: str) -> None:
    """A server prints no secret or token from start to stop, through good and bad requests."""
    server = serve(
        WEB_CONCURRENCY="1",
        AUGU_ENV="production",
        AUGU_SECRET_KEYS=",".join(MARKS[:2]),
        AUGU_METRICS_TOKEN=MARKS[2],
        DATABASE_URL=postgres.replace("augu@", f"augu:{PASSWORD}@"),
    )
    token = server.run("users", "add", "alice").strip()
    replaced = server.run("tokens", "regenerate", "alice").strip()
    for path, secret in (("/session", token), ("/session", replaced), ("/metrics", MARKS[2]), ("/metrics", MARKS[0])):
        received(server.port, f"GET {path} HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {secret}\r\n\r\n")
        received(server.port, f"GET {path}?token={secret} HTTP/1.1\r\nHost: x\r\nAuthorization Bearer {secret}\r\n\r\n")
        received(server.port, f"GET /{secret} HTTP/1.1\r\nHost: x\r\nUser-Agent: x\r\nReferer: {secret}\r\n\r\n")
    gone(postgres)
    assert received(server.port, f"GET /session HTTP/1.1\r\nAuthorization: Bearer {replaced}\r\n\r\n")[0] == 503
    server.stop()
    log = server.log.read_text()
    assert '"status": 200' in log
    for secret in (*MARKS, PASSWORD, token, replaced):
        assert secret not in log


def gone(url: str) -> None:
    """Drop the tables."""
    engine = database.connect(url.replace("postgresql:", "postgresql+psycopg:"))
    migrate.downgrade(engine, "base")
    engine.dispose()


def test_an_error_of_the_storage_shows_no_secret(settings: Settings) -> None:
    """For a scheme that the limits library does not support, the error names only the setting."""
    engine = database.connect(settings.database_url)
    with pytest.raises(SettingsError, match=r"^AUGU_RATELIMIT_STORAGE: ") as raised:
        Quotas(engine, f"carrier-pigeon://augu:{PASSWORD}@localhost:1", 10)
    assert PASSWORD not in f"{raised.value} {raised.value.__cause__}"
    assert raised.value.__suppress_context__
