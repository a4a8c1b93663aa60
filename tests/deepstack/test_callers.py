"""Who may call DeepStack's protocol: where a token may be, and requests without one from listed networks."""

import base64
import json
import logging
from dataclasses import replace
from io import BytesIO
from typing import Any

import pytest
import requests
from flask.testing import FlaskClient
from PIL import Image
from sqlalchemy.orm import Session
from werkzeug.test import TestResponse

from augu_api.config import Settings
from augu_api.flags import Flag
from augu_api.parsers import keyless, networks
from augu_api.store import accounts
from augu_api.web.service import Service
from tests.helpers import BOTH, DETECTION, OBJECTS, FakeDetector, MakeApp, add_user_to, file_of, png_of
from tests.servers import Nginx, Serve, add

JPEG = file_of(Image.new("RGB", (8, 8), "navy"), "JPEG")
LAN, PROXY, ELSEWHERE = "192.168.1.20", "10.0.0.2", "203.0.113.9"


def send(client: FlaskClient, path: str = DETECTION, **options: Any) -> TestResponse:
    """Send a photo; `REMOTE_ADDR`, `headers` and fields of the form are options."""
    environ = {"REMOTE_ADDR": options.pop("address", "127.0.0.1")}
    headers = options.pop("headers", {})
    data = options | {"image": (BytesIO(JPEG), "a.jpg")}
    return client.post(path, data=data, headers=headers, environ_base=environ)


def basic(user: str, password: str) -> dict[str, str]:
    return {"Authorization": f"Basic {base64.b64encode(f'{user}:{password}'.encode()).decode()}"}


# --- where the token may be


def test_the_token_may_be_basics_password(client: FlaskClient, token: str) -> None:
    """The token is accepted as Basic's password, with any user; a password that is no token is not looked at."""
    assert send(client, headers=basic("", token)).status_code == 200
    assert send(client, headers=basic("any", f" {token} ")).status_code == 200
    assert send(client, headers=basic("any", token[:-4] + "AAAA")).status_code == 401
    assert send(client, headers=basic("a", "b")).status_code == 401
    assert send(client, headers=basic("a", "b"), api_key=token).status_code == 200


def test_the_token_may_be_in_the_query(client: FlaskClient, token: str) -> None:
    """`?api_key=` is accepted on each of these routes, and on no other."""
    for path in (DETECTION, f"{DETECTION}/", "/v1/vision/custom/ipcam-combined"):
        assert send(client, f"{path}?api_key={token}").status_code in (200, 404)
        assert send(client, f"{path}?api_key=wrong").status_code == 401
    assert send(client, f"{DETECTION}?api_key=%20{token}%20").status_code == 200
    for path in ("/session", OBJECTS):
        method = client.get if path == "/session" else client.post
        assert method(f"{path}?api_key={token}").status_code == 401
        assert method(path, headers=basic("", token)).status_code == 401


def test_the_token_is_never_logged(serve: Serve, nginx: Nginx, tmp_path: Any) -> None:
    """Neither the service, nor gunicorn's access log, nor nginx writes a token in the query to a log."""
    server = serve(WEB_CONCURRENCY="1", AUGU_DEEPSTACK="1", GUNICORN_CMD_ARGS="--access-logfile -")
    token, front = add(server), nginx(server.port)
    files = {"image": JPEG}
    for port in (server.port, front):
        reply = requests.post(f"http://127.0.0.1:{port}{DETECTION}?api_key={token}", files=files, timeout=30)
        assert reply.status_code == 200
    assert requests.get(f"http://127.0.0.1:{front}/v1/x?api_key={token}", timeout=30).status_code == 404
    server.stop()
    assert requests.post(f"http://127.0.0.1:{front}{DETECTION}?api_key={token}", timeout=30).status_code == 503
    logs = server.log.read_text() + "".join(path.read_text() for path in tmp_path.rglob("nginx.log"))
    assert f'"POST {DETECTION}" 200' in logs
    assert token not in logs
    assert token.rpartition(".")[2] not in logs


