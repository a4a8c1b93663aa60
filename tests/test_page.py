"""The page at `/`, as Chromium shows it: what a person sees, does and is told."""

import re
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from playwright.sync_api import Browser, BrowserContext, Page, expect

from augu_api.config import Settings
from augu_api.detection.catalogue import find
from tests.conftest import OBJECTS, Server, serving
from tests.test_cluster import add

NAMES = [name for name in find("bundled", Settings()).names if name != "N/A"]
Open = Callable[..., Page]


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """One server for all tests of this file."""
    with serving(tmp_path_factory.mktemp("page")) as start:
        yield start(WEB_CONCURRENCY="1")


@pytest.fixture
def token(server: Server, request: pytest.FixtureRequest) -> str:
    """The token of a user with plenty of requests."""
    return add(server, re.sub(r"\W", "_", request.node.name)[:64], 1000)


@pytest.fixture
def context(browser: Browser) -> Iterator[BrowserContext]:
    """A browser that nobody used before; an error of a script fails the test."""
    errors: list[str] = []
    context = browser.new_context(viewport={"width": 1100, "height": 900})
    context.set_default_timeout(30_000)
    context.on("weberror", lambda error: errors.append(str(error.error)))
    yield context
    context.close()
    assert errors == []


@pytest.fixture
def page(context: BrowserContext, server: Server) -> Page:
    """The page, loaded."""
    page = context.new_page()
    page.goto(server.url)
    return page


def objects_of(page: Page, act: Callable[[], object]) -> list[dict[str, Any]]:
    """The objects of the reply that the page gets when something is done."""
    with page.expect_response(lambda response: OBJECTS in response.url) as reply:
        act()
    found: list[dict[str, Any]] = reply.value.json()["data"]["objects"]
    return found


def test_the_example(page: Page, token: str) -> None:
    """The built-in photo is tried with one press."""
    page.get_by_label("Token", exact=True).fill(token)
    found = objects_of(page, page.get_by_role("button", name="Try the example").click)
    expect(page.get_by_role("listitem")).to_have_count(sum(item["score"] >= 50 for item in found))
