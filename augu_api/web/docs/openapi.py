"""The OpenAPI document, made from the routes, and from the gates, the docstring and the Operation of each view."""

import inspect
import re
from collections.abc import Callable, Mapping, Sequence
from importlib.metadata import version
from typing import Any, cast

from apispec import APISpec
from apispec.ext.marshmallow import MarshmallowPlugin
from apispec.ext.marshmallow.openapi import OpenAPIConverter
from flask import Flask
from marshmallow import fields
from werkzeug.routing import Rule

from augu_api.web import deepstack_schemas, schemas
from augu_api.web.auth import Gates
from augu_api.web.docs.examples import ADMISSION, BAN, FLAGS, QUOTA, TOKEN, UNAVAILABLE
from augu_api.web.envelope import Failure, error_of
from augu_api.web.operation import Content, Operation
from augu_api.web.photo import Photo

ARGUMENT = re.compile(r"<(?:\w+(?:\([^)]*\))?:)?(\w+)>")  # of a route: <name>, <int:name>, <int(min=1):name>
METHODS = {"GET", "PUT", "POST", "DELETE", "PATCH", "TRACE"}  # OpenAPI's, without those that Flask adds
SERVERS = [{"url": "./", "description": "Where this document is."}]  # under whatever path a proxy serves it
NUMBER = {"type": "integer", "minimum": 0}
QUOTA_HEADERS = {
    "X-Ratelimit-Limit": {"description": "Requests in a window of 60 seconds.", "schema": NUMBER},
    "X-Ratelimit-Remaining": {"description": "Requests left in this window.", "schema": NUMBER},
    "X-Ratelimit-Reset": {"description": "Whole seconds until the window ends.", "schema": NUMBER},
}
RETRY = {"Retry-After": {"description": "Whole seconds to wait.", "schema": NUMBER}}
USER_RETRY = RETRY | {"X-Retry-After": {"description": "The same.", "schema": NUMBER}}
REQUEST_ID = {
    "X-Request-Id": {
        "description": "The caller's own, or a new one; the log has it too.",
        "schema": {"type": "string", "pattern": "^[A-Za-z0-9._-]{1,64}$"},
    }
}
SCHEME = {"WWW-Authenticate": {"description": "The scheme of the token.", "schema": {"type": "string"}}}


def specification(app: Flask, names: Sequence[str] = ()) -> dict[str, Any]:
    """The OpenAPI document of the application's routes; `names` are the categories that its detector knows."""
    plugin = MarshmallowPlugin()
    info = {"license": {"name": "Apache-2.0"}}
    spec = APISpec("Augu API", version("augu-api"), "3.1.0", [plugin], info=info, servers=SERVERS)
    converter = cast("OpenAPIConverter", plugin.converter)  # the line above made it
    converter.add_parameter_attribute_function(_commas)
    converter.add_attribute_function(_known(names))  # type: ignore[no-untyped-call]  # apispec has no types
    plugin.map_to_openapi_type(Photo, "string", "byte")  # type: ignore[no-untyped-call]  # apispec has no types
    plugin.map_to_openapi_type(deepstack_schemas.Upload, "string", "binary")  # type: ignore[no-untyped-call]  # as above
    spec.components.security_scheme("token", {"type": "http", "scheme": "bearer", "bearerFormat": "JWS"})
    for rule in sorted(app.url_map.iter_rules(), key=lambda rule: rule.rule):
        spec.path(path_of(rule), operations=_operations(app, rule))
    return spec.to_dict()


def path_of(rule: Rule) -> str:
    """A route's path as OpenAPI spells it."""
    return ARGUMENT.sub(r"{\1}", rule.rule)


def _operations(app: Flask, rule: Rule) -> dict[str, Any]:
    """The operations of a route by method; each needs an id of its own."""
    methods = sorted((rule.methods or set()) & METHODS)
    rules = list(app.url_map.iter_rules(rule.endpoint))
    name = rule.endpoint if len(rules) == 1 else f"{rule.endpoint}.{rules.index(rule) + 1}"
    ids = [name] if len(methods) == 1 else [f"{name}.{method.lower()}" for method in methods]
    return {
        method.lower(): {"operationId": id} | _operation(app, rule) for method, id in zip(methods, ids, strict=True)
    }


