"""How many requests a user may make, and the ban for those who go on asking."""

import math
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import cast

from limits import RateLimitItemPerMinute
from limits.errors import ConfigurationError
from limits.storage import Storage, storage_from_string
from limits.strategies import FixedWindowRateLimiter
from sqlalchemy import Engine, delete, select, text
from sqlalchemy.exc import SQLAlchemyError
from sqlalchemy.orm import Session

from augu_api.config import SettingsError
from augu_api.store import accounts
from augu_api.store.database import one_statement
from augu_api.store.models import Count, User

WINDOW = 60  # seconds
REFUSALS = 50
COUNT = text("""
    INSERT INTO counts (key, count, expires_at) VALUES (:key, :amount, :now + :expiry)
    ON CONFLICT (key) DO UPDATE SET
        count = CASE WHEN counts.expires_at > :now THEN counts.count ELSE 0 END + :amount,
        expires_at = CASE WHEN counts.expires_at > :now AND counts.expires_at < :now + :expiry
            THEN counts.expires_at ELSE :now + :expiry END
    RETURNING count, expires_at
""")


@dataclass(frozen=True)
class Quota:
    """A user's window: the cap, how many requests were counted, and when it ends (Unix time)."""

    limit: int
    counted: int
    ends: float

    @property
    def remaining(self) -> int:
        """The requests left."""
        return max(0, self.limit - self.counted)

    @property
    def reset(self) -> int:
        """The whole seconds until the window ends."""
        return max(0, math.ceil(self.ends - time.time()))


class QuotaExceeded(Exception):
    """The user has no requests left in this window."""

    def __init__(self, quota: Quota) -> None:
        self.quota = quota


class DatabaseStorage(Storage):
    """Counts for `limits`, kept in the application's database; each is one atomic statement.

    A clock that was set back does not keep a window open for longer than one: the count stays, its end comes nearer.
    """

    STORAGE_SCHEME = None

    def __init__(self, engine: Engine, clock: Callable[[], float] = time.time) -> None:
        super().__init__(wrap_exceptions=True)
        self.engine, self.clock = one_statement(engine), clock

    @property
    def base_exceptions(self) -> type[Exception]:
        return SQLAlchemyError

    def incr(self, key: str, expiry: int, amount: int = 1) -> int:
        """Count `amount` more in the key's window, or in a new one of `expiry` seconds; the sum so far."""
        return self.count(key, expiry, amount)[0]

    def count(self, key: str, expiry: int, amount: int = 1) -> tuple[int, float]:
        """As `incr`, and when the window ends (Unix time)."""
        values = {"key": key, "amount": amount, "now": self.clock(), "expiry": expiry}
        with self.engine.connect() as connection:
            counted, ends = connection.execute(COUNT, values).one()
        return counted, ends

    def get(self, key: str) -> int:
        """The count of the key's window."""
        query = select(Count.count).where(Count.key == key, Count.expires_at > self.clock())
        with self.engine.connect() as connection:
            return connection.execute(query).scalar() or 0

    def get_expiry(self, key: str) -> float:
        """When the key's window ends (Unix time); now, if it has none."""
        query = select(Count.expires_at).where(Count.key == key)
        with self.engine.connect() as connection:
            return max(connection.execute(query).scalar() or 0.0, self.clock())

    def check(self) -> bool:
        """Whether the database answers."""
        with self.engine.connect() as connection:
            return bool(connection.execute(select(1)).scalar())

    def reset(self) -> int | None:
        """Forget every count."""
        with self.engine.connect() as connection:
            return connection.execute(delete(Count)).rowcount

    def clear(self, key: str) -> None:
        """Forget one."""
        with self.engine.connect() as connection:
            connection.execute(delete(Count).where(Count.key == key))


class Quotas:
    """A fixed window of 60 seconds for each user. The 50th refusal within `ban_minutes` bans for as long."""

    def __init__(self, engine: Engine, storage_url: str, ban_minutes: int) -> None:
        self.engine = engine
        self.storage = _shared(storage_url) if storage_url else DatabaseStorage(engine)
        self.limiter = FixedWindowRateLimiter(self.storage)
        self.refusals = RateLimitItemPerMinute(REFUSALS - 1, ban_minutes, namespace="refusals")

    def count(self, user: User) -> Quota:
        """Count a request; raises QuotaExceeded past the cap, and bans a user who is past it too often."""
        quota = Quota(user.cap, *self._counted(_key(user)))
        if quota.counted <= quota.limit:
            return quota
        if not self.limiter.hit(self.refusals, str(user.id)):
            with Session(self.engine) as session, session.begin():
                if current := session.get(User, user.id):
                    accounts.ban(current, self.refusals.get_expiry())
            self.limiter.clear(self.refusals, str(user.id))
        raise QuotaExceeded(quota)

    def left(self, user: User) -> Quota:
        """What is left of the user's window."""
        key = _key(user)
        return Quota(user.cap, self.storage.get(key), self.storage.get_expiry(key))

    def check(self) -> bool:
        """Whether the storage of the counts answers."""
        return self.storage.check()

    def _counted(self, key: str) -> tuple[int, float]:
        """The sum after one more, and when its window ends: in the database a single statement says both."""
        if isinstance(self.storage, DatabaseStorage):
            return self.storage.count(key, WINDOW)
        return self.storage.incr(key, WINDOW), self.storage.get_expiry(key)


def _key(user: User) -> str:
    """The name of a user's count: another cap starts another window."""
    return f"requests/{user.id}/{user.cap}"


def _shared(url: str) -> Storage:
    """A storage of the limits library. Raises SettingsError, which does not show the URL: its password is in it."""
    try:
        shared = storage_from_string(url, wrap_exceptions=True)
    except ConfigurationError:
        raise SettingsError(
            "AUGU_RATELIMIT_STORAGE: the limits library does not know this scheme or needs another package for it"
        ) from None
    return cast("Storage", shared)  # the library has asynchronous ones too
