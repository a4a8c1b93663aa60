"""What openapi.json says of the service's replies."""

import json
import re
from typing import Any

from flask import Flask
from jsonschema import Draft202012Validator
from werkzeug.test import TestResponse

Document = dict[str, Any]


def gated(app: Flask) -> set[tuple[str, str]]:
    """The operations that need a token of a user."""
    rules = [rule for rule in app.url_map.iter_rules() if hasattr(app.view_functions[rule.endpoint], "gates")]
    return {(rule.rule, method) for rule in rules for method in methods(rule)}


def methods(rule: Any) -> set[str]:
    return {method.lower() for method in rule.methods} - {"head"}


def as_documented(document: Document, response: TestResponse) -> None:
    """The reply's status, type, body and headers are documented for the route that gave it."""
    path = re.sub("(?<=^/assets/).*", "{name}", response.request.path)
    path = re.sub("(?<=^/v1/vision/custom/)(?!list$).*", "{model}", path)
    operation = document["paths"][path][response.request.method.lower()]
    documented = operation["responses"][str(response.status_code)]
    content = documented["content"].get(response.mimetype) or documented["content"]["*/*"]
    schema = content["schema"] | {"components": document["components"]}
    body = json.loads(response.data) if response.mimetype == "application/json" else response.text
    Draft202012Validator(schema).validate(body)
    extra = {"X-Ratelimit-Limit", "X-Ratelimit-Remaining", "X-Ratelimit-Reset", "Retry-After", "X-Retry-After"}
    assert set(response.headers.keys()) & (extra | {"X-Request-Id"}) <= set(documented["headers"])
