"""Boxes of COCO's segmentations: polygons, and masks in run-length encoding."""

from itertools import accumulate
from typing import Any

from augu_api.detection.training.photo_sets.values import finite

MAX_SIDE = 1 << 16  # pixels


def box_of(segmentation: Any) -> list[float] | None:
    """The box (x, y, width, height) around a segmentation; None if it has no area that makes sense."""
    if isinstance(segmentation, dict):
        return _of_runs(segmentation.get("counts"), segmentation.get("size"))
    if not isinstance(segmentation, list):
        return None
    polygons = segmentation if segmentation and isinstance(segmentation[0], list) else [segmentation]
    return _of_polygons(polygons)


def _of_polygons(polygons: list[Any]) -> list[float] | None:
    points: list[float] = []
    for polygon in polygons:
        if not isinstance(polygon, list) or len(polygon) < 6 or len(polygon) % 2 or not all(map(finite, polygon)):
            return None
        points += polygon
    if not points:
        return None
    left, top = min(points[::2]), min(points[1::2])
    return [left, top, max(points[::2]) - left, max(points[1::2]) - top]


def _of_runs(counts: Any, size: Any) -> list[float] | None:
    """Runs go down the columns and alternate, beginning outside of the mask."""
    if not isinstance(size, list) or len(size) != 2 or not all(type(s) is int and 0 < s <= MAX_SIDE for s in size):
        return None
    height, width = size
    runs = _unpacked(counts) if isinstance(counts, str) else counts
    if not isinstance(runs, list) or not all(type(r) is int and r >= 0 for r in runs) or sum(runs) > height * width:
        return None
    ends = list(accumulate(runs))
    spans = [(start, end - 1) for start, end in zip(ends[::2], ends[1::2], strict=False) if end > start]
    if not spans:
        return None
    left, right = spans[0][0] // height, spans[-1][1] // height
    whole = any(start // height != end // height for start, end in spans)
    top, bottom = (0, height - 1) if whole else (min(s % height for s, _ in spans), max(e % height for _, e in spans))
    return [left, top, right - left + 1, bottom - top + 1]


def _unpacked(text: str) -> list[int] | None:
    """Runs from COCO's text: base 32, least digit first; from the third on, as the difference to the last but one.

    Source: rleFrString in https://github.com/cocodataset/cocoapi/blob/master/common/maskApi.c
    """
    runs: list[int] = []
    value = shift = 0
    for character in text:
        digit = ord(character) - 48
        if not 0 <= digit < 64 or shift > 30:
            return None
        value |= (digit & 31) << shift
        shift += 5
        if not digit & 32:  # the last digit; its upper bit is the sign
            value -= (digit & 16) // 16 << shift
            runs.append(value + (runs[-2] if len(runs) > 2 else 0))
            value = shift = 0
    return runs if shift == 0 else None
