"""AUGU_CORS_ORIGINS: what pages of other sites get to see, as headers and in Chromium."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import replace
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from typing import TYPE_CHECKING, Any

import pytest
from flask.testing import FlaskClient
from werkzeug.test import TestResponse

from augu_api.config import ROOT, Settings
from augu_api.flags import Flag
from augu_api.web.service import KEY
from tests.helpers import BAD_TOKEN, LOOPBACK, METRICS_TOKEN, OBJECTS, FakeDetector, MakeApp, add_user_to, bearer, full
from tests.servers import Nginx, add, serving

if TYPE_CHECKING:
    from playwright.sync_api import Browser

APP, OTHER = "https://app.example.org", "http://localhost:3000"
ASKS = {"Access-Control-Request-Method": "POST", "Access-Control-Request-Headers": "authorization,content-type"}
STRANGERS = [
    "",
    "null",
    "*",
    "https://app.example.org.evil.example",
    "https://app.example.or",
    "https://App.example.org",
    "https://app.example.org/",
    "https://app.example.org:443",
    "http://app.example.org",
    f"{APP},{OTHER}",
]


@pytest.fixture
def client(make_app: MakeApp, settings: Settings, detector: FakeDetector) -> FlaskClient:
    """A client of a service that lists two origins."""
    settings = replace(settings, cors_origins=(APP, OTHER), metrics_token=METRICS_TOKEN)
    return make_app(settings, detector).test_client()


def shared(response: TestResponse) -> dict[str, str]:
    """The headers of CORS, their names without the prefix that all have."""
    prefix = "Access-Control-"
    return {name.removeprefix(prefix): value for name, value in response.headers if name.startswith(prefix)}


def names(header: str) -> set[str]:
    return {name.strip().lower() for name in header.split(",")}


@pytest.mark.parametrize("origin", [APP, OTHER])
@pytest.mark.parametrize("path", [OBJECTS, "/session", "/nothing"])
def test_a_preflight(client: FlaskClient, origin: str, path: str) -> None:
    """A preflight of a listed origin gets 204 without a body, also for a path that does not exist."""
    response = client.options(path, headers=ASKS | {"Origin": origin})
    assert (response.status_code, response.data) == (204, b"")
    assert "Content-Type" not in response.headers
    said = shared(response)
    assert said["Allow-Origin"] == origin
    assert names(said["Allow-Methods"]) == {"get", "post"}
    assert names(said["Allow-Headers"]) == {"authorization", "content-type", "x-request-id"}
    assert int(said["Max-Age"]) > 0
    assert "Origin" in response.vary
    assert "Allow-Credentials" not in said


FAILURES: list[tuple[int, str, str, dict[str, Any]]] = [
    (200, "POST", OBJECTS, {}),
    (200, "GET", "/health/live", {}),
    (400, "POST", OBJECTS, {"body": b"no photo"}),
    (401, "POST", OBJECTS, {"headers": BAD_TOKEN}),
    (403, "POST", OBJECTS, {"user": {"flags": Flag(0)}}),
    (404, "GET", "/nothing", {}),
    (405, "PUT", OBJECTS, {}),
    (405, "OPTIONS", OBJECTS, {}),
    (429, "POST", OBJECTS, {"user": {"coefficient": 0}}),
    (431, "GET", "/session", {"headers": {"X-Long": "x" * 20_000}}),
    (503, "POST", OBJECTS, {"full": True}),
]


@pytest.mark.parametrize(("status", "method", "path", "given"), FAILURES)
def test_every_reply(
    client: FlaskClient, photo: str, status: int, method: str, path: str, given: dict[str, Any]
) -> None:
    """A page of a listed origin can read each reply and its headers; caches keep the replies of origins apart."""
    service = client.application.extensions[KEY]
    token = bearer(add_user_to(service, **given.get("user", {})))
    headers = token | given.get("headers", {}) | {"Origin": APP}
    with full(service) if "full" in given else nullcontext():
        response = client.open(path, method=method, data=given.get("body", photo), headers=headers)
    assert response.status_code == status
    said = shared(response)
    assert set(said) == {"Allow-Origin", "Expose-Headers"}
    assert said["Allow-Origin"] == APP
    own = {"X-Ratelimit-Limit", "X-Ratelimit-Remaining", "X-Ratelimit-Reset", "X-Retry-After", "Retry-After"}
    assert names(said["Expose-Headers"]) == {name.lower() for name in own | {"X-Request-Id"}}
    assert "Origin" in response.vary
    assert ("Accept" in response.vary) is ((status, path) == (200, OBJECTS))


@pytest.mark.parametrize("origin", STRANGERS)
def test_other_origins(client: FlaskClient, origin: str) -> None:
    """An origin that is not listed, however similar, gets nothing of CORS, and its preflight the usual 405."""
    preflight = client.options(OBJECTS, headers=ASKS | {"Origin": origin})
    reply = client.get("/health/live", headers={"Origin": origin})
    assert [preflight.status_code, reply.status_code] == [405, 200]
    for response in (preflight, reply):
        assert shared(response) == {}
        assert "Origin" in response.vary


def test_metrics_are_not_shared(client: FlaskClient) -> None:
    """/metrics is not for pages."""
    headers = bearer(f"Bearer {METRICS_TOKEN}") | {"Origin": APP}
    replies = [client.get("/metrics", headers=headers), client.options("/metrics", headers=ASKS | {"Origin": APP})]
    assert [reply.status_code for reply in replies] == [200, 405]
    for reply in replies:
        assert shared(reply) == {}
        assert "Origin" not in reply.vary


def test_it_is_off_by_default(make_app: MakeApp, settings: Settings, detector: FakeDetector) -> None:
    """Without the setting, no origin gets anything, and replies do not depend on it."""
    client = make_app(settings, detector).test_client()
    replies = [
        client.options(OBJECTS, headers=ASKS | {"Origin": APP}),
        client.get("/session", headers={"Origin": APP}),
    ]
    assert [reply.status_code for reply in replies] == [405, 401]
    for reply in replies:
        assert shared(reply) == {}
        assert "Origin" not in reply.vary


# --- in a browser

FETCH = """async ([url, token, photo]) => {
    const body = await (await fetch(photo)).blob();
    const headers = { Authorization: `Bearer ${token}`, "Content-Type": "image/png", "X-Request-Id": "mine" };
    try {
        const response = await fetch(url, { method: "POST", headers, body });
        return { reply: await response.json(), headers: Object.fromEntries(response.headers) };
    } catch (error) {
        return error.name;
    }
}"""


class Site(SimpleHTTPRequestHandler):
    """Another site's server: it serves the files of the folder examples/."""

    def log_message(self, *_: object) -> None:
        """Say nothing."""


