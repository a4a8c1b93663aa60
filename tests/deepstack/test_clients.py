"""Clients of DeepStack's protocol, which others wrote, find what our own endpoint finds."""

import base64
import json
import subprocess
from collections.abc import Callable
from io import BytesIO
from pathlib import Path
from typing import Any

import pytest
import requests
from deepstack.core import DeepstackObject
from PIL import Image

from augu_api.client import Client, Item
from tests.helpers import DETECTION, LOOPBACK, file_of, missing, needed, picture, png_of
from tests.servers import Server, add
from tests.strangers.running import NODE_RED

Found = list[list[dict[str, Any]]]
"""The predictions for each photo."""


@pytest.fixture
def jpegs(dev_photos: Path) -> list[bytes]:
    """Ten photos of the world."""
    return [path.read_bytes() for path in sorted((dev_photos / "images").glob("*.jpg"))[:10]]


def ours(server: Server, token: str, image: bytes, min_score: float) -> tuple[Item, ...]:
    """What our own endpoint detects."""
    with Image.open(BytesIO(image)) as decoded:
        return Client(server.url, token).objects(png_of(decoded.convert("RGB")), min_score=min_score).objects


def same(prediction: dict[str, Any], item: Item) -> None:
    """The same object, its box in whole pixels around ours."""
    assert (prediction["label"], round(prediction["confidence"] * 100, 2)) == (item.name, item.score)
    low = {"x_min": item.x, "y_min": item.y}
    high = {"x_max": item.x + item.width, "y_max": item.y + item.height}
    assert all(isinstance(prediction[side], int) for side in low | high)
    assert all(-0.01 < at - prediction[side] < 1.01 for side, at in low.items())
    assert all(-0.01 < prediction[side] - at < 1.01 for side, at in high.items())


def with_deepstack_python(server: Server, key: str, images: list[bytes]) -> Found:
    """What Home Assistant's DeepStack integration gets."""
    client = DeepstackObject(LOOPBACK, server.port, key, min_confidence=0.45)
    return [client.detect(image) for image in images]


def with_deepstack_sdk(server: Server, key: str, images: list[bytes]) -> Found:
    sdk = needed("deepstack_sdk")
    client = sdk.Detection(sdk.ServerConfig(server.url, key))
    return [[vars(one) for one in client.detectObject(image, min_confidence=0.45)] for image in images]


def with_codeproject_ai_api(server: Server, key: str, images: list[bytes]) -> Found:
    """What Viseron and Home Assistant's CodeProject.AI integration get; it has no place for a key but the host."""
    host = f"any:{key}@{LOOPBACK}" if key else LOOPBACK
    client = needed("codeprojectai.core").CodeProjectAIObject(host, server.port, min_confidence=0.45)
    return [client.detect(image) for image in images]


def with_node_red(server: Server, key: str, images: list[bytes]) -> Found:
    """What a flow of Node-RED gets from node-red-contrib-deepstack."""
    if lacks := NODE_RED.lacks:
        missing(lacks)
    command = [*NODE_RED.command, LOOPBACK, str(server.port), key, "45"]
    photos = json.dumps([base64.b64encode(image).decode() for image in images])
    done = subprocess.run(command, input=photos, capture_output=True, text=True, check=False, timeout=120)
    if done.returncode:
        raise RuntimeError(done.stderr)
    found: Found = json.loads(done.stdout)
    return found


CLIENTS = [with_deepstack_python, with_deepstack_sdk, with_codeproject_ai_api, with_node_red]


@pytest.mark.parametrize("detect", CLIENTS)
def test_a_client_finds_what_our_endpoint_finds(
    detect: Callable[[Server, str, list[bytes]], Found], server: Server, jpegs: list[bytes]
) -> None:
    """Each client gets the same objects, scores and boxes for ten photos, and says 401 for a wrong token."""
    token = add(server)
    count = 0
    for jpeg, predictions in zip(jpegs, detect(server, token, jpegs), strict=True):
        for prediction, item in zip(predictions, ours(server, token, jpeg, 45), strict=True):
            same(prediction, item)
            count += 1
    assert count > 10
    with pytest.raises(Exception, match="401"):
        detect(server, "a.b.c", jpegs[:1])


def test_a_client_without_a_place_for_a_token(server: Server, jpegs: list[bytes]) -> None:
    """Programs that send no token at all are served as the user that the setting names, once there is one."""
    with pytest.raises(Exception, match="401"):
        with_codeproject_ai_api(server, "", jpegs[:1])
    token = add(server, "cameras")
    assert with_codeproject_ai_api(server, "", jpegs[:1]) == with_codeproject_ai_api(server, token, jpegs[:1])


def test_frigate_finds_what_our_endpoint_finds(server: Server) -> None:
    """A request as Frigate's plug-in sends it, a JPEG of 320 x 320 without a type, gets boxes in its pixels."""
    token = add(server)
    jpeg = file_of(picture("astronaut").resize((320, 320)), "JPEG")
    reply = requests.post(f"{server.url}{DETECTION}", data={"api_key": token}, files={"image": jpeg}, timeout=60)
    predictions = reply.json()["predictions"]
    objects = ours(server, token, jpeg, 40)
    for prediction, item in zip(predictions, objects, strict=True):
        same(prediction, item)
        assert 0 <= prediction["x_min"] < prediction["x_max"] <= 320
        assert 0 <= prediction["y_min"] < prediction["y_max"] <= 320
    assert "person" in [prediction["label"] for prediction in predictions]
