"""A detected object, and the interface of detectors."""

from collections.abc import Collection, Iterable
from dataclasses import dataclass
from itertools import islice
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from augu_api.config import switch_telemetry_off

switch_telemetry_off()  # here, because every module that imports onnxruntime is in this package


@dataclass(frozen=True)
class Detection:
    """One object: its category name, its box (x1, y1, x2, y2) in pixels of the image, its score from 0 to 1."""

    name: str
    box: tuple[float, float, float, float]
    score: float

    @property
    def percent(self) -> float:
        """The score as a client sees it, from 0 to 100."""
        return round(self.score * 100, 2)

    @property
    def has_area(self) -> bool:
        """Whether the box, as a client sees it, has a width and a height."""
        x1, y1, x2, y2 = (round(side, 2) for side in self.box)
        return x1 < x2 and y1 < y2


def select(
    detections: Iterable[Detection], *, min_score: float, limit: int, names: Collection[str] | None
) -> list[Detection]:
    """The first `limit` detections of at least `min_score` percent, of these categories if any are given."""
    wanted = (d for d in detections if d.percent >= min_score and (names is None or d.name in names) and d.has_area)
    return list(islice(wanted, limit))


class Detector(Protocol):
    """A loaded model."""

    names: tuple[str, ...]
    """A tuple of the categories that the model knows."""

    facts: dict[str, str]
    """What runs: `model`, `engine` and the `sha256` of the weights."""

    def detect(self, photo: NDArray[np.uint8], *, all_cores: bool = False) -> list[Detection]:
        """Detect the objects in an RGB photo (H, W, 3), best score first; boxes lie within it.

        `all_cores` says that nothing else needs them now.
        """


class ModelUnavailable(Exception):
    """A model cannot be loaded; the message says which, why and what to do."""


class NoDetector(RuntimeError):
    """The application was made without a detector, as the command line makes it."""
