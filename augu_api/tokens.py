"""Issue and read a bearer token: a compact JWS (RFC 7515) whose payload is `<user id>:<issued at>`.

The header is exactly {"alg":"HS256"}; a user id is a 64-bit integer, the time is in milliseconds since 1970.
"""

import hmac
import re
from base64 import urlsafe_b64decode, urlsafe_b64encode
from typing import NamedTuple

MAX_ID = 2**63 - 1
HEADER = "eyJhbGciOiJIUzI1NiJ9"  # {"alg":"HS256"} in base64url
PAYLOAD = re.compile(rb"([0-9]{1,19}):([0-9]{1,19})")


class Token(NamedTuple):
    """What a token says: whose it is, and when it was issued (milliseconds since 1970)."""

    user_id: int
    issued_at: int


NO_TOKEN = Token(0, 0)
"""A token that no user has."""


class InvalidToken(ValueError):
    """The text is not a token."""


class BadSignature(InvalidToken):
    """The text has the form of a token, but none of our secrets signed it."""


def issue(secret: str, token: Token) -> str:
    """The token's text, signed with `secret`; the same token always gives the same text."""
    signed = f"{HEADER}.{_base64url(f'{token.user_id}:{token.issued_at}'.encode())}"
    return f"{signed}.{_base64url(hmac.digest(secret.encode(), signed.encode(), 'sha256'))}"


def read(secrets: tuple[str, ...], text: str) -> Token:
    """Return the token that `text` is, or raise InvalidToken: BadSignature if only the signature is wrong.

    The token is issued again and the whole texts are compared, so no other algorithm, header or encoding can pass.
    Every secret is tried even after one fits, so that the time taken does not tell which one did.
    """
    token = _claimed(text)
    given = text.encode()
    fits = [hmac.compare_digest(issue(secret, token).encode(), given) for secret in secrets]
    if not any(fits):
        raise BadSignature
    return token


def _claimed(text: str) -> Token:
    """What the text says, not yet verified. Raises InvalidToken."""
    try:
        payload = text.encode("ascii").split(b".")[1]
        claim = PAYLOAD.fullmatch(urlsafe_b64decode(payload + b"=="))
    except (IndexError, ValueError) as error:
        raise InvalidToken from error
    if not claim or _base64url(claim[0]) != payload.decode():
        raise InvalidToken
    token = Token(int(claim[1]), int(claim[2]))
    if max(token) > MAX_ID:
        raise InvalidToken
    return token


def _base64url(data: bytes) -> str:
    return urlsafe_b64encode(data).decode().rstrip("=")
