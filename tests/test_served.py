"""A real gunicorn with the bundled model."""

from augu_api.client import Client
from tests.helpers import picture
from tests.servers import Serve


def test_a_photo_is_served(serve: Serve) -> None:
    """Two workers detect the person in a photo, with a token from the command line."""
    server = serve(WEB_CONCURRENCY="2")
    token = server.run("users", "add", "alice", "--grant", "IMAGES_OBJECTS", "--grant", "EXPERIMENTAL").strip()
    found = Client(server.url, token).objects(picture("astronaut"))
    assert "person" in {item.name for item in found.objects}
    assert len(server.workers) == 2
