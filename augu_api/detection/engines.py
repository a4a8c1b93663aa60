"""Engines run a model: what they have in common, and how one is chosen."""

import logging
from abc import ABC, abstractmethod
from importlib import import_module
from types import ModuleType
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from augu_api.config import ENGINES, Settings
from augu_api.detection import Detection, Detector, ModelUnavailable
from augu_api.detection.catalogue import Model, find

NEEDS = ENGINES | {
    "training.fine_tune": "torch,train",
    "training.evaluate": "torch,train",
    "training.plots": "torch,train",
}
SAME_OBJECT_IOU = 0.8  # two boxes that overlap by more than this are of one object
logger = logging.getLogger(__name__)
BLANK = np.zeros((480, 640, 3), np.uint8)
MAX_ASPECT = 128  # a thinner photo is padded, since fitting it would leave its short side no pixel


class Predictions(NamedTuple):
    """A model's output: boxes (N, 4) in pixels, labels (N), scores (N) from 0 to 1, best first."""

    boxes: NDArray[np.float32]
    labels: NDArray[np.int64]
    scores: NDArray[np.float32]


class Engine(ABC):
    """A model in an engine: a Detector whose subclasses implement `predict`."""

    engine: str

    def __init__(self, model: Model) -> None:
        self.labels = model.names
        self.used = {label for label, name in enumerate(model.names) if label and name != "N/A"}
        self.names = tuple(model.names[label] for label in sorted(self.used))
        self.facts = {"model": model.name, "engine": self.engine, "sha256": model.sha256}
        self.input_sides = model.min_size, model.max_size
        self.calibration = np.array(model.calibration or [[0.0, 0.0], [1.0, 1.0]]).T

    @abstractmethod
    def predict(self, pixels: NDArray[np.uint8], *, all_cores: bool = False) -> Predictions:
        """The model's output for an RGB photo (H, W, 3)."""

    def detect(self, photo: NDArray[np.uint8], *, all_cores: bool = False) -> list[Detection]:
        """Detect the objects in an RGB photo (H, W, 3), best score first."""
        fitted = _downscaled(photo, *self.input_sides)
        boxes, labels, raw = self.predict(_padded(fitted), all_cores=all_cores)
        scores = _share_scores(boxes, labels, np.interp(raw, *self.calibration))
        size, fitted_size = np.array([photo.shape[1::-1], fitted.shape[1::-1]])
        corners = np.minimum(boxes * np.tile(size / fitted_size, 2), np.tile(size, 2))
        best = np.argsort(-scores, kind="stable")
        rows = zip(corners[best].tolist(), labels[best].tolist(), scores[best].tolist(), strict=True)
        return [Detection(self.labels[label], tuple(box), score) for box, label, score in rows if label in self.used]

    def warm_up(self) -> None:
        """Detect for the first time, which takes longer."""
        self.detect(BLANK)


def _share_scores(
    boxes: NDArray[np.float32], labels: NDArray[np.int64], scores: NDArray[np.float64]
) -> NDArray[np.float64]:
    """Scores (N), lowered so that any two labels of one object add up to at most 1; the higher score stays."""
    high = scores > 0.5  # two scores that add up to more than 1 include one of these
    left_top = np.maximum(boxes[:, None, :2], boxes[high, :2])
    right_bottom = np.minimum(boxes[:, None, 2:], boxes[high, 2:])
    both = (right_bottom - left_top).clip(0).prod(2)
    area = (boxes[:, 2:] - boxes[:, :2]).prod(1)
    same = both > SAME_OBJECT_IOU * (area[:, None] + area[high] - both)
    rivals = same & (labels[:, None] != labels[high]) & (scores[:, None] <= scores[high])
    taken: NDArray[np.float64] = np.where(rivals, scores[high], 0).max(1, initial=0)
    return np.minimum(scores, 1 - taken)


def _downscaled(photo: NDArray[np.uint8], shorter: int, longer: int) -> NDArray[np.uint8]:
    """A photo more than twice as large as the model's input, scaled down to that; others unchanged.

    It samples as the model does (bilinear, without averaging), but before a large photo becomes hundreds of megabytes
    of floats. Only the pixels that are sampled are read, so nothing of the photo's size is made.
    """
    height, width, _ = photo.shape
    scale = min(shorter / min(width, height), longer / max(width, height))
    if scale > 0.5:
        return np.ascontiguousarray(photo)
    (left, right, across), (above, below, down) = _sampled(width, scale), _sampled(height, scale)
    columns = [(3 * at[:, None] + np.arange(3)).ravel() for at in (left, right)]
    rows = [photo[at].reshape(len(at), 3 * width) for at in (above, below)]
    top, bottom = (_between(row.take(columns[0], 1), row.take(columns[1], 1), np.repeat(across, 3)) for row in rows)
    return _between(top, bottom, down[:, None]).astype(np.uint8).reshape(len(down), len(across), 3)


def _sampled(side: int, scale: float) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.float64]]:
    """Where to sample a side that is scaled down: the two nearest pixels, and how far along from the first it is."""
    count = max(1, int(side * scale + 1e-6))
    place = side / count * (np.arange(count) + 0.5) - 0.5
    first = np.floor(place).astype(np.int64)
    return first.clip(0), (first + 1).clip(0, side - 1), place - first


def _between(start: NDArray[Any], end: NDArray[Any], share: NDArray[np.float64]) -> NDArray[np.float64]:
    floats: NDArray[np.float64] = start.astype(np.float64)
    return floats + (end - floats) * share


def _padded(pixels: NDArray[np.uint8]) -> NDArray[np.uint8]:
    height, width, _ = pixels.shape
    bottom, right = max(0, width // MAX_ASPECT - height), max(0, height // MAX_ASPECT - width)
    return np.pad(pixels, ((0, bottom), (0, right), (0, 0))) if bottom or right else pixels


def load(settings: Settings) -> Detector:
    """The detector that `settings` name, warmed up. Raises ModelUnavailable.

    Torch hangs if it is used both before and after a fork, so each worker calls this itself.
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
    """The module augu_api.detection.NAME. Raises ModelUnavailable if what it imports is not installed."""
    try:
        return import_module(f"augu_api.detection.{name}")
    except (ImportError, RuntimeError) as error:  # RuntimeError: torch and torchvision do not fit each other
        extras = NEEDS.get(name, "torch")
        raise ModelUnavailable(f"{name} cannot be used ({error}): pip install 'augu-api[{extras}]'") from error
