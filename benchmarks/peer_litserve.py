"""LitServe serving the bundled model, as its documentation shows: `peer_litserve.py ENGINE WORKERS PORT`."""

import base64
import sys
from io import BytesIO
from typing import Any

import litserve
from peer import Peer
from PIL import Image


class API(litserve.LitAPI):
    """JSON with a base64 photo -> JSON with its objects."""

    def setup(self, device: str) -> None:  # noqa: ARG002 - LitServe's signature
        """Load the model."""
        self.peer = Peer(sys.argv[1], int(sys.argv[2]))

    def decode_request(self, request: dict[str, str]) -> Image.Image:
        """Decode the photo."""
        return Image.open(BytesIO(base64.b64decode(request["data"])))

    def predict(self, x: Image.Image) -> list[dict[str, Any]]:
        """Detect."""
        return self.peer.detect(x)

    def encode_response(self, output: list[dict[str, Any]]) -> dict[str, Any]:
        """Encode the objects."""
        return {"objects": output}


if __name__ == "__main__":
    server = litserve.LitServer(API(), accelerator="cpu", workers_per_device=int(sys.argv[2]), timeout=120)
    server.run(port=int(sys.argv[3]), generate_client_file=False, log_level="warning")
