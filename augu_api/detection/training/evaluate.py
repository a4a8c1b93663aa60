"""How good a detector is: COCO's average precision on photos with boxes, and how its scores are calibrated."""

import io
from collections.abc import Callable, Iterable
from contextlib import redirect_stdout
from itertools import pairwise
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval
from scipy.optimize import isotonic_regression

from augu_api.detection import Detection
from augu_api.detection.training.photo_sets import PhotoSet
from augu_api.detection.training.photo_sets.content import UNKNOWN
from augu_api.detection.training.photo_sets.files import open_upright

STEPS = 20  # of the score: each is a point of the calibration before isotonic regression joins them
BINS = np.linspace(0, 1, 11)  # edges of the score's tenths
DEFAULT_SCORE = 0.5  # min_score of the API, unless a request gives one
SIZES = "small", "medium", "large"  # to 32 x 32 pixels, to 96 x 96, above

Detect = Callable[[NDArray[np.uint8]], list[Detection]]


class Bin(NamedTuple):
    """Boxes whose scores are in one range: how many, their mean score, and the share that is right (IoU 0.5)."""

    boxes: int
    score: float
    right: float


class Evaluation:
    """COCO's evaluation of a detector on photos with boxes.

    Source: https://cocodataset.org/#detection-eval, by its own pycocotools.
    """

    def __init__(self, photos: PhotoSet) -> None:
        self.truth = _truth(photos)
        self.names = {name: id for id, name in photos.categories.items()}
        self.files = {photo.id: photo.file for photo in photos.photos}
        self.detections: dict[int, list[Detection]] = {}

    def photos(self) -> list[tuple[int, Path]]:
        """The id and the file of each photo."""
        return list(self.files.items())

    def run(self, detect: Detect, photos: Iterable[tuple[int, Path]] | None = None) -> "Evaluation":
        """Detect in every photo, and compare."""
        for id, path in photos or self.photos():
            found = detect(np.asarray(open_upright(path)))
            self.detections[id] = [d for d in found if d.name in self.names]
        self._compare()
        return self

    def _compare(self) -> None:
        rows = [
            {"image_id": id, "category_id": self.names[d.name], "bbox": [x1, y1, x2 - x1, y2 - y1], "score": d.score}
            for id, detected in self.detections.items()
            for d in detected
            for x1, y1, x2, y2 in [d.box]
        ]
        with redirect_stdout(io.StringIO()):
            self.coco: Any = COCOeval(self.truth, self.truth.loadRes(rows) if rows else COCO(), "bbox")
            self.coco.params.imgIds = list(self.detections)
            self.coco.evaluate()
            self.coco.accumulate()
            self.coco.summarize()

    @property
    def summary(self) -> dict[str, float]:
        """AP over IoU 0.5 to 0.95, at 0.5 and 0.75, and by the size of the objects; -1 where there are none."""
        return dict(zip(("AP", "AP50", "AP75", *SIZES), map(float, self.coco.stats[:6]), strict=True))

    def by_category(self) -> list[dict[str, Any]]:
        """AP and AP50 of each category that has objects, best first."""
        precision = self.coco.eval["precision"][:, :, :, 0, -1]  # (thresholds, recalls, categories)
        there = [one for one in self.truth.anns.values() if one["image_id"] in self.detections and not one["iscrowd"]]
        rows = []
        for at, id in enumerate(self.coco.params.catIds):
            objects = sum(1 for one in there if one["category_id"] == id)
            if objects:
                ap, ap50 = precision[:, :, at].mean(), precision[0, :, at].mean()
                rows.append({"name": self.truth.cats[id]["name"], "objects": objects, "AP": ap, "AP50": ap50})
        return sorted(rows, key=lambda row: -row["AP"])

    def scored_boxes(self) -> tuple[NDArray[np.float64], NDArray[np.bool_]]:
        """The score of every box that counts, and whether it is right: overlaps an object of its category by half."""
        all_sizes = self.coco.params.areaRng[0]
        parts = [part for part in self.coco.evalImgs if part and part["aRng"] == all_sizes]
        scores = [np.asarray(part["dtScores"])[~part["dtIgnore"][0]] for part in parts]
        right = [(part["dtMatches"][0] > 0)[~part["dtIgnore"][0]] for part in parts]
        return np.concatenate([*scores, np.zeros(0)]), np.concatenate([*right, np.zeros(0, bool)])

    def calibration(self) -> list[Bin]:
        """The boxes in each tenth of the score; empty tenths are left out."""
        scores, right = self.scored_boxes()
        at = np.digitize(scores, BINS[1:-1])
        members = [at == tenth for tenth in range(len(BINS) - 1)]
        return [Bin(int(m.sum()), float(scores[m].mean()), float(right[m].mean())) for m in members if m.any()]

    def at_default_score(self) -> dict[str, float]:
        """Precision and recall of the boxes that the API returns by default, and the calibration error.

        The error is the mean distance of a score from how often it is right, over all boxes, by tenths of the score
        (Naeini et al., 2015, Obtaining well calibrated probabilities using Bayesian binning).
        """
        scores, right = self.scored_boxes()
        likely, bins = right[scores >= DEFAULT_SCORE], self.calibration()
        objects = sum(row["objects"] for row in self.by_category())
        error = sum(b.boxes * abs(b.score - b.right) for b in bins) / max(1, len(scores))
        precision, recall = likely.sum() / max(1, len(likely)), likely.sum() / max(1, objects)
        return {"precision at 50": float(precision), "recall at 50": float(recall), "calibration error": float(error)}

    def calibrate(self) -> list[list[float]]:
        """Points (score, how often such a box is right) of a line that never falls, by isotonic regression.

        Source: Zadrozny and Elkan, 2002, Transforming classifier scores into accurate multiclass probability estimates.
        """
        scores, right = self.scored_boxes()
        at = np.floor(scores * STEPS).clip(max=STEPS - 1)
        members = [at == step for step in np.unique(at)]
        points = np.array([(scores[m].mean(), right[m].mean(), m.sum()) for m in members]).reshape(-1, 3)
        blocks = isotonic_regression(points[:, 1], weights=points[:, 2]).blocks
        joined = [np.average(points[a:b], axis=0, weights=points[a:b, 2]) for a, b in pairwise(blocks)]
        return [[0.0, 0.0], *([round(float(s), 4), round(float(r), 4)] for s, r, _ in joined), [1.0, 1.0]]

    def _parts(self, id: int) -> list[Any]:
        all_sizes = self.coco.params.areaRng[0]
        return [p for p in self.coco.evalImgs if p and p["image_id"] == id and p["aRng"] == all_sizes]

    def missed(self, id: int) -> list[int]:
        """The ids of the objects that no box with DEFAULT_SCORE matches."""
        missed: list[int] = []
        for part in self._parts(id):
            likely = set(np.asarray(part["dtIds"])[np.asarray(part["dtScores"]) >= DEFAULT_SCORE])
            by = zip(part["gtIds"], part["gtMatches"][0], part["gtIgnore"], strict=True)
            missed += [int(one) for one, box, ignored in by if not ignored and box not in likely]
        return missed

    def mistakes(self, id: int) -> int:
        """How many boxes with DEFAULT_SCORE are wrong, and how many objects are missed, together."""
        wrong = 0
        for part in self._parts(id):
            likely = np.asarray(part["dtScores"]) >= DEFAULT_SCORE
            wrong += int((likely & (part["dtMatches"][0] == 0) & ~part["dtIgnore"][0].astype(bool)).sum())
        return wrong + len(self.missed(id))


def _truth(photos: PhotoSet) -> COCO:
    """The boxes as pycocotools has them; their ids start at 1, because it reads 0 as no match."""
    truth, rows = COCO(), list[dict[str, Any]]()
    for photo in photos.photos:
        for box in (box for box in photo.boxes if box.category != UNKNOWN):
            area = box.xywh[2] * box.xywh[3] if box.area is None else box.area
            facts = {"id": len(rows) + 1, "image_id": photo.id, "category_id": box.category, "bbox": box.xywh}
            rows.append(facts | {"area": area, "iscrowd": int(box.crowd)})
    truth.dataset = {
        "images": [{"id": photo.id} for photo in photos.photos],
        "annotations": rows,
        "categories": [{"id": id, "name": name} for id, name in photos.categories.items()],
    }
    with redirect_stdout(io.StringIO()):
        truth.createIndex()
    return truth
