"""The request log and the metrics."""

import json
import subprocess
import sys
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import pytest
from flask.testing import FlaskClient
from hypothesis import given
from hypothesis import strategies as st
from prometheus_client.parser import text_string_to_metric_families
from sqlalchemy import text
from sqlalchemy.orm import Session

from augu_api.app import create_app
from augu_api.config import ROOT, Settings
from augu_api.flags import NO_FLAGS
from augu_api.store import accounts
from augu_api.web.agents import MAX_AGENTS, OTHER, Agents
from augu_api.web.service import KEY, Service
from tests.helpers import OBJECTS, AddUser, FakeDetector, full

METRICS_TOKEN = "a metrics token of 32 characters"


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    """Settings that allow metrics."""
    return Settings.from_env({"AUGU_DATA_DIR": str(tmp_path / "data"), "AUGU_METRICS_TOKEN": METRICS_TOKEN})


# --- the log


FIELDS = [
    *("time", "level", "logger", "message"),
    *("id", "user", "agent", "method", "route", "status", "milliseconds"),
]


def test_log(tmp_path: Path) -> None:
    """Each request is one line of JSON with these fields; no token and no part of an image is in any line."""
    done = subprocess.run(
        [sys.executable, "-m", "tests.logged", str(tmp_path)], cwd=ROOT, capture_output=True, text=True, check=True
    )
    assert not [secret for secret in done.stderr.split(" ") if secret in done.stdout]
    lines = [json.loads(line) for line in done.stdout.splitlines()]
    requests = [line for line in lines if line["logger"] == "augu_api.requests"]
    assert [list(line) for line in requests] == [FIELDS] * 5
    assert [(line["status"], line["route"], line["user"]) for line in requests] == [
        (200, OBJECTS, "42"),
        (500, OBJECTS, "42"),
        (400, OBJECTS, "42"),
        (404, "none", None),
        (401, "/session", None),
    ]
    assert {line["method"] for line in requests} == {"POST", "GET"}
    assert {line["level"] for line in requests} == {"INFO"}
    assert requests[0]["id"] == "mine"
    assert requests[0]["agent"] == ("bot/1 " + "x" * 500)[:200]
    assert all(line["milliseconds"] >= 0 for line in requests)
    [error] = [line for line in lines if line["level"] == "ERROR"]
    assert "RuntimeError: a bug" in error["exc_info"]
    assert len(lines) == 6


# --- metrics

Samples = Counter[tuple[str, ...]]


def samples(client: FlaskClient) -> Samples:
    """The counts that GET /metrics shows, by name and the values of the labels, which are sorted by name."""
    reply = client.get("/metrics", headers={"Authorization": f"Bearer {METRICS_TOKEN}"})
    assert reply.status_code == 200
    assert reply.mimetype == "text/plain"
    families = text_string_to_metric_families(reply.text)
    return Counter(
        {
            (s.name, *(value for _, value in sorted(s.labels.items()))): s.value
            for family in families
            for s in family.samples
        }
    )


@pytest.fixture
def counted(client: FlaskClient) -> Callable[[], Samples]:
    """What was counted since the test began."""
    before = samples(client)

    def since() -> Samples:
        now = samples(client)
        now.subtract(before)
        return now

    return since


def test_no_metrics(tmp_path: Path, detector: FakeDetector) -> None:
    """While no token is set, metrics are refused to everyone."""
    app = create_app(Settings.from_env({"AUGU_DATA_DIR": str(tmp_path)}), detector)
    for headers in ({}, {"Authorization": "Bearer "}, {"Authorization": f"Bearer {METRICS_TOKEN}"}):
        reply = app.test_client().get("/metrics", headers=headers)
        assert (reply.status_code, json.loads(reply.data)["error"]) == (403, "Forbidden")
    app.extensions[KEY].engine.dispose()


@pytest.mark.parametrize(
    "authorization", [None, "Bearer", f"Basic {METRICS_TOKEN}", f"Bearer {METRICS_TOKEN}x", "Bearer é", METRICS_TOKEN]
)
def test_wrong_metrics_token(client: FlaskClient, authorization: str | None) -> None:
    """Metrics need the metrics token; with any other the reply is 401."""
    headers = {"Authorization": authorization} if authorization else {}
    reply = client.get("/metrics", headers=headers)
    assert (reply.status_code, json.loads(reply.data)["error"]) == (401, "Unauthorized")


def test_a_users_token_shows_no_metrics(client: FlaskClient, auth: dict[str, str]) -> None:
    """A token of an API user does not give access to the metrics."""
    assert client.get("/metrics", headers=auth).status_code == 401


def test_requests(client: FlaskClient, auth: dict[str, str], counted: Callable[[], Samples], photo: str) -> None:
    """Requests are counted and timed by route, and counted by status and agent; an unknown path adds no label."""
    for path in ("/nowhere", "/nowhere/else"):
        client.get(path)
    for _ in range(3):
        client.get("/session", headers=auth | {"User-Agent": "TestBot/2.1 (+https://example.org)"})
    client.post(OBJECTS, data=photo, headers=auth | {"User-Agent": "TestBot"})
    client.post(OBJECTS, data="no", headers=auth | {"User-Agent": "TestBot/3"})
    now = counted()
    assert now["augu_requests_total", OTHER, "none", "404"] == 2
    assert now["augu_requests_total", "TestBot", "/session", "200"] == 3
    assert now["augu_requests_total", "TestBot", OBJECTS, "200"] == 1
    assert now["augu_requests_total", "TestBot", OBJECTS, "400"] == 1
    assert now["augu_request_seconds_count", "/session"] == 3
    assert now["augu_detection_seconds_count",] == 1
    assert now["augu_detection_seconds_sum",] > 0


