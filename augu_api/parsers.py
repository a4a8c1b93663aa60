"""The kinds of settings: functions that turn a text into its value, or raise a ValueError that says what it must be."""

import re
from collections.abc import Callable
from pathlib import Path
from urllib.parse import urlsplit

STORAGE_SCHEMES = ("redis", "rediss", "redis+unix")
MAX_SECRETS = 10
ORIGIN = re.compile(r"(https?)://(?:[a-z0-9]+(?:[._-]+[a-z0-9]+)*|\[[0-9a-f:]+(?:\.[0-9.]+)?\])(?::([1-9][0-9]{0,4}))?")
DEFAULT_PORTS = {"http": "80", "https": "443"}


def at_most(limit: int) -> Callable[[str], int]:
    def parse(text: str) -> int:
        if not text.isascii() or not text.isdigit() or not 0 < int(text) < 2**31:
            raise ValueError("must be a whole number above 0")
        if int(text) > limit:
            raise ValueError(f"must be at most {limit}")
        return int(text)

    return parse


positive = at_most(2**31 - 1)


def switch(text: str) -> bool:
    if text not in ("0", "1"):
        raise ValueError("must be 0 or 1")
    return text == "1"


def one_of(*values: str) -> Callable[[str], str]:
    def parse(text: str) -> str:
        if text not in values:
            raise ValueError(f"must be {' or '.join(values)}")
        return text

    return parse


def secret(text: str) -> str:
    if len(text) < 32:
        raise ValueError("must have at least 32 characters")
    return text


def secrets(text: str) -> tuple[str, ...]:
    given = text.split(",")
    if len(given) > MAX_SECRETS:
        raise ValueError(f"must be at most {MAX_SECRETS} secrets")
    if any(text != text.strip() for text in given):
        raise ValueError("must not have spaces around a secret")
    return tuple(secret(text) for text in given)


def _has_port(address: str) -> bool:
    """Whether the port, if any, is a number. urlsplit's own message would show the text, which may be a password."""
    try:
        return urlsplit(address).port != 0
    except ValueError:
        return False


def storage(text: str) -> str:
    if text.partition("://")[0] not in STORAGE_SCHEMES or not _has_port(text):
        raise ValueError("must start with redis://, rediss:// or redis+unix://; its port must be a number")
    return text


def web_url(text: str) -> str:
    address = urlsplit(text)
    if address.scheme not in ("http", "https") or "@" in address.netloc:
        raise ValueError("must start with http:// or https:// and must not contain a user name")
    return text.rstrip("/")


def database(text: str) -> str:
    scheme, _, rest = text.partition("://")
    if scheme in ("postgres", "postgresql"):  # Heroku writes the first; SQLAlchemy wants the driver's name
        scheme = "postgresql+psycopg"
    user, _, host = rest.partition("?")[0].rpartition("@")
    is_file = scheme == "sqlite" and rest.startswith("/")
    is_server = scheme == "postgresql+psycopg" and _has_port(f"//{host}")
    if not is_file and not is_server:
        raise ValueError("must start with sqlite:/// or postgresql://; its port must be a number")
    if is_server and "@" in user:  # the text after the first @ would be read as the host, and shown in messages
        raise ValueError("write @ in the password as %40")
    return f"{scheme}://{rest}"


def path(text: str) -> Path:
    return Path(text).expanduser().resolve()


def origins(text: str) -> tuple[str, ...]:
    """Comma-separated origins, each exactly as browsers send it: they are compared as they are."""
    given = tuple(origin.strip() for origin in text.split(","))
    for origin in given:
        found = ORIGIN.fullmatch(origin)
        if not found or int(found[2] or 0) > 65535 or DEFAULT_PORTS[found[1]] == found[2]:
            raise ValueError(
                "must be origins as browsers send them, comma-separated: http:// or https://, the host in lower case, "
                "and the port unless it is the default; no path, no slash at the end, no * and no null"
            )
    return given
