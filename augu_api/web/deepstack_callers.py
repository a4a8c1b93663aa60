"""Who makes a request of DeepStack's protocol: its programs have few places for a token, and some have none."""

from marshmallow import ValidationError
from sqlalchemy.orm import Session

from augu_api.parsers import Address, address, is_in
from augu_api.store import accounts
from augu_api.store.models import User
from augu_api.web.auth import bearer_token, receive
from augu_api.web.body import MAX_BODY, Request, request
from augu_api.web.service import service

MAX_PARTS = 8  # its clients send three
MAX_TEXT = 128 * 1024  # for the headers or the text of a part
KEY = "api_key"
MB = 2**20
FORWARDED = ("HTTP_X_FORWARDED_FOR", "HTTP_FORWARDED", "HTTP_X_REAL_IP", "HTTP_VIA")
"""In a WSGI environment, the headers that a proxy adds."""


def token() -> str | None:
    """The token of the Authorization header, which may be Basic's password, of the query, or of the form.

    None if there is none at all. The form is read before authentication, in room of the caller's address.
    """
    request.max_content_length = max_body()
    found = (bearer_token() or "").strip() or _password() or request.args.get(KEY, "").strip()
    if not found:
        receive(str(client_address() or request.remote_addr))
        found = with_form().form.get(KEY, "").strip()
    return found or None


def _password() -> str:
    """Basic's password if it has a token's three parts: another one may be meant for a proxy."""
    given = request.authorization
    password = (given.password or "").strip() if given and given.type == "basic" else ""
    return password if password.count(".") == 2 else ""


def max_body() -> int:
    """The bytes of a body: as many as elsewhere, or the largest file and the rest of its form."""
    return max(MAX_BODY, service.settings.deepstack_mb * MB + MB // 2)


def with_form() -> Request:
    """The request, once its form is known to have few parts and short heads. Raises ValidationError."""
    request.max_form_memory_size = MAX_TEXT
    if request.want_form_data_parsed and request.get_data() and not request.is_form(MAX_PARTS):
        raise ValidationError(f"Not a form of at most {MAX_PARTS} parts, each with a short head.", "data")
    return request


def keyless_user() -> User | None:
    """The user for requests without a token, if this one comes from the networks that may send such."""
    keyless = service.settings.keyless
    if keyless is None or not is_in(client_address(), keyless.networks):
        return None
    with Session(service.lookups) as session:
        return accounts.by_name(session, keyless.user)


def client_address() -> Address | None:
    """The address that the request comes from, None if it is not known.

    A proxy adds the address of its own client at the end of X-Forwarded-For; what stands before that may be made up.
    So the last one counts that is not a proxy's of ours, and the header counts only if one of our proxies sent it.
    """
    proxies = service.settings.proxies
    at = address(request.remote_addr or "")
    hops = request.headers.get("X-Forwarded-For", "").split(",")
    while hops and is_in(at, proxies):
        at = address(hops.pop())
    is_ours = is_in(address(request.remote_addr or ""), proxies)
    return at if is_ours or not any(header in request.environ for header in FORWARDED) else None
