"""The OpenAPI document, made from the routes, their gates, their docstrings and the schemas."""

import re
from importlib.metadata import version
from typing import Any, cast

from apispec import APISpec
from apispec.ext.marshmallow import MarshmallowPlugin
from apispec.ext.marshmallow.openapi import OpenAPIConverter
from flask import Flask
from marshmallow import Schema, fields
from werkzeug.routing import Rule

from augu_api.web import schemas
from augu_api.web.docs.examples import ARGUMENTS, REPLIES, REQUESTS
from augu_api.web.envelope import error_of
from augu_api.web.service import KEY

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
    "docs.documentation": ("text/html", {"type": "string"}),
    "docs.asset": ("*/*", {}),
    "deepstack.detection": ("application/json", schemas.DeepStackReply),
}
BASE64 = {"type": "string", "format": "byte", "minLength": 1}
FORM = {"schema": schemas.ObjectsRequest(max_pixels=0)}
BODIES: dict[str, dict[str, Any]] = {
    "images.objects": {
        "image/png": {"schema": {}},
        "text/plain": {"schema": BASE64},
        "application/json": FORM,
        "application/x-www-form-urlencoded": FORM,
        "multipart/form-data": FORM,
    },
    "deepstack.detection": {"multipart/form-data": {"schema": schemas.DeepStackRequest(max_pixels=0)}},
}
FAILURE: dict[str, Any] = {"$ref": "#/components/schemas/Failure"}
PLAIN_FAILURES: dict[str, Any] = {"deepstack.detection": schemas.DeepStackFailure}
NUMBER = {"type": "integer", "minimum": 0}
QUOTA = {
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
SCHEME = {"WWW-Authenticate": {"description": "How to say who you are.", "schema": {"type": "string"}}}


def specification(app: Flask) -> dict[str, Any]:
    """The OpenAPI document of the application's routes."""
    plugin = MarshmallowPlugin()
    spec = APISpec("Augu API", version("augu-api"), "3.1.0", [plugin], info={"license": {"name": "Apache-2.0"}})
    converter = cast("OpenAPIConverter", plugin.converter)  # the line above made it
    converter.add_parameter_attribute_function(_commas)
    converter.add_attribute_function(_known)  # type: ignore[no-untyped-call]
    plugin.map_to_openapi_type(schemas.Photo, "string", "byte")  # type: ignore[no-untyped-call]
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
    endpoint, view = rule.endpoint, app.view_functions[rule.endpoint]
    flags = getattr(view, "flags", None)  # of a gated view
    operation = {
        "operationId": endpoint,
        "summary": view.__doc__,
        "responses": {
            str(status): _reply(endpoint, status, gated=flags is not None) for status in sorted(REPLIES[endpoint])
        },
    }
    if 401 in REPLIES[endpoint]:
        operation["security"] = [{"token": []}]
    if flags:
        operation["description"] = f"Needs the flags {' and '.join(flags.names)}."
    if endpoint == "images.objects":
        detector = app.extensions[KEY].loaded
        operation["responses"]["200"]["content"]["image/png"] = {"schema": {}}
        operation["parameters"] = [{"in": "query", "schema": schemas.ObjectsQuery(detector.names if detector else ())}]
    if rule.arguments:
        path = {"in": "path", "required": True, "schema": {"type": "string"}}
        operation["parameters"] = [path | {"name": name, "example": ARGUMENTS[name]} for name in rule.arguments]
    if endpoint in BODIES:
        content = {kind: body | {"examples": REQUESTS[endpoint][kind]} for kind, body in BODIES[endpoint].items()}
        operation["requestBody"] = {"required": True, "content": content}
    return operation


def _reply(endpoint: str, status: int, *, gated: bool) -> dict[str, Any]:
    mimetype, schema = "application/json", PLAIN_FAILURES.get(endpoint, FAILURE)
    if status == 200:
        mimetype, schema = PLAIN.get(endpoint) or (mimetype, _envelope(DATA[endpoint]))
    return {
        "description": "Request fulfilled." if status == 200 else error_of(status),
        "content": {mimetype: {"schema": schema, "examples": REPLIES[endpoint][status]}},
        "headers": _headers(status, gated=gated),
    }


def _headers(status: int, *, gated: bool) -> dict[str, Any]:
    headers = REQUEST_ID | (RETRY if status == 503 else USER_RETRY if status == 429 else {})
    headers |= SCHEME if status == 401 else {}
    always = {name: header | {"required": True} for name, header in headers.items()}
    if not gated or status == 401:
        return always
    return always | QUOTA | (USER_RETRY if status == 403 else {})  # while a ban runs


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


def _commas(_: OpenAPIConverter, field: fields.Field[Any], **__: Any) -> dict[str, Any]:
    return {"explode": False, "style": "form"} if isinstance(field, schemas.CommaSeparated) else {}


def _known(_: OpenAPIConverter, field: fields.Field[Any], **__: Any) -> dict[str, Any]:
    known = list(dict.fromkeys(getattr(field.parent, "known", ()))) if isinstance(field, schemas.CommaSeparated) else []
    return {"items": {"type": "string", "enum": known}} if known else {}
