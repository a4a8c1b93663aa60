"""The bundled model as the peers serve it: torchvision's module, or our export."""

from typing import Any

import numpy as np
import torch
from PIL import Image
from torchvision.transforms.functional import pil_to_tensor

from augu_api.config import CORES, Settings
from augu_api.detection.catalogue import find
from augu_api.detection.engines import Predictions
from augu_api.detection.onnx import OnnxEngine
from augu_api.detection.torchvision import build


class Peer:
    """The model in one worker of `workers`."""

    def __init__(self, engine: str, workers: int) -> None:
        model, threads = find("bundled", Settings()), max(1, CORES // workers)
        torch.set_num_threads(threads)
        self.names = model.names
        self.onnx = OnnxEngine(model, threads) if engine == "onnx" else None
        self.module = build(model)

    def detect(self, image: Image.Image) -> list[dict[str, Any]]:
        """Find the objects with a score of at least 0.5."""
        image = image.convert("RGB")
        found = self.onnx.predict(np.asarray(image)) if self.onnx else run(self.module, image)
        return [
            {"name": self.names[label], "box": box, "score": score}
            for box, label, score in zip(*(values.tolist() for values in found), strict=True)
            if score >= 0.5
        ]


@torch.inference_mode()
def run(module: torch.nn.Module, image: Image.Image) -> Predictions:
    """Call torchvision's module as its documentation does."""
    [found] = module([pil_to_tensor(image) / 255])
    return Predictions(*(found[key] for key in Predictions._fields))
