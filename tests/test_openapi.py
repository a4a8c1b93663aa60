"""openapi.json is valid, describes every route and nothing else, and the replies are as it says."""

import json
import os
import re
import subprocess
import sys
from dataclasses import replace
from io import BytesIO
from pathlib import Path
from urllib.parse import urljoin

import pytest
from flask import Flask
from flask.testing import FlaskClient
from jsonschema import Draft202012Validator
from marshmallow import Schema, fields, validate
from openapi_spec_validator import validate as validate_document

from augu_api.config import ROOT, Settings
from augu_api.flags import Flag
from augu_api.web.docs.openapi import path_of
from augu_api.web.docs.pages import prepare
from augu_api.web.operation import Content, Operation
from augu_api.web.service import KEY, Service
from tests.helpers import (
    BAD_TOKEN,
    DETECTION,
    METRICS_TOKEN,
    OBJECTS,
    AddUser,
    FakeDetector,
    Headers,
    MakeApp,
    add_user_to,
    bearer,
    full,
)
from tests.openapi import Document, as_documented, gated, methods

BRACES = str.maketrans("<>", "{}")  # of a route


@pytest.fixture
def settings(settings: Settings) -> Settings:
    """With every route that can be switched on."""
    return replace(settings, deepstack=True)


@pytest.fixture
def document(client: FlaskClient) -> Document:
    found: Document = json.loads(client.get("/openapi.json").data)
    return found


def test_the_document_is_valid(document: Document) -> None:
    """The document is valid OpenAPI 3.1."""
    validate_document(document)
    assert document["openapi"].startswith("3.1")


def test_the_server_is_where_the_document_is(document: Document) -> None:
    """The server's address is relative, so it holds under any path; so are the files of the examples."""
    [server] = document["servers"]
    assert urljoin("https://example.org/augu/openapi.json", server["url"]) == "https://example.org/augu/"
    files = re.findall(r'"externalValue": "([^"]*)"', json.dumps(document))
    assert len(files) > 4
    assert [file for file in files if file.startswith("/") or "://" in file] == []


def test_every_route_is_documented_and_nothing_else(app: Flask, document: Document) -> None:
    """The document has exactly the application's paths and methods, each with a summary and a unique id."""
    routes = {(path_of(rule), method) for rule in app.url_map.iter_rules() for method in methods(rule)}
    operations = {(path, method): op for path, ops in document["paths"].items() for method, op in ops.items()}
    assert set(operations) == routes
    assert all(operation["summary"].endswith(".") for operation in operations.values())
    assert len({operation["operationId"] for operation in operations.values()}) == len(operations)


def test_an_undocumented_view_works_and_is_listed(app: Flask) -> None:
    """A view without an Operation, and even without a docstring, is listed with its name and arguments."""
    app.add_url_rule("/new/<int:number>", "new", lambda number: str(number + 1))
    client = app.test_client()
    document = json.loads(client.get("/openapi.json").data)
    validate_document(document)
    operation = document["paths"]["/new/{number}"]["get"]
    assert (operation["operationId"], operation["summary"]) == ("new", "new.")
    assert [parameter["name"] for parameter in operation["parameters"]] == ["number"]
    assert "GET /new/{number}" in client.get("/docs").text
    assert client.get("/new/41").text == "42"


class Ordinary(Schema):
    """Fields with one bound, and with defaults of several kinds."""

    least = fields.Integer(validate=validate.Range(min=1))
    most = fields.Float(validate=validate.Range(max=2.5), load_default=0.5)
    speed = fields.String(load_default="fast")
    loud = fields.Boolean(load_default=True)


def test_any_operation_can_be_documented(app: Flask) -> None:
    """Bodies without examples, bounds on one side, defaults of any kind, several methods and a long docstring."""

    @Operation(
        query=Ordinary, body=dict.fromkeys(("application/json", "image/png", "multipart/form-data"), Content(Ordinary))
    )
    def odd() -> str:
        """Do something.

        It is odd.
        """
        return "done"

    app.add_url_rule("/odd", view_func=odd, methods=["GET", "POST"])
    client = app.test_client()
    document = json.loads(client.get("/openapi.json").data)
    validate_document(document)
    operations = document["paths"]["/odd"]
    assert [operation["operationId"] for operation in operations.values()] == ["odd.get", "odd.post"]
    assert {(o["summary"], o["description"]) for o in operations.values()} == {("Do something.", "It is odd.")}
    assert {parameter["name"] for parameter in operations["get"]["parameters"]} == {"least", "most", "speed", "loud"}
    page = client.get("/docs").text
    for said in ("integer, at least 1", "number, at most 2.5, 0.5 by default", 'string, "fast" by default'):
        assert said in page.replace("&#34;", '"')


