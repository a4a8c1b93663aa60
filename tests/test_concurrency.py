"""Accounts that many processes change at once, while a real server serves them.

The processes import this file: it imports little.
"""

import http.client
import os
from contextlib import closing

from sqlalchemy import Engine
from sqlalchemy.orm import Session

from augu_api import tokens
from augu_api.store import accounts, database
from augu_api.tokens import Token
from tests.helpers import AtOnce
from tests.servers import Serve


def ask(port: int, secret: str, token: Token) -> int:
    """The status of a request with the token."""
    with closing(http.client.HTTPConnection("127.0.0.1", port, timeout=60)) as connection:
        connection.request("GET", "/session", headers={"Authorization": f"Bearer {tokens.issue(secret, token)}"})
        return connection.getresponse().status


def replace_tokens(port: int, secret: str, url: str) -> tuple[list[Token], list[tuple[int, int]]]:
    """Replace alice's token 25 times; the tokens, and the replies to each new token and to its predecessor."""
    engine = database.connect(url)
    made, replies = [_new_token(engine)], []
    for _ in range(24):
        made.append(_new_token(engine))
        replies.append((ask(port, secret, made[-1]), ask(port, secret, made[-2])))
    engine.dispose()
    return made, replies


def _new_token(engine: Engine) -> Token:
    with Session(engine) as session, session.begin():
        return accounts.regenerate(accounts.find(session, "alice"))


def ban_and_unban(port: int, secret: str, url: str) -> list[int]:
    """Ban and unban this process's own user 25 times; the reply after each."""
    engine = database.connect(url)
    name = f"user-{os.getpid()}"
    with Session(engine) as session, session.begin():
        token = accounts.current_token(accounts.create(session, name))
    replies = []
    for _ in range(25):
        for change in (accounts.ban, accounts.unban):
            with Session(engine) as session, session.begin():
                change(accounts.find(session, name))
            replies.append(ask(port, secret, token))
    engine.dispose()
    return replies


def test_accounts_change_under_load(
    serve: Serve, tiny_model: dict[str, str], database_url: str, at_once: AtOnce
) -> None:
    """8 processes replace 200 tokens and set 200 bans while they send requests: each change holds once committed.

    A replaced token is never valid again, and exactly one token is valid in the end. No user passes after a ban was
    committed, and no request gets a database error.
    """
    secret = "s" * 32
    server = serve(WEB_CONCURRENCY="2", DATABASE_URL=database_url, AUGU_SECRET_KEY=secret, **tiny_model)
    server.run("users", "add", "alice", "--coefficient", "1000")
    done = at_once(replace_tokens, server.port, secret, database_url)
    made = [token for tokens_of_one, _ in done for token in tokens_of_one]
    replies = [reply for _, replies_of_one in done for reply in replies_of_one]
    assert len(set(made)) == 200
    assert {old for _, old in replies} == {401}
    assert {new for new, _ in replies} <= {200, 401}
    assert [token for token in made if ask(server.port, secret, token) == 200] == [max(made)]
    assert at_once(ban_and_unban, server.port, secret, database_url) == [[403, 200] * 25] * 8