# --- without a token


@pytest.fixture
def cameras(make_app: MakeApp, settings: Settings, detector: FakeDetector) -> FlaskClient:
    """A client of a service that takes requests without a token from a network, and believes one proxy."""
    open_to = keyless("cameras@192.168.1.0/24,fd00::/64")
    app = make_app(replace(settings, keyless=open_to, proxies=networks(PROXY)), detector)
    add_user_to(app.extensions["augu_api"], "cameras", BOTH, coefficient=1000)
    return app.test_client()


def forwarded(*hops: str) -> dict[str, str]:
    return {"X-Forwarded-For": ", ".join(hops)}


@pytest.mark.parametrize(
    ("address", "hops", "status"),
    [
        (LAN, (), 200),
        ("::ffff:192.168.1.20", (), 200),
        ("fd00::7", (), 200),
        (ELSEWHERE, (), 401),
        ("127.0.0.1", (), 401),
        (PROXY, (), 401),
        (PROXY, (LAN,), 200),
        (PROXY, (ELSEWHERE,), 401),
        (PROXY, (LAN, ELSEWHERE), 401),
        (PROXY, (ELSEWHERE, LAN), 200),
        (PROXY, (LAN, PROXY), 200),
        (PROXY, ("not an address",), 401),
        (PROXY, ("",), 401),
        (ELSEWHERE, (LAN,), 401),
        ("127.0.0.1", (LAN,), 401),
        (LAN, (LAN,), 401),
    ],
)
def test_the_clients_own_address_decides(
    cameras: FlaskClient, address: str, hops: tuple[str, ...], status: int
) -> None:
    """Without a token, a request is the named user's if its client is in the networks.

    X-Forwarded-For counts only from a proxy of ours, and of it only what our proxies added; a request that comes
    through another proxy is refused.
    """
    assert send(cameras, address=address, headers=forwarded(*hops) if hops else {}).status_code == status


def test_a_wrong_token_is_refused_from_anywhere(cameras: FlaskClient) -> None:
    """Whoever sends a token has to send a valid one; an empty one is none, and so is a password for something else."""
    for headers in ({"Authorization": "Bearer wrong"}, basic("", "a.b.c")):
        assert send(cameras, address=LAN, headers=headers).status_code == 401
    assert send(cameras, address=LAN, api_key="wrong").status_code == 401
    assert send(cameras, f"{DETECTION}?api_key=wrong", address=LAN).status_code == 401
    assert send(cameras, address=LAN, api_key="").status_code == 200
    assert send(cameras, address=LAN, headers=basic("a", "b")).status_code == 200


def test_only_these_routes_are_open(cameras: FlaskClient) -> None:
    """Our own endpoint and /session need a token from everywhere."""
    environ = {"REMOTE_ADDR": LAN}
    assert cameras.get("/session", environ_base=environ).status_code == 401
    assert cameras.post(OBJECTS, data=JPEG, environ_base=environ).status_code == 401


def test_the_user_without_a_token_is_a_user(
    make_app: MakeApp, settings: Settings, detector: FakeDetector, caplog: pytest.LogCaptureFixture
) -> None:
    """Quotas, flags, bans and the log are the named user's; if there is no such user, requests are refused."""
    caplog.set_level(logging.INFO, "augu_api.requests")
    app = make_app(replace(settings, keyless=keyless(f"cameras@{LAN}")), detector)
    client, service = app.test_client(), app.extensions["augu_api"]
    assert isinstance(service, Service)
    assert send(client, address=LAN).status_code == 401
    add_user_to(service, "cameras", Flag.IMAGES_OBJECTS, coefficient=2 / 60)
    assert send(client, address=LAN).status_code == 403
    with Session(service.engine) as session, session.begin():
        user = accounts.find(session, "cameras")
        user.flags |= Flag.EXPERIMENTAL
        id = str(user.id)
    assert [send(client, address=LAN).status_code for _ in range(2)] == [200, 429]
    assert caplog.records[-1].__dict__["user"] == id
    with Session(service.engine) as session, session.begin():
        accounts.ban(accounts.find(session, "cameras"))
    assert "You are banned." in send(client, address=LAN).text


