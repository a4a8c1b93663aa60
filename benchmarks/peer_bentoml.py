"""BentoML serving the bundled model, as its documentation shows; configured by PEER_ENGINE and PEER_WORKERS."""

import os
from typing import Any

import bentoml
from peer import Peer
from PIL.Image import Image

WORKERS = int(os.environ["PEER_WORKERS"])


@bentoml.service(workers=WORKERS, traffic={"timeout": 120})
class Detector:
    """A multipart photo -> JSON with its objects."""

    def __init__(self) -> None:
        self.peer = Peer(os.environ["PEER_ENGINE"], WORKERS)

    @bentoml.api
    def detect(self, image: Image) -> list[dict[str, Any]]:
        """Detect the objects."""
        return self.peer.detect(image)
