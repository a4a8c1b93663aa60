"""Users and the database they are kept in, on SQLite and on PostgreSQL."""

import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from alembic.autogenerate import compare_metadata
from alembic.runtime.migration import MigrationContext
from hypothesis import given
from hypothesis import strategies as st
from sqlalchemy import Engine, inspect, select, text
from sqlalchemy.exc import IntegrityError
from sqlalchemy.orm import Session

from augu_api.app import create_app
from augu_api.config import Settings
from augu_api.flags import DEFAULT_FLAGS, Flag
from augu_api.store import accounts, database, migrate
from augu_api.store.accounts import AccountError
from augu_api.store.models import Base, User
from augu_api.tokens import Token
from augu_api.web.service import KEY
from tests.helpers import AtOnce


@pytest.fixture
def session(engine: Engine) -> Iterator[Session]:
    with Session(engine) as session:
        yield session


# --- users


def test_create(session: Session) -> None:
    """A user is stored with the default and the given flags, and can be found by name and by id."""
    before = time.time() * 1000 - 1
    user = accounts.create(session, "alice", flags=Flag.EXPERIMENTAL)
    accounts.create(session, "bob@example.org", id=2**63 - 1, coefficient=2.5)
    session.commit()
    session.expire_all()
    assert (user.name, user.flags, user.coefficient) == ("alice", DEFAULT_FLAGS | Flag.EXPERIMENTAL, 0.8)
    assert isinstance(user.flags, Flag)
    assert before <= user.issued_at <= time.time() * 1000
    assert accounts.current_token(user) == Token(user.id, user.issued_at)
    bob = accounts.find(session, str(2**63 - 1))
    assert (bob.name, bob.flags, bob.coefficient, bob.banned_until) == ("bob@example.org", DEFAULT_FLAGS, 2.5, None)
    assert accounts.find(session, "alice") is accounts.find(session, str(user.id)) is user
    assert accounts.all_users(session) == [user, bob]


def test_made_ids_are_snowflakes(session: Session) -> None:
    """A generated id is a new positive 64-bit number that contains its creation time, as Discord's ids do."""
    ids = [accounts.create(session, f"user-{n}").id for n in range(50)]
    assert len(set(ids)) == 50
    for id in ids:
        assert 0 < id < 2**63
        assert abs(((id >> 22) + accounts.DISCORD_EPOCH) / 1000 - time.time()) < 60


BAD_NAMES = ["", "12345", "a b", "a" * 65, "alice\n", "a/b", "a\0b", "<b>", "\N{SNOWMAN}", "--help", "-x", "-", "100%"]
LOOK_ALIKES = [
    "\N{CYRILLIC SMALL LETTER A}lice",
    "\N{CYRILLIC SMALL LETTER ER}\N{CYRILLIC SMALL LETTER A}\N{CYRILLIC SMALL LETTER O}",
    "\N{FULLWIDTH LATIN SMALL LETTER A}lice",
    "\N{LATIN SMALL LETTER LONG S}am",
    "\N{KELVIN SIGN}im",
    "al\N{COMBINING ACUTE ACCENT}ice",
    "ali\N{ZERO WIDTH SPACE}ce",
    "\N{RIGHT-TO-LEFT OVERRIDE}ecila",
    "\N{HANGUL FILLER}",
    "\udcff",
]


@pytest.mark.parametrize("name", BAD_NAMES + LOOK_ALIKES, ids=lambda name: ascii(name[:9]))
def test_bad_name(session: Session, name: str) -> None:
    """A name is short and in ASCII, has no spaces, and cannot be mistaken for an id, an option or another letter."""
    with pytest.raises(AccountError, match="A name has 1 to 64"):
        accounts.create(session, name)


@pytest.mark.parametrize("id", [0, -1, 2**63])
def test_bad_id(session: Session, id: int) -> None:
    """An id is a positive 64-bit integer."""
    with pytest.raises(AccountError, match="An id is a whole number"):
        accounts.create(session, "alice", id=id)


@pytest.mark.parametrize("coefficient", [-0.1, 1_000_001, float("inf"), float("nan")])
def test_bad_coefficient(session: Session, coefficient: float) -> None:
    """A coefficient is a number from 0 to the maximum; a bad one leaves the old one in place."""
    with pytest.raises(AccountError, match="A coefficient is a number"):
        accounts.create(session, "alice", coefficient=coefficient)
    user = accounts.create(session, "bob")
    with pytest.raises(AccountError):
        accounts.set_coefficient(user, coefficient)
    assert user.coefficient == 0.8