def test_objects(client: FlaskClient, auth: dict[str, str], counted: Callable[[], Samples], photo: str) -> None:
    """Only the objects that were returned are counted, by name."""
    client.post(f"{OBJECTS}?min_score=0&limit=2", data=photo, headers=auth)
    client.post(OBJECTS, data=photo, headers=auth)
    client.post(f"{OBJECTS}?names=cat", data=photo, headers=auth)
    now = counted()
    assert [now["augu_objects_total", name] for name in ("person", "cat", "dog")] == [2, 3, 0]


def test_model(client: FlaskClient) -> None:
    """The metrics show the facts of the loaded model."""
    assert samples(client)["augu_model_info", "none", "fake", "0"] == 1


def test_refusals(
    client: FlaskClient, service: Service, add_user: AddUser, counted: Callable[[], Samples], photo: str
) -> None:
    """Each gate's refusals are counted with its own reason."""

    def post(authorization: str, data: str = photo) -> int:
        return client.post(OBJECTS, data=data, headers={"Authorization": authorization}).status_code

    good, poor = add_user("good"), add_user("poor", coefficient=0)
    plain, banned = add_user("plain", NO_FLAGS), add_user("banned")
    with Session(service.engine) as session, session.begin():
        accounts.ban(accounts.find(session, "banned"))
    assert [post(who) for who in ("Bearer no", banned, poor, plain)] == [401, 403, 429, 403]
    assert post(good, "no") == 400
    assert client.get("/metrics").status_code == 401
    with full(service):
        assert post(good) == 503
    with service.engine.begin() as connection:
        connection.execute(text("DROP TABLE counts"))
    assert post(good) == 503
    now = counted()
    reasons = ("token", "ban", "quota", "flags", "body", "metrics", "admission", "unavailable")
    assert {reason: now["augu_refusals_total", reason] for reason in reasons} == dict.fromkeys(reasons, 1)


def test_a_full_queue_does_not_use_up_the_quota(
    client: FlaskClient, service: Service, add_user: AddUser, photo: str
) -> None:
    """A request that is refused because the queue is full does not count towards the quota."""
    headers = {"Authorization": add_user()}
    with full(service):
        reply = client.post(OBJECTS, data=photo, headers=headers)
    assert (reply.status_code, reply.headers["Retry-After"]) == (503, "1")
    assert reply.headers["X-Ratelimit-Remaining"] == "48"


def test_agents_without_a_token(client: FlaskClient, auth: dict[str, str], counted: Callable[[], Samples]) -> None:
    """A caller without a valid token cannot create labels or use up the 50 names."""
    for n in range(2 * MAX_AGENTS):
        client.get("/session", headers={"User-Agent": f"stranger-{n}"})
    client.get("/session", headers=auth | {"User-Agent": "friend/1"})
    now = counted()
    assert now["augu_requests_total", OTHER, "/session", "401"] == 2 * MAX_AGENTS
    assert now["augu_requests_total", "friend", "/session", "200"] == 1
    assert not [labels for labels in now if "stranger" in " ".join(labels)]


@pytest.mark.parametrize("shared", [True, False])
def test_agents(tmp_path: Path, shared: bool) -> None:
    """The first 50 names become labels, every later one is `other`; two workers with one folder share the names."""
    one = Agents(tmp_path if shared else None)
    two = Agents(tmp_path) if shared else one
    names = [f"bot{n}" for n in range(60)]
    labels = [(one, two)[n % 2].label(f"{name}/1.0", may_be_new=True) for n, name in enumerate(names)]
    assert labels == names[:50] + [OTHER] * 10
    for agents in (one, two):
        assert [agents.label(name, may_be_new=True) for name in names] == labels


def test_agents_of_other_workers(tmp_path: Path) -> None:
    """A worker learns another worker's name when it may add it, and a name is stored only once."""
    one, two = Agents(tmp_path), Agents(tmp_path)
    assert one.label("bot", may_be_new=True) == "bot"
    assert two.label("bot", may_be_new=False) == OTHER
    assert two.label("bot", may_be_new=True) == "bot"
    assert (tmp_path / "agents").read_text() == "bot\n"


def test_agents_without_a_folder(tmp_path: Path) -> None:
    """Names can be labels in a process of its own if the folder is gone; a name that cannot be kept is `other`."""
    assert Agents(tmp_path / "gone").label("bot/1.0", may_be_new=True) == "bot"
    (tmp_path / "agents").symlink_to("/dev/full")
    assert Agents(tmp_path).label("bot/1.0", may_be_new=True) == OTHER


def label_all(folder: Path) -> list[str]:
    agents = Agents(folder)
    return [agents.label(f"bot{n}", may_be_new=True) for n in range(60)]


def test_agents_at_once(tmp_path: Path, at_once: Callable[..., list[list[str]]]) -> None:
    """8 workers that get the same 60 names at once agree on the same 50."""
    [labels] = {tuple(labels) for labels in at_once(label_all, tmp_path)}
    assert labels == (*(f"bot{n}" for n in range(50)), *[OTHER] * 10)


@given(st.text(max_size=300))
def test_any_user_agent(user_agent: str) -> None:
    """The label of any User-Agent is the short product name at its start, or `other`."""
    label = Agents(None).label(user_agent, may_be_new=True)
    assert label == OTHER or (user_agent.startswith(label) and 0 < len(label) <= 40 and label.isascii())
    assert not set(label) & set(' "\\\n/{},')


@pytest.mark.parametrize("user_agent", ["", "/1", "(X11)", "é", "a" * 41, "two words", "a,b"])
def test_odd_user_agents(user_agent: str) -> None:
    """A User-Agent without a product name, or with one that is too long, becomes `other`."""
    expected = "two" if user_agent == "two words" else OTHER
    assert Agents(None).label(user_agent, may_be_new=True) == expected
