"""The tables: users, and counts of their requests."""

from sqlalchemy import BigInteger, Dialect, Float, Integer, String
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column
from sqlalchemy.types import TypeDecorator

from augu_api.flags import DEFAULT_FLAGS, Flag


class Bitfield(TypeDecorator[Flag]):
    """A Flag, stored as an integer."""

    impl = Integer
    cache_ok = True

    def process_bind_param(self, value: Flag | None, _dialect: Dialect) -> int | None:
        return None if value is None else int(value)

    def process_result_value(self, value: int | None, _dialect: Dialect) -> Flag | None:
        return None if value is None else Flag(value)


class Base(DeclarativeBase):
    """The base class of all tables."""


class User(Base):
    """A user of the API. Times are Unix times: `issued_at` in milliseconds, `banned_until` in seconds."""

    __tablename__ = "users"

    id: Mapped[int] = mapped_column(BigInteger, primary_key=True, autoincrement=False)
    name: Mapped[str] = mapped_column(String(64), unique=True)
    flags: Mapped[Flag] = mapped_column(Bitfield, default=DEFAULT_FLAGS)
    coefficient: Mapped[float] = mapped_column(Float, default=0.8)
    issued_at: Mapped[int] = mapped_column(BigInteger)
    banned_until: Mapped[float | None] = mapped_column(Float)

    def may(self, flags: Flag) -> bool:
        """Whether the user has all of these flags."""
        return flags in self.flags

    def is_banned(self, now: float) -> bool:
        """Whether the user is banned at that time, permanently or temporarily."""
        return Flag.BANNED in self.flags or (self.banned_until is not None and now < self.banned_until)

    @property
    def cap(self) -> int:
        """How many requests the user may make in a window of 60 seconds."""
        return int(round(self.coefficient * 60, 6))


class Count(Base):
    """How many times something happened in the window that ends at `expires_at` (Unix time in seconds)."""

    __tablename__ = "counts"

    key: Mapped[str] = mapped_column(String(200), primary_key=True)
    count: Mapped[int] = mapped_column(Integer)
    expires_at: Mapped[float] = mapped_column(Float)
