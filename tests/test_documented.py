"""The examples of openapi.json: each request is accepted unchanged, and the service gives each reply."""

import json
import re
import time
from contextlib import nullcontext
from dataclasses import replace
from io import BytesIO
from typing import Any
from urllib.parse import urljoin

import pytest
from flask import Flask
from flask.testing import FlaskClient
from jsonschema import Draft202012Validator
from sqlalchemy import text
from sqlalchemy.orm import Session
from werkzeug.test import TestResponse

from augu_api.config import Settings
from augu_api.detection import Detection, Detector
from augu_api.flags import DEFAULT_FLAGS, Flag
from augu_api.store import accounts
from augu_api.store.models import User
from augu_api.web import deepstack, monitoring, objects, session
from augu_api.web.docs import pages
from augu_api.web.docs.examples import SIGN
from augu_api.web.docs.openapi import specification
from augu_api.web.envelope import minified
from augu_api.web.service import KEY
from tests.helpers import (
    BAD_TOKEN,
    BOTH,
    METRICS_TOKEN,
    OBJECTS,
    FakeDetector,
    MakeApp,
    add_user_to,
    bearer,
    full,
)
from tests.openapi import Document, as_documented


def specified() -> Document:
    """The document of every route, for the tests' parameters; it needs no database."""
    app = Flask(__name__)
    for blueprint in (objects.images, session.session, monitoring.monitoring, pages.docs, deepstack.deepstack):
        app.register_blueprint(blueprint)
    return specification(app)


OPERATIONS = {op["operationId"]: op for ops in specified()["paths"].values() for op in ops.values()}
SENT = [
    (operation, kind, name)
    for operation, op in OPERATIONS.items()
    for kind, body in op.get("requestBody", {"content": {}})["content"].items()
    for name in body["examples"]
]
GIVEN = [
    (operation, int(status), name)
    for operation, op in OPERATIONS.items()
    for status, reply in op["responses"].items()
    for body in reply["content"].values()
    for name in body.get("examples", ())
]


def success_of(operation: str) -> Any:
    """What the example of a success says."""
    [body] = [body for body in OPERATIONS[operation]["responses"]["200"]["content"].values() if "examples" in body]
    return body["examples"]["success"]["value"]


VARIES = re.compile(r'\d+(?= seconds)|(?<="took":)\d+|(?<=Ms":)\d+')


@pytest.fixture
def settings(settings: Settings) -> Settings:
    """With every route that can be switched on."""
    return replace(settings, deepstack=True, metrics_token=METRICS_TOKEN)


@pytest.fixture
def detector() -> FakeDetector:
    """Returns the objects of the examples; that the bundled model finds them too is tested below."""
    ready, names = success_of("monitoring.ready")["data"], success_of("images.names")["data"]["names"]
    return FakeDetector([Detection("stop sign", (5.91, 6.05, 41.97, 38.2), 0.8649)], tuple(names), ready)


@pytest.fixture
def document(client: FlaskClient) -> Document:
    found: Document = json.loads(client.get("/openapi.json").data)
    return found


def operation_of(document: Document, name: str) -> tuple[str, str, Document]:
    """The method, the path and what is said of an operation."""
    operations = [(method, path, op) for path, ops in document["paths"].items() for method, op in ops.items()]
    return next(found for found in operations if found[2]["operationId"] == name)


def file_of(client: FlaskClient, address: str) -> bytes:
    """A file whose address is relative to openapi.json."""
    with client.get(urljoin("/openapi.json", address)) as response:
        return bytes(response.data)


def form_of(client: FlaskClient, kind: str, example: Document) -> Document:
    """How the test client sends an example of a request."""
    if "value" not in example:
        file = file_of(client, example["externalValue"])
        return {"data": file if kind == "image/png" else {"image": (BytesIO(file), "sign.png")}, "content_type": kind}
    value = example["value"]
    return {"data": json.dumps(value) if kind == "application/json" else value, "content_type": kind}


def alike(response: TestResponse, example: Document) -> bool:
    """The reply is the minified example, byte for byte apart from seconds and milliseconds."""
    expected = minified(example["value"])
    return bool(VARIES.sub("0", response.text) == VARIES.sub("0", expected))


@pytest.mark.parametrize(("operation", "kind", "name"), SENT)
def test_requests(
    client: FlaskClient, auth: dict[str, str], document: Document, operation: str, kind: str, name: str
) -> None:
    """Each form of the body has an example that fits its schema, and is answered with the example of a success."""
    method, path, op = operation_of(document, operation)
    content = op["requestBody"]["content"][kind]
    example = content["examples"][name]
    if "value" in example:
        Draft202012Validator(content["schema"] | {"components": document["components"]}).validate(example["value"])
    response = client.open(
        path.replace("{model}", "bundled"), method=method, headers=auth, **form_of(client, kind, example)
    )
    assert response.status_code == 200
    assert alike(response, op["responses"]["200"]["content"]["application/json"]["examples"]["success"])


