"""Fixtures of DeepStack's protocol."""

from dataclasses import replace

import pytest

from augu_api.config import Settings
from tests.helpers import AddUser
from tests.servers import Serve, Server


@pytest.fixture
def settings(settings: Settings) -> Settings:
    return replace(settings, deepstack=True)


@pytest.fixture
def token(add_user: AddUser) -> str:
    """The token of a user with both flags and plenty of requests."""
    return add_user(coefficient=1000).removeprefix("Bearer ")


@pytest.fixture
def server(serve: Serve) -> Server:
    """A server where requests without a token are those of `cameras`, which exists if a test adds it."""
    return serve(WEB_CONCURRENCY="1", AUGU_DEEPSTACK="1", AUGU_DEEPSTACK_KEYLESS="cameras@127.0.0.1")
