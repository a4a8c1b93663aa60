"""What the settings accept: each parser turns a variable's text into a value, or raises a ValueError that says why."""

import re
from collections.abc import Callable
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network, collapse_addresses, ip_address, ip_network
from pathlib import Path
from typing import NamedTuple
from urllib.parse import urlsplit

STORAGE_SCHEMES = ("redis", "rediss", "redis+unix")
MAX_SECRETS = 10
ORIGIN = re.compile(r"(https?)://(?:[a-z0-9]+(?:[._-]+[a-z0-9]+)*|\[[0-9a-f:]+(?:\.[0-9.]+)?\])(?::([1-9][0-9]{0,4}))?")
DEFAULT_PORTS = {"http": "80", "https": "443"}
NAME = re.compile(r"[\w.@+-]{1,64}")
Address = IPv4Address | IPv6Address
Network = IPv4Network | IPv6Network


class Keyless(NamedTuple):
    """The name of the user for requests without a token, and the networks that these may come from."""

    user: str
    networks: tuple[Network, ...]


def at_most(limit: int) -> Callable[[str], int]:
    """A parser of whole numbers from 1 to `limit`."""

    def parse(text: str) -> int:
        if not text.isascii() or not text.isdigit() or not 0 < int(text) < 2**31:
            raise ValueError("must be a whole number above 0")
        if int(text) > limit:
            raise ValueError(f"must be at most {limit}")
        return int(text)

    return parse


positive = at_most(2**31 - 1)


def switch(text: str) -> bool:
    """0 or 1."""
    if text not in ("0", "1"):
        raise ValueError("must be 0 or 1")
    return text == "1"


def one_of(*values: str) -> Callable[[str], str]:
    """A parser that takes only these values."""

    def parse(text: str) -> str:
        if text not in values:
            raise ValueError(f"must be {' or '.join(values)}")
        return text

    return parse


def secret(text: str) -> str:
    """A secret of at least 32 characters."""
    if len(text) < 32:
        raise ValueError("must have at least 32 characters")
    return text


def secrets(text: str) -> tuple[str, ...]:
    """Comma-separated secrets."""
    given = text.split(",")
    if len(given) > MAX_SECRETS:
        raise ValueError(f"must be at most {MAX_SECRETS} secrets")
    if any(one != one.strip() for one in given):
        raise ValueError("must not have spaces around a secret")
    return tuple(secret(one) for one in given)


def _check_printable(text: str) -> None:
    if not text.isprintable():
        raise ValueError("must be printable text in UTF-8")


def _has_port(address: str) -> bool:
    """Whether the port, if any, is a number. urlsplit's own message would show the text, which may be a password."""
    try:
        return urlsplit(address).port != 0
    except ValueError:
        return False


def storage(text: str) -> str:
    """The URL of a Redis."""
    _check_printable(text)
    if text.partition("://")[0] not in STORAGE_SCHEMES or not _has_port(text):
        raise ValueError("must start with redis://, rediss:// or redis+unix://; its port must be a number")
    return text


def web_url(text: str) -> str:
    """The address of a web server, without a slash at its end."""
    address = urlsplit(text)
    if address.scheme not in ("http", "https") or "@" in address.netloc:
        raise ValueError("must start with http:// or https:// and must not contain a user name")
    return text.rstrip("/")


def database(text: str) -> str:
    """The URL of a database, as SQLAlchemy writes it."""
    _check_printable(text)
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
    """An absolute path. In the URL of an SQLite database, what follows a ? would be an option."""
    if "?" in text:
        raise ValueError("must not contain a ?")
    return Path(text).expanduser().resolve()


def networks(text: str) -> tuple[Network, ...]:
    """Comma-separated networks or addresses, which together are not the whole internet."""
    found = tuple(ip_network(one.strip()) for one in text.split(","))
    old = collapse_addresses(network for network in found if isinstance(network, IPv4Network))
    new = collapse_addresses(network for network in found if isinstance(network, IPv6Network))
    if IPv4Network("0.0.0.0/0") in old or IPv6Network("::/0") in new:
        raise ValueError("must not be every address")
    return found


def keyless(text: str) -> Keyless:
    """The name of a user, @, and networks."""
    name, _, rest = text.rpartition("@")
    if not NAME.fullmatch(name):
        raise ValueError("must be NAME@NETWORK,NETWORK, for example cameras@192.168.1.0/24")
    return Keyless(name, networks(rest))


def address(text: str) -> Address | None:
    """An address, an IPv4 one even if it is written as IPv6; None if it is none."""
    try:
        found = ip_address(text.strip())
    except ValueError:
        return None
    return (found.ipv4_mapped if isinstance(found, IPv6Address) else None) or found


def is_in(found: Address | None, within: tuple[Network, ...]) -> bool:
    """Whether an address is in one of the networks."""
    return found is not None and any(found in network for network in within)


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
