"""What runs a model: what all engines share, and which one is taken."""

import logging
from abc import ABC, abstractmethod
from importlib import import_module
from types import ModuleType
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from augu_api.config import ENGINES, Settings
from augu_api.detection import Detection, Detector, ModelUnavailable
from augu_api.detection.catalogue import Model, find

NEEDS = ENGINES | {
    "training.train": "requirements-train.txt",
    "training.evaluate": "requirements-train.txt",
}
SAME_BOX = 0.8  # two boxes that overlap more than this are one
logger = logging.getLogger(__name__)
BLANK = np.zeros((480, 640, 3), np.uint8)
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
        self.used = {label for label, name in enumerate(model.names) if label and name != "N/A"}
        self.names = [model.names[label] for label in sorted(self.used)]
        self.facts = {"model": model.name, "engine": self.engine, "sha256": model.sha256}
        self.sides = model.min_size, model.max_size
        self.calibration = np.array(model.calibration or [[0.0, 0.0], [1.0, 1.0]]).T

    @abstractmethod
    def find(self, pixels: NDArray[np.uint8], *, all_cores: bool = False) -> Found:
        """Find the objects in an RGB photo (H, W, 3)."""

    def detect(self, photo: NDArray[np.uint8], *, all_cores: bool = False) -> list[Detection]:
        """Find the objects in an RGB photo (H, W, 3), best score first."""
        fitted = _fitted(photo, *self.sides)
        boxes, labels, raw = self.find(_padded(fitted), all_cores=all_cores)
        scores = _shared(boxes, labels, np.interp(raw, *self.calibration))
        whole, seen = np.array([photo.shape[1::-1], fitted.shape[1::-1]])
        corners = np.minimum(boxes * np.tile(whole / seen, 2), np.tile(whole, 2))
        best = np.argsort(-scores, kind="stable")
        found = zip(corners[best].tolist(), labels[best].tolist(), scores[best].tolist(), strict=True)
        return [Detection(self.labels[label], tuple(box), score) for box, label, score in found if label in self.used]

    def warm_up(self) -> None:
        """Detect for the first time, which takes longer."""
        self.detect(BLANK)


def _shared(boxes: NDArray[np.float32], labels: NDArray[np.int64], scores: NDArray[np.float64]) -> NDArray[np.float64]:
    """Scores (N) of which no two names of the same box make more than 1: the better one leaves the other the rest."""
    sure = scores > 0.5  # nobody else can take anything away
    low, high = np.maximum(boxes[:, None, :2], boxes[sure, :2]), np.minimum(boxes[:, None, 2:], boxes[sure, 2:])
    both = (high - low).clip(0).prod(2)
    area = (boxes[:, 2:] - boxes[:, :2]).prod(1)
    same = both > SAME_BOX * (area[:, None] + area[sure] - both)
    rivals = same & (labels[:, None] != labels[sure]) & (scores[:, None] <= scores[sure])
    taken: NDArray[np.float64] = np.where(rivals, scores[sure], 0).max(1, initial=0)
    return np.minimum(scores, 1 - taken)


def _fitted(photo: NDArray[np.uint8], shorter: int, longer: int) -> NDArray[np.uint8]:
    """A photo more than twice as large as the model's input, as the model would fit it; others as they are.

    It is the model's own bilinear sampling (an affine transform does not average), before all of a large photo becomes
    floats: hundreds of megabytes.
    """
    size = photo.shape[1::-1]
    scale = min(shorter / min(size), longer / max(size))
    if scale > 0.5:
        return photo
    width, height = (max(1, int(side * scale + 1e-6)) for side in size)
    steps = (size[0] / width, 0, 0, 0, size[1] / height, 0)
    image = Image.fromarray(photo)
    return np.asarray(image.transform((width, height), Image.Transform.AFFINE, steps, Image.Resampling.BILINEAR))


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
            detector.warm_up()
            for reason in reasons:
                logger.warning("%s", reason)
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
        requirements = NEEDS.get(name, "requirements-torch.txt")
        raise ModelUnavailable(
            f"{name} cannot be used ({error}). These versions fit each other: pip install -r {requirements}"
        ) from error