def test_any_route_can_be_listed(app: Flask) -> None:
    """Converters with arguments, defaults, two routes of one view, other methods, and a route without a view."""
    app.add_url_rule("/min/<int(min=1):n>/<any(a, b):letter>", "min", lambda n, letter: f"{n}{letter}")
    app.add_url_rule("/all", "all", lambda n: f"{n}", defaults={"n": 1})
    app.add_url_rule("/all/<int:n>", "all")
    app.add_url_rule("/dav", "dav", lambda: "dav", methods=["GET", "PROPFIND"])
    app.add_url_rule("/nothing", "nothing")
    client = app.test_client()
    document = json.loads(client.get("/openapi.json").data)
    validate_document(document)
    assert {"/min/{n}/{letter}", "/all", "/all/{n}", "/dav", "/nothing"} <= set(document["paths"])
    assert client.get("/docs").status_code == 200


def test_documents_are_made_once(app: Flask, monkeypatch: pytest.MonkeyPatch) -> None:
    """A request does not build the documents again, since it needs no token; a server builds them when it starts."""
    prepare(app)
    monkeypatch.delattr("apispec.APISpec.to_dict")
    monkeypatch.delattr("jinja2.Template.render")
    client = app.test_client()
    for path in ("/openapi.json", "/docs"):
        assert [client.get(path).status_code for _ in range(2)] == [200, 200]


def test_a_server_makes_the_documents_at_its_start(tmp_path: Path) -> None:
    """Once wsgi.py is loaded they are there, before the first request."""
    code = "import wsgi; from augu_api.web.docs.pages import KEY; print(KEY in wsgi.app.extensions)"
    env = os.environ | {"AUGU_DATA_DIR": str(tmp_path)}
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, env=env, check=True, capture_output=True, text=True)
    assert done.stdout.splitlines()[-1] == "True"


def test_gated_routes_say_so(app: Flask, document: Document) -> None:
    """Routes that need a token document it and 401, 403 and 429 with their headers; other routes do not."""
    assert gated(app) >= {(OBJECTS, "post"), (DETECTION, "post"), ("/session", "get")}
    needing = {(path.translate(BRACES), method) for path, method in gated(app)}
    for path, method in needing:
        operation = document["paths"][path][method]
        assert operation["security"] == [{"token": []}]
        assert {"401", "403", "429"} <= set(operation["responses"])
        assert {"Retry-After", "X-Retry-After"} <= set(operation["responses"]["429"]["headers"])
    operations = {(path, method): op for path, ops in document["paths"].items() for method, op in ops.items()}
    assert {op for op in operations if "security" in operations[op]} == needing | {("/metrics", "get")}


def test_the_endpoint_documents_its_request(document: Document) -> None:
    """The flags, the query parameters with their bounds and defaults, and the forms of the body."""
    operation = document["paths"][OBJECTS]["post"]
    assert operation["description"] == "Needs the flags IMAGES_OBJECTS and EXPERIMENTAL."
    parameters = {parameter["name"]: parameter for parameter in operation["parameters"]}
    assert set(parameters) == {"min_score", "limit", "max_side", "names"}
    bounds = {name: parameters[name]["schema"] for name in ("min_score", "limit")}
    assert {name: (s["minimum"], s["maximum"], s["default"]) for name, s in bounds.items()} == {
        "min_score": (0, 100, 50.0),
        "limit": (1, 100, 100),
    }
    assert parameters["names"]["explode"] is False
    assert not any(parameter.get("required") for parameter in parameters.values())
    forms = {"application/json", "application/x-www-form-urlencoded", "multipart/form-data", "text/plain", "image/png"}
    assert set(operation["requestBody"]["content"]) == forms


@pytest.mark.parametrize("path", [f"{OBJECTS}/names", "/session", "/health/live", "/health/ready", "/openapi.json"])
def test_pages_are_as_documented(client: FlaskClient, auth: Headers, document: Document, path: str) -> None:
    """Replies to GET have the documented shape."""
    response = client.get(path, headers=auth)
    assert response.status_code == 200
    as_documented(document, response)


@pytest.mark.parametrize(
    ("options", "body", "status"),
    [
        ({}, None, 200),
        ({}, "no photo", 400),
        ({"flags": Flag(0)}, None, 403),
        ({"flags": Flag.BANNED}, None, 403),
        ({"coefficient": 0}, None, 429),
    ],
)
def test_replies_to_a_photo_are_as_documented(
    client: FlaskClient, add_user: AddUser, document: Document, photo: str, options: Document, body: str, status: int
) -> None:
    """Replies to a photo, and to each kind of bad request by a known user, are as documented."""
    response = client.post(OBJECTS, data=body or photo, headers=bearer(add_user(**options)))
    assert response.status_code == status
    as_documented(document, response)