def _operation(app: Flask, rule: Rule) -> dict[str, Any]:
    """A route in OpenAPI's terms; a view that is not documented has its name and a reply of any kind."""
    view = app.view_functions.get(rule.endpoint)
    gates: Gates | None = getattr(view, "gates", None)
    said: Operation = getattr(view, "operation", None) or Operation(replies={"*/*": Content({})})
    summary, _, description = ((view and inspect.getdoc(view)) or f"{rule.endpoint}.").partition("\n\n")
    found: dict[str, Any] = {"summary": " ".join(summary.split()), "description": description}
    found["responses"] = _responses(said, gates)
    if "401" in found["responses"]:
        found["security"] = [{"token": []}]
    if gates and gates.flags:
        found["description"] = f"{description}\n\nNeeds the flags {' and '.join(gates.flags.names)}.".strip()
    found["parameters"] = _parameters(said, ARGUMENT.findall(rule.rule))
    if said.body:
        found["requestBody"] = {"required": True, "content": _content(said.body)}
    return {key: value for key, value in found.items() if value}


def _parameters(said: Operation, arguments: list[str]) -> list[dict[str, Any]]:
    path = {"in": "path", "required": True, "schema": {"type": "string"}}
    parameters: list[dict[str, Any]] = [
        path | {"name": name} | ({"example": said.arguments[name]} if name in said.arguments else {})
        for name in arguments
    ]
    return parameters + ([{"in": "query", "schema": said.query}] if said.query else [])


def _content(bodies: Mapping[str, Content]) -> dict[str, Any]:
    return {
        kind: {"schema": body.schema} | ({"examples": dict(body.examples)} if body.examples else {})
        for kind, body in bodies.items()
    }


def _responses(said: Operation, gates: Gates | None) -> dict[str, Any]:
    """Each status, with its bodies, an example of each, and its headers."""
    failures: dict[int, dict[str, Any]] = {}
    for name, failure in (_of_gates(gates) | dict(said.failures)).items():
        failures.setdefault(failure.status, {})[name] = {"value": said.shape.body(failure)}
    responses: dict[str, Any] = {"200": {"description": "Request fulfilled.", "content": _content(said.replies)}}
    for status, examples in sorted(failures.items()):
        content = _content({"application/json": Content(said.shape.schema, examples)})
        responses[str(status)] = {"description": error_of(status), "content": content}
    return {status: reply | {"headers": _headers(status, gates)} for status, reply in responses.items()}


def _of_gates(gates: Gates | None) -> dict[str, Failure]:
    """The failures that the gates in front of a view answer with."""
    if not gates:
        return {}
    return TOKEN | BAN | (FLAGS if gates.flags else {}) | QUOTA | (ADMISSION if gates.slot else {}) | UNAVAILABLE


def _headers(status: str, gates: Gates | None) -> dict[str, Any]:
    own = {"401": SCHEME, "429": USER_RETRY, "503": RETRY}.get(status, {})
    always = {name: header | {"required": True} for name, header in (REQUEST_ID | own).items()}
    if not gates or status == "401":
        return always
    return always | QUOTA_HEADERS | (USER_RETRY if status == "403" else {})  # while a ban runs


def _commas(_: OpenAPIConverter, field: fields.Field[Any], **__: Any) -> dict[str, Any]:
    return {"explode": False, "style": "form"} if isinstance(field, schemas.CommaSeparated) else {}


def _known(names: Sequence[str]) -> Callable[..., dict[str, Any]]:
    """What apispec calls for each field: `names` takes the categories that the detector knows."""
    items = {"type": "string", "enum": list(dict.fromkeys(names))}

    def attributes(_: OpenAPIConverter, field: fields.Field[Any], **__: Any) -> dict[str, Any]:
        is_names = isinstance(field.parent, schemas.ObjectsQuery) and field.name == "names"
        return {"items": items} if is_names and names else {}

    return attributes
