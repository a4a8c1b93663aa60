"""Run an application with its log: `python -m tests.logged FOLDER` makes a request of each kind to it.

The log goes to standard output; what must not be in the log goes to standard error.
"""

import base64
import sys

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from augu_api.app import create_app
from augu_api.config import Settings
from augu_api.detection import Detection
from augu_api.operating import logs
from augu_api.web.service import KEY
from tests.helpers import OBJECTS, FakeDetector, add_user_to, png_of


class BrokenDetector(FakeDetector):
    """Raises an error for a photo of one pixel."""

    def detect(self, photo: NDArray[np.uint8], *, all_cores: bool = False) -> list[Detection]:
        if photo.shape == (1, 1, 3):
            raise RuntimeError("a bug")
        return super().detect(photo)


def main(folder: str) -> None:
    """Make the requests to an application with its data in a folder."""
    logs.configure()
    app = create_app(Settings.from_env({"AUGU_DATA_DIR": folder}), BrokenDetector())
    client, authorization = app.test_client(), add_user_to(app.extensions[KEY], id=42)
    photo, broken = (base64.b64encode(png_of(Image.new("RGB", size))).decode() for size in ((64, 64), (1, 1)))
    headers = {"Authorization": authorization, "User-Agent": "bot/1 " + "x" * 500, "X-Request-Id": "mine"}
    client.post(f"{OBJECTS}?min_score=1", data=photo, headers=headers)
    client.post(OBJECTS, data=broken, headers=headers)
    client.post(OBJECTS, data=photo[:-100], headers=headers)
    client.get(f"/no/{authorization[7:]}", headers={"Authorization": authorization + "x", "User-Agent": "a\tb"})
    client.get("/session", headers={"Authorization": authorization[:-1], "X-Request-Id": '","level":"ERROR'})
    sys.stderr.write(" ".join((authorization[7:], authorization[-20:], photo[:60], photo[-60:], broken[-30:])))


if __name__ == "__main__":
    main(sys.argv[1])
