"""A real gunicorn with the bundled model."""

import base64
import json
import urllib.request

from PIL import Image
from skimage import data

from tests.conftest import OBJECTS, Serve, png_of


def test_a_photo_is_served(serve: Serve) -> None:
    """Two workers, a token from the command line, a photo of a person."""
    server = serve(WEB_CONCURRENCY="2")
    token = server.run("users", "add", "alice", "--grant", "IMAGES_OBJECTS", "--grant", "EXPERIMENTAL").strip()
    body = base64.b64encode(png_of(Image.fromarray(data.astronaut())))
    request = urllib.request.Request(server.url + OBJECTS, body, {"Authorization": f"Bearer {token}"})
    with urllib.request.urlopen(request) as response:
        assert "person" in {item["name"] for item in json.load(response)["data"]["objects"]}
    assert len(server.workers) == 2
