"""A decorator that documents a view for /openapi.json and /docs: its request, its replies, an example of each."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any, NamedTuple, TypeVar

from marshmallow import Schema

from augu_api.web import schemas
from augu_api.web.envelope import Failure, failure_body, success_body

Examples = Mapping[str, Mapping[str, Any]]
"""By name, as OpenAPI spells them: with a `value`, or a file as `externalValue`, relative to openapi.json."""

TEXT = {"type": "string"}
View = TypeVar("View", bound=Callable[..., Any])


class Content(NamedTuple):
    """A body of one media type.

    schema: a marshmallow schema class or a JSON Schema; {} means the bytes of a file
    """

    schema: Any
    examples: Examples = MappingProxyType({})


class Shape(NamedTuple):
    """How a failure is written: the function that makes its JSON object, and the schema of that."""

    body: Callable[[Failure], dict[str, Any]]
    schema: type[Schema]


ENVELOPE = Shape(failure_body, schemas.Failure)


@dataclass(frozen=True)
class Operation:
    """The documentation of a view, in addition to its docstring and its gates.

    Used as a decorator, it is stored as `view.operation`. A view without one works, and is listed without bodies.

    query: the schema of its query parameters
    arguments: an example of each argument of its route
    body: the bodies that it takes, by media type
    replies: the bodies of a 200, by media type
    failures: an example of each failure in addition to those of its gates, by name
    """

    query: type[Schema] | None = None
    arguments: Mapping[str, str] = field(default_factory=dict)
    body: Mapping[str, Content] = field(default_factory=dict)
    replies: Mapping[str, Content] = field(default_factory=dict)
    failures: Mapping[str, Failure] = field(default_factory=dict)
    shape: Shape = ENVELOPE

    def __call__(self, view: View) -> View:
        """Document `view`."""
        view.operation = self  # type: ignore[attr-defined]  # read by docs/openapi.py
        return view


def enveloped(schema: type[Schema], **example: Any) -> dict[str, Content]:
    """The replies of a view that answers with `schema` in the envelope, with an example of it."""
    properties = {
        "statusCode": {"type": "integer", "enum": [200]},
        "error": {"type": "null"},
        "message": {"type": "string"},
        "data": schema,
    }
    envelope = {"type": "object", "required": list(properties), "properties": properties}
    return {"application/json": Content(envelope, {"success": {"value": success_body(example)}})}


def file_reply(mimetype: str, path: str, schema: Mapping[str, Any] = TEXT) -> dict[str, Content]:
    """The replies of a view that answers with a file, for example the one at `path`, relative to openapi.json."""
    return {mimetype: Content(schema, {"file": {"externalValue": path}})}