@contextmanager
def site() -> Iterator[str]:
    """The origin of another site with a page and a photo."""
    with ThreadingHTTPServer((LOOPBACK, 0), partial(Site, directory=str(ROOT / "examples"))) as server:
        Thread(target=server.serve_forever, args=(0.05,), daemon=True).start()
        yield f"http://{LOOPBACK}:{server.server_address[1]}"
        server.shutdown()


@pytest.fixture
def fetched(browser: "Browser", nginx: Nginx, tmp_path: Path) -> Iterator[Callable[..., Any]]:
    """Post a photo through nginx from a page of a listed origin, or of another: `fetched("listed", token)`."""
    with site() as listed, site() as other, serving(tmp_path) as start:
        server = start(WEB_CONCURRENCY="1", AUGU_CORS_ORIGINS=f"https://app.example.org,{listed}")
        token, port = add(server), nginx(server.port)

        def fetch(origin: str, given: str = token) -> Any:
            page = browser.new_page()
            page.goto({"listed": listed, "other": other}[origin])
            found = page.evaluate(FETCH, [f"http://{LOOPBACK}:{port}{OBJECTS}", given, "/street.png"])
            page.close()
            return found

        yield fetch


def test_a_page_of_another_site(fetched: Callable[..., Any]) -> None:
    """In Chromium, a page of a listed origin reads objects, limits and refusals; a page of another origin nothing."""
    found = fetched("listed")
    assert [item["name"] for item in found["reply"]["data"]["objects"]] == ["stop sign", "traffic light"]
    assert [found["headers"][f"x-ratelimit-{name}"] for name in ("limit", "remaining")] == ["48", "47"]
    assert found["headers"]["x-request-id"] == "mine"
    refused = fetched("listed", "wrong")
    assert (refused["reply"]["statusCode"], refused["headers"]["x-request-id"]) == (401, "mine")
    assert fetched("other") == "TypeError"