def test_nobody_is_let_in_by_default(client: FlaskClient) -> None:
    """Without the setting, a request without a token is refused from everywhere."""
    assert [send(client, address=address).status_code for address in (LAN, "127.0.0.1")] == [401, 401]


def test_behind_nginx(serve: Serve, nginx: Nginx) -> None:
    """Behind deploy/nginx.conf the client's address counts, whatever it claims; without AUGU_PROXIES nobody gets in."""
    open_to = {"AUGU_DEEPSTACK": "1", "AUGU_DEEPSTACK_KEYLESS": "cameras@127.0.0.9", "WEB_CONCURRENCY": "1"}
    believed, other = serve(AUGU_PROXIES="127.0.0.1", **open_to), serve(**open_to)
    add(believed, "cameras")

    def status(port: int, address: str, **headers: str) -> int:
        with requests.Session() as session:
            adapter = requests.adapters.HTTPAdapter()
            adapter.init_poolmanager(1, 1, source_address=(address, 0))
            session.mount("http://", adapter)
            url = f"http://127.0.0.1:{port}{DETECTION}"
            return session.post(url, files={"image": JPEG}, headers=headers, timeout=30).status_code

    front, unknown = nginx(believed.port), nginx(other.port)
    claim = {"X-Forwarded-For": "127.0.0.9"}
    assert status(front, "127.0.0.9") == 200
    assert status(front, "127.0.0.8", **claim) == 401
    assert status(unknown, "127.0.0.9") == 401
    assert status(other.port, "127.0.0.9") == 200
    assert status(other.port, "127.0.0.8", **claim) == 401


# --- routes


def test_the_routes_of_codeproject_ai(client: FlaskClient, token: str, detector: FakeDetector) -> None:
    """The model is listed and answers by its name and alias; status routes say the version. A slash changes nothing."""
    detector.names = (*detector.names, "person", "car", "dog")
    for path in ("/v1/vision/custom/list", "/v1/vision/list-custom", "/v1/vision/custom/list/"):
        for reply in (client.get(path), client.post(path)):
            body = json.loads(reply.data)
            assert body.pop("analysisRoundTripMs") >= 0
            assert body == {
                "success": True,
                "models": [detector.facts["model"], "ipcam-combined"],
                "code": 200,
                "command": "list-custom",
                "moduleId": "AuguAPI",
                "moduleName": "Augu API",
                "executionProvider": "CPU",
            }
    for model in (detector.facts["model"], "ipcam-combined", "IPcam-combined/"):
        body = json.loads(send(client, f"/v1/vision/custom/{model}", api_key=token).data)
        assert (body["success"], body["command"], body["count"]) == (True, "custom", 2)
    assert json.loads(send(client, f"{DETECTION}/", api_key=token).data)["command"] == "detect"
    version = {"major": 1, "minor": 0, "patch": 0}
    for path in ("/v1/status/ping", "/v1/server/status/ping"):
        assert json.loads(client.get(path).data) == {
            "success": True,
            "message": "1.0.0",
            "version": version,
            "code": 200,
        }
    assert json.loads(client.get("/v1/status/updateavailable").data) == {
        "success": True,
        "message": "This service does not look for updates.",
        "version": version,
        "current": version,
        "latest": version,
        "updateAvailable": False,
        "code": 200,
    }


