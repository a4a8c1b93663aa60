"""What runs a model: what all engines share, and which one is taken."""

from abc import ABC, abstractmethod
from importlib import import_module
from math import ceil
from types import ModuleType
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from augu_api.config import Settings
from augu_api.detection import Detection, Detector, ModelUnavailable
from augu_api.detection.catalogue import Model, find

ENGINES = "onnx", "torchvision"  # in the order in which `auto` tries them
MAX_ASPECT = 128  # a thinner photo is padded, since fitting it would leave its short side no pixel


class Found(NamedTuple):
    """What a model finds: boxes (N, 4) in pixels, labels (N), scores (N) from 0 to 1, best first."""

    boxes: NDArray[np.float32]
    labels: NDArray[np.int64]
    scores: NDArray[np.float32]


class Engine(ABC):
    """A model in an engine: a Detector, once `find` is there."""

    engine: str

    def __init__(self, model: Model) -> None:
        self.labels = model.names
        self.names = [name for name in model.names[1:] if name != "N/A"]
        self.facts = {"model": model.name, "engine": self.engine, "sha256": model.sha256}
        self.longest = model.max_size

    @abstractmethod
    def find(self, pixels: NDArray[np.uint8]) -> Found:
        """Find the objects in an RGB photo (H, W, 3)."""

    def detect(self, image: Image.Image) -> list[Detection]:
        """Find the objects in an RGB image, best score first.

        A photo more than twice as large as the model's input is shrunk by a whole factor before, which averages its
        pixels; the model would skip most of them.
        """
        factor = ceil(max(image.size) / (2 * self.longest))
        boxes, labels, scores = self.find(_padded(np.asarray(image.reduce(factor) if factor > 1 else image)))
        corners = np.minimum(boxes * factor, [*image.size, *image.size])
        found = zip(corners.tolist(), labels.tolist(), scores.tolist(), strict=True)
        return [Detection(self.labels[label], tuple(box), score) for box, label, score in found]


def _padded(pixels: NDArray[np.uint8]) -> NDArray[np.uint8]:
    height, width, _ = pixels.shape
    bottom, right = max(0, width // MAX_ASPECT - height), max(0, height // MAX_ASPECT - width)
    return np.pad(pixels, ((0, bottom), (0, right), (0, 0))) if bottom or right else pixels


def load(settings: Settings) -> Detector:
    """The detector that `settings` name, warmed up. Raises ModelUnavailable.

    Torch hangs if it is used before a fork and after it, so each worker calls this itself.
    """
    model = find(settings.model, settings)
    reasons = []
    for engine in ENGINES if settings.engine == "auto" else (settings.engine,):
        try:
            detector = _load(engine, model, settings.engine_threads)
        except ModelUnavailable as error:
            reasons.append(str(error))
        else:
            detector.detect(Image.new("RGB", (640, 480)))
            return detector
    raise ModelUnavailable("\n".join(reasons))


def _load(engine: str, model: Model, threads: int) -> Engine:
    loaded: Engine = optional(engine).load(model, threads)
    return loaded


def optional(name: str) -> ModuleType:
    """The module augu_api.detection.NAME, whose needs may not be installed. Raises ModelUnavailable."""
    try:
        return import_module(f"augu_api.detection.{name}")
    except (ImportError, RuntimeError) as error:  # RuntimeError: torch and torchvision do not fit each other
        requirements = "requirements.txt" if name == "onnx" else "requirements-torch.txt"
        raise ModelUnavailable(
            f"{name} cannot be used ({error}). These versions fit each other: pip install -r {requirements}"
        ) from error
