"""Tokens: only issued ones are valid; and the documented bits of the flags."""

import ast
import base64
import hmac
from pathlib import Path
from types import ModuleType

import pytest
from hypothesis import given
from hypothesis import strategies as st

from augu_api import tokens
from augu_api.flags import DEFAULT_FLAGS, Flag
from augu_api.tokens import BadSignature, InvalidToken, Token, issue, read
from augu_api.web import monitoring

SECRET = "a secret of at least 32 characters"
HEADER = '{"alg":"HS256"}'
TOKEN = Token(367302593753645057, 1619782300664)
PAYLOAD = "367302593753645057:1619782300664"
ALPHABET = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_"


def b64(data: bytes) -> str:
    return base64.urlsafe_b64encode(data).decode().rstrip("=")


def jws(header: str = HEADER, payload: str = PAYLOAD, secret: str = SECRET, digest: str = "sha256") -> str:
    """A compact JWS as RFC 7515 defines it, for any header, payload and digest."""
    signed = f"{b64(header.encode())}.{b64(payload.encode())}"
    return f"{signed}.{b64(hmac.digest(secret.encode(), signed.encode(), digest))}"


@given(st.integers(1, 2**63 - 1), st.integers(0, 10**18), st.text("abc-_€", min_size=32))
def test_round_trip(user_id: int, issued_at: int, secret: str) -> None:
    """A token issued with a secret can be read with it, for any user and any time."""
    token = Token(user_id, issued_at)
    assert read((secret,), issue(secret, token)) == token


@given(st.lists(st.text("abc", min_size=32, max_size=34), min_size=1, max_size=10, unique=True), st.data())
def test_any_of_our_secrets(secrets: list[str], data: st.DataObject) -> None:
    """A token signed with one of several secrets is valid, and invalid once that secret is removed."""
    signer = data.draw(st.sampled_from(secrets))
    text = issue(signer, TOKEN)
    assert read(tuple(secrets), text) == TOKEN
    with pytest.raises(BadSignature):
        read(tuple(secret for secret in secrets if secret != signer), text)


def test_form() -> None:
    """A token is the documented JWS: a fixed header, the payload `<id>:<ms>` and HMAC-SHA256."""
    text = issue(SECRET, TOKEN)
    assert text == issue(SECRET, TOKEN) == jws()
    assert text.startswith("eyJhbGciOiJIUzI1NiJ9.MzY3MzAyNTkzNzUzNjQ1MDU3OjE2MTk3ODIzMDA2NjQ.")


ISSUED = [  # by joserfc 1.8.0
    (
        "a secret of at least 32 characters",
        Token(367302593753645057, 1619782300664),
        "eyJhbGciOiJIUzI1NiJ9.MzY3MzAyNTkzNzUzNjQ1MDU3OjE2MTk3ODIzMDA2NjQ.uRDiHSbqZSb3ZwRwgMcs7eHprJjn7nwuBJHq_vq6ss4",
    ),
    (
        "0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef",
        Token(1, 0),
        "eyJhbGciOiJIUzI1NiJ9.MTow.dmDKiYzbOzyVQmMEs05xrc43puQ-5QZQLWKcGgrKmLU",
    ),
    (
        "Geheimnis aus 32 Zeichen: äöüß€☃ 😀",
        Token(9223372036854775807, 9223372036854775807),
        "eyJhbGciOiJIUzI1NiJ9.OTIyMzM3MjAzNjg1NDc3NTgwNzo5MjIzMzcyMDM2ODU0Nzc1ODA3.X-FEfS5xHZYmUedqXF3J48jwz8a9uDV7_hn_TyfCGJQ",
    ),
    (
        '{"kty":"oct","k":"c2VjcmV0IGtleQ"}',
        Token(80351110224678912, 1764169200000),
        "eyJhbGciOiJIUzI1NiJ9.ODAzNTExMTAyMjQ2Nzg5MTI6MTc2NDE2OTIwMDAwMA.s2bQTkMlMi-32q03Nh9yisXRS1txi7ak9mW5vz_WHpE",
    ),
]


@pytest.mark.parametrize(("secret", "token", "text"), ISSUED)
def test_issued_by_another_library(secret: str, token: Token, text: str) -> None:
    """Tokens issued by releases that used joserfc are still valid, and are issued as the same text."""
    assert issue(secret, token) == text
    assert read((secret,), text) == token


@pytest.mark.parametrize("module", [tokens, monitoring])
def test_secrets_are_compared_in_constant_time(module: ModuleType) -> None:
    """The functions that compare a caller's text with a secret use hmac.compare_digest and never ==."""
    tree = ast.parse(Path(module.__file__ or "").read_text())
    functions = [node for node in ast.walk(tree) if isinstance(node, ast.FunctionDef)]
    [comparing] = [node for node in functions if "hmac.compare_digest(" in ast.unparse(node)]
    assert not [node for node in ast.walk(comparing) if isinstance(node, (ast.Eq, ast.NotEq, ast.In, ast.NotIn))]