def test_the_alias_needs_its_categories(client: FlaskClient, token: str, detector: FakeDetector) -> None:
    """A model that does not know people, cars and dogs is not taken for one that does."""
    detector.names = ("gear", "bolt")
    assert json.loads(client.get("/v1/vision/custom/list").data)["models"] == [detector.facts["model"]]
    assert send(client, "/v1/vision/custom/ipcam-combined", api_key=token).status_code == 404


@pytest.mark.parametrize(
    ("method", "path", "status"),
    [
        ("GET", "/v1/nothing", 404),
        ("POST", "/v1/vision/face/recognize", 404),
        ("POST", "/v1/vision//detection", 404),
        ("GET", DETECTION, 405),
        ("POST", "/v1/vision/custom/license-plate?api_key={token}", 404),
    ],
)
def test_unknown_routes_fail_in_the_protocols_shape(
    client: FlaskClient, token: str, method: str, path: str, status: int
) -> None:
    """What is not served under /v1 fails in DeepStack's shape, and elsewhere in the envelope."""
    reply = client.open(path.format(token=token), method=method)
    body = json.loads(reply.data)
    assert reply.status_code == body["code"] == status
    assert (body["success"], body["duration"]) == (False, 0)
    assert body["error"] == body["message"]
    assert ("Allow" in reply.headers) is (status == 405)
    assert json.loads(client.get("/nothing").data)["statusCode"] == 404


def test_the_times_are_true(client: FlaskClient, token: str) -> None:
    """Inference is a part of the processing, which is a part of the whole request."""
    body = json.loads(send(client, api_key=token).data)
    assert 0 <= body["inferenceMs"] <= body["processMs"] <= body["analysisRoundTripMs"]


def test_a_part_without_a_name(client: FlaskClient, token: str) -> None:
    """A form may have a part without a name, as SynoAI's has."""
    body = b"--b\r\nContent-Disposition: form-data; name=image; filename=image\r\n\r\n" + JPEG
    body += b'\r\n--b\r\nContent-Type: application/json\r\nContent-Disposition: form-data\r\n\r\n{"min_confidence":0.5}'
    headers = {"Authorization": f"Bearer {token}", "Content-Type": "multipart/form-data; boundary=b"}
    assert client.post(DETECTION, data=body + b"\r\n--b--\r\n", headers=headers).status_code == 200


# --- larger files


def test_a_larger_file_where_the_setting_allows_it(serve: Serve) -> None:
    """With AUGU_DEEPSTACK_MB=10 a file of 10 MB is read, and not one byte more; other endpoints keep their bound."""
    server = serve(WEB_CONCURRENCY="1", AUGU_DEEPSTACK="1", AUGU_DEEPSTACK_MB="10")
    token = add(server)
    headers = {"Authorization": f"Bearer {token}"}
    url, size = f"{server.url}{DETECTION}", 10 * 2**20
    whole = JPEG + bytes(size - len(JPEG))
    for files in ({"image": whole}, {"image": png_of(Image.effect_noise((3400, 3000), 99))}):
        assert len(files["image"]) > 8 * 2**20
        assert requests.post(url, files=files, headers=headers, timeout=60).status_code == 200
    reply = requests.post(url, files={"image": whole + b"a"}, headers=headers, timeout=60)
    assert (reply.status_code, reply.json()["error"]) == (400, f"image: Larger than {size} bytes.")
    chunked = requests.Request("POST", url, files={"image": whole}, headers=headers).prepare()
    body, chunked.body = chunked.body, None
    del chunked.headers["Content-Length"]
    pieces = (body[at : at + 65536] for at in range(0, len(body), 65536)) if isinstance(body, bytes) else iter(())
    assert requests.post(url, data=pieces, headers=dict(chunked.headers), timeout=60).status_code == 200
    reply = requests.post(f"{server.url}{OBJECTS}", data=bytes(9 * 2**20), headers=headers, timeout=60)
    assert reply.status_code == 400
    assert reply.json()["details"]["data"][0].startswith(f"The body is too large: {9 * 2**20} bytes")
