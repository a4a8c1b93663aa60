"""The OpenAPI document, made from the routes, their gates, their docstrings and the schemas."""

import re
from importlib.metadata import version
from typing import Any

from apispec import APISpec
from apispec.ext.marshmallow import MarshmallowPlugin
from apispec.ext.marshmallow.openapi import OpenAPIConverter
from flask import Flask
from marshmallow import Schema, fields
from werkzeug.routing import Rule

from augu_api import schemas
from augu_api.envelope import error_of

ARGUMENT = re.compile(r"<(?:\w+:)?(\w+)>")  # of a route
DATA: dict[str, type[Schema]] = {
    "images.objects": schemas.ImageObjects,
    "images.names": schemas.CategoryNames,
    "session.details": schemas.SessionDetails,
    "ops.live": schemas.Live,
    "ops.ready": schemas.Ready,
}
PLAIN: dict[str, tuple[str, Any]] = {
    "ops.prometheus": ("text/plain", {"type": "string"}),
    "docs.openapi": ("application/json", {"type": "object"}),
    "docs.page": ("text/html", {"type": "string"}),
    "docs.asset": ("*/*", {}),
    "deepstack.detection": ("application/json", schemas.DeepStackReply),
}
FAILURES = {
    "images.objects": {400, 406},
    "deepstack.detection": {400},
    "images.names": {503},
    "docs.asset": {404},
    "ops.ready": {503},
    "ops.prometheus": {401, 403},
}
FORM = {"schema": schemas.ObjectsRequest(max_pixels=0)}
BODIES: dict[str, dict[str, Any]] = {
    "images.objects": {
        "application/json": FORM,
        "application/x-www-form-urlencoded": FORM,
        "multipart/form-data": FORM,
        "text/plain": {"schema": {"type": "string"}},
        "image/png": {"schema": {}},
    },
    "deepstack.detection": {"multipart/form-data": {"schema": schemas.DeepStackRequest(max_pixels=0)}},
}
FAILURE: dict[str, Any] = {"$ref": "#/components/schemas/Failure"}
PLAIN_FAILURES: dict[str, Any] = {"deepstack.detection": schemas.DeepStackFailure}
QUOTA = {
    "X-Ratelimit-Limit": "Requests in a window of 60 seconds.",
    "X-Ratelimit-Remaining": "Requests left in this window.",
    "X-Ratelimit-Reset": "Whole seconds until the window ends.",
}
RETRY = {"Retry-After": "Whole seconds to wait."}


def specification(app: Flask) -> dict[str, Any]:
    """The OpenAPI document of the application's routes."""
    plugin = MarshmallowPlugin()
    spec = APISpec("Augu API", version("augu-api"), "3.1.0", [plugin], info={"license": {"name": "Apache-2.0"}})
    assert plugin.converter is not None  # noqa: S101 - the line above made it
    plugin.converter.add_parameter_attribute_function(_commas)
    plugin.map_to_openapi_type(schemas.Photo, "string", None)  # type: ignore[no-untyped-call]
    plugin.map_to_openapi_type(schemas.Upload, "string", "binary")  # type: ignore[no-untyped-call]
    spec.components.security_scheme("token", {"type": "http", "scheme": "bearer", "bearerFormat": "JWS"})
    spec.components.schema("Failure", _failure())
    for rule in sorted(app.url_map.iter_rules(), key=lambda rule: rule.rule):
        methods = (rule.methods or set()) - {"HEAD"}
        operations = {method.lower(): _operation(app, rule) for method in methods}
        spec.path(path_of(rule), operations=operations)
    return spec.to_dict()


def path_of(rule: Rule) -> str:
    """A route's path as OpenAPI spells it."""
    return ARGUMENT.sub(r"{\1}", rule.rule)


def _operation(app: Flask, rule: Rule) -> dict[str, Any]:
    view = app.view_functions[rule.endpoint]
    flags = getattr(view, "flags", None)  # of a gated view
    failures = FAILURES.get(rule.endpoint, set()) | ({401, 403, 429, 503} if flags is not None else set())
    quota = {} if flags is None else QUOTA
    operation = {
        "operationId": rule.endpoint,
        "summary": view.__doc__,
        "responses": {"200": _success(rule.endpoint, quota)}
        | {str(status): _refusal(rule.endpoint, status, quota) for status in sorted(failures)},
    }
    if failures & {401}:
        operation["security"] = [{"token": []}]
    if flags:
        operation["description"] = f"Needs the flags {' and '.join(flags.names)}."
    if rule.endpoint == "images.objects":
        operation["responses"]["200"]["content"]["image/png"] = {"schema": {}}
        operation["parameters"] = [{"in": "query", "schema": schemas.ObjectsQuery(())}]
    if rule.arguments:
        text = {"type": "string"}
        operation["parameters"] = [{"in": "path", "name": a, "required": True, "schema": text} for a in rule.arguments]
    if rule.endpoint in BODIES:
        operation["requestBody"] = {"required": True, "content": BODIES[rule.endpoint]}
    return operation


def _success(endpoint: str, headers: dict[str, str]) -> dict[str, Any]:
    mimetype, schema = PLAIN.get(endpoint) or ("application/json", _envelope(DATA[endpoint]))
    return {
        "description": "Request fulfilled.",
        "content": {mimetype: {"schema": schema}},
        "headers": _headers(headers),
    }


def _refusal(endpoint: str, status: int, quota: dict[str, str]) -> dict[str, Any]:
    headers = ({} if status == 401 else quota) | (RETRY if status in (429, 503) else {})
    headers |= {"X-Retry-After": "The same."} if status == 429 else {}
    content = {"application/json": {"schema": PLAIN_FAILURES.get(endpoint, FAILURE)}}
    return {"description": error_of(status), "content": content, "headers": _headers(headers)}


def _envelope(data: type[Schema]) -> dict[str, Any]:
    properties = {
        "statusCode": {"type": "integer", "enum": [200]},
        "error": {"type": "null"},
        "message": {"type": "string"},
        "data": data,
    }
    return {"type": "object", "required": list(properties), "properties": properties}


def _failure() -> dict[str, Any]:
    properties = {
        "statusCode": {"type": "integer"},
        "error": {"type": "string"},
        "message": {"type": "string"},
        "details": {"type": "object", "description": "The reasons, by field."},
    }
    return {"type": "object", "required": ["statusCode", "error", "message"], "properties": properties}


def _headers(about: dict[str, str]) -> dict[str, Any]:
    named = about | {"X-Request-Id": "The caller's own, or a new one; the log has it too."}
    return {name: {"description": text, "schema": {"type": "string"}} for name, text in named.items()}


def _commas(_: OpenAPIConverter, field: fields.Field[Any], **__: Any) -> dict[str, Any]:
    return {"explode": False, "style": "form"} if isinstance(field, schemas.CommaSeparated) else {}