GOOD = jws()
HEAD, BODY, SIGNATURE = GOOD.split(".")
WRONG = {
    "another secret": jws(secret=SECRET + "!"),
    "alg none, unsigned": jws(header='{"alg":"none"}').rpartition(".")[0] + ".",
    "alg none, signed": jws(header='{"alg":"none"}'),
    "alg HS512": jws(header='{"alg":"HS512"}', digest="sha512"),
    "HS256 claimed, sha512 signed": jws(digest="sha512"),
    "a header field more": jws(header='{"alg":"HS256","typ":"JWT"}'),
    "a key in the header": jws(header='{"alg":"HS256","jwk":{"kty":"oct","k":"AAAA"}}'),
    "a blank in the header": jws(header='{"alg": "HS256"}'),
    "no header": f".{BODY}.{SIGNATURE}",
    "no payload": f"{HEAD}..{SIGNATURE}",
    "no signature": f"{HEAD}.{BODY}.",
    "two parts": f"{HEAD}.{BODY}",
    "four parts": f"{GOOD}.{SIGNATURE}",
    "nothing": "",
    "dots": "..",
    "an encrypted token's five parts": "a.b.c.d.e",
    "leading zeros": jws(payload=f"0{PAYLOAD}"),
    "leading zeros of the time": jws(payload=PAYLOAD.replace(":", ":0")),
    "a sign": jws(payload=f"+{PAYLOAD}"),
    "a blank": jws(payload=f"{PAYLOAD} "),
    "a line break": jws(payload=f"{PAYLOAD}\n"),
    "no time": jws(payload="367302593753645057"),
    "an empty time": jws(payload="367302593753645057:"),
    "a third number": jws(payload=f"{PAYLOAD}:1"),
    "other digits": jws(payload="٣٦٧:١٦١"),
    "a number too long": jws(payload=f"{'9' * 20}:1"),
    "JSON": jws(payload='{"sub":"367302593753645057"}'),
    "padded": f"{HEAD}.{BODY}.{SIGNATURE}=",
    "padded payload": f"{HEAD}.{BODY}=.{SIGNATURE}",
    "non-ASCII in the payload": f"{HEAD}.é.{SIGNATURE}",
    "non-ASCII in the signature": f"{HEAD}.{BODY}.é{SIGNATURE[1:]}",
    "non-ASCII": "é",
    "half a surrogate": f"{HEAD}.{BODY}.\ud800",
    "blanks around": f" {GOOD} ",
    "one character": f"{HEAD}.A.{SIGNATURE}",
    "huge": "A" * 1_000_000,
    "a huge payload": jws(payload="9" * 1_000_000),
    "a huge signature": GOOD + "A" * 1_000_000,
}


@pytest.mark.parametrize("text", WRONG.values(), ids=WRONG)
def test_wrong(text: str) -> None:
    """A text with another algorithm, header, payload, encoding or secret raises InvalidToken."""
    with pytest.raises(InvalidToken):
        read((SECRET,), text)


@pytest.mark.parametrize("last", sorted(set(ALPHABET) - {SIGNATURE[-1]}))
def test_non_canonical_signature(last: str) -> None:
    """Other spellings of the last character are refused, even those that differ only in its two unused bits."""
    with pytest.raises(InvalidToken):
        read((SECRET,), GOOD[:-1] + last)


@given(st.data())
def test_changed(data: st.DataObject) -> None:
    """A token with one changed character is invalid."""
    at = data.draw(st.integers(0, len(GOOD) - 1))
    character = data.draw(st.characters(min_codepoint=33, max_codepoint=255).filter(lambda c: c != GOOD[at]))
    with pytest.raises(InvalidToken):
        read((SECRET,), GOOD[:at] + character + GOOD[at + 1 :])


@given(st.text() | st.lists(st.text(f"{ALPHABET}=", max_size=40), min_size=1, max_size=5).map(".".join))
def test_any_text(text: str) -> None:
    """Reading any text raises InvalidToken and nothing else."""
    with pytest.raises(InvalidToken):
        read((SECRET,), text)


def test_flags() -> None:
    """The bits are the documented ones, and a new user has TEXT, IMAGES and INFORMATION."""
    documented = {
        "TEXT": 1,
        "TEXT_SIMIARITY": 2,
        "IMAGES": 4,
        "IMAGES_NSFW": 8,
        "IMAGES_OBJECTS": 16,
        "TEXT_TOXICITY": 32,
        "BANNED": 64,
        "INFORMATION": 128,
        "EXPERIMENTAL": 256,
        "TEXT_QUALITY": 512,
        "INFORMATION_GITHUB": 1024,
    }
    assert {flag.name: flag.value for flag in Flag} == documented
    assert DEFAULT_FLAGS.names == ["TEXT", "IMAGES", "INFORMATION"]


@given(st.sets(st.sampled_from(list(Flag))))
def test_names(flags: set[Flag]) -> None:
    """A bitfield's names are those of its bits, lowest first."""
    assert Flag(sum(flags)).names == [flag.name for flag in sorted(flags)]