@pytest.mark.parametrize(("name", "id"), [("alice", 2), ("bob", 1)])
def test_a_name_and_an_id_are_unique(session: Session, name: str, id: int) -> None:
    """A second user with the same name or id is refused, and the message names it."""
    accounts.create(session, "alice", id=1)
    with pytest.raises(AccountError, match=r"^There is a user (alice|with the id 1) already\.$"):
        accounts.create(session, name, id=id)


@pytest.mark.parametrize("name", ["Alice", "ALICE", "a1ice", "aIice", "AlICE"])
def test_names_that_look_the_same(session: Session, name: str) -> None:
    """A name that differs from another by case alone, or looks like it, is refused, also if a user gets it later."""
    accounts.create(session, "alice", id=1)
    bob = accounts.create(session, "b0b")
    for look_alike in ("B0b", "bob", "BOB"):
        with pytest.raises(AccountError, match=rf"^There is a user b0b already, and {look_alike} looks like that name"):
            accounts.create(session, look_alike)
    with pytest.raises(AccountError, match=rf"^There is a user alice already, and {name} looks like that name\.$"):
        accounts.create(session, name)
    with pytest.raises(AccountError, match="looks like"):
        accounts.rename(session, bob, name)
    assert bob.name == "b0b"


def test_rename(session: Session) -> None:
    """A renamed user keeps id and token, and may change the case of the own name; the old name is free."""
    alice = accounts.create(session, "alice")
    token = accounts.current_token(alice)
    for name in ("Alice", "carol@example.org"):
        accounts.rename(session, alice, name)
        session.commit()
        assert accounts.find(session, name).id == token.user_id
    assert accounts.find_by_token(session, token) is alice
    accounts.create(session, "alice")


@pytest.mark.parametrize("name", ["--help", LOOK_ALIKES[0], LOOK_ALIKES[1], "\N{HANGUL FILLER}"], ids=ascii)
def test_names_of_the_past(session: Session, name: str) -> None:
    """A user whose name was allowed by an older release can be found by name and id, changed, and renamed."""
    session.add(User(id=1, name=name, issued_at=1))
    session.commit()
    user = accounts.find(session, "1")
    assert accounts.find(session, name) is user
    accounts.rename(session, user, "alice")
    assert accounts.find(session, "alice") is user


@pytest.mark.parametrize("who", ["bob", "2", "", "ALICE", "9" * 19, "9" * 20, "1 ", "' OR 1=1 --", "٣"])
def test_an_unknown_user(session: Session, who: str) -> None:
    """The AccountError names the user that does not exist."""
    accounts.create(session, "alice", id=1)
    with pytest.raises(AccountError) as raised:
        accounts.find(session, who)
    assert str(raised.value) == f"There is no user {who}."


@given(st.integers(0, 2**11 - 1).map(Flag), st.sampled_from(list(Flag)))
def test_may(flags: Flag, flag: Flag) -> None:
    """A user needs all of the requested flags."""
    user = User(flags=flags)
    assert user.may(flag) == bool(flags & flag)
    assert user.may(flags)
    assert user.may(flags | flag) == bool(flags & flag)


def test_ban(session: Session) -> None:
    """A ban lasts for its time or permanently, and unbanning lifts both kinds."""
    user, now = accounts.create(session, "alice"), time.time()
    assert not user.is_banned(now)
    accounts.ban(user, 60)
    session.commit()
    assert user.is_banned(now)
    assert user.is_banned(now + 59)
    assert not user.is_banned(now + 120)
    accounts.ban(user)
    session.commit()
    assert user.is_banned(now + 10**9)
    accounts.unban(user)
    session.commit()
    assert not user.is_banned(now)
    assert user.flags == DEFAULT_FLAGS


def test_regenerate(session: Session) -> None:
    """Only the newest token is valid, even of several made in one millisecond or after the clock was set back."""
    user = accounts.create(session, "alice")
    user.issued_at += 3_600_000
    made = [accounts.current_token(user)] + [accounts.regenerate(user) for _ in range(20)]
    session.commit()
    assert len(set(made)) == len(made)
    assert [token for token in made if accounts.find_by_token(session, token)] == [made[-1]]
    assert accounts.find_by_token(session, Token(user.id + 1, user.issued_at)) is None


