"""Issue and read a bearer token: a compact JWS (RFC 7515) whose payload is `<user id>:<issued at>`.

The header is exactly {"alg":"HS256"}; a user id is a 64-bit integer, the time is in milliseconds since 1970.
"""

import hmac
import re
from binascii import Error
from typing import NamedTuple

from joserfc import jws
from joserfc.jwk import OctKey
from joserfc.util import urlsafe_b64decode

MAX_ID = 2**63 - 1
PAYLOAD = re.compile(r"([0-9]{1,19}):([0-9]{1,19})")


class Token(NamedTuple):
    """What a token says: whose it is, and when it was issued (milliseconds since 1970)."""

    user_id: int
    issued_at: int


NOBODYS = Token(0, 0)
"""What no user has."""


class InvalidToken(ValueError):
    """The text is not a token."""


class BadSignature(InvalidToken):
    """The text is a token in form, but none of our secrets signed it."""


def issue(secret: str, token: Token) -> str:
    """The token's text, signed by `secret`; the same token always gives the same text."""
    payload = f"{token.user_id}:{token.issued_at}"
    return jws.serialize_compact({"alg": "HS256"}, payload, OctKey.import_key(secret))


def read(secrets: tuple[str, ...], text: str) -> Token:
    """Read what `text` says, or raise InvalidToken; BadSignature if it is one in form.

    Signing it again and comparing whole texts leaves no room for another algorithm, header or encoding. Each secret is
    tried whether an earlier one fits or not, so that the time tells nothing.
    """
    try:
        given = text.encode("ascii")
        payload = urlsafe_b64decode(given.split(b".")[1]).decode("ascii")
    except (IndexError, UnicodeError, Error) as error:
        raise InvalidToken from error
    said = PAYLOAD.fullmatch(payload)
    if not said:
        raise InvalidToken
    token = Token(int(said[1]), int(said[2]))
    if max(token) > MAX_ID:
        raise InvalidToken
    fits = [hmac.compare_digest(issue(secret, token).encode(), given) for secret in secrets]
    if not any(fits):
        raise BadSignature
    return token
