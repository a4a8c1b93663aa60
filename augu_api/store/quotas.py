"""Rate limits: a window for each user, and a temporary ban for a user who ignores the refusals."""

import math
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import cast

from limits import RateLimitItemPerMinute
from limits.errors import ConfigurationError, StorageError
from limits.storage import RedisStorage, Storage, storage_from_string
from limits.strategies import FixedWindowRateLimiter
from sqlalchemy import Connection, Engine, delete, select, text
from sqlalchemy.exc import DBAPIError, TimeoutError
from sqlalchemy.orm import Session

from augu_api.config import SettingsError
from augu_api.store import accounts
from augu_api.store.database import INSTALL, one_statement
from augu_api.store.models import Count, User

WINDOW = 60  # seconds
TIMEOUTS = {"socket_timeout": 5, "socket_connect_timeout": 5}  # redis-py's names: seconds; a URL may set others
REFUSALS_BEFORE_BAN = 50
FAILURES = DBAPIError, TimeoutError  # of the database; any other error of SQLAlchemy is a bug in this program
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
    """A user's window: its cap, the requests counted so far, and when it ends (Unix time)."""

    limit: int
    counted: int
    ends: float

    @property
    def remaining(self) -> int:
        """How many requests are left."""
        return max(0, self.limit - self.counted)

    @property
    def reset(self) -> int:
        """Whole seconds until the window ends."""
        return max(0, math.ceil(self.ends - time.time()))


class QuotaExceeded(Exception):
    """The user has no requests left in this window."""

    def __init__(self, quota: Quota) -> None:
        self.quota = quota


class DatabaseStorage(Storage):
    """Counts for `limits`, kept in the application's database; each method is one atomic statement.

    Every method raises StorageError if the database fails. If the clock is set back, a window keeps its count and ends
    at most `expiry` seconds after the next count.
    """

    STORAGE_SCHEME = None

    def __init__(self, engine: Engine, clock: Callable[[], float] = time.time) -> None:
        super().__init__()
        self.engine, self.clock = one_statement(engine), clock

    @property
    def base_exceptions(self) -> tuple[type[Exception], ...]:
        return FAILURES

    def incr(self, key: str, expiry: int, amount: int = 1) -> int:
        """Add `amount` to the key's window, or to a new one of `expiry` seconds; returns the new count."""
        return self.count(key, expiry, amount)[0]

    def count(self, key: str, expiry: int, amount: int = 1) -> tuple[int, float]:
        """Count as `incr` does; returns the new count and when the window ends (Unix time)."""
        values = {"key": key, "amount": amount, "now": self.clock(), "expiry": expiry}
        with self._connection() as connection:
            counted, ends = connection.execute(COUNT, values).one()
        return counted, ends

    def window(self, key: str) -> tuple[int, float]:
        """The count of the key's window and when it ends (Unix time); 0 and now if the key has none."""
        now = self.clock()
        query = select(Count.count, Count.expires_at).where(Count.key == key, Count.expires_at > now)
        with self._connection() as connection:
            counted, ends = connection.execute(query).first() or (0, now)
        return counted, ends

    def get(self, key: str) -> int:
        """The count of the key's window."""
        return self.window(key)[0]

    def get_expiry(self, key: str) -> float:
        """When the key's window ends (Unix time); now if the key has none."""
        return self.window(key)[1]

    def check(self) -> bool:
        """Whether the database answers."""
        with self._connection() as connection:
            return bool(connection.scalar(select(1)))

    def reset(self) -> int | None:
        """Delete every count."""
        with self._connection() as connection:
            return connection.execute(delete(Count)).rowcount

    def clear(self, key: str) -> None:
        """Delete the key's count."""
        with self._connection() as connection:
            connection.execute(delete(Count).where(Count.key == key))

    @contextmanager
    def _connection(self) -> Iterator[Connection]:
        try:
            with self.engine.connect() as connection:
                yield connection
        except FAILURES as error:
            raise StorageError(error) from error


class Quotas:
    """A fixed window of 60 seconds for each user. 50 refusals within `ban_minutes` ban the user for as long."""

    def __init__(self, engine: Engine, storage_url: str, ban_minutes: int) -> None:
        self.engine = engine
        self.storage = _redis(storage_url) if storage_url else DatabaseStorage(engine)
        self.limiter = FixedWindowRateLimiter(self.storage)
        self.refusals = RateLimitItemPerMinute(REFUSALS_BEFORE_BAN - 1, ban_minutes, namespace="refusals")

    def count(self, user: User) -> Quota:
        """Count a request. Past the cap it raises QuotaExceeded, and the 50th refusal bans the user."""
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
        """The user's window as it is now; counts nothing."""
        return Quota(user.cap, *self._window(_key(user)))

    def refused(self, user: User) -> int:
        """How many replies of 429 the user has got in the last `ban_minutes`, unless they ended in a ban."""
        return self.storage.get(self.refusals.key_for(str(user.id)))

    def check(self) -> bool:
        """Whether the storage answers."""
        return self.storage.check()

    def _counted(self, key: str) -> tuple[int, float]:
        """Count one more; the new count and when the window ends. The database needs one statement, Redis two."""
        if isinstance(self.storage, DatabaseStorage):
            return self.storage.count(key, WINDOW)
        return self.storage.incr(key, WINDOW), self.storage.get_expiry(key)

    def _window(self, key: str) -> tuple[int, float]:
        if isinstance(self.storage, DatabaseStorage):
            return self.storage.window(key)
        return self.storage.get(key), self.storage.get_expiry(key)


def _key(user: User) -> str:
    """The name of a user's count. The cap is part of it, so that a changed cap starts a new window."""
    return f"requests/{user.id}/{user.cap}"


def _redis(url: str) -> Storage:
    """A Redis as storage. Raises SettingsError without the URL in it, because that may contain a password."""
    try:
        storage = cast("RedisStorage", storage_from_string(url, wrap_exceptions=True, **TIMEOUTS))
        storage.storage.connection_pool.make_connection()  # opens none yet, but reads the URL's options
    except ConfigurationError:
        raise SettingsError(f"AUGU_RATELIMIT_STORAGE: needs the package redis: {INSTALL.format('redis')}") from None
    except (TypeError, ValueError):
        raise SettingsError("AUGU_RATELIMIT_STORAGE: an option after the ? cannot be used") from None
    return storage