def test_deepstacks_form_is_documented(document: Document) -> None:
    """The fields of the form with their kinds, bounds and defaults; the file alone is required."""
    operation = document["paths"][DETECTION]["post"]
    assert operation["description"] == "Needs the flags IMAGES_OBJECTS and EXPERIMENTAL."
    [content] = operation["requestBody"]["content"].items()
    assert content[0] == "multipart/form-data"
    assert content[1]["schema"] == {"$ref": "#/components/schemas/DeepStackRequest"}
    form = document["components"]["schemas"]["DeepStackRequest"]
    shapes = {name: {**field, "description": ""} for name, field in form["properties"].items()}
    assert shapes == {
        "image": {"type": "string", "format": "binary", "description": ""},
        "min_confidence": {"type": "number", "minimum": 0, "maximum": 1, "default": 0.4, "description": ""},
        "api_key": {"type": "string", "default": "", "description": ""},
    }
    assert form["required"] == ["image"]


@pytest.mark.parametrize(
    ("options", "sent", "status"),
    [({}, True, 200), ({}, False, 400), ({"flags": Flag(0)}, True, 403), ({"coefficient": 0}, True, 429)],
)
def test_deepstacks_replies_are_as_documented(
    client: FlaskClient, add_user: AddUser, document: Document, png: bytes, options: Document, sent: bool, status: int
) -> None:
    """The replies have DeepStack's shape, and the headers of all replies."""
    form = {"image": (BytesIO(png), "a.png")} if sent else {}
    response = client.post(DETECTION, data=form, headers=bearer(add_user(**options)))
    assert response.status_code == status
    as_documented(document, response)


@pytest.mark.parametrize(("method", "path"), [("POST", OBJECTS), ("POST", DETECTION), ("GET", "/session")])
def test_refusals_are_as_documented(client: FlaskClient, document: Document, method: str, path: str) -> None:
    """The replies to callers without a valid token are as documented."""
    response = client.open(path, method=method, headers=BAD_TOKEN)
    assert response.status_code == 401
    as_documented(document, response)


@pytest.mark.parametrize("path", [OBJECTS, DETECTION])
def test_a_full_queue_is_as_documented(
    client: FlaskClient, service: Service, auth: Headers, document: Document, photo: str, path: str
) -> None:
    """The 503 of a full queue is as documented."""
    with full(service):
        response = client.post(path, data=photo, headers=auth)
    assert response.status_code == 503
    as_documented(document, response)


@pytest.mark.parametrize("path", [OBJECTS, DETECTION, f"{OBJECTS}/names", "/health/ready"])
def test_a_missing_detector_is_as_documented(
    make_app: MakeApp, settings: Settings, document: Document, photo: str, path: str
) -> None:
    """503 is documented wherever the detector is needed."""
    app = make_app(settings)
    headers = bearer(add_user_to(app.extensions[KEY]))
    response = app.test_client().open(
        path, method="POST" if path in (OBJECTS, DETECTION) else "GET", data=photo, headers=headers
    )
    assert response.status_code == 503
    as_documented(document, response)


@pytest.mark.parametrize(
    ("token", "headers", "status"),
    [("", {}, 403), (METRICS_TOKEN, BAD_TOKEN, 401), (METRICS_TOKEN, bearer(f"Bearer {METRICS_TOKEN}"), 200)],
)
def test_metrics_are_as_documented(
    make_app: MakeApp,
    settings: Settings,
    detector: FakeDetector,
    document: Document,
    token: str,
    headers: Headers,
    status: int,
) -> None:
    """The replies without a configured token, with a wrong token and with the right one are as documented."""
    values = {"AUGU_DATA_DIR": str(settings.data_dir), "AUGU_METRICS_TOKEN": token}
    response = make_app(Settings.from_env(values), detector).test_client().get("/metrics", headers=headers)
    assert response.status_code == status
    as_documented(document, response)


def test_a_wrong_reply_would_be_noticed(client: FlaskClient, auth: Headers, document: Document) -> None:
    """The documented shapes refuse other shapes: each property of a reply is required."""
    names = document["paths"][f"{OBJECTS}/names"]["get"]["responses"]["200"]["content"]["application/json"]["schema"]
    validator = Draft202012Validator(names | {"components": document["components"]})
    good = json.loads(client.get(f"{OBJECTS}/names").data)
    assert validator.is_valid(good)
    assert not any(validator.is_valid({key: good[key] for key in good if key != gone}) for gone in good)
    assert not validator.is_valid(good | {"data": {"names": [1]}})