def test_every_body_has_an_example(document: Document) -> None:
    """Each form of each request and each reply has an example, except the drawn picture, which /docs can request."""
    operations = [op for ops in document["paths"].values() for op in ops.values()]
    bodies = [op["requestBody"]["content"] for op in operations if "requestBody" in op]
    bodies += [reply["content"] for op in operations for reply in op["responses"].values()]
    without = [kind for content in bodies for kind, body in content.items() if not body.get("examples")]
    assert without == ["image/png"]


class Provoked:
    """Gets each reply of the examples from an application: `reply(operation, name)`."""

    def __init__(self, app: Flask, document: Document) -> None:
        self.client, self.service, self.document = app.test_client(), app.extensions[KEY], document

    def reply(self, operation: str, name: str) -> TestResponse:
        method, path, op = operation_of(self.document, operation)
        if "requestBody" not in op:
            request: Document = {}
        else:
            [kind, content] = next(iter(op["requestBody"]["content"].items()))
            request = form_of(self.client, kind, content["examples"]["sign"])
        model = "nothing" if name == "model" else "bundled"
        path = path.replace("{name}", name).replace("{model}", model)
        request |= {"headers": self.headers(name), "path": path}
        request |= {"path": "/assets/icon.svg"} if operation == "docs.asset" and name == "file" else {}
        request |= {"query_string": {"min_score": "101"}} if name == "query" else {}
        if name == "body":
            request["data"] = {"image": (BytesIO(b"no PNG"), "a.png")} if path.startswith("/v1/") else b"\xffno PNG"
        with full(self.service) if name == "admission" else nullcontext():
            return self.client.open(method=method, **request)

    def headers(self, name: str) -> dict[str, str]:
        """The headers of a caller for whom the example holds."""
        options: dict[str, dict[str, Any]] = {
            "flags": {"flags": Flag(0)},
            "ban": {"flags": Flag.BANNED},
            "quota": {"coefficient": 0},
        }
        user = {"flags": DEFAULT_FLAGS | BOTH, "id": 367302593753645057} | options.get(name, {})
        headers = bearer(add_user_to(self.service, **user)) if name != "token" else BAD_TOKEN
        if name == "ban for a while":
            with Session(self.service.engine) as session, session.begin():
                accounts.ban(session.get_one(User, user["id"]), time.time() + 412)
        if name == "unavailable":
            with self.service.engine.begin() as connection:
                connection.execute(text("DROP TABLE users"))
        return headers | ({"Accept": "text/html"} if name == "accept" else {})


@pytest.fixture
def provoked(make_app: MakeApp, settings: Settings, detector: FakeDetector, document: Document, name: str) -> Provoked:
    """The application that an example needs: for 503 it has no detector."""
    settings = replace(settings, metrics_token="") if name == "metrics" else settings
    return Provoked(make_app(settings, None if name == "unavailable" else detector), document)


@pytest.mark.parametrize(
    ("operation", "status", "name"), [given for given in GIVEN if given[:2] != ("monitoring.prometheus", 200)]
)
def test_replies(provoked: Provoked, document: Document, operation: str, status: int, name: str) -> None:
    """The service gives each reply of the document as its example says, and the document allows it."""
    op = operation_of(document, operation)[2]
    [example] = [
        body["examples"][name]
        for body in op["responses"][str(status)]["content"].values()
        if name in body.get("examples", {})
    ]
    response = provoked.reply(operation, name)
    with response:
        assert response.status_code == status
        as_documented(document, response)
        if "externalValue" in example:
            assert file_of(provoked.client, example["externalValue"]) == response.data
        else:
            assert alike(response, example)


def test_metrics(client: FlaskClient, auth: dict[str, str]) -> None:
    """The lines of the example are among those that Prometheus gets, with other numbers."""
    client.get("/session", headers=auth | {"User-Agent": "curl/8.10"})
    found = client.get("/metrics", headers=bearer(f"Bearer {METRICS_TOKEN}")).text
    example: str = success_of("monitoring.prometheus")
    assert {line.rpartition(" ")[0] for line in example.splitlines()} <= {
        line.rpartition(" ")[0] for line in found.splitlines()
    }


def test_the_bundled_model_gives_the_example(make_app: MakeApp, settings: Settings, bundled: Detector) -> None:
    """The bundled model finds in the example photo the objects of the example reply."""
    app = make_app(settings, bundled)
    client, headers = app.test_client(), bearer(add_user_to(app.extensions[KEY]))
    [found] = client.post(OBJECTS, data=SIGN, headers=headers).get_json()["data"]["objects"]
    [expected] = success_of("images.objects")["data"]["objects"]
    assert found == pytest.approx(expected, abs=0.5)  # another processor rounds otherwise
    assert client.get("/health/ready").get_json() == success_of("monitoring.ready")