def regenerate_in(url: str) -> Token:
    engine = database.connect(url)
    with Session(engine) as session, session.begin():
        return accounts.regenerate(accounts.find(session, "alice"))


def test_regenerate_at_once(engine: Engine, database_url: str, at_once: AtOnce) -> None:
    """8 processes at once make 8 different tokens, and only the newest is valid."""
    with Session(engine) as session, session.begin():
        first = accounts.current_token(accounts.create(session, "alice"))
    made = [first, *at_once(regenerate_in, database_url)]
    assert len(set(made)) == 9
    with Session(engine) as session:
        assert [token for token in made if accounts.find_by_token(session, token)] == [max(made)]


def create_in(url: str) -> bool:
    engine = database.connect(url)
    try:
        with Session(engine) as session, session.begin():
            accounts.create(session, "alice")
    except (AccountError, IntegrityError):
        return False
    return True


def test_create_at_once(engine: Engine, database_url: str, at_once: AtOnce) -> None:
    """Only one of 8 processes that add the same user at once succeeds."""
    assert sorted(at_once(create_in, database_url)) == [False] * 7 + [True]
    with Session(engine) as session:
        assert len(accounts.all_users(session)) == 1


# --- the database


def test_models_are_migrated(engine: Engine) -> None:
    """The migrations make exactly the tables that the models describe."""
    with engine.connect() as connection:
        assert compare_metadata(MigrationContext.configure(connection), Base.metadata) == []


def test_the_newest_revision() -> None:
    """The revision that a start compares the tables with is the newest one."""
    assert migrate.revisions()[0] == database.NEWEST


def test_upgrade_downgrade_upgrade(database_url: str) -> None:
    """The tables can be created, dropped and created again; a second upgrade keeps their rows."""
    engine = database.connect(database_url)
    assert database.current(engine) is None
    for _ in range(2):
        migrate.upgrade(engine)
        with Session(engine) as session, session.begin():
            accounts.create(session, "alice")
        migrate.upgrade(engine)
        assert database.current(engine) == database.NEWEST
        with Session(engine) as session:
            assert [user.name for user in accounts.all_users(session)] == ["alice"]
        migrate.downgrade(engine, "base")
        assert database.current(engine) is None
        assert inspect(engine).get_table_names() == ["alembic_version"]
    engine.dispose()


def test_a_failed_change_leaves_nothing(engine: Engine) -> None:
    """A session that fails leaves none of its changes."""
    for _ in range(2):
        with pytest.raises(AccountError), Session(engine) as session, session.begin():
            accounts.set_coefficient(accounts.create(session, "alice"), -1)
    with Session(engine) as session:
        assert session.scalars(select(User)).all() == []


def start_in(folder: Path, url: str) -> str | None:
    app = create_app(Settings.from_env({"AUGU_DATA_DIR": str(folder), "DATABASE_URL": url}))
    return database.current(app.extensions[KEY].engine)


@pytest.mark.parametrize("round_", range(5))
def test_start_at_once(tmp_path: Path, database_url: str, at_once: AtOnce, round_: int) -> None:
    """8 processes that start at once without a database all start, and create it once."""
    assert at_once(start_in, tmp_path, database_url) == [database.NEWEST] * 8
    engine = database.connect(database_url)
    with engine.connect() as connection:
        assert connection.execute(text("SELECT version_num FROM alembic_version")).all() == [(database.NEWEST,)]
    assert set(inspect(engine).get_table_names()) == {"alembic_version", "counts", "users"}
    engine.dispose()


def test_sqlite_settings(tmp_path: Path) -> None:
    """SQLite uses a write-ahead log, so that readers do not wait for a writer, and waits for other writers."""
    engine = database.connect(f"sqlite:///{tmp_path / 'augu.db'}")
    with database.one_statement(engine).connect() as connection:
        pragmas = [connection.exec_driver_sql(f"PRAGMA {name}").scalar() for name in ("journal_mode", "busy_timeout")]
    engine.dispose()
    assert pragmas == ["wal", 30_000]


def test_reading_while_writing(engine: Engine) -> None:
    """A request is authenticated while another process holds a write transaction open."""
    with Session(engine) as session, session.begin():
        token = accounts.current_token(accounts.create(session, "alice"))
    with Session(engine) as writer, writer.begin(), Session(database.one_statement(engine)) as reader:
        accounts.find(writer, "alice").coefficient = 2
        writer.flush()
        found = accounts.find_by_token(reader, token)
        assert found is not None
        assert found.coefficient == 0.8
